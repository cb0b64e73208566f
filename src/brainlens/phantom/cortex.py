"""The phantom's brain as a cortical surface whose visual field maps are those of a retinotopic template.

Units are the vertices of fsaverage5, left hemisphere first. V1, V2, V3 and V4 lie, and look, where a template says so (Benson et
al. 2014, Curr. Biol. 24:2081, comes as such files); the other regions are the spheres of `anatomy` about the middle of the grey
matter. Vertices of the maps whose field has its centre outside of the picture see nothing of it and are noise, as in recordings.

The smooth part of the noise runs along the surface: with A the mean over a vertex and its neighbours on the mesh,

    x = diag(1 / |rows of A^k|) A^k w,   w white,

where k steps of a walk over edges of mean length h have, on each axis, the variance k (6 / 7) h^2 / 2 of the kernel whose width
`noise.FWHM` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, csr_matrix, diags

from brainlens.phantom.anatomy import region_spheres
from brainlens.phantom.noise import FWHM, RANK, RestNoise, smooth_field
from brainlens.phantom.readout import FIELD, FIELD_SIZE, RETINOTOPIC
from brainlens.types import DataError, Surface
from brainlens.types.spaces import MESHES

MESH = "fsaverage5"
VERTICES = MESHES[MESH]  # of a hemisphere
SIDES = ("left", "right")
AREAS = {"V1": "V1", "V2": "V2V3", "V3": "V2V3", "hV4": "V4", "V4": "V4"}  # of a template -> of the phantom


@dataclass(frozen=True)
class FieldTemplate:
    """Where each vertex of fsaverage5 (20,484,), left hemisphere first, looks.

    area: name of its visual area, "" for none; x, y: centre of its field in degrees from the point of fixation, right and up, NaN
    where there is none; size: sigma of its field in degrees, None where the template has none and the phantom's own are taken;
    places (vertex, 3): in mm, hemispheres apart, as methods are given them; degrees: from the point of fixation to the edge of
    the picture.

    Raises DataError for arrays of another length, a picture of no size, and a template without an area of the phantom.
    """

    area: np.ndarray
    x: np.ndarray
    y: np.ndarray
    places: np.ndarray
    size: np.ndarray | None = None
    degrees: float = 4.2

    def __post_init__(self) -> None:
        arrays = {"area": self.area, "x": self.x, "y": self.y, "places": self.places}
        arrays |= {} if self.size is None else {"size": self.size}
        for name, values in arrays.items():
            if values.shape != ((2 * VERTICES, 3) if name == "places" else (2 * VERTICES,)):
                raise DataError(f"template: {name} has shape {values.shape}, {MESH} has 2 x {VERTICES:,} vertices")
        if not 0 < self.degrees <= 90:
            raise DataError(f"template: a picture of {self.degrees:g} degrees from its middle to its edge; above 0, at most 90")
        if not np.isin(self.area, list(AREAS)).any():
            found = sorted(set(map(str, self.area)) - {""})[:12]
            raise DataError(f"template: none of its areas is one of {', '.join(AREAS)}; it has {', '.join(found) or 'none'}")

    def fields(self) -> np.ndarray:
        """Receptive fields (vertex, [x, y, sigma]) in the picture [-1, 1], y downwards; NaN where the centre is not in it."""
        out = np.stack([self.x, -self.y, np.ones(len(self.x))], axis=1) / self.degrees
        for name, region in AREAS.items():
            fovea, growth = FIELD_SIZE[region]
            here = self.area == name
            out[here, 2] = fovea + growth * np.hypot(out[here, 0], out[here, 1])
        if self.size is not None:
            out[:, 2] = self.size / self.degrees
        seen = np.isfinite(out).all(axis=1) & (np.abs(out[:, :2]) <= 1).all(axis=1) & (out[:, 2] > 0)
        out[~seen | ~np.isin(self.area, list(AREAS))] = np.nan
        return out


def cortex(template: FieldTemplate, *, subject: int = 1, seed: int = 0) -> tuple[Surface, pd.DataFrame]:
    """The surface of one subject and the table of its vertices: that of `anatomy.anatomy`, with the true fields.

    Columns `x y z roi hemisphere grey rf_x rf_y rf_size` and what the template says of these maps in degrees, right and up,
    `reference_x`, `reference_y`.
    Raises DataError where no field of an area lies in the picture.
    """
    space = Surface(MESH, np.repeat(SIDES, VERTICES), np.tile(np.arange(VERTICES), 2))
    roi = region_spheres(_middle(), space.hemisphere, subject=subject, seed=seed)
    roi[np.isin(roi, RETINOTOPIC)] = "none"
    mapped = np.isin(template.area, list(AREAS))
    roi[mapped] = [AREAS[name] for name in template.area[mapped]]
    fields = template.fields()
    if not np.isfinite(fields).any():
        raise DataError(f"template: no field of its visual areas has its centre within {template.degrees:g} degrees")
    x, y, z = template.places.T
    table = {"x": x, "y": y, "z": z, "roi": roi, "hemisphere": space.hemisphere, "grey": np.ones(len(space), dtype=bool)}
    table |= dict(zip(FIELD, fields.T, strict=True))
    table |= {"reference_x": np.where(mapped, template.x, np.nan), "reference_y": np.where(mapped, template.y, np.nan)}
    return space, pd.DataFrame(table)


@dataclass(frozen=True)
class CortexNoise(RestNoise):
    """`RestNoise` of the vertices of a mesh: `loadings` (unit, 20), `smoother` (unit, unit) sparse, rows of unit norm."""

    smoother: csr_matrix

    @cached_property
    def white_shape(self) -> tuple[int, ...]:
        return (self.smoother.shape[0],)

    def smooth(self, white: np.ndarray) -> np.ndarray:
        """White noise (trial, unit) -> noise of unit variance that is smooth along the surface (trial, unit)."""
        return np.asarray(self.smoother @ white.T).T

    def smooth_transposed(self, values: np.ndarray) -> np.ndarray:
        """M' v for v (k, unit): (k, unit)."""
        return np.asarray(self.smoother.astype(np.float64).T @ values.T).T

    def smooth_covariance(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Covariance (left, right) of the smooth part between two sets of unit numbers."""
        exact = self.smoother.astype(np.float64)
        return np.asarray((exact[left] @ exact[right].T).todense())


def cortex_noise(space: Surface, *, subject: int, seed: int) -> CortexNoise:
    """The noise of parts (b) to (d) of one subject; the loadings of the global factors vary over 30 mm."""
    loadings = smooth_field(_middle(), RANK, np.random.default_rng([seed, subject, 13]), length=30.0)
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    return CortexNoise(space, loadings.astype(np.float32), mesh_smoother())


@lru_cache(maxsize=1)
def mesh_smoother() -> csr_matrix:
    """(vertex, vertex) float32: the smoother of the module's equation over both hemispheres, which share no edge."""
    points, edges = _middle(), _edges()
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1).mean()
    sigma = FWHM / np.sqrt(8 * np.log(2))
    steps = max(1, round(sigma**2 / (3 / 7 * length**2)))
    both = np.concatenate([edges, edges[:, ::-1], np.repeat(np.arange(len(points))[:, None], 2, axis=1)])
    beside = coo_matrix((np.ones(len(both)), both.T), shape=(len(points),) * 2).tocsr()
    step = diags(1 / np.asarray(beside.sum(axis=1)).ravel()) @ beside
    walked = step
    for _ in range(steps - 1):
        walked = walked @ step
    norm = np.sqrt(np.asarray(walked.multiply(walked).sum(axis=1)).ravel())
    return csr_matrix(diags(1 / norm) @ walked).astype(np.float32)


@lru_cache(maxsize=1)
def _middle() -> np.ndarray:
    """(vertex, 3) in mm: half way between white and pial surface, where nilearn's fsaverage5 has them."""
    return np.concatenate([(_mesh(side, "white")[0] + _mesh(side, "pial")[0]) / 2 for side in SIDES])


def _edges() -> np.ndarray:
    """(edge, 2): the pairs of vertices that a triangle of either hemisphere joins, each once."""
    faces = np.concatenate([_mesh(side, "white")[1] + VERTICES * number for number, side in enumerate(SIDES)])
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return np.unique(pairs, axis=0)


def _mesh(side: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (10242, 3) in mm and triangles (n, 3) of a hemisphere."""
    import nibabel
    from nilearn.datasets import fetch_surf_fsaverage

    image: Any = nibabel.load(fetch_surf_fsaverage(MESH)[f"{kind}_{side}"])
    return np.asarray(image.darrays[0].data, dtype=np.float64), np.asarray(image.darrays[1].data, dtype=np.int64)
