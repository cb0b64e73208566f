"""What an encoding model found: layers by region, the hierarchy slope, and models side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainlens.metrics.selectors import hierarchy_regions
from brainlens.plots import style
from brainlens.types import DataError, Result

MAX_REGIONS = 40
NO_REGION = ("", "none", "nan")
FIRST, LAST = "V1", "EBA"  # the ends of the hierarchy that the slope is measured along (metrics.selectors.HIERARCHY)


def region_profiles(
    result: Result, *, weights: str | np.ndarray = "layer_weights", names: Sequence[str] | None = None, least: int = 5
) -> Figure:
    """Mean selector weight of each layer in each region, as a heat map; regions are sorted by their expected layer.

    profile_r(l) = mean over the voxels v of region r of w_v(l); expected layer = sum_l l profile_r(l). weights: an array's name,
    or (voxel, layer). Regions of fewer than `least` voxels are left out and counted in the title.

    Raises DataError without a unit table with column `roi`, or where no region is large enough.
    """
    w = style.need(result, weights)[0] if isinstance(weights, str) else np.asarray(weights)
    roi = regions_of(result, len(w))
    sizes = roi.value_counts()
    kept = [r for r in sizes.index if sizes[r] >= least and str(r).lower() not in NO_REGION]
    if not kept:
        raise DataError(f"region profiles: no region has {least} voxels; sizes are {sizes.head(5).to_dict()}")
    small = sum(1 for r in sizes.index if sizes[r] < least and str(r).lower() not in NO_REGION)
    profile = np.stack([w[(roi == r).to_numpy()].mean(axis=0) for r in kept])
    order = np.argsort(profile @ np.arange(w.shape[1]) / profile.sum(axis=1).clip(1e-12), kind="stable")[:MAX_REGIONS]
    profile, kept = profile[order], [kept[i] for i in order]
    names = list(names) if names is not None else layer_names(result, w.shape[1])
    figure, axes = style.canvas(max(5.2, 0.5 * w.shape[1] + 2.6), 0.3 * len(kept) + 1.7)
    ax = axes[0, 0]
    image = ax.imshow(profile, aspect="auto", cmap="cividis", vmin=0)
    ax.set_yticks(range(len(kept)), [f"{style.printable(str(r))}  ({sizes[r]:,})" for r in kept], fontsize=8.5)
    ticks(ax, names)
    ax.plot(
        profile @ np.arange(w.shape[1]) / profile.sum(axis=1).clip(1e-12),
        range(len(kept)),
        "o",
        color="white",
        mec="black",
        ms=5,
        label="expected layer",
    )
    bar = figure.colorbar(image, ax=ax)
    bar.set_label("mean selector weight", fontsize=9)
    style.label(ax, x="layer", y="region (voxels)")
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower right",
        fontsize=8.5,
        frameon=True,
        facecolor="#e5e7eb",
        edgecolor="none",
    )
    note = f", {small} smaller regions left out" if small else ""
    return style.head(figure, f"Layers by region, {int(sizes[kept].sum()):,} voxels{note}", result)


def hierarchy_is_known(result: Result, least: int = 5) -> bool:
    """Whether two regions of the config's `hierarchy` hold `least` units or more each: regions with other names have no order."""
    order = result.config.get("hierarchy")
    if not order or result.units is None or "roi" not in result.units.columns:
        return False
    roi = hierarchy_regions(result.units["roi"].astype(str).to_numpy())
    return sum(int(np.count_nonzero(roi == str(name)) >= least) for name in order) > 1


def hierarchy(result: Result, *, order: Sequence[str] | None = None, layer: str | np.ndarray = "layer", least: int = 5) -> Figure:
    """Expected layer of every voxel against its region's place in the visual hierarchy, with the fitted line.

    layer: an array's name, or (voxel,).
    order: region names from early to late (default: `regions` order of the config under `hierarchy`). Points are region means
    with 95 % intervals of the mean (normal); the line is least squares over voxels. When the result holds
    `encoding/hierarchy_slope` with `.low` and `.high`, that slope and interval are what the title gives.

    Raises DataError if fewer than two of the named regions have `least` voxels.
    """
    values = style.need(result, layer)[0] if isinstance(layer, str) else np.asarray(layer)
    roi = regions_of(result, len(values)).to_numpy()
    roi = hierarchy_regions(roi) if order is None else roi
    order = list(order) if order is not None else [str(r) for r in result.config.get("hierarchy", [])]
    kept = [r for r in order if np.count_nonzero((roi == r) & np.isfinite(values)) >= least]
    if len(kept) < 2:
        raise DataError(
            f"hierarchy: needs two regions of {least} voxels in order, got {order} with {sorted(set(map(str, roi)))[:20]}"
        )
    place = np.concatenate([np.full(np.count_nonzero((roi == r) & np.isfinite(values)), order.index(r)) for r in kept]).astype(
        float
    )
    found = np.concatenate([values[(roi == r) & np.isfinite(values)] for r in kept])
    figure, axes = style.canvas(max(4.8, 0.62 * len(order) + 1.8), 3.7)
    ax = axes[0, 0]
    jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(place))
    ax.scatter(place + jitter, found, s=5, color=style.SKY, alpha=0.35, linewidths=0, rasterized=True, label="voxel")
    for r in kept:
        here = found[place == order.index(r)]
        ax.errorbar(
            order.index(r),
            here.mean(),
            yerr=1.96 * here.std(ddof=1) / np.sqrt(len(here)),
            fmt="o",
            color=style.INK,
            ms=5,
            capsize=3,
        )
    slope, start = np.polyfit(place, found, 1)
    ends = np.array([place.min(), place.max()])
    ax.plot(ends, start + slope * ends, color=style.VERMILION, lw=2, label="least squares")
    ax.set_xticks(range(len(order)), [style.printable(r) for r in order], fontsize=8.5, rotation=30, ha="right")
    weights = result.arrays.get("layer_weights")
    names = layer_names(result, int(np.ceil(found.max())) + 1 if weights is None else weights.shape[1])
    step = max(1, len(names) // 8)
    ax.set_yticks(range(0, len(names), step), [style.printable(v) for v in names[::step]], fontsize=8.5)
    style.label(ax, x="region, early to late", y="expected layer")
    ax.legend(fontsize=8.5, frameon=False)
    depth = slope * (len(order) - 1) / max(1, len(names) - 1)
    ends_ = f"{style.printable(order[0])} to {style.printable(order[-1])}"
    said = _slope(result) or f"{depth:+.2f} of the network's depth from {ends_} (least squares)"
    return style.head(figure, f"Hierarchy: {said}, n = {len(found):,} voxels", result)


def receptive_fields(result: Result, *, least: int = 5, most: int = 8) -> Figure:
    """Places that the units of each region read, in the frame of the picture; opacity 1 - scale, mean place as a cross.

    Regions of at least `least` units, the largest `most` of them. Raises DataError where there is none.
    """
    places, scale = style.need(result, "space", "scale")
    roi = regions_of(result, len(places))
    sizes = roi.value_counts()
    kept = [r for r in sizes.index if sizes[r] >= least and str(r).lower() not in NO_REGION][:most]
    if not kept:
        raise DataError(f"receptive fields: no region has {least} units; sizes are {sizes.head(5).to_dict()}")
    columns = min(len(kept), 4)
    rows = -(-len(kept) // columns)
    figure, axes = style.canvas(2.1 * columns + 0.5, 2.3 * rows + 0.6, nrows=rows, ncols=columns)
    for ax in axes.ravel()[len(kept) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.ravel(), kept, strict=False):
        inside = (roi == name).to_numpy()
        local = np.clip(1 - scale[inside].astype(float), 0.03, 1)
        colour = np.tile([0.0, 0.447, 0.698, 1.0], (int(inside.sum()), 1))
        colour[:, 3] = local * min(1.0, 40 / np.sqrt(inside.sum()) / 3)
        ax.scatter(places[inside, 0], places[inside, 1], s=9, c=colour, linewidths=0, rasterized=True, clip_on=False)
        centre = np.average(places[inside], axis=0, weights=local)
        ax.plot(*centre, "+", color=style.VERMILION, ms=11, mew=2)
        ax.set_xlim(-1, 1)
        ax.set_ylim(1, -1)  # y is down, as in the picture
        ax.set_aspect("equal")
        ax.spines[:].set(visible=True, color="#9aa3af")
        ax.set_xticks([-0.78, 0.78], ["left", "right"], fontsize=8)
        ax.set_yticks([-0.85, 0.85], ["top", "bottom"] if ax in axes[:, 0] else ["", ""], fontsize=8)
        ax.tick_params(length=0)
        scaled = float(np.mean(scale[inside]))
        ax.set_title(f"{style.printable(str(name))}  n = {sizes[name]:,}, scale {scaled:.2f}", fontsize=8.5, color=style.INK)
    return style.head(figure, "Places that each region reads", result)


def model_bars(
    table: pd.DataFrame,
    metric: str,
    *,
    name: str = "encoder",
    title: str = "",
    chance: float | None = None,
    ceiling: float | None = None,
    axis: str = "",
    result: Result | None = None,
) -> Figure:
    """One bar a row of `table` with its interval (`metric`, `metric.low`, `metric.high`), best on top; subjects in their order.

    Raises DataError for columns that do not exist.
    """
    for column in (name, metric):
        if column not in table.columns:
            raise DataError(f"comparison has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    table = table[table[metric].notna()]
    table = table.iloc[::-1] if name == "subject" else table.sort_values(metric, kind="stable")
    table = table.reset_index(drop=True)
    if table.empty:
        raise DataError(f"comparison: no row has a value of {metric!r}")
    figure, axes = style.canvas(6.2, 0.36 * len(table) + 1.5)
    ax = axes[0, 0]
    values = table[metric].to_numpy(dtype=float)
    names = [str(v) for v in table[name]]
    ax.barh(range(len(table)), values, color=[style.colour(n, i) for i, n in enumerate(names)], height=0.7)
    if {f"{metric}.low", f"{metric}.high"} <= set(table.columns):
        low, high = (table[f"{metric}.{side}"].to_numpy(dtype=float) for side in ("low", "high"))
        known = np.isfinite(low) & np.isfinite(high)
        reach = np.maximum([values - low, high - values], 0.0)[:, known]
        ax.errorbar(values[known], np.flatnonzero(known), xerr=reach, fmt="none", ecolor=style.INK, lw=1.1, capsize=2.5)
    for level, text, line in ((chance, "chance", "--"), (ceiling, "ceiling", "-")):
        if level is not None and np.isfinite(level):
            ax.axvline(level, color=style.INK, ls=line, lw=1.4, label=text)
    ax.set_yticks(range(len(table)), [style.printable(n.replace("_", " ")) for n in names], fontsize=9)
    style.label(ax, x=axis or metric)
    if ax.get_legend_handles_labels()[0]:
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower right", fontsize=8.5, frameon=False, ncols=2)
    return style.head(figure, title or f"{metric}, 95 % intervals", result)


def ceiling_scatter(result: Result, *, score: str = "r2", ceiling: str = "ceiling") -> Figure:
    """Score of every unit against its noise ceiling, with the line of a perfect model; units without a ceiling are counted."""
    got, most = style.need(result, score, ceiling)
    known = np.isfinite(got) & np.isfinite(most)
    if not known.any():
        raise DataError(f"ceiling: none of {len(got)} units has both {score!r} and {ceiling!r}")
    figure, axes = style.canvas(4.6, 4.1)
    ax = axes[0, 0]
    cells = ax.hexbin(most[known], got[known], gridsize=60, bins="log", cmap="cividis", mincnt=1, linewidths=0)
    top = max(float(most[known].max()), 1e-3)
    ax.plot([0, top], [0, top], color=style.VERMILION, lw=1.5, label="ceiling")
    ax.axhline(0, color=style.GREY, lw=0.8)
    bar = figure.colorbar(cells, ax=ax)
    for each in (bar.ax.yaxis.set_major_formatter, bar.ax.yaxis.set_minor_formatter):
        each(lambda v, _: f"{v:,.0f}" if f"{v:.0f}"[0] in "125" else "")
    bar.set_label("units", fontsize=9)
    ax.legend(fontsize=8.5, frameon=False, loc="upper left")
    style.label(ax, x="noise ceiling (R²)", y="test R²")
    without = int((~known).sum())
    note = f", {without:,} without ceiling" if without else ""
    return style.head(figure, f"Score and ceiling, n = {int(known.sum()):,}{note}", result)


def regions_of(result: Result, n: int) -> pd.Series:
    """The column `roi` of the unit table; DataError if it is missing or not of n rows."""
    if result.units is None or "roi" not in result.units.columns or len(result.units) != n:
        have = "no unit table" if result.units is None else f"{len(result.units)} rows, columns {list(result.units.columns)}"
        raise DataError(
            f"regions are drawn where units have them: name the region of each of {n} units in a column 'roi'; there is {have}"
        )
    return result.units["roi"].astype(str)


def layer_names(result: Result, count: int) -> list[str]:
    """Names of the layers from the config, else 1, 2, 3, ..."""
    given = result.config.get("layers")
    if isinstance(given, (list, tuple)) and len(given) == count:
        return [str(v) for v in given]
    return [str(i + 1) for i in range(count)]


def ticks(ax: Axes, names: Sequence[str], *, most: int = 26) -> None:
    """Layer names on the x axis, at most so many of them, slanted where they are long."""
    step = max(1, int(np.ceil(len(names) / most)))
    places = list(range(0, len(names), step))
    long = max(len(names[i]) for i in places) > 4
    ax.set_xticks(
        places,
        [style.printable(names[i]) for i in places],
        fontsize=8.5,
        rotation=35 if long else 0,
        ha="right" if long else "center",
    )


def _slope(result: Result) -> str:
    """The slope that the metrics report, in its own unit; empty where there is none."""
    for name, value in result.metrics.items():
        if name.endswith("hierarchy_slope"):
            low, high = (result.metrics.get(f"{name}.{side}") for side in ("low", "high"))
            interval = f" [{low:+.2f}, {high:+.2f}]" if low is not None and high is not None else ""
            return f"slope {value:+.2f}{interval} of the network's depth from {FIRST} to {LAST}"
    return ""
