"""Double and single precision to half precision: bit by bit as numpy, faster.

numpy converts to float16 one value at a time. Processors convert float32 to float16 many at a time, and torch has them do
so. From float64 there are two roundings then, and the first may land halfway between two halves where the value was not. It
does no harm when it rounds to odd: cut off towards zero, last bit set where anything was cut off. With p + 2 digits or
more in between, rounding that to p digits equals one rounding to nearest, ties to even (Boldo and Melquiond 2008,
"Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", theorem 1); float32 has 24, float16 11.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

BLOCK = 1 << 15  # values: 0.8 MB with what stands between, which stays in cache; torch shares out nothing this small
KEPT = np.array(0xFFFF_FFFF_E000_0000, np.uint64)  # of a double: sign, exponent and the 23 digits that float32 has
SIGN, TOP = np.array(0x7FFF, np.uint16), 0x7C00  # half magnitudes: infinity is the top one, above it they are NaN


def as_float16(values: np.ndarray) -> np.ndarray:
    """`values` of any shape and number type as a new C-ordered float16 array, bit by bit that of `values.astype(np.float16)`.

    Nearest, ties to even; from 65520 on infinite, with numpy's warning; NaN keep their payload. Where torch is not loaded,
    numpy converts: loading it takes a second or more, which is what it saves on some 10^9 values.
    """
    torch = sys.modules.get("torch")
    kind = values.dtype.newbyteorder("=")
    plain = kind not in (np.dtype(np.float64), np.dtype(np.float32)) or values.size < BLOCK
    if torch is None or plain or np.geterr()["under"] != "ignore":
        return values.astype(np.float16, order="C", copy=True)
    out, at, caller = np.empty(values.size, np.float16), 0, np.geterr()
    layout: Any = ["readonly", "contig", "aligned"]  # numpy's types know no "contig"
    flags: Any = ["external_loop", "buffered"]
    blocks: Any = np.nditer(values, flags, layout, kind, order="C", casting="equiv", buffersize=BLOCK)
    single = np.empty(0, np.float32)
    with np.errstate(all="ignore"):
        for block in blocks:
            if block.size != single.size:  # the first and the last
                single, half, magnitude = (np.empty(block.size, each) for each in (np.float32, np.float16, np.uint16))
                cut, inexact, last = (np.empty(block.size, each) for each in (np.uint64, np.bool_, np.uint32))
                source, target = torch.from_numpy(single), torch.from_numpy(half)
            if kind == np.float64:
                np.bitwise_and(block.view(np.uint64), KEPT, cut)
                np.not_equal(block.view(np.uint64), cut, inexact)
                np.copyto(single, cut.view(np.float64), "same_kind")
                np.copyto(last, inexact)
                np.bitwise_or(single.view(np.uint32), last, single.view(np.uint32))
            else:
                np.copyto(single, block)
            target.copy_(source)
            np.bitwise_and(half.view(np.uint16), SIGN, magnitude)
            if magnitude.max() >= TOP:  # payloads of NaN and the warning of an overflow are numpy's own
                beyond = np.flatnonzero(magnitude >= TOP)
                with np.errstate(**caller):
                    half[beyond] = block[beyond].astype(np.float16)
            out[at : at + block.size] = half
            at += block.size
    return out.reshape(values.shape)


def infinite(halves: np.ndarray) -> np.ndarray:
    """Which values of a float16 array of any shape are infinite, same shape: np.isinf, many at a time."""
    return (halves.view(np.uint16) & SIGN) == TOP
