"""Results, runs and their provenance on disk.

A run folder holds `result.json`, one `.npy` an array, one `.csv` a table, weights as `.safetensors` and `log.jsonl`.
`result.json` is written last and lists every file with its SHA-256, so that a folder without it is an unfinished run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.store.arrays import MANIFEST, ids_hash, manifest, merge, open_array, release, save_array, save_bytes
from brainlens.store.files import check_file, check_seal, plain, read_json, save_json, seal, sync_folder
from brainlens.store.locks import PATIENCE, STAGING, lock
from brainlens.types import (
    DataError,
    Features,
    Responses,
    Result,
    Sensors,
    Space,
    Stimuli,
    Surface,
    Volume,
    image_key,
    reading,
)
from brainlens.warned import warn

FORMAT = 2  # 1 had no hash of itself
RESULT = "result.json"
SPACE = "space/"  # array names under which a space is stored
TASKS = {
    "align": 6,
    "attribute": 3,
    "embed": 1,
    "encode": 5,
    "decode": 3,
    "epochs": 2,
    "captions": 2,
    "compare": 3,
    "describe": 1,
    "reconstruct": 1,
    "sweep": 1,
    "paper": 1,
}  # raised when numbers change
TASK_VERSION = "task_version"  # of the provenance: the number of TASKS that a result was made with
VERSIONS = ("numpy", "pandas", "scipy", "torch", "transformers", "diffusers", "scikit-learn", "nibabel", "nilearn", "mne")


def save_result(result: Result, folder: str | Path) -> Path:
    """Writes a result into its run folder and returns the path of `result.json`, which is written last.

    All is written beside the old files and takes their place at the end: a full disk leaves the old result as it was, a kill in
    between an unfinished run, and a second writer waits for the first.
    """
    folder = Path(folder)
    metrics, config, provenance_ = plain(dict(result.metrics)), plain(result.config), plain(result.provenance)
    if result.task in TASKS:  # of a result that was read, that of its own time
        provenance_.setdefault(TASK_VERSION, TASKS[result.task])
    clash = [name for name in result.arrays if name.startswith(SPACE)]
    if clash:
        raise DataError(f"array name {clash[0]!r}: names that begin with {SPACE!r} are kept for the space")
    space, space_arrays = _space_out(result.space)
    with lock(folder, wait=PATIENCE, shared=True), _staging(folder) as stage:
        for name, array in {**result.arrays, **space_arrays}.items():
            save_array(stage, name, np.asarray(array))
        listed = manifest(stage)
        tables = {name: _save_table(stage, f"table/{name}", table) for name, table in result.tables.items()}
        units = None if result.units is None else _save_table(stage, "units", result.units)
        content = {
            "task": result.task,
            "metrics": metrics,
            "config": config,
            "provenance": provenance_,
            "arrays": {name: listed[name] for name in result.arrays},
            "units": units,
            "tables": tables,
            "space": space | {"arrays": {name: listed[name] for name in space_arrays}} if space else None,
            "format": FORMAT,
        }
        save_json(stage / RESULT, seal(content))
        _move(stage, folder, listed)
    return folder / RESULT


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder in the run folder that goes when the block ends, however it ends."""
    stage = folder / f"{STAGING}{os.getpid()}"
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move(stage: Path, folder: Path, listed: dict[str, dict[str, Any]]) -> None:
    """The new files in the place of the old ones; without a `result.json` in between, so that half is never read for a whole."""
    (folder / RESULT).unlink(missing_ok=True)
    for path in sorted(stage.iterdir()):
        if path.name not in (RESULT, MANIFEST):
            os.replace(path, folder / path.name)
    merge(folder, listed)
    os.replace(stage / RESULT, folder / RESULT)
    sync_folder(folder)


def lost_arrays(folder: str | Path) -> list[str]:
    """Names of the arrays that a run's `result.json` lists and whose files are gone; those of its space are not among them."""
    path = Path(folder) / RESULT
    with reading(path, "run again"):
        listed = read_json(path)["arrays"]
        return [name for name, entry in listed.items() if not (path.parent / Path(entry["file"]).name).exists()]


def load_result(folder: str | Path, *, without: Collection[str] = ()) -> Result:
    """A stored result; arrays are read-only memory maps. Raises DataError when a piece is missing, altered or damaged.

    without: names of arrays that are left out, as `lost_arrays` gives them.
    """
    folder = Path(folder)
    path = folder / RESULT
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a result of this library; name a run folder")
    missing = [key for key in ("task", "metrics", "config", "provenance", "arrays") if key not in content]
    if missing:
        raise DataError(f"{path} has no {missing[0]!r}; it was not written by this library")
    number = content.get("format", 0)
    if not isinstance(number, int) or isinstance(number, bool):
        raise DataError(f"{path} has format {number!r}, a number is expected; it was altered, run again")
    if number > FORMAT:
        raise DataError(f"{path} has format {number}, this version reads up to {FORMAT}; update brainlens")
    with reading(path, "run again"):
        check_seal(path, content, required=number >= 2)
        units = content.get("units")
        result = Result(
            task=content["task"],
            metrics={name: float("nan") if value is None else float(value) for name, value in content["metrics"].items()},
            arrays={name: _listed_array(folder, name, e) for name, e in content["arrays"].items() if name not in without},
            units=None if units is None else _load_table(folder, units),
            tables={name: _load_table(folder, entry) for name, entry in (content.get("tables") or {}).items()},
            config=dict(content["config"]),
            provenance=dict(content["provenance"]),
            space=_space_in(folder, content.get("space")),
        )
    _tell_other_version(folder, result)
    return result


def _tell_other_version(folder: Path, result: Result) -> None:
    """Warns of a run whose task computes other numbers by now; one of before the number was written says nothing of it."""
    made = result.provenance.get(TASK_VERSION)
    now = TASKS.get(result.task, made)
    if made is not None and made != now:
        warn(
            f"{folder} holds numbers of version {made} of {result.task}, and {now} is computed now: run again to compare the two"
        )


def settings_of(asked: Any, later: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass by name, by which work is found again, without those of `later` at the value they have there.

    later: fields that came after the first finished work, at the value that says the same as their absence.
    """
    return {name: value for name, value in asdict(asked).items() if name not in later or value != later[name]}


def run_folder(root: str | Path, task: str, config: Mapping[str, Any], data: Sequence[str]) -> Path:
    """`root/<task>-<hash>`, the hash over config, data fingerprints and the version of the task; the same work, the same folder.

    An edit of a help text throws nothing away; whoever changes what a task computes raises its number in `TASKS`.
    """
    text = json.dumps([task, plain(dict(config)), list(data), TASKS.get(task, 1)], sort_keys=True)
    return Path(root) / f"{task}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@cache
def code_version() -> str:
    """Version and a hash of the package's sources, without those that only show results."""
    import brainlens

    root = Path(brainlens.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        part = path.relative_to(root).as_posix()
        if part.split("/")[0] not in ("plots", "report", "cli.py"):
            digest.update(part.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{brainlens.__version__}+{digest.hexdigest()[:12]}"


@dataclass(frozen=True)
class Start:
    """When work began: its date, in seconds since 1970, and a clock that no correction of the date moves."""

    date: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self.clock


def provenance(seed: int | None, device: str, data: Sequence[str] | Mapping[str, str], started: Start) -> dict[str, Any]:
    """Versions, seed, device, processor, data fingerprints, seconds since `started`, and peak memory in MB.

    instructions: the vector instructions that torch uses (AVX2, AVX512, ...), on which the last digits hang; threads: of torch.
    """
    versions = {"brainlens": code_version(), "python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    scale = 1 / 1024 if sys.platform != "darwin" else 1 / 2**20
    out: dict[str, Any] = {
        "versions": versions,
        "seed": seed,
        "device": str(device),
        "data": dict(data) if isinstance(data, Mapping) else list(data),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started.date)),
        "wall_s": round(started.seconds(), 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, 1),
        "platform": platform.platform(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        out |= {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    if str(device).startswith("cuda") and torch is not None:
        out["device_name"] = torch.cuda.get_device_name(device)
        out["device_peak_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return out


def fingerprint(thing: np.ndarray | Stimuli | Responses | Features) -> str:
    """SHA-256 in hex of all that a table, or array of any shape, holds: values, order, ids and labels."""
    digest = hashlib.sha256()
    if isinstance(thing, np.ndarray):
        _add_array(digest, thing)
    elif isinstance(thing, Stimuli):
        digest.update(b"stimuli" + ids_hash(thing.ids).encode() + json.dumps(thing.captions).encode())
        _add_table(digest, thing.table)
        own = getattr(thing.images, "fingerprint", None)  # a lazy sequence may know its content without reading it
        for key in [own.encode()] if isinstance(own, str) else map(image_key, thing.images):
            digest.update(key)
    elif isinstance(thing, Responses):
        digest.update(b"responses" + thing.measure.encode())
        for array in [thing.data, thing.times, *_space_out(thing.space)[1].values()]:
            _add_array(digest, np.empty(0) if array is None else array)
        _add_table(digest, thing.trials)
        _add_table(digest, thing.units)
        digest.update(json.dumps(_space_out(thing.space)[0]).encode())
    elif isinstance(thing, Features):
        digest.update(b"features" + thing.model.encode() + ids_hash(thing.ids).encode())
        for kind, arrays in (("data", thing.data), ("tokens", thing.tokens)):
            for layer, array in arrays.items():
                digest.update(f"{kind}\0{layer}\0{thing.grid.get(layer)}".encode())
                _add_array(digest, array)
    else:
        raise DataError(f"a fingerprint is of an array, Stimuli, Responses or Features, not of {type(thing).__name__}")
    return digest.hexdigest()


def _add_array(digest: Any, array: np.ndarray) -> None:
    digest.update(repr((array.shape, array.dtype.str)).encode())
    if array.dtype.hasobject:
        raise DataError("an array of Python objects has no fingerprint; convert it to numbers or text")
    if array.ndim == 0:
        digest.update(array.tobytes())
        return
    step = max(1, (1 << 24) // max(array[:1].nbytes, 1))
    for start in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[start : start + step]).view(np.uint8).data if array.size else b"")
        release(array)


def _add_table(digest: Any, table: pd.DataFrame) -> None:
    content, dtypes = table_bytes(table)
    digest.update(json.dumps([dtypes, len(table)]).encode() + content)


def table_bytes(table: pd.DataFrame) -> tuple[bytes, dict[str, str]]:
    """A table as CSV, and what each column is ("str", "bool", "int" or "float"), so that ids come back as text.

    A missing text is written as \\N and a text that begins with a backslash gets one more.
    """
    out, dtypes = {}, {}
    for column in table.columns:
        values = table[column]
        name = str(column)
        if name in out:
            raise DataError(f"a table has two columns named {name!r}; rename one")
        kind = getattr(values.dtype, "kind", "O")
        dtypes[name] = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(kind, "str")
        if isinstance(values.dtype, np.dtype) and dtypes[name] != "str":
            out[name] = values.to_numpy()
            continue
        dtypes[name] = "str"
        missing = values.isna().to_numpy()
        texts = ["\\N" if gone else _escape(v) for v, gone in zip(values.astype(object), missing)]
        out[name] = np.array(texts, dtype=object)
    stream = io.StringIO()
    pd.DataFrame(out, index=range(len(table))).to_csv(stream, index=False, na_rep="nan", quoting=2, lineterminator="\n")
    return stream.getvalue().encode("utf-8", "surrogatepass"), dtypes


def read_table(content: bytes, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """The table that `table_bytes` wrote."""
    import csv

    text = content.decode("utf-8", "surrogatepass")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if not dtypes:
        return pd.DataFrame(index=range(max(len(rows) - 1, 0)))
    if not rows or rows[0] != list(dtypes) or any(len(row) != len(dtypes) for row in rows[1:]):
        raise DataError(f"a stored table does not have its columns {list(dtypes)}")
    columns = list(zip(*rows[1:])) or [()] * len(dtypes)
    out: dict[str, Any] = {}
    for (name, kind), values in zip(dtypes.items(), columns):
        if kind == "str":
            out[name] = pd.Series([np.nan if v == "\\N" else v[1:] if v.startswith("\\") else v for v in values], dtype=object)
        elif kind == "bool":
            out[name] = np.array([v == "True" for v in values], dtype=bool)
        else:
            out[name] = np.array(values, dtype=np.int64 if kind == "int" else np.float64)
    return pd.DataFrame(out)


def _escape(value: Any) -> str:
    text = str(value)
    return "\\" + text if text.startswith("\\") else text


def _save_table(folder: Path, name: str, table: pd.DataFrame) -> dict[str, Any]:
    content, dtypes = table_bytes(table)
    return {**save_bytes(folder, name, ".csv", content), "columns": dtypes, "rows": len(table)}


def _load_table(folder: Path, entry: Mapping[str, Any]) -> pd.DataFrame:
    path = folder / Path(entry["file"]).name
    check_file(path, entry["sha256"])
    with reading(path, "run again"):
        table = read_table(path.read_bytes(), entry["columns"])
    return table if entry["columns"] else pd.DataFrame(index=range(entry["rows"]))


def _listed_array(folder: Path, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    if manifest(folder).get(name, {}).get("sha256") != entry["sha256"]:
        raise DataError(f"{folder}: array {name!r} is not the one that result.json lists; it was replaced or removed, run again")
    return open_array(folder, name)


def _space_out(space: Space | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if space is None:
        return {}, {}
    if isinstance(space, Volume):
        return {"kind": "volume"}, {SPACE + "mask": space.mask, SPACE + "affine": np.asarray(space.affine)}
    if isinstance(space, Surface):
        left = np.asarray(space.hemisphere == "left")
        return {"kind": "surface", "mesh": space.mesh}, {SPACE + "left": left, SPACE + "vertex": np.asarray(space.vertex)}
    names = np.asarray(space.names).astype(np.str_)
    return {"kind": "sensors"}, {SPACE + "names": names, SPACE + "positions": np.asarray(space.positions)}


def _space_in(folder: Path, entry: Mapping[str, Any] | None) -> Space | None:
    if not entry:
        return None
    arrays = {name[len(SPACE) :]: np.array(_listed_array(folder, name, e)) for name, e in entry["arrays"].items()}
    if entry["kind"] == "volume":
        return Volume(arrays["mask"], arrays["affine"])
    if entry["kind"] == "surface":
        return Surface(entry["mesh"], np.where(arrays["left"], "left", "right"), arrays["vertex"])
    if entry["kind"] == "sensors":
        return Sensors(arrays["names"], arrays["positions"])
    raise DataError(f"{folder}: a space of kind {entry['kind']!r} is not known; update brainlens")
