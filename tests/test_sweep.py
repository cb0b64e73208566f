"""`brainlens sweep`: which runs a line or a table means, and that they are the runs that would have been typed."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from brainlens import store
from brainlens.cli import app
from brainlens.cli.axes import axes, combinations, command_line, table_pieces
from brainlens.cli.sweep import _known, carry_piece
from brainlens.types import DataError, Result


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """40 pictures, 12 units, two presentations each."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("own")
    (folder / "images").mkdir()
    names = [f"picture{i:02d}.png" for i in range(40)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "images" / name)
    np.save(folder / "responses.npy", rng.standard_normal((80, 12)).astype(np.float32))
    split = ["train"] * 30 + ["test"] * 10
    pd.DataFrame({"stimulus": names * 2, "split": split * 2}).to_csv(folder / "trials.csv", index=False)
    return folder


def words(recording: Path, runs: Path, *more: str) -> list[str]:
    fixed = ["sweep", "encode", "--dataset", "folder", "--data", str(recording), "--method", "ridge", "--runs", str(runs)]
    return [*fixed, *more]


def test_axes_are_what_comes_several_times():
    found = axes(["--subject", "1..3", "--model", "a", "--model=b", "--per-voxel", "--parts", "2"])
    assert found == {"--subject": ["1", "2", "3"], "--model": ["a", "b"], "--per-voxel": [None], "--part": ["1/2", "2/2"]}
    pieces = combinations(found)
    assert len(pieces) == 12 == len({tuple(piece) for piece in pieces})
    first = ["encode", "--subject", "1", "--model", "a", "--per-voxel", "--part", "1/2"]
    assert command_line("encode", pieces[0]) == first


@pytest.mark.parametrize(
    "given, match",
    [
        (["--subject", "3..1"], "axis without values"),
        (["--parts", "0"], "whole number above 0"),
        (["--parts"], "whole number above 0"),
        (["--subject=", "--method", "ridge"], "--subject is an axis without values"),
        (["--subject", "", "--method", "ridge"], "--subject is an axis without values"),
        (["model", "a"], "belongs to no option"),
        (["--model", "a", "b"], "'b' belongs to no option"),
        (["--seed", "1", "--seed", "1"], "a value twice"),
    ],
)
def test_axes_that_mean_nothing(given, match):
    with pytest.raises(DataError, match=match):
        axes(given)


def test_a_table_has_a_run_a_row(tmp_path):
    table = tmp_path / "sweep.csv"
    table.write_text("subject,roi,per_voxel\n1,V1;V2,yes\n2,,\n")
    assert table_pieces(table) == [
        [("--subject", "1"), ("--roi", "V1"), ("--roi", "V2"), ("--per-voxel", None)],
        [("--subject", "2")],
    ]


@pytest.mark.parametrize("text, match", [("subject,roi\n", "no row"), ("subject,roi\n1\n", "cells"), ("subject\n1,2\n", "cells")])
def test_tables_that_mean_nothing(tmp_path, text, match):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=match):
        table_pieces(tmp_path / "t.csv")
    with pytest.raises(DataError, match="missing"):
        table_pieces(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "more, match",
    [
        (["--nonsense", "1"], "No such option: --nonsense"),
        (["--seed", "one"], "valid integer"),
        (["--engine", "ray"], "there are local, dask, slurm"),
        (["--engine", "ray", "--dry"], "there are local, dask, slurm"),
        (["--workers", "0", "--dry"], "0 workers"),
        (["--subject", "--seed", "1"], "--subject is an axis without values"),
        (["--subject="], "--subject is an axis without values"),
        (["--workers", "0"], "0 workers"),
        (["--engine-option", "timeout"], "not name=value"),
        (["--table", "none.csv"], "exclude each other"),
    ],
)
def test_mistakes_are_found_before_the_first_run(recording, tmp_path, more, match):
    with pytest.raises(Exception, match=match):
        app(words(recording, tmp_path / "runs", *more), standalone_mode=False)
    assert not (tmp_path / "runs").exists()


def test_dry_shows_the_runs_alone(recording, tmp_path, capsys):
    app(words(recording, tmp_path / "runs", "--seed", "4..6", "--dry"), standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 runs of encode" in shown
    assert not (tmp_path / "runs").exists()


def test_the_log_of_a_sweep_is_believed_where_its_hashes_are_right(tmp_path):
    """A line altered, or of before there were hashes, is a piece that is called again: `once` finds its run."""
    for name in "ab":
        store.save_result(Result("encode", {"m": 1.0}), tmp_path / name)
        store.append_log(tmp_path, {"line": ["encode", name], "folders": [str(tmp_path / name)], "seconds": 1.0, "error": ""})
    lines = [["encode", "a"], ["encode", "b"]]
    assert list(_known(tmp_path, lines)) == [0, 1]
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text().replace(f'{tmp_path / "b"}"]', f'{tmp_path / "a"}"]'))
    assert list(_known(tmp_path, lines)) == [0]
    log.write_text(re.sub(r', "sha256": "[^"]*"', "", log.read_text()))
    assert list(_known(tmp_path, lines)) == []


def test_a_verb_that_cannot_be_swept():
    with pytest.raises(DataError, match="there are encode, align"):
        app(["sweep", "report"], standalone_mode=False)


def contents(runs: Path) -> dict[str, tuple]:
    """Every encode run by its name: its metrics and the bytes of its arrays."""
    found = {}
    for note in sorted(runs.glob("encode-*/result.json")):
        result = store.load_result(note.parent)
        found[note.parent.name] = (result.metrics, {k: np.asarray(v).tobytes() for k, v in result.arrays.items()})
    return found


@pytest.fixture
def two_people(recording, tmp_path) -> Path:
    """The same pictures seen by two subjects."""
    folder = Path(shutil.copytree(recording, tmp_path / "people"))
    table = pd.read_csv(folder / "trials.csv", dtype=str)
    pd.concat([table.assign(subject=name) for name in "12"]).to_csv(folder / "trials.csv", index=False)
    np.save(folder / "responses.npy", np.random.default_rng(1).standard_normal((160, 12)).astype(np.float32))
    return folder


def kill_one(sweep: Path, ended: threading.Event, killed: list[int]) -> None:
    """Kills a process of the cluster once a third of the runs is noted."""
    while not ended.wait(0.02):
        if sum(len(store.read_log(note.parent)) for note in sweep.glob("sweep-*/log.jsonl")) >= 8:
            workers = [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
            if workers:
                killed.append(workers[0].pid)
                workers[0].kill()
                return


def test_a_cluster_that_loses_a_worker_gives_the_serial_runs_to_the_bit_and_a_restart_does_nothing(two_people, tmp_path, capsys):
    """2 subjects x 3 backbones x 4 parts of the units, in this process and on two others, one of which is killed."""
    axis = ["--subject", "1..2", "--model", "miniature", "--model", "pixels", "--model", "untrained:1", "--parts", "4"]
    app(words(two_people, tmp_path / "serial", *axis), standalone_mode=False)
    ended, killed = threading.Event(), []
    watcher = threading.Thread(target=kill_one, args=(tmp_path / "dask", ended, killed))
    watcher.start()
    try:
        more = ("--engine", "dask", "--workers", "2", "--engine-option", "threads=1")
        app(words(two_people, tmp_path / "dask", *axis, *more), standalone_mode=False)
    finally:
        ended.set()
        watcher.join()
    assert len(killed) == 1
    serial, dask = contents(tmp_path / "serial"), contents(tmp_path / "dask")
    assert len(serial) == 24
    assert serial.keys() == dask.keys()
    for name, (metrics, arrays) in serial.items():
        timeless = {k: v for k, v in metrics.items() if "seconds" not in k}
        np.testing.assert_equal(timeless, {k: v for k, v in dask[name][0].items() if "seconds" not in k})
        assert arrays == dask[name][1]
    capsys.readouterr()
    for runs in ("serial", "dask"):
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / runs).glob("encode-*/result.json")}
        app(words(two_people, tmp_path / runs, *axis), standalone_mode=False)
        assert before == {p: p.stat().st_mtime_ns for p in before}
        (sweep,) = (tmp_path / runs).glob("sweep-*")
        assert len(store.read_log(sweep)) == 24  # nothing was worked on again
    table = store.load_result(sweep).tables["runs"]
    assert len(table) == 24
    assert set(table["part"]) == {f"{k}/4" for k in range(1, 5)}
    assert (table["metric"] == "encoding/r2_mean").all()


def test_parts_together_are_the_whole(recording, tmp_path):
    """Ridge fits every unit by itself, so that the parts hold the scores of the whole."""
    common = ["--dataset", "folder", "--data", str(recording), "--method", "ridge", "--runs", str(tmp_path)]
    app(["encode", *common], standalone_mode=False)
    app(["sweep", "encode", *common, "--parts", "3"], standalone_mode=False)
    (sweep,) = tmp_path.glob("sweep-*")
    names = json.loads((sweep / "result.json").read_text())["tables"]
    assert "runs" in names
    order = store.load_result(sweep).tables["runs"]["run"]
    parts = np.concatenate([store.load_result(tmp_path / name).arrays["r2"] for name in order])
    (whole,) = {p.parent for p in tmp_path.glob("encode-*/result.json")} - {tmp_path / name for name in order}
    np.testing.assert_allclose(parts, store.load_result(whole).arrays["r2"], rtol=1e-5, atol=1e-6)


def test_the_folder_of_a_run_does_not_hang_on_what_is_printed(recording, tmp_path, monkeypatch):
    def shown(rows: object, title: str) -> None:
        print("run: somewhere/else")

    monkeypatch.setattr("brainlens.cli.terminal.show", shown)
    line = words(recording, tmp_path)[1:]
    found = carry_piece({"line": line, "log": str(tmp_path / "log")})
    (place,) = tmp_path.glob("encode-*")
    assert found["folders"] == [str(place)]
    assert found["error"] == ""
    assert "run: somewhere/else" in (tmp_path / "log").read_text()
    failed = carry_piece({"line": [*line, "--part", "40/40"], "log": str(tmp_path / "log")})  # names no run of the one before
    assert failed["folders"] == []
    assert "1 <= K <= N <= 12" in failed["error"]


def test_a_run_that_fails_costs_itself_alone(recording, tmp_path):
    with pytest.raises(DataError, match=r"1 of 2 runs failed.*part '40/40'"):
        app(words(recording, tmp_path, "--part", "1/2", "--part", "40/40"), standalone_mode=False)
    (sweep,) = tmp_path.glob("sweep-*")
    table = store.load_result(sweep).tables["runs"]
    assert list(table["error"].fillna("").str.len() > 0) == [False, True]
    assert "1 <= K <= N <= 12" in (sweep / "logs" / "0002.log").read_text()
