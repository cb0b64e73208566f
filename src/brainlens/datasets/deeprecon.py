"""Deep Image Reconstruction: fMRI of three people who saw 1,200 ImageNet pictures five times, in bdpy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.bdata import BData, read_bdata
from brainlens.datasets.shown_stimuli import shown_stimuli
from brainlens.types import DataError, Recording, Responses, read_lines

PARTS = {  # what is tested: words that its file's name holds, in any case
    "training": ("naturalimagetraining", "imagenettraining"),
    "natural": ("naturalimagetest", "imagenettest"),
    "artificial": ("artificialimage", "artificialshapes"),
    "letter": ("letterimage", "alphabetletters"),
}
TESTS = tuple(name for name in PARTS if name != "training")
SYNSET = r"^(n\d{8})_"  # an ImageNet picture's name begins with its category in WordNet
LABELS = ("stimulus_name", "image_name", "stimulus_id", "image_index", "image_id", "Label")

FACTS = {
    "name": "deeprecon",
    "title": "Deep image reconstruction from human brain activity",
    "kind": "fMRI",
    "measure": "responses, averaged over the volumes of a trial",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "coordinates", "runs", "split"),
    "licence": "as the release says; the pictures are those of ImageNet",
    "citation": "Shen, Horikawa, Majima, Kamitani (2019), PLOS Computational Biology 15, e1006633",
    "url": "https://figshare.com/articles/dataset/Deep_Image_Reconstruction/7033577",
    "access": "public",
    "subjects": 3,
    "images": 1200,
    "repeats": 5,
    "test_images": 50,
    "test_repeats": 24,
}


def fetch(folder: str | Path) -> Path:
    """Raises DataError with the address: subjects are chosen and fetched by the user."""
    raise DataError(
        f"deeprecon is at {FACTS['url']}: put sub-01_perceptionNaturalImageTraining_*.h5 and the files of a test into {folder}"
    )


def load(folder: str | Path, *, subject: int = 1, test: str = "natural") -> Recording:
    """Responses (trial, voxel) of the training pictures and of a test, and the pictures, under the names of the files.

    Reads sub-01_perceptionNaturalImageTraining_*.h5 and, by `test`, ...NaturalImageTest_*.h5, ...ArtificialImage_*.h5 or
    ...LetterImage_*.h5. test: natural, artificial or letter. Pictures: images/ holds them by their names, in any folders. A file
    that knows pictures by number alone needs stimulus_*.tsv beside it (a number and a name a line), else ids are
    "train-0001", "natural-0001". Captions: captions.json or captions.csv. Trials have the column concept, the category's
    number in WordNet, where every picture's name begins with it ("n01518878_10042"); shapes and letters are of no category.
    Raises DataError for files that are missing, cut short, or of other voxels than the training, and for natural test pictures
    of a category that is trained on: the test is of categories that were not.
    """
    root = Path(folder)
    if test not in TESTS:
        raise DataError(f"test {test!r} is not one of {', '.join(TESTS)}")
    parts = {part: read_bdata(_file(root, subject, part)) for part in ("training", test)}
    first, second = parts["training"], parts[test]
    same = first.data.shape[1] == second.data.shape[1] and first.units.equals(second.units)
    if not same:
        raise DataError(
            f"{second.path} has {second.data.shape[1]} voxels, at other places than the {first.data.shape[1]} of "
            f"{first.path.name}; both must be of one subject and one preparation"
        )
    tables = [_trials(found, root, part, subject) for part, found in parts.items()]
    trials = pd.concat(tables, ignore_index=True)
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    both = trials.groupby("stimulus")["split"].nunique()
    if (both > 1).any():
        raise DataError(f"{second.path}: image {str(both.index[both > 1][0])!r} is in the training too")
    trials = _with_concepts(trials, second)
    data = np.concatenate([first.data, second.data])
    return Recording(Responses(data, trials, first.units, first.space), shown_stimuli(root, trials["stimulus"]))


def _file(root: Path, subject: int, part: str) -> Path:
    found = [path for path in sorted(root.rglob("*.h5")) if path.name.startswith((f"sub-{subject:02d}_", f"S{subject}_"))]
    chosen = [path for path in found if any(word in path.name.lower() for word in PARTS[part])]
    if not chosen:
        there = ", ".join(path.name for path in found[:4]) or f"no sub-{subject:02d}_*.h5; see {FACTS['url']}"
        raise DataError(f"{root} has no file of subject {subject} for {part!r} ({PARTS[part][0]}); it has {there}")
    if len(chosen) > 1:
        raise DataError(f"{root} has {chosen[0].name} and {chosen[1].name}; keep the one that counts")
    return chosen[0]


def _trials(found: BData, root: Path, part: str, subject: int) -> pd.DataFrame:
    split = "train" if part == "training" else "test"
    trials = pd.DataFrame({"stimulus": _labels(found, root, part), "subject": str(subject), "split": split})
    session = found.numbered("Session")
    trials["session"] = split if session is None else [f"{split}-{number}" for number in session]  # each file counts its own
    run = found.numbered("Run")
    trials["run"] = trials["session"] if run is None else trials["session"] + "-" + run
    return trials


def _with_concepts(trials: pd.DataFrame, test: BData) -> pd.DataFrame:
    """The trials with the column concept, where every picture is of ImageNet; no category may be both trained on and tested."""
    concept = trials["stimulus"].str.extract(SYNSET, expand=False)
    trained, tested = (set(concept[trials["split"] == split].dropna()) for split in ("train", "test"))
    if both := sorted(trained & tested):
        raise DataError(
            f"{test.path}: {len(both)} of {len(tested)} categories of the test are trained on too, first {both[0]!r}; the "
            "release keeps them apart, so put the files of one release there, or leave these pictures out of the training"
        )
    return trials if concept.isna().any() else trials.assign(concept=concept)


def _labels(found: BData, root: Path, part: str) -> list[str]:
    """The name of each trial's picture: from the file, from a table of numbers and names beside it, or the number."""
    name = next((each for each in LABELS if each in found.columns), None)
    if name is None:
        raise DataError(f"{found.path} has none of the columns {', '.join(LABELS)}; it has {', '.join(sorted(found.columns))}")
    table: dict[float, str] = dict(found.names.get(name, {})) or _listed(root, part)
    values = found.columns[name]
    if not table:
        short = "train" if part == "training" else part
        return [f"{short}-{value:04.0f}" for value in values]
    lacking = [value for value in values if value not in table]
    if lacking:
        raise DataError(f"{found.path}: nothing names its picture number {lacking[0]:g}; it has names of {len(table)} numbers")
    return [Path(table[value]).stem for value in values]


def _listed(root: Path, part: str) -> dict[float, str]:
    """Number and name of each picture from stimulus_*.tsv, in either order."""
    out: dict[float, str] = {}
    for path in sorted(root.rglob("stimulus_*.tsv")):
        if not any(word in path.name.lower() for word in PARTS[part]):
            continue
        for line in read_lines(path):
            cells = [cell.strip() for cell in line.split("\t") if cell.strip()]
            numbers = [cell for cell in cells if cell.isdecimal()]
            names = [cell for cell in cells if not cell.replace(".", "", 1).isdecimal()]
            if numbers and names:
                out[float(numbers[0])] = names[0]
    return out
