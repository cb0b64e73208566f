"""What each unit chose, in colours on the cortex: its place in the picture, a label, its layer in several fits."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from brainlens.plots import cortex, layers, slices, style
from brainlens.types import DataError, Result

ROW = (("flat", "left"), ("ventral", "right"), ("ventral", "left"), ("flat", "right"))  # one fit a row
PALEST = 0.25  # opacity of a unit that reads the whole picture: there, but its place means little


def space_map(result: Result, *, space: str = "space", scale: str = "scale", title: str = "Place in the picture") -> Figure:
    """The place that each unit reads, coloured by its position in the picture; units with a global scale are paler.

    space (unit, 2) as (x, y) in [-1, 1], y down; scale (unit,) in [0, 1], where it is there. Left is blue and right orange,
    up is light and down dark, which colour-blind readers keep apart.
    """
    rgb, opacity, known = _place_colours(result, space, scale)
    figure, axes = cortex.colour_map(result, rgb, opacity)
    _place_legend(figure, axes)
    return style.head(figure, f"{title}  ·  {known}", result)


def space_slices(result: Result, *, space: str = "space", scale: str = "scale", title: str = "Place in the picture") -> Figure:
    """As `space_map`, on slices of the MNI152 template, cut where units read places and predict well (R2)."""
    rgb, opacity, known = _place_colours(result, space, scale)
    weight = np.asarray(result.arrays.get("r2", opacity), dtype=float)
    weight = opacity * np.where(np.isfinite(weight), weight, 0.0).clip(0)
    figure, axes = slices.colour_slices(result, rgb, opacity, weight=weight)
    _place_legend(figure, axes)
    return style.head(figure, f"{title}  ·  {known}", result)


def label_map(result: Result, values: str, *, names: Sequence[str], title: str = "", predicted: bool = False) -> Figure:
    """A label of every unit (an array of numbers from 0; NaN: none) in its own colour, by the nearest voxel; with a legend.

    predicted: units that are not predicted are left out (`cortex.predicted_units`).

    Raises DataError for labels beyond the names.
    """
    numbers, _ = cortex.values_of(result, values)
    known = np.isfinite(numbers)
    said = f"n = {int(known.sum()):,} {cortex.noun(result)}"
    if predicted:
        known, said = cortex.predicted_units(result, known)
    labels = np.where(known, numbers, 0).astype(int)
    if labels.min() < 0 or labels.max() >= len(names):
        raise DataError(f"label map {values!r}: labels 0 to {labels.max()} but {len(names)} names")
    colours = label_colours(len(names))
    figure, _ = cortex.colour_map(result, colours[labels], known.astype(float), nearest=True)
    counts = np.bincount(labels[known], minlength=len(names))
    handles = [Patch(color=colours[k], label=f"{style.printable(str(name))} ({counts[k]:,})") for k, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 7), fontsize=8.5, frameon=False)
    return style.head(figure, f"{title or values}  ·  {said}", result)


def layer_rows(
    result: Result,
    *,
    layer: str = "seeds/layer",
    confidence: str = "seeds/confidence",
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Layer maps of several fits, one row each, all in the same colours of layers; arrays (fit, unit), NaN: not drawn.

    Drawn are the units that the result itself predicts (`cortex.predicted_units`), in every row the same.
    """
    numbers, certain = style.need(result, layer, confidence)
    known = result.config.get("layers")
    count = max(int(np.ceil(np.nanmax(numbers))) + 1, len(known) if isinstance(known, list) else 0)
    layer_names = layers.layer_names(result, count)  # of all rows, so that a colour is one layer
    first = int(result.config.get("seed", 0))
    titles = list(names) if names is not None else [f"seed {first + k}" for k in range(len(numbers))]
    figure, axes = style.canvas(2.7 * len(ROW) + 1.2, 2.1 * len(numbers) + 1.2, nrows=len(numbers), ncols=len(ROW))
    for row, (one, sure, name) in enumerate(zip(numbers, certain, titles, strict=True)):
        rgb = cortex.layer_colours(result, np.asarray(one), np.asarray(sure), layer_names)[3]
        shown, said = cortex.predicted_units(result, np.isfinite(one))
        cortex.paint_colours(axes[row], ROW, result, rgb, shown.astype(float), titled=row == 0)
        axes[row, 0].text(
            -0.04, 0.5, style.printable(name), transform=axes[row, 0].transAxes, rotation=90, va="center", ha="right", fontsize=9
        )
    cortex.layer_legend(figure, axes, layer_names)
    return style.head(figure, f"{title or f'Selected layer in {len(numbers)} fits'}  ·  {said}", result)


def weight_rows(result: Result, *, names: Sequence[str], weights: str = "layer_weights") -> Figure:
    """The weight that each unit gives every layer (unit, layer): one row a layer, all on one scale from 0 (Figs. 13 to 15)."""
    table = np.asarray(style.need(result, weights)[0], dtype=float)
    if table.ndim != 2 or table.shape[1] != len(names):
        raise DataError(f"layer weights {table.shape} do not fit {len(names)} names of layers")
    known, said = cortex.predicted_units(result, np.isfinite(table).all(axis=1))
    top = max(float(np.quantile(table[known], 0.995)), 1e-9) if known.any() else 1.0
    tone = matplotlib.colormaps[style.SEQUENTIAL] if isinstance(style.SEQUENTIAL, str) else style.SEQUENTIAL
    figure, axes = style.canvas(2.7 * len(ROW) + 1.2, 1.9 * len(names) + 1.2, nrows=len(names), ncols=len(ROW))
    for number, (line, name) in enumerate(zip(np.asarray(axes).reshape(len(names), len(ROW)), names, strict=True)):
        share = np.where(known, table[:, number], 0.0) / top
        cortex.paint_colours(line, ROW, result, tone(share.clip(0, 1))[:, :3], known.astype(float), titled=number == 0)
        line[0].text(
            -0.04, 0.5, style.printable(str(name)), transform=line[0].transAxes, rotation=90, va="center", ha="right", fontsize=9
        )
    scale = ScalarMappable(Normalize(0, top), tone)
    figure.colorbar(scale, ax=list(np.ravel(axes)), location="bottom", shrink=0.34, label="weight of the layer")
    return style.head(figure, f"Weight of each layer  ·  {said}", result)


def label_colours(count: int) -> np.ndarray:
    """Colours (label, 3) that can be told apart on grey cortex: the palette but grey, then hues in two tones."""
    strong = [c for c in style.PALETTE if c != style.GREY]
    if count <= len(strong):
        return np.array([matplotlib.colors.to_rgb(c) for c in strong[:count]])
    number = np.arange(count)
    angle = 2 * np.pi * (number // 2) / ((count + 1) // 2) + 0.35
    light = np.where(number % 2, 0.80, 0.55)
    return style.oklch(light, np.where(number % 2, 0.13, 0.19), angle)


def place_colour(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of places in [-1, 1]: blue to the left, orange to the right, light above, dark below.

    The middle is a pale violet and nothing is as dark as brown, so that no place looks like the grey of the anatomy.
    """
    across, down = (np.clip(v, -1, 1) for v in np.broadcast_arrays(x, y))
    lightness, chroma = 0.68 - 0.18 * down, 0.17 * np.abs(across)
    angle = np.deg2rad(np.where(across < 0, 255.0, 60.0))
    return style.oklch(lightness.ravel(), chroma.ravel(), angle.ravel()).reshape(*across.shape, 3)


def _place_colours(result: Result, space: str, scale: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Colours (unit, 3), opacities (unit,), 0 where a unit is not shown, and the words for how many are."""
    (places,) = style.need(result, space)
    if places.ndim != 2 or places.shape[1] != 2:
        raise DataError(f"place map: {space!r} must be (unit, 2), got {places.shape}")
    known = np.isfinite(places).all(axis=1)
    far = np.asarray(result.arrays.get(scale, np.zeros(len(places))), dtype=float)
    x, y = (np.where(known, places[:, k], 0.0) for k in range(2))
    shown, said = cortex.predicted_units(result, known)
    opacity = np.where(shown, 1 - (1 - PALEST) * np.clip(np.where(np.isfinite(far), far, 0.0), 0, 1), 0.0)
    return place_colour(x, y), opacity, said


def _place_legend(figure: Figure, axes: np.ndarray) -> None:
    """The picture as a square in the colours of the map."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, 0, 1, 0.965))  # type: ignore[call-arg]  # the square bar pushes the panels into the title
    bar = figure.colorbar(
        matplotlib.cm.ScalarMappable(), ax=list(axes.ravel()), location="bottom", shrink=0.2, aspect=1.0, pad=0.03
    )
    ax = bar.ax
    ax.clear()
    side = np.linspace(-1, 1, 64)
    ax.imshow(place_colour(side[None, :], side[:, None]), extent=(-1, 1, 1, -1), aspect="equal")
    ax.set_xticks([-1, 0, 1], ["left", "", "right"], fontsize=8)
    ax.set_yticks([-1, 0, 1], ["top", "", "bottom"], fontsize=8)
    ax.yaxis.tick_left()
    ax.set_xlabel("place in the picture", fontsize=9)
