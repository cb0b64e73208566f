"""A cache of network features, found by what they were made from: model files, layers, preprocessing, image pixels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainlens.store.arrays import ArrayWriter, open_array
from brainlens.store.files import check_seal, plain, read_json, save_json, seal
from brainlens.store.locks import PATIENCE, lock
from brainlens.types import DataError, Features, reading

FLOAT16_MAX = 65504.0
FORMAT = 1  # a note without it is of before notes had a hash


def features_folder(folder: str | Path, key: dict[str, Any]) -> Path:
    """The folder that features of this key have in a cache."""
    return Path(folder) / hashlib.sha256(json.dumps(plain(key), sort_keys=True).encode()).hexdigest()[:24]


def cached_features(
    folder: str | Path,
    key: dict[str, Any],
    compute: Callable[..., Features],
    *,
    ids: Sequence[str] | None = None,
    block: int = 256,
    dtype: str = "float16",
) -> Features:
    """Features from the cache, computed and stored first where they are missing.

    key: what the values depend on (hashes of model files, layers, preprocessing, hashes of images), never mere names.
    compute() returns all Features; with `ids`, compute(start, stop) returns those of ids[start:stop] and is called
    block by block, so that no more than a block is in memory and a killed extraction goes on where it was.
    Values are stored as `dtype`; a layer with a value beyond the range of float16 is stored as float32.
    """
    place = features_folder(folder, {"key": key, "dtype": dtype})
    if not (place / "features.json").exists():
        with lock(place, wait=math.inf):  # what another run extracts, however long it takes, is taken from it
            if not (place / "features.json").exists():
                if ids is None:
                    whole = compute()
                    _extract(place, lambda start, stop: _rows(whole, start, stop), list(map(str, whole.ids)), len(whole), dtype)
                else:
                    _extract(place, compute, list(ids), block, dtype)
                save_json(place / "key.json", key)
    return load_features(place)


def save_features(features: Features, folder: str | Path, *, dtype: str = "float16") -> Path:
    """Writes Features into a folder of their own and returns it."""
    with lock(folder, wait=PATIENCE, shared=True):
        (Path(folder) / "features.json").unlink(missing_ok=True)  # until all is written, what lies there is no features
        _extract(Path(folder), lambda a, b: _rows(features, a, b), list(map(str, features.ids)), len(features), dtype)
    return Path(folder)


def load_features(folder: str | Path) -> Features:
    """Stored Features as memory maps. Raises DataError when a layer is missing or damaged."""
    folder = Path(folder)
    path = folder / "features.json"
    note = read_json(path)
    with reading(path, "extract the features again"):
        check_seal(path, note, required="format" in note)
        ids = note["ids"]
        data = {layer: open_array(folder, f"data/{layer}", ids=ids) for layer in note["data"]}
        tokens = {layer: open_array(folder, f"tokens/{layer}", ids=ids) for layer in note["tokens"]}
        grid = {layer: (int(rows), int(columns)) for layer, (rows, columns) in note["grid"].items()}
        return Features(data, np.array(ids, dtype=np.str_), note["model"], tokens, grid)


def _rows(features: Features, start: int, stop: int) -> Features:
    data = {k: v[start:stop] for k, v in features.data.items()}
    tokens = {k: v[start:stop] for k, v in features.tokens.items()}
    return Features(data, features.ids[start:stop], features.model, tokens, features.grid)


class _Overflow(Exception):
    """A layer left the range of float16."""


def _extract(place: Path, compute: Callable[[int, int], Features], ids: list[str], block: int, dtype: str) -> None:
    """Writes all layers block by block; a layer that leaves the range of float16 makes it begin anew, that one wider."""
    state = place / "wide.json"
    wide: list[str] = read_json(state) if state.exists() else []
    while True:
        try:
            note = _pass(place, compute, ids, max(block, 1), dtype, wide)
        except _Overflow as overflow:
            wide = [*wide, *overflow.args[0]]
            save_json(state, wide)
            continue
        save_json(place / "features.json", seal(note | {"format": FORMAT}))
        state.unlink(missing_ok=True)
        return


def _pass(
    place: Path, compute: Callable[[int, int], Features], ids: list[str], block: int, dtype: str, wide: list[str]
) -> dict[str, Any]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        writers: dict[str, ArrayWriter] = {}
        note: dict[str, Any] = {}
        key = json.dumps([dtype, sorted(wide)])
        start, first = 0, True
        while start < len(ids) or first:
            stop = min(start + block, len(ids))
            part = compute(start, stop)
            if list(part.ids) != ids[start:stop]:
                raise DataError(f"features {start} to {stop}: the computed ids are not those asked for, first {part.ids[:1]}")
            part.check_finite()
            layers = {f"data/{k}": v for k, v in part.data.items()} | {f"tokens/{k}": v for k, v in part.tokens.items()}
            if dtype == "float16":
                new = [k for k, v in layers.items() if k not in wide and v.size and float(np.abs(v).max()) > FLOAT16_MAX]
                if new:
                    raise _Overflow(new)
            if first:
                for name, array in layers.items():
                    kind = "float32" if name in wide and dtype == "float16" else dtype
                    writer = ArrayWriter(place, name, (len(ids), *array.shape[1:]), kind, ids=ids, key=key)
                    writers[name] = stack.enter_context(writer)
                note = {
                    "ids": ids,
                    "model": part.model,
                    "data": list(part.data),
                    "tokens": list(part.tokens),
                    "grid": dict(part.grid),
                }
            if set(layers) != set(writers):
                raise DataError(f"features {start} to {stop} have layers {sorted(layers)}, the first block had {sorted(writers)}")
            for name, array in layers.items():
                if stop > writers[name].done:
                    writers[name].write(start, array)
            for writer in writers.values():
                writer.sync()
            safe = min((w.done for w in writers.values()), default=stop)
            start, first = (safe if first else stop), False
        return note
