"""Decoding of several subjects as a group: their mean over time, its interval over subjects and stimuli or trials."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlens.encode.discriminant import drawn_areas
from brainlens.metrics.statistics import mean_over_subjects, stimulus_counts
from brainlens.subjects import FEW_SUBJECTS

RESAMPLES = 1000


def of_images(trials: pd.DataFrame, target: str) -> bool:
    """Whether the target is a property of what was seen, and each category is of several images."""
    if target == "stimulus" or not {target, "stimulus"} <= set(trials.columns):
        return False
    kinds, images = trials.groupby("stimulus")[target].nunique(), trials.groupby(target)["stimulus"].nunique()
    return bool((kinds == 1).all() and (images > 1).all())


def drawn_units(trials: pd.DataFrame, target: str, subjects: np.ndarray) -> tuple[np.ndarray, str]:
    """What each trial counts with in a resample, (trial,) names, and "stimuli" or "trials"; subjects (trial,): whose it is.

    Where a category is of several images these are drawn, alike for all subjects; else every trial is drawn by itself.
    """
    if of_images(trials, target):
        return trials["stimulus"].astype(str).to_numpy(dtype=object), "stimuli"
    number = pd.Series(subjects).groupby(subjects).cumcount()
    return np.array([f"{s}/{k}" for s, k in zip(subjects, number, strict=True)], dtype=object), "trials"


class Draws:
    """Areas of each subject in resamples of what was seen, the fitted classifiers held: means over folds, as they come."""

    def __init__(self, units: np.ndarray, of_fold: np.ndarray, times: int, seed: int) -> None:
        self.units, self.of_fold, self.seed = units, of_fold, seed
        self.sum = np.zeros((of_fold.max() + 1, RESAMPLES, times))
        self.folds = np.zeros(self.sum.shape, dtype=np.int32)

    def counts(self, test: np.ndarray) -> np.ndarray:
        """How often each tested trial, of numbers test (n,), counts in each resample: (resample, n)."""
        return stimulus_counts(self.units[test], RESAMPLES, self.seed)

    def add(self, fold: int, j: int, odds: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> None:
        """Enters the areas of a fold at the time j: odds (trial, class), labels (trial,)."""
        area = drawn_areas(odds, labels, counts)
        there = np.isfinite(area)
        self.sum[self.of_fold[fold], :, j] += np.where(there, area, 0)
        self.folds[self.of_fold[fold], :, j] += there

    @property
    def areas(self) -> np.ndarray:
        """(subject, resample, time); NaN where a resample has no fold with two categories."""
        return np.divide(self.sum, self.folds, out=np.full(self.sum.shape, np.nan), where=self.folds > 0)


@dataclass(frozen=True)
class GroupCourse:
    """low, high (time,) of the mean area; over: what they speak of; table: a row a subject and one of their mean."""

    low: np.ndarray
    high: np.ndarray
    over: str
    table: pd.DataFrame


def group_course(
    each: np.ndarray, drawn: np.ndarray, own: np.ndarray, names: list[str], trials: list[int], what: str
) -> GroupCourse:
    """The interval of the mean area over subjects, see `mean_over_subjects`, from three subjects on over subjects too.

    each: areas (subject, labelling, time), the first labelling the true one; drawn (subject, resample, time), of fixed
    classifiers; own (subject, labelling, time): variances of the areas for fixed classifiers.
    Draws are of `own` variance at least, as those of n trials are too narrow by 1 / n. Folds share their training trials, so
    they are widened by what permuted labels show of it: the variance of a subject's permuted areas over the mean of `own`, where
    that is above 1; likewise for the variance between subjects, who share a classifier where it is trained on the others.
    """
    people = len(each) >= FEW_SUBJECTS
    few = _ratio(own[:, 0], np.nanvar(drawn, axis=1, ddof=1))
    drawn = _widened(drawn, few * _ratio(each[:, 1:].var(axis=1), own[:, 1:]))
    factor = _ratio(each[:, 1:].mean(axis=0).var(axis=0), each[:, 1:].var(axis=0, ddof=1) / len(each)) if people else 1.0
    true = each[:, 0]
    low, high = _clipped(*mean_over_subjects(true, drawn, people=people, factor=factor))
    peak, over_times = int(true.mean(axis=0).argmax()), drawn.mean(axis=2)
    rows = []
    for i, name in enumerate([*names, "mean"]):
        chosen = slice(i, i + 1) if i < len(names) else slice(None)
        whole, there = true[chosen].mean(axis=1), people and i == len(names)
        ends = _clipped(*mean_over_subjects(whole, over_times[chosen], people=there, factor=factor))
        row = {"subject": name, "auc_mean": float(whole.mean()), "auc_mean.low": float(ends[0]), "auc_mean.high": float(ends[1])}
        row |= {"auc_at_peak": float(true[chosen, peak].mean()), "trials": sum(trials[chosen])}
        rows.append(row)
    return GroupCourse(low, high, f"subjects and {what}" if people else what, pd.DataFrame(rows))


def _ratio(seen: np.ndarray, believed: np.ndarray) -> float:
    """Mean of the seen variances over that of the believed ones, at least 1; 1 where none is believed or known."""
    ratio = float(seen.mean() / size) if (size := believed.mean()) > 0 else 1.0
    return max(1.0, ratio) if np.isfinite(ratio) else 1.0


def _widened(drawn: np.ndarray, factor: float) -> np.ndarray:
    """Draws (subject, resample, time) with the same means and `factor` times the variance."""
    if factor == 1.0:
        return drawn
    mean = np.nanmean(drawn, axis=1, keepdims=True)
    return np.asarray(mean + np.sqrt(factor) * (drawn - mean))


def _clipped(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(low, 0.0), np.minimum(high, 1.0)
