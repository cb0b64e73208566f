"""Ridge against himalaya, scikit-learn and the normal equations."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold

from brainlens.solvers.ridge import fold_labels, ridge_cv, ridge_predict
from brainlens.types import DataError


def make(n=120, p=20, t=15, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * np.linspace(2, 0.2, p) + rng.normal(size=p)
    y = x @ rng.normal(size=(p, t)) * rng.uniform(0, 0.3, t) + rng.normal(size=(n, t)) + 3 * rng.normal(size=t)
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("shape", [(120, 20), (60, 200), (61, 61)])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_equals_himalaya(shape, fit_intercept):
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV

    backend = set_backend("torch")
    x, y = make(*shape)
    alphas = np.logspace(-1, 4, 12)
    model = RidgeCV(alphas=alphas, fit_intercept=fit_intercept, cv=5, solver_params={"warn": False})
    theirs = model.fit(backend.asarray(x), backend.asarray(y))
    fit = ridge_cv(x, y, alphas, fold=fold_labels(len(x), folds=5), fit_intercept=fit_intercept, batch=4)
    np.testing.assert_allclose(fit.cv_score, backend.to_numpy(theirs.cv_scores_), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fit.alpha, backend.to_numpy(theirs.best_alphas_), rtol=1e-5)
    np.testing.assert_allclose(fit.weights, backend.to_numpy(theirs.coef_), atol=2e-5)
    np.testing.assert_allclose(ridge_predict(fit, x), backend.to_numpy(theirs.predict(backend.asarray(x))), atol=1e-4)


@pytest.mark.parametrize("score", ["mse", "r2"])
def test_every_penalty_of_every_fold_equals_sklearn(score):
    x, y = make(70, 9, 4)
    groups = np.repeat(np.arange(14), 5).astype(str)
    alphas = np.logspace(-2, 3, 40)
    fold = fold_labels(len(x), groups=groups, folds=4)
    fit = ridge_cv(x, y, alphas, fold=fold, score=score)
    for a in (0, 17, 39):
        losses = []
        for k in range(4):
            rest = y[fold == k] - Ridge(alpha=alphas[a]).fit(x[fold != k], y[fold != k]).predict(x[fold == k])
            scale = len(rest) if score == "mse" else ((y[fold == k] - y[fold == k].mean(0)) ** 2).sum(0)
            losses.append((score == "r2") - (rest**2).sum(0) / scale)
        np.testing.assert_allclose(fit.cv_scores[a], np.mean(losses, axis=0), rtol=1e-4, atol=1e-5)
    one = ridge_cv(x, y, [3.0], fold=fold)
    reference = Ridge(alpha=3.0).fit(x, y)
    np.testing.assert_allclose(one.weights, reference.coef_.T, atol=1e-5)
    np.testing.assert_allclose(one.intercept, reference.intercept_, atol=1e-4)


def test_nearly_collinear_features_and_tiny_penalties_stay_exact():
    x, y = make(80, 10, 6)
    doubled = np.concatenate([x, x + 1e-4 * make(80, 10, 1, seed=9)[0]], axis=1)
    fold = fold_labels(80, folds=5)
    fit = ridge_cv(doubled, y, [1e-2], fold=fold)
    losses = []
    for k in range(5):
        model = Ridge(alpha=1e-2).fit(doubled[fold != k].astype(np.float64), y[fold != k].astype(np.float64))
        losses.append(-((y[fold == k] - model.predict(doubled[fold == k])) ** 2).mean(0))
    np.testing.assert_allclose(fit.cv_score, np.mean(losses, axis=0), rtol=1e-4)


def test_batches_and_target_order_change_nothing():
    x, y = make(60, 12, 30)
    whole, small = ridge_cv(x, y, [1, 10, 100], batch=64), ridge_cv(x, y, [1, 10, 100], batch=7)
    np.testing.assert_allclose(whole.cv_scores, small.cv_scores, rtol=1e-5)
    turned = ridge_cv(x, y[:, ::-1].copy(), [1, 10, 100])
    np.testing.assert_allclose(turned.weights.flip(1), whole.weights, atol=1e-6)
    again = ridge_cv(torch.from_numpy(x), torch.from_numpy(y), [1, 10, 100], batch=64)
    assert torch.equal(again.weights, whole.weights)


def test_folds_never_split_a_group():
    groups = np.array(list("aabbbcddeeeeffga"))
    fold = fold_labels(len(groups), groups=groups, folds=3)
    for name in set(groups):
        assert len(set(fold[groups == name])) == 1
    assert len(set(fold_labels(16, groups=groups, folds=None))) == 7
    for k, (_, held) in enumerate(KFold(5).split(np.zeros(53))):
        np.testing.assert_array_equal(np.flatnonzero(fold_labels(53, folds=5) == k), held)
    assert GroupKFold(3).get_n_splits() == len(set(fold))


def test_noise_is_shrunk_and_signal_is_not():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 10))
    y = np.stack([x[:, 0] + 0.1 * rng.normal(size=300), rng.normal(size=300)], 1)
    fit = ridge_cv(x, y, np.logspace(-1, 5, 13), score="r2")
    assert fit.cv_score[0] > 0.95
    assert fit.cv_score[1] < 0.02
    assert fit.alpha[1] > 100 * fit.alpha[0]


X, Y = make(20, 3, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ridge_cv(X, Y[:-1], [1.0]), "same n"),
        (lambda: ridge_cv(X, np.where(Y.mean() < Y, np.nan, Y), [1.0]), "NaN"),
        (lambda: ridge_cv(X * np.inf, Y, [1.0]), "NaN or infinity"),
        (lambda: ridge_cv(X, Y, [0.0, 1.0]), "positive"),
        (lambda: ridge_cv(X, Y, []), "positive"),
        (lambda: ridge_cv(X, Y, [1.0], score="r"), "'mse', 'r2'"),
        (lambda: ridge_cv(X, Y, [1.0], fold=np.zeros(20)), "at least 2 folds"),
        (lambda: ridge_cv(np.ones((20, 3)), Y, [1.0]), "constant"),
        (lambda: fold_labels(20, groups=list("ab")), "2 entries"),
        (lambda: fold_labels(2, groups=list("ab"), folds=5), "2 groups into 5 folds"),
        (lambda: ridge_predict(ridge_cv(X, Y, [1.0]), X[:, :2]), "features"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
