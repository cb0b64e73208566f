"""The fsaverage5 cortex that nilearn bundles: loading, sampling a volume on it, and drawing it pixel by pixel.

A view of a mesh is rasterised once into "which triangle, where in it" for every pixel and cached; colouring a map is then
one interpolation. This is smooth, needs no 3-D plotting, and takes a fraction of a second for all views of a figure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

from brainlens.datasets.surface_places import FSLR, FSLR_VERTICES, fslr_on_fsaverage5
from brainlens.types import DataError, Sensors, Space, Surface, Volume

N_VERTICES = 10242  # per hemisphere of fsaverage5, which are also the first vertices of fsaverage6 and fsaverage
NESTED = {"fsaverage5": 10242, "fsaverage6": 40962, "fsaverage": 163842, "fsaverage7": 163842}
HEMISPHERES = ("left", "right")
VIEWS = ("lateral", "medial", "ventral", "dorsal", "posterior", "flat")
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)  # between white matter and pia, where a volume is sampled
PIXELS_PER_MM = 2.2
LIGHT = np.array([0.25, 0.45, 0.86])  # from the reader's upper right; unit length to two digits


class View(NamedTuple):
    """A mesh seen from one side: for each pixel the three vertices and their weights (0 outside), and the shade."""

    vertices: np.ndarray  # (rows, columns, 3) int
    weights: np.ndarray  # (rows, columns, 3) float, all 0 where there is no cortex
    shade: np.ndarray  # (rows, columns) in [0, 1]


def on_surface(values: np.ndarray, space: Space | None, *, nearest: bool = False) -> dict[str, np.ndarray]:
    """Unit values (unit,) on the vertices of fsaverage5: {hemisphere: (10242,)}, NaN where nothing was measured.

    Volume: mean over five depths between white and pial surface of the trilinear interpolation over measured voxels,
    f(v) = sum_d sum_i w_i(x_d) m_i f_i / sum_d sum_i w_i(x_d) m_i, m_i = 1 inside the mask and where f_i is finite. The
    volume is taken to be in MNI space, from which fsaverage differs by a few mm. nearest: the nearest voxel at mid depth, for
    values that must not be averaged (labels). Surface: fsaverage5, or the nested vertices of fsaverage6 and fsaverage;
    of fs_LR_32k the nearest vertex on the sphere of both, for which the HCP's two files are needed (`BRAINLENS_FSLR`).

    Raises DataError for sensors, an unknown mesh, or values that do not fit.
    """
    values = np.asarray(values, dtype=np.float64)
    if space is None or isinstance(space, Sensors):
        raise DataError("a cortical map needs units in a Volume or on a Surface; sensors are drawn by plots.sensors")
    if values.shape != (len(space),):
        raise DataError(f"a map of shape {values.shape} does not fit the {len(space)} units of the space")
    if isinstance(space, Surface):
        return _from_surface(values, space)
    return {hemisphere: _from_volume(values, space, hemisphere, nearest) for hemisphere in HEMISPHERES}


def _from_surface(values: np.ndarray, space: Surface) -> dict[str, np.ndarray]:
    if space.mesh not in (*NESTED, FSLR):
        known = ", ".join((*NESTED, FSLR))
        raise DataError(f"surface mesh {space.mesh!r} cannot be drawn; known are {known}; resample to one of them")
    out = {}
    for hemisphere in HEMISPHERES:
        if space.mesh == FSLR:
            near = fslr_on_fsaverage5(hemisphere)
            whole = np.full(FSLR_VERTICES, np.nan)
            here = space.hemisphere == hemisphere
            whole[space.vertex[here]] = values[here]
            out[hemisphere] = whole[near]
            continue
        here = (space.hemisphere == hemisphere) & (space.vertex < N_VERTICES)
        full = np.full(N_VERTICES, np.nan)
        full[space.vertex[here]] = values[here]
        out[hemisphere] = full
    return out


def _from_volume(values: np.ndarray, space: Volume, hemisphere: str, nearest: bool) -> np.ndarray:
    known = np.isfinite(values)
    inside, filled = space.fill(known.astype(np.float64), 0.0), space.fill(np.where(known, values, 0.0), 0.0)
    white, pial = mesh("white", hemisphere)[0], mesh("pial", hemisphere)[0]
    inverse = np.linalg.inv(space.affine)
    total, weight = np.zeros(N_VERTICES), np.zeros(N_VERTICES)
    for depth in (0.5,) if nearest else DEPTHS:
        mm = white + depth * (pial - white)
        at = (mm @ inverse[:3, :3].T + inverse[:3, 3]).T
        order = 0 if nearest else 1
        total += map_coordinates(filled, at, order=order, mode="constant", cval=0.0)
        weight += map_coordinates(inside, at, order=order, mode="constant", cval=0.0)
    enough = weight > 0.25 * (1 if nearest else len(DEPTHS))  # less than a quarter measured: say nothing
    return np.divide(total, weight, out=np.full(N_VERTICES, np.nan), where=enough)


@lru_cache(maxsize=16)
def mesh(kind: str, hemisphere: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (10242, 3) in mm and triangles (n, 3) of fsaverage5: kind white, pial, infl or flat."""
    vertices, triangles = (part.data for part in _gifti(f"{kind}_{hemisphere}"))
    return np.asarray(vertices, dtype=np.float64), np.asarray(triangles, dtype=np.int64)


@lru_cache(maxsize=2)
def sulci(hemisphere: str) -> np.ndarray:
    """Sulcal depth (10242,): positive in sulci."""
    return np.asarray(_gifti(f"sulc_{hemisphere}")[0].data, dtype=np.float64)


def _gifti(key: str) -> list[Any]:
    import nibabel
    from nilearn import datasets

    image: Any = nibabel.load(datasets.fetch_surf_fsaverage("fsaverage5")[key])
    return list(image.darrays)


@lru_cache(maxsize=24)
def view(side: str, hemisphere: str, pixels_per_mm: float = PIXELS_PER_MM) -> View:
    """The rasterised view of one hemisphere from one of VIEWS, in orthographic projection.

    Raises DataError for an unknown side or hemisphere.
    """
    if side not in VIEWS or hemisphere not in HEMISPHERES:
        raise DataError(f"view {side!r} of hemisphere {hemisphere!r}: sides are {', '.join(VIEWS)}, hemispheres left and right")
    vertices, triangles = mesh("flat" if side == "flat" else "infl", hemisphere)
    x, y, depth = _project(vertices, side, hemisphere)
    used = np.unique(triangles)
    pad = 2.0
    column = (x - x[used].min()) * pixels_per_mm + pad
    row = (y[used].max() - y) * pixels_per_mm + pad
    shape = (int(row[used].max() + pad) + 1, int(column[used].max() + pad) + 1)
    chosen, weights = _raster(column, row, depth, triangles, shape)
    normals = _normals(np.stack([x, y, depth], axis=1), triangles)
    if side == "flat":
        shade = np.ones(shape)
    else:
        pixel_normals = np.einsum("rck,rckd->rcd", weights, normals[chosen])
        shade = 0.62 + 0.38 * np.clip(pixel_normals @ LIGHT, 0, 1)
    return View(chosen, weights, shade)


def paint(seen: View, colours: np.ndarray) -> np.ndarray:
    """A view as an image (rows, columns, 4) from vertex colours (vertex, 3 or 4), interpolated and shaded."""
    image = np.einsum("rck,rckd->rcd", seen.weights, colours[seen.vertices][..., :3]) * seen.shade[..., None]
    alpha = seen.weights.sum(axis=2, keepdims=True)
    return np.clip(np.concatenate([image, alpha], axis=2), 0, 1)


def interpolate(seen: View, values: np.ndarray) -> np.ndarray:
    """Vertex values (vertex,) on the pixels of a view; NaN vertices do not count, and pixels with less than half are NaN."""
    known = np.isfinite(values)
    weight = (seen.weights * known[seen.vertices]).sum(axis=2)
    total = (seen.weights * np.where(known, values, 0.0)[seen.vertices]).sum(axis=2)
    return np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight >= 0.5)


def _project(vertices: np.ndarray, side: str, hemisphere: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Screen right, screen up and towards the reader, in mm (RAS: x right, y front, z up)."""
    x, y, z = vertices.T
    out = x if hemisphere == "right" else -x  # away from the midline
    along = y if hemisphere == "right" else -y
    if side == "lateral":
        return along, z, out
    if side == "medial":
        return -along, z, -out
    if side == "ventral":  # from below with the front up, so the reader's left is the subject's right
        return -x, y, -z
    if side == "dorsal":
        return x, y, z
    if side == "posterior":
        return x, z, -y
    return x, y, np.zeros_like(x)


def _raster(
    column: np.ndarray, row: np.ndarray, depth: np.ndarray, triangles: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel centre the vertices and barycentric weights of the nearest triangle over it."""
    px, py = column[triangles], row[triangles]
    left, top = np.floor(px.min(axis=1)).astype(int), np.floor(py.min(axis=1)).astype(int)
    wide = (np.ceil(px.max(axis=1)).astype(int) - left + 1).clip(1)
    high = (np.ceil(py.max(axis=1)).astype(int) - top + 1).clip(1)
    area = (px[:, 1] - px[:, 0]) * (py[:, 2] - py[:, 0]) - (px[:, 2] - px[:, 0]) * (py[:, 1] - py[:, 0])
    size = np.where(np.abs(area) > 1e-9, wide * high, 0)  # every pixel of a triangle's box is a candidate
    which = np.repeat(np.arange(len(triangles)), size)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(size) - size, size)
    x, y = left[which] + offset % wide[which], top[which] + offset // wide[which]
    a, b, area = px[which], py[which], area[which]
    w1 = ((x - a[:, 0]) * (b[:, 2] - b[:, 0]) - (a[:, 2] - a[:, 0]) * (y - b[:, 0])) / area
    w2 = ((a[:, 1] - a[:, 0]) * (y - b[:, 0]) - (x - a[:, 0]) * (b[:, 1] - b[:, 0])) / area
    weights = np.stack([1 - w1 - w2, w1, w2], axis=1)
    hit = (weights >= -1e-6).all(axis=1) & (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    which, weights, pixel = which[hit], weights[hit], (y * shape[1] + x)[hit]
    order = np.lexsort(((weights * depth[triangles[which]]).sum(axis=1), pixel))
    last = order[np.flatnonzero(np.diff(pixel[order], append=-1))]  # the nearest to the reader comes last
    chosen, full = np.zeros((*shape, 3), dtype=np.int64), np.zeros((*shape, 3))
    chosen.reshape(-1, 3)[pixel[last]] = triangles[which[last]]
    full.reshape(-1, 3)[pixel[last]] = weights[last]
    return chosen, full


def _normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit vertex normals towards the reader's half space, in screen axes."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    out = np.zeros_like(vertices)
    for i in range(3):
        for axis in range(3):
            out[:, axis] += np.bincount(triangles[:, i], weights=face[:, axis], minlength=len(vertices))
    length = np.linalg.norm(out, axis=1, keepdims=True)
    out = np.divide(out, length, out=np.zeros_like(out), where=length > 0)
    # The projection may mirror the mesh, which turns every normal; the centre of the mesh tells which way is out.
    inward = np.mean(np.einsum("nd,nd->n", out, vertices - vertices.mean(axis=0))) < 0
    return -out if inward else out
