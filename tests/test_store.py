"""The store: whole files or none, damage is an error, a kill or a full disk loses nothing."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from brainlens import store
from brainlens.store import results
from brainlens.types import DataError, Features, Responses, Result, Sensors, Stimuli, Surface, Volume
from brainlens.warned import BrainlensWarning


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.endswith((".part", ".rows")) or ".part." in p.name]


# --- arrays


def test_single_values_become_half_as_numpy_rounds_them(tmp_path):
    """Every half, its neighbours in single precision, the middle between two halves and a hair beside it, and out of range."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(halves[np.isfinite(halves)])
    middle = (finite[1:] + finite[:-1]) / 2
    each = [halves, middle, *(np.nextafter(one, np.float32(to)) for one in (finite, middle) for to in (-np.inf, np.inf))]
    values = np.concatenate(each)
    values = values[~(np.isfinite(values) & (np.abs(values) >= 65520))]  # which are refused
    with np.errstate(over="ignore"):
        plain = values.astype(np.float16)
    assert "torch" in sys.modules
    for name, given_ in (("rows", values[:, None]), ("turned", np.asfortranarray(np.stack([values, values], axis=1)))):
        with store.ArrayWriter(tmp_path, name, given_.shape, "f2", resume=False) as writer:
            writer.write(0, given_)
        found = np.array(store.open_array(tmp_path, name))
        for column in found.T:
            np.testing.assert_array_equal(np.isnan(column), np.isnan(plain))
            known = ~np.isnan(plain)
            np.testing.assert_array_equal(column[known].view(np.uint16), plain[known].view(np.uint16))
    with pytest.raises(DataError, match="would become infinite"), store.ArrayWriter(tmp_path, "x", (1, 1), "f2") as writer:
        writer.write(0, np.full((1, 1), 65520, np.float32))


@given(
    npst.arrays(
        st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "?", "c8", "<U3", ">f4"]),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0),
    )
)
@settings(max_examples=40, deadline=None)
def test_arrays_come_back_as_they_were(tmp_path_factory, array):
    folder = tmp_path_factory.mktemp("a")
    store.save_array(folder, "maps/brain->image", array)
    back = store.open_array(folder, "maps/brain->image")
    assert back.shape == array.shape
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable
    plain_reader = np.load(folder / store.manifest(folder)["maps/brain->image"]["file"], allow_pickle=False)
    np.testing.assert_array_equal(plain_reader, array)


def test_the_manifest_states_shape_dtype_hash_and_ids(tmp_path):
    import hashlib

    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    path = store.save_array(tmp_path, "x", array, ids=["a", "b", "c"])
    entry = json.loads((tmp_path / "manifest.json").read_text())["x"]
    assert entry["shape"] == [3, 2]
    assert entry["dtype"] == "<f4"
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry["ids"] == store.ids_hash(["a", "b", "c"])
    store.open_array(tmp_path, "x", ids=["a", "b", "c"])
    with pytest.raises(DataError, match="other rows"):
        store.open_array(tmp_path, "x", ids=["b", "a", "c"])


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(data)


def _claim_header(path: Path) -> None:
    import io

    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)})
    path.write_bytes(out.getvalue() + b"\0" * 100)


@pytest.mark.parametrize(
    "damage", [_truncate, _flip, _claim_header, Path.unlink, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"junk" * 99)]
)
def test_a_damaged_array_is_an_error_and_never_zeros(tmp_path, damage):
    path = store.save_array(tmp_path, "x", np.random.default_rng(0).normal(size=(50, 7)).astype("f4"))
    store.open_array(tmp_path, "x")
    damage(path)
    with pytest.raises(DataError, match=r"x\.npy"):
        store.open_array(tmp_path, "x")


@pytest.mark.parametrize("damage", [_truncate, _claim_header, Path.unlink, lambda p: p.write_bytes(b"")])
def test_a_foreign_npy_is_checked_before_it_is_mapped(tmp_path, damage):
    path = tmp_path / "y.npy"
    np.save(path, np.ones((50, 7), "f4"))
    assert store.open_npy(path).shape == (50, 7)
    with pytest.raises(DataError, match="limit"):
        store.open_npy(path, max_bytes=100)
    damage(path)
    with pytest.raises(DataError):
        store.open_npy(path)


def test_object_arrays_are_refused_both_ways(tmp_path):
    with pytest.raises(DataError, match="not stored"):
        store.save_array(tmp_path, "x", np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        store.open_npy(tmp_path / "o.npy")


@given(st.binary(max_size=300), st.integers(0, 130), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_any_bytes_under_npy_give_a_typed_error_or_the_array(tmp_path_factory, junk, at, value):
    path = tmp_path_factory.mktemp("fuzz") / "z.npy"
    np.save(path, np.arange(12.0).reshape(3, 4))
    data = bytearray(path.read_bytes())
    data[at] = value
    for content in (bytes(data), junk, bytes(data[:at])):
        path.write_bytes(content)
        try:
            array = store.open_npy(path)
        except DataError:
            continue
        assert array.nbytes <= len(content)


def test_names_that_are_not_there_list_those_that_are(tmp_path):
    store.save_array(tmp_path, "known", np.ones(2))
    with pytest.raises(DataError, match="known"):
        store.open_array(tmp_path, "unknown")
    np.save(tmp_path / "orphan.npy", np.ones(3))
    with pytest.raises(DataError, match="never finished"):
        store.open_array(tmp_path, "orphan")


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    store.save_array(tmp_path, "secret", np.ones(2))
    inner = tmp_path / "inner"
    store.save_array(inner, "x", np.ones(2))
    entry = store.manifest(inner)["x"] | {"file": "../secret.npy"}
    (inner / "manifest.json").write_text(json.dumps({"x": entry}))
    with pytest.raises(DataError, match="outside"):
        store.open_array(inner, "x")


def interrupted(folder: Path, rows: np.ndarray, done: int, dtype: str, key: str = "") -> None:
    with suppress(RuntimeError), store.ArrayWriter(folder, "x", rows.shape, dtype, key=key) as writer:
        writer.write(0, rows[:done])
        raise RuntimeError("killed")


def test_a_writer_goes_on_where_it_was_and_gives_the_same_file(tmp_path):
    rows = np.random.default_rng(0).normal(size=(100, 6))
    whole = store.save_array(tmp_path / "whole", "x", rows.astype("f2"))
    interrupted(tmp_path / "part", rows, 37, "f2")
    with pytest.raises(DataError, match="no 'x'"):
        store.open_array(tmp_path / "part", "x")
    with store.ArrayWriter(tmp_path / "part", "x", rows.shape, "f2") as writer:
        assert writer.done == 37
        writer.write(37, rows[37:])
    assert (tmp_path / "part" / "x.npy").read_bytes() == whole.read_bytes()
    assert not leftovers(tmp_path)


def test_a_writer_begins_anew_when_the_rows_are_made_from_something_else(tmp_path):
    rows = np.ones((10, 2))
    interrupted(tmp_path, rows, 5, "f4", key="one")
    with store.ArrayWriter(tmp_path, "x", rows.shape, "f4", key="two") as writer:
        assert writer.done == 0
        writer.write(0, rows * 2)
    assert (store.open_array(tmp_path, "x") == 2).all()


@pytest.mark.parametrize(
    "start, rows, match",
    [
        (0, np.ones((3, 9)), "do not fit"),
        (5, np.ones((2, 4)), "unwritten"),
        (0, np.ones((99, 4)), "do not fit"),
        (-1, np.ones((2, 4)), "do not fit"),
        (0, np.full((2, 4), 1e6), "infinite"),
        (0, np.ones((2, 4), complex), "convert"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, start, rows, match):
    with pytest.raises(DataError, match=match), store.ArrayWriter(tmp_path, "x", (10, 4), "f2") as writer:
        writer.write(start, rows)


def test_rows_left_unwritten_are_an_error(tmp_path):
    with pytest.raises(DataError, match="3 of 10"), store.ArrayWriter(tmp_path, "x", (10, 4), "f2") as writer:
        writer.write(0, np.ones((3, 4)))


def test_ids_must_match_the_rows(tmp_path):
    with pytest.raises(DataError, match="2 ids"):
        store.save_array(tmp_path, "x", np.ones((3, 2)), ids=["a", "b"])


# --- a disk that fills, a process that dies


FULL_DISK = """
import resource, signal, sys
import numpy as np
from brainlens import store
from brainlens.types import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, kind = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
big = np.ones((1000, 1000))
try:
    if kind == "array":
        store.save_array(folder, "x", big)
    elif kind == "writer":
        with store.ArrayWriter(folder, "x", big.shape, "f8") as w:
            w.write(0, big)
    elif kind == "text":
        store.save_text(folder + "/t.txt", "y" * 1_000_000)
    elif kind == "nifti":
        store.save_nifti(folder + "/v.nii", np.ones((100, 100, 100), "f4"), np.eye(4))
    elif kind == "image":
        store.save_image(folder + "/i.png", np.random.default_rng(0).integers(0, 255, (600, 600, 3)).astype("u1"))
    elif kind == "log":
        store.append_log(folder, {"long": "z" * 1_000_000})
    else:
        import torch
        big = {"w": torch.ones(1000, 1000)}
        store.save_checkpoint(folder, big) if kind == "checkpoint" else store.save_weights(folder, "w", big)
except DataError as error:
    print("DataError", error)
    sys.exit(7)
"""


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("kind", ["array", "writer", "text", "nifti", "image", "log", "checkpoint", "weights"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, kind):
    store.save_array(tmp_path, "x", np.arange(5.0))
    store.save_text(tmp_path / "t.txt", "old")
    store.save_nifti(tmp_path / "v.nii", np.zeros((2, 2, 2)), np.eye(4))
    store.save_image(tmp_path / "i.png", np.zeros((4, 4, 3), "u1"))
    store.append_log(tmp_path, {"step": 1})
    store.save_checkpoint(tmp_path, {"step": 1})
    store.save_weights(tmp_path, "w", {"w": torch.zeros(2)})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    done = _run(FULL_DISK, str(tmp_path), kind)
    assert done.returncode == 7, done.stderr
    assert "could not be written" in done.stdout
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_failed_write_inside_the_library_is_cleaned_up_too(tmp_path, monkeypatch):
    store.save_text(tmp_path / "t.txt", "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        store.save_text(tmp_path / "t.txt", "new")
    assert (tmp_path / "t.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


KILLED = """
import os, signal, sys
import numpy as np
from brainlens.store import arrays
folder, when = sys.argv[1:]
if when == "before manifest":
    arrays._list = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
if when == "within rows":
    with arrays.ArrayWriter(folder, "x", (100, 50), "f4") as w:
        w.write(0, np.ones((30, 50))); w.sync(); w.write(30, np.ones((30, 50)))
        os.kill(os.getpid(), signal.SIGKILL)
arrays.save_array(folder, "x", np.ones((100, 50), "f4"))
"""


@pytest.mark.parametrize("when", ["before manifest", "within rows"])
def test_a_kill_between_data_and_manifest_leaves_nothing_to_read(tmp_path, when):
    done = _run(KILLED, str(tmp_path), when)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="no 'x'"):
        store.open_array(tmp_path, "x")
    with store.ArrayWriter(tmp_path, "x", (100, 50), "f4") as writer:
        assert writer.done == (30 if when == "within rows" else 0)
        writer.write(writer.done, np.ones((100 - writer.done, 50)))
    assert (store.open_array(tmp_path, "x") == 1).all()


def test_an_overwrite_that_was_killed_is_noticed(tmp_path):
    store.save_array(tmp_path, "x", np.zeros((100, 50), "f4"))
    done = _run(KILLED, str(tmp_path), "before manifest")
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="half replaced"):
        store.open_array(tmp_path, "x")


def test_a_map_of_the_old_array_survives_its_replacement(tmp_path):
    store.save_array(tmp_path, "x", np.zeros((1000, 50)))
    old = store.open_array(tmp_path, "x")
    store.save_array(tmp_path, "x", np.ones((1000, 50)))
    assert (old == 0).all()
    assert (store.open_array(tmp_path, "x") == 1).all()


# --- locks


HOLDER = (
    "import sys, time; from brainlens import store\nwith store.lock(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
)


def test_a_second_writer_is_told_who_holds_the_folder_and_a_dead_one_is_forgotten(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(DataError, match=str(holder.pid)), store.lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with store.lock(tmp_path), pytest.raises(DataError, match=str(os.getpid())), store.lock(tmp_path):
        pass
    with store.lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_threads_do_not_lose_each_others_entries(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: store.save_array(tmp_path, f"a{i}", np.full(3, i)), range(16)))
    assert [int(store.open_array(tmp_path, f"a{i}")[0]) for i in range(16)] == list(range(16))


# --- results


def example(space=None, n: int = 8) -> Result:
    rng = np.random.default_rng(0)
    units = pd.DataFrame(
        {"roi": ["V1", "", None, "FFA-1", "001", "\\N", 'a,"b"\n', "é😀"], "x": rng.normal(size=n), "n": np.arange(n)}
    )
    return Result(
        "encode",
        {"encoding/r2": 0.25, "encoding/ceiling": float("nan"), "odd": float("inf"), "count": 3},
        {"r2": rng.normal(size=n).astype("f4"), "maps/a b": rng.normal(size=(2, n)), "scalar": np.array(2)},
        units,
        {"scores": pd.DataFrame({"id": ["001", "1e5"], "ok": [True, False], "v": [np.nan, np.inf]}), "empty": pd.DataFrame()},
        {"alphas": (0.1, np.float32(2)), "where": Path("x"), "none": None, "roi": {"b", "a"}},
        {"seed": np.int64(3)},
        space,
    )


SPACES = [
    None,
    Volume(np.ones((2, 2, 2), bool), np.diag([4.0, 4, 4, 1])),
    Surface("fsaverage5", np.array(["left"] * 3 + ["right"] * 5), np.arange(8)),
    Sensors(np.array([f"c{i}" for i in range(8)]), np.random.default_rng(0).normal(size=(8, 3))),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_results_come_back_whole(tmp_path, space):
    result = example(space)
    path = store.save_result(result, tmp_path)
    assert path == tmp_path / "result.json"
    back = store.load_result(tmp_path)
    assert back.task == "encode"
    assert back.metrics["encoding/r2"] == 0.25
    assert np.isnan(back.metrics["encoding/ceiling"])
    assert back.metrics["odd"] == float("inf")
    for name, array in result.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].dtype == array.dtype
    assert back.units is not None
    assert result.units is not None
    for a, b in zip(result.units["roi"], back.units["roi"]):
        assert a == b or (pd.isna(a) and pd.isna(b))
    np.testing.assert_array_equal(back.units["x"], result.units["x"])
    assert back.units["n"].dtype == np.int64
    assert list(back.tables["scores"]["id"]) == ["001", "1e5"]
    assert list(back.tables["scores"]["ok"]) == [True, False]
    np.testing.assert_array_equal(back.tables["scores"]["v"], [np.nan, np.inf])
    assert len(back.tables["empty"]) == 0
    assert back.config["roi"] == ["a", "b"]
    assert type(back.space) is type(space)
    if space is not None:
        for name, value in vars(space).items():
            np.testing.assert_array_equal(getattr(back.space, name), value)


def test_result_json_is_the_contract_with_other_programs(tmp_path):
    store.save_result(example(SPACES[1]), tmp_path)

    def strict(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=strict)
    assert {"task", "metrics", "config", "provenance", "arrays"} <= set(content)
    assert content["metrics"]["encoding/ceiling"] is None
    import hashlib

    for entry in [*content["arrays"].values(), *content["tables"].values(), content["units"]]:
        assert hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("pattern", ["r2.npy", "units.csv", "table*scores.csv", "space*mask.npy"])
@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink])
def test_a_damaged_piece_of_a_result_is_named(tmp_path, pattern, damage):
    store.save_result(example(SPACES[1]), tmp_path)
    (path,) = tmp_path.glob(pattern)
    damage(path)
    with pytest.raises(DataError, match=path.stem.split("%")[0]):
        store.load_result(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "{}", '{"task": "x"}', '{"task":"x","metrics":{},"config":{},"provenance":{},"arrays":{},"format":99}']
)
def test_a_result_json_of_another_kind_is_one_line(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError) as caught:
        store.load_result(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unfinished_run_has_no_result(tmp_path):
    with pytest.raises(DataError, match="missing"):
        store.load_result(tmp_path / "nowhere")


texts = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@given(st.lists(st.tuples(texts, st.floats(), st.integers(-(2**62), 2**62), st.booleans()), max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_table_survives_the_csv(rows):
    table = pd.DataFrame({"s": pd.Series([r[0] for r in rows], dtype=object)})
    table["f"] = np.array([r[1] for r in rows], dtype=float)
    table["i"] = np.array([r[2] for r in rows], dtype=np.int64)
    table["b"] = np.array([r[3] for r in rows], dtype=bool)
    back = results.read_table(*results.table_bytes(table))
    assert [None if pd.isna(v) else v for v in back["s"]] == [r[0] for r in rows]
    for column in "fib":
        np.testing.assert_array_equal(back[column].to_numpy(), table[column].to_numpy())
        assert back[column].dtype == table[column].dtype


# --- runs, fingerprints, provenance, logs


def test_the_run_folder_depends_on_config_data_and_code_and_on_nothing_else(tmp_path, monkeypatch):
    one = store.run_folder(tmp_path, "encode", {"a": (1, 2), "b": np.float64(0.5)}, ["f"])
    assert one == store.run_folder(tmp_path, "encode", {"b": 0.5, "a": [1, 2]}, ["f"])
    assert one.name.startswith("encode-")
    assert one != store.run_folder(tmp_path, "encode", {"a": (1, 2), "b": 0.6}, ["f"])
    assert one != store.run_folder(tmp_path, "encode", {"a": (1, 2), "b": 0.5}, ["g"])
    with pytest.raises(DataError, match="object"):
        store.run_folder(tmp_path, "encode", {"a": object()}, [])
    monkeypatch.setattr(results, "code_version", lambda: "another")  # an edit of the sources throws nothing away
    assert one == store.run_folder(tmp_path, "encode", {"a": (1, 2), "b": 0.5}, ["f"])
    monkeypatch.setitem(results.TASKS, "encode", 99)
    assert one != store.run_folder(tmp_path, "encode", {"a": (1, 2), "b": 0.5}, ["f"])


def tables(seed: int = 0) -> tuple[Stimuli, Responses, Features]:
    rng = np.random.default_rng(seed)
    ids = np.array(["a", "b", "c"])
    stimuli = Stimuli(ids, rng.integers(0, 255, (3, 4, 4, 3)).astype("u1"), [["x"], [], ["y"]])
    trials, units = pd.DataFrame({"stimulus": ids}), pd.DataFrame({"roi": ["V1", "V2"]})
    responses = Responses(rng.normal(size=(3, 2)).astype("f4"), trials, units)
    return stimuli, responses, Features({"l": rng.normal(size=(3, 5))}, ids, "m")


def test_fingerprints_see_every_value_and_every_label():
    from dataclasses import replace

    s, r, f = tables()
    again = tables()
    assert [store.fingerprint(x) for x in (s, r, f)] == [store.fingerprint(x) for x in again]
    pixel = np.array(s.images)
    pixel[2, 3, 3, 2] ^= 1
    data = r.data.copy()
    data[1, 1] += 1e-3
    changed = [
        (s, replace(s, images=pixel)),
        (s, replace(s, captions=[["x"], [], ["z"]])),
        (s, s.take(["b", "a", "c"])),
        (r, replace(r, data=data)),
        (r, replace(r, units=pd.DataFrame({"roi": ["V1", "V3"]}))),
        (r, replace(r, trials=pd.DataFrame({"stimulus": ["a", "c", "b"]}))),
        (r, replace(r, space=Sensors(np.array(["p", "q"]), np.zeros((2, 3))))),
        (f, replace(f, model="n")),
        (f, f.take(["c", "b", "a"])),
        (r.data, r.data.astype("f8")),
        (r.data, r.data.T),
    ]
    for before, after in changed:
        assert store.fingerprint(before) != store.fingerprint(after)
    with pytest.raises(DataError, match="list"):
        store.fingerprint([1])


def test_a_large_array_is_hashed_by_blocks(tmp_path):
    store.save_array(tmp_path, "x", np.zeros((20000, 1000), "f4"))
    mapped = store.open_array(tmp_path, "x")
    tracemalloc.start()
    one = store.fingerprint(mapped)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6
    assert one == store.fingerprint(np.zeros((20000, 1000), "f4"))


def test_a_run_whose_task_computes_other_numbers_by_now_says_so(tmp_path, monkeypatch):
    made = Result("align", {"mrr": 0.5}, {})
    store.save_result(made, tmp_path / "a")
    read = store.load_result(tmp_path / "a")  # warnings are errors here
    now = store.TASKS["align"]
    assert read.provenance == {"task_version": now}
    monkeypatch.setitem(results.TASKS, "align", now + 1)
    line = f"a holds numbers of version {now} of align, and {now + 1} is computed now: run again to compare the two"
    with pytest.warns(BrainlensWarning, match=line):
        store.load_result(tmp_path / "a")
    store.save_result(read, tmp_path / "b")  # its numbers do not become new ones by being written again
    with pytest.warns(BrainlensWarning, match=line.replace("a holds", "b holds")):
        store.load_result(tmp_path / "b")
    monkeypatch.setitem(results.TASKS, "encode", store.TASKS["encode"] + 1)
    monkeypatch.setitem(results.TASKS, "align", now)
    assert store.load_result(tmp_path / "a").metrics == {"mrr": 0.5}  # of another task it says nothing
    monkeypatch.setattr(results, "TASKS", {})  # as before the number was written
    store.save_result(made, tmp_path / "old")
    monkeypatch.undo()
    assert store.load_result(tmp_path / "old").provenance == {}


def test_provenance_says_with_what_and_how_long():
    out = store.provenance(3, "cpu", ["abc"], store.Start(time.time() - 2, time.perf_counter() - 2))
    assert out["seed"] == 3
    assert out["device"] == "cpu"
    assert out["data"] == ["abc"]
    assert 2 <= out["wall_s"] < 10
    assert out["peak_mb"] > 10
    assert out["versions"]["numpy"] == np.__version__
    assert out["versions"]["brainlens"].startswith("0.")
    json.dumps(out, allow_nan=False)


def test_a_clock_that_is_set_back_costs_no_duration(monkeypatch):
    """The date is of the wall clock; what a run took is not."""
    began = store.Start()
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real - 3600)
    out = store.provenance(None, "cpu", [], began)
    assert 0 <= out["wall_s"] < 60
    assert out["started"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began.date))


def test_no_duration_is_taken_from_the_wall_clock():
    """`time.time()` stands where a date is meant, in `Start` and beside nothing that is subtracted."""
    found = [p for p in Path(store.__file__).parents[1].rglob("*.py") if "time.time()" in p.read_text(encoding="utf-8")]
    assert found == []


def test_the_log_keeps_whole_lines_after_a_kill(tmp_path):
    store.append_log(tmp_path, {"step": 1, "loss": np.float32(0.5)})
    with open(tmp_path / "log.jsonl", "a") as handle:
        handle.write('{"step": 2, "lo')
    store.append_log(tmp_path, {"step": 3, "loss": float("nan")})
    assert store.read_log(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 3, "loss": None}]
    assert store.read_log(tmp_path / "none") == []


def test_a_line_of_the_log_that_was_altered_is_left_out_and_old_lines_are_read_where_no_hash_is_asked(tmp_path):
    for step in range(3):
        store.append_log(tmp_path, {"step": step, "loss": 0.5, "inf": float("inf")})
    path = tmp_path / "log.jsonl"
    lines = path.read_text().splitlines()
    altered = [lines[0], lines[1].replace("0.5", "0.1"), lines[2], '{"step": 9}', "[1]", "3"]
    path.write_text("\n".join(altered) + "\n")
    assert [record["step"] for record in store.read_log(tmp_path)] == [0, 2, 9]
    assert [record["step"] for record in store.read_log(tmp_path, sealed=True)] == [0, 2]


# --- features


def blocks(calls: list[tuple[int, int]], scale: float = 1.0, stop_at: int | None = None):
    rng = np.random.default_rng(0)
    ids = np.array([f"{i:03d}" for i in range(10)])
    data, tokens = rng.normal(size=(10, 5)), rng.normal(size=(10, 4, 3)) * scale

    def compute(start: int, stop: int) -> Features:
        calls.append((start, stop))
        if stop_at is not None and stop > stop_at:
            raise KeyboardInterrupt
        return Features({"l": data[start:stop]}, ids[start:stop], "m", {"l": tokens[start:stop]}, {"l": (2, 2)})

    return ids, data, tokens, compute


def test_features_are_computed_once_and_come_back_as_maps(tmp_path):
    calls: list[tuple[int, int]] = []
    ids, data, tokens, compute = blocks(calls)
    key = {"model": "hash", "layers": ["l"], "images": "hash"}
    one = store.cached_features(tmp_path, key, compute, ids=ids, block=4)
    assert calls == [(0, 4), (4, 8), (8, 10)]
    two = store.cached_features(tmp_path, key, compute, ids=ids, block=4)
    assert len(calls) == 3
    for features in (one, two):
        assert features.data["l"].dtype == np.float16
        np.testing.assert_allclose(features.data["l"], data, rtol=1e-3)
        np.testing.assert_allclose(features.tokens["l"], tokens, rtol=1e-3)
        assert features.grid == {"l": (2, 2)}
        assert list(features.ids) == list(ids)
    store.cached_features(tmp_path, key | {"images": "other"}, compute, ids=ids)
    assert len(calls) == 4
    whole = store.cached_features(tmp_path, {"k": 2}, lambda: compute(0, 10))
    np.testing.assert_array_equal(whole.data["l"], one.data["l"])


def test_a_killed_extraction_goes_on_at_the_next_block(tmp_path):
    ids, data, _, stopping = blocks([], stop_at=8)
    with pytest.raises(KeyboardInterrupt):
        store.cached_features(tmp_path, {"k": 1}, stopping, ids=ids, block=4)
    calls: list[tuple[int, int]] = []
    features = store.cached_features(tmp_path, {"k": 1}, blocks(calls)[3], ids=ids, block=4)
    assert (4, 8) not in calls
    np.testing.assert_allclose(features.data["l"], data, rtol=1e-3)


def test_values_beyond_float16_are_kept_wider_and_never_infinite(tmp_path):
    ids, _, tokens, compute = blocks([], scale=1e5)
    features = store.cached_features(tmp_path, {"k": 1}, compute, ids=ids, block=4)
    assert features.tokens["l"].dtype == np.float32
    assert features.data["l"].dtype == np.float16
    np.testing.assert_allclose(features.tokens["l"], tokens, rtol=1e-6)


def test_features_with_nan_or_of_other_images_are_refused(tmp_path):
    ids, data, _, compute = blocks([])
    data[3, 2] = np.nan
    with pytest.raises(DataError, match="003"):
        store.cached_features(tmp_path, {"k": 1}, compute, ids=ids)
    with pytest.raises(DataError, match="ids"):
        store.cached_features(tmp_path, {"k": 2}, compute, ids=ids[::-1])


def test_damaged_cached_features_are_an_error(tmp_path):
    ids, _, _, compute = blocks([])
    store.cached_features(tmp_path, {"k": 1}, compute, ids=ids)
    (path,) = tmp_path.rglob("data*l.npy")
    _flip(path)
    with pytest.raises(DataError, match="damaged"):
        store.cached_features(tmp_path, {"k": 1}, compute, ids=ids)


# --- weights and checkpoints


def test_weights_come_back_and_damage_is_seen(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "b": shared.T, "c": torch.ones(2, dtype=torch.bfloat16), "d": shared[:1], "e": torch.tensor(3)}
    path = store.save_weights(tmp_path, "model", tensors)
    back = store.load_weights(tmp_path, "model")
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype
    _flip(path)  # the format itself has no checksum over its values
    with pytest.raises(DataError, match="damaged"):
        store.load_weights(tmp_path, "model")


def trainer(seed: int = 0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    return model, optimiser, schedule, torch.Generator().manual_seed(1), np.random.default_rng(2)


def train(parts, steps: int) -> None:
    model, optimiser, schedule, generator, rng = parts
    for _ in range(steps):
        x = torch.randn(5, 6, generator=generator) + float(rng.normal())
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
        schedule.step()


def state(parts) -> dict:
    model, optimiser, schedule, generator, rng = parts
    return {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),
        "numpy": rng.bit_generator.state,
        "python": random.getstate(),
        "best": (0.1, None, {"epoch": 3}),
        "order": np.arange(5)[::-1],
    }


def test_a_resumed_training_is_the_same_to_the_bit(tmp_path):
    with torch.random.fork_rng():
        whole = trainer()
        train(whole, 12)
        half = trainer()
        train(half, 6)
        store.save_checkpoint(tmp_path, state(half))
        expected = random.random()
        resumed = trainer(seed=99)
        back = store.load_checkpoint(tmp_path)
        assert back is not None
        model, optimiser, schedule, generator, rng = resumed
        model.load_state_dict(back["model"])
        optimiser.load_state_dict(back["optimiser"])
        schedule.load_state_dict(back["schedule"])
        generator.set_state(back["generator"])
        torch.set_rng_state(back["torch"])
        rng.bit_generator.state = back["numpy"]
        random.setstate(back["python"])
        assert random.random() == expected
        train(resumed, 6)
    for a, b in zip(whole[0].parameters(), resumed[0].parameters()):
        assert torch.equal(a, b)
    assert back["best"] == (0.1, None, {"epoch": 3})
    np.testing.assert_array_equal(back["order"], np.arange(5)[::-1])
    assert not any(b"pickle" in p.read_bytes() for p in tmp_path.iterdir())


def test_the_last_good_checkpoint_is_kept(tmp_path):
    assert store.load_checkpoint(tmp_path) is None
    for step in range(4):
        store.save_checkpoint(tmp_path, {"step": step, "w": torch.full((100,), float(step))})
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    newest = max(tmp_path.glob("*.safetensors"))
    _flip(newest)
    with pytest.warns(UserWarning, match="not used"):
        back = store.load_checkpoint(tmp_path)
    assert back is not None
    assert back["step"] == 2
    assert (back["w"] == 2).all()
    _truncate(min(tmp_path.glob("*.safetensors")))
    with pytest.warns(UserWarning, match="not used"), pytest.raises(DataError, match="none of 2"):
        store.load_checkpoint(tmp_path)


CHECKPOINT_KILL = """
import os, signal, sys, torch
from brainlens.store import training
training.save_checkpoint(sys.argv[1], {"step": 1})
training.save_text = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
training.save_checkpoint(sys.argv[1], {"step": 2})
"""


def test_a_kill_within_a_checkpoint_leaves_the_one_before(tmp_path):
    assert _run(CHECKPOINT_KILL, str(tmp_path)).returncode == -signal.SIGKILL
    assert store.load_checkpoint(tmp_path) == {"step": 1}
    store.save_checkpoint(tmp_path, {"step": 3})
    assert store.load_checkpoint(tmp_path) == {"step": 3}


def test_checkpoints_go_with_what_a_kill_left_and_nothing_else_does(tmp_path):
    place = tmp_path / "training"
    store.remove_checkpoints(place)
    for step in range(2):
        store.save_checkpoint(place, {"step": step, "w": torch.ones(3)})
    (place / ".checkpoint-00000003.safetensors.77.part").write_bytes(b"half")
    store.remove_checkpoints(place)
    assert not place.exists()
    store.save_checkpoint(place, {"step": 5})
    (place / "notes.txt").write_text("mine")
    store.remove_checkpoints(place)
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("value", [object(), torch.Generator(), np.array(["a"]), {1, 2}])
def test_a_checkpoint_refuses_what_only_a_pickle_could_hold(tmp_path, value):
    with pytest.raises(DataError, match="checkpoint"):
        store.save_checkpoint(tmp_path, {"x": value})


# --- pictures, volumes, text


def test_volumes_images_and_figures_are_written_whole_and_alike(tmp_path):
    import matplotlib.pyplot as plt
    import nibabel as nib
    from PIL import Image

    affine = np.diag([-2.0, 2, 2, 1])
    volume = np.random.default_rng(0).normal(size=(3, 4, 5))
    for name in ("a.nii.gz", "b.nii.gz"):
        store.save_nifti(tmp_path / name, volume, affine)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), volume, rtol=1e-6)
    np.testing.assert_array_equal(image.affine, affine)
    store.save_nifti(tmp_path / "m.nii", volume > 0, affine)
    np.testing.assert_array_equal(nib.load(tmp_path / "m.nii").get_fdata(), volume > 0)
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[344:347] == b"n+1"
    picture = np.random.default_rng(0).integers(0, 255, (5, 6, 3)).astype("u1")
    store.save_image(tmp_path / "p.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), picture)
    figure = plt.figure()
    store.save_figure(tmp_path / "f.svg", figure)
    plt.close(figure)
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    for path, call in {
        "x.bmp": lambda p: store.save_image(p, picture),
        "x.img": lambda p: store.save_nifti(p, volume, affine),
        "x.gif": lambda p: store.save_figure(p, figure),
        "x.png": lambda p: store.save_image(p, picture.astype(float)),
        "x.nii": lambda p: store.save_nifti(p, volume[0], affine),
    }.items():
        with pytest.raises(DataError, match=path.split(".")[0]):
            call(tmp_path / path)
    assert not leftovers(tmp_path)


def test_a_header_beyond_memory_does_not_allocate(tmp_path):
    path = tmp_path / "h.npy"
    _claim_header(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="cut short"):
        store.open_npy(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_the_texts_of_errors_are_one_line(tmp_path):
    for call in (
        lambda: store.open_array(tmp_path, "x"),
        lambda: store.load_result(tmp_path),
        lambda: store.load_weights(tmp_path, "x"),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert len(textwrap.dedent(str(caught.value)).splitlines()) == 1
