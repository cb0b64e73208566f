"""Information bottleneck attribution of 32 brain volumes at the paper's settings: 12 blocks, layer 6, 20 steps, 10 copies.

Peer: one triplet at a time, the whole encoder from the voxels at every step, all 12 blocks for all tokens, gradients for all
parameters, divergence by autograd, torch's Adam (as M2IB does it). Same weights, same noise; the maps are compared.
On the CPU the width is 96 (the paper's is 1280) and the peer explains 4 of the 32 triplets, its time being multiplied by 8: one
triplet takes it as long as any other. On a CUDA device the width is 1280 and the peer explains 8 of them.
The first run of each side, which warms up and whose memory counts, is of 2 triplets.
"""

from __future__ import annotations

if __name__ == "bottleneck":  # pandas looks for an accelerator of this name, and this folder comes first on the path
    raise ImportError("this is a benchmark, not the package of the same name")

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nilearn.datasets import load_mni152_brain_mask
from torch import Tensor

from brainlens.attribution.bottleneck import Bottleneck, Statistics, bottleneck, draw, statistics
from brainlens.attribution.targets import frozen
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from floor import Work
from harness import compare

SAMPLES, LAYER, WARM = 32, 6, 2
BATCH, PEER = {"cpu": 2, "cuda": 32}, {"cpu": 4, "cuda": 8}


def brain_mask() -> np.ndarray:
    """The MNI152 brain mask at 2 mm on the (91, 109, 91) grid."""
    mask = load_mni152_brain_mask(resolution=2).get_fdata() > 0
    out = np.zeros((91, 109, 91), dtype=bool)
    sizes = [min(a, b) for a, b in zip(mask.shape, out.shape)]
    cut = tuple(slice(0, s) for s in sizes)
    out[cut] = mask[cut]
    return out


def setting(device: str) -> tuple[VolumeEncoder, Tensor, Tensor, Bottleneck]:
    torch.manual_seed(0)
    cuda = device.startswith("cuda")
    design = VolumeDesign(width=1280 if cuda else 96, depth=12, heads=16 if cuda else 4, embed_dim=1024 if cuda else 96)
    encoder = VolumeEncoder(brain_mask(), design).to(device).eval()
    x = torch.randn(SAMPLES, encoder.n_voxels)
    targets = torch.randn(SAMPLES, 2, design.embed_dim)
    return encoder, x.to(device), targets.to(device), Bottleneck()


def reference(encoder: VolumeEncoder, x: Tensor) -> Statistics:
    with torch.no_grad():
        return statistics([encoder.prefix(encoder.tokens(part), LAYER) for part in x.split(8)])


def ours(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    encoder, x, targets, settings = setting(device)
    kind = torch.device(device).type
    stats, found = reference(encoder, x), {}

    def run() -> None:
        n = SAMPLES if found or kind == "cuda" else WARM
        with frozen(encoder):
            with torch.no_grad():
                tokens = torch.cat([encoder.prefix(encoder.tokens(part), LAYER) for part in x[:n].split(8)])
            rest, batch = lambda z: encoder.forward_from(z, LAYER), BATCH[kind]
            maps = bottleneck(tokens, rest, targets[:n], reference=stats, settings=settings, batch=batch)
        found["maps"] = maps[: PEER[kind]].cpu().numpy()

    return run, lambda: found


def one_by_hand(encoder: VolumeEncoder, x: Tensor, targets: Tensor, stats: Statistics, settings: Bottleneck) -> Tensor:
    alpha = torch.full((1, *stats.mean.shape), 5.0, device=x.device, requires_grad=True)
    optimiser = torch.optim.Adam([alpha], lr=settings.lr)
    generator = torch.Generator(x.device).manual_seed(settings.seed)
    many = x.expand(settings.copies, -1)
    kl = alpha
    for _ in range(settings.steps):
        tokens = encoder.tokens(many)
        for number, block in enumerate(encoder.blocks):
            if number == LAYER:
                keep = alpha.sigmoid()
                noise = stats.mean + stats.std * draw(generator, settings, alpha)
                mu, sigma = keep * (tokens[:1] - stats.mean) / stats.std, 1 - keep
                kl = -0.5 * (1 + 2 * sigma.log() - mu**2 - sigma**2)
                tokens = keep * tokens + (1 - keep) * noise
            tokens = block(tokens)
        z = encoder.embed(tokens)
        fit = sum(F.cosine_similarity(z, t[None]).mean() for t in targets)
        optimiser.zero_grad()
        (settings.beta * kl.mean() - fit).backward()
        optimiser.step()
    return kl.detach()[0].sum(-1) / math.log(2)


def peer(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    encoder, x, targets, settings = setting(device)
    stats, found = reference(encoder, x), {}

    def run() -> None:
        n = PEER[torch.device(device).type] if found else WARM
        maps = [one_by_hand(encoder, x[i : i + 1], targets[i], stats, settings) for i in range(n)]
        found["maps"] = torch.stack(maps).cpu().numpy()

    return run, lambda: found


def work(device: str) -> Work:
    """Blocks behind the bottleneck, forward and back to the tokens, for every triplet, step and copy of the noise."""
    encoder, _, _, settings = setting(device)
    passes = SAMPLES * settings.steps * settings.copies
    return Work(macs=passes * block_macs(encoder.n_patches + 1, encoder.design.width, encoder.design.depth - LAYER))


def block_macs(tokens: int, width: int, blocks: int) -> float:
    """Multiply-adds of transformer blocks forward and back to their input, weights given; of the last one the class token alone.

    A block has 12 T w^2 in linear maps (as many again back to the input) and 2 T^2 w in attention (twice as many back).
    """
    whole = 2 * 12 * tokens * width**2 + 3 * 2 * tokens**2 * width
    last = 2 * (2 * tokens + 10) * width**2 + 3 * 2 * tokens * width
    return (blocks - 1) * whole + last


if __name__ == "__main__":
    compare(
        "bottleneck",
        ours,
        peer,
        peer_name="one at a time, full forward, all gradients (M2IB's way)",
        repeats=1,
        work=work,
        peer_share=lambda device: PEER[torch.device(device).type] / SAMPLES,
        triplets=SAMPLES,
        peer_triplets_timed=lambda device: PEER[torch.device(device).type],
    )
