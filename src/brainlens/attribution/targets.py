"""The score that is attributed: cosine between an embedding and its targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.types import DataError

Tail = Callable[[Tensor], Tensor]
Score = Callable[[Tensor, Tensor], Tensor]  # embeddings (B, ...) and targets (B, ...) to scores (B,)
NOTHING = 1e-12  # of a score or of a bit: what is below it everywhere is no map
ROUNDINGS = 16  # so many units in the last place are rounding


def cosine(z: Tensor, targets: Tensor) -> Tensor:
    """sum_k cos(z_i, e_ik) for z (B, d) and targets (B, d) or (B, k, d): (B,).

    z (B, k, d) holds an embedding for each of the k targets: two heads of an encoder, or one embedding in two spaces.
    """
    z = F.normalize(z, dim=-1)
    targets = F.normalize(targets.to(z.dtype), dim=-1)
    if z.ndim == 3 or targets.ndim == 2:
        return (z * targets).flatten(1).sum(1)
    return (z[:, None] * targets).sum((-1, -2))


def output_at(z: Tensor, targets: Tensor) -> Tensor:
    """sum_c z_ic e_ic for outputs z (B, d) and rows of one-hot classes e (B, d): the class's output, (B,)."""
    return (z * targets.to(z.dtype)).sum(-1)


def log_probability(z: Tensor, targets: Tensor) -> Tensor:
    """log softmax(z_i) at the class of row i, for outputs z (B, d) and one-hot classes (B, d): (B,)."""
    return output_at(F.log_softmax(z, dim=-1), targets)


def probability(z: Tensor, targets: Tensor) -> Tensor:
    """softmax(z_i) at the class of row i, for outputs z (B, d) and one-hot classes (B, d): (B,)."""
    return output_at(F.softmax(z, dim=-1), targets)


def has_slope(z: Tensor, targets: Tensor) -> Tensor:
    """Whether the score of each sample moves with its embedding by more than rounding: (B,) bool.

    The gradient of the score lies along t = sum_k (e_k - cos(z, e_k) z), with z and e_k of length 1. Where |t| is below 16 k
    units in the last place (an embedding that is its own target) every gradient is rounding, whatever its size.
    """
    z, exact = z.detach(), targets.detach().double()
    own = F.normalize(z.double(), dim=-1)
    aims = F.normalize(exact, dim=-1)
    if own.ndim == 2:
        own = own[:, None]
    if aims.ndim == 2:
        aims = aims[:, None]
    along = aims - (aims * own).sum(-1, keepdim=True) * own
    size = along.norm(dim=-1).amax(-1) if z.ndim == 3 else along.sum(1).norm(dim=-1)
    return size > ROUNDINGS * torch.finfo(z.dtype).eps * aims.shape[1]


def slope(tail: Tail, x: Tensor, targets: Tensor, score: Score = cosine) -> Tensor:
    """ds/dx of samples x (B, ...), exactly 0 where a cosine has no slope."""
    point = x.detach().clone().requires_grad_()
    z = tail(point)
    (found,) = torch.autograd.grad(score(z, targets).sum(), point)
    if score is not cosine:
        return found
    return found * has_slope(z, targets).view(-1, *[1] * (x.ndim - 1))


def or_nothing(maps: Tensor) -> Tensor:
    """Maps (sample, unit), exactly 0 where all of a sample's values are below 1e-12, in units of the score or in bits.

    Input times gradient has the unit of the score whatever the input's, so that no scale of the data enters.
    """
    return maps * (maps.abs().amax(1, keepdim=True) > NOTHING)


def check_targets(n: int, targets: Tensor) -> None:
    """DataError unless there is one row of targets (n, d) or (n, k, d) per sample, finite and not zero."""
    if targets.ndim not in (2, 3) or len(targets) != n:
        raise DataError(f"attribution: targets {tuple(targets.shape)} are not ({n}, d) or ({n}, k, d) for {n} samples")
    norms = targets.norm(dim=-1)
    bad = ~torch.isfinite(norms) | (norms == 0)
    if bad.any():
        row = int(bad.reshape(n, -1).any(1).nonzero()[0])
        raise DataError(f"attribution: target {row} is zero or not finite, so no cosine to it exists; drop that sample")


def scores(x: Tensor, model: Tail, targets: Tensor, *, batch: int = 256) -> Tensor:
    """Cosines (B,) of model(x) to the targets, without gradients, in batches."""
    with torch.no_grad():
        return torch.cat([cosine(model(part), aim) for part, aim in zip(x.split(batch), targets.split(batch))])


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode, no parameter asking for a gradient, inputs free to; all is put back afterwards.

    Every module gets its own mode back, since a batch normalisation may have been held in evaluation mode on purpose.
    """
    modes, asked = [(m, m.training) for m in model.modules()], [p.requires_grad for p in model.parameters()]
    try:
        with torch.enable_grad():
            yield model.eval().requires_grad_(False)
    finally:
        for part, training in modes:
            part.training = training
        for parameter, state in zip(model.parameters(), asked):
            parameter.requires_grad_(state)
