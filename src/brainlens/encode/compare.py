"""Several networks, or one before and after fine-tuning, side by side; and scores against the number of training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from brainlens.metrics.encoding import distance_to_best
from brainlens.metrics.selectors import consistency, layer_position
from brainlens.types import DataError, Responses, Result

ROWS = ("r2_mean", "r2_of_ceiling", "hierarchy_slope", "hierarchy_b0", "hierarchy_b1")


def compare(results: Mapping[str, Result], *, reduce: str = "mean") -> pd.DataFrame:
    """One row a model: scores with intervals, hierarchy slope, mean confidence, and per region R2 and distance to the best.

    `R2 <roi>` is the region's mean; `distance <roi>` (and `distance`) the root mean squared difference to the model-wise
    maximum (table 1; reduce="sum" as its title says). All results must be of the same units in the same order.
    Raises DataError when they are not.
    """
    if not results:
        raise DataError("compare: no results given")
    sizes = {name: len(_array(result, "r2", name)) for name, result in results.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(f"compare: the models were fitted on different units: {sizes}")
    scores = np.stack([result.arrays["r2"] for result in results.values()])
    first = next(iter(results.values()))
    roi = None if first.units is None or "roi" not in first.units.columns else first.units["roi"].astype(str).to_numpy()
    for name, result in results.items():
        other = None if result.units is None or "roi" not in result.units.columns else result.units["roi"].astype(str).to_numpy()
        if (roi is None) != (other is None) or (roi is not None and other is not None and not np.array_equal(roi, other)):
            raise DataError(f"compare: {name!r} has other units or regions than {next(iter(results))!r}")
    table = pd.DataFrame({"model": list(results)})
    for key in ROWS:
        for end in ("", ".low", ".high"):
            values = [result.metrics.get(f"encoding/{key}{end}", np.nan) for result in results.values()]
            if np.isfinite(values).any():
                table[f"{key}{end}"] = values
    table["confidence"] = [
        float(result.arrays["confidence"].mean()) if "confidence" in result.arrays else np.nan for result in results.values()
    ]
    table["distance"] = distance_to_best(scores, reduce=reduce)
    for name in [] if roi is None else list(dict.fromkeys(roi)):
        inside = (roi == name) & np.isfinite(scores).all(axis=0)
        if inside.any():
            table[f"R2 {name}"] = scores[:, inside].mean(axis=1)
            table[f"distance {name}"] = distance_to_best(scores[:, inside], reduce=reduce)
    return table


def agreement(results: Sequence[Result]) -> dict[str, float]:
    """Consistency of layer maps over seeds (or registered subjects), see `metrics.selectors.consistency`."""
    return consistency([_array(result, "layer_weights", f"result {i}") for i, result in enumerate(results)])


def layer_check(selected: Result, single: Result) -> pd.DataFrame:
    """The score of one-layer models against the selector's weights (figure 25): one row a layer, means over units.

    selected: a factortopy result; single: a ridge result on the same layers and units, whose layer_scores are the grid
    search. Column `correlation` holds, on every row, the rank correlation over units of found and best single layer.
    """
    weights, scores = _array(selected, "layer_weights", "selected"), _array(single, "layer_scores", "single")
    names = list(selected.config.get("layers", range(weights.shape[1])))
    columns = [
        list(single.config.get("layers", names)).index(name) for name in names if name in single.config.get("layers", names)
    ]
    if len(columns) != weights.shape[1] or len(weights) != len(scores):
        raise DataError(f"layer_check: layers or units differ, {weights.shape} against {scores.shape}")
    from scipy.stats import spearmanr

    found, best = layer_position(weights), np.where(np.isnan(scores[:, columns]), -np.inf, scores[:, columns]).argmax(axis=1)
    return pd.DataFrame(
        {
            "layer": names,
            "selector_weight": weights.mean(axis=0),
            "single_layer_r2": scores[:, columns].mean(axis=0),
            "correlation": float(spearmanr(found, best).statistic),
        }
    )


def scores_by_size(
    responses: Responses, fit: Callable[[Responses], Result], sizes: Sequence[int], *, seed: int = 0
) -> pd.DataFrame:
    """Scores against the number of training images (figures 26 and 27): `fit` is called with nested subsets of images.

    Validation and test trials stay. Columns images, r2_mean, .low, .high and hierarchy_slope.
    Raises DataError for a size above the number of training images.
    """
    trials = responses.trials
    part = trials["split"].astype(str).to_numpy()
    names = np.unique(trials["stimulus"].to_numpy()[part == "train"].astype(str))
    order = np.random.default_rng(seed).permutation(names)
    rows = []
    for size in sorted(sizes):
        if not 2 <= size <= len(names):
            raise DataError(f"scores_by_size: {size} images asked for, there are {len(names)} training images")
        keep = (part != "train") | np.isin(trials["stimulus"].to_numpy().astype(str), order[:size])
        metrics = fit(responses.rows(keep)).metrics
        rows.append({"images": size} | {key: metrics.get(f"encoding/{key}", np.nan) for key in ("r2_mean", "hierarchy_slope")})
        rows[-1] |= {f"r2_mean{end}": metrics.get(f"encoding/r2_mean{end}", np.nan) for end in (".low", ".high")}
    return pd.DataFrame(rows)


def _array(result: Result, name: str, which: str) -> np.ndarray:
    if name not in result.arrays:
        raise DataError(f"{which}: a {result.config.get('method')} result has no array {name!r}; it has {sorted(result.arrays)}")
    return result.arrays[name]
