"""Natural Object Dataset: fMRI betas of ImageNet pictures on the 32k cortical grid (CIFTI), one file a run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.pictures import ImageFiles, NoImages
from brainlens.datasets.shown_stimuli import with_split
from brainlens.datasets.surface_files import read_cifti
from brainlens.types import DataError, Recording, Responses, Stimuli, inside, read_lines
from brainlens.warned import warn

SIDES = (("CIFTI_STRUCTURE_CORTEX_LEFT", "left"), ("CIFTI_STRUCTURE_CORTEX_RIGHT", "right"))

FACTS = {
    "name": "nod",
    "title": "A large-scale fMRI dataset for the visual processing of naturalistic scenes",
    "kind": "fMRI",
    "measure": "fMRI betas",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "runs", "split"),
    "surface": True,
    "drawn_test": "no images are set apart for a test, and each is shown once",
    "licence": "CC0",
    "citation": "Gong et al. (2023), Scientific Data 10, 559",
    "url": "https://openneuro.org/datasets/ds004496",
    "access": "public",
    "subjects": 30,
    "images": 57120,
    "mesh": "fs_LR_32k",
}


def fetch(folder: str | Path) -> Path:
    """Raises DataError with the address: subjects are chosen and fetched by the user."""
    raise DataError(f"nod is at {FACTS['url']}: put derivatives/ciftify/sub-XX/results of the subjects wanted into {folder}")


def load(
    folder: str | Path,
    *,
    subject: int = 1,
    sessions: tuple[str, ...] | None = None,
    zscore: bool = True,
    test: float = 0.1,
    draw: int = 0,
) -> Recording:
    """Responses (trial, vertex) of the cortex, left hemisphere first, and the ImageNet pictures shown.

    Reads derivatives/ciftify/sub-XX/results/ses-*_task-imagenet_run-*/*_beta.dscalar.nii with the *_label.txt beside
    it, which names the picture of each beta. sessions: names such as ("imagenet01",), default all. zscore: per run
    and vertex. Each picture is shown once, so there are no repeats; a share `test` of the pictures, drawn by the number
    `draw`, is the test part, and a warning says so.
    Raises DataError for runs whose betas and labels differ in number, and for files that are not CIFTI.
    """
    root = Path(folder)
    results = root / "derivatives" / "ciftify" / f"sub-{subject:02d}" / "results"
    found = sorted(results.glob("ses-*_task-imagenet_run-*/*_beta.dscalar.nii"), key=_order)
    if not found:
        raise DataError(f"{results} holds no ses-*_task-imagenet_run-*/*_beta.dscalar.nii; see {FACTS['url']}")
    there = sorted({_names(path)[0] for path in found})
    if sessions is not None and set(sessions) - set(there):
        raise DataError(f"session {sorted(set(sessions) - set(there))[0]!r} is not found; subject {subject} has {there}")
    data, trials, space = [], [], None
    for path in found:
        session, run = _names(path)
        if sessions is not None and session not in sessions:
            continue
        betas, here = read_cifti(path)
        if space is not None and not np.array_equal(here.vertex, space.vertex):
            raise DataError(f"{path} has other vertices than the runs before")
        space = here
        labels = _labels(path)
        if len(labels) != len(betas):
            raise DataError(f"{path} has {len(betas)} betas but its label file {len(labels)} lines; they do not belong together")
        data.append(_standard(betas) if zscore else betas)
        trials.append(pd.DataFrame({"file": labels, "session": session, "run": run}))
    assert space is not None  # at least one run was found
    table = pd.concat(trials, ignore_index=True)
    table["stimulus"] = [Path(f).stem for f in table["file"]]
    table["concept"] = [Path(f).stem.split("_")[0] for f in table["file"]]
    table["subject"] = str(subject)
    table["repeat"] = table.groupby("stimulus").cumcount() + 1
    table = with_split(table, test=test, seed=draw, where=results, why="sets no images apart for a test", way="")
    values = np.concatenate(data)
    missing = int((~np.isfinite(values).all(axis=0)).sum())
    if missing:
        warn(f"nod subject {subject}: {missing} vertices are missing or constant in a run; clean() drops them")
    units = pd.DataFrame({"hemisphere": space.hemisphere, "vertex": space.vertex})
    measure = "z" if zscore else "psc"
    return Recording(Responses(values, table, units, space, measure=measure), _stimuli(root, table))


def _order(path: Path) -> tuple[str, int]:
    session, run = _names(path)
    return session, int(run)


def _names(path: Path) -> tuple[str, str]:
    match = re.match(r"ses-([A-Za-z0-9]+)_task-imagenet_run-(\d+)$", path.parent.name)
    if match is None:
        raise DataError(f"{path.parent}: the folder should be named ses-imagenet01_task-imagenet_run-1")
    return match[1], str(int(match[2]))


def _labels(path: Path) -> list[str]:
    """The picture of each beta, one a line: n01440764/n01440764_10026.JPEG."""
    beside = path.with_name(path.name.replace("_beta.dscalar.nii", "_label.txt"))
    candidates = [beside] if beside.exists() else sorted(path.parent.glob("*_label.txt"))
    if len(candidates) != 1:
        raise DataError(f"{beside} is missing; it names the picture of each beta")
    return [line.strip() for line in read_lines(candidates[0])]


def _standard(betas: np.ndarray) -> np.ndarray:
    values = betas.astype(np.float64)
    spread = values.std(axis=0)
    return ((values - values.mean(axis=0)) / np.where(spread == 0, np.nan, spread)).astype(np.float32)


def _stimuli(root: Path, trials: pd.DataFrame) -> Stimuli:
    table = trials.drop_duplicates("stimulus")[["stimulus", "concept", "file"]].reset_index(drop=True)
    files = inside(root, [Path("stimuli", "imagenet", file) for file in table["file"]], f"a label file of {root}")
    images: ImageFiles | NoImages
    if all(f.is_file() for f in files):
        images = ImageFiles(files)
    else:
        images = NoImages(len(table), f"the pictures are not in {root / 'stimuli' / 'imagenet'}; copy them there")
    return Stimuli(table["stimulus"].to_numpy().astype(str), images, [], table[["concept", "file"]])
