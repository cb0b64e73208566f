"""EEG and MEG: scalp maps, accuracy over time windows, loss weights, and the stages of the saliency extraction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from brainlens.plots import style
from brainlens.types import DataError, Result, Sensors

RIM, NOSE = 1.04, 1.18  # how far colours go beyond the outermost channel, and the nose and ears beyond the head
MANY = 100  # channels, from which on dots and lines are drawn thinner
WINDOWS = {  # what a window is, and where on the time axis it is drawn
    "growing": ("from the start until t", lambda part: part["end"]),
    "shrinking": ("from t to the end", lambda part: part["start"]),
    "sliding": ("100 ms around t", lambda part: (part["start"] + part["end"]) / 2),
}
STAGES = {"exogenous": "exogenous, together", "antagonism": "centre-surround", "image": "picture x attention"}
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TARGETS = {"image": "target: the picture", "saliency": "target: the picture after saliency extraction"}


def topomaps(
    space: Sensors, maps: np.ndarray, *, titles: Sequence[str] = (), unit: str = "contribution", title: str = "Scalp maps",
    result: Result | None = None,
) -> Figure:  # fmt: skip
    """Scalp maps (map, channel), or one (channel,), drawn by MNE on one colour scale; channels are the dots.

    Channels below the rim of the head lie outside its circle, and colours reach as far as the outermost channel.

    Raises DataError for maps that do not fit the sensors or hold missing values, one channel alone, and channels on one line or
    ring.
    """
    maps = np.atleast_2d(np.asarray(maps, dtype=np.float64))
    if maps.ndim != 2 or maps.shape[1] != len(space) or not np.isfinite(maps).all():
        raise DataError(f"scalp maps are finite (map, channel) with {len(space)} channels, got shape {maps.shape}")
    if len(space) < 2:
        raise DataError("one channel makes no scalp map")
    import mne
    from scipy.spatial import QhullError

    columns = len(maps) if len(maps) <= 4 else 4 if len(maps) <= 8 else 5
    rows = -(-len(maps) // columns)
    figure, axes = style.canvas(max(2.0 * columns, 3.2), 2.0 * rows + 1.1, nrows=rows, ncols=columns)
    info, sphere = _info(space)
    power = _power(maps)
    maps, unit = maps / 10.0**power, unit + (f" × 10{str(power).translate(RAISED)}" if power else "")
    reach = float(np.abs(maps).max()) or 1.0
    signed = bool((maps < 0).any())
    levels = [share * reach for share in ((-0.75, -0.5, -0.25, 0.25, 0.5, 0.75) if signed else (0.25, 0.5, 0.75))]  # in all maps
    image: Any = None
    for ax in axes.ravel():
        ax.set_axis_off()
    for i, (ax, values) in enumerate(zip(axes.ravel(), maps, strict=False)):
        try:
            image, _ = mne.viz.plot_topomap(
                values, info, axes=ax, show=False, cmap=style.DIVERGING if signed else "YlOrRd", sphere=sphere,
                vlim=(-reach if signed else 0.0, reach), contours=levels, sensors=True, extrapolate="head", border="mean",
            )  # fmt: skip
        except QhullError:  # one ring, or one line
            raise DataError(f"the {len(space)} channels lie on one line or ring, between which no map can be drawn") from None
        _to_the_outermost_channel(ax, sphere)
        for line in ax.lines:
            if line.get_linestyle() == "None" and len(space) > MANY:
                line.set_markersize(1.0)
        if i < len(titles):
            ax.set_title(style.printable(titles[i]), fontsize=9, color=style.INK)
    bar = figure.colorbar(image, ax=list(axes.ravel()), location="bottom", shrink=0.45, aspect=30, pad=0.04)
    bar.set_label(style.printable(unit), fontsize=9)
    return style.head(figure, f"{title}, {len(space)} channels", result)


def _power(maps: np.ndarray) -> int:
    """The power of ten that is written with the unit, 0 where the numbers can be read as they are."""
    top = float(np.abs(maps).max())
    power = int(np.floor(np.log10(top))) if top > 0 else 0
    return power if not -2 <= power <= 3 else 0


def _to_the_outermost_channel(ax: Axes, sphere: tuple[float, float, float, float]) -> None:
    """Cuts colours and contours at the circle of the head, or at that of the outermost channel, and fits the axes to it.

    Farther out MNE goes on extrapolating, where nothing is measured.
    """
    places = [np.asarray(part.get_offsets(), dtype=float) for part in ax.collections if isinstance(part, PathCollection)]
    reach = [np.linalg.norm(place - sphere[:2], axis=1).max() for place in places if len(place)]
    radius = max([sphere[3], *(RIM * each for each in reach)])
    for image in (*ax.images, *ax.collections):
        if not isinstance(image, PathCollection):
            image.set_clip_path(Circle(sphere[:2], radius, transform=ax.transData))
    edge = max(radius, NOSE * sphere[3])
    ax.set_xlim(sphere[0] - edge, sphere[0] + edge)
    ax.set_ylim(sphere[1] - edge, sphere[1] + edge)


def time_windows(
    table: pd.DataFrame, *, metric: str = "top1", chance: float | None = None, result: Result | None = None
) -> Figure:
    """Accuracy in growing, shrinking and sliding time windows.

    table: columns `kind` (growing: from the first sample to `end`; shrinking: from `start` to the last; sliding: placed
    at its centre), `start`, `end` in s, the metric, its `.low` and `.high` where known, and `target` for a panel each.

    Raises DataError for missing columns or an unknown kind.
    """
    for column in ("kind", "start", "end", metric):
        if column not in table.columns:
            raise DataError(f"time windows have no column {column!r}; they have {', '.join(map(str, table.columns))}")
    kinds = [str(k) for k in pd.unique(table["kind"])]
    unknown = sorted(set(kinds) - set(WINDOWS))
    if unknown:
        raise DataError(f"time windows: kind {unknown[0]!r} is not one of growing, shrinking, sliding")
    targets = list(pd.unique(table["target"])) if "target" in table.columns else [""]
    figure, axes = style.canvas(max(4.1 * len(targets), 5.2) + 0.3, 3.7, ncols=len(targets), sharey=True)
    for ax, target in zip(axes[0], targets):
        _windows(ax, table if target == "" else table[table["target"] == target], kinds, metric)
        if chance is not None:
            ax.axhline(chance, label=f"chance {style.percent(chance)}", **style.CHANCE)
        ax.axvline(0, color=style.GREY, lw=0.8)
        ax.set_ylim(0, None)
        style.label(
            ax, title=TARGETS.get(target, target), x="t after picture onset (ms)", y=f"{metric.replace('top', 'top-')} accuracy"
        )
        ax.yaxis.set_major_formatter(style.percent_ticks())
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
    return style.head(figure, "Accuracy by time window, linear decoders", result)


def _windows(ax: Axes, table: pd.DataFrame, kinds: list[str], metric: str) -> None:
    """One line a kind of window, with its interval."""
    for i, kind in enumerate(kinds):
        part = table[table["kind"] == kind]
        at = WINDOWS[kind][1](part).to_numpy(dtype=float)
        order = np.argsort(at)
        tone = style.PALETTE[i]
        value = part[metric].to_numpy(dtype=float)[order]
        ax.plot(1000 * at[order], value, color=tone, marker=".", lw=1.7, label=WINDOWS[kind][0])
        if {f"{metric}.low", f"{metric}.high"} <= set(table.columns):
            low, high = (part[f"{metric}.{side}"].to_numpy(dtype=float)[order] for side in ("low", "high"))
            ax.fill_between(1000 * at[order], low, high, color=tone, alpha=0.18, linewidth=0)


def evoked(
    mean: np.ndarray, times: np.ndarray, space: Sensors, *, trials: int, unit: str = "uV", name: str = "",
    result: Result | None = None,
) -> Figure:  # fmt: skip
    """The evoked response of every channel (channel, time), coloured from back to front, under its global field power.

    Raises DataError for shapes that do not fit.
    """
    mean, times = np.asarray(mean, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if mean.shape != (len(space), len(times)):
        raise DataError(f"evoked response is (channel, time), {len(space)} x {len(times)}; got shape {mean.shape}")
    figure, axes = style.canvas(6.2, 3.8)
    ax = axes[0, 0]
    unit = unit.replace("uV", "µV")
    behind = space.positions[:, 1]
    shade = (behind - behind.min()) / max(float(np.ptp(behind)), 1e-12)
    hues = style.hue_map()
    for row in np.argsort(np.abs(shade - 0.5)):  # the channels at the back and in front are not hidden by those between
        ax.plot(1000 * times, mean[row], color=hues(float(shade[row])), lw=0.8 if len(space) <= MANY else 0.4, alpha=0.75)
    ax.plot(1000 * times, mean.std(axis=0), color=style.INK, lw=1.8, label="global field power")
    ax.axvline(0, color=style.GREY, lw=0.8)
    ax.axhline(0, color=style.GREY, lw=0.8)
    ax.plot([], [], color=hues(0.0), label="channels at the back")
    ax.plot([], [], color=hues(1.0), label="channels at the front")
    ax.legend(fontsize=8.5, frameon=False)
    style.label(ax, x="t after onset (ms)", y=f"evoked response ({unit})")
    said = f"Evoked response{f' to {name}' if name else ''}, {len(space)} channels, mean of {trials:,} epochs"
    return style.head(figure, said, result)


def generalisation(matrix: np.ndarray, times: np.ndarray, *, chance: float, result: Result | None = None) -> Figure:
    """Time-generalised decoding (time, time): trained at one time (rows), tested at another; the scale is centred on chance."""
    matrix, times = np.asarray(matrix, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if matrix.shape != (len(times), len(times)):
        raise DataError(f"time generalisation is (time, time) with {len(times)} times, got shape {matrix.shape}")
    figure, axes = style.canvas(5.0, 4.2)
    ax = axes[0, 0]
    reach = float(np.abs(matrix - chance).max()) or 1.0
    ms = 1000 * times
    image = ax.imshow(
        matrix, origin="lower", cmap=style.DIVERGING, vmin=chance - reach, vmax=chance + reach,
        extent=(ms[0], ms[-1], ms[0], ms[-1]), interpolation="nearest",
    )  # fmt: skip
    ax.plot(ms[[0, -1]], ms[[0, -1]], color=style.INK, lw=0.7)
    bar = figure.colorbar(image, ax=ax)
    bar.ax.yaxis.set_major_formatter(style.percent_ticks())
    bar.set_label(f"accuracy (white: chance, {style.percent(chance, 0)})", fontsize=9)
    style.label(ax, x="tested at (ms)", y="trained at (ms)")
    return style.head(figure, "Generalisation over time", result)


def loss_weights(table: pd.DataFrame, *, result: Result | None = None) -> Figure:
    """Weights of the losses by step: every column `weight_<loss>` of a training log.

    Raises DataError for a log without such columns.
    """
    columns = [c for c in table.columns if str(c).startswith("weight_")]
    if not columns or "step" not in table.columns:
        raise DataError(f"loss weights: needs step and weight_<loss> columns; the log has {', '.join(map(str, table.columns))}")
    figure, axes = style.canvas(5.6, 3.4)
    ax = axes[0, 0]
    for i, column in enumerate(columns):
        known = table[[column, "step"]].dropna()
        ax.plot(
            known["step"],
            known[column],
            color=style.PALETTE[i % 8],
            lw=1.7,
            label=style.printable(column.removeprefix("weight_").replace("_", " ")),
        )
    ax.set_ylim(0, None)
    ax.legend(fontsize=8.5, frameon=False)
    style.label(ax, x="step", y="weight")
    return style.head(figure, "Weights of the losses", result)


def stages(image: np.ndarray, maps: dict[str, np.ndarray], *, result: Result | None = None) -> Figure:
    """A picture and the maps of each stage of its saliency (h, w) or (h, w, 3), each on its own grey scale."""
    if not maps or any(np.asarray(m).ndim not in (2, 3) for m in maps.values()):
        raise DataError(f"saliency stages are (h, w) or (h, w, 3) maps; got { {k: np.shape(v) for k, v in maps.items()} }")
    columns = min(len(maps) + 1, 5)
    rows = -(-(len(maps) + 1) // columns)
    figure, axes = style.canvas(1.68 * columns, 1.95 * rows + 0.4, nrows=rows, ncols=columns)
    for ax in axes.ravel():
        ax.set_axis_off()
    for ax, (name, values) in zip(axes.ravel(), [("picture", image), *maps.items()], strict=False):
        tone = style.SEQUENTIAL if name == "attention" else "gray"
        ax.imshow(np.asarray(values), cmap=tone if np.ndim(values) == 2 else None)
        ax.set_title(style.printable(STAGES.get(name, name.replace("_", " "))), fontsize=9, color=style.INK)
    return style.head(figure, "Stages of the saliency extraction, each scaled to its own range", result)


def filters(rows: dict[str, list[np.ndarray]], *, result: Result | None = None) -> Figure:
    """Pictures (h, w, 3) and what forms of the saliency filter make of them: one row a form, one column a picture."""
    count = len(next(iter(rows.values()), []))
    if count == 0 or any(len(made) != count for made in rows.values()):
        raise DataError(f"filters: every row needs as many pictures; got { {name: len(made) for name, made in rows.items()} }")
    figure, axes = style.canvas(1.3 * count + 1.6, 1.3 * len(rows) + 0.5, nrows=len(rows), ncols=count)
    for line, (name, made) in zip(np.asarray(axes).reshape(len(rows), count), rows.items(), strict=True):
        for ax, picture in zip(line, made, strict=True):
            ax.imshow(np.asarray(picture))
            ax.set_axis_off()
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9, color=style.INK)
    return style.head(figure, "Pictures before and after saliency extraction", result)


def _info(space: Sensors) -> tuple[Any, tuple[float, float, float, float]]:
    """MNE's description of the sensors, and the sphere (centre and radius in m) that the positions lie on.

    The origin of the head frame is between the ears and that of MNI space elsewhere; seen from a point that is not the middle of
    the head, channels at its rim come to lie well inside the circle. So the sphere is fitted: |p|^2 = 2 c.p + (r^2 - |c|^2).
    """
    import mne

    names = [str(n) for n in space.names]
    info = mne.create_info(names, sfreq=1.0, ch_types="eeg", verbose="error")
    montage = mne.channels.make_dig_montage(dict(zip(names, space.positions, strict=True)), coord_frame="head")
    info.set_montage(montage, verbose="error")
    places = np.asarray(space.positions, dtype=np.float64)
    radius = float(np.median(np.linalg.norm(places, axis=1)))
    if not 0.03 < radius < 0.3:
        raise DataError(f"sensor positions lie {radius:.3g} m from the head's centre; positions are in metres in the head frame")
    found = np.linalg.lstsq(np.column_stack([2 * places, np.ones(len(places))]), (places**2).sum(axis=1), rcond=None)[0]
    fitted = float(np.sqrt(max(found[3] + found[:3] @ found[:3], 0.0)))
    if len(places) >= 8 and 0.06 < fitted < 0.16 and np.linalg.norm(found[:3]) < 0.08:
        return info, (float(found[0]), float(found[1]), float(found[2]), fitted)
    return info, (0.0, 0.0, 0.0, radius)  # too few channels, or all on one side
