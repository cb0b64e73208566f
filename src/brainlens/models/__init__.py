"""What was fitted: fit, predict or transform, save, load; nothing here sees test data."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brainlens.models.estimator import Model

HOMES = (  # where the classes of fitted models stand
    *("encoding", "volume.estimators", "sensors.networks", "sensors.closed_form"),
    *("generation.neuro_adapter", "generation.parcel_predictor"),
)


def load(folder: str | Path) -> Model:
    """The fitted model of a folder, of whatever class it is. Raises DataError for a folder that holds none, or an unknown one."""
    from brainlens import store
    from brainlens.models.estimator import Model
    from brainlens.types import DataError

    name = store.load_model(folder).model
    for home in HOMES:
        found = getattr(import_module(f"brainlens.models.{home}"), name, None)
        if isinstance(found, type) and issubclass(found, Model):
            return found.load(folder)
    raise DataError(f"{folder} holds a {name}, which is no model of this version; update brainlens")
