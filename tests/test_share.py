"""Runs that are sent on: an archive gives back every byte or nothing, a hub's folder holds a model that loads."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlens import RidgeCV, models, store
from brainlens.cli import app
from brainlens.cli.share import run_names, side_by_side
from brainlens.models import HOMES
from brainlens.models.encoding import MODELS, LayerwiseRidge, load
from brainlens.models.estimator import Model
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.generation.parcel_predictor import ParcelPredictor
from brainlens.models.sensors.closed_form import SensorRidge
from brainlens.models.sensors.stored import KINDS
from brainlens.models.volume.estimators import ALIGNERS, RidgeAligner
from brainlens.parcels import Parcels
from brainlens.store.archive import LIST, open_archive, save_archive, save_hub_folder
from brainlens.types import DataError, Result

METRICS = {"encoding/r2_mean": 0.25, "encoding/r2_mean.low": 0.2, "encoding/r2_mean.high": 0.3}


def write(folder: Path, *, more: dict[str, float] | None = None, model: bool = True) -> Path:
    rng = np.random.default_rng(0)
    if model:
        RidgeCV(alphas=(1.0, 10.0)).fit(rng.standard_normal((30, 4)), rng.standard_normal((30, 3))).save(folder / "model")
    result = Result(
        "encode", METRICS | (more or {}), {"r2": np.arange(3.0)}, pd.DataFrame({"roi": ["V1"] * 3}), config={"dataset": "own"}
    )
    store.save_result(result, folder)
    return folder


ENDS = {"": 0.0, ".low": -0.1, ".high": 0.1}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "runs" / "encode-0123")


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_archive_gives_the_run_back(run, tmp_path):
    archive = save_archive(run, tmp_path / "a.zip")
    back = open_archive(archive, tmp_path / "back")
    assert back == tmp_path / "back" / "encode-0123"
    assert files(back) == files(run)
    assert save_archive(back, tmp_path / "b.zip").read_bytes() == archive.read_bytes()
    with pytest.raises(DataError, match="exists and is not empty"):
        open_archive(archive, tmp_path / "back")


def rewritten(archive: Path, change) -> None:
    """The archive with its entries as change(name, bytes) -> (name, bytes) has them."""
    with zipfile.ZipFile(archive) as old:
        entries = [change(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in entries:
            if entry is not None:
                new.writestr(*entry)


def flip(name: str, data: bytes):
    return (name, data[:-1] + bytes([data[-1] ^ 1]) if name == "r2.npy" else data)


def longer(name: str, data: bytes):
    return (name, data + b"0" * 10_000_000 if name == "r2.npy" else data)


def less(name: str, data: bytes):
    return None if name == "r2.npy" else (name, data)


def without_list(name: str, data: bytes):
    return None if name == LIST else (name, data)


def outside(name: str, data: bytes):
    return (name.replace("r2.npy", "../../r2.npy"), data.replace(b"r2.npy", b"../../r2.npy") if name == LIST else data)


def absolute(name: str, data: bytes):
    return (name, data.replace(b'"encode-0123"', b'"/tmp/encode-0123"') if name == LIST else data)


def rooted(name: str, data: bytes):
    return (name.replace("r2.npy", "/tmp/r2.npy"), data.replace(b"r2.npy", b"/tmp/r2.npy") if name == LIST else data)


def numbered(name: str, data: bytes):
    return (name, data.replace(b'"encode-0123"', b"5") if name == LIST else data)


def nul(name: str, data: bytes):
    return (name, data.replace(b'"encode-0123"', b'"encode\\u0000"') if name == LIST else data)


def half_a_character(name: str, data: bytes):
    return (name, data.replace(b'"encode-0123"', b'"\\ud800"') if name == LIST else data)


def bomb(name: str, data: bytes):
    note = json.loads(data) if name == LIST else {"files": {}}
    note["files"] = {each: entry | {"bytes": 10**9} for each, entry in note["files"].items()}
    return (name, json.dumps(note).encode() if name == LIST else data)


def newer(name: str, data: bytes):
    return (name, data.replace(b'"format": 1', b'"format": 9') if name == LIST else data)


def broken_list(name: str, data: bytes):
    return (name, b"[" * 100_000 if name == LIST else data)


@pytest.mark.parametrize(
    "change, match",
    [
        (flip, "r2.npy is not what its list says"),
        (longer, "r2.npy is not what its list says"),
        (less, "other files than its list"),
        (without_list, "has no archive.json"),
        (outside, "outside of the run"),
        (absolute, "outside of the run"),
        (rooted, "outside of the run"),
        (numbered, "archive.json is damaged"),
        (nul, "outside of the run"),
        (half_a_character, "archive.json is damaged"),
        (bomb, "more than 200 times"),
        (newer, "newer format"),
        (broken_list, "archive.json is damaged"),
    ],
)
def test_an_altered_archive_leaves_nothing(run, tmp_path, change, match):
    archive = save_archive(run, tmp_path / "a.zip")
    rewritten(archive, change)
    with pytest.raises(DataError, match=match):
        open_archive(archive, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_a_link_in_an_archive_becomes_a_file(run, tmp_path):
    """A zip can hold links; whoever lists one with its hash gets its text, and nothing is followed."""
    archive = save_archive(run, tmp_path / "a.zip")
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    entry = {"sha256": hashlib.sha256(b"/etc/passwd").hexdigest(), "bytes": 11}
    rewritten(archive, lambda name, data: (name, with_entry(data, "link", entry) if name == LIST else data))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    back = open_archive(archive, tmp_path / "back") / "link"
    assert not back.is_symlink()
    assert back.read_text() == "/etc/passwd"


def test_a_disk_that_fills_is_one_line_and_leaves_nothing(tmp_path):
    values = np.random.default_rng(0).normal(size=40_000)
    store.save_result(Result("encode", METRICS, {"r2": values}), tmp_path / "runs" / "encode-1")
    archive = save_archive(tmp_path / "runs" / "encode-1", tmp_path / "a.zip")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # files may not grow beyond
    try:
        with pytest.raises(DataError, match=r"encode-1: could not be written .*free some space"):
            open_archive(archive, tmp_path / "back")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "back").iterdir()) == []
    np.testing.assert_array_equal(store.load_result(open_archive(archive, tmp_path / "back")).arrays["r2"], values)


def with_entry(data: bytes, name: str, entry: dict) -> bytes:
    note = json.loads(data)
    note["files"][name] = entry
    return json.dumps(note).encode()


@pytest.mark.parametrize("value", [0, 6, 90, 255])
def test_packed_bytes_that_are_damaged_are_one_line(run, tmp_path, value):
    archive = save_archive(run, tmp_path / "a.zip")
    with zipfile.ZipFile(archive) as opened:
        entry = max((each for each in opened.infolist() if each.filename != LIST), key=lambda each: each.compress_size)
    content = bytearray(archive.read_bytes())
    head = entry.header_offset
    start = head + 30 + len(entry.filename) + int.from_bytes(content[head + 28 : head + 30], "little")
    content[start : start + 8] = bytes([value]) * 8
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip"):
        open_archive(archive, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_half_an_archive_is_one_line(run, tmp_path, cut):
    archive = save_archive(run, tmp_path / "a.zip")
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(DataError, match="damaged or no archive"):
        open_archive(archive, tmp_path / "back")


def test_what_is_not_a_whole_run_is_not_exported(run, tmp_path):
    (run / "link.npy").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="is a link"):
        save_archive(run, tmp_path / "a.zip")
    (run / "link.npy").unlink()
    (run / "r2.npy").write_bytes((run / "r2.npy").read_bytes()[:-8])
    with pytest.raises(DataError):
        save_archive(run, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_hub_folder_holds_a_model_that_loads(run, tmp_path):
    out = save_hub_folder(run, tmp_path / "hub")
    assert {p.suffix for p in out.iterdir()} == {".md", ".json", ".safetensors"}
    x = np.ones((2, 4))
    np.testing.assert_array_equal(load(out).predict(x), load(run / "model").predict(x))
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: brainlens\n")
    assert "| encoding/r2_mean | 0.25 | 0.2 to 0.3 |" in card
    assert json.loads((out / "config.json").read_text())["model_type"] == "RidgeCV"
    with pytest.raises(DataError, match="not empty"):
        save_hub_folder(run, out)
    shutil.rmtree(run / "model")
    with pytest.raises(DataError, match="holds no fitted model"):
        save_hub_folder(run, tmp_path / "other")


def drawer() -> NeuroAdapter:
    """As a fit leaves it, without the training."""
    model = NeuroAdapter(2)
    model.parcels_, model.anchors_ = Parcels(("a", "b"), np.repeat([0, 1], 3), "own"), None
    return model


def of_verb(verb: str) -> Model:
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((30, 4)), rng.standard_normal((30, 3)), rng.standard_normal((30, 5))
    if verb == "encode":
        return RidgeCV(alphas=(1.0, 10.0)).fit(x, y)
    if verb == "describe":
        return LayerwiseRidge(alphas=(1.0, 10.0)).fit({"a": x, "b": x + 1}, y)
    if verb == "align":
        return RidgeAligner().fit(y, z)
    if verb == "align of sensors":
        epochs = rng.standard_normal((30, 3, 40))
        return SensorRidge().fit(epochs, z, sfreq=100.0, info={"ch_names": ["C1", "C2", "C3"], "unit": "uV"})
    return drawer()


@pytest.mark.parametrize("verb", ["encode", "align", "align of sensors", "describe", "reconstruct"])
def test_the_snippet_of_a_card_loads_the_model(verb, tmp_path, monkeypatch):
    model = of_verb(verb)
    model.save(tmp_path / "run" / "model")
    store.save_result(Result(verb.split()[0], {"m": 0.5}, config={"dataset": "own"}), tmp_path / "run")
    monkeypatch.chdir(save_hub_folder(tmp_path / "run", tmp_path / "hub"))
    (snippet,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(snippet, names)
    assert type(names["model"]) is type(model)
    assert str(names["model"].get_params()) == str(model.get_params())


def test_every_class_of_fitted_models_is_found_by_its_name(tmp_path):
    kinds = {**MODELS, **ALIGNERS, **KINDS, "NeuroAdapter": NeuroAdapter, "ParcelPredictor": ParcelPredictor}
    for name in kinds:
        assert any(hasattr(import_module(f"brainlens.models.{home}"), name) for home in HOMES), name
    store.save_model(tmp_path, model="Other", version=1, parameters={}, state={"a": 1})
    with pytest.raises(DataError, match="holds a Other, which is no model of this version"):
        models.load(tmp_path)


def test_a_card_shows_scores_and_neither_counts_nor_what_is_undefined(tmp_path):
    more = {"encoding/units": 3.0, "encoding/units_missing": 1.0, "encoding/r": float("nan"), "retrieval/brain->image/top1": 0.4}
    more |= {"retrieval/brain->image/chance1": 0.1, "encoding/fit_s": 12.5}
    card = (save_hub_folder(write(tmp_path / "run", more=more), tmp_path / "hub") / "README.md").read_text()
    rows = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")]
    assert rows == ["score", "encoding/r2_mean", "retrieval/brain->image/top1"]
    assert "nan" not in card


def test_runs_side_by_side(run, tmp_path, capsys):
    other = write(tmp_path / "more" / "encode-0123", more={"encoding/r_mean": 0.5}, model=False)
    assert run_names([run, other]) == ["runs/encode-0123", "more/encode-0123"]
    results = {"a": store.load_result(run), "b": store.load_result(other)}
    (row,) = side_by_side(results)
    assert row == {"score": "encoding/r2_mean", "a": "0.25 (0.2 to 0.3)", "b": "0.25 (0.2 to 0.3)", "chance": "0", "n": ""}
    assert [r["score"] for r in side_by_side(results, every=True)] == ["encoding/r2_mean", "encoding/r_mean"]
    for name in ("c.html", "c.csv"):
        app(["compare", str(run), str(other), "--out", str(tmp_path / name)], standalone_mode=False)
    assert "Runs side by side" in (tmp_path / "c.html").read_text()
    assert list(pd.read_csv(tmp_path / "c.csv")["value"]) == [0.25, 0.25, 0.5]


def test_each_number_of_an_alignment_stands_once_side_by_side():
    """The scores of the encoder that leads a run stand in it under its name and without; others stand under theirs alone."""
    key = "retrieval/brain->image/top1"

    def run_of(main: str, ridge: float, mlp: float) -> Result:
        each = {"ridge": ridge, "mlp": mlp}
        metrics = {f"align/{name}/{key}{end}": value + add for name, value in each.items() for end, add in ENDS.items()}
        return Result("align", metrics | {f"{key}{end}": each[main] + add for end, add in ENDS.items()})

    same = side_by_side({"a": run_of("ridge", 0.3, 0.2), "b": run_of("ridge", 0.5, 0.2)})
    assert [row["score"] for row in same] == [f"align/mlp/{key}", key]
    assert [same[1]["a"], same[1]["b"]] == ["0.3 (0.2 to 0.4)", "0.5 (0.4 to 0.6)"]
    other = side_by_side({"a": run_of("ridge", 0.3, 0.2), "b": run_of("mlp", 0.5, 0.2)})
    assert [row["score"] for row in other] == [f"align/ridge/{key}", f"align/mlp/{key}", key]


@pytest.mark.parametrize(
    "line, match",
    [
        (["compare", "RUN"], "two or more"),
        (["compare", "RUN", "RUN"], "comes twice"),
        (["compare", "RUN", "OTHER", "--out", "x.png"], "can be .html"),
        (["export", "RUN", "--out", "a.zip", "--hub", "b"], "exclude each other"),
        (["import", "nosuch.zip"], "not a file"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, line, match):
    words = [str(run) if word == "RUN" else str(tmp_path) if word == "OTHER" else word for word in line]
    with pytest.raises(DataError, match=match):
        app(words, standalone_mode=False)
