"""TAEF2, a small published autoencoder: pictures of 64 x 64 to 32 x 8 x 8 numbers and back. It is no class of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.backbones.picture_features import read_state
from brainlens.types import DataError

CHANNELS, LATENT = 64, 32


class Block(nn.Module):
    """x -> relu(conv conv conv x + x), in pooled blocks with a gate of all channels before."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        conv = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])
        if pooled:
            widen, narrow = nn.Conv2d(CHANNELS, 256, 1, bias=False), nn.Conv2d(256, CHANNELS, 1, bias=False)
            self.pool = nn.Sequential(widen, nn.GroupNorm(4, 256), nn.ReLU(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pool(x) if hasattr(self, "pool") else x
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    """x -> 3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder in the names of the published weights."""

    def plain(stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False, stride=stride)

    def blocks(count: int, pooled: bool = False) -> list[nn.Module]:
        return [Block(pooled) for _ in range(count)]

    def up() -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), plain()]

    down = [nn.Conv2d(3, CHANNELS, 3, padding=1), *blocks(1), plain(2), *blocks(3), plain(2), *blocks(3), plain(2)]
    encoder = nn.Sequential(*down, *blocks(3, True), nn.Conv2d(CHANNELS, LATENT, 3, padding=1))
    first = [Clamp(), nn.Conv2d(LATENT, CHANNELS, 3, padding=1), nn.ReLU(), *blocks(3, True)]
    rest = [*up(), *blocks(3), *up(), *blocks(3), *up(), *blocks(1)]
    return encoder, nn.Sequential(*first, *rest, nn.Conv2d(CHANNELS, 3, 3, padding=1))


def grey_functions(folder: str | Path) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """(encode, decode) for grey pictures (n, 64, 64) in [0, 1] and latents (n, 32, 8, 8); colours are averaged on the way back.

    folder: of encoder.safetensors and decoder.safetensors. Raises DataError for weights that are missing or do not fit.
    """
    pair = networks()
    for network, name in zip(pair, ("encoder", "decoder"), strict=True):
        state = {key: value.float() for key, value in read_state(Path(folder) / f"{name}.safetensors").items()}
        known = network.state_dict()
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in known.items()}:
            raise DataError(f"{folder}: {name}.safetensors is not the {name} of TAEF2; its entries have other names or shapes")
        network.load_state_dict(state)
        network.eval().requires_grad_(False)
    encoder, decoder = pair

    def encode(pictures: np.ndarray) -> np.ndarray:
        return encoder(torch.from_numpy(np.asarray(pictures, np.float32))[:, None].expand(-1, 3, -1, -1)).numpy()

    def decode(latents: np.ndarray) -> np.ndarray:
        return decoder(torch.from_numpy(np.asarray(latents, np.float32))).mean(dim=1).numpy()

    return encode, decode
