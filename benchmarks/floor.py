"""The time below which no program does its work on this machine, from two rates that are measured in the same run.

    floor = max(multiply-adds / rate of matrix products, bytes / bandwidth)

The rate is that of the best of several large square products (float32, and float64 for what is computed so), the bandwidth that
of the best of several copies of an array far larger than the caches, read and written bytes together, both with the threads that
the benchmark has. The multiply-adds are those of our way of computing, after every exact rewriting: those that torch counts while
it runs (`counted`), or a formula of the sizes where the work is numpy's. Elementwise work, random access and what Python does in
between have no floor here, so that a share of 1 is out of reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDE, COPIED = 2048, 256 * 2**20  # rows of the square products; bytes of the copied array


@dataclass(frozen=True)
class Work:
    """Multiply-adds in matrix products of float32 and float64, and bytes that are read or written at least once."""

    macs: float = 0.0
    bytes: float = 0.0
    macs64: float = 0.0


@dataclass(frozen=True)
class Rates:
    """Multiply-adds a second of float32 and float64 products, bytes a second, on `machine` with `threads` threads."""

    macs: float
    macs64: float
    bytes: float
    threads: int
    machine: str


def rates(device: str = "cpu") -> Rates:
    """The rates of this process."""
    import torch

    def best(run: Callable[[], Any], repeats: int) -> float:
        found = []
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            found.append(time.perf_counter() - begun)
        return min(found[1:])

    def product(kind: torch.dtype) -> float:
        a, b = (torch.randn(SIDE, SIDE, device=device, dtype=kind) for _ in range(2))
        out = torch.empty_like(a)
        return SIDE**3 / best(lambda: torch.mm(a, b, out=out), 6)

    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    copied = 2 * COPIED / best(lambda: target.copy_(source), 6)
    return Rates(product(torch.float32), product(torch.float64), copied, torch.get_num_threads(), machine(device))


def machine(device: str = "cpu") -> str:
    """The name of the processor, and its cores, or of the accelerator."""
    import os
    import platform

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def floor(work: Work, rate: Rates) -> tuple[float, str]:
    """Seconds below which the work is not done, and what bounds them: "products" or "bytes"."""
    products, moved = work.macs / rate.macs + work.macs64 / rate.macs64, work.bytes / rate.bytes
    return max(products, moved), "products" if products >= moved else "bytes"


def against(time_s: float, work: Work, rate: Rates) -> dict[str, Any]:
    """What a row says of its floor: `floor_s`, `share` = floor / time, `floor_by`, the rates, the machine and its threads."""
    seconds, by = floor(work, rate)
    return {
        "floor_s": seconds,
        "share": seconds / time_s,
        "floor_by": by,
        "gmac": (work.macs + work.macs64) / 1e9,
        "gbyte": work.bytes / 1e9,
        "rate_gmac_s": rate.macs / 1e9,
        "rate_gmac64_s": rate.macs64 / 1e9,
        "rate_gbyte_s": rate.bytes / 1e9,
        "threads": rate.threads,
        "machine": rate.machine,
    }


def counted(run: Callable[[], Any]) -> Work:
    """Multiply-adds of a call in torch, those of its backward pass and of attention on the CPU among them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False, custom_mapping=_cpu_attention()) as counter:
        run()
    return Work(macs=counter.get_total_flops() / 2)


def _cpu_attention() -> dict[Any, Any]:
    """torch counts the attention of GPUs alone: two products forward and four backward (flash attention makes one again)."""
    import torch

    def products(q: Any, k: Any, v: Any) -> int:
        *batch, queries, width = q
        many = 1
        for size in batch:
            many *= size
        return 2 * many * queries * k[-2] * (width + v[-1])

    def forward(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return products(q, k, v)

    def backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * products(q, k, v)

    found = {}
    for name, count in (("", forward), ("_backward", backward)):
        one = getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{name}", None)
        if one is not None:
            found[one] = count
    return found
