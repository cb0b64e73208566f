"""Pixels and latents decoded by ridge: equal to a plain loop, never fitted on what is decoded, and the figures of real fMRI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedKFold

from brainlens.backbones.tiny_autoencoder import grey_functions
from brainlens.datasets import digits69
from brainlens.metrics.picture_protocols import resize
from brainlens.metrics.reconstruction import pixel_correlation, two_way
from brainlens.reconstruct.low_level import (
    Autoencoder,
    Decoded,
    PictureAxes,
    Pixels,
    decode_pictures,
    low_level,
    low_level_chosen,
    low_level_latents,
)
from brainlens.types import DataError


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X, pictures, fold): 40 pictures of three shades each, read by 60 noisy voxels."""
    rng = np.random.default_rng(0)
    shades = rng.uniform(0.2, 0.8, (40, 3))
    pictures = np.repeat(np.repeat(shades[:, :, None], 4, axis=2), 4, axis=1)
    return shades @ rng.normal(size=(3, 60)) + 0.1 * rng.normal(size=(40, 60)), pictures, np.arange(40) % 4


def test_pixels_equal_ridge_fold_by_fold(small) -> None:
    x, pictures, fold = small
    found = low_level(x, pictures, fold=fold, alphas=[3.0])
    for k in range(4):
        train, held = fold != k, fold == k
        mean, spread = x[train].mean(0), x[train].std(0)
        plain = Ridge(3.0).fit((x[train] - mean) / spread, pictures[train].reshape(train.sum(), -1))
        expected = np.clip(plain.predict((x[held] - mean) / spread), 0, 1).reshape(-1, *pictures.shape[1:])
        np.testing.assert_allclose(found.pictures[held], expected, atol=2e-5)
    np.testing.assert_array_equal(found.alpha, 3.0)


def test_axes_give_what_pixels_give_where_they_span_the_pictures(small) -> None:
    x, pictures, fold = small
    axes = low_level(x, pictures, space=PictureAxes(3), fold=fold, alphas=[3.0])  # three shades: three axes hold all of it
    np.testing.assert_allclose(axes.pictures, low_level(x, pictures, fold=fold, alphas=[3.0]).pictures, atol=2e-5)
    one = low_level(x, pictures, space=PictureAxes(1), fold=fold)
    assert pixel_correlation(pictures, one.pictures).mean() < pixel_correlation(pictures, axes.pictures).mean() - 0.1


@pytest.mark.parametrize("space", [None, PictureAxes(2)])
def test_a_picture_has_no_part_in_its_own_decoding(small, space) -> None:
    x, pictures, fold = small
    before = low_level(x, pictures, space=space, fold=fold)
    changed = pictures.copy()
    changed[fold == 1] = np.random.default_rng(1).uniform(size=changed[fold == 1].shape)
    after = low_level(x, changed, space=space, fold=fold)
    np.testing.assert_array_equal(before.pictures[fold == 1], after.pictures[fold == 1])
    assert not np.allclose(before.pictures[fold == 2], after.pictures[fold == 2])


def test_an_autoencoder_is_two_functions(small) -> None:
    x, pictures, fold = small
    calls = []

    def encode(seen: np.ndarray) -> np.ndarray:
        calls.append(len(seen))
        return 2 * seen[:, ::4, :1]  # (n, 3, 1): one number a shade

    halves = Autoencoder(encode, lambda z: np.repeat(np.repeat(z / 2, 4, axis=1), 4, axis=2))
    found = low_level(x, pictures, space=halves, fold=fold, alphas=[3.0])
    np.testing.assert_allclose(found.pictures, low_level(x, pictures, fold=fold, alphas=[3.0]).pictures, atol=2e-5)
    assert calls.count(len(pictures)) == 1  # each picture is encoded once, not once a fold


def test_latents_are_those_that_are_decoded(small) -> None:
    x, pictures, fold = small
    halves = Autoencoder(lambda seen: 2 * seen[:, ::4, :1], lambda z: np.repeat(np.repeat(z / 2, 4, axis=1), 4, axis=2))
    found = low_level_latents(x, pictures, halves, fold=fold)
    expected = low_level(x, pictures, space=halves, fold=fold).pictures
    np.testing.assert_array_equal(np.clip(halves.decode(found), 0, 1).astype(np.float32), expected)
    with pytest.raises(DataError, match="fitted anew in every fold"):
        low_level_latents(x, pictures, PictureAxes(2), fold=fold)


def test_new_responses_are_decoded_as_those_of_a_fold(small) -> None:
    x, pictures, fold = small
    held = fold == 2
    found, penalty = decode_pictures(x[~held], pictures[~held], x[held], space=PictureAxes(2))
    whole = low_level(x, pictures, space=PictureAxes(2), fold=fold)
    np.testing.assert_array_equal(found, whole.pictures[held])
    assert penalty == whole.alpha[2]


def test_the_space_is_chosen_without_the_pictures_that_it_decodes(small) -> None:
    """Pixels beat a space that holds nothing of the pictures; what a fold holds back does not change its choice."""
    x, pictures, fold = small
    waves = np.arange(48.0).reshape(12, 4)
    blind = Autoencoder(lambda p: np.sin(1e4 * p[:, :1, 0]), lambda z: np.abs(np.sin(z[:, :, None] * waves)))
    spaces = {"blind": blind, "pixels": Pixels()}
    found = low_level_chosen(x, pictures, spaces, fold=fold)
    assert found.space == ("pixels",) * 4
    np.testing.assert_array_equal(found.pictures, low_level(x, pictures, fold=fold).pictures)
    changed = pictures.copy()
    changed[fold == 1] = np.random.default_rng(1).uniform(size=changed[fold == 1].shape)
    again = low_level_chosen(x, changed, spaces, fold=fold)
    np.testing.assert_array_equal(again.pictures[fold == 1], found.pictures[fold == 1])
    assert low_level_chosen(x, pictures, {"blind": blind}, fold=fold).space == ("blind",) * 4


def test_a_choice_needs_something_to_choose_from(small) -> None:
    with pytest.raises(DataError, match="no space is given"):
        low_level_chosen(*small[:2], {})
    with pytest.raises(DataError, match=r"X_new \(3, 5\) must be \(image, 60 voxels"):
        decode_pictures(*small[:2], np.zeros((3, 5)))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, p, f: (x[:-1], p, {}), r"X \(39, 60\).*40 pictures"),
        (lambda x, p, f: (x[0], p, {}), r"X \(60,\)"),
        (lambda x, p, f: (np.where(x > x.max() - 1e-9, np.nan, x), p, {}), "1 NaN or infinite"),
        (lambda x, p, f: (x, 300 * p, {}), r"floats lie in \[0, 1\]"),
        (lambda x, p, f: (x, p, {"fold": f[:-1]}), r"fold gives a label to each of 40.*\(39,\)"),
        (lambda x, p, f: (x, p, {"fold": np.zeros(40)}), "2 or more"),
        (lambda x, p, f: (x[:12], p[:12], {"fold": f[:12]}), "leaves 9 images to train on; 10 are needed"),
        (lambda x, p, f: (x, p, {"fold": f, "space": PictureAxes(30)}), "30 components of 30 training pictures; choose 1 to 29"),
        (lambda x, p, f: (x, p, {"alphas": [-1.0]}), "positive"),
    ],
)
def test_bad_input_is_one_line(small, change, message) -> None:
    x, pictures, more = change(*small)
    with pytest.raises(DataError, match=message) as caught:
        low_level(x, pictures, **more)
    assert "\n" not in str(caught.value)


# --- real fMRI


def stratified(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    fold = np.zeros(len(labels), dtype=np.int64)
    for number, (_, held) in enumerate(StratifiedKFold(10, shuffle=True, random_state=seed).split(labels, labels)):
        fold[held] = number
    return fold


def identified(pictures: np.ndarray, found: Decoded, digits: np.ndarray) -> tuple[float, float]:
    """Two-way identification among all pictures, and among those of the same digit."""
    rows = [p.reshape(len(p), -1) for p in (pictures, found.pictures)]
    return float(two_way(*rows).mean()), float(two_way(*rows, groups=digits).mean())


@pytest.fixture(scope="module")
def digits(test_data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X, pictures of 64 x 64, digit)."""
    recording = digits69.load(test_data / "digits69", standardise=False)
    pictures = resize(recording.stimuli.images[..., 0].astype(np.float32) / 255, 64)
    return recording.responses.data, pictures, recording.stimuli.table["category"].to_numpy()


@pytest.mark.realdata
def test_real_fmri_gives_the_reference_figures(digits, test_data) -> None:
    """References: pixels .897 among all pictures and .823 among those of one digit, latents .915 and .856.

    Over ten seeds of the folds: pixels .899 to .908 and .827 to .843, twenty axes .906 to .917 and .840 to .855, latents
    .918 to .927 and .861 to .872; latents stood .017 and .029 above pixels at least.
    """
    x, pictures, digit = digits
    fold = stratified(digit)
    pixels = identified(pictures, low_level(x, pictures, fold=fold), digit)
    axes = identified(pictures, low_level(x, pictures, space=PictureAxes(20), fold=fold), digit)
    latents = identified(
        pictures, low_level(x, pictures, space=Autoencoder(*grey_functions(test_data / "taef2")), fold=fold), digit
    )
    assert pixels == pytest.approx((0.897, 0.823), abs=0.03)
    assert axes == pytest.approx((0.911, 0.846), abs=0.03)
    assert latents == pytest.approx((0.915, 0.856), abs=0.03)
    assert latents[0] > pixels[0]
    assert latents[1] > pixels[1]


@pytest.mark.realdata
def test_shuffled_brains_tell_nothing(digits) -> None:
    """Twenty shuffles gave .472 to .501 and .467 to .477: a little below .5, since what is left to a decoder that knows nothing
    is the mean of the training pictures, which leaves out the picture that it is asked for."""
    x, pictures, digit = digits
    shuffled = x[np.random.default_rng(0).permutation(len(x))]
    found = identified(pictures, low_level(shuffled, pictures, space=PictureAxes(20), fold=stratified(digit)), digit)
    assert found == pytest.approx((0.48, 0.475), abs=0.03)
