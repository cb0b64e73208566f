"""One training step of FactorTopy (37,984 voxels, batch 8, 12 layers x 768 channels, 8 x 8 tokens, D = 128).

The peer is written after the released class: a 1 x 1 convolution and a linear map a layer, grid_sample with zeros beyond the
edge, [image, voxel, D, layer] held for the global part, three selector networks, AdamW as torch makes it. With `--listing` it is
listing 1 of the paper, which has one bottleneck for both and holds the local part so, too. Both sides start from the same weights
and take whole steps: forward, smooth L1 and entropy penalty, backward, AdamW. Compared are the outputs and every gradient of
the first step.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cost import Size
from floor import Work
from harness import compare, memory_mb

VOXELS, BATCH, LAYERS, CHANNELS, WIDTH = 37_984, 8, 12, 768, 128
RELEASED = {"shared_bottleneck": False, "padding": "zeros"}
LISTING = "BRAINLENS_BENCH_LISTING"  # set: the peer is the paper's listing


def problem(device: str, voxels: int = VOXELS, batch: int = BATCH) -> dict[str, Any]:
    import torch

    from brainlens.nn.factortopy import FactorTopyNetwork

    torch.manual_seed(0)
    coordinates = torch.rand(voxels, 3) * torch.tensor([140.0, 100.0, 110.0])
    channels = {f"layer{i}": CHANNELS for i in range(LAYERS)}
    model = FactorTopyNetwork(coordinates, channels, width=WIDTH, variant=None if LISTING in os.environ else RELEASED)
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


def released(ours: Any) -> Any:
    """The released class with our weights."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Released(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = ours.layers
            self.local = nn.ModuleList(nn.Conv2d(CHANNELS, WIDTH, 1, bias=False) for _ in ours.layers)
            self.whole = nn.ModuleList(nn.Linear(CHANNELS, WIDTH, bias=False) for _ in ours.layers)
            self.selectors = nn.ModuleList(
                nn.Sequential(nn.Linear(192, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, k, bias=False), end)
                for k, end in ((2, nn.Tanh()), (len(ours.layers), nn.Softmax(dim=1)), (1, nn.Sigmoid()))
            )
            self.weight, self.bias = nn.Parameter(ours.readout.detach().clone()), nn.Parameter(ours.bias.detach().clone())
            self.register_buffer("code", ours.code.clone())

        def forward(self, tokens: dict[str, Any], whole: dict[str, Any]) -> tuple[Any, Any]:
            u, omega, alpha = (net(self.code) for net in self.selectors)
            everywhere = torch.stack([net(whole[n]) for n, net in zip(self.layers, self.whole, strict=True)], dim=-1)
            v_global = (everywhere[:, None] * omega[None, :, None, :]).sum(dim=-1)  # [B, N, D], through [B, N, D, L]
            v_local: Any = 0.0
            for i, (name, net) in enumerate(zip(self.layers, self.local, strict=True)):
                maps = net(tokens[name].transpose(1, 2).unflatten(2, (8, 8)))  # [B, D, 8, 8]
                grid = u[None, :, None, :].expand(len(maps), -1, -1, -1)
                sampled = F.grid_sample(maps, grid, mode="bilinear", align_corners=False, padding_mode="zeros")
                v_local = v_local + sampled[..., 0].transpose(1, 2) * omega[None, :, i, None]
            v = (1 - alpha)[None] * v_local + alpha[None] * v_global
            return (v * self.weight).mean(dim=-1) + self.bias, omega

    theirs = Released().to(ours.readout.device)
    with torch.no_grad():
        for i in range(len(ours.layers)):
            theirs.local[i].weight.copy_(ours.local[i].T[:, :, None, None])
            theirs.whole[i].weight.copy_(ours.whole[i].T)
        for i, net in enumerate(theirs.selectors):
            first = slice(128 * i, 128 * (i + 1))
            net[0].weight.copy_(ours.selectors.first.weight[first])
            net[0].bias.copy_(ours.selectors.first.bias[first])
            net[2].load_state_dict(ours.selectors.second[i].state_dict())
            net[4].load_state_dict(ours.selectors.last[i].state_dict())
    return theirs


def gradients(model: Any) -> dict[str, np.ndarray]:
    """Gradients of either class under the names of ours, the first layers of the three selectors as one."""
    ours = hasattr(model, "readout")
    found = {n: p.grad.detach().cpu().numpy() for n, p in model.named_parameters()}
    if ours:
        return found
    named = {"readout": found["weight"], "bias": found["bias"]}
    for i in range(len(model.layers)):
        named |= {f"local.{i}": found[f"local.{i}.weight"][:, :, 0, 0].T, f"whole.{i}": found[f"whole.{i}.weight"].T}
    for kind in ("weight", "bias"):
        named[f"selectors.first.{kind}"] = np.concatenate([found[f"selectors.{i}.0.{kind}"] for i in range(3)])
        named |= {f"selectors.second.{i}.{kind}": found[f"selectors.{i}.2.{kind}"] for i in range(3)}
    return named | {f"selectors.last.{i}.weight": found[f"selectors.{i}.4.weight"] for i in range(3)}


def stepper(
    device: str, forward: Callable[..., tuple[Any, Any]], *, fused: bool, made: Callable[[Any], Any] = lambda model: model
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import torch
    import torch.nn.functional as F

    from brainlens.nn.factortopy import entropy_penalty

    p = problem(device)
    p["model"] = made(p["model"])
    optimiser = torch.optim.AdamW(p["model"].parameters(), lr=1e-3, weight_decay=1e-2, fused=fused or None)
    kept: dict[str, np.ndarray] = {}

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        y, omega = forward(p["model"], p["tokens"], p["whole"])
        (F.smooth_l1_loss(y, p["target"], beta=0.1) + 0.1 * entropy_penalty(omega)).backward()
        if not kept:
            kept["output"] = y.detach().cpu().numpy()
            kept.update({f"gradient of {n}": value for n, value in gradients(p["model"]).items()})
        optimiser.step()

    return run, lambda: kept


def ours_forward(model: Any, tokens: dict[str, Any], whole: dict[str, Any]) -> tuple[Any, Any]:
    selected = model.select()
    return model.predict(tokens, whole, selected), selected[1]


def ours(device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    return stepper(device, ours_forward, fused=True)


def peer(device: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    if LISTING in os.environ:
        return stepper(device, listing, fused=False)
    return stepper(device, lambda model, *given: model(*given), fused=False, made=released)


def work(device: str) -> Work:
    """Of `cost.Size`: what the cells' tokens, the selectors and the bottlenecks need, and the bytes of AdamW."""
    del device
    *products, moved = Size(VOXELS, BATCH, LAYERS, CHANNELS, WIDTH).work()
    return Work(macs=float(sum(products)), bytes=float(moved))


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
        if "--listing" in sys.argv:
            sys.argv.remove("--listing")
            os.environ[LISTING] = "1"
        said = "the paper's listing" if LISTING in os.environ else "the released class"
        compare("factortopy", ours, peer, peer_name=said, peer_repeats=1, work=work, whole_fit_s=whole_fit)
