"""Retrieval as pictures and as bars: what was asked, what was found, and how far that is from chance and from the ideal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from brainlens.plots import style
from brainlens.types import DataError, Result
from brainlens.types.scores import spelled

DIRECTIONS = ("brain->image", "image->brain", "brain->text", "text->brain")
SHOWN = 5
Scores = dict[str, dict[str, float]]  # encoder -> metric names `retrieval/<direction>/<score>` -> value


def cases(result: Result, *, direction: str = "brain->image", good: int = 4, bad: int = 4) -> np.ndarray:
    """Which queries a gallery shows: evenly over the best half of the ranks, then the worst ones; nothing is picked by hand.

    Good cases are queries at the quantiles 0 .. 0.5 of the rank, bad ones the quantiles 0.8 .. 1. Numbers (n,) in that order.
    """
    ranks = style.need(result, f"ranks/{direction}")[0]
    order = np.argsort(ranks, kind="stable")
    last = len(order) - 1
    at = np.concatenate([np.linspace(0, 0.5, good) if good else [], np.linspace(0.8, 1.0, bad) if bad else []])
    return order[np.unique(np.rint(at * last).astype(int))]


def gallery(result: Result, *, direction: str = "brain->image", rows: np.ndarray | None = None, shown: int = SHOWN) -> Figure:
    """For each query its picture, the first five that were retrieved (the right one framed), and the rank of the right one.

    Needs `gallery/images` (stimulus, h, w, 3), `neighbours/<direction>` (stimulus, >= shown) and `ranks/<direction>`
    (0 = best). rows: which queries; by default `cases`.

    Raises DataError for missing arrays or rows that do not exist.
    """
    images, near, ranks = style.need(result, "gallery/images", f"neighbours/{direction}", f"ranks/{direction}")
    rows = cases(result, direction=direction) if rows is None else np.asarray(rows)
    n = len(ranks)
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= n or len(images) != n or near.shape[0] != n:
        raise DataError(
            f"gallery: rows must lie in 0..{n - 1}, with {n} images; got {len(images)} images and rows {rows.tolist()[:5]}"
        )
    shown = min(shown, near.shape[1])
    figure, axes = style.canvas(1.25 * (shown + 1) + 1.1, 1.28 * len(rows) + 0.8, nrows=len(rows), ncols=shown + 1)
    for line, row in zip(axes, rows, strict=True):
        _picture(line[0], images[row])
        line[0].set_ylabel(
            f"rank {int(ranks[row]) + 1:,}\nof {n:,}", rotation=0, ha="right", va="center", fontsize=9, color=style.INK
        )
        for k, ax in enumerate(line[1:]):
            hit = bool(near[row, k] == row)
            _picture(ax, images[near[row, k]], frame=style.GREEN if hit else None)
    for k, ax in enumerate(axes[0]):
        ax.set_title("seen" if k == 0 else f"{k}", fontsize=9.5, color=style.INK)
    query, found = direction.split("->")
    share = float(np.mean(ranks < 1))
    title = f"{query} → {found}: top-1 {style.percent(share)}, chance {style.percent(1 / n)}, n = {n:,}"
    return style.head(figure, title, result)


def topk_bars(scores: Scores, *, k: int = 1, title: str = "", result: Result | None = None) -> Figure:
    """Top-k of every encoder in the four directions, with 95 % intervals, the chance line and the ideal observer.

    scores: {encoder: {"retrieval/brain->image/top1": .., "....low": .., "....high": .., "retrieval/brain->image/chance1": ..}}.
    The encoder named "ideal" is drawn as a line, not as a bar: it is the ceiling and no baseline.

    Raises DataError if no encoder has the score in any direction.
    """
    present = [d for d in DIRECTIONS if any(f"retrieval/{d}/top{k}" in m for m in scores.values())]
    bars = [e for e, m in scores.items() if e != "ideal" and any(f"retrieval/{d}/top{k}" in m for d in present)]
    if not present or not bars:
        raise DataError(f"no encoder has retrieval/<direction>/top{k}; give one dictionary of metrics an encoder")
    figure, axes = style.canvas(max(6.5, 1.0 + len(present) * (0.5 + 0.3 * len(bars))), 3.7)
    ax = axes[0, 0]
    width = 0.8 / len(bars)
    for i, encoder in enumerate(bars):
        places = np.array([j for j, d in enumerate(present) if f"retrieval/{d}/top{k}" in scores[encoder]], dtype=float)
        names = [f"retrieval/{present[int(j)]}/top{k}" for j in places]
        _bars(ax, places - 0.4 + (i + 0.5) * width, names, scores[encoder], encoder, i, width)
    for j, direction in enumerate(present):
        _line(ax, j, [m.get(f"retrieval/{direction}/chance{k}") for m in scores.values()], "chance", j == 0)
        _line(ax, j, [scores.get("ideal", {}).get(f"retrieval/{direction}/top{k}")], "ideal observer", j == 0)
    ax.set_xticks(range(len(present)), [d.replace("->", " → ") for d in present], fontsize=9.5)
    ax.set_ylim(0, None)
    ax.yaxis.set_major_formatter(style.percent_ticks())
    style.label(ax, y=f"top-{k} accuracy")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize=8.5, frameon=False)
    return style.head(figure, title or f"Retrieval, top-{k}, 95 % intervals" + _gallery_size(scores), result)


def rank_curve(result: Result, *, directions: Sequence[str] = DIRECTIONS) -> Figure:
    """Share of queries whose right item is among the first k, for every k, with the diagonal of chance."""
    present = [d for d in directions if f"ranks/{d}" in result.arrays]
    if not present:
        style.need(result, f"ranks/{directions[0]}")
    figure, axes = style.canvas(5.2, 3.6)
    ax = axes[0, 0]
    n = 0
    for i, direction in enumerate(present):
        ranks = np.sort(np.asarray(result.arrays[f"ranks/{direction}"]))
        n = len(ranks)
        ax.step(
            np.append(ranks + 1, n),
            np.append(np.arange(1, n + 1), n) / n,
            where="post",
            color=style.PALETTE[i],
            label=direction.replace("->", " → "),
        )
    ks = np.arange(1, n + 1)
    ax.plot(ks, ks / n, label="chance", **style.CHANCE)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(style.percent_ticks())
    ax.legend(fontsize=8.5, frameon=False)
    style.label(ax, x="k (first k of the gallery)", y="share found")
    return style.head(figure, f"Found among the first k, n = {n:,}", result)


def caption_quality(table: pd.DataFrame, *, k: int = 1, result: Result | None = None) -> Figure:
    """How often captions find their image and each other, both ways, for every source: a point, its interval, and chance.

    table: rows source, gallery, n and `source->gallery/topK`, `gallery->source/topK` with `.low` and `.high` and
    `.../chanceK`, as `captioner.caption_quality` makes it.

    Raises DataError for an empty table or absent columns.
    """
    wanted = ["source", "gallery", "n", *(f"{way}/{name}{k}" for way in _WAYS for name in ("top", "chance"))]
    missing = [name for name in wanted if name not in table.columns]
    if missing or not len(table):
        raise DataError(f"caption quality: {len(table)} rows, columns {missing} are missing")
    rows = [(row, way) for row in table.to_dict("records") for way in _WAYS]
    figure, axes = style.canvas(7.4, 1.5 + 0.32 * len(rows))
    ax = axes[0, 0]
    ax.axvline(float(table[f"{_WAYS[0]}/chance{k}"].iloc[0]), label="chance", **style.CHANCE)
    for place, (row, way) in enumerate(rows):
        value, low, high = (float(row[f"{way}/top{k}{end}"]) for end in ("", ".low", ".high"))
        kind = int("image" not in (row["source"], row["gallery"]))
        text = ("caption and image", "caption and caption")[kind]
        ax.plot([low, high], [place, place], color=style.PALETTE[2 * kind], lw=2.2, solid_capstyle="round", alpha=0.55)
        first = not any(line.get_label() == text for line in ax.lines)
        ax.plot([value], [place], "o", color=style.PALETTE[2 * kind], ms=5.5, clip_on=False, label=text if first else "")
    names = [((r["source"], r["gallery"]) if way == _WAYS[0] else (r["gallery"], r["source"])) for r, way in rows]
    ax.set_yticks(range(len(rows)), [style.printable(f"{a} → {b}") for a, b in names], fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, None)
    ax.xaxis.set_major_formatter(style.percent_ticks())
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    style.label(ax, x=f"top-{k} accuracy, query → gallery")
    return style.head(figure, f"Captions and images, n = {int(table['n'].iloc[0]):,}, 95 % intervals", result)


_WAYS = ("source->gallery", "gallery->source")


def _gallery_size(scores: Scores) -> str:
    sizes = {int(v) for m in scores.values() for name, v in m.items() if name.endswith("/gallery")}
    return f", gallery {sizes.pop():,}" if len(sizes) == 1 else ""


def _picture(ax: Axes, image: np.ndarray, *, frame: str | None = None) -> None:
    ax.imshow(image, interpolation="nearest" if image.shape[0] <= 64 else "antialiased")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if frame:
        ax.add_patch(Rectangle((0.0, 0.0), 1, 1, transform=ax.transAxes, fill=False, lw=4.5, ec=frame, clip_on=False))


def _bars(ax: Axes, x: np.ndarray, names: list[str], metrics: dict[str, float], encoder: str, number: int, width: float) -> None:
    height = np.array([metrics[name] for name in names])
    ax.bar(x, height, width * 0.9, color=style.colour(encoder, number), label=style.printable(spelled(encoder)))
    have = np.array([f"{name}.low" in metrics and f"{name}.high" in metrics for name in names])
    if have.any():
        low = np.array([metrics.get(f"{name}.low", np.nan) for name in names])[have]
        high = np.array([metrics.get(f"{name}.high", np.nan) for name in names])[have]
        # A percentile interval need not hold the estimate; an error bar cannot be negative.
        reach = np.maximum([height[have] - low, high - height[have]], 0.0)
        ax.errorbar(x[have], height[have], yerr=reach, fmt="none", ecolor=style.INK, lw=1.1, capsize=2)


def _line(ax: Axes, place: int, values: list[float | None], text: str, first: bool) -> None:
    known = [v for v in values if v is not None]
    if known:
        dash = "--" if text == "chance" else "-"
        ax.hlines(known[0], place - 0.45, place + 0.45, color=style.INK, lw=1.5, linestyles=dash, label=text if first else "")  # type: ignore[arg-type]
