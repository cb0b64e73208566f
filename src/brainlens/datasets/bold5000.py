"""BOLD5000, release 2.0: fMRI of four people who saw 4,916 pictures of scenes and objects, betas of GLMsingle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.bdata import smallest_region
from brainlens.datasets.shown_stimuli import PICTURES, shown_stimuli, with_split
from brainlens.datasets.volumes import coordinates_table, read_frames, read_header, read_volume
from brainlens.store import open_npy
from brainlens.types import DataError, Recording, Responses, Stimuli, Volume, read_lines
from brainlens.warned import warn

BETAS = "GLMbetas-TYPED-FITHRF-GLMDENOISE-RR"  # the kind that the release recommends
AGAIN = "rep_"  # before the name of a picture that is shown once more, in some of the lists
STIMULI = Path("BOLD5000_Stimuli")

FACTS = {
    "name": "bold5000",
    "title": "BOLD5000, a public fMRI dataset while viewing 5000 visual images",
    "kind": "fMRI",
    "measure": "fMRI betas, percent signal change",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "coordinates", "split"),
    "licence": "CC0 (OpenNeuro), else as the release says; the pictures by their sources",
    "citation": "Chang et al. (2019), Scientific Data 6, 49",
    "url": "https://bold5000-dataset.github.io/website/download.html",
    "access": "public",
    "subjects": 4,
    "sessions": (15, 15, 15, 9),
    "images": 4916,
    "trials": (5254, 5254, 5254, 3108),
}


@dataclass(frozen=True)
class _Read:
    """Responses (trial, unit), the session of each trial, the units, and their grid where one is known."""

    data: np.ndarray
    session: np.ndarray
    units: pd.DataFrame
    space: Volume | None


def fetch(folder: str | Path) -> Path:
    """Raises DataError with the address: subjects are chosen and fetched by the user."""
    raise DataError(f"bold5000 is at {FACTS['url']}: put CSI1_{BETAS}_ses-01.nii.gz and others, CSI1_imgnames.txt and "
                    f"CSI1_brainmask.nii.gz into {folder}, and the pictures into {STIMULI}/")  # fmt: skip


def load(folder: str | Path, *, subject: int = 1, n_sessions: int | None = None, test: float = 0.1, draw: int = 0) -> Recording:
    """Responses (trial, voxel) and the pictures seen, under their names without ending.

    Reads CSI1_GLMbetas-TYPED-..._ses-01.nii.gz, ... (n_sessions: the first ones; default: all that there are), or, where no
    volumes are there, the arrays of regions ..._allses_LHEarlyVis.npy, ...; and CSI1_imgnames.txt. Pictures that were shown more
    than once are the test, all others the training; where none was repeated a share `test` is drawn, by the number
    `draw`. Voxels are those that
    every session knows. The betas' files hold a wrong affine, so it is that of CSI1_brainmask.nii.gz, where it is there.
    Regions: sub-CSI1_mask-LHPPA.nii.gz, ... Pictures: BOLD5000_Stimuli/, or images/.
    Raises DataError for files that are missing or cut short, and lists that do not have a line a trial.
    """
    root, name = Path(folder), f"CSI{subject}"
    volumes = _sessions(root, name, n_sessions)
    found = _volumes(root, name, volumes) if volumes else _regions(root, name)
    lists = sorted(root.rglob(f"{name}_imgnames.txt"))
    if not lists:
        raise DataError(f"{root / f'{name}_imgnames.txt'} is missing; it names the picture of each trial")
    shown = [Path(line.strip()).stem.removeprefix(AGAIN) for line in read_lines(lists[0])]
    count = len(found.data)
    if len(shown) != count and not (volumes and n_sessions is not None and len(shown) > count):
        raise DataError(
            f"{lists[0]} has {len(shown):,} lines, the betas {count:,} trials; where sessions are missing give "
            f"--option n_sessions={len(volumes) or 1} (n_sessions={len(volumes) or 1})"
        )
    trials = pd.DataFrame({"stimulus": shown[:count], "subject": str(subject), "session": found.session})
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    often = trials.groupby("stimulus")["repeat"].transform("max") > 1
    if trials["stimulus"][often].nunique() > 1 and not often.all():
        trials["split"] = np.where(often, "test", "train")
    trials = with_split(trials, test=test, seed=draw, where=root, why="repeats no picture", way="")
    return Recording(Responses(found.data, trials, found.units, found.space, measure="psc"), _stimuli(root, trials))


def _sessions(root: Path, name: str, n_sessions: int | None) -> list[Path]:
    """The files of the first sessions, without a gap."""
    there = {int(path.name[-9:-7]): path for path in sorted(root.rglob(f"{name}_{BETAS}_ses-[0-9][0-9].nii.gz"))}
    if not there:
        if n_sessions is not None:
            raise DataError(f"{root} has no {name}_{BETAS}_ses-01.nii.gz; n_sessions counts such files")
        return []
    count = max(there) if n_sessions is None else n_sessions
    missing = [number for number in range(1, count + 1) if number not in there]
    if count < 1 or missing:
        lacking = f"session {missing[0]} is missing" if missing else f"n_sessions={count} is none"
        raise DataError(f"{root}: {lacking} of {name}; it has {', '.join(map(str, sorted(there)))}: give --option n_sessions=N")
    return [there[number] for number in range(1, count + 1)]


def _volumes(root: Path, name: str, files: list[Path]) -> _Read:
    """Voxels that are known in the first trial of every session: what is missing later is left to the verbs, which count it."""
    headers = [read_header(path) for path in files]
    for header in headers[1:]:
        if header.shape[:3] != headers[0].shape[:3]:
            raise DataError(f"{header.path} has the grid {header.shape[:3]}, the first session {headers[0].shape[:3]}")
    known = np.ones(headers[0].shape[:3], bool)
    change = np.zeros(known.shape, bool)
    for header in headers:
        frame = next(read_frames(header))
        known &= np.isfinite(frame)
        change |= frame != 0
    known &= change  # outside of the brain some files hold zeros in place of NaN
    if not known.any():
        raise DataError(f"{files[0]}: no voxel is known in every session")
    space = Volume(known, _affine(root, name, headers[0].affine, known))
    data = np.empty((sum(header.frames for header in headers), len(space)), dtype=np.float32)
    row = 0
    for header in headers:
        for frame in read_frames(header):
            data[row] = frame[known]
            row += 1
    session = np.repeat([str(number + 1) for number in range(len(headers))], [header.frames for header in headers])
    units = pd.DataFrame(coordinates_table(space))
    masks = _masks(root, name, known.shape)
    if masks:
        units["roi"] = smallest_region({region: values[known] for region, values in masks.items()}, len(units))
    return _Read(data, session, units, space)


def _affine(root: Path, name: str, own: np.ndarray, known: np.ndarray) -> np.ndarray:
    """That of the brain mask, since the betas were saved with another; with a warning where the two do not lie on each other."""
    found = sorted(root.rglob(f"{name}_brainmask.nii.gz"))
    if not found:
        lacking = root / f"{name}_brainmask.nii.gz"
        warn(f"{lacking} is missing: the betas' own affine is wrong, and places are in no space")
        return own
    brain, affine = read_volume(found[0])
    if brain.shape != known.shape:
        raise DataError(f"{found[0]} has the grid {brain.shape}, the betas {known.shape}; both must be of subject {name}")
    share = float((brain > 0)[known].mean())
    if share < 0.8:
        warn(f"{found[0]}: only {share:.0%} of the voxels that have betas lie in the brain mask")
    return affine


def _masks(root: Path, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Region -> voxels of both hemispheres, from sub-CSI1_mask-LHPPA.nii.gz and the like."""
    out: dict[str, np.ndarray] = {}
    for path in sorted(root.rglob(f"sub-{name}_mask-[LR]H*.nii.gz")):
        region = path.name.split("_mask-")[1][2:].removesuffix(".nii.gz")
        values = read_volume(path)[0]
        if values.shape != shape:
            raise DataError(f"{path} has the grid {values.shape}, the betas {shape}; take the masks of this subject")
        out[region] = out.get(region, np.zeros(shape, bool)) | (values > 0)
    return out


def _regions(root: Path, name: str) -> _Read:
    """The arrays (trial, voxel) of single regions side by side; nothing says where their voxels lie or where sessions end."""
    files = sorted(root.rglob(f"{name}_{BETAS}_allses_[LR]H*.npy"))
    if not files:
        raise DataError(
            f"{root} has no {name}_{BETAS}_ses-01.nii.gz and no {name}_{BETAS}_allses_LHEarlyVis.npy; see {FACTS['url']}"
        )
    arrays = [open_npy(path) for path in files]
    for path, array in zip(files, arrays, strict=True):
        if array.ndim != 2 or len(array) != len(arrays[0]):
            raise DataError(f"{path} is {array.shape}, {files[0].name} has {len(arrays[0]):,} trials; fetch both again")
    where = [path.stem.rsplit("_", 1)[1] for path in files]
    counts = [array.shape[1] for array in arrays]
    units = pd.DataFrame({"roi": np.repeat([each[2:] for each in where], counts)})
    units["hemisphere"] = np.repeat(["left" if each[0] == "L" else "right" for each in where], counts)
    data = np.concatenate([np.asarray(array, dtype=np.float32) for array in arrays], axis=1)
    return _Read(data, np.full(len(data), "1"), units, None)


def _stimuli(root: Path, trials: pd.DataFrame) -> Stimuli:
    """The pictures of BOLD5000_Stimuli by their names, else those of images/."""
    place = root / STIMULI
    if not place.is_dir():
        return shown_stimuli(root, trials["stimulus"])
    there = {path.stem: path.relative_to(root).as_posix() for path in sorted(place.rglob("*")) if path.suffix.lower() in PICTURES}
    missing = [name for name in pd.unique(trials["stimulus"]) if name not in there]
    if missing:
        raise DataError(
            f"{place} lacks {len(missing)} pictures of the trials, first {str(missing[0])!r}; unpack all of them there"
        )
    return shown_stimuli(root, trials["stimulus"], files=there)
