"""THINGS-fMRI: single-trial responses of three people to 8,740 THINGS pictures, in the table format of its release."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.bdata import smallest_region
from brainlens.datasets.hdf5 import names_in, open_dataset
from brainlens.datasets.lattice import on_lattice
from brainlens.datasets.shown_stimuli import shown_stimuli
from brainlens.datasets.text_tables import read_table
from brainlens.datasets.things_tables import SUFFIXES, pictures_folder, with_categories
from brainlens.datasets.volumes import coordinates_table, read_mask
from brainlens.types import DataError, Recording, Responses, Stimuli, Volume

GROUP = "ResponseData"  # of the HDF5 file, as pandas writes a table: block0 holds the numbers of its columns of one type
BLOCK = 4096  # voxels that are read at a time
INDEX = ("voxel_x", "voxel_y", "voxel_z")
SIDE = 2.0  # mm
BRAIN, REGIONS = "brain", "regions"

FACTS = {
    "name": "things_fmri",
    "title": "THINGS-data, a multimodal collection of large-scale datasets for object representations in brain and behavior",
    "kind": "fMRI",
    "measure": "fMRI betas, denoised by independent components",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "coordinates", "runs", "split"),
    "licence": "CC0; the pictures for research",
    "citation": "Hebart et al. (2023), eLife 12, e82580",
    "url": "https://plus.figshare.com/articles/dataset/20492835",
    "access": "public",
    "subjects": 3,
    "images": 8740,
    "test_images": 100,
    "test_repeats": 12,
}


def fetch(folder: str | Path) -> Path:
    """Raises DataError with the address: the tables of a subject take 14 GB and are fetched by the user."""
    raise DataError(
        f"things_fmri is at {FACTS['url']}: unpack betas_csv.zip into {folder}, and put the pictures into things_images/"
    )


def load(folder: str | Path, *, subject: int = 1, mask: str = REGIONS) -> Recording:
    """Responses (trial, voxel) and the THINGS pictures seen, ids such as "dog_12s".

    Reads betas_csv/sub-01_ResponseData.h5, sub-01_StimulusMetadata.csv and sub-01_VoxelMetadata.csv. mask: "regions", the
    voxels of any retinotopic or functional region of the table, or "brain", all of them (211,339: 8 GB of memory).
    A voxel's `roi` is the smallest region that holds it; `ncsnr` is that of the test pictures' noise ceiling. Places are those
    of sub-01_space-T1w_brainmask.nii.gz where it lies beside the tables, else voxels of 2 mm whose origin is not known.
    split as released: 100 test pictures, each 12 times. Pictures: things_images/CONCEPT/dog_12s.jpg, or images/. With the table
    of THINGS categories in the folder, trials and pictures have the column category.
    Raises DataError for files that are missing or cut short, and tables of other numbers of trials or voxels.
    """
    root = Path(folder)
    if mask not in (BRAIN, REGIONS):
        raise DataError(f"mask {mask!r} is not one of {REGIONS}, {BRAIN}; choose regions of them by --roi")
    place = root / "betas_csv" if (root / "betas_csv").is_dir() else root
    name = f"sub-{subject:02d}"
    path = place / f"{name}_ResponseData.h5"
    if not path.is_file():
        there = sorted(each.name for each in place.glob("sub-*_ResponseData.h5"))
        raise DataError(f"{path} is missing; {place} has {', '.join(there) or 'no subject, see ' + str(FACTS['url'])}")
    trials = _trials(place / f"{name}_StimulusMetadata.csv", subject)
    voxels = read_table(place / f"{name}_VoxelMetadata.csv", INDEX)
    regions = _regions(voxels)
    units = _units(voxels, regions)
    kept = np.ones(len(units), bool) if mask == BRAIN else np.any(list(regions.values()) or [np.zeros(len(units), bool)], axis=0)
    if not kept.any():
        raise DataError(f"{place / f'{name}_VoxelMetadata.csv'} names no region; give --option mask={BRAIN} (mask={BRAIN!r})")
    data = _responses(path, trials, len(units), np.flatnonzero(kept))
    units = units[kept].reset_index(drop=True)
    space, order = _space(place, root, name, voxels[kept], units)
    if space is not None:
        data, units = data[:, order], units.iloc[order].reset_index(drop=True)
        units = pd.concat([pd.DataFrame(coordinates_table(space)), units], axis=1)
    stimuli = _stimuli(root, trials)
    return with_categories(Recording(Responses(data, trials, units, space, measure="psc"), stimuli), root)


def _trials(path: Path, subject: int) -> pd.DataFrame:
    table = read_table(path, ("trial_type", "session", "run", "stimulus", "concept"))
    unknown = sorted(set(table["trial_type"]) - {"train", "test"})
    if unknown:
        raise DataError(f"{path}: trial_type {unknown[0]!r} is not train or test")
    number = pd.to_numeric(table["trial_id"], errors="coerce") if "trial_id" in table.columns else pd.Series(range(len(table)))
    if not np.array_equal(number.to_numpy(), np.arange(len(table))):
        raise DataError(
            f"{path}: trial_id does not count from 0, so it is not known which responses a line is of; fetch it again"
        )
    trials = pd.DataFrame({"stimulus": [Path(each).stem for each in table["stimulus"]], "concept": table["concept"]})
    trials["subject"], trials["split"], trials["session"] = str(subject), table["trial_type"], table["session"]
    trials["run"] = table["session"] + "-" + table["run"]  # runs of each session are counted anew
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    both = trials.groupby("stimulus")["split"].nunique()
    if (both > 1).any():
        raise DataError(f"{path}: image {str(both.index[both > 1][0])!r} is in training and in test")
    return trials


def _regions(voxels: pd.DataFrame) -> dict[str, np.ndarray]:
    """Name -> (voxel,) bool of the columns that mark a region by 1; left and right are one region."""
    out: dict[str, np.ndarray] = {}
    for column in voxels.columns:
        if column in ("voxel_id", "subject_id", *INDEX) or str(column).lower().startswith(("prf", "nc_", "splithalf", "glasser")):
            continue
        marks = pd.to_numeric(voxels[column], errors="coerce")
        if marks.isin((0, 1)).all() and (marks == 1).any():
            short = str(column)[1:] if str(column)[:1] in "lr" and str(column)[1:2].isupper() else str(column)
            out[short] = out.get(short, np.zeros(len(voxels), bool)) | (marks == 1).to_numpy()
    return out


def _units(voxels: pd.DataFrame, regions: dict[str, np.ndarray]) -> pd.DataFrame:
    units = pd.DataFrame({"roi": smallest_region(regions, len(voxels))})
    if "nc_testset" in voxels.columns:  # percent of the variance of a mean over 12 trials: nc = 100 s2 / (s2 + 1 / 12)
        share = np.clip(pd.to_numeric(voxels["nc_testset"], errors="coerce").to_numpy(float) / 100, 0, 0.999)
        units["ncsnr"] = np.sqrt(share / (1 - share) / int(str(FACTS["test_repeats"])))
    return units


def _responses(path: Path, trials: pd.DataFrame, voxels: int, rows: np.ndarray) -> np.ndarray:
    """(trial, voxel) float32 of the voxels `rows`, a few thousand at a time; the file is voxel by trial."""
    blocks = [name for name in names_in(path, GROUP) if name.endswith("_values")]
    if not blocks:
        raise DataError(f"{path} has no table {GROUP!r} as pandas writes one; it has {', '.join(names_in(path)[:10])}")
    for name in blocks:
        with open_dataset(path, f"{GROUP}/{name}") as stored:
            if stored.shape != (voxels, len(trials)):
                continue
            out = np.empty((len(trials), len(rows)), dtype=np.float32)
            for start in range(0, voxels, BLOCK):
                inside = np.flatnonzero((rows >= start) & (rows < start + BLOCK))
                if len(inside):
                    first, last = rows[inside[0]], rows[inside[-1]] + 1
                    out[:, inside] = stored[first:last][rows[inside] - first].T
            return out
    sizes = f"{voxels:,} voxels by {len(trials):,} trials"
    raise DataError(f"{path}: no block of {GROUP!r} is {sizes}, as the tables beside it say; fetch all three")


def _space(place: Path, root: Path, name: str, voxels: pd.DataFrame, units: pd.DataFrame) -> tuple[Volume | None, np.ndarray]:
    """The grid of the voxels and the order in which they are its units."""
    index = voxels[list(INDEX)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    brain = next((p for p in (place, root) if (p / f"{name}_space-T1w_brainmask.nii.gz").is_file()), None)
    if brain is None:
        found = on_lattice(index * SIDE)
        return (None, np.arange(len(units))) if found is None else found
    whole = read_mask(brain / f"{name}_space-T1w_brainmask.nii.gz")
    at = np.rint(index).astype(np.int64)
    if not np.isfinite(index).all() or (at < 0).any() or (at >= np.array(whole.mask.shape)).any():
        raise DataError(
            f"{brain / f'{name}_space-T1w_brainmask.nii.gz'} has the grid {whole.mask.shape}, and voxels lie outside of it"
        )
    mask = np.zeros(whole.mask.shape, bool)
    mask[tuple(at.T)] = True
    if int(mask.sum()) != len(units):
        raise DataError(f"{place}: two voxels of {name} are at one place; fetch the table of voxels again")
    return Volume(mask, whole.affine), np.argsort(np.ravel_multi_index(tuple(at.T), mask.shape), kind="stable")


def _stimuli(root: Path, trials: pd.DataFrame) -> Stimuli:
    """The pictures seen, from the folder of THINGS pictures where it is there, else from images/."""
    table = trials.drop_duplicates("stimulus").reset_index(drop=True)
    place, files = pictures_folder(root), None
    if place is not None:
        files = {
            name: _picture(root, place, concept, name) for name, concept in zip(table["stimulus"], table["concept"], strict=True)
        }
    found = shown_stimuli(root, table["stimulus"], files=files)
    of = table.set_index("stimulus").loc[found.ids]
    kept = found.table.assign(concept=of["concept"].to_numpy(), split=of["split"].to_numpy())
    return Stimuli(found.ids, found.images, found.captions, kept)


def _picture(root: Path, place: Path, concept: str, name: str) -> str:
    """Where the picture of a concept lies, from the folder of the recording: as .jpg, or as another kind that is there."""
    each = [place / concept / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in each if path.is_file()), each[0]).relative_to(root).as_posix()
