"""A sensor encoder fitted on a recording, and new recordings embedded with it; test trials are not looked at."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from brainlens.models.sensors.checkpoint import Checkpoint, checkpoint_for
from brainlens.models.sensors.decoder import THINGS_EEG2, SensorDecoder, SensorTraining, build
from brainlens.models.sensors.linear import LINEAR, fit_linear
from brainlens.models.sensors.split import channel_scale, split_subjects, tensors, uncopied
from brainlens.models.sensors.training import Progress, train_decoder
from brainlens.signals.epochs import check_magnitude, check_rate, match_channels
from brainlens.subjects import WITHIN, Protocol, held_out
from brainlens.types import DataError, Features, Responses, positions


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
    """The trained decoder, and the test trials of the tested subject, which nothing here has looked at.

    Recordings on disk stay there (`np.asarray(test.data)` reads the test trials). checkpoint: a folder from which the same call
    goes on after a kill, to the same bits, and which is removed at the end; `Checkpoint(folder, keep=True)` leaves the finished
    training there. What another configuration, recording or seed left in it is not used. Closed forms write none.
    """
    if isinstance(encoder, str) and encoder in LINEAR:
        return fit_linear(
            responses, images, encoder=encoder, protocol=protocol, seed=seed, validation=training.validation, device=device
        )  # fmt: skip
    train, test = split_subjects(responses, protocol)
    tri = encoder == "neuroalign"
    if tri and texts is None and training.guidance:
        raise DataError("neuroalign with guidance needs texts; give the caption features or training.guidance=False")
    layer = target_layer(images, encoder, training)
    ids, row = np.unique(train.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    image = torch.as_tensor(np.asarray(images[layer][positions(ids, images.ids, "images")], np.float32)).to(device)
    text = None
    if tri and texts is not None:
        text = torch.as_tensor(np.asarray(texts["text"][positions(ids, texts.ids, "texts")], np.float32)).to(device)
    held = held_out(len(ids), training.validation, seed)
    mean, spread = channel_scale(train.data, np.flatnonzero(~held[row]))
    started = time.perf_counter()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.startswith("cuda") else []):
        torch.manual_seed(seed)  # dropout draws from the global generator, which is put back afterwards
        decoder = build(encoder, train, image.shape[1], text, training, seed, device, (mean, spread))
        parts = [
            tensors(
                train.data, np.flatnonzero(keep[row]), row,
                model=decoder.model, scale=(mean, spread), device=device, precision=training.precision,
            )
            for keep in (~held, held)
        ]  # fmt: skip
        kept = checkpoint_for(checkpoint, decoder, train, targets=(image, text), training=training, seed=seed)
        decoder.takes(train)
        del train  # means over repetitions are in memory, and what is trained on now lies in `parts`
        train_decoder(decoder, parts[0], parts[1], image, text, training, seed, progress, kept)
    decoder.seconds += time.perf_counter() - started  # what a killed process took is in it already
    return decoder, test


def embed_responses(decoder: SensorDecoder, responses: Responses) -> np.ndarray:
    """Brain embeddings (trial, d) of another recording: channels are put into the decoder's order by name.

    Raises DataError listing missing channels, or saying which sampling rate or window the recording has and the decoder wants;
    warns where microvolts look like volts and multiplies.
    """
    if decoder.times is None or not decoder.channels:
        raise DataError("the decoder was trained on recordings without channel names or times; pass arrays to embed()")
    step = float(np.median(np.diff(decoder.times)))
    window = (float(decoder.times[0]), float(decoder.times[-1]))
    matched = check_rate(match_channels(responses, decoder.channels), rate=1 / step, window=window)
    if matched.data.shape[2] != len(decoder.times):
        raise DataError(f"the decoder takes {len(decoder.times)} samples, the recording has {matched.data.shape[2]}")
    factor = check_magnitude(matched.data, measure=matched.measure)
    return decoder.embed(matched.data if factor == 1.0 else np.asarray(matched.data, np.float32) * factor)


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


def target_layer(images: Features, encoder: str | nn.Module, training: SensorTraining) -> str:
    """The layer that an encoder is trained to find: the filtered pictures for NeuroAlign with saliency, else those shown."""
    filtered = encoder == "neuroalign" and training.saliency and "saliency" in images.data
    return "saliency" if filtered else "image"
