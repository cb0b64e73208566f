"""What an EEG or MEG alignment shows beyond its scores: when, where, by category, and in cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from brainlens.datasets.sensors import SensorRecording
from brainlens.datasets.source import Tell
from brainlens.metrics import timecourse
from brainlens.metrics.retrieval import nearest_share, neighbours
from brainlens.models.sensors.contributions import scalp, sensor_contributions
from brainlens.models.sensors.decoder import SensorDecoder
from brainlens.models.sensors.split import split_subjects
from brainlens.stimuli.saliency import PAPER, FilterSettings, cut_square, filtered, saliency, stage_names
from brainlens.subjects import Protocol
from brainlens.types import DataError, Responses, Result, Stimuli, positions

STEP = 0.1  # s, of time windows and of the scalp maps
MOST = 4000  # training images of the linear decoders over time
THUMB = 64  # pixels of a stored picture
STAGED = 3  # test pictures whose saliency stages are stored

Found = tuple[dict[str, np.ndarray], dict[str, pd.DataFrame], dict[str, float]]


def analyses(
    recording: SensorRecording,
    result: Result,
    decoder: SensorDecoder,
    test: Responses,
    *,
    encoder: str,
    seed: int,
    settings: FilterSettings = PAPER,
    tell: Tell,
) -> Found:
    """Arrays, tables and metrics: accuracy over time windows, generalisation over time, scalp maps, categories, saliency."""
    arrays: dict[str, np.ndarray] = {}
    averaged = test.average()
    tell("when: linear decoders over time", None)
    tables, arrays["generalisation"], arrays["generalisation_times"] = over_time(recording, result, averaged, seed=seed)
    tell("where: contributions of channels", None)
    gallery = result.arrays["embedding/image"]
    mean = sensor_contributions(decoder, averaged.data, gallery, method="gradient_x_input")
    maps, tables["topomap"], metrics = scalp(mean, test, recording)
    arrays |= maps
    metrics["time/two_way_max"] = float(np.diag(arrays["generalisation"]).max())
    metrics["time/two_way_max.n"] = float(len(averaged.data))  # images; chance at the best of many times is above .5
    groups = categories(recording.stimuli, result.arrays["ids"])
    if groups is not None:
        arrays["groups"] = groups
        arrays["embedding_before"] = before(averaged.data)
        metrics |= category_shares(recording, result, arrays["embedding_before"], groups, seed=seed)
    arrays |= stages(recording.stimuli, result.arrays["ids"], settings)
    return arrays, tables, metrics


def over_time(
    recording: SensorRecording, result: Result, averaged: Responses, *, seed: int
) -> tuple[dict[str, pd.DataFrame], np.ndarray, np.ndarray]:
    """Retrieval from growing, shrinking and sliding windows for each target (Fig. 3), and two-way accuracy across times.

    The decoders are linear and trained anew for each window on at most MOST training images, so that the curves are the data's
    and not one network's. Generalisation: (bin, bin), rows by training time, with the times (bin,) in s.
    """
    protocol = Protocol(**result.config["protocol"])
    train, _ = split_subjects(recording.responses, protocol)
    chosen = np.random.default_rng([seed, 71]).permutation(len(train))[:MOST] if len(train) > MOST else np.arange(len(train))
    train = train.rows(np.sort(chosen))  # read once: every window takes samples of all of them
    shown, seen = train.trials["stimulus"].to_numpy(dtype=str), averaged.trials["stimulus"].to_numpy(dtype=str)
    fitted, asked = (positions(ids, recording.images.ids, "images") for ids in (shown, seen))
    assert averaged.times is not None
    windows = timecourse.time_windows(averaged.times, step=STEP)
    found = []
    for target in [name for name in ("image", "saliency") if name in recording.images.data]:
        layer = "concept" if target == "image" and protocol.gallery == "concept" else target
        values, gallery = recording.images[target][fitted], recording.images[layer][asked]
        table = timecourse.window_retrieval(train.data, values, averaged.data, windows, gallery=gallery, seed=seed)
        found.append(table.assign(target=target))
    square = timecourse.time_generalisation(
        train.data, recording.images["image"][fitted], averaged.data, lambda true, predicted: timecourse.two_way(predicted, true),
        test_target=recording.images["image"][asked],
    )  # fmt: skip
    width = len(averaged.times) / len(square)
    at = averaged.times[np.minimum((np.arange(len(square)) * width + width / 2).astype(int), len(averaged.times) - 1)]
    return {"time_windows": pd.concat(found, ignore_index=True)}, square, np.asarray(at, np.float64)


def categories(stimuli: Stimuli, ids: np.ndarray) -> np.ndarray | None:
    """The category (n,) of each of these stimuli, ids (n,), where the table names one."""
    for column in ("domain", "category"):
        if column in stimuli.table.columns:
            return stimuli.table[column].to_numpy(dtype=str)[positions(ids, stimuli.ids, "stimuli")]
    return None


def before(data: np.ndarray) -> np.ndarray:
    """The recordings (image, channel, time) as points before any alignment: at most 50 principal components (image, k)."""
    flat = np.asarray(data, np.float64).reshape(len(data), -1)
    u, s, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return (u * s)[:, : min(50, len(data) - 1)].astype(np.float32)


def category_shares(
    recording: SensorRecording, result: Result, earlier: np.ndarray, groups: np.ndarray, *, seed: int
) -> dict[str, float]:
    """`category/<points>/nearest_share`: how far the test images lie by category, before and after alignment (Fig. 4).

    earlier (image, k): the recordings as points; groups (image,): names of categories.
    before: the recordings; after: the brain's embeddings, whose ceiling is the target's own share; target: what they are aligned
    to; picture, caption: the network's embeddings of the pictures as shown and of their captions.
    """
    rows = positions(result.arrays["ids"], recording.images.ids, "images")
    points = {"before": earlier, "after": result.arrays["embedding/brain"], "target": result.arrays["embedding/image"]}
    points["picture"] = recording.images["image"][rows]
    if recording.texts is not None:
        points["caption"] = recording.texts["text"][rows]
    found: dict[str, float] = {}
    for name, values in points.items():
        if np.ptp(values, axis=0).max() == 0:
            continue  # captions that are all the same have no neighbours
        found |= {f"category/{name}/nearest_share{side}": v for side, v in nearest_share(values, groups, seed=seed).items()}
    return found | {"category/after/nearest_share.ceiling": found["category/target/nearest_share"]}


def cases(recording: SensorRecording, result: Result) -> tuple[dict[str, np.ndarray], dict[str, pd.DataFrame]]:
    """Pictures, neighbours and captions for the gallery of good and bad cases; nothing where there are no pictures.

    gallery/images (image, side, side, 3) uint8, neighbours/brain->image (image, k).
    """
    ids = result.arrays["ids"]
    near = neighbours(result.arrays["embedding/brain"], result.arrays["embedding/image"], min(10, len(ids)))[0]
    arrays = {"neighbours/brain->image": near}
    try:
        seen = recording.stimuli.take(ids)
        arrays["gallery/images"] = np.stack([_thumb(np.asarray(picture)) for picture in seen.images])
    except DataError:  # embeddings without pictures
        return arrays, {}
    table = pd.DataFrame({"stimulus": ids, "caption": [said[0] if said else "" for said in seen.captions]})
    groups = categories(recording.stimuli, ids)
    return arrays, {"gallery": table if groups is None else table.assign(domain=groups)}


def stages(stimuli: Stimuli, ids: np.ndarray, settings: FilterSettings = PAPER) -> dict[str, np.ndarray]:
    """Every stage of the saliency extraction of the first test pictures (Fig. 7); nothing where there are no pictures.

    ids (n,) of test pictures; each stage (picture, ...).
    """
    try:
        pictures = [cut_square(np.asarray(p), settings.size) for p in stimuli.take(ids[:STAGED]).images]
    except DataError:
        return {}
    if len({picture.shape for picture in pictures}) > 1:
        pictures = pictures[:1]
    shown = np.stack(pictures)
    found = saliency(shown, sign=settings.sign)
    arrays: dict[str, np.ndarray] = {f"saliency/{n}": np.asarray(getattr(found, n), np.float32) for n in stage_names()}
    if settings.brightness:
        arrays["saliency/image"] = np.stack([filtered(p, settings) for p in pictures]).astype(np.float32) / 255
    return {"saliency/picture": shown, **arrays}


def scored(result: Result) -> dict[str, float]:
    """top1 and top5 of brain->image with their intervals and chance, under short names."""
    start = "retrieval/brain->image/"
    found = {key.removeprefix(start): v for key, v in result.metrics.items() if key.startswith(start)}
    return {key: v for key, v in found.items() if key.startswith(("top1", "top5", "chance1", "chance5")) and "10" not in key}


def saliency_note(windows: pd.DataFrame) -> list[str]:
    """A remark where linear decoders of the whole epoch find the picture itself better than the filtered one, intervals apart."""
    whole = windows[windows["kind"] == "growing"].groupby("target").last()
    if {"image", "saliency"} <= set(whole.index) and whole.loc["image", "top5.low"] > whole.loc["saliency", "top5.high"]:
        shares = [float(whole.loc[target, "top5"]) for target in ("image", "saliency")]
        found = f"Linear decoders find {100 * shares[0]:.0f} % of the pictures and {100 * shares[1]:.0f} % of the filtered ones"
        return [
            f"{found} among the first five: the recordings do not follow the filter; neuroalign does better --without saliency."
        ]
    return []


def _thumb(picture: np.ndarray) -> np.ndarray:
    """A picture of THUMB x THUMB pixels, uint8."""
    if picture.shape[:2] == (THUMB, THUMB):
        return picture
    return np.asarray(Image.fromarray(picture).convert("RGB").resize((THUMB, THUMB), Image.Resampling.LANCZOS))
