"""Slices of a volume in its own grid, for recordings that are in no standard space."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from brainlens.plots import cortex, style
from brainlens.types import DataError, Result, Volume


def mosaic(result: Result, values: str | np.ndarray, *, title: str = "", unit: str = "", most: int = 12) -> Figure:
    """Values (unit,) on the slices along the mask's shortest axis that hold most voxels; unmeasured voxels are grey.

    No template is drawn and no side is named, since nothing says how the grid lies in a standard brain.

    Raises DataError for an unknown array or a result whose units are not voxels.
    """
    array, name = cortex.values_of(result, values)
    space = result.space
    if not isinstance(space, Volume):
        raise DataError(f"a mosaic needs units in a Volume, this {result.task} result has {type(space).__name__}")
    scale, colours = cortex.scale_of(array, None)
    axis = int(np.argmin(space.mask.shape))
    volume = np.moveaxis(space.fill(array), axis, 0)
    inside = np.moveaxis(space.mask, axis, 0)
    counts = inside.sum(axis=(1, 2))
    chosen = np.sort(np.argsort(-counts, kind="stable")[: min(most, int((counts > 0).sum()))])
    box = np.argwhere(inside.any(axis=0))
    (a, c), (b, d) = box.min(axis=0), box.max(axis=0) + 1
    columns = min(len(chosen), 6)
    lines = -(-len(chosen) // columns)
    each = 1.9 if len(chosen) > 1 else 4.2
    figure, axes = style.canvas(
        max(each * columns + 0.9, 4.6), each * (b - a) / max(d - c, 1) * lines + 1.0, nrows=lines, ncols=columns
    )
    for ax in axes.ravel():
        ax.set_axis_off()
    palette = colours.copy()
    palette.set_bad("#e3e6ea")
    for ax, k in zip(axes.ravel(), chosen, strict=False):
        ax.imshow(np.ma.masked_invalid(volume[k, a:b, c:d]), cmap=palette, norm=scale, interpolation="nearest")
        ax.set_title(f"slice {k} of axis {'ijk'[axis]}", fontsize=8.5, color=style.FAINT)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=list(axes.ravel()), shrink=0.8)
    bar.set_label(style.printable(unit or name), fontsize=9, parse_math=False)
    n, hidden = int(np.isfinite(array).sum()), int((counts > 0).sum()) - len(chosen)
    rest = f", {hidden} more slices not shown" if hidden else ""
    return style.head(figure, f"{title or name}  ·  n = {n:,} voxels in the recording's own grid{rest}", result)
