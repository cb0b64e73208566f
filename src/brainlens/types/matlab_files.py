"""What a file of MATLAB 5 holds, walked element by element before scipy reads it.

scipy's compiled reader looks types up in tables by numbers from the file, counts on dimensions that fit, and goes as deep as the
file says: damaged bytes can end the process, which no `except` sees. Nothing here keeps values; a number that does not fit is an
error. The format is MathWorks' "MAT-File Format" (2023), with what scipy's reader takes beyond it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from brainlens.types.doors import PIECE, check_expansion, reading, unpacked
from brainlens.types.errors import DataError

ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # version and order of bytes at 124 of the header, of MATLAB 5 to 7
HDF5 = (b"\x00\x02IM", b"\x02\x00MI")  # of MATLAB 7.3, which scipy does not read
BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}  # of a value, by data type
INT8, INT32, UINT32, DOUBLE, MATRIX, COMPRESSED, UTF8, UTF16, UTF32 = 1, 5, 6, 9, 14, 15, 16, 17, 18  # data types
NUMERIC = tuple(kind for kind in BYTES if kind < UTF8)
LETTERS = (1, 2, 4, UTF8, UTF16, UTF32)
CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17  # classes; those between are numbers
COMPLEX, LOGICAL = 1 << 11, 1 << 9  # array flags
AXES, DEPTH, FIELDS, NAMES = 32, 50, 4096, 1 << 20  # at most; scipy compares each field's name with each; bytes of names
HELD = 200  # bytes that an array takes in memory without its values
WAY_OUT = "fetch it again, or write it again with MATLAB's -v7"


def check_mat(path: str | Path) -> None:
    """Raises DataError where a file of MATLAB 5 breaks the format, or unpacks to more than `check_expansion` allows.

    Every variable is walked, those that nobody asks for too; packed ones are unpacked piece by piece and dropped. MATLAB 7.3
    (HDF5) passes: h5py reads it.
    """
    path = Path(path)
    size, total = path.stat().st_size, 0

    def claim(count: int) -> None:
        nonlocal total
        total += count
        check_expansion(path, total, size)

    with reading(path, WAY_OUT), open(path, "rb") as handle:
        start = handle.read(128)
        if start[124:] in HDF5 and 0 not in start[:4]:
            return
        if start[124:] not in ORDERS or 0 in start[:4]:  # a zero there is how MATLAB 4 begins
            raise DataError(f"{path} has no header of MATLAB 5 to 7.3, other versions are not read; {WAY_OUT}")
        order = ORDERS[start[124:]]
        tag = struct.Struct(order + "II")
        file = _File(handle, size)
        while file.at < size:
            kind, length = tag.unpack(file.take(8))
            if length > size - file.at:
                raise _wrong(f"a variable claims {length:,} bytes, the file has {size - file.at:,} more")
            if kind == COMPRESSED:
                packed = _Packed(_pieces(handle, length, claim))
                _Walk(packed, order, claim).matrix(1 << 62)
                packed.end()
                file.at = handle.tell()
            else:
                file.skip(-8)  # the tag is the array's own
                _Walk(file, order, claim).matrix(size)


class _Source(Protocol):
    """Bytes in a row: `take` gives the next ones, `skip` passes them, `at` is how many have passed."""

    at: int

    def take(self, count: int) -> bytes: ...

    def skip(self, count: int) -> None: ...


class _File:
    def __init__(self, handle: BinaryIO, size: int) -> None:
        self.handle, self.size, self.at = handle, size, handle.tell()

    def take(self, count: int) -> bytes:
        found = self.handle.read(count)
        if len(found) != count:
            raise _wrong("it ends within an element")
        self.at += count
        return found

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > self.size:
            raise _wrong("it ends within an element")
        self.handle.seek(self.at)


class _Packed:
    """What a packed variable unpacks to, of which a piece is held at a time."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.rest, self.at = pieces, bytearray(), 0

    def take(self, count: int) -> bytes:
        while len(self.rest) < count:
            self._more()
        found = bytes(self.rest[:count])
        del self.rest[:count]
        self.at += count
        return found

    def skip(self, count: int) -> None:
        self.at += count
        while len(self.rest) < count:
            count -= len(self.rest)
            self.rest.clear()
            self._more()
        del self.rest[:count]

    def _more(self) -> None:
        piece = next(self.pieces, None)
        if piece is None:
            raise _wrong("a packed variable ends within an element")
        self.rest += piece

    def end(self) -> None:
        """Raises DataError where anything follows; unpacks to the end, where the checksum is."""
        if self.rest or any(self.pieces):
            raise _wrong("a packed variable holds more than one array")


def _pieces(handle: BinaryIO, length: int, claim: Callable[[int], None]) -> Iterator[bytes]:
    """What the next `length` bytes of a file unpack to, piece by piece, counted before they are given."""
    unpacker, left = zlib.decompressobj(), length
    while left and (packed := handle.read(min(PIECE, left))):
        left -= len(packed)
        for piece in unpacked(unpacker, packed):
            claim(len(piece))
            yield piece
    if not unpacker.eof:
        raise _wrong("a packed variable is cut short")


class _Walk:
    """The arrays of a source, each with all that it holds; in scipy's order, so that both see the same elements."""

    def __init__(self, source: _Source, order: str, claim: Callable[[int], None]) -> None:
        self.source, self.order, self.claim = source, order, claim
        self.tag = struct.Struct(order + "II")

    def matrix(self, end: int, depth: int = 0) -> None:
        """One array that lies before `end`; depth: how many arrays hold it."""
        kind, size = self.tag.unpack(self._take(8, end))
        stop = self.source.at + size
        if kind != MATRIX:
            raise _wrong(f"an element has data type {kind} where an array is expected ({MATRIX})")
        if stop > end:
            raise _wrong(f"an array claims {size:,} bytes, what holds it has {end - self.source.at:,} more")
        if depth > DEPTH:
            raise _wrong(f"its arrays lie more than {DEPTH} deep in one another")
        self.claim(HELD)
        if size == 0 and depth:  # how MATLAB writes a cell or a field without content
            return
        kind, size, flags, _ = struct.unpack(self.order + "IIII", self._take(16, stop))
        if (kind, size) != (UINT32, 8):
            raise _wrong(f"array flags have data type {kind} and {size} bytes, {UINT32} and 8 are expected")
        self._content(flags, stop, depth + 1)
        if self.source.at != stop:
            raise _wrong(f"an array claims {stop - self.source.at:,} bytes more than it holds")

    def _content(self, flags: int, stop: int, depth: int) -> None:
        """What follows the flags of an array, up to `stop`."""
        kind = flags & 0xFF
        if not CELL <= kind <= OPAQUE:
            raise _wrong(f"an array has class {kind}, {CELL} to {OPAQUE} are known")
        if kind == OPAQUE:  # no dimensions; its name, type system and class
            for _ in range(3):
                self._text(stop)
            self.matrix(stop, depth)
            return
        dims = self._dims(stop)
        count = math.prod(dims)
        self._text(stop)
        if kind == FUNCTION:
            self.matrix(stop, depth)
        elif kind == CELL:
            self._several(count, stop, depth)
        elif kind in (STRUCT, OBJECT):
            if kind == OBJECT:
                self._text(stop)
            fields = self._fields(stop)
            self._several(count * fields, stop, depth)
            self.claim(8 * count)
        elif kind == CHAR:
            self._letters(count, stop)
        elif kind == SPARSE:
            self._sparse(dims, flags, stop)
        else:
            if flags & COMPLEX:
                self.claim(16 * count)
                self._values(count, stop)
            self._values(count, stop)

    def _several(self, count: int, stop: int, depth: int) -> None:
        """The arrays of a cell array or of a struct's fields."""
        if 8 * count > stop - self.source.at:
            raise _wrong(f"an array claims {count:,} others, it has {stop - self.source.at:,} bytes for them")
        for _ in range(count):
            self.matrix(stop, depth)

    def _fields(self, stop: int) -> int:
        """How many fields a struct names; each name ends in a zero within its place."""
        length = self._integers(stop, "the length of field names", most=1)
        long = int(length[0]) if len(length) else 0
        names = self._text(stop)
        if long < 1 or len(names) % long or len(names) // long > FIELDS:
            raise _wrong(f"field names of {long} bytes each do not fit into {len(names)} bytes, or are more than {FIELDS}")
        if any(0 not in names[at : at + long] for at in range(0, len(names), long)):
            raise _wrong(f"a field name is longer than its {long} bytes")
        return len(names) // long

    def _letters(self, count: int, stop: int) -> None:
        kind, size, _ = self._element(stop, LETTERS)
        self.claim(4 * count)  # as numpy holds letters
        if size and not (count <= size <= 4 * count if kind == UTF8 else size == count * BYTES[kind]):
            raise _wrong(f"text of {count:,} letters has {size:,} bytes of data type {kind}")

    def _values(self, count: int, stop: int) -> None:
        kind, size, _ = self._element(stop, NUMERIC)
        if size != count * BYTES[kind]:
            raise _wrong(f"an array of {count:,} values has {size:,} bytes of data type {kind}, {BYTES[kind]} bytes a value")

    def _sparse(self, dims: list[int], flags: int, stop: int) -> None:
        """Rows, starts of columns, and values; more room than values may be kept, as MATLAB does."""
        rows, starts = (self._integers(stop, "the indices of a sparse array", most=stop) for _ in range(2))
        starts = starts[: dims[1] + 1]
        if len(dims) != 2 or len(starts) != dims[1] + 1 or starts[0] != 0 or np.any(np.diff(starts) < 0):
            raise _wrong(f"the columns of a sparse array of {dims} do not fit into one another")
        held = int(starts[-1])
        if held > len(rows) or np.any(rows[:held] < 0) or np.any(rows[:held] >= dims[0]):
            raise _wrong(f"the rows of a sparse array of {dims} do not fit")
        for _ in range(2 if flags & COMPLEX else 1):
            kind, size, _ = self._element(stop, NUMERIC)
            if size < held * (1 if flags & LOGICAL else BYTES[kind]):  # MATLAB writes true as one byte, whatever its data type
                raise _wrong(f"a sparse array of {held:,} values has {size:,} bytes of data type {kind}")

    def _dims(self, stop: int) -> list[int]:
        dims = list(map(int, self._integers(stop, "dimensions", most=AXES)))
        if len(dims) < 2 or min(dims) < 0:
            raise _wrong(f"an array has the dimensions {dims}; 2 to {AXES} of 0 or more are expected")
        return dims

    def _integers(self, stop: int, what: str, most: int) -> np.ndarray:
        """The numbers (n,) of an element of at most `most` integers."""
        kind, size, found = self._element(stop, (INT32, UINT32), keep=4 * most)
        if size % 4 or size > 4 * most:
            raise _wrong(f"{what} have {size:,} bytes, up to {most} numbers of 4 are expected")
        values = np.frombuffer(found, self.order + ("i4" if kind == INT32 else "u4"))
        if np.any(values > np.iinfo(np.int32).max):
            raise _wrong(f"{what} are beyond the range of 32 bits")
        return values

    def _text(self, stop: int) -> bytes:
        """The bytes of names; of ASCII where they are marked as UTF-8, as scipy asks for."""
        kind, size, found = self._element(stop, (INT8, UTF8), keep=NAMES)
        if size > NAMES or (kind == UTF8 and not found.isascii()):
            raise _wrong(f"a name of {size:,} bytes is longer than {NAMES:,}, or not of ASCII letters")
        return found

    def _element(self, stop: int, known: tuple[int, ...], keep: int = 0) -> tuple[int, int, bytes]:
        """Data type, size in bytes and content of the next element; content is empty where it is larger than `keep` bytes."""
        head = self._take(8, stop)
        kind, size = self.tag.unpack(head)
        small = kind >> 16  # up to 4 bytes lie within the tag, which then has the size in its upper half
        if small:
            kind, size = kind & 0xFFFF, small
        if kind not in known:
            raise _wrong(f"an element has data type {kind}, {', '.join(map(str, known))} are expected")
        if small > 4:
            raise _wrong(f"a small element claims {small} bytes, it has 4")
        if small:
            return kind, size, head[4 : 4 + size]
        whole = size + -size % 8
        if whole > stop - self.source.at:
            raise _wrong(f"an element claims {size:,} bytes, its array has {stop - self.source.at:,} more")
        if size <= keep:
            return kind, size, self.source.take(whole)[:size]
        self.source.skip(whole)
        return kind, size, b""

    def _take(self, count: int, stop: int) -> bytes:
        if count > stop - self.source.at:
            raise _wrong("an array ends within an element")
        return self.source.take(count)


def _wrong(what: str) -> DataError:
    return DataError(f"this MATLAB 5 file is damaged: {what}; {WAY_OUT}")
