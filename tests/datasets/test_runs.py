"""Run folders: the same call asked again is found, and another one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from brainlens import store
from brainlens.datasets.runs import MINIATURE, keep, once
from brainlens.datasets.source import Source
from brainlens.types import Result


def test_the_same_call_is_found_and_says_when_it_was_made(tmp_path: Path) -> None:
    calls = []

    def run() -> tuple[Path, list[dict]]:
        calls.append(1)
        store.save_result(Result("align", {"x": 1.0}), tmp_path / "runs" / "align-a")
        return tmp_path / "runs" / "align-a", [{"metric": "x", "value": 1.0}]

    runs, data = tmp_path / "runs", tmp_path / "data"
    data.mkdir()
    (data / "a.npy").write_bytes(b"1")
    first = once("align", runs, {"seed": 0}, run, data=data)
    again = once("align", runs, {"seed": 0}, run, data=data)
    assert first[:2] == again[:2] == ([runs / "align-a"], [{"metric": "x", "value": 1.0}])
    assert (first[2], len(calls)) == ("", 1)
    assert again[2].startswith("20")
    once("align", runs, {"seed": 1}, run, data=data)
    once("align", runs, {"seed": 1}, run, data=data, again=True)
    assert len(calls) == 3
    (data / "b.npy").write_bytes(b"2")  # another recording in the same place
    once("align", runs, {"seed": 1}, run, data=data)
    assert len(calls) == 4


def test_a_folder_that_lost_its_result_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run() -> tuple[Path, list[dict]]:
        calls.append(1)
        store.save_result(Result("encode", {"x": 1.0}), tmp_path / "encode-a")
        return tmp_path / "encode-a", []

    once("encode", tmp_path, {}, run)
    (tmp_path / "encode-a" / "result.json").unlink()
    once("encode", tmp_path, {}, run)
    assert len(calls) == 2
    monkeypatch.setitem(store.TASKS, "encode", 99)  # what the task computes has changed
    once("encode", tmp_path, {}, run)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("source", "result", "said"),
    [
        (Source("folder", Path("x")), Result("encode", {}, config={"model": "clip", "method": "ridge"}), True),
        (Source("folder", Path("x")), Result("align", {}, config={"images": "clip"}), True),
        (Source("folder", Path("x"), "miniature"), Result("reconstruct", {}), True),
        (Source("folder", Path("x"), "my/network"), Result("encode", {}, config={"model": "network"}), False),
        (Source("phantom"), Result("encode", {}, config={"model": "clip"}), False),
        (Source("things_eeg2", Path("x")), Result("align", {}, config={"images": "clip_feature_maps"}), False),
        (Source("folder", Path("x")), Result("describe", {}, config={"method": "words"}), False),
        (Source("epochs", Path("x")), Result("decode", {}), False),
    ],
)
def test_the_network_that_ships_is_named_where_it_read_photographs(
    tmp_path: Path, source: Source, result: Result, said: bool
) -> None:
    kept = store.load_result(keep(result, tmp_path, source))
    assert (MINIATURE in kept.config.get("warnings", [])) == said
