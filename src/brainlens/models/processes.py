"""Training in several processes, as `torchrun` starts them: joining, averaging gradients, and one that speaks for all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from brainlens.nn.distributed import processes
from brainlens.types import DataError

PATIENCE = timedelta(hours=2)  # that the others wait while the first one scores; a process that dies ends them at once


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
    dist.init_process_group("nccl" if on.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield str(on)
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return processes()[0] == 0


def first_only(tell: Callable[..., None]) -> Callable[..., None]:
    """A function that shows progress, in the first process; in the others one that shows nothing."""
    return tell if is_first() else _silent


def _silent(*_: Any, **__: Any) -> None:
    """Of several processes only the first one shows progress."""


def own_rows(n: int) -> slice:
    """This process's share of n rows of a batch, about as many in each. Raises DataError for fewer rows than processes."""
    rank, world = processes()
    if n < world:
        raise DataError(f"a batch of {n} in {world} processes leaves some without a row; give a larger batch")
    return slice(n * rank // world, n * (rank + 1) // world)


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


def sum_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Replaces every gradient by its sum over the processes, all of which must hold the same ones; returns the summed loss.

    loss: a scalar. One message for all of them, since most are small.
    """
    if processes()[1] == 1:
        return loss
    held = [parameter.grad for parameter in parameters if parameter.grad is not None]
    message = torch.cat([loss.detach().reshape(1).to(torch.float32), *(gradient.flatten() for gradient in held)])
    dist.all_reduce(message)
    pieces = message[1:].split([gradient.numel() for gradient in held])
    for gradient, piece in zip(held, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))
    return message[0]


def in_order(value: float) -> list[float]:
    """The numbers of all processes, in rank order and the same in each."""
    world = processes()[1]
    if world == 1:
        return [value]
    found: list[float] = [0.0] * world
    dist.all_gather_object(found, value)
    return found


def average(value: Tensor) -> Tensor:
    """The mean over the processes of a tensor of any shape, one for all."""
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
    """The tensor of the first process, in every process; any shape, one for all."""
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
