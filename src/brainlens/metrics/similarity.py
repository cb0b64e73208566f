"""Representational similarity: dissimilarity matrices, their comparison, noise ceiling and intervals; linear CKA.

A dissimilarity matrix (RDM) of n conditions is kept as its upper triangle, row by row: (n (n - 1) / 2,).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from brainlens.types import DataError, Features, Result

METRICS = ("correlation", "euclidean", "cosine")
METHODS = ("spearman", "kendall", "pearson")


def rdm(patterns: np.ndarray, metric: str = "correlation") -> np.ndarray:
    """Dissimilarity of every pair of patterns (condition, feature), as the upper triangle.

    correlation: 1 - Pearson r; cosine: 1 - cosine; euclidean: |a - b|.

    Raises DataError for missing values, and for a pattern that has no correlation (constant) or no direction (zero).
    """
    x = np.asarray(patterns, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise DataError(f"rdm: patterns are (condition, feature), at least 2 and finite, got shape {x.shape}")
    if metric not in METRICS:
        raise DataError(f"rdm: metric {metric!r} is not one of {', '.join(METRICS)}")
    rows, columns = np.triu_indices(len(x), 1)
    if metric == "euclidean":
        x = x - x.mean(axis=0)  # distances stay, and the products below lose fewer digits
        square = np.einsum("cf,cf->c", x, x)
        distance = square[:, None] + square[None] - 2 * x @ x.T
        return np.sqrt(np.maximum(distance, 0.0))[rows, columns]
    size = np.linalg.norm(x, axis=1)
    if metric == "correlation":
        x = x - x.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(x, axis=1)
    flat = norm <= 1e-12 * size  # relative, because centring leaves rounding behind
    if flat.any():
        kind = "is constant, so it has no correlation" if metric == "correlation" else "is zero, so it has no direction"
        raise DataError(f"rdm: pattern {int(np.argmax(flat))} {kind}; drop it or use metric='euclidean'")
    unit = x / norm[:, None]
    return 1.0 - (unit @ unit.T)[rows, columns]


def square(vector: np.ndarray) -> np.ndarray:
    """The symmetric (n, n) matrix of an upper triangle, zeros on its diagonal."""
    n = n_conditions(vector)
    out = np.zeros((n, n), dtype=np.asarray(vector).dtype)
    rows, columns = np.triu_indices(n, 1)
    out[rows, columns] = out[columns, rows] = vector
    return out


def n_conditions(vector: np.ndarray) -> int:
    """n of an upper triangle (..., pairs) with n (n - 1) / 2 entries. Raises DataError if there is no such n."""
    pairs = np.asarray(vector).shape[-1]
    n = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
    if pairs < 1 or n * (n - 1) // 2 != pairs:
        raise DataError(f"rdm: {pairs} entries are not the upper triangle of any square matrix (4186 would be 92 conditions)")
    return n


def compare(one: np.ndarray, other: np.ndarray, method: str = "spearman") -> np.ndarray:
    """Agreement of every RDM in `one` with every RDM in `other`: (a, pairs) x (b, pairs) -> (a, b).

    spearman, pearson: the correlation of (rank-transformed) entries. kendall: tau-a = (concordant - discordant) /
    all pairs of entries, which, unlike tau-b, does not favour models that predict ties (Nili et al. 2014).

    Raises DataError for lengths that differ, missing entries and an RDM that is constant.
    """
    a, b = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (one, other))
    _check_pair(a, b, method)
    if method == "kendall":
        return np.array([[_tau_a(x, y) for y in b] for x in a])
    if method == "spearman":
        a, b = rankdata(a, axis=1), rankdata(b, axis=1)
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def noise_ceiling(rdms: np.ndarray, method: str = "spearman") -> tuple[float, float]:
    """(lower, upper) mean agreement of each subject with the mean RDM of the others, and of all (Nili et al. 2014).

    The lower value is what a perfect model reaches without having seen the subject. The upper one contains each
    subject's own noise and is loose for few subjects: with 4 subjects models may pass the lower value.

    rdms (subject, pairs). Raises DataError for fewer than 2 subjects.
    """
    x = np.asarray(rdms, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise DataError(f"noise ceiling: needs RDMs of 2 or more subjects, (subject, pairs), got shape {x.shape}")
    if method == "spearman":
        x = rankdata(x, axis=1)  # the mean of ranks is what agrees best with all subjects in rank
    whole = x.mean(axis=0)
    low = [compare(x[i], np.delete(x, i, axis=0).mean(axis=0), method)[0, 0] for i in range(len(x))]
    return float(np.mean(low)), float(compare(x, whole, method).mean())


def bootstrap(
    models: np.ndarray, rdms: np.ndarray, *, method: str = "spearman", resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Agreement of models (model, pairs) with subjects (subject, pairs), mean over subjects, under resampling of conditions.

    Conditions are drawn with replacement; pairs of a condition with itself are dropped, since their dissimilarity of
    zero would count as agreement. Returns (resample, model): all models see the same draws, so differences between
    them are paired. Subjects stay, so the intervals speak of other pictures, not of other people.
    """
    a, b = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (models, rdms))
    _check_pair(a, b, method)
    if resamples < 1:
        raise DataError(f"rdm bootstrap: resamples is 1 or more, got {resamples}")
    n = n_conditions(a)
    place = square(np.arange(a.shape[1]))
    rows, columns = np.triu_indices(n, 1)
    rng = np.random.default_rng(seed)
    out = np.empty((resamples, len(a)))
    for k in range(resamples):
        drawn = rng.integers(n, size=n)
        one, other = drawn[rows], drawn[columns]
        pairs = place[one, other][one != other]
        out[k] = compare(a[:, pairs], b[:, pairs], method).mean(axis=1)
    return out


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Linear centred kernel alignment |Y'X|^2 / (|X'X| |Y'Y|), columns centred (Kornblith et al. 2019, eq. 3).

    one (condition, p), other (condition, q). Raises DataError for shapes that do not match or constant features.
    """
    x, y = (np.asarray(a, dtype=np.float64) for a in (one, other))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError(f"cka: needs two finite (condition, feature) arrays of the same conditions, got {x.shape}, {y.shape}")
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    if x.shape[1] + y.shape[1] > 2 * len(x):  # the smaller of the two equal forms: by conditions or by features
        kx, ky = x @ x.T, y @ y.T
        top, below = np.sum(kx * ky), np.linalg.norm(kx) * np.linalg.norm(ky)
    else:
        top, below = np.linalg.norm(y.T @ x) ** 2, np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    if below == 0:
        raise DataError("cka: features that never change have no alignment")
    return float(top / below)


def rsa(
    features: Features,
    rdms: np.ndarray,
    *,
    metric: str = "correlation",
    method: str = "spearman",
    use: str = "data",
    resamples: int = 1000,
    seed: int = 0,
) -> Result:
    """Agreement of every layer's RDM with the subjects' RDMs: the layer profile with intervals and noise ceiling.

    rdms (subject, pairs) over the stimuli of `features` in their order; use: "data" for the global tokens, "tokens"
    for all spatial tokens of a layer side by side. Scores are means over subjects, intervals those of `bootstrap`.

    metrics: rsa/<layer>/<method> with .low, .high; rsa/ceiling_low, rsa/ceiling_high; rsa/best_layer, the highest
    score of the profile, chosen and scored on the same data, with the interval of the maximum; and
    rsa/best_layer/left_out_subject, where the layer is chosen without the subject that scores it.

    Raises DataError for RDMs of other numbers of conditions and for layers that `use` does not hold.
    """
    if use not in ("data", "tokens"):
        raise DataError(f"rsa: use {use!r} is not one of data, tokens")
    held = features.data if use == "data" else features.tokens
    if not held:
        raise DataError(f"rsa: {features.model} holds no {use}; extract it with them")
    subjects = np.atleast_2d(np.asarray(rdms, dtype=np.float64))
    if n_conditions(subjects) != len(features):
        raise DataError(f"rsa: RDMs of {n_conditions(subjects)} conditions, features of {len(features)} stimuli; join them by id")
    layers = list(held)
    models = np.stack([rdm(held[layer].reshape(len(features), -1), metric) for layer in layers])
    each = compare(models, subjects, method)
    scores = each.mean(axis=1)
    drawn = bootstrap(models, subjects, method=method, resamples=resamples, seed=seed)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    metrics: dict[str, float] = {}
    for i, layer in enumerate(layers):
        name = f"rsa/{layer}/{method}"
        metrics |= {name: float(scores[i]), f"{name}.low": float(low[i]), f"{name}.high": float(high[i])}
    metrics |= _best(each, drawn)
    if len(subjects) > 1:
        metrics["rsa/ceiling_low"], metrics["rsa/ceiling_high"] = noise_ceiling(subjects, method)
    metrics |= {"rsa/n_stimuli": float(len(features)), "rsa/n_subjects": float(len(subjects))}
    error = each.std(axis=1, ddof=1) / np.sqrt(len(subjects)) if len(subjects) > 1 else np.full(len(layers), np.nan)
    profile = pd.DataFrame({"layer": layers, "score": scores, "low": low, "high": high, "sem_subjects": error})
    config = {"metric": metric, "method": method, "use": use, "resamples": resamples, "seed": seed, "model": features.model}
    return Result("rsa", metrics, {"scores": each, "rdms": models}, tables={"profile": profile}, config=config)


def _best(each: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """The best layer of the profile, and of the other subjects for each subject."""
    low, high = np.percentile(drawn.max(axis=1), [2.5, 97.5])
    scores = each.mean(axis=1)
    out = {"rsa/best_layer": float(scores.max()), "rsa/best_layer.low": float(low), "rsa/best_layer.high": float(high)}
    out["rsa/best_layer/number"] = float(np.argmax(scores))
    if each.shape[1] > 1:
        chosen = [int(np.argmax(np.delete(each, s, axis=1).mean(axis=1))) for s in range(each.shape[1])]
        out["rsa/best_layer/left_out_subject"] = float(np.mean([each[layer, s] for s, layer in enumerate(chosen)]))
    return out


def _tau_a(x: np.ndarray, y: np.ndarray) -> float:
    """tau-a from scipy's tau-b, whose divisor leaves ties out."""
    n = len(x)
    every = n * (n - 1) / 2
    tied = [np.sum(counts * (counts - 1) / 2) for counts in (np.unique(v, return_counts=True)[1] for v in (x, y))]
    return float(kendalltau(x, y).statistic * np.sqrt((every - tied[0]) * (every - tied[1])) / every)


def _check_pair(a: np.ndarray, b: np.ndarray, method: str) -> None:
    if method not in METHODS:
        raise DataError(f"rdm comparison: method {method!r} is not one of {', '.join(METHODS)}")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(
            f"rdm comparison: RDMs have {a.shape[-1]} and {b.shape[-1]} entries; use the same conditions in the same order"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("rdm comparison: an RDM holds NaN or infinity; drop the conditions that were not measured from both")
    if (np.ptp(a, axis=1) == 0).any() or (np.ptp(b, axis=1) == 0).any():
        raise DataError("rdm comparison: an RDM is constant, so it orders no pairs; look at the patterns it came from")
