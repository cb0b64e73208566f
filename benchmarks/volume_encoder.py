"""One training step of the volume encoder on the 2 mm grid: gathered patches against the full volume through Conv3d.

Peer: every volume is filled into its zero-padded 98 x 112 x 98 grid, patched by a Conv3d and attended over all 392
patches, the empty ones masked out as keys so that both compute the same function; all tokens through the last block.
Batch 16, width 256, 4 blocks, so that a step takes seconds on two cores; loss and the gradient of every parameter compared.

Beside the two: `input_share`, the part of a training step that goes into drawing and gathering its batch from three
float16 trials an image, as the training loop does it, and `tflop_s`, what our step achieves in 10^12 operations a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nilearn.datasets import load_mni152_brain_mask
from torch import Tensor

from brainlens.models.volume.batches import Batches
from brainlens.models.volume.split import AlignmentPart, gather_mean
from brainlens.nn.losses import info_nce
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from floor import counted
from harness import compare

BATCH = 16


def brain_mask() -> np.ndarray:
    """The MNI152 brain mask at 2 mm on the (91, 109, 91) grid."""
    mask = load_mni152_brain_mask(resolution=2).get_fdata() > 0
    out = np.zeros((91, 109, 91), dtype=bool)
    cut = tuple(slice(0, min(a, b)) for a, b in zip(mask.shape, out.shape))
    out[cut] = mask[cut]
    return out


def setting(device: str) -> tuple[VolumeEncoder, np.ndarray, Tensor, Tensor]:
    torch.manual_seed(0)
    mask = brain_mask()
    encoder = VolumeEncoder(mask, VolumeDesign(patch=14, width=256, depth=4, heads=8, embed_dim=256)).to(device)
    x, aim = torch.randn(BATCH, encoder.n_voxels), torch.randn(BATCH, 256)
    return encoder, mask, x.to(device), aim.to(device)


def step(
    encoder: VolumeEncoder, embed: Callable[[Tensor], Tensor], x: Tensor, aim: Tensor, found: dict[str, np.ndarray]
) -> Callable[[], Any]:
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=0.0)  # the whole step is timed, the weights stay comparable

    def run() -> None:
        optimiser.zero_grad()
        loss = info_nce(embed(x), aim, 0.1)
        loss.backward()
        optimiser.step()
        found["loss"] = loss.detach().cpu().numpy()
        for name, parameter in encoder.named_parameters():
            if not name.endswith("qkv.bias"):  # a key bias cancels in the softmax: its gradient is rounding noise
                found[name] = parameter.grad.cpu().numpy()

    return run


def ours(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    encoder, _, x, aim = setting(device)
    found: dict[str, np.ndarray] = {}
    return step(encoder, encoder, x, aim, found), lambda: found


def peer(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    encoder, mask, x, aim = setting(device)
    patch, width = encoder.design.patch, encoder.design.width
    padded = [-(-s // patch) * patch for s in mask.shape]
    volumes = torch.zeros(BATCH, 1, *padded, device=device)
    inside = torch.zeros(padded, dtype=torch.bool, device=device)
    inside[tuple(slice(0, s) for s in mask.shape)] = torch.from_numpy(mask).to(device)
    volumes[:, 0, inside] = x  # filled once: its loader would bring volumes
    brain = (F.max_pool3d(inside[None, None].float(), patch) > 0).flatten()
    keys = torch.cat([brain.new_ones(1), brain])[None, None, None]

    def embed(_: Tensor) -> Tensor:
        kernel = encoder.projection.T.reshape(width, 1, patch, patch, patch)
        patches = F.conv3d(volumes, kernel, stride=patch).flatten(2).transpose(1, 2)
        position = torch.zeros(len(brain), width, device=device).index_put((brain.nonzero()[:, 0],), encoder.position)
        tokens = encoder.pre(torch.cat([encoder.class_token.expand(BATCH, 1, -1), patches + position], 1))
        for block in encoder.blocks:
            q, k, v = block._heads(block.norm1(tokens), False)
            tokens = block._finish(tokens, F.scaled_dot_product_attention(q, k, v, attn_mask=keys))
        return encoder.embed(tokens)

    found: dict[str, np.ndarray] = {}
    return step(encoder, embed, x, aim, found), lambda: found


def seconds(run: Callable[[], Any], device: str, repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of a call, the first one left out."""
    found = []
    for _ in range(repeats + 1):
        start = clock()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(clock() - start)
    return float(np.median(found[1:]))


def input_share(device: str) -> float:
    """Drawing and gathering a batch over that and the step, 200 images of three trials; on the CPU in processor time."""
    encoder, _, x, aim = setting(device)
    trials = torch.randn(600, encoder.n_voxels).half().to(device)
    rows, ids = torch.randperm(600).view(200, 3), np.array([f"i{i:03d}" for i in range(200)])
    part = AlignmentPart(ids, trials, rows, torch.zeros(200, 1), None)
    batches = Batches(part, BATCH, "subset", 0)
    steps = iter(range(100))

    def draw() -> None:
        drawn = batches.draw(next(steps))
        gather_mean(part.x, drawn.rows, drawn.weights)

    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    taken = seconds(draw, device, clock=clock)
    whole = taken + seconds(step(encoder, encoder, x, aim, {}), device, repeats=3, clock=clock)
    print(f"drawing and gathering a batch: {taken:.4f} s of {whole:.4f} s")
    return taken / whole


def tflop_s(device: str) -> float:
    """Operations of our step, forward and backward, in 10^12 a second."""
    encoder, _, x, aim = setting(device)
    run = step(encoder, encoder, x, aim, {})
    return 2 * counted(run).macs / seconds(run, device, repeats=3) / 1e12


def moved(device: str) -> float:
    """Bytes of AdamW, seven passes over four bytes a weight, and of the responses."""
    encoder, _, x, _ = setting(device)
    return 28 * sum(p.numel() for p in encoder.parameters()) + 4 * x.numel()


if __name__ == "__main__":
    compare(
        "volume_encoder",
        ours,
        peer,
        peer_name="Conv3d on the full volume, 392 patches attended",
        moved=moved,
        input_share=input_share,
        tflop_s=tflop_s,
    )
