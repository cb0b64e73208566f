"""Rows that are read when asked for: the same numbers as a copy, however they are asked for, and no more read than that."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from brainlens import store
from brainlens.store import LazyRows, join_rows, select_rows
from brainlens.types import DataError, Responses


def arrays(lengths: list[int], kinds: list[str]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(lengths))
    return [rng.normal(size=(n, 4, 3)).astype(kind) for n, kind in zip(lengths, kinds)]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["f2", "f4", "f8"])), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([None, [2, 0, 3], [1]]),
    st.sampled_from([1.0, 1e6]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_every_index_gives_what_a_copy_gives(parts, chosen, columns, factor, data):
    there = arrays([n for n, _ in parts], [kind for _, kind in parts])
    plain = np.concatenate(there)
    n = len(plain)
    rows = np.array(data.draw(st.lists(st.integers(-n, n - 1), max_size=60)), int) if chosen and n else None
    numbers = None if columns is None else np.array(columns)
    lazy = LazyRows(there, rows, columns=numbers, factor=factor)
    plain = plain if rows is None else plain[rows]
    plain = plain if numbers is None else plain[:, numbers]
    plain = plain if factor == 1.0 else (plain.astype(np.float32) if plain.dtype == np.float16 else plain) * factor
    n = len(plain)
    keys = [slice(None), slice(-5, None), slice(None, None, -2), np.zeros(0, int), np.arange(n) % 3 == 0, Ellipsis]
    keys += [(slice(1, 30), slice(None), np.array([2, 0])), (slice(2, 9), 0), (slice(None), slice(None), slice(1, None))]
    if n:
        index = np.array(data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=50)))
        keys += [0, -1, np.int64(n // 2), index, list(index), index[:, None], (index, slice(0, 1)), (index, index % 1), (-1, 0)]
        keys += [(np.arange(n) > n // 2, slice(None), 1), np.random.default_rng(0).permutation(n)]
    assert (lazy.shape, lazy.dtype, lazy.ndim, lazy.size) == (plain.shape, plain.dtype, plain.ndim, plain.size)
    for key in keys:
        found = lazy[key]
        assert found.dtype == plain.dtype
        np.testing.assert_array_equal(found, plain[key])
    np.testing.assert_array_equal(np.asarray(lazy, np.float64), plain.astype(np.float64))
    assert all(np.array_equal(a, b) for a, b in zip(lazy, plain, strict=True))


class Counted:
    """An array that remembers which of its rows were read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, set()

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: object) -> np.ndarray:
        self.read |= set(np.arange(len(self.array))[key].tolist())
        return self.array[key]


def test_only_the_rows_asked_for_are_read():
    one, two = (Counted(array) for array in arrays([50, 50], ["f4", "f4"]))
    lazy = LazyRows([one, two], np.arange(99, -1, -1))
    lazy[3], lazy[10:12], lazy[np.array([95, 99])]
    assert (one.read, two.read) == ({0, 4}, {46, 39, 38})


def test_a_view_of_a_view_and_what_is_not_lazy():
    plain = np.arange(60.0).reshape(20, 3)
    assert select_rows(plain, np.arange(4, 9)).base is not None  # a slice: nothing to read later
    some = select_rows(plain, np.array([5, 3, 9]))
    again = select_rows(join_rows([some, plain]), np.array([0, 2, 3, 22]))
    assert np.array_equal(again, plain[[5, 9, 0, 19]])
    assert join_rows([plain]) is plain
    for wrong in (20, [0, -21]):
        with pytest.raises(IndexError, match="of 20 rows"):
            select_rows(plain, np.array(wrong))
    for key in (3, [True, False], [0.5]):
        with pytest.raises(IndexError):
            some[key]
    with pytest.raises(DataError, match="one shape"):
        join_rows([plain, plain[:, :2]])
    with pytest.raises(ValueError, match="without a copy"):
        np.array(some, copy=False)


def test_a_recording_of_lazy_rows_is_one_of_an_array(tmp_path: Path):
    rng = np.random.default_rng(0)
    store.save_array(tmp_path, "x", rng.normal(size=(24, 3, 5)).astype(np.float16))
    mapped = store.open_array(tmp_path, "x")
    rows = rng.permutation(24)
    trials = pd.DataFrame({"stimulus": [f"s{i % 8}" for i in range(24)], "session": [i % 2 for i in range(24)]})
    trials["split"] = np.where(np.arange(24) % 8 < 6, "train", "test")
    units = pd.DataFrame({"channel": ["Oz", "O1", "O2"]})
    plain = Responses(np.array(mapped[rows]), trials, units, times=np.arange(5) / 100)
    lazy = Responses(select_rows(mapped, rows), trials, units, times=np.arange(5) / 100)
    assert isinstance(lazy.data, LazyRows)
    assert "LazyRows(24, 3, 5) float16" in repr(lazy.data)
    assert store.fingerprint(lazy) == store.fingerprint(plain)
    for change in (
        lambda r: r.rows(np.array([7, 1, 1])),
        lambda r: r.where(split="test"),
        lambda r: r.columns(np.array([2, 0])),
        lambda r: r.pick(channel="O1"),
        lambda r: r.average(),
        lambda r: r.zscore(),
        lambda r: r.clean()[0],
    ):
        one, two = change(plain), change(lazy)
        assert np.array_equal(np.asarray(one.data), np.asarray(two.data))
        assert one.trials.equals(two.trials)


def test_reading_in_pieces_holds_a_piece(tmp_path: Path):
    store.save_array(tmp_path, "x", np.ones((4000, 40, 100), np.float16))  # 32 MB
    mapped = store.open_array(tmp_path, "x")
    tracemalloc.start()
    lazy = select_rows(join_rows([mapped, mapped]), np.arange(0, 8000, 2))
    total = sum(float(lazy[start : start + 64].sum(dtype=np.float64)) for start in range(0, len(lazy), 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 4000 * 4000
    assert peak < 0.06 * lazy.nbytes


def test_changes_that_a_map_keeps_to_itself_survive_a_release(tmp_path: Path):
    store.save_array(tmp_path, "x", np.zeros((3000, 10), np.float32))
    own = np.load(tmp_path / "x.npy", mmap_mode="c")
    own[7] = 3
    store.release(own)
    assert (own[7] == 3).all()
    lazy = select_rows(own, np.array([7, 8, 2]))
    store.release(lazy)
    assert lazy[0, 0] == 3
