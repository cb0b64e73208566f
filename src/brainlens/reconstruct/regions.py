"""Which parcels a recording is cut into, which of them are kept, and which of those a name means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from brainlens.metrics.encoding import noise_ceiling
from brainlens.parcels import (
    Parcels,
    annot_parcels,
    atlas_parcels,
    cubic_patches,
    region_parcels,
    schaefer_parcels,
    window_parcels,
)
from brainlens.types import DataError, Responses, Surface, Volume

KINDS = ("auto", "patches", "regions", "blocks", "schaefer", "windows")
EDGE = 3  # voxels of a cubic patch: 12 mm at 4 mm, about the volume of a parcel of Schaefer's 1,000
WINDOW = 100  # ms of a time window
BLOCK = 30  # units of a block where nothing is known of their places
LEAST = 4  # voxels that a piece of a patch needs to be a parcel
COLUMNS = 4000  # units whose repeats are compared at a time


@dataclass(frozen=True)
class Partition:
    """How units become parcels: kind is one of KINDS, the file of an atlas with its lookup `table`, or the annotations of both
    hemispheres of a surface, "lh.NAME.annot,rh.NAME.annot"; edge: of a patch in voxels, units of a block, or ms of a time window
    (None: 3, 30, 100)."""

    kind: str = "auto"
    table: str | None = None
    edge: int | None = None

    def __post_init__(self) -> None:
        if self.edge is not None and self.edge < 1:
            raise DataError(f"reconstruct: patches of {self.edge} voxels; an edge is 1 or more")
        if self.kind in KINDS:
            return
        missing = [file for file in self.files if not Path(file).is_file()]
        if missing and len(self.files) > 1:
            raise DataError(f"reconstruct: annotation {missing[0]!r} is not found; give --parcels LEFT.annot,RIGHT.annot")
        if missing:
            raise DataError(f"reconstruct: parcels {self.kind!r} are neither one of {', '.join(KINDS)} nor the file of an atlas")
        if len(self.files) > 2 or (len(self.files) == 1 and self.kind.endswith(".annot")):
            raise DataError("reconstruct: a surface has two hemispheres; give --parcels LEFT.annot,RIGHT.annot")
        if len(self.files) == 1 and self.table is None:
            raise DataError(
                f"atlas {Path(self.kind).name} needs its lookup table, a text file of 'value name' lines: --atlas-table"
            )

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the kind names: an atlas, or the annotations of the left and the right hemisphere."""
        return (self.kind,) if Path(self.kind).is_file() else tuple(self.kind.split(","))


def partition(responses: Responses, how: Partition) -> Parcels:
    """The parcels of a recording; "auto": time windows of sensors, cubic patches in a volume, else named regions, else blocks of
    neighbouring units.

    Patches do not cross the borders of named regions (column `roi`), pieces below 4 voxels are in none.
    Raises DataError where the recording does not know what is needed.
    """
    space, kind = responses.space, how.kind
    named = "roi" in responses.units.columns
    if kind == "auto" and "time" in responses.units.columns:
        kind = "windows"
    if kind == "auto":
        kind = "patches" if isinstance(space, Volume) else "regions" if named else "blocks"
    if kind == "windows":
        return time_windows(responses, WINDOW if how.edge is None else how.edge)
    if kind == "blocks":
        return block_parcels(len(responses.units), BLOCK if how.edge is None else how.edge)
    if kind == "regions":
        return region_parcels(responses)
    if isinstance(space, Surface):
        return surface_parcels(space, how)
    if not isinstance(space, Volume):
        raise DataError(f"reconstruct: {kind} need voxels with coordinates, this recording has none; use 'regions' or 'blocks'")
    if len(how.files) > 1:
        raise DataError(
            "reconstruct: annotations are of a surface and this recording has voxels; give an atlas image and its table"
        )
    if kind == "patches":
        regions = responses.units["roi"].astype(str).to_numpy() if named else None
        return patch_parcels(space, EDGE if how.edge is None else how.edge, regions)
    if kind == "schaefer":
        return schaefer_parcels(space)
    assert how.table is not None
    return atlas_parcels(space, kind, how.table)


def surface_parcels(space: Surface, how: Partition) -> Parcels:
    """Parcels of vertices from annotations: those that are named, or Schaefer's, where they lie on disk.

    Raises DataError for what is of volumes, and as `parcels.annot_parcels`.
    """
    way_out = "give --parcels LEFT.annot,RIGHT.annot, the annotations of an atlas on this mesh"
    if how.kind == "schaefer":
        return annot_parcels(space, *schaefer_annot(space.mesh))
    if how.kind == "patches":
        raise DataError(f"reconstruct: patches are cut from voxels and this recording is of the surface {space.mesh}; {way_out}")
    if len(how.files) != 2:
        raise DataError(f"reconstruct: {Path(how.kind).name} is no pair of annotations of the surface {space.mesh}; {way_out}")
    return annot_parcels(space, *how.files)


def schaefer_annot(mesh: str, regions: int = 1000, *, folder: str | Path | None = None) -> tuple[Path, Path]:
    """The annotations of the Schaefer 2018 atlas on a surface, left and right, for `annot_parcels`.

    They are looked for in `schaefer_2018/MESH` of the folder, by default where nilearn keeps its data; nothing is fetched.
    Raises DataError that says where to get them and where to put them.
    """
    from nilearn.datasets import get_data_dirs

    names = [f"{side}.Schaefer2018_{regions}Parcels_7Networks_order.annot" for side in ("lh", "rh")]
    roots = [Path(root) / "schaefer_2018" / mesh for root in (get_data_dirs() if folder is None else [folder])]
    for root in roots:
        if all((root / name).is_file() for name in names):
            return root / names[0], root / names[1]
    raise DataError(
        f"the Schaefer atlas on the surface {mesh} is not fetched: put {names[0]} and that of rh (github.com/ThomasYeoLab/CBIG, "
        f"FreeSurfer5.3/{mesh}/label) into {roots[0]}, or give --parcels LEFT.annot,RIGHT.annot"
    )


def patch_parcels(space: Volume, edge: int, regions: np.ndarray | None = None) -> Parcels:
    """Cubic patches of `edge` voxels, cut at the borders of regions (unit,): "V1 patch0042", or "patch0042" outside of any."""
    group, _ = cubic_patches(space.mask, edge)
    where = np.full(len(group), "") if regions is None else np.where(np.isin(regions, ["none", "", "nan"]), "", regions)
    text = np.array([f"{a} patch{b:04d}".strip() for a, b in zip(where.tolist(), group.tolist(), strict=True)])
    names, label, count = np.unique(text, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(count >= min(LEAST, edge**3))
    place = np.full(len(names), -1)
    place[kept] = np.arange(len(kept))
    return Parcels(tuple(str(name) for name in names[kept]), place[label], f"patches of {edge} voxels")


def block_parcels(units: int, size: int) -> Parcels:
    """Blocks of `size` units in the order in which they are stored; the last one takes what is left over."""
    number = np.minimum(np.arange(units) // size, max(0, units // size - 1))
    names = tuple(f"units {np.flatnonzero(number == k)[0]} to {np.flatnonzero(number == k)[-1]}" for k in range(number[-1] + 1))
    return Parcels(names, number, f"blocks of {size} units")


def time_windows(responses: Responses, width: int) -> Parcels:
    """Windows of `width` ms over all channels, "100 to 200 ms", of units (unit,) that have a `time` in s, the start of each.

    Raises DataError where none has.
    """
    if "time" not in responses.units.columns:
        raise DataError("reconstruct: time windows are of EEG and MEG; leave --parcels out, or ask for regions or blocks")
    times, place = np.unique(responses.units["time"].to_numpy(dtype=float), return_inverse=True)
    found = window_parcels(1, times, width / 1000)
    starts = [1000 * times[members[0]] for members in found.members]
    starts.append(1000 * (2 * times[-1] - times[-2]))
    names = tuple(f"{round(a)} to {round(b)} ms" for a, b in pairwise(starts))
    return Parcels(names, found.label[place], found.source)


def repeat_snr(responses: Responses, standard: bool) -> np.ndarray:
    """Signal-to-noise ratio (unit,) of training trials, a few thousand units at a time; NaN where no image is repeated.

    standard: z-score by session first, as the fit does.
    """
    parts = []
    for start in range(0, len(responses.units), COLUMNS):
        part = responses.columns(np.arange(start, min(start + COLUMNS, len(responses.units))))
        part = part.zscore(alone=True) if standard else part
        train = part.where(split="train")
        parts.append(noise_ceiling(train.data, train.trials["stimulus"].to_numpy(dtype=str)).ncsnr)
    return np.concatenate(parts)


def named_sets(parcels: Parcels, asked: Sequence[str]) -> dict[str, list[str]]:
    """{name: parcels} of sets of regions: "FFA", or several as "V1+V2V3". A parcel is meant by its own name, by the region that
    its patch lies in, or by any part of its name.

    Raises DataError for a name that means no parcel.
    """
    found: dict[str, list[str]] = {}
    for text in asked:
        members: list[str] = []
        for name in text.split("+"):
            own = [p for p in parcels.names if p == name or p.split(" ")[0] == name]
            own = own or [p for p in parcels.names if name and name.lower() in p.lower()]
            if not own:
                listed = sorted({p.split(" ")[0] for p in parcels.names})
                raise DataError(f"no kept parcel is called {name!r}; there are {', '.join(listed[:20])}")
            members += [p for p in own if p not in members]
        found[text] = members
    return found


def region_sets(parcels: Parcels, most: int = 8) -> dict[str, list[str]]:
    """The kept parcels by the region that their patches lie in, in the order of the best; single parcels where there are none."""
    groups: dict[str, list[str]] = {}
    for name in parcels.names:
        region, _, patch = name.rpartition(" ")
        if region and patch.startswith("patch"):
            groups.setdefault(region, []).append(name)
    groups = groups or {name: [name] for name in parcels.names}
    return dict(list(groups.items())[:most])
