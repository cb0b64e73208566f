"""What fitted selectors say: layer maps, hierarchy, channel clusters, pictures of channels, and how far they are true.

layer weights omega (unit, layer), places u (unit, 2) as (x, y) in [-1, 1], scale alpha (unit,), channel weights w (unit, D).
Equations and tables are those of Brain Decodes Deep Nets (Yang, Gee, Shi 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import spearmanr

from brainlens.metrics.statistics import auroc_interval, count_blocks, interval, permutation_p
from brainlens.types import DataError

HIERARCHY = {"V1": 0.0, "V2V3": 0.33, "OPA": 0.66, "EBA": 1.0}  # section 4.3
PARTS = {"V2": "V2V3", "V3": "V2V3"}  # recordings that name them apart


def confidence(omega: np.ndarray) -> np.ndarray:
    """s = 1 - H(omega) / log L per unit, omega (unit, layer) -> (unit,): 1 for one layer alone, 0 for all alike (eq. 2)."""
    weights = _weights(omega)
    if weights.shape[1] == 1:
        return np.ones(len(weights))
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return 1 + (weights * logs).sum(axis=1) / np.log(weights.shape[1])


def layer_position(omega: np.ndarray) -> np.ndarray:
    """iota = sum_l (l - 1) / (L - 1) omega_l in [0, 1] per unit, omega (unit, layer) -> (unit,) (section 4.3)."""
    weights = _weights(omega)
    return weights @ np.linspace(0, 1, weights.shape[1])


def hierarchy_regions(roi: Sequence[str] | np.ndarray) -> np.ndarray:
    """The regions (unit,) of units under the names of the hierarchy: V2 and V3 are one of its places."""
    return np.array([PARTS.get(str(name), str(name)) for name in np.asarray(roi)])


def hierarchy_slope(
    omega: np.ndarray,
    roi: Sequence[str] | np.ndarray,
    *,
    ideal: Mapping[str, float] = HIERARCHY,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Linear fit of the layer position on a region's place in the visual hierarchy: iota = slope x ideal + b0.

    omega (unit, layer), roi (unit,) names; ideal: the place of each region, others are left out.
    Returns slope, slope.low, slope.high (bootstrap over units), b0 (early layers not selected), b1 = slope + b0, p (units'
    regions permuted, one-sided for a positive slope) and p_regions (exact over the orders of the regions, which neighbouring
    voxels cannot make significant by their number: at least 1/24 with four regions), and units, the number used.
    Raises DataError when fewer than two of the regions hold units.
    """
    names = hierarchy_regions(roi) if ideal is HIERARCHY else np.asarray(roi).astype(str)
    place = np.array([ideal.get(name, np.nan) for name in names])
    used = np.isfinite(place)
    have = sorted(set(names[used]))
    if len(have) < 2:
        raise DataError(f"hierarchy slope needs units in two of {list(ideal)}, got {have}; units have {sorted(set(names))[:20]}")
    x, y = place[used], layer_position(omega)[used]
    slope, b0 = np.polyfit(x, y, 1)
    low, high = interval(_resampled_slopes(x, y, resamples, seed))
    rng = np.random.default_rng(seed)
    centred = x - x.mean()
    null = np.array([rng.permutation(centred) @ y for _ in range(resamples)]) / (centred @ centred)
    return {
        "slope": float(slope),
        "slope.low": float(low),
        "slope.high": float(high),
        "b0": float(b0),
        "b1": float(slope + b0),
        "p": float(permutation_p(float(slope), null)),
        "p_regions": _region_p(x, y, float(slope)),
        "units": float(used.sum()),
    }


def region_table(roi: Sequence[str] | np.ndarray, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean of each column over the units of each region, with the number of units; NaN units are left out and counted.

    roi (unit,) names; columns: name -> (unit,).
    """
    names = np.asarray(roi).astype(str)
    rows = []
    for name in dict.fromkeys(names):
        inside = names == name
        row: dict[str, object] = {"roi": name, "units": int(inside.sum())}
        for key, values in columns.items():
            fine = inside & np.isfinite(values)
            row[key] = float(values[fine].mean()) if fine.any() else np.nan
            if not fine[inside].all():
                row[f"{key} undefined"] = int((inside & ~fine).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def channel_clusters(readout: np.ndarray, *, clusters: int = 20, centres: int = 1000, seed: int = 0) -> np.ndarray:
    """Units clustered by their channel weights: (unit, D) -> labels (unit,) 0..clusters-1.

    k-means on the rows of the kernel W W^T, then Ward's merging of the centres (appendix E.2). Rows of the kernel differ by
    |K_i - K_j|^2 = (w_i - w_j)^T W^T W (w_i - w_j), so k-means runs on W (W^T W)^(1/2), D numbers a unit, and the N x N
    kernel is never made. The tree is cut at a number of clusters, which always ends.
    Raises DataError for fewer units than clusters and for NaN weights.
    """
    from sklearn.cluster import MiniBatchKMeans

    weights = np.asarray(readout, dtype=np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all():
        raise DataError(f"channel weights must be (unit, D) and finite, got shape {weights.shape}")
    if not 1 <= clusters <= len(weights):
        raise DataError(f"cannot make {clusters} clusters of {len(weights)} units")
    values, vectors = np.linalg.eigh(weights.T @ weights)
    points = weights @ (vectors * np.sqrt(np.maximum(values, 0)))
    k = min(centres, len(points))
    if k < len(points):
        means = MiniBatchKMeans(k, random_state=seed, n_init=1, batch_size=max(1024, 3 * k)).fit(points)
        member, nodes = means.labels_, means.cluster_centers_
    else:
        member, nodes = np.arange(len(points)), points
    if clusters == 1:
        return np.zeros(len(points), dtype=np.int64)
    merged = fcluster(linkage(nodes, method="ward"), clusters, criterion="maxclust")
    labels = merged[member]
    sizes = {name: -int((labels == name).sum()) for name in np.unique(labels)}
    order = {name: i for i, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name)))}
    return np.array([order[name] for name in labels], dtype=np.int64)


def channel_picture(readout: np.ndarray, omega: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """What the three main channels of a region respond to: RGB maps (image, place, 3) in [0, 1] (listing 2).

    tokens (image, layer, place, D) after the bottleneck are averaged over layers with the region's mean layer weights and
    projected on the first three principal components of its channel weights (unit, D). As in the listing the D channels are
    the samples and the units the variables: a unit's mean over channels is taken off, and what all units of the region share
    stays. A component's sign is free and fixed by its largest weight; each colour is scaled over all images together.
    """
    weights = np.asarray(readout, dtype=np.float64)
    if len(weights) < 3:
        raise DataError(f"channel pictures need at least 3 units in the region, got {len(weights)}")
    _, _, axes = np.linalg.svd(weights - weights.mean(axis=1, keepdims=True), full_matrices=False)
    axes = axes[:3] * np.sign(np.take_along_axis(axes[:3], np.abs(axes[:3]).argmax(axis=1)[:, None], axis=1))
    mixed = np.einsum("l,blpd->bpd", _weights(omega).mean(axis=0), tokens)
    maps = mixed @ axes.T
    low, high = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    return (maps - low) / np.where(high > low, high - low, 1.0)


def consistency(maps: Sequence[np.ndarray]) -> dict[str, float]:
    """Agreement of layer maps fitted with several seeds (or on registered subjects): each (unit, layer), same units.

    correlation: mean Pearson r of the layer positions over all pairs; same_layer: mean share of units with the same
    strongest layer (figure 12).
    """
    if len(maps) < 2 or len({np.shape(m) for m in maps}) != 1:
        raise DataError(f"consistency needs two or more maps of one shape, got {[np.shape(m) for m in maps]}")
    place = np.corrcoef([layer_position(m) for m in maps])
    best = np.stack([np.argmax(m, axis=1) for m in maps])
    pairs = np.triu_indices(len(maps), 1)
    return {"correlation": float(place[pairs].mean()), "same_layer": float((best[pairs[0]] == best[pairs[1]]).mean())}


def selector_scores(
    omega: np.ndarray, space: np.ndarray, alpha: np.ndarray, units: pd.DataFrame, *, least_ncsnr: float = 0.3, seed: int = 0
) -> dict[str, float]:
    """How much of a phantom's truth the selectors found, over units with ncsnr above a threshold.

    omega (unit, layer), space (unit, 2) as (x, y), alpha (unit,), in the order of the rows of units.
    units: layer (true layer number from 0, NaN for noise), rf_x, rf_y in [-1, 1], is_global, ncsnr.
    truth/layer_spearman: true layer against the found position; truth/rf_error_median: Euclidean distance of the centres
    of local units, |image side| = 2; truth/rf_x_spearman, truth/rf_y_spearman: true against found
    centres; truth/scale_auroc: alpha of global above local units; each with .low and .high, and
    truth/noise_confidence, the mean confidence of the units without signal.
    """
    needed = ["layer", "rf_x", "rf_y", "is_global", "ncsnr"]
    missing = [name for name in needed if name not in units.columns]
    if missing or len(units) != len(omega):
        raise DataError(f"truth needs units with columns {needed}; missing {missing}, rows {len(units)} for {len(omega)} units")
    layer = units["layer"].to_numpy(float)
    signal = np.isfinite(layer) & (units["ncsnr"].to_numpy(float) > least_ncsnr)
    if signal.sum() < 3:
        raise DataError(f"truth: only {int(signal.sum())} units have a true layer and ncsnr > {least_ncsnr}")
    out: dict[str, float] = {"truth/units": float(signal.sum())}
    place = layer_position(omega)[signal]
    _put(out, "truth/layer_spearman", *_spearman_interval(layer[signal], place, seed))
    everywhere = units["is_global"].to_numpy(bool)
    local = signal & ~everywhere & np.isfinite(units[["rf_x", "rf_y"]].to_numpy(float)).all(axis=1)
    if local.any():
        error = np.hypot(
            space[local, 0] - units["rf_x"].to_numpy(float)[local], space[local, 1] - units["rf_y"].to_numpy(float)[local]
        )
        out["truth/rf_error_median"] = float(np.median(error))
        there = units.loc[local, ["rf_x", "rf_y"]].to_numpy(float)
        for number, axis in enumerate("xy") if local.sum() > 2 else ():
            _put(out, f"truth/rf_{axis}_spearman", *_spearman_interval(there[:, number], space[local, number], seed))
        if local.sum() > 1:
            rng = np.random.default_rng(seed)
            drawn = [np.median(rng.choice(error, len(error))) for _ in range(1000)]
            out["truth/rf_error_median.low"], out["truth/rf_error_median.high"] = map(float, interval(np.array(drawn)))
    if min((signal & everywhere).sum(), (signal & ~everywhere).sum()) > 1:
        _put(out, "truth/scale_auroc", *auroc_interval(everywhere[signal], np.asarray(alpha)[signal]))
    if (~np.isfinite(layer)).any():
        out["truth/noise_confidence"] = float(confidence(omega)[~np.isfinite(layer)].mean())
    return out


def field_agreement(space: np.ndarray, reference: np.ndarray, chosen: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """How far found fields lie as those of a retinotopic template: `x_spearman`, `y_spearman`, their intervals, `n`.

    space (unit, 2): as (x, y) in the picture, y downwards; reference (unit, 2): in degrees, y upwards, NaN outside of the
    template; chosen (unit,): those that are compared. Ranks, as the size of the picture in degrees need not be known. Empty below
    3 units.
    """
    used = np.asarray(chosen, dtype=bool) & np.isfinite(reference).all(axis=1)
    if used.sum() < 3:
        return {}
    out: dict[str, float] = {"n": float(used.sum())}
    for number, (axis, sign) in enumerate((("x", 1.0), ("y", -1.0))):
        _put(out, f"{axis}_spearman", *_spearman_interval(sign * reference[used, number], space[used, number], seed))
    return out


def _put(out: dict[str, float], name: str, value: float, low: float, high: float) -> None:
    out[name], out[f"{name}.low"], out[f"{name}.high"] = value, low, high


def _spearman_interval(truth: np.ndarray, found: np.ndarray, seed: int) -> tuple[float, float, float]:
    if np.ptp(truth) == 0 or np.ptp(found) < 1e-9:
        return float("nan"), float("nan"), float("nan")  # weights that are the same for every unit order nothing
    value = float(spearmanr(truth, found).statistic)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(500):
        rows = rng.integers(0, len(truth), len(truth))
        if np.ptp(truth[rows]) > 0 and np.ptp(found[rows]) > 0:
            drawn.append(float(spearmanr(truth[rows], found[rows]).statistic))
    low, high = interval(np.array(drawn)) if drawn else (np.nan, np.nan)
    return value, float(low), float(high)


def _resampled_slopes(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    parts = []
    for counts in count_blocks(len(x), resamples, seed):
        n = len(x)
        sx, sy = counts @ x, counts @ y
        bottom = counts @ x**2 - sx**2 / n
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append((counts @ (x * y) - sx * sy / n) / np.where(bottom > 1e-12, bottom, np.nan))
    drawn = np.concatenate(parts)
    return drawn[np.isfinite(drawn)]


def _region_p(x: np.ndarray, y: np.ndarray, observed: float) -> float:
    """One-sided p of the slope over all assignments of the ideal places to the regions, the observed one included."""
    from itertools import permutations

    places, region = np.unique(x, return_inverse=True)
    slopes = []
    for order in permutations(places):
        shuffled = np.array(order)[region]
        centred = shuffled - shuffled.mean()
        slopes.append(centred @ y / (centred @ centred))
    return float(np.mean(np.array(slopes) >= observed - 1e-12))


def _weights(omega: np.ndarray) -> np.ndarray:
    weights = np.asarray(omega, dtype=np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError(f"layer weights must be (unit, layer), finite and not negative, got shape {weights.shape}")
    return weights
