"""From a continuous recording to epochs with stimulus ids, with MNE, and the checks that recordings of others need.

Channels are matched by name, never by position; what looks like volts, a longer time axis, or another sampling rate is
said aloud, because each has been met in released files and none of them raises an error by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from brainlens.store import LazyRows
from brainlens.types import DataError, Responses, Sensors
from brainlens.types.arrays import UNITS

VOLTS = 1e-3  # a median absolute value below this, of what should be microvolts, is one of volts


def read_eeglab(path: str | Path) -> Any:
    """A continuous EEGLAB recording (.set with its .fdt) as an mne Raw, in memory. Raises DataError if it is not there."""
    import mne

    path = Path(path)
    if not path.exists():
        raise DataError(f"no recording at {path}; give the .set file of an EEGLAB recording")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # boundaries and channel types that MNE guesses; what matters is checked below
        return mne.io.read_raw_eeglab(path, preload=True, verbose=False)


def make_epochs(
    raw: Any,
    stimuli: Mapping[str, str] | Sequence[tuple[float, str]],
    *,
    window: tuple[float, float] = (-0.2, 1.0),
    baseline: tuple[float | None, float] | None = (None, 0.0),
    rate: float | None = 250.0,
    band: tuple[float | None, float | None] | None = None,
) -> Responses:
    """Epochs of a continuous mne Raw as Responses (trial, channel, time) in uV, fT or fT/cm.

    stimuli: annotation text -> stimulus id, or a list of (seconds, stimulus id). window in s; baseline: the mean of this
    part is taken off; rate: new sampling rate in Hz (None: as recorded); band: filter edges in Hz. Overlapping epochs are
    kept; those that reach over an end of the recording or an annotation starting with "bad" are dropped and counted.
    Raises DataError for an event text that does not occur, no event at all, or a window outside the recording.
    """
    import mne

    onsets = _onsets(raw, stimuli)
    names = [name for _, name in onsets]
    code = {name: i + 1 for i, name in enumerate(dict.fromkeys(names))}
    picked = raw.copy().pick(["meg", "eeg"], exclude="bads", verbose=False)
    if band is not None:
        picked.filter(*band, verbose=False)
    samples = np.array([round(seconds * raw.info["sfreq"]) for seconds, _ in onsets]) + raw.first_samp
    events = np.column_stack([samples, np.zeros(len(onsets), int), [code[name] for name in names]])
    order = np.argsort(samples, kind="stable")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that all were dropped is an error below
        epochs = mne.Epochs(
            picked, events[order], event_id=code, tmin=window[0], tmax=window[1], baseline=baseline, preload=True,
            reject_by_annotation=True, event_repeated="drop", verbose=False,
        )  # fmt: skip
    if not len(epochs):
        raise DataError(f"no event leaves a whole epoch of {window} s in a recording of {raw.times[-1]:.1f} s")
    if rate is not None and rate != epochs.info["sfreq"]:
        epochs.resample(rate, verbose=False)
    kind = epochs.get_channel_types()[0]
    measure, factor = UNITS[kind]
    back = {number: name for name, number in code.items()}
    trials = pd.DataFrame({"stimulus": [back[number] for number in epochs.events[:, 2]]})
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    place = np.array([channel["loc"][:3] for channel in epochs.info["chs"]])
    space = Sensors(np.array(epochs.ch_names), place)
    units = pd.DataFrame({"channel": epochs.ch_names, **{axis: place[:, i] * 1e3 for i, axis in enumerate("xyz")}})
    data = (epochs.get_data(copy=False) * factor).astype(np.float32)
    return Responses(data, trials, units, space, np.asarray(epochs.times), measure)


def evoked(responses: Responses, *, stimulus: str | None = None) -> np.ndarray:
    """Mean over trials (of one stimulus), (channel, time) float64, trial by trial so that a memory map stays on disk."""
    chosen = responses if stimulus is None else responses.where(stimulus=stimulus)
    total = np.zeros(chosen.data.shape[1:])
    for trial in chosen.data:
        total += trial
    return total / len(chosen)


def match_channels(responses: Responses, names: Sequence[str]) -> Responses:
    """The recording with exactly these channels in this order, found by name without regard to case.

    Raises DataError listing the channels that are missing.
    """
    numbers = channel_numbers(responses, names)
    return responses if np.array_equal(numbers, np.arange(len(responses.units))) else responses.columns(numbers)


def channel_numbers(responses: Responses, names: Sequence[str]) -> np.ndarray:
    """Where these channels stand in the recording, found by name without regard to case; DataError listing the missing ones."""
    have = {str(name).lower(): i for i, name in enumerate(responses.units["channel"])}
    missing = [name for name in names if name.lower() not in have]
    if missing:
        raise DataError(f"{len(missing)} channels are missing: {missing}; the recording has {list(responses.units['channel'])}")
    return np.array([have[name.lower()] for name in names])


def check_channels(responses: Responses, *, among: np.ndarray | None = None, rows: int = 256) -> Responses:
    """The recording itself, or DataError naming the channels that never change or hold NaN in `rows` of the trials `among`."""
    among = np.arange(len(responses)) if among is None else among
    chosen = among[np.unique(np.linspace(0, len(among) - 1, min(rows, len(among))).astype(int))]
    low, high = np.full(responses.data.shape[1], np.inf), np.full(responses.data.shape[1], -np.inf)
    bad = np.zeros(responses.data.shape[1], bool)
    for row in chosen:
        trial = np.asarray(responses.data[row], dtype=np.float64)
        bad |= ~np.isfinite(trial).all(axis=1)
        low, high = np.fmin(low, trial.min(axis=1)), np.fmax(high, trial.max(axis=1))
    names = [str(name) for name in responses.units["channel"]]
    for mask, text in ((bad, "hold NaN or infinite values"), (~bad & (low == high), "are flat")):
        if mask.any():
            listed = [name for name, wrong in zip(names, mask) if wrong]
            raise DataError(f"{len(listed)} channels {text}: {listed}; leave them out, or interpolate them before")
    return responses


def check_rate(responses: Responses, *, rate: float, window: tuple[float, float]) -> Responses:
    """The recording itself if it was sampled at `rate` Hz over `window` s (to a sample), or DataError that says what it is."""
    if responses.times is None or len(responses.times) < 2:
        raise DataError("the recording has no time axis; give `times` in seconds")
    found = 1 / float(np.median(np.diff(responses.times)))
    first, last = float(responses.times[0]), float(responses.times[-1])
    if abs(found - rate) > 0.01 * rate or abs(first - window[0]) > 1.5 / rate or abs(last - window[1]) > 1.5 / rate:
        raise DataError(
            f"the model takes {rate:g} Hz from {window[0]:g} to {window[1]:g} s, "
            f"the recording has {found:.4g} Hz from {first:g} to {last:g} s; "
            f"epoch it again with rate={rate:g}, window={window}"
        )
    return responses


def match_times(times: np.ndarray, samples: int) -> np.ndarray:
    """The time axis of `samples` samples: the last ones where a released file kept the times of a window cut at its start.

    Warns when it cuts; raises DataError where there are fewer times than samples.
    """
    if len(times) < samples:
        raise DataError(f"{len(times)} times for {samples} samples; give the time of every sample")
    if len(times) > samples:
        warnings.warn(
            f"{len(times)} times for {samples} samples: the last {samples} are taken, as in released files", stacklevel=2
        )
    return np.asarray(times)[len(times) - samples :]


def check_magnitude(data: np.ndarray, *, measure: str = "uV") -> float:
    """Factor that brings a recording to microvolts: 1, or 1e6 with a warning where it looks like volts.

    EEG is some 1 to 1000 uV; a median absolute value below 1e-3 is read as volts. Whitened data ("z") are left alone.
    Raises DataError for flat data.
    """
    part = np.asarray(data[: min(len(data), 64)], dtype=np.float64)
    size = float(np.median(np.abs(part)))
    if size == 0 or not np.isfinite(size):
        raise DataError(f"the median absolute value of the recording is {size}; it is flat or holds NaN")
    if measure == "uV" and size < VOLTS:
        warnings.warn(f"a median of {size:.2g} looks like volts, not microvolts; it is multiplied by 1e6", stacklevel=2)
        return 1e6
    return 1.0


def microvolts(responses: Responses) -> Responses:
    """The recording itself, or one of measure "uV" that looks like volts times 1e6, which is read when asked for, with a warning.

    The first trials without missing values of each subject are looked at. Raises DataError where a recording is flat, or where
    some subjects look like volts and others do not.
    """
    if responses.measure != "uV":
        return responses
    trials = responses.trials
    subject = trials["subject"].astype(str).to_numpy() if "subject" in trials.columns else np.full(len(trials), "1")
    factors: dict[str, float] = {}
    for name in dict.fromkeys(subject):
        part = np.asarray(responses.data[np.flatnonzero(subject == name)[:64]])
        part = part[np.isfinite(part).all(axis=tuple(range(1, part.ndim)))]  # missing values are named by those who read all
        factors[name] = check_magnitude(part) if len(part) else 1.0
    if len(set(factors.values())) > 1:
        volts = next(name for name, factor in factors.items() if factor != 1.0)
        raise DataError(f"subject {volts!r} looks like volts and others like microvolts; bring all subjects to microvolts")
    factor = next(iter(factors.values()), 1.0)
    if factor == 1.0:
        return responses
    return replace(responses, data=cast(np.ndarray, LazyRows([responses.data], factor=factor)))


def _onsets(raw: Any, stimuli: Mapping[str, str] | Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    if not isinstance(stimuli, Mapping):
        found = [(float(seconds), str(name)) for seconds, name in stimuli]
    else:
        there = list(dict.fromkeys(raw.annotations.description))
        unknown = [text for text in stimuli if text not in there]
        if unknown:
            raise DataError(f"event {unknown[0]!r} does not occur in the recording; it has {there}")
        pairs = zip(raw.annotations.onset, raw.annotations.description)
        found = [(float(onset), stimuli[text]) for onset, text in pairs if text in stimuli]
    if not found:
        raise DataError("no event is given; name annotation texts or give (seconds, stimulus) pairs")
    return found


def stimulus_of_event(codes: Sequence[int], images: Mapping[int, str], *, drop: Sequence[int] = ()) -> list[str | None]:
    """Stimulus id of each event code, None for codes in `drop` (targets, catch trials).

    Raises DataError naming the codes without an image.
    """
    unknown = sorted({int(code) for code in codes} - set(images) - set(drop))
    if unknown:
        raise DataError(f"{len(unknown)} event codes have no image, first {unknown[:3]}; add them to the table or to drop")
    return [None if code in set(drop) else images[int(code)] for code in codes]
