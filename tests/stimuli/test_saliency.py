"""The saliency filter against scipy.ndimage, stage by stage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from brainlens.backbones import vision
from brainlens.stimuli.saliency import (
    Filtered,
    FilterSettings,
    Saliency,
    cut_square,
    filtered,
    saliency,
    saliency_stimuli,
    stage_names,
)
from brainlens.types import DataError, Stimuli


def pictures(n: int = 3, size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def unit(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference(picture: np.ndarray) -> dict[str, np.ndarray]:
    """One picture in float64 with scipy."""
    rgb = picture / 255.0
    grey = rgb @ [0.299, 0.587, 0.114]
    smooth, slope = np.array([1, 6, 15, 20, 15, 6, 1.0]), np.array([-1, -4, -5, 0, 5, 4, 1.0])
    gx, gy = (ndimage.correlate(grey, np.outer(a, b), mode="nearest") for a, b in ((smooth, slope), (slope, smooth)))
    found = {"edges": np.hypot(gx, gy), "luminance": abs(grey - grey.mean()), "contrast": abs(grey - grey.std())}
    found["colour"] = sum(abs(rgb[..., i] - rgb[..., j]) for i in range(3) for j in range(3) if i != j)
    found["exogenous"] = (found["luminance"] + found["contrast"] + found["colour"]) / 3
    found["gate"] = sigmoid(unit(found["edges"])) - sigmoid(unit(found["exogenous"])) + 0.5
    gauss = [
        ndimage.gaussian_filter(found["gate"], s, mode="nearest", truncate=4.0)
        - 0.5 * ndimage.gaussian_filter(found["gate"], 2 * s, mode="nearest", truncate=4.0)
        for s in (1.0, 2.0, 4.0)
    ]
    found["antagonism"] = abs(np.mean(gauss, axis=0)) ** 1.2
    found["attention"] = unit(found["antagonism"])
    return found | {"image": rgb * found["attention"][..., None]}


def test_every_stage_equals_scipy() -> None:
    images = pictures()
    ours = saliency(images)
    for i, picture in enumerate(images):
        for name, truth in reference(picture).items():
            assert np.abs(getattr(ours, name)[i] - truth).max() < 2e-5 * max(1.0, np.abs(truth).max()), name


def test_a_picture_does_not_depend_on_its_batch_and_stages_are_all_there() -> None:
    images = pictures()
    alone, together = saliency(images[1:2]), saliency(images)
    assert np.allclose(alone.attention[0], together.attention[1], atol=1e-6)
    assert stage_names() == list(Saliency.__dataclass_fields__)
    assert together.attention.min() >= 0
    assert together.attention.max() <= 1


def test_constants_are_arguments() -> None:
    images = pictures(1)
    base = saliency(images)
    for change in ({"sobel": 3}, {"eta": 1.0}, {"scales": (1.0, 2.0)}, {"surround": 0.9}, {"gamma": 2.0}, {"alphas": (1, 0, 0)}):
        assert np.abs(saliency(images, **change).attention - base.attention).max() > 1e-3, change


def test_a_flat_picture_is_finite() -> None:
    out = saliency(np.full((1, 16, 16, 3), 128, np.uint8))
    assert all(np.isfinite(getattr(out, name)).all() for name in stage_names())


def test_stimuli_keep_their_ids_and_order() -> None:
    images = pictures(5)
    made = saliency_stimuli(Stimuli(np.array(list("abcde")), images), FilterSettings(size=0))
    assert list(made.ids) == list("abcde")
    assert np.array_equal(made.images[3], np.rint(saliency(images[3:4]).image[0] * 255).astype(np.uint8))


def test_the_enhancing_sign_adds_what_the_printed_one_takes_away() -> None:
    """A bright, coloured square on grey: dark inside under the printed sign, bright under the other."""
    picture = np.full((1, 96, 96, 3), 90, np.uint8)
    picture[0, 32:64, 32:64] = (250, 230, 20)
    printed, enhancing = (saliency(picture, sign=sign) for sign in ("printed", "enhancing"))
    expected = sigmoid(unit(printed.edges[0])) + sigmoid(unit(printed.exogenous[0])) + 0.5
    assert np.abs(enhancing.gate[0] - expected).max() < 1e-5
    inside, outside = (slice(44, 52), slice(44, 52)), (slice(4, 12), slice(4, 12))
    assert printed.attention[0][inside].mean() < printed.attention[0][outside].mean()
    assert enhancing.attention[0][inside].mean() > enhancing.attention[0][outside].mean()


def test_pictures_are_cut_to_the_square_of_the_table() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    assert cut_square(wide, 64).shape == (64, 64, 3)
    assert filtered(wide).shape == (224, 224, 3)
    assert filtered(wide, FilterSettings(size=0)).shape == wide.shape
    square = np.ascontiguousarray(wide[:, 15:65])
    assert np.abs(cut_square(wide, 50).astype(int) - square).max() == 0


def test_brightness_comes_back() -> None:
    picture = pictures(1)[0]
    plain, bright = (filtered(picture, FilterSettings(size=0, brightness=b)) for b in (False, True))
    assert plain.mean() < 0.6 * picture.mean()
    assert bright.mean() == pytest.approx(picture.mean(), rel=0.03)


def test_filtered_pictures_are_hashed_without_being_filtered(monkeypatch) -> None:
    stimuli = Stimuli(np.array(list("ab")), pictures(2))
    own = vision._pictures_hash(stimuli)
    settings = [FilterSettings(), FilterSettings("enhancing"), FilterSettings(size=0), FilterSettings(brightness=True)]
    monkeypatch.setattr(Filtered, "__getitem__", lambda *_: pytest.fail("a picture was filtered for its hash"))
    hashes = [vision._pictures_hash(saliency_stimuli(stimuli, each)) for each in settings]
    assert len({own, *hashes}) == 5
    assert vision._pictures_hash(saliency_stimuli(stimuli, FilterSettings())) == hashes[0]


def test_settings_that_do_not_exist_are_named() -> None:
    with pytest.raises(DataError, match="sign 'reversed' is not one of printed, enhancing"):
        FilterSettings("reversed")
    with pytest.raises(DataError, match="size 8 must be 0"):
        FilterSettings(size=8)


@pytest.mark.parametrize(
    "images, arguments, text",
    [
        (np.zeros((4, 4, 3), np.uint8), {}, "n, h, w, 3"),
        (np.full((1, 4, 4, 3), 7.0), {}, "uint8 or floats"),
        (np.full((1, 4, 4, 3), np.nan), {}, "uint8 or floats"),
        (np.zeros((1, 4, 4, 3)), {"sobel": 4}, "odd"),
        (np.zeros((1, 4, 4, 3)), {"scales": ()}, "above 0"),
    ],
)
def test_mistakes_are_one_line(images: np.ndarray, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(DataError, match=text):
        saliency(images, **arguments)  # type: ignore[arg-type]
