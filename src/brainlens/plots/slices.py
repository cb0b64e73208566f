"""Voxel values and layer maps on slices of the MNI152 template, as measured: nothing is smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates

from brainlens.plots import cortex, style
from brainlens.types import DataError, Result, Volume

AXES = {"x": 0, "y": 1, "z": 2}


def slices(
    result: Result,
    values: str | np.ndarray,
    *,
    title: str = "",
    unit: str = "",
    threshold: float | None = None,
    limits: tuple[float, float] | None = None,
    cuts: dict[str, Sequence[float]] | None = None,
) -> Figure:
    """Values (unit,) of a volume on sagittal, coronal and axial slices of the MNI152 template, in voxels as measured.

    cuts: {"z": (mm, ...), ...}; without it three a plane, spread over where the strongest tenth of the values lies.

    Raises DataError for an unknown array or a result whose units are not voxels.
    """
    array, name = cortex.values_of(result, values)
    space = _volume(result)
    scale, colours = cortex.scale_of(array, limits)
    shown = np.isfinite(array) & (np.abs(array) >= (threshold or 0))
    opacity = np.where(shown, cortex.opacity_of(array, scale), 0.0)
    rgba = np.concatenate([colours(scale(np.where(shown, array, 0.0)))[:, :3], opacity[:, None]], axis=1)
    figure, axes = _slice_panels(space, rgba, cuts or _cuts(space, np.where(shown, np.abs(array), 0.0)))
    cortex.colour_bar(figure, axes, scale, colours, unit or name, threshold)
    return style.head(figure, f"{title or name}  ·  n = {int(np.isfinite(array).sum()):,} voxels", result)


def colour_slices(
    result: Result, rgb: np.ndarray, opacity: np.ndarray, *, weight: np.ndarray, cuts: dict[str, Sequence[float]] | None = None
) -> tuple[Figure, np.ndarray]:
    """As `colour_map` on slices of the MNI152 template, cut where the weight (unit,) is largest. No title yet."""
    space = _volume(result)
    return _slice_panels(space, np.concatenate([rgb, opacity[:, None]], axis=1), cuts or _cuts(space, weight))


def layer_slices(
    result: Result,
    *,
    layer: str | np.ndarray = "layer",
    confidence: str | np.ndarray = "confidence",
    names: Sequence[str] | None = None,
    title: str = "Selected layer",
    cuts: dict[str, Sequence[float]] | None = None,
) -> Figure:
    """As `layer_map`, on slices of the MNI152 template; layer, confidence: names of arrays, or (unit,)."""
    numbers, certain, names, rgb = cortex.layer_colours(result, layer, confidence, names)
    shown, said = cortex.predicted_units(result, np.isfinite(numbers) & np.isfinite(certain))
    weight = np.where(shown, certain, 0.0)
    figure, axes = colour_slices(result, rgb, shown.astype(float), weight=weight, cuts=cuts)
    cortex.layer_legend(figure, axes, names)
    return style.head(figure, f"{title}  ·  {said}", result)


def _volume(result: Result) -> Volume:
    if not isinstance(result.space, Volume):
        raise DataError(f"slices need units in a Volume, this {result.task} result has {type(result.space).__name__}")
    return result.space


@lru_cache(maxsize=1)
def _template() -> tuple[np.ndarray, np.ndarray]:
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=2)
    return np.asarray(image.get_fdata(), dtype=np.float32), np.linalg.inv(image.affine)


def _cuts(space: Volume, weight: np.ndarray) -> dict[str, list[float]]:
    """Three slices a plane through where the strongest tenth of the weight lies (quantiles .2, .5, .8 of its coordinates)."""
    mm = space.coordinates()
    strong = weight >= np.quantile(weight, 0.9) if weight.max() > 0 else np.ones(len(weight), bool)
    return {axis: [float(v) for v in np.quantile(mm[strong, i], [0.2, 0.5, 0.8])] for axis, i in AXES.items()}


def _slice_panels(
    space: Volume, rgba: np.ndarray, cuts: dict[str, Sequence[float]] | dict[str, list[float]]
) -> tuple[Figure, np.ndarray]:
    unknown = sorted(set(cuts) - set(AXES))
    if unknown or not cuts:
        raise DataError(f"slices: no axis {unknown[0] if unknown else None!r}; cuts name x, y and z in mm")
    columns = max(len(v) for v in cuts.values())
    figure, axes = style.canvas(2.6 * columns, 2.35 * len(cuts) + 0.9, nrows=len(cuts), ncols=columns)
    number = np.full(space.mask.shape, -1)
    number[space.mask] = np.arange(len(space))
    for row, (axis, places) in zip(axes, cuts.items(), strict=True):
        for ax in row:
            ax.set_axis_off()
        for ax, place in zip(row, places, strict=False):
            _slice(ax, axis, float(place), number, rgba, np.linalg.inv(space.affine))
    return figure, axes


def _slice(ax: Axes, axis: str, place: float, number: np.ndarray, rgba: np.ndarray, inverse: np.ndarray) -> None:
    """One slice at 1 mm: the template in grey, over it the colour of the nearest voxel."""
    template, to_template = _template()
    i = AXES[axis]
    j, k = (a for a in range(3) if a != i)
    span = ((-92, 92), (-128, 94), (-74, 92))
    u, v = np.arange(*span[j], 1.0), np.arange(*span[k], 1.0)
    mm = np.empty((len(v), len(u), 3))
    mm[..., i], mm[..., j], mm[..., k] = place, u[None], v[:, None]
    grey = map_coordinates(template, (mm @ to_template[:3, :3].T + to_template[:3, 3]).transpose(2, 0, 1), order=1)
    at = np.rint((mm @ inverse[:3, :3].T + inverse[:3, 3]).transpose(2, 0, 1)).astype(int)
    inside = ((at >= 0) & (at < np.array(number.shape)[:, None, None])).all(axis=0)
    unit = np.where(inside, number[tuple(np.clip(at, 0, np.array(number.shape)[:, None, None] - 1))], -1)
    image = np.repeat((1 - 0.72 * (1 - np.clip(grey, 0, 1)))[..., None], 3, axis=2)
    image[grey < 0.02] = 1.0
    colour = rgba[unit]
    opacity = np.where(unit >= 0, colour[..., 3], 0.0)
    image += opacity[..., None] * (colour[..., :3] - image)
    ax.imshow(image, origin="lower", extent=(u[0] - 0.5, u[-1] + 0.5, v[0] - 0.5, v[-1] + 0.5), interpolation="nearest")
    ax.set_title(f"{axis} = {place:.0f} mm", fontsize=8.5, color=style.FAINT, pad=2)
    if axis != "x":
        for side, letter in ((0.03, "L"), (0.97, "R")):
            ax.text(side, 0.03, letter, transform=ax.transAxes, fontsize=8, color=style.FAINT, ha="center")
