"""Numbers about attribution maps: confidence drop and increase, areas under curves, agreement with the truth.

A score that falls little when only the map's region is kept rewards large maps: an all-ones map has drop 0. So every
number here is to be read beside the map's mass or at a matched area. Where a map meets a truth, the truth stands first, as in
scikit-learn's roc_auc_score.
"""

from __future__ import annotations

import numpy as np

from brainlens.metrics.statistics import auroc, binary
from brainlens.types import DataError


def confidence(full: np.ndarray, kept: np.ndarray) -> dict[str, float]:
    """Confidence drop and increase of scores (sample,), in percent.

    drop_absolute = 100 mean max(0, s - s') (M2IB, pytorch-grad-cam); drop_relative = 100 mean max(0, s - s') / s over
    samples with s > 0 (Grad-CAM++, eq. 2 of Chattopadhyay et al. 2018), NaN where none is; increase = 100 mean [s' > s].
    """
    s, kept = _pair(full, kept)
    loss = np.maximum(0, s - kept)
    positive = s > 0
    relative = 100 * float((loss[positive] / s[positive]).mean()) if positive.any() else float("nan")
    return {
        "drop_absolute": 100 * float(loss.mean()),
        "drop_relative": relative,
        "increase": 100 * float((kept > s).mean()),
        "samples_positive": float(positive.mean()),
    }


def area_under(curve: np.ndarray) -> np.ndarray:
    """Trapezoid area of curves (sample, point) over [0, 1]: (sum - first / 2 - last / 2) / (points - 1)."""
    if curve.ndim != 2 or curve.shape[1] < 2:
        raise DataError(f"area under curve: expected (sample, at least 2 points), got {curve.shape}")
    return (curve.sum(1) - (curve[:, 0] + curve[:, -1]) / 2) / (curve.shape[1] - 1)


def truth_auroc(y_true: np.ndarray, y_score: np.ndarray) -> np.ndarray:
    """AUROC of every map for the units that are truly informative, see `statistics.auroc`: (sample,).

    y_true (unit,) or (sample, unit) of bool or 0 and 1; y_score, the maps, (sample, unit) or (unit,). Raises DataError for
    shapes that do not match.
    """
    maps, truth = np.atleast_2d(y_score), np.asarray(y_true)
    if maps.ndim != 2 or truth.shape not in (maps.shape, maps.shape[1:]):
        raise DataError(f"truth auroc: y_true {truth.shape} must be (unit,) or (sample, unit) of the maps y_score {maps.shape}")
    return np.array([auroc(right, row) for right, row in zip(np.broadcast_to(truth, maps.shape), maps, strict=True)])


def pointing_game(y_true: np.ndarray, y_score: np.ndarray) -> np.ndarray:
    """1 where the maximum of a map lies inside the object, else 0; ties count in part: (sample,).

    y_true, the objects, (sample, unit) of bool or 0 and 1; y_score, the maps, (sample, unit). Zhang et al. 2018, without their
    tolerance of 15 pixels. Raises DataError for shapes that differ and for a truth of other values.
    """
    inside, maps = np.asarray(y_true), np.asarray(y_score)
    if maps.shape != inside.shape or maps.ndim != 2:
        raise DataError(f"pointing game: y_true {inside.shape} and y_score {maps.shape} must have the same shape (sample, unit)")
    inside = binary(inside)
    top = maps == maps.max(1, keepdims=True)
    return (top & inside).sum(1) / top.sum(1)


def map_area(maps: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Share of units at or above `threshold` of the map's own range: (sample,)."""
    low, high = maps.min(1, keepdims=True), maps.max(1, keepdims=True)
    return (maps >= low + threshold * (high - low)).mean(1)


def map_mass(maps: np.ndarray) -> np.ndarray:
    """Mean of each map after scaling to [0, 1] by its minimum and maximum; 1 for a constant map: (sample,)."""
    low, high = maps.min(1), maps.max(1)
    flat = high == low
    return np.where(flat, 1.0, (maps.mean(1) - low) / np.where(flat, 1.0, high - low))


def sign_flip_p(maps: np.ndarray, *, flips: int = 1000, seed: int = 0) -> np.ndarray:
    """One-sided p (unit,) that the mean over samples (sample, unit) is above 0, by flipping the signs of whole samples.

    p = (1 + #{flipped mean >= mean}) / (1 + flips), each unit on its own; correct with `statistics.fdr`. Give maps
    minus a null (their mean over units, or a control's map), since a map that cannot be negative is always above 0.
    """
    if maps.ndim != 2 or len(maps) < 5:
        raise DataError(f"sign flips: {maps.shape} is not at least 5 samples by unit; 4 samples cannot reach p = .05")
    values = np.asarray(maps, dtype=np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, len(values)))
    observed = values.sum(0)
    count = np.zeros(values.shape[1])
    for block in np.array_split(signs, max(1, flips // 100)):
        count += (block @ values >= observed - 1e-12 * np.abs(values).sum(0)).sum(0)
    return (1 + count) / (1 + flips)


def _pair(full: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s, other = np.asarray(full, np.float64), np.asarray(kept, np.float64)
    if s.shape != other.shape or s.ndim != 1 or not len(s):
        raise DataError(f"confidence: scores {s.shape} and {other.shape} must be (sample,) of equal, non-zero length")
    if not (np.isfinite(s).all() and np.isfinite(other).all()):
        raise DataError("confidence: scores hold NaN or infinity")
    return s, other
