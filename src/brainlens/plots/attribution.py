"""Attribution on what was attributed: pixels over the picture, words in the sentence, voxels beside the truth."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from scipy.ndimage import zoom

from brainlens.plots import cortex, mesh, style
from brainlens.types import DataError, Result, Volume

OVERLAY = 0.75  # opacity of the hottest pixel
UNIT = "map / its 99.5 % quantile"


def pixel_maps(
    images: np.ndarray,
    maps: np.ndarray,
    *,
    captions: Sequence[str] = (),
    masks: np.ndarray | None = None,
    result: Result | None = None,
) -> Figure:
    """Pictures, and below them the same with their heat map; with masks, the outline of the true object.

    images (n, h, w, 3) uint8; maps (n, rows, columns), each scaled to its own largest value and enlarged bilinearly;
    masks (n, h, w) bool.

    Raises DataError for numbers that do not match.
    """
    images, maps = np.asarray(images), np.asarray(maps, dtype=np.float64)
    if images.ndim != 4 or maps.ndim != 3 or len(images) != len(maps) or not len(maps) or not np.isfinite(maps).all():
        raise DataError(
            f"pixel maps: images {images.shape} and maps {maps.shape} must be (n, h, w, 3) and finite (n, rows, columns)"
        )
    figure, axes = style.canvas(1.7 * len(images) + 0.9, 4.2, nrows=2, ncols=len(images))
    colours = matplotlib.colormaps[style.SEQUENTIAL]
    for i, (image, heat) in enumerate(zip(images, maps, strict=True)):
        covered = overlay(image, heat)
        for ax, picture in ((axes[0, i], image), (axes[1, i], covered)):
            ax.imshow(picture, interpolation="antialiased")
            ax.set_axis_off()
        if masks is not None:
            axes[1, i].contour(masks[i].astype(float), levels=[0.5], colors="white", linewidths=1.2)
        if i < len(captions):
            axes[0, i].set_title(_wrap(style.printable(captions[i], None)), fontsize=7.5, color=style.INK, parse_math=False)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colours), ax=list(axes.ravel()), shrink=0.6)
    bar.set_label("attribution / its maximum", fontsize=9)
    return style.head(figure, f"What in the picture the brain response supports, n = {len(images)}", result)


def overlay(image: np.ndarray, heat: np.ndarray, *, most: float | None = None) -> np.ndarray:
    """The picture under its heat map, scaled to `most` (None: to its own largest value) and enlarged bilinearly.

    image (h, w, 3) in 0 to 255, heat (rows, columns) -> (h, w, 3) in [0, 1].
    """
    top = float(heat.max()) if most is None else most
    hot = np.clip(heat, 0, None) / (top if top > 0 else 1.0)
    scale = (image.shape[0] / heat.shape[0], image.shape[1] / heat.shape[1])
    hot = np.clip(zoom(hot, scale, order=1, grid_mode=True, mode="nearest"), 0, 1)[..., None]
    return image / 255 * (1 - OVERLAY * hot) + OVERLAY * hot * matplotlib.colormaps[style.SEQUENTIAL](hot[..., 0])[..., :3]


def stimulus_rows(
    images: np.ndarray,
    maps: np.ndarray,
    words: Sequence[Sequence[str]],
    weights: Sequence[Sequence[float]],
    *,
    masks: np.ndarray | None = None,
    result: Result | None = None,
) -> Figure:
    """One row a stimulus: the picture, the same under its heat map, and its caption with shaded words.

    images (n, h, w, 3), maps (n, rows, columns), masks (n, h, w), as in `pixel_maps`; words and weights as in `word_strip`.
    Raises DataError for numbers that do not match.
    """
    n = len(images)
    if not n or not n == len(maps) == len(words) == len(weights):
        raise DataError(f"stimulus rows: {n} images, {len(maps)} maps and {len(words)} captions are not one of each")
    figure, axes = style.canvas(8.6, 1.25 * n + 0.9, nrows=n, ncols=3)
    grid = axes[0, 0].get_gridspec()
    grid.set_width_ratios([1, 1, 4.6])
    for i, (row, text, weight) in enumerate(zip(axes, words, weights, strict=True)):
        image, heat = np.asarray(images[i]), np.asarray(maps[i], dtype=np.float64)
        for ax, picture in ((row[0], image), (row[1], overlay(image, heat))):
            ax.imshow(picture, interpolation="antialiased")
        for ax in row:
            ax.set_axis_off()
        if masks is not None:
            row[1].contour(masks[i].astype(float), levels=[0.5], colors="white", linewidths=1.0)
        _draw_words(row[2], _lines(text, weight, width=60), 60, lines_shown=3)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), matplotlib.colormaps["Oranges"]), ax=list(axes[:, 2]), shrink=0.5)
    bar.set_label("word / largest of its caption", fontsize=8.5)
    return style.head(figure, f"What the brain response supports in picture and caption, n = {n}", result)


def word_strip(
    words: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], *, result: Result | None = None, signed: bool = False
) -> Figure:
    """Captions with every word on a background as strong as its attribution, each caption scaled to its own maximum.

    Raises DataError where a caption has another number of weights than of words.
    """
    if (
        not words
        or len(words) != len(weights)
        or any(len(a) != len(b) or not len(a) for a, b in zip(words, weights, strict=True))
    ):
        raise DataError("word strip: one weight a word is needed for every caption, and no caption may be empty")
    lines = [_lines(w, v) for w, v in zip(words, weights, strict=True)]
    height = sum(len(block) for block in lines)
    figure, axes = style.canvas(7.6, 0.36 * height + 0.12 * len(lines) + 1.0)
    ax = axes[0, 0]
    ax.set_axis_off()
    blocks = [line for block in lines for line in (*block, None)]
    scale, colours = _draw_words(ax, blocks, LINE, signed=signed)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=ax, shrink=0.8, fraction=0.04)
    bar.set_label("attribution / maximum", fontsize=8.5)
    return style.head(figure, f"Words that the brain response supports, n = {len(words)} captions", result)


def _draw_words(
    ax: Axes, lines: Sequence[list[tuple[str, float]] | None], width: int, *, signed: bool = False, lines_shown: int = 0
) -> tuple[Normalize, Colormap]:
    """Lines of (word, value) with shaded backgrounds, None being a gap, with room for `lines_shown`; the colour scale."""
    colours = matplotlib.colormaps[style.DIVERGING if signed else "Oranges"]
    scale = Normalize(-1 if signed else 0, 1)
    y = 0.0
    for line in lines:
        if line is None:
            y += 0.35
            continue
        x = 0.0
        for word, value in line:
            tone = colours(scale(value))
            dark = np.dot(tone[:3], [0.299, 0.587, 0.114]) < 0.5
            box = {"boxstyle": "round,pad=0.22", "fc": tone, "ec": "none"}
            text = ax.text(x, -y, word, fontsize=9.5, family="monospace", va="center", bbox=box, parse_math=False)
            text.set_color("white" if dark else style.INK)
            x += len(word) + 1.6
        y += 1.0
    ax.set_xlim(-0.5, width + 2)
    ax.set_ylim(-max(y, lines_shown) + 0.2, 0.7)
    return scale, colours


LINE = 70  # characters


def brain_beside_truth(
    result: Result,
    *,
    found: str = "map/brain_mean",
    truth: str | np.ndarray = "truth/informative",
    control: str = "map/random_mean",
    scores: dict[str, float] | None = None,
) -> Figure:
    """The found map, the truth and the random control in the same views, each with its area under the ROC curve.

    The three rows show ventral, lateral and medial cortex of both hemispheres; a map is scaled to its own 99.5 % quantile,
    since methods differ in unit. Rows whose array is missing are left out. truth: an array's name, or (unit,).
    scores: {array name: AUROC}.

    Raises DataError if the found map is missing or is not in space.
    """
    style.need(result, found)
    rows: list[tuple[str, np.ndarray]] = [("found", np.asarray(result.arrays[found]))]
    if not isinstance(truth, str):
        rows.append(("truth", np.asarray(truth)))
    elif truth in result.arrays:
        rows.append(("truth", np.asarray(result.arrays[truth])))
    if control in result.arrays:
        rows.append(("random control", np.asarray(result.arrays[control])))
    views = (
        ("lateral", "left"),
        ("medial", "left"),
        ("ventral", "right"),
        ("ventral", "left"),
        ("medial", "right"),
        ("lateral", "right"),
    )
    figure, axes = style.canvas(11.0, 1.75 * len(rows) + 1.0, nrows=len(rows), ncols=len(views))
    colours = matplotlib.colormaps[style.SEQUENTIAL]
    for line, (name, values) in zip(axes, rows, strict=True):
        shown = values.astype(float) / (float(np.nanmax(values)) or 1.0) if name == "truth" else as_share(values)
        scale = Normalize(0, 1)
        surface = mesh.on_surface(shown, result.space)
        for ax, (side, hemisphere) in zip(line, views, strict=True):
            titled = line is axes[0]
            cortex.draw(ax, surface[hemisphere], side, hemisphere=hemisphere, scale=scale, colours=colours, titled=titled)
        score = (scores or {}).get(name)
        line[0].text(
            -0.08,
            0.5,
            name + ("" if score is None else f"\nAUROC {score:.3f}"),
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=9.5,
        )
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colours), ax=list(axes.ravel()), location="bottom", shrink=0.3, aspect=34, pad=0.03
    )
    bar.set_label(UNIT, fontsize=9)
    n = int(np.isfinite(rows[0][1]).sum())
    noun = "voxels" if isinstance(result.space, Volume) else "vertices"
    return style.head(figure, f"Attribution on the cortex, n = {n:,} {noun}", result)


def as_share(values: np.ndarray) -> np.ndarray:
    """A map (unit,) over the 99.5 % quantile of its size, so that maps of methods with other units share a scale."""
    found = np.asarray(values, dtype=np.float64)
    size = np.abs(found[np.isfinite(found)])
    top = float(np.quantile(size, 0.995)) if len(size) else 0.0
    return found / (top if top > 0 else 1.0)


def _wrap(text: str, width: int = 24, lines: int = 3) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(" ".join(text.split()), width, max_lines=lines, placeholder=" …"))


def _lines(words: Sequence[str], weights: Sequence[float], *, width: int = LINE) -> list[list[tuple[str, float]]]:
    """Words with weight / largest |weight|, broken into lines."""
    top = max((abs(float(w)) for w in weights), default=0.0) or 1.0
    out: list[list[tuple[str, float]]] = [[]]
    length = 0.0
    for word, weight in zip(words, weights, strict=True):
        text = style.printable(word)[:width]
        if length + len(text) > width and out[-1]:
            out.append([])
            length = 0.0
        out[-1].append((text, float(weight) / top))
        length += len(text) + 1.6
    return out


def sensitivity_maps(result: Result) -> Figure:
    """The mean map under each setting of the sensitivity table (Figs. 7 and 10): the largest value along z, seen from above.

    One row a parameter, one column a value; each map on its own scale, since bits fall and rise with the settings.
    """
    table, maps, space = result.tables["sensitivity"], np.asarray(result.arrays["sensitivity/maps"]), result.space
    if not isinstance(space, Volume):
        raise DataError(f"sensitivity maps are drawn in a volume, this result is in {type(space).__name__}")
    groups = [(str(name), rows) for name, rows in table.groupby("parameter", sort=False)]
    columns = max(len(rows) for _, rows in groups)
    figure, axes = style.canvas(1.35 * columns + 0.9, 1.65 * len(groups) + 0.4, nrows=len(groups), ncols=columns)
    brain = space.mask.any(axis=2)
    for line, (name, rows) in zip(np.asarray(axes).reshape(len(groups), columns), groups, strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, value, at in zip(line, rows["value"], rows["map"], strict=False):
            seen = np.where(brain, space.fill(maps[int(at)], 0.0).max(axis=2), np.nan)
            ax.imshow(seen.T, origin="lower", cmap=style.SEQUENTIAL, vmin=0, vmax=max(float(np.nanmax(seen)), 1e-12))
            ax.set_title(str(value), fontsize=8.5, color=style.INK)
        line[0].text(-0.12, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9, color=style.INK)
    return style.head(figure, "Mean map under each setting, each on its own scale", result)
