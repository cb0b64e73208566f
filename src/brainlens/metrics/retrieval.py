"""Retrieval between embeddings: ranks, top-k, exact n-way accuracy and intervals, in blocks.

A direction is always named query -> gallery: in `brain->image` each brain response looks for its image among all
images. Published code has reported the two directions under each other's names, so the tests here hold on
asymmetric data. The full similarity matrix is never in memory: 73,000 queries against 73,000 items need little
more than their embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import gammaln

from brainlens.metrics.statistics import (
    all_alike,
    are_hits,
    bootstrap_mean,
    bootstrap_means,
    count_blocks,
    interval,
    mean_over_subjects,
    wilson,
)
from brainlens.types import DataError

TIE = 1e-6  # cosines closer than this are equal: two copies of one picture differ by that much in float32
WAYS = (2, 50, 300)  # n-way protocols that are reported where the gallery is large enough
Labels = tuple[np.ndarray, np.ndarray]


def ranks(
    query: np.ndarray, gallery: np.ndarray, truth: np.ndarray | None = None, *, labels: Labels | None = None, block: int = 1024
) -> np.ndarray:
    """Rank of the right gallery item for each query by cosine similarity; 0 is best.

    rank_i = #{j wrong : cos(q_i, g_j) >= max_{j' right} cos(q_i, g_j') - 1e-6}

    so a tie counts against the query, and with several right items the best of them is what is ranked.

    query (n, d); gallery (m, d). Which items are right is one of
    truth None: item i for query i; truth (n,) int: the item's row; truth (n, m) bool: any of the marked items;
    labels = (query labels (n,), gallery labels (m,)): any item with the query's label, for galleries that hold a
    picture more than once. Returns (n,) int64. Memory beyond the inputs: a few tiles of `block` x `block`.

    Raises DataError for shapes that do not match, missing values, zero vectors, and a query without a right item.
    """
    query, gallery = _checked(query, "query"), _checked(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(f"retrieval: query has {query.shape[1]} dimensions, gallery {gallery.shape[1]}; embed both in one space")
    right = _Truth(len(query), len(gallery), truth, labels)
    scale = _inverse_norms(gallery, "gallery", block)
    query_scale = _inverse_norms(query, "query", block)
    out = np.zeros(len(query), dtype=np.int64)
    for rows in _blocks(len(query), block):
        q = _unit(query[rows], query_scale[rows])
        target = np.full(len(q), -np.inf)
        if right.index is not None:
            chosen = right.index[rows]
            target = np.einsum("nd,nd->n", q, _unit(gallery[chosen], scale[chosen])).astype(np.float64)
        else:
            for columns in _blocks(len(gallery), block):
                score = q @ _unit(gallery[columns], scale[columns]).T
                target = np.maximum(target, np.where(right.tile(rows, columns), score, -np.inf).max(axis=1))
        limit = (target - TIE).astype(q.dtype)[:, None]
        for columns in _blocks(len(gallery), block):
            ahead = (q @ _unit(gallery[columns], scale[columns]).T) >= limit
            right.clear(ahead, rows, columns)
            out[rows] += np.count_nonzero(ahead, axis=1)
    return out


def ranks_from_scores(scores: np.ndarray, truth: np.ndarray | None = None, *, labels: Labels | None = None) -> np.ndarray:
    """Ranks as in `ranks`, from scores (n, m) that are there already (a likelihood, say); equal scores count against.

    Raises DataError for missing scores and a query without a right item.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or np.isnan(scores).any():
        raise DataError(f"retrieval: scores are (query, gallery) without NaN, got shape {scores.shape}")
    right = _Truth(scores.shape[0], scores.shape[1], truth, labels).tile(slice(0, scores.shape[0]), slice(0, scores.shape[1]))
    target = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return np.count_nonzero((scores >= target) & ~right, axis=1)


def top_k(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose right item is among the first k, of ranks (n,): mean[rank < k]."""
    if k < 1:
        raise DataError(f"top-k: k is 1 or more, got {k}")
    return float(np.mean(np.asarray(ranks) < k))


def n_way(ranks: np.ndarray, n_gallery: int | np.ndarray, n: int) -> float:
    """Expected top-1 accuracy when each query meets its right item among n - 1 random wrong ones, without sampling.

    ranks (n,) from 0; n_gallery a scalar, or (n,) where queries have galleries of their own size.
    P(rank r) = C(W - r, n - 1) / C(W, n - 1) with W = n_gallery - 1 wrong items (hypergeometric), mean over queries.

    Published 50-way and 300-way figures draw such galleries at random; this is the value that they scatter around.

    Raises DataError if n is not between 2 and the gallery size.
    """
    return float(np.mean(_n_way_each(np.asarray(ranks), np.asarray(n_gallery) - 1, n)))


def chance(k: int, n_gallery: int, n_right: int | np.ndarray = 1) -> float:
    """Chance that one of m = `n_right` right items is among k of N drawn: 1 - C(N - m, k) / C(N, k), mean over queries.

    n_right: a scalar, or (n,) for n queries.
    """
    wrong = n_gallery - np.asarray(n_right, dtype=np.float64)
    miss = np.where(wrong >= k, np.exp(_log_choose(np.maximum(wrong, k), k) - _log_choose(float(max(n_gallery, k)), k)), 0.0)
    return float(np.mean(1.0 - miss)) if k < n_gallery else 1.0


def summary(
    ranks: np.ndarray,
    n_gallery: int,
    *,
    ks: Sequence[int] = (1, 5, 10),
    ways: Sequence[int] = WAYS,
    n_right: int | np.ndarray = 1,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Scores of one direction from its ranks: topK, chanceK, n, mean_rank, median_rank, nwayN; `.low` and `.high` beside each.

    ranks (n,) from 0, n_right a scalar or (n,): how many items of the gallery are right for each query.
    The interval is the 95 % percentile interval of the mean over queries when the query stimuli are drawn again with
    replacement and the gallery stays. It answers "how would the score move with other test stimuli of the same kind",
    not with another subject, another training or another gallery size. That of a share of hits (top-K) is Wilson's,
    which knows n. The n-way scores are left out where the gallery is smaller than n. Ranks are counted from 0: the mean rank
    of chance is (n_gallery - 1) / 2.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or len(ranks) < 2:
        raise DataError(f"retrieval: scores need 2 queries or more, got ranks of shape {ranks.shape}")
    each = _each(ranks, n_gallery - np.asarray(n_right), ks, ways)
    values = np.stack(list(each.values()), axis=1)
    low, high = interval(bootstrap_means(values, resamples=resamples, seed=seed))
    for i, name in enumerate(each):
        if _shares_hits(name, values[:, i]):
            low[i], high[i] = wilson(float(values[:, i].mean()), len(values))
    out: dict[str, float] = {}
    for i, name in enumerate(each):
        out |= {name: float(values[:, i].mean()), f"{name}.low": float(low[i]), f"{name}.high": float(high[i])}
    out |= {f"chance{k}": chance(k, n_gallery, n_right) for k in ks}
    return out | {"median_rank": float(np.median(ranks)), "n": float(len(ranks)), "gallery": float(n_gallery)}


def summary_over_subjects(
    ranks: Sequence[np.ndarray],
    ids: Sequence[np.ndarray],
    galleries: Sequence[int],
    *,
    ks: Sequence[int] = (1, 5, 10),
    ways: Sequence[int] = WAYS,
    resamples: int = 2000,
    seed: int = 0,
    people: bool = False,
) -> dict[str, float]:
    """The mean over subjects of the scores of `summary`, each subject with its own gallery, and an interval over stimuli.

    score*_r = 1/S sum_s [ sum_i c_ri score_si / sum_i c_ri ], c_r the counts of a resample of all stimuli that any subject saw

    so a stimulus that several subjects saw is drawn once for all of them. ids[s] (n_s,): the stimulus of each rank of
    subject s. n counts distinct stimuli, gallery is the smallest of them, subjects their number. The interval is about other
    stimuli with these subjects, not about other subjects; with `people` and two subjects or more it is about other subjects and
    other stimuli, by `metrics.statistics.mean_over_subjects`, cut to what a score can be. Where all queries of all subjects are
    hits, or none, it is Wilson's with the number of distinct stimuli; of one subject it is as in `summary`.

    Raises DataError for lists that do not match and fewer than 2 stimuli.
    """
    if not len(ranks) == len(ids) == len(galleries) or not ranks or any(len(r) != len(i) for r, i in zip(ranks, ids)):
        raise DataError(f"retrieval over subjects: {len(ranks)} lists of ranks, {len(ids)} of ids, {len(galleries)} galleries")
    usable = [n for n in ways if n <= min(galleries)]
    tables = [_each(np.asarray(r), np.asarray(g - 1), ks, usable) for r, g in zip(ranks, galleries, strict=True)]
    names, stimuli = list(tables[0]), np.unique(np.concatenate(list(ids)))
    rows = [np.searchsorted(stimuli, one) for one in ids]
    values = [np.stack(list(table.values()), axis=1) for table in tables]
    drawn = []
    for counts in count_blocks(len(stimuli), resamples, seed):
        weights = [counts[:, at].astype(np.float64) for at in rows]
        with np.errstate(invalid="ignore"):  # a resample without any stimulus of a subject is left out below
            drawn.append(np.stack([w @ v / w.sum(1, keepdims=True) for w, v in zip(weights, values, strict=True)]))
    resampled = np.concatenate(drawn, axis=1)  # (subject, resample, score)
    own = np.stack([v.mean(0) for v in values])
    mean = own.mean(axis=0)
    if people and len(own) > 1:
        most = np.array([max(galleries) - 1 if name == "mean_rank" else 1.0 for name in names])
        low, high = (np.clip(end, 0.0, most) for end in mean_over_subjects(own, resampled, people=True))
    else:
        low, high = interval(resampled[:, np.isfinite(resampled).all(axis=(0, 2))].mean(axis=0))
    out: dict[str, float] = {}
    for i, name in enumerate(names):
        every = np.concatenate([v[:, i] for v in values])
        if all_alike(every) or (len(own) == 1 and _shares_hits(name, every)):
            low[i], high[i] = wilson(float(every.mean()), len(stimuli))
        out |= {name: float(mean[i]), f"{name}.low": float(low[i]), f"{name}.high": float(high[i])}
    out |= {f"chance{k}": float(np.mean([chance(k, g) for g in galleries])) for k in ks}
    out["median_rank"] = float(np.mean([np.median(r) for r in ranks]))
    return out | {"n": float(len(stimuli)), "gallery": float(min(galleries)), "subjects": float(len(ranks))}


def retrieval(
    brain: np.ndarray,
    image: np.ndarray,
    text: np.ndarray | None = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    resamples: int = 2000,
    seed: int = 0,
    labels: np.ndarray | None = None,
) -> dict[str, float]:
    """Retrieval in the directions brain->image, image->brain and, with `text`, brain->text, text->brain.

    brain, image, text (n, d): row i of each belongs to stimulus i (average the repetitions first). labels (n,): rows
    with one label show the same thing, and finding any of them is a hit. Keys are `retrieval/<direction>/<name>` with
    the names of `summary`; the same resamples serve all directions, so that they can be compared.

    Raises DataError for rows that do not match, missing values and zero vectors.
    """
    others = {"image": image} | ({} if text is None else {"text": text})
    for name, array in others.items():
        if len(array) != len(brain):
            raise DataError(f"retrieval: brain has {len(brain)} rows, {name} {len(array)}; join them by stimulus id first")
    both = None if labels is None else (np.asarray(labels), np.asarray(labels))
    right: int | np.ndarray = 1
    if labels is not None:
        _, group, size = np.unique(labels, return_inverse=True, return_counts=True)
        right = size[group]
    out: dict[str, float] = {}
    for name, array in others.items():
        for direction, query, gallery in ((f"brain->{name}", brain, array), (f"{name}->brain", array, brain)):
            found = ranks(query, gallery, labels=both)
            scores = summary(found, len(gallery), ks=ks, n_right=right, resamples=resamples, seed=seed)
            out |= {f"retrieval/{direction}/{key}": value for key, value in scores.items()}
    return out


def neighbours(query: np.ndarray, gallery: np.ndarray, k: int = 10, *, block: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The k gallery rows most similar to each query, best first: (rows (n, k) int64, cosines (n, k)).

    Equal cosines come in gallery order. Raises DataError for k outside 1..m and for missing values.
    """
    query, gallery = _checked(query, "query"), _checked(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(f"neighbours: query has {query.shape[1]} dimensions, gallery {gallery.shape[1]}; embed both in one space")
    if not 1 <= k <= len(gallery):
        raise DataError(f"neighbours: k is 1 to {len(gallery)} (the gallery), got {k}")
    query_scale, scale = _inverse_norms(query, "query", block), _inverse_norms(gallery, "gallery", block)
    found, similarity = [], []
    for rows in _blocks(len(query), block):
        q = _unit(query[rows], query_scale[rows])
        best = np.empty((len(q), 0), dtype=q.dtype)
        index = np.empty((len(q), 0), dtype=np.int64)
        for columns in _blocks(len(gallery), block):
            score = q @ _unit(gallery[columns], scale[columns]).T
            number = np.broadcast_to(np.arange(columns.start, columns.stop), score.shape)
            best, index = np.concatenate([best, score], axis=1), np.concatenate([index, number], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best, index = np.take_along_axis(best, order, 1), np.take_along_axis(index, order, 1)
        found.append(index)
        similarity.append(best)
    return np.concatenate(found), np.concatenate(similarity)


def nearest_share(points: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Share of points (n, d) whose nearest other point, by cosine after centring, is of their group (n,).

    Keys "" (the share), ".low", ".high" (95 % bootstrap over points, their neighbours fixed), ".n", and ".chance", the share
    of a neighbour drawn at random: sum_g n_g (n_g - 1) / (n (n - 1)). Raises DataError for missing values, or other lengths.
    """
    if len(points) != len(groups) or len(points) < 2:
        raise DataError(f"nearest share: needs two points or more and a group each, got {len(points)} and {len(groups)}")
    centred = np.asarray(points, np.float64) - np.asarray(points, np.float64).mean(axis=0)
    found = neighbours(centred, centred, 2)[0]
    other = np.where(found[:, 0] == np.arange(len(found)), found[:, 1], found[:, 0])
    share, low, high = bootstrap_mean((groups[other] == groups).astype(np.float64), seed=seed)
    counts = np.unique(groups, return_counts=True)[1]
    chance = float((counts * (counts - 1)).sum() / (len(groups) * (len(groups) - 1)))
    return {"": share, ".low": low, ".high": high, ".n": float(len(groups)), ".chance": chance}


class _Truth:
    """Which gallery items are right for which query, answered tile by tile so that no (n, m) array is made."""

    def __init__(self, n: int, m: int, truth: np.ndarray | None, labels: Labels | None) -> None:
        self.index: np.ndarray | None = None
        self.matrix: np.ndarray | None = None
        self.labels: Labels | None = None
        some: np.ndarray
        if truth is not None and labels is not None:
            raise DataError("retrieval: give truth or labels, not both")
        if labels is not None:
            codes = np.unique(np.concatenate([np.asarray(labels[0]), np.asarray(labels[1])]), return_inverse=True)[1]
            self.labels = (codes[: len(labels[0])], codes[len(labels[0]) :])
            if (len(labels[0]), len(labels[1])) != (n, m):
                raise DataError(f"retrieval: labels {len(labels[0])}, {len(labels[1])} do not fit {n} queries and {m} items")
            some = np.isin(*self.labels)
        elif truth is None:
            if n != m:
                raise DataError(f"retrieval: {n} queries and {m} items need `truth` or `labels` to say which item is right")
            self.index, some = np.arange(n), np.ones(n, dtype=bool)
        else:
            truth = np.asarray(truth)
            if truth.shape == (n, m) and truth.dtype == bool:
                self.matrix, some = truth, np.asarray(truth.any(axis=1))
            elif truth.shape == (n,) and np.issubdtype(truth.dtype, np.integer):
                self.index, some = truth, np.asarray((truth >= 0) & (truth < m))
            else:
                raise DataError(f"retrieval: truth is ({n},) int or ({n}, {m}) bool, got {truth.dtype} {truth.shape}")
        if not some.all():
            raise DataError(
                f"retrieval: {np.count_nonzero(~some)} queries have no right item, first query {int(np.argmin(some))}"
            )

    def tile(self, rows: slice, columns: slice) -> np.ndarray:
        if self.index is not None:
            return self.index[rows, None] == np.arange(columns.start, columns.stop)
        if self.labels is not None:
            return self.labels[0][rows, None] == self.labels[1][columns]
        assert self.matrix is not None
        return self.matrix[rows, columns]

    def clear(self, ahead: np.ndarray, rows: slice, columns: slice) -> None:
        """Takes the right items out of the items that stand ahead."""
        if self.index is None:
            ahead &= ~self.tile(rows, columns)
            return
        chosen = self.index[rows]
        inside = np.flatnonzero((chosen >= columns.start) & (chosen < columns.stop))
        ahead[inside, chosen[inside] - columns.start] = False


def _checked(array: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"retrieval: {what} is (stimulus, dimension), got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"retrieval: {what} is floating point, got {array.dtype}")
    return array


def _blocks(n: int, block: int) -> Iterator[slice]:
    if block < 1:
        raise DataError(f"retrieval: block is 1 or more, got {block}")
    return (slice(start, min(start + block, n)) for start in range(0, n, block))


def _unit(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return rows.astype(scale.dtype, copy=False) * scale[:, None]


def _inverse_norms(array: np.ndarray, what: str, block: int) -> np.ndarray:
    """1 / |row|, in float32 (float64 for float64 input), summed in float64."""
    out = np.empty(len(array), dtype=np.result_type(array.dtype, np.float32))
    for rows in _blocks(len(array), block):
        part = array[rows].astype(np.float64)
        norm = np.sqrt(np.einsum("nd,nd->n", part, part))
        bad = ~np.isfinite(norm) | (norm == 0)
        if bad.any():
            row = rows.start + int(np.argmax(bad))
            kind = "is all zeros, so it has no direction" if norm[np.argmax(bad)] == 0 else "holds NaN or infinity"
            raise DataError(f"retrieval: {what} row {row} {kind}; drop it on both sides or mend the encoder")
        out[rows] = 1.0 / norm
    return out


def _log_choose(n: np.ndarray | float, k: np.ndarray | float) -> np.ndarray:
    return gammaln(np.add(n, 1.0)) - gammaln(np.add(k, 1.0)) - gammaln(np.subtract(n, k) + 1.0)


def _each(ranks: np.ndarray, wrong: np.ndarray, ks: Sequence[int], ways: Sequence[int]) -> dict[str, np.ndarray]:
    """The scores of every query by name: hits among the first k, the rank, the n-way expectation."""
    each = {f"top{k}": (ranks < k).astype(np.float64) for k in ks}
    each["mean_rank"] = ranks.astype(np.float64)
    return each | {f"nway{n}": _n_way_each(ranks, wrong, n) for n in ways if n - 1 <= np.min(wrong)}


def _shares_hits(name: str, values: np.ndarray) -> bool:
    """Whether the mean of a score's values (query,) is a share of hits. A rank of 0 or 1 is none, unless all are 0."""
    return are_hits(values) and (name != "mean_rank" or not values.any())


def _n_way_each(ranks: np.ndarray, wrong: np.ndarray, n: int) -> np.ndarray:
    """P(no one of n - 1 wrong items drawn from `wrong` is among the `ranks` that stand ahead)."""
    if n < 2 or n - 1 > np.min(wrong):
        raise DataError(f"n-way: n is 2 to the gallery size {int(np.min(wrong)) + 1}, got {n}")
    if (ranks < 0).any() or (ranks > wrong).any():
        raise DataError(f"n-way: ranks are 0 to {int(np.max(wrong))}, got {int(ranks.min())} to {int(ranks.max())}")
    left = wrong - ranks
    log = _log_choose(np.maximum(left, n - 1).astype(np.float64), n - 1) - _log_choose(np.asarray(wrong, np.float64), n - 1)
    return np.where(left >= n - 1, np.exp(log), 0.0)
