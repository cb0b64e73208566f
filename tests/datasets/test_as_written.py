"""A folder of arrays as spreadsheets, Windows, macOS, pandas and people write it: the same recording, or one line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlens import datasets

IDS = [f"{i:03d}" for i in range(12)]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """12 pictures seen in 2 sessions by 5 units."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i, name in enumerate(IDS):
        Image.fromarray(rng.integers(0, 255, (9 + i, 8, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
    trials = pd.DataFrame({"stimulus": [*IDS, *IDS[::-1]], "session": ["1"] * 12 + ["2"] * 12})
    trials["split"] = np.where(trials["stimulus"].isin(IDS[:4]), "test", "train")
    trials.to_csv(tmp_path / "trials.csv", index=False)
    np.save(tmp_path / "responses.npy", rng.normal(size=(24, 5)))
    pd.DataFrame({"roi": ["V1", "V1", "V2", "FFA", "FFA"]}).to_csv(tmp_path / "units.csv", index=False)
    (tmp_path / "captions.json").write_text(json.dumps({name: f"thing {name}" for name in IDS}), encoding="utf-8")
    return tmp_path


def on_trials(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        change(pd.read_csv(folder / "trials.csv", dtype=str)).to_csv(folder / "trials.csv", index=False)

    return spoil


def ids_as(name: Callable[[str], str]) -> Callable[[Path], None]:
    return on_trials(lambda table: table.assign(stimulus=table["stimulus"].map(name)))


def in_folders(folder: Path) -> None:
    for path in sorted((folder / "images").iterdir()):
        place = folder / "images" / kind(path.stem)
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)


def kind(name: str) -> str:
    return "cats" if int(name) % 2 else "dogs"


def other_endings(folder: Path) -> None:
    for i, path in enumerate(sorted((folder / "images").iterdir())):
        image = Image.open(path)
        path.unlink()
        ending = (".PNG", ".bmp", ".TIF")[i % 3]  # none of them loses a pixel
        image.save(path.with_suffix(ending))


def umlauts(files: str, table: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for path in sorted((folder / "images").iterdir()):
            path.rename(path.with_name(unicodedata.normalize(files, f"Bild für {path.name}")))
        ids_as(lambda name: unicodedata.normalize(table, f"Bild für {name}"))(folder)
        given = {unicodedata.normalize(files, f"Bild für {name}"): f"thing {name}" for name in IDS}
        (folder / "captions.json").write_text(json.dumps(given, ensure_ascii=False), encoding="utf-8")

    return spoil


def listed(file: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: pd.DataFrame({"Stimulus": IDS, "File": [file(name) for name in IDS]}).to_csv(
        folder / "stimuli.csv", index=False
    )


def windows(folder: Path) -> None:
    for name in ("trials.csv", "units.csv", "captions.json"):
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))


AS_WRITTEN: dict[str, Callable[[Path], object]] = {
    "Windows": windows,
    "capitals": on_trials(lambda table: table.rename(columns=str.title)),
    "further columns": on_trials(lambda table: table.assign(rt=0.5, note="a, b")),
    "an index": lambda f: pd.read_csv(f / "trials.csv", dtype=str).to_csv(f / "trials.csv"),
    "empty lines of a spreadsheet": lambda f: (f / "trials.csv").write_text((f / "trials.csv").read_text() + ",,\n,,\n"),
    "ids with endings": ids_as(lambda name: f"{name}.png"),
    "ids with paths": ids_as(lambda name: f"images/{name}.png"),
    "folders": in_folders,
    "ids with folders": lambda f: (in_folders(f), ids_as(lambda name: f"{kind(name)}/{name}")(f)),
    "ids with folders of Windows": lambda f: (in_folders(f), ids_as(lambda name: f"{kind(name)}\\{name}.png")(f)),
    "endings": other_endings,
    "umlauts in one sign": umlauts("NFC", "NFC"),
    "files with umlauts in two signs": umlauts("NFD", "NFC"),
    "a table with umlauts in two signs": umlauts("NFC", "NFD"),
    "listed files of Windows": listed(lambda name: f"images\\{name}.png"),
}


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_what_people_write_is_the_same_recording(own: Path, name: str) -> None:
    usual, stimuli = datasets.load("folder", own)
    pictures, captions = list(stimuli.images), stimuli.captions
    AS_WRITTEN[name](own)
    found, stimuli = datasets.load("folder", own)
    np.testing.assert_array_equal(found.data, usual.data)
    for column in ("split", "session", "repeat"):
        assert found.trials[column].tolist() == usual.trials[column].tolist()
    assert stimuli.captions == captions
    for one, other in zip(stimuli.images, pictures, strict=True):
        np.testing.assert_array_equal(one, other)


def test_captions_of_another_folder_are_not_taken(own: Path) -> None:
    in_folders(own)
    ids_as(lambda name: f"{kind(name)}/{name}")(own)
    (own / "captions.json").write_text('{"cats/000.png": "a cat", "dogs/002": "a dog", "004": "two", "004.png": "two more"}')
    captions = datasets.load("folder", own).stimuli.captions
    assert captions[:5] == [[], [], ["a dog"], [], []]  # dogs/000 is not cats/000, and two keys could be 004


@pytest.mark.parametrize("names", [None, list("abcde")])
@pytest.mark.parametrize("index", [True, False])
def test_responses_as_pandas_writes_them(own: Path, names: list[str] | None, index: bool) -> None:
    data = np.load(own / "responses.npy")
    for name in ("responses.npy", "units.csv"):  # nothing else says how many units there are
        (own / name).unlink()
    pd.DataFrame(data, columns=names).to_csv(own / "responses.csv", index=index)
    if index:
        with pytest.warns(UserWarning, match="first column has no name and counts the lines; it is left out"):
            found = datasets.load("folder", own).responses.data
    else:
        found = datasets.load("folder", own).responses.data
    np.testing.assert_allclose(found, data, rtol=1e-6)


def test_a_line_of_numbers_is_a_trial(own: Path) -> None:
    data = np.tile(np.arange(24.0)[:, None], (1, 5))
    (own / "responses.npy").unlink()
    np.savetxt(own / "responses.csv", data, delimiter=",")  # the first column counts the lines, and is a unit
    np.testing.assert_array_equal(datasets.load("folder", own).responses.data, data)


def test_a_voxel_without_a_region_has_a_line(own: Path) -> None:
    (own / "units.csv").write_text("ROI\nV1\n\nV2\n\nFFA\n\n")
    assert datasets.load("folder", own).responses.units["roi"].tolist() == ["V1", "", "V2", "", "FFA"]
