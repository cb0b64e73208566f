"""Whether a voxel's label means anything: tests on responses that chose nothing, stability, cosines, histograms.

A label that was chosen on training images is tested on the measured responses to test images. A test among pictures of the
bank would not do: the weights of a voxel of pure noise order a bank as firmly as any others, and only its measured responses
know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainlens.metrics.statistics import fdr
from brainlens.types import DataError

LEAST = 3  # test images that hold a label, and that do not, below which nothing is tested


def label_test(
    y: np.ndarray, present: np.ndarray, label: np.ndarray, *, permutations: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(r, p, q) of each voxel: does its label raise the measured response?

        r_v = corr_i(y_iv, c_i(label_v)),    p_v = (1 + #{permutations of images with r*_v >= r_v}) / (1 + permutations)
        q = Benjamini-Hochberg over the voxels tested

    y (image, voxel): measured responses to images that took no part in choosing; present (image, concept): whether (or how much)
    the image holds the concept; label (voxel,) concept numbers, -1 where there is none. NaN where a voxel has no label, its
    response does not vary, or the concept varies on fewer than 3 images. One permutation serves all voxels, so that q holds
    under their correlation too (positive dependence). Raises DataError for shapes that do not match and missing values.
    """
    y, c, label = np.asarray(y, dtype=np.float64), np.asarray(present, dtype=np.float64), np.asarray(label)
    if y.ndim != 2 or c.ndim != 2 or len(y) != len(c) or label.shape != (y.shape[1],):
        raise DataError(f"label test: y {y.shape}, present {c.shape} and labels {label.shape} do not fit each other")
    if not (np.isfinite(y).all() and np.isfinite(c).all()) or permutations < 1:
        raise DataError("label test: NaN or infinity in y or present, or no permutation; drop such voxels first")
    r, p = np.full(len(label), np.nan), np.full(len(label), np.nan)
    moves = np.minimum((c > c.min(axis=0)).sum(axis=0), (c < c.max(axis=0)).sum(axis=0)) >= LEAST
    chosen = np.flatnonzero((label >= 0) & (np.ptp(y, axis=0) > 0))
    chosen = chosen[moves[label[chosen]]]
    if not len(chosen):
        return r, p, fdr(p)
    left, right = _standard(y[:, chosen]).astype(np.float32), _standard(c)[:, label[chosen]].astype(np.float32)
    observed = np.einsum("iv,iv->v", left, right) / len(y)
    at_least = np.zeros(len(chosen), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        drawn = np.einsum("iv,iv->v", left[rng.permutation(len(y))], right) / len(y)
        at_least += drawn >= observed - 1e-6  # equal up to rounding counts against the label
    r[chosen], p[chosen] = observed, (1 + at_least) / (1 + permutations)
    return r, p, fdr(p)


def split_half(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Agreement of labels (voxel,) from two halves of the images, and what two random halves would give.

        agreement = mean(a_v == b_v),     chance = sum_c share_a(c) share_b(c)

    over the voxels that both halves label (-1: none). Returns agreement, chance and n; NaN for n = 0.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"split half: labels {a.shape} and {b.shape} must be of the same voxels")
    both = (a >= 0) & (b >= 0)
    n = int(both.sum())
    if not n:
        return {"agreement": np.nan, "chance": np.nan, "n": 0.0}
    size = int(max(a[both].max(), b[both].max())) + 1
    shares = [np.bincount(each[both], minlength=size) / n for each in (a, b)]
    return {"agreement": float((a[both] == b[both]).mean()), "chance": float((shares[0] * shares[1]).sum()), "n": float(n)}


def label_cosine(weights: np.ndarray, concepts: np.ndarray, label: np.ndarray) -> np.ndarray:
    """cos(w_v, t_label(v)), NaN for voxels without a label: (voxel,).

    weights (voxel, d) in the space of the text embeddings concepts (concept, d). Fig. 2 of BrainLMM. Circular: a label that is
    chosen by this cosine (`semantics.text_readout`) wins by construction, so it compares no such method with another.
    """
    w, t, label = np.asarray(weights, np.float64), np.asarray(concepts, np.float64), np.asarray(label)
    if w.ndim != 2 or t.ndim != 2 or w.shape[1] != t.shape[1] or label.shape != (len(w),):
        raise DataError(f"label cosine: weights {w.shape}, concepts {t.shape} and labels {label.shape} do not fit each other")
    own = t[np.maximum(label, 0)]
    size = np.linalg.norm(w, axis=1) * np.linalg.norm(own, axis=1)
    fine = (label >= 0) & (size > 0)
    return np.where(fine, (w * own).sum(axis=1) / np.where(fine, size, 1), np.nan)


def concept_maps(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pearson r, over voxels, of each concept's predicted map and the mean measured response to its pictures: (concept,).

    predicted, measured (concept, voxel). NaN for a map that does not vary. BrainLMM, Fig. 5.
    """
    a, b = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise DataError(f"concept maps: predicted {a.shape} and measured {b.shape} must both be (concept, voxel)")
    fine = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0)
    out = np.full(len(a), np.nan)
    out[fine] = (_standard(a[fine].T) * _standard(b[fine].T)).mean(axis=0)
    return out


def histogram(label: np.ndarray, names: Sequence[str], roi: Sequence[str] | np.ndarray, *, top: int = 10) -> pd.DataFrame:
    """The `top` most frequent labels of each region: columns roi, label, voxels, share (of the region's labelled voxels).

    label (voxel,) numbers into names, -1 for none, which is left out; roi (voxel,) names. A region without any has one row, of no
    label and 0 voxels.
    """
    frame = pd.DataFrame({"roi": np.asarray(roi, dtype=str), "number": np.asarray(label)})
    rows: list[tuple[str, str, int, float]] = []
    for region, every in frame.groupby("roi", sort=True):
        part = every[every["number"] >= 0]
        if not len(part):
            rows.append((str(region), "", 0, float("nan")))
            continue
        counts = part["number"].value_counts()
        listed = sorted(((-int(n), str(names[int(k)])) for k, n in counts.items()))[:top]
        rows += [(str(region), name, -n, -n / len(part)) for n, name in listed]
    return pd.DataFrame(rows, columns=["roi", "label", "voxels", "share"])


def word_shares(label: np.ndarray, roi: Sequence[str] | np.ndarray, regions: Sequence[str], n: int) -> np.ndarray:
    """Share of each of n words among a region's first labels: (region, n), rows add to 1, NaN for a region without a label.

    label (unit,) numbers into the words, -1 for none; roi (unit,) names. Raises DataError for lengths that differ.
    """
    number, names = np.asarray(label), np.asarray(roi, dtype=str)
    if number.shape != names.shape or number.ndim != 1 or (number >= n).any():
        raise DataError(f"word shares: labels {number.shape} below {n} and regions {names.shape} must be of the same units")
    counts = np.stack([np.bincount(number[(names == r) & (number >= 0)], minlength=n) for r in regions]).astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1), np.nan)


def share_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What two histograms have in common, of all pairs of regions: (region of a, region of b), 0 to 1.

        overlap_rs = sum_c min(a_rc, b_sc)

    a (region, word), b (region, word): rows that add to 1. Swain and Ballard 1991. Raises DataError for other words.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise DataError(f"overlap: shares {left.shape} and {right.shape} must be (region, word) of the same words")
    return np.stack([np.minimum(row, right).sum(axis=1) for row in left])


def region_match(
    likeness: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]], *, permutations: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Are regions of one name more alike between recordings than regions of other names?

        value = mean_p mean_r M_p[r, r],     chance = mean_p mean_{r != s} M_p[r, s]
        p = (1 + #{draws of the names, each recording for itself, with value* >= value}) / (1 + permutations)

    likeness: for each pair (i, j) of recordings M (region, region), those of i by those of j in one order. Regions are what is
    drawn, so that nothing is assumed of the units within one. With R regions and two recordings p is about 1 / R! or more.
    Returns value, chance and p. Raises DataError for fewer than 2 regions, other shapes and missing values.
    """
    m = np.asarray(likeness, dtype=np.float64)
    if m.ndim != 3 or m.shape[1] != m.shape[2] or m.shape[1] < 2 or len(m) != len(pairs) or not np.isfinite(m).all():
        raise DataError(f"region match: likeness is (pair, region, region), 2 regions or more and no NaN, got shape {m.shape}")
    regions = m.shape[1]
    recordings = 1 + max(max(pair) for pair in pairs)
    value = float(np.mean([each.diagonal().mean() for each in m]))
    rng, at_least = np.random.default_rng(seed), 0
    for _ in range(permutations):
        order = [rng.permutation(regions) for _ in range(recordings)]
        drawn = np.mean([each[order[i], order[j]].mean() for each, (i, j) in zip(m, pairs, strict=True)])
        at_least += bool(drawn >= value - 1e-12)
    off = ~np.eye(regions, dtype=bool)
    return {"value": value, "chance": float(m[:, off].mean()), "p": (1 + at_least) / (1 + permutations)}


def word_ranking(halves: np.ndarray, names: Sequence[str], roi: Sequence[str] | np.ndarray) -> pd.DataFrame:
    """Words per region from responses by category name: columns roi, rank, label, score, ceiling, voxels.

        score_rc = mean over voxels of the region and halves of (y_c - mean_c y) / sd_c y
        ceiling_r = 2 rho / (1 + rho),   rho = Spearman correlation over categories of the two halves' scores

    halves (2, category, voxel): mean responses from two halves of the data. The ceiling (Spearman-Brown) is how well the order
    of words would repeat; there is no p, since the voxels of a region are correlated and the categories few.
    Raises DataError for fewer than 3 categories and missing values.
    """
    y = np.asarray(halves, dtype=np.float64)
    if y.ndim != 3 or len(y) != 2 or y.shape[1] != len(names) or y.shape[2] != len(np.asarray(roi)):
        raise DataError(f"word ranking: halves are (2, {len(names)} categories, {len(np.asarray(roi))} voxels), got {y.shape}")
    if y.shape[1] < 3 or not np.isfinite(y).all():
        raise DataError("word ranking: at least 3 categories and no NaN; drop such voxels first")
    spread = y.std(axis=1, keepdims=True)
    z = (y - y.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    regions = np.asarray(roi, dtype=str)
    rows = []
    for region in np.unique(regions):
        profile = z[:, :, regions == region].mean(axis=2)
        rho = (
            pd.Series(profile[0]).corr(pd.Series(profile[1]), method="spearman")
            if (np.ptp(profile, axis=1) > 0).all()
            else np.nan
        )
        ceiling = 2 * rho / (1 + rho) if rho > -1 else -np.inf
        ceiling = float(max(ceiling, 0.0)) if np.isfinite(rho) else np.nan
        score = profile.mean(axis=0)
        for rank, c in enumerate(np.argsort(-score, kind="stable"), start=1):
            rows.append((str(region), rank, str(names[c]), float(score[c]), ceiling, int((regions == region).sum())))
    return pd.DataFrame(rows, columns=["roi", "rank", "label", "score", "ceiling", "voxels"])


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; constant ones become 0."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return centred / np.where(spread > 0, spread, 1)
