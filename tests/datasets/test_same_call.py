"""A call that was made before is found again, unless what it reads has changed since; folders of pictures have runs too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainlens import store
from brainlens.align.sensor_options import is_sensors
from brainlens.cli import main
from brainlens.datasets.runs import once
from brainlens.types import DataError, Result


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., str]:
    """Makes a run of settings, or finds it: "made" or "found"."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.npy").write_bytes(b"1")

    def make(runs: Path = tmp_path / "runs", **asked: object) -> str:
        def work() -> tuple[Path, list[dict[str, object]]]:
            store.save_result(Result("encode", {"m": 1.0}), runs / "encode-1")
            return runs / "encode-1", []

        return "found" if once("encode", runs, asked, work, data=[None, tmp_path / "data"])[2] else "made"

    return make


def test_a_call_is_found_again_until_a_file_that_it_reads_changes(call: Callable[..., str], tmp_path: Path) -> None:
    told, network = tmp_path / "told.json", tmp_path / "network"
    told.write_text("{}")
    network.mkdir()
    (network / "weights").write_text("1")
    asked = {"captions": str(told), "models": [str(network)], "options": {"cache": str(tmp_path / "cache")}, "long": "x" * 5000}
    assert call(**asked) == "made"
    (tmp_path / "cache").mkdir()  # is written by the call itself
    assert call(**asked) == "found"
    for path in (tmp_path / "data/a.npy", told, network / "weights"):
        path.write_bytes(path.read_bytes() + b" ")
        assert call(**asked) == "made", path
        assert call(**asked) == "found"
    (tmp_path / "data/b.npy").write_bytes(b"1")
    assert call(**asked) == "made"


def test_runs_in_the_folder_of_the_recording_are_not_of_the_recording(call: Callable[..., str], tmp_path: Path) -> None:
    runs = tmp_path / "data/runs"
    assert [call(runs), call(runs)] == ["made", "found"]


def test_encoders_of_sensors_on_a_recording_of_fmri_are_one_line_that_lists_its_own() -> None:
    with pytest.raises(
        DataError, match=r"'neuroalign' is of EEG and MEG \(.*\), and folder is fMRI; its encoders are ridge, .*volume"
    ):
        is_sensors("folder", ["volume", "neuroalign"])
    assert not is_sensors("folder", ["linear", "ridge"])
    assert is_sensors("epochs", ["neuroalign"])


CAPTIONS = {"list": ["a picture of thing number {}"], "text": "a picture of thing number {}"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("form", CAPTIONS)
def test_captions_of_a_folder_of_pictures_are_scored_and_a_text_is_one_caption(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"p{i}.png")
        told = CAPTIONS[form]
        rows.append({"file": f"p{i}.png", "captions": told.format(i) if isinstance(told, str) else [told[0].format(i)]})
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    for command in (["captions", "--score", "--images", str(tmp_path), "--out", str(tmp_path / "runs")],
                    ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "page.html")]):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["brainlens", *command])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0, capsys.readouterr().err
    (run,) = (tmp_path / "runs").glob("captions-*")
    metrics = store.load_result(run).metrics
    assert (metrics["captions/own/all"], metrics["captions/own/empty"]) == (12, 0)


def test_the_numbers_of_a_note_are_shown_only_where_its_hash_is_right(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> tuple[Path, list[dict[str, object]]]:
        calls.append(1)
        store.save_result(Result("encode", {"m": 0.25}), tmp_path / "encode-1")
        return tmp_path / "encode-1", [{"metric": "m", "value": 0.25}]

    def shown() -> object:
        return once("encode", tmp_path, {"seed": 1}, work)[1][0]["value"]

    note = tmp_path / "encode-1" / "request.json"
    assert [shown(), shown(), len(calls)] == [0.25, 0.25, 1]
    note.write_text(note.read_text().replace("0.25", "0.95"))
    assert [shown(), len(calls)] == [0.25, 2], "an altered note is of no call"
    assert [shown(), len(calls)] == [0.25, 2]
    content = json.loads(note.read_text())
    note.write_text(json.dumps({key: value for key, value in content.items() if key != "sha256"}))
    assert [shown(), len(calls)] == [0.25, 3], "nor is one whose hash was taken away"
    old = {key: value for key, value in content.items() if key not in ("sha256", "format")}
    note.write_text(json.dumps(old))
    with pytest.warns(UserWarning, match="older version and has no hash"):
        assert shown() == 0.25
    assert len(calls) == 3, "runs of users stay valid"
