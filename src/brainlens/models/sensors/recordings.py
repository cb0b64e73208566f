"""Recordings as a user has them, mne.Epochs or arrays, as one table in known units; and the images of their rows.

MNE keeps volts and tesla, files hold microvolts, femtotesla or whitened numbers, and nothing in an array says which. What is
known is converted; what cannot be right is refused; nothing is multiplied by a guess.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from brainlens.signals.epochs import check_rate, match_channels
from brainlens.types import DataError, Features, Responses, as_ids, positions
from brainlens.types.sensor_units import UNITS, check_size, data_channels, measure_of, typical_size

Epochs = Any  # mne.Epochs, Responses, or an array (trial, channel, time) of numpy or torch
APART = 1e3  # how much larger or smaller than what was fitted a recording may be


@dataclass(frozen=True)
class Layout:
    """What a model remembers of the recording it was fitted on, and compares others with.

    channels: names, () where none were given; times in s or None; unit: "uV", "fT", "fT/cm", "z", or "" for an array without one;
    size: median |x|; shape (channels, samples).
    """

    channels: tuple[str, ...]
    times: np.ndarray | None
    unit: str
    size: float
    shape: tuple[int, int]


@dataclass(frozen=True)
class Recorded:
    """A recording (trial, channel, time) with what is known of it; `named`: its rows have ids and not only numbers."""

    responses: Responses
    layout: Layout
    named: bool

    def matched(self, want: Layout) -> Responses:
        """The rows as a model that was fitted on `want` takes them: its channels in its order, its rate, window and unit.

        Raises DataError that says what is other than in the fit.
        """
        rows, have = self.responses, self.layout
        if have.unit and want.unit and have.unit.split("/")[0] != want.unit.split("/")[0]:  # Responses call fT/cm fT too
            raise DataError(f"the model was fitted on {want.unit}, this recording is in {have.unit}; give it in {want.unit}")
        if have.channels and not want.channels:
            raise DataError(
                "the model was fitted without channel names, so these channels cannot be matched; "
                "give an array in the order of the fit, or fit again with info={'ch_names': [...]}"
            )
        rows = match_channels(rows, want.channels) if have.channels else rows
        many, samples = want.shape
        if rows.data.shape[1] != many:
            raise DataError(f"the model takes {many} channels, the recording has {rows.data.shape[1]}; give those of the fit")
        if have.times is not None and want.times is None:
            raise DataError("the model was fitted without times, so the rate cannot be compared; fit again with times= or sfreq=")
        if have.times is not None and want.times is not None:
            check_rate(rows, rate=_rate(want.times), window=(float(want.times[0]), float(want.times[-1])))
        if rows.data.shape[2] != samples:
            raise DataError(f"the model takes {samples} samples, the recording has {rows.data.shape[2]}; cut the same window")
        share = have.size / want.size
        if not 1 / APART <= share <= APART:
            raise DataError(
                f"the recording is {share:.2g} times as large as the one fitted (median absolute values {have.size:.2g} and "
                f"{want.size:.2g} {want.unit}); give both in one unit, for an array by info={{'unit': 'V'}}"
            )
        return rows


def recorded(
    epochs: Epochs,
    *,
    ids: Iterable[str] | None = None,
    times: Any = None,
    sfreq: float | None = None,
    info: Mapping[str, Any] | None = None,
) -> Recorded:
    """mne.Epochs, `Responses`, or an array (trial, channel, time) as one table in uV, fT or fT/cm.

    mne.Epochs are volts, tesla and tesla per metre and are converted by the type of their channels; channels that are no data
    (eog, stim, ...) and, with a warning, bad ones are left out, as MNE leaves them out.
    An array is what `info` says: an mne.Info (so its numbers
    are volts or tesla, as in mne.EpochsArray), or a dict with any of ch_names, sfreq and unit, one of V, mV, uV, T, fT, T/m,
    fT/cm, z (whitened or z-scored). Without a unit its numbers are taken as they are. sfreq alone: the window starts at 0 s.
    ids: the image of each row.

    Raises DataError for several types of channels in one recording, numbers that the unit cannot have, integer ids, times that
    do not fit, and anything that is no recording.
    """
    if isinstance(epochs, Responses):
        _only(epochs, times=times, sfreq=sfreq, info=info)
        if epochs.measure == "psc" or epochs.data.ndim != 3:
            raise DataError(f"{epochs!r} is no recording of EEG or MEG; give (trial, channel, time) in uV, fT or z")
        names = tuple(map(str, epochs.units["channel"])) if "channel" in epochs.units.columns else ()
        rows = epochs if names else replace(epochs, units=_units(epochs.data.shape[1], ()))
        rows = rows if ids is None else replace(rows, trials=rows.trials.assign(stimulus=_row_ids(ids, len(rows))))
        return _checked(rows, names, np.asarray(epochs.times), epochs.measure, True)
    data, names, axis, unit, factor = _from_mne(epochs, info) if _is_mne(epochs) else _from_array(epochs, info)
    if _is_mne(epochs):
        _only(epochs, times=times, sfreq=sfreq)
    else:
        axis = _times(times, sfreq, info, data.shape[2])
    if factor != 1.0:
        scaled = np.empty(data.shape, np.float32)
        data = np.multiply(data, factor, out=scaled, casting="same_kind")
    shown = as_ids(map(str, range(len(data)))) if ids is None else _row_ids(ids, len(data))
    table = Responses(
        data, pd.DataFrame({"stimulus": shown}), _units(data.shape[1], names), None,
        np.arange(data.shape[2], dtype=float) if axis is None else axis, "uV" if unit == "uV" else "fT" if "fT" in unit else "z",
    )  # fmt: skip
    return _checked(table, names, axis, unit, ids is not None)


def tables(rows: Recorded, images: Any, texts: Any = None) -> tuple[Responses, Features, Features | None]:
    """The rows named by their images, and embeddings of images (layer "image") and texts (layer "text") by these names.

    images, texts: (trial, d), a row for each trial; or {id: (d,)} or Features, with the ids of the rows given. Without ids rows
    of equal embeddings are one image. Raises DataError for arrays of other lengths, NaN, an id with two embeddings, ids without.
    """
    if not rows.named:
        if isinstance(images, (Mapping, Features)):
            raise DataError("images by id need the id of each row; give ids=[...]")
        values = embeddings(images, "images", len(rows.responses))
        _, first, group = np.unique(values, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))  # images are numbered as they first come
        names = np.array([f"image{number:06d}" for number in order[group.ravel()]])
        responses = replace(rows.responses, trials=rows.responses.trials.assign(stimulus=names))
    else:
        responses = rows.responses
    shown = responses.trials["stimulus"].to_numpy(dtype=str)
    found = by_id(images, shown, "image")
    return responses, found, None if texts is None else by_id(texts, shown, "text")


def by_id(values: Any, shown: np.ndarray, layer: str) -> Features:
    """Embeddings of the images `shown` (trial,) as Features of one layer; Features with that layer are given back."""
    what = f"{layer}s"
    if isinstance(values, Features):
        if layer not in values.data:
            raise DataError(f"{what}: features have the layers {list(values.data)}; the embeddings are in layer {layer!r}")
        positions(np.unique(shown), values.ids, what)
        return values
    if isinstance(values, Mapping):
        names = as_ids(values, what)
        table = embeddings(np.stack([np.asarray(value) for value in values.values()]), what, len(names))
        positions(np.unique(shown), names, what)
        return Features({layer: table}, names, "given")
    table = embeddings(values, what, len(shown))
    names, first, group = np.unique(shown, return_index=True, return_inverse=True)
    other = np.flatnonzero((table != table[first][group]).any(axis=1))
    if len(other):
        raise DataError(f"{what}: {str(shown[other[0]])!r} has several embeddings, row {other[0]} another; give each image one")
    return Features({layer: table[first]}, names, "given")


def embeddings(values: Any, what: str, rows: int | None = None) -> np.ndarray:
    """(n, d) float32 of numpy or torch. Raises DataError for text, another shape, NaN, or another number of rows."""
    table = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if table.dtype.kind not in "fiu" or table.ndim != 2:
        raise DataError(f"{what}: embeddings are numbers (n, d), got {table.dtype} {table.shape}; embed them first")
    if rows is not None and len(table) != rows:
        raise DataError(f"{what}: {len(table)} rows for {rows} trials; give one for each trial, or {{id: embedding}} with ids=")
    table = np.asarray(table, np.float32)
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise DataError(f"{what}: {len(bad)} rows hold NaN or infinity, first row {bad[0]}; leave their trials out")
    return table


def _is_mne(epochs: Any) -> bool:
    mne = sys.modules.get("mne")  # an mne.Epochs does not exist before mne is imported
    return mne is not None and isinstance(epochs, mne.BaseEpochs)


def _from_mne(epochs: Any, info: Mapping[str, Any] | None) -> tuple[np.ndarray, tuple[str, ...], np.ndarray, str, float]:
    if info is not None and set(info) != {"unit"}:
        raise DataError("mne.Epochs carry channels and times of their own; info= may only say {'unit': ...}")
    picks, unit = data_channels(epochs.info, epochs.get_channel_types())
    if not len(epochs.selection):
        raise DataError("no epoch is left; look at epochs.drop_log")
    unit, factor = measure_of(info["unit"] if info is not None else unit)
    data = epochs.get_data(picks=picks, copy=False)
    return data, tuple(epochs.ch_names[i] for i in picks), np.asarray(epochs.times), unit, factor


def _from_array(epochs: Any, info: Mapping[str, Any] | None) -> tuple[np.ndarray, tuple[str, ...], None, str, float]:
    data = epochs.detach().cpu().numpy() if hasattr(epochs, "detach") else epochs
    data = data if isinstance(data, np.ndarray) or hasattr(data, "parts") else np.asarray(data)
    if data.ndim != 3 or data.dtype.kind not in "fiu" or not data.size:
        raise DataError(
            f"epochs are mne.Epochs or numbers (trial, channel, time), got {type(epochs).__name__} {data.dtype} {data.shape}"
        )
    info = {} if info is None else info
    names, unit, factor = tuple(map(str, info.get("ch_names", ()))), "", 1.0
    if names and len(names) != data.shape[1]:
        raise DataError(f"info names {len(names)} channels, the array has {data.shape[1]}; it is (trial, channel, time)")
    if len(set(names)) != len(names):
        raise DataError("info names a channel twice; channels are matched by name")
    if "chs" in info:  # an mne.Info
        picks, si = data_channels(info, info.get_channel_types())  # type: ignore[attr-defined]
        unit, factor = measure_of(si)
        data, names = data[:, picks], tuple(names[i] for i in picks)
    elif info.get("unit") is not None:
        unit, factor = measure_of(info["unit"])
    return data, names, None, unit, factor


def _times(times: Any, sfreq: float | None, info: Mapping[str, Any] | None, samples: int) -> np.ndarray | None:
    """The time of each sample in s, None where neither times nor a rate is given."""
    rates = [float(rate) for rate in (sfreq, (info or {}).get("sfreq")) if rate is not None]
    if any(not rate > 0 for rate in rates) or (len(rates) == 2 and abs(rates[0] - rates[1]) > 0.01 * rates[0]):
        raise DataError(f"sampling rates {rates} Hz, by sfreq= and in info; give one above 0")
    if times is None:
        return np.arange(samples) / rates[0] if rates else None
    axis = np.asarray(times, dtype=float)
    if axis.shape != (samples,) or samples < 2 or not (np.diff(axis) > 0).all():
        raise DataError(f"times of shape {axis.shape} for {samples} samples; give the rising time of every sample in s")
    if rates and abs(_rate(axis) - rates[0]) > 0.01 * rates[0]:
        raise DataError(f"times are sampled at {_rate(axis):.4g} Hz, the rate given is {rates[0]:g} Hz; times are in seconds")
    return axis


def _rate(times: np.ndarray) -> float:
    return 1 / float(np.median(np.diff(times)))


def _only(epochs: Any, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise DataError(f"{name}= is for arrays; {type(epochs).__name__} carry it themselves, leave it out")


def _units(many: int, names: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame({"channel": list(names) if names else [f"number {i}" for i in range(many)]})


def _row_ids(ids: Iterable[str], rows: int) -> np.ndarray:
    names = as_ids(ids)
    if len(names) != rows:
        raise DataError(f"{len(names)} ids for {rows} trials; name the image of each trial")
    return names


def _checked(rows: Responses, names: tuple[str, ...], times: np.ndarray | None, unit: str, named: bool) -> Recorded:
    """The recording with its median |x| over some trials, or DataError where a unit cannot have that size."""
    listed = f"one of {list(UNITS)}"
    way = f"mne.Epochs are volts and tesla. Say what its numbers are by info={{'unit': ...}}, {listed}, or multiply them"
    size = check_size(typical_size(rows.data), unit, way if unit else f"say so by info={{'unit': 'V'}}, {listed}")
    shape = (rows.data.shape[1], rows.data.shape[2])
    return Recorded(rows, Layout(names, times, unit, size, shape), named)
