"""Networks beside each other, and what stands beside one fit: seeds, single layers, patterns of few images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainlens.plots import layers, style
from brainlens.types import DataError, Result


def pattern_profile(result: Result) -> Figure:
    """R2 and two-way identification of held-out patterns by layer, with 95 % intervals over images, chance and its 95 % range.

    Needs table `layers` (layer, r2, two_way, each with .low and .high) and, for the range, arrays null/r2_weighted and
    null/two_way_patterns (the whole procedure with images shuffled).
    """
    table = _table(result, "layers", "layer", "r2", "two_way")
    names = [str(v) for v in table["layer"]]
    figure, axes = style.canvas(max(7.2, 0.5 * len(names) + 2.4), 3.6, ncols=2)
    panels = (("r2", "held-out R²", 0.0, "null/r2_weighted"), ("two_way", "two-way identification", 0.5, "null/two_way_patterns"))
    for ax, (column, text, chance, null) in zip(axes[0], panels, strict=True):
        _points(ax, table, column)
        if null in result.arrays:
            low, high = np.quantile(result.arrays[null], [0.025, 0.975])
            ax.axhspan(low, high, color=style.GREY, alpha=0.22, lw=0, label="images shuffled, 95 %")
        ax.axhline(chance, label="chance", **style.CHANCE)
        layers.ticks(ax, names)
        style.label(ax, x="layer", y=text)
    axes[0, 1].yaxis.set_major_formatter(style.percent_ticks())
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower right", fontsize=8.5, frameon=False, ncols=3)
    n = int(result.metrics.get("encoding/n", 0))
    return style.head(figure, f"Patterns of {n} images that the model was not fitted on, layer by layer", result)


def dissimilarities(result: Result, *, groups: Sequence[str] | None = None) -> Figure:
    """Measured and predicted dissimilarities of all pairs, as ranks from 0 (most alike) to 1, images sorted by group."""
    measured, predicted = style.need(result, "rdm/measured", "rdm/predicted")
    if measured.shape != predicted.shape:
        raise DataError(f"dissimilarities: {measured.shape} measured and {predicted.shape} predicted pairs")
    n = round((1 + np.sqrt(1 + 8 * len(measured))) / 2)
    order = np.arange(n) if groups is None else np.argsort(np.asarray(groups, dtype=str), kind="stable")
    figure, axes = style.canvas(8.6, 3.5, ncols=2)
    for ax, pairs, text in ((axes[0, 0], measured, "measured, mean of subjects"), (axes[0, 1], predicted, "predicted, held out")):
        square = np.full((n, n), np.nan)
        upper = np.triu_indices(n, 1)
        square[upper] = np.argsort(np.argsort(pairs)) / (len(pairs) - 1)
        square.T[upper] = square[upper]
        image = ax.imshow(square[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(text, fontsize=9.5, color=style.INK)
        if groups is not None:
            _mark_groups(ax, np.asarray(groups, dtype=str)[order], named=ax is axes[0, 0])
    bar = figure.colorbar(image, ax=list(axes.ravel()), shrink=0.8)
    bar.set_label("dissimilarity (rank)", fontsize=9)
    found = result.metrics.get("encoding/rdm/match_correlation")
    text = "" if found is None else f", Spearman with single subjects {found:.2f}"
    return style.head(figure, f"Dissimilarities of {n} images{text}", result)


def region_heatmaps(table: pd.DataFrame, *, result: Result | None = None) -> Figure:
    """R2 of every model in every region, and its root mean squared distance to the best of all models (table 1)."""
    regions = [str(c).removeprefix("R2 ") for c in table.columns if str(c).startswith("R2 ")]
    regions = [r for r in regions if f"distance {r}" in table.columns and r.lower() not in layers.NO_REGION]
    if not regions or "model" not in table.columns:
        raise DataError(
            f"comparison by region needs columns model, 'R2 <roi>' and 'distance <roi>'; it has {list(table.columns)}"
        )
    names = [style.printable(str(v).replace("_", " ")) for v in table["model"]]
    wide = max(0.62 * len(regions) + 2.2, 4.2)
    figure, axes = style.canvas(2 * wide, 0.42 * len(names) + 1.9, ncols=2)
    for ax, key, text, colours in (
        (axes[0, 0], "R2", "mean R²", "cividis"),
        (axes[0, 1], "distance", "distance to the best model", "cividis_r"),
    ):
        values = table[[f"{key} {r}" for r in regions]].to_numpy(dtype=float)
        image = ax.imshow(values, aspect="auto", cmap=colours, vmin=min(0.0, float(np.nanmin(values))))
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        for i, j in np.ndindex(values.shape):
            dark = (values[i, j] - min(0.0, low)) / max(high - min(0.0, low), 1e-12) < 0.55
            tone = "white" if dark == (key == "R2") else style.INK
            ax.text(j, i, f"{values[i, j]:.3f}".replace("0.", ".", 1), ha="center", va="center", fontsize=8.5, color=tone)
        ax.set_yticks(range(len(names)), names if ax is axes[0, 0] else [""] * len(names), fontsize=9)
        layers.ticks(ax, regions)
        ax.set_title(text, fontsize=9.5, color=style.INK)
        figure.colorbar(image, ax=ax, shrink=0.85)
    return style.head(figure, "Models by region", result)


def one_layer(result: Result) -> Figure:
    """Scores of one-layer models above the selector's mean weight of each layer (figure 25)."""
    table = _table(result, "one_layer", "layer", "selector_weight", "single_layer_r2")
    names = [str(v) for v in table["layer"]]
    figure, axes = style.canvas(max(5.2, 0.42 * len(names) + 2.0), 4.6, nrows=2, sharex=True)
    _points(axes[0, 0], table, "single_layer_r2")
    axes[0, 0].axhline(0, label="chance", **style.CHANCE)
    axes[0, 0].legend(fontsize=8.5, frameon=False)
    style.label(axes[0, 0], y="R², one layer alone")
    axes[1, 0].bar(range(len(names)), table["selector_weight"].to_numpy(dtype=float), color=style.VERMILION, width=0.7)
    axes[1, 0].axhline(1 / len(names), color=style.INK, ls=":", lw=1.2, label="uniform")
    axes[1, 0].legend(fontsize=8.5, frameon=False)
    layers.ticks(axes[1, 0], names)
    style.label(axes[1, 0], x="layer", y="selector weight")
    m = result.metrics
    r, low, high = (m.get(f"encoding/one_layer/layer_correlation{e}", np.nan) for e in ("", ".low", ".high"))
    said = "" if np.isnan(r) else f": rank correlation over units {r:.2f} [{low:.2f}, {high:.2f}]"
    return style.head(figure, f"One-layer models and the selector's weights{said}", result)


def consistency(result: Result) -> Figure:
    """Correlation of layer maps of every pair of fits (seeds or subjects), and their share of equal layers beside chance."""
    table = _table(result, "consistency", "a", "b", "correlation", "same_layer", "chance")
    names = list(dict.fromkeys([*table["a"].astype(str), *table["b"].astype(str)]))
    side = 0.62 * len(names) + 2.4
    figure, axes = style.canvas(2 * side + 0.6, side, ncols=2)
    for ax, column, text, least in (
        (axes[0, 0], "correlation", "correlation of layer position", -1.0),
        (axes[0, 1], "same_layer", "share of units with the same layer", 0.0),
    ):
        square = np.full((len(names), len(names)), np.nan)
        for row in table.to_dict("records"):
            i, j = names.index(str(row["a"])), names.index(str(row["b"]))
            square[i, j] = square[j, i] = row[column]
        colours = "RdBu_r" if least < 0 else "cividis"
        image = ax.imshow(square, vmin=least, vmax=1, cmap=colours)
        for i, j in np.ndindex(square.shape):
            if np.isfinite(square[i, j]):
                light = abs(square[i, j]) > 0.6 if least < 0 else square[i, j] < 0.5
                ax.text(j, i, f"{square[i, j]:.2f}", ha="center", va="center", fontsize=9, color="white" if light else style.INK)
        ax.set_xticks(range(len(names)), names, fontsize=8.5, rotation=30, ha="right")
        ax.set_yticks(range(len(names)), names, fontsize=8.5)
        ax.set_title(text, fontsize=9.5, color=style.INK)
        figure.colorbar(image, ax=ax, shrink=0.8)
    n, chance = int(table["units"].iloc[0]) if "units" in table.columns else 0, float(table["chance"].mean())
    return style.head(figure, f"Do fits agree? n = {n:,} units; equal layers by chance {chance:.2f}", result)


def channel_pictures(result: Result, *, most: int = 8, regions: Sequence[str] | None = None) -> Figure:
    """Pictures, and below them, a row a region, what its three main channels respond to: PCA of channel weights as RGB.

    Needs arrays channels/images (image, h, w, 3) and channels/map/<roi> (image, rows, columns, 3) in [0, 1].
    """
    (images,) = style.need(result, "channels/images")
    have = [name.removeprefix("channels/map/") for name in result.arrays if name.startswith("channels/map/")]
    chosen = [r for r in (regions or have) if r in have]
    if not chosen:
        raise DataError(f"channel pictures: no region of {list(regions or [])} has a map; there are {have}")
    k = min(most, len(images))
    figure, axes = style.canvas(1.12 * k + 1.0, 1.12 * (len(chosen) + 1) + 0.6, nrows=len(chosen) + 1, ncols=k)
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    for j in range(k):
        axes[0, j].imshow(images[j])
    axes[0, 0].set_ylabel("picture", fontsize=9)
    for i, roi in enumerate(chosen, start=1):
        maps = np.asarray(result.arrays[f"channels/map/{roi}"], dtype=float)
        for j in range(k):
            axes[i, j].imshow(maps[j].clip(0, 1), interpolation="nearest")
        axes[i, 0].set_ylabel(style.printable(roi), fontsize=9)
    return style.head(figure, "Three main channels of each region as red, green and blue", result)


def _points(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Values over the rows of a table with their intervals, joined by a thin line."""
    at, value = np.arange(len(table)), table[column].to_numpy(dtype=float)
    ax.plot(at, value, color=style.BLUE, lw=1.2, alpha=0.6)
    if {f"{column}.low", f"{column}.high"} <= set(table.columns):
        low, high = (table[f"{column}.{side}"].to_numpy(dtype=float) for side in ("low", "high"))
        reach = np.maximum([value - low, high - value], 0.0)
        ax.errorbar(at, value, yerr=reach, fmt="o", color=style.BLUE, ms=4.5, capsize=2.5, lw=1.3, label="95 % interval")
    else:
        ax.plot(at, value, "o", color=style.BLUE, ms=4.5)


def _mark_groups(ax: Axes, sorted_groups: np.ndarray, *, named: bool) -> None:
    """The names of the groups on the left side, with a line between them."""
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    ends = np.r_[starts[1:], len(sorted_groups)]
    for start in starts[1:]:
        ax.axhline(start - 0.5, color="white", lw=0.8)
        ax.axvline(start - 0.5, color="white", lw=0.8)
    if not named:
        return
    ax.set_yticks((starts + ends - 1) / 2, [style.printable(str(sorted_groups[s])) for s in starts], fontsize=8)
    ax.tick_params(axis="y", length=0)


def _table(result: Result, name: str, *columns: str) -> pd.DataFrame:
    if name not in result.tables:
        raise DataError(f"the {result.task} result has no table {name!r}; it has {sorted(result.tables)}")
    table = result.tables[name]
    missing = [c for c in columns if c not in table.columns]
    if missing or table.empty:
        raise DataError(f"table {name!r} needs rows and a column {(missing or columns)[0]!r}; it has {list(table.columns)}")
    return table
