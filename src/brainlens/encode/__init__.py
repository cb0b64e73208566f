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
import torch

from brainlens import store
from brainlens.encode.categories import decode, haxby2001_encode
from brainlens.encode.compare import compare, scores_by_size
from brainlens.encode.readings import channel_maps, cluster_table
from brainlens.encode.scoring import score_part
from brainlens.encode.time_decoding import OverTime, decode_over_time
from brainlens.metrics import selectors
from brainlens.models.encoding.readout import refit_readout
from brainlens.models.encoding.ridge import ALPHAS, fit_ridge
from brainlens.models.encoding.tables import EncodingTables, LayerTokens, tables, usable_layers
from brainlens.models.encoding.training import PAPER, EncodingTraining, Progress, predict, train
from brainlens.nn.encoding_baselines import READERS, Reader
from brainlens.nn.factortopy import FactorTopy
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
    "haxby2001_encode",
    "scores_by_size",
    "selector_truth",
]
METHODS = ("factortopy", "ridge", *READERS)


@dataclass(frozen=True)
class EncodingDesign:
    """What is fitted and reported.

    layers: names (default: all with spatial tokens); width D; samples, use, topological, variant: options of
    `nn.factortopy.FactorTopy`; pool: ridge sees each layer's tokens pooled to pool x pool fields and its global token;
    alphas: ridge penalties; least_ncsnr: units above it enter the means; resamples of the test images; clusters of channels;
    refit: solve the channel weights by ridge after training, see `models.encoding.readout` (not in the paper).
    """

    layers: tuple[str, ...] | None = None
    width: int = 128
    samples: int = 1
    use: tuple[str, ...] = ("space", "layer", "scale")
    topological: bool = True
    variant: dict[str, Any] = field(default_factory=dict)
    pool: int = 2
    alphas: tuple[float, ...] = ALPHAS
    least_ncsnr: float = 0.3
    resamples: int = 2000
    clusters: int = 20
    refit: bool = True


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
    `encoding/...`: means over units with ncsnr above the design's threshold, or over all where it is unknown.
    Raises DataError for unknown methods and layers, missing coordinates, images without features, and split mistakes.
    """
    chosen, recipe, started = design or EncodingDesign(), training or EncodingTraining(), time.time()
    if method not in METHODS:
        raise DataError(f"encode: method {method!r} is not one of {list(METHODS)}")
    data = tables(responses, features, seed=seed)
    if method == "ridge":
        layers = list(chosen.layers) if chosen.layers is not None else features.layer
        guess, arrays = fit_ridge(data, features, layers, alphas=chosen.alphas, pool=chosen.pool, seed=seed, device=device)
        log: list[dict[str, float]] = []
        shown: dict[str, np.ndarray] = {}
    else:
        layers = usable_layers(features, list(chosen.layers) if chosen.layers is not None else None)
        tokens = LayerTokens(features, layers, data.train.rows, device)
        model = build(method, data, tokens, chosen, seed).to(device)
        scored = data.scored(chosen.least_ncsnr)
        log = train(model, data, tokens, recipe, units=scored, seed=seed, folder=folder, progress=progress)
        if chosen.refit:
            refit_readout(model, [data.train, data.validation], tokens)
        guess = predict(model, data.test, tokens)
        arrays = selections(model, clusters=chosen.clusters, seed=seed) if isinstance(model, FactorTopy) else {}
        shown = channel_maps(model, data, tokens) if isinstance(model, FactorTopy) else {}
    metrics, more, regions = score_part(guess, data, arrays, least=chosen.least_ncsnr, resamples=chosen.resamples, seed=seed)
    config = {"method": method, "layers": layers, "model": features.model, "seed": seed, "device": device}
    config |= {"design": asdict(chosen), "training": None if method == "ridge" else asdict(recipe)}
    config |= {"hierarchy": list(selectors.HIERARCHY), "ceiling_defined": data.ceiling_defined}
    provenance = store.provenance(seed, device, [store.fingerprint(responses), store.fingerprint(features)], started)
    named = {"regions": regions} | ({"training": pd.DataFrame(log)} if log else {})
    if "cluster" in arrays:
        named["clusters"] = cluster_table(more | arrays, data.units)
    return Result("encode", metrics, more | arrays | shown, data.units, named, config, provenance, data.space)


def build(method: str, data: EncodingTables, tokens: LayerTokens, design: EncodingDesign, seed: int) -> FactorTopy | Reader:
    """The untrained reader; the same seed gives the same weights whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if method != "factortopy":
            return READERS[method](len(data.units), tokens.channels, width=design.width)
        return FactorTopy(
            coordinates_of(data.units),
            tokens.channels,
            width=design.width,
            samples=design.samples,
            use=design.use,
            topological=design.topological,
            variant=design.variant,
        )


def coordinates_of(units: pd.DataFrame) -> torch.Tensor:
    """Columns x, y, z (unit, 3) in float64. Raises DataError when one is missing or holds NaN."""
    missing = [name for name in "xyz" if name not in units.columns]
    if missing:
        raise DataError(
            f"factortopy needs unit coordinates x, y, z; missing {missing}; use class_token, patch_token or ridge without"
        )
    return torch.from_numpy(units[["x", "y", "z"]].to_numpy(dtype=np.float64, copy=True))


def selections(model: FactorTopy, *, clusters: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """What the selectors chose, as arrays over units; space is the mean over samples, (x, y) in [-1, 1]."""
    with torch.no_grad():
        space, omega, alpha = model.select()
    weights = omega.cpu().numpy()
    readout = model.readout.detach().cpu().numpy()
    size = np.linalg.norm(readout, axis=1, keepdims=True)
    unit = readout / np.where(size > 0, size, 1)  # a closing ridge leaves sizes so different that large voxels stand alone
    return {
        "layer_weights": weights,
        "layer": weights.argmax(axis=1).astype(np.float32),
        "confidence": selectors.confidence(weights).astype(np.float32),
        "space": space.mean(1).cpu().numpy(),
        "scale": alpha.cpu().numpy(),
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
