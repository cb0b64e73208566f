"""What `encode` shows beside its maps: networks side by side, seeds, single layers, channels, patterns of few images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from brainlens.plots import cortex, layers, networks, selected
from brainlens.report import numbers
from brainlens.report.parts import Section, in_standard_space
from brainlens.types import Result, Volume

SELECTORS = ("layer", "confidence", "layer_weights")  # of FactorTopy, written together


def patterns_section(result: Result, dpi: int | None) -> Section:
    """Patterns known through their dissimilarities: scores by layer, and dissimilarities measured and predicted."""
    section = Section("Patterns of images that were not fitted", dpi)
    table = result.tables.get("layers")
    if table is not None and {"layer", "r2", "two_way"} <= set(table.columns):
        folds, n = (int(result.metrics.get(f"encoding/{key}", 0)) for key in ("folds", "n"))
        caption = f"Each layer alone, its penalty chosen inside each of {folds} folds, {n} images; whiskers: 95 % intervals over "
        caption += "images with the fitted models held. Layers share the images, so neighbouring points are not independent. "
        caption += "Grey: 95 % of the same procedure with images shuffled."
        section.draw(partial(networks.pattern_profile, result), caption, "Scores of held-out patterns by layer.")
    if section.has(result, "rdm/measured", "rdm/predicted", figure="the pair of dissimilarity matrices"):
        stimuli = result.tables.get("stimuli")
        groups = None if stimuli is None or "category" not in stimuli.columns else stimuli["category"].astype(str).tolist()
        caption = "Each predicted entry comes from models that saw neither of its two images."
        section.draw(partial(networks.dissimilarities, result, groups=groups), caption, "Two matrices of dissimilarities.")
    return section


def networks_section(result: Result, dpi: int | None) -> Section:
    """Networks, one before and after fine-tuning, or methods side by side: scores with intervals, regions, the best of a unit."""
    what = "Subjects" if "subjects" in result.tables else "Methods" if "methods" in result.config else "Networks"
    section, table = Section(f"{what} side by side", dpi), result.tables.get("comparison")
    if result.task != "compare" or table is None or "model" not in table.columns:
        return section
    people = result.tables.get("subjects")
    if people is not None and "r2_mean" in people.columns:
        over = str(result.config.get("interval_over", "stimuli"))
        count = len(people) - 1
        caption = (
            f"Mean test R² of {count} subjects, each over its own units, and their mean. Whiskers: 95 % intervals over test "
        )
        caption += f"stimuli; that of the mean speaks of other {over}."
        make = partial(layers.model_bars, people, "r2_mean", name="subject", title="Mean R² by subject, 95 % intervals",
                       axis="mean test R²", chance=0.0, result=result)  # fmt: skip
        section.draw(make, caption, "Bars of R² by subject, with the mean over subjects.")
    words = {} if people is not None else {"r2_mean": "Mean test R² over units", "r2_weighted": "Held-out R² of the patterns",
             "retrieval/top1": "Top-1 identification", "rdm/match_correlation": "Match of dissimilarities"}  # fmt: skip
    for metric, text in words.items():
        if metric in table.columns and table[metric].notna().any():
            make = partial(
                layers.model_bars, table, metric, name="model", title=f"{text}, 95 % intervals", axis=text, result=result
            )
            chance = numbers.chance(f"encoding/{metric}", result.metrics)
            caption = f"{text} of {len(table)} models on the same units and test images. Whiskers: 95 % intervals over images."
            section.draw(partial(make, chance=chance), caption, f"Bars of {metric} by model.")
    if people is None and any(str(c).startswith("R2 ") for c in table.columns):
        caption = "Left: mean R² of a region's units. Right: root mean squared distance to the best model of each unit; 0 would "
        caption += "be a model that is best everywhere."
        section.draw(partial(networks.region_heatmaps, table, result=result), caption, "Two heat maps of model by region.")
    # subjects are no models: which brain is "best" at a unit, and how far another stays behind, would say nothing
    best = section.has(result, "best_model", figure="the map of the best model", beside=("to_best",))
    if people is None and best and in_standard_space(result):
        names = [str(name) for name in result.config.get("models", [])]
        caption = "The model with the highest test R² at each unit, where any is above 0. A difference may be within noise."
        make = partial(selected.label_map, result, "best_model", names=names, title="Best model")
        section.draw(make, caption, "Map of the best model.")
        for name, values in zip(names, result.arrays.get("to_best", ()), strict=False):
            caption = f"How far {name} stays behind the best model at each unit where any predicts; 0 where it is the best."
            title = f"{name}: R² less the best"
            make = partial(cortex.cortex_map, result, np.asarray(values), title=title, unit="R² less the best")
            section.draw(make, caption, f"Difference of {name} to the best model.")
        if section.has(result, "models/layer", "models/confidence", figure="the layer map of each model"):
            caption = "The layer that each unit reads, one row a model; they have the same layers."
            make = partial(selected.layer_rows, result, layer="models/layer", confidence="models/confidence", names=names)
            section.draw(make, caption, "Layer maps side by side.")
    _agreement(section, result, "subjects")
    return section


def beside_section(result: Result, dpi: int | None) -> Section:
    """What was asked beside one fit: other seeds, single layers, channels, training images."""
    section = Section("Seeds, single layers, channels", dpi)
    if result.task != "encode":
        return section
    _agreement(section, result, "seeds")
    seeds = section.has(result, "seeds/layer", "seeds/confidence", figure="the layer map of each seed")
    if seeds and in_standard_space(result):
        caption = "The layer map of every seed: hue is the layer, brightness the confidence."
        section.draw(partial(selected.layer_rows, result), caption, "Flat layer maps, one row a seed.")
    curve = result.tables.get("learning_curve")
    if curve is not None and {"curve/layer", "curve/confidence"} <= set(result.arrays) and in_standard_space(result):
        caption = "The layer map of fits on so many training images (nested subsets), in the units that the fit on all of them "
        caption += "predicts: hue is the layer, brightness the confidence."
        names = [f"{int(n):,} images" for n in curve["images"]]
        make = partial(
            selected.layer_rows, result, layer="curve/layer", confidence="curve/confidence", names=names,
            title="Selected layer by training images",
        )  # fmt: skip
        section.draw(make, caption, "Layer maps, one row a number of training images.")
    if "one_layer" in result.tables:
        caption = "Above: ridge on one layer alone, cross-validated on training images. Below: the mean weight that the selector "
        caption += "gives each layer. The title's correlation compares them unit by unit."
        section.draw(partial(networks.one_layer, result), caption, "One-layer scores and selector weights.")
    if section.has(result, "cluster", figure="the map of channel clusters") and in_standard_space(result):
        count = int(np.nanmax(result.arrays["cluster"])) + 1
        caption = f"Units clustered by their channel weights (k-means, then Ward's merging to {count}); numbers are by size."
        names = [str(k) for k in range(count)]
        make = partial(selected.label_map, result, "cluster", names=names, title="Channel clusters", predicted=True)
        section.draw(make, caption, "Map of channel clusters.")
    if section.has(result, "channels/images", figure="pictures with their channel maps"):
        caption = "Test pictures, evenly spaced and not chosen, and what the three main channels of each region respond to "
        caption += "(principal components of its channel weights, colours scaled over these pictures)."
        section.draw(partial(networks.channel_pictures, result), caption, "Pictures and coloured channel maps.")
    return section


def topology_section(result: Result, dpi: int | None) -> Section:
    """FactorTopy with and without topology: two layer maps in the same colours."""
    section = Section("Selectors with and without topology", dpi)
    table = result.tables.get("topology")
    if table is not None and {"topology/layer", "topology/confidence"} <= set(result.arrays) and in_standard_space(result):
        caption = "Two fits that differ in one thing: above, the selectors are functions of a unit's coordinates, so that "
        caption += "neighbours read alike; below, they are free numbers of each unit. Hue is the layer, brightness the "
        caption += "confidence; both rows show the units that the upper fit predicts."
        names = [str(name) for name in table["model"]]
        make = partial(
            selected.layer_rows, result, layer="topology/layer", confidence="topology/confidence", names=names,
            title="Selected layer with and without topology",
        )  # fmt: skip
        section.draw(make, caption, "Two layer maps, with and without topology.")
    return section


def selector_maps(section: Section, result: Result) -> None:
    """The raw layer weights, where in the picture each unit reads, and how far it reads the whole picture."""
    named = result.config.get("layers")
    if "layer_weights" in result.arrays and isinstance(named, list) and in_standard_space(result):
        caption = (
            "The weight that each unit's selector gives every layer, before the layer map above makes one number of them; one "
        )
        caption += "scale for all rows."
        make = partial(selected.weight_rows, result, names=[str(name) for name in named])
        section.draw(make, caption, "Maps of the weight of each layer.")
    scaled = section.has(result, "scale", figure="the map of the scale", beside=("space",))
    if not section.has(result, "space", figure="what is drawn of receptive fields", beside=("scale",)):
        return
    if in_standard_space(result):
        caption = "The place in the picture that each unit reads; the square is the picture in the colours of the map. "
        caption += "Units that read the whole picture (scale near 1) are paler."
        section.draw(partial(selected.space_map, result), caption, "Map of receptive-field places.")
        if isinstance(result.space, Volume):
            section.draw(
                partial(selected.space_slices, result), "The same on slices of the MNI152 template.", "Places on slices."
            )
        if scaled:
            scale = np.asarray(result.arrays["scale"], dtype=float)
            shown, _ = cortex.predicted_units(result, np.isfinite(scale))
            kept = replace(result, arrays={**result.arrays, "scale": np.where(shown, scale, np.nan)})
            title, unit = "Scale of predicted units", "0 = one place, 1 = whole picture"
            make = partial(cortex.cortex_map, kept, "scale", title=title, unit=unit, limits=(0, 1))
            section.draw(make, "How far each unit reads the whole picture instead of one place.", "Scale map.")
    if result.units is not None and "roi" in result.units.columns:
        caption = "Receptive-field centres by region; the fainter, the more a unit reads the whole picture. The search "
        caption += "for centres begins at the network's tokens, so that they lie near their rows and columns."
        section.draw(partial(layers.receptive_fields, result), caption, "Scatter of receptive-field centres by region.")


def _agreement(section: Section, result: Result, what: str) -> None:
    table = result.tables.get("consistency")
    if table is None:
        return
    caption = f"How far the layer maps of {what} agree, over the units whose mean is reported. Chance of the left matrix is 0, "
    caption += f"of the right one {float(table['chance'].mean()):.2f} (from how often each map uses each layer)."
    section.draw(partial(networks.consistency, result), caption, f"Agreement of {what}.")
    if "seeds" in result.tables and "r2_mean" in result.tables["seeds"].columns:
        rows = result.tables["seeds"].assign(seed=result.tables["seeds"]["seed"].map(lambda k: f"seed {k}"))
        caption = f"Mean test R² of {len(rows)} seeds; whiskers: 95 % intervals over test images, the same for all seeds."
        make = partial(
            layers.model_bars,
            rows,
            "r2_mean",
            name="seed",
            title="Mean R² by seed",
            axis="mean test R²",
            chance=0.0,
            result=result,
        )
        section.draw(make, caption, "Bars of R² by seed.")
