"""EEGLAB's sample recording: 4 minutes of continuous EEG, 80 squares shown at two places, 32 channels at 128 Hz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.pictures import NoImages
from brainlens.types import DataError, Recording, Responses, Sensors, Stimuli, check_mat, reading

FILE = "eeglab_data.set"
EYES = ("EOG1", "EOG2")

FACTS = {
    "name": "eeglab_visual",
    "title": "EEGLAB tutorial data: a visual attention task",
    "kind": "EEG",
    "measure": "EEG in uV",
    "simulated": False,
    "several_subjects": False,
    "offers": (),
    "licence": "BSD-2-Clause",
    "citation": "Delorme and Makeig (2004), Journal of Neuroscience Methods 134, 9-21",
    "url": "https://sccn.ucsd.edu/eeglab",
    "access": "public",
    "subjects": 1,
    "channels": 32,
    "rate_hz": 128,
    "targets": 80,
}


def load_raw(folder: str | Path) -> Any:
    """The continuous recording as an MNE Raw in volts, eye channels marked; events are its annotations."""
    import mne

    path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
    if not path.exists():
        raise DataError(f"{path} is missing; see {FACTS['url']}")
    check_mat(path)
    with reading(path, "fetch it again", fault="or its .fdt is damaged"):
        raw = mne.io.read_raw_eeglab(path, preload=True, verbose="error")
    expected = raw.n_times * len(raw.ch_names) * 4
    data_file = path.with_suffix(".fdt")
    if data_file.exists() and data_file.stat().st_size != expected:
        raise DataError(f"{data_file} has {data_file.stat().st_size} bytes, {expected} are expected; fetch it again")
    raw.set_channel_types({name: "eog" for name in EYES if name in raw.ch_names}, verbose="error")
    return raw


def _positions(folder: str | Path) -> np.ndarray:
    """Position of each square in the order of time, which the annotations do not carry."""
    from scipy.io import loadmat

    path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
    with reading(path):
        found = loadmat(path, simplify_cells=True)
        squares = [row for row in found.get("EEG", found)["event"] if row["type"] == "square"]
        return np.array([str(row["position"]) for row in sorted(squares, key=lambda row: float(row["latency"]))])


def load(
    folder: str | Path,
    *,
    window: tuple[float, float] = (-0.2, 0.8),
    event: str = "square",
    highpass: float | None = 0.5,
    lowpass: float | None = 40.0,
) -> Recording:
    """Epochs (trial, channel, time) in microvolts around the events, baseline before 0 removed; eye channels left out.

    The stimuli are the event's kinds, there are no pictures. trials.position: where a square was shown, "1"
    or "2". window: seconds, both ends included.
    """
    import mne

    raw = load_raw(folder)
    known = sorted(set(map(str, raw.annotations.description)))
    if event not in known:
        raise DataError(f"event {event!r} is not in the recording; it has {known}")
    if highpass is not None or lowpass is not None:
        raw.filter(highpass, lowpass, verbose="error")
    events, _ = mne.events_from_annotations(raw, event_id={event: 1}, verbose="error")
    epochs = mne.Epochs(raw, events, 1, *window, baseline=(None, 0), picks="eeg", preload=True, verbose="error")
    if len(epochs) == 0:
        raise DataError(f"no epoch of {window} s lies within the recording")
    data = (epochs.get_data(copy=False) * 1e6).astype(np.float32)
    trials = pd.DataFrame(
        {"stimulus": event, "subject": "1", "session": "1", "sample": epochs.events[:, 0]}, index=range(len(data))
    )
    trials["repeat"] = np.arange(1, len(data) + 1)
    if event == "square":
        trials["position"] = _positions(folder)[epochs.selection]
    positions = np.array([epochs.info["chs"][i]["loc"][:3] for i in range(len(epochs.ch_names))], dtype=np.float64)
    space = Sensors(np.array(epochs.ch_names), positions) if np.isfinite(positions).all() else None
    stimuli = Stimuli(np.array([event]), NoImages(1, "eeglab_visual shows plain squares; there are no image files"), [])
    units = pd.DataFrame({"channel": epochs.ch_names})
    return Recording(Responses(data, trials, units, space, np.asarray(epochs.times), "uV"), stimuli)
