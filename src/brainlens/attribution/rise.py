"""RISE: mean score under random masks, over the masks that show a unit (Petsiuk, Das and Saenko 2018).

S(u) = 1 / (N p1) sum_i score(x * M_i) M_i(u), with M_i smooth random masks of expectation p1. Masks are made for any
number of axes: pixels (2-D), voxels (3-D); or per region, where a region is on or off as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens.attribution.targets import ROUNDINGS, check_targets, cosine
from brainlens.types import DataError

Masks = Callable[[int, torch.Generator], Tensor]


def grid_masks(shape: Sequence[int], cells: int | Sequence[int], *, keep: float = 0.5) -> Masks:
    """Smooth masks (n, prod(shape)): a coarse random grid, enlarged linearly, cut out at a random shift; 1 to 3 axes."""
    counts = [cells] * len(shape) if isinstance(cells, int) else list(cells)
    if len(shape) not in (1, 2, 3) or len(counts) != len(shape) or min(counts) < 1:
        raise DataError(f"rise: {counts} cells do not fit a grid {tuple(shape)} of 1 to 3 axes")
    _check_keep(keep)
    size = [-(-s // c) for s, c in zip(shape, counts)]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]

    def draw(n: int, generator: torch.Generator) -> Tensor:
        coarse = (torch.rand((n, 1, *[c + 1 for c in counts]), generator=generator) < keep).float()
        fine = F.interpolate(coarse, [(c + 1) * s for c, s in zip(counts, size)], mode=mode, align_corners=False)
        out = torch.empty(n, int(np.prod(shape)))
        for i in range(n):
            start = [int(torch.randint(s, (), generator=generator)) for s in size]
            cut = tuple(slice(a, a + s) for a, s in zip(start, shape))
            out[i] = fine[i, 0][cut].reshape(-1)
        return out

    return draw


def volume_masks(mask: np.ndarray, cells: int = 8, *, keep: float = 0.5) -> Masks:
    """Grid masks in three dimensions at the voxels of a brain mask: (n, V)."""
    draw, inside = grid_masks(mask.shape, cells, keep=keep), torch.from_numpy(mask.reshape(-1))
    return lambda n, generator: draw(n, generator)[:, inside]


def region_masks(labels: np.ndarray, *, keep: float = 0.5) -> Masks:
    """Masks (n, unit) that show or hide whole regions; labels (unit,) of any kind."""
    _check_keep(keep)
    names, number = np.unique(np.asarray(labels), return_inverse=True)
    index = torch.from_numpy(number)
    return lambda n, generator: (torch.rand((n, len(names)), generator=generator) < keep).float()[:, index]


def rise(
    x: Tensor,
    model: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    masks: Masks,
    count: int = 1000,
    keep: float = 0.5,
    seed: int = 0,
    batch: int = 128,
) -> Tensor:
    """Maps (sample, unit) of inputs x (B, unit); hidden units are 0, the mean of z-scored data.

    Where no mask changes a sample's score by more than rounding, S is that score everywhere: the sum over masks would show
    how often a unit was shown.
    For inputs of other shapes give a model that reshapes. All samples see the same masks, so a map does not depend on the others.
    """
    if x.ndim != 2:
        raise DataError(f"rise: inputs {tuple(x.shape)} are not (sample, unit); flatten them and let the model reshape")
    if count < 1:
        raise DataError(f"rise: count={count} must be at least 1")
    _check_keep(keep)
    check_targets(len(x), targets)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(x)
    low, high = (torch.full((len(x), 1), end, device=x.device) for end in (torch.inf, -torch.inf))
    with torch.no_grad():
        for start in range(0, count, batch):
            chosen = masks(min(batch, count - start), generator).to(x)
            if chosen.shape[1] != x.shape[1]:
                raise DataError(f"rise: masks of {chosen.shape[1]} units do not fit inputs of {x.shape[1]}")
            for i in range(len(x)):
                aim = targets[i : i + 1].expand(len(chosen), *targets.shape[1:])
                score = cosine(model(x[i] * chosen), aim)
                low[i], high[i] = torch.minimum(low[i], score.min()), torch.maximum(high[i], score.max())
                total[i] += score @ chosen
    moved = high - low > ROUNDINGS * torch.finfo(x.dtype).eps * (targets.shape[1] if targets.ndim == 3 else 1)
    return torch.where(moved, total / (count * keep), (low + high) / 2)


def _check_keep(keep: float) -> None:
    if not 0 < keep < 1:
        raise DataError(f"rise: keep={keep} must be between 0 and 1")
