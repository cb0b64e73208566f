"""What THINGS says beside a recording: the category of each concept, and other pictures of it, whose mean is its centre."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from brainlens.datasets.pictures import ImageFiles
from brainlens.datasets.text_tables import read_table
from brainlens.types import DataError, Recording, Stimuli

if TYPE_CHECKING:  # the readers that use this table are named by a list of recordings, which waits for no torch
    from brainlens.backbones import clip

TABLE = "Categories_final*.tsv"  # of the THINGS object images: Word, Definition, and a 1 under each category
OTHER = "other"  # concepts without a category
PICTURES = ("things_images", "object_images")  # folders of the THINGS pictures, one folder a concept
SUFFIXES = (".jpg", ".jpeg", ".png")


def with_categories(recording: Recording, folder: Path) -> Recording:
    """The recording with the column `category` in trials and stimuli, where the table of THINGS lies in its folder.

    The category of a concept is its first one in the order of the table's columns, "other" for concepts without one.
    """
    found = sorted(folder.glob(TABLE)) + sorted((folder / "image_set").glob(TABLE))
    stimuli = recording.stimuli
    if not found or "concept" not in stimuli.table.columns:
        return recording
    known = _categories(found[0])
    each = [known.get(_word(name), OTHER) for name in stimuli.table["concept"].astype(str)]
    if set(each) == {OTHER}:
        raise DataError(f"{found[0]} names none of the concepts seen, first {str(stimuli.table['concept'].iloc[0])!r}")
    of = dict(zip(stimuli.ids, each, strict=True))
    trials = recording.responses.trials
    responses = replace(recording.responses, trials=trials.assign(category=trials["stimulus"].map(of)))
    return replace(recording, responses=responses, stimuli=replace(stimuli, table=stimuli.table.assign(category=each)))


def _word(name: str) -> str:
    return name.lower().replace("_", " ")


def _categories(path: Path) -> dict[str, str]:
    table = read_table(path, ("Word",))
    marks = table[[c for c in table.columns if c != "Word" and not str(c).startswith("Definition")]]
    out: dict[str, str] = {}
    for word, row in zip(table["Word"], marks.to_numpy(dtype=str), strict=True):
        first = np.flatnonzero(np.char.strip(row) == "1")
        if len(first):
            out.setdefault(_word(str(word)), str(marks.columns[first[0]]))
    return out


def pictures_folder(folder: Path) -> Path | None:
    """The folder of THINGS pictures beside a recording, None where there is none."""
    return next((folder / name for name in PICTURES if (folder / name).is_dir()), None)


def concept_centres(place: Path, stimuli: Stimuli, model: clip.Clip, *, cache: Path) -> np.ndarray:
    """(concept, d): for each concept of these stimuli, in their order, the mean embedding of its other pictures.

    place: a folder for each concept. A picture that was seen is left out by its name. Raises DataError for a concept without
    another picture.
    """
    from brainlens.backbones import clip

    seen = {str(name) for name in stimuli.ids}
    files: list[Path] = []
    owner: list[int] = []
    for number, concept in enumerate(stimuli.table["concept"].astype(str)):
        inside = sorted(p for p in (place / concept).glob("*") if p.suffix.lower() in SUFFIXES and p.stem not in seen)
        if not inside:
            raise DataError(f"{place / concept} holds no other picture of {concept!r}; the centre of a concept is their mean")
        files += inside
        owner += [number] * len(inside)
    ids = np.array([f"{file.parent.name}/{file.stem}" for file in files])
    found = clip.embed_images(model, Stimuli(ids, ImageFiles(files)), cache=cache)["image"]
    return pd.DataFrame(np.asarray(found)).groupby(np.array(owner)).mean().to_numpy(np.float32)
