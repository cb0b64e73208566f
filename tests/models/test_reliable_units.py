"""Units that answer alike to repeats: against scipy, what is found where half the units are noise, and what is scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, pearsonr

from brainlens.models.encoding.tables import reliable_units, tables
from brainlens.types import Features, Responses

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
    np.testing.assert_array_equal(reliable_units(responses), false_discovery_control(p) < 0.05)


def test_noise_is_left_out_and_signal_kept() -> None:
    """Of 50 units with signal and 50 of noise, seeds 0 to 9: 27 to 46 and 0 to 2 are found."""
    for seed in range(3):
        found = reliable_units(made(seed))
        assert found[:50].sum() >= 20
        assert found[50:].sum() <= 6


def test_three_repeats_are_two_halves() -> None:
    """The mean of the first and the third repeat beside the second; half the units are noise."""
    responses = made(0, repeats=3)
    order = pd.Series(responses.trials["stimulus"])
    rows = np.array(list(order.groupby(order).indices.values()))
    a, b = responses.data[rows[:, [0, 2]]].mean(axis=1), responses.data[rows[:, 1]]
    p = np.array([pearsonr(a[:, k], b[:, k], alternative="greater").pvalue for k in range(UNITS)])
    found = reliable_units(responses)
    np.testing.assert_array_equal(found, false_discovery_control(p) < 0.05)
    assert found[:50].sum() >= 30
    assert found[50:].sum() <= 6


@pytest.mark.parametrize(("repeats", "images"), [(1, 60), (2, 9), (3, 9)])
def test_it_takes_ten_images_that_were_repeated(repeats: int, images: int) -> None:
    assert reliable_units(made(0, repeats=repeats, images=images)) is None


@pytest.mark.parametrize("repeats", [2, 4])
def test_repeats_of_the_test_images_choose_no_unit(repeats: int) -> None:
    """Training shown once: all units are scored, and their share of the ceiling leaves out those without a ceiling."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(80, UNITS)) * (np.arange(UNITS) < UNITS // 2)
    rows = np.concatenate([np.arange(60), np.repeat(np.arange(60, 80), repeats)])
    data = signal[rows] + np.sqrt(2) * rng.normal(size=(len(rows), UNITS))
    split = np.where(rows < 60, "train", "test")
    responses = Responses.from_arrays(data, [f"{i:03d}" for i in rows], split=split)
    features = Features({"a": signal.astype(np.float32)}, np.array([f"{i:03d}" for i in range(80)]), "made")
    found = tables(responses, features)
    assert found.chosen(0.3) is None
    assert found.scored(0.3).all()
    assert "repeated" in found.rule(0.3)
    assert found.least_ceiling(0.3) == pytest.approx(0.09 / (0.09 + 1 / repeats))


def test_constant_and_missing_units_are_not_reliable() -> None:
    responses = made(0)
    data = np.array(responses.data)
    data[:, 0] = 1.0
    found = reliable_units(Responses(data, responses.trials, responses.units))
    assert not found[0]
