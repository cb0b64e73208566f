"""MATLAB 5 files before scipy reads them: what MATLAB and scipy write passes, each damage is one line, none ends a process.

The files come from scipy's writer, from MATLAB itself (scipy's own test data) and from a writer of elements below, by the
format's description. scipy's compiled reader ends the process on some damages, so that mutations are tried in one of their own.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from brainlens.datasets.eeglab_visual import load_raw
from brainlens.datasets.stored_arrays import read_array
from brainlens.signals.epochs import read_eeglab
from brainlens.types import DataError, check_mat, doors
from brainlens.types.doors import PIECE

FROM_MATLAB = sorted((Path(scipy.io.__file__).parent / "matlab" / "tests" / "data").glob("*.mat"))
INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
NESTED: Any = {"a": {"b": {"c": "deep"}}}
VALUES: dict[str, Any] = {
    **{kind: np.arange(6, dtype=kind).reshape(2, 3) for kind in (*INTEGERS, "f4", "f8")},
    **{f"{kind}_cube": np.arange(24, dtype=kind).reshape(2, 3, 4) for kind in ("u1", "f8")},
    "logical": np.array([[True, False, True]]),
    "complex": np.array([[1 + 2j, 3 - 4j]]),
    "complex64": np.array([[1 + 2j]], dtype="c8"),
    "empty": np.zeros((0, 3)),
    "large": np.arange(300_000.0)[None],
    "char": "text",
    "accent": "déjà ♥",
    "lines": np.array(["ab", "cd"]),
    "blank": "",
    "cell": np.array([1.0, "x", np.zeros((0, 2))], dtype=object),
    "struct": {"d": 1.0, "e": "f"},
    "nested": NESTED,
    "structs": np.array([[(1.0, "x"), (2.0, "y")]], dtype=[("n", object), ("t", object)]),
    "fieldless": {},
    "sparse": scipy.sparse.csc_array(np.eye(4)[:, :3]),
    "sparse_complex": scipy.sparse.csc_array(np.eye(3) * 1j),
    "sparse_logical": scipy.sparse.csc_array(np.eye(3, dtype=bool)),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", VALUES)
def test_what_scipy_writes_passes_and_is_read_as_it_was(kind: str, packed: bool, tmp_path: Path) -> None:
    path, value = tmp_path / "a.mat", VALUES[kind]
    scipy.io.savemat(path, {"v": value, "other": 1.0}, do_compression=packed)
    check_mat(path)
    scipys = scipy.io.loadmat(path)["v"]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        found = read_array(path, "v")
        assert found.dtype == scipys.dtype
        np.testing.assert_array_equal(found, scipys)
        np.testing.assert_array_equal(found, value)
    else:  # of the library's own readers none takes them
        assert read_array(path, "v", variable="other").item() == 1.0
        with pytest.raises(DataError, match=r"numbers are expected|has no variable 'v'"):
            read_array(path, "v", variable="v")


@pytest.mark.parametrize("path", [*FROM_MATLAB] or [None], ids=lambda path: path.name if path else "none")
def test_the_door_and_scipy_agree_on_what_matlab_wrote(path: Path | None) -> None:
    if path is None:
        pytest.skip("this scipy comes without its test data")
    try:
        scipy.io.loadmat(path, appendmat=False)
        taken = 0 not in path.read_bytes()[:4]  # else of MATLAB 4
    except NotImplementedError:  # of MATLAB 7.3, which h5py reads
        taken = True
    except Exception:
        taken = False
    if not taken:
        with pytest.raises(DataError):
            check_mat(path)
    else:
        check_mat(path)


# --- a writer of elements


def element(kind: int, content: bytes, order: str = "<", size: int | None = None) -> bytes:
    """A data type, a size (its own, or one that is claimed) and content, filled up to 8 bytes."""
    claimed = len(content) if size is None else size
    return struct.pack(order + "II", kind, claimed) + content + bytes(-len(content) % 8)


def small(kind: int, content: bytes, order: str = "<", size: int | None = None) -> bytes:
    """An element of up to 4 bytes that lie within its tag."""
    claimed = len(content) if size is None else size
    return struct.pack(order + "I", claimed << 16 | kind) + content.ljust(4, b"\0")


def numbers(kind: int, code: str, values: Any, order: str = "<") -> bytes:
    return element(kind, np.asarray(values, dtype=order + code).tobytes(), order)


def flags(kind: int, order: str = "<") -> bytes:
    return numbers(6, "u4", [kind, 0], order)


def array(kind: int, dims: Any, *content: bytes, order: str = "<", name: bytes = b"v", size: int | None = None) -> bytes:
    """An array of a class; content: its elements after the name."""
    called = small(1, name, order) if name else element(1, b"", order)
    return element(14, flags(kind, order) + numbers(5, "i4", dims, order) + called + b"".join(content), order, size)


def file(*variables: bytes, order: str = "<") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI") + b"".join(variables)


def pack(content: bytes) -> bytes:
    packed = zlib.compress(content)
    return struct.pack("<II", 15, len(packed)) + packed


DATA = numbers(9, "f8", [1, 2, 3, 4, 5, 6])
GOOD = array(6, [2, 3], DATA)
ONE = array(6, [1, 1], numbers(9, "f8", [1]), name=b"")
NAMES = element(1, b"ab\0\0cd\0\0")


def deep(levels: int) -> bytes:
    found = ONE
    for _ in range(levels):
        found = array(1, [1, 1], found, name=b"")
    return array(1, [1, 1], found)


def columns(rows: Any, starts: Any, values: Any, dims: Any = (3, 2)) -> bytes:
    return array(5, dims, numbers(5, "i4", rows), numbers(5, "i4", starts), numbers(9, "f8", values))


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_order_of_bytes(order: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    rows = [
        array(6, [2, 3], numbers(9, "f8", [1, 2, 3, 4, 5, 6], order), order=order),
        array(6, [1, 2], small(3, np.array([-1, 2], order + "i2").tobytes(), order), order=order, name=b"w"),
    ]
    path.write_bytes(file(*rows, order=order))
    np.testing.assert_array_equal(read_array(path, "v"), [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(read_array(path, "v", variable="w"), [[-1, 2]])


PASS = {
    "cells": array(1, [1, 2], ONE, element(14, b"")),
    "struct": array(2, [1, 1], small(5, b"\4\0\0\0"), NAMES, ONE, ONE),
    "object": array(3, [1, 1], element(1, b"inline"), small(5, b"\4\0\0\0"), NAMES, ONE, ONE),
    "function": array(16, [1, 1], ONE),
    "opaque": element(14, flags(17) + small(1, b"v") + element(1, b"MCOS") + element(1, b"string") + ONE),
    "text without letters": array(4, [1, 3], element(4, b"")),
    "text of 16 bits": array(4, [1, 2], element(4, "ab".encode("utf-16-le"))),
    "sparse": columns([0, 2], [0, 1, 2], [1, 2]),
    "sparse with room": columns([0, 2, 0, 0], [0, 1, 2], [1, 2, 0, 0]),
    "true of one byte": array(5 | 1 << 9, [3, 2], numbers(5, "i4", [0, 2]), numbers(5, "i4", [0, 1, 2]), element(9, b"\1\1")),
    "deep": deep(48),
    "packed": pack(GOOD),
}


@pytest.mark.parametrize("kind", PASS)
def test_what_else_the_format_has_passes_and_scipy_reads_it(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(file(PASS[kind]))
    check_mat(tmp_path / "a.mat")
    read = scipy.io.loadmat(tmp_path / "a.mat")
    assert {"v", "None"} & set(read)  # older ones of scipy give what is opaque no name


DAMAGES: dict[str, tuple[bytes, str]] = {
    "no header": (b"x" * 200, "no header of MATLAB 5"),
    "short header": (file()[:100], "no header of MATLAB 5"),
    "MATLAB 4": (b"\0" + file(GOOD)[1:], "no header of MATLAB 5"),
    "another version": (file(GOOD).replace(b"\0\1IM", b"\0\3IM"), "no header of MATLAB 5"),
    "bytes after the last": (file(GOOD) + b"\1\2\3", "ends within an element"),
    "cut": (file(GOOD)[:-20], "a variable claims"),
    "no array": (file(DATA), "data type 9 where an array is expected"),
    "empty": (file(element(14, b"")), "ends within an element"),
    "flags": (file(element(14, numbers(5, "u4", [6, 0]))), "array flags have data type 5"),
    "class 0": (file(array(0, [2, 3], DATA)), "class 0, 1 to 17 are known"),
    "class 18": (file(array(18, [2, 3], DATA)), "class 18"),
    "class 255": (file(array(255, [2, 3], DATA)), "class 255"),
    "negative": (file(array(6, [-2, -3], DATA)), r"dimensions \[-2, -3\]"),
    "one dimension": (file(array(6, [6], DATA)), r"dimensions \[6\]"),
    "33 dimensions": (file(array(6, [1] * 33, DATA)), "dimensions have 132 bytes"),
    "huge dimension": (file(element(14, flags(6) + numbers(6, "u4", [2**31, 0]) + small(1, b"v") + DATA)), "beyond the range"),
    "dimensions of 8 bytes": (file(element(14, flags(6) + DATA + small(1, b"v") + DATA)), "data type 9, 5, 6"),
    "fewer values": (file(array(6, [2, 2], DATA)), "an array of 4 values has 48 bytes"),
    "more values": (file(array(6, [2, 4], DATA)), "an array of 8 values has 48 bytes"),
    "product beyond 64 bits": (file(array(6, [2**31 - 1] * 3, DATA)), "values has 48 bytes"),
    "half a value": (file(array(6, [1, 1], element(9, b"1234"))), "an array of 1 values has 4 bytes"),
    "no imaginary part": (file(array(6 | 1 << 11, [2, 3], DATA)), "ends within an element"),
    "a part too much": (file(array(6, [2, 3], DATA, DATA)), "claims 56 bytes more than it holds"),
    **{f"type {k}": (file(array(6, [2, 3], element(k, DATA[8:]))), f"data type {k}") for k in (0, 8, 10, 14, 15, 16, 19)},
    "type 65,000": (file(array(6, [1, 1], small(65_000, b"\1"))), "data type 65000"),
    "small of 5": (file(array(6, [1, 1], small(2, b"\1", size=5))), "claims 5 bytes, it has 4"),
    "element beyond its array": (file(array(6, [2, 3], element(9, DATA[8:], size=1 << 20))), "an element claims 1,048,576 bytes"),
    "array beyond its cell": (file(array(1, [1, 1], array(6, [2, 3], DATA, size=1 << 20))), "an array claims 1,048,576 bytes"),
    "cells too many": (file(array(1, [1000, 1000], ONE)), "claims 1,000,000 others"),
    "cells too few": (file(array(1, [1, 1], ONE, ONE)), "bytes more than it holds"),
    "nesting": (file(deep(60)), "more than 50 deep"),
    "text too short": (file(array(4, [1, 9], element(16, b"abc"))), "text of 9 letters has 3 bytes"),
    "text too long": (file(array(4, [1, 2], element(4, b"abcdef"))), "text of 2 letters has 6 bytes"),
    "text of doubles": (file(array(4, [1, 6], DATA)), "data type 9"),
    "spaces without end": (file(array(4, [2**31 - 1, 99], element(4, b""))), "more than 200 times"),
    "structs without end": (file(array(2, [2**31 - 1, 9], small(5, b"\4\0\0\0"), element(1, b""))), "more than 200 times"),
    "names of no length": (file(array(2, [1, 1], small(5, b"\0\0\0\0"), NAMES, ONE, ONE)), "field names of 0 bytes"),
    "names of negative length": (file(array(2, [1, 1], numbers(5, "i4", [-4]), NAMES, ONE, ONE)), "field names of -4 bytes"),
    "names that do not fit": (file(array(2, [1, 1], small(5, b"\5\0\0\0"), NAMES, ONE)), "do not fit into 8 bytes"),
    "a name without end": (file(array(2, [1, 1], small(5, b"\4\0\0\0"), element(1, b"abcdef\0\0"))), "longer than its 4"),
    "too many names": (file(array(2, [0, 0], small(5, b"\2\0\0\0"), element(1, b"a\0" * 5000))), "more than 4096"),
    "name not of ASCII": (file(element(14, flags(6) + numbers(5, "i4", [2, 3]) + small(16, b"\xff") + DATA)), "not of ASCII"),
    "rows beyond": (file(columns([0, 3], [0, 1, 2], [1, 2])), "rows of a sparse array"),
    "negative rows": (file(columns([0, -1], [0, 1, 2], [1, 2])), "rows of a sparse array"),
    "fewer rows": (file(columns([0], [0, 1, 2], [1, 2])), "rows of a sparse array"),
    "falling columns": (file(columns([0, 2], [0, 2, 1], [1, 2])), "columns of a sparse array"),
    "fewer columns": (file(columns([0, 2], [0, 2], [1, 2])), "columns of a sparse array"),
    "sparse cube": (file(columns([0, 2], [0, 1, 2], [1, 2], (3, 2, 1))), "columns of a sparse array"),
    "fewer sparse values": (file(columns([0, 2], [0, 1, 2], [1])), "sparse array of 2 values has 8 bytes"),
    "packed, cut": (file(pack(GOOD))[:-6], "a variable claims"),
    "packed, without its end": (file(element(15, zlib.compress(GOOD)[:-6])[: 8 + len(zlib.compress(GOOD)) - 6]), "cut short"),
    "packed, other bytes": (file(struct.pack("<II", 15, 8) + b"notdefla"), "damaged or of another format"),
    "packed, array cut": (file(pack(GOOD[:-8])), "ends within an element"),
    "packed twice": (file(pack(pack(GOOD))), "data type 15 where an array is expected"),
    "two arrays in one": (file(pack(GOOD + GOOD)), "more than one array"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_damage_is_one_line(kind: str, tmp_path: Path) -> None:
    content, said = DAMAGES[kind]
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    readers: list[Callable[[], Any]] = [lambda: check_mat(path), lambda: read_array(path, "v")]
    for read in readers:
        with pytest.raises(DataError, match=said) as caught:
            read()
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_recordings_of_eeglab_go_through_the_door(tmp_path: Path) -> None:
    (tmp_path / "eeglab_data.set").write_bytes(file(array(6, [2, 3], element(19, DATA[8:]))))
    for read in (load_raw, read_eeglab):
        with pytest.raises(DataError, match="data type 19"):
            read(tmp_path / "eeglab_data.set")
        (tmp_path / "b.set").write_bytes(file(GOOD))
        with pytest.raises(DataError, match=r"b.set or its .fdt is damaged"):
            read(tmp_path / "b.set")


def test_a_packed_variable_of_whole_pieces_is_read_to_its_end(tmp_path: Path) -> None:
    """Some of these unpack to just one piece, after which nothing may be left to come."""
    for size in range(PIECE - 160, PIECE, 8):
        scipy.io.savemat(tmp_path / "a.mat", {"v": np.zeros((1, size), "u1")}, do_compression=True)
        check_mat(tmp_path / "a.mat")


def test_arrays_that_are_small_on_disk_and_not_in_memory_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "FREE", 1 << 20)
    (tmp_path / "a.mat").write_bytes(file(pack(array(1, [1, 8000], element(14, b"") * 8000))))
    with pytest.raises(DataError, match="more than 200 times"):
        check_mat(tmp_path / "a.mat")


MUTATED = """
import importlib.util, sys, warnings
from pathlib import Path
import numpy as np, scipy.io
from brainlens.types import DataError, check_mat
warnings.simplefilter("ignore")
spec = importlib.util.spec_from_file_location("fuzzing", sys.argv[1])
fuzzing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzzing)
path, count = Path(sys.argv[2]), int(sys.argv[3])
whole = path.read_bytes()
refused = read = 0
for number in range(count):
    path.write_bytes(fuzzing.mutate(whole, np.random.default_rng(number), False))
    print(number, file=sys.stderr)
    try:
        check_mat(path)
    except DataError:
        refused += 1
        continue
    scipy.io.whosmat(path)
    scipy.io.loadmat(path, simplify_cells=True)
    read += 1
print(refused, read)
"""


@pytest.mark.parametrize("packed", [False, True])
def test_no_mutation_ends_a_process_and_what_passes_is_read(packed: bool, tmp_path: Path) -> None:
    """What passes the door scipy reads without an error; one that let damages through would fail here, or crash."""
    names = ("f8", "u2", "complex", "logical", "accent", "cell", "nested", "structs", "sparse", "blank", "empty")
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {name: VALUES[name] for name in names}, do_compression=packed)
    (tmp_path / "a.mat").write_bytes(buffer.getvalue())
    fuzzing = Path(__file__).parents[1] / "faults" / "fuzzing.py"
    command = [sys.executable, "-c", MUTATED, str(fuzzing), str(tmp_path / "a.mat"), "1500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"exit {done.returncode} after mutation {done.stderr[-600:]}"
    refused, read = map(int, done.stdout.split())
    assert refused + read == 1500
    assert min(refused, read) > 100
