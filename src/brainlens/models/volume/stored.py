"""The aligners that an align run keeps, read back for responses that they can read."""

from __future__ import annotations

from pathlib import Path

from brainlens import store
from brainlens.models.volume.estimators import VolumeAligner, load_aligner
from brainlens.models.volume.model import Aligner
from brainlens.subjects import check_same_subjects, check_same_volume
from brainlens.types import DataError, Responses, Result, Volume

MODEL = "model"  # the folder in a run that holds the main aligner; the volume encoder, where another is the main one, is in it


def save_models(folder: str | Path, models: dict[str, Aligner]) -> None:
    """Keeps the main aligner (the last) of a run, and the volume encoder beside it where it is another one."""
    place, main = Path(folder) / MODEL, next(reversed(models))
    models[main].save(place)
    if main != "volume" and "volume" in models:
        models["volume"].save(place / "volume")


def run_aligner(run: str | Path) -> Aligner:
    """The main aligner of a finished align run. Raises DataError for another run, or one that kept no model."""
    _check_run(run)
    return load_aligner(Path(run) / MODEL)


def volume_aligner(run: str | Path) -> VolumeAligner:
    """The volume encoder of a finished align run. Raises DataError for a run without one."""
    found = _check_run(run)
    if "volume" not in found.config.get("encoders", []):
        raise DataError(
            f"{run}: a run of `align` with the encoder 'volume' is needed; this one has {found.config.get('encoders')}; "
            "run `align --encoder volume` on the same recording first"
        )
    beside = Path(run) / MODEL / "volume"
    return VolumeAligner.load(beside if beside.is_dir() else Path(run) / MODEL)


def check_recording(run: str | Path, model: Aligner, responses: Responses) -> None:
    """Raises DataError for responses in another space, with another mask or of another subject than the model's."""
    check_same_subjects(responses, model.subjects_, str(run), "align these first")
    space = responses.clean()[0].space
    if model.space_ is not None:
        if not isinstance(space, Volume):
            raise DataError(f"{run}: the encoder reads a volume, the responses are in {type(space).__name__}")
        check_same_volume(space, model.space_, "the recording", f"the model of {run}")


def _check_run(run: str | Path) -> Result:
    found = store.load_result(run)
    if found.task != "align":
        raise DataError(f"{run}: this needs a run of `align`; this one is {found.task!r}")
    if not (Path(run) / MODEL / "model.json").is_file():
        raise DataError(f"{run} holds no model; run `brainlens align` again, which keeps one")
    return found
