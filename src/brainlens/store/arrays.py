"""Arrays on disk: one `.npy` each and a `manifest.json` with shape, dtype, SHA-256 and the hash of the row ids.

A plain `.npy` read through a memory map is the fastest store of random rows among those measured, and anything can
read it. The manifest is written last: an array that it does not list was never finished and is not opened.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import io
import mmap
import os
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from brainlens.store.files import (
    FULL,
    check_file,
    file_name,
    full_disk,
    read_json,
    replacing,
    save_json,
    sha256,
    sync_folder,
)
from brainlens.store.half import as_float16, infinite
from brainlens.store.locks import PATIENCE, PAUSE, folder_turn, is_at
from brainlens.store.remote import here, is_remote
from brainlens.types import DataError, as_ids

MANIFEST = "manifest.json"
KINDS = "biufcSU"  # everything but Python objects and structured types
HEADER_LIMIT = 1 << 20
SYNC_BYTES = 1 << 28  # rows written between two synchronised progress notes


def ids_hash(ids: Iterable[str]) -> str:
    """SHA-256 of ids in their order."""
    digest = hashlib.sha256()
    for name in as_ids(ids):
        raw = str(name).encode("utf-8")
        digest.update(struct.pack("<q", len(raw)) + raw)
    return digest.hexdigest()


def manifest(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The entries of a folder's manifest by name; empty when there is none."""
    path = Path(folder) / MANIFEST
    if not path.exists():
        return {}
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(isinstance(e, dict) and _is_entry(e) for e in entries.values()):
        raise DataError(f"{path} is not a manifest of this library; remove it or name another folder")
    return entries


def _is_entry(entry: dict[str, Any]) -> bool:
    return all(isinstance(entry.get(key), str) and entry[key] for key in ("file", "sha256"))


def record(folder: str | Path, name: str, entry: dict[str, Any]) -> None:
    """Adds or replaces one entry of the manifest."""
    merge(folder, {name: entry})


def merge(folder: str | Path, entries: dict[str, dict[str, Any]]) -> None:
    """Adds or replaces entries of the manifest."""
    if entries:
        with folder_turn(Path(folder)):
            _list(folder, entries)


def _list(folder: str | Path, entries: dict[str, dict[str, Any]]) -> None:
    """`merge` of one whose turn it is."""
    save_json(Path(folder) / MANIFEST, manifest(folder) | entries)


def entry_of(folder: str | Path, name: str) -> dict[str, Any]:
    """The manifest entry of a name; DataError listing what there is."""
    entries = manifest(folder)
    if name not in entries:
        unfinished = (Path(folder) / file_name(name, ".npy")).exists()
        hint = "; its file was begun and never finished, write it again" if unfinished else ""
        raise DataError(f"{folder} holds no {name!r}; it holds {sorted(entries)[:30]}{hint}")
    if Path(entries[name]["file"]).name != entries[name]["file"]:
        raise DataError(f"{folder}: the manifest names a file outside its folder, {entries[name]['file']!r}; do not use it")
    return entries[name]


def save_array(folder: str | Path, name: str, array: np.ndarray, *, ids: Iterable[str] | None = None) -> Path:
    """Writes an array of any shape as `<name>.npy` and lists it in the manifest; ids, one a row, are kept as their hash.

    Raises DataError for object arrays, for ids that do not match the rows, and when the disk is full.
    """
    with ArrayWriter(folder, name, array.shape, array.dtype, ids=ids, resume=False) as writer:
        writer.write(0, array)
    return writer.path


def open_array(folder: str | Path, name: str, *, verify: bool = True, ids: Iterable[str] | None = None) -> np.ndarray:
    """A stored array of any shape as a read-only memory map.

    folder: may be an address on S3 (s3://bucket/folder); its manifest and this array alone are then fetched, see `remote`.
    verify: compare SHA-256 with the manifest, once a process for each state of the file. ids: the row ids expected.
    Raises DataError when it is missing, unfinished, damaged, or belongs to other rows.
    """
    place = here(folder, (MANIFEST,))
    entry = entry_of(place, name)
    path = (here(folder, (MANIFEST, entry["file"])) if is_remote(folder) else place) / entry["file"]
    if verify:
        check_file(path, entry["sha256"])
    if ids is not None and entry.get("ids") != ids_hash(ids):
        raise DataError(f"{path} belongs to other rows, or to the same in another order; compute it again for these ids")
    array = open_npy(path)
    if list(array.shape) != entry.get("shape") or array.dtype.str != entry.get("dtype"):
        raise DataError(f"{path} is {array.dtype.str} {array.shape}, its manifest says {entry.get('dtype')} {entry.get('shape')}")
    return array


def remove_array(folder: str | Path, name: str) -> None:
    """Takes an array out of the manifest and then off the disk."""
    with folder_turn(Path(folder)):
        entry = entry_of(folder, name)
        save_json(Path(folder) / MANIFEST, {k: v for k, v in manifest(folder).items() if k != name})
        (Path(folder) / entry["file"]).unlink(missing_ok=True)


def npy_header(path: str | Path) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """(shape, dtype, Fortran order, bytes before the data) of a `.npy` file; no data are read, nothing is executed.

    Raises DataError for what is not a `.npy`, holds Python objects, or claims more than the file has.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            start = handle.read(12)
            if start[:6] != b"\x93NUMPY" or len(start) < 12:
                raise DataError(f"{path} is not a .npy file (it begins with {start[:6]!r})")
            wide = start[6] >= 2
            size = struct.unpack("<I", start[8:12])[0] if wide else struct.unpack("<H", start[8:10])[0]
            if start[6] not in (1, 2, 3) or size > HEADER_LIMIT:
                raise DataError(f"{path}: .npy version {start[6]} with a header of {size} bytes is not supported")
            offset = (12 if wide else 10) + size
            handle.seek(12 if wide else 10)
            text = handle.read(size)
        header = ast.literal_eval(text.decode("utf-8" if start[6] == 3 else "latin1").strip())
        shape, dtype, fortran = tuple(header["shape"]), np.dtype(header["descr"]), bool(header["fortran_order"])
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except DataError:
        raise
    except Exception as error:  # whatever a damaged header provokes is the same fault to the caller
        raise DataError(f"{path}: damaged .npy header ({type(error).__name__})") from None
    if dtype.hasobject or dtype.kind not in KINDS:
        raise DataError(f"{path} holds Python objects or structured values ({dtype}), which are not read; convert it to numbers")
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise DataError(f"{path}: damaged .npy header, shape {shape}")
    need, have = _bytes(shape, dtype), path.stat().st_size - offset
    if need > have:
        raise DataError(
            f"{path} is cut short: {shape} {dtype} needs {need} bytes, the file has {max(have, 0)}; fetch or write it again"
        )
    return shape, dtype, fortran, offset


def open_npy(path: str | Path, *, max_bytes: int | None = None) -> np.ndarray:
    """Any `.npy` file of numbers or text, of any shape, as a read-only memory map, header checked first.

    max_bytes: refuse an array that is larger than this, for callers that will load it whole.
    """
    shape, dtype, fortran, offset = npy_header(path)
    if max_bytes is not None and _bytes(shape, dtype) > max_bytes:
        raise DataError(f"{path} claims {_bytes(shape, dtype) / 1e9:.1f} GB, the limit is {max_bytes / 1e9:.1f} GB")
    if _bytes(shape, dtype) == 0:
        empty = np.zeros(shape, dtype)
        empty.flags.writeable = False
        return empty
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    size = int(dtype.itemsize)
    for n in shape:
        size *= int(n)
    return size


def release(array: np.ndarray) -> None:
    """Gives the pages of a mapped array (of a view of one, or of `LazyRows`) back, so that a walk through it holds one piece.

    array: any shape. A map that keeps its changes to itself (mode "c") is left alone, they would be lost.
    """
    for part in getattr(array, "parts", ()):
        release(part)
    top: Any = array
    while top is not None and not isinstance(getattr(top, "_mmap", None), mmap.mmap):
        top = getattr(top, "base", None)
    if top is not None and getattr(top, "mode", "r") != "c" and hasattr(mmap, "MADV_DONTNEED"):
        top._mmap.madvise(mmap.MADV_DONTNEED)  # the file keeps every value


class ArrayWriter:
    """Writes an array row by row; `done` rows from the start are safe after a kill and are kept on the next try.

    With the same folder, name, shape, dtype, ids and `key` (what the rows are made from), an interrupted array goes
    on at row `done`; with others it begins anew. Leaving the block without all rows written keeps the part.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        *,
        ids: Iterable[str] | None = None,
        key: str = "",
        resume: bool = True,
    ) -> None:
        self.folder, self.name = Path(folder), name
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        if self.dtype.kind not in KINDS or self.dtype.hasobject:
            raise DataError(f"array {name!r}: {self.dtype} is not stored; convert it to numbers or text first")
        names = None if ids is None else as_ids(ids)
        if names is not None and (not self.shape or len(names) != self.shape[0]):
            raise DataError(f"array {name!r}: {len(names)} ids but shape {self.shape}")
        self.ids = None if names is None else ids_hash(names)
        self.path = self.folder / file_name(name, ".npy")
        self._part = self.path.with_name(f".{self.path.name}.rows")
        self._note = self.path.with_name(f".{self.path.name}.rows.json")
        self._plan = {"shape": list(self.shape), "dtype": self.dtype.str, "ids": self.ids, "key": key}
        self._resume, self._handle, self._unsynced = resume, -1, 0
        self.done = 0

    def __enter__(self) -> ArrayWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        header = array_header(self.shape, self.dtype)
        self._offset, self._row_bytes = len(header), _bytes(self.shape[1:], self.dtype)
        self._total = self.shape[0] if self.shape else 1
        self._handle = self._held()
        try:
            self.done = self._done_before()
            if not self.done:
                self._note.unlink(missing_ok=True)  # before its rows go, or a later try would believe it
                os.ftruncate(self._handle, 0)
            self._put(header, 0)
        except BaseException:
            os.close(self._handle)
            raise
        self._digest, self._hashed = hashlib.sha256(header), 0  # rows hashed as they pass, while they come in order
        return self

    def write(self, start: int, rows: np.ndarray) -> None:
        """Puts `rows` (n, ...) at row numbers start, start + 1, ...; a row may be written again until the end."""
        block = np.asarray(rows)
        if block.shape[1:] != self.shape[1:] or (not self.shape and block.shape):
            raise DataError(f"array {self.name!r}: rows of shape {block.shape[1:]} do not fit {self.shape}")
        count = block.shape[0] if self.shape else 1
        if start < 0 or start + count > self._total:
            raise DataError(f"array {self.name!r}: rows {start} to {start + count} do not fit {self.shape}")
        if start > self.done:
            raise DataError(f"array {self.name!r}: rows {self.done} to {start} would be left unwritten; write in order")
        step = max(1, (1 << 22) // max(self._row_bytes, 1))
        for at in range(0, count, step):  # converted piece by piece, so that a float64 block costs no second copy
            piece = block[at : at + step] if self.shape else block
            if not np.can_cast(piece.dtype, self.dtype, "same_kind"):
                raise DataError(f"array {self.name!r}: {piece.dtype} does not fit {self.dtype}; convert it first")
            with np.errstate(over="ignore"):
                narrow = self.dtype == np.float16 and piece.dtype != np.float16
                converted = as_float16(piece) if narrow else np.ascontiguousarray(piece, dtype=self.dtype)
            if self.dtype.kind == "f" and piece.dtype != self.dtype and _overflowed(converted, piece):
                raise DataError(f"array {self.name!r}: values above the range of {self.dtype} would become infinite; use float32")
            raw = converted.reshape(-1).view(np.uint8).data if converted.size else b""
            self._put(raw, self._offset + (start + at) * self._row_bytes)
            if self._hashed == start + at:
                self._digest.update(raw)
                self._hashed += len(piece) if self.shape else 1
            elif self._hashed > start + at:  # rows written again: the file is hashed whole at the end
                self._hashed = -1
        self.done = max(self.done, start + count)
        self._unsynced += count * self._row_bytes
        if self._unsynced > SYNC_BYTES:
            self.sync()

    def _done_before(self) -> int:
        """Rows that an earlier try left safe; 0 where it wrote something else, or its note is damaged."""
        if not (self._resume and self._note.exists()):
            return 0
        with suppress(DataError):
            note = read_json(self._note)
            done = note.get("done") if isinstance(note, dict) and {k: note.get(k) for k in self._plan} == self._plan else None
            have = os.fstat(self._handle).st_size - self._offset
            if isinstance(done, int) and 0 <= done <= self._total and have >= done * self._row_bytes:
                return done
        return 0

    def _held(self) -> int:
        """The open part, held against other writers of this array. Raises DataError where another one keeps it for minutes."""
        until = time.monotonic() + PATIENCE
        while True:
            handle = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                if time.monotonic() > until:
                    raise DataError(f"{self.path} is being written by another process; wait for it") from None
                time.sleep(PAUSE)
                continue
            if is_at(handle, self._part):
                return handle
            os.close(handle)  # the writer before us has finished it and given it its name

    def sync(self) -> None:
        """Makes the rows so far survive a kill or a power cut."""
        os.fsync(self._handle)
        save_json(self._note, self._plan | {"done": self.done})
        self._unsynced = 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
            elif self._resume and self.done and not isinstance(error, OSError):
                self.sync()
        except DataError:
            kind = DataError
            raise
        finally:
            full = isinstance(error, DataError) and isinstance(error.__cause__, OSError)
            failed = kind is not None and not self._resume
            if failed or (full and not self._note.exists()):
                self._part.unlink(missing_ok=True)
            os.close(self._handle)

    def _finish(self) -> None:
        """Gives the whole array its name, still held against other writers, and lists it."""
        if self.done < self._total:
            if self._resume and self.done:
                self.sync()
            raise DataError(
                f"array {self.name!r}: only {self.done} of {self._total} rows were written; write the rest and it is kept"
            )
        os.fsync(self._handle)
        digest = self._digest.hexdigest() if self._hashed == self._total else sha256(self._part)
        entry = {"file": self.path.name, "shape": list(self.shape), "dtype": self.dtype.str, "sha256": digest, "ids": self.ids}
        with folder_turn(self.folder):  # file and entry at once: the part's name is free now, and another writer may be as far
            self._note.unlink(missing_ok=True)
            os.replace(self._part, self.path)
            sync_folder(self.folder)
            _list(self.folder, {self.name: entry})

    def _put(self, data: Any, at: int) -> None:
        view = memoryview(data)
        try:
            while len(view):
                wrote = os.pwrite(self._handle, view, at)
                view, at = view[wrote:], at + wrote
        except OSError as error:
            if error.errno in FULL:
                raise full_disk(error, self.path) from error
            raise


def _overflowed(converted: np.ndarray, piece: np.ndarray) -> bool:
    """Whether a finite value became infinite; the second look is taken only where there is an infinite one."""
    top = infinite(converted) if converted.dtype == np.float16 else np.isinf(converted)
    return bool(top.any() and np.isfinite(piece[top]).any())


def array_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The bytes before the data of a `.npy` file in C order."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def save_bytes(folder: str | Path, name: str, suffix: str, content: bytes) -> dict[str, str]:
    """Writes one file and returns its manifest entry (file, sha256)."""
    path = Path(folder) / file_name(name, suffix)
    with replacing(path) as handle:
        handle.write(content)
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
