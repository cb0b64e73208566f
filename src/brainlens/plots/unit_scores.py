"""What an encoding model scores and reads, for units of any origin: no space, region or ceiling is needed."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from brainlens.plots import style
from brainlens.types import DataError, Result


def score_histogram(result: Result, *, score: str = "r2", name: str = "test R²") -> Figure:
    """How many units reach which score: array `score` (unit,); lines at 0 and at the median. Units without a score are counted.

    Scores below the 1st percentile are drawn at it, since a few bad fits would take the whole axis.
    """
    (values,) = style.need(result, score)
    known = values[np.isfinite(values)].astype(float)
    if not len(known):
        raise DataError(f"histogram: none of {len(values)} units has a finite {score!r}")
    figure, axes = style.canvas(5.0, 3.4)
    ax = axes[0, 0]
    ax.hist(np.maximum(known, np.quantile(known, 0.01)), bins=min(40, max(8, len(known) // 8)), color=style.BLUE)
    ax.axvline(0, **style.CHANCE, label="0: the mean response predicts as well")
    ax.axvline(
        float(np.median(known)), color=style.VERMILION, lw=1.6, label=f"median {np.median(known):.3f}".replace("-", "\u2212")
    )
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5, frameon=False
    )  # not over bars
    style.label(ax, x=name, y="units")
    above = int((known > 0).sum())
    left = f", {len(values) - len(known):,} without" if len(known) < len(values) else ""
    return style.head(figure, f"{above:,} of {len(known):,} units have a {name} above 0{left}", result)


def layer_shares(result: Result, *, weights: str = "layer_weights") -> Figure:
    """Mean weight of each layer over the units that are predicted, and how many of them read that layer most.

    Array `weights` (unit, layer), rows that add to 1; units with a test R² of 0 or less are left out, all are shown where none is
    above.
    """
    (omega,) = style.need(result, weights)
    r2 = np.asarray(result.arrays.get("r2", np.ones(len(omega))), dtype=float)
    chosen = r2 > 0 if (r2 > 0).any() else np.ones(len(omega), dtype=bool)
    names = [str(name) for name in result.config.get("layers", range(omega.shape[1]))]
    if len(names) != omega.shape[1]:
        raise DataError(f"layer shares: {omega.shape[1]} layers, but the config names {len(names)}")
    most = np.bincount(omega[chosen].argmax(axis=1), minlength=len(names)) / int(chosen.sum())
    at = np.arange(len(names))
    figure, axes = style.canvas(max(4.2, 0.55 * len(names) + 2.4), 3.4)
    ax = axes[0, 0]
    ax.bar(at - 0.2, omega[chosen].mean(axis=0), width=0.4, color=style.BLUE, label="mean weight")
    ax.bar(at + 0.2, most, width=0.4, color=style.ORANGE, label="share of units that read it most")
    ax.axhline(1 / len(names), **style.CHANCE, label="all layers alike")
    ax.set_xticks(at, [style.printable(name) for name in names], fontsize=8, rotation=30, ha="right")
    ax.legend(fontsize=8.5, frameon=False)
    style.label(ax, y="share")
    return style.head(figure, f"Layers that {int(chosen.sum()):,} predicted units read", result)
