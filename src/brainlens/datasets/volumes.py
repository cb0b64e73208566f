"""NIfTI files read with suspicion: size before allocation, checksum to the last byte, one frame at a time.

A general reader loads a truncated `.nii.gz` without a word, lets a flipped bit pass and believes any header. Here
the claimed size is held against a budget and against the file, and a compressed file is read to its CRC.
"""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from brainlens.types import DataError, Volume, check_expansion, reading
from brainlens.warned import warn

BUDGET = 16e9  # bytes that one file may claim
AFFINE_TOLERANCE = 1e-3  # mm


@dataclass(frozen=True)
class Header:
    """What a NIfTI file claims: shape (x, y, z[, t]), stored dtype, affine to mm, offset, scaling."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    offset: int
    slope: float
    intercept: float

    @property
    def frame_bytes(self) -> int:
        x, y, z = self.shape[:3]
        return x * y * z * self.dtype.itemsize

    @property
    def frames(self) -> int:
        return self.shape[3] if len(self.shape) == 4 else 1


def read_header(path: str | Path, *, max_bytes: float = BUDGET) -> Header:
    """The header of a `.nii` or `.nii.gz`. Raises DataError when it is damaged or claims more than `max_bytes`."""
    from nibabel.imageglobals import LoggingOutputSuppressor
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    path = Path(path)
    with reading(path, "fetch it again", fault="is not a readable NIfTI file"):
        with _stream(path) as handle:
            start = handle.read(540)
        kind = Nifti2Header if start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else Nifti1Header
        size = 540 if kind is Nifti2Header else 348
        with warnings.catch_warnings(), LoggingOutputSuppressor():  # what it says of a header is an error here, or below
            warnings.simplefilter("error")
            header = kind(start[:size])
            affine, dtype, offset = header.get_best_affine(), header.get_data_dtype(), int(header["vox_offset"])
        shape = tuple(int(n) for n in header.get_data_shape())
        slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1 or dtype.kind not in "biuf" or offset < size:
        raise DataError(f"{path}: a NIfTI file of numbers (x, y, z[, t]) is expected, it holds {dtype} {shape}")
    claim = dtype.itemsize
    for n in shape:
        claim *= n
    if claim > max_bytes:
        raise DataError(f"{path} claims {shape} {dtype}, {claim / 1e9:.3g} GB; the limit is {max_bytes / 1e9:.3g} GB")
    if path.suffix == ".gz":
        check_expansion(path, claim // dtype.itemsize * max(dtype.itemsize, 4))  # values become float32
    elif path.stat().st_size < offset + claim:
        raise DataError(f"{path} is cut short: {offset + claim} bytes claimed, {path.stat().st_size} there; fetch it again")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise DataError(f"{path}: its affine is not invertible; set the space of the file first")
    if not np.isfinite(slope) or not np.isfinite(intercept):
        warn(f"{path}: its scaling is not a number and is left out, as other readers do")
        slope, intercept = 1.0, 0.0
    return Header(path, shape, dtype, np.asarray(affine, float), offset, slope or 1.0, intercept if slope else 0.0)


def read_frames(header: Header) -> Iterator[np.ndarray]:
    """The frames (x, y, z) float32 of a file in order, scaled, one in memory at a time; CRC checked after the last.

    Raises DataError when the file is cut short, damaged, or expands beyond its header.
    """
    path = header.path
    with reading(path), _stream(path) as handle:
        _exactly(handle, header.offset, path)
        for _ in range(header.frames):
            raw = np.frombuffer(_exactly(handle, header.frame_bytes, path), dtype=header.dtype)
            frame = raw.reshape(header.shape[:3], order="F").astype(np.float32)
            if (header.slope, header.intercept) != (1.0, 0.0):
                frame = frame * np.float32(header.slope) + np.float32(header.intercept)
            yield frame
        if path.suffix == ".gz" and len(handle.read((1 << 20) + 1)) > 1 << 20:  # reading to the end checks the CRC
            raise DataError(f"{path} expands beyond what its header claims; do not use it")


def read_volume(path: str | Path, *, like: Volume | None = None, max_bytes: float = BUDGET) -> tuple[np.ndarray, np.ndarray]:
    """One volume (x, y, z) float32 and its affine (4, 4); with `like`, its grid must be that one."""
    header = read_header(path, max_bytes=max_bytes)
    if header.frames != 1:
        raise DataError(f"{path} holds {header.frames} frames, one volume is expected")
    if like is not None:
        check_grid(header, like)
    (frame,) = list(read_frames(header))
    return frame, header.affine


def read_mask(path: str | Path, *, max_bytes: float = BUDGET) -> Volume:
    """The voxels above zero of a volume."""
    values, affine = read_volume(path, max_bytes=max_bytes)
    mask = values > 0
    if not mask.any():
        raise DataError(f"{path}: the mask is empty")
    return Volume(mask, affine)


def read_masked(path: str | Path, space: Volume, *, max_bytes: float = BUDGET) -> np.ndarray:
    """The values (frame, voxel) float32 of a file under a mask of the same grid. Raises DataError for another grid."""
    header = read_header(path, max_bytes=max_bytes)
    check_grid(header, space)
    out = np.empty((header.frames, len(space)), dtype=np.float32)
    for i, frame in enumerate(read_frames(header)):
        out[i] = frame[space.mask]
    return out


def check_grid(header: Header, space: Volume) -> None:
    """Raises DataError unless a file has the shape and the affine of a space; nothing is ever resampled here."""
    if header.shape[:3] != space.mask.shape:
        raise DataError(f"{header.path} has the grid {header.shape[:3]}, the mask {space.mask.shape}; resample one of them first")
    off = float(np.abs(header.affine - space.affine).max())
    if off > AFFINE_TOLERANCE:
        flipped = np.sign(header.affine[0, 0]) != np.sign(space.affine[0, 0])
        hint = "; left and right look swapped" if flipped else ""
        raise DataError(f"{header.path}: its affine differs from the mask's by {off:.3g} mm{hint}; bring both to one space first")


def coordinates_table(space: Volume) -> dict[str, np.ndarray]:
    """Columns x, y, z (voxel,) in mm of the voxels of a space."""
    x, y, z = space.coordinates().T.astype(np.float64)
    return {"x": x, "y": y, "z": z}


def _stream(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]


def _exactly(handle: IO[bytes], size: int, path: Path) -> bytes:
    """`size` bytes or DataError; read in pieces, so that a lying header cannot allocate."""
    pieces = []
    while size:
        piece = handle.read(min(size, 1 << 24))
        if not piece:
            raise DataError(f"{path} is cut short; fetch it again")
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
