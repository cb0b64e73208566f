import itertools

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from brainlens.metrics.attribution import area_under, confidence, map_area, map_mass, pointing_game, sign_flip_p, truth_auroc
from brainlens.types import DataError


def test_confidence_on_a_hand_worked_case():
    found = confidence(np.array([0.5, 0.4, -0.2, 0.8]), np.array([0.4, 0.5, -0.3, 0.8]))
    assert found["drop_absolute"] == pytest.approx(100 * (0.1 + 0 + 0.1 + 0) / 4)
    assert found["drop_relative"] == pytest.approx(100 * (0.2 + 0 + 0) / 3)
    assert found["increase"] == pytest.approx(25)
    assert found["samples_positive"] == pytest.approx(0.75)
    assert np.isnan(confidence(np.array([-1.0]), np.array([0.0]))["drop_relative"])


def test_areas_equal_sklearns():
    curves = np.random.default_rng(0).random((5, 11))
    expected = [auc(np.linspace(0, 1, 11), line) for line in curves]
    np.testing.assert_allclose(area_under(curves), expected)


def test_truth_auroc_equals_sklearns():
    rng = np.random.default_rng(1)
    maps, truth = rng.integers(0, 5, (4, 60)).astype(float), rng.random(60) < 0.3
    np.testing.assert_allclose(truth_auroc(truth, maps), [roc_auc_score(truth, row) for row in maps])


def test_pointing_game_counts_ties_in_part():
    maps = np.array([[1.0, 3, 2], [5, 5, 0], [0, 0, 1]])
    inside = np.array([[False, True, False], [True, False, False], [True, True, False]])
    np.testing.assert_allclose(pointing_game(inside, maps), [1, 0.5, 0])


def test_area_and_mass():
    maps = np.array([[0.0, 1, 2, 4], [3, 3, 3, 3]])
    np.testing.assert_allclose(map_area(maps), [0.5, 1])
    np.testing.assert_allclose(map_mass(maps), [7 / 16, 1])


def test_sign_flips_approach_the_exact_test():
    maps = np.random.default_rng(2).standard_normal((8, 6)) + np.array([0, 0, 0.5, 0.5, 1, 2])
    signs = np.array(list(itertools.product([-1, 1], repeat=8)))
    exact = ((signs @ maps) >= maps.sum(0) - 1e-12).mean(0)
    np.testing.assert_allclose(sign_flip_p(maps, flips=20000), exact, atol=0.015)
    noise = sign_flip_p(np.random.default_rng(3).standard_normal((12, 2000)), flips=500)
    assert (noise <= 0.05).mean() == pytest.approx(0.05, abs=0.025)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: confidence(np.zeros(3), np.zeros(4)), "equal"),
        (lambda: confidence(np.zeros(0), np.zeros(0)), "non-zero"),
        (lambda: confidence(np.array([np.nan]), np.zeros(1)), "NaN"),
        (lambda: area_under(np.zeros((3, 1))), "2 points"),
        (lambda: pointing_game(np.zeros((2, 4), bool), np.zeros((2, 3))), "same shape"),
        (lambda: sign_flip_p(np.zeros((4, 3))), "5 samples"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(DataError, match=words):
        call()
