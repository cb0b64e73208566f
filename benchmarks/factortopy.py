"""One training step of FactorTopy (37,984 voxels, batch 8, 12 layers x 768 channels, 8 x 8 tokens, D = 128).

The peer is written from the paper's listing 1: grid_sample per layer, [image, voxel, D, layer] held for the local and the
global part. Both start from the same weights and take whole steps: forward, smooth L1 and entropy penalty, backward, AdamW.
Compared are the outputs and every gradient of the first step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from harness import compare, memory_mb

VOXELS, BATCH, LAYERS, CHANNELS, WIDTH = 37_984, 8, 12, 768, 128


def problem(device: str, voxels: int = VOXELS, batch: int = BATCH) -> dict[str, Any]:
    import torch

    from brainlens.nn.factortopy import FactorTopyNetwork

    torch.manual_seed(0)
    coordinates = torch.rand(voxels, 3) * torch.tensor([140.0, 100.0, 110.0])
    model = FactorTopyNetwork(coordinates, {f"layer{i}": CHANNELS for i in range(LAYERS)}, width=WIDTH)
    with torch.no_grad():  # selectors of a trained model: places all over the picture, layers chosen
        for last, spread in zip(model.selectors.last, (25.0, 20.0, 20.0), strict=True):
            last.weight.mul_(spread)
    tokens = {f"layer{i}": torch.randn(batch, 64, CHANNELS) for i in range(LAYERS)}
    whole = {f"layer{i}": torch.randn(batch, CHANNELS) for i in range(LAYERS)}
    target = torch.randn(batch, voxels)
    move = lambda named: {name: value.to(device) for name, value in named.items()}  # noqa: E731
    return {"model": model.to(device), "tokens": move(tokens), "whole": move(whole), "target": target.to(device)}


def listing(model: Any, tokens: dict[str, Any], whole: dict[str, Any]) -> tuple[Any, Any]:
    """The paper's listing 1, with the parameters of our model; also returns the layer weights."""
    import torch
    import torch.nn.functional as F

    space, layer, scale = [], [], []
    for i, out in enumerate((space, layer, scale)):
        first = slice(128 * i, 128 * (i + 1))
        hidden = F.gelu(F.linear(model.code, model.selectors.first.weight[first], model.selectors.first.bias[first]))
        out.append(model.selectors.last[i](F.gelu(model.selectors.second[i](hidden))))
    u, omega, alpha = torch.tanh(space[0]), torch.softmax(layer[0], dim=1), torch.sigmoid(scale[0])
    local, everywhere = [], []
    for i, name in enumerate(model.layers):
        maps = (tokens[name] @ model.local[i]).transpose(1, 2).unflatten(2, (8, 8))  # [B, D, 8, 8]
        grid = u[None, :, None, :].expand(len(maps), -1, -1, -1)
        sampled = F.grid_sample(maps, grid, mode="bilinear", align_corners=False, padding_mode="border")
        local.append(sampled[..., 0].transpose(1, 2))  # [B, N, D]
        everywhere.append((whole[name] @ model.local[i])[:, None].expand(-1, len(u), -1))
    v_local, v_global = torch.stack(local, dim=-1), torch.stack(everywhere, dim=-1)  # [B, N, D, L]
    v = v_local * (1 - alpha)[:, :, None] + v_global * alpha[:, :, None]
    v = (v * omega[None, :, None, :]).sum(dim=-1)
    return (v * model.readout).mean(dim=-1) + model.bias, omega


def stepper(device: str, forward: Callable[..., tuple[Any, Any]], fused: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import torch
    import torch.nn.functional as F

    from brainlens.nn.factortopy import entropy_penalty

    p = problem(device)
    optimiser = torch.optim.AdamW(p["model"].parameters(), lr=1e-3, weight_decay=1e-2, fused=fused or None)
    kept: dict[str, np.ndarray] = {}

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        y, omega = forward(p["model"], p["tokens"], p["whole"])
        (F.smooth_l1_loss(y, p["target"], beta=0.1) + 0.1 * entropy_penalty(omega)).backward()
        if not kept:
            kept["output"] = y.detach().cpu().numpy()
            kept.update({f"gradient of {n}": v.grad.cpu().numpy() for n, v in p["model"].named_parameters()})
        optimiser.step()

    return run, lambda: kept


def ours_forward(model: Any, tokens: dict[str, Any], whole: dict[str, Any]) -> tuple[Any, Any]:
    selected = model.select()
    return model.predict(tokens, whole, selected), selected[1]


def ours(device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    return stepper(device, ours_forward, fused=True)


def peer(device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    return stepper(device, listing, fused=False)


def time_step(device: str, voxels: int = VOXELS, batch: int = BATCH, repeats: int = 3) -> float:
    import torch
    import torch.nn.functional as F

    p = problem(device, voxels, batch)
    optimiser = torch.optim.AdamW(p["model"].parameters(), lr=1e-3, fused=True)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        F.smooth_l1_loss(p["model"](p["tokens"], p["whole"]), p["target"], beta=0.1).backward()
        optimiser.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def linear(device: str) -> None:
    """Cost against the number of voxels and of images in a step."""
    print(f"{'voxels':>10}{'images':>10}{'step [s]':>12}{'us per voxel':>14}")
    for voxels, batch in [(9_496, 8), (18_992, 8), (37_984, 8), (75_968, 8), (37_984, 16), (37_984, 32)]:
        seconds = time_step(device, voxels, batch)
        print(f"{voxels:10d}{batch:10d}{seconds:12.4f}{seconds / voxels * 1e6:14.2f}")


def vertices(device: str, voxels: int = 327_684) -> None:
    """Whole steps of all vertices of fsaverage, with the optimiser's state, and the highest memory of the whole process."""
    seconds = time_step(device, voxels, repeats=2)
    print(f"{voxels} vertices, batch {BATCH}: {seconds:.2f} s a step, peak {memory_mb('VmHWM') / 1024:.1f} GB")


def whole_fit(device: str) -> str | float:
    """Seconds of a fit on 3,000 images, 40,000 steps of 8 (the paper: 30 minutes on an RTX 4090); measured on CUDA only."""
    if not device.startswith("cuda"):
        return "measured with --device cuda"
    return 40_000 * time_step(device, repeats=50)


if __name__ == "__main__":
    if "--linear" in sys.argv or "--vertices" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--device", default="cpu")
        parser.add_argument("--linear", action="store_true", help=linear.__doc__)
        parser.add_argument("--vertices", action="store_true", help=vertices.__doc__)
        chosen = parser.parse_args()
        if chosen.linear:
            linear(chosen.device)
        if chosen.vertices:
            vertices(chosen.device)
    else:
        compare("factortopy", ours, peer, peer_name="the paper's listing", whole_fit_s=whole_fit)
