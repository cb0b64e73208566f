"""How well predicted responses fit measured ones: R2, correlation, noise ceiling, intervals over test images.

Arguments stand in scikit-learn's order, the truth before the prediction.

A unit whose score is not defined (constant responses, one repeat only) is NaN and counted, never 0: a zero would enter
every mean as a bad prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainlens.metrics.statistics import bootstrap_counts, interval
from brainlens.types import DataError

MIN_IMAGES = 8  # with fewer, resamples that hold one image only are no longer negligible
_BLOCK = 2048  # units scored at a time


@dataclass(frozen=True)
class NoiseCeiling:
    """ncsnr (unit,) and ceiling (unit,), the largest R2 that any model can reach; all NaN with defined=False
    when no stimulus was repeated."""

    ncsnr: np.ndarray
    ceiling: np.ndarray
    defined: bool


@dataclass(frozen=True)
class Scored:
    """A score per unit with its interval over test images, and of its mean over the chosen units.

    value, low, high (unit,); p (unit,): one-sided bootstrap p of a score above 0, (1 + resamples at or below 0) /
    (1 + resamples), from the same resamples as the interval; NaN where the score is; mean, mean_low, mean_high; constant:
    units without variance, whose score is NaN; drawn (resample,) the resampled means, for paired comparisons of models on the
    same resamples.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    mean: float
    mean_low: float
    mean_high: float
    constant: int
    drawn: np.ndarray


def r2(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """R2 = 1 - sum_m (y - yhat)^2 / sum_m (y - mean y)^2 over rows, per unit.

    y_true, y_pred (image, unit) -> (unit,), or (image,) -> a number. Raw, not divided by the ceiling, negative for
    predictions worse than the mean; NaN for constant units. Raises DataError for shapes that differ, fewer than 2 images, and
    NaN or infinity. Yang, Gee, Shi 2024 (Brain Decodes Deep Nets), section 4.1.
    """
    target, predicted = _pair(y_true, y_pred)
    error = ((target - predicted) ** 2).sum(axis=0)
    total = ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    return _divide(total - error, total, np.ptp(target, axis=0) > 0)


def pearson(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Correlation r = cov(y, yhat) / (sd(y) sd(yhat)) over rows, per unit; NaN where either side is constant.

    y_true, y_pred (image, unit) -> (unit,), or (image,) -> a number. Raises DataError as `r2` does.
    """
    target, predicted = _pair(y_true, y_pred)
    moves = (np.ptp(predicted, axis=0) > 0) & (np.ptp(target, axis=0) > 0)
    predicted, target = predicted - predicted.mean(axis=0), target - target.mean(axis=0)
    scale = np.sqrt((predicted**2).sum(axis=0) * (target**2).sum(axis=0))
    return _divide((predicted * target).sum(axis=0), scale, moves)


def noise_ceiling(data: np.ndarray, stimulus: Sequence[str] | np.ndarray, *, averaged: bool = True) -> NoiseCeiling:
    """Noise ceiling of responses (trial, unit) to stimuli (trial,) seen once or more often.

        sigma_n^2 = variance within a stimulus (ddof 1, pooled over stimuli by their degrees of freedom)
        sigma_s^2 = max(variance of all trials - sigma_n^2, 0),   ncsnr = sigma_s / sigma_n
        ceiling = ncsnr^2 / (ncsnr^2 + mean over stimuli of 1 / repeats)      (averaged; else 1 / 1)

    The mean of 1/n is NSD's (A/3 + B/2 + C) / (A + B + C) for mixed repeats. With equal repeats the pooled variance is
    NSD's mean over images. Allen et al. 2022 (NSD). Raises DataError when trials and stimuli do not match.
    """
    array, names = np.asarray(data), np.asarray(stimulus)
    if array.ndim != 2 or len(array) != len(names):
        raise DataError(f"noise ceiling needs (trial, unit) and one stimulus per trial, got {array.shape} and {len(names)}")
    _, group, counts = np.unique(names, return_inverse=True, return_counts=True)
    freedom = int((counts - 1).sum())
    if freedom == 0 or len(counts) < 2:
        undefined = np.full(array.shape[1], np.nan)
        return NoiseCeiling(undefined, undefined.copy(), False)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(counts)))
    snr = np.empty(array.shape[1])
    for start in range(0, array.shape[1], _BLOCK):
        part = np.asarray(array[:, start : start + _BLOCK], dtype=np.float64)[order]
        part = part - part.mean(axis=0)
        sums = np.add.reduceat(part, starts, axis=0)
        within = ((part**2).sum(axis=0) - (sums**2 / counts[:, None]).sum(axis=0)) / freedom
        signal = np.maximum(part.var(axis=0) - within, 0)
        snr[start : start + _BLOCK] = np.sqrt(_divide(signal, within, within > 1e-12 * np.maximum(part.var(axis=0), 1e-300)))
    inverse = float((1 / counts).mean()) if averaged else 1.0
    return NoiseCeiling(snr, snr**2 / (snr**2 + inverse), True)


def of_ceiling(score: np.ndarray, ceiling: np.ndarray, *, least: float = 0.0) -> np.ndarray:
    """R2 / ceiling per unit; NaN where the ceiling is undefined or not above `least`, since x / 0 says nothing.

    score, ceiling (unit,) -> (unit,).
    """
    values, top = np.asarray(score, dtype=np.float64), np.asarray(ceiling, dtype=np.float64)
    if values.shape != top.shape:
        raise DataError(f"score {values.shape} and ceiling {top.shape} must have the same units")
    return _divide(values, top, np.isfinite(top) & (np.where(np.isfinite(top), top, least) > least))


def distance_to_best(scores: np.ndarray, *, reduce: str = "mean") -> np.ndarray:
    """Distance of each model to the model-wise maximum: scores (model, unit) -> (model,).

    sqrt(mean_i (max_m s_mi - s_mi)^2). The paper calls it the root *sum* of squares, but figures such as .005 over
    hundreds of vertices are only possible for the mean; reduce="sum" gives what the title says. Units that are NaN for
    any model are left out. Brain Decodes Deep Nets, table 1.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or reduce not in ("mean", "sum"):
        raise DataError(f"distance_to_best needs (model, unit) and reduce 'mean' or 'sum', got {table.shape} and {reduce!r}")
    table = table[:, np.isfinite(table).all(axis=0)]
    if not table.shape[1]:
        raise DataError("distance_to_best: no unit has a score for every model")
    squares = (table.max(axis=0) - table) ** 2
    return np.sqrt(squares.mean(axis=1) if reduce == "mean" else squares.sum(axis=1))


def bootstrap_score(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    score: str = "r2",
    units: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    counts: np.ndarray | None = None,
) -> Scored:
    """R2 or correlation of every unit with percentile intervals over resampled test images: y_true, y_pred (image, unit).

    With counts C (resample, image), sums of a resample are C @ e^2 and C @ (y - mean y)^2 for R2, and C @ y, C @ y^2, C @ yhat,
    C @ yhat^2, C @ y yhat for the correlation: two to five products instead of one gather per resample. R2 keeps the mean of
    all test images as its reference: a mean of each resample's own would take 1/n off every resampled R2, and where many
    units are averaged the interval is narrower than that and would miss its own point. It also decides p: the mean of the test
    images is already nearer to them than the true mean, which costs a true R2 of 0 about 1/n once, and a mean of each resample's
    own would cost it a second time. Of 4,000 units of true R2 0 (yhat explains what it errs: cov(y, yhat) = var(yhat) / 2)
    p <= .05 for .035 to .059 with the mean of all and for .002 to .041 with each resample's own, at 10 to 200 images and
    predictions of .3 and .7 of the deviation of normal responses; both are below .03 for smaller ones. The p of a correlation is
    that of a percentile bootstrap: .077, .069, .053 at 10, 20, 50 images where the truth is 0.

    `units` are those whose mean is taken: a bool mask, or a factor per unit (such as 1 / ceiling) that multiplies its score
    before the mean, 0 for units left out. counts (resample, image), for R2 alone: how often each image counts, in place of
    `resamples` drawn by `seed`.
    Raises DataError for shapes that differ and for fewer than 8 test images.
    """
    if score not in ("r2", "pearson"):
        raise DataError(f"score {score!r} is not one of 'r2', 'pearson'")
    if np.shape(y_pred) != np.shape(y_true) or np.ndim(y_true) != 2:
        raise DataError(f"y_true {np.shape(y_true)} and y_pred {np.shape(y_pred)} must both be (image, unit)")
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    n, n_units = y_true.shape
    if n < MIN_IMAGES:
        raise DataError(f"intervals need at least {MIN_IMAGES} test images, got {n}; test on more images or use resamples=0")
    factor = np.ones(n_units) if units is None else np.asarray(units, dtype=np.float64)
    if factor.shape != (n_units,) or not np.isfinite(factor).all():
        raise DataError(f"units must be a bool mask or finite factors of {n_units} units, got shape {factor.shape}")
    chosen = factor != 0
    plain = r2 if score == "r2" else pearson
    value, low, high, p = (np.full(n_units, np.nan) for _ in range(4))
    if counts is not None and (score != "r2" or np.ndim(counts) != 2 or np.shape(counts)[1] != n):
        raise DataError(f"counts are (resample, image) of {n} images, for r2; got shape {np.shape(counts)} for {score}")
    counts = (bootstrap_counts(n, resamples, seed) if counts is None else np.asarray(counts)).astype(np.float32)
    resamples = len(counts)
    total, used = np.zeros(resamples), 0
    for start in range(0, n_units, _BLOCK):
        block = slice(start, start + _BLOCK)
        value[block] = plain(y_true[:, block], y_pred[:, block])
        fine = np.flatnonzero(np.isfinite(value[block])) + start
        if not len(fine):
            continue
        drawn = _resampled(y_true[:, fine], y_pred[:, fine], counts, score)
        low[fine], high[fine] = interval(drawn, level)
        p[fine] = (1 + (~(drawn > 0)).sum(axis=0)) / (1 + resamples)  # a resample without variance speaks for nothing
        total += drawn.astype(np.float64) @ factor[fine]
        used += int(chosen[fine].sum())
    constant = int((~np.isfinite(value)).sum())
    if not used:
        return Scored(value, low, high, p, np.nan, np.nan, np.nan, constant, np.full(resamples, np.nan))
    means = total / used
    mean_low, mean_high = interval(means, level)
    fine = chosen & np.isfinite(value)
    mean = float((value[fine] * factor[fine]).mean())
    return Scored(value, low, high, p, mean, float(mean_low), float(mean_high), constant, means)


def _resampled(y_true: np.ndarray, y_pred: np.ndarray, counts: np.ndarray, score: str) -> np.ndarray:
    """Scores of every resample: (resample, unit) float32. Truth is centred first, so that the sums do not cancel."""
    n = np.float32(y_true.shape[0])
    scale = y_true.std(axis=0, dtype=np.float64)
    target = ((y_true - y_true.mean(axis=0, dtype=np.float64)) / scale).astype(np.float32)
    spread = counts @ target**2
    with np.errstate(divide="ignore", invalid="ignore"):
        if score == "r2":
            error = ((y_pred - y_true) / scale).astype(np.float32)
            return 1 - (counts @ error**2) / spread
        spread -= (counts @ target) ** 2 / n
        predicted = y_pred - y_pred.mean(axis=0, dtype=np.float64)
        predicted = (predicted / predicted.std(axis=0)).astype(np.float32)
        shared = counts @ (predicted * target) - (counts @ predicted) * (counts @ target) / n
        return shared / np.sqrt(spread * (counts @ predicted**2 - (counts @ predicted) ** 2 / n))


def _pair(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target, predicted = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if predicted.shape != target.shape or target.ndim not in (1, 2):
        raise DataError(f"y_true {target.shape} and y_pred {predicted.shape} must both be (image, unit), or both (image,)")
    if len(target) < 2:
        raise DataError(f"a score needs at least 2 test images, got {len(target)}")
    for name, array in (("y_true", target), ("y_pred", predicted)):
        if not np.isfinite(array).all():
            raise DataError(f"{name} holds {int((~np.isfinite(array)).sum())} NaN or infinite values; drop such units first")
    return target, predicted


def _divide(top: np.ndarray, bottom: np.ndarray, where: np.ndarray) -> np.ndarray:
    out = np.full(np.shape(top), np.nan)
    np.divide(top, bottom, out=out, where=where)
    return out[()]  # a number where there is no axis of units
