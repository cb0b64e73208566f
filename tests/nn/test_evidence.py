"""Evidence of predictions for embeddings: against the densities of scipy and against least squares written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from brainlens.solvers.evidence import Evidence
from brainlens.solvers.ridge import ridge_cv
from brainlens.types import DataError


def world(n: int, *, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, their posterior means (n, d), and the covariance of the errors, which is far from even and along no axis."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    reliable = turn @ np.diag(np.linspace(0.02, 0.98, d)) @ turn.T  # z ~ N(m, 1): p = R z + noise, with cov(p) = R
    z = rng.normal(size=(n, d))
    root = np.linalg.cholesky(reliable - reliable @ reliable)
    p = z @ reliable + rng.normal(size=(n, d)) @ root.T
    return z + 3.0, p + 3.0, np.eye(d) - reliable


def test_the_ratio_is_that_of_the_densities() -> None:
    z, p, errors = world(200_000)
    found = Evidence.fit(p, z, shrinkage=1e-6)
    assert np.allclose(np.linalg.inv(found.after), errors, atol=0.01)
    exact = Evidence(np.full(6, 3.0), np.eye(6), np.linalg.inv(errors))
    for one, other in ((0, 0), (1, 5), (7, 3)):
        after = multivariate_normal(p[one], errors).logpdf(z[other])
        before = multivariate_normal(np.full(6, 3.0), np.eye(6)).logpdf(z[other])
        assert exact.log_ratio(p[one : one + 1], z[other : other + 1])[0, 0] == pytest.approx(after - before, abs=1e-9)


def test_the_cosine_is_that_of_whitened_rows() -> None:
    z, p, _ = world(500)
    found = Evidence.fit(p, z)
    root = np.linalg.cholesky(found.after)
    a, b = (p[:20] - found.mean) @ root, (z[:30] - found.mean) @ root
    plain = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    assert np.allclose(found.cosine(p[:20], z[:30]), plain, atol=1e-12)


def test_what_is_near_a_centre_is_the_minimum_of_the_squares() -> None:
    z, p, _ = world(800)
    found, width = Evidence.fit(p, z), 0.4
    got = found.near(p[:4], z[10:14], width)

    def loss(x: np.ndarray, k: int) -> float:
        from_centre = x - z[10 + k]
        return float(-found.log_ratio(p[k : k + 1], x[None])[0, 0] + from_centre @ found.before @ from_centre / (2 * width**2))

    rng = np.random.default_rng(0)
    for k in range(4):
        least = loss(got[k], k)
        assert all(loss(got[k] + 1e-3 * rng.normal(size=6), k) > least for _ in range(50))
    middle = np.tile(found.mean, (4, 1))
    assert np.allclose(found.near(p[:4], middle, 1.0), p[:4], atol=1e-8)
    assert np.allclose(found.near(p[:4], z[:4], 1e-6), z[:4], atol=1e-6)


def test_more_own_embeddings_are_found_than_by_a_plain_cosine() -> None:
    """Ridge from 60 noisy voxels, 300 new rows. Ten seeds gave .73 to .86 by the evidence and .32 to .42 by plain correlation."""
    rng = np.random.default_rng(3)
    size = np.linspace(4.0, 0.5, 20)
    z = rng.normal(size=(1500, 20)) * size
    mixing = rng.normal(size=(20, 60)) / size[:, None] ** 1.5
    shared = rng.normal(size=(1500, 3)) @ rng.normal(size=(3, 60)) * 8  # noise that voxels share
    x = z @ mixing + shared + rng.normal(size=(1500, 60)) * 5
    fold, alphas, left_out = np.arange(1200) % 4, [0.1, 1, 10, 100, 1000, 1e4], np.empty((1200, 20))
    for k in range(4):
        fit = ridge_cv(x[:1200][fold != k], z[:1200][fold != k], alphas)
        left_out[fold == k] = x[:1200][fold == k] @ fit.weights.numpy() + fit.intercept.numpy()
    fit = ridge_cv(x[:1200], z[:1200], alphas)
    new = x[1200:] @ fit.weights.numpy() + fit.intercept.numpy()
    found = Evidence.fit(left_out, z[:1200])
    rules = found.cosine(new, z[1200:]), found.log_ratio(new, z[1200:]), np.corrcoef(new, z[1200:])[:300, 300:]
    right = [float((rule.argmax(1) == np.arange(300)).mean()) for rule in rules]
    assert min(right[:2]) > right[2] + 0.2


def test_few_pictures_in_many_dimensions_claim_little() -> None:
    """40 pictures, 60 dimensions, predictions of nothing: new rows find their own no better than chance, and nothing is singular.

    Ten seeds gave mean ranks of .47 to .53, and ratios within 2 of 0 where no shrinkage gives hundreds."""
    rng = np.random.default_rng(0)
    z, p = rng.normal(size=(40, 60)), 0.1 * rng.normal(size=(40, 60))
    found = Evidence.fit(p, z)
    new = rng.normal(size=(200, 60))
    ratio = found.log_ratio(0.1 * rng.normal(size=(200, 60)), new)
    assert np.isfinite(ratio).all()
    assert abs(np.median(ratio)) < 5
    assert 0.4 < (ratio.diagonal()[:, None] > ratio).mean() < 0.6


@pytest.mark.parametrize(
    "predicted, target, more, said",
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), {}, r"\(5, 2\) and embeddings \(5, 3\)"),
        (np.zeros((2, 2)), np.ones((2, 2)), {}, "n >= 3"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), {}, "finite"),
        (np.zeros((5, 2)), np.ones((5, 2)), {}, "all embeddings are the same"),
        (np.zeros((5, 2)), np.eye(5)[:, :2], {"shrinkage": 0.0}, "shrinkage 0.0"),
    ],
)
def test_bad_input_is_one_line(predicted: np.ndarray, target: np.ndarray, more: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Evidence.fit(predicted, target, **more)


def test_rows_of_another_width_and_widths_that_cannot_be() -> None:
    z, p, _ = world(50)
    found = Evidence.fit(p, z)
    with pytest.raises(DataError, match=r"should be \(n, 6\)"):
        found.cosine(p[:, :3], z)
    with pytest.raises(DataError, match="a centre for each"):
        found.near(p[:3], z[:2], 0.5)
    for width in (0.0, 1.5):
        with pytest.raises(DataError, match="width"):
            found.near(p[:3], z[:3], width)
