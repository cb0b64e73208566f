"""Where the phantom's voxels are: the FSL MNI152 grid, masks from bundled templates, and regions at published centres.

Grid.  2 mm: shape (91, 109, 91), affine diag(-2, 2, 2) with voxel (0, 0, 0) at (90, -126, -72) mm, the grid of FSL's
MNI152. 4 mm: every second voxel of it, shape (46, 55, 46), affine diag(-4, 4, 4), same origin; the voxel centres of the
coarse grid are voxel centres of the fine one. The units are the voxels of the ICBM-152 (2009) brain mask that nilearn
bundles, taken at the nearest voxel; a voxel belongs to a region only where the bundled grey-matter mask holds too.

Regions.  Spheres around centres in MNI mm, rounded to 2 mm. They place the phantom's regions where a reader looks for
them; they are no atlas, and a few mm of error change nothing that the phantom measures. Sources:

- V1, V2V3 (a dorsal and a ventral part), V4: the visual field maps of Wang et al. 2015 (Cereb. Cortex 25:3911); V4 also
  McKeefry & Zeki 1997 (Brain 120:2229).
- EBA: Downing et al. 2001 (Science 293:2470). FFA: Kanwisher et al. 1997 (J. Neurosci. 17:4302).
- PPA: Epstein & Kanwisher 1998 (Nature 392:598). OPA: Dilks et al. 2013 (J. Neurosci. 33:1331). RSC: Epstein et al. 2007
  (J. Neurosci. 27:6141).
- VWFA, left only: Cohen et al. 2000 (Brain 123:291); Dehaene & Cohen 2011 (Trends Cogn. Sci. 15:254).
- FOOD: the ventral patches of Jain et al. 2023 (Commun. Biol. 6:175) and Khosla et al. 2022 (Curr. Biol. 32:4159), which
  print maps and no centre; placed behind and medial to the FFA as in their figures.
- LANG, left only: the inferior frontal language region of Fedorenko et al. 2010 (J. Neurophysiol. 104:1177).

Centres first printed in Talairach space were moved towards MNI by a few mm and rounded, so read them as +- 5 mm.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from brainlens.types import DataError, Volume

GRIDS = {"2mm": 2, "4mm": 4}  # voxel size in mm
ORIGIN = (90.0, -126.0, -72.0)  # mm of voxel (0, 0, 0)
SHAPE_2MM = (91, 109, 91)
JITTER = 1.5  # mm, standard deviation of a subject's region centres on each axis

# region: (centres of the right hemisphere as (|x|, y, z), radius in mm, hemispheres)
REGIONS: dict[str, tuple[tuple[tuple[int, int, int], ...], float, tuple[str, ...]]] = {
    "V1": (((10, -88, 2),), 12.0, ("left", "right")),
    "V2V3": (((16, -92, 18), (16, -78, -10)), 10.8, ("left", "right")),
    "V4": (((30, -78, -14),), 10.2, ("left", "right")),
    "EBA": (((48, -72, 4),), 10.2, ("left", "right")),
    "FFA": (((40, -52, -20),), 9.8, ("left", "right")),
    "OPA": (((34, -80, 22),), 9.8, ("left", "right")),
    "PPA": (((26, -44, -12),), 9.6, ("left", "right")),
    "RSC": (((16, -56, 12),), 9.6, ("left", "right")),
    "VWFA": (((46, -58, -12),), 10.2, ("left",)),
    "FOOD": (((32, -62, -12),), 9.2, ("left", "right")),
    "LANG": (((48, 22, 14),), 11.8, ("left",)),
}


def affine(grid: str = "4mm") -> np.ndarray:
    """The (4, 4) matrix from voxel index to MNI millimetres of a grid."""
    step = _step(grid)
    matrix = np.diag([-step, step, step, 1.0])
    matrix[:3, 3] = ORIGIN
    return matrix


def anatomy(grid: str = "4mm", *, subject: int = 1, seed: int = 0) -> tuple[Volume, pd.DataFrame]:
    """Brain volume of the phantom and the table of its voxels.

    Region r of a subject is {v in grey matter : |v - (c_r + e)| < radius_r}, e ~ N(0, JITTER^2) mm on each axis; a voxel
    in two spheres goes to the one with the smaller distance / radius. The table has one row per True voxel of the mask in
    C order: `x y z` (mm), `roi` (a name of REGIONS or "none"), `hemisphere` ("left", "right"), `grey` (bool).

    Raises DataError for an unknown grid or a subject below 1.
    """
    mask, grey = _masks(grid)
    space = Volume(mask.copy(), affine(grid))
    xyz = space.coordinates()
    hemisphere = np.where(xyz[:, 0] > 0, "right", "left")
    inside = grey[mask]
    roi = region_spheres(xyz, hemisphere, inside, subject=subject, seed=seed)
    units = pd.DataFrame({"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], "roi": roi, "hemisphere": hemisphere, "grey": inside})
    return space, units


def placed(units: pd.DataFrame, displacement: np.ndarray, subject: int, seed: int) -> pd.DataFrame:
    """The anatomy's table for a brain that is displaced (unit, 3) against it: places and regions where each voxel truly lies."""
    xyz = units[["x", "y", "z"]].to_numpy() + displacement
    side, inside = units["hemisphere"].to_numpy(), units["grey"].to_numpy()
    roi = region_spheres(xyz, side, inside, subject=subject, seed=seed)
    return units.assign(x=xyz[:, 0], y=xyz[:, 1], z=xyz[:, 2], roi=roi)


def region_spheres(
    xyz: np.ndarray, hemisphere: np.ndarray, inside: np.ndarray | None = None, *, subject: int, seed: int
) -> np.ndarray:
    """Region name (unit,) at places (unit, 3) in mm: the sphere of that hemisphere (unit,) in which it lies deepest, else "none".

    inside (unit,): where grey matter is; everywhere unless it is given. Raises DataError for a subject below 1.
    """
    if subject < 1:
        raise DataError(f"subject {subject}: the phantom's subjects are numbered 1, 2, 3, ...")
    rng = np.random.default_rng([seed, subject, 11])
    inside = np.ones(len(xyz), dtype=bool) if inside is None else inside
    depth = np.ones(len(xyz))
    roi = np.full(len(xyz), "none", dtype=object)
    for name, (centres, radius, sides) in REGIONS.items():
        for side in ("left", "right"):
            for centre in centres:
                shift = rng.normal(0.0, JITTER, 3)  # drawn for absent sides too, so that adding a side moves no other region
                if side not in sides:
                    continue
                middle = np.array([centre[0] if side == "right" else -centre[0], centre[1], centre[2]]) + shift
                distance = np.linalg.norm(xyz - middle, axis=1) / radius
                wins = inside & (hemisphere == side) & (distance < depth)
                depth[wins], roi[wins] = distance[wins], name
    return roi


@lru_cache(maxsize=2)
def _masks(grid: str) -> tuple[np.ndarray, np.ndarray]:
    """Brain and grey-matter masks on a grid, from nilearn's bundled 2 mm templates by the nearest voxel."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_mask

    step = _step(grid)
    shape = tuple(-(-size * 2 // step) for size in SHAPE_2MM)
    index = np.indices(shape).reshape(3, -1).T
    mm = index @ affine(grid)[:3, :3].T + ORIGIN
    found = []
    for image in (load_mni152_brain_mask(resolution=2), load_mni152_gm_mask(resolution=2)):
        inverse = np.linalg.inv(image.affine)
        where = np.rint(mm @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        data = np.asarray(image.dataobj).astype(bool)
        there = ((where >= 0) & (where < data.shape)).all(axis=1)
        values = np.zeros(len(where), dtype=bool)
        values[there] = data[tuple(where[there].T)]
        found.append(values.reshape(shape))
    brain, grey = found
    return brain, grey & brain


def _step(grid: str) -> int:
    if grid not in GRIDS:
        raise DataError(f"grid {grid!r} is not one of {sorted(GRIDS)}")
    return GRIDS[grid]
