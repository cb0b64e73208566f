"""The learned metric and the ridge path against independent solutions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.covariance import shrunk_covariance
from sklearn.linear_model import Ridge

from brainlens.solvers.canonical import canonical_metric, ridge_path
from brainlens.types import DataError


def pairs(n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6))
    x = y[:, :4] @ rng.normal(size=(4, 5)) + 2 * rng.normal(size=(n, 5))
    return torch.from_numpy(x + 3).float(), torch.from_numpy(y - 1).float()


def test_correlations_against_the_generalised_eigenvalue_problem():
    x, y = pairs()
    found = canonical_metric(x, y, dims=5, shrinkage=1e-9)
    joint = np.cov(x.numpy().T, y.numpy().T, bias=True)
    a, b, c = joint[:5, :5], joint[5:, 5:], joint[:5, 5:]
    squares = scipy.linalg.eigh(c @ np.linalg.inv(b) @ c.T, a, eigvals_only=True)[::-1]
    np.testing.assert_allclose(found.correlations.numpy() ** 2, squares, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [0.02, 0.1])
def test_shrunken_covariances_are_those_of_sklearn(shrinkage):
    x, y = pairs()
    joint = np.cov(x.numpy().T, y.numpy().T, bias=True)
    a, b = (shrunk_covariance(part, shrinkage) for part in (joint[:5, :5], joint[5:, 5:]))
    squares = scipy.linalg.eigh(joint[:5, 5:] @ np.linalg.inv(b) @ joint[5:, :5], a, eigvals_only=True)[::-1]
    assert squares[0] < 0.999**2  # where the library cuts
    found = canonical_metric(x, y, dims=5, shrinkage=shrinkage)
    np.testing.assert_allclose(found.correlations.numpy() ** 2, squares, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [1e-9, 0.3, 0.9])
def test_rescaled_variates_have_their_own_correlation_and_variance(shrinkage):
    x, y = pairs()
    x = x * torch.tensor([9.0, 1.0, 1.0, 0.2, 0.1])  # so that shrinkage changes the variates
    found = canonical_metric(x, y, dims=4, shrinkage=shrinkage, rescale=True)
    u, v = found.prediction(x).numpy(), found.embedding(y).numpy()
    true = np.array([np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(4)])
    np.testing.assert_allclose(found.correlations.numpy(), true, atol=1e-3)
    for side in (u, v):
        np.testing.assert_allclose(side.var(0), true / (1 - true**2), rtol=2e-2)
    if shrinkage < 1e-6:  # nothing to put right
        plain = canonical_metric(x, y, dims=4, shrinkage=shrinkage)
        np.testing.assert_allclose(found.correlations.numpy(), plain.correlations.numpy(), atol=1e-4)


def test_the_dot_product_is_the_bilinear_part_of_the_gaussian_log_ratio():
    x, y = pairs()
    found = canonical_metric(x, y, dims=5, shrinkage=1e-9)
    joint = np.cov(x.numpy().T, y.numpy().T, bias=True)
    xs, ys = x.numpy()[:40] - x.numpy().mean(0), y.numpy()[:40] - y.numpy().mean(0)
    precision = np.linalg.inv(joint)
    expected = -xs @ precision[:5, 5:] @ ys.T  # the cross term of -1/2 (x, y)' P (x, y)
    got = (found.prediction(x[:40]) @ found.embedding(y[:40]).T).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_predicted_leaves_the_metric():
    x, y = pairs()
    noise = torch.randn(len(y), 3, generator=torch.Generator().manual_seed(1)) * 10
    found = canonical_metric(x, torch.cat([y, noise], 1), dims=4)
    assert float((found.embedding.matrix[6:] * 10).abs().max()) < 0.1 * float(found.embedding.matrix[:6].abs().max())


def test_ridge_path_against_sklearn_and_refits():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 7)).astype(np.float32) + 2, rng.normal(size=(40, 3)).astype(np.float32)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    scale = np.square(x - x.mean(0)).sum(1).mean()
    for alpha, decoder, left_out in ridge_path(tx, ty, (0.1, 3.0)):
        truth = Ridge(alpha=alpha * scale).fit(x, y)
        np.testing.assert_allclose(decoder(tx).numpy(), truth.predict(x), atol=1e-4)
        for i in (0, 17):
            rest = np.arange(40) != i
            refit = Ridge(alpha=alpha * scale).fit(x[rest], y[rest])
            np.testing.assert_allclose(left_out[i].numpy(), refit.predict(x[i : i + 1])[0], atol=1e-3)


@pytest.mark.parametrize("shapes, shrinkage", [(((5, 2), (4, 2)), 0.1), (((5, 2), (5, 2)), 0.0)])
def test_bad_input(shapes, shrinkage):
    with pytest.raises(DataError, match="canonical metric"):
        canonical_metric(torch.randn(shapes[0]), torch.randn(shapes[1]), dims=2, shrinkage=shrinkage)
