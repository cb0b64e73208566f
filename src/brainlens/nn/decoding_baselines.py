"""Decoders from voxels to embeddings that every alignment is shown beside: one linear layer, MLPs and a 3D CNN."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from brainlens.types import DataError


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


class SharedSubjectMLP(nn.Module):
    """A linear map for each subject into one space, and one MLP for all of them: voxels (B, V) of a subject -> (B, d).

        h = A_s x + a_s,     h <- h + W2 GELU(W1 LN(h)) for each block,     z = head(W h)

    subjects: names s; voxels: the columns that are read. A_s is a ridge where the optimiser decays it. head: three linear layers,
    each after a layer norm and GELU. After MindEye2 (Scotti et al. 2024), whose backbone is an MLP-Mixer over one token, of width
    4096, with CLIP's 256 tokens and a diffusion prior behind it; here it ends in one embedding.
    Raises DataError for a subject without a map.
    """

    voxels: Tensor

    def __init__(
        self,
        subjects: Sequence[str],
        voxels: Tensor,
        embed_dim: int,
        *,
        width: int = 512,
        blocks: int = 4,
        inner: float = 0.15,
    ) -> None:
        super().__init__()
        self.register_buffer("voxels", voxels)
        self.subjects = list(subjects)
        self.enter = nn.ModuleList(nn.Linear(len(voxels), width) for _ in self.subjects)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Dropout(inner),
                nn.Linear(width, width),
                nn.Dropout(inner),
            )
            for _ in range(blocks)
        )
        self.leave = nn.Linear(width, embed_dim)
        sizes = (embed_dim, width, width, embed_dim)
        self.head = nn.Sequential(
            *(nn.Sequential(nn.LayerNorm(before), nn.GELU(), nn.Linear(before, after)) for before, after in pairwise(sizes))
        )

    def add(self, subjects: Sequence[str]) -> None:
        """Maps for further subjects in the same voxels; each begins as the mean of those that are there."""
        names = [name for name in subjects if name not in self.subjects]
        state = [layer.state_dict() for layer in self.enter]
        mean = {key: torch.stack([one[key] for one in state]).mean(0) for key in state[0]}
        for name in names:
            layer = nn.Linear(len(self.voxels), self.leave.in_features).to(self.voxels.device)
            layer.load_state_dict(mean)
            self.enter.append(layer)
            self.subjects.append(name)

    def forward(self, x: Tensor, subject: str) -> Tensor:
        if subject not in self.subjects:
            raise DataError(f"subject {subject!r} has no linear map in this model; it has {self.subjects}")
        hidden = self.enter[self.subjects.index(subject)](x[:, self.voxels])
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(self.leave(hidden))


def embedded(module: nn.Module, x: Tensor, subject: str) -> Tensor:
    """Embeddings (B, d) of rows (B, V) of one subject by a module of one subject or of several."""
    return module(x, subject) if isinstance(module, SharedSubjectMLP) else module(x)


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
