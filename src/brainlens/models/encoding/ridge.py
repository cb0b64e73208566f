"""Ridge as estimators: on a matrix of features, and layer by layer, where each voxel takes the layer that predicts it best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from brainlens.models.encoding.layered import Layers, as_features, check_form, layer_form, numbers, responses_of, rows_of
from brainlens.models.estimator import Model, check_device
from brainlens.solvers.ridge import RidgeFit, fold_labels, ridge_cv, ridge_predict
from brainlens.types import DataError, Features

ALPHAS = tuple(float(a) for a in np.logspace(-1, 7, 17))
FOLDS = 5


class RidgeCV(MultiOutputMixin, RegressorMixin, Model):
    """Ridge regression of many targets, the penalty of each chosen by cross-validation.

        w_v = argmin |y_v - X w - b|^2 + a_v |w|^2,     a_v the penalty with the best mean score over folds

    alphas: penalties; cv: consecutive folds, of rows or of the `groups` of `fit`, or a splitter of scikit-learn whose folds hold
    every row once; scoring: "r2" or "mse", the score of a fold; device: where it is computed.

    X (n, feature), y (n,) or (n, target), numpy or torch. coef_ (feature,) or (target, feature), intercept_ and alpha_ a number
    or (target,), best_score_ (target,) or a number, cv_scores_ (alpha, target): minus the squared error for "mse".
    Targets go through in blocks of 256, so y may be a memory map. Raises DataError for NaN, for rows that do not match, for
    penalties that are not positive, and for fewer rows or groups than folds. Hoerl and Kennard 1970; penalties per target as in
    himalaya (Dupre la Tour et al. 2022).
    """

    def __init__(
        self,
        alphas: Sequence[float] = ALPHAS,
        cv: int | Any = FOLDS,
        fit_intercept: bool = True,
        *,
        scoring: str = "r2",
        device: str = "cpu",
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.scoring = scoring
        self.device = device

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fits on all rows. groups (n,): rows of one group, such as an image or a run, stay in one fold."""
        check_device(self.device)
        X, y = _checked(self, _array(X), _array(y))
        fold = self._folds(X, y, groups)
        targets = y[:, None] if y.ndim == 1 else y
        fit = ridge_cv(
            X, targets, self.alphas, fold=fold, score=self.scoring, fit_intercept=bool(self.fit_intercept), device=self.device
        )
        coef, intercept = fit.weights.numpy().T.astype(X.dtype), fit.intercept.numpy().astype(X.dtype)
        alpha: Any = fit.alpha.numpy()
        best: Any = fit.cv_score.numpy()
        self.cv_scores_ = fit.cv_scores.numpy()
        if y.ndim == 1:
            coef, intercept, alpha, best = coef[0], intercept[0], float(alpha[0]), float(best[0])
        self.coef_, self.intercept_, self.alpha_, self.best_score_ = coef, intercept, alpha, best
        return self

    def predict(self, X: Any) -> np.ndarray:
        """X w + b: (n,) or (n, target), in the precision of X."""
        self._check_fitted("coef_")
        X = _checked(self, _array(X))
        coef = self.coef_.astype(X.dtype, copy=False)
        return X @ coef.T + self.intercept_.astype(X.dtype, copy=False)

    def _folds(self, X: np.ndarray, y: np.ndarray, groups: Any) -> np.ndarray:
        if isinstance(self.cv, (int, np.integer)):
            return fold_labels(len(X), groups=groups, folds=int(self.cv))
        if isinstance(self.cv, str) or not hasattr(self.cv, "split"):
            raise DataError(f"RidgeCV: cv is a number of folds or a splitter of scikit-learn, got {self.cv!r}")
        labels = np.full(len(X), -1)
        for number, (_, held) in enumerate(self.cv.split(X, y, groups)):
            if (labels[held] >= 0).any():
                raise DataError(f"RidgeCV: cv={self.cv!r} holds a row back twice; its folds must hold every row once")
            labels[held] = number
        if (labels < 0).any():
            raise DataError(f"RidgeCV: cv={self.cv!r} never holds {int((labels < 0).sum())} rows back; every row must be once")
        return labels

    def _pack(self) -> dict[str, Any]:
        state = super()._pack()
        if "feature_names_in_" in state:
            state["feature_names_in_"] = [str(name) for name in state["feature_names_in_"]]
        return state

    def _unpack(self, state: dict[str, Any]) -> None:
        super()._unpack(state)
        if "feature_names_in_" in state:
            self.feature_names_in_ = np.array(state["feature_names_in_"], dtype=object)


class LayerwiseRidge(MultiOutputMixin, RegressorMixin, Model):
    """Ridge on every layer of a network, of which each unit takes the one that predicts it best in cross-validation.

        y_v = w_v z_l(v) + b_v,     l(v), a_v the layer and penalty with the best mean R2 over folds of the fitted images

    z_l: the layer's global token and its spatial tokens averaged over pool x pool fields, each channel standardised. layers:
    names (None: all); alphas: penalties, in units of n images of features with variance 1; cv: folds of images in random order.

    fit(features, Y), features as `as_features` takes them, Y (image, unit). layer_ (unit,) numbers into layer_names_,
    layer_scores_ (unit, layer), NaN for a layer that never varies; alpha_ and best_score_ (unit,).
    Raises DataError for layers that do not exist, NaN, and features that are not those of the fit.
    """

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        alphas: Sequence[float] = ALPHAS,
        pool: int = 2,
        *,
        cv: int = FOLDS,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.layers = layers
        self.alphas = alphas
        self.pool = pool
        self.cv = cv
        self.seed = seed
        self.device = device

    def fit(self, features: Layers, Y: Any, *, rows: Any = None) -> Self:
        """Fits on all images of `features`, or on those at `rows`, which Y then belongs to."""
        check_device(self.device)
        given = as_features(features)
        chosen = rows_of(rows, len(given))
        y = responses_of(Y, len(chosen))
        names = _known_layers(given, self.layers)
        order = np.random.default_rng(self.seed).permutation(len(chosen))  # folds of random images; an image is one row here
        chosen, y = chosen[order], y[order]
        images = len(np.unique(chosen))  # single trials: the repeats of an image stay in one fold
        fold = fold_labels(len(chosen), groups=None if images == len(chosen) else chosen, folds=min(self.cv, images))
        units = y.shape[1]
        best, layer, penalty = np.full(units, -np.inf), np.zeros(units, np.int64), np.zeros(units, np.float32)
        scores = np.full((units, len(names)), np.nan, dtype=np.float32)
        fits: list[dict[str, np.ndarray]] = []
        for number, name in enumerate(names):
            x = _matrix(given, name, self.pool, chosen)
            mean, spread = x.mean(axis=0), x.std(axis=0)
            kept = np.ptp(x, axis=0) > 1e-6 * np.abs(x).max(axis=0)  # a range, for a mean of many rows is rounded
            held = {"mean": mean, "spread": np.where(kept, spread, np.float32(1)), "kept": kept, "units": np.zeros(0, np.int64)}
            fits.append(held)
            if not kept.any():
                continue  # a layer that is the same for every image, such as a class token before the first block
            fit = ridge_cv(_standardised(x, held), y, self.alphas, fold=fold, score="r2", device=self.device)
            scores[:, number] = fit.cv_score.numpy()
            wins = scores[:, number] > best
            best[wins], layer[wins], penalty[wins] = scores[wins, number], number, fit.alpha.numpy()[wins]
            held |= {"units": np.flatnonzero(wins), "weights": fit.weights.numpy()[:, wins]}
            held["intercept"] = fit.intercept.numpy()[wins]
            for before in fits[:-1]:  # of each unit the weights of one layer are held, that of the best so far
                _drop(before, wins)
        if not np.isfinite(best).any():
            raise DataError(f"{given.model}: no layer of {names} varies over the images")
        self.layer_names_, self.layer_, self.layer_scores_ = names, layer, scores
        self.alpha_, self.best_score_, self.fits_ = penalty, best, fits
        self.layer_form_ = {name: layer_form(given, name) for name in names}
        return self

    def predict(self, features: Layers, *, rows: Any = None) -> np.ndarray:
        """Responses (image, unit) to the images of `features`, or to those at `rows`; float32."""
        self._check_fitted("fits_")
        given = as_features(features)
        chosen = rows_of(rows, len(given))
        out = np.zeros((len(chosen), len(self.layer_)), dtype=np.float32)
        for name, held in zip(self.layer_names_, self.fits_, strict=True):
            check_form(given, name, self.layer_form_[name])
            if not len(held["units"]):
                continue
            x = _standardised(_matrix(given, name, self.pool, chosen), held)
            fit = RidgeFit(*(torch.from_numpy(held[key]) for key in ("weights", "intercept")), *[torch.empty(0)] * 3)
            out[:, held["units"]] = ridge_predict(fit, x).numpy()
        return out


def layer_matrix(features: Features, layer: str, pool: int = 2, *, rows: np.ndarray | None = None) -> np.ndarray:
    """(image, feature) float32: the global token, and the spatial tokens averaged over pool x pool fields; of some rows."""
    chosen: Any = slice(None) if rows is None else rows
    parts = []
    if layer in features.data:
        parts.append(np.asarray(features.data[layer][chosen], dtype=np.float32))
    if layer in features.tokens and pool > 0:
        height, width = features.grid[layer]
        tokens = np.asarray(features.tokens[layer][chosen], dtype=np.float32)
        maps = tokens.reshape(len(tokens), height, width, tokens.shape[2])
        for top in np.array_split(np.arange(height), min(pool, height)):
            for left in np.array_split(np.arange(width), min(pool, width)):
                parts.append(maps[:, top[0] : top[-1] + 1, left[0] : left[-1] + 1].mean(axis=(1, 2)))
    return np.concatenate(parts, axis=1)


def _known_layers(features: Features, wanted: Sequence[str] | None) -> list[str]:
    names = features.layer if wanted is None else list(wanted)
    unknown = [name for name in names if name not in features.layer]
    if unknown or not names:
        raise DataError(f"{features.model} has no layer {(unknown or ['(none)'])[0]!r}; it has {features.layer}")
    return names


def _matrix(features: Features, layer: str, pool: int, rows: np.ndarray) -> np.ndarray:
    if layer not in features.data and pool < 1:
        raise DataError(f"layer {layer!r} has no global token and pool={pool} leaves its spatial tokens out; use pool=1 or more")
    x = layer_matrix(features, layer, pool, rows=rows)
    fine = np.isfinite(x).all(axis=1)
    if not fine.all():
        name = str(features.ids[rows[int(np.argmin(fine))]])
        raise DataError(f"features of {features.model}, layer {layer!r}: image {name!r} holds NaN or infinity; extract it again")
    return x


def _standardised(x: np.ndarray, held: dict[str, np.ndarray]) -> np.ndarray:
    """Columns with mean 0 and variance 1 over the fitted images, without those that are constant there."""
    if x.shape[1] != len(held["mean"]):
        raise DataError(f"a layer gives {x.shape[1]} pooled channels, the model was fitted on {len(held['mean'])}; use its grid")
    return ((x - held["mean"]) / held["spread"])[:, held["kept"]]


def _drop(held: dict[str, np.ndarray], gone: np.ndarray) -> None:
    """Leaves out the weights of units that another layer predicts better."""
    stays = ~gone[held["units"]]
    if len(stays) and not stays.all():
        held |= {"units": held["units"][stays], "weights": held["weights"][:, stays], "intercept": held["intercept"][stays]}


def _array(value: Any) -> Any:
    return numbers(value, "input") if hasattr(value, "detach") else value


def _checked(model: RidgeCV, X: Any, y: Any = "no_validation") -> Any:
    """X, and y in `fit` (elsewhere "no_validation"), as scikit-learn checks them; its texts in one line."""
    kinds = [np.float64, np.float32]
    try:
        if isinstance(y, str):
            return validate_data(model, X, reset=False, dtype=kinds)
        return validate_data(model, X, y, dtype=kinds, multi_output=True, y_numeric=True, ensure_min_samples=2)
    except ValueError as error:
        text = re.sub(r"array=\[.*\]\.?\s*", "", str(error), flags=re.DOTALL)
        if text.startswith("The feature names"):
            raise
        if text.startswith("Input"):
            text = f"{text.splitlines()[0].rstrip('.')}; drop such rows or columns, or fill them first"
        raise DataError(f"{type(model).__name__}: {' '.join(text.split())}") from None
