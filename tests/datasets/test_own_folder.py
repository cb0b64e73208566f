"""fMRI of one's own in a plain folder: every file format gives the same recording, and every mistake is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
import transformers
from PIL import Image

from brainlens import datasets, report, store
from brainlens.backbones import vision
from brainlens.datasets.audit import _values, audit
from brainlens.datasets.runs import keep
from brainlens.datasets.shown_stimuli import shown_stimuli
from brainlens.datasets.source import Source, open_recording
from brainlens.report.audit_page import write_page
from brainlens.types import DataError, Responses, Result, Surface, Volume

IDS = [f"{i:03d}" for i in range(12)]
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])


def write(folder: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """12 pictures in 2 sessions, 5 voxels that answer to them, as a person would write them."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for i, name in enumerate(IDS):
        Image.fromarray(rng.integers(0, 255, (9 + i, 8, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
    trials = pd.DataFrame({"stimulus": [*IDS, *IDS[::-1]], "session": ["1"] * 12 + ["2"] * 12})
    trials["split"] = np.where(trials["stimulus"].isin(IDS[:4]), "test", "train")
    pattern = dict(zip(IDS, rng.normal(size=(12, 5)), strict=True))
    data = np.stack([pattern[name] for name in trials["stimulus"]]) + 0.3 * rng.normal(size=(24, 5))
    np.save(folder / "responses.npy", data)
    trials.to_csv(folder / "trials.csv", index=False)
    mask = np.zeros((3, 2, 2), np.uint8)
    mask.ravel()[[0, 3, 4, 8, 11]] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "mask.nii.gz")
    pd.DataFrame({"roi": ["V1", "V1", "V2", "FFA", "FFA"], "ncsnr": [0.5] * 5}).to_csv(folder / "units.csv", index=False)
    (folder / "captions.json").write_text('{"000": "a red thing", "001.png": ["one", "two"], "002": null}', encoding="utf-8")
    return data, trials


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "meine Daten"
    write(folder)
    return folder


@pytest.fixture
def own(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "own"))


def test_the_folder_is_the_recording(written: Path) -> None:
    responses, stimuli = datasets.load("folder", written)
    np.testing.assert_allclose(responses.data, np.load(written / "responses.npy"))
    assert responses.trials["stimulus"].tolist() == [*IDS, *IDS[::-1]]  # 001 stays a text
    assert responses.trials["repeat"].tolist() == [1] * 12 + [2] * 12
    assert responses.where(split="test").trials["stimulus"].nunique() == 4
    assert isinstance(responses.space, Volume)
    np.testing.assert_allclose(responses.units[["x", "y", "z"]].iloc[1], [0, 8, 8])  # voxel 3 of 3 x 2 x 2 in C order
    assert responses.units["roi"].tolist() == ["V1", "V1", "V2", "FFA", "FFA"]
    assert responses.units["ncsnr"].dtype == float
    assert stimuli.ids.tolist() == IDS
    assert [np.shape(image) for image in stimuli.images][:2] == [(9, 8, 3), (10, 8, 3)]
    assert stimuli.captions[:4] == [["a red thing"], ["one", "two"], [], []]


def as_csv(folder: Path, data: np.ndarray) -> None:
    np.savetxt(folder / "responses.csv", data, delimiter=",", header="a,b,c,d,e", comments="", fmt="%.17g")


def as_mat73(folder: Path, data: np.ndarray) -> None:
    with h5py.File(folder / "responses.mat", "w", userblock_size=512) as file:
        file["responses"] = data.T  # MATLAB stores columns first
        file["other"] = np.zeros((3, 3))
        for name in file:
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    with open(folder / "responses.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def as_h5(folder: Path, data: np.ndarray) -> None:
    with h5py.File(folder / "responses.h5", "w") as file:
        file["betas"] = data


def as_nifti(folder: Path, data: np.ndarray) -> None:
    inside = np.asarray(nib.load(folder / "mask.nii.gz").dataobj) > 0
    values = np.zeros((*inside.shape, len(data)))
    values[inside] = data.T
    nib.save(nib.Nifti1Image(values, AFFINE), folder / "responses.nii.gz")


@pytest.mark.parametrize(
    "store",
    [
        as_csv,
        lambda folder, data: scipy.io.savemat(folder / "responses.mat", {"betas": data, "note": "x"}),
        as_mat73,
        as_h5,
        as_nifti,
    ],
    ids=["csv", "mat", "mat73", "h5", "nifti"],
)
def test_every_format_holds_the_same_numbers(own: Path, store: Callable[[Path, np.ndarray], None]) -> None:
    data = np.load(own / "responses.npy")
    (own / "responses.npy").unlink()
    store(own, data)
    np.testing.assert_allclose(datasets.load("folder", own).responses.data, data, rtol=1e-6)


def test_a_split_is_drawn_by_image_and_said(own: Path) -> None:
    trials = pd.read_csv(own / "trials.csv", dtype=str)
    trials.drop(columns=["split", "session"]).to_csv(own / "trials.csv", index=False)
    with pytest.warns(UserWarning, match=r"no column split: 4 of 12 images are drawn for the test \(--option test=, draw=\)"):
        one = datasets.load("folder", own, test=0.3).responses.trials
    with pytest.warns(UserWarning, match="drawn"):
        same, other = (datasets.load("folder", own, test=0.3, draw=draw).responses.trials for draw in (0, 1))
    assert one.equals(same)
    assert not one["split"].equals(other["split"])
    assert one.groupby("stimulus")["split"].nunique().max() == 1
    assert set(one["session"]) == {"1"}


def test_a_result_says_that_its_test_was_drawn(own: Path, tmp_path: Path) -> None:
    """The warning of the terminal is gone once the page is read by another."""
    source = Source("folder", own, options={"test": 0.3})
    given = store.load_result(keep(Result("encode", {}), tmp_path, source)).config.get("warnings", [])
    assert not any("drawn for the test" in text for text in given)  # as the folder is: nothing is drawn
    trials = pd.read_csv(own / "trials.csv", dtype=str)
    trials.drop(columns=["split", "session"]).to_csv(own / "trials.csv", index=False)
    with pytest.warns(UserWarning, match="4 of 12 images are drawn"):
        open_recording(source, embeddings=False)
    folder = keep(Result("encode", {}), tmp_path, replace(source, subjects=()))
    result = store.load_result(folder)
    assert sum("4 of 12 images are drawn for the test" in text for text in result.config["warnings"]) == 1
    assert "4 of 12 images are drawn for the test" in report.render([("mine", result)])
    assert folder == keep(Result("encode", {}), tmp_path, Source("folder", own, options={"test": 0.3}))  # older runs are found


def test_surfaces_and_folders_without_places(own: Path) -> None:
    (own / "mask.nii.gz").unlink()
    assert datasets.load("folder", own).responses.space is None
    table = pd.DataFrame({"hemisphere": ["left"] * 3 + ["right"] * 2, "vertex": [0, 5, 10_241, 1, 2]})
    table.to_csv(own / "units.csv", index=False)
    space = datasets.load("folder", own, mesh="fsaverage5").responses.space
    assert isinstance(space, Surface)
    assert space.vertex.tolist() == [0, 5, 10_241, 1, 2]
    (own / "units.csv").unlink()
    assert len(datasets.load("folder", own).responses.units) == 5


def test_a_table_of_stimuli_names_files_and_categories(own: Path) -> None:
    (own / "images").rename(own / "pictures")
    table = pd.DataFrame({"stimulus": IDS, "file": [f"pictures/{name}.png" for name in IDS], "category": ["a", "b"] * 6})
    table.to_csv(own / "stimuli.csv", index=False)
    stimuli = datasets.load("folder", own).stimuli
    assert stimuli.table["category"].tolist() == ["a", "b"] * 6
    assert stimuli.images[3].shape == (12, 8, 3)


def replace_cell(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def array(data: object) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "responses.npy", data)


BAD: list[tuple[str, Callable[[Path], object], dict[str, object], str]] = [
    ("no trials", lambda f: (f / "trials.csv").unlink(), {}, r"trials.csv is missing; it has a line for each trial"),
    ("no responses", lambda f: (f / "responses.npy").unlink(), {}, r"has no responses \(\.npy, .*name the array responses.npy"),
    ("two responses", lambda f: (f / "responses.csv").write_text("1"), {}, r"holds responses.npy and responses.csv"),
    ("another column", replace_cell("trials.csv", "stimulus", "image"), {}, "no column 'stimulus'; it has image, session"),
    ("an empty cell", replace_cell("trials.csv", "001,", ","), {}, "line 3 names no stimulus"),
    ("a part of another name", replace_cell("trials.csv", "test", "val"), {}, "split 'val' is not one of train, validation"),
    ("an image in two parts", replace_cell("trials.csv", "000,1,test", "000,1,train"), {}, "stimulus '000' is in two parts"),
    ("fewer rows", array(np.zeros((23, 5))), {}, r"responses are \(23, 5\), trials.csv has 24 trials; both must be"),
    ("turned", array(np.zeros((5, 24))), {}, "its axes look swapped, store it as trial by unit"),
    ("other units", array(np.zeros((24, 6))), {}, "units.csv or mask.nii.gz has 5 units"),
    ("time axis", array(np.zeros((24, 5, 7))), {}, "is read by --dataset epochs"),
    ("text", array(np.full((24, 5), "a")), {}, "numbers are expected"),
    ("cut short", lambda f: (f / "responses.npy").write_bytes((f / "responses.npy").read_bytes()[:-9]), {}, "responses.npy"),
    ("a stimulus without a file", lambda f: (f / "images/003.png").unlink(), {}, "1 of 12 stimuli have no file in .*first '003'"),
    ("two files", lambda f: shutil.copy(f / "images/003.png", f / "images/003.jpg"), {}, "'003' has the files 003.jpg and"),
    ("captions of others", lambda f: (f / "captions.json").write_text('{"cat": "a"}'), {}, "none of its ids .* it has 'cat'"),
    ("a caption that is a number", lambda f: (f / "captions.json").write_text('{"000": 5}'), {}, "a list of texts .* got 5"),
    ("mask and units", lambda f: (f / "units.csv").write_text("roi\nV1\n"), {}, r"has 1 units, .*mask.nii.gz 5 voxels"),
    ("a place that is no number", lambda f: (f / "mask.nii.gz").unlink() or (f / "units.csv").write_text("x,roi\n1,a\n?,b\n"), {},
     "x of unit 1 is '\\?', a number in mm"),
    ("a vertex too far", lambda f: (f / "mask.nii.gz").unlink()
     or (f / "units.csv").write_text("hemisphere,vertex\n" + "left,10242\n" * 5), {"mesh": "fsaverage5"}, "0 to 10241 on"),
    ("an unknown mesh", lambda f: (f / "mask.nii.gz").unlink()
     or (f / "units.csv").write_text("hemisphere,vertex\n" + "left,1\n" * 5), {"mesh": "moon"}, "'moon' is not one of"),
    ("a variable of a plain file", lambda f: None, {"variable": "x"}, "holds one array without a name"),
    ("a damaged .mat", lambda f: (f / "responses.npy").rename(f / "responses.mat"), {}, "no header of MATLAB"),
    ("words in a .csv", lambda f: (f / "responses.npy").unlink() or (f / "responses.csv").write_text("1,2\n3,x\n"), {},
     "'x' of trial 2, column 2, is not a number"),
    ("a reliability in words", lambda f: (f / "units.csv").write_text("roi,NCSNR\n" + "V1,high\n" * 5), {},
     "ncsnr of unit 0 is 'high', a number is"),
    ("decimals with a comma", lambda f: (f / "responses.npy").unlink()
     or pd.DataFrame(np.full((24, 5), 0.5)).to_csv(f / "responses.csv", sep=";", decimal=",", index=False), {},
     "write decimals with a point"),
    ("a listed file without a name", lambda f: (f / "stimuli.csv").write_text(
        "stimulus,file\n" + "".join(f"{name},{'' if name == '000' else f'images/{name}.png'}\n" for name in IDS)), {},
     "1 of 12 stimuli have no file, first '000': its cell in the table is empty"),
    ("an image without a mask", lambda f: as_nifti(f, np.load(f / "responses.npy")) or (f / "responses.npy").unlink()
     or (f / "mask.nii.gz").unlink() or (f / "units.csv").unlink(), {}, "mask.nii.gz must say which voxels"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "options", "match"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_mistakes_are_one_line(own: Path, spoil: Callable[[Path], object], options: dict[str, object], match: str) -> None:
    spoil(own)
    with pytest.raises(DataError, match=match) as caught:
        datasets.load("folder", own, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"a": "../a.png"}, "lies outside"),
        ({"a": "/etc/hostname"}, "lies outside"),
        ({"a": "a.png"}, "1 of 1 stimuli have no file"),
    ],
)
def test_files_are_those_of_the_folder(tmp_path: Path, files: dict[str, str], match: str) -> None:
    place = tmp_path / "in"
    place.mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=match):
        shown_stimuli(place, ["a"], files=files)


# --- check


def findings(folder: Path, **options: object) -> dict[str, tuple[str, str]]:
    return {one.what: (one.level, one.found) for one in audit("folder", folder, options)}


def test_an_audit_of_a_good_folder(written: Path, tmp_path: Path) -> None:
    found = findings(written)
    assert [what for what, (level, _) in found.items() if level == "error"] == ["captions"]  # 10 of 12 images have none
    assert found["trials x units"] == ("ok", "24 x 5; 12 stimuli, 2 trials each")
    assert found["split"] == ("ok", "test: 4 images in 8 trials; train: 8 images in 16 trials")
    assert found["order of trials"][0] == "ok"
    assert found["space"][1].startswith("volume 3 x 2 x 2, voxels of 8 x 8 x 8 mm, x 0 to 16")
    page = write_page(audit("folder", written), "folder", "<b>", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in page
    assert "<script" not in page
    assert page.index("captions") < page.index("leak by id")  # errors first


def test_an_audit_finds_what_is_wrong(own: Path) -> None:
    shutil.copy(own / "images/000.png", own / "images/009.png")  # a test picture under the id of a training picture
    data = np.load(own / "responses.npy")
    data[:, 2] = np.nan
    data[:, 3] = 1.0
    np.save(own / "responses.npy", data)
    found = findings(own)
    assert found["leak by pixels"] == ("error", "1 pictures are in two parts of the split under other ids, first '000' and '009'")
    assert found["missing values"] == ("note", "1 of 5 units hold NaN or infinity")
    assert found["constant units"] == ("note", "1 of 5")
    data[:, :2] = np.nan
    np.save(own / "responses.npy", data)
    assert findings(own)["missing values"][0] == "error"
    (own / "trials.csv").unlink()
    assert findings(own)["opening"][0] == "error"


@pytest.mark.parametrize("seed", range(10))
def test_raw_numbers_are_not_called_z_scores(own: Path, seed: int) -> None:
    """Numbers of a scanner around 500 or 10,000, betas of hundredths, and z-scores with their means over four repeats."""
    z = np.random.default_rng(seed).normal(size=(24, 5))
    for raw, mean, spread in ((500 + 80 * z, 500, 80), (10_000 + 300 * z, 10_000, 300), (0.02 * z, 0, 0.02)):
        np.save(own / "responses.npy", raw)
        level, said = findings(own)["unit"]
        assert level == "note"
        assert said.startswith("read as z, but these are raw numbers: mean ")
        assert said.endswith("; verbs z-score them by session on the training trials")
        numbers = [float(word.replace(",", "")) for word in said.split() if word.replace(".", "").replace("e+0", "").isdigit()]
        assert numbers == pytest.approx([mean, spread], rel=0.4, abs=0.1)
    for fine in (z, z / 2):
        np.save(own / "responses.npy", fine)
        assert findings(own)["unit"][0] == "ok"


def test_raw_numbers_without_sessions_are_taken_as_they_are() -> None:
    raw = Responses(
        500 + 80 * np.random.default_rng(0).normal(size=(24, 5)),
        pd.DataFrame({"stimulus": ["a"] * 24}),
        pd.DataFrame(index=range(5)),
    )
    found = {one.what: one.found for one in _values(raw)}
    assert found["unit"].endswith("without the columns session and split verbs take them as they are; z-score them before")


def test_ids_at_the_wrong_rows_are_seen(own: Path, tmp_path: Path) -> None:
    """Pairs correlate by .85 to .95 for data of seeds 0 to 9 in the right order (p = .001), by -.26 to .08 in another one."""
    data = np.load(own / "responses.npy")
    data[12:] = np.roll(data[12:], 5, axis=0)
    np.save(own / "responses.npy", data)
    level, said = findings(own)["order of trials"]
    assert level == "warning"
    page = write_page(audit("folder", own), "folder", own, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 warning" in page  # and not one of many notes
    assert "ids may stand at the wrong rows" in said


def test_layouts_are_recognised_by_a_file_of_their_own(own: Path, tmp_path: Path) -> None:
    assert datasets.recognised(own) == "folder"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of the layouts .*--dataset NAME"):
        datasets.recognised(tmp_path / "empty")
    with pytest.raises(DataError, match="is not a folder"):
        datasets.recognised(tmp_path / "nowhere")


def test_check_on_the_command_line(own: Path) -> None:
    command = [sys.executable, "-m", "brainlens", "check", str(own)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2  # captions are missing for most images
    assert "order of trials" in found.stdout
    assert (own.parent / "own-check.html").is_file()


def test_pictures_alone_are_embedded_by_any_network(own: Path, tmp_path: Path) -> None:
    """Captions that nobody asked for need no CLIP: the class token of a plain vision transformer is an embedding, too."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    network = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=8, patch_size=4), add_pooling_layer=False)
    network.save_pretrained(tmp_path / "vit")
    square = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(square))
    source = Source("folder", own, model=str(tmp_path / "vit"))

    opened = open_recording(replace(source, captions="none"))
    assert opened.texts is None
    assert opened.images is not None
    pixels = vision.load(tmp_path / "vit").preprocess.batch([np.asarray(opened.stimuli.images[3])])
    with torch.inference_mode():
        token = network.eval()(torch.from_numpy(pixels)).last_hidden_state[0, 0].numpy()
    np.testing.assert_allclose(opened.images["image"][3], token / np.linalg.norm(token), atol=1e-5)
    with pytest.raises(DataError, match=r"a vit model, not CLIP, and cannot embed captions; give a CLIP, or .*--captions none"):
        open_recording(source)
