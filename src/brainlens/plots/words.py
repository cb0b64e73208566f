"""Words on the cortex: labels coloured by meaning, maps of single concepts, histograms of regions, cards of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from brainlens.plots import cortex, embeddings, mesh, style
from brainlens.types import DataError, Result

LEGEND = 24  # words in the legend, the most frequent ones
ROW = (("lateral", "left"), ("ventral", "right"), ("ventral", "left"), ("lateral", "right"))
MOST_CARDS = 12


def word_colours(result: Result, *, method: str | None = None) -> np.ndarray:
    """A colour (noun, 3) in [0, 1] for every noun: its embedding in three dimensions as red, green and blue, each by rank.

    Embeddings are those of the text encoder (`noun_embedding`), else the nouns' profiles over voxels (`auroc`). method: "umap",
    as in the paper (Fig. 4), or "pca"; None: `colour_method`. Ranks spread the colours evenly, where a few outlying words would
    otherwise take most of the range. Raises DataError for a result without both, and for UMAP where it is not installed.
    """
    values = result.arrays.get("noun_embedding")
    if values is None:
        (auroc,) = style.need(result, "auroc")
        values = np.where(np.isfinite(auroc), auroc, 0.5).T
    rows = np.asarray(values, dtype=np.float64)
    method = method or colour_method(result)
    parts = np.zeros((len(rows), 3))
    if len(rows) > 3 and rows.shape[1] > 1:
        k = min(3, rows.shape[1])
        parts[:, :k], _ = embeddings.reduce(rows, method=method, dimensions=k)
    elif len(rows) > 1:  # too few for a map of their own: colours in their order
        parts[:] = np.arange(len(rows))[:, None]
    ranks = parts.argsort(axis=0, kind="stable").argsort(axis=0)
    return 0.1 + 0.85 * ranks / max(1, len(parts) - 1)


def colour_method(result: Result) -> str:
    """How words get their colours: "umap" where it is installed and there are 30 words or more, else "pca"."""
    enough = len(result.tables["nouns"]) >= embeddings.LEAST_UMAP
    return "umap" if enough and find_spec("umap") is not None else "pca"


def word_map(result: Result, *, significant: bool = True, title: str = "First label of each voxel") -> Figure:
    """The first label of every (significant) voxel in the colour of its meaning, with the most frequent words as legend."""
    label, proven = style.need(result, "label", "significant")
    first = np.where(proven.astype(bool), label[:, 0], -1) if significant else label[:, 0]
    if not (first >= 0).any():
        raise DataError("word map: no voxel has a significant label; draw all labels, or fit with more images")
    colours = word_colours(result)
    shown = first >= 0
    figure, _ = cortex.colour_map(result, colours[np.maximum(first, 0)], shown.astype(float), nearest=True)
    names = result.tables["nouns"]["noun"].astype(str).tolist()
    counts = np.bincount(first[shown], minlength=len(names))
    order = [k for k in np.argsort(-counts, kind="stable")[:LEGEND] if counts[k]]
    handles = [Patch(color=colours[k], label=f"{style.printable(names[k])} ({counts[k]:,})") for k in order]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8.5, frameon=False)
    return style.head(figure, f"{title}  ·  n = {int(shown.sum()):,} {cortex.noun(result)}", result)


def concept_rows(result: Result, nouns: Sequence[str], *, title: str = "Where a word's pictures rank high") -> Figure:
    """Maps of some words, one a row: the area under the ROC curve of the word's pictures against the whole bank, less .5.

    Raises DataError for a word that is not in the vocabulary, naming those that are near it.
    """
    (auroc,) = style.need(result, "auroc")
    numbers = [noun_number(result, noun) for noun in nouns]
    values = np.asarray(auroc, dtype=np.float64)[:, numbers] - 0.5
    scale, colours = cortex.scale_of(values.ravel(), (-0.35, 0.35))
    figure, axes = style.canvas(2.5 * len(ROW), 2.0 * len(nouns) + 1.1, nrows=len(nouns), ncols=len(ROW))
    for row, (noun, number) in enumerate(zip(nouns, range(len(numbers)), strict=True)):
        surface = mesh.on_surface(values[:, number], result.space)
        for ax, (side, hemisphere) in zip(axes[row], ROW, strict=True):
            cortex.draw(ax, surface[hemisphere], side, hemisphere=hemisphere, scale=scale, colours=colours, threshold=None)
            if row:
                ax.set_title("")
        where = {"transform": axes[row, 0].transAxes, "rotation": 90, "va": "center", "ha": "right", "fontsize": 9.5}
        axes[row, 0].text(-0.04, 0.5, style.printable(noun), **where)
    bar = figure.colorbar(
        matplotlib.cm.ScalarMappable(scale, colours), ax=list(axes.ravel()), location="bottom", shrink=0.4, aspect=30, pad=0.02
    )
    bar.set_label("AUROC of the word's pictures - .5", fontsize=9)
    return style.head(figure, f"{title}  ·  n = {len(values):,} {cortex.noun(result)}", result)


def noun_number(result: Result, noun: str) -> int:
    """The number of a noun in the vocabulary. Raises DataError that lists some nouns."""
    names = result.tables["nouns"]["noun"].astype(str).tolist()
    if noun not in names:
        near = [name for name in names if noun[:2] == name[:2]] or names
        raise DataError(f"word {noun!r} is not in the vocabulary of {len(names)} nouns; there are {', '.join(near[:8])}")
    return names.index(noun)


def word_histograms(result: Result, *, most: int = 12) -> Figure:
    """The most frequent first labels of each region, as numbers of voxels with a significant label (Fig. 3 of the paper).

    A region without any has a panel that says so. Raises DataError where no region has one.
    """
    table = result.tables.get("histogram", pd.DataFrame())
    if not len(table) or not (table["voxels"] > 0).any():
        raise DataError("word histograms: no region has a significant label")
    sizes = table.groupby("roi")["voxels"].sum().sort_values(ascending=False)
    regions = [name for name in sizes.index if name != "none"][:most] or list(sizes.index[:1])
    columns = min(4, len(regions))
    rows = -(-len(regions) // columns)
    figure, axes = style.canvas(2.6 * columns, 2.15 * rows + 0.5, nrows=rows, ncols=columns)
    for ax, region in zip(axes.ravel(), regions):
        part = table[(table["roi"] == region) & (table["voxels"] > 0)].iloc[::-1]
        ax.barh(np.arange(len(part)), part["voxels"], color=style.BLUE, height=0.7)
        ax.set_yticks(np.arange(len(part)), [style.printable(str(name)) for name in part["label"]], fontsize=8)
        ax.set_ylim(min(-0.6, len(part) - 4.6), len(part) - 0.4)  # a lone bar is at the top, no thicker than the others
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        style.label(ax, title=str(region) if len(part) else f"{region}: 0", x="voxels")
    for ax in axes.ravel()[len(regions) :]:
        ax.set_axis_off()
    return style.head(figure, "Significant first words of each region", result)


def category_ranking(result: Result, *, most: int = 12) -> Figure:
    """Names of what was shown by the mean response of each region, the largest regions first: z over categories (`word_ranking`).

    The panel's title has the ceiling, how well the order repeats in the other half. Raises DataError without the table `words`.
    """
    table = result.tables.get("words", pd.DataFrame())
    if not {"roi", "label", "score", "ceiling", "voxels"} <= set(table.columns):
        raise DataError(f"category ranking: needs a table 'words' with roi, label, score, ceiling; got {list(table.columns)}")
    sizes = table.groupby("roi")["voxels"].first().sort_values(ascending=False, kind="stable")
    regions = list(sizes.index[:most])
    columns = min(3, len(regions))
    lines = int(table["rank"].max())
    rows, height = -(-len(regions) // columns), 0.2 * lines + 1.1
    figure, axes = style.canvas(max(4.8, 3.1 * columns), height * rows + 0.4, nrows=rows, ncols=columns)
    for ax, region in zip(axes.ravel(), regions):
        part = table[table["roi"] == region].sort_values("rank", ascending=False)
        ax.barh(np.arange(len(part)), part["score"], color=style.BLUE, height=0.7)
        ax.axvline(0, color=style.GREY, lw=1)
        ax.set_yticks(np.arange(len(part)), [style.printable(str(name)) for name in part["label"]], fontsize=8)
        ceiling = float(part["ceiling"].iloc[0])
        repeats = f", order repeats at {ceiling:.2f}" if np.isfinite(ceiling) else ""
        name = "all voxels" if region in ("all", "") and len(sizes) == 1 else style.printable(str(region)) or "no region"
        style.label(ax, title=f"{name}, n = {int(sizes[region]):,}{repeats}", x="mean response (z over categories)")
        ax.title.set_fontsize(9)
    for ax in axes.ravel()[len(regions) :]:
        ax.set_axis_off()
    left = f", {len(sizes) - len(regions)} smaller regions left out" if len(sizes) > len(regions) else ""
    return style.head(figure, f"What each region responds to{left}", result)


def voxel_cards(result: Result, *, most: int = MOST_CARDS) -> Figure:
    """Cards of voxels, one a row: region, labels with their weights, the test of the first, and the strongest pictures with the
    boxes of the crops that the voxel asks for, where there are crops.

    Raises DataError where no voxel got a card.
    """
    units, images = style.need(result, "cards/unit", "cards/images")
    label, weight, r, q = style.need(result, "label", "weight", "label_r", "label_q")
    boxes = result.arrays.get("cards/boxes")
    names = result.tables["nouns"]["noun"].astype(str).tolist()
    chosen = np.linspace(0, len(units) - 1, min(most, len(units))).round().astype(int)
    columns = images.shape[1] + 1
    figure, axes = style.canvas(1.15 * columns + 2.2, 1.18 * len(chosen) + 0.6, nrows=len(chosen), ncols=columns)
    for row, card in enumerate(chosen):
        unit = int(units[card])
        said = [f"{names[k]} {w:.2f}" for k, w in zip(label[unit], weight[unit]) if k >= 0]
        roi = str(result.units["roi"].iloc[unit]) if result.units is not None and "roi" in result.units.columns else ""
        text = f"{roi} · voxel {unit}\n" + "\n".join(said) + f"\nr = {r[unit]:.2f}, q = {q[unit]:.3f}"
        ax = axes[row, 0]
        ax.set_axis_off()
        ax.text(
            1.0,
            0.5,
            "\n".join(style.printable(line) for line in text.split("\n")),
            transform=ax.transAxes,
            va="center",
            ha="right",
            fontsize=8.5,
        )
        cut = boxes[card] if boxes is not None else [()] * len(images[card])
        for ax, picture, places in zip(axes[row, 1:], images[card], cut):
            ax.imshow(picture)
            ax.set_axis_off()
            _draw_boxes(ax, places, picture.shape[0])
    return style.head(figure, "Voxels, their words and their strongest pictures", result)


def _draw_boxes(ax: Axes, boxes: np.ndarray, side: int) -> None:
    """Boxes (box, 4), top, left, bottom, right as shares of a picture of so many pixels a side; NaN for none."""
    for top, left, bottom, right in boxes:
        if np.isfinite(top):
            corner, size = (left * side - 0.5, top * side - 0.5), ((right - left) * side, (bottom - top) * side)
            ax.add_patch(Rectangle(corner, *size, fill=False, ec="white", lw=2.2))  # seen on dark pictures as on bright ones
            ax.add_patch(Rectangle(corner, *size, fill=False, ec=style.VERMILION, lw=1.2))
