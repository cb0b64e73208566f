"""Atlases on a surface: `--parcels LEFT.annot,RIGHT.annot`, and Schaefer's where its files lie on disk."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainlens.datasets.runs import once
from brainlens.reconstruct.regions import Partition, named_sets, partition, schaefer_annot
from brainlens.types import DataError, Responses, Surface, Volume

NAMES = ["Background+FreeSurfer_Defined_Medial_Wall", "7Networks_LH_Vis_1", "7Networks_LH_Vis_2"]


def on_surface(mesh: str = "fsaverage5") -> Responses:
    """Every tenth vertex of both hemispheres."""
    vertex = np.arange(0, 10_242, 10)
    hemisphere = np.repeat(["left", "right"], len(vertex))
    space = Surface(mesh, hemisphere, np.tile(vertex, 2))
    units = pd.DataFrame({"hemisphere": hemisphere})
    return Responses(np.zeros((2, len(units)), np.float32), pd.DataFrame({"stimulus": ["a", "b"]}), units, space)


def annotations(folder: Path, names: tuple[str, str]) -> list[Path]:
    """Files in the real format, of fsaverage5: vertex v has label v mod 3; the right one lists its labels in another order."""
    colours = np.array([[1, 1, 1, 0], [120, 14, 127, 0], [120, 14, 128, 0]])
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for name, side, order in zip(names, ("LH", "RH"), ([0, 1, 2], [2, 0, 1]), strict=True):
        number = np.arange(10_242) % 3  # what a vertex is, wherever it stands in the file's list
        listed = [NAMES[i].replace("LH", side) for i in order]
        labels = np.argsort(order)[number]
        nib.freesurfer.write_annot(folder / name, labels, colours[order], listed, fill_ctab=True)
        out.append(folder / name)
    return out


def test_annotations_of_both_hemispheres_are_parcels_of_a_surface(tmp_path: Path) -> None:
    left, right = annotations(tmp_path, ("lh.my.annot", "rh.my.annot"))
    responses = on_surface()
    found = partition(responses, Partition(f"{left},{right}"))
    kind = np.asarray(responses.space.vertex) % 3
    side = np.where(responses.space.hemisphere == "left", "LH", "RH")
    expected = np.array([f"{s}_7Networks_{s}_Vis_{k}" if k else "" for s, k in zip(side, kind, strict=True)])
    names = np.array([*found.names, ""])
    assert (names[found.label] == expected).all()
    assert named_sets(found, ["RH_Vis"])["RH_Vis"] == [name for name in found.names if name.startswith("RH")]


def test_schaefer_on_a_surface_reads_the_files_that_lie_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"is not fetched: put lh\.Schaefer2018_1000Parcels_7Networks_order\.annot") as error:
        partition(on_surface(), Partition("schaefer"))
    assert "\n" not in str(error.value)
    assert str(tmp_path / "schaefer_2018" / "fsaverage5") in str(error.value)
    assert "--parcels LEFT.annot,RIGHT.annot" in str(error.value)
    names = tuple(f"{side}.Schaefer2018_1000Parcels_7Networks_order.annot" for side in ("lh", "rh"))
    pair = annotations(tmp_path / "schaefer_2018" / "fsaverage5", names)
    assert schaefer_annot("fsaverage5") == tuple(pair)
    given = partition(on_surface(), Partition(",".join(map(str, pair))))
    found = partition(on_surface(), Partition("schaefer"))
    assert found.names == given.names
    assert (found.label == given.label).all()


def test_what_a_surface_cannot_be_cut_into_names_the_way_that_works(tmp_path: Path) -> None:
    left, right = map(str, annotations(tmp_path, ("lh.a.annot", "rh.a.annot")))
    table = tmp_path / "table.txt"
    table.write_text("1 V1")
    way_out = r"give --parcels LEFT\.annot,RIGHT\.annot"
    for make, match in (
        (lambda: Partition(left), "two hemispheres; " + way_out),
        (lambda: Partition(f"{left},{right},{left}"), "two hemispheres; " + way_out),
        (lambda: Partition(f"{left},{tmp_path}/rh.b.annot"), "rh.b.annot' is not found; " + way_out),
        (lambda: partition(on_surface(), Partition("patches")), "patches are cut from voxels .* fsaverage5; " + way_out),
        (lambda: partition(on_surface(), Partition(str(table), str(table))), "table.txt is no pair .* fsaverage5; " + way_out),
        (
            lambda: partition(on_surface("fsaverage6"), Partition(f"{left},{right}")),
            "10242 vertices, the left fsaverage6 has 40962",
        ),
    ):
        with pytest.raises(DataError, match=match) as error:
            make()
        assert "\n" not in str(error.value)
    voxels = Volume(np.ones((2, 2, 2), bool), np.eye(4))
    trials = pd.DataFrame({"stimulus": ["a"]})
    inside = Responses(np.zeros((1, 8), np.float32), trials, pd.DataFrame(index=range(8)), voxels)
    with pytest.raises(DataError, match="annotations are of a surface and this recording has voxels"):
        partition(inside, Partition(f"{left},{right}"))


def test_a_changed_annotation_is_another_call(tmp_path: Path) -> None:
    left, right = annotations(tmp_path / "atlas", ("lh.a.annot", "rh.a.annot"))
    made = []

    def run() -> tuple[Path, list[dict[str, float]]]:
        folder = tmp_path / "runs" / f"reconstruct-{len(made)}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
        made.append(folder)
        return folder, []

    asked = {"asked": {"parcels": {"kind": f"{left},{right}"}}}
    for _ in range(2):
        once("reconstruct", tmp_path / "runs", asked, run)
    assert len(made) == 1
    right.write_bytes(right.read_bytes() + b"0")
    once("reconstruct", tmp_path / "runs", asked, run)
    assert len(made) == 2


@pytest.mark.realdata
def test_the_real_atlas_has_every_region_on_its_side(test_data: Path) -> None:
    pair = ",".join(str(test_data / "atlas" / f"micapipe_{side}.schaefer-1000_fsa5.annot") for side in ("lh", "rh"))
    vertex = np.arange(10_242)
    hemisphere = np.repeat(["left", "right"], len(vertex))
    space = Surface("fsaverage5", hemisphere, np.tile(vertex, 2))
    units = pd.DataFrame({"hemisphere": hemisphere})
    responses = Responses(np.zeros((1, len(units)), np.float32), pd.DataFrame({"stimulus": ["a"]}), units, space)
    found = partition(responses, Partition(pair))
    assert len(found) == 1000
    for name, members in zip(found.names, found.members, strict=True):
        side = "LH" if hemisphere[members[0]] == "left" else "RH"
        assert name.startswith(f"{side}_7Networks_{side}_")
        assert len(set(hemisphere[members])) == 1
