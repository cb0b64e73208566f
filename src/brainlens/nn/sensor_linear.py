"""Linear readouts of sensor recordings as modules, so that they are embedded, explained and stored like any encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.types import DataError


class BinnedLinear(nn.Module):
    """z = W vec(bins(x)) + b, with bins the means over `every` neighbouring samples of each channel: (B, C, T) -> (B, D).

    A rest of the window that fills no bin is left out. Raises DataError where the window holds no bin.
    """

    every: Tensor

    def __init__(self, channels: int, samples: int, out: int, *, every: int = 5) -> None:
        super().__init__()
        if every < 1 or samples < every:
            raise DataError(f"bins of {every} samples do not fit a window of {samples}; give 1 to {samples}")
        self.register_buffer("every", torch.tensor(every))
        self.readout = nn.Linear(channels * (samples // every), out)

    def forward(self, x: Tensor) -> Tensor:
        every = int(self.every)
        bins = x.shape[2] // every
        return self.readout(x[:, :, : bins * every].unflatten(2, (bins, every)).mean(3).flatten(1))


class Centred(nn.Module):
    """y = x / |x| - centre, the embeddings that predictions of a ridge regression are compared with."""

    centre: Tensor

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=1e-12) - self.centre
