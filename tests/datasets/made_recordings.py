"""Named recordings in small, each in the layout of its release, whose responses follow the colours of the pictures."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image
from scipy.io import savemat

GRID = (12, 14, 10)
AFFINE = np.diag([1.8, 1.8, 1.8, 1.0])
AFFINE[:3, 3] = (-10, -90, -10)
FSAVERAGE, FSLR = 163_842, 32_492
TRIALS, SESSIONS, SHARED, OWN = 60, 2, 16, 44  # of NSD in small: each image twice
PRF = {1: "V1v", 2: "V1d", 3: "V2v", 4: "V2d", 5: "V3v", 6: "V3d", 7: "hV4"}
FACES = {1: "OFA", 2: "FFA-1", 3: "FFA-2"}


def colour(number: int) -> np.ndarray:
    """The colour of picture `number`, three numbers from 0 to 255."""
    return np.random.default_rng([number, 7]).uniform(30, 225, 3)


def picture(number: int, side: int = 24) -> np.ndarray:
    """A picture of one colour with some grain, another one for each number."""
    grain = np.random.default_rng([number, 8]).normal(0, 20, (side, side, 3))
    return np.clip(colour(number) + grain, 0, 255).astype(np.uint8)


def signal(numbers: Sequence[int], units: int, seed: int, noise: float = 0.7) -> np.ndarray:
    """(row, unit): a mixture of the pictures' colours for every unit, the same in every call with a seed, and noise."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, units))
    seen = (np.stack([colour(int(i)) for i in numbers]) - 128) / 60
    return (seen @ weights + noise * rng.normal(size=(len(numbers), units))).astype(np.float32)


# --- NSD


def nsd_design(folder: Path) -> np.ndarray:
    """Writes the design and the pictures; the 0-based image of each of the 120 trials."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(73_000)[:10_000] + 1
    ids[:1000] = np.sort(ids[:1000])
    shown = np.repeat(np.concatenate([np.arange(SHARED), 1000 + np.arange(OWN)]), 2)
    order = np.concatenate([rng.permutation(shown) + 1, np.tile(np.arange(10_000) + 1, 3)])[:30_000]
    place = folder / "nsddata/experiments/nsd"
    place.mkdir(parents=True)
    content = {"masterordering": order[None].astype("u2"), "sharedix": ids[None, :1000]}
    savemat(place / "nsd_expdesign.mat", content | {"subjectim": np.tile(ids, (8, 1)).astype("u4")})
    seen = ids[order[: SESSIONS * TRIALS] - 1] - 1
    stimuli = folder / "nsddata_stimuli/stimuli/nsd"
    stimuli.mkdir(parents=True)
    with h5py.File(stimuli / "nsd_stimuli.hdf5", "w") as file:
        brick = file.create_dataset("imgBrick", (73_000, 8, 8, 3), "u1", chunks=(1000, 8, 8, 3))
        brick[...] = np.zeros((73_000, 8, 8, 3), "u1")
        for number in np.unique(seen):
            brick[int(number)] = picture(int(number), 8)
    return seen


def nsd_captions(folder: Path, seen: np.ndarray) -> None:
    """The table of COCO numbers, and the annotation files of COCO with captions and objects of the pictures that were seen."""
    coco = {int(n): 100_000 + int(n) for n in np.unique(seen)}
    rows = [f",{c},train2017,{n}" for n, c in coco.items()]
    path = folder / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
    path.write_text("\n".join([",cocoId,cocoSplit,nsdId", *rows]) + "\n")
    place = folder / "annotations"
    place.mkdir()
    told = [{"image_id": c, "id": c, "caption": f"a {_hue(n)} {_thing(n)} on a table"} for n, c in coco.items()]
    drawn = [{"image_id": c, "category_id": 1 + n % 3, "area": 9.0} for n, c in coco.items()]
    kinds = [{"id": i + 1, "name": name} for i, name in enumerate(("boat", "dog", "pizza"))]
    _json(place / "captions_train2017.json", {"images": [], "annotations": told})
    _json(place / "instances_train2017.json", {"images": [], "annotations": drawn, "categories": kinds})


def _hue(number: int) -> str:
    return ("red", "green", "blue")[int(np.argmax(colour(number)))]


def _thing(number: int) -> str:
    return ("boat", "dog", "pizza")[int(number) % 3]


def _json(path: Path, content: Any) -> None:
    import json

    path.write_text(json.dumps(content))


def write_nsd(folder: Path, subject: int = 1) -> None:
    """Subject's volume betas of two short sessions, atlases, signal-to-noise; to be read with nsd.TRIALS = 60."""
    seen = nsd_design(folder)
    nsd_captions(folder, seen)
    rng = np.random.default_rng(1)
    where = f"ppdata/subj{subject:02d}/func1pt8mm"
    roi = folder / "nsddata" / where / "roi"
    roi.mkdir(parents=True)
    inside = np.zeros(GRID, bool)
    inside[2:10, 3:11, 2:8] = True
    labels = np.where(inside, rng.integers(0, 8, GRID), -1).astype("i2")
    faces = np.where(inside, rng.integers(0, 4, GRID), -1).astype("i2")
    atlases = {"nsdgeneral": inside.astype("i2"), "prf-visualrois": labels, "floc-faces": faces}
    for name, values in atlases.items():
        nib.save(nib.Nifti1Image(values, AFFINE), roi / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(GRID, "i2"), AFFINE), roi.parent / "brainmask.nii.gz")
    label = folder / f"nsddata/freesurfer/subj{subject:02d}/label"
    label.mkdir(parents=True)
    for name, known in {"prf-visualrois": PRF, "floc-faces": FACES}.items():
        (label / f"{name}.mgz.ctab").write_text("\n".join(f"{k} {v}" for k, v in {0: "Unknown", **known}.items()) + "\n")
    source = folder / "nsddata_betas" / where / "betas_fithrf_GLMdenoise_RR"
    source.mkdir(parents=True)
    values = signal(seen, int(np.prod(GRID)), 2)
    for i in range(SESSIONS):
        block = (300 * values[i * TRIALS : (i + 1) * TRIALS]).astype("i2").T.reshape(*GRID, TRIALS)
        nib.save(nib.Nifti1Image(block, AFFINE), source / f"betas_session{i + 1:02d}.nii.gz")
    nib.save(nib.Nifti1Image(np.full(GRID, 0.8, "f4"), AFFINE), source / "ncsnr.nii.gz")


def write_nsd_surface(folder: Path) -> None:
    """fsaverage betas of subject 1: files of full length with holes where nothing is read."""
    seen = nsd_design(folder)
    nsd_captions(folder, seen)
    rng = np.random.default_rng(3)
    label = folder / "nsddata/freesurfer/fsaverage/label"
    source = folder / "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"
    for place in (label, source):
        place.mkdir(parents=True)
    (label / "prf-visualrois.mgz.ctab").write_text("\n".join(f"{k} {v}" for k, v in {0: "Unknown", **PRF}.items()) + "\n")
    for number, side in enumerate(("lh", "rh")):
        vertex = np.sort(rng.choice(FSAVERAGE, 60, replace=False))
        inside, areas = np.zeros(FSAVERAGE, "f4"), np.zeros(FSAVERAGE, "i4")
        inside[vertex], areas[vertex] = 1, 1 + np.arange(60) % 7
        for name, values in {"nsdgeneral": inside, "prf-visualrois": areas}.items():
            nib.save(nib.MGHImage(values.reshape(-1, 1, 1), np.eye(4)), label / f"{side}.{name}.mgz")
        betas = signal(seen, 60, 4 + number)
        for i in range(SESSIONS):
            _sparse_mgh(source / f"{side}.betas_session{i + 1:02d}.mgh", betas[i * TRIALS : (i + 1) * TRIALS], vertex)


def _sparse_mgh(path: Path, values: np.ndarray, vertex: np.ndarray) -> None:
    """values (frame, vertex) at these vertices of a surface file; the rest is a hole of zeros that takes no room."""
    header = nib.MGHImage(np.zeros((FSAVERAGE, 1, 1), "f4"), np.eye(4)).header.copy()
    header.set_data_shape((FSAVERAGE, 1, 1, len(values)))
    with open(path, "wb") as file:
        file.write(header.structarr.tobytes()[:284].ljust(284, b"\0"))
        file.truncate(284 + 4 * FSAVERAGE * len(values))
    data = np.memmap(path, ">f4", "r+", 284, (FSAVERAGE, len(values)), order="F")
    data[vertex] = values.T
    data.flush()


# --- Algonauts 2023


def write_algonauts(folder: Path, n: int = 60) -> None:
    rng = np.random.default_rng(5)
    place = folder / "subj01"
    for part in ("training_split/training_fmri", "training_split/training_images", "test_split/test_images", "roi_masks"):
        (place / part).mkdir(parents=True)
    numbers = [13 * i for i in range(n)]
    for k, side in enumerate(("lh", "rh")):
        inside = np.zeros(FSAVERAGE, int)
        inside[rng.choice(FSAVERAGE, 60, replace=False)] = 1
        np.save(place / f"roi_masks/{side}.all-vertices_fsaverage_space.npy", inside)
        np.save(place / f"roi_masks/{side}.prf-visualrois_challenge_space.npy", np.arange(60) % 8)
        np.save(place / f"roi_masks/{side}.floc-faces_challenge_space.npy", np.where(np.arange(60) % 8 == 0, 1, 0))
        np.save(place / f"training_split/training_fmri/{side}_training_fmri.npy", signal(numbers, 60, 6 + k))
    np.save(place / "roi_masks/mapping_prf-visualrois.npy", {0: "Unknown", **PRF}, allow_pickle=True)
    np.save(place / "roi_masks/mapping_floc-faces.npy", {0: "Unknown", 1: "EBA"}, allow_pickle=True)
    for i, number in enumerate(numbers):
        name = f"train-{i + 1:04d}_nsd-{number:05d}.png"
        Image.fromarray(picture(number)).save(place / "training_split/training_images" / name)
    Image.fromarray(picture(845)).save(place / "test_split/test_images/test-0001_nsd-00845.png")


# --- THINGS-EEG2

CHANNELS = ("Pz", "P3", "P4", "PO7", "PO8", "O1", "Oz", "O2")


def write_eeg2(folder: Path, subjects: int = 1) -> None:
    """30 training images of 15 concepts, twice; 10 test images, 8 times; 50 samples from -.1 to .39 s."""
    meta: dict[str, list[str]] = {}
    numbers = {"training": list(range(30)), "test": list(range(100, 110))}
    for part, short in (("training", "train"), ("test", "test")):
        each = 2 if part == "training" else 1
        concepts = [f"{i // each + 1:05d}_{short}thing{i // each}" for i in range(len(numbers[part]))]
        files = [f"{concept[6:]}_{i:02d}b.jpg" for i, concept in enumerate(concepts)]
        meta |= {f"{short}_img_concepts": concepts, f"{short}_img_concepts_THINGS": concepts, f"{short}_img_files": files}
        for number, concept, file in zip(numbers[part], concepts, files, strict=True):
            where = folder / "image_set" / f"{part}_images" / concept
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(where / file)
    np.save(folder / "image_set/image_metadata.npy", meta, allow_pickle=True)
    for subject in range(1, subjects + 1):
        place = folder / f"sub-{subject:02d}"
        place.mkdir()
        for part, repeats in (("training", 2), ("test", 8)):
            rng = np.random.default_rng([subject, repeats])
            data = rng.normal(size=(len(numbers[part]), repeats, len(CHANNELS), 50))
            data[..., 20:35] += signal(numbers[part], len(CHANNELS), 9, noise=0)[:, None, :, None]
            content = {"preprocessed_eeg_data": data, "ch_names": list(CHANNELS), "times": np.arange(50) * 0.01 - 0.1}
            with open(place / f"preprocessed_eeg_{part}.npy", "wb") as handle:
                pickle.dump(content, handle, protocol=4)


def write_categories(folder: Path, concepts: Sequence[str]) -> None:
    """The table of THINGS, with these concepts as animals and tools in turn."""
    rows = [f"{name}\tx\t{'1' if i % 2 else ''}\t{'' if i % 2 else '1'}" for i, name in enumerate(concepts)]
    head = "Word\tDefinition (from WordNet, Google, or Wikipedia)\tanimal\ttool"
    (folder / "Categories_final_20200131.tsv").write_text("\n".join([head, *rows]) + "\n")


# --- NOD


def write_nod(folder: Path, runs: int = 3, pictures: int = 20) -> None:
    rng = np.random.default_rng(10)
    masks = [np.zeros(FSLR, bool), np.zeros(FSLR, bool)]
    for mask in masks:
        mask[rng.choice(FSLR, 60, replace=False)] = True
    model = nib.cifti2.BrainModelAxis
    axis = model.from_mask(masks[0], "CortexLeft") + model.from_mask(masks[1], "CortexRight")
    values = signal(range(runs * pictures), 120, 11)
    for run in range(runs):
        name = f"ses-imagenet01_task-imagenet_run-{run + 1}"
        place = folder / "derivatives/ciftify/sub-01/results" / name
        place.mkdir(parents=True)
        numbers = range(run * pictures, (run + 1) * pictures)
        scalars = nib.cifti2.ScalarAxis([f"b{i}" for i in numbers])
        nib.save(nib.Cifti2Image(values[list(numbers)], header=(scalars, axis)), place / f"{name}_beta.dscalar.nii")
        lines = [f"n{run:08d}/n{run:08d}_{i}.JPEG" for i in numbers]
        (place / f"{name}_label.txt").write_text("\n".join(lines) + "\n")
        for number, line in zip(numbers, lines, strict=True):
            path = folder / "stimuli/imagenet" / line
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(path, format="JPEG")


def write_fslr(folder: Path) -> None:
    """Two inflated hemispheres of fsLR 32k as GIFTI: points of a sphere, which is all that a reader of places looks at."""
    from nibabel.gifti import GiftiDataArray, GiftiImage

    folder.mkdir(parents=True, exist_ok=True)
    for letter in "LR":
        points = np.random.default_rng(12).normal(size=(FSLR, 3)).astype("f4")
        points *= 50 / np.linalg.norm(points, axis=1, keepdims=True)
        parts = [GiftiDataArray(points, "NIFTI_INTENT_POINTSET"), GiftiDataArray(np.zeros((1, 3), "i4"), "NIFTI_INTENT_TRIANGLE")]
        nib.save(GiftiImage(darrays=parts), folder / f"sub-01.{letter}.inflated.32k_fs_LR.surf.gii")


# --- MOSAIC, with mosaic.GRAYORDINATES = 130 and mosaic.CORTEX = (60, 60)


def write_mosaic(folder: Path, n: int = 60) -> None:
    names = [f"im{i:03d}" for i in range(n)]
    values = signal(range(n), 130, 13)
    with h5py.File(folder / "sub-01_NSD.hdf5", "w") as file:
        for name, row in zip(names, values, strict=True):
            file.create_dataset(f"betas/{name}", data=row)
    (folder / "images").mkdir()
    for i, name in enumerate(names):
        Image.fromarray(picture(i)).save(folder / "images" / f"{name}.png")
    split = ["test" if i % 5 == 0 else "train" for i in range(n)]
    pd.DataFrame({"stimulus": names, "split": split}).to_csv(folder / "stimuli.csv", index=False)
