"""Information bottleneck attribution: how many bits of every token must pass for the target to stay recognisable.

Features X of one layer pass through Z = lambda X + (1 - lambda) eps, eps ~ N(m, v s^2), lambda = sigmoid(alpha), with m and s
the mean and standard deviation of the features over a reference set. For every sample

    L(alpha) = beta mean_{token, channel} KL - mean_copies sum_k cos(tail(Z), e_k)
    KL = (lambda^2 r^2 + (1 - lambda)^2 - 1) / 2 - log(1 - lambda),    r = (X - m) / (s sqrt(v))

is brought down by Adam, and the map is KL in bits, summed over channels. ("Bridging Vision, Language, and Brain",
section 4.2, eq. 8 and 9, after M2IB and IBA.) 1 - lambda is 0 in single precision from alpha = 17 on, so it is
never formed by subtraction: log(1 - lambda) = -softplus(alpha), 1 - lambda = sigmoid(-alpha).

What makes it fast changes no number: only the layers behind the bottleneck run, on cached features; nothing but Z
receives a gradient; KL and its gradient are written out; many samples share a batch, with the same noise for all of them,
so that a map does not depend on which samples it was computed with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens.attribution.targets import Score, Tail, check_targets, cosine
from brainlens.types import DataError


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (token, channel) of a layer's features over `n` reference samples."""

    mean: Tensor
    std: Tensor
    n: int


@dataclass(frozen=True)
class Bottleneck:
    """Settings of the optimisation; beta, rate, steps, copies and start are the paper's.

    variance: of the noise in units of the features' own variance (the paper's .1 is never used by the code that it cites).
    read: "before" takes the map before the last update, as M2IB does, so that the last update never needs to be computed;
    "after" uses every step.
    antithetic: copies come in pairs of opposite noise.
    """

    beta: float = 0.1
    variance: float = 1.0
    lr: float = 1.0
    steps: int = 20
    copies: int = 10
    start: float = 5.0
    read: str = "before"
    antithetic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("variance", "lr", "steps", "copies"):
            if not getattr(self, name) > 0:
                raise DataError(f"bottleneck: {name}={getattr(self, name)} must be above 0")
        if self.beta < 0:
            raise DataError(f"bottleneck: beta={self.beta} must not be negative")
        if self.read not in ("before", "after"):
            raise DataError(f"bottleneck: read={self.read!r} is not one of ('before', 'after')")
        if self.antithetic and self.copies % 2:
            raise DataError(f"bottleneck: antithetic noise comes in pairs, copies={self.copies} is odd")


def statistics(batches: Iterable[Tensor], *, min_std: float = 0.01) -> Statistics:
    """Mean and standard deviation of features (n, token, channel) given in batches, in double precision.

    min_std is the floor of the standard deviation, as in IBA. Raises DataError for fewer than 2 samples.
    """
    n, mean, m2 = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        rows = batch.detach().double()
        size = len(rows)
        own = rows.mean(0)
        if n == 0:
            mean, m2 = torch.zeros_like(own), torch.zeros_like(own)
        gap = own - mean
        m2 = m2 + ((rows - own) ** 2).sum(0) + gap**2 * (n * size / (n + size))
        mean = mean + gap * (size / (n + size))
        n += size
    if n < 2:
        raise DataError(f"bottleneck: statistics need at least 2 reference samples, got {n}")
    std = (m2 / (n - 1)).sqrt().clamp_min(min_std)
    return Statistics(mean.float(), std.float(), n)


def divergence(alpha: Tensor, r2: Tensor) -> Tensor:
    """KL(p(z|x) || q(z)) in nats of every element, from alpha and r^2; finite for every finite alpha. Any shape, one for all."""
    keep, noise = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return 0.5 * (keep**2 * r2 + noise**2 - 1) + F.softplus(alpha)


def divergence_slope(alpha: Tensor, r2: Tensor) -> Tensor:
    """d KL / d alpha = lambda (1 - lambda) (lambda r^2 - (1 - lambda)) + lambda. Any shape, one for all."""
    keep, noise = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return keep * noise * (keep * r2 - noise) + keep


def bottleneck(
    tokens: Tensor,
    tail: Tail,
    targets: Tensor,
    *,
    reference: Statistics | None = None,
    settings: Bottleneck | None = None,
    batch: int = 4,
    score: Score = cosine,
) -> Tensor:
    """Bits that every token must carry: tokens (B, T, D) -> maps (B, T).

    tail: tokens (n, T, D) -> embeddings (n, d), deterministic and differentiable, one row at a time independent of the others.
    targets (B, d) or (B, k, d): the embeddings to stay close to (image and text: k = 2). reference: statistics of the
    features (see `statistics`); None uses mean 0 and variance 1, which is M2IB's way and lets the size of the features decide.
    batch: samples optimised together; it changes memory and speed, not the maps. score: of embeddings and targets.

    Raises DataError for shapes that do not match and for features or embeddings that are not finite.
    """
    settings = Bottleneck() if settings is None else settings
    if tokens.ndim != 3:
        raise DataError(f"bottleneck: tokens {tuple(tokens.shape)} are not (sample, token, channel)")
    check_targets(len(tokens), targets)
    mean, scale = _reference(tokens, reference, settings)
    if not torch.isfinite(tokens).all():
        raise DataError("bottleneck: the features hold NaN or infinity")
    parts = zip(tokens.detach().split(batch), targets.detach().split(batch))
    return torch.cat([_optimise(x, lambda z, e: score(tail(z), e), aim, (mean, scale), settings) for x, aim in parts])


def _reference(tokens: Tensor, reference: Statistics | None, settings: Bottleneck) -> tuple[Tensor, Tensor]:
    if reference is None:
        return tokens.new_zeros(tokens.shape[1:]), tokens.new_full(tokens.shape[1:], math.sqrt(settings.variance))
    if reference.mean.shape != tokens.shape[1:]:
        raise DataError(
            f"bottleneck: statistics {tuple(reference.mean.shape)} are not of features {tuple(tokens.shape[1:])}; "
            "estimate them at the same layer"
        )
    return reference.mean.to(tokens), reference.std.to(tokens) * math.sqrt(settings.variance)


def _optimise(x: Tensor, score: Score, targets: Tensor, noise_of: tuple[Tensor, Tensor], settings: Bottleneck) -> Tensor:
    count, shape, (mean, scale) = settings.copies, x.shape, noise_of
    r2 = ((x - mean) / scale) ** 2
    alpha = torch.full_like(x, settings.start)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    weight = settings.beta / (shape[1] * shape[2])
    copied = targets.repeat_interleave(count, 0)
    generator = torch.Generator(x.device).manual_seed(settings.seed)
    for step in range(1, settings.steps + (settings.read == "after")):
        noise = mean + scale * draw(generator, settings, x)
        keep = torch.sigmoid(alpha)
        spread = torch.sigmoid(-alpha)
        z = torch.addcmul((keep * x)[:, None], spread[:, None], noise).flatten(0, 1).requires_grad_()
        loss = -score(z, copied).sum() / count
        (slope,) = torch.autograd.grad(loss, z)
        slope = slope.view(shape[0], count, *shape[1:])
        gradient = (slope.sum(1) * x - (slope * noise).sum(1)) * keep * spread
        gradient += weight * divergence_slope(alpha, r2)
        _adam(alpha, gradient, first, second, step, settings.lr)
    if not torch.isfinite(alpha).all():
        raise DataError("bottleneck: the loss is NaN or infinite; the tail's embeddings hold NaN or infinity")
    return divergence(alpha, r2).sum(-1) / math.log(2)


def draw(generator: torch.Generator, settings: Bottleneck, like: Tensor) -> Tensor:
    """Standard normal noise of one step (copies, token, channel), the same for every sample."""
    count = settings.copies // 2 if settings.antithetic else settings.copies
    noise = torch.randn((count, *like.shape[1:]), generator=generator, device=like.device, dtype=like.dtype)
    return torch.cat([noise, -noise]) if settings.antithetic else noise


def _adam(alpha: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, lr: float) -> None:
    """Adam (Kingma and Ba 2015) with its usual constants, in place; elementwise, so samples do not mix."""
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    denominator = (second.sqrt() / math.sqrt(1 - 0.999**step)).add_(1e-8)
    alpha.addcdiv_(first, denominator, value=-lr / (1 - 0.9**step))
