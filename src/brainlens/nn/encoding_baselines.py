"""The other readers of the paper's table 16, on the same tokens: class token, patch token, GNet-ViT.

All predict y_nb = <v_nb, w_n> / D + b_n with a free w_n per voxel and differ in v: one vector for all voxels from the
global tokens or from all patches, or a vector per voxel from a pooling field of its own for every layer.
Brain Decodes Deep Nets (2024), appendix F.1; patch token after Lahner et al. 2023 (Algonauts 2021), pooling fields
after St-Yves and Naselaris (GNet; Allen et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brainlens.types import DataError


class ClassTokenNetwork(nn.Module):
    """v_b = mean over layers of B_l g_l: the global tokens only, one vector for every voxel."""

    def __init__(self, voxels: int, channels: Mapping[str, int], *, width: int = 128) -> None:
        super().__init__()
        self.layers, self.width = list(channels), width
        self.bottleneck = nn.ParameterList(_uniform(c, width) for c in channels.values())
        self.readout = nn.Parameter(torch.randn(voxels, width))
        self.bias = nn.Parameter(torch.zeros(voxels))

    def forward(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> Tensor:
        return torch.addmm(self.bias, self.read(tokens, whole)[0] / self.width, self.readout.T)

    def read(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor], voxels: Tensor | None = None) -> Tensor:
        """v, (1, image, D): the same for every voxel."""
        read = [_of(whole, layer).to(self.readout.dtype) @ b for layer, b in zip(self.layers, self.bottleneck, strict=True)]
        return torch.stack(read).mean(0)[None]


class PatchTokenNetwork(nn.Module):
    """v_b = mean over layers of MLP_l(flattened spatial tokens): C x H x W -> D -> D with GELU, one vector for every voxel."""

    def __init__(self, voxels: int, channels: Mapping[str, int], *, width: int = 128, places: int = 64) -> None:
        super().__init__()
        self.layers, self.width = list(channels), width
        self.first = nn.ModuleList(nn.Linear(c * places, width) for c in channels.values())
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in channels)
        self.readout = nn.Parameter(torch.randn(voxels, width))
        self.bias = nn.Parameter(torch.zeros(voxels))

    def forward(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> Tensor:
        return torch.addmm(self.bias, self.read(tokens, whole)[0] / self.width, self.readout.T)

    def read(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor], voxels: Tensor | None = None) -> Tensor:
        """v, (1, image, D): the same for every voxel."""
        read = []
        for layer, first, second in zip(self.layers, self.first, self.second, strict=True):
            flat = _of(tokens, layer).to(self.readout.dtype).flatten(1)
            read.append(second(F.gelu(first(flat))))
        return torch.stack(read).mean(0)[None]


class GNetNetwork(nn.Module):
    """v_nb = mean over layers of sum_p m_nlp B_l V_blp, with m a softmax over places for every voxel and layer.

    The readout goes inside, U_nlpb = <B_l V_blp, w_n>, one matrix product for a block of voxels, which is then weighed
    by its fields; blocks are recomputed in the backward pass, so that [voxel, layer, place, image] is never held whole.
    """

    def __init__(
        self, voxels: int, channels: Mapping[str, int], *, width: int = 128, places: int = 64, block: int = 1024
    ) -> None:
        super().__init__()
        self.layers, self.width, self.block = list(channels), width, block
        self.bottleneck = nn.ParameterList(_uniform(c, width) for c in channels.values())
        self.field = nn.Parameter(torch.zeros(voxels, len(channels), places))
        self.readout = nn.Parameter(torch.randn(voxels, width))
        self.bias = nn.Parameter(torch.zeros(voxels))

    def forward(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> Tensor:
        table = self._table(tokens)
        parts = [
            checkpoint(_pool, table, field, readout, use_reentrant=False)
            for field, readout in zip(self.field.split(self.block), self.readout.split(self.block), strict=True)
        ]
        return torch.cat(parts).T / (self.width * len(self.layers)) + self.bias

    def read(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor], voxels: Tensor | None = None) -> Tensor:
        """v of some voxels (default all), (voxel, image, D)."""
        table = self._table(tokens)
        field = self.field if voxels is None else self.field[voxels]
        v = torch.softmax(field, dim=2).flatten(1) @ table.flatten(0, 1).flatten(1)
        return v.unflatten(1, (table.shape[2], self.width)) / len(self.layers)

    def _table(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Bottlenecked tokens (layer, place, image, D)."""
        mapped = [_of(tokens, layer).to(self.readout.dtype) @ b for layer, b in zip(self.layers, self.bottleneck, strict=True)]
        return torch.stack(mapped).permute(0, 2, 1, 3)


BaselineNetwork = ClassTokenNetwork | PatchTokenNetwork | GNetNetwork


def _pool(table: Tensor, field: Tensor, readout: Tensor) -> Tensor:
    """sum_lp softmax_p(field)_nlp <table_lpb, readout_n>: (voxel, image)."""
    u = (readout @ table.flatten(0, 2).T).unflatten(1, (-1, table.shape[2]))
    return torch.bmm(torch.softmax(field, dim=2).flatten(1)[:, None], u)[:, 0]


def _of(given: Mapping[str, Tensor], layer: str) -> Tensor:
    if layer not in given:
        raise DataError(f"no tokens for layer {layer!r}; given are {sorted(given)}")
    return given[layer]


def _uniform(channels: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(channels, width).uniform_(-1, 1) / math.sqrt(channels))
