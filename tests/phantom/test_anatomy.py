"""The phantom's grid is FSL's, its regions lie where they should and follow the subject."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from brainlens.phantom.anatomy import REGIONS, affine, anatomy
from brainlens.types import DataError


def test_the_2mm_grid_is_the_fsl_grid_and_the_4mm_grid_is_every_second_voxel_of_it() -> None:
    fine, _ = anatomy("2mm")
    coarse, _ = anatomy("4mm")
    assert fine.mask.shape == (91, 109, 91)
    assert coarse.mask.shape == (46, 55, 46)
    np.testing.assert_array_equal(fine.affine, [[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    np.testing.assert_array_equal(coarse.affine[:3, 3], fine.affine[:3, 3])
    np.testing.assert_array_equal(fine.mask[::2, ::2, ::2], coarse.mask)


@pytest.mark.realdata
def test_the_brain_overlaps_the_mask_of_fsl(test_data) -> None:
    fsl = nib.load(test_data / "atlas" / "MNI152_T1_2mm_brain_mask.nii.gz")
    ours, _ = anatomy("2mm")
    theirs = np.asarray(fsl.dataobj) > 0
    np.testing.assert_allclose(fsl.affine, ours.affine)
    dice = 2 * (theirs & ours.mask).sum() / (theirs.sum() + ours.mask.sum())
    assert dice > 0.95


def test_units_are_the_voxels_of_the_mask_in_order() -> None:
    space, units = anatomy("4mm")
    np.testing.assert_array_equal(units[["x", "y", "z"]].to_numpy(), space.coordinates())
    assert len(units) == len(space)
    assert ((units["x"] > 0) == (units["hemisphere"] == "right")).all()


@pytest.mark.parametrize("grid, low, high", [("4mm", 1200, 1600), ("2mm", 9600, 12800)])
def test_regions_hold_about_the_planned_number_of_voxels(grid: str, low: int, high: int) -> None:
    _, units = anatomy(grid)
    inside = units[units["roi"] != "none"]
    assert low <= len(inside) <= high
    assert inside["grey"].all()
    assert set(inside["roi"]) == set(REGIONS)
    for name, (_, _, sides) in REGIONS.items():
        assert set(inside.loc[inside["roi"] == name, "hemisphere"]) == set(sides)


def test_regions_lie_at_their_centres_and_move_with_the_subject() -> None:
    centres = {}
    for subject in (1, 2):
        _, units = anatomy("4mm", subject=subject)
        for name, (places, radius, _) in REGIONS.items():
            rows = units[(units["roi"] == name) & (units["hemisphere"] == "left")]
            expected = np.mean(places, axis=0) * [-1, 1, 1]
            found = rows[["x", "y", "z"]].mean().to_numpy()
            assert np.linalg.norm(found - expected) < radius, name
            centres[name, subject] = found
    moved = [np.linalg.norm(centres[name, 1] - centres[name, 2]) for name in REGIONS]
    assert 0.5 < np.mean(moved) < 6


def test_the_same_subject_is_the_same_brain() -> None:
    first, again = anatomy("4mm", subject=3, seed=5)[1], anatomy("4mm", subject=3, seed=5)[1]
    assert first.equals(again)
    assert not first["roi"].equals(anatomy("4mm", subject=3, seed=6)[1]["roi"])


@pytest.mark.parametrize("arguments, text", [({"grid": "3mm"}, "2mm"), ({"subject": 0}, "numbered")])
def test_mistakes_are_named(arguments: dict, text: str) -> None:
    with pytest.raises(DataError, match=text):
        anatomy(**arguments)


def test_affine_agrees_with_the_volume() -> None:
    np.testing.assert_array_equal(affine("4mm"), anatomy("4mm")[0].affine)
