"""An aligner fitted on the training part of a recording; test trials are split off and not looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from brainlens.models.sensors.aligner import SensorAligner
from brainlens.models.sensors.checkpoint import Checkpoint
from brainlens.models.sensors.closed_form import SensorRidge
from brainlens.models.sensors.decoder import THINGS_EEG2, SensorDecoder, SensorTraining
from brainlens.models.sensors.linear import LINEAR
from brainlens.models.sensors.networks import NETWORKS, NeuroAlign, OwnNetwork
from brainlens.models.sensors.recordings import recorded
from brainlens.models.sensors.split import split_subjects, uncopied
from brainlens.models.sensors.training import Progress
from brainlens.nn.sensor_baselines import WITH_TEXTS
from brainlens.subjects import WITHIN, Protocol
from brainlens.types import DataError, Features, Responses


def sensor_model(encoder: str | nn.Module, training: SensorTraining, *, seed: int = 0, device: str = "cpu") -> SensorAligner:
    """The model of an encoder's name with these settings, not yet fitted. Raises DataError listing the names."""
    if isinstance(encoder, nn.Module):
        return OwnNetwork.from_training(training, random_state=seed, device=device).set_params(module=encoder)
    if encoder in LINEAR:
        return SensorRidge(canonical=encoder == "canonical", validation=training.validation, random_state=seed, device=device)
    if encoder not in NETWORKS:
        known = [*NETWORKS, *LINEAR]
        raise DataError(f"sensor encoder {encoder!r} is not one of {known}; or give an nn.Module (B, C, T) -> (B, D)")
    kind, settings = NETWORKS[encoder]
    return kind.from_training(training, random_state=seed, device=device).set_params(**settings)


def fit_model(
    model: SensorAligner,
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    protocol: Protocol = WITHIN,
    progress: Progress | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    start: SensorAligner | None = None,
) -> Responses:
    """Fits a model on the training trials of a protocol; returns the test trials, not used for fitting or selection.

    Recordings on disk stay there (`np.asarray(test.data)` reads the test trials); repeats of a training image are averaged.
    Texts are for NeuroAlign and NICE with language. checkpoint: a folder
    from which the same call goes on after a kill, to the same bits, and which is
    removed at the end; `Checkpoint(folder, keep=True)` leaves the finished training there. What another configuration, recording
    or seed left in it is not used. Closed forms write none. start: a fitted model whose weights are gone on from.
    """
    guided = model.network in WITH_TEXTS
    if isinstance(model, NeuroAlign) and texts is None and model.training.guidance:
        raise DataError("neuroalign with guidance needs texts; give the caption features or training.guidance=False")
    train, test = split_subjects(responses, protocol)
    job = model.begin(recorded(train), images, texts if guided else None, checkpoint=checkpoint, start=start)
    del train  # means over repetitions are in memory, and what is trained on now lies in `job`
    model.finish(job, progress=progress)
    return test


def fit_sensors(
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    encoder: str | nn.Module = "neuroalign",
    training: SensorTraining = THINGS_EEG2,
    protocol: Protocol = WITHIN,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
) -> tuple[SensorDecoder, Responses]:
    """`fit_model` of an encoder's name: the trained networks as functions of arrays, and the test trials."""
    model = sensor_model(encoder, training, seed=seed, device=device)
    test = fit_model(model, responses, images, texts, protocol=protocol, progress=progress, checkpoint=checkpoint)
    return model.decoder_, test


def limit_repeats(responses: Responses, repeats: int) -> Responses:
    """The first `repeats` rows of each stimulus of each subject. Raises DataError where a stimulus has fewer."""
    keys = [name for name in ("subject", "stimulus") if name in responses.trials.columns]
    groups = responses.trials.groupby(keys, sort=False)
    least = groups.size()
    if repeats < 1 or least.min() < repeats:
        raise DataError(
            f"{repeats} repetitions are asked for, {least.idxmin()!r} has {int(least.min())}; ask for 1 to {int(least.min())}"
        )
    return uncopied(responses, np.flatnonzero(groups.cumcount().to_numpy() < repeats))
