"""Vertices get places in mm, parts of regions become regions, and a test part that is drawn is said."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import fetch_surf_fsaverage

from brainlens import datasets
from brainlens.datasets.surface_places import VERTICES, surface_coordinates
from brainlens.metrics.selectors import hierarchy_slope
from brainlens.subjects import name_regions, region_of, select_regions
from brainlens.types import DataError, Responses, Surface


def whole(mesh: str, count: int) -> Surface:
    return Surface(mesh, np.repeat(["left", "right"], count), np.tile(np.arange(count), 2))


@pytest.mark.parametrize(("shape", "key"), [("inflated", "infl"), ("sphere", "sphere")])
def test_places_of_fsaverage5_are_the_bundled_mesh_with_its_hemispheres_apart(shape, key):
    found = surface_coordinates(whole("fsaverage5", 10_242), shape=shape)
    files = fetch_surf_fsaverage("fsaverage5")
    for side, part in (("left", found[:10_242]), ("right", found[10_242:])):
        plain = np.asarray(nib.load(files[f"{key}_{side}"]).darrays[0].data, float)
        moved = part - plain
        np.testing.assert_allclose(moved - moved[0], 0, atol=1e-4)
        np.testing.assert_allclose(moved[:, 1:], 0, atol=1e-4)
    assert found[:10_242, 0].max() == pytest.approx(-10)
    assert found[10_242:, 0].min() == pytest.approx(10)


@pytest.mark.parametrize("mesh", ["fsaverage6", "fsaverage"])
def test_finer_vertices_lie_between_coarser_ones_and_on_the_sphere(mesh, monkeypatch, tmp_path):
    monkeypatch.delenv("SUBJECTS_DIR", raising=False)
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path))
    count = VERTICES[6 if mesh == "fsaverage6" else 7]
    sphere = surface_coordinates(whole(mesh, count), shape="sphere")[:count]
    centre = sphere[:10_242].mean(axis=0)
    np.testing.assert_allclose(np.linalg.norm(sphere - centre, axis=1), 100, rtol=2e-3)
    coarse = surface_coordinates(whole("fsaverage5", 10_242))
    fine = surface_coordinates(whole(mesh, count))
    np.testing.assert_allclose(fine[:10_242], coarse[:10_242], atol=0.01)
    spacing = np.linalg.norm(np.diff(coarse[:10_242], axis=0), axis=1)
    assert np.ptp(fine[:count], axis=0) == pytest.approx(np.ptp(coarse[:10_242], axis=0), rel=1e-3)
    assert len(np.unique(np.round(sphere, 3), axis=0)) == count  # no vertex twice
    assert spacing.max() > 1


@pytest.mark.realdata
def test_the_order_of_finer_vertices_is_that_of_the_visual_areas(test_data):
    """Neighbours on our sphere are neighbours on the published atlas of fsaverage: they mostly lie in one visual area."""
    from scipy.spatial import cKDTree

    areas = np.asarray(nib.load(test_data / "fsaverage_visual/lh.benson14_varea.v4_0.mgz").dataobj).ravel()
    sphere = surface_coordinates(whole("fsaverage", VERTICES[7]), shape="sphere")[: VERTICES[7]]
    inside = np.flatnonzero(areas > 0)
    _, near = cKDTree(sphere).query(sphere[inside], k=2)
    assert (areas[near[:, 1]] == areas[inside]).mean() > 0.9
    shuffled = np.random.default_rng(0).permutation(areas)
    assert (shuffled[near[:, 1]] == areas[inside]).mean() < 0.1


def test_a_mesh_of_the_user_goes_before_the_bundled_one(tmp_path, monkeypatch):
    points = np.random.default_rng(0).normal(size=(VERTICES[7], 3)) * 50
    for place in (tmp_path / "nsddata/freesurfer/fsaverage/surf", tmp_path / "subjects/fsaverage/surf"):
        place.mkdir(parents=True)
        for side in ("lh", "rh"):
            nib.freesurfer.write_geometry(place / f"{side}.inflated", points, np.zeros((1, 3), int))
    units = Surface("fsaverage", np.array(["left", "left"]), np.array([3, 163_841]))
    expected = points[163_841] - points[3]
    found = surface_coordinates(units, folder=tmp_path)
    np.testing.assert_allclose(found[1] - found[0], expected, atol=1e-3)
    monkeypatch.setenv("SUBJECTS_DIR", str(tmp_path / "subjects"))
    found = surface_coordinates(units)
    np.testing.assert_allclose(found[1] - found[0], expected, atol=1e-3)
    path = tmp_path / "subjects/fsaverage/surf/lh.inflated"
    nib.freesurfer.write_geometry(path, points[:7], np.zeros((1, 3), int))
    with pytest.raises(DataError, match=r"lh\.inflated has \(7, 3\) vertices, \(163842, 3\)"):
        surface_coordinates(units)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="no mesh or damaged"):
        surface_coordinates(units)


def test_places_that_nothing_tells_are_left_out_and_wrong_ones_are_one_line(made_recordings, tmp_path):
    units = Surface("fs_LR_32k", np.array(["left", "right"]), np.array([0, 32_491]))
    assert surface_coordinates(units, folder=tmp_path) is None
    assert surface_coordinates(Surface("my_mesh", units.hemisphere, units.vertex)) is None
    made_recordings.write_fslr(tmp_path / "MNINonLinear")
    assert surface_coordinates(units, folder=tmp_path).shape == (2, 3)
    with pytest.raises(DataError, match="vertex 10242 is not one of fsaverage5"):
        surface_coordinates(Surface("fsaverage5", np.array(["left"]), np.array([10_242])))
    with pytest.raises(DataError, match="'flat' is not one of inflated, sphere"):
        surface_coordinates(units, shape="flat")


@pytest.mark.parametrize(
    ("label", "region"),
    [("V1v", "V1"), ("V2d", "V2"), ("FFA-1", "FFA"), ("VWFA-2", "VWFA"), ("L_V1_ROI", "V1"), ("lh.V3v", "V3")]
    + [(same, same) for same in ("hV4", "V3A", "V3B", "LO1", "IPS0", "OFA", "", "V2V3", "mTL-faces", "PHC2", "none")],
)
def test_labels_become_the_regions_that_they_are_parts_of(label, region):
    assert region_of(label) == region


def responses(labels: list[str]) -> Responses:
    trials = pd.DataFrame({"stimulus": ["a", "b"]})
    return Responses(np.zeros((2, len(labels))), trials, pd.DataFrame({"roi": labels}))


def test_parts_stay_beside_the_regions_and_can_be_chosen():
    named = name_regions(responses(["V1v", "V1d", "V2v", "FFA-1", "FFA-2", ""]))
    assert list(named.units["roi"]) == ["V1", "V1", "V2", "FFA", "FFA", ""]
    assert list(named.units["subregion"]) == ["V1v", "V1d", "V2v", "FFA-1", "FFA-2", ""]
    assert len(select_regions(named, ["V1"]).units) == 2
    assert list(select_regions(named, ["FFA-2", "V2"]).units["subregion"]) == ["V2v", "FFA-2"]
    with pytest.raises(DataError, match="'V9' is not one of whole, visual, FFA, FFA-1, FFA-2, V1, V1d, V1v"):
        select_regions(named, ["V9"])
    plain = responses(["V1", "V2V3", "none"])
    assert name_regions(plain) is plain


def test_the_hierarchy_finds_regions_that_recordings_name_apart():
    rng = np.random.default_rng(0)
    roi = np.repeat(["V1", "V2", "V3", "OPA", "EBA"], 30)
    layer = np.repeat([0, 1, 1, 2, 3], 30)
    omega = np.eye(4)[layer] + 0.1 * rng.random((150, 4))
    omega /= omega.sum(axis=1, keepdims=True)
    found = hierarchy_slope(omega, roi)
    assert found["units"] == 150
    joined = hierarchy_slope(omega, np.where(np.isin(roi, ["V2", "V3"]), "V2V3", roi))
    assert found == joined
    assert found["slope.low"] > 0.5


@pytest.mark.parametrize("shape", ["inflated", "sphere"])
def test_a_recording_on_a_surface_opens_with_places_and_regions(made_recordings: ModuleType, tmp_path: Path, shape):
    made_recordings.write_algonauts(tmp_path)
    with pytest.warns(UserWarning, match="12 of 60 images are drawn for the test"):
        found = datasets.load("algonauts2023", tmp_path, test=0.2, surface=shape)
    units = found.responses.units
    assert {"x", "y", "z", "subregion"} <= set(units.columns)
    assert set(units["roi"]) == {"V1", "V2", "V3", "hV4", "EBA"}
    left = (units["hemisphere"] == "left").to_numpy()
    assert units["x"][left].max() < -9 < 9 < units["x"][~left].min()
    radius = np.linalg.norm(units.loc[left, ["y", "z"]], axis=1)
    assert (radius.max() < 101) == (shape == "sphere") or shape == "inflated"
    assert datasets.split_note("algonauts2023", {"test": 0.2}) == [
        "the challenge keeps the responses to its test images: a share of 0.2 of its images, drawn by number 0, is the test; "
        "results are not of a published split"
    ]
    assert datasets.split_note("nsd", {}) == []
