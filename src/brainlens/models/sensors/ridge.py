"""Ridge regression from recordings to image embeddings: the strongest linear baseline, on the split of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainlens.models.sensors.moments import binned, moments
from brainlens.models.sensors.split import split_subjects
from brainlens.subjects import WITHIN, Protocol, held_out
from brainlens.types import DataError, Features, Responses, positions

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # in units of the mean eigenvalue of X'X


@dataclass(frozen=True)
class RidgeDecoder:
    """brain = (bins - mean) W, gallery = image - centre; both are compared by cosine."""

    weights: np.ndarray
    mean: np.ndarray
    centre: np.ndarray
    width: int
    penalty: float
    validation: dict[float, float]

    def embed(self, data: np.ndarray) -> np.ndarray:
        """(n, channel, time) recordings -> (n, d)."""
        blocks = [(x - self.mean) @ self.weights for _, x in binned(data, np.arange(len(data)), self.width)]
        return np.concatenate(blocks)

    def gallery(self, values: np.ndarray) -> np.ndarray:
        """Image embeddings (n, d) of length 1, less the training mean."""
        return _unit(np.asarray(values, np.float32)) - self.centre


def fit_ridge(
    responses: Responses,
    images: Features,
    *,
    protocol: Protocol = WITHIN,
    layer: str = "image",
    seed: int = 0,
    width: int = 5,
    validation: int = 740,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[RidgeDecoder, Responses]:
    """W = argmin |Y - X W|^2 + penalty tr(X'X)/p |W|^2, and the test trials, not used for fitting or selection.

    X (row, p): means over `width` neighbouring samples of every channel, centred; Y: embeddings of length 1, centred. The
    penalty is that of the largest mean cosine on the validation images, which are the same as those of `fit_sensors`.
    Raises DataError for an unknown subject, trials without features, a test image in training, a penalty that is not positive.
    """
    train, test = split_subjects(responses, protocol)
    ridge = solve_ridge(train, images, layer=layer, seed=seed, width=width, validation=validation, penalties=penalties)
    return ridge, test


def solve_ridge(
    train: Responses, images: Features, *, layer: str, seed: int, width: int, validation: int, penalties: Sequence[float]
) -> RidgeDecoder:
    """`fit_ridge` on training rows that are split off already."""
    if not penalties or min(penalties) <= 0:
        raise DataError(f"ridge: penalties {list(penalties)} must all be above 0")
    ids, row = np.unique(train.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    target = _unit(np.asarray(images[layer][positions(ids, images.ids, "images")], np.float32))
    held = held_out(len(ids), validation, seed)
    inner, kept = np.flatnonzero(~held[row]), np.flatnonzero(held[row])
    sums = moments(train.data, inner, target[row[inner]], width)
    mean, centre = sums.mean.astype(np.float32), sums.centre.astype(np.float32)
    paths = {float(penalty): sums.solve(penalty).astype(np.float32) for penalty in penalties}
    scores = dict.fromkeys(paths, 0.0)
    for place, x in binned(train.data, kept, width):
        aim = _unit(target[row[kept[place]]] - centre)
        for penalty, weights in paths.items():
            scores[penalty] += float((_unit((x - mean) @ weights) * aim).sum()) / len(kept)
    best = max(paths, key=lambda penalty: scores[penalty])
    return RidgeDecoder(paths[best], mean, centre, width, best, scores)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
