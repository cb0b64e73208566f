"""Choosing among drawings by what they would have evoked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from brainlens.reconstruct import choice_table, choose_pictures
from brainlens.types import DataError


def test_the_true_picture_is_chosen_and_batches_change_nothing():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (12, 5, 4, 4, 3), dtype=np.uint8)
    readout = rng.normal(size=(48, 30))

    def predict(images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        return (images.reshape(len(images), -1) / 128 - 1) @ readout

    truth = rng.integers(0, 5, 12)
    own = pictures[np.arange(12), truth]
    y = predict(own) + 0.1 * rng.normal(size=(12, 30))
    found = choose_pictures(pictures, y, predict, batch=7)
    assert (found.chosen == truth).all()
    assert (found.pictures == own).all()
    assert found.correlation[3, 2] == pytest.approx(pearsonr(predict(pictures[3, 2:3])[0], y[3])[0])
    assert (choose_pictures(pictures, y, predict).chosen == found.chosen).all()
    table = choice_table(found.correlation, found.chosen)
    assert table.loc["chosen", "value"] == table.loc["best", "value"] > table.loc["mean", "value"]


def test_bad_input_is_one_clear_line():
    pictures = np.zeros((2, 3, 4, 4, 3), np.uint8)
    cases = [
        (lambda: choose_pictures(pictures[0], np.zeros((3, 5)), lambda x: x), "should be"),
        (lambda: choose_pictures(pictures, np.zeros((3, 5)), lambda x: x), "should be"),
        (lambda: choose_pictures(pictures, np.zeros((2, 5)), lambda x: np.zeros((len(x), 4))), "Y has 5 units"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
