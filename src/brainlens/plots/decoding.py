"""What is decoded from a recording: over time, and which categories are taken for which."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainlens.plots import style
from brainlens.types import DataError, Result

LEVEL = 0.05
MOST_WRITTEN = 16  # categories, above which shares in the cells cannot be read


def over_time(table: pd.DataFrame, *, subjects: np.ndarray | None = None, result: Result | None = None) -> Figure:
    """Area under the ROC curve against time, with its interval, chance, and the times that stand after family-wise correction.

    table: `timecourse` of a decode run (time in s, auc, low, high, p_fwe); subjects (subject, time): a thin line each.
    Raises DataError for missing columns.
    """
    missing = [name for name in ("time", "auc", "low", "high", "p_fwe") if name not in table.columns]
    if missing:
        raise DataError(f"time course has no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    figure, axes = style.canvas(6.4, 3.6)
    ax = axes[0, 0]
    time = 1000 * table["time"].to_numpy(dtype=float)
    ax.fill_between(time, table["low"], table["high"], color=style.PALETTE[0], alpha=0.2, lw=0, label="95 % interval")
    if subjects is not None:
        lines = ax.plot(time, np.asarray(subjects).T, color=style.PALETTE[0], lw=0.6, alpha=0.5)
        lines[0].set_label(f"each of {len(subjects)} subjects")
    ax.plot(time, table["auc"], color=style.PALETTE[0], lw=1.6, label="area under the ROC curve")
    ax.axhline(0.5, label="chance", **style.CHANCE)
    sure = np.flatnonzero(table["p_fwe"].to_numpy(dtype=float) < LEVEL)
    if len(sure):
        low = float(np.nanmin(table["low"].to_numpy(dtype=float))) - 0.02
        ax.plot(time[sure], np.full(len(sure), low), "s", color=style.INK, ms=3, label="p < .05, family-wise")
    if "p_cluster" in table.columns and (table["p_cluster"] < LEVEL).any():
        inside = (table["p_cluster"] < LEVEL).to_numpy()
        low = float(np.nanmin(table["low"].to_numpy(dtype=float))) - 0.05
        ax.plot(time, np.where(inside, low, np.nan), color=style.ORANGE, lw=4, label="cluster of p < .05")
    if time.min() < 0 < time.max():
        ax.axvline(0, color=style.INK, lw=0.6)
    # outside: curve, band, squares and bar fill the axes, and a box over them hides times that stand
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    style.label(ax, x="time (ms)", y="area under the ROC curve")
    trials = None if result is None else result.metrics.get("decode/trials")
    what = "trials" if result is None else str(result.config.get("rows_are", "trials"))
    of = "" if subjects is None else f" of {len(subjects)} subjects"
    return style.head(figure, "Decoding over time" + ("" if trials is None else f", n = {trials:,.0f} {what}{of}"), result)


def confusion_matrix(result: Result) -> Figure:
    """Share of each true category's trials (row) by predicted category (column), with the shares written in small matrices.

    result: of `encode.decode` on patterns, whose table `confusion` has the column true and one for each category.
    Raises DataError for a result without it.
    """
    table = result.tables.get("confusion")
    if table is None or "true" not in table.columns:
        raise DataError(
            f"confusion matrix: the result has no table 'confusion' with a column true; it has {sorted(result.tables)}"
        )
    names = table["true"].astype(str).tolist()
    share = table[names].to_numpy(dtype=float)
    size = max(3.2, min(0.62 * len(names), 11.0))
    figure, axes = style.canvas(size + 1.6, size)
    ax = axes[0, 0]
    image = ax.imshow(share, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
    for i, j in np.ndindex(*share.shape) if len(names) <= MOST_WRITTEN else ():
        tone = "white" if share[i, j] < 0.5 else style.INK
        ax.text(j, i, f"{share[i, j]:.2f}".removeprefix("0"), ha="center", va="center", fontsize=8.5, color=tone)
    small = 8 if len(names) <= MOST_WRITTEN else 5
    ticks = [style.printable(name, 24) for name in names]
    ax.set_xticks(range(len(names)), ticks, fontsize=small, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), ticks, fontsize=small)
    style.label(ax, x="predicted category", y="category shown")
    figure.colorbar(image, ax=ax, shrink=0.75, label="share of the trials of a category")
    n, accuracy = result.metrics.get("decode/trials"), result.metrics.get("decode/accuracy")
    title = "Confusion matrix" + (
        "" if accuracy is None else f", {100 * accuracy:.1f} % correct, chance {100 / len(names):.3g} %"
    )
    return style.head(figure, title + ("" if n is None else f", n = {n:,.0f} trials"), result)
