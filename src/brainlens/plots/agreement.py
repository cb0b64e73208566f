"""How far descriptions agree: regions with their chance, and matrices of pairs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from brainlens.plots import style
from brainlens.types import DataError, Result

REGIONS = {"region_overlap": "overlap of first words", "region_correlation": "correlation of profiles"}
PAIRS = {"same_word": "same first word, by unit", **REGIONS}
MOST = 40  # regions on one figure


def region_likeness(result: Result, *, most: int = MOST) -> Figure:
    """Likeness of each region between descriptions as points, chance (regions of other names) as circles; the likest first.

    Raises DataError for a result without the table `agreement_regions`.
    """
    table = result.tables.get("agreement_regions")
    kinds = [] if table is None else [key for key in REGIONS if key in table.columns]
    if table is None or not kinds:
        raise DataError(f"likeness of regions: the result has no table of regions; it has {sorted(result.tables)}")
    shown = table.sort_values(kinds[0], kind="stable", na_position="first").tail(most)
    at = np.arange(len(shown))
    figure, axes = style.canvas(3.6 * len(kinds) + 1.2, 0.27 * len(shown) + 1.5, ncols=len(kinds), sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        value, chance = (shown[column].to_numpy(float) for column in (kind, f"{kind} chance"))
        ax.hlines(at, np.minimum(value, chance), np.maximum(value, chance), color=style.FAINT, lw=1)
        ax.plot(chance, at, "o", mfc="white", mec=style.FAINT, ms=5, label="chance: regions of other names")
        ax.plot(value, at, "o", color=style.BLUE, ms=5.5, label="same region")
        ax.set_xlim(min(0.0, float(np.nanmin([value, chance])) - 0.05), 1.03)
        style.label(ax, x=REGIONS[kind])
    axes[0, 0].set_yticks(at, [style.printable(str(name)) for name in shown["roi"]], fontsize=8.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    part = "" if len(shown) == len(table) else f", the {len(shown)} likest of {len(table)}"
    return style.head(figure, f"Do regions get the same words? {len(shown)} regions{part}", result)


def pair_matrices(result: Result) -> Figure:
    """A matrix (description, description) of each score of pairs, with its numbers where they can be read.

    Raises DataError for a result without the table `agreement`.
    """
    table = result.tables.get("agreement")
    kinds = [] if table is None else [key for key in PAIRS if key in table.columns]
    if table is None or not kinds:
        raise DataError(f"agreement of pairs: the result has no table of pairs; it has {sorted(result.tables)}")
    names = list(dict.fromkeys([*table["a"].astype(str), *table["b"].astype(str)]))
    figure, axes = style.canvas(3.4 * len(kinds) + 0.8, 3.6, ncols=len(kinds))
    for ax, kind in zip(axes[0], kinds, strict=True):
        square = np.full((len(names), len(names)), np.nan)
        for row in table.to_dict("records"):
            i, j = names.index(str(row["a"])), names.index(str(row["b"]))
            square[i, j] = square[j, i] = row[kind]
        image = ax.imshow(square, vmin=0, vmax=1, cmap="cividis")
        for i, j in np.argwhere(np.isfinite(square)) if len(names) <= 10 else ():
            tone = "white" if square[i, j] < 0.5 else style.INK
            ax.text(j, i, f"{square[i, j]:.2f}", ha="center", va="center", fontsize=8.5, color=tone)
        ticks = [style.printable(name) for name in names]
        ax.set_xticks(range(len(names)), ticks, fontsize=8, rotation=30, ha="right")
        ax.set_yticks(range(len(names)), ticks, fontsize=8)
        style.label(ax, title=PAIRS[kind])
        figure.colorbar(image, ax=ax, shrink=0.75)
    return style.head(figure, f"Agreement of {len(names)} descriptions", result)
