"""TSConv forward and backward, batch 256 of 63 x 250: fused, against convolution, pool, norm, ELU, convolution (NICE).

Outputs and the gradients of every parameter are compared; dropout is off so that both see the same activations. The
gradient of a bias in front of batch norm is zero in exact arithmetic and only rounding in both, so it is left out.
"""

from __future__ import annotations

import sys

sys.modules["bottleneck"] = None  # type: ignore[assignment]  # pandas would take bottleneck.py here for the package
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from brainlens.nn.sensor_encoder import TSConv, box_filter, window_moments  # noqa: E402
from harness import compare  # noqa: E402

BATCH, CHANNELS, SAMPLES = 256, 63, 250
PARTS = {"temporal": 0, "norm1": 2, "spatial": 4, "norm2": 5, "mix": 8}
DEAD = ("temporal.bias", "spatial.bias")


def data(device: str) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, CHANNELS, SAMPLES, generator=draw)
    x += 0.1 * torch.randn(BATCH, CHANNELS, SAMPLES, generator=draw).cumsum(-1)  # a slow drift on whitened noise
    return x.to(device), torch.randn(BATCH, 1440, generator=draw).to(device)


def layers() -> nn.Sequential:
    """The peer: the layers one after the other, with fixed weights."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 40, (1, 25)),
        nn.AvgPool2d((1, 51), (1, 5)),
        nn.BatchNorm2d(40),
        nn.ELU(),
        nn.Conv2d(40, 40, (CHANNELS, 1)),
        nn.BatchNorm2d(40),
        nn.ELU(),
        nn.Dropout(0.0),
        nn.Conv2d(40, 40, 1),
    )


def encoder() -> TSConv:
    net, truth = TSConv(CHANNELS, SAMPLES, dropout=0.0), layers()
    for name, index in PARTS.items():
        getattr(net, name).load_state_dict(truth[index].state_dict())
    return net


def side(net: nn.Module, forward: Callable[[Tensor], Tensor], device: str, names: dict[str, str]) -> Any:
    x, weight = data(device)
    kept: dict[str, Tensor] = {}

    def run() -> None:
        net.zero_grad(set_to_none=True)
        kept["out"] = out = forward(x)
        (out * weight).sum().backward()

    def outputs() -> dict[str, np.ndarray]:
        found = {"out": kept["out"].detach().cpu().numpy()}
        for name, parameter in net.named_parameters():
            if names[name] not in DEAD:
                found[names[name]] = parameter.grad.cpu().numpy()
        return found

    return run, outputs


def ours(device: str) -> Any:
    net = encoder().to(device)
    return side(net, net, device, {name: name for name, _ in net.named_parameters()})


def peer(device: str) -> Any:
    net = layers().to(device)
    back = {str(index): name for name, index in PARTS.items()}
    names = {name: f"{back[name.split('.')[0]]}.{name.split('.')[1]}" for name, _ in net.named_parameters()}
    return side(net, lambda x: net(x[:, None]).permute(0, 2, 3, 1).flatten(1), device, names)


def filtered_seconds(device: str, kind: torch.dtype = torch.float32) -> float:
    """Seconds of a step when the box filter and the window moments were computed once, as `align` does."""
    import statistics
    import time

    net, (x, weight) = encoder().to(device), data(device)
    net.filtered = True
    x = box_filter(x).to(kind)
    moments = window_moments(x)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        net.zero_grad(set_to_none=True)
        (net(x, moments) * weight).sum().backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    compare(
        "sensor_encoder",
        ours,
        peer,
        peer_name="Conv2d, AvgPool2d, BatchNorm2d, ELU, Conv2d (NICE)",
        moved=lambda device: 4 * BATCH * CHANNELS * SAMPLES,
        gmac_forward=BATCH * 36 * CHANNELS * 40 * (25 + 40) / 1e9,
        time_filtered_s=filtered_seconds,
        time_filtered_bfloat16_s=partial(filtered_seconds, kind=torch.bfloat16),
    )
