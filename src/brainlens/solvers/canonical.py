"""The metric in which brain predictions and embeddings are compared: canonical correlations of out-of-sample predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brainlens.solvers.kernel_ridge import LinearDecoder, centred, moves
from brainlens.types import DataError


@dataclass(frozen=True)
class AffineMap:
    """z = x @ matrix + shift, from (n, d) to (n, k)."""

    matrix: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x.to(self.matrix.dtype) @ self.matrix + self.shift


@dataclass(frozen=True)
class Canonical:
    """Maps of predictions and of embeddings into one space (k dimensions), with the canonical correlations (k,)."""

    prediction: AffineMap
    embedding: AffineMap
    correlations: Tensor

    def first(self, dims: int) -> Canonical:
        """The leading variates alone."""
        one, other = (AffineMap(side.matrix[:, :dims], side.shift[:dims]) for side in (self.prediction, self.embedding))
        return Canonical(one, other, self.correlations[:dims])


def canonical_metric(
    predicted: Tensor, target: Tensor, *, dims: int, shrinkage: float = 1e-3, rescale: bool = False
) -> Canonical:
    """The space in which the dot product is the log likelihood ratio of a match, for jointly Gaussian rows.

    With canonical variates u of predictions and v of embeddings and their correlations r,

        log p(u, v) / (p(u) p(v)) = sum_i [ r_i u_i v_i - r_i^2 (u_i^2 + v_i^2) / 2 ] / (1 - r_i^2) - log(1 - r_i^2) / 2

    so both sides are scaled by sqrt(r_i / (1 - r_i^2)): what cannot be predicted (r = 0) leaves the metric, what is predicted
    well weighs most. The quadratic terms are left to the cosine. It is the optimal critic of a contrastive loss for Gaussian
    pairs, as linear discriminant analysis is for a fixed gallery.

    predicted (n, p) must be out of sample (leave-one-out), target (n, d); the leading `dims` variates are kept. Covariances are
    shrunk towards their mean diagonal by `shrinkage`. With much of it variates no longer have variance 1 and singular values are
    no longer correlations (they can pass 1); rescale=True measures both on the rows.
    Hotelling 1936; Bach and Jordan 2005 for the Gaussian ratio.

    Raises DataError for rows that do not match, or a shrinkage outside (0, 1].
    """
    if predicted.ndim != 2 or target.ndim != 2 or len(predicted) != len(target) or len(target) < 3:
        raise DataError(f"canonical metric: {tuple(predicted.shape)} and {tuple(target.shape)} are not (n, p) and (n, d), n >= 3")
    if not 0 < shrinkage <= 1:
        raise DataError(f"canonical metric: shrinkage {shrinkage} is not in (0, 1]")
    left, right = predicted.double(), target.double()
    a, b = _whitener(left, shrinkage), _whitener(right, shrinkage)
    left_mean, right_mean = left.mean(0), right.mean(0)
    cross = (left - left_mean).T @ (right - right_mean) / len(left)
    u, r, vt = torch.linalg.svd(a @ cross @ b, full_matrices=False)
    one, other, r = a @ u[:, :dims], b @ vt[:dims].T, r[:dims]
    if rescale:
        x, y = (left - left_mean) @ one, (right - right_mean) @ other
        width, height = (z.square().mean(0).sqrt() for z in (x, y))
        there = (width > 1e-6) & (height > 1e-6)  # in units of the shrunken deviation; below it nothing varies but rounding
        width, height = (torch.where(there, size, torch.inf) for size in (width, height))
        one, other, r = one / width, other / height, (x * y).mean(0) / (width * height)
    one, other = (side * moves(rows)[:, None] for side, rows in ((one, left), (other, right)))
    r = r.clamp(0, 0.999)
    scale = (r / (1 - r.square())).sqrt()
    one, other = one * scale, other * scale
    dtype = predicted.dtype
    return Canonical(
        AffineMap(one.to(dtype), (-left_mean @ one).to(dtype)),
        AffineMap(other.to(dtype), (-right_mean @ other).to(dtype)),
        r.to(dtype),
    )


def _whitener(x: Tensor, shrinkage: float) -> Tensor:
    rows, _ = centred(x)
    covariance = rows.T @ rows / len(x)
    mean = covariance.diagonal().mean()
    covariance = (1 - shrinkage) * covariance
    covariance.diagonal().add_(shrinkage * mean)
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors / values.clamp_min(1e-12 * float(mean)).sqrt()) @ vectors.T


def ridge_path(x: Tensor, y: Tensor, alphas: Sequence[float]) -> Iterator[tuple[float, LinearDecoder, Tensor]]:
    """Ridge for every penalty from one eigendecomposition: (alpha, decoder, leave-one-out predictions (n, d)).

    x (n, r) with few columns, y (n, d). W = (X'X + alpha s I)^-1 X'Y on centred data, s the mean squared length of a row, so that
    alpha is in the units of `kernel_ridge`. Leave-one-out residuals are e_i / (1 - h_ii), with h of X and the intercept.
    """
    (xc, mean), (yc, centre) = centred(x), centred(y)
    values, vectors = torch.linalg.eigh((xc.T @ xc).double())
    values = values.clamp_min(0)
    axes = vectors.to(x.dtype)
    rotated = xc @ axes
    across, scale = rotated.T @ yc, float(values.sum()) / len(x)
    squares = rotated.square()
    for alpha in alphas:
        shrunk = (1 / (values + alpha * scale)).to(x.dtype)
        weights = shrunk[:, None] * across
        leverage = squares @ shrunk + 1 / len(x)
        left_out = y - (yc - rotated @ weights) / (1 - leverage).clamp_min(1e-6)[:, None]
        yield float(alpha), LinearDecoder(mean, (axes @ weights) * moves(x)[:, None], centre), left_out
