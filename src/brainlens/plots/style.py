"""One look for every figure: sizes, palette, labels, and the mark of simulated data.

Figures are made with matplotlib's object interface, without pyplot, so that no figure lives in global state and a
report of many figures does not grow in memory. The palette is that of Okabe and Ito, whose colours can be told apart
with the common forms of colour blindness.
"""

from __future__ import annotations

import io
import textwrap
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, PercentFormatter

from brainlens import datasets
from brainlens.types import DataError, Result

BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#C9B400", "#7A7A7A",
)  # fmt: skip
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PINK, SKY, YELLOW, GREY)
INK, FAINT = "#1d2430", "#667080"
SEQUENTIAL, DIVERGING = "inferno", "RdBu_r"
SIMULATION = "simulation (phantom)"
CHANCE = {"color": "#3d4654", "linestyle": "--", "linewidth": 1.3}  # every chance line
_SHARED = (  # names that never stand in one figure share a colour
    (BLUE, "volume bottleneck factortopy neuroalign"),
    (GREEN, "linear gradcam gnet"),
    (ORANGE, "ridge rise"),
    (PINK, "mlp chefer class_token eegnet"),
    (VERMILION, "unfiltered ridge_projected"),
    ("#00573F", "linear_projected nice"),  # darker than the encoder in its published form
    ("#8A4170", "mlp_projected canonical"),
    (SKY, "cnn integrated_gradients patch_token atm"),
    (YELLOW, "ridge_whitened nice_sa_like"),
    ("#7A5C00", "mindeye_like"),
    ("#5B4FA0", "mindeye2_like"),
    ("#3E7C87", "nice_llm_like"),
    ("#A34F1D", "ubp_like"),
    (INK, "ideal"),
    (GREY, "random shuffled nice_ga_like"),
)
ENCODERS = {name: tone for tone, names in _SHARED for name in names.split()}

# A cut through OKLCH at nearly constant lightness from blue over violet and red to yellow: hue alone tells the order,
# and it runs along the blue-yellow axis that red-green blindness keeps.
_HUES = (
    (0.58, 0.17, 255.0),
    (0.58, 0.19, 300.0),
    (0.60, 0.21, 350.0),
    (0.66, 0.19, 35.0),
    (0.74, 0.15, 65.0),
    (0.84, 0.175, 95.0),
)


def canvas(
    width: float, height: float, *, nrows: int = 1, ncols: int = 1, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """A figure of width x height inches with its axes as an array (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(nrows, ncols, sharex=sharex, sharey=sharey, squeeze=False)
    for ax in axes.ravel():
        dress(ax)
    return figure, axes


def dress(ax: Axes) -> None:
    """House style of one pair of axes: no box, small readable ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#9aa3af")
    ax.tick_params(labelsize=8.5, colors=INK, color="#9aa3af", length=3)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize(9.5)
        label.set_color(INK)


def label(ax: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Title and axis labels; text is drawn as it stands, never as mathematics."""
    if title:
        ax.set_title(printable(title, 72), fontsize=10, color=INK, loc="left", parse_math=False)
    if x:
        ax.set_xlabel(printable(x, 72), fontsize=9.5, color=INK, parse_math=False)
    if y:
        ax.set_ylabel(printable(y, 72), fontsize=9.5, color=INK, parse_math=False)


def head(figure: Figure, title: str, result: Result | None = None) -> Figure:
    """The figure with its title, and with the word "simulation" in it where the data are simulated. Called last."""
    mark = f"  ·  {SIMULATION}" if result is not None and is_simulation(result) else ""
    text = textwrap.fill(printable(title, None) + mark, max(24, int(figure.get_figwidth() * 10.5)))
    figure.suptitle(text, fontsize=11.5, color=INK, fontweight="bold", parse_math=False)
    _as_written(figure)
    return figure


def _as_written(figure: Figure) -> None:
    """Names with two dollar signs are no mathematics: all text stands as it is but the ticks of logarithmic axes."""
    powers: set[Artist] = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatter) or isinstance(axis.get_minor_formatter(), LogFormatter):
            powers |= set(axis.get_ticklabels(which="both"))
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in powers:
            text.set_parse_math(False)


def is_simulation(result: Result) -> bool:
    """Whether the result comes from a simulation, by its config or provenance."""
    for table in (result.config, result.provenance):
        value = table.get("dataset")
        name = value.get("name") if isinstance(value, dict) else value
        if isinstance(name, str) and datasets.simulated(name.split("/")[0].split(":")[0]):
            return True
    return False


def colour(name: str, number: int = 0) -> str:
    """The colour of an encoder or method by name, else the palette's by number."""
    return ENCODERS.get(name.lower().replace(" ", "_").replace("-", "_"), PALETTE[number % len(PALETTE)])


@lru_cache(maxsize=1)
def hue_map() -> LinearSegmentedColormap:
    """Ordered hues of nearly equal lightness, for layers (blue = first, yellow = last)."""
    stops = np.linspace(0, 1, len(_HUES))
    at = np.linspace(0, 1, 256)
    lightness, chroma, angle = (np.interp(at, stops, np.unwrap(c, period=360.0)) for c in np.array(_HUES).T)
    return LinearSegmentedColormap.from_list("layers", oklch(lightness, chroma, np.deg2rad(angle)), N=256)


def printable(text: str, most: int | None = 40) -> str:
    """Text that the figures' font can draw: control characters become spaces, missing glyphs an empty box.

    most: characters, beyond which the middle is left out, since one long name would leave a figure no room; None: all of it.
    """
    known = _glyphs()
    drawn = "".join(c if ord(c) in known else (" " if c.isspace() or not c.isprintable() else "\u25a1") for c in str(text))
    if most is None or len(drawn) <= most:
        return drawn
    return f"{drawn[: most // 2]}…{drawn[len(drawn) - (most - 1 - most // 2) :]}"


def percent(share: float, decimals: int = 1) -> str:
    """A share as text with a blank before its sign, as in the tables of the page: 0.125 is "12.5 %"."""
    return f"{100 * share:.{decimals}f} %"


def percent_ticks() -> PercentFormatter:
    """Ticks of an axis of shares, written like `percent`."""
    return PercentFormatter(1.0, symbol=" %")


def png(figure: Figure, *, dpi: int = 130) -> bytes:
    """The figure as PNG bytes, made in memory; nothing is cut off at the margins."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
    return buffer.getvalue()


def need(result: Result, *names: str) -> list[np.ndarray]:
    """The arrays of these names, of any shape; DataError lists those that the result has."""
    missing = [name for name in names if name not in result.arrays]
    if missing:
        have = ", ".join(sorted(result.arrays)) or "none"
        raise DataError(f"the {result.task} result has no array {missing[0]!r}; it has {have}")
    return [np.asarray(result.arrays[name]) for name in names]


def oklch(lightness: np.ndarray, chroma: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """OKLCH to sRGB in [0, 1] (Ottosson 2020), each (n,) -> (n, 3), clipped to the gamut."""
    a, b = chroma * np.cos(angle), chroma * np.sin(angle)
    cone = np.stack([
        lightness + 0.3963377774 * a + 0.2158037573 * b,
        lightness - 0.1055613458 * a - 0.0638541728 * b,
        lightness - 0.0894841775 * a - 1.2914855480 * b,
    ]) ** 3  # fmt: skip
    matrix = np.array([
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ])  # fmt: skip
    linear = np.clip(matrix @ cone, 0, 1)
    return np.clip(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055), 0, 1).T


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    path = Path(font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans")))
    return frozenset(code for code in FT2Font(str(path)).get_charmap() if chr(code).isprintable())
