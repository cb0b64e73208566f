"""Training in several processes, as `torchrun` starts them: joining, averaging gradients, and one that speaks for all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from brainlens.nn.distributed import processes
from brainlens.types import DataError


@contextmanager
def joined(device: str = "cpu") -> Iterator[str]:
    """Joins the processes that `torchrun` started, and yields this one's device; alone, yields the device that was given.

    "cuda" becomes the GPU of this process's number on its machine, joined by NCCL; CPUs are joined by gloo. Raises DataError
    for one named GPU, or for fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield device
        return
    on = torch.device(device)
    if on.type == "cuda":
        number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if on.index is not None or number >= there:
            raise DataError(f"device {device!r} with {world} processes: give 'cuda' and at most one process a GPU, {there} here")
        on = torch.device("cuda", number)
        torch.cuda.set_device(on)
    dist.init_process_group("nccl" if on.type == "cuda" else "gloo")
    try:
        yield str(on)
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return processes()[0] == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the processes, all of which must hold the same ones."""
    world = processes()[1]
    if world == 1:
        return
    waiting = []
    for parameter in parameters:
        if parameter.grad is not None:
            waiting.append((dist.all_reduce(parameter.grad, async_op=True), parameter.grad))
    for work, gradient in waiting:
        work.wait()
        gradient /= world


def average(value: Tensor) -> Tensor:
    """The mean of a number over the processes."""
    world = processes()[1]
    if world == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world


def same_everywhere(module: nn.Module) -> None:
    """Gives every process the weights of the first."""
    if processes()[1] > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def shared(tensor: Tensor) -> Tensor:
    """The tensor of the first process, in every process."""
    if processes()[1] > 1:
        dist.broadcast(tensor, 0)
    return tensor


def from_first(value: Any) -> Any:
    """What the first process holds, in every process: plain numbers, text and containers."""
    if processes()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def wait() -> None:
    """Until every process is here."""
    if processes()[1] > 1:
        dist.barrier()
