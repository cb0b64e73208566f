"""EEG and MEG as `reconstruct` reads them: means of 20 ms at every channel are the units, and time windows are the parcels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.backbones import vision
from brainlens.datasets.pictures import NoImages
from brainlens.datasets.sensors import open_sensors
from brainlens.datasets.source import Opened, Source, Tell, network_folder
from brainlens.subjects import Protocol
from brainlens.types import DataError, Responses, check_no_leak

BIN = 0.02  # s: what a mean over samples keeps lies below 25 Hz, and a tenth of the numbers is left at 500 Hz
ROWS = 256  # trials that are averaged over time together


def open_windows(source: Source, *, layers: bool = False, cache: Path, device: str = "cpu", tell: Tell) -> Opened:
    """One subject's recording with a row an image and a unit for each channel and 20 ms (units: channel, time in s).

    Repeats are averaged, of test images too. layers: of the network too, for an encoding model that chooses. Raises DataError
    for several subjects, a test image that is also a training image, and where sensors or a split are missing.
    """
    if len(source.subjects) > 1:
        raise DataError("reconstruct: a brain draws with its own sensors, so one subject at a time; give --subject once")
    subject = source.subjects[0] if source.subjects else None
    found = open_sensors(source, protocol=Protocol("within", subject), cache=cache, device=device, tell=tell)
    if not isinstance(found.stimuli.images, NoImages):
        names = found.responses.trials.groupby("split")["stimulus"].unique()
        check_no_leak(found.stimuli.take(names["train"]), found.stimuli.take(names["test"]))
    train, test = found.responses.where(split="train"), found.responses.where(split="test").average()
    parts = [binned(part) for part in (train, test)]
    trials = pd.concat([part.trials for part in parts], ignore_index=True)
    responses = replace(parts[0], data=np.concatenate([part.data for part in parts]), trials=trials)
    network = vision.extract(vision.load(network_folder(source), device=device), found.stimuli) if layers else None
    return Opened(responses, found.stimuli, layers=network, images=found.images, texts=found.texts)


def binned(responses: Responses, width: float = BIN) -> Responses:
    """Responses (trial, channel, time) as (trial, channel * bin) float32: means over `width` seconds, channel by channel.

    units: those of the channel, and `time`, the first sample of the bin in s. Samples further apart than `width` stay as they
    are; a last bin shorter than half of the others joins the one before. Raises DataError for responses without time.
    """
    if responses.data.ndim != 3 or responses.times is None:
        raise DataError(f"responses {responses.data.shape} have no time; (trial, channel, time) are cut into windows")
    times = np.asarray(responses.times, np.float64)
    number = np.floor((times - times[0]) / width + 1e-9).astype(np.int64)
    _, number, count = np.unique(number, return_inverse=True, return_counts=True)
    if len(count) > 1 and count[-1] < count[0] / 2:
        number[number == len(count) - 1] -= 1
        count = np.bincount(number)
    starts = np.searchsorted(number, np.arange(len(count)))
    n, channels = len(responses), len(responses.units)
    out = np.empty((n, channels, len(count)), np.float32)
    for first in range(0, n, ROWS):
        block = np.asarray(responses.data[first : first + ROWS], np.float32)
        out[first : first + ROWS] = np.add.reduceat(block, starts, axis=2) / count
    units = responses.units.loc[np.repeat(np.arange(channels), len(count))].reset_index(drop=True)
    units = units.assign(time=np.tile(times[starts], channels))
    return Responses(out.reshape(n, -1), responses.trials, units, measure=responses.measure)
