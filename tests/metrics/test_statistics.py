"""Bootstrap, permutation, false discovery rate and AUROC against plain loops, scipy and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from brainlens.metrics import statistics as s
from brainlens.types import DataError


def test_counts_are_resamples_and_blocks_do_not_change_them(monkeypatch):
    counts = s.bootstrap_counts(50, 300, seed=3)
    assert counts.shape == (300, 50)
    assert (counts.sum(1) == 50).all()
    assert abs(counts.var() - (1 - 1 / 50)) < 0.03  # multinomial: n p (1 - p)
    monkeypatch.setattr(s, "_BLOCK", 50 * 7)
    np.testing.assert_array_equal(s.bootstrap_counts(50, 300, seed=3), counts)


def test_bootstrap_means_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 4))
    counts = s.bootstrap_counts(30, 20, seed=5)
    loop = [np.mean(np.repeat(values, row, axis=0), axis=0) for row in counts]
    np.testing.assert_allclose(s.bootstrap_means(values, resamples=20, seed=5), loop, rtol=1e-12)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for i in range(300):
        mean, low, high = s.bootstrap_mean(rng.normal(size=60), resamples=300, seed=i)
        assert low <= mean <= high
        inside += low <= 0 <= high
    assert 0.89 < inside / 300 < 0.98


def test_two_way_bootstrap_equals_a_plain_loop_and_one_row_is_the_bootstrap_of_columns():
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, size=(4, 9))
    mean, low, high, p = s.two_way_bootstrap(values, resamples=50, seed=2)
    loop = [
        np.mean(np.repeat(np.repeat(values, a, axis=0), b, axis=1))
        for a, b in zip(s.bootstrap_counts(4, 50, 3), s.bootstrap_counts(9, 50, 2))
    ]
    assert (mean, low, high) == pytest.approx((values.mean(), *np.quantile(loop, [0.025, 0.975])))
    assert p == pytest.approx((1 + (np.abs(np.array(loop) - mean) >= abs(mean)).sum()) / 51)
    assert s.two_way_bootstrap(values[:1], seed=2)[:3] == pytest.approx(s.bootstrap_mean(values[0], seed=2))


def test_two_way_interval_covers_the_mean_of_new_subjects_and_new_stimuli():
    rng = np.random.default_rng(1)
    covered = {"both": 0, "stimuli": 0}
    for _ in range(200):
        values = 1.0 + rng.normal(size=(10, 1)) + rng.normal(size=(1, 60)) + rng.normal(size=(10, 60))
        _, low, high, _ = s.two_way_bootstrap(values, resamples=400)
        covered["both"] += low < 1.0 < high
        _, low, high = s.bootstrap_mean(values.mean(0), resamples=400)
        covered["stimuli"] += low < 1.0 < high
    assert covered["both"] > 170  # .95 of 200 less what ten subjects cost a percentile interval
    assert covered["stimuli"] < 130  # the stimuli alone say nothing of other subjects


def test_paired_bootstrap_finds_a_difference_and_keeps_its_level():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=80)
    difference, low, high, p = s.paired_bootstrap(shared + 0.3 + 0.1 * rng.normal(size=80), shared, seed=1)
    assert 0.25 < low < difference < high < 0.35
    assert p < 0.001
    null = [s.paired_bootstrap(rng.normal(size=40), rng.normal(size=40), resamples=200, seed=i)[3] for i in range(200)]
    assert 0.01 < np.mean(np.array(null) < 0.05) < 0.11
    assert s.paired_bootstrap(shared, shared)[3] == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_fdr_is_benjamini_hochberg(p):
    np.testing.assert_allclose(s.fdr(np.array(p)), false_discovery_control(p), atol=1e-12)


def test_fdr_leaves_out_missing_tests():
    q = s.fdr(np.array([[0.01, np.nan], [0.02, 0.5]]))
    np.testing.assert_allclose(q, [[0.03, np.nan], [0.03, 0.5]])


def test_permutation_p_by_hand():
    null = np.array([0.0, 1.0, 2.0, 3.0])
    assert s.permutation_p(2.5, null) == pytest.approx(2 / 5)
    assert s.permutation_p(2.5, null, alternative="less") == pytest.approx(4 / 5)
    assert s.permutation_p(2.5, null, alternative="two-sided") == pytest.approx(4 / 5)
    np.testing.assert_allclose(s.permutation_p(np.array([9.0, np.nan]), np.stack([null, null], 1)), [0.2, np.nan])


@pytest.mark.parametrize(("alternative", "expected"), [("greater", 3 / 5), ("less", 4 / 5), ("two-sided", 1.0)])
def test_a_permuted_value_equal_to_the_observed_one_is_as_extreme(alternative, expected):
    assert s.permutation_p(2.0, np.array([0.0, 1.0, 2.0, 3.0]), alternative=alternative) == pytest.approx(expected)


def test_permutation_p_of_ties_keeps_its_level():
    """Every value of a coarse null is the observed one in turn: p <= a in no more than a share a of them."""
    null = np.repeat([0.0, 1.0, 2.0], [8, 8, 3])
    p = np.array([s.permutation_p(null[i], np.delete(null, i)) for i in range(len(null))])
    for level in np.arange(1, 20) / 19:
        assert (p <= level + 1e-12).mean() <= level + 1e-12


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=4, max_size=60))
def test_auroc_equals_sklearn_with_ties(rows):
    score, truth = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    if truth.all() or not truth.any():
        with pytest.raises(DataError, match="true and false"):
            s.auroc(truth, score)
    else:
        assert s.auroc(truth, score) == pytest.approx(roc_auc_score(truth, score))


def test_auroc_interval_agrees_with_a_bootstrap():
    rng = np.random.default_rng(4)
    truth = np.arange(200) < 60
    score = rng.normal(size=200) + truth
    area, low, high = s.auroc_interval(truth, score)
    drawn = []
    for _ in range(500):
        rows = np.concatenate([rng.choice(np.flatnonzero(truth), 60), rng.choice(np.flatnonzero(~truth), 140)])
        drawn.append(s.auroc(truth[rows], score[rows]))
    assert area == pytest.approx(roc_auc_score(truth, score))
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.02)


def test_auroc_interval_is_that_of_delong_pair_by_pair():
    rng = np.random.default_rng(3)
    truth = np.arange(40) < 9
    score = np.round(rng.normal(size=40) + 0.8 * truth, 1)  # with ties
    pairs = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
    assert (pairs == 0.5).any()
    spread = np.sqrt(pairs.mean(1).var(ddof=1) / 9 + pairs.mean(0).var(ddof=1) / 31)
    expected = pairs.mean(), pairs.mean() - 1.6448536 * spread, pairs.mean() + 1.6448536 * spread
    assert expected[2] < 1
    np.testing.assert_allclose(s.auroc_interval(truth, score, level=0.9), expected, atol=1e-7)


def test_auroc_interval_of_clusters_is_that_of_obuchowski_pair_by_pair():
    rng = np.random.default_rng(6)
    truth, clusters = rng.random(60) < 0.3, rng.integers(0, 8, 60)
    score = np.round(rng.normal(size=60) + 0.8 * truth + rng.normal(size=8)[clusters], 1)
    i, j = np.flatnonzero(truth), np.flatnonzero(~truth)
    pairs = (score[i][:, None] > score[j]) + 0.5 * (score[i][:, None] == score[j])
    area, m, n = pairs.mean(), len(i), len(j)
    v = {k: pairs[clusters[i] == k].mean(1).sum() - area * (clusters[i] == k).sum() for k in range(8)}
    w = {k: pairs[:, clusters[j] == k].mean(0).sum() - area * (clusters[j] == k).sum() for k in range(8)}
    with_true, with_false = len(set(clusters[i])), len(set(clusters[j]))
    s10 = with_true / (with_true - 1) / m * sum(each**2 for each in v.values())
    s01 = with_false / (with_false - 1) / n * sum(each**2 for each in w.values())
    s11 = 8 / 7 * sum(v[k] * w[k] for k in range(8))
    spread = np.sqrt(s10 / m + s01 / n + 2 * s11 / (m * n))
    expected = area, area - 1.959964 * spread, area + 1.959964 * spread
    assert 0 < expected[1] < expected[2] < 1
    np.testing.assert_allclose(s.auroc_interval(truth, score, clusters=clusters), expected, atol=1e-7)


def test_scores_that_neighbours_share_need_clusters():
    """Chance maps, one value a cluster, and a truth that lies in a few clusters: only the clustered interval holds .5."""
    rng = np.random.default_rng(8)
    clusters = np.repeat(np.arange(60), 40)
    held = {"units": 0, "clusters": 0}
    for _ in range(200):
        strength = np.where(rng.random(60) < 0.4, rng.beta(2, 4, 60), 0)
        truth, score = rng.random(2400) < strength[clusters], rng.random(60)[clusters]
        for name, labels in (("units", None), ("clusters", clusters)):
            _, low, high = s.auroc_interval(truth, score, clusters=labels)
            held[name] += low <= 0.5 <= high
    assert held["units"] < 100  # of 200: neighbours are not new evidence
    assert held["clusters"] > 176


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: s.bootstrap_counts(1), "at least 2 units"),
        (lambda: s.bootstrap_counts(5, 0), "resamples"),
        (lambda: s.bootstrap_mean(np.array([1.0, np.nan])), "NaN"),
        (lambda: s.bootstrap_mean(np.ones((3, 3))), "one axis"),
        (lambda: s.bootstrap_mean(np.ones(3), level=2), "level"),
        (lambda: s.paired_bootstrap(np.ones(3), np.ones(4)), "same units"),
        (lambda: s.two_way_bootstrap(np.ones(3)), "subject, stimulus"),
        (lambda: s.two_way_bootstrap(np.array([[1.0, np.nan]])), "NaN"),
        (lambda: s.fdr(np.array([0.5, 1.5])), "p-values"),
        (lambda: s.permutation_p(1.0, np.array([])), "at least one permutation"),
        (lambda: s.permutation_p(1.0, np.ones(3), alternative="up"), "alternative"),
        (lambda: s.auroc(np.ones(3), np.ones(4)), "same length"),
        (lambda: s.auroc(np.array([0, 1]), np.array([np.nan, 1])), "NaN"),
        (lambda: s.auroc_interval(np.array([1, 0, 0]), np.arange(3.0)), "2 units in each class"),
        (lambda: s.auroc_interval(np.array([1, 0, 0, 1]), np.arange(4.0), clusters=np.arange(3)), "same length"),
        (
            lambda: s.auroc_interval(np.array([1, 0, 0, 1]), np.arange(4.0), clusters=np.array([1, 2, 3, 1])),
            "2 clusters with true",
        ),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hits, n", [(6, 6), (0, 6), (3, 10), (199, 200)])
def test_wilson_is_that_of_scipy(hits: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(s.wilson(hits / n, n), (expected.low, expected.high), atol=1e-12)


@pytest.mark.parametrize("hits, n", [(5, 6), (2, 3), (1, 2), (0, 4), (37, 50)])
def test_the_interval_of_hits_and_misses_is_wilsons(hits: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, n).proportion_ci(method="wilson")
    found = s.bootstrap_mean(np.arange(n) < hits)
    np.testing.assert_allclose(found, (hits / n, expected.low, expected.high), atol=1e-12)


def test_an_interval_of_wilson_holds_the_share_where_a_bootstrap_of_few_does_not() -> None:
    """1,000 draws of 8 items with a share of .9: a percentile bootstrap holds it in 57 %, since 43 % of draws are all hits."""
    drawn = np.random.default_rng(0).random((1000, 8)) < 0.9
    held = [low <= 0.9 <= high for _, low, high in map(s.bootstrap_mean, drawn)]
    assert np.mean(held) > 0.93
    plain = [low <= 0.9 <= high for low, high in (s.interval(s.bootstrap_means(row, resamples=200)) for row in drawn[:200])]
    assert np.mean(plain) < 0.8


def test_other_values_keep_the_bootstrap() -> None:
    values = np.array([0.0, 1.0, 0.5, 1.0])
    low, high = s.interval(s.bootstrap_means(values))
    assert s.bootstrap_mean(values)[1:] == (float(low), float(high))


def test_a_share_of_all_or_none_has_an_interval_that_knows_n() -> None:
    mean, low, high = s.bootstrap_mean(np.ones(6))
    assert (mean, round(low, 2), high) == (1.0, 0.61, 1.0)
    assert s.bootstrap_mean(np.zeros(60))[2] < 0.1
    with pytest.raises(DataError, match="wilson"):
        s.wilson(1.2, 5)
