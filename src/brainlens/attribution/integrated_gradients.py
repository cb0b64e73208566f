"""Integrated gradients along the straight line from a baseline (Sundararajan, Taly and Yan 2017, eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from brainlens.attribution.targets import Score, Tail, check_targets, cosine, slope
from brainlens.types import DataError


def integrated_gradients(
    x: Tensor,
    model: Tail,
    targets: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 32,
    batch: int = 64,
    score: Score = cosine,
) -> Tensor:
    """(x - x0) * integral of ds/dx over x0 + t (x - x0), t in [0, 1], by the midpoint rule: the shape of x.

    x (n, ...), targets (n, d) or (n, k, d), baseline of a shape that expands to x.
    The sum over all units is score(x) - score(x0) up to the rule's error. baseline x0: zeros by default, the mean of
    z-scored data. The cosine is not defined at embedding 0 and turns fastest near it, so the midpoints leave t = 0 out.
    """
    if steps < 1:
        raise DataError(f"integrated gradients: steps={steps} must be at least 1")
    check_targets(len(x), targets)
    base = torch.zeros_like(x) if baseline is None else baseline.to(x).expand_as(x)
    total = torch.zeros_like(x)
    for step in range(steps):
        where = (base + (step + 0.5) / steps * (x - base)).detach()
        for rows in torch.arange(len(x), device=x.device).split(batch):
            total[rows] += slope(model, where[rows], targets[rows], score)
    return total / steps * (x - base).detach()


def input_gradient(x: Tensor, model: Tail, targets: Tensor, *, batch: int = 64, score: Score = cosine) -> Tensor:
    """x * ds/dx, the first-order part of the score: the shape of x; exactly 0 where the score has no slope.

    x (n, ...), targets (n, d) or (n, k, d).
    """
    check_targets(len(x), targets)
    parts = []
    for part, aim in zip(x.detach().split(batch), targets.split(batch)):
        parts.append(part * slope(model, part, aim, score))
    return torch.cat(parts)
