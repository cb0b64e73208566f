"""Linear decoders solved in the sample space, and whitening by the covariance of their leave-one-out residuals.

With far fewer images (n) than voxels (V), one (n, n) kernel and one Cholesky factor per penalty cost n^2 V + n^3 / 3
products, where the voxel space would cost V^3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearDecoder:
    """z = (x - mean) @ weights + intercept, with mean (V,), weights (V, d), intercept (d,)."""

    mean: Tensor
    weights: Tensor
    intercept: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x.to(self.weights.dtype) - self.mean) @ self.weights + self.intercept


@dataclass(frozen=True)
class KernelRidge:
    """A ridge decoder with the penalty that was chosen, its validation score, and its leave-one-out predictions (n, d)."""

    decoder: LinearDecoder
    alpha: float
    score: float
    left_out: Tensor


def kernel_ridge(
    x: Tensor,
    targets: Sequence[Tensor],
    alphas: Sequence[float],
    *,
    validation: Tensor,
    scores: Sequence[Callable[[Tensor], float]],
) -> list[KernelRidge]:
    """Ridge in its dual form, one fit a target, each penalty chosen by a score of the validation predictions (higher is better).

    With centred X (n, V) and Y (n, d), K = X X^T and G = (K + alpha I)^-1 the dual weights are A = G Y, predictions
    are x X^T A, and the leave-one-out residual of row i is A_i / G_ii, exactly and without refitting. `alphas` are
    in units of the mean diagonal of K, so that one grid serves every scale of the data. All targets share the kernel and
    one Cholesky factor a penalty.
    """
    if not len(alphas):
        raise ValueError("kernel_ridge: alphas is empty; give at least one penalty")
    xc, mean = centred(x)
    parts = [centred(y) for y in targets]
    yc, centres = torch.cat([rows for rows, _ in parts], 1).double(), [c for _, c in parts]
    widths = [y.shape[1] for y in targets]
    kernel = (xc @ xc.T).double()
    across = ((validation - mean) @ xc.T).double()
    scale = kernel.diagonal().mean().item()
    best: list[tuple[float, float, Tensor] | None] = [None] * len(targets)
    for alpha in alphas:
        duals = torch.cholesky_solve(yc, _factor(kernel, alpha * scale)).split(widths, 1)
        for k, (dual, centre) in enumerate(zip(duals, centres, strict=True)):
            reached = scores[k]((across @ dual).to(x.dtype) + centre)
            held = best[k]
            if held is None or reached > held[0]:
                best[k] = (reached, alpha, dual.clone())
    fits = []
    for held, centre, block in zip(best, centres, yc.split(widths, 1), strict=True):
        assert held is not None
        reached, alpha, dual = held
        inverse = torch.cholesky_inverse(_factor(kernel, alpha * scale)).diagonal()
        left_out = (block - dual / inverse[:, None]).to(x.dtype) + centre
        fits.append(KernelRidge(LinearDecoder(mean, xc.T @ dual.to(x.dtype), centre), float(alpha), reached, left_out))
    return fits


def moves(x: Tensor) -> Tensor:
    """Which columns of x (n, V) change from row to row by more than the rounding of float32: (V,) bool."""
    low, high = x.amin(0), x.amax(0)
    return high - low > 1e-6 * torch.maximum(low.abs(), high.abs())


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (n, V) less its mean, and the mean (V,); exactly 0 where x never changes, for a mean of many rows is rounded."""
    mean = x.mean(0)
    return (x - mean) * moves(x), mean


def _factor(kernel: Tensor, alpha: float) -> Tensor:
    damped = kernel.clone()
    damped.diagonal().add_(alpha)
    return torch.linalg.cholesky(damped)


@dataclass(frozen=True)
class WhitenedMetric:
    """Whitening by the covariance of the leave-one-out residuals: query -> q @ root, gallery -> (g @ forward + shift) @ root."""

    root: Tensor
    forward: Tensor
    shift: Tensor

    def query(self, predicted: Tensor) -> Tensor:
        """Predictions (n, d) in the whitened space."""
        return predicted @ self.root

    def gallery(self, embedding: Tensor) -> Tensor:
        """Embeddings (m, d), first shrunk as the decoder shrinks them, in the whitened space."""
        return (embedding @ self.forward + self.shift) @ self.root


def whitened_metric(predicted: Tensor, target: Tensor, *, shrinkage: float = 0.05) -> WhitenedMetric:
    """The metric of linear discriminant analysis for a decoder's out-of-sample predictions.

    Predictions are modelled as P = Y B + b + E with errors E of covariance S; distances are then measured with
    S^-1. `predicted` (n, d) must be out of sample (leave-one-out), else S is too small. S is shrunk towards its
    mean diagonal by `shrinkage`.
    """
    (yc, ym), (pc, pm) = centred(target), centred(predicted)
    yc, pc = yc.double(), pc.double()
    d = yc.shape[1]
    identity = torch.eye(d, dtype=torch.float64)
    ridge = 1e-6 * yc.square().sum() / d
    forward = torch.linalg.solve(yc.T @ yc + ridge * identity, yc.T @ pc)
    error = pc - yc @ forward
    covariance = error.T @ error / len(error)
    covariance = (1 - shrinkage) * covariance + shrinkage * covariance.diagonal().mean() * identity
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors / values.sqrt()) @ vectors.T
    shift = pm.double() - ym.double() @ forward
    dtype = predicted.dtype
    return WhitenedMetric(root.to(dtype), forward.to(dtype), shift.to(dtype))


def principal_axes(x: Tensor, count: int, *, generator: torch.Generator, rounds: int = 4) -> tuple[Tensor, Tensor]:
    """Leading principal axes of centred rows: (V, k) axes scaled so that each component has variance 1, and (k,) scales.

    Randomised subspace iteration on the centred data (Halko, Martinsson and Tropp 2011, algorithm 4.4): exact to
    rounding where the spectrum falls, and the same to the bit for the same generator. Components without variance (fewer
    voxels that change than components, images shown twice) are left out: scaled to variance 1 they would be rounding alone.
    """
    n, there = len(x), moves(x)
    x = x * there
    count = min(count, n - 1, x.shape[1])
    wide = min(count + 32, n, x.shape[1])
    basis = torch.linalg.qr(x.T @ torch.randn(n, wide, generator=generator, dtype=x.dtype))[0]
    for _ in range(rounds):
        basis = torch.linalg.qr(x.T @ (x @ basis))[0]
    _, scales, rotation = torch.linalg.svd(x @ basis, full_matrices=False)
    count = min(count, max(1, int((scales > 1e-5 * scales[0]).sum())))
    scales = scales[:count] / n**0.5
    return (basis @ rotation[:count].T) * there[:, None] / scales.clamp_min(torch.finfo(x.dtype).tiny), scales
