"""Which channels at which times carried a decision: gradient x input, integrated gradients, DeepLIFT (rescale rule).

All take a function of recordings (n, channel, time) and return contributions of that shape. A contribution is a property of
the decoder: filters that cancel noise get gradients where there is no signal, and the mean over trials of signed
contributions to the right answer is what can be compared with a true topography (NeuroAlign A.3.7 and Fig. 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.attribution.targets import NOTHING
from brainlens.types import DataError

Score = Callable[[Tensor], Tensor]  # (n, channel, time) -> (n,)
METHODS = ("gradient_x_input", "integrated_gradients")


def similarity_score(embed: Callable[[Tensor], Tensor], target: Tensor, *, against: Tensor | None = None) -> Score:
    """cos(embed(x_i), target_i), less the mean cosine with the gallery `against` (m, d): what sets the right item apart.

    The norm of the embedding counts as a constant: a cosine does not change with the size of the embedding, so its gradient
    has no part along the input, and gradient x input would explain nothing where the input does all the work.
    """
    target = F.normalize(target, dim=-1)
    others = None if against is None else F.normalize(against, dim=-1).mean(0)

    def score(x: Tensor) -> Tensor:
        e = embed(x)
        e = e / e.detach().norm(dim=-1, keepdim=True).clamp_min(1e-12)
        right = (e * target.repeat(len(e) // len(target), 1)).sum(-1)
        return right if others is None else right - e @ others

    return score


def gradient_x_input(score: Score, x: Tensor) -> Tensor:
    """x ds/dx, (n, channel, time)."""
    x = x.detach().requires_grad_()
    return (x * _gradient(score, x)).detach()


def integrated_gradients(score: Score, x: Tensor, *, baseline: Tensor | None = None, steps: int = 32) -> Tensor:
    """(x - b) mean_k ds/dx at b + (k - 1/2)/steps (x - b); sums to s(x) - s(b) as steps grow (Sundararajan et al. 2017).

    x (n, channel, time) -> the same shape; baseline: of a shape that expands to it.
    baseline: zeros where absent. Raises DataError for steps < 1.
    """
    if steps < 1:
        raise DataError(f"integrated gradients: steps {steps} must be at least 1")
    start = torch.zeros_like(x) if baseline is None else baseline.expand_as(x)
    total = torch.zeros_like(x)
    for k in range(steps):
        point = (start + (k + 0.5) / steps * (x - start)).detach().requires_grad_()
        total += _gradient(score, point)
    return ((x - start) * total / steps).detach()


def deeplift(layers: Iterable[nn.Module], x: Tensor, direction: Tensor, *, baseline: Tensor | None = None) -> Tensor:
    """DeepLIFT with the rescale rule for a chain of affine and elementwise layers: contributions (n, channel, time).

    The multiplier of an elementwise layer is (f(a) - f(a0)) / (a - a0) in place of f'(a), with a0 its input for the
    baseline (zeros), so contributions sum to <direction, y(x) - y(baseline)> exactly. direction (n, d) is what the flattened
    output is projected on. Layers run in their present mode: call eval() before. Source: Shrikumar et al. 2017.
    """
    start = torch.zeros_like(x) if baseline is None else baseline.expand_as(x).clone()
    x = x.detach().requires_grad_()
    y, reference = x, start.detach()
    for layer in layers:
        with torch.no_grad():
            after = layer(reference)
        elementwise = isinstance(layer, (nn.ELU, nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU))
        y = _Rescale.apply(y, layer(y.detach()), reference, after) if elementwise else layer(y)
        reference = after
    (gradient,) = torch.autograd.grad((y.flatten(1) * direction).sum(), x)
    return ((x - start) * gradient).detach()


class _Rescale(torch.autograd.Function):
    """Passes f(a) on, and the gradient back times (f(a) - f(a0)) / (a - a0); times the mean slope where a = a0."""

    @staticmethod
    def forward(ctx: object, a: Tensor, value: Tensor, a0: Tensor, value0: Tensor) -> Tensor:  # type: ignore[override]
        step = a - a0
        small = step.abs() < 1e-6
        ctx.multiplier = torch.where(small, torch.ones_like(a), (value - value0) / torch.where(small, torch.ones_like(a), step))  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return grad * ctx.multiplier, None, None, None  # type: ignore[attr-defined]


def contributions(
    score: Callable[[slice], Score], data: np.ndarray, *, method: str = "gradient_x_input", block: int = 50, device: str = "cpu"
) -> np.ndarray:
    """Mean over trials of the contributions, (channel, time) float64, `block` trials at a time.

    score(rows) gives the score function of those trials (each has its own target). Raises DataError for an unknown method, and
    where all contributions are below 1e-12 of the score, which is rounding.
    """
    if method not in METHODS:
        raise DataError(f"method {method!r} is not one of {list(METHODS)}; deeplift takes layers and is called directly")
    ways = {"gradient_x_input": gradient_x_input, "integrated_gradients": integrated_gradients}
    total = np.zeros(data.shape[1:])
    for start in range(0, len(data), block):
        rows = slice(start, min(start + block, len(data)))
        x = torch.as_tensor(np.asarray(data[rows], dtype=np.float32)).to(device)
        total += ways[method](score(rows), x).sum(0).double().cpu().numpy()
    if np.abs(total).max() <= NOTHING * len(data):
        raise DataError(f"{method}: no channel moves the score, all contributions are rounding; is the decoder trained?")
    return total / len(data)


def channel_share(mean: np.ndarray, *, mask: np.ndarray | None = None) -> np.ndarray:
    """Share of each channel in the contributions (channel, time) of some times: its positive sum over time, summing to 1.

    Raises DataError if nothing contributes.
    """
    part = mean if mask is None else mean[:, mask]
    share = np.maximum(part.sum(axis=1), 0)
    if share.sum() <= 0:
        raise DataError("no channel contributes to the right answer in these times; is the decoder above chance?")
    return share / share.sum()


def _gradient(score: Score, x: Tensor) -> Tensor:
    values = score(x)
    if values.shape != (len(x),):
        raise DataError(f"the score must be (trial,), got {tuple(values.shape)} for {len(x)} trials")
    return torch.autograd.grad(values.sum(), x)[0]
