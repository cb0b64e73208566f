"""The MOSAIC release: eight fMRI data sets on fsLR 32k, one HDF5 file a subject with one array of grayordinates a stimulus.

sub-01_NSD.hdf5      group `betas`, a dataset a stimulus name: (91282,) or (repeats, 91282)
stimuli.csv          stimulus, and split (train, test) as the release has it, file where the pictures are there
*.dscalar.nii        any CIFTI file of 91,282 grayordinates, which says where each of them lies
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.hdf5 import check_dataset
from brainlens.datasets.shown_stimuli import shown_stimuli, with_split
from brainlens.datasets.surface_files import read_cifti
from brainlens.datasets.text_tables import read_table
from brainlens.types import DataError, Recording, Responses, Surface, reading

GRAYORDINATES = 91_282
BUDGET = 64e9  # bytes of one subject
CORTEX = (29_696, 29_716)  # of the left and the right hemisphere, which come first
NAME = re.compile(r"sub-([A-Za-z0-9]+)_([A-Za-z0-9]+)\.hdf5$")

FACTS = {
    "name": "mosaic",
    "title": "MOSAIC: eight fMRI data sets of natural images in one space and one format",
    "kind": "fMRI",
    "measure": "fMRI betas, z-scored",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "split"),
    "surface": True,
    "licence": "that of each data set",
    "citation": "MOSAIC and the data set that a file is of",
    "url": "https://registry.opendata.aws",
    "access": "public",
    "subjects": 93,
    "grayordinates": GRAYORDINATES,
}


def load(
    folder: str | Path,
    *,
    subject: str | None = None,
    source: str | None = None,
    group: str = "betas",
    test: float = 0.2,
    draw: int = 0,
) -> Recording:
    """Responses (trial, cortical vertex) of one subject and the stimuli seen, under the names of the file.

    subject, source: sub-SUBJECT_SOURCE.hdf5 (default: the only file of the folder, or the first of its only source). group: of
    the HDF5 file. A stimulus with several rows is of several trials. The 59,412 grayordinates of the cortex are the units, in
    the file's order; where they lie is read from a CIFTI file in the folder, and without one there are no maps. Subcortical ones
    are left out. test, draw: share of the images, and seed, of the test where stimuli.csv has no column split.
    Raises DataError for files cut short, other numbers of grayordinates, and stimuli that the table does not name.
    """
    root = Path(folder)
    path, name, origin = _file(root, None if subject is None else str(subject), source)
    data, ids = _betas(path, group)
    trials = pd.DataFrame({"stimulus": ids, "subject": name, "session": "1", "source": origin})
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    table = root / "stimuli.csv"
    if table.is_file():
        rows = read_table(table, ("stimulus",), ("split",)).drop_duplicates("stimulus").set_index("stimulus")
        missing = [one for one in ids if one not in rows.index]
        if missing:
            raise DataError(f"{table} lacks {len(set(missing))} stimuli of {path.name}, first {missing[0]!r}; add them")
        if "split" in rows.columns:
            trials["split"] = rows.loc[ids, "split"].to_numpy()
    trials = with_split(trials, test=test, seed=draw, where=table)
    space = _surface(root)
    hemisphere = np.repeat(["left", "right"], CORTEX)
    units = pd.DataFrame({"hemisphere": hemisphere, "grayordinate": np.arange(sum(CORTEX))})
    if space is not None:
        units["vertex"] = space.vertex
    return Recording(Responses(data, trials, units, space), shown_stimuli(root, ids))


def _file(root: Path, subject: str | None, source: str | None) -> tuple[Path, str, str]:
    found = [(path, match[1], match[2]) for path in sorted(root.glob("sub-*_*.hdf5")) if (match := NAME.match(path.name))]
    if not found:
        raise DataError(f"{root} holds no file sub-NAME_DATASET.hdf5 of MOSAIC; fetch one for each subject")
    if source is not None:
        there = sorted({each[2] for each in found})
        found = [each for each in found if each[2].lower() == source.lower()]
        if not found:
            raise DataError(f"source {source!r} is not found; {root} has {', '.join(there)}")
    elif len({each[2] for each in found}) > 1:
        raise DataError(f"{root} holds {', '.join(sorted({each[2] for each in found}))}; choose one by --option source=NAME")
    if subject is None:
        return found[0]
    same = [each for each in found if each[1] == subject or (each[1].isdecimal() and each[1].lstrip("0") == subject.lstrip("0"))]
    if not same:
        raise DataError(f"subject {subject!r} is not found; {root} has {', '.join(each[1] for each in found[:30])}")
    return same[0]


def _betas(path: Path, group: str) -> tuple[np.ndarray, list[str]]:
    """(trial, cortical grayordinate) float32 and the stimulus of each row."""
    import h5py

    wanted = sum(CORTEX)
    rows, ids, total = [], [], 0.0
    with reading(path, "fetch it again", fault="is cut short or damaged"), h5py.File(path, "r", locking="best-effort") as handle:
        if group not in handle or not isinstance(handle[group], h5py.Group):
            raise DataError(f"{path} has no group {group!r}; it has {sorted(handle)[:20]}")
        for name in handle[group]:
            link = handle[group].get(name, getlink=True)
            values = handle[group][name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(values, h5py.Dataset):
                raise DataError(f"{path}: {name!r} in {group!r} is no array of numbers in the file itself; fetch it again")
            if values.shape[-1:] != (GRAYORDINATES,) or values.ndim > 2:
                raise DataError(f"{path}: {name!r} has shape {values.shape}, {GRAYORDINATES:,} grayordinates are expected")
            check_dataset(values, path, name, BUDGET)
            if (total := total + 4.0 * math.prod(values.shape)) > BUDGET:
                raise DataError(f"{path} claims more than {BUDGET / 1e9:.3g} GB; it is no file of one subject")
            block = np.atleast_2d(values[..., :wanted]).astype(np.float32)
            rows.append(block)
            ids += [str(name)] * len(block)
    if not rows:
        raise DataError(f"{path}: the group {group!r} holds no stimulus; the file was not written to its end")
    return np.concatenate(rows), ids


def _surface(root: Path) -> Surface | None:
    """Where the cortical grayordinates lie, from a CIFTI file of the folder; None without one."""
    files = sorted(root.glob("*.dscalar.nii"))
    if not files:
        return None
    _, space = read_cifti(files[0])
    counts = tuple(int((space.hemisphere == side).sum()) for side in ("left", "right"))
    if counts != CORTEX:
        raise DataError(f"{files[0]} has {counts} cortical grayordinates, {CORTEX} are expected; use one of the 91,282")
    return space
