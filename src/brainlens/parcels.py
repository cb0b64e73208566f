"""A partition of units into parcels: named regions, the labels of an atlas, or cubic patches; and which of them to keep.

A unit lies in one parcel or in none. Names of atlas parcels are looked up by the VALUE of a label, never by the order of a list:
published lists are reordered between versions, and a wrong order gives a wrong brain without any sign of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from brainlens.types import DataError, Responses, Surface, Volume, read_grid
from brainlens.types.label_tables import Table, is_nothing, is_wall, lookup

MESH_VERTICES = {"fsaverage": 163842, "fsaverage6": 40962, "fsaverage5": 10242, "fsaverage4": 2562, "fsaverage3": 642}
OUTSIDE = 0.5  # share of units off an atlas's grid above which it is taken to be of another space
WRONG_SIDE = 0.1  # share of the one-sided parcels lying on the other side above which names and labels do not belong together
_SIDE = re.compile(r"(?:^|[^a-z])(lh|left|l)(?:[^a-z]|$)|(?:^|[^a-z])(rh|right|r)(?:[^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Parcels:
    """A partition: `label` (unit,) int, the number of each unit's parcel in `names`, -1 for none; `source` says where from.

    Raises DataError for numbers without a name, names that occur twice, and a parcel without units.
    """

    names: tuple[str, ...]
    label: np.ndarray
    source: str = "given"

    def __post_init__(self) -> None:
        names = tuple(str(name) for name in self.names)
        label = np.asarray(self.label)
        if label.ndim != 1 or label.dtype.kind not in "iu":
            raise DataError(f"parcels: label is (unit,) whole numbers, got {label.dtype} of shape {label.shape}")
        if not names:
            raise DataError(
                f"parcels of {self.source}: there is no parcel; check the region column, the atlas or the names asked for"
            )
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"parcels of {self.source}: {twice!r} occurs twice; give every parcel one name")
        if len(label) and (label.min() < -1 or label.max() >= len(names)):
            wrong = int(label.max() if label.max() >= len(names) else label.min())
            raise DataError(f"parcels of {self.source}: number {wrong} has no name; numbers are -1 (none) to {len(names) - 1}")
        empty = np.flatnonzero(np.bincount(label[label >= 0], minlength=len(names)) == 0)
        if len(empty):
            more = f" and {len(empty) - 1} others" if len(empty) > 1 else ""
            raise DataError(f"parcel {names[empty[0]]!r}{more} of {self.source} has no units; leave it out, or use another mask")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "label", label.astype(np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Parcels({len(self)} of {self.source}, {int((self.label >= 0).sum())} of {len(self.label)} units)"

    @property
    def members(self) -> list[np.ndarray]:
        """The units of each parcel, ascending."""
        order = np.argsort(self.label, kind="stable")
        ends = np.searchsorted(self.label[order], np.arange(len(self) + 1))
        return [order[a:b] for a, b in pairwise(ends)]

    @property
    def sizes(self) -> np.ndarray:
        """Units of each parcel (parcel,)."""
        return np.bincount(self.label[self.label >= 0], minlength=len(self))

    def keep(self, chosen: Sequence[int] | np.ndarray) -> Parcels:
        """These parcels alone, in this order; units of the others are in none."""
        numbers = np.asarray(chosen, dtype=np.int64)
        place = np.full(len(self) + 1, -1)
        place[numbers] = np.arange(len(numbers))
        return Parcels(tuple(self.names[i] for i in numbers), place[self.label], self.source)  # label -1 reads the last entry

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of values (unit,) over each parcel's units (parcel,), without those that are NaN."""
        values = np.asarray(values, dtype=np.float64)
        if values.shape != self.label.shape:
            raise DataError(f"values {values.shape} do not fit parcels of {len(self.label)} units")
        used = (self.label >= 0) & np.isfinite(values)
        count = np.bincount(self.label[used], minlength=len(self))
        total = np.bincount(self.label[used], weights=values[used], minlength=len(self))
        return np.divide(total, count, out=np.full(len(self), np.nan), where=count > 0)

    def best(self, snr: np.ndarray, p: int) -> Parcels:
        """The p parcels with the highest mean signal-to-noise ratio, best first.

        snr (unit,): noise ceiling signal-to-noise ratio from repeats of TRAINING stimuli (`metrics.noise_ceiling(...).ncsnr`).
        NeuroAdapter ranks the Schaefer-1000 parcels so (p = 200). Raises DataError for fewer parcels than p with a finite mean.
        """
        mean = self.mean(snr)
        found = int(np.isfinite(mean).sum())
        if not 1 <= p <= found:
            raise DataError(
                f"{p} parcels are asked for, {found} of {self.source} have a signal-to-noise ratio; choose 1 to {found}"
            )
        return self.keep(np.argsort(-np.where(np.isfinite(mean), mean, -np.inf), kind="stable")[:p])

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Numbers of the parcels with these names; a text is one name. Raises DataError for a name that is not found."""
        names = [names] if isinstance(names, str) else names
        place = {name: i for i, name in enumerate(self.names)}
        unknown = [name for name in names if name not in place]
        if unknown:
            raise DataError(f"no parcel is called {unknown[0]!r}; there are {_listed(self.names)}")
        return np.array([place[name] for name in names], dtype=np.int64)


def reliability(snr: np.ndarray, repeats: float = 1.0) -> np.ndarray:
    """Share of the variance of a mean of `repeats` responses that is signal: snr^2 / (snr^2 + 1 / repeats), NaN as 0. (unit,)"""
    power = np.where(np.isfinite(snr), np.asarray(snr, dtype=np.float64), 0.0) ** 2
    return power / (power + 1.0 / repeats)


def region_parcels(responses: Responses, *, only: Sequence[str] | None = None) -> Parcels:
    """One parcel for each name in the column `roi` of the units; units without a name are in none."""
    if "roi" not in responses.units.columns:
        raise DataError(f"units have no column 'roi'; they have {sorted(map(str, responses.units.columns))}")
    roi = responses.units["roi"]
    text = np.array(["" if value is None or value != value else str(value) for value in roi])
    return _named(text, only, "the regions")


def label_parcels(
    labels: Any, table: Table, *, only: Sequence[str] | None = None, background: int | None = 0, source: str = "the labels"
) -> Parcels:
    """Parcels from a label value for each unit (unit,) and a lookup table {value: name}; `background` and values < 0 are none.

    table: a mapping, a frame with the columns `value` (or `index`) and `name`, or a text file with "value name" in each line.
    background: the value of units in no region, None where every value is a region.
    Raises DataError for a list of names, a value without a name, a name asked for that no unit has, and a table that names the
    background as a region.
    """
    values = np.asarray(labels)
    if values.dtype.kind in "USO":
        raise DataError(
            f"{source}: labels are (unit,) whole numbers, got names, first {str(values.ravel()[0])!r}; number them with "
            "names, numbers = np.unique(labels, return_inverse=True) and give numbers, dict(enumerate(names)), background=None"
        )
    if values.ndim != 1 or values.dtype.kind not in "iuf" or not np.array_equal(values, np.round(values)):
        raise DataError(f"{source}: labels are (unit,) whole numbers, got {values.dtype} of shape {values.shape}")
    values = values.astype(np.int64)
    names = lookup(table)
    called = None if background is None else names.get(background)
    if called is not None and not is_nothing(called) and (values == background).any():
        raise DataError(
            f"{source}: the table names {background}, the value of units in no region, {called!r}; give "
            "background=None where it is a region, or the value that means none"
        )
    present = np.unique(values[(values != background) & (values > -1)])
    missing = [int(value) for value in present if int(value) not in names]
    if missing:
        have = f"{len(names)} names for values {min(names)} to {max(names)}"
        raise DataError(
            f"{source}: label {missing[0]} ({len(missing)} in all) has no name; the table has {have}: use the atlas's own"
        )
    text = np.array([names[value] if value in names and value != background else "" for value in values.tolist()])
    return _named(text, only, source)


def atlas_parcels(
    space: Volume, atlas: Any, table: Table, *, only: Sequence[str] | None = None, sha256: str | None = None
) -> Parcels:
    """Parcels of voxels from an atlas image: the label at each voxel's centre, named by its value.

    space: where the units lie; atlas: a 3-D nibabel image or its path, of whole numbers, in the same millimetre space, of any
    resolution. sha256: what the file must hash to. Raises DataError for an atlas of another space (more than half of the voxels
    off its grid, none with a label, or names of a left or right hemisphere on the other side), and as `label_parcels`.
    """
    name = "the atlas"
    if isinstance(atlas, (str, Path)):
        name = Path(atlas).name
        _check_hash(atlas, sha256)
        grid, affine = read_grid(atlas)
    elif not hasattr(atlas, "dataobj") or not hasattr(atlas, "affine"):
        raise DataError(f"{name} is a {type(atlas).__name__}; give a nibabel image or the path of one")
    else:
        grid, affine = np.asarray(atlas.dataobj), np.asarray(atlas.affine, dtype=float)
    grid = grid[..., 0] if grid.ndim == 4 and grid.shape[3] == 1 else grid
    if grid.ndim != 3 or not np.array_equal(grid, np.round(grid)):
        raise DataError(f"{name}: shape {grid.shape} of {grid.dtype} is no 3-D image of whole-number labels; give a parcellation")
    millimetres = space.coordinates()
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise DataError(f"{name}: its affine cannot be inverted, so no place of it is known; set the space of the file first")
    to_index = np.linalg.inv(affine)
    at = np.floor(millimetres @ to_index[:3, :3].T + to_index[:3, 3] + 0.5 - 1e-6).astype(np.int64)
    inside = ((at >= 0) & (at < np.array(grid.shape))).all(axis=1)
    if (~inside).mean() > OUTSIDE:
        raise DataError(
            f"{name}: {(~inside).mean():.0%} of the voxels lie off its grid; it is of another space, resample it first"
        )
    values = np.zeros(len(millimetres), np.int64)
    values[inside] = grid[tuple(at[inside].T)].astype(np.int64)
    if not (values > 0).any():
        raise DataError(f"{name} has no label at any of the {len(values)} voxels; it is of another space, or all background")
    names = {value: text for value, text in lookup(table).items() if value != 0}  # 0 of an image is outside the atlas
    found = label_parcels(values, names, only=only, source=name)
    _check_sides(found, millimetres[:, 0])
    return found


def schaefer_parcels(
    space: Volume, regions: int = 1000, *, only: Sequence[str] | None = None, folder: str | None = None, sha256: str | None = None
) -> Parcels:
    """Parcels of the Schaefer 2018 atlas (100, 200, ..., 1000 regions) in FSL's MNI152 at 2 mm, which nilearn fetches once.

    space: in millimetres of the same template; folder: where nilearn keeps its data; sha256: what the image must hash to. What it
    hashes to stands in the parcels' `source`, since the atlas was published again under one name. Raises DataError where it
    cannot be fetched, for an image or a table that does not hold each of the regions once, and as `atlas_parcels`.
    Schaefer et al. 2018; NeuroAdapter takes 500 regions a hemisphere.
    """
    from nilearn import datasets

    try:
        found = datasets.fetch_atlas_schaefer_2018(n_rois=regions, resolution_mm=2, data_dir=folder, verbose=0)
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        way_out = "put the image and its table on disk and use atlas_parcels"
        raise DataError(f"the Schaefer atlas of {regions} regions cannot be fetched ({said}); {way_out}") from None
    if getattr(found, "lut", None) is None:
        raise DataError("this nilearn gives the Schaefer names as a list, whose order is not trusted; update nilearn to 0.12")
    image, names = Path(found.maps), {value: name for value, name in lookup(found.lut).items() if value != 0}
    made = atlas_parcels(space, image, names, only=only, sha256=sha256)
    if set(np.unique(read_grid(image)[0])) - {0} != set(range(1, regions + 1)) or len(set(names.values())) != regions:
        raise DataError(
            f"{image.name} and its table do not hold {regions} regions once each; delete {image.parent} to fetch them anew"
        )
    return Parcels(made.names, made.label, f"{image.name} (SHA-256 {_hash(image)})")


def annot_parcels(
    space: Surface,
    left: str | Path,
    right: str | Path,
    *,
    only: Sequence[str] | None = None,
    sha256: tuple[str, str] | None = None,
) -> Parcels:
    """Parcels of vertices from two FreeSurfer .annot files, named by the annotation values of each file; LH_ and RH_ in front.

    sha256: what the two files must hash to. Raises DataError for files of another mesh, or that cannot be read.
    """
    from nibabel.freesurfer.io import read_annot

    text = np.full(len(space), "", dtype=object)
    for number, (side, path) in enumerate((("left", left), ("right", right))):
        _check_hash(path, None if sha256 is None else sha256[number])
        try:
            labels, colours, names = read_annot(path, orig_ids=True)
        except Exception as error:
            raise DataError(
                f"{Path(path).name} cannot be read as an annotation ({type(error).__name__}); give an .annot file"
            ) from None
        here = space.hemisphere == side
        wanted = MESH_VERTICES.get(space.mesh)
        if (wanted is not None and len(labels) != wanted) or (here.any() and space.vertex[here].max() >= len(labels)):
            raise DataError(
                f"{Path(path).name} is for {len(labels)} vertices, the {side} {space.mesh} has {wanted or 'more'}; use its own"
            )
        known = {int(value): name.decode() for value, name in zip(colours[:, 4], names, strict=True)}
        prefix = "LH_" if side == "left" else "RH_"
        row = [known.get(int(value), "") for value in labels[space.vertex[here]]]
        text[here] = [prefix + name if name and not is_wall(name) else "" for name in row]
    return _named(text.astype(str), only, f"{Path(left).name} and {Path(right).name}")


def cubic_parcels(space: Volume, edge: int) -> Parcels:
    """Cubic patches of `edge` voxels, numbered in C order; those without a voxel of the mask are left out."""
    if edge < 1:
        raise DataError(f"cubic patches have an edge of 1 voxel or more, got {edge}")
    group, _ = cubic_patches(space.mask, edge)
    return Parcels(tuple(f"patch{i:04d}" for i in range(int(group.max()) + 1)), group, f"cubes of {edge} voxels")


def window_parcels(channels: int, times: np.ndarray, width: float) -> Parcels:
    """Time windows of sensors as parcels: all channels in `width` seconds are one, named by its first and last millisecond.

    times (time,) seconds, ascending; units are (channel, time) flattened in C order: Y.reshape(len(Y), -1). A last window shorter
    than half of the width joins the one before. Raises DataError for no channel, times that do not ascend, and a width below a
    sample.
    """
    t = np.asarray(times, dtype=np.float64)
    if channels < 1 or t.ndim != 1 or len(t) < 2 or not np.isfinite(t).all() or (np.diff(t) <= 0).any():
        raise DataError(f"time windows need 1 channel or more and ascending times, got {channels} and times of shape {t.shape}")
    step = float(np.diff(t).max())
    if not width >= step * (1 - 1e-9):
        raise DataError(f"a time window of {width} s is shorter than a sample of {step:.4g} s; choose a wider one")
    number = np.floor((t - t[0]) / width + 1e-9).astype(np.int64)
    last = number[-1]
    if last > 0 and t[-1] + step - (t[0] + last * width) < width / 2:
        number[number == last] = last - 1
    _, number = np.unique(number, return_inverse=True)
    edges = [(t[number == k][0], t[number == k][-1]) for k in range(int(number.max()) + 1)]
    names = tuple(f"{round(1000 * a)} to {round(1000 * b)} ms" for a, b in edges)
    return Parcels(names, np.tile(number, channels), f"windows of {width} s")


def cubic_patches(mask: np.ndarray, patch: int, padding: str = "end") -> tuple[np.ndarray, np.ndarray]:
    """Patch number (V,) and place inside its patch (V,) of every masked voxel, in C order of the mask.

    Patches that hold no voxel have no number; the others are numbered in C order of the padded grid.
    """
    if mask.ndim != 3 or mask.dtype != bool or not mask.any():
        raise DataError(f"cubic patches need a 3-D bool mask with voxels in it, got {mask.dtype} {mask.shape}")
    grid = -(-np.array(mask.shape) // patch)
    start = (grid * patch - mask.shape) // 2 if padding == "centre" else np.zeros(3, dtype=int)
    where = np.argwhere(mask) + start
    block, inside = where // patch, where % patch
    number = np.ravel_multi_index(tuple(block.T), tuple(grid))
    _, group = np.unique(number, return_inverse=True)
    return group, np.ravel_multi_index(tuple(inside.T), (patch,) * 3)


def _named(text: np.ndarray, only: Sequence[str] | None, source: str) -> Parcels:
    names = sorted({name for name in text.tolist() if name}) if only is None else [str(name) for name in only]
    place = {name: i for i, name in enumerate(names)}
    label = np.array([place.get(name, -1) for name in text.tolist()], dtype=np.int64)
    return Parcels(tuple(names), label, source)


def _check_sides(parcels: Parcels, x: np.ndarray) -> None:
    """Parcels named for a hemisphere lie on its side: x < 0 is left. Reordered tables and flipped images fail here."""
    centre = parcels.mean(x)
    wrong, total = [], 0
    for name, where in zip(parcels.names, centre, strict=True):
        match = _SIDE.search(name)
        if match is None or abs(where) < 4:  # mm: near the midline a side says nothing
            continue
        total += 1
        if (where < 0) != (match.group(1) is not None):
            wrong.append(name)
    if total and len(wrong) / total > WRONG_SIDE:
        raise DataError(
            f"{parcels.source}: {len(wrong)} of {total} one-sided parcels lie on the other side, first {wrong[0]!r}; "
            "the names are of another version of the atlas, or the image is flipped"
        )


def _check_hash(path: str | Path, expected: str | None) -> None:
    if not Path(path).is_file():
        raise DataError(f"atlas file {str(path)!r} is not found; give the path of one")
    if expected is not None and (found := _hash(path)) != expected:
        raise DataError(
            f"atlas file {Path(path).name} has SHA-256 {found[:12]}..., expected {expected[:12]}...; it is another version"
        )


def _hash(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} others" if len(names) > most else "")
