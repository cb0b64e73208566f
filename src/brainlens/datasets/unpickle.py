"""Pickled dictionaries of arrays, read without running anything, and without loading the arrays.

Released recordings come as pickles under the name `.npy`. Python's unpickler calls whatever the file names. The
small reader here knows plain values, containers and numpy arrays and nothing else: a name that the file would call
is only a word, looked up in a table of seven. Large arrays are not read but mapped where they lie in the file, so that
a dictionary of 8 GB opens in milliseconds and can be converted row by row.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from brainlens.store import npy_header
from brainlens.types import DataError

MAPPED = 1 << 16  # byte strings from this size on stay in the file
DTYPE = re.compile(r"[<>|=]?[biufcSUO?]\d*$")
_MARK = object()


class _Global:
    def __init__(self, name: str) -> None:
        self.name = name


class _Bytes:
    """A byte string that stays in the file."""

    def __init__(self, offset: int, size: int) -> None:
        self.offset, self.size = offset, size


class _Array:
    """An array whose state is still to come."""

    def __init__(self) -> None:
        self.value: Any = None


class _Dtype:
    def __init__(self, spec: str) -> None:
        if not DTYPE.match(spec):
            raise ValueError(f"array type {spec!r}")
        self.value = np.dtype(spec)


def load_pickled(path: str | Path) -> Any:
    """What a pickle of plain values and numpy arrays holds, also under a `.npy` header (np.save of a dict).

    Arrays of numbers from 64 kB on are read-only memory maps of the file. Raises DataError, and runs nothing, when
    the file names any function or class that is not part of a plain numpy array, or is damaged.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            if handle.read(6) == b"\x93NUMPY":
                _skip_npy_header(handle, path)
            else:
                handle.seek(0)
            value = _Reader(handle, path, size).read()
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except DataError:
        raise
    except Exception as error:  # a damaged stream fails in any operation
        raise DataError(f"{path} is damaged or not a pickle of plain arrays ({type(error).__name__}: {error})") from None
    if isinstance(value, np.ndarray) and value.dtype == object and value.shape == ():
        return value.item()
    return value


def load_dictionary(path: str | Path, keys: tuple[str, ...] = ()) -> dict[Any, Any]:
    """A pickled dictionary that has these keys. Raises DataError naming those it lacks."""
    value = load_pickled(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, a dictionary is expected")
    missing = [key for key in keys if key not in value]
    if missing:
        raise DataError(f"{path} has no key {missing[0]!r}; it has {list(value)[:20]}")
    return value


def _skip_npy_header(handle: BinaryIO, path: Path) -> None:
    major = handle.read(2)[0]
    size = struct.unpack("<H", handle.read(2))[0] if major == 1 else struct.unpack("<I", handle.read(4))[0]
    header = handle.read(min(size, 1 << 20)).decode("latin1")
    if "'|O'" not in header and '"|O"' not in header:
        npy_header(path)  # says what is wrong, if anything is
        raise DataError(f"{path} is a plain array, not a pickled dictionary")


class _Reader:
    """A pickle machine for protocols 2 to 5 that has no way to call anything outside this file."""

    def __init__(self, handle: BinaryIO, path: Path, size: int) -> None:
        self.handle, self.path, self.size = handle, path, size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        data = self.handle.read(count) if count <= self.size else b""
        if len(data) != count:
            raise DataError(f"{self.path} is cut short; fetch it again")
        return data

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def long_bytes(self, count: int) -> Any:
        if count < MAPPED:
            return self.take(count)
        offset = self.handle.tell()
        if offset + count > self.size:
            raise DataError(f"{self.path} is cut short: {count} bytes promised at {offset}, the file ends at {self.size}")
        self.handle.seek(count, 1)
        return _Bytes(offset, count)

    def since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def read(self) -> Any:
        while True:
            code = self.take(1)
            if code == b".":
                return _finish(self.stack.pop())
            step = _STEPS.get(code)
            if step is None:
                raise DataError(f"{self.path}: pickle operation {code!r} is not read, nothing was run")
            step(self)

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        module, _, attribute = name.rpartition(".")
        module = module.replace("numpy.core", "numpy._core")
        if (module, attribute) == ("numpy._core.multiarray", "_reconstruct"):
            return _Array()
        if (module, attribute) == ("numpy", "dtype"):
            return _Dtype(arguments[0])
        if (module, attribute) == ("numpy._core.multiarray", "scalar"):
            return self.array(arguments[0], (1,), False, arguments[1])[0]
        if (module, attribute) == ("numpy._core.numeric", "_frombuffer"):
            buffer, dtype, shape, order = arguments
            out = _Array()
            out.value = self.array(dtype, shape, order == "F", buffer)
            return out
        if (module, attribute) == ("_codecs", "encode") and arguments[1] == "latin1":
            return arguments[0].encode("latin1")
        if name in ("__builtin__.bytes", "builtins.bytes") and not arguments:
            return b""
        if (module, attribute) == ("collections", "OrderedDict") and not arguments:
            return {}
        raise DataError(f"{self.path}: blocked, the file would call {name}; nothing was run, do not trust this file")

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, _Array):
            _version, shape, dtype, fortran, data = state
            target.value = self.array(dtype, shape, bool(fortran), data)
        elif isinstance(target, _Dtype):
            order = state[1]
            if any(state[i] is not None for i in (2, 3, 4)):
                raise ValueError("a structured array")
            if order in ("<", ">"):
                target.value = target.value.newbyteorder(order)
        else:
            raise ValueError(f"state for a {type(target).__name__}")

    def array(self, dtype: Any, shape: Any, fortran: bool, data: Any) -> Any:
        kind, shape = dtype.value, tuple(int(n) for n in shape)
        count = 1
        for n in shape:
            count *= n
        if kind.kind == "O":
            items = [_finish(item) for item in data]
            if count != len(items):
                raise ValueError("an array of objects with another number of them")
            flat = np.empty(count, dtype=object)
            flat[:] = items
            return flat.reshape(shape, order="F" if fortran else "C")
        have = data.size if isinstance(data, _Bytes) else len(data)
        if count * kind.itemsize != have or min(shape, default=0) < 0:
            raise ValueError(f"array {shape} {kind} in {have} bytes")
        order: Any = "F" if fortran else "C"
        if isinstance(data, _Bytes):
            return np.memmap(self.path, dtype=kind, mode="r", offset=data.offset, shape=shape, order=order)
        return np.frombuffer(bytes(data), dtype=kind).reshape(shape, order=order)


def _finish(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """Arrays in the place of what stood for them, all through a nest of containers; shared ones are visited once."""
    seen = {} if seen is None else seen
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Dtype):
        return value.value
    if isinstance(value, (_Global, _Bytes)):
        raise ValueError("a function, a class or bare bytes where a plain value is expected")
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {_finish(k, seen): _finish(v, seen) for k, v in value.items()}
        else:
            seen[id(value)] = type(value)(_finish(v, seen) for v in value)
    return seen[id(value)]


def _text(form: str) -> Callable[[_Reader], None]:
    return lambda r: r.stack.append(r.take(r.number(form)).decode("utf-8", "surrogatepass"))


def _bytes(form: str) -> Callable[[_Reader], None]:
    return lambda r: r.stack.append(r.long_bytes(r.number(form)))


def _skip(count: int) -> Callable[[_Reader], None]:
    def step(r: _Reader) -> None:
        r.take(count)

    return step


def _value(value: Any) -> Callable[[_Reader], None]:
    return lambda r: r.stack.append(value)


def _int(form: str) -> Callable[[_Reader], None]:
    return lambda r: r.stack.append(r.number(form))


def _tuple(count: int) -> Callable[[_Reader], None]:
    def step(r: _Reader) -> None:
        items = tuple(r.stack[len(r.stack) - count :])
        if len(items) != count:
            raise ValueError("an empty stack")
        del r.stack[len(r.stack) - count :]
        r.stack.append(items)

    return step


def _put(form: str) -> Callable[[_Reader], None]:
    def step(r: _Reader) -> None:
        r.memo[r.number(form)] = r.stack[-1]

    return step


def _memoize(r: _Reader) -> None:
    r.memo[len(r.memo)] = r.stack[-1]


def _get(form: str) -> Callable[[_Reader], None]:
    return lambda r: r.stack.append(r.memo[r.number(form)])


def _global(r: _Reader) -> None:
    module, name = r.handle.readline(256).strip().decode(), r.handle.readline(256).strip().decode()
    r.stack.append(_Global(f"{module}.{name}"))


def _stack_global(r: _Reader) -> None:
    name, module = r.stack.pop(), r.stack.pop()
    r.stack.append(_Global(f"{module}.{name}"))


def _reduce(r: _Reader) -> None:
    arguments, function = r.stack.pop(), r.stack.pop()
    if not isinstance(function, _Global):
        raise ValueError("a call of what is not a name")
    r.stack.append(r.call(function.name, arguments))


def _build(r: _Reader) -> None:
    state = r.stack.pop()
    r.build(r.stack[-1], state)


def _append(r: _Reader) -> None:
    item = r.stack.pop()
    r.stack[-1].append(item)


def _appends(r: _Reader) -> None:
    items = r.since_mark()
    r.stack[-1].extend(items)


def _setitem(r: _Reader) -> None:
    value, key = r.stack.pop(), r.stack.pop()
    r.stack[-1][_finish(key)] = value


def _setitems(r: _Reader) -> None:
    items = r.since_mark()
    r.stack[-1].update(zip(map(_finish, items[0::2]), items[1::2], strict=True))


_STEPS: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": _skip(1),  # protocol
    b"\x95": _skip(8),  # frame
    b"(": _value(_MARK),
    b"0": lambda r: r.stack.pop() and None,
    b"N": _value(None),
    b"\x88": _value(True),
    b"\x89": _value(False),
    b"J": _int("<i"),
    b"K": _int("<B"),
    b"M": _int("<H"),
    b"\x8a": lambda r: r.stack.append(int.from_bytes(r.take(r.number("<B")), "little", signed=True)),
    b"G": lambda r: r.stack.append(struct.unpack(">d", r.take(8))[0]),
    b"X": _text("<I"),
    b"\x8c": _text("<B"),
    b"\x8d": _text("<Q"),
    b"B": _bytes("<I"),
    b"C": _bytes("<B"),
    b"\x8e": _bytes("<Q"),
    b"\x96": _bytes("<Q"),
    b"}": lambda r: r.stack.append({}),
    b"]": lambda r: r.stack.append([]),
    b")": _value(()),
    b"t": lambda r: r.stack.append(tuple(r.since_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"a": _append,
    b"e": _appends,
    b"s": _setitem,
    b"u": _setitems,
    b"q": _put("<B"),
    b"r": _put("<I"),
    b"\x94": _memoize,
    b"h": _get("<B"),
    b"j": _get("<I"),
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"b": _build,
}
