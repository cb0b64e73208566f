"""The ideal observer's likelihood is the true one, and no ridge does better."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from brainlens.phantom.fmri import PhantomTruth, make_trials, phantom_truth, simulate
from brainlens.phantom.ideal import covariance, ideal_scores
from brainlens.phantom.noise import GLOBAL, INDEPENDENT, RANK, SMOOTH, rest_noise
from brainlens.types import DataError, Features, Stimuli, Volume


@pytest.fixture(scope="module")
def toy() -> PhantomTruth:
    """A brain of 5 x 4 x 6 voxels, six of them informative."""
    rng = np.random.default_rng(0)
    space = Volume(rng.uniform(size=(5, 4, 6)) < 0.9, np.diag([4.0, 4.0, 4.0, 1.0]))
    n, informative = len(space), np.array([3, 4, 10, 11, 30, 31])
    ncsnr = np.zeros(n)
    ncsnr[informative] = rng.uniform(0.3, 0.6, 6)
    signal = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6))
    signal -= signal.mean(axis=0)
    signal *= (ncsnr[informative] / np.sqrt(1 + ncsnr[informative] ** 2)) / signal.std(axis=0)
    x, y, z = space.coordinates().T
    units = pd.DataFrame({"x": x, "y": y, "z": z, "ncsnr": ncsnr, "informative": ncsnr > 0})
    factor = signal / np.sqrt(50)
    rest = rest_noise(space, subject=1, seed=0)
    ids = np.array([f"i{k}" for k in range(50)])
    return PhantomTruth(ids, signal, units, space, informative, factor, np.zeros((50, 0)), rest, 2.0, 1, 0)


def dense(truth: PhantomTruth) -> np.ndarray:
    """The covariance of one trial's noise in all voxels, written out."""
    x, y, z = (m.astype(float) for m in truth.rest.smoothers)
    smoother = np.kron(np.kron(x, y), z)[truth.rest.inside]
    loadings = truth.rest.loadings.astype(float)
    out = SMOOTH * smoother @ smoother.T + GLOBAL * loadings @ loadings.T + INDEPENDENT * np.eye(len(truth.units))
    spread = np.sqrt(truth.rest_variance())
    out *= np.outer(spread, spread)
    i = truth.informative
    out[np.ix_(i, i)] += truth.kappa * truth.signal.T @ truth.signal / len(truth.signal)
    return out


def test_scores_are_the_gaussian_log_likelihood(toy: PhantomTruth) -> None:
    data = np.random.default_rng(1).standard_normal((4, len(toy.units)))
    scores = ideal_scores(data, toy.ids, toy, repeats=3, near=1e9)
    full = np.zeros((50, len(toy.units)))
    full[:, toy.informative] = toy.signal
    expected = np.array([[multivariate_normal.logpdf(row, mean, dense(toy) / 3) for mean in full] for row in data])
    difference = scores - expected
    np.testing.assert_allclose(difference - difference[:, :1], 0, atol=1e-6)


def test_reduced_covariance_is_exact(toy: PhantomTruth) -> None:
    close = np.array([1, 3, 4, 9, 10, 11, 12, 30, 31, 33])
    far = np.setdiff1d(np.arange(len(toy.units)), close)
    estimator = np.linalg.pinv(toy.rest.loadings[far].astype(float))
    reduce = np.zeros((len(close) + RANK, len(toy.units)))
    reduce[np.arange(len(close)), close] = 1
    reduce[len(close) :, far] = estimator
    np.testing.assert_allclose(covariance(toy, close, far, estimator), reduce @ dense(toy) @ reduce.T, atol=1e-5)


def test_the_drawn_noise_has_the_covariance_that_the_observer_assumes(toy: PhantomTruth) -> None:
    drawn = toy.rest.draw([np.random.default_rng(i) for i in range(20000)]) * np.sqrt(toy.rest_variance())
    drawn[:, toy.informative] += np.sqrt(2.0) * np.random.default_rng(99999).standard_normal((20000, 50)) @ toy.factor
    np.testing.assert_allclose(np.cov(drawn.T), dense(toy), atol=0.05)


def ridge_ranks(x: np.ndarray, target: np.ndarray, x_test: np.ndarray, gallery: np.ndarray, alpha: float) -> np.ndarray:
    """Rank of the true image for plain ridge to the embedding and cosine."""
    mean, goal = x.mean(axis=0), target.mean(axis=0)
    kernel = (x - mean) @ (x - mean).T
    dual = np.linalg.solve(kernel + alpha * np.trace(kernel) / len(x) * np.eye(len(x)), target - goal)
    predicted = (x_test - mean) @ (x - mean).T @ dual
    points = gallery - goal
    cosine = predicted @ points.T / np.linalg.norm(points, axis=1)
    return (cosine > np.diag(cosine)[:, None]).sum(axis=1)


def test_the_ideal_observer_is_not_worse_than_ridge() -> None:
    rng = np.random.default_rng(0)
    n = 400
    ids = np.array([f"p{i:04d}" for i in range(n)])
    hidden = rng.standard_normal((n, 20))
    layers = {"a": hidden @ rng.standard_normal((20, 40)), "b": hidden @ rng.standard_normal((20, 40))}
    features = Features({**layers, "image": hidden @ rng.standard_normal((20, 12))}, ids, "linear")
    table = pd.DataFrame({"split": np.where(np.arange(n) < 320, "train", "test")})
    stimuli = Stimuli(ids, np.zeros((n, 2, 2, 3), np.uint8), table=table)
    truth = phantom_truth(stimuli, features, private=0.2)
    averaged = simulate(truth, make_trials(stimuli)).zscore().average()
    train, test = averaged.where(split="train"), averaged.where(split="test")
    names = test.trials["stimulus"].to_numpy(dtype=str)
    scores = ideal_scores(test.data, names, truth, repeats=test.trials["repeats"].to_numpy())
    ideal = (scores > np.diag(scores)[:, None]).sum(axis=1)
    goal = features.take(train.trials["stimulus"].to_numpy(dtype=str)).data["image"]
    gallery = features.take(names).data["image"]
    ridges = [ridge_ranks(train.data, goal, test.data, gallery, alpha) for alpha in (0.01, 0.1, 1.0, 10.0)]
    best = max((ranks == 0).mean() for ranks in ridges)
    assert (ideal == 0).mean() >= best > 3 / len(names)
    noise_only = ideal_scores(np.random.default_rng(2).standard_normal(test.data.shape), names, truth)
    chance = (noise_only.argmax(axis=1) == np.arange(len(names))).mean()
    assert chance < 6 / len(names)


def test_mistakes_are_named(toy: PhantomTruth) -> None:
    data = np.zeros((2, len(toy.units)))
    with pytest.raises(DataError, match="all units"):
        ideal_scores(data[:, 1:], toy.ids, toy)
    with pytest.raises(DataError, match="gallery"):
        ideal_scores(data, ["unknown"], toy)
    with pytest.raises(DataError, match="repeats"):
        ideal_scores(data, toy.ids, toy, repeats=0)
