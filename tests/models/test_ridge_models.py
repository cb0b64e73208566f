"""RidgeCV as scikit-learn expects an estimator to be, and against himalaya; the best layer per unit against plain ridge."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from brainlens.models.encoding import LayerwiseRidge, RidgeCV
from brainlens.types import DataError

ALPHAS = tuple(float(a) for a in np.logspace(-1, 4, 12))


@parametrize_with_checks([RidgeCV(), RidgeCV(cv=3, fit_intercept=False, scoring="mse")])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


def made(n=120, p=20, t=15, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * np.linspace(2, 0.2, p) + rng.normal(size=p)
    y = x @ rng.normal(size=(p, t)) * rng.uniform(0, 0.3, t) + rng.normal(size=(n, t)) + 3 * rng.normal(size=t)
    return x, y


@pytest.mark.parametrize("shape", [(120, 20), (60, 200), (61, 61)])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_equals_himalaya_with_a_penalty_per_target(shape, fit_intercept):
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV as Theirs

    set_backend("numpy")
    x, y = made(*shape)
    theirs = Theirs(alphas=np.array(ALPHAS), fit_intercept=fit_intercept, cv=5, solver_params={"warn": False}).fit(x, y)
    ours = RidgeCV(ALPHAS, fit_intercept=fit_intercept, scoring="mse").fit(x, y)
    size = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(ours.alpha_, theirs.best_alphas_, rtol=1e-6)
    np.testing.assert_allclose(ours.coef_ / size, theirs.coef_.T / size, atol=1e-5)
    np.testing.assert_allclose(ours.best_score_, theirs.cv_scores_, rtol=1e-5)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=1e-5 * np.abs(y).max())
    if fit_intercept:
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5 * np.abs(y).max())


def test_one_target_is_a_vector_and_several_are_a_table():
    x, y = made(t=3)
    one, three = RidgeCV().fit(x, y[:, 1]), RidgeCV().fit(x, y)
    assert one.coef_.shape == (20,)
    assert isinstance(one.alpha_, float)
    assert one.predict(x).shape == (120,)
    assert three.coef_.shape == (3, 20)
    assert three.cv_scores_.shape == (17, 3)
    assert one.alpha_ == three.alpha_[1]
    np.testing.assert_allclose(one.predict(x), three.predict(x)[:, 1], atol=1e-5)
    assert RidgeCV().fit(x, y[:, :1]).predict(x).shape == (120, 1)
    np.testing.assert_array_equal(three.predict(torch.from_numpy(x)), three.predict(x))
    assert three.fit(torch.from_numpy(x).float(), torch.from_numpy(y)).predict(torch.from_numpy(x).float()).dtype == np.float32


def test_rows_of_a_group_stay_in_one_fold():
    x, y = made(60)
    groups = np.repeat(np.arange(12), 5)
    ours = RidgeCV(ALPHAS, cv=4).fit(x, y, groups=groups)
    consecutive = RidgeCV(ALPHAS, cv=KFold(4)).fit(x, y)  # 4 folds of 3 whole groups are 4 blocks of 15 rows
    np.testing.assert_array_equal(ours.cv_scores_, consecutive.cv_scores_)
    mixed = np.random.default_rng(0).permutation(groups)
    assert not np.array_equal(RidgeCV(ALPHAS, cv=4).fit(x, y, groups=mixed).cv_scores_, consecutive.cv_scores_)
    assert RidgeCV(ALPHAS, cv=GroupKFold(3)).fit(x, y, groups=mixed).cv_scores_.shape == (12, 15)


def test_it_lives_in_a_pipeline():
    x, y = made()
    model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS))
    guess = cross_val_predict(model, x, y, cv=KFold(3))
    train, test = next(KFold(3).split(x))
    np.testing.assert_allclose(guess[test], clone(model).fit(x[train], y[train]).predict(x[test]), atol=1e-6)
    assert guess.shape == y.shape


def test_names_of_features_survive_on_disk(tmp_path):
    x, y = made(p=3)
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    RidgeCV().fit(frame, y).save(tmp_path)
    again = RidgeCV.load(tmp_path)
    assert list(again.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame.rename(columns={"a": "z"}))


X, Y = made(30, 4, 2)
BROKEN = X.copy()
BROKEN[3, 1] = np.nan
MISTAKES = {
    "NaN in X": (lambda: RidgeCV().fit(BROKEN, Y), "Input X contains NaN; drop"),
    "NaN in Y": (lambda: RidgeCV().fit(X, np.where(np.arange(2) == 1, np.nan, Y)), "contains NaN; drop"),
    "other rows": (lambda: RidgeCV().fit(X, Y[:20]), r"inconsistent numbers of samples: \[30, 20\]"),
    "other columns": (lambda: RidgeCV().fit(X, Y).predict(X[:, :3]), "X has 3 features, but RidgeCV is expecting 4"),
    "one row of X": (lambda: RidgeCV().fit(X, Y).predict(X[0]), "Expected 2D array"),
    "fewer rows than folds": (lambda: RidgeCV(cv=40).fit(X, Y), "cannot cut 30 groups into 40 folds"),
    "a group too few": (lambda: RidgeCV(cv=3).fit(X, Y, groups=np.arange(30) % 2), "cannot cut 2 groups into 3 folds"),
    "a penalty of nothing": (lambda: RidgeCV(alphas=(0.0, 1.0)).fit(X, Y), "positive"),
    "another score": (lambda: RidgeCV(scoring="accuracy").fit(X, Y), "'accuracy' is not one of 'mse', 'r2'"),
    "cv is a word": (lambda: RidgeCV(cv="five").fit(X, Y), "number of folds or a splitter"),
    "folds that overlap": (lambda: RidgeCV(cv=ShuffleSplit(5, random_state=0)).fit(X, Y), "holds a row back twice"),
    "constant features": (lambda: RidgeCV().fit(np.ones((30, 2)), Y), "every feature is constant"),
    "not fitted": (lambda: RidgeCV().predict(X), "not fitted; call fit first"),
    "a device that is not there": (lambda: RidgeCV(device="cuda:99").fit(X, Y), "device 'cuda:99' is not available"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line(name):
    call, message = MISTAKES[name]
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_best_layer_of_each_unit_equals_plain_ridge_on_it():
    rng = np.random.default_rng(0)
    layers = {f"l{k}": rng.normal(size=(90, 7)) * 10**k + 5 for k in range(3)} | {"flat": np.ones((90, 2))}
    y = np.stack([layers[f"l{k}"] @ rng.normal(size=7) / 10**k for k in (2, 0, 1, 1)], axis=1) + rng.normal(size=(90, 4))
    model = LayerwiseRidge(alphas=(1.0, 10.0, 100.0)).fit({k: v[:70] for k, v in layers.items()}, y[:70])
    guess = model.predict({k: v[70:] for k, v in layers.items()})
    assert [model.layer_names_[k] for k in model.layer_] == ["l2", "l0", "l1", "l1"]
    assert np.isnan(model.layer_scores_[:, 3]).all()
    for unit, number in enumerate(model.layer_):
        x = layers[model.layer_names_[number]]
        plain = make_pipeline(StandardScaler(), Ridge(float(model.alpha_[unit]))).fit(x[:70], y[:70, unit])
        np.testing.assert_allclose(guess[:, unit], plain.predict(x[70:]), atol=1e-4)
