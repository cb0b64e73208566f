"""The best of several drawings of a trial: the one whose predicted response fits the measured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainlens.backbones import vision
from brainlens.choices import CHOOSERS
from brainlens.models.encoding.ridge import LayerwiseRidge
from brainlens.models.generation.parcel_predictor import ParcelPredictor
from brainlens.nn.parcel_predictor import choice_table, choose
from brainlens.parcels import Parcels
from brainlens.types import DataError, Features, Stimuli

__all__ = ["Choice", "Chooser", "choice_table", "choose_by_evidence", "choose_pictures", "fit_chooser"]


@dataclass(frozen=True)
class Choice:
    """pictures (trial, h, w, 3), the number of the chosen candidate (trial,), and what chose (trial, candidate): correlations of
    predicted responses, or cosines of the evidence."""

    pictures: np.ndarray
    chosen: np.ndarray
    correlation: np.ndarray


def choose_pictures(pictures: np.ndarray, Y: Any, predict: Callable[[np.ndarray], np.ndarray], *, batch: int = 64) -> Choice:
    """The candidate of each trial whose predicted response has the highest Pearson correlation with the measured one.

    pictures (trial, candidate, h, w, 3) uint8; Y (trial, unit); predict: pictures (n, h, w, 3) to responses (n, unit), of any
    encoding model that was fitted to training images alone. Both sides should be z-scored by unit, or the units' means decide.
    Raises DataError for shapes that do not match, and for predictions of other units.
    """
    y = np.asarray(Y)
    if pictures.ndim != 5 or pictures.shape[-1] != 3 or y.ndim != 2 or len(y) != len(pictures):
        raise DataError(f"pictures {pictures.shape} should be (trial, candidate, h, w, 3) and Y {y.shape} (trial, unit)")
    trials, candidates = pictures.shape[:2]
    flat = pictures.reshape(-1, *pictures.shape[2:])
    parts = [np.asarray(predict(flat[start : start + batch])) for start in range(0, len(flat), batch)]
    predicted = np.concatenate(parts)
    if predicted.shape != (len(flat), y.shape[1]):
        raise DataError(f"predict gave {predicted.shape} for {len(flat)} pictures, Y has {y.shape[1]} units; they should agree")
    chosen, correlation = choose(predicted.reshape(trials, candidates, -1), y)
    return Choice(pictures[np.arange(trials), chosen], chosen, correlation)


def choose_by_evidence(
    pictures: np.ndarray, embed: Callable[[np.ndarray], np.ndarray], match: Callable[[np.ndarray], np.ndarray]
) -> Choice:
    """The candidate of each trial whose embedding fits the response best, in the metric of the decoder's errors.

    pictures (trial, candidate, h, w, 3) uint8; embed: pictures (n, h, w, 3) to embeddings (n, d); match: embeddings
    (trial, candidate, d) to how well each fits its trial (trial, candidate), such as `NeuroAdapter.evidence`. An encoding model
    asks what the picture does to each voxel alone; noise that voxels share is known here.
    """
    trials, candidates = pictures.shape[:2]
    found = np.asarray(match(embed(pictures.reshape(-1, *pictures.shape[2:])).reshape(trials, candidates, -1)))
    chosen = found.argmax(axis=1)
    return Choice(pictures[np.arange(trials), chosen], chosen, found)


@dataclass(frozen=True)
class Chooser:
    """An encoding model of the kept units, fitted to training images: what it predicts for pictures, and on which scale.

    mean, spread: mean and standard deviation (unit,) of training responses; used: numbers of the units that are compared.
    """

    model: LayerwiseRidge | ParcelPredictor
    network: vision.Backbone
    mean: np.ndarray
    spread: np.ndarray
    used: np.ndarray
    training: Any

    def predict(self, pictures: np.ndarray) -> np.ndarray:
        """Responses (picture, unit) in the units of the recording."""
        ids = np.array([f"{i:06d}" for i in range(len(pictures))])
        layers = [_last(self.training)] if isinstance(self.model, ParcelPredictor) else list(self.training.layer)
        found = vision.extract(self.network, Stimuli(ids, pictures, [[] for _ in ids]), layers)
        return self._read(found)

    def predict_training(self) -> np.ndarray:
        """The same for the training images, whose layers are there."""
        return self._read(self.training)

    def scaled(self, Y: Any) -> np.ndarray:
        """Responses (n, unit) z-scored by the training images, of the compared units."""
        return np.asarray(((np.asarray(Y, dtype=np.float32) - self.mean) / self.spread)[:, self.used])

    def predicted(self, pictures: np.ndarray) -> np.ndarray:
        """What `choose_pictures` asks for."""
        return self.scaled(self.predict(pictures))

    def _read(self, features: Features) -> np.ndarray:
        if isinstance(self.model, ParcelPredictor):
            return self.model.predict(_tokens(features))
        return self.model.predict(features)


def fit_chooser(
    kind: str, network: vision.Backbone, layers: Features, Y: np.ndarray, parcels: Parcels, *, seed: int = 0
) -> Chooser:
    """kind "ridge": `LayerwiseRidge`, of which only units that it predicts in cross-validation are compared; "predictor": the
    transformer with a query a parcel on the tokens of the last layer, as published.

    layers: of the training images; Y (image, unit) their mean responses. Raises DataError for other kinds.
    """
    if kind not in CHOOSERS[1:]:
        raise DataError(f"choosing: {kind!r} is not one of {', '.join(CHOOSERS[1:])}")
    spread = Y.std(axis=0)
    scale = Y.mean(axis=0), np.where(spread > 0, spread, 1).astype(np.float32)
    if kind == "predictor":
        tokens = [name for name in layers.layer if name in layers.tokens]
        if not tokens:
            raise DataError(f"{layers.model} has no layer with tokens, which the predictor reads; choose by 'ridge'")
        fitted = ParcelPredictor(seed=seed).fit(_tokens(layers), Y, parcels)
        return Chooser(fitted, network, *scale, fitted.units_, layers)
    ridge = LayerwiseRidge(seed=seed).fit(layers, Y)
    used = np.flatnonzero(ridge.best_score_ > 0)
    return Chooser(ridge, network, *scale, used if len(used) > 1 else np.arange(Y.shape[1]), layers)


def _tokens(features: Features) -> np.ndarray:
    """Tokens (image, token, channel) of the last layer that has them."""
    return np.asarray(features.tokens[_last(features)], dtype=np.float32)


def _last(features: Features) -> str:
    """The last layer with tokens."""
    return [layer for layer in features.layer if layer in features.tokens][-1]
