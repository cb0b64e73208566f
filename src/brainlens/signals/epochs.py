"""From a continuous recording to epochs with stimulus ids, with MNE, and the checks that recordings of others need.

Channels are matched by name, never by position; events that give no epoch, a longer time axis, or another sampling rate are
said aloud, because each has been met in released files and none of them raises an error by itself.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.types import DataError, Responses, Sensors, check_mat, reading
from brainlens.types.sensor_units import SI, check_size, data_channels, measure_of, typical_size
from brainlens.warned import warn

ENDS = "reach over an end of the recording"
WAYS = {"TOO_SHORT": ENDS, "NO_DATA": ENDS, "DROP DUPLICATE": "stand at the sample of another event"}  # in MNE's drop log


def read_eeglab(path: str | Path) -> Any:
    """A continuous EEGLAB recording (.set with its .fdt) as an mne Raw, in memory. Raises DataError if missing or damaged."""
    import mne

    path = Path(path)
    if not path.exists():
        raise DataError(f"no recording at {path}; give the .set file of an EEGLAB recording")
    check_mat(path)
    with reading(path, "fetch it again", fault="or its .fdt is damaged"), warnings.catch_warnings():
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
    reference: tuple[str, ...] | None = None,
    reject: float | None = None,
) -> Responses:
    """Epochs of a continuous mne Raw as Responses (trial, channel, time) in uV, fT or fT/cm.

    stimuli: annotation text -> stimulus id, or a list of (seconds after the first sample, stimulus id), the clock of raw.times.
    Annotations are found by MNE's own clock, which counts from the measurement date where there is one, so that a recording may
    be cropped. window in s; baseline: the mean of this part is taken off; rate: new sampling rate in Hz (None: as recorded);
    band: filter edges in Hz; reference, reject: see `cleaned`. Overlapping epochs are kept; those that reach over an end of the
    recording or an annotation starting with "bad", and events at the sample of another one, are left out and counted in a
    warning.
    Raises DataError for channels of several types, an event text that does not occur, no event at all, a window outside the
    recording, and magnitudes that volts or tesla do not have.
    """
    import mne

    samples, names = _onsets(raw, stimuli)
    code = {name: i + 1 for i, name in enumerate(dict.fromkeys(names))}
    picks, unit = data_channels(raw.info, raw.get_channel_types(), pick="raw.copy().pick")
    picked = raw.copy().pick(picks, verbose=False)
    if band is not None:
        picked.load_data(verbose=False).filter(*band, verbose=False)
    events = np.column_stack([samples, np.zeros(len(names), int), [code[name] for name in names]])
    order = np.argsort(samples, kind="stable")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that all were dropped is an error below
        epochs = mne.Epochs(
            picked, events[order], event_id=code, tmin=window[0], tmax=window[1], baseline=baseline, preload=True,
            reject_by_annotation=True, event_repeated="drop", verbose=False,
        )  # fmt: skip
    if not len(epochs):
        first, last = ((np.array([samples.min(), samples.max()]) - raw.first_samp) / raw.info["sfreq"]).tolist()
        raise DataError(
            f"no event leaves a whole epoch of {window} s in a recording of {raw.times[-1]:.1f} s; the {len(samples)} events lie "
            f"at {first:g} to {last:g} s, are onsets in seconds?"
        )
    _tell_dropped(epochs.drop_log)
    epochs = cleaned(epochs, reference=reference, reject=reject)
    if rate is not None and rate != epochs.info["sfreq"]:
        epochs.resample(rate, verbose=False)
    measure, factor = measure_of(unit)
    back = {number: name for name, number in code.items()}
    trials = pd.DataFrame({"stimulus": [back[number] for number in epochs.events[:, 2]]})
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    trials["event"] = order[epochs.selection]  # which of the events given, as some are left out
    place = np.array([channel["loc"][:3] for channel in epochs.info["chs"]])
    known = bool(np.isfinite(place).all() and place.any())
    space = Sensors(np.array(epochs.ch_names), place) if known else None
    axes = {axis: place[:, i] * 1e3 for i, axis in enumerate("xyz")} if known else {}
    units = pd.DataFrame({"channel": epochs.ch_names, **axes})
    data = (epochs.get_data(copy=False) * factor).astype(np.float32)
    check_size(typical_size(data), measure, "MNE keeps volts and tesla: scale the recording, e.g. raw.apply_function(...)")
    return Responses(data, trials, units, space, np.asarray(epochs.times), measure)


def cleaned(epochs: Any, *, reference: tuple[str, ...] | None = None, reject: float | None = None) -> Any:
    """mne.Epochs with EEG against another reference, and without epochs whose range is too large; changed in place.

    reference: ("average",) for the mean over good channels, or names of channels, whose mean is taken off; a single one is
    then flat and leaves. reject: uV, fT or fT/cm from the lowest to the highest value of any good channel, after the reference;
    epochs above it are left out and counted in a warning.
    Raises DataError for a reference of MEG, channels that are not found, and where no epoch is left.
    """
    kinds = sorted({kind for kind in epochs.get_channel_types() if kind in SI})
    if len(kinds) != 1:
        return epochs  # which is refused where the data are taken
    measure, factor = measure_of(SI[kinds[0]])
    if reference is not None:
        if measure != "uV":
            raise DataError(
                f"reference={','.join(reference)}: EEG has a reference, channels of type {kinds[0]} have none; leave it out"
            )
        missing = [name for name in reference if name not in epochs.ch_names]
        if missing and reference != ("average",):
            raise DataError(f"reference {missing[0]!r} is not found; give average, or any of {', '.join(epochs.ch_names[:40])}")
        epochs.set_eeg_reference(reference[0] if reference == ("average",) else list(reference), verbose="error")
        if len(reference) == 1 and not missing:
            epochs.drop_channels(list(reference))
    if reject is not None:
        before = len(epochs)
        epochs.drop_bad({kinds[0]: reject / factor}, verbose="error")
        said = f"{reject:g} {measure} from the lowest to the highest value of a channel"
        if not len(epochs):
            raise DataError(f"reject={reject:g}: all {before} epochs exceed {said}; give a larger value")
        if len(epochs) < before:
            warn(f"{before - len(epochs)} of {before} epochs exceed {said}, and are left out")
    return epochs


def _tell_dropped(log: Sequence[Sequence[str]]) -> None:
    """A warning that counts the events without an epoch, by their reason, from MNE's drop log (one list an event)."""
    reasons = Counter(one[0] for one in log if len(one))
    if reasons:
        said: Counter[str] = Counter()
        for reason, count in reasons.items():
            said[WAYS.get(reason, f"lie in a stretch marked {reason!r}")] += count
        parts = ", ".join(f"{count} {text}" for text, count in said.items())
        warn(f"{sum(reasons.values())} of {len(log)} events give no epoch: {parts}")


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
    """Where these channels stand in the recording, found by name without regard to case; DataError listing the missing ones.

    Returns (name,) int.
    """
    have = {str(name).lower(): i for i, name in enumerate(responses.units["channel"])}
    missing = [name for name in names if name.lower() not in have]
    if missing:
        raise DataError(f"{len(missing)} channels are missing: {missing}; the recording has {list(responses.units['channel'])}")
    return np.array([have[name.lower()] for name in names])


def check_channels(responses: Responses, *, among: np.ndarray | None = None, rows: int = 256) -> Responses:
    """The recording itself, or DataError naming the channels that never change or hold NaN in `rows` of the trials `among`.

    among (n,): numbers of trials; None takes all.
    """
    for text, listed in bad_channels(responses, among=among, rows=rows).items():
        raise DataError(f"{len(listed)} channels {text}: {listed}; leave them out, or interpolate them before")
    return responses


def without_bad_channels(responses: Responses) -> Responses:
    """The recording without channels that never change or hold NaN, each named in a warning. DataError where none is left."""
    found = bad_channels(responses)
    gone = {name for listed in found.values() for name in listed}
    if not gone:
        return responses
    said = "; ".join(f"{len(listed)} {text}: {', '.join(listed)}" for text, listed in found.items())
    keep = ~responses.units["channel"].astype(str).isin(gone).to_numpy()
    if not keep.any():
        raise DataError(f"no good channel is left: {said}; is the recording whole?")
    warn(f"channels are left out: {said}")
    return responses.columns(keep)


def bad_channels(responses: Responses, *, among: np.ndarray | None = None, rows: int = 256) -> dict[str, list[str]]:
    """Channels that hold NaN or never change in `rows` of the trials `among`, under what is wrong with them.

    among (n,): numbers of trials; None takes all.
    """
    among = np.arange(len(responses)) if among is None else among
    chosen = among[np.unique(np.linspace(0, len(among) - 1, min(rows, len(among))).astype(int))]
    low, high = np.full(responses.data.shape[1], np.inf), np.full(responses.data.shape[1], -np.inf)
    bad = np.zeros(responses.data.shape[1], bool)
    for row in chosen:
        trial = np.asarray(responses.data[row], dtype=np.float64)
        bad |= ~np.isfinite(trial).all(axis=1)
        low, high = np.fmin(low, trial.min(axis=1)), np.fmax(high, trial.max(axis=1))
    names = [str(name) for name in responses.units["channel"]]
    masks = {"hold NaN or infinite values": bad, "are flat": ~bad & (low == high)}
    return {text: [name for name, wrong in zip(names, mask) if wrong] for text, mask in masks.items() if mask.any()}


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

    times (time,) -> (samples,). Warns when it cuts; raises DataError where there are fewer times than samples.
    """
    if len(times) < samples:
        raise DataError(f"{len(times)} times for {samples} samples; give the time of every sample")
    if len(times) > samples:
        warn(f"{len(times)} times for {samples} samples: the last {samples} are taken, as in released files")
    return np.asarray(times)[len(times) - samples :]


def _onsets(raw: Any, stimuli: Mapping[str, str] | Sequence[tuple[float, str]]) -> tuple[np.ndarray, list[str]]:
    """(samples in MNE's numbering, which starts at raw.first_samp; stimulus ids) of the events."""
    if isinstance(stimuli, Mapping):
        there = list(dict.fromkeys(raw.annotations.description))
        unknown = [text for text in stimuli if text not in there]
        if unknown:
            raise DataError(f"event {unknown[0]!r} does not occur in the recording; it has {list(map(str, there))}")
        chosen = [i for i, text in enumerate(raw.annotations.description) if text in stimuli]
        names = [str(stimuli[raw.annotations.description[i]]) for i in chosen]
        onset = np.asarray(raw.annotations.onset)[chosen]
        samples = raw.time_as_index(onset, use_rounding=True, origin=raw.annotations.orig_time)
        samples = samples + (0 if raw.annotations.orig_time is None else raw.first_samp)  # undated onsets hold it already
    else:
        pairs = [(float(seconds), str(name)) for seconds, name in stimuli]
        names = [name for _, name in pairs]
        samples = np.array([round(seconds * raw.info["sfreq"]) for seconds, _ in pairs], dtype=int) + raw.first_samp
    if not names:
        raise DataError("no event is given; name annotation texts or give (seconds, stimulus) pairs")
    return np.asarray(samples, dtype=int), names


def stimulus_of_event(codes: Sequence[int], images: Mapping[int, str], *, drop: Sequence[int] = ()) -> list[str | None]:
    """Stimulus id of each event code, None for codes in `drop` (targets, catch trials).

    Raises DataError naming the codes without an image.
    """
    unknown = sorted({int(code) for code in codes} - set(images) - set(drop))
    if unknown:
        raise DataError(f"{len(unknown)} event codes have no image, first {unknown[:3]}; add them to the table or to drop")
    return [None if code in set(drop) else images[int(code)] for code in codes]
