"""`align` for EEG and MEG: from sensor recordings to the embedding of the image that was seen.

NeuroAlign (tri-modal losses, semantic guidance, dynamic weights) and its rivals are trained on the same split with the
same loop, selected on the same validation images, and retrieve the same gallery. Nothing is selected on test data.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from brainlens.align_sensors.linear import LINEAR, fit_linear
from brainlens.align_sensors.parts import WITHIN, Protocol, channel_scale, held_out, split_subjects, tensors, uncopied
from brainlens.align_sensors.resume import Checkpoint, checkpoint_for
from brainlens.align_sensors.training import (
    NICE,
    THINGS_EEG2,
    THINGS_MEG,
    UNFILTERED,
    Progress,
    SensorDecoder,
    SensorTraining,
    build,
    train_decoder,
    without,
)  # fmt: skip
from brainlens.metrics import retrieval as retrieval_metrics
from brainlens.signals.epochs import check_magnitude, check_rate, match_channels
from brainlens.types import DataError, Features, Responses, Result, positions

__all__ = [
    "LINEAR", "NICE", "THINGS_EEG2", "THINGS_MEG", "UNFILTERED", "Checkpoint", "Protocol", "SensorDecoder", "SensorTraining",
    "align_sensors", "embed_responses", "fit_linear", "fit_sensors", "held_out", "limit_repeats", "repetition_curve",
    "score_sensors", "split_subjects", "target_layer", "without",
]  # fmt: skip


def align_sensors(
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    encoder: str | nn.Module = "neuroalign",
    training: SensorTraining = THINGS_EEG2,
    protocol: Protocol = WITHIN,
    seed: int = 0,
    device: str = "cpu",
) -> Result:
    """Trains one sensor encoder and retrieves the test images with it.

    NeuroAlign minimises w1 L(brain, image) + w2 L(image, text) + w3 KL(brain-image | image-text), eqs. 4-9, with
    projection heads on all three; "ridge" and "canonical" are solved in closed form (`fit_linear`); every other encoder minimises
    L(brain, image) against the features as they are, as NICE does.
    responses: (trial, channel, time) with `stimulus`, `split` (train, test) and, for "across", `subject`; rows of one
    image are averaged. images.data: "image", and where used "saliency" (features of the saliency-filtered images, the
    target of NeuroAlign if there and `training.saliency`) and "concept"; texts.data["text"].
    Result: metrics `retrieval/brain->image/...` (and text); arrays embedding/brain, embedding/image, ids, weights;
    tables log (by epoch) and repeats (accuracy against the number of averaged repetitions).

    Raises DataError for an unknown subject, encoder or layer, trials without features, a test image in training.
    """
    started = time.perf_counter()
    decoder, test = fit_sensors(
        responses, images, texts, encoder=encoder, training=training, protocol=protocol, seed=seed, device=device
    )
    result = score_sensors(decoder, test, images, texts, encoder=encoder, training=training, protocol=protocol, seed=seed)
    provenance = result.provenance | {"seconds": time.perf_counter() - started}
    return replace(result, provenance=provenance)


def score_sensors(
    decoder: SensorDecoder,
    test: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    encoder: str | nn.Module = "neuroalign",
    training: SensorTraining = THINGS_EEG2,
    protocol: Protocol = WITHIN,
    seed: int = 0,
) -> Result:
    """The result of `align_sensors` from a decoder that is trained: `test` is looked at here for the first time."""
    layer = _gallery_layer(images, encoder, training, protocol)
    averaged = test.average()
    ids = averaged.trials["stimulus"].to_numpy(dtype=str)
    image = decoder.gallery(images[layer][positions(ids, images.ids, "images")])
    brain = decoder.embed(averaged.data)
    uses_text = texts is not None and encoder == "neuroalign"
    text = decoder.gallery(texts["text"][positions(ids, texts.ids, "texts")], text=True) if uses_text and texts else None
    metrics = retrieval_metrics.retrieval(brain, image, text, seed=seed)
    metrics |= {"training/best_epoch": float(decoder.best_epoch), "training/seconds": decoder.seconds}
    arrays = {"embedding/brain": brain, "embedding/image": image, "ids": ids}
    arrays["ranks/brain->image"] = retrieval_metrics.ranks(brain, image)
    tables = {"log": pd.DataFrame(decoder.log), "repeats": repetition_curve(decoder, test, image, ids, seed=seed)}
    config = {"encoder": encoder if isinstance(encoder, str) else type(encoder).__name__, "seed": seed, "device": decoder.device}
    config |= {"training": asdict(training), "protocol": asdict(protocol), "images": images.model, "gallery_layer": layer}
    provenance = {"torch": torch.__version__, "seed": seed, "device": decoder.device}
    return Result("align", metrics, arrays, test.units, tables, config, provenance, test.space)


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


def repetition_curve(
    decoder: SensorDecoder, test: Responses, image: np.ndarray, ids: np.ndarray, *, seed: int = 0
) -> pd.DataFrame:
    """Top-1 and top-5 against the number of averaged repetitions, rows of an image added one after the other.

    Columns repeats, top1, top1.low, top1.high, top5, ...; a row of `test` may itself be a mean (column `repeats`).
    """
    order = test.trials.groupby("stimulus", sort=False).cumcount().to_numpy()
    many = test.trials["repeats"].to_numpy(float) if "repeats" in test.trials.columns else np.ones(len(test))
    where = {name: i for i, name in enumerate(ids)}
    place = np.array([where[name] for name in test.trials["stimulus"]])
    total, count = np.zeros((len(ids), *test.data.shape[1:]), np.float64), np.zeros(len(ids))
    last = int(order.max()) + 1
    steps = sorted({1, 2, 4, 8, 16, 32, 64, last} & set(range(1, last + 1)))
    found = []
    for step in range(1, last + 1):
        rows = np.flatnonzero(order == step - 1)
        total[place[rows]] += np.asarray(test.data[rows], np.float64) * many[rows][:, None, None]
        count[place[rows]] += many[rows]
        if step in steps:
            brain = decoder.embed((total / count[:, None, None]).astype(np.float32))
            scores = retrieval_metrics.summary(retrieval_metrics.ranks(brain, image), len(image), ks=(1, 5), ways=(), seed=seed)
            found.append({"repeats": float(count.mean()), **{k: v for k, v in scores.items() if k.startswith("top")}})
    return pd.DataFrame(found)


def target_layer(images: Features, encoder: str | nn.Module, training: SensorTraining) -> str:
    """The layer that an encoder is trained to find: the filtered pictures for NeuroAlign with saliency, else those shown."""
    filtered = encoder == "neuroalign" and training.saliency and "saliency" in images.data
    return "saliency" if filtered else "image"


def _gallery_layer(images: Features, encoder: str | nn.Module, training: SensorTraining, protocol: Protocol) -> str:
    return "concept" if protocol.gallery == "concept" else target_layer(images, encoder, training)
