"""The truth stands before the prediction: equal to scikit-learn and himalaya when called with the same arguments."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from himalaya.scoring import correlation_score
from himalaya.scoring import r2_score as himalaya_r2
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score

from brainlens import metrics as m
from brainlens.metrics.statistics import auroc_interval
from brainlens.types import DataError


@st.composite
def pairs(draw):
    """(truth, prediction), (image, unit) or (image,): noisy, shifted and scaled, so that the two orders give other numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(3, 40)), *draw(st.sampled_from([(), (1,), (5,)])))
    truth = rng.normal(size=shape) * draw(st.floats(0.5, 20)) + draw(st.floats(-20, 20))
    weight = draw(st.floats(0.1, 0.9))
    return truth, weight * truth + draw(st.floats(0.1, 2)) * rng.normal(size=shape)


@given(pairs())
def test_scores_equal_the_reference_in_the_same_order(pair):
    truth, guess = pair
    every = r2_score(truth, guess, multioutput="raw_values")
    np.testing.assert_allclose(m.r2(truth, guess), every if truth.ndim == 2 else every[0], rtol=1e-9, atol=1e-9)
    columns = truth.reshape(len(truth), -1), guess.reshape(len(truth), -1)  # what himalaya takes
    np.testing.assert_allclose(np.atleast_1d(m.r2(truth, guess)), himalaya_r2(*columns), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.atleast_1d(m.pearson(truth, guess)), correlation_score(*columns), rtol=1e-7, atol=1e-9)
    assert m.mean_correlation(truth, guess) == pytest.approx(correlation_score(*columns).mean())
    assert m.r2(truth, guess).shape == m.pearson(truth, guess).shape == truth.shape[1:]


def test_swapped_arguments_give_another_number():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 3))
    guess = 0.5 * truth
    np.testing.assert_allclose(m.r2(truth, guess), 0.75, atol=0.02)
    assert (m.r2(guess, truth) < 0.1).all()


@given(pairs())
def test_named_arguments_are_those_of_the_reference(pair):
    truth, guess = pair
    np.testing.assert_array_equal(m.r2(y_pred=guess, y_true=truth), m.r2(truth, guess))
    np.testing.assert_array_equal(m.pearson(y_pred=guess, y_true=truth), m.pearson(truth, guess))
    if truth.ndim == 2 and len(truth) >= 8:
        found = m.bootstrap_score(y_pred=guess, y_true=truth, resamples=20)
        np.testing.assert_allclose(found.value, himalaya_r2(truth, guess), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_areas_equal_the_reference_in_the_same_order(seed):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(30) < rng.integers(2, 28))
    maps = rng.integers(0, 9, (3, 30)) + truth
    for score, found in zip(maps, m.truth_auroc(truth, maps), strict=True):
        assert found == pytest.approx(roc_auc_score(truth, score))
        assert m.auroc(truth, score) == pytest.approx(roc_auc_score(truth, score))
        assert m.auroc(truth.astype(int), score) == m.auroc(y_score=score, y_true=truth)
        assert auroc_interval(truth, score)[0] == pytest.approx(roc_auc_score(truth, score))
    assert m.truth_auroc(truth, maps[0]) == pytest.approx([roc_auc_score(truth, maps[0])])


FLAT, TABLE, MASK = np.arange(9.0), np.arange(18.0).reshape(9, 2), np.arange(9) < 4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: m.r2(FLAT, TABLE), r"y_true \(9,\) and y_pred \(9, 2\)"),
        (lambda: m.r2(TABLE, TABLE[:, :1]), r"\(9, 2\) and y_pred \(9, 1\)"),
        (lambda: m.r2(TABLE[None], TABLE[None]), r"\(1, 9, 2\)"),
        (lambda: m.r2(np.float64(1), np.float64(1)), "must both be"),
        (lambda: m.r2(FLAT[:1], FLAT[:1]), "at least 2"),
        (lambda: m.r2(np.where(FLAT > 7, np.nan, FLAT), FLAT), "y_true holds 1 NaN"),
        (lambda: m.pearson(FLAT, np.where(FLAT > 6, np.inf, FLAT)), "y_pred holds 2 NaN"),
        (lambda: m.pearson(TABLE, TABLE[:-1]), r"y_pred \(8, 2\)"),
        (lambda: m.bootstrap_score(FLAT, FLAT), r"both be \(image, unit\)"),
        (lambda: m.bootstrap_score(TABLE, TABLE[:, :1]), r"both be \(image, unit\)"),
        (lambda: m.mean_correlation(TABLE, FLAT), r"y_true \(9, 2\) and y_pred \(9,\)"),
        (lambda: m.auroc(FLAT, MASK), "y_true holds 2.0; it must be bool or 0 and 1, and stand before y_score"),
        (lambda: auroc_interval(FLAT, MASK), "stand before y_score"),
        (lambda: m.auroc(MASK, FLAT[:-1]), "same length"),
        (lambda: m.auroc(MASK[None], FLAT[None]), "one axis"),
        (lambda: m.truth_auroc(MASK[:-1], TABLE.T), r"y_true \(8,\)"),
        (lambda: m.truth_auroc(TABLE.T, np.stack([MASK, MASK])), "stand before y_score"),
        (lambda: m.pointing_game(MASK, FLAT), r"same shape \(sample, unit\)"),
        (lambda: m.pointing_game(FLAT[None], MASK[None]), "stand before y_score"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_every_public_name_is_there_and_none_is_loaded_before_it_is_asked_for():
    assert {m.__getattr__(name).__name__ for name in m.__all__} == set(m.__all__)
    assert sorted(name for names in m._PLACES.values() for name in names) == sorted(m.__all__)
    with pytest.raises(AttributeError, match="has no 'r3'"):
        m.__getattr__("r3")
    heavy = ("scipy", "sklearn", "torch", "pandas")
    script = f"import sys, brainlens.metrics; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
