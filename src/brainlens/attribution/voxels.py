"""From patches back to voxels, and the control map."""

from __future__ import annotations

import torch
from torch import Tensor

from brainlens.types import DataError


def to_voxels(maps: Tensor, patch_of: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Maps (sample, patch) at the voxels (sample, V); patch_of (V,) is each voxel's patch, -1 for none (which gets 0).

    Plain: every voxel takes its patch's value (at patch 14 and 2 mm a cube of 28 mm). With weight (sample, V) >= 0, e.g.
    |input x gradient|, a voxel takes value * weight / (mean weight of its patch): the mean over a patch stays the patch's
    value, and the resolution inside a patch is the weight's. That refinement is ours, not the paper's.
    """
    if maps.ndim != 2 or int(patch_of.max()) >= maps.shape[1]:
        raise DataError(f"to_voxels: maps {tuple(maps.shape)} do not hold {int(patch_of.max()) + 1} patches")
    inside = patch_of >= 0
    number = patch_of.clamp_min(0)
    plain = maps[:, number] * inside
    if weight is None:
        return plain
    if weight.shape != plain.shape or bool((weight < 0).any()):
        raise DataError(f"to_voxels: weight {tuple(weight.shape)} must be {tuple(plain.shape)} and not negative")
    used = weight * inside
    total = maps.new_zeros(maps.shape).index_add_(1, number, used.to(maps))
    count = maps.new_zeros(maps.shape[1]).index_add_(0, number, inside.to(maps))
    share = used * count[number] / total[:, number].clamp_min(torch.finfo(maps.dtype).tiny)
    even = (total[:, number] == 0) & inside  # a patch without any weight is spread evenly
    return plain * torch.where(even, torch.ones_like(share), share)


def random_maps(samples: int, units: int, *, patch_of: Tensor | None = None, seed: int = 0) -> Tensor:
    """Uniform maps (sample, unit), the control; with patch_of one value per patch, as coarse as a patch method's map."""
    generator = torch.Generator().manual_seed(seed)
    if patch_of is None:
        return torch.rand(samples, units, generator=generator)
    return to_voxels(torch.rand(samples, int(patch_of.max()) + 1, generator=generator), patch_of.cpu())
