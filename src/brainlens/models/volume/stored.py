"""A trained volume encoder read back from its run folder, for responses that it can read."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from brainlens import store
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.subjects import check_same_space
from brainlens.types import DataError, Responses, Result, Volume


def volume_encoder(run: str | Path, responses: Responses) -> VolumeEncoder:
    """The volume encoder of a finished align run, in evaluation mode, for responses of the brain that it was trained on.

    Raises DataError for a run without one, responses in another space, with another mask or of another subject, and
    weights that another version of the encoder wrote.
    """
    found = store.load_result(run)
    if found.task != "align" or "volume" not in found.config.get("encoders", []):
        raise DataError(f"{run}: a run of `align` with the encoder 'volume' is needed; this one is {found.task!r}")
    _check_subjects(run, found, responses)
    responses = responses.clean()[0]
    if not isinstance(responses.space, Volume) or found.space is None or found.units is None:
        raise DataError(f"{run}: the encoder reads a volume, the responses are in {type(responses.space).__name__}")
    trained = Responses(responses.data[:0, :1].repeat(len(found.units), 1), responses.trials[:0], found.units, found.space)
    check_same_space(responses, trained, "the recording", f"the model of {run}")
    weights = store.load_weights(run, "volume")
    encoder = VolumeEncoder(responses.space.mask, _design(run, found.config.get("design", {}), weights))
    _fill(run, encoder, weights)
    return encoder.eval()


def _check_subjects(run: str | Path, found: Result, responses: Responses) -> None:
    trained = found.config.get("trained_on")
    if trained is None or "subject" not in responses.trials.columns:
        return
    others = sorted(set(responses.trials["subject"].astype(str)) - set(trained))
    if others:
        raise DataError(
            f"{run}: its model is of subject {', '.join(trained)}, the responses are of {', '.join(others)}; align these first"
        )


def _design(run: str | Path, stored: dict[str, Any], weights: dict[str, Tensor]) -> VolumeDesign:
    unknown = sorted(set(stored) - {f.name for f in fields(VolumeDesign)})
    if unknown or "head.weight" not in weights:
        raise DataError(
            f"{run}: its model is of another version (design {unknown}, weights {sorted(weights)[:3]}); run `align` again"
        )
    return replace(VolumeDesign(**stored), embed_dim=len(weights["head.weight"]))


def _fill(run: str | Path, encoder: VolumeEncoder, weights: dict[str, Tensor]) -> None:
    """Loads the weights, or says which one does not fit."""
    own = encoder.state_dict()
    for name in sorted(set(own) | set(weights)):
        shapes = [tuple(table[name].shape) if name in table else None for table in (own, weights)]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{run}: its weights are of another version: {name} is {shapes[1]}, this encoder's {shapes[0]}; run `align` again"
            )
    encoder.load_state_dict(weights)
