"""The experiments beside NSD's own, on the same people: NSD-synthetic and NSD-Imagery, as test sets for models of its images.

NSD-synthetic: 284 artificial pictures (noise, gratings, words, ...; 64 of them coloured), 744 trials in one session.
NSD-Imagery: 12 pictures of the sets A and B, seen or imagined; 12 runs of 48 trials, those of attention with two betas a trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.hdf5 import Hdf5Images
from brainlens.datasets.pictures import ImageFiles, NoImages
from brainlens.datasets.stored_arrays import read_array
from brainlens.datasets.text_tables import read_table
from brainlens.types import DataError, Stimuli, inside

SHARED, SYNTHETIC = "shared", "synthetic"
SEEN, IMAGINED = "vision", "imagery"
TESTS = (SHARED, SYNTHETIC, SEEN, IMAGINED)
ACHROMATIC, COLOURED = 220, 64  # pictures of NSD-synthetic, in this order
RUNS = ("visA", "attA", "imgA_1", "visB", "attB", "imgB_1", "visC", "attC", "imgC_1", "imgA_2", "imgB_2", "imgC_2")
RUN_TRIALS = 48
OF = {SEEN: ("visA", "visB"), IMAGINED: ("imgA_1", "imgA_2", "imgB_1", "imgB_2")}  # set C has no picture of its own


def experiment(tests: str) -> str:
    """The name of the experiment in the files of NSD: of the betas' folder and of the betas themselves."""
    return "nsdsynthetic" if tests == SYNTHETIC else "nsdimagery"


def further_trials(folder: Path, subject: int, tests: str) -> tuple[pd.DataFrame, np.ndarray]:
    """(trials: stimulus, session, run, repeat, split; the beta (trial,) of each, counted from 0) of the experiment's tables."""
    trials, beta = _synthetic(folder) if tests == SYNTHETIC else _imagery(folder, subject, tests)
    trials = trials.assign(subject=str(subject), session=experiment(tests), split="test")
    return trials.assign(repeat=trials.groupby("stimulus").cumcount() + 1), beta


def _synthetic(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    path = folder / "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"
    if not path.exists():
        raise DataError(f"{path} is missing; it says which picture each trial of NSD-synthetic showed")
    shown = read_array(path, "masterordering", variable="masterordering").ravel().astype(int) - 1
    if shown.min(initial=0) < 0 or shown.max(initial=0) >= ACHROMATIC + COLOURED:
        raise DataError(f"{path}: masterordering counts from 1 to {ACHROMATIC + COLOURED}, it has {int(shown.max()) + 1}")
    return pd.DataFrame({"stimulus": [f"synthetic-{i:03d}" for i in shown], "run": "1", "nsd": shown}), np.arange(len(shown))


def _imagery(folder: Path, subject: int, tests: str) -> tuple[pd.DataFrame, np.ndarray]:
    first, at = {}, 0
    for run in RUNS:
        first[run] = at
        at += RUN_TRIALS * (2 if run.startswith("att") else 1)
    tables, beta = [], []
    for run in OF[tests]:
        path = folder / f"nsddata/bdata/nsdimagery/nsdimagery_subj{subject:02d}_{run}.tsv"
        table = read_table(path, ("CONDITION",))
        if len(table) != RUN_TRIALS:
            raise DataError(f"{path} has {len(table)} trials, a run has {RUN_TRIALS}")
        names = [f"imagery-{run[3]}-{name}" for name in table["CONDITION"]]
        tables.append(pd.DataFrame({"stimulus": names, "run": run, "nsd": -1}))
        beta.append(first[run] + np.arange(RUN_TRIALS))
    return pd.concat(tables, ignore_index=True), np.concatenate(beta)


def check_betas(path: Path, count: int, tests: str) -> None:
    """Raises DataError where a file does not hold as many betas as the experiment has."""
    wanted = 744 if tests == SYNTHETIC else RUN_TRIALS * 15
    if count != wanted:
        raise DataError(f"{path} holds {count} betas, {experiment(tests)} has {wanted}; fetch it again")


def further_stimuli(folder: Path, subject: int, trials: pd.DataFrame, tests: str) -> Stimuli:
    """The pictures of the trials; those of NSD-synthetic as they looked on the screen (`Brightened`)."""
    table = trials.drop_duplicates("stimulus")[["stimulus", "nsd", "split"]].reset_index(drop=True)
    ids = table["stimulus"].to_numpy(dtype=str)
    images: Any = _bricks(folder, subject, table["nsd"].to_numpy()) if tests == SYNTHETIC else _targets(folder, ids)
    return Stimuli(ids, images, [[] for _ in ids], table[["nsd", "split"]])


class Brightened(Sequence[np.ndarray]):
    """Pictures whose numbers are luminances, as numbers of a screen that squares them: 255 sqrt(v / 255).

    NSD's own pictures were shown on a screen that squares, NSD-synthetic's on one that does not; a network expects the first.
    """

    def __init__(self, parts: Sequence[tuple[Hdf5Images, int]]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Brightened(self.parts[index])
        images, row = self.parts[index]
        return np.rint(255 * np.sqrt(np.asarray(images[row], np.float64) / 255)).astype(np.uint8)


def _bricks(folder: Path, subject: int, numbers: np.ndarray) -> Brightened | NoImages:
    place = folder / "nsddata_stimuli/stimuli/nsdsynthetic"
    files = (place / "nsdsynthetic_stimuli.hdf5", place / f"nsdsynthetic_colorstimuli_subj{subject:02d}.hdf5")
    missing = [path for path in files if not path.exists()]
    if missing:
        return NoImages(len(numbers), f"{missing[0]} is missing; copy it there to open the pictures of NSD-synthetic")
    coloured = numbers >= ACHROMATIC
    bricks = (
        Hdf5Images(files[0], "imgBrick", numbers[~coloured]),
        Hdf5Images(files[1], "imgBrick", numbers[coloured] - ACHROMATIC),
    )
    counts = [0, 0]
    parts = []
    for colour in coloured.astype(int):
        parts.append((bricks[colour], counts[colour]))
        counts[colour] += 1
    return Brightened(parts)


def _targets(folder: Path, ids: np.ndarray) -> ImageFiles | NoImages:
    """The target picture of each condition: named by a table, or the file of its set whose name holds the condition's."""
    place = folder / "nsddata/experiments/nsdimagery"
    listed: dict[str, str] = {}
    if (place / "pictures.csv").is_file():
        table = read_table(place / "pictures.csv", ("condition", "file"))
        listed = dict(zip(table["condition"], table["file"], strict=True))
    found = []
    for name in ids:
        letter, condition = name.split("-", 2)[1:]
        there = sorted((place / "rawtargetimages" / f"set{letter}").glob("*.png"))
        if condition in listed:
            (path,) = inside(place, [listed[condition]], f"the table {place / 'pictures.csv'}")
            matches = [path] if path.is_file() else []
        else:
            matches = [path for path in there if path.stem == condition] or [p for p in there if condition in p.stem.split("_")]
        if len(matches) != 1:
            have = ", ".join(path.name for path in there[:6]) or "no picture"
            many = f"{len(matches)} pictures among {have}"
            way = "write pictures.csv there with the columns condition, file"
            return NoImages(len(ids), f"{place}: condition {condition!r} of set {letter} has {many}; {way}")
        found.append(matches[0])
    return ImageFiles(found)
