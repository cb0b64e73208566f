"""Voxel values on the cortical surface, on its flat map, and on slices of the MNI152 template; layer maps in two dimensions.

A map is drawn as it was given: nothing is smoothed, and a threshold hides values, it does not change them. Values
near 0 fade into the anatomy (opacity in proportion to |value|, full from 40 % of the scale), so that weak effects are
neither hidden nor shouted; on a scale that starts at 0, negative values are not drawn. What was not measured keeps
the grey of the anatomy. Ventral views are seen from below with the front up, so the right hemisphere is on the
reader's left there; slices show the subject's left on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates

from brainlens.plots import layers, mesh, style
from brainlens.types import DataError, Result, Volume

PANELS = (  # the default arrangement: flat maps and ventral views below, where FFA and PPA are seen
    (("lateral", "left"), ("medial", "left"), ("medial", "right"), ("lateral", "right")),
    (("flat", "left"), ("ventral", "right"), ("ventral", "left"), ("flat", "right")),
)
Panels = Sequence[Sequence[tuple[str, str]]]
AXES = {"x": 0, "y": 1, "z": 2}
FULL_FROM = 0.4  # share of the scale from which a value is opaque
DARKEST = 0.14  # brightness of a layer map at confidence 0: still not the black of a missing value


def cortex_map(
    result: Result,
    values: str | np.ndarray,
    *,
    title: str = "",
    unit: str = "",
    threshold: float | None = None,
    limits: tuple[float, float] | None = None,
    panels: Panels = PANELS,
) -> Figure:
    """Values (unit,), or the name of such an array, on both hemispheres of fsaverage5 with one colour bar.

    Values of both signs get a diverging scale centred on 0, others a sequential one; the limits are the 0.5 % and
    99.5 % quantiles unless given. threshold: |value| below it is not drawn.

    Raises DataError for an unknown array, values without a spatial layout, and maps without one finite value on cortex.
    """
    array, name = values_of(result, values)
    scale, colours = scale_of(array, limits)
    surface = mesh.on_surface(array, result.space)
    if not any(np.isfinite(v).any() for v in surface.values()):
        raise DataError(f"map {name!r} has no finite value on the cortical surface; check the affine, or draw it with slices")
    figure, axes = style.canvas(2.7 * len(panels[0]), 2.25 * len(panels) + 0.9, nrows=len(panels), ncols=len(panels[0]))
    for ax, (side, hemisphere) in zip(axes.ravel(), (p for row in panels for p in row), strict=True):
        draw(ax, surface[hemisphere], side, hemisphere=hemisphere, scale=scale, colours=colours, threshold=threshold)
    _bar(figure, axes, scale, colours, unit or name, threshold)
    n = int(np.isfinite(array).sum())
    return style.head(figure, f"{title or name}  ·  n = {n:,} {noun(result)}", result)


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
    array, name = values_of(result, values)
    space = _volume(result)
    scale, colours = scale_of(array, limits)
    shown = np.isfinite(array) & (np.abs(array) >= (threshold or 0))
    opacity = np.where(shown, _opacity(array, scale), 0.0)
    rgba = np.concatenate([colours(scale(np.where(shown, array, 0.0)))[:, :3], opacity[:, None]], axis=1)
    figure, axes = _slice_panels(space, rgba, cuts or _cuts(space, np.where(shown, np.abs(array), 0.0)))
    _bar(figure, axes, scale, colours, unit or name, threshold)
    return style.head(figure, f"{title or name}  ·  n = {int(np.isfinite(array).sum()):,} voxels", result)


def layer_map(
    result: Result,
    *,
    layer: str | np.ndarray = "layer",
    confidence: str | np.ndarray = "confidence",
    names: Sequence[str] | None = None,
    title: str = "Selected layer",
    panels: Panels = PANELS,
) -> Figure:
    """Layer (hue) and confidence (brightness) of every unit on inflated and flat cortex, with a two-dimensional legend.

    layer (unit,) float from 0 to the number of layers - 1; confidence (unit,) in [0, 1]. The colours are those of
    the paper's figures in kind (hue = layer, brightness = confidence; "Brain Decodes Deep Nets", eq. 2), taken along hues
    that colour-blind readers can order.
    """
    numbers, certain, names, rgb = layer_colours(result, layer, confidence, names)
    measured = np.isfinite(numbers) & np.isfinite(certain)
    figure, axes = colour_map(result, rgb, measured.astype(float), panels=panels)
    layer_legend(figure, axes, names)
    return style.head(figure, f"{title}  ·  n = {int(measured.sum()):,} {noun(result)}", result)


def colour_map(
    result: Result, rgb: np.ndarray, opacity: np.ndarray, *, panels: Panels = PANELS, nearest: bool = False
) -> tuple[Figure, np.ndarray]:
    """A colour (unit, 3) and an opacity (unit,) of every unit on the cortex; units of opacity 0 do not count. No title yet.

    nearest: each vertex takes the colour of its nearest voxel, for labels that must not be mixed.
    """
    figure, axes = style.canvas(2.7 * len(panels[0]) + 1.2, 2.25 * len(panels) + 0.9, nrows=len(panels), ncols=len(panels[0]))
    places = [place for row in panels for place in row]
    paint_colours(axes.ravel(), places, result, rgb, opacity, nearest=nearest)
    return figure, axes


def paint_colours(
    axes: Sequence[Axes] | np.ndarray,
    places: Sequence[tuple[str, str]],
    result: Result,
    rgb: np.ndarray,
    opacity: np.ndarray,
    *,
    nearest: bool = False,
    titled: bool = True,
) -> None:
    """Draws coloured units on one view for each of the axes; places: (side, hemisphere)."""
    shown = opacity > 0
    on = [mesh.on_surface(np.where(shown, rgb[:, c], np.nan), result.space, nearest=nearest) for c in range(3)]
    thick = mesh.on_surface(np.where(shown, opacity, np.nan), result.space, nearest=nearest)
    for ax, (side, hemisphere) in zip(axes, places, strict=True):
        seen = mesh.view(side, hemisphere)
        image = np.stack([mesh.interpolate(seen, on[c][hemisphere]) for c in range(3)], axis=-1)
        weight = mesh.interpolate(seen, thick[hemisphere])
        there = np.isfinite(image).all(axis=-1) & np.isfinite(weight)
        pixels = _over(_anatomy(side, hemisphere), np.where(there[..., None], image, 0.0), np.where(there, weight, 0.0))
        _panel(ax, pixels, f"{hemisphere} {side}" if titled else "")


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
    """As `layer_map`, on slices of the MNI152 template."""
    numbers, certain, names, rgb = layer_colours(result, layer, confidence, names)
    measured = np.isfinite(numbers) & np.isfinite(certain)
    weight = np.where(measured, certain, 0.0)
    figure, axes = colour_slices(result, rgb, measured.astype(float), weight=weight, cuts=cuts)
    layer_legend(figure, axes, names)
    return style.head(figure, f"{title}  ·  n = {int(measured.sum()):,} voxels", result)


def draw(
    ax: Axes,
    values: np.ndarray,
    side: str,
    *,
    hemisphere: str,
    scale: Normalize,
    colours: Colormap,
    threshold: float | None = None,
    titled: bool = True,
) -> None:
    """Vertex values (10242,) of one hemisphere from one side, over the grey anatomy, into these axes."""
    seen = mesh.view(side, hemisphere)
    on_pixels = mesh.interpolate(seen, values)
    shown = np.isfinite(on_pixels) & (np.abs(on_pixels) >= (threshold or 0))
    rgb = colours(scale(np.where(shown, on_pixels, 0.0)))[..., :3] * seen.shade[..., None]
    opacity = np.where(shown, _opacity(on_pixels, scale), 0.0)
    _panel(ax, _over(_anatomy(side, hemisphere), rgb, opacity), f"{hemisphere} {side}" if titled else "")


def values_of(result: Result, values: str | np.ndarray) -> tuple[np.ndarray, str]:
    """A map (unit,) as float64 and its name; DataError if it is not there, not one value a unit, or nowhere finite."""
    name = values if isinstance(values, str) else "values"
    array = style.need(result, values)[0] if isinstance(values, str) else np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"map {name!r} must be one value a unit, got shape {array.shape}")
    if not np.isfinite(array).any():
        raise DataError(f"map {name!r} has no finite value")
    return array.astype(np.float64), name


def _volume(result: Result) -> Volume:
    if not isinstance(result.space, Volume):
        raise DataError(f"slices need units in a Volume, this {result.task} result has {type(result.space).__name__}")
    return result.space


def noun(result: Result) -> str:
    """What a unit is called."""
    return "voxels" if isinstance(result.space, Volume) else "vertices"


def scale_of(array: np.ndarray, limits: tuple[float, float] | None) -> tuple[Normalize, Colormap]:
    """Colour scale of a map: diverging around 0 where more than a tenth of the range lies below 0, else sequential from 0."""
    finite = array[np.isfinite(array)]
    low, high = limits or (float(v) for v in np.quantile(finite, [0.005, 0.995]))
    if not low < high:
        low, high = (low - 0.5, high + 0.5) if limits is None else (low, low + 1.0)
    if low < 0 < high and -low > 0.1 * (high - low):
        reach = max(-low, high)
        return TwoSlopeNorm(0.0, -reach, reach), matplotlib.colormaps[style.DIVERGING]
    near_zero = limits is None and high > 0 and low < 0.3 * high  # a scale that nearly reaches 0 starts there
    return Normalize(0.0 if near_zero else low, high), matplotlib.colormaps[style.SEQUENTIAL]


def _bar(figure: Figure, axes: np.ndarray, scale: Normalize, colours: Colormap, text: str, threshold: float | None) -> None:
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=list(axes.ravel()), location="bottom", shrink=0.34, aspect=32, pad=0.03
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8.5, length=2)
    note = "" if not threshold else f"  (shown where |value| ≥ {threshold:.3g})"
    bar.set_label(style.printable(text) + note, fontsize=9.5, parse_math=False)


@lru_cache(maxsize=16)
def _anatomy(side: str, hemisphere: str) -> np.ndarray:
    """The grey cortex of a view: gyri light, sulci darker, as an RGBA image."""
    tone = 0.80 - 0.22 / (1 + np.exp(-mesh.sulci(hemisphere) / 0.18))
    return mesh.paint(mesh.view(side, hemisphere), np.repeat(tone[:, None], 3, axis=1))


def _opacity(values: np.ndarray, scale: Normalize) -> np.ndarray:
    """How opaque a value is: in proportion to its size where the scale holds 0 (nothing below a scale that starts there)."""
    low, high = float(scale.vmin or 0.0), float(scale.vmax or 0.0)
    if low > 0 or high < 0:
        return np.ones(np.shape(values))
    size = np.where(np.isfinite(values), values, 0.0)
    size = np.abs(size) if low < 0 else np.maximum(size, 0.0)
    return np.clip(size / (FULL_FROM * max(-low, high)), 0, 1)


def _over(base: np.ndarray, rgb: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Colours laid over the anatomy (rows, columns, 4)."""
    image = base.copy()
    image[..., :3] += opacity[..., None] * (np.clip(rgb, 0, 1) - image[..., :3])
    return image


def _panel(ax: Axes, image: np.ndarray, title: str) -> None:
    ax.imshow(image, interpolation="antialiased", interpolation_stage="rgba")
    ax.set_axis_off()
    ax.set_title(title, fontsize=8.5, color=style.FAINT, pad=2)


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


def layer_colours(
    result: Result, layer: str | np.ndarray, confidence: str | np.ndarray, names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Layers, confidences (unit,), names of the layers, colours (unit, 3): hue = layer, brightness = confidence."""
    numbers, certain = values_of(result, layer)[0], values_of(result, confidence)[0]
    if numbers.shape != certain.shape:
        raise DataError(f"layer map: {len(numbers)} layers but {len(certain)} confidences")
    if names is None:
        weights = result.arrays.get("layer_weights")
        count = weights.shape[1] if weights is not None and weights.ndim == 2 else int(np.ceil(np.nanmax(numbers))) + 1
        names = layers.layer_names(result, count)
    if np.nanmin(numbers) < -1e-6 or np.nanmax(numbers) > len(names) - 1 + 1e-6:
        raise DataError(
            f"layer map: layers lie in [0, {len(names) - 1}], got {np.nanmin(numbers):.3g} to {np.nanmax(numbers):.3g}"
        )
    place = np.where(np.isfinite(numbers), numbers, 0.0) / max(len(names) - 1, 1)
    rgb = style.hue_map()(place)[:, :3] * _brightness(np.where(np.isfinite(certain), certain, 0.0))[:, None]
    return numbers, certain, list(names), rgb


def _brightness(confidence: np.ndarray) -> np.ndarray:
    return DARKEST + (1 - DARKEST) * np.clip(confidence, 0, 1)


def layer_legend(figure: Figure, axes: np.ndarray, names: Sequence[str]) -> None:
    """Layer to the right, confidence upwards, in the colours of the map."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), style.hue_map()),
        ax=list(axes.ravel()),
        location="bottom",
        shrink=0.34,
        aspect=9,
        pad=0.03,
    )
    ax = bar.ax
    ax.clear()
    confidence = np.linspace(0, 1, 48)
    hues = style.hue_map()(np.linspace(0, 1, 256))[:, :3]
    ax.imshow(
        hues[None] * _brightness(confidence)[:, None, None], origin="lower", aspect="auto", extent=(-0.5, len(names) - 0.5, 0, 1)
    )
    layers.ticks(ax, names, most=8)
    ax.set_yticks([0, 1], ["0", "1"], fontsize=8)
    ax.yaxis.tick_left()
    ax.yaxis.set_label_position("left")
    ax.set_ylabel("confidence", fontsize=9)
    ax.set_xlabel("layer", fontsize=9.5)
