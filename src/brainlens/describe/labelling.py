"""From responses to labels: candidates from a voxel's strongest pictures, scored against the bank.

What is here takes responses of any origin: those that an encoding model predicts, or, on the phantom, the true noise-free ones,
which make the ideal describer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brainlens.metrics.semantics import bank_scores, closeness_scores, multi_semantic, own_candidate_scores, top_concepts
from brainlens.types import DataError

BLOCK = 512  # voxels at a time
Responder = Callable[[np.ndarray, slice], np.ndarray]


@dataclass(frozen=True)
class Labels:
    """Labels of voxels, best first, -1 where there is none.

    number (voxel, k) into the nouns; score (voxel, k): eq. 2, or as `Close` weights it; weight (voxel, k): the multi-semantic
    softmax; auroc (voxel, noun): the rank of each noun against the whole bank; counts (voxel, noun): of a voxel's strongest
    pictures, those whose captions name the noun (0: no candidate); strongest (voxel, top): their numbers, best first; own (voxel,
    noun): scores of candidates.
    """

    number: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    auroc: np.ndarray
    counts: np.ndarray
    strongest: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Close:
    """Embeddings of the pool (picture, d) and of the bank (picture, d), and how many pictures count: see `closeness_scores`."""

    pool: np.ndarray
    bank: np.ndarray
    k: int


def strongest_pictures(responses: np.ndarray, top: int) -> np.ndarray:
    """Numbers of the `top` pictures with the largest responses (voxel, picture) of each voxel, best first: (voxel, top)."""
    top = min(top, responses.shape[1])
    if top < 1:
        raise DataError(f"describe: {top} strongest pictures; at least 1 is needed")
    return np.argsort(-responses, axis=1, kind="stable")[:, :top]


def strongest_of_readouts(weights: np.ndarray, pictures: np.ndarray, top: int) -> np.ndarray:
    """`strongest_pictures` of linear readouts, block by block: weights (voxel, feature), pictures (picture, feature) ->
    (voxel, top)."""
    blocks = range(0, len(weights), BLOCK)
    return np.concatenate([strongest_pictures(weights[start : start + BLOCK] @ pictures.T, top) for start in blocks])


def label_voxels(
    pool: Callable[[slice], np.ndarray],
    bank: Callable[[slice], np.ndarray],
    *,
    voxels: int,
    present: np.ndarray,
    noun: np.ndarray,
    top: int,
    a: int | None = None,
    labels: int = 4,
    close: Close | None = None,
) -> Labels:
    """Labels of all voxels, block by block.

    pool(part), bank(part): responses (voxel, picture) of the voxels of a slice to the pictures that candidates come from, and to
    those of the bank. present (picture of the pool, noun) bool: the nouns of its captions; noun (picture of the bank,). close:
    weights the scores as the released code does. Nouns without a picture in the bank are no candidates. A voxel whose candidates
    all score the same has no label.
    """
    known = np.bincount(noun, minlength=present.shape[1])[: present.shape[1]] > 0
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, voxels, BLOCK):
        part = slice(start, min(start + BLOCK, voxels))
        strongest = strongest_pictures(pool(part), top)
        counts = np.stack([present[rows].sum(axis=0) for rows in strongest]) * known
        g = bank(part)
        own = own_candidate_scores(g, noun, counts > 0, a=a)
        if close is not None:
            own = closeness_scores(own, g, noun, strongest, shown=close.pool, drawn=close.bank, k=close.k)
        parts.append((own, bank_scores(g, noun, present.shape[1]), counts.astype(np.int32), strongest))
    own, auroc, counts, strongest = (np.concatenate([part[i] for part in parts]) for i in range(4))
    number = top_concepts(own, labels)
    weight = multi_semantic(own)
    return Labels(number, taken(own, number), taken(weight, number), auroc, counts, strongest, own)


def taken(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    """values (voxel, noun) at the numbers (voxel, k); NaN where the number is -1."""
    found = np.take_along_axis(values, np.maximum(number, 0), axis=1).astype(np.float64)
    return np.where(number >= 0, found, np.nan)
