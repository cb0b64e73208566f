"""float64 and float32 to float16 against numpy, bit by bit."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from brainlens import store
from brainlens.store import half
from brainlens.store.half import as_float16, infinite
from brainlens.types import DataError

assert torch  # loaded, or numpy would be compared with itself


def same(values: np.ndarray) -> None:
    """Repeated to more than a block, so that it takes the fast path, with a last block that is not whole."""
    whole = np.resize(values, half.BLOCK + max(values.size, 17))
    with np.errstate(over="ignore"):
        truth, found = whole.astype(np.float16), as_float16(whole)
    assert found.dtype == np.float16
    wrong = np.flatnonzero(truth.view(np.uint16) != found.view(np.uint16))
    assert not wrong.size, (whole[wrong[:5]], truth[wrong[:5]], found[wrong[:5]])


def neighbours(values: np.ndarray) -> np.ndarray:
    top = values.dtype.type(np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([values, np.nextafter(values, top), np.nextafter(values, -top)])


def every_half() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_all_halves_their_midpoints_and_the_neighbours_of_both(kind):
    halves = every_half().astype(kind)
    finite = np.sort(halves[np.isfinite(halves)])
    middle = finite[:-1] + np.diff(finite) / 2  # exact: half an ulp of float16
    edge = np.array([65520.0, -65520.0], kind)  # halfway to the half that there would be after 65504
    same(neighbours(halves))
    same(neighbours(np.concatenate([middle, edge])))


def test_doubles_that_float32_would_carry_onto_a_midpoint(monkeypatch):
    """Midpoints moved by what float32 does not hold: two roundings to nearest get many wrong, and so do we without the cut."""
    halves = np.unique(every_half()[np.isfinite(every_half())]).astype(np.float64)
    middle = halves[:-1] + np.diff(halves) / 2
    near = np.concatenate([middle * (1 + shift * 2.0**-52) for shift in (1, -1, 2, -2, 2**20, -(2**20), 2**27, -(2**27))])
    twice, once = near.astype(np.float32).astype(np.float16), near.astype(np.float16)
    assert (twice != once).mean() > 0.2
    same(near)
    monkeypatch.setattr(half, "KEPT", np.array((1 << 64) - 1, np.uint64))
    np.testing.assert_array_equal(as_float16(near), twice)


def test_doubles_over_all_bit_patterns():
    bits = np.random.default_rng(0).integers(0, 1 << 64, 1 << 20, dtype=np.uint64)
    same(bits.view(np.float64))


@pytest.mark.parametrize("seed", range(10))
def test_doubles_in_the_range_of_halves(seed):
    rng = np.random.default_rng(seed)
    values = np.ldexp(rng.uniform(-2, 2, 1 << 17), rng.integers(-30, 17, 1 << 17))
    same(values)
    same(values.astype(np.float32))
    same(np.round(rng.normal(0, 3000, 1 << 17)))  # of whole numbers above 2048 every second is a midpoint


@given(npst.arrays(st.sampled_from([np.float64, np.float32]), st.integers(1, 40), elements={"allow_subnormal": True}))
@settings(max_examples=60, deadline=None)
def test_any_numbers(values):
    same(values)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_bits(bits):
    same(np.array(bits, np.uint64).view(np.float64))


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_payloads_of_nan_and_signs_of_zero(kind):
    word = np.uint64 if kind is np.float64 else np.uint32
    digits = 52 if kind is np.float64 else 23
    top = np.array(np.inf, kind).view(word)
    nan = [int(top) | 1 << at for at in range(digits)]
    nan += [at | 1 << (digits + (11 if kind is np.float64 else 8)) for at in nan]
    same(np.concatenate([np.array(nan, word).view(kind), np.array([0.0, -0.0, np.inf, -np.inf], kind)]))


@pytest.mark.parametrize("kind", ["<f8", ">f8", "<f4", ">f4"])
def test_views_byte_orders_and_read_only(kind):
    values = np.random.default_rng(1).normal(size=(60, 40, 50)).astype(kind)
    values.flags.writeable = False
    unaligned = np.frombuffer(b"x" + values.tobytes(), np.uint8)[1:].view(kind)
    for view in (values, values[:, ::2], values[::-1, :, 5:45], values.transpose(2, 0, 1), values[:, [3, 1, 2] * 12], unaligned):
        found = as_float16(view)
        assert view.size > half.BLOCK
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found.view(np.uint16), view.astype(np.float16, order="C").view(np.uint16))


def test_little_nothing_and_other_kinds_are_numpys():
    for values in (
        np.float64(1.5) * np.ones(()),
        np.zeros((0, 3)),
        np.arange(50_000),
        np.ones(50_000, bool),
        np.ones(40_000, "f2"),
    ):
        found = as_float16(values)
        assert found.shape == values.shape
        assert not np.shares_memory(found, values)
        np.testing.assert_array_equal(found, values.astype(np.float16))


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_warnings_are_numpys(kind):
    values = np.zeros(2 * half.BLOCK, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_float16(values + kind(1e-7))  # smaller than a half holds: no warning unless asked for
        values[:2] = np.inf, np.nan
        as_float16(values)
    values[5] = 65520
    with pytest.warns(RuntimeWarning, match="overflow encountered in cast"):
        as_float16(values)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
        as_float16(values)
    with np.errstate(under="raise"), pytest.raises(FloatingPointError, match="underflow"):
        as_float16(np.full(2 * half.BLOCK, 1e-7 / 3, kind))


def test_flushed_denormals_change_no_half():
    values = np.concatenate([every_half()[:1024].astype(np.float64), [1e-310, -1e-310, 1e-40, -1e-40]])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        found = as_float16(np.resize(values, 2 * half.BLOCK))
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(found.view(np.uint16), np.resize(values, 2 * half.BLOCK).astype(np.float16).view(np.uint16))


def test_infinite_is_isinf():
    np.testing.assert_array_equal(infinite(every_half()), np.isinf(every_half()))


def test_without_torch_numpy_converts_and_torch_is_not_loaded():
    code = (
        "import sys, numpy as np; from brainlens.store.half import as_float16; x = np.linspace(-3, 3, 1 << 17);"
        "assert np.array_equal(as_float16(x).view('u2'), x.astype('f2').view('u2')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("target", ["<f2", ">f2"])
@pytest.mark.parametrize("kind", ["f8", "f4"])
def test_a_writer_stores_what_numpy_converts_and_refuses_what_would_become_infinite(kind, target, tmp_path):
    rows = np.random.default_rng(3).normal(size=(500, 300)).astype(kind)
    rows[3, 4], rows[5, 6] = np.inf, np.nan  # as they came
    with store.ArrayWriter(tmp_path, "x", rows.shape, target) as writer:
        writer.write(0, rows[:250])
        writer.write(250, rows[250:])
    np.testing.assert_array_equal(np.load(writer.path).view(np.uint16), rows.astype(target).view(np.uint16))
    rows[400, 7] = -70_000
    with (
        pytest.raises(DataError, match="above the range of"),
        store.ArrayWriter(tmp_path, "y", rows.shape, target) as writer,
    ):
        writer.write(0, rows)
