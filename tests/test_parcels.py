"""Parcels: labels by value, spaces by millimetres, and what is refused."""

from __future__ import annotations

import hashlib

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainlens.parcels import (
    Parcels,
    annot_parcels,
    atlas_parcels,
    cubic_parcels,
    label_parcels,
    lookup,
    region_parcels,
    reliability,
    schaefer_parcels,
    window_parcels,
)
from brainlens.types import DataError, Responses, Surface, Volume

AFFINE = np.array([[4.0, 0, 0, -18], [0, 4, 0, -10], [0, 0, 4, -6], [0, 0, 0, 1]])
FINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, -12], [0, 0, 2, -8], [0, 0, 0, 1]])
TABLE = {7: "LH_Vis", 3: "LH_Mot", 12: "RH_Vis", 5: "RH_Mot"}


@pytest.fixture
def space() -> Volume:
    mask = np.ones((10, 6, 4), bool)
    mask[0, 0] = False
    return Volume(mask, AFFINE)


def atlas(flip: bool = False) -> nib.Nifti1Image:
    """At 2 mm: left of x = 0 labels 7 (back) and 3 (front), right 12 and 5."""
    shape = (22, 14, 10)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    mm = index @ FINE[:3, :3].T + FINE[:3, 3]
    left = (mm[..., 0] < 0) != flip
    back = mm[..., 1] < 0
    grid = np.where(left, np.where(back, 7, 3), np.where(back, 12, 5))
    return nib.Nifti1Image(grid.astype(np.int16), FINE)


def test_an_atlas_of_another_resolution_is_read_in_millimetres(space):
    found = atlas_parcels(space, atlas(), TABLE)
    xyz = space.coordinates()
    expected = np.array([f"{'LH' if x < 0 else 'RH'}_{'Vis' if y < 0 else 'Mot'}" for x, y, _ in xyz])
    assert found.names == ("LH_Mot", "LH_Vis", "RH_Mot", "RH_Vis")
    assert (np.array(found.names)[found.label] == expected).all()
    assert found.sizes.sum() == len(space)
    for name, units in zip(found.names, found.members, strict=True):
        assert (units == np.flatnonzero(expected == name)).all()


def test_the_order_of_the_table_says_nothing(space):
    turned = dict(reversed(TABLE.items()))
    frame = pd.DataFrame({"name": list(TABLE.values()), "index": list(TABLE), "color": 0})
    for table in (turned, frame):
        found = atlas_parcels(space, atlas(), table)
        assert (found.label == atlas_parcels(space, atlas(), TABLE).label).all()


def test_only_some_parcels_in_the_order_asked_for(space):
    found = atlas_parcels(space, atlas(), TABLE, only=["RH_Vis", "LH_Mot"])
    assert found.names == ("RH_Vis", "LH_Mot")
    whole = atlas_parcels(space, atlas(), TABLE)
    assert (found.members[0] == whole.members[3]).all()
    assert (found.label == -1).sum() == whole.sizes[[1, 2]].sum()


def test_files_are_read_and_their_hash_is_checked(space, tmp_path):
    path = tmp_path / "atlas.nii.gz"
    nib.save(atlas(), path)
    (tmp_path / "labels.txt").write_text("# value name\n" + "".join(f"{v}\t{n} 120 18 131 0\n" for v, n in TABLE.items()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = atlas_parcels(space, path, tmp_path / "labels.txt", sha256=digest)
    assert (found.label == atlas_parcels(space, atlas(), TABLE).label).all()
    with pytest.raises(DataError, match="it is another version"):
        atlas_parcels(space, path, TABLE, sha256="0" * 64)


def test_the_fetched_atlas_is_named_by_its_table_and_checked(space, monkeypatch, tmp_path):
    from nilearn import datasets
    from sklearn.utils import Bunch

    names = {1: "LH_Vis", 2: "LH_Mot", 3: "RH_Vis", 4: "RH_Mot"}
    grid = np.asarray(atlas().dataobj)
    numbers = np.select([grid == 7, grid == 3, grid == 12], [1, 2, 3], 4).astype(np.int16)
    path = tmp_path / "Schaefer.nii.gz"
    nib.save(nib.Nifti1Image(numbers, FINE), path)
    lut = pd.DataFrame({"index": [0, *names], "name": ["Background", *names.values()]})
    asked = {}

    def fetch(**given):
        asked.update(given)
        return Bunch(maps=str(path), lut=lut, labels=["Background", *reversed(names.values())])

    monkeypatch.setattr(datasets, "fetch_atlas_schaefer_2018", fetch)
    found = schaefer_parcels(space, 4)
    assert asked["n_rois"] == 4
    whole = atlas_parcels(space, atlas(), TABLE)
    assert found.names == whole.names
    assert (found.label == whole.label).all()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.source == f"Schaefer.nii.gz (SHA-256 {digest})"
    assert (schaefer_parcels(space, 4, sha256=digest).label == whole.label).all()
    with pytest.raises(DataError, match="it is another version"):
        schaefer_parcels(space, 4, sha256="0" * 64)
    with pytest.raises(DataError, match="do not hold 5 regions once each"):
        schaefer_parcels(space, 5)
    lut.loc[4, "name"] = "RH_Vis"  # two labels of one name
    with pytest.raises(DataError, match="do not hold 4 regions once each"):
        schaefer_parcels(space, 4)
    monkeypatch.setattr(datasets, "fetch_atlas_schaefer_2018", lambda **given: Bunch(maps=str(path), labels=["a"]))
    with pytest.raises(DataError, match="whose order is not trusted"):
        schaefer_parcels(space)

    def fails(**given):
        raise OSError("no network\nhere")

    monkeypatch.setattr(datasets, "fetch_atlas_schaefer_2018", fails)
    with pytest.raises(DataError, match="cannot be fetched") as error:
        schaefer_parcels(space)
    assert "\n" not in str(error.value)


def test_annotations_name_vertices_by_their_own_table(tmp_path):
    names = ["Unknown", "V1", "FFA"]
    colours = np.array([[0, 0, 0, 0], [10, 20, 30, 0], [40, 50, 60, 0]])
    paths = []
    for side, order in (("lh", [1, 2, 0]), ("rh", [2, 0, 1])):
        labels = np.tile(order, 214)
        nib.freesurfer.write_annot(tmp_path / f"{side}.annot", labels, colours, names, fill_ctab=True)
        paths.append(tmp_path / f"{side}.annot")
    space = Surface("fsaverage3", np.repeat(["left", "right"], 6), np.tile(np.arange(6), 2))
    found = annot_parcels(space, *paths)
    assert found.names == ("LH_FFA", "LH_V1", "RH_FFA", "RH_V1")
    assert found.label.tolist() == [1, 0, -1, 1, 0, -1, 2, -1, 3, 2, -1, 3]
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert (annot_parcels(space, *paths, sha256=digests).label == found.label).all()
    with pytest.raises(DataError, match="it is another version"):
        annot_parcels(space, *paths, sha256=digests[::-1])
    with pytest.raises(DataError, match="is for 642 vertices, the left fsaverage5 has 10242"):
        annot_parcels(Surface("fsaverage5", space.hemisphere, space.vertex), *paths)


def test_regions_and_cubes(space):
    units = pd.DataFrame({"roi": ["V1", None, "FFA", "V1", float("nan"), ""]})
    trials = pd.DataFrame({"stimulus": ["a", "b"]})
    found = region_parcels(Responses(np.zeros((2, 6), np.float32), trials, units))
    assert found.names == ("FFA", "V1")
    assert found.label.tolist() == [1, -1, 0, 1, -1, -1]
    cubes = cubic_parcels(space, 3)
    index = np.argwhere(space.mask) // 3
    assert len(cubes) == len(np.unique(index, axis=0))
    assert all((index[units] == index[units[0]]).all() for units in cubes.members)


def test_time_windows_hold_all_channels():
    times = np.arange(-0.1, 0.36, 0.02)  # 23 samples
    found = window_parcels(3, times, 0.1)
    assert found.names == ("-100 to -20 ms", "0 to 80 ms", "100 to 180 ms", "200 to 280 ms", "300 to 340 ms")
    grid = found.label.reshape(3, 23)
    assert (grid == grid[0]).all()
    assert grid[0].tolist() == np.repeat(np.arange(5), [5, 5, 5, 5, 3]).tolist()
    joined = window_parcels(1, times[:-1], 0.1)  # 40 ms would be left
    assert joined.names[-1] == "200 to 320 ms"


def test_a_table_that_starts_at_0_loses_no_region():
    values = np.array([0, 0, 1, 2])
    assert label_parcels(values, {0: "V1", 1: "V2", 2: "V3"}, background=None).sizes.tolist() == [2, 1, 1]
    for name in ("Background", "Unknown", "???", "Clear Label"):  # what tables of atlases call their background
        assert label_parcels(values, {0: name, 1: "V2", 2: "V3"}).label.tolist() == [-1, -1, 0, 1]


def test_a_text_is_one_name_of_a_parcel():
    assert Parcels(("V1", "V2"), np.array([0, 1])).find("V2").tolist() == [1]


def test_the_best_parcels_are_those_of_the_highest_mean():
    parcels = Parcels(("a", "b", "c", "d"), np.array([0, 0, 1, 2, 2, -1, 3, 1]))
    snr = np.array([1.0, 0.0, 0.2, 2.0, np.nan, 9.0, np.nan, 0.4])
    np.testing.assert_allclose(parcels.mean(snr), [0.5, 0.3, 2.0, np.nan])
    kept = parcels.best(snr, 2)
    assert kept.names == ("c", "a")
    assert kept.label.tolist() == [1, 1, -1, 0, 0, -1, -1, -1]
    with pytest.raises(DataError, match="4 parcels are asked for, 3 of given have"):
        parcels.best(snr, 4)


def test_reliability_is_the_share_of_signal():
    """Against the variance of simulated means."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=200_000)
    mean = signal + 2.0 * rng.normal(size=(3, 200_000)).mean(axis=0)
    assert abs(np.corrcoef(signal, mean)[0, 1] ** 2 - reliability(np.array([0.5]), 3)[0]) < 0.01
    assert reliability(np.array([np.nan, 0.0])).tolist() == [0, 0]


def test_bad_input_is_one_clear_line(space, tmp_path):
    moved = FINE.copy()
    moved[0, 3] += 200
    lost = dict(TABLE)
    del lost[12]
    swapped = {7: "RH_Vis", 3: "RH_Mot", 12: "LH_Vis", 5: "LH_Mot"}
    soft = nib.Nifti1Image(np.full((22, 14, 10), 0.5, np.float32), FINE)
    empty = nib.Nifti1Image(np.zeros((22, 14, 10), np.int16), FINE)
    (tmp_path / "bad.txt").write_text("1 V1\ntwo V2\n")
    cases = [
        (
            lambda: atlas_parcels(space, nib.Nifti1Image(atlas().dataobj, moved), TABLE),
            "lie off its grid; it is of another space",
        ),
        (lambda: atlas_parcels(space, empty, TABLE), "no label at any"),
        (lambda: atlas_parcels(space, soft, TABLE), "no 3-D image of whole-number labels"),
        (lambda: atlas_parcels(space, atlas(flip=True), TABLE), "4 of 4 one-sided parcels lie on the other side"),
        (lambda: atlas_parcels(space, atlas(), swapped), "names are of another version"),
        (lambda: atlas_parcels(space, atlas(), lost), r"label 12 \(1 in all\) has no name"),
        (lambda: atlas_parcels(space, atlas(), list(TABLE.values())), "the order of a list is not trusted"),
        (lambda: atlas_parcels(space, atlas(), TABLE, only=["FFA"]), "parcel 'FFA' of the atlas has no units"),
        (lambda: atlas_parcels(space, tmp_path / "none.nii", TABLE), "is not found"),
        (lambda: atlas_parcels(space, np.zeros(3), TABLE), "give a nibabel image"),
        (lambda: label_parcels(np.array([1.5]), TABLE), "whole numbers"),
        (lambda: label_parcels(np.zeros(3, int), TABLE), "there is no parcel"),
        (
            lambda: label_parcels(np.array([0, 1, 1]), {0: "V1", 1: "V2"}),
            "the table names 0, the value of units in no region, 'V1'; give background=None where it is a region",
        ),
        (lambda: label_parcels(np.array(["V1", "V2"]), TABLE), r"got names, first 'V1'; number them with names, numbers = np"),
        (lambda: Parcels(("a",), np.array([0])).best(np.ones(1), 9), "9 parcels are asked for, 1 of given have a signal"),
        (lambda: lookup(pd.DataFrame({"a": [1]})), "columns 'value'"),
        (lambda: lookup({}), "is empty"),
        (lambda: lookup({"V1": 1}), "whole numbers as values, got 'V1'"),
        (lambda: lookup(tmp_path / "bad.txt"), "line 2: 'two V2' is not 'value name'"),
        (lambda: Parcels(("a", "b"), np.array([0, 0])), "parcel 'b' of given has no units"),
        (lambda: Parcels(("a", "a"), np.array([0, 1])), "'a' occurs twice"),
        (lambda: Parcels(("a",), np.array([0, 1])), "number 1 has no name"),
        (lambda: Parcels(("a",), np.array([0.0])), "whole numbers"),
        (lambda: Parcels(("a",), np.array([0])).find(["b"]), "no parcel is called 'b'; there are a"),
        (lambda: cubic_parcels(space, 0), "an edge of 1 voxel or more"),
        (lambda: window_parcels(0, np.arange(5) / 10, 0.2), "1 channel or more"),
        (lambda: window_parcels(2, np.zeros(5), 0.2), "ascending times"),
        (lambda: window_parcels(2, np.arange(5) / 10, 0.05), "shorter than a sample of 0.1 s"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
