"""Ridge regression for many targets, the penalty of each target chosen by grouped cross-validation.

    w_v = argmin |y_v - X w|^2 + a_v |w|^2 = V diag(s / (s^2 + a_v)) U^T y_v,     X = U diag(s) V^T (centred)

Where the time goes, for n rows, p features, t targets, k folds of m rows and A penalties. The usual solver multiplies
[A, m, n] hat matrices with the targets in every fold: k A m n t. Here the features are rotated once to X V = U s
(r = min(n, p) columns, so wide features need no form of their own), U^T y is computed once by blocks of rows (n r t)
and every fold takes its training part by subtraction; in a fold the predictions of all penalties are
(X_val E) diag(1 / (l + a)) E^T (s * U_train^T y), with E, l the eigenvectors of the fold's r x r Gram matrix. The A
diagonals are smooth functions of l, so R <= A of their combinations give all of them to rounding (10 of 10, but 14 of
100 penalties), which leaves n r t + k (r r t + R m r t) + p r t: at n = 1500, p = 256, k = 5, A = 10 a quarter of the
multiplications (19e9 of 74e9), and hardly more at 100 penalties. What limits it is the product R m r t, which runs at the
speed of the matrix library. Small matrices are float64, products with the targets float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brainlens.types import DataError

_RANK = 1e-12  # eigenvalues of a Gram matrix below this share of the largest are rounding
_TOLERANCE = 1e-6  # error of a combined penalty's prediction, in standard deviations of the target


@dataclass(frozen=True)
class RidgeFit:
    """weights (feature, target), intercept (target,), alpha (target,) the chosen penalty, cv_score (target,) its score,
    cv_scores (alpha, target) the score of every penalty, mean over folds."""

    weights: Tensor
    intercept: Tensor
    alpha: Tensor
    cv_score: Tensor
    cv_scores: Tensor


@dataclass(frozen=True)
class _Rotated:
    """X = mean + (U * s) V^T with U (n, r) orthonormal, float64."""

    left: Tensor
    s: Tensor
    right: Tensor
    mean: Tensor


def fold_labels(n: int, *, groups: Sequence[object] | np.ndarray | None = None, folds: int | None = 5) -> np.ndarray:
    """The fold of each of n rows: (n,) int. Rows of one group (an image, a run) are never split.

    Groups, or rows without groups, are cut into `folds` consecutive blocks, as scikit-learn's KFold does;
    folds=None gives every group a fold of its own. Raises DataError for fewer groups than folds.
    """
    if groups is None:
        number, count = np.arange(n), n
    else:
        listed = list(groups)
        if len(listed) != n:
            raise DataError(f"groups has {len(listed)} entries but there are {n} rows")
        order = {name: i for i, name in enumerate(dict.fromkeys(listed))}
        number, count = np.array([order[name] for name in listed]), len(order)
    chosen = count if folds is None else folds
    if not 2 <= chosen <= count:
        raise DataError(f"cannot cut {count} groups into {chosen} folds; folds lies between 2 and the number of groups")
    sizes = np.full(chosen, count // chosen)
    sizes[: count % chosen] += 1
    return np.repeat(np.arange(chosen), sizes)[number]


def ridge_cv(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    alphas: Sequence[float] | np.ndarray,
    *,
    fold: np.ndarray | None = None,
    score: str = "mse",
    batch: int = 256,
    fit_intercept: bool = True,
    device: str | torch.device = "cpu",
) -> RidgeFit:
    """Ridge of y (n, target) on x (n, feature), one penalty per target by cross-validation.

    score "mse": minus the mean squared validation error; "r2": validation R2 against the fold's own mean; both are
    averaged over folds. `fold` (n,) labels come from `fold_labels` (default: 5 consecutive blocks). Targets go in
    batches, so y may be a memory map. Rows are centred within each fold's training part when fit_intercept.
    Raises DataError on NaN, rows that do not match and penalties that are not positive.
    """
    inputs, penalties, labels = _checked(x, y, alphas, fold, score)
    rotated = _rotate(inputs.to(device), fit_intercept)
    penalties = penalties.to(device)
    problems = [_Fold(rotated, torch.from_numpy(labels == k).to(device), penalties, fit_intercept) for k in np.unique(labels)]
    s, right, centre = rotated.s[:, None], rotated.right.float(), rotated.mean.float()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, y.shape[1], batch):
        target = _tensor(y[:, start : start + batch]).to(device, torch.float32)
        if not torch.isfinite(target).all():
            raise DataError(f"ridge: targets {start} to {start + target.shape[1]} hold NaN or infinity; clean() drops such units")
        mean = target.mean(0) if fit_intercept else target.new_zeros(target.shape[1])
        centred = target - mean
        total, losses = _cross_validate(rotated, problems, centred, score)
        best = losses.argmax(0)
        weights = right @ ((s / (s**2 + penalties[best])).float() * total)
        parts.append((torch.cat([weights, (mean - centre @ weights)[None]]).cpu(), best.cpu(), losses.cpu()))
    solved, chosen, scores = (torch.cat([part[i] for part in parts], dim=-1) for i in range(3))
    best_score = scores.gather(0, chosen[None])[0]
    return RidgeFit(solved[:-1], solved[-1], penalties.cpu()[chosen].float(), best_score, scores)


def ridge_predict(fit: RidgeFit, x: Tensor | np.ndarray) -> Tensor:
    """X w + b: (n, feature) -> (n, target). Raises DataError when the number of features differs from the fit's."""
    inputs = _tensor(x).to(fit.weights.device, fit.weights.dtype)
    if inputs.ndim != 2 or inputs.shape[1] != fit.weights.shape[0]:
        raise DataError(f"ridge: expected (n, {fit.weights.shape[0]}) features, got {tuple(inputs.shape)}")
    return torch.addmm(fit.intercept, inputs, fit.weights)


def ridge_left_out(fit: RidgeFit, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Tensor:
    """What each row would have been predicted without it, at the penalties of a fit to these rows: (n, target) float32.

        y_i - (y_i - f(x_i)) / (1 - h_i),     h_i = 1 / n + sum_k u_ik^2 s_k^2 / (s_k^2 + alpha),     X - mean = U diag(s) V'

    x (n, feature), y (n, target); the fit has an intercept. Exact, without refitting.
    """
    inputs, target = _tensor(x).float(), _tensor(y).float()
    rotated = _rotate(inputs, True)
    squares, size = rotated.left**2, rotated.s**2
    found = ridge_predict(fit, inputs)
    for alpha in fit.alpha.unique():
        own = fit.alpha == alpha
        leverage = squares @ (size / (size + alpha.to(size))) + 1 / len(inputs)
        rest = (1 - leverage).clamp_min(1e-6).float()[:, None]
        found[:, own] = target[:, own] - (target[:, own] - found[:, own]) / rest
    return found


class _Fold:
    """What a fold needs of the features: everything here is independent of the targets."""

    def __init__(self, rotated: _Rotated, held: Tensor, penalties: Tensor, fit_intercept: bool) -> None:
        left, s = rotated.left, rotated.s
        self.held = held.nonzero()[:, 0]
        n_train, n_held = int((~held).sum()), len(self.held)
        self.n_train = n_train
        self.left = left[self.held].float()
        train = left[~held]
        self.left_mean = train.mean(0) if fit_intercept else torch.zeros_like(s)
        gram = s[:, None] * (train.T @ train - n_train * torch.outer(self.left_mean, self.left_mean)) * s
        values, vectors = torch.linalg.eigh(gram)
        keep = values > _RANK * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
        values, vectors = values[keep], vectors[:, keep]
        readout = ((left[self.held] - self.left_mean) * s) @ vectors  # X_val E
        self.into = (vectors.T * s).float()  # E^T s
        mixture, basis = _combine(values, readout, penalties, n_held / n_train)
        self.readout = (basis[:, None, :] * readout).flatten(0, 1).float()  # [R m, q]
        # residual of penalty a = 1 * y - sum_r mixture_ar * prediction_r
        self.mixture = torch.cat([-mixture, torch.ones_like(mixture[:, :1])], dim=1).float()
        self.left_mean = self.left_mean.float()

    def errors(self, total: Tensor, own: Tensor, target: Tensor) -> Tensor:
        """Sum of squared validation errors of every penalty: (alpha, target)."""
        held = target[self.held]
        train_mean = -held.sum(0) / self.n_train  # the targets sum to zero over all rows
        cross = total - own
        if self.left_mean.any():
            cross = cross - self.n_train * torch.outer(self.left_mean, train_mean)
            held = held - train_mean
        stack = torch.empty((self.mixture.shape[1], *held.shape), dtype=held.dtype, device=held.device)
        torch.mm(self.readout, self.into @ cross, out=stack[:-1].view(-1, held.shape[1]))
        stack[-1] = held
        residual = (self.mixture @ stack.flatten(1)).view(-1, *held.shape)
        return residual.square_().sum(1)


def _cross_validate(rotated: _Rotated, problems: list[_Fold], target: Tensor, score: str) -> tuple[Tensor, Tensor]:
    """U^T y over all rows (r, target), and the mean score over folds (alpha, target)."""
    parts = [problem.left.T @ target[problem.held] for problem in problems]
    total = torch.stack(parts).sum(0)
    losses = torch.zeros((), device=target.device)
    for problem, own in zip(problems, parts, strict=True):
        error = problem.errors(total, own, target)
        held = target[problem.held]
        scale = len(held) if score == "mse" else (held - held.mean(0)).square().sum(0)
        losses = losses + ((-error / scale) if score == "mse" else 1 - error / scale)
    return total, losses / len(problems)


def _combine(values: Tensor, readout: Tensor, penalties: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """1 / (l_q + a) as a product mixture (A, R) @ basis (R, q), with the fewest R that keep predictions to rounding.

    An error e_q in 1 / (l_q + a) moves the predictions by at most |M_q| sqrt(l_q) e_q |y|; the decomposition is taken
    in these units, so that what no prediction can feel is not kept.
    """
    filters = 1 / (values + penalties[:, None])
    weight = readout.norm(dim=0) * values.sqrt()
    weight = weight.clamp_min(1e-9 * weight.max().clamp_min(torch.finfo(weight.dtype).tiny))
    u, s, v = torch.linalg.svd(filters * weight, full_matrices=False)
    rest = (u * s).square().flip(1).cumsum(1).flip(1).sqrt().amax(0)  # error when components from here on are dropped
    rank = max(1, int((rest > _TOLERANCE * share**0.5).sum()))
    return u[:, :rank] * s[:rank], v[:rank] / weight


def _rotate(x: Tensor, fit_intercept: bool) -> _Rotated:
    """Thin singular value decomposition of centred x through the smaller Gram matrix."""
    mean = x.mean(0) if fit_intercept else torch.zeros_like(x[0])
    # less its mean, a feature that never changes is rounding and not 0, and must get no weight
    moves = x.amax(0) > x.amin(0) if fit_intercept else torch.ones_like(x[0], dtype=torch.bool)
    centred = (x - mean) * moves
    tall = x.shape[0] >= x.shape[1]
    values, vectors = torch.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    keep = values > _RANK * values[-1]
    if not keep.any():
        raise DataError("ridge: every feature is constant over the rows; there is nothing to regress on")
    s, vectors = values[keep].sqrt(), vectors[:, keep]
    if tall:
        return _Rotated(centred @ vectors / s, s, vectors * moves[:, None], mean)
    return _Rotated(vectors, s, centred.T @ vectors / s, mean)


def _checked(
    x: Tensor | np.ndarray, y: Tensor | np.ndarray, alphas: Sequence[float] | np.ndarray, fold: np.ndarray | None, score: str
) -> tuple[Tensor, Tensor, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise DataError(
            f"ridge needs x (n, feature) and y (n, target) with the same n, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    inputs = _tensor(x).double()
    if not torch.isfinite(inputs).all():
        raise DataError("ridge: features hold NaN or infinity; Features.check_finite() names the image")
    penalties = torch.as_tensor(np.asarray(alphas, dtype=np.float64))
    if penalties.ndim != 1 or not len(penalties) or not bool((penalties > 0).all()):
        raise DataError(f"ridge: alphas must be a list of positive numbers, got {alphas!r}")
    if score not in ("mse", "r2"):
        raise DataError(f"ridge: score {score!r} is not one of 'mse', 'r2'")
    labels = fold_labels(len(x)) if fold is None else np.asarray(fold)
    if labels.shape != (len(x),) or len(np.unique(labels)) < 2:
        raise DataError(f"ridge: fold needs one label per row and at least 2 folds, got shape {labels.shape} for {len(x)} rows")
    return inputs, penalties, labels


def _tensor(x: Tensor | np.ndarray) -> Tensor:
    """A tensor that shares the array's memory, but for arrays that are read only or run backwards, which torch does not take."""
    if isinstance(x, np.ndarray) and not (x.flags.writeable and min(x.strides, default=1) >= 0):
        x = np.array(x, order="C")
    return torch.as_tensor(x)
