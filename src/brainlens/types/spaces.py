"""Where units lie: voxels of a volume, vertices of a surface, sensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from brainlens.types.ids import DataError


@dataclass(frozen=True)
class Volume:
    """A voxel space: `mask` (x, y, z) bool, its True voxels in C order are the units; `affine` (4, 4) to mm."""

    mask: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        if self.mask.ndim != 3 or self.mask.dtype != bool:
            raise DataError(f"volume mask must be a 3-D bool array, got {self.mask.dtype} {self.mask.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all() or abs(np.linalg.det(self.affine)) < 1e-12:
            raise DataError(f"volume affine must be an invertible (4, 4) matrix, got shape {self.affine.shape}")

    def __len__(self) -> int:
        return int(self.mask.sum())

    def coordinates(self) -> np.ndarray:
        """Millimetre coordinates (unit, 3) of the voxel centres."""
        index = np.argwhere(self.mask)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def fill(self, values: np.ndarray, outside: float = np.nan) -> np.ndarray:
        """Values (unit,) put back into a volume (x, y, z)."""
        if values.shape != (len(self),):
            raise DataError(f"values {values.shape} do not fit a mask of {len(self)} voxels")
        out = np.full(self.mask.shape, outside, dtype=np.result_type(values.dtype, np.float32))
        out[self.mask] = values
        return out


MESHES = {"fsaverage5": 10_242, "fsaverage6": 40_962, "fsaverage": 163_842, "fs_LR_32k": 32_492}  # vertices of a hemisphere


@dataclass(frozen=True)
class Surface:
    """A cortical surface: `mesh` name (fsaverage5, ...), `hemisphere` and `vertex` (unit,) of each unit."""

    mesh: str
    hemisphere: np.ndarray
    vertex: np.ndarray

    def __post_init__(self) -> None:
        if self.hemisphere.shape != self.vertex.shape or self.vertex.ndim != 1:
            raise DataError(f"surface: hemisphere {self.hemisphere.shape} and vertex {self.vertex.shape} must match")
        if not set(np.unique(self.hemisphere)) <= {"left", "right"}:
            raise DataError("surface: hemisphere holds 'left' or 'right'")
        most = MESHES.get(self.mesh)  # of other meshes the number of vertices is not known here
        low, high = (int(self.vertex.min()), int(self.vertex.max())) if len(self.vertex) else (0, 0)
        if low < 0 or (most is not None and high >= most):
            wrong, last = (low if low < 0 else high), "..." if most is None else str(most - 1)
            raise DataError(f"surface: vertex {wrong} is not one of {self.mesh}, which has 0 to {last}; name the mesh it is of")

    def __len__(self) -> int:
        return len(self.vertex)


@dataclass(frozen=True)
class Sensors:
    """EEG or MEG sensors: `names`, and `positions` (unit, 3) in metres in the head frame."""

    names: np.ndarray
    positions: np.ndarray

    def __post_init__(self) -> None:
        if self.positions.shape != (len(self.names), 3):
            raise DataError(f"sensors: {len(self.names)} names but positions {self.positions.shape}")

    def __len__(self) -> int:
        return len(self.names)


Space = Volume | Surface | Sensors


def subspace(space: Space | None, numbers: np.ndarray) -> Space | None:
    """The space of a subset of units, numbers (n,); a volume keeps the order of its voxels, so a reordering is refused."""
    if space is None:
        return None
    if isinstance(space, Volume):
        if (np.diff(numbers) <= 0).any():
            raise DataError("voxels of a volume can be selected, not reordered or repeated")
        mask = np.zeros_like(space.mask)
        mask[tuple(np.argwhere(space.mask)[numbers].T)] = True
        return Volume(mask, space.affine)
    if isinstance(space, Surface):
        return Surface(space.mesh, space.hemisphere[numbers], space.vertex[numbers])
    return Sensors(space.names[numbers], space.positions[numbers])
