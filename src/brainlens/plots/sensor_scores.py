"""Scores of EEG and MEG decoding: against averaged repetitions, by variant of a model, by category before and after."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainlens.plots import embeddings, style
from brainlens.types import DataError, Result

SCORES = ("top1", "top5")


def repetitions(table: pd.DataFrame, *, chance: dict[str, float] | None = None, result: Result | None = None) -> Figure:
    """Top-1 and top-5 against the number of averaged test repetitions, with 95 % bands.

    table: columns repeats and any of top1, top5 with their `.low` and `.high`; chance: {"top1": .., "top5": ..}.
    Raises DataError for missing columns.
    """
    present = [score for score in SCORES if score in table.columns]
    if "repeats" not in table.columns or not present or not len(table):
        raise DataError(f"repetitions: needs repeats and top1 or top5; the table has {', '.join(map(str, table.columns))}")
    figure, axes = style.canvas(5.2, 3.6)
    ax = axes[0, 0]
    at = table["repeats"].to_numpy(dtype=float)
    for tone, score in zip((style.BLUE, style.VERMILION), present):
        ax.plot(at, table[score], color=tone, marker="o", ms=4, lw=1.7, label=score.replace("top", "top-"))
        if {f"{score}.low", f"{score}.high"} <= set(table.columns):
            ax.fill_between(at, table[f"{score}.low"], table[f"{score}.high"], color=tone, alpha=0.18, linewidth=0)
        if chance and score in chance:
            ax.axhline(chance[score], color=tone, ls="--", lw=1.0, label=f"chance {style.percent(chance[score])}")
    ax.set_xscale("log", base=2)
    ax.set_xticks(at, [f"{v:g}" for v in at], fontsize=8.5)
    ax.minorticks_off()
    ax.set_ylim(0, None)
    ax.yaxis.set_major_formatter(style.percent_ticks())
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    style.label(ax, x="test repetitions averaged", y="accuracy")
    return style.head(figure, "Retrieval by averaged repetitions, 95 % intervals", result)


def variants(table: pd.DataFrame, *, title: str, result: Result | None = None) -> Figure:
    """Top-1 and top-5 of variants of a model as bars with 95 % intervals; the variant "full" stands out.

    table: columns variant, top1, top5, their `.low` and `.high`, and chance1, chance5 where known.
    """
    missing = [column for column in ("variant", *SCORES) if column not in table.columns]
    if missing or not len(table):
        raise DataError(
            f"variants have no column {(missing or ['variant'])[0]!r}; they have {', '.join(map(str, table.columns))}"
        )
    figure, axes = style.canvas(max(7.6, 1.0 + 1.3 * len(table)), 3.7, ncols=2)
    for ax, score in zip(axes[0], SCORES):
        x, height = np.arange(len(table)), table[score].to_numpy(dtype=float)
        ax.bar(x, height, 0.66, color=[style.BLUE if str(v) == "full" else style.SKY for v in table["variant"]])
        if {f"{score}.low", f"{score}.high"} <= set(table.columns):
            low, high = (table[f"{score}.{side}"].to_numpy(dtype=float) for side in ("low", "high"))
            ax.errorbar(
                x, height, yerr=np.maximum([height - low, high - height], 0), fmt="none", ecolor=style.INK, lw=1.1, capsize=3
            )
        name, said = f"chance{score.removeprefix('top')}", score.replace("top", "top-")
        if name in table.columns:
            ax.axhline(float(table[name].iloc[0]), **style.CHANCE)
            said += f" (dashed: chance, {style.percent(float(table[name].iloc[0]))})"
        ax.set_xticks(x, [style.printable(str(v)).replace(" ", "\n") for v in table["variant"]], fontsize=8.5)
        ax.set_ylim(0, None)
        ax.yaxis.set_major_formatter(style.percent_ticks())
        style.label(ax, y=said)
    return style.head(figure, title, result)


def categories(result: Result, *, method: str = "tsne", seed: int = 0) -> Figure:
    """Test images by category in two dimensions: the recordings, the embeddings without guidance where known, the embeddings.

    Needs `embedding_before`, `embedding/brain` and `groups`; `embedding_without_guidance` is a panel of its own. Each panel is
    reduced on its own, after centring and scaling to unit length.
    Raises DataError for missing arrays, and UMAP where it is not installed.
    """
    style.need(result, "embedding/brain", "groups")
    panels = [
        ("embedding_before", "recordings"),
        ("embedding_without_guidance", "without guidance"),
        ("embedding/brain", "aligned"),
    ]
    panels = [(name, text) for name, text in panels if name in result.arrays]
    groups = np.asarray(result.arrays["groups"]).astype(str)
    names = sorted(set(groups))
    figure, axes = style.canvas(max(2.7 * len(panels), 5.4) + 0.3, 3.5, ncols=len(panels))
    axis = ""
    for ax, (name, text) in zip(axes[0], panels):
        points = np.asarray(result.arrays[name], dtype=np.float64)
        points = points - points.mean(axis=0)
        points /= np.linalg.norm(points, axis=1, keepdims=True).clip(1e-12)
        flat, axis = embeddings.reduce(points, method=method, seed=seed)
        for i, group in enumerate(names):
            chosen = groups == group
            tone = style.PALETTE[i % len(style.PALETTE)]
            ax.scatter(flat[chosen, 0], flat[chosen, 1], s=17, color=tone, alpha=0.85, linewidths=0, label=style.printable(group))
        ax.set_xticks([])
        ax.set_yticks([])
        style.label(ax, title=text, x=f"{axis} 1", y=f"{axis} 2")
    if len(names) <= len(style.PALETTE):
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 8), fontsize=8.5, frameon=False)
    return style.head(figure, f"{axis} of {len(groups):,} test images by category", result)
