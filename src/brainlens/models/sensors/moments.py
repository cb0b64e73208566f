"""Sums of products of binned recordings with their targets, in blocks, so that no matrix of all rows exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from brainlens.types import DataError

BLOCK = 1024  # rows
FLAT = 1e-5  # a deviation below this share of the mean is rounding of float32 sums


@dataclass(frozen=True)
class Moments:
    """Of rows x (p) and targets y (d): their number, sums, and sums of products about `shift`, (p, p) and (p, d), float64."""

    n: int
    shift: np.ndarray
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean of x."""
        return np.asarray(self.shift + self.x / self.n)

    @property
    def centre(self) -> np.ndarray:
        """Mean of y."""
        return self.y / self.n

    def less(self, other: Moments) -> Moments:
        """Those of the rows that are not in `other`, whose arrays are overwritten."""
        for mine, its in ((self.xx, other.xx), (self.xy, other.xy)):
            np.subtract(mine, its, out=its)
        return Moments(self.n - other.n, self.shift, self.x - other.x, self.y - other.y, other.xx, other.xy)

    def solve(self, penalty: float) -> np.ndarray:
        """W = (X'X + penalty tr(X'X)/p I)^-1 X'Y of centred rows, (p, d); 0 for a bin that never changes."""
        gram = self.xx.copy()
        for start in range(0, len(gram), BLOCK):  # a whole outer product would be one matrix more
            gram[start : start + BLOCK] -= np.outer(self.x[start : start + BLOCK] / self.n, self.x)
        flat = np.diag(gram) <= self.n * (FLAT * self.mean) ** 2
        gram.flat[:: len(gram) + 1] += penalty * np.trace(gram) / len(gram)
        factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        weights = scipy.linalg.cho_solve(factor, self.xy - np.outer(self.x, self.y / self.n), check_finite=False)
        weights[flat] = 0
        return np.asarray(weights)


def binned(data: np.ndarray, rows: np.ndarray, width: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(places in `rows`, their recordings as (n, channel x bins) float32), means over `width` samples; a rest is left out.

    Raises DataError for NaN or infinity, and where the window holds no bin.
    """
    many = data.shape[2] // width
    if many < 1:
        raise DataError(f"bins of {width} samples do not fit a window of {data.shape[2]}; give a longer window")
    for start in range(0, len(rows), BLOCK):
        part = np.asarray(data[rows[start : start + BLOCK], :, : many * width], np.float32)
        found = part.reshape(len(part), part.shape[1], many, width).mean(axis=3).reshape(len(part), -1)
        if not np.isfinite(found).all():
            raise DataError(f"ridge: trials {rows[start]} to {rows[start : start + BLOCK][-1]} hold NaN or infinity; use clean()")
        yield slice(start, start + len(part)), found


def moments(data: np.ndarray, rows: np.ndarray, target: np.ndarray, width: int, *, shift: np.ndarray | None = None) -> Moments:
    """Moments of these rows and their targets (row, d); `shift` is about the mean, the first block's by default."""
    total: list[np.ndarray] = []
    for place, x in binned(data, rows, width):
        shift = x.mean(axis=0) if shift is None else shift
        x -= shift
        y = target[place]
        sums = (x.sum(0, dtype=np.float64), y.sum(0, dtype=np.float64))
        if not total:
            total = [*sums, (x.T @ x).astype(np.float64), (x.T @ y).astype(np.float64)]
            continue
        for mine, more in zip(total, (*sums, x.T @ x, x.T @ y), strict=True):
            mine += more
    assert shift is not None
    return Moments(len(rows), shift, *total)
