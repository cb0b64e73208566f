"""Files of cortical surfaces: MGH of FreeSurfer, and CIFTI of the HCP, each held against what it claims."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from brainlens.types import DataError, Surface, check_expansion, reading

SIDES = (("CIFTI_STRUCTURE_CORTEX_LEFT", "left"), ("CIFTI_STRUCTURE_CORTEX_RIGHT", "right"))
MGH_TYPES = {0: "u1", 1: ">i4", 3: ">f4", 4: ">i2"}
MGH_HEADER = 284


def read_mgh(path: Path, expected: int | None = None) -> np.ndarray:
    """A surface file as (vertex, frame); `.mgh` is mapped and not read, `.mgz` is unpacked up to its checksum.

    expected: how many vertices it must have. Raises DataError for other files, other meshes and damaged ones.
    """
    if not path.exists():
        raise DataError(f"{path} is missing")
    packed = path.suffix == ".mgz"
    with reading(path), gzip.open(path, "rb") if packed else open(path, "rb") as handle:
        version, *shape, frames, kind = struct.unpack(">6i", handle.read(24))
        vertices = max(shape)  # along the first axis, or, in published atlases, along the last
        if version != 1 or kind not in MGH_TYPES or sorted(shape)[:2] != [1, 1] or frames < 1:
            raise DataError(f"{path} is not a surface file (version {version}, {' x '.join(map(str, shape))} x {frames})")
        if expected is not None and vertices != expected:
            raise DataError(f"{path} has {vertices} vertices, fsaverage has {expected}")
        size = vertices * frames * np.dtype(MGH_TYPES[kind]).itemsize
        if not packed:
            if path.stat().st_size < MGH_HEADER + size:
                raise DataError(f"{path} is cut short: {MGH_HEADER + size} bytes claimed, {path.stat().st_size} there")
            return np.memmap(path, MGH_TYPES[kind], "r", MGH_HEADER, (vertices, frames), order="F")
        if size > 4e9:
            raise DataError(f"{path} claims {size / 1e9:.3g} GB, the limit is 4 GB")
        check_expansion(path, size)
        content = handle.read(MGH_HEADER - 24 + size + (1 << 20))  # some tags follow the values
        values = np.frombuffer(content, MGH_TYPES[kind], vertices * frames, MGH_HEADER - 24)
        return values.reshape(vertices, frames, order="F")


def read_cifti(path: Path) -> tuple[np.ndarray, Surface]:
    """Betas (map, vertex) float32 of the two cortical surfaces."""
    import nibabel as nib

    with reading(path, "fetch it again", fault="is damaged or holds no cortical surfaces"):
        with nib.imageglobals.LoggingOutputSuppressor():
            image = nib.load(path)
        if not isinstance(image, nib.cifti2.Cifti2Image):
            raise DataError(f"{path} is not a CIFTI file")
        if int(np.prod(image.shape, dtype=object)) * 4 > 8e9:
            raise DataError(f"{path} claims {image.shape}, more than 8 GB")
        axis = image.header.get_axis(1)
        values = np.asarray(image.dataobj, dtype=np.float32)
        parts, hemisphere, vertex = [], [], []
        structures = {name: (where, model) for name, where, model in axis.iter_structures()}
        for name, side in SIDES:
            where, model = structures[name]
            parts.append(values[:, where])
            vertex.append(np.asarray(model.vertex))
            hemisphere.append(np.full(len(model.vertex), side))
    return np.concatenate(parts, axis=1), Surface("fs_LR_32k", np.concatenate(hemisphere), np.concatenate(vertex))
