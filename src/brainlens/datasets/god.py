"""Generic Object Decoding: fMRI of five people who saw 1,250 ImageNet pictures, one bdpy file a subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.bdata import BData, read_bdata
from brainlens.datasets.shown_stimuli import shown_stimuli
from brainlens.types import DataError, Recording, Responses
from brainlens.warned import warn

KINDS = {1: "train", 2: "test"}  # of the column DataType; 3 is imagery
IMAGERY = 3

FACTS = {
    "name": "god",
    "title": "Generic decoding of seen and imagined objects using hierarchical visual features",
    "kind": "fMRI",
    "measure": "responses, averaged over the volumes of a trial",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "coordinates", "runs", "split"),
    "licence": "as the release says; the pictures are those of ImageNet",
    "citation": "Horikawa and Kamitani (2017), Nature Communications 8, 15037",
    "url": "https://figshare.com/articles/dataset/Generic_Object_Decoding/7387130",
    "access": "public",
    "subjects": 5,
    "images": 1250,
    "test_images": 50,
    "test_repeats": 35,
}


def fetch(folder: str | Path) -> Path:
    """Raises DataError with the address: subjects are chosen and fetched by the user."""
    raise DataError(f"god is at {FACTS['url']}: put Subject1.h5 and others into {folder}, and the ImageNet pictures into images/")


def load(folder: str | Path, *, subject: int = 1) -> Recording:
    """Responses (trial, voxel) and the pictures seen, ids as ImageNet's, "n01518878_10042".

    Reads SubjectN.h5. The test pictures are of 50 categories that were not trained on, each shown 35 times; trials in which a
    picture was imagined are left out, and a warning counts them. Pictures: images/ holds them by their ids, in any folders;
    captions.json or captions.csv beside it gives captions. Trials have the column concept, the category's number in WordNet.
    Raises DataError for files that are missing, cut short or without the columns DataType and stimulus_id.
    """
    root = Path(folder)
    path = root / f"Subject{subject}.h5"
    if not path.is_file():
        there = sorted(each.name for each in root.glob("Subject*.h5"))
        raise DataError(f"{path} is missing; {root} has {', '.join(there) or 'no subject, see ' + str(FACTS['url'])}")
    found = read_bdata(path)
    kind = found.column("DataType")
    unknown = set(np.unique(kind)) - {*KINDS, IMAGERY}
    if unknown:
        raise DataError(f"{path}: DataType {sorted(unknown)[0]:g} is not 1 (training), 2 (test) or 3 (imagery)")
    seen = np.isin(kind, list(KINDS))
    if (~seen).any():
        warn(f"{path}: {int((~seen).sum())} of {len(seen)} trials are of imagery and are left out")
    ids = imagenet_ids(found)[seen]
    trials = pd.DataFrame({"stimulus": ids, "subject": str(subject), "split": [KINDS[int(each)] for each in kind[seen]]})
    trials["concept"] = [name.split("_")[0] for name in ids]
    for name, column in (("session", "Session"), ("run", "Run")):
        numbers = found.numbered(column)
        if numbers is not None:
            trials[name] = numbers[seen]
    trials["session"] = trials["session"] if "session" in trials.columns else "1"
    if "run" in trials.columns:  # runs of each session are counted anew
        trials["run"] = trials["session"] + "-" + trials["run"]
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    both = trials.groupby("stimulus")["split"].nunique()
    if (both > 1).any():
        raise DataError(
            f"{path}: image {str(both.index[both > 1][0])!r} is in training and in test; the file is not the original"
        )
    return Recording(Responses(found.data[seen], trials, found.units, found.space), shown_stimuli(root, ids))


def imagenet_ids(found: BData) -> np.ndarray:
    """The picture (trial,) of each trial: by name where the file has names, else by its number, 1518878.010042 being
    n01518878_10042."""
    for name in ("image_id", "stimulus_name", "stimulus_id"):
        if name in found.columns and name in found.names:
            table = found.names[name]
            lacking = [value for value in found.columns[name] if value not in table]
            if lacking:
                raise DataError(f"{found.path}: vmap/{name} does not name the number {lacking[0]:g}; fetch it again")
            return np.array([Path(table[value]).stem for value in found.columns[name]], dtype=np.str_)
    numbers = found.column("stimulus_id")
    whole = np.floor(numbers)
    within = np.rint((numbers - whole) * 1e6).astype(np.int64)
    return np.array([f"n{int(synset):08d}_{picture}" for synset, picture in zip(whole, within, strict=True)], dtype=np.str_)
