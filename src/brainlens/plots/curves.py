"""Lines over steps, images, layers, areas and settings."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import trapezoid as scipy_trapezoid

from brainlens.plots import layers, style
from brainlens.types import DataError, Result
from brainlens.types.scores import spelled

SETTINGS = {  # scores of attribution by the names that papers give them
    "image_drop": "confidence drop, image",
    "image_matched_drop": "confidence drop at a matched area, image",
    "map_area": "area of the map (share of units)",
    "truth_auroc": "area under the ROC curve against the truth",
}
SCORES = {"validation_mrr": "mean reciprocal rank", "validation_text": "loss without regions"}


def training(result: Result, *, log: str | pd.DataFrame = "log") -> Figure:
    """Loss by step, and each validation score by step in its own panel; the step of the best validation score is marked.

    log: a table with `step`, `loss` and any columns `validation_<score>`; scores named loss or rank are better when lower.
    A column `encoder` gives one line an encoder.

    Raises DataError for a table without steps or without anything to draw.
    """
    table = _table(result, log, "step")
    scores = [
        c for c in table.columns if str(c).startswith("validation_") and pd.to_numeric(table[c], errors="coerce").notna().any()
    ]
    losses = [c for c in table.columns if c == "loss" or str(c).startswith("loss_")]
    if not losses and not scores:
        raise DataError(f"training log has no loss and no validation column; it has {', '.join(map(str, table.columns))}")
    panels = [("loss", losses)] if losses else []
    panels += [
        (SCORES.get(str(c), str(c).removeprefix("validation_").replace("_", " ")) + " (validation)", [c]) for c in scores[:3]
    ]
    parts = list(table.groupby("encoder", sort=False)) if "encoder" in table.columns else [("", table)]
    figure, axes = style.canvas(3.7 * len(panels) + 0.6, 3.3, ncols=len(panels))
    for ax, (text, columns) in zip(axes[0], panels, strict=True):
        for i, (name, part) in enumerate(parts):
            for j, column in enumerate(columns):
                tone = style.colour(str(name), i) if len(parts) > 1 else style.PALETTE[j % 8]
                _run(ax, part, str(column), tone, str(name))
        ax.legend(fontsize=8, frameon=False)
        style.label(ax, x="step", y=text)
    return style.head(figure, f"Training, {int(pd.to_numeric(table['step']).max()):,} steps", result)


def _run(ax: Axes, part: pd.DataFrame, column: str, tone: str, name: str) -> None:
    """One line of a training log; a star and its value mark the best validation."""
    step, value = _numeric(part, "step", column)
    if not len(step):
        return
    text = style.printable(name.replace("_", " ") or column.replace("_", " "))
    if column.startswith("validation_"):
        best = int(np.argmin(value) if any(word in column for word in ("loss", "rank")) else np.argmax(value))
        text += f": best {value[best]:.3g} at step {step[best]:.0f}"
        ax.plot(step[best], value[best], "*", color=tone, mec=style.INK, mew=0.6, ms=11, zorder=3)
    ax.plot(step, value, color=tone, lw=1.6, marker="." if len(step) < 60 else "", label=text)


def learning_curve(
    table: pd.DataFrame,
    metric: str,
    *,
    x: str = "images",
    name: str = "encoder",
    chance: float | None = None,
    axis: str = "",
    result: Result | None = None,
) -> Figure:
    """A score against the number of training images, one line an encoder, with intervals where the table has them.

    axis: what the score is called, for its axis and the title; else the column's name.

    Raises DataError for missing columns.
    """
    for column in (x, metric):
        if column not in table.columns:
            raise DataError(f"learning curve has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    figure, axes = style.canvas(5.4, 3.7)
    ax = axes[0, 0]
    groups = table.groupby(name, sort=False) if name in table.columns else [("", table)]
    for i, (label, part) in enumerate(groups):
        part = part.sort_values(x)
        _band(ax, part, x, metric, style.colour(str(label), i), spelled(str(label)))
    if chance is not None:
        ax.axhline(chance, label="chance", **style.CHANCE)
    ax.set_xscale("log")
    values = sorted(set(table[x].astype(float)))
    ax.set_xticks(values, [f"{v:,.0f}" for v in values], fontsize=8.5)
    ax.minorticks_off()
    ax.legend(fontsize=8.5, frameon=False)
    style.label(ax, x=f"training {x}", y=axis or metric)
    return style.head(figure, f"{axis or metric} by training {x}, 95 % intervals", result)


def degradation(
    curves: dict[str, np.ndarray],
    *,
    kind: str = "deletion",
    at: np.ndarray | None = None,
    unit: str = "cosine to the target",
    what: str = "units",
    result: Result | None = None,
) -> Figure:
    """Score while the most important units are deleted (or inserted) first, one line a method; area under it in the legend.

    curves: {method: (point,) or (stimulus, point)}; with stimuli the mean and the 95 % interval of the mean are drawn. at
    (point,): the share that is deleted at each point, evenly from 0 to 1 unless given; shares that are closer at the start are
    drawn on a scale that widens them there.
    """
    if kind not in ("deletion", "insertion") or not curves:
        raise DataError(
            f"degradation: kind is 'deletion' or 'insertion' and curves are not empty; got {kind!r}, {len(curves)} curves"
        )
    beside = len(curves) > 3  # so many names would lie on the curves
    figure, axes = style.canvas(7.4 if beside else 5.2, 3.7)
    ax = axes[0, 0]
    n = 0
    for i, (method, values) in enumerate(curves.items()):
        rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
        x = np.linspace(0, 1, rows.shape[1]) if at is None else np.asarray(at, dtype=np.float64)
        mean, tone = rows.mean(axis=0), style.colour(method, i)
        area = float(scipy_trapezoid(mean, x))
        ax.plot(x, mean, color=tone, lw=1.8, label=f"{style.printable(spelled(method))}  (area {area:.3f})")
        if len(rows) > 1:
            n = max(n, len(rows))
            reach = 1.96 * rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
            ax.fill_between(x, mean - reach, mean + reach, color=tone, alpha=0.18, linewidth=0)
    if at is not None and len(at) > 3 and at[1] < 0.5 / (len(at) - 1):  # closer at the start, where the map's units are
        ax.set_xscale("symlog", linthresh=float(at[1]))
        ticks = [v for v in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if v in np.round(at, 6)]
        ax.set_xticks(ticks)
        ax.minorticks_off()
    ax.xaxis.set_major_formatter(style.percent_ticks())
    ax.legend(fontsize=8.5, frameon=False, **({"loc": "center left", "bbox_to_anchor": (1.02, 0.5)} if beside else {}))
    verb = "deleted" if kind == "deletion" else "inserted"
    style.label(ax, x=f"share of {what} {verb}, most important first", y=unit)
    return style.head(figure, kind.capitalize() + (f", n = {n:,} stimuli" if n else ""), result)


def sensitivity(table: pd.DataFrame, metric: str, *, result: Result | None = None) -> Figure:
    """A score against each hyperparameter, one panel each, from a table with columns parameter, value and the metric."""
    for column in ("parameter", "value", metric):
        if column not in table.columns:
            raise DataError(f"sensitivity has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    groups, said = list(table.groupby("parameter", sort=False)), SETTINGS.get(metric, metric.replace("_", " "))
    figure, axes = style.canvas(2.7 * len(groups) + 0.5, 3.0, ncols=len(groups), sharey=True)
    for i, (ax, (parameter, part)) in enumerate(zip(axes[0], groups, strict=True)):
        part = part.assign(_at=range(len(part)))
        _band(ax, part, "_at", metric, style.PALETTE[i % 8], "", marker="o")
        ax.set_xticks(
            part["_at"],
            [style.printable(f"{v:g}" if isinstance(v, (int, float)) else str(v)) for v in part["value"]],
            fontsize=8.5,
        )
        style.label(ax, x=str(parameter), y=said if i == 0 else "")
    return style.head(figure, f"Sensitivity of {said}", result)


def rsa_profile(
    result: Result,
    *,
    table: str | pd.DataFrame = "rsa",
    ceiling: tuple[float, float] | None = None,
    controls: dict[str, float] | None = None,
) -> Figure:
    """Correlation of each layer's dissimilarities with the brain's, with intervals, the noise-ceiling band and controls.

    table: columns layer, r (or score), and low, high where known; the table `profile` of `metrics.rsa` serves as well.
    ceiling: by default metrics ending in `ceiling_low` and `ceiling_high`.
    controls: {name: r} drawn as dashed lines (pixels, shuffled).
    """
    if isinstance(table, str) and table not in result.tables and "profile" in result.tables:
        table = "profile"  # the name that metrics.similarity.rsa gives it
    rows = _table(result, table, "layer")
    rows = rows.rename(columns={"score": "r"}) if "r" not in rows.columns else rows
    if "r" not in rows.columns:
        raise DataError(f"rsa table has no column 'r'; it has {', '.join(map(str, rows.columns))}")
    names = [str(v) for v in rows["layer"]]
    part = rows.assign(_at=range(len(rows)))
    renamed = part.rename(columns={"low": "r.low", "high": "r.high"})
    figure, axes = style.canvas(max(5.2, 0.42 * len(rows) + 2.0), 3.7)
    ax = axes[0, 0]
    ceiling = ceiling or _ceiling(result)
    if ceiling is not None:
        ax.axhspan(
            *ceiling, color=style.GREY, alpha=0.22, linewidth=0, label=f"noise ceiling {ceiling[0]:.2f} to {ceiling[1]:.2f}"
        )
    _band(ax, renamed, "_at", "r", style.BLUE, "layer", marker="o")
    for i, (name, value) in enumerate((controls or {}).items()):
        ax.axhline(value, color=style.PALETTE[1 + i], ls="--", lw=1.2, label=f"{style.printable(name)} {value:.3f}")
    ax.axhline(0, color=style.GREY, lw=0.8)
    layers.ticks(ax, names)
    ax.legend(fontsize=8.5, frameon=False)
    style.label(ax, x="layer", y="Spearman correlation")
    return style.head(figure, "Similarity to the brain by layer, 95 % intervals", result)


def _table(result: Result, table: str | pd.DataFrame, column: str) -> pd.DataFrame:
    if isinstance(table, str):
        if table not in result.tables:
            raise DataError(
                f"the {result.task} result has no table {table!r}; it has {', '.join(sorted(result.tables)) or 'none'}"
            )
        table = result.tables[table]
    if column not in table.columns or table.empty:
        raise DataError(
            f"table needs rows and a column {column!r}; it has {len(table)} rows, columns {', '.join(map(str, table.columns))}"
        )
    return table


def _numeric(table: pd.DataFrame, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = (pd.to_numeric(table[c], errors="coerce").to_numpy(dtype=float) for c in (x, y))
    known = np.isfinite(a) & np.isfinite(b)
    return a[known], b[known]


def _band(ax: Axes, part: pd.DataFrame, x: str, y: str, tone: str, label: str, *, marker: str = "o") -> None:
    at, value = part[x].to_numpy(dtype=float), part[y].to_numpy(dtype=float)
    ax.plot(at, value, color=tone, marker=marker, ms=4, lw=1.7, label=style.printable(label) if label else None)
    if {f"{y}.low", f"{y}.high"} <= set(part.columns):
        low, high = (part[f"{y}.{side}"].to_numpy(dtype=float) for side in ("low", "high"))
        ax.fill_between(at, low, high, color=tone, alpha=0.18, linewidth=0)


def _ceiling(result: Result) -> tuple[float, float] | None:
    low = [v for k, v in result.metrics.items() if k.endswith("ceiling_low")]
    high = [v for k, v in result.metrics.items() if k.endswith("ceiling_high")]
    return (float(low[0]), float(high[0])) if low and high else None
