"""Algonauts 2023 challenge: NSD responses on fsaverage, repeats averaged, one row an image."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.kept import kept_folder
from brainlens.datasets.pictures import ImageFiles
from brainlens.datasets.shown_stimuli import with_split
from brainlens.datasets.unpickle import load_pickled
from brainlens.store import ArrayWriter, open_array, open_npy
from brainlens.types import DataError, Recording, Responses, Stimuli, Surface, inside

VERTICES = 163_842
SIDES = (("lh", "left"), ("rh", "right"))

FACTS = {
    "name": "algonauts2023",
    "title": "The Algonauts Project 2023 Challenge: how the human brain makes sense of natural scenes",
    "kind": "fMRI",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "coordinates", "split"),
    "surface": True,
    "drawn_test": "the challenge keeps the responses to its test images",
    "measure": "fMRI betas, session z-scored, averaged over repeats",
    "licence": "NSD terms and conditions; challenge form",
    "citation": "Gifford et al. (2023), arXiv:2301.03198",
    "url": "http://algonauts.csail.mit.edu/challenge.html",
    "access": "form",
    "subjects": 8,
    "vertices": (39548, 39548, 39548, 39548, 39548, 39198, 39548, 39511),
    "mesh": "fsaverage",
}


def fetch(folder: str | Path) -> Path:
    """Raises DataError: access is given to persons, by the challenge form."""
    raise DataError(f"algonauts2023 needs its form: see {FACTS['url']}, then unpack subj01 ... subj08 into {folder}")


def load(
    folder: str | Path,
    *,
    subject: int = 1,
    roi: str | None = None,
    test: float = 0.1,
    draw: int = 0,
    cache: str | Path | None = None,
) -> Recording:
    """Training responses (image, vertex), left hemisphere first, and the training images, ids "nsd-00013".

    roi: keep the vertices of one region (V1v, FFA-1, ...). units hold hemisphere, fsaverage vertex, one column per
    atlas, and roi. The responses to the test images are withheld, so a share `test` of the training images, drawn by
    the number `draw`, is the test part; a warning says so. cache: a folder where the rows are kept as a float16 memory
    map, under a name that changes with the files and the region; without it they are in memory.
    Raises DataError when rows and images, or vertices and masks, do not match.
    """
    folder = _subject_folder(folder, subject)
    stimuli = _images(folder / "training_split" / "training_images", "train")
    units = _units(folder)
    files = [folder / "training_split" / "training_fmri" / f"{h}_training_fmri.npy" for h, _ in SIDES]
    sides = [open_npy(path) for path in files]
    for (name, side), data in zip(SIDES, sides):
        vertices = int((units["hemisphere"] == side).sum())
        if data.ndim != 2 or data.shape != (len(stimuli), vertices):
            raise DataError(f"{folder}: {name} responses {data.shape} do not match {len(stimuli)} images and {vertices} vertices")
    keep = np.ones(len(units), bool)
    if roi is not None:
        keep = (units["roi"] == roi).to_numpy()
        if not keep.any():
            known = sorted(set(units["roi"]) - {""})
            raise DataError(f"roi {roi!r} is not known; choose one of {known}")
    left = len(sides[0][0])
    columns = [np.flatnonzero(keep[:left]), np.flatnonzero(keep[left:])]
    place = None if cache is None else kept_folder(cache, f"algonauts2023-subj{subject}", files, {"columns": keep})
    data = _join(sides, columns, stimuli.ids, place)
    units = units[keep].reset_index(drop=True)
    space = Surface("fsaverage", units["hemisphere"].to_numpy().astype(str), units["vertex"].to_numpy())
    trials = pd.DataFrame({"stimulus": stimuli.ids, "subject": str(subject)})
    trials = with_split(trials, test=test, seed=draw, where=folder, why="has no responses to its test images", way="")
    parts = dict(zip(trials["stimulus"], trials["split"], strict=True))
    stimuli = replace(stimuli, table=stimuli.table.assign(split=[parts[name] for name in stimuli.ids]))
    return Recording(Responses(data, trials, units, space, measure="z"), stimuli)


def withheld_images(folder: str | Path, *, subject: int = 1) -> Stimuli:
    """The images of the test split, whose responses are withheld."""
    return _images(_subject_folder(folder, subject) / "test_split" / "test_images", "test")


def _subject_folder(folder: str | Path, subject: int) -> Path:
    place = Path(folder) / f"subj{subject:02d}"
    if not place.is_dir():
        there = sorted(p.name for p in Path(folder).glob("subj*"))
        raise DataError(f"{place} is missing; {folder} holds {there or 'no subject'}")
    return place


def _images(folder: Path, split: str) -> Stimuli:
    found = []
    for path in sorted(folder.glob("*.png")):
        match = re.fullmatch(rf"{split}-(\d+)_nsd-(\d+)\.png", path.name)
        if match is None:
            raise DataError(f"{path}: the name should be {split}-0001_nsd-00013.png")
        found.append((int(match[1]), f"nsd-{int(match[2]):05d}", path))
    if not found:
        raise DataError(f"{folder} holds no images {split}-0001_nsd-XXXXX.png")
    found.sort()
    if [number for number, _, _ in found] != list(range(1, len(found) + 1)):
        raise DataError(f"{folder}: images are missing, {len(found)} files but the last is number {found[-1][0]}")
    inside(folder.parents[1], [path.relative_to(folder.parents[1]) for _, _, path in found], f"the folder {folder.name!r}")
    table = pd.DataFrame({"nsd": [int(name[4:]) for _, name, _ in found], "split": split})
    return Stimuli(np.array([name for _, name, _ in found]), ImageFiles([p for _, _, p in found]), [], table)


def _units(folder: Path) -> pd.DataFrame:
    """Hemisphere, vertex, the label in each atlas, and the first label that is not empty."""
    masks = folder / "roi_masks"
    frames = []
    for name, side in SIDES:
        inside = open_npy(masks / f"{name}.all-vertices_fsaverage_space.npy")
        if inside.shape != (VERTICES,):
            raise DataError(f"{masks}: {name}.all-vertices has {inside.shape}, fsaverage has {VERTICES} vertices")
        vertex = np.flatnonzero(inside)
        columns: dict[str, np.ndarray] = {"hemisphere": np.full(len(vertex), side, dtype=object), "vertex": vertex}
        for path in sorted(masks.glob(f"{name}.*_challenge_space.npy")):
            atlas = path.name.removeprefix(f"{name}.").removesuffix("_challenge_space.npy")
            values = open_npy(path)
            if values.shape != vertex.shape:
                raise DataError(f"{path} has {values.shape[0]} vertices, the hemisphere's mask {len(vertex)}")
            columns[atlas] = _labels(np.asarray(values), masks / f"mapping_{atlas}.npy")
        frames.append(pd.DataFrame(columns))
    units = pd.concat(frames, ignore_index=True).fillna("")
    roi = np.full(len(units), "", dtype=object)
    atlases = [c for c in units.columns if c not in ("hemisphere", "vertex")]
    for atlas in sorted(atlases, key=lambda a: (a == "streams", not a.startswith("prf"), a)):
        roi = np.where(roi == "", units[atlas].to_numpy(), roi)
    return units.assign(roi=roi)


def _labels(values: np.ndarray, mapping: Path) -> np.ndarray:
    names = load_pickled(mapping)
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise DataError(f"{mapping} should map label numbers to names")
    table = {int(k): v for k, v in names.items()}
    unknown = sorted({int(v) for v in np.unique(values)} - set(table) - {0})
    if unknown:
        raise DataError(f"{mapping} names no label {unknown[0]}; it names {sorted(table)}")
    return np.array(["" if v == 0 else table[int(v)] for v in values], dtype=object)


def _join(sides: list[np.ndarray], columns: list[np.ndarray], ids: np.ndarray, place: Path | None) -> np.ndarray:
    shape = (len(ids), sum(map(len, columns)))
    block = 256
    if place is None:
        out = np.empty(shape, dtype=np.float32)
        for start in range(0, len(ids), block):
            out[start : start + block] = np.concatenate([s[start : start + block][:, c] for s, c in zip(sides, columns)], axis=1)
        return out
    try:
        return open_array(place, "fmri", ids=ids)
    except DataError:
        pass  # not written yet, or of other images: written now
    with ArrayWriter(place, "fmri", shape, "float16", ids=ids) as writer:
        for start in range(writer.done, len(ids), block):
            writer.write(start, np.concatenate([s[start : start + block][:, c] for s, c in zip(sides, columns)], axis=1))
    return open_array(place, "fmri", ids=ids)
