"""Report sections drawn on the cortex, the image or the caption: attribution, layers, scores."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from brainlens.plots import attribution, cortex, curves, layers, slabs, slices, unit_scores
from brainlens.report.encode import SELECTORS, selector_maps
from brainlens.report.parts import Section, capital, in_standard_space, lost
from brainlens.types import Result, Surface, Volume

MOST_REGIONS = 24  # bars of one figure


def attribution_section(result: Result, dpi: int | None) -> Section:
    """The found map beside truth and control, on cortex and slices; deletion, insertion and sensitivity."""
    arrays = result.arrays
    section = Section("Attribution on the brain" if "map/brain_mean" in arrays else "Deletion and insertion", dpi)
    what = {"words": "words", "pixels": "patches of the picture"}.get(str(result.config.get("of")), "units")
    mapped = section.has(result, "map/brain_mean", figure="the map of the attribution", beside=("map/random_mean",))
    if mapped and isinstance(result.space, (Volume, Surface)):
        truth = next((t for t in ("truth/informative", "truth/brain", "truth") if t in arrays), "truth")
        if in_standard_space(result) and (truth in arrays or "map/random_mean" in arrays):
            scores = _aurocs(result)
            said = ", ".join(f"{k} {v:.3f}" for k, v in scores.items())
            caption = "The found map" + (
                ", the voxels that truly carry information (known, since the data are simulated)" if truth in arrays else ""
            )
            caption += ", and a random map as control." if "map/random_mean" in arrays else "."
            caption += f" Area under the ROC curve against the truth: {said}; chance is .5." if said else ""
            make = partial(attribution.brain_beside_truth, result, truth=truth, scores=scores)
            section.draw(make, caption, f"Found map, truth and control on the cortex. {said}")
        _maps(section, result, "map/brain_mean", title="Attribution, mean over trials", unit=attribution.UNIT, share=True)
    for kind in ("deletion", "insertion"):
        section.has(result, *lost(result, f"{kind}/"), figure=f"the curve of {kind}")
        found = {k.split("/", 1)[1]: np.asarray(v) for k, v in arrays.items() if k.startswith(f"{kind}/")}
        if found:
            verb = "deleted" if kind == "deletion" else "inserted"
            caption = f"Score while {what} are {verb} in the order of each map; bands are 95 % intervals of the mean."
            at, unit = arrays.get("degradation/shares"), result.config.get("degradation_score", "cosine to the target")
            make = partial(curves.degradation, found, kind=kind, at=at, unit=str(unit), what=what, result=result)
            section.draw(make, caption, f"{capital(kind)} curves.")
    table = result.tables.get("sensitivity")
    if table is not None and {"parameter", "value"} <= set(table.columns):
        scored = [str(c) for c in table.columns if c not in ("parameter", "value") and not str(c).endswith((".low", ".high"))]
        shown = [c for c in ("image_drop", "image_matched_drop", "map_area", "truth_auroc") if c in scored] or scored[:1]
        for metric in shown:
            said = curves.SETTINGS.get(metric, metric.replace("_", " "))
            caption = f"{capital(said)} under each setting, the others held."
            section.draw(partial(curves.sensitivity, table, metric, result=result), caption, f"{capital(said)} by setting.")
        if section.has(result, "sensitivity/maps", figure="the map of each setting") and isinstance(result.space, Volume):
            caption = "The mean map under each setting, seen from above: the largest value along z, each map on its own scale."
            section.draw(partial(attribution.sensitivity_maps, result), caption, "Brain maps of the settings.")
    return section


def words_and_pixels_section(result: Result, dpi: int | None) -> Section:
    """Heat maps over pictures and shaded captions."""
    section = Section("Attribution on pixels and words", dpi)
    images = result.arrays.get("pixels/images", result.arrays.get("gallery/images"))
    maps, masks = result.arrays.get("map/pixels"), result.arrays.get("truth/masks")
    section.has(result, "map/pixels", figure="the heat map of a picture", beside=("pixels/images",))
    if images is None:
        section.has(result, "pixels/images", figure="the heat map of a picture", beside=("map/pixels",))
    if images is not None and maps is not None and "words" not in result.tables:
        k = min(6, len(maps))
        outline = " The white outline is the object that truly drove the response." if masks is not None else ""
        caption = (
            f"Where in the picture the measured response finds its support; first {k} of {len(maps):,} test pictures.{outline}"
        )
        shapes = None if masks is None else masks[:k]
        section.draw(
            partial(attribution.pixel_maps, images[:k], maps[:k], masks=shapes, result=result), caption, "Heat maps on pictures."
        )
    table = result.tables.get("words")
    if images is not None and maps is not None and table is not None:
        groups = [g for _, g in table.groupby("stimulus", sort=False)][:6]
        k = len(groups)
        texts, weights = [list(map(str, g["word"])) for g in groups], [list(map(float, g["weight"])) for g in groups]
        shapes = None if masks is None else masks[:k]
        caption = f"Picture, pixels and words that the measured response supports, side by side; first {k} test stimuli."
        make = partial(attribution.stimulus_rows, images[:k], maps[:k], texts, weights, masks=shapes, result=result)
        section.draw(make, caption, "Pictures, heat maps and shaded captions side by side.")
        return section
    if table is not None and {"stimulus", "word", "weight"} <= set(table.columns):
        groups = [g for _, g in table.groupby("stimulus", sort=False)][:8]
        texts, weights = [list(map(str, g["word"])) for g in groups], [list(map(float, g["weight"])) for g in groups]
        signed = any(w < 0 for row in weights for w in row)
        caption = f"Captions of the first {len(groups)} test stimuli; a stronger background means more support by the response."
        section.draw(partial(attribution.word_strip, texts, weights, signed=signed, result=result), caption, "Shaded captions.")
    return section


def encoding_section(result: Result, dpi: int | None) -> Section:
    """Layer maps, layers by region, the hierarchy, scores on the brain and against the ceiling."""
    arrays, units = result.arrays, result.units
    section = Section("Encoding and layer maps" if {"layer", "layer_weights"} & set(arrays) else "Encoding", dpi)
    if section.has(result, "layer", "confidence", figure="the layer map", beside=SELECTORS) and in_standard_space(result):
        caption = "The layer that each unit reads: hue is the layer (blue first, yellow last), brightness confidence."
        section.draw(partial(cortex.layer_map, result), caption, "Layer map on inflated and flat cortex.")
        if isinstance(result.space, Volume):
            section.draw(
                partial(slices.layer_slices, result), "The same on slices of the MNI152 template.", "Layer map on slices."
            )
    selector_maps(section, result)
    weighed = section.has(result, "layer_weights", figure="what is drawn of each layer's weight", beside=SELECTORS)
    if weighed and units is not None and "roi" in units.columns:
        caption = "Mean selector weight of each layer in each region, regions sorted by their expected layer (white dots)."
        section.draw(partial(layers.region_profiles, result), caption, "Heat map of layer by region.")
    if "layer" in arrays and layers.hierarchy_is_known(result):
        caption = (
            "Expected layer of each voxel by region, early to late. Black: region means with 95 % intervals; line: least squares."
        )
        section.draw(partial(layers.hierarchy, result), caption, "Expected layer by region with a fitted line.")
    if weighed:
        caption = "Over the units that are predicted (test R² above 0): the mean of the selector's weights, and the share of "
        caption += "units whose strongest layer it is."
        section.draw(partial(unit_scores.layer_shares, result), caption, "Bars of layers.")
    if section.has(result, "r2", figure="histogram and map of test R²", beside=("ceiling", *SELECTORS)):
        caption = "Test R² of all units. Below 0 a unit is predicted worse than by its mean. Scores below the 1st percentile are "
        caption += "counted at it."
        section.draw(partial(unit_scores.score_histogram, result), caption, "Histogram of scores.")
        _maps(section, result, "r2", title="Test R²", unit="R²")
    regions = result.tables.get("regions")
    if regions is not None and {"roi", "units", "r2"} <= set(regions.columns) and len(regions) > 1:
        caption = "Mean test R² of the units of each region; whiskers: 95 % intervals over test images."
        shown = regions.nlargest(MOST_REGIONS, "units") if len(regions) > MOST_REGIONS else regions
        caption += f" The {MOST_REGIONS} largest of {len(regions)} regions." if len(regions) > MOST_REGIONS else ""
        make = partial(
            layers.model_bars, shown, "r2", name="roi", title="Mean R² by region, 95 % intervals", axis="mean test R²",
            chance=0.0, result=result,
        )  # fmt: skip
        section.draw(make, caption, "Bars of R² by region.")
    known = section.has(result, "ceiling", figure="R² against the noise ceiling")
    if known and "r2" in arrays and np.isfinite(np.asarray(arrays["ceiling"], dtype=float)).any():
        caption = "Test R² of every unit against its noise ceiling; the line is a model without error."
        section.draw(partial(layers.ceiling_scatter, result), caption, "Density of score against ceiling.")
    return section


def similarity_section(result: Result, dpi: int | None) -> Section:
    """The layers' similarity to the brain."""
    section = Section("Similarity to the brain, layer by layer", dpi)
    table = result.tables.get("rsa", result.tables.get("profile"))
    if table is not None and "score" in table.columns and "r" not in table.columns:
        table = table.rename(columns={"score": "r"})
    if table is None or not {"layer", "r"} <= set(table.columns) or not table["r"].notna().any():
        return section
    names = ("pixels", "shuffled", "silhouette")
    controls = {name: float(v) for name in names for k, v in result.metrics.items() if k.endswith(f"rsa/{name}")}
    best = table.loc[table["r"].astype(float).idxmax()]
    caption = f"Spearman correlation of each layer's dissimilarities with the brain's; of {len(table)} layers the best is "
    caption += f"{best['layer']} at {float(best['r']):.3f}. Bands: 95 % intervals; grey: noise ceiling, where it was computed."
    section.draw(partial(curves.rsa_profile, result, controls=controls), caption, caption)
    return section


def _maps(section: Section, result: Result, name: str, *, title: str, unit: str, share: bool = False) -> None:
    """A map on the cortex and on slices, or in its own grid where the space is not standard.

    share: the map over its own 99.5 % quantile, the unit in which it stands beside truth and control.
    """
    if share:
        result = replace(result, arrays={**result.arrays, name: attribution.as_share(result.arrays[name])})
    n = int(np.isfinite(np.asarray(result.arrays[name], dtype=float)).sum())
    if isinstance(result.space, (Volume, Surface)) and in_standard_space(result):
        caption = f"{title} on the inflated and flattened fsaverage5 cortex, n = {n:,}. Values near 0 fade into the anatomy; "
        caption += "ventral views are from below."
        section.draw(
            partial(cortex.cortex_map, result, name, title=title, unit=unit), caption, f"{title} on the cortical surface."
        )
        if isinstance(result.space, Volume):
            caption = f"The same on slices of the MNI152 template, unsmoothed; left is the subject's left. n = {n:,} voxels."
            section.draw(partial(slices.slices, result, name, title=title, unit=unit), caption, f"{title} on brain slices.")
    elif isinstance(result.space, Volume):
        caption = f"{title}, n = {n:,} voxels, on slices of the recording's own grid, which is on no template."
        section.draw(partial(slabs.mosaic, result, name, title=title, unit=unit), caption, f"{title} on slices.")


def _aurocs(result: Result) -> dict[str, float]:
    """Areas under the ROC curve for the rows of the figure, from metrics that end in truth_auroc."""
    out: dict[str, float] = {}
    for key, value in result.metrics.items():
        if key.endswith("truth_auroc"):
            out.setdefault("random control" if "random" in key else "found", float(value))
    return out
