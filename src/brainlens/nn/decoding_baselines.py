"""Decoders from voxels to embeddings that every alignment is shown beside: one linear layer, an MLP and a 3D CNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ComponentDecoder(nn.Module):
    """Dropout and one linear map from principal components (B, k) to the embedding (B, d)."""

    def __init__(self, components: int, embed_dim: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(components, embed_dim)
        nn.init.normal_(self.linear.weight, std=components**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x))


class ResidualMLP(nn.Module):
    """Residual MLP on the voxels of chosen regions, in the manner of MindEye (Scotti et al. 2023): (B, V) -> (B, d)."""

    voxels: Tensor

    def __init__(
        self, voxels: Tensor, embed_dim: int, *, width: int = 512, blocks: int = 2, dropout: float = 0.5, inner: float = 0.15
    ) -> None:
        super().__init__()
        self.register_buffer("voxels", voxels)
        self.enter = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(len(voxels), width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(inner)) for _ in range(blocks)
        )
        self.leave = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x[:, self.voxels])
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.leave(hidden)


class VolumeCNN(nn.Module):
    """3D convolutions with stride 2 over the whole volume: masked voxels (B, V) -> (B, d).

    The volume is put together from the masked voxels in `forward`, zero (the mean) outside the mask.
    """

    inside: Tensor

    def __init__(self, mask: Tensor, embed_dim: int, *, width: int = 16, depth: int = 4, dropout: float = 0.3) -> None:
        super().__init__()
        if mask.ndim != 3 or mask.dtype != torch.bool:
            raise ValueError(f"mask must be a 3-D bool tensor, got {mask.dtype} {tuple(mask.shape)}")
        self.shape = tuple(mask.shape)
        self.register_buffer("inside", mask.reshape(-1).nonzero().squeeze(1))
        layers: list[nn.Module] = []
        channels, size = 1, list(self.shape)
        for level in range(depth):
            wider = width * 2**level
            layers += [nn.Conv3d(channels, wider, 3, stride=2, padding=1), nn.GroupNorm(min(8, wider), wider), nn.GELU()]
            channels, size = wider, [(s + 1) // 2 for s in size]
        self.convolutions = nn.Sequential(*layers)
        self.leave = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels * size[0] * size[1] * size[2], embed_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        volume = x.new_zeros(len(x), self.shape[0] * self.shape[1] * self.shape[2])
        volume[:, self.inside] = x
        return self.leave(self.convolutions(volume.view(len(x), 1, *self.shape)))
