"""Units of EEG and MEG: what MNE keeps, what tables hold, and sizes that cannot be right.

One rule for everyone who reads a recording. MNE keeps volts, tesla and tesla per metre, and they are converted by the type of
the channels; channels that are no data and bad ones are left out, the bad ones with a word; a median that a unit cannot have is
an error with the way out. Nothing is multiplied by a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from brainlens.types.ids import DataError
from brainlens.warned import warn

UNITS = {
    "V": ("uV", 1e6), "mV": ("uV", 1e3), "uV": ("uV", 1.0), "T": ("fT", 1e15), "fT": ("fT", 1.0),
    "T/m": ("fT/cm", 1e13), "fT/cm": ("fT/cm", 1.0), "z": ("z", 1.0),
}  # fmt: skip
SI = {"eeg": "V", "seeg": "V", "ecog": "V", "dbs": "V", "mag": "T", "grad": "T/m"}  # of MNE's channel types
LIMITS = {"uV": (1e-3, 3e5), "fT": (1e-2, 1e9), "fT/cm": (1e-2, 1e9), "z": (1e-4, 1e3), "": (1e-3, np.inf)}  # of the median |x|
LOOKED_AT = 64  # trials


def measure_of(unit: Any) -> tuple[str, float]:
    """(measure of the table, factor that brings numbers of this unit to it). Raises DataError listing the units."""
    if unit not in UNITS:
        raise DataError(f"unit {unit!r} is not one of {list(UNITS)}")
    return UNITS[unit]


def data_channels(info: Mapping[str, Any], types: Sequence[str], *, pick: str = "epochs.copy().pick") -> tuple[list[int], str]:
    """Numbers of the good data channels of an mne.Info, and the SI unit of their one type.

    Channels that are no data (eog, stim, ...) are left out, bad ones with a warning that names them. Raises DataError where
    none is left, or where they are of several types, which have no common unit; pick: how to choose one type.
    """
    bads = set(info["bads"])
    data = [i for i, kind in enumerate(types) if kind in SI]
    picks = [i for i in data if info["ch_names"][i] not in bads]
    kinds = sorted({types[i] for i in picks})
    if not picks:
        there = ", ".join(sorted(set(types)))
        raise DataError(f"no good channel of EEG or MEG is found; the types are {there}, {len(bads)} are marked bad")
    if len(kinds) > 1:
        raise DataError(f"channels of the types {', '.join(kinds)} have no common unit; pick one, e.g. {pick}({kinds[0]!r})")
    if len(picks) < len(data):
        left = [info["ch_names"][i] for i in data if i not in picks]
        warn(f"{len(left)} of {len(data)} channels are marked bad and left out: {', '.join(left)}")
    return picks, SI[kinds[0]]


def typical_size(data: Any) -> float:
    """Median |x| over some of the trials, without missing values; NaN where there is nothing else."""
    chosen = np.unique(np.linspace(0, len(data) - 1, LOOKED_AT).astype(int))
    part = np.abs(np.asarray(data[chosen], dtype=np.float64))
    fine = np.isfinite(part)
    return float(np.median(part[fine])) if fine.any() else float("nan")


def check_size(size: float, unit: str, way: str) -> float:
    """The median |x| of a recording itself, or DataError where `unit` ("" for unknown) cannot have it; way: the way out."""
    low, high = LIMITS[unit]
    if low <= size <= high:
        return size
    found = f"the median absolute value of the recording is {size:.2g} {unit}".rstrip()
    if not size > 0:
        raise DataError(f"{found}; it is flat or holds NaN")
    looks = ", which looks like volts or tesla" if size < low else ""
    if not unit:
        raise DataError(f"{found}{looks}; {way}")
    raise DataError(f"{found}{looks}, and no recording in {unit} has it ({low:g} to {high:g}); {way}")


def check_magnitudes(data: Any, subjects: Iterable[str], measure: str, way: str) -> None:
    """Raises DataError, which names the subject, where the numbers of one cannot be in uV, fT or fT/cm; way: the way out.

    A subject without any value is left to those who look for missing ones; other measures have no size of their own.
    """
    if measure not in ("uV", "fT", "fT/cm"):
        return
    names = np.array(list(subjects), dtype=str)
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(names == name)
        size = typical_size(data[rows[np.unique(np.linspace(0, len(rows) - 1, LOOKED_AT).astype(int))]])
        try:
            if not np.isnan(size):
                check_size(size, measure, way)
        except DataError as error:
            raise DataError(f"subject {str(name)!r}: {error}" if name else str(error)) from None
