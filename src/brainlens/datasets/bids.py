"""fMRI of one's own in BIDS: single-trial betas or preprocessed runs, and events that name the picture of each trial.

dataset_description.json      stimuli/      the pictures that `stim_file` of the events names
sub-01/ses-01/func/sub-01_ses-01_task-view_run-1_events.tsv
derivatives/NAME/sub-01/ses-01/func/sub-01_ses-01_task-view_run-1_..._betas.nii.gz     one volume a trial
                                    or ..._desc-preproc_bold.nii.gz, without betas     and ..._desc-brain_mask.nii.gz
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.datasets.shown_stimuli import shown_stimuli, with_split
from brainlens.datasets.surface_files import read_cifti, read_mgh
from brainlens.datasets.text_tables import EMPTY, read_table
from brainlens.datasets.volumes import Header, coordinates_table, read_frames, read_header, read_mask, read_masked
from brainlens.types import DataError, Recording, Responses, Space, Surface, Volume, reading
from brainlens.types.spaces import MESHES
from brainlens.warned import warn

BETAS = re.compile(r"_(stat-|desc-)?betas?(_[a-z]+)?\.(nii|nii\.gz|func\.gii|gii|mgh|mgz|dscalar\.nii)$")
BOLD = re.compile(r"_bold\.(nii|nii\.gz)$")
ENTITY = re.compile(r"(sub|ses|task|run|space|hemi|desc)-([A-Za-z0-9]+)")
SAME = ("sub", "ses", "task", "run")  # entities by which a file finds its events

FACTS = {
    "name": "bids",
    "title": "fMRI of your own in BIDS: betas or preprocessed runs, with events that name the pictures",
    "kind": "fMRI",
    "measure": "fMRI, z-scored by session",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "captions", "coordinates", "runs", "split"),
    "surface": True,
    "licence": "yours",
    "citation": "yours",
    "url": "docs/recordings.md",
    "access": "yours",
}


@dataclass(frozen=True)
class _Run:
    """The files of one run (two where hemispheres are apart), its entities and its events."""

    files: tuple[Path, ...]
    entities: dict[str, str]
    events: pd.DataFrame


def load(
    folder: str | Path,
    *,
    subject: str | None = None,
    task: str | None = None,
    space: str | None = None,
    file: str | None = None,
    stimulus: str = "stim_file",
    delay: tuple[float, float] = (4.0, 8.0),
    test: float = 0.2,
    draw: int = 0,
) -> Recording:
    """Responses (trial, unit) of one subject and the pictures seen, ids as `stim_file` has them without the ending.

    subject, task, space: labels of the files' names; the first subject, every task, and the only space unless given. file: a part
    of the path of the files that count, where a run has several (glmsingle/, desc-preproc). stimulus: the column of the events
    that names the picture, a path in stimuli/. Betas are
    taken where there are some, one a trial in the order of the events. Without betas the response to a trial is the mean of the
    preprocessed volumes `delay` s after its onset, each run detrended and z-scored before: an estimate that overlaps between
    trials less than some 10 s apart. test, draw: share of the images, and seed, of the test where events have no column
    split.
    Raises DataError for a folder without derivatives or events, several files of a run, counts that differ, and pictures without
    a file.
    """
    root = Path(folder)
    if not (root / "dataset_description.json").is_file():
        raise DataError(f"{root / 'dataset_description.json'} is missing; a BIDS folder has it at its top")
    store.read_json(root / "dataset_description.json")
    label = _subject(root, None if subject is None else str(subject))
    runs, are_betas = _runs(root, label, {"task": task, "space": space}, file, stimulus)
    place, mask = _space(runs, root, label)
    blocks = [_betas(run, place, mask) if are_betas else _peaks(run, place, mask, delay) for run in runs]
    trials = pd.concat([_trials(run, len(block), label) for run, block in zip(runs, blocks, strict=True)], ignore_index=True)
    trials = with_split(trials, test=test, seed=draw, where=root)
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    units = pd.DataFrame(_places(place))
    files = _pictures(root, trials)
    stimuli = shown_stimuli(root, trials["stimulus"], files=files if (root / "stimuli").is_dir() else None, images="stimuli")
    return Recording(Responses(np.concatenate(blocks), trials, units, place), stimuli)


def entities(path: Path) -> dict[str, str]:
    """The entities in a file's name: {"sub": "01", "ses": ..., ...}."""
    return dict(ENTITY.findall(path.name))


def _subject(root: Path, subject: str | None) -> str:
    places = [*root.glob("sub-*"), *root.glob("derivatives/*/sub-*"), *root.glob("derivatives/sub-*")]
    there = sorted({path.name[4:] for path in places if path.is_dir()})
    if not there:
        raise DataError(f"{root} has no folder sub-...; a BIDS folder has one a subject")
    if subject is None:
        return there[0]
    same = [name for name in there if name == subject or (name.isdecimal() and subject.isdecimal() and int(name) == int(subject))]
    if not same:
        raise DataError(f"subject {subject!r} is not found; {root} has {', '.join(there[:30])}")
    return same[0]


def _pictures(root: Path, trials: pd.DataFrame) -> dict[str, str]:
    """Stimulus -> path in the root. Raises DataError where two pictures differ in their endings alone."""
    found: dict[str, str] = {}
    for name, file in zip(trials["stimulus"], trials["stim_file"], strict=True):
        if (other := found.setdefault(name, file)) != file:
            raise DataError(f"{root}: stimulus {name!r} is of {other} and of {file}; give the pictures names that differ")
    whole = "stimuli/"  # some write the path from the root, and not from its folder stimuli
    return {name: file if file.startswith(whole) and (root / file).is_file() else whole + file for name, file in found.items()}


def _runs(root: Path, label: str, wanted: dict[str, str | None], part: str | None, column: str) -> tuple[list[_Run], bool]:
    """The runs of a subject in the order of sessions and runs, and whether their files are betas."""
    files = sorted(path for path in root.rglob(f"sub-{label}_*") if path.is_file())
    files = [path for path in files if all(entities(path).get(k, v) == v for k, v in wanted.items() if v is not None)]
    betas = [path for path in files if BETAS.search(path.name)]
    bold = [path for path in files if BOLD.search(path.name) and "derivatives" in path.relative_to(root).parts]
    there = [*betas, *bold]
    betas, bold = ([path for path in each if part is None or part in path.relative_to(root).as_posix()] for each in (betas, bold))
    chosen = betas or bold
    if there and not chosen:
        raise DataError(f"{root}: no path of {len(there)} files holds file={part!r}; the first is {there[0].relative_to(root)}")
    if not chosen:
        raw = any(BOLD.search(path.name) for path in files)
        sensors = next((path.parent for path in files if path.parent.name in ("eeg", "meg")), None)
        if sensors is not None:
            raise DataError(f"{root}: subject {label} has EEG or MEG, which is read by --dataset epochs --data {sensors}")
        place = root / "derivatives"
        have = ", ".join(sorted(path.name for path in place.iterdir())[:10]) if place.is_dir() else "nothing: it is missing"
        way = (
            "raw runs are found: preprocess them first, e.g. with fMRIPrep"
            if raw
            else "copy those of fMRIPrep or GLMsingle there"
        )
        raise DataError(
            f"{root}: subject {label} has no betas (..._betas.nii.gz) and no preprocessed runs (..._bold.nii.gz) in "
            f"derivatives/, which holds {have or 'nothing'}; {way}"
        )
    spaces = sorted({entities(path).get("space", "none") for path in chosen})
    if len(spaces) > 1:
        raise DataError(f"{root}: files are in the spaces {', '.join(spaces)}; choose one by --option space=NAME")
    tables = [path for path in files if path.name.endswith("_events.tsv")]
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in chosen:
        groups.setdefault(_key(path), []).append(path)
    runs = []
    for key, several in groups.items():
        _check_one_each(root, several)
        beside = several[0].parent  # events of a derivative may be fewer than those that were shown
        events = sorted((path for path in tables if _key(path) == key), key=lambda path: path.parent != beside)
        if not events:
            name = "_".join(f"{n}-{v}" for n, v in zip(SAME, key, strict=True) if v)
            raise DataError(f"{several[0]}: its events {name}_events.tsv are not in {root}; they name the picture of each trial")
        shown = _shown(events[0], column)
        runs.append(_Run(tuple(several), entities(several[0]), shown))
    return runs, bool(betas)


def _check_one_each(root: Path, files: list[Path]) -> None:
    """Raises DataError for several files of one run and hemisphere: which is meant is not known."""
    sides: dict[str, Path] = {}
    for path in files:
        other = sides.setdefault(entities(path).get("hemi", ""), path)
        if other != path:
            one, two = (each.relative_to(root) for each in (other, path))
            raise DataError(f"{root}: {one} and {two} are of one run; choose by --option file=PART, a part of the path")


def _shown(path: Path, column: str) -> pd.DataFrame:
    """The lines of an events file that name a picture, which stands in the column stim_file."""
    table = read_table(path, ("onset",), ("split", column))
    if column not in table.columns:
        raise DataError(
            f"{path} has no column {column!r}; it has {', '.join(table.columns)}: name that of the pictures by "
            "--option stimulus=COLUMN"
        )
    if column != "stim_file":
        table = table.drop(columns="stim_file", errors="ignore").rename(columns={column: "stim_file"})
    shown = table[~table["stim_file"].isin(EMPTY)].reset_index(drop=True)
    if not len(shown):
        raise DataError(f"{path}: no line names a {column}; the column holds the path of the picture in stimuli/")
    return shown.assign(stim_file=shown["stim_file"].str.replace("\\", "/"))


def _key(path: Path) -> tuple[str, ...]:
    found = entities(path)
    return tuple(found.get(name, "") for name in SAME)


def _space(runs: list[_Run], root: Path, label: str) -> tuple[Space | None, Volume | None]:
    """(space of the units, mask of volumes) of the first run; the others are held against it when they are read."""
    first = runs[0].files[0]
    if first.name.endswith((".nii", ".nii.gz")) and not first.name.endswith(".dscalar.nii"):
        header = read_header(first)
        masks = [path for path in root.rglob(f"sub-{label}_*_mask.nii*") if _fits(path, first)]
        if masks:
            mask = read_mask(min(masks, key=lambda path: _distance(path, header)))
        else:
            seen = np.zeros(header.shape[:3], bool)
            for frame in read_frames(header):
                seen |= np.isfinite(frame) & (frame != 0)
            mask = Volume(seen, header.affine)
            warn(f"{first}: no mask lies beside it; the {len(mask):,} voxels that are not 0 are read")
        return mask, mask
    return _surface(runs[0])[1], None


def _fits(mask: Path, image: Path) -> bool:
    """Whether a mask is of the space of an image, and of its session where it says one."""
    a, b = entities(mask), entities(image)
    return a.get("space") == b.get("space") and all(a.get(k, b.get(k)) == b.get(k) for k in ("ses", "task", "run"))


def _distance(mask: Path, header: Header) -> tuple[bool, bool, bool, str]:
    """What goes first among masks of one space: the grid of the image, the brain (and no tissue), the same folder."""
    other = read_header(mask).shape[:3] != header.shape[:3]  # fMRIPrep writes one of the anatomy too, in finer voxels
    return other, entities(mask).get("desc") != "brain", mask.parent != header.path.parent, str(mask)


def _surface(run: _Run) -> tuple[np.ndarray, Surface]:
    """(rows, vertex) float32 of a run on the surface: a CIFTI file, or a GIfTI or MGH file for each hemisphere."""

    if run.files[0].name.endswith(".dscalar.nii"):
        return read_cifti(run.files[0])
    sides = {entities(path).get("hemi", path.name[:2]).upper()[:1]: path for path in run.files}
    if set(sides) != {"L", "R"}:
        raise DataError(f"{run.files[0]}: surface files come in pairs, hemi-L and hemi-R; {sorted(sides)} are found")
    parts, hemisphere, vertex = [], [], []
    for side, name in (("L", "left"), ("R", "right")):
        path = sides[side]
        with reading(path):
            mgh = path.suffix in (".mgh", ".mgz")
            image = None if mgh else _opened(path)
            values = np.asarray(read_mgh(path)).T if image is None else np.stack([a.data for a in image.darrays])
            said = "" if image is None else _said_side(image)
            if said and said != name:
                raise DataError(f"{path} says that it is of the {said} hemisphere, its name that it is of the {name}; rename one")
        values = np.atleast_2d(np.asarray(values, np.float32))
        parts.append(values)
        hemisphere.append(np.full(values.shape[1], name))
        vertex.append(np.arange(values.shape[1]))
    sizes = {count: name for name, count in MESHES.items()}
    counts = [len(part) for part in vertex]
    if counts[0] not in sizes or counts[1] != counts[0] or len(parts[0]) != len(parts[1]):
        raise DataError(
            f"{run.files[0]}: {counts} vertices in {len(parts[0])} and {len(parts[1])} maps; meshes have {sorted(sizes)}"
        )
    return np.concatenate(parts, axis=1), Surface(sizes[counts[0]], np.concatenate(hemisphere), np.concatenate(vertex))


def _said_side(image: Any) -> str:
    """left, right, or "" where a GIfTI file does not say of which hemisphere it is."""
    metas = [image.meta, *(array.meta for array in image.darrays)]
    said = {str(meta.get("AnatomicalStructurePrimary", "")).removeprefix("Cortex").lower() for meta in metas}
    return next((side for side in ("left", "right") if side in said), "")


def _betas(run: _Run, place: Space | None, mask: Volume | None) -> np.ndarray:
    """The betas (trial, unit) of a run, held against its events and the space of the first run."""
    if mask is not None:
        data = read_masked(run.files[0], mask)
    else:
        data, here = _surface(run)
        if not isinstance(place, Surface) or len(here) != len(place) or here.mesh != place.mesh:
            raise DataError(f"{run.files[0]} is on another surface than the first run; resample one of them")
    if len(data) != len(run.events):
        raise DataError(
            f"{run.files[0]} has {len(data)} betas, its events name {len(run.events)} pictures (stim_file); they must agree"
        )
    return data


def _peaks(run: _Run, place: Space | None, mask: Volume | None, delay: tuple[float, float]) -> np.ndarray:
    """Mean of the volumes `delay` s after each onset, of a run that was detrended by a line and z-scored."""
    if mask is None or place is None:
        raise DataError(f"{run.files[0]}: preprocessed runs are read as volumes; give betas for surfaces")
    step = _repetition(run.files[0])
    data = read_masked(run.files[0], mask).astype(np.float64)
    data[:, ~np.isfinite(data).all(axis=0)] = 0.0  # constant, so NaN below; one infinite voxel would take all with it
    line = np.stack([np.ones(len(data)), np.linspace(-1, 1, len(data))], axis=1)
    data -= line @ np.linalg.lstsq(line, data, rcond=None)[0]
    spread = data.std(axis=0)
    data /= np.where(spread > 0, spread, np.nan)
    times = np.arange(len(data)) * step
    out = np.empty((len(run.events), data.shape[1]), np.float32)
    for i, onset in enumerate(pd.to_numeric(run.events["onset"], errors="coerce")):
        inside = (times >= onset + delay[0]) & (times <= onset + delay[1])
        if not inside.any():
            raise DataError(
                f"{run.files[0]}: no volume lies {delay[0]:g} to {delay[1]:g} s after the onset {onset:g} s; the run has "
                f"{len(data)} volumes of {step:g} s: drop the trial, or give --option delay="
            )
        out[i] = data[inside].mean(axis=0)
    return out


def _opened(path: Path) -> Any:
    import nibabel

    return nibabel.load(path)


def _repetition(path: Path) -> float:
    """Seconds between volumes: RepetitionTime of the .json beside the file, else what the header says."""

    beside = path.with_name(path.name.split(".")[0] + ".json")
    with reading(beside, "it should hold RepetitionTime in seconds"):
        said = store.read_json(beside).get("RepetitionTime") if beside.is_file() else None
        step = float(said) if said is not None else 0.0
    with reading(path):
        step = step if said is not None else float(_opened(path).header.get_zooms()[3])
    if not 0.1 < step < 20:
        raise DataError(f"{path}: {step:g} s between volumes; give RepetitionTime in seconds in {beside.name}")
    return step


def _trials(run: _Run, rows: int, label: str) -> pd.DataFrame:
    kept = [name for name in run.events.columns if name not in ("onset", "duration", "stimulus")]
    trials = run.events[kept].copy()
    trials["stimulus"] = [str(Path(file).with_suffix("")) for file in trials["stim_file"]]
    session = run.entities.get("ses", "1")
    return trials.assign(
        subject=label, session=session, run=f"{session}-{run.entities.get('task', '')}-{run.entities.get('run', '1')}"
    )


def _places(space: Space | None) -> dict[str, np.ndarray]:
    if isinstance(space, Volume):
        return coordinates_table(space)
    assert isinstance(space, Surface)
    return {"hemisphere": space.hemisphere, "vertex": space.vertex}
