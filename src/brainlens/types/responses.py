"""Brain responses: trials by units (by time), with what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from brainlens.types import arrays
from brainlens.types.ids import DataError, as_ids, choose
from brainlens.types.sensor_units import check_magnitudes
from brainlens.types.spaces import Space, subspace

MAX_BAD_UNITS = 0.20  # share of units with missing values above which a recording is refused
LARGEST = 1e18  # beyond it the square of a value is infinite in float32
MEASURES = ("z", "psc", "uV", "fT", "fT/cm")


@dataclass(frozen=True)
class Responses:
    """Brain responses.

    data (trial, unit) or (trial, unit, time), an array, a memory map, or rows of some that are read when asked for
    (`store.LazyRows`); trials: `stimulus` (string) and any of subject, session, run, repeat, split; units: any of x y z (mm),
    roi, channel, ncsnr; space; times in s;
    measure: "z", "psc", "uV", "fT" or "fT/cm" (planar gradiometers).
    """

    data: np.ndarray
    trials: pd.DataFrame
    units: pd.DataFrame
    space: Space | None = None
    times: np.ndarray | None = None
    measure: str = "z"

    def __post_init__(self) -> None:
        data = self.data
        if data.ndim not in (2, 3):
            raise DataError(f"responses are (trial, unit) or (trial, unit, time), got shape {data.shape}")
        n_trials, n_units = len(self.trials), len(self.units)
        if data.shape[:2] != (n_trials, n_units):
            turned = data.shape[:2] == (n_units, n_trials)
            hint = "; the axes look swapped, pass data.T" if turned else ""
            raise DataError(f"responses {data.shape} do not match {n_trials} trials and {n_units} units{hint}")
        if "stimulus" not in self.trials.columns:
            raise DataError(f"trials need a column 'stimulus'; they have {sorted(map(str, self.trials.columns))}")
        as_ids(self.trials["stimulus"], "trials.stimulus")
        if data.ndim == 3 and (self.times is None or len(self.times) != data.shape[2]):
            have = None if self.times is None else len(self.times)
            raise DataError(f"responses have {data.shape[2]} time points but times has {have}")
        if self.space is not None and len(self.space) != n_units:
            raise DataError(f"responses have {n_units} units but the space holds {len(self.space)}")
        if self.measure not in MEASURES:
            raise DataError(f"measure {self.measure!r} is not one of {', '.join(MEASURES)}")
        object.__setattr__(self, "trials", self.trials.reset_index(drop=True))
        object.__setattr__(self, "units", self.units.reset_index(drop=True))

    @classmethod
    def from_arrays(
        cls,
        Y: Any,
        stimulus_ids: Iterable[str],
        *,
        xyz: Any = None,
        mask_img: Any = None,
        roi: Sequence[str] | None = None,
        times: Any = None,
        channels: Sequence[str] | None = None,
        measure: str = "z",
        **trials: Any,
    ) -> Responses:
        """Responses from an array Y (trial, unit) or (trial, unit, time), of numpy or torch, and the stimulus of each trial.

        xyz: (unit, 3) in mm; or mask_img: the mask Y was read with, a 3-D nibabel image or its path, whose voxels above zero
        in C order (as nilearn gives them) are the units. roi, channels: a name for each unit; times: seconds, one a time point.
        trials: split ("train", "test"), subject, session, run, repeat, condition, category, one value a trial or one for all.
        Raises DataError for ids that are no strings, lengths that do not match, NaN, and numbers that the measure cannot have.
        """
        given = {"xyz": xyz, "mask_img": mask_img, "roi": roi, "times": times, "channels": channels}
        found = cls(**arrays.responses_from_arrays(Y, stimulus_ids, **given, trials=trials), measure=measure)
        check_magnitudes(found.data, [""] * len(found), measure, "give them in this unit (volts times 1e6 are uV)")
        return found

    @classmethod
    def from_images(
        cls,
        nifti: Any,
        mask: Any,
        stimulus_ids: Iterable[str],
        *,
        roi: Sequence[str] | None = None,
        measure: str = "z",
        **trials: Any,
    ) -> Responses:
        """Responses from a 4-D image (x, y, z, trial), such as GLM betas, under a mask of the same grid.

        nifti, mask: nibabel images or their paths; nothing is resampled, scaled or shifted. The rest as in `from_arrays`.
        Raises DataError for another grid or affine, damaged files, and voxels of the mask that hold NaN.
        """
        data, space = arrays.masked(nifti, mask)
        return cls.from_arrays(data, stimulus_ids, mask_img=space, roi=roi, measure=measure, **trials)

    @classmethod
    def from_epochs(cls, epochs: Any, *, stimulus: str | None = None, **trials: Any) -> Responses:
        """Responses (trial, channel, time) from mne.Epochs, in the unit of the channels: V to uV, T to fT, T/m to fT/cm.

        stimulus: the metadata column with the stimulus ids, None for the names of the events. All other metadata columns are
        kept, as `condition`, which can be decoded; trials: split, subject, session, run, repeat, condition, category by hand,
        one value a trial or one for all.
        Channels that are no data are left out, and those marked bad with a warning that names them.
        Raises DataError for channels of several types, NaN, and magnitudes that volts or tesla do not have.
        """
        return cls(**arrays.responses_from_epochs(epochs, stimulus, trials))

    def to_epochs(self) -> Any:
        """The trials as mne.EpochsArray in volts, tesla or T/m, with their table as metadata, for MNE's figures and files.

        Events are named by the stimulus. Raises DataError for responses without times, and for numbers in no unit (z).
        """
        return arrays.epochs_of(self)

    def __len__(self) -> int:
        return len(self.trials)

    def __repr__(self) -> str:
        where = type(self.space).__name__ if self.space is not None else "no space"
        images = self.trials["stimulus"].nunique()
        return f"Responses{self.data.shape}(stimuli={images}, {where}, {self.measure})"

    def rows(self, index: np.ndarray) -> Responses:
        """The trials at these row numbers (or under this mask), in this order."""
        return replace(self, data=self.data[index], trials=self.trials.iloc[_as_index(index)])

    def columns(self, index: np.ndarray) -> Responses:
        """The units at these numbers (or under this mask)."""
        numbers = _as_index(index)
        return replace(self, data=self.data[:, numbers], units=self.units.iloc[numbers], space=subspace(self.space, numbers))

    def where(self, **trials: Any) -> Responses:
        """Trials by column, e.g. where(split="test", subject=["1", "2"])."""
        return self.rows(choose(self.trials, trials, "trials"))

    def pick(self, **units: Any) -> Responses:
        """Units by column, e.g. pick(roi=["FFA", "PPA"])."""
        return self.columns(choose(self.units, units, "units"))

    def average(self) -> Responses:
        """Mean over the repeats of each stimulus (and subject), in order of first appearance.

        The new column `repeats` counts what was averaged.
        """
        keys = [k for k in ("subject", "stimulus") if k in self.trials.columns]
        group, first = _groups(self.trials, keys)
        n = len(first)
        out = np.zeros((n, *self.data.shape[1:]), dtype=np.float32)
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(n))
        counts = np.bincount(group, minlength=n)
        for i in range(n):  # one stimulus at a time, so that a memory map is never whole in memory
            out[i] = np.asarray(self.data[order[starts[i] : starts[i] + counts[i]]], dtype=np.float64).mean(axis=0)
        trials = self.trials.iloc[first].assign(repeats=counts)
        return replace(self, data=out, trials=trials.drop(columns=["repeat"], errors="ignore"))

    def zscore(self, by: str | None = "session", fit_on: str | None = "train", *, alone: bool = False) -> Responses:
        """Each unit to mean 0 and variance 1 within each `by` group (subjects are never mixed).

        Statistics come from the trials with split == fit_on only (None: from all), because a test trial must
        not shape what it is tested with. alone: groups with fewer than 2 such trials, as a session of test images, take the
        statistics of all their own; else they are an error. Constant units become 0/0 = NaN and are left to `clean` to report.
        """
        keys = [k for k in ("subject", by) if k is not None and k in self.trials.columns]
        if by is not None and by not in self.trials.columns:
            have = sorted(map(str, self.trials.columns))
            way_out = "give by=None for all trials together"
            raise DataError(f"zscore(by={by!r}): trials have no column {by!r}; they have {have}; {way_out}")
        group, first = _groups(self.trials, keys) if keys else (np.zeros(len(self), int), np.array([0]))
        fit = np.ones(len(self), bool) if fit_on is None else choose(self.trials, {"split": fit_on}, "trials")
        out = np.empty(self.data.shape, dtype=np.float32)
        for g in range(len(first)):
            rows, base = np.flatnonzero(group == g), np.flatnonzero((group == g) & fit)
            base = rows if alone and len(base) < 2 <= len(rows) else base
            if len(base) < 2:
                raise DataError(f"zscore: group {g} of {keys} has {len(base)} trials with split={fit_on!r}; it needs 2")
            block = np.asarray(self.data[base], dtype=np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                out[rows] = (np.asarray(self.data[rows], dtype=np.float64) - block.mean(axis=0)) / block.std(axis=0)
        return replace(self, data=out, measure="z")

    def split(self) -> dict[str, Responses]:
        """One Responses per value of the column `split`, in order of appearance."""
        if "split" not in self.trials.columns:
            raise DataError("trials have no column 'split'; add one with values train, validation, test")
        return {str(name): self.where(split=name) for name in pd.unique(self.trials["split"])}

    def clean(self) -> tuple[Responses, dict[str, int]]:
        """Without the units that hold NaN, infinite or absurd values (1e18) or never change; and how many of each were dropped.

        Raises DataError when more than 20 % of the units hold missing values.
        """
        flat = (0, 2) if self.data.ndim == 3 else (0,)
        largest = min(LARGEST, float(np.finfo(self.data.dtype).max)) if self.data.dtype.kind == "f" else LARGEST
        bad = ~(np.abs(self.data) <= largest).all(axis=flat)
        if bad.mean() > MAX_BAD_UNITS:
            raise DataError(
                f"{bad.mean():.0%} of the {len(bad)} units hold NaN or infinite values; the limit is {MAX_BAD_UNITS:.0%}"
            )
        constant = ~bad & (np.ptp(self.data, axis=flat) == 0)
        keep = ~(bad | constant)
        if not keep.any():
            raise DataError("no unit is left after dropping missing and constant ones")
        counts = {"units_missing": int(bad.sum()), "units_constant": int(constant.sum())}
        return (self if keep.all() else self.columns(keep)), counts


def _as_index(index: np.ndarray) -> np.ndarray:
    index = np.asarray(index)
    return np.flatnonzero(index) if index.dtype == bool else index


def _groups(table: pd.DataFrame, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Group number of each row in order of first appearance, and the first row of each group."""
    group = table.groupby(keys, sort=False, observed=True, dropna=False).ngroup().to_numpy()
    _, first = np.unique(group, return_index=True)
    return group, first
