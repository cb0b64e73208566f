"""Pictures as the fovea sees them, against sums written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from brainlens.stimuli.blur import LEVELS, BlurSettings, blurred, blurred_stimuli, levels, sharpness
from brainlens.stimuli.saliency import saliency_stimuli
from brainlens.types import DataError, Stimuli


def picture(size: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def by_hand(image: np.ndarray, settings: BlurSettings, row: int, column: int) -> np.ndarray:
    """One pixel (3,) in float64: the window of k x k taps and the share of the picture itself, as published."""
    size, radius = settings.size, settings.kernel // 2
    sigma = 0.3 * ((settings.kernel - 1) * 0.5 - 1) + 0.8
    padded = np.pad(image.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    total, weight = np.zeros(3), 0.0
    for down in range(settings.kernel):
        for across in range(settings.kernel):
            tap = math.exp(-((down - radius) ** 2 + (across - radius) ** 2) / (2 * sigma**2))
            total, weight = total + tap * padded[row + down, column + across], weight + tap
    middle = size // 2
    away = math.sqrt((row - middle) ** 2 + (column - middle) ** 2)
    corner = math.sqrt(2 * (size - middle - 1) ** 2)
    share = 0.5 * math.exp(-settings.fall * min(1.0, away / corner))
    return share * image[row, column] + (1 - share) * total / weight


@pytest.mark.parametrize("settings", [BlurSettings(15, size=40), BlurSettings(21, fall=1.0, size=40), BlurSettings(9, size=41)])
def test_pixels_are_the_published_sum(settings: BlurSettings) -> None:
    image = picture(settings.size)
    found = blurred(image, settings)
    last = settings.size - 1
    for row, column in [(0, 0), (0, last), (last, 0), (last, last), (20, 20), (20, 3), (7, 31), (33, 12)]:
        assert np.abs(found[row, column] - by_hand(image, settings, row, column)).max() <= 0.501, (row, column)


def test_levels_are_the_published_kernels_and_each_has_less_detail() -> None:
    assert [each.kernel for each in levels().values()] == [45, 51, 57]
    assert tuple(levels()) == LEVELS
    image = picture(224)
    rough = [np.abs(np.diff(blurred(image, each).astype(float), axis=0))[:60].mean() for each in levels().values()]
    smooth = [blurred(image, each)[:20, :20].astype(float).std() for each in levels().values()]
    assert rough[0] > rough[1] > rough[2]
    assert smooth[0] > smooth[1] > smooth[2]


def test_half_of_the_centre_is_sharp_and_a_fortieth_of_the_corner() -> None:
    share = sharpness(BlurSettings())
    assert share.shape == (224, 224)
    assert share[112, 112] == pytest.approx(0.5)
    assert share[0, 0] == pytest.approx(0.5 * math.exp(-3), rel=1e-6)
    assert share[0, 0] == pytest.approx(1 / 40, rel=0.01)


def test_a_flat_picture_stays_and_any_size_becomes_a_square() -> None:
    flat = np.full((50, 70, 3), 131, np.uint8)
    found = blurred(flat, BlurSettings())
    assert found.shape == (224, 224, 3)
    assert (found == 131).all()


def test_stimuli_are_blurred_as_they_are_opened_and_known_by_picture_and_level() -> None:
    images = np.stack([picture(32, seed) for seed in range(2)])
    stimuli = Stimuli(np.array(["a", "b"]), images, [["one"], ["two"]])
    made = {name: blurred_stimuli(stimuli, settings) for name, settings in levels().items()}
    for name, settings in levels().items():
        assert np.array_equal(made[name].images[1], blurred(images[1], settings))
        assert made[name].captions == stimuli.captions
    keys = {each.images.key(i) for each in [*made.values(), saliency_stimuli(stimuli)] for i in range(2)}
    assert len(keys) == 8
    assert blurred_stimuli(stimuli, levels()["blur_low"]).images.key(0) == made["blur_low"].images.key(0)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"kernel": 50}, "kernel 50 must be odd and at least 3; the published one is 51"),
        ({"kernel": 1}, "kernel 1 must be odd"),
        ({"size": 25}, "pictures of 25 px are too small for a kernel of 51"),
        ({"fall": -1.0}, "fall -1.0 must be at least 0"),
        ({"fall": float("nan")}, "fall nan must be at least 0"),
    ],
)
def test_mistakes(given: dict, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        BlurSettings(**given)
    assert "\n" not in str(error.value)
