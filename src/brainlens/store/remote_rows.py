"""Rows of a stored array on S3-compatible storage, fetched when they are asked for, in pieces that are kept.

CACHE/NAME-HASH/pieces/FILE-VERSION/0, 1, ...     a piece: the SHA-256 of what follows, then up to 1 MiB of the file
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import numpy as np

from brainlens.store import remote
from brainlens.store.arrays import MANIFEST, array_header, entry_of, ids_hash, open_array
from brainlens.store.files import replacing
from brainlens.store.rows import LazyRows
from brainlens.types import DataError

SPAN = 1 << 20  # bytes of a piece
DIGEST = hashlib.sha256().digest_size


def open_rows(folder: str | Path, name: str, *, ids: Iterable[str] | None = None) -> LazyRows:
    """A stored array (row, ...) whose rows are read when they are asked for; of an address on S3 those alone are fetched.

    ids: the row ids expected. Pieces that were fetched are kept in the cache, each with its hash. The SHA-256 of the manifest is
    that of all bytes: `open_array` fetches them and compares it. Of rows the shape, type and ids are held against the manifest,
    and every fetch against the version of the file that was there at the beginning.
    Raises DataError where there is no such array, it has no rows, or belongs to others.
    """
    part = RemoteArray(folder, name, ids=ids) if remote.is_remote(folder) else open_array(folder, name, ids=ids)
    if not part.shape:
        raise DataError(f"{folder}: {name!r} is a single number and has no rows; open it by open_array")
    return LazyRows([part])


class RemoteArray:
    """An array on S3 that is indexed by a slice or by numbers of rows (n,), and gives them as an array; see `open_rows`."""

    def __init__(self, folder: str | Path, name: str, *, ids: Iterable[str] | None = None) -> None:
        self._url = remote.address(folder)
        entry = entry_of(remote.here(folder, (MANIFEST,)), name)
        self._file = f"{self._url}/{entry['file']}"
        if ids is not None and entry.get("ids") != ids_hash(ids):
            raise DataError(
                f"{self._file} belongs to other rows, or to the same in another order; compute it again for these ids"
            )
        self._system = remote.system_of()
        self._state = remote.answer(self._file, lambda: remote.state_of(self._system, self._file))
        try:
            self.shape, self.dtype = tuple(int(n) for n in entry["shape"]), np.dtype(entry["dtype"])
            header = array_header(self.shape, self.dtype)
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{self._url}: the manifest says no shape of {name!r}; write it again") from None
        version = hashlib.sha256("-".join(map(str, self._state)).encode()).hexdigest()[:12]
        self._place = remote.cached(self._url) / "pieces" / f"{entry['file']}-{version}"
        for old in self._place.parent.glob(f"{entry['file']}-{'[0-9a-f]' * 12}"):
            if old != self._place:  # of a version that is no more
                shutil.rmtree(old, ignore_errors=True)
        self._offset = len(header)
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        whole = self._offset + self._row_bytes * (self.shape[0] if self.shape else 1)
        if whole != self._state[0] or self._read(0, self._offset) != header:
            raise DataError(
                f"{self._file} is not {self.dtype.str} {self.shape}, which its manifest says; copy the whole folder there again"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        ends = np.flatnonzero(np.diff(index) != 1) + 1  # of rows that follow each other
        for run in np.split(np.arange(len(index)), ends):
            if len(run) and self._row_bytes:
                start = self._offset + int(index[run[0]]) * self._row_bytes
                raw = self._read(start, start + len(run) * self._row_bytes)
                out[run[0] : run[-1] + 1] = np.frombuffer(raw, self.dtype).reshape(len(run), *self.shape[1:])
        return out

    def _read(self, start: int, stop: int) -> bytes:
        """The bytes of the file from start to stop, of pieces that are here or come now."""
        numbers = range(start // SPAN, -(-stop // SPAN))
        held = {number: self._kept(number) for number in numbers}
        for first, last in _runs([number for number in numbers if held[number] is None]):
            held |= self._fetched(first, last)
        joined = b"".join(cast(bytes, held[number]) for number in numbers)
        return joined[start - numbers[0] * SPAN : stop - numbers[0] * SPAN]

    def _kept(self, number: int) -> bytes | None:
        """A piece of the cache; None where it is missing, or not what was written."""
        try:
            content = (self._place / str(number)).read_bytes()
        except FileNotFoundError:
            return None
        return content[DIGEST:] if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST] else None

    def _fetched(self, first: int, last: int) -> dict[int, bytes]:
        """Pieces first to last from the storage, kept. Raises DataError where the file there is another one by now."""
        start, stop = first * SPAN, min((last + 1) * SPAN, self._state[0])
        self._place.mkdir(parents=True, exist_ok=True)
        remote.check_room(self._url, self._place, stop - start)
        content = remote.fetched(self._system, self._file, start, stop, self._state)
        remote.check_state(self._system, self._file, self._state)
        found = {number: content[(number - first) * SPAN : (number - first + 1) * SPAN] for number in range(first, last + 1)}
        for number, piece in found.items():
            with replacing(self._place / str(number)) as handle:
                handle.write(hashlib.sha256(piece).digest() + piece)
        return found


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of numbers that follow each other, as many as one request may bring."""
    while numbers:
        count = next((i for i, number in enumerate(numbers) if number != numbers[0] + i), len(numbers))
        count = min(count, max(1, remote.PIECE // SPAN))
        yield numbers[0], numbers[count - 1]
        numbers = numbers[count:]
