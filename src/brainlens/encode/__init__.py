"""`encode`: which part of a network predicts which part of the brain.

Every method is fitted on the same split of images and scored once on the test images, with its noise ceiling and with
intervals over test images; what a fit chooses (a penalty, a layer, a checkpoint, a soup) it chooses on training and
validation images.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.choices import ENCODE_METHODS
from brainlens.encode.categories import decode, haxby2001_encode
from brainlens.encode.compare import compare, scores_by_size
from brainlens.encode.readings import channel_maps, cluster_table
from brainlens.encode.scoring import score_part
from brainlens.encode.time_decoding import OverTime, decode_over_time
from brainlens.metrics import selectors
from brainlens.models.encoding import ClassToken, EncodingModel, FactorTopy, GNet, LayerwiseRidge, PatchToken
from brainlens.models.encoding.cost import multiply_adds, parameters
from brainlens.models.encoding.layered_models import EVIDENCE, TrainedReader, recipe_changes
from brainlens.models.encoding.ridge import ALPHAS
from brainlens.models.encoding.tables import BLOCKS, EncodingTables, tables
from brainlens.models.encoding.training import PAPER, EncodingTraining, Progress
from brainlens.types import DataError, Features, Responses, Result

__all__ = [
    "METHODS",
    "PAPER",
    "EncodingDesign",
    "EncodingTraining",
    "OverTime",
    "compare",
    "decode",
    "decode_over_time",
    "encode",
    "fit_encoding",
    "fit_model",
    "haxby2001_encode",
    "scores_by_size",
    "selector_truth",
]
METHODS = ENCODE_METHODS


@dataclass(frozen=True)
class EncodingDesign:
    """What is fitted and reported.

    layers: names (default: all with spatial tokens), or "blocks" for these without what enters the first block; standardise the
    tokens; fit single_trials in place of the means over repeats; width D; samples, use, topological, common, variant: options of
    `models.encoding.FactorTopy`; pool: ridge sees each layer's tokens pooled to pool x pool fields and its global token;
    alphas: ridge penalties; least_ncsnr: units above it enter the means; resamples of the test images; clusters of channels;
    refit: solve the channel weights by ridge after training, see `models.encoding.readout` (not in the paper).
    """

    layers: tuple[str, ...] | str | None = None
    width: int = 128
    samples: int = 1
    use: tuple[str, ...] = ("space", "layer", "scale")
    topological: bool = True
    variant: dict[str, Any] = field(default_factory=dict)
    common: str | None = EVIDENCE
    pool: int = 2
    alphas: tuple[float, ...] = ALPHAS
    least_ncsnr: float = 0.3
    resamples: int = 2000
    clusters: int = 20
    refit: bool = True
    standardise: bool = True
    single_trials: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) and self.layers != BLOCKS:
            object.__setattr__(self, "layers", (self.layers,))  # a text is one layer


def encode(
    responses: Responses,
    features: Features,
    *,
    method: str = "factortopy",
    design: EncodingDesign | None = None,
    training: EncodingTraining | None = None,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Fits voxel responses from layered features and reads off what the fit selected.

    method: "factortopy", "ridge" (each voxel's best layer by cross-validation), "class_token", "patch_token", "gnet".
    responses: trials with `stimulus` and `split`, z-scored; units with x, y, z for factortopy, `roi` and `ncsnr` if there.
    features: tokens and global tokens of the same images. folder: for checkpoints, a second call goes on from them.

    Result arrays: r2, r2_low, r2_high, r, ceiling, ncsnr, layer (number of the strongest layer), layer_weights (unit, layer);
    factortopy adds confidence (eq. 2), space (unit, 2), scale, channel_weights (unit, D) and cluster. Metrics
    `encoding/...`: means over units with ncsnr above the design's threshold, or over all where it is unknown; multiply_adds of a
    prediction for one image and parameters, the network that gives the features left out. provenance `fit_s`: seconds of the
    fit, of this call alone where it goes on from a checkpoint.
    Raises DataError for unknown methods and layers, missing coordinates, images without features, and split mistakes.
    """
    return fit_encoding(
        responses,
        features,
        method=method,
        design=design,
        training=training,
        seed=seed,
        device=device,
        folder=folder,
        progress=progress,
    )[0]


def fit_encoding(
    responses: Responses,
    features: Features,
    *,
    method: str = "factortopy",
    design: EncodingDesign | None = None,
    training: EncodingTraining | None = None,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Result, EncodingModel]:
    """The result of `encode`, and the model that was fitted for it."""
    chosen, recipe, started = design or EncodingDesign(), training or EncodingTraining(), store.Start()
    model, data, seconds = fit_model(
        responses, features, method=method, design=chosen, training=recipe, seed=seed, device=device, folder=folder,
        progress=progress,
    )  # fmt: skip
    log = [] if isinstance(model, LayerwiseRidge) else model.training_log_
    arrays: dict[str, np.ndarray] = {}
    shown: dict[str, np.ndarray] = {}
    if isinstance(model, LayerwiseRidge):
        arrays = {"layer": model.layer_.astype(np.float32), "layer_scores": model.layer_scores_, "alpha": model.alpha_}
    predicted = model.predict(features, rows=data.test.rows)
    if isinstance(model, FactorTopy):
        arrays, shown = selections(model, clusters=chosen.clusters, seed=seed), channel_maps(model, data, features)
    predicted, data = data.in_units(predicted)
    metrics, more, regions = score_part(predicted, data, arrays, least=chosen.least_ncsnr, resamples=chosen.resamples, seed=seed)
    metrics |= {"encoding/multiply_adds": multiply_adds(model), "encoding/parameters": float(parameters(model))}
    config = {"method": method, "layers": model.layer_names_, "model": features.model, "seed": seed, "device": device}
    config |= {"design": asdict(chosen), "training": None if method == "ridge" else asdict(recipe)}
    config |= {"hierarchy": list(selectors.HIERARCHY), "ceiling_defined": data.ceiling_defined}
    config["scored_units"] = data.rule(chosen.least_ncsnr)
    provenance = store.provenance(seed, device, [store.fingerprint(responses), store.fingerprint(features)], started)
    provenance["fit_s"] = round(seconds, 3)
    named = {"regions": regions} | ({"training": pd.DataFrame(log)} if log else {})
    if "space" in arrays and {"reference_x", "reference_y"} <= set(data.units.columns):
        reference = data.units[["reference_x", "reference_y"]].to_numpy(dtype=float)
        found = selectors.field_agreement(arrays["space"], reference, data.scored(chosen.least_ncsnr), seed=seed)
        metrics |= {f"encoding/retinotopy/{key}": value for key, value in found.items()}
    if "cluster" in arrays:
        named["clusters"] = cluster_table(more | arrays, data.units)
    return Result("encode", metrics, more | arrays | shown, data.units, named, config, provenance, data.space), model


def fit_model(
    responses: Responses,
    features: Features,
    *,
    method: str,
    design: EncodingDesign,
    training: EncodingTraining,
    seed: int,
    device: str,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[LayerwiseRidge | TrainedReader, EncodingTables, float]:
    """The fitted model of `fit_encoding`, unscored, the tables that it was fitted on, and the seconds of the fit."""
    if method not in METHODS:
        raise DataError(f"encode: method {method!r} is not one of {list(METHODS)}")
    data = tables(responses, features, seed=seed, single_trials=design.single_trials)
    rows, y, held = data.fitting
    model, begun = model_of(method, design, training, seed=seed, device=device), time.perf_counter()
    if isinstance(model, LayerwiseRidge):
        model.fit(features, y, rows=rows)
    else:
        places = coordinates_of(data.units) if method == "factortopy" else None
        scored = data.scored(design.least_ncsnr)
        model.fit(features, y, places, rows=rows, validation=held, scored=scored, folder=folder, progress=progress)
    return model, data, time.perf_counter() - begun


def model_of(
    method: str, design: EncodingDesign, training: EncodingTraining, *, seed: int, device: str
) -> LayerwiseRidge | TrainedReader:
    """The estimator of a method, unfitted."""
    if method == "ridge":
        names = None if isinstance(design.layers, str) else design.layers
        return LayerwiseRidge(names, design.alphas, design.pool, seed=seed, device=device)
    kind: dict[str, type[TrainedReader]] = {"class_token": ClassToken, "patch_token": PatchToken, "gnet": GNet}
    settings: dict[str, Any] = {"training": recipe_changes(training), "refit": design.refit, "seed": seed, "device": device}
    settings["standardise"] = design.standardise
    if method != "factortopy":
        return kind[method](design.width, design.layers, **settings)
    form = {"use": design.use, "topological": design.topological} | design.variant
    return FactorTopy(design.width, design.samples, design.layers, common=design.common, variant=form, **settings)


def coordinates_of(units: pd.DataFrame) -> np.ndarray:
    """Columns x, y, z (unit, 3) in float64. Raises DataError when one is missing."""
    missing = [name for name in "xyz" if name not in units.columns]
    if missing:
        raise DataError(
            f"factortopy needs unit coordinates x, y, z; missing {missing}: give the responses xyz= or mask_img=, or take a "
            "method without places, ridge, class_token or patch_token"
        )
    return units[["x", "y", "z"]].to_numpy(dtype=np.float64, copy=True)


def selections(model: FactorTopy, *, clusters: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """What the selectors chose, as arrays (unit, ...); space (unit, 2) is the mean over samples, (x, y) in [-1, 1]."""
    readout = model.channel_weights_
    size = np.linalg.norm(readout, axis=1, keepdims=True)
    unit = readout / np.where(size > 0, size, 1)  # a closing ridge leaves sizes so different that large voxels stand alone
    return {
        "layer_weights": model.layer_weights_,
        "layer": model.layer_weights_.argmax(axis=1).astype(np.float32),
        "confidence": model.confidence_,
        "space": model.space_.mean(axis=1),
        "scale": model.scale_,
        "channel_weights": readout,
        "cluster": selectors.channel_clusters(unit, clusters=min(clusters, len(readout)), seed=seed).astype(np.float32),
    }


def selector_truth(result: Result, units: pd.DataFrame | None = None, *, seed: int = 0) -> dict[str, float]:
    """How much of a phantom's truth a factortopy result found: truth/layer_spearman, truth/rf_error_median, truth/scale_auroc.

    units: the phantom's table (default: the result's own). Raises DataError for results without selectors.
    """
    missing = [name for name in ("layer_weights", "space", "scale") if name not in result.arrays]
    if missing:
        raise DataError(
            f"truth of selectors needs a factortopy result; arrays {missing} are missing from {sorted(result.arrays)}"
        )
    table = units if units is not None else result.units
    if table is None:
        raise DataError("truth of selectors needs the phantom's units; the result holds none")
    least = float(result.config.get("design", {}).get("least_ncsnr", 0.3))
    arrays = result.arrays
    return selectors.selector_scores(
        arrays["layer_weights"], arrays["space"], arrays["scale"], table, least_ncsnr=least, seed=seed
    )
