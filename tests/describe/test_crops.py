"""Crops where a voxel's readout is high: Otsu's threshold, boxes, what is exact, and crops that voxels share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from brainlens.describe.crops import STEP, CropPool, crop, map_boxes, overlap
from brainlens.types import DataError, Features, Stimuli


def bump(top: int, left: int, bottom: int, right: int, height: float = 1.0) -> np.ndarray:
    values = np.zeros((32, 32))
    values[top:bottom, left:right] = height
    return values


def test_the_threshold_maximises_equation_1() -> None:
    """skimage's threshold gives the largest P_b P_f (r_b - r_f)^2 of all, by a plain loop over the map's values."""
    values = np.random.default_rng(0).beta(0.4, 0.6, (32, 32))

    def q2(at: float) -> float:
        above = values > at
        return above.mean() * (1 - above.mean()) * (values[above].mean() - values[~above].mean()) ** 2

    best = max(q2(at) for at in np.sort(values.ravel())[:-1])
    assert q2(threshold_otsu(values)) > 0.999 * best  # 256 bins


@pytest.mark.parametrize("shift", [-3.0, 0.0, 100.0])
@pytest.mark.parametrize("scale", [0.01, 50.0])
def test_signed_maps_give_the_boxes_of_their_shape(shift, scale) -> None:
    values = bump(4, 4, 12, 16) + bump(20, 20, 28, 28, 0.9)
    assert map_boxes(scale * values + shift) == [(2, 2, 6, 8), (10, 10, 14, 14)]


def test_boxes_that_say_nothing_are_dropped() -> None:
    assert map_boxes(np.full((32, 32), 2.5)) == []
    assert map_boxes(bump(0, 0, 32, 31)) == []  # nearly the picture
    assert map_boxes(bump(4, 4, 5, 5)) == []  # of one step only
    many = sum(bump(8 * i, 8 * j, 8 * i + 6, 8 * j + 6) for i in range(4) for j in range(4))
    assert len(map_boxes(many)) == 4
    ring = bump(2, 2, 26, 26) - bump(4, 4, 24, 24) + bump(5, 5, 23, 23)
    assert map_boxes(ring) == [(1, 1, 13, 13)]  # the inner region lies in the box of the outer one by more than half
    with pytest.raises(DataError, match="NaN"):
        map_boxes(np.full((4, 4), np.nan))


def test_overlap_and_crops_by_hand() -> None:
    assert overlap((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert overlap((0, 0, 4, 4), (4, 4, 6, 6)) == 0
    image = np.arange(32 * 16 * 3, dtype=np.uint8).reshape(32, 16, 3)
    np.testing.assert_array_equal(crop(image, (4, 4, 8, 16)), image[8:16, 4:16])
    with pytest.raises(DataError, match="no pixel"):
        crop(np.zeros((4, 4, 3), np.uint8), (0, 0, 1, 1))


@pytest.fixture(scope="module")
def pool() -> CropPool:
    """Pictures whose left or right half holds the direction that a voxel reads; features are means over places."""
    rng = np.random.default_rng(0)
    n, side = 12, 8
    tokens = 0.05 * rng.standard_normal((n, side, side, 4)).astype(np.float32)
    tokens[:, 2:6, 1:4, 0] += 1
    tokens[:, 2:6, 5:8, 1] += 1
    images = np.zeros((n, 64, 64, 3), np.uint8)
    images[:, 16:48, 8:32] = 200
    ids = np.array([f"p{i}" for i in range(n)])
    flat = tokens.reshape(n, side * side, 4)
    places = Features({"image": flat.mean(axis=1)}, ids, "net", {"image": flat}, {"image": (side, side)})
    stimuli = Stimuli(ids, images, [["a cat"] if i % 2 else ["a boat"] for i in range(n)])

    def extract(pictures: Stimuli) -> Features:
        rows = np.stack([np.r_[np.mean(image, axis=(0, 1)), len(image)] for image in pictures.images])
        return Features({"image": rows.astype(np.float32)}, pictures.ids, "net")

    return CropPool(stimuli, places, extract, images=3)


def test_crops_are_where_the_readout_is_and_are_shared(pool) -> None:
    weights = np.zeros((5, 4), np.float32)
    weights[:3, 0] = [1, 2, 3]  # three voxels of one direction ask for the same crops
    weights[3:, 1] = 1
    present = np.array([[i % 2 == 0, i % 2 == 1] for i in range(12)])
    made = pool.make(
        SimpleNamespace(coef_=weights), pool.tokens.data["image"], np.arange(12), present=present, nouns=["boat", "cat"]
    )
    assert made.wanted == len(made.x) <= 6
    assert {box[1] < STEP // 2 for box in made.boxes} == {True, False}
    for box in made.boxes:
        assert overlap(box, (4, 2, 12, 8)) > 0.6 or overlap(box, (4, 10, 12, 16)) > 0.6
    left = [i for i, box in enumerate(made.boxes) if box[1] < STEP // 2]
    assert (made.x[left, 0] > 120).all()  # the crop shows the bright patch
    np.testing.assert_array_equal(made.present, present[made.image])


def test_the_mean_of_a_map_is_the_response_where_pooling_is_the_mean(pool) -> None:
    w = np.random.default_rng(1).standard_normal(4)
    maps = pool.tokens.tokens["image"] @ w
    np.testing.assert_allclose(maps.mean(axis=1), pool.tokens.data["image"] @ w, rtol=1e-4)


def test_captions_of_crops_replace_those_of_the_picture(pool) -> None:
    from dataclasses import replace

    said = replace(pool, caption=lambda pictures: [["a cat"] for _ in pictures.ids])
    weights = np.array([[1.0, 0, 0, 0]], np.float32)
    made = said.make(
        SimpleNamespace(coef_=weights),
        pool.tokens.data["image"],
        np.arange(12),
        present=np.zeros((12, 2), bool),
        nouns=["boat", "cat"],
    )
    assert made.present[:, 1].all()
    assert not made.present[:, 0].any()


def test_crops_need_places_of_the_same_layers(pool) -> None:
    with pytest.raises(DataError, match="channels"):
        pool.make(
            SimpleNamespace(coef_=np.ones((1, 6))),
            np.ones((12, 6), np.float32),
            np.arange(12),
            present=np.ones((12, 1), bool),
            nouns=["cat"],
        )
    flat = np.zeros((1, 4), np.float32)
    made = pool.make(
        SimpleNamespace(coef_=flat), pool.tokens.data["image"], np.arange(12), present=np.ones((12, 1), bool), nouns=["cat"]
    )
    assert len(made.x) == 0  # equal maps give no crops
