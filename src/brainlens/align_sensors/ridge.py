"""Ridge regression from recordings to image embeddings: the strongest linear rival, on the split of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainlens.align_sensors.parts import WITHIN, Protocol, held_out, split_subjects
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
        return (_bins(data, self.width) - self.mean) @ self.weights

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
    """W = argmin |Y - X W|^2 + penalty tr(X'X)/p |W|^2, and the test trials, which nothing here has looked at.

    X (row, p): means over `width` neighbouring samples of every channel, centred; Y: embeddings of length 1, centred. The
    penalty is that of the largest mean cosine on the validation images, which are the same as those of `fit_sensors`.
    Raises DataError for an unknown subject, trials without features, a test image in training, a penalty that is not positive.
    """
    if not penalties or min(penalties) <= 0:
        raise DataError(f"ridge: penalties {list(penalties)} must all be above 0")
    train, test = split_subjects(responses, protocol)
    ids, row = np.unique(train.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    target = _unit(np.asarray(images[layer][positions(ids, images.ids, "images")], np.float32))
    held = held_out(len(ids), validation, seed)
    x, y = _bins(train.data, width), target[row]
    if not np.isfinite(x).all():
        raise DataError("ridge: training trials hold NaN or infinity; drop them with clean()")
    inner = ~held[row]
    mean, centre = x[inner].mean(axis=0), y[inner].mean(axis=0)
    x -= mean
    gram = (x[inner].T @ x[inner]).astype(np.float64)
    cross = (x[inner].T @ (y[inner] - centre)).astype(np.float64)
    size = np.trace(gram) / len(gram)
    scores: dict[float, float] = {}
    best: tuple[float, np.ndarray] | None = None
    for penalty in penalties:
        weights = np.linalg.solve(gram + penalty * size * np.eye(len(gram)), cross).astype(np.float32)
        found = (_unit(x[~inner] @ weights) * _unit(y[~inner] - centre)).sum(axis=1).mean()
        scores[float(penalty)] = float(found)
        if best is None or found > scores[best[0]]:
            best = (float(penalty), weights)
    assert best is not None
    return RidgeDecoder(best[1], mean, centre, width, best[0], scores), test


def _bins(data: np.ndarray, width: int) -> np.ndarray:
    """(n, channel, time) -> (n, channel x bins) float32, means over `width` samples; a rest of the window is left out."""
    n, channels, samples = data.shape
    many = samples // width
    out = np.empty((n, channels * many), np.float32)
    for start in range(0, n, 512):
        part = np.asarray(data[start : start + 512, :, : many * width], np.float32)
        out[start : start + 512] = part.reshape(len(part), channels, many, width).mean(axis=3).reshape(len(part), -1)
    return out


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
