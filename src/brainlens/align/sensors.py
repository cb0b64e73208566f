"""`align` for EEG and MEG: one sensor encoder trained, and the test images retrieved with it."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from brainlens.metrics import retrieval as retrieval_metrics
from brainlens.models.sensors.decoder import THINGS_EEG2, SensorDecoder, SensorTraining, target_layer
from brainlens.models.sensors.fit import fit_sensors
from brainlens.models.sensors.split import split_subjects, uncopied
from brainlens.nn.sensor_baselines import WITH_TEXTS
from brainlens.subjects import WITHIN, Protocol, held_out
from brainlens.types import Features, Responses, Result, positions


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
    projection heads on all three; "ridge" and "canonical" are solved in closed form (`SensorRidge`); every other minimises
    L(brain, image) against the features as they are, as NICE does, or against blurred ones (`UBP`).
    responses: (trial, channel, time) with `stimulus`, `split` (train, test) and, for "across", `subject`; rows of one
    image are averaged. images.data: "image", and where used "saliency" (features of the saliency-filtered images, the
    target of NeuroAlign if there and `training.saliency`), "blur_low", "blur_medium", "blur_high" (those of UBP) and "concept";
    texts.data["text"].
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
    uses_text = texts is not None and encoder in WITH_TEXTS
    text = decoder.gallery(texts["text"][positions(ids, texts.ids, "texts")], text=True) if uses_text and texts else None
    metrics = retrieval_metrics.retrieval(brain, image, text, seed=seed)
    if layer == "concept":
        metrics |= by_product(brain, image, seed=seed)
    metrics |= {"training/best_epoch": float(decoder.best_epoch), "training/seconds": decoder.seconds}
    arrays = {"embedding/brain": brain, "embedding/image": image, "ids": ids}
    arrays["ranks/brain->image"] = retrieval_metrics.ranks(brain, image)
    tables = {"log": pd.DataFrame(decoder.log), "repeats": repetition_curve(decoder, test, image, ids, seed=seed)}
    config = {"encoder": encoder if isinstance(encoder, str) else type(encoder).__name__, "seed": seed, "device": decoder.device}
    config |= {"training": asdict(training), "protocol": asdict(protocol), "images": images.model, "gallery_layer": layer}
    provenance = {"torch": torch.__version__, "seed": seed, "device": decoder.device}
    return Result("align", metrics, arrays, test.units, tables, config, provenance, test.space)


def validation_score(
    decoder: SensorDecoder,
    responses: Responses,
    images: Features,
    *,
    encoder: str | nn.Module,
    training: SensorTraining,
    protocol: Protocol = WITHIN,
    seed: int = 0,
) -> float:
    """Mean reciprocal rank of the validation images among themselves, brain to image: what chooses between encoders.

    Validation images are those that every encoder of this seed held back (`subjects.held_out`); each subject has a gallery of its
    own, and the mean is over subjects. Test trials have no part in it.
    """
    train, _ = split_subjects(responses, protocol)
    ids, row = np.unique(train.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    part = uncopied(train, np.flatnonzero(held_out(len(ids), training.validation, seed)[row])).average()
    seen = part.trials["stimulus"].to_numpy(dtype=str)
    target = images[target_layer(images, encoder, training)][positions(seen, images.ids, "images")]
    brain, gallery = decoder.embed(part.data), decoder.gallery(target)
    people = part.trials["subject"].astype(str).to_numpy() if "subject" in part.trials.columns else np.full(len(seen), "1")
    found = [retrieval_metrics.ranks(brain[people == one], gallery[people == one]) for one in np.unique(people)]
    return float(np.mean([np.mean(1 / (1 + ranks)) for ranks in found]))


def by_product(brain: np.ndarray, centres: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """`retrieval/brain->centre_product/...`: concepts ranked by the product with their centres as they are, as NICE's code does.

    brain (n, d), centres (n, d), row by row.
    A centre is a mean of unit vectors and the longer the more alike its images; the cosine leaves the length out. One number
    more, sqrt(M^2 - |c|^2) makes all centres as long as the longest, M, without changing a product, so that the ranking is one
    of cosines.
    """
    square = (centres.astype(np.float64) ** 2).sum(axis=1)
    longer = np.concatenate([centres, np.sqrt(np.maximum(square.max() - square, 0))[:, None]], axis=1)
    ranks = retrieval_metrics.ranks(np.concatenate([brain, np.zeros((len(brain), 1))], axis=1), longer)
    found = retrieval_metrics.summary(ranks, len(centres), seed=seed)
    return {f"retrieval/brain->centre_product/{key}": value for key, value in found.items()}


def repetition_curve(
    decoder: SensorDecoder, test: Responses, image: np.ndarray, ids: np.ndarray, *, seed: int = 0
) -> pd.DataFrame:
    """Top-1 and top-5 against the number of averaged repetitions, rows of an image added one after the other.

    image (image, d): the gallery, in the order of ids (image,).
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


def _gallery_layer(images: Features, encoder: str | nn.Module, training: SensorTraining, protocol: Protocol) -> str:
    return "concept" if protocol.gallery == "concept" else target_layer(images, encoder, training)
