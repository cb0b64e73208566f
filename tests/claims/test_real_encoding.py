"""Encoding of the digits and similarity to IT: on made data with a known answer, and the reference numbers on the real ones."""

from __future__ import annotations

import numpy as np
import pytest

from brainlens.claims.real_encoding import correlations, digit_encoding, out_of_fold, percentile_of, rotation


def test_rotation_keeps_inner_products_and_correlations_are_numpys() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 70))
    centred = x - x.mean(axis=0)
    np.testing.assert_allclose(rotation(x) @ rotation(x).T, centred @ centred.T, atol=1e-8)
    y, guess = rng.standard_normal((12, 4)), rng.standard_normal((12, 4))
    guess[:, 3] = 1.0
    expected = [np.corrcoef(y[:, v], guess[:, v])[0, 1] for v in range(3)] + [0.0]
    np.testing.assert_allclose(correlations(y, guess), expected, atol=1e-12)


def test_the_layer_with_the_signal_is_chosen_and_noise_is_at_chance() -> None:
    rng = np.random.default_rng(1)
    good, bad = rng.standard_normal((2, 60, 20))
    digit = np.tile(["6", "9"], 30)
    y = (good @ rng.standard_normal((20, 15)) + rng.standard_normal((60, 15))).astype(np.float32)
    guesses, chosen = out_of_fold({"bad": bad, "good": good}, y, digit)
    assert set(chosen) == {"good"}
    np.testing.assert_array_equal(guesses["chosen"], guesses["good"])
    assert percentile_of(y, guesses["good"], resamples=20)[""] > 0.9
    nothing = percentile_of(y, guesses["bad"], resamples=20)
    assert nothing[""] < 0.4


@pytest.mark.realdata
def test_pixels_predict_the_real_digits_as_measured(test_data) -> None:
    found = digit_encoding(test_data / "digits69")
    assert found["digits69/encode/pixels_p95"] == pytest.approx(0.62, abs=0.03)
    assert found["digits69/encode/pixels_p95.chance"] < 0.25
