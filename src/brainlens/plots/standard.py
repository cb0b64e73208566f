"""Whether the units of a result lie in a standard space, so that they may be drawn on a template."""

from __future__ import annotations

import numpy as np

from brainlens.plots.style import is_simulation
from brainlens.types import Result, Surface, Volume

# Corners (lowest, highest voxel centre in mm) of the grids that MNI templates come in, at any voxel size.
MNI_BOXES = (
    ((-90, -126, -72), (91, 91, 109)),  # FSL, HCP, SPM12's tissue maps
    ((-78, -112, -70), (78, 76, 85)),  # SPM
    ((-78, -112, -50), (78, 76, 85)),  # SPM, the older bounding box
    ((-96, -132, -78), (96, 96, 114)),  # MNI152NLin2009cAsym, as fMRIPrep resamples to
    ((-98, -134, -72), (98, 98, 116)),  # nilearn's template
)
SLACK = 2.0  # mm by which a corner may differ at 1 mm; with larger voxels by one voxel


def in_standard_space(result: Result) -> bool:
    """Whether the units lie on fsaverage or in MNI space: the phantom, a grid that an MNI template comes in, or by the config.

    A config or provenance with `template: MNI...` says it; so does `brainlens report --template MNI152`.
    """
    if isinstance(result.space, Surface):
        return True
    if not isinstance(result.space, Volume):
        return False
    template = str(result.config.get("template", result.provenance.get("template", "")))
    return is_simulation(result) or template.upper().startswith("MNI") or is_mni_grid(result.space)


def is_mni_grid(space: Volume) -> bool:
    """Whether the grid of a volume spans the box of an MNI template: axes along those of the head, both corners within a voxel.

    A grid of the scanner is never placed like that, whatever its voxel size, since its corners follow the subject's head.
    """
    matrix = space.affine[:3, :3]
    size = np.abs(np.diag(matrix))
    if np.abs(matrix - np.diag(np.diag(matrix))).max() > 1e-3 * size.max() or (size <= 0).any():
        return False
    first = space.affine[:3, 3]
    last = first + matrix @ (np.array(space.mask.shape) - 1)
    low, high = np.minimum(first, last), np.maximum(first, last)
    slack = np.maximum(size, SLACK)
    return any((np.abs(low - a) <= slack).all() and (np.abs(high - b) <= slack).all() for a, b in MNI_BOXES)
