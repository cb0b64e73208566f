"""fMRI of one's own in a plain folder: an array of responses, a table of trials, units or a mask, pictures, captions.

responses.npy (.csv, .mat, .h5: trial by unit; or .nii.gz: one volume a trial)    trials.csv   stimulus, split, session, ...
units.csv (x, y, z in mm, roi, ...) and / or mask.nii.gz                          images/      a picture for each stimulus
captions.json or captions.csv, if there are any                                   stimuli.csv  file and category, if needed
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.shown_stimuli import shown_stimuli, with_split
from brainlens.datasets.stored_arrays import ENDINGS, find_array, read_array
from brainlens.datasets.text_tables import read_table
from brainlens.datasets.volumes import coordinates_table, read_mask, read_masked
from brainlens.types import DataError, Recording, Responses, Space, Surface, Volume
from brainlens.types.spaces import MESHES

IMAGES = (".nii.gz", ".nii")
NUMBERS = ("x", "y", "z", "ncsnr", "vertex")  # columns of units that are numbers
NOTHING = ("", "nan", "na", "n/a")  # cells that say that there is no number
OF_TRIALS = ("split", "subject", "session", "run", "repeat")
OF_UNITS = (*NUMBERS, "roi", "hemisphere")

FACTS = {
    "name": "folder",
    "title": "fMRI of your own: responses, trials, units or a mask, pictures and captions in one folder",
    "kind": "fMRI",
    "measure": "fMRI, z-scored by session",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "captions", "coordinates", "split"),
    "surface": True,
    "licence": "yours",
    "citation": "yours",
    "url": "docs/recordings.md",
    "access": "yours",
}


def load(
    folder: str | Path,
    *,
    variable: str | None = None,
    measure: str = "z",
    mesh: str = "fsaverage",
    test: float = 0.2,
    draw: int = 0,
) -> Recording:
    """Responses (trial, unit) and stimuli of a folder in the layout of docs/recordings.md.

    variable: which array of a .mat or .h5 counts (default: `responses`, or the only one). measure: "z" or "psc". mesh: of the
    columns hemisphere and vertex of units.csv. test, draw: share of the images and seed of the test where trials.csv has no
    column split. Trials without a session are of one. Units with NaN are left to the verbs, which count them.
    Raises DataError for missing files and columns, counts that do not match, and stimuli without a file.
    """
    folder = Path(folder)
    trials = with_split(read_trials(folder), test=test, seed=draw, where=folder / "trials.csv")
    space, units = read_units(folder, mesh)
    data = _responses(folder, space, variable)
    if data.ndim == 3:
        raise DataError(f"{folder}: responses are {data.shape}; (trial, channel, time) is read by --dataset epochs")
    if data.ndim != 2:
        raise DataError(f"{folder}: responses are (trial, unit), got shape {data.shape}")
    units = pd.DataFrame(index=range(data.shape[1])) if units is None else units
    check_rows(folder, data, len(trials), len(units))
    return Recording(Responses(data, trials, units, space, measure=measure), shown_stimuli(folder, trials["stimulus"]))


def read_trials(folder: Path) -> pd.DataFrame:
    """`trials.csv` (or .tsv): stimulus, and any of split, subject, session, run, repeat and others, as texts.

    Without a session all are of "1". Raises DataError for a missing table or column, and a trial without a stimulus.
    """
    path = find_array(folder, "trials", (".csv", ".tsv"))
    if path is None:
        raise DataError(f"{folder / 'trials.csv'} is missing; it has a line for each trial with its stimulus")
    trials = read_table(path, ("stimulus",), OF_TRIALS)
    trials = trials[: int((trials != "").any(axis=1).to_numpy().nonzero()[0].max(initial=-1)) + 1]  # empty lines of a spreadsheet
    empty = np.flatnonzero(trials["stimulus"] == "")
    if not len(trials) or len(empty):
        raise DataError(f"{path}: {f'line {empty[0] + 2} names no stimulus' if len(trials) else 'it holds no trial'}")
    if "repeat" not in trials.columns:
        keys = [name for name in ("subject", "stimulus") if name in trials.columns]
        trials["repeat"] = trials.groupby(keys).cumcount() + 1
    return trials if "session" in trials.columns else trials.assign(session="1")


def read_units(folder: Path, mesh: str) -> tuple[Space | None, pd.DataFrame | None]:
    """(space, units) from `mask.nii.gz` and `units.csv`, each None where nothing tells. Raises DataError where they disagree."""
    mask, path = find_array(folder, "mask", IMAGES), find_array(folder, "units", (".csv", ".tsv"))
    space: Space | None = None if mask is None else read_mask(mask)
    units = None if path is None else read_table(path, (), OF_UNITS)
    if units is not None:
        for name in [name for name in NUMBERS if name in units.columns]:
            numbers, place = pd.to_numeric(units[name], errors="coerce"), name in "xyz"
            wrong = (numbers.isna() & (place | ~units[name].str.lower().isin(NOTHING))).to_numpy()
            if wrong.any():
                at = int(wrong.argmax())
                what = "a number in mm" if place else "a number"
                raise DataError(f"{path}: {name} of unit {at} is {units[name].iloc[at]!r}, {what} is expected")
            units[name] = numbers
    if isinstance(space, Volume):
        if units is not None and len(units) != len(space):
            raise DataError(f"{path} has {len(units)} units, {mask} {len(space)} voxels above zero; both are of the same units")
        places = pd.DataFrame(coordinates_table(space))
        rest = pd.DataFrame(index=range(len(space))) if units is None else units.drop(columns=[*"xyz"], errors="ignore")
        return space, pd.concat([places, rest], axis=1)
    if units is not None and {"hemisphere", "vertex"} <= set(units.columns):
        space = _surface(units, mesh, path)
    return space, units


def _surface(units: pd.DataFrame, mesh: str, path: Path | None) -> Surface:
    if mesh not in MESHES:
        raise DataError(f"mesh {mesh!r} is not one of {', '.join(MESHES)}; give --option mesh=NAME")
    vertex = units["vertex"].to_numpy()
    if np.isnan(vertex).any() or vertex.min() < 0 or vertex.max() >= MESHES[mesh]:
        raise DataError(f"{path}: vertices are 0 to {MESHES[mesh] - 1} on {mesh}; give the mesh by --option mesh=NAME")
    return Surface(mesh, units["hemisphere"].to_numpy(dtype=str), vertex.astype(int))


def _responses(folder: Path, space: Space | None, variable: str | None) -> np.ndarray:
    path = find_array(folder, "responses", (*ENDINGS, *IMAGES))
    if path is None:
        raise DataError(f"{folder} has no responses ({', '.join((*ENDINGS, *IMAGES))}); name the array responses.npy")
    if not path.name.endswith(IMAGES):
        return read_array(path, "responses", variable=variable)
    if not isinstance(space, Volume):
        raise DataError(f"{path} is an image, so {folder / 'mask.nii.gz'} must say which voxels are read")
    return read_masked(path, space)


def check_rows(folder: Path, data: np.ndarray, trials: int, units: int) -> None:
    """Raises DataError with both counts, and the way out, where data are not (trial, unit, ...) of these."""
    if data.shape[:2] == (trials, units):
        return
    turned = "; its axes look swapped, store it as trial by unit" if data.shape[:2] == (units, trials) else ""
    what = "trials.csv has {} trials" if data.shape[0] != trials else "units.csv or mask.nii.gz has {} units"
    have = trials if data.shape[0] != trials else units
    raise DataError(f"{folder}: responses are {data.shape}, {what.format(f'{have:,}')}{turned}; both must be of the same rows")
