"""Slices of a volume in its own grid, for recordings that are in no standard space."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from brainlens.plots import cortex, style
from brainlens.types import DataError, Result, Volume

PLANES = {0: ("sagittal", "x", "PA", "IS"), 1: ("coronal", "y", "LR", "IS"), 2: ("axial", "z", "LR", "PA")}


def mosaic(result: Result, values: str | np.ndarray, *, title: str = "", unit: str = "", most: int = 12) -> Figure:
    """Values (unit,) on the slices across the axis of fewest slices that hold most voxels; unmeasured voxels are grey.

    Slices stand upright by the affine of the grid, with the subject's left on the left, and the letters say so. A grid whose
    affine is the identity says nothing about sides: it is drawn as it lies and no side is named. No template is drawn.

    Raises DataError for an unknown array or a result whose units are not voxels.
    """
    array, name = cortex.values_of(result, values)
    space = result.space
    if not isinstance(space, Volume):
        raise DataError(f"a mosaic needs units in a Volume, this {result.task} result has {type(space).__name__}")
    scale, colours = cortex.scale_of(array, None)
    volume, mask, affine = _upright(space, array)
    axis = int(np.argmin(_thickness(mask)))
    volume, mask = (np.moveaxis(v, axis, 0).transpose(0, 2, 1) for v in (volume, mask))  # (slice, up, across)
    counts = mask.sum(axis=(1, 2))
    chosen = np.sort(np.argsort(-counts, kind="stable")[: min(most, int((counts > 0).sum()))])
    box = np.argwhere(mask.any(axis=0))
    (a, c), (b, d) = box.min(axis=0), box.max(axis=0) + 1
    across, up = (float(np.linalg.norm(affine[:3, k])) for k in range(3) if k != axis)
    shape = (b - a) * up / max((d - c) * across, 1e-9)  # height over width in mm
    columns = min(len(chosen), 6)
    lines = -(-len(chosen) // columns)
    each = 1.9 if len(chosen) > 1 else 3.4 / max(shape, 1.0)
    figure, axes = style.canvas(max(each * columns + 1.2, 4.6), each * shape * lines + 1.2, nrows=lines, ncols=columns)
    for ax in axes.ravel():
        ax.set_axis_off()
    palette = colours.copy()
    palette.set_bad("#e3e6ea")
    for ax, k in zip(axes.ravel(), chosen, strict=False):
        shown = np.ma.masked_invalid(volume[k, a:b, c:d])
        ax.imshow(shown, cmap=palette, norm=scale, interpolation="nearest", origin="lower", aspect=up / across)
        _name(ax, axis, int(k), affine)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=list(axes.ravel()), shrink=0.8)
    bar.set_label(style.printable(unit or name, 72), fontsize=9, parse_math=False)
    n, hidden = int(np.isfinite(array).sum()), int((counts > 0).sum()) - len(chosen)
    rest = f", {hidden} more slices not shown" if hidden else ""
    return style.head(figure, f"{title or name}  ·  n = {n:,} voxels, own grid{rest}", result)


def _upright(space: Volume, array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values, the mask and the affine with axes turned to right, front, up, as near as the grid's own axes allow."""
    turn = io_orientation(space.affine)
    volume, mask = (apply_orientation(v, turn) for v in (space.fill(array), space.mask))
    return volume, mask.astype(bool), space.affine @ inv_ornt_aff(turn, space.mask.shape)


def _thickness(mask: np.ndarray) -> list[int]:
    """Number of slices with voxels across each axis."""
    return [int(mask.any(axis=tuple(k for k in range(3) if k != axis)).sum()) for axis in range(3)]


def _name(ax: Axes, axis: int, number: int, affine: np.ndarray) -> None:
    """The plane and place of a slice, and which sides are which; the number alone where the affine says nothing."""
    if np.allclose(affine, np.eye(4)):
        ax.set_title(f"slice {number} of axis {'ijk'[axis]}", fontsize=8.5, color=style.FAINT)
        return
    plane, letter, across, up = PLANES[axis]
    place = float(affine[axis, axis] * number + affine[axis, 3])
    ax.set_title(f"{plane}, {letter} ≈ {place:.0f} mm", fontsize=8.5, color=style.FAINT)
    for (x, y), side in {(-0.03, 0.5): across[0], (1.03, 0.5): across[1], (0.5, -0.05): up[0]}.items():
        ax.text(x, y, side, transform=ax.transAxes, fontsize=8.5, color=style.FAINT, ha="center", va="center", clip_on=False)
