"""Shrinkage linear discriminant analysis of many labellings of the same trials at once.

The training data is whitened by its shrunk total covariance, which no label enters: one factorisation serves the true labels
and all permutations, and a correction of the size (class, class) turns the total covariance into the one within classes.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (trial, feature), less the mean and over the standard deviation of the training trials; constant features are 0."""
    mean, scale = train.mean(axis=0), train.std(axis=0)
    moves = scale > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    scale = np.where(moves, scale, 1.0)
    return (train - mean) / scale * moves, (test - mean) / scale * moves


def whiten(train: np.ndarray, test: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates z (trial, r) in which the shrunk total covariance C = (1 - s) X'X / n + s I of the training trials is I.

    train (n, p) standardised, test (m, p); directions in which the training trials do not move carry no class mean and are
    left out, so that r is at most min(n, p). z'z = x' C^-1 x on the others.
    """
    n, p = train.shape
    if p <= n:
        values, axes = np.linalg.eigh(train.T @ train / n)
    else:
        values, side = np.linalg.eigh(train @ train.T / n)
        axes = train.T @ (side / np.sqrt(n * np.maximum(values, 1e-300)))
    kept = values > 1e-10 * max(float(values[-1]), 1e-300)
    axes = axes[:, kept] / np.sqrt((1 - shrinkage) * values[kept] + shrinkage)
    return train @ axes, test @ axes


def class_weights(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(weights (trial, labelling x (class - 1)), share of each class) of labellings (labelling, trial) with equal class counts.

    z' weights are the class means; the last class's follows from the others, since z is centred.
    """
    counts = np.bincount(labels[0], minlength=classes)
    onehot = labels.T[:, :, None] == np.arange(classes - 1)
    return (onehot / counts[:-1]).reshape(labels.shape[1], -1), counts / counts.sum()


def discriminants(
    train: np.ndarray, test: np.ndarray, weights: np.ndarray, shares: np.ndarray, *, shrinkage: float
) -> np.ndarray:
    """delta_k(x) = m_k' A^-1 x - m_k' A^-1 m_k / 2, A = (1 - s) S_within + s I, equal priors: (labelling, test trial, class).

    train, test from `whiten`, weights and shares from `class_weights`. With D = (1 - s) diag(n_k / n) and G = M C^-1 M' of the
    class means M, A = C - M' D M gives A^-1 M' = C^-1 M' (I - D G)^-1 (push-through identity), a (class, class) matrix.
    Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, eq. 4.10, shrunk as in eq. 4.14 towards I.
    """
    classes, r = len(shares), train.shape[1]
    means = (train.T @ weights).reshape(r, weights.shape[1] // (classes - 1), classes - 1)
    last = -(means @ shares[:-1])[:, :, None] / shares[-1]
    means = np.concatenate([means, last], axis=2)
    each = np.ascontiguousarray(means.transpose(1, 2, 0))  # (labelling, class, r)
    gram = each @ each.transpose(0, 2, 1)
    within = np.linalg.inv(np.eye(classes) - (1 - shrinkage) * shares[:, None] * gram)
    scores = np.tensordot(test, means, axes=1).transpose(1, 0, 2)
    return scores @ within - np.einsum("bkj,bjk->bk", gram, within)[:, None] / 2


def log_odds(delta: np.ndarray) -> np.ndarray:
    """Log odds of each class against the rest, log p_k / (1 - p_k), from discriminants (..., class)."""
    if delta.shape[-1] == 2:
        return delta - delta[..., ::-1]
    rest = [logsumexp(np.delete(delta, k, axis=-1), axis=-1) for k in range(delta.shape[-1])]
    return delta - np.stack(rest, axis=-1)


def areas(odds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class against the rest, mean over the classes that the trials hold: (labelling,).

    odds (labelling, trial, class), labels (labelling, trial) with equal class counts in each row. NaN with one class alone.
    """
    counts = np.bincount(labels[0], minlength=odds.shape[2])
    held = np.flatnonzero(counts)
    if len(held) < 2:
        return np.full(len(odds), np.nan)
    found = []
    for k in held[:1] if odds.shape[2] == 2 else held:  # the two areas of two classes are equal
        ranks = rankdata(odds[:, :, k], axis=1)
        n = counts[k]
        found.append(((ranks * (labels == k)).sum(axis=1) - n * (n + 1) / 2) / (n * (len(labels[0]) - n)))
    return np.asarray(np.mean(found, axis=0))


def drawn_areas(odds: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`areas` of one labelling with its trials drawn anew, by how often each counts: (resample,).

        area_k = sum_{i in k, j not in k} c_i c_j ([o_ik > o_jk] + [o_ik = o_jk] / 2) / sum_{i in k} c_i sum_{j not in k} c_j

    odds (trial, class), labels (trial,), counts (resample, trial); the mean over the classes that are drawn, as in `areas`. One
    sort and a running sum for each class serve all resamples. NaN where fewer than two classes are drawn.
    """
    total, held = counts.sum(axis=1), np.unique(labels)
    if len(held) < 2:
        return np.full(len(counts), np.nan)
    found = []
    for k in held[:1] if odds.shape[1] == 2 else held:
        order = np.argsort(odds[:, k], kind="stable")
        values, own = odds[order, k], counts[:, order] * (labels[order] == k)
        size = own.sum(axis=1)
        below = np.zeros((len(counts), len(order) + 1))
        np.cumsum(counts[:, order] - own, axis=1, out=below[:, 1:])
        first, last = np.searchsorted(values, values, "left"), np.searchsorted(values, values, "right")
        above = (own * (below[:, first] + below[:, last])).sum(axis=1) / 2
        pairs = size * (total - size)
        found.append(np.divide(above, pairs, out=np.full(len(counts), np.nan), where=pairs > 0))
    each = np.stack(found)
    there = np.isfinite(each)
    known = there.sum(axis=0)
    return np.divide(np.where(there, each, 0).sum(axis=0), known, out=np.full(len(counts), np.nan), where=known > 0)


def area_variances(odds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sampling variance of `areas` for a fixed classifier, from the trials' placements: (labelling,).

    var = sum_c var(h_i, i in c) / n_c, h_i = (V_c(i) + sum over k != c of n_c / (n - n_k) W_k(i)) / K for a trial i of class c:
    V_c its share of the other trials below it in the odds of c, W_k the share of the trials of class k above it in the odds of
    k. For two classes it is that of DeLong, DeLong and Clarke-Pearson 1988. NaN where a class has one trial or is alone.
    odds (labelling, trial, class), labels (labelling, trial) with equal class counts in each row.
    """
    rows, n = labels.shape
    counts = np.bincount(labels[0], minlength=odds.shape[2])
    held = np.flatnonzero(counts)
    if len(held) < 2 or counts[held].min() < 2:
        return np.full(rows, np.nan)
    asked = held[:1] if odds.shape[2] == 2 else held  # the two areas of two classes are equal
    order = np.argsort(labels, axis=1, kind="stable")  # the trials of each class side by side, the same places in each row
    sorted_odds = np.take_along_axis(odds, order[:, :, None], axis=1)
    sizes = np.repeat(counts, counts)
    ends = np.cumsum(counts)
    h = np.zeros((rows, n))
    for k in asked:
        own = np.zeros(n, dtype=bool)
        own[ends[k] - counts[k] : ends[k]] = True
        ranks = rankdata(sorted_odds[:, :, k], axis=1)
        h[:, own] += (ranks[:, own] - rankdata(sorted_odds[:, own, k], axis=1)) / (n - counts[k])
        above = 1 - (ranks[:, ~own] - rankdata(sorted_odds[:, ~own, k], axis=1)) / counts[k]
        h[:, ~own] += sizes[~own] / (n - counts[k]) * above
    parts = [h[:, ends[k] - counts[k] : ends[k]].var(axis=1, ddof=1) / counts[k] for k in held]
    return np.asarray(np.sum(parts, axis=0) / len(asked) ** 2)


def balanced_accuracy(delta: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of right trials in each class, mean over the classes held: delta (labelling, trial, class) -> (labelling,)."""
    right = delta.argmax(axis=2) == labels
    held = [labels == k for k in np.unique(labels[0])]
    return np.asarray(np.mean([(right & own).sum(axis=1) / own.sum(axis=1) for own in held], axis=0))
