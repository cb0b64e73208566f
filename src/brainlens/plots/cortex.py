"""Voxel values on the cortical surface and on its flat map; layer maps in two dimensions.

A map is drawn as it was given: nothing is smoothed, and a threshold hides values, it does not change them. Values
near 0 fade into the anatomy (opacity in proportion to |value|, full from 40 % of the scale), so that weak effects are
neither hidden nor shouted; on a scale that starts at 0, negative values are not drawn. What was not measured keeps
the grey of the anatomy. Ventral views are seen from below with the front up, so the right hemisphere is on the
reader's left there. `slices` draws the same maps on the MNI152 template.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from brainlens.plots import layers, mesh, style
from brainlens.types import DataError, Result, Volume

PANELS = (  # the default arrangement: flat maps and ventral views below, where FFA and PPA are seen
    (("lateral", "left"), ("medial", "left"), ("medial", "right"), ("lateral", "right")),
    (("flat", "left"), ("ventral", "right"), ("ventral", "left"), ("flat", "right")),
)
Panels = Sequence[Sequence[tuple[str, str]]]
LEVEL = 0.05  # false discovery rate of the units that a map of selections shows
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
    colour_bar(figure, axes, scale, colours, unit or name, threshold)
    n = int(np.isfinite(array).sum())
    return style.head(figure, f"{title or name}  ·  n = {n:,} {noun(result)}", result)


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
    shown, said = predicted_units(result, np.isfinite(numbers) & np.isfinite(certain))
    figure, axes = colour_map(result, rgb, shown.astype(float), panels=panels)
    layer_legend(figure, axes, names)
    return style.head(figure, f"{title}  ·  {said}", result)


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
    """Units in colours rgb (unit, 3) under an opacity (unit,), one view for each of the axes; places: (side, hemisphere)."""
    shown = opacity > 0
    on = [mesh.on_surface(np.where(shown, rgb[:, c], np.nan), result.space, nearest=nearest) for c in range(3)]
    thick = mesh.on_surface(np.where(shown, opacity, np.nan), result.space, nearest=nearest)
    for ax, (side, hemisphere) in zip(axes, places, strict=True):
        seen = mesh.view(side, hemisphere)
        image = np.stack([mesh.interpolate(seen, on[c][hemisphere]) for c in range(3)], axis=-1)
        weight = mesh.interpolate(seen, thick[hemisphere])
        there = np.isfinite(image).all(axis=-1) & np.isfinite(weight)
        pixels = _over(_anatomy(side, hemisphere), np.where(there[..., None], image, 0.0), np.where(there, weight, 0.0))
        _panel(ax, pixels, f"{hemisphere} {side}" if titled else "", letter=hemisphere[0].upper())


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
    opacity = np.where(shown, opacity_of(on_pixels, scale), 0.0)
    pixels = _over(_anatomy(side, hemisphere), rgb, opacity)
    _panel(ax, pixels, f"{hemisphere} {side}" if titled else "", letter=hemisphere[0].upper())


def predicted_units(result: Result, measured: np.ndarray) -> tuple[np.ndarray, str]:
    """Which of the `measured` units a map of selections shows, both (unit,) bool, and the words for it.

    Those whose test R² is above 0 at a false discovery rate of .05 (array `q`); where there is none, those with R² > 0; else all.
    What a unit selects means something where the selection predicts it; the others would be specks of noise.
    """
    n, kind = int(measured.sum()), noun(result)
    r2, q = (result.arrays.get(name) for name in ("r2", "q"))
    rules = []
    if r2 is not None and q is not None and np.shape(q) == np.shape(r2) == measured.shape:
        rules.append((np.isfinite(q) & (np.where(np.isfinite(q), q, 1.0) < LEVEL), f"test R² > 0 at q < {LEVEL:g}"))
    if r2 is not None and np.shape(r2) == measured.shape:
        rules.append((np.isfinite(r2) & (np.where(np.isfinite(r2), r2, 0.0) > 0), "test R² > 0"))
    for rule, said in rules:
        if (measured & rule).any():
            shown = measured & rule
            return shown, f"{int(shown.sum()):,} of {n:,} {kind}: those with {said}"
    return measured, f"n = {n:,} {kind}" + (", none with test R² > 0" if rules else "")


def values_of(result: Result, values: str | np.ndarray) -> tuple[np.ndarray, str]:
    """A map (unit,) as float64 and its name; DataError if it is missing, not one value a unit, or nowhere finite."""
    name = values if isinstance(values, str) else "values"
    array = style.need(result, values)[0] if isinstance(values, str) else np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"map {name!r} must be one value a unit, got shape {array.shape}")
    if not np.isfinite(array).any():
        raise DataError(f"map {name!r} has no finite value")
    return array.astype(np.float64), name


def noun(result: Result) -> str:
    """What a unit is called."""
    return "voxels" if isinstance(result.space, Volume) else "vertices"


def scale_of(array: np.ndarray, limits: tuple[float, float] | None) -> tuple[Normalize, Colormap]:
    """Colour scale of a map: diverging around 0 where more than a tenth of the range lies below 0, else sequential from 0.

    array of any shape; NaN is left out. Both arms of a diverging scale are equally steep, and each ends where the values end.
    """
    finite = array[np.isfinite(array)]
    low, high = limits or (float(v) for v in np.quantile(finite, [0.005, 0.995]))
    if not low < high:
        low, high = (low - 0.5, high + 0.5) if limits is None else (low, low + 1.0)
    if low < 0 < high and -low > 0.1 * (high - low):
        arms = matplotlib.colormaps[style.DIVERGING](0.5 + np.linspace(low, high, 512) / (2 * max(-low, high)))
        return Normalize(low, high), ListedColormap(arms)
    near_zero = limits is None and high > 0 and low < 0.3 * high  # a scale that nearly reaches 0 starts there
    return Normalize(0.0 if near_zero else low, high), matplotlib.colormaps[style.SEQUENTIAL]


def colour_bar(figure: Figure, axes: np.ndarray, scale: Normalize, colours: Colormap, text: str, threshold: float | None) -> None:
    """Colour bar of a scale below axes (row, column)."""
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=list(axes.ravel()), location="bottom", shrink=0.34, aspect=32, pad=0.03
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8.5, length=2)
    note = "" if not threshold else f"  (shown where |value| ≥ {threshold:.3g})"
    bar.set_label(style.printable(text, 72) + note, fontsize=9.5, parse_math=False)


@lru_cache(maxsize=16)
def _anatomy(side: str, hemisphere: str) -> np.ndarray:
    """The grey cortex of a view: gyri light, sulci darker, as an RGBA image."""
    tone = 0.80 - 0.22 / (1 + np.exp(-mesh.sulci(hemisphere) / 0.18))
    return mesh.paint(mesh.view(side, hemisphere), np.repeat(tone[:, None], 3, axis=1))


def opacity_of(values: np.ndarray, scale: Normalize) -> np.ndarray:
    """How opaque a value is: in proportion to its size where the scale holds 0 (nothing below a scale that starts there).

    values of any shape -> the same.
    """
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


def _panel(ax: Axes, image: np.ndarray, title: str, *, letter: str) -> None:
    """One view; the letter names the hemisphere, since ventral views show the right one on the reader's left."""
    ax.imshow(image, interpolation="antialiased", interpolation_stage="rgba")
    ax.set_axis_off()
    ax.text(0.02, 0.02, letter, transform=ax.transAxes, fontsize=8.5, color=style.FAINT, fontweight="bold")
    ax.set_title(title, fontsize=8.5, color=style.FAINT, pad=2)


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
    """Layer to the right, confidence upwards, in the colours of the map, below axes (row, column)."""
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
