"""Natural Scenes Dataset (7 tesla fMRI, 8 subjects), read from the folders of its own bucket, session by session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.hdf5 import open_dataset
from brainlens.datasets.kept import kept_folder
from brainlens.datasets.nsd_further import SHARED, TESTS, check_betas, experiment, further_stimuli, further_trials
from brainlens.datasets.nsd_mni import Resampling, mni_brain, mni_resampling
from brainlens.datasets.nsd_stimuli import nsd_stimuli
from brainlens.datasets.stored_arrays import read_array
from brainlens.datasets.surface_files import read_mgh
from brainlens.datasets.volumes import coordinates_table, read_header, read_masked, read_volume
from brainlens.store import ArrayWriter, open_array
from brainlens.subjects import join_stimuli
from brainlens.types import DataError, Recording, Responses, Surface, Volume, read_lines, reading
from brainlens.warned import warn

SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)
TRIALS = 750  # a session
RUN_TRIALS = (63, 62) * 6
SCALE = 300.0  # the volume betas are int16, percent signal change times this
VERTICES = 163_842
RESOLUTIONS = ("func1pt8mm", "func1mm", "fsaverage", "MNI")
BRAIN = "brain"  # in place of an atlas: every voxel of the brain

FACTS = {
    "name": "nsd",
    "title": "A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial intelligence",
    "kind": "fMRI",
    "measure": "fMRI betas",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "captions", "coordinates", "runs", "split"),
    "surface": True,
    "licence": "NSD terms and conditions; access form",
    "citation": "Allen et al. (2022), Nature Neuroscience 25, 116-126",
    "url": "https://naturalscenesdataset.org",
    "access": "form",
    "subjects": 8,
    "sessions": SESSIONS,
    "trials_a_session": TRIALS,
    "images": 73000,
    "images_a_subject": 10000,
    "shared_images": 1000,
}


@dataclass(frozen=True)
class _Plan:
    """Which units of which files are read; resampling: of volumes that are brought to another space, and its file."""

    betas: Path
    space: Volume | Surface
    units: pd.DataFrame
    resampling: Resampling | None = None
    transform: Path | None = None

    @property
    def source(self) -> Volume:
        """The voxels that are read from a volume's files."""
        assert isinstance(self.space, Volume)
        return self.space if self.resampling is None else self.resampling.source


def fetch(folder: str | Path) -> Path:
    """Raises DataError: access is given to persons, by the form on the project's page."""
    raise DataError(f"nsd is not downloaded by programs: fill the form at {FACTS['url']}, then copy nsddata* into {folder}")


def load(
    folder: str | Path,
    *,
    subject: int = 1,
    n_sessions: int | None = None,
    resolution: str = "func1pt8mm",
    betas: str = "betas_fithrf_GLMdenoise_RR",
    mask: str = "nsdgeneral",
    zscore: str = "strict",
    captions: str | None = None,
    tests: str = SHARED,
    cache: str | Path | None = None,
) -> Recording:
    """Responses (trial, unit) and the images seen, ids "nsd-00000" to "nsd-72999" (0-based).

    n_sessions: the first ones (default: all of the subject, 30 to 40; many papers used 37 of 40, which gives another
    test set). resolution: "func1pt8mm", "func1mm", "fsaverage", or "MNI": func1pt8mm on the 2 mm grid of MNI152, through
    NSD's own transform. mask: the atlas whose labels above 0 are kept, or "brain" for the whole brain of a volume.
    captions: a folder with the annotation files of COCO (default: `annotations` beside nsddata), from which captions and
    the column category come.
    zscore, per session and unit: "strict" (statistics without the shared test images), "session" (with them, as some
    released preparations do), "none" (percent signal change). cache: a folder where the betas are kept as a float16
    memory map, resumable, under a name that changes with the files and options; without it they are in memory as float32.
    tests: "shared", or "synthetic" (NSD-synthetic), "vision" or "imagery" (NSD-Imagery, sets A and B, seen or imagined): then the
    trials of that experiment, which have no captions, are the test, z-scored by their own session, and the shared images are left
    out, with a warning that counts them.
    split is "test" for the 1,000 shared images. Units with NaN betas stay NaN, are counted in a warning, and are
    left to `clean`. Raises DataError for missing files, other grids, and sessions that do not hold 750 trials.
    """
    if not 1 <= subject <= 8:
        raise DataError(f"subject {subject} is not one of 1 to 8")
    if zscore not in ("strict", "session", "none"):
        raise DataError(f"zscore={zscore!r} is not known; choose strict, session or none")
    folder = Path(folder)
    count = SESSIONS[subject - 1] if n_sessions is None else n_sessions
    if not 1 <= count <= SESSIONS[subject - 1]:
        raise DataError(f"n_sessions={count}: subject {subject} has 1 to {SESSIONS[subject - 1]}")
    if tests not in TESTS:
        raise DataError(f"tests={tests!r} is not one of {', '.join(TESTS)}")
    if resolution not in RESOLUTIONS:
        raise DataError(f"resolution {resolution!r} is not one of {', '.join(RESOLUTIONS)}")
    plan = (
        _surface_plan(folder, subject, betas, mask)
        if resolution == "fsaverage"
        else _volume_plan(folder, subject, resolution, betas, mask)
    )
    trials = design(folder, subject, count)
    data = _gather(plan, trials, count, zscore, cache)
    bad = _missing(data, count)
    if bad:
        warn(f"nsd subject {subject}: {bad} of {len(plan.units)} units hold missing betas; clean() drops them")
    measure = "psc" if zscore == "none" else "z"
    if tests == SHARED:
        return Recording(Responses(data, trials, plan.units, plan.space, measure=measure), nsd_stimuli(folder, trials, captions))
    own = (trials["split"] == "train").to_numpy()
    warn(f"nsd subject {subject}: {int((~own).sum())} trials of shared images are left out, the test is {tests}")
    more, beta = further_trials(folder, subject, tests)
    files = _files(plan, f"betas_{experiment(tests)}", plan.betas.with_name(f"{experiment(tests)}{betas}"))
    block = _block(plan, files)
    check_betas(files[0], len(block), tests)
    values = np.concatenate(
        [data[own], _standard(block[beta], np.zeros(len(beta), bool), "session" if zscore == "strict" else zscore)]
    )
    table = pd.concat([trials[own], more], ignore_index=True)
    stimuli = join_stimuli([nsd_stimuli(folder, trials[own], captions), further_stimuli(folder, subject, more, tests)])
    return Recording(Responses(values, table, plan.units, plan.space, measure=measure), stimuli)


def design(folder: str | Path, subject: int, n_sessions: int) -> pd.DataFrame:
    """The trials in order: stimulus, subject, session, run, repeat (from 1), split, nsd (0-based row of the images).

    Three tables of the experiment count from 1: masterordering gives the 10k image of a trial, subjectim its 73k
    image, and an image is shared by all subjects where masterordering is at most 1,000.
    """
    path = Path(folder) / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    if not path.exists():
        raise DataError(f"{path} is missing; it says which image each trial showed")
    with reading(path, "fetch it again"):
        found = {name: read_array(path, name, variable=name) for name in ("masterordering", "subjectim", "sharedix")}
        order, images = found["masterordering"].ravel().astype(int), found["subjectim"].astype(int)
        shared = found["sharedix"].ravel().astype(int) - 1
    total = n_sessions * TRIALS
    if len(order) < total or images.shape[0] < subject or order.min() < 1 or order.max() > images.shape[1]:
        raise DataError(f"{path}: masterordering {order.shape} and subjectim {images.shape} do not give {total} trials")
    tenk = order[:total] - 1
    nsd = images[subject - 1, tenk] - 1
    test = tenk < 1000
    if not np.array_equal(test, np.isin(nsd, shared)):
        raise DataError(f"{path}: masterordering <= 1000 and sharedix name different shared images; the file is not the original")
    trials = pd.DataFrame({"stimulus": [f"nsd-{i:05d}" for i in nsd], "subject": str(subject), "nsd": nsd})
    trials["session"] = [str(i + 1) for i in np.repeat(np.arange(n_sessions), TRIALS)]
    trials["run"] = [str(i + 1) for i in np.tile(np.repeat(np.arange(12), RUN_TRIALS), n_sessions)]
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    trials["split"] = np.where(test, "test", "train")
    return trials


def _volume_plan(folder: Path, subject: int, resolution: str, betas: str, mask: str) -> _Plan:
    person = folder / "nsddata" / "ppdata" / f"subj{subject:02d}"
    grid = "func1pt8mm" if resolution == "MNI" else resolution
    place, labels = person / grid / "roi", folder / "nsddata" / "freesurfer" / f"subj{subject:02d}" / "label"
    atlases = {p.name.removesuffix(".nii.gz"): p for p in sorted(place.glob("*.nii.gz")) if not p.name.startswith(("lh.", "rh."))}
    if mask != BRAIN and mask not in atlases:
        raise DataError(f"{place} has no roi {mask!r}; it has {sorted(atlases)}, or take {BRAIN!r} for the whole brain")
    path = atlases[mask] if mask != BRAIN else person / grid / "brainmask.nii.gz"
    if not path.exists():
        raise DataError(f"{path} is missing; it says which voxels are of the brain")
    values, affine = read_volume(path)
    space = Volume(values > 0, affine)
    if len(space) == 0:
        raise DataError(f"{path}: no voxel is above 0")
    transform, resampling = person / "transforms" / "func1pt8-to-MNI.nii.gz", None
    if resolution == "MNI":
        resampling = mni_resampling(transform, space, mni_brain())
        if mask != BRAIN:
            wanted = resampling.space.fill(resampling.labels(values), 0) > 0
            resampling = mni_resampling(transform, space, wanted)

    def of(volume: Path) -> np.ndarray:
        found = read_volume(volume, like=space)[0]
        return found[space.mask] if resampling is None else resampling.labels(found)

    units = pd.DataFrame(coordinates_table(space if resampling is None else resampling.space))
    for name, atlas in atlases.items():
        units[name] = _names(of(atlas), labels / f"{name}.mgz.ctab")
    source = folder / "nsddata_betas" / "ppdata" / f"subj{subject:02d}" / grid / betas
    if (source / "ncsnr.nii.gz").exists():
        units["ncsnr"] = of(source / "ncsnr.nii.gz").astype(np.float64)
    units["roi"] = _roi_column(units, list(atlases))
    if resampling is None:
        return _Plan(source, space, units)
    return _Plan(source, resampling.space, units, resampling, transform)


def _surface_plan(folder: Path, subject: int, betas: str, mask: str) -> _Plan:
    labels = folder / "nsddata" / "freesurfer" / "fsaverage" / "label"
    atlases = sorted(p.name.removeprefix("lh.").removesuffix(".mgz") for p in labels.glob("lh.*.mgz"))
    if mask not in atlases:
        raise DataError(f"{labels} has no roi {mask!r}; it has {atlases}")
    inside = np.concatenate([read_mgh(labels / f"{h}.{mask}.mgz", VERTICES)[:, 0] for h in ("lh", "rh")]) > 0
    hemisphere = np.repeat(["left", "right"], VERTICES)[inside]
    space = Surface("fsaverage", hemisphere, np.tile(np.arange(VERTICES), 2)[inside])
    units = pd.DataFrame({"hemisphere": hemisphere, "vertex": space.vertex})
    for name in atlases:
        if (labels / f"rh.{name}.mgz").exists():
            values = np.concatenate([read_mgh(labels / f"{h}.{name}.mgz", VERTICES)[:, 0] for h in ("lh", "rh")])[inside]
            units[name] = _names(values, labels / f"{name}.mgz.ctab")
    source = folder / "nsddata_betas" / "ppdata" / f"subj{subject:02d}" / "fsaverage" / betas
    if (source / "lh.ncsnr.mgh").exists():
        both = [read_mgh(source / f"{h}.ncsnr.mgh", VERTICES)[:, 0] for h in ("lh", "rh")]
        units["ncsnr"] = np.concatenate(both)[inside].astype(float)
    units["roi"] = _roi_column(units, atlases)
    return _Plan(source, space, units)


def _names(values: np.ndarray, table: Path) -> np.ndarray:
    """Label names of label values; "" for 0 and below, the number where no table names it."""
    names: dict[int, str] = {}
    if table.exists():
        for line in read_lines(table):
            parts = line.split()
            if len(parts) >= 2 and parts[0].isdecimal():
                names[int(parts[0])] = parts[1]
    return np.array(["" if v <= 0 else names.get(int(v), str(int(v))) for v in values], dtype=object)


def _roi_column(units: pd.DataFrame, atlases: list[str]) -> np.ndarray:
    """One name a unit: retinotopic first, then category regions, as each says more than the streams do."""
    order = ["prf-visualrois", "floc-faces", "floc-bodies", "floc-places", "floc-words", "streams"]
    out = np.full(len(units), "", dtype=object)
    for name in [a for a in order if a in atlases]:
        empty = out == ""
        out[empty] = units[name].to_numpy()[empty]
    return out


def _session_files(plan: _Plan, session: int) -> list[Path]:
    """The files that hold the betas of a session."""
    there = session - 1  # the sessions before this one were found
    way = f"give --option n_sessions={there} (n_sessions={there}) for the first {there}, or fetch it" if there else "fetch it"
    return _files(plan, f"betas_session{session:02d}", plan.betas, way)


def _files(plan: _Plan, name: str, place: Path, way: str = "fetch it") -> list[Path]:
    """The files of that name, one a hemisphere on a surface; a volume's NIfTI goes before its HDF5."""
    if isinstance(plan.space, Surface):
        return [place / f"{side}.{name}.mgh" for side in ("lh", "rh")]
    nifti, other = (place / f"{name}.{ending}" for ending in ("nii.gz", "hdf5"))
    if not nifti.exists() and not other.exists():
        raise DataError(f"{nifti} is missing, and so is its .hdf5; {way}")
    return [nifti if nifti.exists() else other]


def _sessions(plan: _Plan, count: int) -> Iterator[np.ndarray]:
    """The betas (750, unit) float32 of each session in percent signal change."""
    for session in range(1, count + 1):
        files = _session_files(plan, session)
        block = _block(plan, files)
        if len(block) != TRIALS:
            raise DataError(f"{files[0]}: session {session} has {len(block)} betas, {TRIALS} trials are expected")
        yield block


def _block(plan: _Plan, files: list[Path]) -> np.ndarray:
    """The betas (trial, unit) float32 of a file, or of one a hemisphere, in percent signal change."""
    if isinstance(plan.space, Surface):
        parts = []
        for path, side in zip(files, ("left", "right"), strict=True):
            values = read_mgh(path, VERTICES)
            parts.append(values[plan.space.vertex[plan.space.hemisphere == side]].T)
        return np.concatenate(parts, axis=1).astype(np.float32)
    (path,) = files
    stored = _hdf5(path, plan.source) if path.suffix == ".hdf5" else _nifti(path, plan.source)
    block = (stored / np.float32(SCALE)).astype(np.float32, copy=False)
    return block if plan.resampling is None else plan.resampling(block)


def _nifti(path: Path, space: Volume) -> np.ndarray:
    header = read_header(path)
    if header.dtype.kind not in "iu":
        raise DataError(f"{path} holds {header.dtype}, the volume betas are int16 (percent signal change x {SCALE:.0f})")
    return read_masked(path, space)


def _hdf5(path: Path, space: Volume) -> np.ndarray:
    """Betas under the mask; the file was written in column order, so its axes come back as (trial, z, y, x)."""
    with open_dataset(path, "betas") as data:
        turned = data.shape[1:] == space.mask.shape[::-1]
        if not turned or data.dtype.kind not in "iu":
            raise DataError(
                f"{path}: betas are {data.dtype} {data.shape}, integers (trial, {space.mask.shape[::-1]}) are expected"
            )
        out = np.empty((data.shape[0], len(space)), dtype=np.float32)
        number = np.full(space.mask.shape, -1)
        number[space.mask] = np.arange(len(space))
        for z in np.flatnonzero(space.mask.any(axis=(0, 1))):
            slab = data[:, z]  # (trial, y, x)
            x, y = np.nonzero(space.mask[:, :, z])
            out[:, number[x, y, z]] = slab[:, y, x]
    return out


def _gather(plan: _Plan, trials: pd.DataFrame, count: int, zscore: str, cache: str | Path | None) -> np.ndarray:
    train = (trials["split"] == "train").to_numpy()
    shape = (len(trials), len(plan.units))
    if cache is None:
        out = np.empty(shape, dtype=np.float32)
        for i, block in enumerate(_sessions(plan, count)):
            out[i * TRIALS : (i + 1) * TRIALS] = _standard(block, train[i * TRIALS : (i + 1) * TRIALS], zscore)
        return out
    name = f"nsd-subj{trials['subject'].iloc[0]}-{plan.betas.parent.name}-{count}-{zscore}"
    units = plan.space.mask if isinstance(plan.space, Volume) else plan.units[["hemisphere", "vertex"]].to_numpy(dtype="U8")
    files = [path for i in range(count) for path in _session_files(plan, i + 1)]
    files += [] if plan.transform is None else [plan.transform]
    folder = kept_folder(cache, name, files, {"units": units, "zscore": zscore, "train": train})
    try:
        kept = open_array(folder, "betas", ids=trials["stimulus"])
        if kept.shape == shape:
            return kept
    except DataError:
        pass  # not written yet, unfinished or of other units: written now
    with ArrayWriter(folder, "betas", shape, "float16", ids=trials["stimulus"]) as writer:
        for i, block in enumerate(_sessions(plan, count)):
            if writer.done < (i + 1) * TRIALS:
                writer.write(i * TRIALS, _standard(block, train[i * TRIALS : (i + 1) * TRIALS], zscore))
                writer.sync()
    return open_array(folder, "betas", ids=trials["stimulus"])


def _standard(block: np.ndarray, train: np.ndarray, zscore: str) -> np.ndarray:
    if zscore == "none":
        return block
    base = (block[train] if zscore == "strict" else block).astype(np.float64)
    spread = base.std(axis=0)
    return ((block - base.mean(axis=0)) / np.where(spread == 0, np.nan, spread)).astype(np.float32)


def _missing(data: np.ndarray, count: int) -> int:
    """How many units hold a missing value, read one session at a time."""
    bad = np.zeros(data.shape[1], bool)
    for i in range(count):
        bad |= ~np.isfinite(data[i * TRIALS : (i + 1) * TRIALS]).all(axis=0)
    return int(bad.sum())
