"""What maps of voxels are worth: significance over trials, agreement with a known truth, and means of regions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from brainlens.metrics import attribution as metrics
from brainlens.metrics.statistics import auroc_interval, fdr
from brainlens.subjects import region_labels
from brainlens.types import Responses


def significance_of(maps: np.ndarray, arrays: dict[str, np.ndarray], refine: str, flips: int, seed: int) -> dict[str, float]:
    """Share of voxels whose map (trial, voxel) is above its trial's mean, by sign flips at q = .05; p and q go into `arrays`."""
    if len(maps) < 5 or not maps.any():
        return {}
    null = 0.0 if refine == "signed" else maps.mean(1, keepdims=True)  # a signed map is 0 by chance, others are not
    p = metrics.sign_flip_p(maps - null, flips=flips, seed=seed)
    arrays["map/p"], arrays["map/q"] = p, fdr(p)
    share = float((arrays["map/q"] <= 0.05).mean())
    return {"attribution/significant_share": share, "attribution/significant_share.n": maps.shape[1]}


def truth_of(maps: np.ndarray, units: pd.DataFrame, patch_of: np.ndarray) -> dict[str, float]:
    """AUROC of the mean map (trial, voxel) for voxels that truly know something, where the units say which do.

    patch_of (voxel,): voxels of one patch count as one in the interval, since a map gives them much the same value.
    """
    if "informative" not in units.columns:
        return {}
    right = units["informative"].to_numpy(dtype=bool)
    there = maps[maps.any(1)]
    area, low, high = auroc_interval(right, there.mean(0), clusters=patch_of) if len(there) else (np.nan,) * 3
    each = metrics.truth_auroc(right, there) if len(there) else np.array([np.nan])
    return {
        "truth/auroc": area,
        "truth/auroc.low": low,
        "truth/auroc.high": high,
        "truth/auroc_trial_mean": float(each.mean()),
        "truth/informative_share": float(right.mean()),
    }


def regions_of(maps: np.ndarray, responses: Responses) -> pd.DataFrame:
    """Mean of the maps (trial, unit) in each region, of each subject, and the region's share of the whole map."""
    roi = region_labels(responses.units)
    if roi is None:
        return pd.DataFrame()
    known = "subject" in responses.trials.columns
    subject = responses.trials["subject"].astype(str) if known else pd.Series("", range(len(maps)))
    parts = []
    for who in pd.unique(subject):
        mean = pd.Series(maps[(subject == who).to_numpy()].mean(0))
        table = mean.groupby(roi).agg(["mean", "sum", "size"]).reset_index(names="roi")
        parts.append(table.assign(subject=who, share=table["sum"] / max(float(mean.sum()), 1e-30)).drop(columns="sum"))
    return pd.concat(parts, ignore_index=True)
