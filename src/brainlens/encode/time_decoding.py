"""Which category was seen, and when: a classifier at every time point of recordings (trial, channel, time)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from brainlens import store
from brainlens.encode import discriminant as lda
from brainlens.encode.group_decoding import Draws, drawn_units, group_course
from brainlens.encode.repeats import images_apart
from brainlens.encode.time_clusters import cluster_p
from brainlens.metrics.statistics import permutation_p
from brainlens.types import DataError, Responses, Result

LEVEL = 0.05
MOST = 100  # permutations whose variances are looked at


@dataclass(frozen=True)
class OverTime:
    """How a recording is decoded over time.

    window, step: s; samples in each window are averaged (None: every sample by itself; step None: windows side by side).
    subjects: "within" leaves out one run of each subject in turn, or one of `folds` stratified folds where there are no runs;
    "across" leaves out one subject. shrinkage in (0, 1], None: Ledoit-Wolf's of the training trials. permutations of the labels.
    """

    window: float | None = None
    step: float | None = None
    folds: int = 5
    subjects: str = "within"
    shrinkage: float | None = None
    permutations: int = 1000

    def __post_init__(self) -> None:
        if self.subjects not in ("within", "across"):
            raise DataError(f"decode: subjects {self.subjects!r} is not one of 'within', 'across'")
        if self.shrinkage is not None and not 0 < self.shrinkage <= 1:
            raise DataError(f"decode: shrinkage {self.shrinkage} must lie above 0 and be at most 1, or be None (Ledoit-Wolf)")
        if self.folds < 2 or self.permutations < 1:
            raise DataError(f"decode: folds {self.folds} must be at least 2 and permutations {self.permutations} at least 1")
        if any(value is not None and not value > 0 for value in (self.window, self.step)):
            raise DataError(f"decode: window {self.window} and step {self.step} are seconds above 0")


@dataclass(frozen=True)
class _Folds:
    """Group of each trial as a number: `left_out` groups are tested in turn, on training groups of the same `pool`.

    Labels are permuted within `left_out`, so that each fold keeps its classes.
    """

    left_out: np.ndarray
    pool: np.ndarray
    kind: str

    def each(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group in range(self.left_out.max() + 1):
            test = self.left_out == group
            yield np.flatnonzero(~test & (self.pool == self.pool[test][0])), np.flatnonzero(test)


def decode_over_time(
    responses: Responses, target: str = "stimulus", group: str | None = "run", *, options: OverTime | None = None, seed: int = 0
) -> Result:
    """Time course of the decoding of a column of the trials from responses (trial, channel, time).

    Trials are averaged to images first where a category is of several images that were repeated (see `repeats.images_apart`).
    Linear discriminant analysis with A = (1 - s) S_within + s I of channels standardised on the training trials, equal priors.
    auc: area under the ROC curve, for more than two categories the mean of each against the rest; accuracy: mean over
    categories (balanced). Both are means over the folds of a subject, then over subjects; chance .5 and 1 / categories.

    Labels are permuted within runs (folds, subjects), the same way at all times: p of each time, and p_fwe against the largest
    area over time, which holds the family-wise error (Nichols and Holmes 2002). It tests that no subject holds any
    information; it says nothing of subjects not measured. low, high: 95 %; of several subjects see
    `group_decoding.group_course`: over subjects (from three on) and stimuli, where a category is of several, or trials. For one
    subject the normal one over its trials (DeLong), or t over its folds if those hold one trial of a category. Folds share their
    training trials, so the variance is multiplied by what the permuted labels show of it: the variance of their mean area over
    the mean of their own such variances, where that is above 1.

    p_cluster: of the run of times that a time lies in, see `time_clusters`; NaN outside of runs.

    Result: table `timecourse` (time in s, auc, low, high, p, p_fwe, p_cluster, accuracy), for several subjects `subjects` (area
    over all times and at the peak of the mean, with their mean); arrays auc, accuracy (subject or
    fold, time), null_max (permutation,); metrics decode/auc_mean and accuracy_mean over all times, decode/peak_auc with
    peak_time, p_fwe and the mean of null_max as its chance,
    decode/onset (s), the first time with p_fwe < .05, NaN where there is none. The peak is chosen over time: read it with p_fwe.
    Raises DataError for missing columns, fewer than two categories, groups or subjects, and folds without all categories.
    """
    chosen, started = options or OverTime(), store.Start()
    if responses.data.ndim != 3:
        raise DataError(f"decoding over time needs (trial, channel, time), got {responses.data.shape}; use decode for patterns")
    clean, counts = responses.clean()
    trials, notes = len(clean.trials), list[str]()
    if target in clean.trials.columns and not clean.trials[target].isna().any():
        clean, group, number, notes = images_apart(clean, target, group, chosen.folds)
        chosen = replace(chosen, folds=number)
    labels, names = _labels(clean.trials, target)
    folds = _folds(clean.trials, labels, names, group, chosen, seed)
    data, times = _windows(clean, chosen)
    permuted = _permuted(labels, folds.left_out, chosen.permutations, seed)
    subjects = _subjects(clean.trials) if chosen.subjects == "within" else folds.left_out
    of_fold = np.array([subjects[test[0]] for _, test in folds.each()])
    units, what = drawn_units(clean.trials, target, subjects)
    draws = Draws(units, of_fold, len(times), seed) if of_fold.max() else None
    area, accuracy, spread = _decoded(data, permuted, folds, len(names), chosen.shrinkage, draws)
    each = np.stack([_mean(area[of_fold == s]) for s in np.unique(of_fold)])  # (subject, labelling, time)
    if np.isnan(each).any():
        raise DataError(f"decode: a subject has no {folds.kind} with two categories of {target}; labels must vary within them")
    right = np.stack([accuracy[of_fold == s].mean(axis=0) for s in np.unique(of_fold)])
    course = each.mean(axis=0)
    observed, null = course[0], course[1:]
    tables: dict[str, pd.DataFrame] = {}
    of_mean = np.full(2, np.nan)
    if draws is None:
        low, high, over, of_mean = _interval(area, spread)
    else:
        people = [str(clean.trials["subject"].iloc[np.flatnonzero(subjects == s)[0]]) for s in range(len(each))]
        own = np.stack([_variance(spread[of_fold == s]) for s in range(len(each))])
        group_ = group_course(each, draws.areas, own, people, np.bincount(subjects).tolist(), what)
        low, high, over, tables["subjects"] = group_.low, group_.high, group_.over, group_.table
    table = pd.DataFrame({"time": times, "auc": observed, "low": low, "high": high})
    table["p"] = permutation_p(observed - 1e-12, null)  # areas that are equal before rounding stay equal
    table["p_fwe"] = permutation_p(observed - 1e-12, np.repeat(null.max(axis=1)[:, None], len(times), axis=1))
    table["p_cluster"], clustered = cluster_p(each, seed=seed, permutations=chosen.permutations)
    table["accuracy"] = right.mean(axis=0)
    metrics = _numbers(table, len(names), null)
    if draws is not None:
        of_mean = tables["subjects"].iloc[-1][["auc_mean.low", "auc_mean.high"]].to_numpy(dtype=float)
    metrics |= {f"decode/auc_mean{end}": float(value) for end, value in zip((".low", ".high"), of_mean, strict=True)}
    metrics |= {"decode/subjects": float(len(each)), "decode/folds": float(len(area))}
    metrics |= {"decode/trials": float(len(labels)), "decode/channels": float(data.shape[1])}
    n = float(len(labels) if len(each) == 1 else len(each))  # what the interval is over: trials of one subject, or subjects
    metrics |= {f"decode/{name}.n": n for name in ("auc_mean", "accuracy_mean", "peak_auc")}
    metrics |= {f"decode/{name}": float(n) for name, n in counts.items()}
    single = len(each) == 1
    arrays = {"auc": area[:, 0], "accuracy": accuracy} if single else {"auc": each[:, 0], "accuracy": right}
    arrays["null_max"] = null.max(axis=1)
    config: dict[str, Any] = {"method": "lda", "target": target, "group": group, "categories": names, "seed": seed}
    config |= {"over_time": asdict(chosen), "left_out": folds.kind, "interval_over": over}
    config["cluster_over"] = clustered
    if len(clean.trials) < trials:
        config |= {"rows_are": "images", "warnings": notes}
    provenance = store.provenance(seed, "cpu", [store.fingerprint(responses)], started)
    return Result("decode", metrics, arrays, None, {"timecourse": table, **tables}, config, provenance)


def _decoded(
    data: np.ndarray, permuted: np.ndarray, folds: _Folds, classes: int, shrinkage: float | None, draws: Draws | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(areas (fold, labelling, time), accuracy (fold, time), variance of the areas (fold, labelling, time)).

    The first labelling is the true one; variances are of the first MOST + 1. draws, of several subjects, gathers its areas.
    """
    parts = list(folds.each())
    area = np.empty((len(parts), len(permuted), data.shape[2]))
    accuracy, spread = np.empty((len(parts), data.shape[2])), np.empty((len(parts), min(len(permuted), MOST + 1), data.shape[2]))
    for i, (train, test) in enumerate(parts):
        if len(np.unique(permuted[0, train])) < classes:
            raise DataError(f"decode: the training trials of fold {i + 1} lack a category; leave out smaller groups")
        weights, shares = lda.class_weights(permuted[:, train], classes)
        tested = permuted[:, test]
        counts = None if draws is None else draws.counts(test)
        for j in range(data.shape[2]):
            x, y = lda.standardise(*(np.asarray(data[rows, :, j], dtype=np.float64) for rows in (train, test)))
            s = _ledoit_wolf(x) if shrinkage is None else shrinkage
            delta = lda.discriminants(*lda.whiten(x, y, s), weights, shares, shrinkage=s)
            odds = lda.log_odds(delta)
            area[i, :, j] = lda.areas(odds, tested)
            accuracy[i, j] = lda.balanced_accuracy(delta[:1], tested[:1])[0]
            if draws is not None and counts is not None:
                draws.add(i, j, odds[0], tested[0], counts)
            spread[i, :, j] = lda.area_variances(odds[: spread.shape[1]], tested[: spread.shape[1]])
    return area, accuracy, spread


def _ledoit_wolf(x: np.ndarray) -> float:
    """Shrinkage of the covariance of standardised training trials, which no label enters (Ledoit and Wolf 2004).

    At least .01, since one of 0 does not let the covariance of few trials be inverted.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    return max(0.01, float(ledoit_wolf_shrinkage(x, assume_centered=True))) if x.any() else 1.0


def _interval(parts: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray, str, np.ndarray]:
    """95 % of one subject's mean area at every time (low, high), over what (trials or folds), and 95 % of its mean over times.

    parts: areas (fold, labelling, time); spread: variances of the parts' areas for a fixed classifier. NaN where nothing repeats.
    Times share trials: how far their mean varies beside one of them is read from the permuted labellings, which share them too.
    """
    fine = np.isfinite(parts).all(axis=(1, 2))  # the others test one category alone
    over = "trials" if np.isfinite(spread[fine]).all() else "folds"
    rows = parts[fine]
    mean, n = rows.mean(axis=0), len(rows)
    if over == "trials":
        variance, factor = _variance(spread[fine]), norm.ppf(1 - LEVEL / 2)
    elif n > 1:
        variance, factor = rows.var(axis=0, ddof=1) / n, student.ppf(1 - LEVEL / 2, n - 1)
    else:
        return np.full(mean.shape[1], np.nan), np.full(mean.shape[1], np.nan), over, np.full(2, np.nan)
    own, permuted = variance[1:].mean(), mean[1:].var(axis=0).mean()
    shared = max(1.0, float(permuted / own)) if own > 0 else 1.0
    reach = factor * np.sqrt(variance[0] * shared)
    together = (
        float(mean[1:].mean(axis=1).var() / permuted) if permuted > 0 else 1.0
    )  # 1: all times are one, 1 / times: none shares
    course = mean[0].mean() + factor * np.sqrt(variance[0].mean() * shared * together) * np.array([-1.0, 1.0])
    return np.maximum(mean[0] - reach, 0.0), np.minimum(mean[0] + reach, 1.0), over, course.clip(0, 1)


def _variance(spread: np.ndarray) -> np.ndarray:
    """Variance of the mean area of folds that were tested each by itself: (fold, labelling, time) -> (labelling, time)."""
    return np.asarray(spread.sum(axis=0) / len(spread) ** 2)


def _numbers(table: pd.DataFrame, classes: int, null: np.ndarray) -> dict[str, float]:
    """The scores of a course; null (permutation, time). The largest of many areas is above .5 by chance: as under permutation."""
    peak = table.loc[table["auc"].idxmax()]
    certain = table.loc[table["p_fwe"] < LEVEL, "time"]
    return {
        "decode/auc_mean": float(table["auc"].mean()),
        "decode/auc_mean.chance": 0.5,
        "decode/auc_mean.p": float(permutation_p(table["auc"].mean() - 1e-12, null.mean(axis=1))),
        "decode/accuracy_mean": float(table["accuracy"].mean()),
        "decode/accuracy_mean.chance": 1 / classes,
        "decode/peak_auc": float(peak["auc"]),
        "decode/peak_auc.low": float(peak["low"]),
        "decode/peak_auc.high": float(peak["high"]),
        "decode/peak_auc.chance": float(null.max(axis=1).mean()),
        "decode/peak_auc.p": float(peak["p_fwe"]),
        "decode/peak_p": float(peak["p_fwe"]),
        "decode/peak_time": float(peak["time"]),
        "decode/onset": float(certain.iloc[0]) if len(certain) else float("nan"),
        "decode/times": float(len(table)),
        "decode/times_significant": float(len(certain)),
        "decode/times_in_clusters": float((table["p_cluster"] < LEVEL).sum()),
        "decode/cluster_p": float(table["p_cluster"].min()),
    }


def _labels(trials: pd.DataFrame, target: str) -> tuple[np.ndarray, list[str]]:
    if target not in trials.columns:
        raise DataError(f"decode: trials have no column {target!r}; give one of {sorted(map(str, trials.columns))} as the target")
    if trials[target].isna().any():
        raise DataError(f"decode: {int(trials[target].isna().sum())} trials have no {target}; leave them out")
    names, labels = np.unique(trials[target].astype(str).to_numpy(dtype=str), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"decode: {target} needs 2 categories or more, got {list(names)}")
    if len(names) > len(labels) // 4:
        raise DataError(f"decode: {target} has {len(names)} categories in {len(labels)} trials; choose one with 4 trials in each")
    return labels, [str(name) for name in names]


def _subjects(trials: pd.DataFrame) -> np.ndarray:
    if "subject" not in trials.columns:
        return np.zeros(len(trials), dtype=int)
    return pd.factorize(trials["subject"].astype(str))[0]


def _folds(trials: pd.DataFrame, labels: np.ndarray, names: list[str], group: str | None, options: OverTime, seed: int) -> _Folds:
    """Runs, stratified folds or subjects; a missing `run` gives stratified folds, another missing column is an error."""
    subjects = _subjects(trials)
    if options.subjects == "across":
        if subjects.max() < 1:
            raise DataError("decode: subjects='across' needs a column subject with 2 subjects or more; use subjects='within'")
        return _Folds(subjects, np.zeros(len(trials), dtype=int), "subject")
    if group is not None and group in trials.columns:
        left_out, _ = pd.factorize(subjects.astype(str) + np.array("/") + trials[group].astype(str).to_numpy(dtype=object))
        few = [s for s in np.unique(subjects) if len(np.unique(left_out[subjects == s])) < 2]
        if few:
            raise DataError(
                f"decode: leaving one {group} out needs 2 in each subject, {len(few)} have one; group=None makes folds"
            )
        return _Folds(left_out, subjects, group)
    if group not in (None, "run"):
        raise DataError(f"trials have no column {group!r}; they have {sorted(map(str, trials.columns))}; group=None makes folds")
    rng = np.random.default_rng([seed, 1])
    left_out = np.empty(len(trials), dtype=int)
    for s in np.unique(subjects):
        for k, name in enumerate(names):
            rows = np.flatnonzero((subjects == s) & (labels == k))
            if len(rows) < options.folds:
                raise DataError(f"decode: {options.folds} folds need as many trials of {name} in each subject, got {len(rows)}")
            turn = (np.arange(len(rows)) + rng.integers(options.folds)) % options.folds
            left_out[rng.permutation(rows)] = s * options.folds + turn
    return _Folds(left_out, subjects, "stratified")


def _permuted(labels: np.ndarray, groups: np.ndarray, permutations: int, seed: int) -> np.ndarray:
    """(1 + permutations, trial): the true labels, then labels shuffled within groups."""
    rng = np.random.default_rng([seed, 2])
    out = np.repeat(labels[None], 1 + permutations, axis=0)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        out[1:, rows] = rng.permuted(out[1:, rows], axis=1)
    return out


def _windows(responses: Responses, options: OverTime) -> tuple[np.ndarray, np.ndarray]:
    """Data (trial, channel, window) and the middle of each window in s."""
    times = np.asarray(responses.times, dtype=np.float64)
    if options.window is None:
        if options.step is not None:
            raise DataError(f"decode: step {options.step} needs a window; give both in seconds")
        return np.asarray(responses.data), times
    period = float(np.median(np.diff(times))) if len(times) > 1 else options.window
    size = max(1, round(options.window / period))
    hop = size if options.step is None else max(1, round(options.step / period))
    if size > len(times):
        raise DataError(f"decode: window {options.window} s is longer than the recording of {len(times) * period:.3g} s")
    starts = np.arange(0, len(times) - size + 1, hop)
    data = np.stack([np.asarray(responses.data[:, :, i : i + size], dtype=np.float64).mean(axis=2) for i in starts], axis=2)
    return data, np.array([times[i : i + size].mean() for i in starts])


def _mean(parts: np.ndarray) -> np.ndarray:
    """Mean over folds (fold, labelling, time) that test two categories or more; NaN where none does."""
    fine = np.isfinite(parts).all(axis=(1, 2))
    return np.asarray(parts[fine].mean(axis=0)) if fine.any() else np.full(parts.shape[1:], np.nan)
