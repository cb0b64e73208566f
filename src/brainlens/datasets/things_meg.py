"""THINGS-MEG: 4 subjects, 1,854 concepts with 12 images each, 200 test images shown 12 times; epochs as MNE files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.kept import kept_folder
from brainlens.datasets.pictures import ImageFiles, NoImages
from brainlens.datasets.things_tables import with_categories
from brainlens.store import ArrayWriter, open_array
from brainlens.types import DataError, Recording, Responses, Sensors, Stimuli, check_fif, inside

MEMORY = 2e9
BLOCK = 256  # epochs read at a time
PLACES = ("", "derivatives/preprocessed")  # in the folder, where the epochs may lie
NEEDED = ("trial_type", "session_nr", "run_nr", "things_image_nr", "things_category_nr", "image_path")

FACTS = {
    "name": "things_meg",
    "title": "THINGS-data, a multimodal collection of large-scale datasets for investigating object representations",
    "kind": "MEG",
    "measure": "MEG, in units of the baseline",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "runs", "split"),
    "licence": "CC0",
    "citation": "Hebart, Contier, Teichmann et al. (2023), eLife 12, e82580",
    "url": "https://openneuro.org/datasets/ds004212",
    "access": "public",
    "subjects": 4,
    "channels": 271,
    "concepts": 1854,
    "images_a_concept": 12,
    "test_images": 200,
    "test_repeats": 12,
    "rate_hz": 200,
}


def fetch(folder: str | Path) -> Path:
    """Raises DataError with the address: the epochs are tens of gigabytes and are chosen by the user."""
    raise DataError(f"things_meg is at {FACTS['url']}: put derivatives/preprocessed/preprocessed_P1-epo*.fif ... into {folder}")


def subjects(folder: str | Path) -> list[int]:
    """Numbers of the subjects whose epochs are where `load` looks for them."""
    found = [path for place in PLACES for path in (Path(folder) / place).glob("preprocessed_P*-epo.fif")]
    return sorted({int(match[1]) for path in found if (match := re.fullmatch(r"preprocessed_P(\d+)-epo", path.stem))})


def load(
    folder: str | Path,
    *,
    subject: int = 1,
    window: tuple[float, float] = (0.0, 1.0),
    drop_test_concepts: bool = True,
    dtype: str = "float16",
    cache: str | Path | None = None,
) -> Recording:
    """Responses (trial, channel, time) of one subject in the order of the recording, and the images seen, by concept.

    Test trials are those whose metadata say trial_type "test"; counts of repeats are never used, because they differ
    where trials were lost. Catch trials are left out. window: seconds, both ends included (default 0 to 1 s, 201
    samples). drop_test_concepts: training trials of the 200 test concepts are left out, as published results do.
    Values are in units of each epoch's baseline ("z"), as released; z above 65504 would not fit float16 and is an error.
    cache: a folder where the trials are kept as a memory map, named after files and options; without it up to
    2 GB are held in memory.
    """
    folder = Path(folder)
    epochs = _read(folder, subject)
    meta = _metadata(epochs, folder)
    keep = np.array(meta["trial_type"].isin(["exp", "test"]))
    if drop_test_concepts:
        test_concepts = set(meta.loc[meta["trial_type"] == "test", "concept"])
        keep &= ~((meta["trial_type"] == "exp") & meta["concept"].isin(test_concepts)).to_numpy()
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        raise DataError(f"{folder}: no epoch of subject {subject} has trial_type 'exp' or 'test'")
    times = np.asarray(epochs.times)
    inside = np.flatnonzero((times >= window[0] - 1e-6) & (times <= window[1] + 1e-6))
    if len(inside) == 0 or times[0] > window[0] + 1e-6 or times[-1] < window[1] - 1e-6:
        raise DataError(f"window {window} s is not within the epochs, {times[0]:.3f} to {times[-1]:.3f} s")
    trials = _trials(meta.iloc[rows], subject)
    place = None
    if cache is not None:
        options = {"rows": rows, "samples": inside, "dtype": dtype}
        place = kept_folder(cache, f"things_meg-P{subject}", _parts(folder, subject), options)
    data = _values(epochs, rows, inside, trials["stimulus"], dtype, place)
    units = pd.DataFrame({"channel": list(epochs.ch_names)})
    responses = Responses(data, trials, units, _sensors(epochs), times[inside], "z")
    return with_categories(Recording(responses, _stimuli(folder, trials)), folder)


def _parts(folder: Path, subject: int) -> list[Path]:
    """The file of the epochs, and after it the further ones that a large recording is split into."""
    name = f"preprocessed_P{subject}-epo"
    for place in PLACES:
        if (folder / place / f"{name}.fif").exists():
            return [folder / place / f"{name}.fif", *sorted((folder / place).glob(f"{name}-*.fif"))]
    raise DataError(f"{folder / PLACES[-1] / name}.fif is missing; see {FACTS['url']}")


def _read(folder: Path, subject: int) -> Any:
    import mne

    parts = _parts(folder, subject)
    path = parts[0]
    for part in parts:
        check_fif(part)
    try:
        return mne.read_epochs(path, preload=False, verbose="error")
    except Exception as error:  # the reader raises many kinds for damaged and for missing parts
        raise DataError(f"{path} is damaged or a part of it is missing ({error}); fetch all its parts") from None


def _metadata(epochs: Any, folder: Path) -> pd.DataFrame:
    meta = epochs.metadata
    if meta is None or any(c not in meta.columns for c in NEEDED):
        have = [] if meta is None else sorted(map(str, meta.columns))
        raise DataError(f"{folder}: the epochs' metadata need columns {list(NEEDED)}; they have {have}")
    meta = meta.reset_index(drop=True).copy()
    unknown = sorted(set(map(str, meta["trial_type"])) - {"exp", "test", "catch"})
    if unknown:
        raise DataError(f"{folder}: trial_type {unknown[0]!r} is not exp, test or catch")
    # A test trial carries no concept number in the released table (NaN or another image's), its path does.
    path = [Path(str(p)) for p in meta["image_path"]]
    meta["stimulus"] = [p.stem for p in path]
    meta["concept"] = [p.parent.name if _is_concept(p) else p.stem.rsplit("_", 1)[0] for p in path]
    shown = meta["trial_type"] != "catch"
    wrong = shown & ((meta["stimulus"] == "") | (meta["stimulus"] == "nan"))
    if wrong.any():
        raise DataError(f"{folder}: {int(wrong.sum())} trials name no image, first is epoch {int(np.flatnonzero(wrong)[0])}")
    return meta


def _is_concept(path: Path) -> bool:
    """Whether the folder of an image is its concept (aardvark/aardvark_01b.jpg) and not a collection of images."""
    return bool(path.parent.name) and path.stem.startswith(path.parent.name)


def _trials(meta: pd.DataFrame, subject: int) -> pd.DataFrame:
    trials = pd.DataFrame(
        {
            "stimulus": meta["stimulus"].to_numpy(),
            "concept": meta["concept"].to_numpy(),
            "subject": str(subject),
            "session": [str(int(v)) for v in meta["session_nr"]],
            "run": [str(int(v)) for v in meta["run_nr"]],
            "split": np.where(meta["trial_type"] == "test", "test", "train"),
            "file": [str(p) for p in meta["image_path"]],
        }
    )
    trials["repeat"] = trials.groupby(["split", "stimulus"]).cumcount() + 1
    both = trials.groupby("stimulus")["split"].nunique()
    if (both > 1).any():
        raise DataError(f"image {both.index[both > 1][0]!r} is in training and in test; use drop_test_concepts=True")
    return trials


def _values(epochs: Any, rows: np.ndarray, inside: np.ndarray, ids: pd.Series, dtype: str, place: Path | None) -> np.ndarray:
    shape = (len(rows), len(epochs.ch_names), len(inside))
    if place is None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > MEMORY:
            raise DataError(f"the epochs need {size / 1e9:.1f} GB; name a folder, cache=, where they are kept as a memory map")
        out = np.empty(shape, dtype=dtype)
        for start in range(0, len(rows), BLOCK):
            with np.errstate(over="ignore"):
                out[start : start + BLOCK] = _block(epochs, rows[start : start + BLOCK], inside)
        if np.isinf(out).any():
            raise DataError(f"{epochs.filename}: values above the range of {dtype}; use dtype='float32'")
        return out
    try:
        kept = open_array(place, "epochs", ids=ids)
        if kept.shape == shape and kept.dtype == np.dtype(dtype):
            return kept
    except DataError:
        pass  # not written yet, unfinished or of other trials: written now
    with ArrayWriter(place, "epochs", shape, dtype, ids=ids) as writer:
        for start in range(writer.done, len(rows), BLOCK):
            writer.write(start, _block(epochs, rows[start : start + BLOCK], inside))
    return open_array(place, "epochs", ids=ids)


def _block(epochs: Any, rows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    try:
        values = epochs[rows].get_data(copy=False, verbose="error")
    except Exception as error:  # a file that is cut short is noticed only when its values are read
        raise DataError(f"{epochs.filename} is damaged ({type(error).__name__}: {error}); fetch all its parts again") from None
    if len(values) != len(rows):
        raise DataError(f"{len(rows)} epochs were asked for, {len(values)} came back; the file drops epochs on reading")
    return values[:, :, inside[0] : inside[-1] + 1]


def _sensors(epochs: Any) -> Sensors | None:
    positions = np.array([channel["loc"][:3] for channel in epochs.info["chs"]], dtype=np.float64)
    if not np.isfinite(positions).all() or not positions.any():
        return None
    return Sensors(np.array(epochs.ch_names), positions)


def _stimuli(folder: Path, trials: pd.DataFrame) -> Stimuli:
    """Training and then test images by concept, one order for all subjects: centres of concepts are kept in it."""
    table = trials.drop_duplicates("stimulus")[["stimulus", "concept", "split", "file"]]
    table = table.sort_values(["split", "concept", "stimulus"], key=_training_first).reset_index(drop=True)
    files = inside(folder, table["file"], f"the column image_path of the epochs in {folder}")
    images: ImageFiles | NoImages
    if all(file.is_file() for file in files):
        images = ImageFiles(files)
    else:
        images = NoImages(len(table), f"the THINGS images are not in {folder}; see https://things-initiative.org")
    return Stimuli(table["stimulus"].to_numpy().astype(str), images, [], table[["concept", "split", "file"]])


def _training_first(column: pd.Series) -> pd.Series:
    return column != "train" if column.name == "split" else column
