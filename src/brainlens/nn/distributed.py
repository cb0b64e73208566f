"""Embeddings of all processes as one batch, with gradients that flow back to the process they came from."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        pieces = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, x.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)  # every process held these rows, so all of their gradients count
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def processes() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) where no process group is running."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in rank order: (B, ...) on each -> (world B, ...).

    The gradient of a row is the sum of its gradients over all processes. With per-process losses L_r and parameters'
    gradients averaged over processes (as DistributedDataParallel does), the update is exactly that of mean_r L_r over
    the joint batch. Every process must bring the same number of rows.
    """
    if processes()[1] == 1:
        return x
    if x.is_floating_point():
        return _Gather.apply(x)
    pieces = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, x.contiguous())
    return torch.cat(pieces)


def gather_uneven(x: Tensor, sizes: list[int]) -> Tensor:
    """Rows of all processes in rank order where each brings a number of its own: (n_rank, ...) -> (n, ...), n = sum of sizes.

    Without a gradient. The device is that of the process group's transport.
    """
    if len(sizes) == 1:
        return x
    most = max(sizes)
    padded = x.new_zeros(most, *x.shape[1:])
    padded[: len(x)] = x
    pieces = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(pieces, padded)
    return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])
