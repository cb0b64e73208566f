"""The best of several drawings of a trial: the one whose predicted response fits the measured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainlens.nn.parcel_predictor import choice_table, choose
from brainlens.types import DataError

__all__ = ["Choice", "choice_table", "choose_pictures"]


@dataclass(frozen=True)
class Choice:
    """pictures (trial, h, w, 3), the number of the chosen candidate (trial,), and the correlations of all (trial, candidate)."""

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
