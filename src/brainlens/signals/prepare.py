"""One subject from continuous recordings to whitened epochs on disk: memory bounded, and after a kill it goes on.

raw (memory map) -> epochs -> baseline -> resampled -> window -> float16 map -> noise covariance of training epochs, session by
session -> whitened float16 map. A block of epochs is in memory at a time, in double; the 16,540 x 4 x 63 x 250 values of a
THINGS-EEG2 subject never are (8.3 GB in double). Each stage keeps what it has written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.signals.mvnn import mvnn_covariance, whiten, whitener
from brainlens.store import ArrayWriter, manifest, open_array, release, remove_array, save_array
from brainlens.types import DataError, Responses

BLOCK = 64  # epochs in memory
FLAT = 1e-9  # range of a channel, as a share of the widest one, below which it is flat
SCALE = {"V": 1e6, "uV": 1.0, "T": 1e15, "fT": 1.0}


@dataclass(frozen=True)
class Piece:
    """A continuous recording: data (channel, sample), its channels, rate in Hz, and when which stimulus began.

    onset (n,): sample numbers; stimulus (n,): ids; split: "train" or "test"; unit: V, uV, T or fT. source: what the file is, for
    the key under which its epochs are kept.
    """

    data: np.ndarray
    channels: list[str]
    rate: float
    onset: np.ndarray
    stimulus: np.ndarray
    split: str
    session: str
    unit: str = "V"
    source: str = ""
    table: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class Cut:
    """How epochs are cut: window and baseline in s around the onset, new rate in Hz, the part that is kept in s.

    most: repetitions of a training and of a test image that a session gives (None: all), the first ones in time.
    """

    window: tuple[float, float] = (-0.2, 1.0)
    baseline: tuple[float | None, float] | None = (None, 0.0)
    rate: float = 250.0
    kept: tuple[float, float] = (0.0, 1.0)
    most: tuple[int | None, int | None] = (2, 20)

    def __post_init__(self) -> None:
        low, high = self.window
        if not low < high or not low <= self.kept[0] < self.kept[1] <= high or self.rate <= 0:
            raise DataError(
                f"epochs: window {self.window}, kept {self.kept} s, {self.rate} Hz: kept lies in the window, rate above 0"
            )


CUT = Cut()


def prepare(
    pieces: Sequence[Piece],
    folder: str | Path,
    *,
    channels: Sequence[str] | None = None,
    cut: Cut = CUT,
    form: str = "epochs",
    white: bool = True,
    dtype: str = "float16",
) -> Responses:
    """Whitened epochs of one subject as Responses over a memory map in `folder`; the same call goes on after a kill.

    channels: names in the order wanted (default: those of the first piece); every piece must have them. The noise comes from
    the training epochs of each session alone (signals.mvnn). Epochs that reach over an end of their recording are left out.
    Raises DataError for missing, flat or NaN channels, and pieces without a training epoch.
    """
    folder = Path(folder)
    names = [str(name) for name in (channels if channels is not None else pieces[0].channels)]
    trials, places = _plan(pieces, names, cut)
    times = _kept_times(cut)
    key = repr([cut, names, [(piece.source, piece.rate, piece.data.shape) for piece in pieces]])
    shape = (len(trials), len(names), len(times))
    final = "whitened" if white else "epochs"
    units = pd.DataFrame({"channel": names})
    measure = "z" if white else ("fT" if pieces[0].unit in ("T", "fT") else "uV")
    if final not in manifest(folder):
        _write_epochs(pieces, places, trials, names, cut, folder, shape, dtype, key)
        if white:
            _write_whitened(trials, names, folder, shape, dtype, form, key)
    data = open_array(folder, final, ids=_row_ids(trials, key))
    return Responses(data, trials, units, None, times, measure)


def epochs_of(piece: Piece, onset: np.ndarray, rows: Sequence[int], cut: Cut) -> np.ndarray:
    """Epochs (n, channel, sample) in uV or fT, double: cut, baseline taken off, resampled, and the kept part of them.

    All of that is linear in the samples of an epoch, so it is one matrix product, x M with M from `operator`. Equal to
    mne.Epochs(...).resample(rate) of the same recording. rows: channel numbers of the piece. Where epochs overlap, the stretch
    that they lie in is read once and each is multiplied where it lies: seconds that begin every 200 ms are read six times else.
    """
    first, last = (round(t * piece.rate) for t in cut.window)
    linear, width = operator(first, last, float(piece.rate), cut) * SCALE[piece.unit], last - first + 1
    out = np.empty((len(onset), len(rows), linear.shape[1]))
    start, stop = (int(onset.min()), int(onset.max())) if len(onset) else (0, 0)
    whole = None
    if stop - start + width <= len(onset) * width:
        whole = np.asarray(piece.data[rows, start + first : stop + last + 1], dtype=np.float64)
    for each, at in zip(out, np.asarray(onset).tolist(), strict=True):
        if whole is not None:
            samples = whole[:, at - start : at - start + width]
        else:
            samples = np.asarray(piece.data[rows, at + first : at + last + 1], dtype=np.float64)
        np.matmul(samples, linear, out=each)
    return out


@lru_cache(maxsize=8)
def operator(first: int, last: int, rate: float, cut: Cut) -> np.ndarray:
    """M (sample, kept): what baseline correction and MNE's resampling make of each unit impulse of an epoch."""
    import mne

    block = np.eye(last - first + 1)
    at = np.arange(first, last + 1) / rate
    if cut.baseline is not None:
        low = at[0] if cut.baseline[0] is None else cut.baseline[0]
        inside = (at >= low - 1e-9) & (at <= cut.baseline[1] + 1e-9)
        if not inside.any():
            raise DataError(f"baseline {cut.baseline} s holds no sample of the window {cut.window} s")
        block -= block[:, inside].mean(axis=1, keepdims=True)
    if rate != cut.rate:
        how = {"up": cut.rate, "down": rate, "npad": "auto", "pad": "edge", "verbose": "error"}
        parts = np.array_split(block, max(1, len(block) // BLOCK))  # each row by itself: the transforms of all would be the peak
        block = np.concatenate([mne.filter.resample(part, **how) for part in parts])
    return np.ascontiguousarray(block[:, _inside(first / rate, block.shape[1], cut)])


def _kept_times(cut: Cut) -> np.ndarray:
    count = round((cut.window[1] - cut.window[0]) * cut.rate)
    times = cut.window[0] + np.arange(count) / cut.rate
    return times[_inside(cut.window[0], count, cut)]


def _inside(start: float, count: int, cut: Cut) -> np.ndarray:
    """Which of the resampled samples are kept: kept[0] <= t < kept[1]."""
    times = start + np.arange(count) / cut.rate
    return (times >= cut.kept[0] - 1e-9) & (times < cut.kept[1] - 1e-9)


def _plan(pieces: Sequence[Piece], names: list[str], cut: Cut) -> tuple[pd.DataFrame, list[tuple[int, np.ndarray]]]:
    """The trial table, and for each piece the onsets that are cut; checks channels and windows before anything is written."""
    tables, places = [], []
    for number, piece in enumerate(pieces):
        missing = [name for name in names if name not in piece.channels]
        if missing:
            raise DataError(f"{piece.source}: {len(missing)} channels are missing: {missing}; it has {piece.channels}")
        if piece.unit not in SCALE or piece.rate < cut.rate:
            raise DataError(
                f"{piece.source}: unit {piece.unit!r} is one of {list(SCALE)}, {piece.rate:g} Hz is {cut.rate:g} or more"
            )
        first, last = (round(t * piece.rate) for t in cut.window)
        onset = np.asarray(piece.onset)
        whole = (onset + first >= 0) & (onset + last < piece.data.shape[1])
        table = pd.DataFrame({"stimulus": np.asarray(piece.stimulus, dtype=str), "session": piece.session, "split": piece.split})
        table = pd.concat([table, piece.table.reset_index(drop=True)], axis=1) if len(piece.table) else table
        order = table[whole].groupby("stimulus").cumcount().reindex(table.index, fill_value=-1).to_numpy()
        most = cut.most[0 if piece.split == "train" else 1]
        keep = whole & (order >= 0) & (order < (np.inf if most is None else most))
        tables.append(table[keep])
        places.append((number, onset[keep]))
    trials = pd.concat(tables, ignore_index=True)
    if not (trials["split"] == "train").any():
        raise DataError(f"no training epoch lies whole in the recordings, of {sum(len(p.onset) for p in pieces)} events")
    trials["repeat"] = trials.groupby(["split", "stimulus"]).cumcount() + 1
    return trials, places


def _row_ids(trials: pd.DataFrame, key: str) -> list[str]:
    """Row ids that hold what the rows were made from, so that epochs of other options are never taken for these."""
    return [f"{s}/{k}" if i else f"{key}/{s}/{k}" for i, (s, k) in enumerate(zip(trials["stimulus"], trials["repeat"]))]


def _write_epochs(
    pieces: Sequence[Piece], places: list[tuple[int, np.ndarray]], trials: pd.DataFrame, names: list[str], cut: Cut,
    folder: Path, shape: tuple[int, ...], dtype: str, key: str,
) -> None:  # fmt: skip
    if "epochs" in manifest(folder):
        return
    with ArrayWriter(folder, "epochs", shape, dtype, ids=_row_ids(trials, key), key=key) as writer:
        start = 0
        for number, onset in places:
            piece = pieces[number]
            rows = [piece.channels.index(name) for name in names]
            for at in range(0, len(onset), BLOCK):
                part = onset[at : at + BLOCK]
                if start + len(part) > writer.done:
                    block = epochs_of(piece, part, rows, cut)
                    _check(block, names, f"{piece.source or piece.session}, epoch {at}")
                    writer.write(start, block)
                    release(piece.data)
                start += len(part)


def _check(block: np.ndarray, names: list[str], where: str) -> None:
    """Raises DataError naming the channels that hold NaN or never change in a block of epochs."""
    bad = ~np.isfinite(block).all(axis=(0, 2))
    reach = np.ptp(block[:, ~bad], axis=(0, 2)) if not bad.all() else np.zeros(0)
    flat = np.zeros(len(names), bool)
    flat[~bad] = reach <= FLAT * reach.max(initial=0.0)  # resampling leaves rounding where nothing was
    for mask, text in ((bad, "hold NaN or infinite values"), (flat, "are flat")):
        if mask.any():
            listed = [name for name, is_bad in zip(names, mask) if is_bad]
            raise DataError(f"{where}: {len(listed)} channels {text}: {listed}; leave them out of `channels`")


def _write_whitened(
    trials: pd.DataFrame, names: list[str], folder: Path, shape: tuple[int, ...], dtype: str, form: str, key: str
) -> None:
    epochs = open_array(folder, "epochs", ids=_row_ids(trials, key))
    session, fit = trials["session"].to_numpy(dtype=str), (trials["split"] == "train").to_numpy()
    matrices: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(session):
        place = f"whitener-{name}"
        if place not in manifest(folder):
            rows = np.flatnonzero((session == name) & fit)
            if not len(rows):
                raise DataError(f"session {name} has no training epoch to estimate its noise from")
            groups = trials["stimulus"].to_numpy(dtype=str)
            save_array(folder, place, whitener(mvnn_covariance(epochs, rows=rows, form=form, groups=groups)))
            release(epochs)
        matrices[name] = np.asarray(open_array(folder, place))
    with ArrayWriter(folder, "whitened", shape, dtype, ids=_row_ids(trials, key), key=key) as writer:
        for start in range(writer.done, shape[0], BLOCK):
            part = session[start : start + BLOCK]
            block = np.empty((len(part), *shape[1:]), np.float32)
            for name in dict.fromkeys(part):
                rows = np.flatnonzero(part == name)
                block[rows] = whiten(matrices[name], np.asarray(epochs[start + rows[0] : start + rows[-1] + 1])[rows - rows[0]])
            writer.write(start, block)
            release(epochs)
    del epochs
    remove_array(folder, "epochs")  # half of the disk; what was whitened does not need it
