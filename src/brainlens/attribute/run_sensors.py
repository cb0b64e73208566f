"""`attribute` for a run of EEG or MEG: which channels carried the match, and when, by three methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainlens import store
from brainlens.attribute.group import group_of_channels
from brainlens.datasets.runs import Rows, check_same_recording, keep, source_of, table
from brainlens.datasets.sensors import SENSOR_DATASETS, open_sensors
from brainlens.datasets.source import Source, Tell
from brainlens.models.sensors.contributions import METHODS, scalp, sensor_contributions
from brainlens.models.sensors.recordings import recorded
from brainlens.models.sensors.split import split_subjects
from brainlens.models.sensors.stored import load_aligner
from brainlens.stimuli.saliency import FilterSettings
from brainlens.subjects import Protocol
from brainlens.types import DataError, Result


def is_sensor_run(run: str | Path) -> bool:
    """Whether a folder holds a finished alignment of EEG or MEG."""
    path = Path(run) / "result.json"
    content = store.read_json(path) if path.exists() else {}
    config = content.get("config") if isinstance(content, dict) else None
    return isinstance(config, dict) and str(config.get("dataset")) in SENSOR_DATASETS


def run_attribute_sensors(
    run: str | Path | Sequence[str | Path],
    runs: str | Path,
    *,
    method: str = "gradient_x_input",
    device: str = "cpu",
    tell: Tell,
) -> tuple[Path, Rows]:
    """Contributions of channels over time to the similarity with the seen image, of the main encoder of an align run.

    method: gradient_x_input, integrated_gradients (32 steps from the channel means) or deeplift (rescale). All test images count.
    Several runs, one a subject, also give the group's scalp map (`group_of_channels`), whose run folder is returned.
    Raises DataError for a run without weights, an unknown method, or a recording that is not where it was.
    """
    folders = [run] if isinstance(run, (str, Path)) else list(run)
    results = []
    for one in folders:
        result, source = _attributed(one, method, device, tell)
        place = keep(result, runs, source)
        results.append(result)
    if len(results) > 1:
        result = group_of_channels(results)
        place = keep(result, runs, source)
    return place, table(result, "topography/") + table(result, "attribution/")


def _attributed(run: str | Path, method: str, device: str, tell: Tell) -> tuple[Result, Source]:
    started = store.Start()
    if method not in METHODS:
        raise DataError(f"attribute: method {method!r} is not one of {list(METHODS)}, the methods for EEG and MEG")
    model = load_aligner(run, device=device)  # before the recording is opened, which takes longer
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
        settings=FilterSettings(**options.get("saliency", {})),
        tell=tell,
    )
    check_same_recording(run, aligned, recording.responses)
    responses = recorded(recording.responses).matched(model.layout_)
    _, test = split_subjects(responses, protocol)
    averaged = test.average()
    if not np.array_equal(averaged.trials["stimulus"].to_numpy(dtype=str), aligned.arrays["ids"].astype(str)):
        raise DataError(f"{run}: its test images are not those of the recording now in {source.folder}; align again")
    tell(f"contributions, {method}", None)
    mean = sensor_contributions(model.decoder_, averaged.data, np.asarray(aligned.arrays["embedding/image"]), method=method)
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
    return result, source
