"""A fitted aligner of EEG or MEG read back from the run folder that keeps it."""

from __future__ import annotations

from pathlib import Path

from brainlens import store
from brainlens.models.sensors.aligner import SensorAligner
from brainlens.models.sensors.closed_form import SensorRidge
from brainlens.models.sensors.networks import NETWORKS
from brainlens.types import DataError

FOLDER = "model"
KINDS: dict[str, type[SensorAligner]] = {kind.__name__: kind for kind, _ in NETWORKS.values()} | {"SensorRidge": SensorRidge}


def load_aligner(run: str | Path, *, device: str | None = None) -> SensorAligner:
    """The aligner of a run folder, of whatever class it is; device: another one than that of its fit.

    Raises DataError for a run without a model, or with one that is no aligner of EEG or MEG.
    """
    folder = Path(run) / FOLDER
    if not (folder / store.MODEL_NOTE).is_file():
        raise DataError(f"{run} keeps no model in {FOLDER}/; align again with this version, then name the new run")
    name = store.load_model(folder).model
    if name not in KINDS:
        raise DataError(f"{folder} holds a {name}, which is no aligner of EEG or MEG; those are {sorted(KINDS)}")
    model = KINDS[name].load(folder)
    return model if device is None else model.to(device)
