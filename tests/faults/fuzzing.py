"""Mutations of files, and what a reader made of them: the same values, other values, one line, or a fault of ours."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.types import DataError

SLOW, LARGE = 5.0, 500e6  # s of the processor, bytes
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
NASTY = (  # values that break readers of JSON and of text
    b"\xff\xfe\xff", b"[" * 100_000, b"9" * 5000, b"NaN", b"null", b"\x00", b'"\\ud800"', b"-1", b"1e999", b"{}", b"\xc3\x28",
    b"\n\n\n", b",,,,", b"../../etc/passwd", b'{"a":' * 3000,
)  # fmt: skip
JSON = ("1", -1, 0, None, [], {}, "", True, 10**30, float("nan"), ["x"], {"file": 5}, "../x", [[1]], 1e308)


class Found:
    """Counts of what happened, and the mutations that should not have."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: dict[int, tuple[str, str]] = {}

    def said(self) -> list[str]:
        """A line for each of them."""
        return [f"{kind}, mutation {number}: {what}" for number, (kind, what) in self.wrong.items()]


def digest(value: Any) -> str:
    """A hash of nested values, arrays and tables, by which two readings are compared."""
    found = hashlib.sha256()
    _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        found.update(repr((value.shape, value.dtype.str)).encode())
        found.update(pickle.dumps(value.tolist()) if value.dtype.hasobject else np.ascontiguousarray(value).tobytes())
    elif isinstance(value, pd.DataFrame):
        found.update(repr(list(value.columns)).encode() + value.to_csv().encode("utf-8", "surrogatepass"))
    elif isinstance(value, Mapping):
        for key in value:
            found.update(repr(key).encode())
            _add(found, value[key])
    elif isinstance(value, (list, tuple)):
        found.update(repr(len(value)).encode())
        for one in value:
            _add(found, one)
    elif is_dataclass(value):
        _add(found, vars(value))
    elif hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        _add(found, [value[i] for i in range(len(value))])
    else:
        found.update(repr(value).encode("utf-8", "surrogatepass"))


def mutate(content: bytes, rng: np.random.Generator, text: bool) -> bytes:
    """One mutation: a flipped byte, a cut, zeros, a part doubled or moved, a nasty value, or another JSON value."""
    if not content:
        return bytes(rng.integers(0, 256, 8, dtype=np.uint8))
    at = int(rng.integers(len(content)) if rng.random() < 0.5 else min(len(content) - 1, rng.exponential(120)))  # headers more
    long = int(rng.integers(1, 64))
    kind = int(rng.integers(8 if text else 7))
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + bytes(long) + content[at + long :]
    if kind == 3:
        return content[: at + long] + content[at:]
    if kind == 4:
        return content[:at] + content[at + long :]
    if kind == 5:
        return content[:at] + NASTY[int(rng.integers(len(NASTY)))] + content[at + int(rng.integers(2)) * long :]
    if kind == 6:
        return content[:at] + bytes(rng.integers(0, 256, long, dtype=np.uint8)) + content[at + long :]
    return _json(content, rng)


def _json(content: bytes, rng: np.random.Generator) -> bytes:
    """Another value at a random place of a JSON file, or a key that is gone; other texts as they are."""
    try:
        whole = json.loads(content)
    except ValueError:
        return content.replace(b",", b",,", 1)
    place, path = whole, 0
    while isinstance(place, (dict, list)) and place and path < 12:
        key: Any = list(place)[int(rng.integers(len(place)))] if isinstance(place, dict) else int(rng.integers(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.4:
            if isinstance(place, dict) and rng.random() < 0.3:
                del place[key]
            else:
                place[key] = JSON[int(rng.integers(len(JSON)))]
            return json.dumps(whole).encode()
        place, path = place[key], path + 1
    return json.dumps(JSON[int(rng.integers(len(JSON)))]).encode()


def fuzz(folder: Path, read: Callable[[Path], Any], *, numbers: Iterable[int], seed: int, hashed: bool) -> Found:
    """Mutations of the files below a folder, by their numbers, each read and put back.

    Wrong are: an error that is no DataError of one line, other values without a word where the files carry hashes, more than
    5 s of the processor, more than 500 MB. A mutation follows from the seed and its number alone, so that one can be tried again.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = Found()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = digest(read(folder))
        for number in numbers:
            rng = np.random.default_rng([seed, number])
            path = files[int(rng.integers(len(files)))]
            content = path.read_bytes()
            changed = mutate(content, rng, path.suffix in (".json", ".csv", ".tsv", ".txt"))
            path.write_bytes(changed)
            try:
                kind, said = _tried(folder, read, whole)
            finally:
                path.write_bytes(content)
            found.counts[kind] += 1
            if kind in ("untyped", "slow", "large") or (kind == "different" and hashed):
                found.wrong[number] = kind, f"{path.relative_to(folder)} (seed {seed}): {said}"
    return found


def _tried(folder: Path, read: Callable[[Path], Any], whole: str) -> tuple[str, str]:
    before, began = _peak(again=True), time.process_time()
    said = ""
    try:
        kind = "same" if digest(read(folder)) == whole else "different"
    except DataError as error:
        kind, said = ("typed", "") if len(str(error).splitlines()) == 1 else ("untyped", f"not one line: {error}")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind, said = "untyped", f"{type(error).__name__}: {str(error)[:100]} at {last.filename.split('/')[-1]}:{last.lineno}"
    if time.process_time() - began > SLOW:
        return "slow", f"{time.process_time() - began:.1f} s"
    if _peak() - before > LARGE:
        return "large", f"{(_peak() - before) / 1e6:.0f} MB"
    return kind, said


def _peak(again: bool = False) -> int:
    """Bytes that this process held at most; again: from now on, so that what was held before hides nothing (Linux)."""
    if again and CLEAR.exists():
        CLEAR.write_text("5")
    if STATUS.exists():
        return 1024 * int(next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
