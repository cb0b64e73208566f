"""Van Gerven et al. 2010: fMRI of one person who saw 100 handwritten sixes and nines, with the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.npz import read_npz
from brainlens.types import DataError, Recording, Responses, Stimuli

FACTS = {
    "name": "digits69",
    "title": "Neural decoding with hierarchical generative models",
    "kind": "fMRI",
    "measure": "responses of voxels in V1 to V3",
    "simulated": False,
    "several_subjects": False,
    "offers": ("pictures", "categories", "split"),
    "licence": "not settled; the owner gives the data on request",
    "citation": "van Gerven, de Lange, Heskes (2010), Neural Computation 22, 3127-3142",
    "url": "https://github.com/ChangdeDu/DGMM",
    "access": "on request",
    "subjects": 1,
    "images": 100,
    "test_images": 10,
    "voxels": 3092,
    "pixels": 28,
}
FILE = "digits69.npz"
SHAPES = {"bold": 2, "images": 3, "label": 1, "test": 1}
DIGITS = {1: "6", 2: "9"}


def load(folder: str | Path, *, standardise: bool = True) -> Recording:
    """Responses (100, 3092), one trial an image, and the 100 pictures of 28 x 28 pixels in grey.

    Stimuli have the columns category ("6" or "9") and split, trials split: the published one, 90 training images and 10 for the
    test, five of each digit. The file holds the pictures column by column; here they stand upright. No image was repeated,
    and neither coordinates nor regions of the voxels are known.
    standardise: each voxel by mean and standard deviation of the training trials; False: the values as they are in the file.
    Raises DataError for a file that is missing, damaged, or does not hold one response for each picture.
    """
    content = _read(folder)
    n, voxels = content["bold"].shape
    ids = np.array([f"digit{i:03d}" for i in range(n)])
    split = np.where(content["test"], "test", "train")
    data = content["bold"].astype(np.float32)
    if standardise:
        train = data[split == "train"].astype(np.float64)
        spread = train.std(axis=0)
        if not (spread > 0).all():
            raise DataError(f"digits69: {int((spread == 0).sum())} voxels never vary in training; pass standardise=False")
        data = ((data - train.mean(axis=0)) / spread).astype(np.float32)
    table = pd.DataFrame({"category": [DIGITS[int(label)] for label in content["label"]], "split": split})
    upright = content["images"].transpose(0, 2, 1).astype(np.uint8)
    pictures = np.ascontiguousarray(np.repeat(upright[..., None], 3, axis=3))
    trials = pd.DataFrame({"stimulus": ids, "split": split})
    units = pd.DataFrame({"voxel": np.arange(voxels)})
    return Recording(Responses(data, trials, units, measure="z"), Stimuli(ids, pictures, [[] for _ in ids], table))


def _read(folder: str | Path) -> dict[str, np.ndarray]:
    path, content = read_npz(folder, FILE, SHAPES)
    shapes = {key: array.shape for key, array in content.items()}
    if any(array.ndim != SHAPES[key] or len(array) != len(content["bold"]) for key, array in content.items()):
        raise DataError(f"{path}: bold (n, voxel), images (n, row, column), label (n,), test (n,) must fit; they are {shapes}")
    known = np.isin(content["label"], list(DIGITS))
    test = content["test"]
    if not known.all() or test.dtype != bool or test.all() or not test.any():
        raise DataError(f"{path}: label is {sorted(DIGITS)} and test bool with both values; fetch the file again")
    if not np.isfinite(content["bold"]).all():
        raise DataError(f"{path}: bold holds NaN or infinity in {int((~np.isfinite(content['bold'])).sum())} values")
    return content
