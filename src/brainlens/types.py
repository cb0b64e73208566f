"""The four tables that travel between stages: stimuli, responses, features, results.

Brain responses, images and captions are tables joined by a stimulus id. Each class here checks its own
columns against its own rows on creation, so that a mismatch is an error where it arises and not three
stages later. Only numpy and pandas are imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

MAX_BAD_UNITS = 0.20  # share of units with missing values above which a recording is refused


class DataError(ValueError):
    """A mistake in the data or in what was asked of it; its text is one line that names the way out."""


def as_ids(ids: Iterable[Any], what: str = "ids") -> np.ndarray:
    """Ids as an array of unicode strings; numbers are refused, because "001" and 1 are different images."""
    listed = list(ids)
    wrong = [value for value in listed if not isinstance(value, str)]
    if wrong:
        raise DataError(f"{what}: ids are strings, got {type(wrong[0]).__name__} {wrong[0]!r}; read them with dtype=str")
    return np.array(listed, dtype=np.str_) if listed else np.empty(0, dtype="<U1")


def unique_ids(ids: Iterable[Any], what: str = "ids") -> np.ndarray:
    """Ids as strings, each once."""
    array = as_ids(ids, what)
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{what}: {int((counts > 1).sum())} ids occur more than once, first {str(values[counts > 1][0])!r}")
    return array


def positions(of: Iterable[str], among: Iterable[str], what: str = "stimulus") -> np.ndarray:
    """Row numbers of the ids `of` in the table whose ids are `among`.

    Raises DataError naming the first missing ids.
    """
    row = {name: i for i, name in enumerate(among)}
    wanted = list(of)
    missing = [name for name in dict.fromkeys(wanted) if name not in row]
    if missing:
        raise DataError(f"{what}: {len(missing)} ids are not there, first {missing[:3]}; the table holds {len(row)} ids")
    return np.fromiter((row[name] for name in wanted), dtype=np.int64, count=len(wanted))


def choose(table: pd.DataFrame, wanted: Mapping[str, Any], what: str) -> np.ndarray:
    """Boolean row mask of a table for column=value or column=[values]; unknown names list the known ones."""
    keep = np.ones(len(table), dtype=bool)
    for column, value in wanted.items():
        if column not in table.columns:
            raise DataError(f"{what} has no column {column!r}; it has {sorted(map(str, table.columns))}")
        values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        have = table[column]
        unknown = [v for v in values if not (have == v).any()]
        if unknown:
            some = sorted(map(str, pd.unique(have.dropna())))[:30]
            raise DataError(f"{what} column {column!r} has no value {unknown[0]!r}; it has {some}")
        keep &= have.isin(values).to_numpy()
    return keep


@dataclass(frozen=True)
class Volume:
    """A voxel space: `mask` (x, y, z) bool, its True voxels in C order are the units; `affine` (4, 4) to mm."""

    mask: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.mask.ndim != 3 or self.mask.dtype != bool:
            raise DataError(f"volume mask must be a 3-D bool array, got {self.mask.dtype} {self.mask.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all() or abs(np.linalg.det(self.affine)) < 1e-12:
            raise DataError(f"volume affine must be an invertible (4, 4) matrix, got shape {self.affine.shape}")

    def __len__(self) -> int:
        return int(self.mask.sum())

    def coordinates(self) -> np.ndarray:
        """Millimetre coordinates (unit, 3) of the voxel centres."""
        index = np.argwhere(self.mask)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def fill(self, values: np.ndarray, outside: float = np.nan) -> np.ndarray:
        """Values (unit,) put back into a volume (x, y, z)."""
        if values.shape != (len(self),):
            raise DataError(f"values {values.shape} do not fit a mask of {len(self)} voxels")
        out = np.full(self.mask.shape, outside, dtype=np.result_type(values.dtype, np.float32))
        out[self.mask] = values
        return out


@dataclass(frozen=True)
class Surface:
    """A cortical surface: `mesh` name (fsaverage5, ...), `hemisphere` and `vertex` (unit,) of each unit."""

    mesh: str
    hemisphere: np.ndarray
    vertex: np.ndarray

    def __post_init__(self) -> None:
        if self.hemisphere.shape != self.vertex.shape or self.vertex.ndim != 1:
            raise DataError(f"surface: hemisphere {self.hemisphere.shape} and vertex {self.vertex.shape} must match")
        if not set(np.unique(self.hemisphere)) <= {"left", "right"}:
            raise DataError("surface: hemisphere holds 'left' or 'right'")

    def __len__(self) -> int:
        return len(self.vertex)


@dataclass(frozen=True)
class Sensors:
    """EEG or MEG sensors: `names`, and `positions` (unit, 3) in metres in the head frame."""

    names: np.ndarray
    positions: np.ndarray

    def __post_init__(self) -> None:
        if self.positions.shape != (len(self.names), 3):
            raise DataError(f"sensors: {len(self.names)} names but positions {self.positions.shape}")

    def __len__(self) -> int:
        return len(self.names)


Space = Volume | Surface | Sensors


@dataclass(frozen=True)
class Stimuli:
    """Images with their captions.

    ids (n,) strings, unique; images[i] -> (h, w, 3) uint8, an array or any lazy sequence;
    captions: one list of strings per image (may be empty lists); table: one row per image.
    """

    ids: np.ndarray
    images: Sequence[np.ndarray] | np.ndarray
    captions: list[list[str]] = field(default_factory=list)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", unique_ids(self.ids, "stimuli"))
        n = len(self.ids)
        if not self.captions:
            object.__setattr__(self, "captions", [[] for _ in range(n)])
        if self.table.empty and len(self.table) != n:
            object.__setattr__(self, "table", pd.DataFrame(index=range(n)))
        for name, size in [("images", len(self.images)), ("captions", len(self.captions)), ("table", len(self.table))]:
            if size != n:
                raise DataError(f"stimuli: {n} ids but {size} {name}")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Stimuli(n={len(self)}, captions={sum(map(len, self.captions))}, columns={list(self.table.columns)})"

    def take(self, ids: Iterable[str]) -> Stimuli:
        """The stimuli with these ids, in this order."""
        rows = positions(ids, self.ids)
        images = self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[i] for i in rows]
        table = self.table.iloc[rows].reset_index(drop=True)
        return Stimuli(self.ids[rows], images, [self.captions[i] for i in rows], table)


@dataclass(frozen=True)
class Responses:
    """Brain responses.

    data (trial, unit) or (trial, unit, time), an array, a memory map, or rows of some that are read when asked for
    (`store.LazyRows`); trials: `stimulus` (string) and any of subject, session, run, repeat, split; units: any of x y z (mm),
    roi, channel, ncsnr; space; times in s;
    measure: "z", "psc", "uV" or "fT".
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
        if self.measure not in ("z", "psc", "uV", "fT"):
            raise DataError(f"measure {self.measure!r} is not one of z, psc, uV, fT")
        object.__setattr__(self, "trials", self.trials.reset_index(drop=True))
        object.__setattr__(self, "units", self.units.reset_index(drop=True))

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
        return replace(self, data=self.data[:, numbers], units=self.units.iloc[numbers], space=_subspace(self.space, numbers))

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

    def zscore(self, by: str | None = "session", fit_on: str | None = "train") -> Responses:
        """Each unit to mean 0 and variance 1 within each `by` group (subjects are never mixed).

        Statistics come from the trials with split == fit_on only (None: from all), because a test trial must
        not shape what it is tested with. Constant units become 0/0 = NaN and are left to `clean` to report.
        """
        keys = [k for k in ("subject", by) if k is not None and k in self.trials.columns]
        if by is not None and by not in self.trials.columns:
            raise DataError(f"zscore(by={by!r}): trials have no such column; they have {sorted(map(str, self.trials.columns))}")
        group, first = _groups(self.trials, keys) if keys else (np.zeros(len(self), int), np.array([0]))
        fit = np.ones(len(self), bool) if fit_on is None else choose(self.trials, {"split": fit_on}, "trials")
        out = np.empty(self.data.shape, dtype=np.float32)
        for g in range(len(first)):
            rows, base = np.flatnonzero(group == g), np.flatnonzero((group == g) & fit)
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
        """Without the units that hold NaN or infinite values or never change; and how many of each were dropped.

        Raises DataError when more than 20 % of the units hold missing values.
        """
        flat = (0, 2) if self.data.ndim == 3 else (0,)
        bad = ~np.isfinite(self.data).all(axis=flat)
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


@dataclass(frozen=True)
class Features:
    """Layered features of a network.

    data[layer] (stimulus, feature): the global token or the embedding; tokens[layer] (stimulus, token, channel):
    the spatial tokens in row-major order of grid[layer] = (rows, columns), where the layer has them.
    """

    data: dict[str, np.ndarray]
    ids: np.ndarray
    model: str
    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    grid: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", unique_ids(self.ids, "features"))
        n = len(self.ids)
        if not self.data and not self.tokens:
            raise DataError("features hold no layer")
        for kind, arrays, ndim in (("data", self.data, 2), ("tokens", self.tokens, 3)):
            for layer, array in arrays.items():
                if array.ndim != ndim or array.shape[0] != n:
                    raise DataError(f"features {kind}[{layer!r}]: expected {ndim} axes and {n} rows, got {array.shape}")
        for layer, array in self.tokens.items():
            rows, columns = self.grid.get(layer, (0, 0))
            if rows * columns != array.shape[1]:
                raise DataError(f"features tokens[{layer!r}]: grid {rows} x {columns} does not make {array.shape[1]} tokens")

    @property
    def layer(self) -> list[str]:
        """Layer names, in network order."""
        return list(dict.fromkeys([*self.data, *self.tokens]))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Features({self.model}, n={len(self)}, layers={self.layer})"

    def __getitem__(self, layer: str) -> np.ndarray:
        if layer not in self.data:
            raise DataError(f"{self.model} has no layer {layer!r}; it has {self.layer}")
        return self.data[layer]

    def take(self, ids: Iterable[str]) -> Features:
        """The rows with these ids, in this order (an id may be asked for once)."""
        rows = positions(ids, self.ids, "features")
        data = {k: v[rows] for k, v in self.data.items()}
        return replace(self, data=data, tokens={k: v[rows] for k, v in self.tokens.items()}, ids=self.ids[rows])

    def check_finite(self) -> Features:
        """Self, or DataError naming the first layer and image with a missing or overflowed value."""
        for layer, array in [*self.data.items(), *self.tokens.items()]:
            bad = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
            if bad.any():
                raise DataError(
                    f"features of {self.model}, layer {layer!r}: image {str(self.ids[bad][0])!r} holds NaN or infinity"
                )
        return self


@dataclass(frozen=True)
class Result:
    """What a verb returns.

    metrics: flat names `group/name` -> float; arrays: named arrays, with `units` as the table of their unit axis;
    tables: further small tables for the report; config: every argument; provenance: versions, seed, fingerprints.
    """

    task: str
    metrics: dict[str, float]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    units: pd.DataFrame | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    space: Space | None = None

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            if not isinstance(value, (int, float, np.floating, np.integer)):
                raise DataError(f"metric {name!r} must be a number, got {type(value).__name__}")

    def __repr__(self) -> str:
        return f"Result({self.task}, metrics={len(self.metrics)}, arrays={ {k: v.shape for k, v in self.arrays.items()} })"


def check_no_leak(train: Stimuli, test: Stimuli) -> None:
    """Raises DataError if a test image is in the training set, by id or by pixels."""
    shared = sorted(set(train.ids) & set(test.ids))
    if shared:
        raise DataError(f"{len(shared)} test images are in the training set by id, first {str(shared[0])!r}")
    seen = {image_key(image): name for name, image in zip(train.ids, train.images, strict=True)}
    for name, image in zip(test.ids, test.images, strict=True):
        if image_key(image) in seen:
            raise DataError(f"test image {str(name)!r} has the same pixels as training image {str(seen[image_key(image)])!r}")


def image_key(image: np.ndarray) -> bytes:
    """Shape and bytes of an image, hashed: two ids with the same key show the same pixels."""
    import hashlib

    array = np.ascontiguousarray(image)
    return hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).digest()


def _as_index(index: np.ndarray) -> np.ndarray:
    index = np.asarray(index)
    return np.flatnonzero(index) if index.dtype == bool else index


def _groups(table: pd.DataFrame, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Group number of each row in order of first appearance, and the first row of each group."""
    group = table.groupby(keys, sort=False, observed=True, dropna=False).ngroup().to_numpy()
    _, first = np.unique(group, return_index=True)
    return group, first


def _subspace(space: Space | None, numbers: np.ndarray) -> Space | None:
    """The space of a subset of units; a volume keeps the order of its voxels, so a reordering is refused."""
    if space is None:
        return None
    if isinstance(space, Volume):
        if (np.diff(numbers) <= 0).any():
            raise DataError("voxels of a volume can be selected, not reordered or repeated")
        mask = np.zeros_like(space.mask)
        mask[tuple(np.argwhere(space.mask)[numbers].T)] = True
        return Volume(mask, space.affine)
    if isinstance(space, Surface):
        return Surface(space.mesh, space.hemisphere[numbers], space.vertex[numbers])
    return Sensors(space.names[numbers], space.positions[numbers])
