"""Haxby et al. 2001: faces, houses, cats, bottles, scissors, shoes, chairs and scrambled pictures, in 12 runs.

Three layouts are read: a folder with `bold.nii.gz`, `mask.nii.gz` and `attributes_literal.txt` (one slice), nilearn's
(`subj1/bold.nii.gz`, `subj1/labels.txt`, masks), and the OpenfMRI one (`sub001/BOLD/task001_run001/...`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.pictures import NoImages
from brainlens.datasets.volumes import check_grid, coordinates_table, read_frames, read_header, read_mask, read_masked
from brainlens.types import DataError, Recording, Responses, Stimuli, Volume, read_lines

CATEGORIES = ("face", "house", "cat", "bottle", "scissors", "shoe", "chair", "scrambledpix")
REST = "rest"
TR = 2.5

FACTS = {
    "name": "haxby2001",
    "title": "Distributed representations of faces and objects in ventral temporal cortex",
    "kind": "fMRI",
    "measure": "fMRI, z-scored by the rest volumes of a run",
    "simulated": False,
    "several_subjects": True,
    "offers": ("categories", "coordinates", "runs"),
    "licence": "CC BY-SA 3.0",
    "citation": "Haxby et al. (2001), Science 293, 2425-2430",
    "url": "http://data.pymvpa.org/datasets/haxby2001/",
    "access": "public",
    "subjects": 6,
    "runs": 12,
    "categories": 8,
    "tr_s": 2.5,
    "volumes": 1452,
}


@dataclass(frozen=True)
class _Scans:
    data: np.ndarray  # (volume, voxel)
    labels: np.ndarray
    runs: np.ndarray
    space: Volume
    roi: np.ndarray


def fetch(folder: str | Path, subjects: tuple[int, ...] = (1, 2, 3, 4, 5, 6)) -> Path:
    """Downloads subjects 1 to 6 through nilearn (checksums by nilearn) and returns the folder for `load`."""
    from nilearn.datasets import fetch_haxby

    fetch_haxby(data_dir=str(folder), subjects=list(subjects))
    return Path(folder) / "haxby2001"


def load(
    folder: str | Path, *, samples: str = "blocks", subject: int = 1, mask: str = "brain", resolution: str = "1slice"
) -> Recording:
    """Responses (trial, voxel) in z units and the categories as stimuli; there are no image files.

    Per run and voxel: linear detrend, then (x - mean) / standard deviation of the run's rest volumes.
    samples: "blocks", one mean per run and category; "volumes", every volume with its label, rest included.
    mask: "brain", or "vt" (ventral temporal) where the layout has one. resolution: for OpenfMRI, "1slice" or "25mm".
    No shift for the haemodynamic delay is made. Voxels that never change come out as NaN, for `clean` to count.
    Raises DataError for missing or damaged files, labels that do not match the volumes, and other grids.
    """
    if samples not in ("blocks", "volumes"):
        raise DataError(f"samples={samples!r} is not known; choose 'blocks' or 'volumes'")
    if mask not in ("brain", "vt"):
        raise DataError(f"mask={mask!r} is not known; choose 'brain' or 'vt'")
    folder = Path(folder)
    if (folder / "attributes_literal.txt").exists():
        recording = _slice(folder, mask)
    elif (folder / f"subj{subject}" / "bold.nii.gz").exists():
        recording = _nilearn(folder, subject, mask)
    elif (folder / f"sub{subject:03d}" / "BOLD").exists():
        recording = _openfmri(folder, subject, mask, resolution)
    else:
        raise DataError(
            f"{folder} holds no Haxby recording of subject {subject}; expected attributes_literal.txt, "
            f"subj{subject}/bold.nii.gz or sub{subject:03d}/BOLD, or get it with fetch(folder)"
        )
    standard = standardize(recording.data, recording.labels, recording.runs)
    if samples == "blocks":
        data, trials = _blocks(standard, recording.labels, recording.runs)
    else:
        data = standard.astype(np.float32)
        trials = pd.DataFrame({"stimulus": recording.labels, "run": recording.runs, "volume": np.arange(len(data))})
    trials = trials.assign(category=trials["stimulus"], session="1", subject=str(subject))
    units = pd.DataFrame({**coordinates_table(recording.space), "roi": recording.roi})
    names = [c for c in (*CATEGORIES, REST) if (trials["stimulus"] == c).any()]
    reason = "haxby2001 comes without one image per block; use the categories as features (one-hot), not the pictures"
    stimuli = Stimuli(
        np.array(names), NoImages(len(names), reason), [[c] for c in names], pd.DataFrame({"category": names, "concept": names})
    )
    return Recording(Responses(data, trials, units, recording.space, measure="z"), stimuli)


def standardize(data: np.ndarray, labels: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """(volume, voxel) float64: each run detrended by its least-squares line, then in units of its rest volumes.

    Raises DataError for a run with fewer than two rest volumes.
    """
    out = np.empty(data.shape)
    for run in pd.unique(runs):
        rows = np.flatnonzero(runs == run)
        block = data[rows].astype(np.float64)
        block[:, ~np.isfinite(block).all(axis=0)] = 0.0  # constant, so NaN below; one infinite voxel would take all with it
        line = np.stack([np.ones(len(rows)), np.linspace(-1, 1, len(rows))], axis=1)
        residual = block - line @ np.linalg.lstsq(line, block, rcond=None)[0]
        rest = residual[labels[rows] == REST]
        if len(rest) < 2:
            raise DataError(f"run {run} has {len(rest)} rest volumes; its z-score needs 2")
        constant = np.ptp(block, axis=0) == 0
        spread = np.where(constant, np.nan, rest.std(axis=0))
        out[rows] = (residual - rest.mean(axis=0)) / np.where(spread == 0, np.nan, spread)
    return out


def _blocks(data: np.ndarray, labels: np.ndarray, runs: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
    means, rows = [], []
    for run in pd.unique(runs):
        for category in CATEGORIES:
            chosen = (runs == run) & (labels == category)
            if chosen.any():
                means.append(data[chosen].mean(axis=0))
                rows.append({"stimulus": category, "run": run, "volumes": int(chosen.sum())})
    return np.asarray(means, dtype=np.float32), pd.DataFrame(rows)


def _labels(path: Path, header: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and runs, one line a volume."""
    if not path.exists():
        raise DataError(f"{path} is missing")
    lines = [line.split() for line in read_lines(path)][int(header) :]
    wrong = [i for i, line in enumerate(lines) if len(line) != 2 or line[0] not in (*CATEGORIES, REST)]
    if wrong:
        raise DataError(
            f"{path}: line {wrong[0] + 1 + header} is {' '.join(lines[wrong[0]])!r}, a category and a run are expected"
        )
    return np.array([line[0] for line in lines]), np.array([line[1] for line in lines])


def _checked(path: Path, space: Volume, labels: np.ndarray) -> np.ndarray:
    header = read_header(path)
    if header.frames != len(labels):
        raise DataError(
            f"{path} has {header.frames} volumes but there are {len(labels)} labels; the files do not belong together"
        )
    return read_masked(path, space)


def _slice(folder: Path, mask: str) -> _Scans:
    if mask == "vt":
        raise DataError(f"{folder} has no ventral temporal mask; use mask='brain'")
    labels, runs = _labels(folder / "attributes_literal.txt", header=False)
    space = read_mask(folder / "mask.nii.gz")
    data = _checked(folder / "bold.nii.gz", space, labels)
    return _Scans(data, labels, runs, space, np.full(len(space), "", dtype=object))


def _nilearn(folder: Path, subject: int, mask: str) -> _Scans:
    place = folder / f"subj{subject}"
    labels, runs = _labels(place / "labels.txt", header=True)
    ventral = read_mask(place / "mask4_vt.nii.gz")
    bold = place / "bold.nii.gz"
    if mask == "vt":
        space = ventral
    else:  # nilearn's brain mask is of subject 1's grid alone, so it is used where the grids agree
        header = read_header(bold)
        whole = folder / "mask.nii.gz"
        space = read_mask(whole) if whole.exists() else _signal_mask(bold)
        if space.mask.shape != header.shape[:3] or np.abs(space.affine - header.affine).max() > 1e-3:
            space = _signal_mask(bold)
    check_grid(read_header(place / "mask4_vt.nii.gz"), space)
    roi = np.where(ventral.mask[space.mask], "VT", "").astype(object)
    return _Scans(_checked(bold, space, labels), labels, runs, space, roi)


def _signal_mask(path: Path) -> Volume:
    """Voxels whose mean is above a fifth of the brightest voxel's mean: brain, roughly, where no mask is given."""
    header = read_header(path)
    total = np.zeros(header.shape[:3])
    for frame in read_frames(header):
        total += frame
    return Volume(total > 0.2 * total.max(), header.affine)


def _openfmri(folder: Path, subject: int, mask: str, resolution: str) -> _Scans:
    if resolution not in ("1slice", "25mm"):
        raise DataError(f"resolution={resolution!r} is not known; choose '1slice' or '25mm'")
    place = folder / f"sub{subject:03d}"
    masks = place / "masks" / resolution
    name = {"brain": "brain.nii.gz", "vt": "vt.nii.gz"}[mask]
    runs_there = sorted((place / "BOLD").glob(f"task001_run*/bold_{resolution}.nii.gz"))
    if not runs_there:
        raise DataError(f"{place / 'BOLD'} has no task001_run*/bold_{resolution}.nii.gz")
    if (masks / name).exists():
        space = read_mask(masks / name)
    elif mask == "brain":
        space = _signal_mask(runs_there[0])
    else:
        raise DataError(f"{masks / name} is missing; use mask='brain'")
    ventral = read_mask(masks / "vt.nii.gz") if (masks / "vt.nii.gz").exists() else None
    inside = np.zeros(len(space), bool) if ventral is None else ventral.mask[space.mask]
    data, labels, runs = [], [], []
    names = _condition_names(folder / "models" / "model001" / "condition_key.txt")
    for path in runs_there:
        run = path.parent.name
        frames = read_masked(path, space)
        data.append(frames)
        labels.append(_onset_labels(place / "model" / "model001" / "onsets" / run, names, len(frames)))
        runs.append(np.full(len(frames), str(int(run[-3:]) - 1)))
    roi = np.where(inside, "VT", "").astype(object)
    return _Scans(np.concatenate(data), np.concatenate(labels), np.concatenate(runs), space, roi)


def _condition_names(path: Path) -> dict[str, str]:
    if not path.exists():
        raise DataError(f"{path} is missing; it names the conditions")
    lines = [line.split() for line in read_lines(path)]
    return {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == "task001"}


def _onset_labels(folder: Path, names: dict[str, str], volumes: int) -> np.ndarray:
    """The condition shown when each volume begins; rest where none is."""
    times = np.arange(volumes) * TR
    labels = np.full(volumes, REST, dtype="<U12")
    found = sorted(folder.glob("cond*.txt"))
    if not found:
        raise DataError(f"{folder} holds no onsets (cond001.txt, ...)")
    for path in found:
        if path.stem not in names:
            raise DataError(f"{path}: condition {path.stem!r} is not in the condition key; it has {sorted(names)}")
        for onset, duration in _onsets(path):
            labels[(times >= onset - 1e-6) & (times < onset + duration - 1e-6)] = names[path.stem]
    return labels


def _onsets(path: Path) -> list[tuple[float, float]]:
    """Onset and duration in s of each line of a three-column file."""
    try:
        return [(float(line.split()[0]), float(line.split()[1])) for line in read_lines(path)]
    except (ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: each line is an onset, a duration and a weight in numbers ({error})") from None
