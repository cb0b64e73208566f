"""Atlases and retinotopic templates of a surface: every format gives the same regions, the published ones agree."""

from __future__ import annotations

import base64
import gzip
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable

from brainlens import datasets
from brainlens.datasets.surface_labels import _labels, _numbers, read_labels, read_values, visual_field, with_atlas
from brainlens.datasets.surface_places import _checked
from brainlens.types import DataError, Responses, Surface, check_mat, doors

COUNT, NAMES = 10_242, {0: "???", 1: "V1v", 2: "hV4"}
SPACE = Surface("fsaverage5", np.repeat(["left", "right"], 4), np.array([0, 5, 9, 10_241] * 2))
FSLR = Surface("fs_LR_32k", SPACE.hemisphere, np.array([0, 5, 9, 32_491] * 2))
WANTED = ["V1v", "", "hV4", "V1v", "hV4", "V1v", "", ""]


def numbers(count: int) -> list[np.ndarray]:
    left, right = np.zeros(count, np.int32), np.zeros(count, np.int32)
    left[[0, 9, -1]], right[[0, 5]] = [1, 2, 1], [2, 1]
    return [left, right]


def write_annot(folder: Path) -> list[Path]:
    places = []
    for side, values in zip(("lh", "rh"), numbers(COUNT), strict=True):
        table = np.array([[k * 20, 10, 10, 0, 0] for k in NAMES])
        places.append(folder / f"{side}.my.annot")
        nib.freesurfer.write_annot(places[-1], values, table, list(NAMES.values()), fill_ctab=True)
    return places


def write_mgz(folder: Path) -> list[Path]:
    places = []
    for side, values in zip(("lh", "rh"), numbers(COUNT), strict=True):
        places.append(folder / f"{side}.my.mgz")
        nib.save(nib.MGHImage(values.reshape(-1, 1, 1), np.eye(4)), places[-1])
        (folder / f"{places[-1].name}.ctab").write_text("".join(f"{k} {name} 0 0 0 0\n" for k, name in NAMES.items()))
    return places


def write_gifti(folder: Path) -> list[Path]:
    places = []
    for side, values in zip("LR", numbers(COUNT), strict=True):
        table = GiftiLabelTable()
        for k, name in NAMES.items():
            table.labels.append(GiftiLabel(k))
            table.labels[-1].label = name
        places.append(folder / f"my.{side}.label.gii")
        nib.save(GiftiImage(darrays=[GiftiDataArray(values, "NIFTI_INTENT_LABEL")], labeltable=table), places[-1])
    return places


GIFTI = """<?xml version="1.0" encoding="UTF-8"?>
<GIFTI Version="1.0" NumberOfDataArrays="1">
<DataArray Intent="NIFTI_INTENT_NONE" DataType="NIFTI_TYPE_FLOAT32" ArrayIndexingOrder="RowMajorOrder" Dimensionality="1"
 Dim0="{claimed}" Encoding="GZipBase64Binary" Endian="LittleEndian" ExternalFileName="{outside}" ExternalFileOffset="">
<Data>{data}</Data></DataArray></GIFTI>
"""


def packed_zeros(megabytes: int) -> str:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()
    return base64.b64encode(packed).decode()


@pytest.mark.parametrize("name", ["lh.my.func.gii", "lh.my.label.gii", "lh.inflated.gii.gz"])
@pytest.mark.parametrize("claimed", [40_000_000, 10_242], ids=["said", "not said"])
def test_a_gifti_file_that_unpacks_to_more_than_its_size_bears_is_refused_before(tmp_path: Path, name: str, claimed: int) -> None:
    place, text = tmp_path / name, GIFTI.format(claimed=claimed, outside="", data=packed_zeros(160)).encode()
    place.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    read = {"func": _numbers, "label": _labels}
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"{name}: .* MB unpack to .* more than 200 times"):
        read[name.split(".")[2]](place) if place.suffix == ".gii" else _checked(place, COUNT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_a_gifti_file_of_values_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    place = tmp_path / "in" / "lh.my.func.gii"
    place.write_text(GIFTI.format(claimed=3, outside="../secret.bin", data="").replace("GZipBase64", "ExternalFile"))
    with pytest.raises(DataError, match=r"names '../secret.bin', which lies outside"):
        _numbers(place)


@pytest.mark.parametrize("encoding", ["ASCII", "Base64Binary", "GZipBase64Binary"])
def test_a_gifti_file_of_its_own_size_passes(tmp_path: Path, encoding: str) -> None:
    values = np.random.default_rng(0).standard_normal(70_001).astype(np.float32)  # no multiple of three bytes
    code = nib.gifti.util.gifti_encoding_codes.code[encoding]
    nib.save(GiftiImage(darrays=[GiftiDataArray(values, encoding=code)]), tmp_path / "lh.my.func.gii")
    np.testing.assert_allclose(_numbers(tmp_path / "lh.my.func.gii"), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gzip", "mat"])
def test_no_size_spares_a_packed_file_from_being_counted(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "COUNTED", 1000, raising=False)
    monkeypatch.setattr(doors, "FREE", 1 << 20)
    place = tmp_path / "a"
    if kind == "gzip":
        place.write_bytes(gzip.compress(bytes(4_000_000)))
    else:
        scipy.io.savemat(place, {"x": np.zeros(500_000)}, do_compression=True, appendmat=False)
    assert place.stat().st_size > 1000
    with pytest.raises(DataError, match="more than 200 times"):
        {"gzip": doors.check_gzip, "mat": check_mat}[kind](place)


def write_cifti(folder: Path) -> list[Path]:
    model = nib.cifti2.BrainModelAxis
    masks = [np.arange(32_492) % 3 != 1 for _ in range(2)]
    for mask in masks:
        mask[[0, 5, 9, -1]] = True
    axis = model.from_mask(masks[0], "CortexLeft") + model.from_mask(masks[1], "CortexRight")
    values = np.concatenate([one[mask] for one, mask in zip(numbers(32_492), masks, strict=True)])
    rows = nib.cifti2.LabelAxis(["atlas"], {k: (name, (0.0, 0.0, 0.0, 1.0)) for k, name in NAMES.items()})
    nib.save(nib.Cifti2Image(values[None].astype(np.float32), header=(rows, axis)), folder / "my.dlabel.nii")
    return [folder / "my.dlabel.nii"]


@pytest.mark.parametrize(
    ("write", "space"), [(write_annot, SPACE), (write_mgz, SPACE), (write_gifti, SPACE), (write_cifti, FSLR)]
)
def test_every_format_gives_the_same_regions(write, space: Surface, tmp_path: Path) -> None:
    assert read_labels(write(tmp_path), space).tolist() == WANTED


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda files: files[:1], "1 files are given; a left and a right one"),
        (lambda files: [files[0], files[1].with_name("rh.none.mgz")], "rh.none.mgz is missing"),
        (lambda files: [files[0], Path(__file__)], "is no .annot"),
    ],
)
def test_mistakes_are_one_line(change, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read_labels(change(write_mgz(tmp_path)), SPACE)
    with pytest.raises(DataError, match="10,242 vertices a hemisphere, fsaverage has 163,842"):
        read_labels(write_annot(tmp_path), Surface("fsaverage", SPACE.hemisphere, SPACE.vertex))
    with pytest.raises(DataError, match="outside 0"):
        visual_field(np.array([-90.0]), np.array([3.0]), np.array(["left"]))


def test_the_fields_of_a_template_lie_on_the_other_side() -> None:
    side = np.array(["left", "right", "left", "left", "right"])
    x, y = visual_field(np.array([90.0, 90, 0, 180, 0]), np.array([4.0, 4, 2, 3, 0]), side)
    assert np.allclose(x[:4], [4, -4, 0, 0], atol=1e-12)
    assert np.allclose(y[:4], [0, 0, 2, -3], atol=1e-12)
    assert np.isnan(x[4])  # neither angle nor eccentricity: outside of the template


def test_an_atlas_names_the_regions_of_a_recording_from_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / "responses.npy", rng.normal(size=(10, 8)))
    pd.DataFrame({"stimulus": [f"s{i}" for i in range(10)], "split": ["train"] * 8 + ["test"] * 2}).to_csv(
        folder / "trials.csv", index=False
    )
    units = pd.DataFrame({"hemisphere": SPACE.hemisphere, "vertex": SPACE.vertex, "roi": "early"})
    units.to_csv(folder / "units.csv", index=False)
    from PIL import Image

    for i in range(10):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / "images" / f"s{i}.png")
    left, right = write_annot(tmp_path)
    given = datasets.parse_options("folder", ["mesh=fsaverage5", f"atlas={left},{right}"])
    found = datasets.load("folder", folder, **given).responses.units
    assert found["roi"].tolist() == ["V1", "", "hV4", "V1", "hV4", "V1", "", ""]  # whole regions, as of every recording
    assert found["subregion"].tolist() == WANTED
    assert set(found["roi_given"]) == {"early"}
    with pytest.raises(DataError, match="lie on no surface"):
        with_atlas(Responses(np.zeros((2, 3)), pd.DataFrame({"stimulus": ["a", "b"]}), pd.DataFrame(index=range(3))), ["a"])


@pytest.mark.realdata
def test_the_published_atlases_agree_where_they_overlap(test_data: Path) -> None:
    place = test_data / "fsaverage_visual"
    both = [np.arange(163_842)] * 2
    space = Surface("fsaverage", np.repeat(["left", "right"], 163_842), np.concatenate(both))

    def files(name: str) -> list[Path]:
        return [place / f"{side}.{name}.mgz" for side in ("lh", "rh")]

    wang = read_labels(files("wang15_mplbl.v1_0"), space)
    benson = read_labels(files("benson14_varea.v4_0"), space)
    assert len(set(wang) - {""}) == 25
    for region, parts in {"V1": ("V1v", "V1d"), "V2": ("V2v", "V2d"), "V3": ("V3v", "V3d"), "hV4": ("hV4",), "V3a": ("V3a",),
                          "LO1": ("LO1",)}.items():  # fmt: skip
        inside = np.isin(wang, parts)
        known = benson[inside & (benson != "")]
        names, counts = np.unique(known, return_counts=True)
        assert names[counts.argmax()] == region  # the two are drawn by different people
    shares = [(benson[wang == name] == "LO2").mean() for name in ("LO2", "LO1")]
    assert shares[0] > 5 * shares[1]  # which of the two numbers is LO2, though Benson's LO1 reaches into Wang's LO2
    x, y = visual_field(read_values(files("benson14_angle.v4_0"), space), read_values(files("benson14_eccen.v4_0"), space),
                        space.hemisphere)  # fmt: skip
    for part, sign in (("V1v", 1), ("V1d", -1)):  # the lower bank of the calcarine sees what is above
        assert (np.sign(y[(wang == part) & np.isfinite(y)]) == sign).mean() > 0.8
    assert (
        x[(wang == "V1v") & (space.hemisphere == "left") & np.isfinite(x)] > -1e-3
    ).all()  # angles are off by 2e-4 degrees in the file
    glasser = read_labels(files("glasser16_atlas.v1_0"), space)
    overlap = glasser[np.isin(wang, ("V1v", "V1d")) & (glasser != "")]
    assert (overlap == "1").mean() > 0.5  # area 1 of Glasser is V1; the file has numbers alone
