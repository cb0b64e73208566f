"""Reconstructed pictures beside those that were seen, and which region drew what: curves, the cortex, maps, lesions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from brainlens.plots import cortex, mesh, style
from brainlens.plots.attribution import overlay
from brainlens.types import DataError, Result

STRIP = (("ventral", "right"), ("ventral", "left"), ("lateral", "left"), ("medial", "left"))
KINDS = {"value_contribution": "attention x size of values", "contribution": "attention alone", "gradient": "gradient"}
MOST_LINES = 8


def shown_rows(result: Result, *, good: int = 3, middle: int = 3, bad: int = 2) -> np.ndarray:
    """Images (row,) for a figure by score alone: the best, those around the median, and the worst by two-way identification."""
    score = style.need(result, "each/chosen/two_way_clip")[0]
    order, n = np.argsort(-score, kind="stable"), len(score)
    if n <= good + middle + bad:
        return order
    start = max(good, n // 2 - middle // 2)
    return np.concatenate([order[:good], order[start : start + middle], order[n - bad :]])


def candidate_grid(result: Result, *, rows: np.ndarray | None = None) -> Figure:
    """One line an image: seen, every candidate with the chosen one framed, training pictures by ridge and by evidence, latents.

    rows (n,): numbers of images (None: `shown_rows`). Raises DataError for rows that do not exist.
    """
    seen, drawn, at, retrieved, low, score = style.need(
        result, "pictures/seen", "pictures/candidates", "chosen", "pictures/retrieval", "pictures/low_level",
        "each/chosen/two_way_clip",
    )  # fmt: skip
    lines = shown_rows(result) if rows is None else np.asarray(rows)
    if not len(lines) or lines.min() < 0 or lines.max() >= len(seen):
        raise DataError(f"candidates: rows must lie in 0..{len(seen) - 1}, got {lines.tolist()[:5]}")
    others = {"nearest\ntraining picture": retrieved}
    if "pictures/evidence_retrieval" in result.arrays:
        others["training picture\nby evidence"] = np.asarray(result.arrays["pictures/evidence_retrieval"])
    others["latents\nby ridge"] = low
    heads = ["seen", *(f"candidate {c + 1}" for c in range(drawn.shape[1])), *others]
    figure, axes = style.canvas(1.15 * len(heads) + 1.0, 1.22 * len(lines) + 1.0, nrows=len(lines), ncols=len(heads))
    for line, row in zip(axes, lines, strict=True):
        for ax, image in zip(line, [seen[row], *drawn[row], *(found[row] for found in others.values())], strict=True):
            _picture(ax, image)
        _frame(line[1 + int(at[row])])
        line[0].set_ylabel(
            f"two-way\n{style.percent(score[row], 0)}", rotation=0, ha="right", va="center", fontsize=8.5, color=style.INK
        )
    for ax, text in zip(axes[0], heads, strict=True):
        ax.set_title(text, fontsize=8.5, color=style.INK)
    mean = float(np.mean(score))
    title = f"Reconstructions: two-way identification {100 * mean:.1f} %, chance 50 %, n = {len(seen):,}; the chosen ones framed"
    return style.head(figure, title, result)


def groups_of(result: Result) -> dict[str, np.ndarray]:
    """Numbers of the parcels of each region (patches are named "REGION patchN"), else of each parcel; as the arrays have them.

    Of each name (n,) int.
    """
    names = _names(result)
    out: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        region, _, patch = name.rpartition(" ")
        out.setdefault(region if region and patch.startswith("patch") else "no region" if patch.startswith("patch") else name,
                       []).append(number)  # fmt: skip
    return {name: np.array(numbers) for name, numbers in out.items()}


def contribution_curves(result: Result, *, kind: str = "value_contribution") -> Figure:
    """Share of a parcel of each region along denoising, in units of an even share (1 / parcels); shading: 95 % over trials.

    The regions with the highest shares, at most eight. Raises DataError for another kind.
    """
    values = style.need(result, f"{kind}/parcels")[0]
    trials, steps, parcels = values.shape
    groups = groups_of(result)
    mean = {name: values[:, :, numbers].mean(axis=2) * parcels for name, numbers in groups.items()}
    order = sorted(mean, key=lambda name: -float(mean[name].mean()))
    best = order[:MOST_LINES]
    figure, axes = style.canvas(7.6, 3.8)
    ax = axes[0, 0]
    x = np.arange(1, steps + 1)
    for number, name in enumerate(best):
        line, tone = mean[name], style.PALETTE[number % len(style.PALETTE)]
        spread = 1.96 * line.std(axis=0, ddof=1) / np.sqrt(trials) if trials > 1 else 0
        many = f", {len(groups[name])} parcels" if len(groups[name]) > 1 else ""
        ax.plot(x, line.mean(axis=0), color=tone, lw=1.8, label=style.printable(name) + many)
        ax.fill_between(x, line.mean(axis=0) - spread, line.mean(axis=0) + spread, color=tone, alpha=0.15, lw=0)
    ax.axhline(1.0, label="an even share", **style.CHANCE)
    ax.set_xlim(1, max(steps, 2))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8.5, frameon=False)
    style.label(ax, x="step of denoising, from noise to picture", y="contribution of a parcel / even share")
    more = f", {len(order) - len(best)} regions not shown" if len(order) > len(best) else ""
    return style.head(figure, f"Contributions by {KINDS.get(kind, kind)}, n = {trials} images{more}", result)


def time_windows(result: Result) -> np.ndarray:
    """Start and end in ms (window, 2) of parcels that are time windows; empty where they are not."""
    found = [re.fullmatch(r"(-?\d+) to (-?\d+) ms", name) for name in _names(result)]
    return np.array([[int(one[1]), int(one[2])] for one in found if one]) if all(found) else np.zeros((0, 2))


def contribution_windows(result: Result, *, kind: str = "value_contribution") -> Figure:
    """Contribution of each time window of EEG or MEG, in units of an even share, mean over denoising; bars: 95 % over trials.

    Raises DataError for parcels that are no time windows.
    """
    values, windows = style.need(result, f"{kind}/parcels")[0], time_windows(result)
    if not len(windows):
        raise DataError("contributions over time are of time windows; the parcels of this result are others")
    each = values.mean(axis=1) * values.shape[2]
    mean, half = each.mean(axis=0), 1.96 * each.std(axis=0, ddof=1) / np.sqrt(len(each))
    figure, axes = style.canvas(7.6, 3.4)
    ax = axes[0, 0]
    widths = windows[:, 1] - windows[:, 0]
    ax.bar(windows[:, 0], mean, 0.92 * widths, align="edge", color=style.PALETTE[0])
    ax.errorbar(windows[:, 0] + 0.46 * widths, mean, half, fmt="none", ecolor=style.INK, lw=1)
    ax.axhline(1.0, label="an even share", **style.CHANCE)
    ax.set_ylim(0, None)
    ax.legend(fontsize=8.5, frameon=False)
    style.label(ax, x="time after the picture (ms)", y="contribution of a window / even share")
    return style.head(figure, f"When the brain drew: {KINDS.get(kind, kind)}, n = {len(each)} images", result)


def contribution_strip(result: Result, *, kind: str = "value_contribution") -> Figure:
    """The same on the cortex, one row a stretch of denoising, all on one scale in units of an even share.

    Raises DataError for a result without a spatial layout or without such maps.
    """
    count = len(_names(result))
    names = sorted(name for name in result.arrays if name.startswith(f"map/{kind}_") and name[-1].isdecimal())
    if not names:
        style.need(result, f"map/{kind}_0")
    maps = [np.asarray(result.arrays[name], dtype=np.float64) * count for name in names]
    scale, colours = cortex.scale_of(np.concatenate(maps), None)
    figure, axes = style.canvas(2.2 * len(STRIP) + 0.8, 1.75 * len(maps) + 0.9, nrows=len(maps), ncols=len(STRIP))
    for k, (line, values) in enumerate(zip(axes, maps, strict=True)):
        surface = mesh.on_surface(values, result.space)
        for ax, (side, hemisphere) in zip(line, STRIP, strict=True):
            cortex.draw(ax, surface[hemisphere], side, hemisphere=hemisphere, scale=scale, colours=colours, titled=k == 0)
        text = "from noise" if k == 0 else "to picture" if k == len(maps) - 1 else ""
        line[0].text(-0.06, 0.5, f"part {k + 1}\n{text}", transform=line[0].transAxes, ha="right", va="center", fontsize=8.5,
                     color=style.INK)  # fmt: skip
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=list(axes.ravel()), location="bottom", shrink=0.34, aspect=32, pad=0.03
    )
    bar.set_label("contribution of a parcel / even share", fontsize=9)
    return style.head(figure, f"Contributions along denoising, {count} parcels", result)


def map_sets(result: Result) -> list[str]:
    """Names of the sets of regions that have image-guided maps."""
    return [name.removeprefix("maps/") for name in result.arrays if name.startswith("maps/") and name != "maps/pictures"]


def region_map_grid(result: Result, *, most: int = 4, sets: Sequence[str] | None = None) -> Figure:
    """Image-guided maps: the drawn picture, and over it where each set of regions is looked up more than all sets are on average.

    Only what a set has above the mean of all is shown, since all follow the picture. Last line: the same with the brain of
    another image, averaged over images. Raises DataError without maps.
    """
    names = list(map_sets(result) if sets is None else sets)
    if not names:
        style.need(result, "maps/pictures", "maps/V1")
    pictures = style.need(result, "maps/pictures")[0][:most]
    own = np.stack([style.need(result, f"maps/{name}")[0].mean(axis=1) for name in names])
    other = np.stack([style.need(result, f"other_maps/{name}")[0].mean(axis=1) for name in names]).mean(axis=1)
    above = np.clip(own - own.mean(axis=0), 0, None)[:, : len(pictures)]
    figure, axes = style.canvas(1.15 * (len(names) + 1) + 1.0, 1.22 * (len(pictures) + 1) + 0.9, nrows=len(pictures) + 1,
                                ncols=len(names) + 1)  # fmt: skip
    for i, picture in enumerate(pictures):
        _picture(axes[i, 0], picture)
        for ax, heat in zip(axes[i, 1:], above[:, i], strict=True):
            _picture(ax, overlay(picture, heat))
    blank = np.full_like(pictures[0], 40)
    _picture(axes[-1, 0], blank)
    axes[-1, 0].set_ylabel("another\nbrain", rotation=0, ha="right", va="center", fontsize=8.5, color=style.INK)
    for ax, heat in zip(axes[-1, 1:], np.clip(other - other.mean(axis=0), 0, None), strict=True):
        _picture(ax, overlay(blank, heat))
    for ax, text in zip(axes[0], ["drawn", *names], strict=True):
        ax.set_title(style.printable(text, 18), fontsize=8.5, color=style.INK)
    return style.head(figure, "Where in the picture regions are looked up more than others, mean over denoising", result)


def region_map_strip(result: Result, *, image: int = 0, most: int = 4, sets: Sequence[str] | None = None) -> Figure:
    """Image-guided maps of one image along denoising: a line a set of regions, a column a stretch, on one scale.

    Over the drawn picture: where a set is looked up more than all sets are on average in that stretch. The `most` sets whose
    parcels contribute most, or those that are named. Below each: the contribution of a parcel of the set in that stretch over all
    images, in units of an even share. Raises DataError without maps, for an image that is not there, and for unknown sets.
    """
    known = map_sets(result)
    if not known:
        style.need(result, "maps/pictures", "maps/V1")
    unknown = sorted(set(sets or ()) - set(known))
    if unknown:
        raise DataError(f"no set of regions is called {unknown[0]!r}; there are {known}")
    pictures, shares = style.need(result, "maps/pictures", "value_contribution/parcels")
    if not 0 <= image < len(pictures):
        raise DataError(f"maps are of images 0 to {len(pictures) - 1}, got {image}")
    maps = np.stack([style.need(result, f"maps/{name}")[0][image] for name in known])  # (set, bin, side, side)
    above = dict(zip(known, np.clip(maps - maps.mean(axis=0), 0, None), strict=True))
    bins, groups = maps.shape[1], groups_of(result)
    stretch = np.arange(shares.shape[1]) * bins // shares.shape[1]  # as the maps were averaged
    along = shares.mean(axis=0) * shares.shape[2]
    part = {name: [float(along[stretch == k][:, groups[name]].mean()) for k in range(bins)] for name in known}
    names = sorted(known, key=lambda name: -float(np.mean(part[name])))[:most] if sets is None else list(sets)
    top = max(float(above[name].max()) for name in names)
    figure, axes = style.canvas(1.5 * bins + 1.6, 1.62 * len(names) + 0.9, nrows=len(names), ncols=bins)
    for line, name in zip(axes, names, strict=True):
        for ax, heat, value in zip(line, above[name], part[name], strict=True):
            _picture(ax, overlay(pictures[image], heat, most=top))
            ax.set_xlabel(f"{value:.2f}", fontsize=8.5, color=style.INK)
        line[0].set_ylabel(style.printable(name, 18), rotation=0, ha="right", va="center", fontsize=8.5, color=style.INK)
    for k, ax in enumerate(axes[0]):
        text = "from noise" if k == 0 else "to picture" if k == bins - 1 else ""
        ax.set_title(f"part {k + 1}\n{text}", fontsize=8.5, color=style.INK)
    return style.head(figure, f"Where regions are looked up along denoising, image {image + 1}", result)


def lesion_grid(result: Result, *, most: int = 6) -> Figure:
    """Seen, drawn with the whole brain, and without each set of regions at the same noise. Raises DataError without lesions."""
    names = [name.removeprefix("lesion/") for name in result.arrays if name.startswith("lesion/") and name != "lesion/whole"]
    whole = style.need(result, "lesion/whole")[0][:most]
    seen = style.need(result, "pictures/seen")[0]
    columns = [
        ("seen", seen),
        ("whole brain", whole),
        *((f"without\n{n}", np.asarray(result.arrays[f"lesion/{n}"])) for n in names),
    ]
    figure, axes = style.canvas(1.15 * len(columns) + 0.8, 1.22 * len(whole) + 1.0, nrows=len(whole), ncols=len(columns))
    for k, (text, pictures) in enumerate(columns):
        for ax, image in zip(axes[:, k], pictures, strict=False):
            _picture(ax, image)
        axes[0, k].set_title("\n".join(style.printable(line, 16) for line in text.split("\n")), fontsize=8.5, color=style.INK)
    how = "fitted without the regions" if result.config.get("lesion_by") == "refit" else "regions removed from the attention"
    return style.head(figure, f"Lesions: {how}, the same noise, {len(whole)} images", result)


def _names(result: Result) -> list[str]:
    """Names of the kept parcels in the order of the arrays."""
    table = result.tables.get("parcels")
    if table is None or not isinstance(table, pd.DataFrame) or not {"parcel", "number"} <= set(table.columns):
        raise DataError("this result has no table 'parcels' with the names of its parcels; run it with --explain 2 or more")
    return [str(name) for name in table.sort_values("number")["parcel"]]


def _picture(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, interpolation="nearest" if image.shape[0] <= 64 else "antialiased")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _frame(ax: Axes) -> None:
    ax.add_patch(Rectangle((0.0, 0.0), 1, 1, transform=ax.transAxes, fill=False, lw=4, ec=style.GREEN, clip_on=False))
