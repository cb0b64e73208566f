"""Scores of test predictions: every unit, the chosen units' mean, every region, each with its interval and ceiling."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t as student

from brainlens.metrics import selectors
from brainlens.metrics.encoding import bootstrap_score, of_ceiling, pearson, r2
from brainlens.metrics.statistics import fdr
from brainlens.models.encoding.tables import LEAST_CEILING, EncodingTables
from brainlens.types import DataError

SIGNIFICANT = 0.05


def score_part(
    predicted: np.ndarray, data: EncodingTables, arrays: dict[str, np.ndarray], *, least: float, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray], pd.DataFrame]:
    """(metrics, arrays per unit, table of regions) of predictions (image, unit) for the test part.

    metrics `encoding/...`: r2_mean, r_mean, r2_of_ceiling with .low and .high (bootstrap over test images), ceiling_mean,
    r2_max, r2_share_positive, share_significant (r > 0 at q = .05, t test), units_significant (R2 > 0, the same q, bootstrap),
    the numbers of units and images, and, where the arrays hold layer weights and the units the regions, hierarchy_slope, _b0,
    _b1 and .p. resamples=0 leaves intervals out.
    """
    truth, units = data.test.y, data.scored(least)
    value, r = r2(truth, predicted), pearson(truth, predicted)
    fine = np.isfinite(value)
    if not (fine & units).any():
        raise DataError(f"encode: none of {int(units.sum())} units varies over the test images; test on more images")
    metrics: dict[str, float] = {"encoding/r2_mean": float(value[fine & units].mean())}
    more = {"r2": value, "r": r, "ceiling": data.ceiling, "ncsnr": data.ncsnr, "scored": units}
    share = of_ceiling(value, data.ceiling, least=LEAST_CEILING)
    inside = units & np.isfinite(share) & (data.ceiling > data.least_ceiling(least))
    more["r2_of_ceiling"] = share
    if resamples:
        scored = bootstrap_score(truth, predicted, units=units, resamples=resamples, seed=seed)
        more |= {"r2_low": scored.low, "r2_high": scored.high, "p": scored.p, "q": fdr(scored.p)}
        metrics["encoding/units_significant"] = float((more["q"] < SIGNIFICANT).sum())
        _interval(metrics, "encoding/r2_mean", scored.mean_low, scored.mean_high)
        correlated = bootstrap_score(truth[:, units], predicted[:, units], score="pearson", resamples=resamples, seed=seed)
        _interval(metrics, "encoding/r_mean", correlated.mean_low, correlated.mean_high)
        if inside.any():
            part = bootstrap_score(
                truth[:, inside], predicted[:, inside], units=1 / data.ceiling[inside], resamples=resamples, seed=seed
            )
            _interval(metrics, "encoding/r2_of_ceiling", part.mean_low, part.mean_high)
    moving = np.isfinite(r) & units
    metrics["encoding/r_mean"] = float(r[moving].mean()) if moving.any() else float("nan")
    metrics["encoding/r2_of_ceiling"] = float(share[inside].mean()) if inside.any() else float("nan")
    metrics["encoding/ceiling_mean"] = float(data.ceiling[inside].mean()) if inside.any() else float("nan")
    metrics |= {f"encoding/{key}.n": float(len(truth)) for key in ("r2_mean", "r_mean", "r2_of_ceiling")}
    metrics["encoding/r2_max"] = float(value[fine].max())
    metrics["encoding/r2_share_positive"] = float((value[fine] > 0).mean())
    metrics["encoding/share_significant"] = _significant(r, len(truth))
    metrics["encoding/units"] = float(len(value))
    metrics["encoding/units_scored"] = float((fine & units).sum())
    metrics["encoding/units_constant_in_test"] = float((~fine).sum())
    metrics |= {f"encoding/{name}": float(count) for name, count in data.counts.items()}
    if not data.ceiling_defined:
        metrics["encoding/ceiling_undefined"] = 1.0
    if "roi" in data.units.columns and "layer_weights" in arrays:
        metrics |= _hierarchy(arrays["layer_weights"], data.units["roi"], seed)
    known = {"r2_of_ceiling": np.where(units, share, np.nan)}  # of the units that the metric of this name is of
    return metrics, more, _regions(data, more | arrays | known, predicted, resamples, seed)


def _interval(metrics: dict[str, float], name: str, low: float, high: float) -> None:
    metrics[f"{name}.low"], metrics[f"{name}.high"] = low, high


def _significant(r: np.ndarray, n: int) -> float:
    """Share of units whose correlation is above 0 at a false discovery rate of .05 (one-sided t test)."""
    if n < 4:
        return float("nan")
    safe = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    p = student.sf(safe * np.sqrt((n - 2) / (1 - safe**2)), n - 2)
    return float((fdr(p) < SIGNIFICANT).sum() / len(r))


def _hierarchy(omega: np.ndarray, roi: pd.Series, seed: int) -> dict[str, float]:
    """The slope under its metric names; empty where fewer than two of its regions hold units."""
    names = selectors.hierarchy_regions(roi.to_numpy())
    if len(set(names) & set(selectors.HIERARCHY)) < 2 or omega.shape[1] < 2:
        return {}
    found = selectors.hierarchy_slope(omega, names, seed=seed)
    named = {key.replace("slope", "hierarchy_slope", 1): value for key, value in found.items() if key.startswith("slope")}
    named |= {"hierarchy_b0": found["b0"], "hierarchy_b1": found["b1"], "hierarchy_slope.p": found["p"]}
    named |= {"hierarchy_slope.p_regions": found["p_regions"], "hierarchy_units": found["units"]}
    return {f"encoding/{key}": value for key, value in named.items()}


def _regions(
    data: EncodingTables, arrays: dict[str, np.ndarray], predicted: np.ndarray, resamples: int, seed: int
) -> pd.DataFrame:
    """One row a region: units, mean scores with the interval of R2 over test images, mean layer, confidence and scale.

    R2 over its ceiling is of the scored units alone: where a ceiling is hardly above 0 it is noise over noise.
    """
    if "roi" not in data.units.columns:
        return pd.DataFrame()
    roi = data.units["roi"].astype(str).to_numpy()
    named = ("r2", "r", "ceiling", "r2_of_ceiling", "confidence", "scale")
    columns: dict[str, np.ndarray] = {name: arrays[name] for name in named if name in arrays}
    if "layer_weights" in arrays:
        columns["layer_position"] = selectors.layer_position(arrays["layer_weights"])
    table = selectors.region_table(roi, columns)
    if resamples:
        for i, name in enumerate(table["roi"]):
            inside = np.flatnonzero((roi == name) & np.isfinite(arrays["r2"]))
            if len(inside):
                scored = bootstrap_score(data.test.y[:, inside], predicted[:, inside], resamples=resamples, seed=seed)
                table.loc[i, ["r2.low", "r2.high"]] = scored.mean_low, scored.mean_high
    return table
