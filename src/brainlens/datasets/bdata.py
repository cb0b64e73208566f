"""Files of bdpy (BData): a table of trials by columns, of which some are voxels and others say what the trial was.

dataset           (trial, column)                 responses, and numbers that say run, session, kind and image of a trial
metadata/key      names of what is said of columns: VoxelData, ROI_V1, voxel_x, Run, ...
metadata/value    (key, column)                   1 where the column is of the key, a coordinate, or NaN
vmap/COLUMN/3     the text that the number 3 of a column stands for

Older files write dataSet and metaData. Source: bdpy 0.25, `bdata.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.hdf5 import names_in, open_dataset, read_named_texts, read_texts
from brainlens.datasets.lattice import on_lattice
from brainlens.types import DataError, Volume

BLOCK = 256  # trials that are read at a time
VOXELS, REGION = "VoxelData", "ROI_"
PLACES = ("voxel_x", "voxel_y", "voxel_z")


@dataclass(frozen=True)
class BData:
    """Responses `data` (trial, voxel) float32, the other `columns` {name: (trial,)}, what their numbers stand for (`names`),
    the table of units with roi and x, y, z in mm where they are known, and the grid where the places are one."""

    path: Path
    data: np.ndarray
    columns: Mapping[str, np.ndarray]
    names: Mapping[str, Mapping[float, str]]
    units: pd.DataFrame
    space: Volume | None

    def column(self, name: str) -> np.ndarray:
        """Numbers (trial,) of a column. Raises DataError listing those that there are."""
        if name not in self.columns:
            raise DataError(f"{self.path} has no column {name!r}; it has {', '.join(sorted(self.columns))}")
        return self.columns[name]

    def numbered(self, *names: str) -> np.ndarray | None:
        """The first of these columns that is there, as texts of whole numbers (trial,); None where there is none."""
        found = next((self.columns[name] for name in names if name in self.columns), None)
        return None if found is None else np.array([f"{value:.0f}" for value in found])


def read_bdata(path: str | Path) -> BData:
    """A file of bdpy.

    A voxel's `roi` is the smallest of the regions that hold it, so that V1 goes before VC. Raises DataError for files that are
    cut short or of another format, and tables that do not fit each other.
    """
    path = Path(path)
    there = {name.lower(): name for name in names_in(path)}
    missing = [name for name in ("dataset", "metadata") if name not in there]
    if missing:
        raise DataError(
            f"{path} has no {missing[0]!r}, so bdpy did not write it; it has {', '.join(sorted(there.values()))[:200]}"
        )
    about = there["metadata"]
    keys = read_texts(path, f"{about}/key")
    with open_dataset(path, f"{about}/value", max_bytes=4e9) as stored:
        said = np.asarray(stored[()], dtype=np.float64)
    if said.ndim != 2 or len(said) != len(keys) or VOXELS not in keys:
        raise DataError(f"{path}: {len(keys)} keys and values {said.shape} do not fit, or none is {VOXELS}; fetch it again")
    row = dict(zip(keys, said, strict=True))
    voxel = row[VOXELS] == 1
    if not voxel.any():
        raise DataError(f"{path}: no column is of {VOXELS}; it holds no responses")
    with open_dataset(path, there["dataset"]) as stored:
        if stored.ndim != 2 or stored.shape[1] != len(voxel):
            raise DataError(f"{path}: the table is {stored.shape}, its columns are {len(voxel)}; fetch it again")
        data = np.empty((stored.shape[0], int(voxel.sum())), dtype=np.float32)
        rest = np.empty((stored.shape[0], int((~voxel).sum())), dtype=np.float64)
        for start in range(0, len(data), BLOCK):
            block = stored[start : start + BLOCK]
            data[start : start + BLOCK], rest[start : start + BLOCK] = block[:, voxel], block[:, ~voxel]
    columns = {}
    for name, values in row.items():
        own = values[~voxel] == 1
        if name != VOXELS and own.sum() == 1:
            columns[name] = rest[:, own.argmax()]
    units = pd.DataFrame(index=range(data.shape[1]))
    if set(PLACES) <= set(row):
        units = pd.DataFrame({axis: row[name][voxel] for axis, name in zip("xyz", PLACES, strict=True)})
    regions = {name.removeprefix(REGION): row[name][voxel] == 1 for name in keys if name.startswith(REGION)}
    units["roi"] = smallest_region(regions, len(units))
    found = on_lattice(units[["x", "y", "z"]].to_numpy()) if "x" in units.columns else None
    space = None if found is None else found[0]
    if found is not None:
        data, units = data[:, found[1]], units.iloc[found[1]].reset_index(drop=True)
    return BData(path, data, columns, _names(path), units, space)


def smallest_region(regions: Mapping[str, np.ndarray], units: int) -> np.ndarray:
    """The name (unit,) of the smallest region that holds each unit, "" for none. regions: name -> (unit,) bool."""
    out = np.full(units, "", dtype=object)
    for name in sorted(regions, key=lambda each: -int(regions[each].sum())):  # the smallest ones last
        out[regions[name]] = name
    return out


def _names(path: Path) -> dict[str, dict[float, str]]:
    out: dict[str, dict[float, str]] = {}
    for column in names_in(path, "vmap"):
        found = read_named_texts(path, f"vmap/{column}")
        for number, text in found.items():
            try:
                out.setdefault(column, {})[float(number)] = text
            except ValueError:
                raise DataError(f"{path}: vmap/{column} has the number {number!r}; fetch it again") from None
    return out
