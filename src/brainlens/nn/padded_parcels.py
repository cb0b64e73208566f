"""Parcels of unequal sizes in one batched product: their units as rows of a table, padded to the largest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.types import DataError


def padded(members: Sequence[np.ndarray], who: str, *, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(sizes (P,), index (P, largest)): how many units each parcel has, and their numbers, followed by `fill`.

    Raises DataError, which begins with `who`, where there is no parcel or one has no units.
    """
    sizes = np.array([len(units) for units in members])
    if not len(sizes) or not sizes.all():
        raise DataError(f"{who} parcels with units in them, got sizes {sizes[:8].tolist()}")
    index = np.full((len(sizes), int(sizes.max())), fill, dtype=np.int64)
    for row, units in zip(index, members, strict=True):
        row[: len(units)] = units
    return sizes, index


class ParcelReader(nn.Module):
    """What reads responses parcel by parcel: index, real (P, largest) say which units, and which places are padding."""

    index: Tensor
    real: Tensor

    def __init__(self, members: Sequence[np.ndarray], who: str) -> None:
        super().__init__()
        self.sizes, index = padded(members, who)
        real = np.arange(index.shape[1]) < self.sizes[:, None]
        self.register_buffer("index", torch.from_numpy(index))
        self.register_buffer("real", torch.from_numpy(real.astype(np.float32)))

    @property
    def regions(self) -> int:
        """The number of parcels."""
        return len(self.sizes)

    def by_parcel(self, x: Tensor) -> Tensor:
        """x (B, units) -> (P, B, largest), 0 where a parcel is padded."""
        return (x[:, self.index] * self.real).transpose(0, 1)
