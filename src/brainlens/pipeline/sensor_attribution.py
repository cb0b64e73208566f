"""`attribute` for a run of EEG or MEG: which channels carried the match, and when, by three methods."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens import store
from brainlens.align_sensors import LINEAR, SensorDecoder, SensorTraining, split_subjects
from brainlens.align_sensors.linear import stored_decoder
from brainlens.align_sensors.parts import Protocol
from brainlens.align_sensors.training import build
from brainlens.pipeline.runs import keep
from brainlens.pipeline.sensor_analyses import METHODS, scalp, sensor_contributions
from brainlens.pipeline.sensor_data import SENSOR_DATASETS, open_sensors
from brainlens.pipeline.source import Tell
from brainlens.pipeline.verbs import Rows, source_of, table
from brainlens.signals.epochs import check_rate, match_channels
from brainlens.types import DataError, Responses, Result


def is_sensor_run(run: str | Path) -> bool:
    """Whether a folder holds a finished alignment of EEG or MEG."""
    path = Path(run) / "result.json"
    content = store.read_json(path) if path.exists() else {}
    return isinstance(content, dict) and content.get("config", {}).get("dataset") in SENSOR_DATASETS


def run_attribute_sensors(
    run: str | Path, runs: str | Path, *, method: str = "gradient_x_input", device: str = "cpu", tell: Tell
) -> tuple[Path, Rows]:
    """Contributions of channels over time to the similarity with the seen image, of the main encoder of an align run.

    method: gradient_x_input, integrated_gradients (32 steps from the channel means) or deeplift (rescale). All test images count.
    Raises DataError for a run without weights, an unknown method, or a recording that is not where it was.
    """
    started = time.time()
    if method not in METHODS:
        raise DataError(f"attribute: method {method!r} is not one of {list(METHODS)}, the methods for EEG and MEG")
    aligned = store.load_result(run)
    source = source_of(aligned)
    protocol, options = Protocol(**aligned.config["protocol"]), aligned.config.get("options", {})
    recording = open_sensors(
        source,
        protocol=protocol,
        repeats=options.get("repeats"),
        amplitude=options.get("amplitude"),
        cache=Path(run).resolve().parent / "prepared",
        device=device,
        tell=tell,
    )
    assert aligned.units is not None
    responses = match_channels(recording.responses, [str(name) for name in aligned.units["channel"]])
    times = np.asarray(aligned.arrays["times"])
    window = (float(times[0]), float(times[-1]))
    check_rate(responses, rate=1 / float(np.median(np.diff(times))), window=window)
    train, test = split_subjects(responses, protocol)
    decoder = load_decoder(run, aligned, train, device=device)
    averaged = test.average()
    if not np.array_equal(averaged.trials["stimulus"].to_numpy(dtype=str), aligned.arrays["ids"].astype(str)):
        raise DataError(f"{run}: its test images are not those of the recording now in {source.folder}; align again")
    tell(f"contributions, {method}", None)
    mean = sensor_contributions(decoder, averaged.data, np.asarray(aligned.arrays["embedding/image"]), method=method)
    arrays, titles, metrics = scalp(mean, test, recording)
    arrays["contribution"] = mean
    config: dict[str, Any] = {"method": method, "run": Path(run).resolve().name, "encoder": aligned.config["encoder"]}
    data = aligned.provenance.get("data", [])
    result = Result(
        "attribute",
        metrics,
        arrays,
        test.units,
        {"topomap": titles},
        config,
        store.provenance(0, device, data, started),
        test.space,
    )
    return keep(result, runs, source), table(result, "topography/")


def load_decoder(run: str | Path, aligned: Result, train: Responses, *, device: str = "cpu") -> SensorDecoder:
    """The trained decoder of a stored run, rebuilt for the channels and samples of its recording."""
    weights = store.load_weights(run, "sensors")
    training, encoder = SensorTraining(**_tuples(aligned.config["training"])), str(aligned.config["encoder"])
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "image_head": {}, "text_head": {}, "scale": {}}
    for key, value in weights.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    scale = (parts["scale"]["mean"], parts["scale"]["spread"])
    if len(scale[0]) != train.data.shape[1]:
        raise DataError(f"{run}: it was trained on {len(scale[0])} channels, the recording has {train.data.shape[1]}")
    if encoder in LINEAR:
        return stored_decoder(train.data.shape[1:], parts, device)
    image, text = parts["image_head"].get("enter.weight"), parts["text_head"].get("enter.weight")
    wide = image.shape[1] if image is not None else aligned.arrays["embedding/image"].shape[1]
    decoder = build(encoder, train, wide, None if text is None else torch.empty(1, text.shape[1]), training, 0, device, scale)
    for name in ("model", "image_head", "text_head"):
        getattr(decoder, name).load_state_dict(parts[name])
    return decoder


def _tuples(training: dict[str, Any]) -> dict[str, Any]:
    """Settings read back from JSON, where tuples have become lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in training.items()}
