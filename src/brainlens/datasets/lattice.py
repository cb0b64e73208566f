"""Voxels whose places are listed one by one, put back on the grid that they were cut from."""

from __future__ import annotations

import numpy as np

from brainlens.types import Volume

LARGEST = 64_000_000  # voxels of a grid; a whole head at 1 mm has 15 million
APART = 1e-3  # mm by which two places may differ and be one
LONGEST = 8  # times its shortest side that a voxel may be long


def on_lattice(places: np.ndarray) -> tuple[Volume, np.ndarray] | None:
    """(space, order) of voxels at places (unit, 3) in mm: `data[:, order]` are the units of the space, in its order.

    The sides of a voxel are the least steps between its neighbours along x, y and z, the axes those of the places. None where
    the places are no grid: a missing or doubled place, steps of several sizes, or a grid of more than 64 million voxels.
    """
    places = np.asarray(places, dtype=np.float64)
    if len(places) < 2 or not np.isfinite(places).all():
        return None
    low, sides = places.min(axis=0), []
    for column in places.T:
        steps = np.diff(np.unique(column))
        steps = steps[steps > APART]
        sides.append(float(steps.min()) if len(steps) else 0.0)
    known = [side for side in sides if side > 0]
    if not known:
        return None
    step = np.array([side or min(known) for side in sides])  # one slice thick: a cube
    exact = (places - low) / step
    index = np.rint(exact).astype(np.int64)
    shape = index.max(axis=0) + 1
    uneven = step.max() > LONGEST * step.min() or np.abs(exact - index).max() * step.max() > 10 * APART
    if uneven or float(np.prod(shape, dtype=float)) > LARGEST:
        return None
    flat = np.ravel_multi_index(tuple(index.T), tuple(shape))
    order = np.argsort(flat, kind="stable")
    if (np.diff(flat[order]) == 0).any():
        return None
    mask = np.zeros(tuple(shape), dtype=bool)
    mask.ravel()[flat] = True
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = low
    return Volume(mask, affine), order
