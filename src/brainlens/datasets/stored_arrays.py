"""An array of numbers from the file formats that people keep them in: .npy, .csv, .mat (MATLAB 5 and 7.3), .h5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.hdf5 import open_dataset, warn_if_slow
from brainlens.store import open_npy
from brainlens.types import DataError, check_mat, read_lines, reading
from brainlens.warned import warn

ENDINGS = (".npy", ".csv", ".tsv", ".mat", ".h5", ".hdf5")
BUDGET = 16e9  # bytes that a file may claim, where it is read whole
SIGNATURE = b"\x89HDF"
ROW_NAMES = ("", "Unnamed: 0")  # over a column that numbers the lines, as pandas and R write it
MATLAB_CLASS = "MATLAB_class"  # the attribute that MATLAB 7.3 gives every variable


def find_array(folder: Path, name: str, endings: tuple[str, ...] = ENDINGS) -> Path | None:
    """The file `name` with one of the endings in a folder, None where there is none. Raises DataError where there are several."""
    found = [folder / f"{name}{ending}" for ending in endings if (folder / f"{name}{ending}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} holds {found[0].name} and {found[1].name}; keep the one that counts")
    return found[0] if found else None


def read_array(path: Path, name: str, *, variable: str | None = None) -> np.ndarray:
    """The numbers of a file; of several variables (.mat, .h5) the one named `variable`, else `name`, else the only one.

    Any shape; the caller says what its axes are.
    A .npy stays on disk as a memory map, a .csv may have one line of names before its numbers, arrays of MATLAB 7.3 come with
    their axes in MATLAB's order. Raises DataError for damaged files, a variable that is not found, what holds no numbers, and a
    .mat of HDF5 that MATLAB did not write: its axes may be in either order.
    """
    kind = path.suffix.lower()
    if variable is not None and kind in (".npy", ".csv", ".tsv"):
        raise DataError(f"option variable={variable!r}: {path.name} holds one array without a name; leave it out")
    if kind == ".npy":
        found = open_npy(path)
    elif kind in (".csv", ".tsv"):
        found = _csv(path)
    elif kind == ".mat" and not _is_hdf5(path):
        found = _matlab(path, name, variable)
    else:
        found = _hdf5(path, name, variable, turned=kind == ".mat")
    if found.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {found.dtype}, numbers are expected")
    return found


def _csv(path: Path) -> np.ndarray:
    lines = read_lines(path)
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if lines and ";" in lines[0] else ","
    rows = [[cell.strip().strip('"') for cell in line.split(mark)] for line in lines]
    if rows and _are_names(rows[0]):
        head, rows = rows[0], rows[1:]
        if head[0] in ROW_NAMES and len({len(row) for row in (head, *rows)}) == 1 and _counts([row[0] for row in rows]):
            warn(f"{path}: its first column has no name and counts the lines; it is left out")
            rows = [row[1:] for row in rows]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise DataError(f"{path}: its lines hold {sorted(lengths)[:3] or 'no'} numbers; every trial has one number a unit")
    table = pd.DataFrame(rows).apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = [(i, j) for i, j in np.argwhere(np.isnan(table)) if rows[i][j].lower() not in ("", "nan", "na")]
    if wrong:
        line, column = wrong[0]
        hint = "; write decimals with a point" if "," in rows[line][column] else ""
        raise DataError(f"{path}: {rows[line][column]!r} of trial {line + 1}, column {column + 1}, is not a number{hint}")
    return table


def _are_names(cells: list[str]) -> bool:
    """Whether a first line names the columns: a cell that is no number, or 0, 1, 2, ... as tables without names are written."""
    own = cells[1:] if cells[0] in ROW_NAMES else cells
    return not all(_is_number(cell) for cell in cells) or (len(own) > 2 and own == [str(k) for k in range(len(own))])


def _counts(cells: list[str]) -> bool:
    """Whether cells count lines from 0 or 1 on."""
    return any(cells == [str(k + first) for k in range(len(cells))] for first in (0, 1))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == ""
    return True


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as handle:
        start = handle.read(516)
    return start.startswith(SIGNATURE) or start[512:516] == SIGNATURE  # MATLAB writes a header of 512 bytes of its own


def _matlab(path: Path, name: str, variable: str | None) -> np.ndarray:
    import scipy.io

    check_mat(path)
    with reading(path, "write it again", fault="is damaged or not a MATLAB file"):
        there = {
            str(key): shape for key, shape, kind in scipy.io.whosmat(path) if kind not in ("cell", "struct", "char", "object")
        }
        claim = {key: float(np.prod(shape, dtype=float)) * 8 for key, shape in there.items()}
        tables = [key for key, shape in there.items() if min(shape, default=0) > 1]
        chosen = _choose(path, name, variable, tables if tables and variable is None else list(there))
        if claim[chosen] > BUDGET:
            raise DataError(f"{path}: {chosen!r} claims {claim[chosen] / 1e9:.3g} GB, the limit is {BUDGET / 1e9:.3g} GB")
        return np.asarray(scipy.io.loadmat(path, variable_names=[chosen])[chosen])


def _hdf5(path: Path, name: str, variable: str | None, *, turned: bool) -> np.ndarray:
    import h5py

    with (
        reading(path, "fetch it again", fault="is cut short or being written"),
        h5py.File(path, "r", locking="best-effort") as handle,
    ):
        there = [key for key in handle if handle.get(key, getclass=True) is h5py.Dataset and not key.startswith("#")]
    chosen = variable if variable is not None and "/" in variable else _choose(path, name, variable, there)
    with open_dataset(path, chosen, max_bytes=BUDGET) as data:
        if turned and MATLAB_CLASS not in data.attrs:
            raise DataError(
                f"{path}: {chosen!r} has no attribute {MATLAB_CLASS}, so MATLAB did not write it and its axes may be in either "
                "order; save it again from MATLAB, or as .h5 with its axes as they should be"
            )
        warn_if_slow(data, path)
        values: Any = data[()]
    return np.asarray(values).T if turned else np.asarray(values)


def _choose(path: Path, name: str, variable: str | None, there: list[str]) -> str:
    wanted = variable if variable is not None else name
    if wanted in there:
        return wanted
    if variable is None and len(there) == 1:
        return there[0]
    listed = ", ".join(sorted(there)[:20]) or "none"
    raise DataError(f"{path} has no variable {wanted!r}; it has {listed}: name one by --option variable=NAME (variable=)")
