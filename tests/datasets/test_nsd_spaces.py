"""NSD in small: the whole brain, MNI space through the official transform, COCO captions and objects, fsaverage from files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainlens import datasets
from brainlens.datasets import nsd
from brainlens.datasets.nsd_mni import AFFINE, SHAPE, mni_resampling
from brainlens.types import DataError, Volume


@pytest.fixture(scope="module")
def folder(made_recordings, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("nsd")
    made_recordings.write_nsd(place)
    write_transform(place, made_recordings)
    return place


@pytest.fixture(autouse=True)
def short_sessions(monkeypatch):
    monkeypatch.setattr(nsd, "TRIALS", 60)
    monkeypatch.setattr(nsd, "RUN_TRIALS", (5,) * 12)


def write_transform(folder: Path, made) -> Path:
    """A transform that takes MNI mm to the functional voxels of the same mm, shifted by half a voxel along x."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    mm = index * np.array([-1, 1, 1]) + np.array([90, -126, -72])
    voxel = (mm - made.AFFINE[:3, 3]) / 1.8 + np.array([0.5, 0, 0]) + 1
    outside = ((voxel < 1) | (voxel > np.array(made.GRID))).any(axis=-1)
    voxel[outside] = 9999
    path = folder / "nsddata/ppdata/subj01/transforms/func1pt8-to-MNI.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxel.astype("f4"), np.eye(4)), path)
    return path


def test_mni_betas_are_a_trilinear_mean_at_the_place_that_the_transform_says(made_recordings, folder):
    from scipy.ndimage import map_coordinates

    with pytest.warns(UserWarning, match="hold missing betas"):
        whole = nsd.load(folder, n_sessions=1, resolution="MNI", mask="brain", zscore="none").responses
    assert isinstance(whole.space, Volume)
    np.testing.assert_array_equal(whole.space.affine, AFFINE)
    assert whole.space.mask.shape == (91, 109, 91)
    mm = whole.units[["x", "y", "z"]].to_numpy()
    at = ((mm - made_recordings.AFFINE[:3, 3]) / 1.8 + np.array([0.5, 0, 0])).T
    inside = ((at >= 0) & (at <= np.array(made_recordings.GRID)[:, None] - 1)).all(axis=0)
    assert 50 < inside.sum() < len(mm)
    np.testing.assert_array_equal(np.isfinite(whole.data).all(axis=0), inside)
    (path,) = folder.rglob("betas_session01.nii.gz")
    stored = np.asarray(nib.load(path).dataobj, float) / 300
    for trial in (0, 31):
        plain = map_coordinates(stored[..., trial], at[:, inside], order=1)
        np.testing.assert_allclose(whole.data[trial, inside], plain, atol=2e-5)
    part = nsd.load(folder, n_sessions=1, resolution="MNI", zscore="none").responses  # nsdgeneral, by the nearest voxel
    assert 20 < part.data.shape[1] < inside.sum()
    assert set(part.units["roi"]) > {"V1v", "hV4"}
    assert np.isfinite(part.data).all()


def test_a_transform_of_another_volume_is_one_line(tmp_path):
    grid = Volume(np.ones((4, 4, 4), bool), np.eye(4))
    with pytest.raises(DataError, match="is missing; it is the transform"):
        mni_resampling(tmp_path / "none.nii.gz", grid, np.ones((91, 109, 91), bool))
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), "f4"), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="a transform to MNI space has"):
        mni_resampling(tmp_path / "a.nii.gz", grid, np.ones((91, 109, 91), bool))
    nib.save(nib.Nifti1Image(np.full((*SHAPE, 3), 9999, "f4"), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(DataError, match="none of the voxels lies in the functional volume"):
        mni_resampling(tmp_path / "b.nii.gz", grid, np.ones((91, 109, 91), bool))


def test_the_whole_brain_and_resolutions(folder):
    assert nsd.load(folder, n_sessions=1, mask="brain").responses.data.shape == (60, 12 * 14 * 10)
    with pytest.raises(DataError, match="'MNI2' is not one of func1pt8mm, func1mm, fsaverage, MNI"):
        nsd.load(folder, n_sessions=1, resolution="MNI2")
    with pytest.raises(DataError, match="take 'brain' for the whole brain"):
        nsd.load(folder, n_sessions=1, mask="V9")
    with pytest.raises(DataError, match="surface=inflated: these responses lie on no surface"):
        datasets.load("nsd", folder, n_sessions=1, surface="inflated")


def test_captions_and_kinds_are_those_of_coco(folder, tmp_path, made_recordings):
    stimuli = nsd.load(folder, n_sessions=2).stimuli
    numbers = stimuli.table["nsd"].to_numpy()
    things = ("boat", "dog", "pizza")
    assert [c[0].split()[2] for c in stimuli.captions] == [things[n % 3] for n in numbers]
    assert list(stimuli.table["category"]) == [things[n % 3] for n in numbers]
    elsewhere = tmp_path / "coco"
    elsewhere.mkdir()
    rows = [{"image_id": 100_000 + int(n), "caption": f"picture {n}"} for n in numbers]
    (elsewhere / "captions_val2017.json").write_text(json.dumps({"annotations": rows}))
    other = nsd.load(folder, n_sessions=2, captions=str(elsewhere)).stimuli
    assert other.captions[0] == [f"picture {numbers[0]}"]
    assert "category" not in other.table.columns
    (elsewhere / "captions_val2017.json").write_text(json.dumps({"annotations": rows[1:]}))
    with pytest.raises(DataError, match="1 of 60 images have no caption"):
        nsd.load(folder, n_sessions=2, captions=str(elsewhere))
    (elsewhere / "captions_val2017.json").write_text("[]")
    with pytest.raises(DataError, match="no annotation file of COCO"):
        nsd.load(folder, n_sessions=2, captions=str(elsewhere))
    with pytest.raises(DataError, match=r"no file captions_train2017\.json"):
        nsd.load(folder, n_sessions=2, captions=str(tmp_path))


def test_fsaverage_betas_of_full_length_get_places(made_recordings, tmp_path):
    made_recordings.write_nsd_surface(tmp_path)
    found = datasets.load("nsd", tmp_path, n_sessions=2, resolution="fsaverage").responses
    assert found.data.shape == (120, 120)
    assert {"x", "y", "z"} <= set(found.units.columns)
    assert set(found.units["roi"]) == {"V1", "V2", "V3", "hV4"}
