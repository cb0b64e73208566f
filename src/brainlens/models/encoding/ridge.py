"""Ridge, layer by layer: each voxel takes the layer that predicts it best in cross-validation on the training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brainlens.models.encoding.tables import EncodingTables
from brainlens.solvers.ridge import RidgeFit, fold_labels, ridge_cv, ridge_predict
from brainlens.types import DataError, Features

ALPHAS = tuple(float(a) for a in np.logspace(-1, 7, 17))
FOLDS = 5


def fit_ridge(
    data: EncodingTables,
    features: Features,
    layers: Sequence[str],
    *,
    alphas: Sequence[float] = ALPHAS,
    pool: int = 2,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(test predictions (image, unit), arrays layer, layer_scores (unit, layer), alpha).

    Per layer: standardised features, one penalty per voxel by five folds of training images (the validation images join
    the training, since a layer and a penalty are all that is chosen, by these folds). Penalties are in units of n images
    of features with variance 1. Raises DataError for layers that do not exist.
    """
    unknown = [name for name in layers if name not in features.layer]
    if unknown or not layers:
        raise DataError(f"{features.model} has no layer {(unknown or ['(none)'])[0]!r}; it has {features.layer}")
    rows = np.concatenate([data.train.rows, data.validation.rows])
    y = np.concatenate([data.train.y, data.validation.y])
    order = np.random.default_rng(seed).permutation(len(rows))  # folds of random images; an image is one row here
    rows, y = rows[order], y[order]
    fold = fold_labels(len(rows), folds=min(FOLDS, len(rows)))
    best = np.full(y.shape[1], -np.inf)
    guess = np.zeros((len(data.test.rows), y.shape[1]), dtype=np.float32)
    chosen, penalty = np.zeros(y.shape[1], np.float32), np.zeros(y.shape[1], np.float32)
    scores = np.full((y.shape[1], len(layers)), np.nan, dtype=np.float32)
    for number, layer in enumerate(layers):
        x = layer_matrix(features, layer, pool)
        moves = np.ptp(x[rows], axis=0) > 1e-6 * np.abs(x[rows]).max(axis=0)  # a range, for a mean of many rows is rounded
        x = x[:, moves]
        mean, spread = x[rows].mean(axis=0), x[rows].std(axis=0)
        x = (x - mean) / spread
        if not x.shape[1]:
            continue  # a layer that is the same for every image, such as a class token before the first block
        fit: RidgeFit = ridge_cv(x[rows], y, alphas, fold=fold, score="r2", device=device)
        scores[:, number] = fit.cv_score.numpy()
        wins = scores[:, number] > best
        if wins.any():
            guess[:, wins] = ridge_predict(fit, x[data.test.rows]).numpy()[:, wins]
            best[wins], chosen[wins], penalty[wins] = scores[wins, number], number, fit.alpha.numpy()[wins]
    if not np.isfinite(best).any():
        raise DataError(f"{features.model}: no layer of {list(layers)} varies over the images")
    return guess, {"layer": chosen, "layer_scores": scores, "alpha": penalty}


def layer_matrix(features: Features, layer: str, pool: int = 2) -> np.ndarray:
    """(stimulus, feature) float32: the global token, and the spatial tokens averaged over pool x pool fields."""
    parts = []
    if layer in features.data:
        parts.append(np.asarray(features.data[layer], dtype=np.float32))
    if layer in features.tokens and pool > 0:
        rows, columns = features.grid[layer]
        tokens = np.asarray(features.tokens[layer], dtype=np.float32)
        maps = tokens.reshape(len(tokens), rows, columns, tokens.shape[2])
        for top in np.array_split(np.arange(rows), min(pool, rows)):
            for left in np.array_split(np.arange(columns), min(pool, columns)):
                parts.append(maps[:, top[0] : top[-1] + 1, left[0] : left[-1] + 1].mean(axis=(1, 2)))
    return np.concatenate(parts, axis=1)
