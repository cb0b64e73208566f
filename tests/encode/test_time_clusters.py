"""Clusters over time: MNE's for several subjects, permuted labels for few, their level on noise, a planted one."""

from __future__ import annotations

import numpy as np
import pytest
from mne.stats import permutation_cluster_1samp_test
from scipy.stats import binom
from scipy.stats import t as student

from brainlens.encode.time_clusters import SUBJECTS, cluster_p


def areas(subjects: int, labellings: int, *, seed: int, times: int = 40, effect: float = 0.0) -> np.ndarray:
    """Areas around .5 that drift over time; the true labelling has an effect from sample 15 to 24."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(subjects, labellings, times + 4))
    smooth = sum(noise[..., i : i + times] for i in range(5)) / np.sqrt(5)
    out = 0.5 + 0.05 * smooth
    out[:, 0, 15:25] += effect
    return out


def test_several_subjects_are_tested_as_mne_tests_them():
    each = areas(8, 3, seed=0, effect=0.06)
    found, over = cluster_p(each, seed=1, permutations=200)
    threshold = student.ppf(0.95, 7)
    _, clusters, p, _ = permutation_cluster_1samp_test(
        each[:, 0] - 0.5, threshold=threshold, tail=1, n_permutations=200, seed=1, out_type="mask", verbose="error"
    )
    expected = np.full(40, np.nan)
    for inside, value in zip(clusters, p, strict=True):
        expected[inside] = value
    np.testing.assert_array_equal(found, expected)
    assert over == "subjects"
    assert np.nanmin(found[15:25]) < 0.05


def test_the_mass_of_a_run_is_compared_with_the_largest_of_each_labelling():
    """A case by hand: thresholds are those of the permuted labellings, and masses sums of what lies above .5."""
    each = np.full((1, 21, 6), 0.5)
    each[0, 0] = [0.5, 0.8, 0.9, 0.5, 0.7, 0.5]
    each[0, 1, 1:3] = [0.9, 0.95]  # mass .85, above .7 of the first run
    each[0, 2, 4] = 0.75  # mass .25
    found, over = cluster_p(each)
    assert over == "labels"
    np.testing.assert_allclose(found[1:3], 2 / 21)  # one labelling of twenty is as large, and the true one counts
    np.testing.assert_allclose(found[4], 3 / 21)
    assert np.isnan(found[[0, 3, 5]]).all()


@pytest.mark.parametrize("subjects", [1, SUBJECTS])
def test_noise_is_called_a_cluster_at_the_level_and_no_more(subjects):
    runs = 120 if subjects == 1 else 60
    hits = [np.nanmin([1.0, *cluster_p(areas(subjects, 100, seed=s), seed=s, permutations=100)[0]]) < 0.05 for s in range(runs)]
    assert np.mean(hits) <= binom.ppf(0.999, runs, 0.06) / runs


def test_a_planted_cluster_is_found_where_it_is():
    found, _ = cluster_p(areas(1, 200, seed=3, effect=0.15))
    sure = np.flatnonzero(found < 0.05)
    assert set(range(16, 24)) <= set(sure)
    assert sure.min() >= 11
    assert sure.max() <= 28
