"""What never changes in training gets weight 0 from every solver, exactly, whatever its value and the draw of the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from brainlens.metrics.timecourse import ridge_fit
from brainlens.models.sensors.moments import moments
from brainlens.solvers.canonical import canonical_metric, ridge_path
from brainlens.solvers.kernel_ridge import kernel_ridge, principal_axes, whitened_metric
from brainlens.solvers.ridge import ridge_cv

SEEDS = 40
Solver = Callable[[np.ndarray, np.ndarray], np.ndarray]


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows, target = torch.from_numpy(x), torch.from_numpy(y)
    (fit,) = kernel_ridge(rows, [target], [1e-2], validation=rows, scores=[lambda p: 0.0])
    return fit.decoder.weights.numpy()


def path(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    _, decoder, _ = next(ridge_path(torch.from_numpy(x), torch.from_numpy(y), [1e-2]))
    return decoder.weights.numpy()


def of_moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return moments(x[:, :, None], np.arange(len(x)), y, 1).solve(1e-2)


def canonical(rescale: bool, side: str) -> Solver:
    def solve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        pair = (x, y) if side == "prediction" else (y, x)
        dims = min(x.shape[1], y.shape[1])
        found = canonical_metric(*(torch.from_numpy(a) for a in pair), dims=dims, shrinkage=0.01, rescale=rescale)
        matrix = getattr(found, side).matrix
        assert torch.isfinite(matrix).all()
        return matrix.numpy()

    return solve


SOLVERS: dict[str, Solver] = {
    "ridge_cv": lambda x, y: ridge_cv(x, y, [1e-2, 1.0]).weights.numpy(),
    "kernel_ridge": kernel,
    "ridge_path": path,
    "moments": of_moments,
    "ridge_fit": lambda x, y: ridge_fit(x, y, penalty=1e-2)[0],
    "principal_axes": lambda x, y: principal_axes(
        torch.from_numpy(x - x.mean(0)), 500, generator=torch.Generator().manual_seed(0)
    )[0].numpy(),
    "whitened_metric": lambda x, y: whitened_metric(torch.from_numpy(y), torch.from_numpy(x)).forward.numpy(),
    "canonical, predictions": canonical(False, "prediction"),
    "canonical, embeddings": canonical(False, "embedding"),
    "canonical rescaled, predictions": canonical(True, "prediction"),
    "canonical rescaled, embeddings": canonical(True, "embedding"),
}


@pytest.mark.parametrize("n", [50, 9])  # more rows than columns, and fewer
@pytest.mark.parametrize("value", [0.1, 1000.0])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_constant_column_has_weight_0(name, value, n):
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 12)).astype(np.float32) + 1
        y = (x @ rng.normal(size=(12, 12)) + rng.normal(size=(n, 12))).astype(np.float32)
        x[:, 4] = value
        weights = SOLVERS[name](x, y)
        assert weights.shape[0] == 12
        assert not weights[4].any(), seed
        assert np.abs(weights).max() < 1e3, seed  # nothing but rounding is scaled up


@pytest.mark.parametrize("n", [50, 9])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_constant_column_of_doubles_has_weight_0_although_its_mean_is_rounded(name, n):
    drawn = torch.from_numpy(np.random.default_rng(0).normal(size=40))
    values = [value for value in drawn if value.repeat(n).mean() != value]
    assert len(values) > 10
    for seed, value in enumerate(values[:10]):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 12)) + 1
        y = x @ rng.normal(size=(12, 12)) + rng.normal(size=(n, 12))
        x[:, 4] = float(value)
        weights = SOLVERS[name](x, y)
        assert not weights[4].any(), seed
        assert np.abs(weights).max() < 1e3, seed


@pytest.mark.parametrize("name", ["ridge_cv", "kernel_ridge", "ridge_path"])  # the others' penalty counts the columns
def test_a_constant_column_leaves_the_others_as_without_it(name):
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(30, 8)).astype(np.float32)
        y = (x @ rng.normal(size=(8, 3)) + rng.normal(size=(30, 3))).astype(np.float32)
        x[:, 4] = 1000.1
        others = np.arange(8) != 4
        np.testing.assert_allclose(SOLVERS[name](x, y)[others], SOLVERS[name](x[:, others], y), rtol=1e-3, atol=1e-4)
