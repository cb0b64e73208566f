"""When the information is there: decoding in growing, shrinking and sliding time windows, and across times.

Ridge regression from recordings (trial, channel, time) to any target (trial, d), closed form, so that hundreds of windows
cost seconds; the penalty is a fixed share of the mean variance, so nothing is chosen on test data. NeuroAlign Fig. 3 trains
its network anew for each window; here the question is the data's, not the network's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from brainlens.metrics.retrieval import ranks, summary
from brainlens.types import DataError

KINDS = ("growing", "shrinking", "sliding")
Scores = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Window:
    """Samples with start <= time < stop (s); kind is growing [first, t), shrinking [t, last] or sliding; mask (time,) bool."""

    kind: str
    start: float
    stop: float
    mask: np.ndarray


def time_windows(times: np.ndarray, *, step: float = 0.1, kinds: tuple[str, ...] = KINDS) -> list[Window]:
    """All windows of some kinds in steps of `step` seconds; what is left at the end, below half a step, joins the last.

    times (time,) in s, ascending. Raises DataError for an unknown kind or a step that is not above 0.
    """
    if step <= 0 or any(kind not in KINDS for kind in kinds):
        raise DataError(f"time windows: step {step} must be above 0 and kinds {kinds} among {list(KINDS)}")
    first, end = float(times[0]), float(times[-1]) + float(np.median(np.diff(times)))
    edges = np.append(first + step * np.arange(max(1, round((end - first) / step))), end)
    found = []
    for low, high in pairwise(edges):
        for kind in kinds:
            start, stop = (low if kind != "growing" else first), (high if kind != "shrinking" else end)
            mask = (times >= start - 1e-9) & (times < stop - 1e-9)
            if mask.any():
                found.append(Window(kind, float(start), float(stop), mask))
    return found


def ridge_fit(x: np.ndarray, y: np.ndarray, *, penalty: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """weights (p, d), intercept (d,) of min |y - x w - c|^2 + penalty tr(X'X)/p |w|^2, X centred; the smaller side is solved.

    A column of x that never changes has weight 0.
    """
    mean, centre = x.mean(0), y.mean(0)
    moves = (x.max(0) > x.min(0)).astype(x.dtype)
    a, b = (x - mean) * moves, y - centre
    n, p = a.shape
    size = penalty * float((a**2).sum()) / p
    if n <= p:
        weights = a.T @ np.linalg.solve(a @ a.T + size * np.eye(n), b)
    else:
        weights = np.linalg.solve(a.T @ a + size * np.eye(p), a.T @ b) * moves[:, None]
    return weights, centre - mean @ weights


def window_scores(
    train: np.ndarray, target: np.ndarray, test: np.ndarray, windows: list[Window], score: Scores, *,
    test_target: np.ndarray, width: int = 5, penalty: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """score(test_target, prediction) for each window, (window,); the truth comes first, as in scikit-learn.

    train, test (trial, channel, time); target, test_target (trial, d). Recordings are averaged over `width` neighbouring
    samples inside the window first, which bounds the size of the problem.
    """
    found = []
    for window in windows:
        a, b = _binned(train, window.mask, width), _binned(test, window.mask, width)
        weights, intercept = ridge_fit(a, target, penalty=penalty)
        found.append(score(test_target, b @ weights + intercept))
    return np.array(found)


def window_retrieval(
    train: np.ndarray, target: np.ndarray, test: np.ndarray, windows: list[Window], *,
    gallery: np.ndarray, width: int = 5, penalty: float = 1.0, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Retrieval from each window alone: a ridge decoder to the embeddings `target`, then the rank of the right gallery row.

    train, test (trial, channel, time), one row an image; gallery (test image, d), row i belongs to test row i. Columns kind,
    start, end (s), top1, top5 and twoway (chance 1/n, 5/n, .5) with their `.low` and `.high`, 95 % over test images.
    """
    rows = []
    for window in windows:
        a, b = _binned(train, window.mask, width), _binned(test, window.mask, width)
        weights, intercept = ridge_fit(a, target, penalty=penalty)
        found = summary(ranks(_away_from_zero(b @ weights + intercept), gallery), len(gallery), ks=(1, 5), ways=(2,), seed=seed)
        kept = {k.replace("nway2", "twoway"): v for k, v in found.items() if k.startswith(("top1", "top5", "nway2"))}
        rows.append({"kind": window.kind, "start": window.start, "end": window.stop, **kept})
    return pd.DataFrame(rows)


def two_way(prediction: np.ndarray, gallery: np.ndarray) -> float:
    """Share of wrong gallery rows that are less similar to a prediction than the right one, mean over rows; chance .5.

    prediction, gallery (n, d), row by row.
    """
    found = ranks(_away_from_zero(prediction), gallery)
    return float(1 - found.mean() / (len(gallery) - 1))


def window_table(windows: list[Window], scores: np.ndarray, *, metric: str) -> pd.DataFrame:
    """Columns kind, start, end (s) and the metric, a row a window, of scores (window,): for the figure of time windows."""
    rows = [(window.kind, window.start, window.stop, float(value)) for window, value in zip(windows, scores, strict=True)]
    return pd.DataFrame(rows, columns=["kind", "start", "end", metric])


def time_generalisation(
    train: np.ndarray, target: np.ndarray, test: np.ndarray, score: Scores, *,
    test_target: np.ndarray, width: int = 5, penalty: float = 0.1,
) -> np.ndarray:  # fmt: skip
    """Decoders trained at one time and tested at every time: scores (bin, bin), rows by training time, bins of `width` samples.

    train, test (trial, channel, time); target, test_target (trial, d).
    score(test_target, prediction), the truth first. The diagonal is time-resolved decoding.
    """
    everything = np.ones(train.shape[2], bool)
    a = _binned(train, everything, width).reshape(len(train), -1, train.shape[1])
    b = _binned(test, everything, width).reshape(len(test), -1, test.shape[1])
    out = np.empty((a.shape[1], b.shape[1]))
    for i in range(a.shape[1]):
        weights, intercept = ridge_fit(a[:, i], target, penalty=penalty)
        for j in range(b.shape[1]):
            out[i, j] = score(test_target, b[:, j] @ weights + intercept)
    return out


def mean_correlation(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Mean over columns of the correlation over rows, y_true, y_pred (row, column); a column that never changes counts as 0.

    Raises DataError for shapes that differ.
    """
    truth, predicted = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if truth.shape != predicted.shape or truth.ndim not in (1, 2) or not len(truth):
        raise DataError(f"mean correlation: y_true {truth.shape} and y_pred {predicted.shape} must both be (row, column)")
    a, b = truth - truth.mean(0), predicted - predicted.mean(0)
    norm = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return float(np.divide((a * b).sum(0), norm, out=np.zeros_like(norm), where=norm > 0).mean())


def half_height(windows: list[Window], scores: np.ndarray, *, kind: str = "growing") -> float:
    """Time (s) at which the curve of growing windows first reaches half of its last value, above its first: an onset.

    scores (window,), one for each of windows. Raises DataError where the curve does not rise.
    """
    chosen = [(window.stop, value) for window, value in zip(windows, scores) if window.kind == kind]
    if not chosen or chosen[-1][1] <= 0:
        raise DataError(f"no {kind} window rises above 0; there is nothing to date")
    for stop, value in chosen:
        if value >= chosen[-1][1] / 2:
            return stop
    return chosen[-1][0]


def _away_from_zero(rows: np.ndarray) -> np.ndarray:
    """A prediction of exactly zero has no direction; a constant in its place is as far from every gallery row as chance."""
    return np.where(np.abs(rows).max(axis=1, keepdims=True) > 0, rows, 1.0)


def _binned(data: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    """(trial, bins x channel) float64: means over `width` samples of the masked part, time-major."""
    index = np.flatnonzero(mask)
    starts = np.arange(0, len(index), width)
    out = np.empty((len(data), len(starts), data.shape[1]))
    for i, start in enumerate(starts):
        out[:, i] = np.asarray(data[:, :, index[start : start + width]], dtype=np.float64).mean(axis=2)
    return out.reshape(len(data), -1)
