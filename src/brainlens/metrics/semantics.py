"""What a voxel means, as scores of concepts: functions on arrays.

A bank holds pictures grouped by concept (a noun); g_vi is the predicted response of voxel v to picture i of the bank. Scores are
(voxel, concept); the larger, the better the concept fits.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax
from scipy.stats import rankdata

from brainlens.types import DataError

A = 10.0  # sharpness of CLIP-Dissect's image-text similarity
TOP = 100  # strongest pictures that CLIP-Dissect reads
IN_TOP = (0.998, 0.97)  # its probability that the first and the last of them belong to the voxel's concept
_BLOCK = 256  # voxels scored at a time


def own_candidate_scores(
    responses: np.ndarray, concept: np.ndarray, candidates: np.ndarray, *, a: int | None = None
) -> np.ndarray:
    """The rank score of each of a voxel's own candidates (at most -1); NaN for what is no candidate.

        V(T_i) = -(1/a) sum_{j <= a} T_ij^2,     T_i the ranks of concept i's pictures among all pictures of the candidates

    rank 1 is the strongest response, ties share their mean rank, and the a lowest ranks of a concept count (None: half of its
    pictures, rounded up). The score of a voxel depends on that voxel and its candidates alone.

    responses (voxel, picture); concept (picture,) numbers from 0; candidates (voxel, concept) bool -> (voxel, concept) float64.
    Raises DataError for shapes that do not match, a below 1, and a candidate without a picture.
    BrainLMM (Gao et al.), eq. 2; Describe-and-Dissect (Bai et al. 2025).
    """
    g, concept, candidates = _bank(responses, concept, candidates)
    if a is not None and a < 1:
        raise DataError(f"rank score: a={a} lowest ranks; at least 1 counts")
    order, starts, counts = _grouped(concept, candidates.shape[1])
    out = np.full(candidates.shape, np.nan)
    for voxel in range(len(g)):
        mine = np.flatnonzero(candidates[voxel])
        if not len(mine):
            continue
        pieces = [order[starts[c] : starts[c] + counts[c]] for c in mine]
        ranks = rankdata(-g[voxel, np.concatenate(pieces)])
        for c, own in zip(mine, np.split(ranks, np.cumsum(counts[mine])[:-1]), strict=True):
            best = np.sort(own)[: (counts[c] + 1) // 2 if a is None else a]
            out[voxel, c] = -np.mean(best**2)
    return out


def closeness_scores(
    own: np.ndarray,
    responses: np.ndarray,
    concept: np.ndarray,
    strongest: np.ndarray,
    *,
    shown: np.ndarray,
    drawn: np.ndarray,
    k: int = 10,
) -> np.ndarray:
    """The rank scores of candidates weighted by how close their pictures are to those that the voxel answers most.

        S_vc = (n_v - position of c) w_vc,    w_vc = mean cos(shown_s, drawn_j) over the voxel's strongest pictures s and the
                                              pictures j of c among the k of all its candidates that it answers most; else -1

    position: 0 for the candidate of the best rank score, n_v the number of candidates. own (voxel, concept): of
    `own_candidate_scores`, NaN for what is no candidate; responses (voxel, picture of the bank); concept (picture of the bank,);
    strongest (voxel, s): numbers into shown (picture, d); drawn (picture of the bank, d) -> (voxel, concept) float64.
    The paper has the rank score alone; its released code has this. Raises DataError for shapes that do not match, k below 1.
    """
    g, concept, candidates = _bank(responses, concept, np.isfinite(own))
    if k < 1 or len(drawn) != g.shape[1] or np.ndim(shown) != 2 or np.shape(shown)[1:] != np.shape(drawn)[1:]:
        raise DataError(f"closeness: k={k}, shown {np.shape(shown)} and drawn {np.shape(drawn)} do not fit {g.shape[1]} pictures")
    near, made = (np.asarray(each, np.float64) / np.linalg.norm(each, axis=1, keepdims=True) for each in (shown, drawn))
    out = np.full(candidates.shape, np.nan)
    for voxel in range(len(g)):
        mine = np.flatnonzero(candidates[voxel])
        pictures = np.flatnonzero(np.isin(concept, mine))
        first = pictures[np.argsort(-g[voxel, pictures], kind="stable")[:k]]
        mean = near[strongest[voxel]].mean(axis=0)  # a mean of cosines is the cosine's product with the mean
        place = np.empty(len(mine))
        place[np.argsort(-own[voxel, mine], kind="stable")] = np.arange(len(mine))
        for c, at in zip(mine, place, strict=True):
            there = first[concept[first] == c]
            out[voxel, c] = (len(mine) - at) * (float((made[there] @ mean).mean()) if len(there) else -1.0)
    return out


def bank_scores(responses: np.ndarray, concept: np.ndarray, n_concepts: int) -> np.ndarray:
    """How far a concept's pictures stand above all others of the bank: the AUROC, comparable between voxels.

        U_vc = (sum of ranks of the pictures of c - n_c (n_c + 1) / 2) / (n_c (N - n_c)),     rank N the strongest response

    .5: no preference; 1: each picture of the concept evokes more than each other one. Ties share their mean rank.
    responses (voxel, picture), concept (picture,) -> (voxel, concept) float32; NaN for a concept that is the whole bank or has
    no picture. Raises DataError for shapes that do not match. Mann and Whitney 1947.
    """
    g, concept, _ = _bank(responses, concept, None)
    n = g.shape[1]
    counts = np.bincount(concept, minlength=n_concepts)
    if len(counts) > n_concepts:
        raise DataError(f"bank: concept {len(counts) - 1} is not one of {n_concepts}, which are numbered from 0")
    used = np.flatnonzero((counts > 0) & (counts < n))
    size = counts[used].astype(np.float64)
    out = np.full((len(g), n_concepts), np.nan, dtype=np.float32)
    place = np.arange(1.0, n + 1)
    for voxel, row in enumerate(g):
        order, tied = _order(row)
        sums = np.bincount(concept[order], rankdata(row)[order] if tied else place, minlength=n_concepts)[used]
        out[voxel, used] = (sums - size * (size + 1) / 2) / (size * (n - size))
    return out


def readout_scores(
    weights: np.ndarray, bank: np.ndarray, concept: np.ndarray, *, candidates: np.ndarray, a: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(`own_candidate_scores`, `bank_scores`) of linear readouts g = W X', without all responses in memory at once.

    weights (voxel, feature), bank (picture, feature), concept (picture,), candidates (voxel, concept) bool. Intercepts change no
    rank. Memory beyond inputs and results: a block of 256 voxels by pictures.
    """
    w, x = _matrix(weights, "weights"), _matrix(bank, "bank")
    if w.shape[1] != x.shape[1] or len(candidates) != len(w):
        raise DataError(
            f"bank: weights {w.shape}, pictures {x.shape} and candidates {np.shape(candidates)} do not fit each other"
        )
    own, whole = [], []
    for start in range(0, len(w), _BLOCK):
        part = slice(start, start + _BLOCK)
        g = w[part] @ x.T
        own.append(own_candidate_scores(g, concept, candidates[part], a=a))
        whole.append(bank_scores(g, concept, candidates.shape[1]))
    return np.concatenate(own), np.concatenate(whole)


def multi_semantic(scores: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """A voxel's scores as weights that add to one over its candidates: softmax of the standardised scores.

        p_vc = exp(z_vc / temperature) / sum_c' exp(z_vc' / temperature),     z_vc = (V_vc - mean_c V) / sd_c V

    Squared ranks grow with the number of pictures, so that a softmax of the raw scores would be one-hot; the paper names no
    scale. scores (voxel, concept) with NaN for what is no candidate -> same shape, NaN there. Equal scores give equal weights.
    Raises DataError for a temperature that is not positive. BrainLMM, Fig. 2.
    """
    if not temperature > 0:
        raise DataError(f"multi_semantic: temperature {temperature} is not positive")
    values = np.asarray(scores, dtype=np.float64)
    known = np.isfinite(values)
    n = np.maximum(known.sum(axis=1, keepdims=True), 1)
    mean = np.where(known, values, 0).sum(axis=1, keepdims=True) / n
    centred = np.where(known, values - mean, 0)
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / n)
    z = np.where(known, centred / np.where(spread > 0, spread, 1) / temperature, -np.inf)
    top = z.max(axis=1, keepdims=True)
    weights = np.exp(z - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=1, keepdims=True)
    return np.where(known, weights / np.where(total > 0, total, 1), np.nan)


def top_concepts(scores: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k best concepts of each voxel, best first: (voxel, k), -1 where a voxel has fewer.

    Equal scores stand in the order of the concepts; a voxel with several scores that are all equal has no best and gets -1.
    """
    values = np.where(np.isfinite(scores), scores, -np.inf)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    found = np.where(np.isfinite(np.take_along_axis(values, order, axis=1)), order, -1)
    known = np.isfinite(scores)
    highest, lowest = values.max(axis=1, initial=-np.inf), np.where(known, scores, np.inf).min(axis=1, initial=np.inf)
    found[(known.sum(axis=1) > 1) & (highest == lowest)] = -1
    if found.shape[1] < k:
        found = np.concatenate([found, np.full((len(found), k - found.shape[1]), -1)], axis=1)
    return found


# --------------------------------------------------------------------------------------------------------------- baselines


def soft_wpmi(
    responses: np.ndarray, images: np.ndarray, concepts: np.ndarray, *, top: int = TOP, a: float = A, prior: float = 1.0
) -> np.ndarray:
    """CLIP-Dissect's soft pointwise mutual information of voxels and concepts, as CLIP-MSM uses it.

        P_ic = softmax_c(a cos(image_i, concept_c)),     p_k = .998 - (k / K) (.998 - .97),  k = 0, 1, ... the place in the top K
        log p(c | v) = sum_k log(1 + p_k (P_{i(v,k) c} - 1) + 1e-7)
        S_vc = log p(c | v) - prior * log mean_v' p(c | v')

    responses (voxel, picture), images (picture, d), concepts (concept, d) in one image-text space -> (voxel, concept).
    S depends on the list of concepts and, through the mean, on the voxels. Raises DataError for shapes that do not match.
    Oikarinen and Weng 2023; CLIP-MSM (Yang et al. 2025), whose weights are the softmax of S over the list.
    """
    g, left, right = _matrix(responses, "responses"), _unit(images, "images"), _unit(concepts, "concepts")
    if g.shape[1] != len(left) or left.shape[1] != right.shape[1]:
        raise DataError(f"soft_wpmi: responses {g.shape}, images {left.shape} and concepts {right.shape} do not fit each other")
    similar = np.exp(log_softmax(a * left @ right.T, axis=1))
    k = min(top, g.shape[1])
    inside = IN_TOP[0] - np.arange(k) / k * (IN_TOP[0] - IN_TOP[1])
    out = np.empty((len(g), len(right)))
    for voxel in range(len(g)):
        best = _strongest(g[voxel], k)
        out[voxel] = np.log(1 + inside[:, None] * (similar[best] - 1) + 1e-7).sum(axis=0)
    highest = out.max(axis=0)
    return out - prior * (highest + np.log(np.exp(out - highest).mean(axis=0)))


def text_readout(weights: np.ndarray, concepts: np.ndarray) -> np.ndarray:
    """cos(w_v, t_c) of a voxel's readout and a concept's text embedding: (voxel, concept).

    weights (voxel, d) of an encoding model whose features are the image embeddings of the same space as concepts (concept, d).
    It is what the cosine of Fig. 2 of BrainLMM measures, so a method that maximises it cannot be judged by that figure.
    """
    left, right = _matrix(weights, "weights"), _unit(concepts, "concepts")
    if left.shape[1] != right.shape[1]:
        raise DataError(f"text readout: weights {left.shape} and concepts {right.shape} lie in different spaces")
    size = np.linalg.norm(left, axis=1, keepdims=True)
    return np.where(size > 0, left / np.where(size > 0, size, 1) @ right.T, np.nan)


def majority(counts: np.ndarray) -> np.ndarray:
    """How often a concept is named in the captions of a voxel's strongest pictures, NaN where never: (voxel, concept)."""
    found = np.asarray(counts, dtype=np.float64)
    return np.where(found > 0, found, np.nan)


def project_weights(weights: np.ndarray, images: np.ndarray, *, temperature: float = 150.0) -> np.ndarray:
    """BrainSCUBA's projection of a voxel's readout into the space of natural image embeddings: (voxel, d).

        u_v = sum_i p_vi e_i / |e_i| * sum_i p_vi |e_i|,     p_v = softmax_i(temperature * cos(w_v, e_i))

    weights (voxel, d), images (picture, d). Luo et al. 2024, eq. 4; its temperature is 1/150. The result is read by a captioner,
    or against text embeddings.
    """
    w, e = _unit(weights, "weights"), _matrix(images, "images")
    size = np.linalg.norm(e, axis=1)
    directions = _unit(e, "images")
    out = np.empty_like(w)
    for start in range(0, len(w), _BLOCK):
        share = np.exp(log_softmax(temperature * w[start : start + _BLOCK] @ directions.T, axis=1))
        out[start : start + _BLOCK] = (share @ directions) * (share @ size)[:, None]
    return out


# ------------------------------------------------------------------------------------------------------------------ pieces


def _order(row: np.ndarray) -> tuple[np.ndarray, bool]:
    """Numbers of the values from the smallest to the largest, and whether some are equal.

    float32 values are sorted as whole numbers that hold the value above and the place below: a sort, where an argsort takes
    several times as long. Of a positive float the bits are in its order; of a negative one all are turned.
    """
    if row.dtype != np.float32 or len(row) >= 1 << 32:
        order = np.argsort(row, kind="stable")
        ordered = row[order]
        return order, bool((ordered[1:] == ordered[:-1]).any())
    bits = (row + np.float32(0)).view(np.uint32)  # -0 becomes 0
    bits = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = np.sort(bits.astype(np.uint64) << np.uint64(32) | np.arange(len(row), dtype=np.uint64))
    high = keys >> np.uint64(32)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), bool((high[1:] == high[:-1]).any())


def _strongest(row: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k largest values, largest first, the first of equal ones before the next."""
    return np.argsort(-row, kind="stable")[:k]


def _grouped(concept: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture numbers ordered by concept, and where each concept starts and how many pictures it has."""
    counts = np.bincount(concept, minlength=n)
    return np.argsort(concept, kind="stable"), np.concatenate([[0], np.cumsum(counts)[:-1]]), counts


def _bank(responses: np.ndarray, concept: np.ndarray, candidates: np.ndarray | None) -> tuple[np.ndarray, ...]:
    g, concept = _matrix(responses, "responses"), np.asarray(concept)
    if concept.shape != (g.shape[1],) or concept.dtype.kind not in "iu" or (len(concept) and concept.min() < 0):
        raise DataError(f"bank: {g.shape[1]} pictures need one concept number from 0 each, got {concept.dtype} {concept.shape}")
    if candidates is None:
        return g, concept, np.zeros((0, 0), dtype=bool)
    mask = np.asarray(candidates)
    if mask.dtype != bool or mask.ndim != 2 or len(mask) != len(g):
        raise DataError(f"bank: candidates are a bool mask ({len(g)} voxels, concepts), got {mask.dtype} {mask.shape}")
    empty = mask.any(axis=0) & (np.bincount(concept, minlength=mask.shape[1])[: mask.shape[1]] == 0)
    if empty.any():
        raise DataError(f"bank: candidate {int(np.argmax(empty))} has no picture; leave it out of the candidates or draw some")
    return g, concept, mask


def _matrix(values: np.ndarray, what: str) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise DataError(f"{what}: expected a matrix without NaN or infinity, got shape {found.shape}")
    return found


def _unit(values: np.ndarray, what: str) -> np.ndarray:
    """Rows of length 1."""
    found = _matrix(values, what).astype(np.float64)
    size = np.linalg.norm(found, axis=1, keepdims=True)
    if not (size > 0).all():
        raise DataError(f"{what}: row {int(np.argmin(size[:, 0]))} has length 0 and no direction")
    return found / size
