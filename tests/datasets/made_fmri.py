"""Named fMRI recordings in small, each in the layout of its release, whose responses follow the colours of the pictures.

made: the module `made_recordings`, which draws pictures and responses to them.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

SIDE = (5, 6, 4)  # voxels of a grid; every second one is of the brain
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = (-30, -80, -10)
REGIONS = ("V1", "V2", "LOC", "FFA")


def places() -> np.ndarray:
    """Indices (60, 3) of the voxels, in an order that is not that of a grid."""
    index = np.argwhere(np.ones(SIDE, bool))
    return np.random.default_rng(21).permutation(index)[:60]


# --- files of bdpy


def write_bdata(
    path: Path,
    data: np.ndarray,
    columns: dict[str, np.ndarray],
    *,
    vmap: dict[str, dict[int, str]] | None = None,
    old: bool = False,
) -> None:
    """A file as bdpy saves it. data (trial, 60); old: with the names of its first versions."""
    voxels = data.shape[1]
    names = ["VoxelData", "ROI_VC", *(f"ROI_{name}" for name in REGIONS), "voxel_x", "voxel_y", "voxel_z", *columns]
    value = np.full((len(names), voxels + len(columns)), np.nan)
    value[0, :voxels] = 1
    value[1, :voxels] = 1
    for k in range(len(REGIONS)):
        value[2 + k, :voxels] = np.arange(voxels) % len(REGIONS) == k
    value[2 + len(REGIONS) : 5 + len(REGIONS), :voxels] = (places() * 3.0 - 20).T
    for k in range(len(columns)):
        value[5 + len(REGIONS) + k, voxels + k] = 1
    table = np.column_stack([data, *columns.values()])
    with h5py.File(path, "w") as file:
        file["dataSet" if old else "dataset"] = table.astype(np.float64)
        group = file.create_group("metaData" if old else "metadata")
        group["key"] = [name.encode() for name in names]
        group["description"] = [b"" for _ in names]
        group["value"] = value
        for name, texts in (vmap or {}).items():
            for number, text in texts.items():
                file[f"vmap/{name}/{number}"] = text.encode()


def _save(made: ModuleType, path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(made.picture(number)).save(path)


def write_god(made: ModuleType, folder: Path, old: bool = True) -> np.ndarray:
    """48 training pictures once, 12 test pictures 4 times, 6 trials of imagery; the responses as they were written."""
    numbers = np.concatenate([np.arange(48), np.tile(np.arange(48, 60), 4), np.arange(48, 54)])
    kind = np.repeat([1, 2, 3], [48, 48, 6])
    ids = 1_500_000 + numbers + (1000 + numbers) / 1e6  # category.picture
    data = made.signal(numbers, 60, 22)
    run = np.concatenate([np.arange(48) // 12, np.arange(48) // 12, np.zeros(6)]) + 1
    columns = {"Session": kind, "Run": run, "DataType": kind, "stimulus_id": ids}
    write_bdata(folder / "Subject1.h5", data, columns, old=old)
    for number in range(60):
        part = "training" if number < 48 else "test"
        _save(made, folder / "images" / part / f"n{1_500_000 + number:08d}_{1000 + number}.png", number)
    return data


def write_deeprecon(made: ModuleType, folder: Path, *, shared: int = 0) -> None:
    """40 training pictures twice in two sessions, 12 test pictures 3 times, in two files; names in the file.

    shared: so many test pictures are other pictures of categories that are trained on.
    """
    for part, numbers in (("Training", np.tile(np.arange(40), 2)), ("Test", np.tile(np.arange(40, 52), 3))):
        shown = {int(k) + 1: f"n{k:08d}_7.JPEG" for k in np.unique(numbers)}
        shown |= {k + 1: f"n{k - 40:08d}_8.JPEG" for k in range(40, 40 + shared) if part == "Test"}
        columns = {"Session": 1 + np.arange(len(numbers)) // 40, "Run": np.ones(len(numbers)), "stimulus_name": numbers + 1}
        path = folder / f"sub-01_perceptionNaturalImage{part}_original_VC.h5"
        write_bdata(path, made.signal(numbers, 60, 22), columns, vmap={"stimulus_name": shown})
    for number in range(52):
        _save(made, folder / "images" / f"n{number:08d}_7.png", number)


# --- THINGS-fMRI


def write_things_fmri(made: ModuleType, folder: Path) -> np.ndarray:
    """48 training pictures of 24 concepts once, 12 test pictures 4 times, in 4 sessions; the responses (trial, voxel)."""
    place = folder / "betas_csv"
    place.mkdir(parents=True)
    numbers, kind, session = [], [], []
    for k in range(4):
        numbers += [*range(12 * k, 12 * k + 12), *range(48, 60)]
        kind += ["train"] * 12 + ["test"] * 12
        session += [k + 1] * 24
    concept = [f"thing{number // 2}" for number in numbers]
    stimulus = [f"{name}_{number:02d}s.jpg" for name, number in zip(concept, numbers, strict=True)]
    trials = pd.DataFrame({"trial_type": kind, "session": session, "run": [1 + i % 24 // 12 for i in range(96)], "subject_id": 1})
    trials.assign(trial_id=range(96), stimulus=stimulus, concept=concept).to_csv(
        place / "sub-01_StimulusMetadata.csv", index=False
    )
    data = made.signal(numbers, 60, 23)
    index = places()
    voxels = pd.DataFrame(index, columns=["voxel_x", "voxel_y", "voxel_z"])
    voxels.insert(0, "voxel_id", range(60))
    voxels["nc_singletrial"], voxels["nc_testset"], voxels["prf-eccentricity"] = 20.0, 40.0, 3.5
    for k, name in enumerate(("V1", "V2", "lEBA", "rEBA", "lFFA")):  # the last ten voxels are of none
        voxels[name] = ((np.arange(60) % 5 == k) & (np.arange(60) < 50)).astype(int)
    voxels["glasser-V1"] = 1
    voxels.to_csv(place / "sub-01_VoxelMetadata.csv", index=False)
    with h5py.File(
        place / "sub-01_ResponseData.h5", "w"
    ) as file:  # as pandas writes a table of a column of numbers and 96 of others
        group = file.create_group("ResponseData")
        group.attrs["pandas_type"] = "frame"
        group["axis1"] = np.arange(60)
        group["block0_values"] = data.T.astype(np.float64)
        group["block1_values"] = np.arange(60)[:, None]
    brain = np.zeros((8, 9, 7), np.uint8)
    brain[tuple(index.T)] = 1
    nib.save(nib.Nifti1Image(brain, AFFINE), folder / "sub-01_space-T1w_brainmask.nii.gz")
    for number, name, file in zip(numbers, concept, stimulus, strict=True):
        _save(made, folder / "things_images" / name / file, number)
    return data


# --- BOLD5000


def write_bold5000(made: ModuleType, folder: Path, sessions: int = 2) -> list[np.ndarray]:
    """Sessions of 40 trials: 28 pictures once, 12 pictures in each session; betas (x, y, z, trial), NaN outside the brain."""
    index = places()
    numbers = [n for k in range(sessions) for n in [*range(100 + 28 * k, 128 + 28 * k), *range(12)]]
    values = made.signal(numbers, 60, 24)
    wrong = np.diag([2.0, 2.0, 2.0, 1.0])  # as the release was saved
    out = []
    for k in range(sessions):
        block = np.full((*SIDE, 40), np.nan, np.float32)
        block[tuple(index.T)] = values[40 * k : 40 * k + 40].T
        nib.save(nib.Nifti1Image(block, wrong), folder / f"CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{k + 1:02d}.nii.gz")
        out.append(block)
    brain = np.zeros(SIDE, np.uint8)
    brain[tuple(index.T)] = 1
    nib.save(nib.Nifti1Image(brain, AFFINE), folder / "CSI1_brainmask.nii.gz")
    for k, side in enumerate(("LH", "RH")):
        region = np.zeros(SIDE, np.uint8)
        region[tuple(index[20 * k : 20 * k + 20].T)] = 1
        nib.save(nib.Nifti1Image(region, AFFINE), folder / f"sub-CSI1_mask-{side}PPA.nii.gz")
    names = [f"COCO_train2014_{n:012d}.jpg" for n in numbers]
    again = [f"rep_{name}" if name in names[:i] else name for i, name in enumerate(names)]
    (folder / "CSI1_imgnames.txt").write_text("\n".join(again) + "\n")
    for number, name in zip(numbers, names, strict=True):
        _save(made, folder / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli/COCO" / name, number)
    return out
