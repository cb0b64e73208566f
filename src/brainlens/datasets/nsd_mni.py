"""NSD betas in MNI space: sampled on the 2 mm grid of FSL through the transforms that NSD ships.

`transforms/func1pt8-to-MNI.nii.gz` holds, for each voxel of the 1 mm MNI grid (182, 218, 182), where it lies in the functional
volume: x, y, z counted from 1, 9999 where nothing lies. Its first axis runs from right to left, as that of FSL's MNI152, so
every second voxel of it is the 2 mm grid (91, 109, 91). A value between voxels is the trilinear mean of its eight neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from brainlens.datasets.volumes import read_frames, read_header
from brainlens.types import DataError, Volume

SHAPE = (182, 218, 182)
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
CORNERS = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])


@dataclass(frozen=True)
class Resampling:
    """How values at `source` voxels of a functional grid become values at the voxels of `space`, by a sparse matrix of weights.

    reached: the voxels of `space` that the transform reaches; the others are NaN.
    """

    source: Volume
    space: Volume
    weights: csr_matrix  # (voxel of space, voxel of source) float32, rows of reached voxels sum to 1
    reached: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(trial, voxel of source) -> (trial, voxel of space) float32."""
        out = np.ascontiguousarray((self.weights @ np.asarray(values, np.float32).T).T)
        out[:, ~self.reached] = np.nan
        return out

    def labels(self, volume: np.ndarray) -> np.ndarray:
        """The value (voxel,) of the nearest voxel of a functional volume, for labels, which must not be averaged; else 0."""
        nearest = np.asarray(self.weights.argmax(axis=1)).ravel()
        return np.where(self.reached, volume[self.source.mask][nearest], 0)


def mni_resampling(path: Path, grid: Volume, wanted: np.ndarray) -> Resampling:
    """The way from a functional grid to the wanted voxels (91, 109, 91) of the 2 mm grid.

    Raises DataError for another file, and a transform that reaches none of them from this grid.
    """
    if not path.exists():
        raise DataError(f"{path} is missing; it is the transform to MNI space that NSD ships with each subject")
    header = read_header(path)
    if header.shape != (*SHAPE, 3):
        raise DataError(f"{path} has the shape {header.shape}, a transform to MNI space has {(*SHAPE, 3)}")
    shape = np.array(grid.mask.shape)
    where = np.stack([frame[::2, ::2, ::2][wanted] for frame in read_frames(header)], axis=-1).astype(np.float64) - 1
    reached = np.isfinite(where).all(axis=-1) & ((where >= 0) & (where <= shape - 1)).all(axis=-1)  # 9999 is far outside
    if not reached.any():
        raise DataError(f"{path}: none of the voxels lies in the functional volume {tuple(shape)}; it is of another subject")
    low = np.minimum(np.floor(where[reached]).astype(int), shape - 2)
    part = (where[reached] - low)[:, None]
    weights = np.where(CORNERS == 1, part, 1 - part).prod(axis=-1)
    flat = np.ravel_multi_index(tuple(np.moveaxis(low[:, None] + CORNERS, -1, 0)), tuple(shape))
    used, column = np.unique(flat, return_inverse=True)
    row = np.repeat(np.flatnonzero(reached), len(CORNERS))
    matrix = csr_matrix((weights.ravel().astype(np.float32), (row, column.ravel())), shape=(len(where), len(used)))
    mask = np.zeros(int(shape.prod()), bool)
    mask[used] = True
    return Resampling(Volume(mask.reshape(shape), grid.affine), Volume(wanted, AFFINE), matrix, np.asarray(reached))


def mni_brain() -> np.ndarray:
    """The voxels (91, 109, 91) of the MNI152 brain, from nilearn's mask brought to FSL's grid."""
    import nibabel
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_to_img

    grid = nibabel.Nifti1Image(np.zeros(tuple(size // 2 for size in SHAPE), np.uint8), AFFINE)
    how = {"interpolation": "nearest", "force_resample": True, "copy_header": True}
    mask = resample_to_img(load_mni152_brain_mask(resolution=2), grid, **how)
    return np.asarray(mask.dataobj) > 0
