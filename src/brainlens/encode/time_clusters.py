"""Clusters of neighbouring times at which a category can be told, tested as wholes (Maris and Oostenveld 2007).

A cluster is a run of times above a threshold, its mass the sum over them; it is compared with the largest mass that chance gives
anywhere. It says that something is there, not when it begins or ends (Sassenhagen and Draschkow 2019).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label
from scipy.stats import t as student

from brainlens.metrics.statistics import permutation_p

LEVEL = 0.05
SUBJECTS = 6  # fewer signs can be flipped in 2^5 ways at most, so that no cluster could have p < .03


def cluster_p(area: np.ndarray, *, seed: int = 0, permutations: int = 1000) -> tuple[np.ndarray, str]:
    """(p of the cluster of each time, NaN outside of clusters; what was permuted) from areas (subject, labelling, time).

    With SUBJECTS subjects or more the signs of their areas above .5 are flipped, by MNE, which speaks of people not measured: the
    threshold is Student's t at .05, one-sided. With fewer the labels are permuted, which speaks of those who were: labelling 0 is
    the true one, and the threshold of a time is exceeded by .05 of its permuted areas.
    """
    if len(area) >= SUBJECTS:
        return _over_subjects(area[:, 0] - 0.5, seed, permutations), "subjects"
    course = area.mean(axis=0)
    excess = course - 0.5
    threshold = np.quantile(excess[1:], 1 - LEVEL, axis=0)
    null = np.array([max((mass for _, mass in _clusters(row, threshold)), default=0.0) for row in excess[1:]])
    out = np.full(course.shape[1], np.nan)
    for inside, mass in _clusters(excess[0], threshold):
        out[inside] = permutation_p(np.array(mass - 1e-12), null)
    return out, "labels"


def _clusters(row: np.ndarray, threshold: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """(numbers of the times, mass) of each run of times above the threshold, which is at least 0."""
    numbers, count = label(row > np.maximum(threshold, 0))
    inside = [np.flatnonzero(numbers == k) for k in range(1, count + 1)]
    return [(times, float(row[times].sum())) for times in inside]


def _over_subjects(excess: np.ndarray, seed: int, permutations: int) -> np.ndarray:
    from mne.stats import permutation_cluster_1samp_test

    threshold = float(student.ppf(1 - LEVEL, len(excess) - 1))
    _, clusters, found, _ = permutation_cluster_1samp_test(
        excess, threshold=threshold, tail=1, n_permutations=permutations, seed=seed, out_type="mask", verbose="error"
    )
    out = np.full(excess.shape[1], np.nan)
    for inside, p in zip(clusters, found, strict=True):
        out[inside] = p
    return out
