"""Arrays as the tables of an alignment: responses (row, voxel), embeddings (row, d), ids, subjects and a mask, all checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.types import DataError, Features, Responses, Volume, as_ids, read_grid


def as_array(value: Any, what: str) -> np.ndarray:
    """A numpy array (n, d) of numbers from numpy, torch or lists. Raises DataError for other shapes, kinds, NaN or infinity."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{what} is (row, column) numbers, got {array.dtype} of shape {array.shape}")
    if not len(array):
        raise DataError(f"{what} has no rows")
    bad = ~np.isfinite(array).all(axis=0)
    if bad.any():
        first = np.flatnonzero(bad)[0]
        raise DataError(
            f"{what}: {int(bad.sum())} of {len(bad)} columns hold NaN or infinity, first number {first}; drop or fill them"
        )
    return array.astype(np.float32, copy=False)


def as_volume(mask_img: Any) -> Volume:
    """The voxel space of a mask: a brainlens Volume, a nibabel image, or the path of one. Non-zero voxels are inside."""
    if isinstance(mask_img, Volume):
        return mask_img
    if isinstance(mask_img, (str, Path)):
        if not Path(mask_img).is_file():
            raise DataError(f"mask_img {str(mask_img)!r} is not found; give a NIfTI file, a nibabel image or a Volume")
        mask, affine = read_grid(mask_img)
    elif not hasattr(mask_img, "dataobj") or not hasattr(mask_img, "affine"):
        raise DataError(f"mask_img is a {type(mask_img).__name__}; give a nibabel image, a path of one, or a brainlens Volume")
    else:
        mask, affine = np.asarray(mask_img.dataobj), np.asarray(mask_img.affine, dtype=float)
    if mask.ndim == 4 and mask.shape[3] == 1:
        mask = mask[..., 0]
    return Volume(np.isfinite(mask) & (mask != 0), affine)


def training_tables(
    y: np.ndarray,
    images: np.ndarray,
    texts: np.ndarray | None,
    *,
    space: Volume | None,
    ids: Sequence[str] | None,
    subject: Sequence[str] | None,
) -> tuple[Responses, Features, Features | None]:
    """Tables of which every row is for training; rows of one id are repeats of one image.

    y (n, voxel), images (n, d), texts (n, d).
    Raises DataError for numbers of rows that do not match, ids that are no strings, and an image with two embeddings.
    """
    n = len(y)
    names = np.array([f"{row:09d}" for row in range(n)]) if ids is None else as_ids(ids)
    owner = None if subject is None else as_ids(subject, "subject")
    for what, rows in (("images", images), ("texts", texts), ("ids", names), ("subject", owner)):
        if rows is not None and len(rows) != n:
            raise DataError(f"Y has {n} rows, {what} has {len(rows)}; give one for every row of Y")
    if space is not None and len(space) != y.shape[1]:
        raise DataError(f"Y has {y.shape[1]} voxels, the mask {len(space)}; mask Y with the same image")
    unique, first, group = np.unique(names, return_index=True, return_inverse=True)

    def table(array: np.ndarray, layer: str) -> Features:
        other = (array != array[first][group]).any(axis=1)
        if other.any():
            row = int(np.flatnonzero(other)[0])
            raise DataError(f"{layer} embeddings: row {row} differs from an earlier row of the same id {str(names[row])!r}")
        return Features({layer: array[first]}, unique, "given")

    trials = pd.DataFrame({"stimulus": names, "split": "train"})
    if owner is not None:
        trials["subject"] = owner
    responses = Responses(y, trials, pd.DataFrame(index=range(y.shape[1])), space)
    return responses, table(images, "image"), None if texts is None else table(texts, "text")
