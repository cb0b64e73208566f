"""`epochs`: from a recording of EEG or MEG to epochs, evoked responses and scalp maps, as a run that the report draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens import datasets, store
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.sensors import number_of, read_subject, subjects_in
from brainlens.datasets.source import Source, Tell, no_folder
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.signals.epochs import evoked, without_bad_channels
from brainlens.store import release
from brainlens.types import DataError, Responses, Result, Sensors

SINGLE = ("eeglab_visual",)  # of one subject
EPOCH_DATASETS = ("eeglab_visual", "things_eeg2", "things_meg", "epochs")
STEP = 0.1  # s of a scalp map
MOST = 12  # conditions that get an evoked response of their own
SAMPLED = 2000  # epochs from which the interval of the peak comes


def run_epochs(source: Source, runs: str | Path, *, subject: str | None = None, seed: int = 0, tell: Tell) -> tuple[Path, Rows]:
    """Epochs of one subject, kept as a memory map, with the evoked response of each condition and its scalp maps.

    eeglab_visual: filtered, cut and baseline corrected by its reader, one condition. things_eeg2: the continuous files where
    they are there (`signals.prepare`: resumable, whitened), else the released epochs; things_meg: the released epochs; conditions
    are training and test. Arrays `evoked/<condition>` (channel, time), `topomap/evoked_by_time` (map, channel) of the first.
    Raises DataError for another dataset, and what its reader finds wrong.
    """
    started = store.Start()
    store.check_writable(runs)
    tell("cutting epochs", None)
    responses = read_epochs_of(source, subject, Path(runs) / "prepared")
    tell("evoked responses", None)
    result = evoked_result(responses, seed=seed)
    provenance = store.provenance(seed, "cpu", [store.fingerprint(responses)], started)
    config = {"seed": seed, "subject": str(responses.trials["subject"].iloc[0]) if "subject" in responses.trials.columns else ""}
    result = replace(result, provenance=provenance, config={**result.config, **config})
    arrays = {"epochs": responses.data} if isinstance(responses.data, np.ndarray) and responses.data.nbytes < 1 << 28 else {}
    folder = keep(result, runs, source, arrays=arrays)
    return folder, shown(result)


def shown(result: Result) -> Rows:
    """The scores as rows for the terminal, each with its unit, and the peak with its channel."""
    peak = {str(row["condition"]): str(row["channel"]) for row in result.tables["peaks"].to_dict("records")}
    units = {"peak": str(result.config["measure"]), "peak_ms": "ms"}
    rows = table(result, "epochs/")
    for row in rows:
        condition, _, name = str(row["metric"]).removeprefix("epochs/").rpartition("/")
        row |= {"unit": units.get(name, ""), "channel": peak.get(condition, "") if name in units else ""}
    return rows


def evoked_result(responses: Responses, *, seed: int = 0) -> Result:
    """Evoked responses, their scalp maps in steps of 0.1 s, and where and when the largest is, as a Result of task `epochs`.

    Metrics of a condition: n; peak_ms and peak, the largest mean absolute deflection over time of any channel after onset, with a
    95 % interval over epochs at that channel and time; baseline_ratio, global field power at its peak over that before onset.
    """
    assert responses.times is not None
    conditions = _conditions(responses)
    metrics: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {"evoked/times": np.asarray(responses.times)}
    tables: dict[str, pd.DataFrame] = {}
    names = [str(name) for name in responses.units["channel"]]
    peaks = []
    for number, (name, part) in enumerate(conditions.items()):
        mean = evoked(part)
        release(part.data)
        arrays[f"evoked/{name}"] = mean.astype(np.float32)
        after = np.where(responses.times > 0, np.abs(mean), 0.0)
        channel, sample = np.unravel_index(int(after.argmax()), mean.shape)
        rows = (
            np.arange(len(part)) if len(part) <= SAMPLED else np.random.default_rng([seed, 83]).permutation(len(part))[:SAMPLED]
        )
        each = np.array([part.data[row, channel, sample] for row in rows], dtype=np.float64)
        value, low, high = bootstrap_mean(each, seed=seed)
        metrics |= {f"epochs/{name}/n": float(len(part)), f"epochs/{name}/peak_ms": 1000 * float(responses.times[sample])}
        metrics |= {f"epochs/{name}/peak": value, f"epochs/{name}/peak.low": low, f"epochs/{name}/peak.high": high}
        power, early = mean.std(axis=0), responses.times < 0
        if early.any():
            metrics[f"epochs/{name}/baseline_ratio"] = float(power.max() / power[early].mean())
        peaks.append(
            {"condition": name, "epochs": len(part), "channel": names[channel], "ms": 1000 * float(responses.times[sample])}
        )
        if number == 0 and isinstance(responses.space, Sensors):
            arrays["topomap/evoked_by_time"], tables["topomap"] = _maps(mean, responses.times)
    tables["peaks"] = pd.DataFrame(peaks)
    config = {
        "measure": responses.measure,
        "samples": len(responses.times),
        "window": [float(t) for t in responses.times[[0, -1]]],
    }
    return Result("epochs", metrics, arrays, responses.units, tables, config, {}, responses.space)


def _maps(mean: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
    """Means over whole steps of 0.1 s after onset (map, channel), with their titles."""
    step = float(np.median(np.diff(times)))
    starts = [t for t in np.arange(MOST) * STEP if t >= times[0] - step and t + STEP <= times[-1] + 1.5 * step]
    masks = [(times >= t - 1e-9) & (times < t + STEP - 1e-9) for t in starts]
    titles = [f"{1000 * t:.0f} to {1000 * (t + STEP):.0f} ms" for t in starts]
    return np.stack([mean[:, mask].mean(axis=1) for mask in masks]), pd.DataFrame({"map": "evoked_by_time", "title": titles})


def read_epochs_of(source: Source, subject: str | None, cache: Path) -> Responses:
    """The epochs of one subject (None: the first). Raises DataError for another dataset, and what its reader finds wrong."""
    if source.dataset not in EPOCH_DATASETS:
        raise DataError(f"epochs: dataset {source.dataset!r} is not one to cut; choose one of {', '.join(EPOCH_DATASETS)}")
    if source.folder is None or not source.folder.is_dir():
        raise DataError(no_folder(source))
    if source.dataset == "eeglab_visual":
        return without_bad_channels(datasets.load(source.dataset, source.folder, **source.options).responses)
    there = subjects_in(source)
    chosen = number_of(subject if subject is not None else there[0], there)
    return without_bad_channels(read_subject(source, chosen, cache).responses)


def _conditions(responses: Responses) -> dict[str, Responses]:
    """Training and test, or the stimuli where there are few, or everything."""
    trials = responses.trials
    if "split" in trials.columns:
        return {str(name): responses.where(split=name) for name in pd.unique(trials["split"])}
    kinds = pd.unique(trials["stimulus"])
    if len(kinds) <= MOST:
        return {str(name): responses.where(stimulus=name) for name in kinds}
    return {"all": responses}
