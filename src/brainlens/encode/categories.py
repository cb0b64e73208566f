"""Recordings with categories in place of images: ridge on one-hot categories, and decoding, one run left out at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from brainlens import store
from brainlens.encode import discriminant as lda
from brainlens.encode.time_decoding import OverTime, decode_over_time
from brainlens.metrics.encoding import noise_ceiling, r2
from brainlens.metrics.statistics import bootstrap_mean, wilson
from brainlens.solvers.ridge import fold_labels, ridge_cv, ridge_predict
from brainlens.types import DataError, Responses, Result

ALPHAS = tuple(float(a) for a in np.logspace(-2, 4, 13))


def haxby2001_encode(
    responses: Responses,
    *,
    target: str = "stimulus",
    group: str = "run",
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    device: str = "cpu",
) -> Result:
    """How much of each voxel the category explains: ridge on one-hot categories, tested on the run that is left out.

    R2 over the pooled predictions of all runs, each made without its run, the penalty chosen inside by leaving out the
    other runs in turn. Chance is at or a little below 0. The noise ceiling takes the runs of a category as repeats.
    Raises DataError without the columns, with two runs or one category, and with more than 20 % of voxels missing.
    """
    started = store.Start()
    clean, counts = responses.clean()
    x, y, runs, names = _categories(clean, target, group, least=3)  # the penalty is chosen by leaving out another one
    predicted = np.zeros_like(y)
    for run in dict.fromkeys(runs):
        test = runs == run
        inner = fold_labels(int((~test).sum()), groups=runs[~test], folds=None)
        fit = ridge_cv(x[~test], y[~test], alphas, fold=inner, device=device)
        predicted[test] = ridge_predict(fit, x[test]).numpy()
    value = r2(y, predicted)
    ceiling = noise_ceiling(y, clean.trials[target].to_numpy(), averaged=False)
    fine = value[np.isfinite(value)]
    metrics = {
        "encoding/r2_mean": float(fine.mean()),
        "encoding/r2_median": float(np.median(fine)),
        "encoding/r2_max": float(fine.max()),
        "encoding/r2_share_positive": float((fine > 0).mean()),
        "encoding/units": float(len(value)),
    } | {f"encoding/{name}": float(n) for name, n in counts.items()}
    for name, values in (("r2_mean", fine), ("r2_share_positive", (fine > 0).astype(float))):  # intervals over voxels
        _, low, high = bootstrap_mean(values, seed=seed)
        metrics |= {f"encoding/{name}.low": low, f"encoding/{name}.high": high}
    arrays = {"r2": value, "ceiling": ceiling.ceiling, "ncsnr": ceiling.ncsnr}
    config: dict[str, Any] = {
        "method": "ridge_onehot",
        "target": target,
        "group": group,
        "alphas": list(alphas),
        "categories": names,
    }
    config |= {"seed": seed, "device": device}
    provenance = store.provenance(seed, device, [store.fingerprint(responses)], started)
    return Result("encode", metrics, arrays, clean.units, {}, config, provenance, clean.space)


def decode(
    responses: Responses,
    target: str = "stimulus",
    group: str | None = "run",
    *,
    penalty: float | None = None,
    over_time: OverTime | None = None,
    seed: int = 0,
) -> Result:
    """Which category was seen, from the pattern over all voxels: linear support vectors, one group left out.

    Responses (trial, channel, time) are decoded at every time instead, see `time_decoding.decode_over_time`; over_time holds
    its options and penalty does not apply.

    Responses (trial, unit): voxels are standardised on the training runs of each fold; C = penalty (.01) is fixed beforehand.
    metrics: decode/accuracy and decode/auc, means over groups, each with .low, .high, .chance and .n; decode/auc is the area
    under the ROC curve of the distances from the separating planes, for more than two categories the mean of each against the
    rest, and is left out where every group holds one category. n is what the interval is over (config: `interval_over`): the
    groups, by bootstrap, from three on; with two groups the trials, Wilson's and DeLong's for fixed classifiers. tables:
    by_group, and confusion (share of each true category's samples by predicted category).
    Raises DataError without the columns, with fewer than two groups or categories, where no second category is left to train
    on, and for options that do not apply.
    """
    if responses.data.ndim == 3:
        if penalty is not None:
            raise DataError(f"decode: penalty={penalty} is for (trial, unit); over time it is over_time=OverTime(shrinkage=...)")
        return decode_over_time(responses, target, group, options=over_time, seed=seed)
    if over_time is not None or group is None:
        raise DataError(f"decode: over_time and group=None are for (trial, channel, time), got {responses.data.shape}")
    penalty = 0.01 if penalty is None else penalty
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    started = store.Start()
    clean, counts = responses.clean()
    onehot, y, runs, names = _categories(clean, target, group, least=2)
    labels, codes = clean.trials[target].astype(str).to_numpy(), onehot.argmax(axis=1)
    predicted = np.empty_like(labels, dtype=object)
    groups = list(dict.fromkeys(runs))
    area, variance = np.full(len(groups), np.nan), np.full(len(groups), np.nan)
    for i, run in enumerate(groups):
        test = runs == run
        if len(set(labels[~test])) < 2:
            raise DataError(f"decode: without {group} {run!r} the trials hold one {target}; leave out other groups")
        model = make_pipeline(StandardScaler(), LinearSVC(C=penalty, random_state=seed, max_iter=10_000))
        predicted[test] = model.fit(y[~test], labels[~test]).predict(y[test])
        distance = _distances(model, y[test], names)[None]
        area[i] = lda.areas(distance, codes[test][None])[0]
        variance[i] = lda.area_variances(distance, codes[test][None])[0]
    right = predicted == labels
    by_group = pd.DataFrame([{group: g, "accuracy": float(right[runs == g].mean())} for g in groups]).assign(auc=area)
    metrics = _pattern_scores(by_group, variance, classes=len(names), trials=len(labels), seed=seed)
    metrics |= {"decode/trials": float(len(labels)), "decode/groups": float(len(groups)), "decode/units": float(y.shape[1])}
    metrics |= {f"decode/{name}": float(n) for name, n in counts.items()}
    confusion = pd.crosstab(labels, predicted.astype(str), normalize="index").reindex(index=names, columns=names, fill_value=0.0)
    config = {"method": "svm", "target": target, "group": group, "penalty": penalty, "seed": seed, "categories": names}
    config["interval_over"] = group if len(groups) > 2 else "trials"
    provenance = store.provenance(seed, "cpu", [store.fingerprint(responses)], started)
    tables = {"by_group": by_group, "confusion": confusion.rename_axis("true").reset_index()}
    return Result("decode", metrics, {}, None, tables, config, provenance)


def _distances(model: Any, x: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Distance of x (trial, unit) from the plane of each category, (trial, category); -inf for one that was not trained on."""
    found = model.decision_function(x)
    found = np.stack([-found, found], axis=1) if found.ndim == 1 else found
    out = np.full((len(x), len(names)), -np.inf)
    out[:, [list(names).index(name) for name in model.classes_]] = found
    return out


def _pattern_scores(by_group: pd.DataFrame, variance: np.ndarray, *, classes: int, trials: int, seed: int) -> dict[str, float]:
    """Accuracy and area over groups with interval, chance and n: over groups from three on, else over trials.

    variance (group,): that of each group's area for a fixed classifier.
    """
    accuracy, area = by_group["accuracy"].to_numpy(), by_group["auc"].to_numpy()
    mean = float(accuracy.mean())
    low, high = bootstrap_mean(accuracy, seed=seed)[1:] if len(accuracy) > 2 else wilson(mean, trials)
    out = {"accuracy": mean, "accuracy.low": low, "accuracy.high": high, "accuracy.chance": 1 / classes}
    out["accuracy.n"] = float(len(accuracy) if len(accuracy) > 2 else trials)
    held = np.isfinite(area)  # the other groups hold one category
    if held.any():
        mean = float(area[held].mean())
        out |= {"auc": mean, "auc.chance": 0.5, "auc.n": float(held.sum() if held.sum() > 2 else trials)}
        if held.sum() > 2:
            out["auc.low"], out["auc.high"] = bootstrap_mean(area[held], seed=seed)[1:]
        elif np.isfinite(variance[held]).all():
            reach = float(norm.ppf(0.975) * np.sqrt(variance[held].sum()) / held.sum())
            out["auc.low"], out["auc.high"] = max(0.0, mean - reach), min(1.0, mean + reach)
    return {f"decode/{name}": value for name, value in out.items()}


def _categories(
    responses: Responses, target: str, group: str, *, least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """One-hot categories (trial, category), responses (trial, unit) float32, groups (trial,), and the category names."""
    for column in (target, group):
        if column not in responses.trials.columns:
            raise DataError(f"trials have no column {column!r}; they have {sorted(map(str, responses.trials.columns))}")
    if responses.data.ndim != 2:
        raise DataError(f"categories need (trial, unit), got {responses.data.shape}; average over time first")
    labels = responses.trials[target].astype(str).to_numpy()
    runs = responses.trials[group].astype(str).to_numpy()
    names = list(dict.fromkeys(labels))
    if len(names) < 2 or len(set(runs)) < least:
        found = f"{len(names)} and {len(set(runs))}"
        raise DataError(f"leaving one {group} out needs 2 categories and {least} groups, got {found}; name other columns")
    onehot = (labels[:, None] == np.array(names)[None]).astype(np.float32)
    return onehot, np.asarray(responses.data, dtype=np.float32), runs, names
