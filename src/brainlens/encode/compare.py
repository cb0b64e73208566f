"""Several networks, or one before and after fine-tuning, side by side; and scores against the number of training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from brainlens.metrics.encoding import distance_to_best
from brainlens.metrics.selectors import consistency, layer_position
from brainlens.metrics.statistics import bootstrap_mean, interval
from brainlens.types import DataError, Responses, Result

SCORES = ("r2_mean", "r2_of_ceiling")
TOPOLOGY = ("selectors of the coordinates", "selectors of each unit")
SLOPE = ("hierarchy_slope", "hierarchy_b0", "hierarchy_b1")
UNIT_OF_COST = "class_token"  # the method whose time and multiply-adds are 1 in a table of methods, as in the paper's


def compare(results: Mapping[str, Result], *, reduce: str = "mean") -> pd.DataFrame:
    """One row a model: scores with intervals, its cost, hierarchy slope, mean confidence, per region R2 and distance to the best.

    `fit_s` are the seconds of its fit, `multiply_adds` those of a prediction for one image (the network that gives the features
    left out); where methods differ, `time x` and `MACs x` are in units of class_token, or of the first row (table 16).

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
    methods = [str(result.config.get("method")) for result in results.values()]
    several = len(set(methods)) > 1
    _columns(table, results, SCORES if several else SCORES + SLOPE)
    table["fit_s"] = [float(result.provenance.get("fit_s", np.nan)) for result in results.values()]
    _columns(table, results, ("multiply_adds", "parameters"), ends=("",))
    if several:
        table = relative_cost(table, methods)
        _columns(table, results, SLOPE)
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


def relative_cost(table: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The table with `time x` and `MACs x` before what they are made from: fit_s and multiply_adds in units of class_token.

    Without a class_token among the methods (one a row) the first row is the unit.
    """
    base = methods.index(UNIT_OF_COST) if UNIT_OF_COST in methods else 0
    found = table.copy()
    for name, column in (("time x", "fit_s"), ("MACs x", "multiply_adds")):
        if column in found.columns:
            values = found[column].to_numpy(float)
            unit = values[base] if values[base] > 0 else np.nan
            found.insert(found.columns.get_loc(column), name, values / unit)
    return found


def _columns(
    table: pd.DataFrame, results: Mapping[str, Result], keys: Sequence[str], ends: Sequence[str] = ("", ".low", ".high")
) -> None:
    """Adds the metrics that at least one of the results has."""
    for key in keys:
        for end in ends:
            values = [result.metrics.get(f"encoding/{key}{end}", np.nan) for result in results.values()]
            if np.isfinite(values).any():
                table[f"{key}{end}"] = values


def agreement(results: Sequence[Result]) -> dict[str, float]:
    """Consistency of layer maps over seeds (or registered subjects), see `metrics.selectors.consistency`."""
    return consistency([_array(result, "layer_weights", f"result {i}") for i, result in enumerate(results)])


def agreement_table(
    results: Sequence[Result], names: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> tuple[dict[str, float], pd.DataFrame]:
    """Every pair of layer maps of the same units (figure 12): (metrics, one row a pair).

    correlation: Pearson r of the layer positions over the units whose mean is reported (chance 0), its interval by resampling
    units, which neighbours make too narrow; same_layer: share of units with the same strongest layer; chance: the share that
    two maps with these layer counts would agree in by accident, sum_l p_l q_l. Metrics: the means over pairs, intervals by
    resampling the units of all pairs together. Raises DataError for maps of other units or layers.
    """
    maps = [_array(result, "layer_weights", name) for result, name in zip(results, names, strict=True)]
    if len(maps) < 2 or len({np.shape(m) for m in maps}) != 1:
        raise DataError(f"consistency needs two or more maps of one shape, got {[np.shape(m) for m in maps]}")
    inside = scored_units(results[0])
    place = np.stack([layer_position(m)[inside] for m in maps])
    best = np.stack([np.argmax(m, axis=1)[inside] for m in maps])
    pairs = [(i, j) for i in range(len(maps)) for j in range(i + 1, len(maps))]
    drawn = [_resampled_r(place, rows) for rows in _row_blocks(place.shape[1], resamples, seed)]
    low, high = interval(np.stack(drawn))
    whole = np.corrcoef(place)
    share = [np.bincount(b, minlength=maps[0].shape[1]) / len(b) for b in best]
    rows = [
        {
            "a": names[i],
            "b": names[j],
            "correlation": float(whole[i, j]),
            "correlation.low": float(low[i, j]),
            "correlation.high": float(high[i, j]),
            "same_layer": float((best[i] == best[j]).mean()),
            "chance": float(share[i] @ share[j]),
            "units": int(inside.sum()),
        }
        for i, j in pairs
    ]
    table = pd.DataFrame(rows)
    upper = np.triu_indices(len(maps), 1)
    mean_low, mean_high = interval(np.array([d[upper].mean() for d in drawn]))
    metrics = {"layer_correlation": float(whole[upper].mean()), "layer_correlation.low": float(mean_low)}
    metrics |= {"layer_correlation.high": float(mean_high), "same_layer_share": float(table["same_layer"].mean())}
    return metrics | {"same_layer_share.chance": float(table["chance"].mean()), "n": float(inside.sum())}, table


def scored_units(result: Result) -> np.ndarray:
    """The units whose mean a result reports; of results that were stored before they were kept, those above its threshold.

    Returns (unit,) bool.
    """
    if "scored" in result.arrays:
        return np.asarray(result.arrays["scored"], dtype=bool)
    snr = _array(result, "r2", "result") * np.nan
    if result.units is not None and "ncsnr" in result.units.columns:
        snr = result.units["ncsnr"].to_numpy(float)
    elif "ncsnr" in result.arrays:
        snr = np.asarray(result.arrays["ncsnr"], dtype=float)
    inside = np.where(np.isfinite(snr), snr, -np.inf) > float(result.config.get("design", {}).get("least_ncsnr", 0.3))
    return inside if inside.sum() > 1 else np.ones(len(snr), bool)


def _row_blocks(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(0, n, n)


def _resampled_r(place: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Correlations of all maps over resampled units; a map that is constant there correlates with nothing."""
    centred = place[:, rows] - place[:, rows].mean(axis=1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=1))
    unit = centred / np.where(norm > 0, norm, np.inf)[:, None]
    return unit @ unit.T


def layer_match(selected: Result, single: Result, *, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Rank correlation, over the reported units, of the position that a selector found and the best single layer.

    correlation with .low and .high (units resampled), same_layer_share with its chance, n.
    """
    weights, scores = _paired(selected, single)
    inside = scored_units(selected) & np.isfinite(scores).any(axis=1)
    found, best = layer_position(weights)[inside], np.where(np.isfinite(scores), scores, -np.inf)[inside].argmax(axis=1)
    ranks = np.stack([rankdata(found), rankdata(best)])
    drawn = [_resampled_r(ranks, rows)[0, 1] for rows in _row_blocks(len(found), resamples, seed)]
    low, high = interval(np.array(drawn))
    own = np.argmax(weights[inside], axis=1)
    share = [np.bincount(b, minlength=weights.shape[1]) / len(b) for b in (own, best)]
    return {
        "layer_correlation": float(_resampled_r(ranks, np.arange(len(found)))[0, 1]),
        "layer_correlation.low": float(low),
        "layer_correlation.high": float(high),
        "same_layer_share": float((own == best).mean()),
        "same_layer_share.chance": float(share[0] @ share[1]),
        "n": float(len(found)),
    }


def layer_check(selected: Result, single: Result) -> pd.DataFrame:
    """The score of one-layer models against the selector's weights (figure 25): one row a layer, means over units.

    selected: a factortopy result; single: a ridge result on the same layers and units, whose layer_scores are the grid
    search (cross-validated on training images, with intervals over units). Means are over the reported units (`scored_units`).
    Column `correlation` holds, on every row, the rank correlation over units of found and best single layer.
    """
    weights, scores = _paired(selected, single)
    inside = scored_units(selected)
    found, best = layer_position(weights), np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    mean, low, high = _means(scores[inside])
    return pd.DataFrame(
        {
            "layer": list(selected.config.get("layers", range(weights.shape[1]))),
            "selector_weight": weights[inside].mean(axis=0),
            "single_layer_r2": mean,
            "single_layer_r2.low": low,
            "single_layer_r2.high": high,
            "correlation": float(spearmanr(found, best).statistic),
        }
    )


def _means(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each layer's scores (unit, layer) with its interval over units; NaN for a layer without any."""
    out = np.full((3, scores.shape[1]), np.nan)
    for k in range(scores.shape[1]):
        fine = scores[np.isfinite(scores[:, k]), k].astype(float)
        if len(fine) > 1:
            out[:, k] = bootstrap_mean(fine, resamples=1000)
    return out[0], out[1], out[2]


def _paired(selected: Result, single: Result) -> tuple[np.ndarray, np.ndarray]:
    """Selector weights and one-layer scores (unit, layer) of the same units and layers. Raises DataError when they differ."""
    weights, scores = _array(selected, "layer_weights", "selected"), _array(single, "layer_scores", "single")
    names = list(selected.config.get("layers", range(weights.shape[1])))
    have = list(single.config.get("layers", names))
    columns = [have.index(name) for name in names if name in have]
    if len(columns) != weights.shape[1] or len(weights) != len(scores):
        raise DataError(f"layer_check: layers or units differ, {weights.shape} against {scores.shape}")
    return weights, scores[:, columns]


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
        keys = [f"{key}{end}" for key in ("r2_mean", "hierarchy_slope") for end in ("", ".low", ".high")]
        rows.append({"images": size} | {key: metrics.get(f"encoding/{key}", np.nan) for key in keys})
    return pd.DataFrame(rows)


def _array(result: Result, name: str, which: str) -> np.ndarray:
    if name not in result.arrays:
        raise DataError(f"{which}: a {result.config.get('method')} result has no array {name!r}; it has {sorted(result.arrays)}")
    return result.arrays[name]


def side_by_side_maps(fitted: dict[str, Result], scores: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
    """What the maps of a comparison are drawn from: `to_best` (network, unit), R2 less that of the best network (Fig. 4; NaN
    where none predicts); and, where all networks have the same layers, as before and after fine-tuning, `models/layer` and
    `models/confidence` (network, unit)."""
    best = np.where(np.isfinite(scores), scores, -np.inf).max(axis=0)
    arrays = {"to_best": np.where(known, scores - best, np.nan)}
    results = list(fitted.values())
    same = all(result.config.get("layers") == results[0].config.get("layers") for result in results)
    if same and all({"layer", "confidence"} <= set(result.arrays) for result in results):
        arrays |= layer_maps("models", results)
    return arrays


def layer_maps(head: str, fits: Sequence[Result]) -> dict[str, np.ndarray]:
    """`HEAD/layer` and `HEAD/confidence` (fit, unit) of fits of the same units, from which `plots.selected.layer_rows` draws."""
    return {f"{head}/{key}": np.stack([fit.arrays[key] for fit in fits]) for key in ("layer", "confidence")}


def topology_pair(topological: Result, free: Result) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """A FactorTopy fit and the same with selectors free per unit (Fig. 3): the table of `compare`, and `layer_maps` (2, unit)."""
    return compare(dict(zip(TOPOLOGY, (topological, free), strict=True))), layer_maps("topology", [topological, free])
