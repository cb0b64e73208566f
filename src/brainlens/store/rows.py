"""Rows that are read when they are asked for: a selection from a recording, or several recordings one after the other.

A subject's recordings are 0.6 GB in float16; a fit that selects training rows, or joins nine subjects, by indexing and
concatenating holds them twice. What is here looks like such a copy, holds numbers of rows alone, and reads blocks of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from brainlens.store.arrays import release
from brainlens.types import DataError

HELD = 1 << 26  # bytes of memory maps that are touched before their pages are given back
PIECE = 1 << 20  # bytes read at a time
FOLIO = 1 << 21  # bytes of a file that one touch may bring in


class LazyRows:
    """Rows of one or several arrays as one array (row, ...) that is read in pieces and never written.

        LazyRows([a, b], rows, factor=f)[i]  =  np.concatenate([a, b])[rows][i] * f      to the bit, and without the copies

    parts: arrays with equal further axes, memory maps as a rule, or LazyRows. rows: row numbers in the joined parts (None: all).
    columns: numbers along the second axis (None: all). factor: rows are read as float32 (float64 where they are that) times
    this number. Index it with a row number, a slice, row numbers or a mask; what follows in a tuple is applied to the rows
    that were read. `np.asarray` reads all. Pages of memory maps are given back while it is read.
    Raises DataError for parts of different shapes or none, IndexError for row numbers out of range.
    """

    def __init__(
        self, parts: Sequence[Any], rows: np.ndarray | None = None, *, columns: np.ndarray | None = None, factor: float = 1.0
    ) -> None:
        self.parts = tuple(parts)
        shapes = {tuple(part.shape[1:]) for part in self.parts}
        if len(shapes) != 1:
            raise DataError(f"rows of arrays of one shape can be joined, got {[part.shape for part in self.parts]}")
        self._ends = np.cumsum([len(part) for part in self.parts])
        self._rows = None if rows is None else _numbers(np.asarray(rows), int(self._ends[-1]))
        self._columns, self._factor, self._touched = columns, factor, 0
        kind = np.result_type(*[part.dtype for part in self.parts])
        self._stored, self.dtype = kind, kind if factor == 1.0 else np.result_type(kind, np.float32)
        tail = shapes.pop() if columns is None else (len(columns), *shapes.pop()[1:])
        self.shape: tuple[int, ...] = (int(self._ends[-1]) if self._rows is None else len(self._rows), *tail)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Of all rows, were they in memory."""
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyRows{self.shape} {self.dtype} of {len(self.parts)} arrays"

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows that are read when asked for cannot become an array without a copy")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if isinstance(first, slice):
            found = self._take(np.arange(*first.indices(len(self))))
            return found[(slice(None), *rest)] if rest else found
        if first is None or first is Ellipsis or (isinstance(key, tuple) and not key):
            return self[:][key]
        index = np.asarray(first)
        if index.dtype == bool and index.shape != (len(self),):
            raise IndexError(f"a mask of shape {index.shape} does not fit {len(self)} rows")
        if index.dtype != bool and index.size and index.dtype.kind not in "iu":
            raise IndexError(f"rows are chosen by numbers, a slice or a mask, not by {index.dtype}")
        index = _numbers(index, len(self))
        found = self._take(index.ravel())
        if not index.ndim:
            return found[0][rest] if rest else found[0]
        if index.ndim == 1 and all(isinstance(each, slice) for each in rest):
            return found[(slice(None), *rest)]
        at = np.arange(index.size).reshape(index.shape)  # where each asked row lies among those read
        return found[(at, *rest)]

    def _take(self, index: np.ndarray) -> np.ndarray:
        """The rows of these numbers, an array of its own."""
        source = index if self._rows is None else self._rows[index]
        out = np.empty((len(index), *self.shape[1:]), self._stored)
        owner = np.searchsorted(self._ends, source, side="right")
        for number in np.unique(owner):
            part, at = self.parts[number], np.flatnonzero(owner == number)
            own = source[at] - (self._ends[number - 1] if number else 0)
            size = int(np.prod(part.shape[1:], dtype=np.int64)) * int(part.dtype.itemsize)
            step = max(32, PIECE // max(size, 1))
            for start in range(0, len(own), step):
                rows, place = own[start : start + step], at[start : start + step]
                read = part[_slice(rows)] if self._columns is None else part[_slice(rows)][:, self._columns]
                out[_slice(place)] = read
                self._touched += min(int(rows.max() - rows.min() + 1) * size, len(rows) * (size + FOLIO))
                if self._touched > HELD:
                    release(cast(np.ndarray, self))
                    self._touched = 0
        return out if self._factor == 1.0 else np.asarray(out, self.dtype) * self._factor


def select_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """array[rows] without a copy: of an array in memory a slice where the rows are consecutive, else `LazyRows`.

    array (m, ...), rows (n,) int or (m,) bool -> (n, ...).
    """
    rows = _numbers(np.asarray(rows), len(array))
    plain = isinstance(array, np.ndarray) and not isinstance(array, np.memmap)
    if plain and isinstance(_slice(rows), slice):
        return array[_slice(rows)]
    return cast(np.ndarray, LazyRows([array], rows))


def join_rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    """np.concatenate(parts), of parts (n_i, ...), without a copy."""
    return parts[0] if len(parts) == 1 else cast(np.ndarray, LazyRows(parts))


def _slice(rows: np.ndarray) -> Any:
    """The same rows as a slice where they follow each other: a slice is not copied on the way."""
    return slice(rows[0], rows[-1] + 1) if len(rows) and (np.diff(rows) == 1).all() else rows


def _numbers(index: np.ndarray, length: int) -> np.ndarray:
    """Row numbers from 0 for numbers, negative ones or a mask."""
    index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
    if index.size and (index.min() < -length or index.max() >= length):
        raise IndexError(f"row {int(index.max() if index.max() >= length else index.min())} of {length} rows is asked for")
    return np.where(index < 0, index + length, index)
