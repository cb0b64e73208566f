"""Where the vertices of cortical surfaces lie, in mm, with the hemispheres apart: fsaverage and fsLR, inflated or as a sphere.

fsaverage is an icosahedron divided again and again, so the vertices of a coarse mesh are the first ones of every finer mesh and
each further vertex lies between two earlier ones. nilearn bundles fsaverage5; finer meshes are taken from the user's FreeSurfer
folder or nilearn's own cache, and without them the vertices between are placed at the middle of their two neighbours.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from brainlens.types import DataError, Surface, check_gifti

SHAPES = ("inflated", "sphere")
GRADES = {"fsaverage5": 5, "fsaverage6": 6, "fsaverage": 7, "fsaverage7": 7}  # divisions of the icosahedron
BUNDLED = 5
VERTICES = {5: 10_242, 6: 40_962, 7: 163_842}
FSLR, FSLR_VERTICES = "fs_LR_32k", 32_492
SPHERES = "BRAINLENS_FSLR"  # names the folder of the spheres that lay fsLR on fsaverage
SPHERE = "fs_LR-deformed_to-fsaverage.{}.sphere.32k_fs_LR.surf.gii"  # of the HCP's standard_mesh_atlases/resample_fsaverage
GAP = 20.0  # mm between the hemispheres, as they lie side by side
SIDES = (("left", "lh", "L"), ("right", "rh", "R"))


def surface_coordinates(space: Surface, *, shape: str = "inflated", folder: str | Path | None = None) -> np.ndarray | None:
    """Places (unit, 3) in mm of the vertices of a surface; None for a mesh whose places are nowhere to be found.

    Each hemisphere is moved along x so that the left mesh ends GAP / 2 before 0 and the right one begins GAP / 2 after it: no two
    vertices of different hemispheres are neighbours. folder: of the recording, where meshes may lie.
    Raises DataError for another shape, a vertex that the mesh does not have, and a file of another mesh.
    """
    if shape not in SHAPES:
        raise DataError(f"surface {shape!r} is not one of {', '.join(SHAPES)}")
    out = np.empty((len(space), 3))
    for side, *names in SIDES:
        here = space.hemisphere == side
        vertex = np.asarray(space.vertex)[here]
        points = _mesh(space.mesh, side, (names[0], names[1]), shape, None if folder is None else Path(folder))
        if points is None:
            return None
        if here.any() and not 0 <= vertex.min() <= vertex.max() < len(points):
            raise DataError(f"vertex {int(vertex.max())} is not on {space.mesh}, which has {len(points):,} a hemisphere")
        shift = -GAP / 2 - points[:, 0].max() if side == "left" else GAP / 2 - points[:, 0].min()
        out[here] = points[vertex] + np.array([shift, 0.0, 0.0])
    return out


def fslr_on_fsaverage5(side: str) -> np.ndarray:
    """(10242,): the vertex of fsLR 32k nearest to each one of fsaverage5, on the sphere on which the HCP registered both.

    Raises DataError, which says where to get them, where the files are not in the folder that BRAINLENS_FSLR names.
    """
    letter = {"left": "L", "right": "R"}[side]
    place = Path(os.environ.get(SPHERES) or ".") / SPHERE.format(letter)
    if not place.is_file():
        raise DataError(
            f"values on {FSLR} are drawn on fsaverage5 through {place.name} and the other side, of the HCP's "
            f"standard_mesh_atlases: name the folder that holds both by the environment variable {SPHERES}"
        )
    return _nearest(place, side)


@lru_cache(maxsize=4)
def _nearest(place: Path, side: str) -> np.ndarray:
    from scipy.spatial import cKDTree

    fine, coarse = _checked(place, FSLR_VERTICES), _bundled(side, "sphere")
    both = [points / np.linalg.norm(points, axis=1, keepdims=True) for points in (fine, coarse)]
    return np.asarray(cKDTree(both[0]).query(both[1])[1], dtype=np.int64)


def _mesh(mesh: str, side: str, names: tuple[str, str], shape: str, folder: Path | None) -> np.ndarray | None:
    if mesh == FSLR:
        return _fslr(names[1], shape, folder)
    if mesh not in GRADES:
        return None
    grade = GRADES[mesh]
    found = None if grade == BUNDLED else _finer(mesh, side, names[0], shape, folder)
    if found is not None:
        return _checked(found, VERTICES[grade])
    return _made(side, shape, grade)


@lru_cache(maxsize=4)
def _made(side: str, shape: str, grade: int) -> np.ndarray:
    """The bundled mesh, divided; made once for all subjects of a recording."""
    points = _divided(_bundled(side, shape), grade, round_=shape == "sphere")
    points.flags.writeable = False
    return points


def _fslr(letter: str, shape: str, folder: Path | None) -> np.ndarray | None:
    """From a GIFTI file of the HCP (NAME.L.inflated.32k_fs_LR.surf.gii) in the recording's folder."""
    found = [] if folder is None else sorted(folder.rglob(f"*.{letter}.{shape}*32k_fs_LR.surf.gii"))
    return _checked(found[0], FSLR_VERTICES) if found else None


def _finer(mesh: str, side: str, hemi: str, shape: str, folder: Path | None) -> Path | None:
    """The file of a finer mesh: in the recording's FreeSurfer folder, the user's, or nilearn's cache."""
    from nilearn.datasets import get_data_dirs

    name = mesh.removesuffix("7")
    homes = [] if folder is None else [folder / "nsddata" / "freesurfer", folder / "freesurfer", folder]
    for variable, inside in (("SUBJECTS_DIR", ""), ("FREESURFER_HOME", "subjects")):
        homes += [Path(os.environ[variable]) / inside] if os.environ.get(variable) else []
    places = [home / name / "surf" / f"{hemi}.{shape}" for home in homes]
    cached = {"inflated": "infl", "sphere": "sphere"}[shape]
    places += [Path(home) / name / f"{cached}_{side}.gii.gz" for home in get_data_dirs()]
    return next((place for place in places if place.is_file()), None)


def _checked(path: Path, expected: int) -> np.ndarray:
    """The vertices (n, 3) of a mesh file. Raises DataError for a damaged file and another mesh."""
    import nibabel

    packed = path.name.endswith((".gii", ".gii.gz"))
    if packed:
        check_gifti(path)
    try:
        if packed:
            image: Any = nibabel.load(path)
            points = np.asarray(image.darrays[0].data, dtype=np.float64)
        else:
            points = np.asarray(nibabel.freesurfer.read_geometry(path)[0], dtype=np.float64)
    except Exception as error:  # the readers raise many kinds for damaged files
        raise DataError(f"{path} is no mesh or damaged ({type(error).__name__}: {error}); fetch it again") from None
    if points.shape != (expected, 3):
        raise DataError(f"{path} has {points.shape} vertices, ({expected}, 3) are expected")
    return points


def _bundled(side: str, shape: str) -> np.ndarray:
    from nilearn.datasets import fetch_surf_fsaverage

    key = {"inflated": "infl", "sphere": "sphere"}[shape]
    return _checked(Path(fetch_surf_fsaverage("fsaverage5")[f"{key}_{side}"]), VERTICES[BUNDLED])


def _divided(points: np.ndarray, grade: int, *, round_: bool) -> np.ndarray:
    """The vertices of a finer mesh: those that are there, and each further one in the middle of its two neighbours.

    round_: on the sphere through the vertices, and not on the chord between two of them.
    """
    for level in range(BUNDLED + 1, grade + 1):
        first, second = _parents(level).T
        between = (points[first] + points[second]) / 2
        if round_:
            between *= (np.linalg.norm(points, axis=1).mean() / np.linalg.norm(between, axis=1))[:, None]
        points = np.concatenate([points, between])
    return points


@lru_cache(maxsize=2)
def _parents(grade: int) -> np.ndarray:
    """(new vertex, 2): the two vertices of the coarser mesh between which each further vertex of a division lies."""
    import mne

    place = Path(mne.__file__).parent / "data" / "icos.fif.gz"
    triangles = np.asarray(mne.read_bem_surfaces(place, s_id=9000 + grade, verbose="error")["tris"])
    before, after = VERTICES[grade - 1], VERTICES[grade]
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    edges = np.unique(edges[(edges[:, 0] >= before) & (edges[:, 1] < before)], axis=0)
    if not np.array_equal(edges[:, 0], np.repeat(np.arange(before, after), 2)):
        raise DataError(f"{place} holds no divided icosahedron; install mne again")
    return edges[:, 1].reshape(-1, 2)
