"""Names in tables, manifests and indexes stay inside the folder that the user gave; a link that leads out is an error."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlens import miniatures
from brainlens.backbones import clip
from brainlens.datasets import nod, things_eeg2, things_meg
from brainlens.datasets.source import picture_folder
from brainlens.types import DataError, inside

OUT = "lies outside"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture beside the data folder."""
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


NAMES = ["../secret.png", "a/../../secret.png", "{absolute}", "link.png", "linked/secret.png", "a\0.png"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, secret: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    name = name.format(absolute=secret)
    with pytest.raises(DataError, match=rf"the table names .*{OUT} .*allow-outside" if "\0" not in name else "no file name"):
        inside(folder, ["fine.png", name], "the table")
    (folder / "inner.png").symlink_to(folder / "fine.png")
    assert inside(folder, ["fine.png", "inner.png", "a/new.png"], "the table")[2] == folder / "a/new.png"
    if "\0" not in name:
        monkeypatch.setenv("BRAINLENS_ALLOW_OUTSIDE", "1")
        assert inside(folder, [name], "the table") == [folder / name]


def listed(case: Any, file: str) -> None:
    ids = pd.read_csv(case.own / "trials.csv", dtype=str)["stimulus"].unique()
    files = [f"images/{name}.png" for name in ids[1:]]
    pd.DataFrame({"stimulus": ids, "file": [file, *files]}).to_csv(case.own / "stimuli.csv", index=False)


def test_of_the_command_line(case: Any, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(case, "../secret.png")
    assert OUT in case.refused(*case.encode())
    (case.own / "stimuli.csv").unlink()
    (case.own / "images/000.png").unlink()
    (case.own / "images/000.png").symlink_to(secret)
    assert OUT in case.refused(*case.encode())
    assert OUT in case.refused("captions", "--score", "--images", case.own / "images")
    (case.own / "images/manifest.json").write_text(json.dumps([{"file": str(secret)}]))
    assert OUT in case.refused("captions", "--score", "--images", case.own / "images")
    monkeypatch.setenv("BRAINLENS_ALLOW_OUTSIDE", "")  # put back as it was when this test ends
    code, out, err = case.say("--allow-outside", "check", case.own, "--out", case.tmp / "page.html")
    assert "12 open" in out, err
    assert code == 2  # images without captions, and not the link
    assert os.environ["BRAINLENS_ALLOW_OUTSIDE"] == "1"


@pytest.mark.filterwarnings("ignore:.*are drawn for the test")
def test_of_recordings_of_others(
    tmp_path: Path, secret: Path, writers: dict[str, ModuleType], made_meg: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    eeg = tmp_path / "eeg"
    writers["recordings"].write_eeg2(eeg)
    writers["recordings"].write_image_set(eeg)
    meta = np.load(eeg / "image_set/image_metadata.npy", allow_pickle=True).item()
    meta["test_img_files"][0] = "../../../../secret.png"
    np.save(eeg / "image_set/image_metadata.npy", meta, allow_pickle=True)
    with pytest.raises(DataError, match=rf"image_metadata.npy names .*secret.png', which {OUT}"):
        things_eeg2.load(eeg)
    root = tmp_path / "nod"
    writers["recordings"].write_nod(root)
    labels = next(root.rglob("*_label.txt"))
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join([f"../../../{secret.name}", *lines[1:]]))
    with pytest.raises(DataError, match=OUT):
        nod.load(root)
    paths = things_meg._stimuli  # the table that the metadata's image_path becomes
    trials = pd.DataFrame({"stimulus": ["a"], "concept": ["a"], "split": ["train"], "file": [str(secret)]})
    with pytest.raises(DataError, match=rf"image_path .*{OUT}"):
        paths(tmp_path / "meg", trials)


@pytest.mark.parametrize("kind", ["index", "link"])
def test_of_weights(tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(miniatures.folder("clip"), tmp_path / "clip"))
    (weights,) = folder.glob("*.safetensors")
    clip.load_clip(folder)
    moved = tmp_path / "outside.safetensors"
    if kind == "index":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
        shutil.copy(weights, moved)
    else:
        weights.rename(moved)
        weights.symlink_to(moved)
    with pytest.raises(DataError, match=OUT):
        clip.load_clip(folder)
    hub = tmp_path / "models--x--y"  # the hub's own folders are links into its store
    shutil.copytree(miniatures.folder("clip"), hub / "blobs")
    place = hub / "snapshots" / "abc"
    place.mkdir(parents=True)
    for path in (hub / "blobs").iterdir():
        (place / path.name).symlink_to(path)
    clip.load_clip(place)


def test_a_picture_folder_of_links_within_it_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / ".git/annex").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / ".git/annex/x.png")
    (folder / "a.png").symlink_to(".git/annex/x.png")
    assert picture_folder(folder).images[0].shape == (4, 4, 3)
