"""Units that answer alike to two repeats: against scipy, and what is found where half the units are noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, pearsonr

from brainlens.models.encoding.tables import split_half
from brainlens.types import Responses

IMAGES, UNITS = 60, 100


def made(seed: int, *, repeats: int = 2, images: int = IMAGES) -> Responses:
    """Half of the units answer to the images with noise of twice the signal's variance, half are noise."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(images, UNITS)) * (np.arange(UNITS) < UNITS // 2)
    rows = np.concatenate([rng.permutation(images) for _ in range(repeats)])
    data = signal[rows] + np.sqrt(2) * rng.normal(size=(len(rows), UNITS))
    return Responses.from_arrays(data, [f"{i:03d}" for i in rows])


def test_it_is_a_correlation_over_images_with_fdr() -> None:
    responses = made(0)
    order = pd.Series(responses.trials["stimulus"])
    first = {name: rows[0] for name, rows in order.groupby(order).indices.items()}
    second = {name: rows[1] for name, rows in order.groupby(order).indices.items()}
    names = list(first)
    a, b = (responses.data[[part[name] for name in names]] for part in (first, second))
    p = np.array([pearsonr(a[:, k], b[:, k], alternative="greater").pvalue for k in range(UNITS)])
    np.testing.assert_array_equal(split_half(responses), false_discovery_control(p) < 0.05)


def test_noise_is_left_out_and_signal_kept() -> None:
    """Of 50 units with signal and 50 of noise, seeds 0 to 9: 27 to 46 and 0 to 2 are found."""
    for seed in range(3):
        found = split_half(made(seed))
        assert found[:50].sum() >= 20
        assert found[50:].sum() <= 6


@pytest.mark.parametrize(("repeats", "images"), [(1, 60), (3, 60), (2, 9)])
def test_it_is_for_images_shown_twice(repeats: int, images: int) -> None:
    assert split_half(made(0, repeats=repeats, images=images)) is None


def test_constant_and_missing_units_are_not_reliable() -> None:
    responses = made(0)
    data = np.array(responses.data)
    data[:, 0] = 1.0
    found = split_half(Responses(data, responses.trials, responses.units))
    assert not found[0]
