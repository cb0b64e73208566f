"""Tables from a user's own arrays, images and epochs: what is checked, converted and named on the way in.

Reached as `Responses.from_arrays`, `.from_images`, `.from_epochs` and `Features.from_arrays`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.types.ids import DataError, as_ids
from brainlens.types.sensor_units import check_size, data_channels, measure_of, typical_size
from brainlens.types.spaces import Sensors, Volume

TRIAL_COLUMNS = ("split", "subject", "session", "run", "repeat", "condition", "category")
SAME_GRID = 1e-3  # mm


def plain(array: Any, what: str) -> np.ndarray:
    """An array of numbers, of any shape, from numpy, torch or lists. Raises DataError for what holds no numbers."""
    array = array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} should hold real numbers, it holds {array.dtype}; convert it with .astype('float32')")
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def trial_table(stimulus_ids: Iterable[Any], rows: int, columns: Mapping[str, Any]) -> pd.DataFrame:
    """The trials: `stimulus` and what of TRIAL_COLUMNS is given (one a trial, or for all)."""
    ids = as_ids(stimulus_ids, "stimulus_ids")
    if len(ids) != rows:
        raise DataError(f"stimulus_ids: {len(ids)} ids for {rows} trials; give the id of the stimulus of every trial")
    table = {"stimulus": ids}
    for name, values in columns.items():
        if name not in TRIAL_COLUMNS:
            known = f"{', '.join(TRIAL_COLUMNS)} or, of units, xyz, mask_img, roi, times, channels"
            raise DataError(f"trials have no column {name!r}; choose from {known}")
        if values is None:
            continue
        listed = [values] * rows if isinstance(values, (str, int, np.integer)) else list(values)
        if len(listed) != rows:
            raise DataError(f"{name}: {len(listed)} values for {rows} trials; give one a trial, or one for all")
        table[name] = np.array(listed) if name == "repeat" else np.array([str(value) for value in listed])
    return pd.DataFrame(table)


def responses_from_arrays(
    y: Any,
    stimulus_ids: Iterable[Any],
    *,
    xyz: Any = None,
    mask_img: Any = None,
    roi: Sequence[str] | None = None,
    times: Any = None,
    channels: Sequence[str] | None = None,
    trials: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of a Responses from arrays; see `Responses.from_arrays`."""
    data = plain(y, "Y")
    if data.ndim not in (2, 3):
        raise DataError(f"Y is (trial, unit) or (trial, unit, time), got shape {data.shape}")
    if data.ndim == 3 and times is None:
        raise DataError(f"Y has {data.shape[2]} time points but no times; give times= in seconds, one a time point")
    if data.ndim == 2 and times is not None:
        raise DataError("times are given but Y has no time axis; leave them out, or give Y as (trial, unit, time)")
    table = trial_table(stimulus_ids, len(data), trials)
    refuse_missing(data, f"drop them first: keep = np.isfinite(Y).all(axis={0 if data.ndim == 2 else (0, 2)})")
    n = data.shape[1]
    space = None if mask_img is None else as_volume(mask_img, "mask_img")
    if space is not None and len(space) != n:
        raise DataError(f"Y has {n} units but mask_img {len(space)} voxels; give the mask that Y was read with")
    units: dict[str, Any] = {}
    if space is not None and xyz is not None:
        raise DataError("xyz and mask_img are both given; give one of them, the mask holds the coordinates already")
    if space is not None or xyz is not None:
        place = space.coordinates() if space is not None else plain(xyz, "xyz")
        if place.shape != (n, 3) or not np.isfinite(place).all():
            raise DataError(f"xyz should be finite (unit, 3) in mm for {n} units, got shape {place.shape}")
        units |= {axis: place[:, i].astype(np.float64) for i, axis in enumerate("xyz")}
    for name, column, values in (("roi", "roi", roi), ("channels", "channel", channels)):
        if values is not None:
            listed = [str(value) for value in values]
            if len(listed) != n:
                raise DataError(f"{name}: {len(listed)} names for {n} units; give one a unit")
            units[column] = listed
    frame = pd.DataFrame(units, index=range(n))
    return {"data": data, "trials": table, "units": frame, "space": space, "times": None if times is None else np.asarray(times)}


def refuse_missing(data: np.ndarray, way: str, channels: Sequence[str] = ()) -> None:
    """Raises DataError, which ends in the way out, where responses (trial, unit[, time]) hold NaN or infinity.

    channels: names of the units, where they have any; the first channel is then named, and the first epoch of it by its number.
    """
    bad = ~np.isfinite(data)
    if bad.any():
        columns = bad.any(axis=(0, 2) if data.ndim == 3 else 0)
        first, kind = int(columns.argmax()), "channels" if channels else "units"
        where = f"unit {first}"
        if channels:
            where = f"channel {channels[first]!r} in epoch {int(bad[:, first].any(axis=-1).argmax())}"
        raise DataError(f"Y holds NaN or infinity in {int(columns.sum())} of {len(columns)} {kind}, first {where}; {way}")


def as_volume(mask: Any, what: str = "mask") -> Volume:
    """A Volume from a Volume, a nibabel image or the path of one: the voxels above zero."""
    if isinstance(mask, Volume):
        return mask
    image = open_image(mask, what)
    if len(image.shape) != 3:
        raise DataError(f"{what} should have three axes, got shape {tuple(image.shape)}; the time series is the other argument")
    values = np.asarray(image.dataobj) > 0  # NaN, as some masks have outside the brain, is not above zero
    if not values.any():
        raise DataError(f"{what}: no voxel is above zero, so the mask is empty")
    return Volume(values, np.asarray(image.affine, dtype=float))


def open_image(given: Any, what: str) -> Any:
    """A nibabel image, opened where a path is given and read to its checksum where it is compressed."""
    if hasattr(given, "dataobj") and hasattr(given, "affine"):
        return given
    if not isinstance(given, (str, Path)):
        raise DataError(f"{what} should be a nibabel image or the path of one, got {type(given).__name__}")
    if not Path(given).is_file():
        raise DataError(f"{what}: {given} is not found; give the path of a NIfTI file")
    import gzip
    import zlib

    import nibabel

    try:
        if str(given).endswith(".gz"):  # nibabel does not read to the end, where the checksum of a damaged file is
            with gzip.open(given, "rb") as handle:
                while handle.read(1 << 24):
                    pass
        return nibabel.load(given)
    except (OSError, EOFError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"{what}: {given} is damaged or not an image ({type(error).__name__}: {error})") from None


def masked(nifti: Any, mask: Any) -> tuple[np.ndarray, Volume]:
    """The values (image, voxel) float32 of a 4-D image under a mask of the same grid. Raises DataError for another grid."""
    space, image = as_volume(mask), open_image(nifti, "nifti")
    shape = tuple(image.shape)
    if len(shape) != 4:
        raise DataError(f"nifti should be 4-D (x, y, z, trial), got shape {shape}; stack one image a trial, e.g. GLM betas")
    if shape[:3] != space.mask.shape:
        raise DataError(f"nifti has the grid {shape[:3]}, the mask {space.mask.shape}; resample one of them first")
    off = float(np.abs(np.asarray(image.affine) - space.affine).max())
    if off > SAME_GRID:
        raise DataError(f"nifti: its affine differs from the mask's by {off:.3g} mm; bring both to one space first")
    out = np.empty((shape[3], len(space)), dtype=np.float32)
    for i in range(shape[3]):  # one image at a time, so that the whole is never in memory twice
        out[i] = np.asarray(image.dataobj[..., i])[space.mask]
    refuse_missing(out, "take these voxels out of the mask")
    return out, space


def responses_from_epochs(epochs: Any, stimulus: str | None, trials: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Responses from mne.Epochs; see `Responses.from_epochs`."""
    if not all(hasattr(epochs, name) for name in ("get_data", "event_id", "get_channel_types")):
        way = "for arrays use Responses.from_arrays"
        if isinstance(epochs, (str, Path)):
            way = f"read the file first, mne.read_epochs({str(epochs)!r})"
        raise DataError(f"epochs should be mne.Epochs, got {type(epochs).__name__}; {way}")
    picks, unit = data_channels(epochs.info, epochs.get_channel_types())
    if not len(epochs.selection):
        raise DataError("epochs hold no trial; all were dropped, see epochs.drop_log")
    measure, factor = measure_of(unit)
    data = (epochs.get_data(picks=picks, copy=False) * factor).astype(np.float32)
    names = [epochs.ch_names[i] for i in picks]
    refuse_missing(data, "drop these epochs (epochs.drop) or channels (epochs.drop_channels) first", names)
    check_size(
        typical_size(data), measure,
        "MNE keeps volts and tesla: scale them, or give other units as they are with "
        "Responses.from_arrays(epochs.get_data(), ..., times=epochs.times)",
    )  # fmt: skip
    ids, more = _seen(epochs, stimulus)
    named = {name: values for name, values in more.items() if name in TRIAL_COLUMNS}
    table = trial_table(ids, len(data), {**named, **{k: v for k, v in trials.items() if v is not None}})
    table = table.assign(**{name: values for name, values in more.items() if name not in table.columns})
    place = np.array([epochs.info["chs"][i]["loc"][:3] for i in picks], dtype=float)
    known = bool(np.isfinite(place).all() and np.abs(place).sum() > 0)
    axes = {axis: place[:, i] * 1e3 for i, axis in enumerate("xyz")} if known else {}
    units = pd.DataFrame({"channel": names, **axes})
    space = Sensors(np.array(names), place) if known else None
    return {"data": data, "trials": table, "units": units, "space": space, "times": np.asarray(epochs.times), "measure": measure}


def epochs_of(responses: Any) -> Any:
    """mne.EpochsArray of recordings (trial, channel, time); see `Responses.to_epochs`."""
    kinds = {"uV": ("eeg", "V"), "fT": ("mag", "T"), "fT/cm": ("grad", "T/m")}
    if responses.times is None or "channel" not in responses.units.columns:
        raise DataError("to_epochs: these responses have no times and channels; it is of EEG and MEG")
    if responses.measure not in kinds:
        raise DataError(
            f"to_epochs: MNE keeps volts and tesla, and these numbers are in {responses.measure!r}, no unit of either"
        )
    steps = np.diff(responses.times)
    if not len(steps) or np.ptp(steps) > 0.01 * steps.mean():
        raise DataError("to_epochs: times should rise in even steps; resample first")
    import mne

    kind, unit = kinds[responses.measure]
    info = mne.create_info([str(name) for name in responses.units["channel"]], 1 / float(steps.mean()), kind)
    if isinstance(responses.space, Sensors):
        for channel, place in zip(info["chs"], responses.space.positions, strict=True):
            channel["loc"][:3] = place
    seen = responses.trials["stimulus"].astype(str)
    code = {name: k + 1 for k, name in enumerate(dict.fromkeys(seen))}
    n, samples = len(responses), len(responses.times)
    events = np.column_stack([samples * np.arange(n), np.zeros(n, int), seen.map(code)])
    data = np.asarray(responses.data, dtype=np.float64) / measure_of(unit)[1]
    return mne.EpochsArray(
        data, info, events, float(responses.times[0]), code, metadata=responses.trials.reset_index(drop=True), verbose="error"
    )


def _seen(epochs: Any, stimulus: str | None) -> tuple[list[Any], dict[str, Any]]:
    """The stimulus of every epoch, and the other columns of the metadata."""
    columns = [] if epochs.metadata is None else [name for name in epochs.metadata.columns if name != (stimulus or "stimulus")]
    more = {str(name): epochs.metadata[name].to_numpy() for name in columns}
    if stimulus is None:
        names = {code: name for name, code in epochs.event_id.items()}
        return [names[code] for code in epochs.events[:, 2]], more
    if epochs.metadata is None or stimulus not in epochs.metadata.columns:
        there = [] if epochs.metadata is None else sorted(map(str, epochs.metadata.columns))
        raise DataError(f"epochs have no metadata column {stimulus!r}; they have {there}; leave it out for event names")
    return list(epochs.metadata[stimulus]), more


def features_from_arrays(layers: Mapping[str, Any], grid: Any) -> dict[str, Any]:
    """data, tokens and grid of a Features from arrays; see `Features.from_arrays`."""
    if not isinstance(layers, Mapping) or not layers:
        raise DataError("features are a dict of arrays by layer, e.g. {'layer.6': array}; give at least one layer")
    unknown = [name for name in grid if name not in layers] if isinstance(grid, Mapping) else []
    if unknown:
        raise DataError(f"grid names the layer {unknown[0]!r}, which is not found; the layers are {list(layers)}")
    found: dict[str, Any] = {"data": {}, "tokens": {}, "grid": {}}
    for layer, given in layers.items():
        array = plain(given, f"layer {layer!r}")
        if array.ndim == 2:
            found["data"][layer] = array
        elif array.ndim == 4:
            found["grid"][layer] = (array.shape[2], array.shape[3])
            found["tokens"][layer] = array.reshape(*array.shape[:2], -1).swapaxes(1, 2)
            found["data"][layer] = array.mean(axis=(2, 3))
        elif array.ndim == 3:
            size, special = _token_grid(layer, array.shape[1], grid.get(layer) if isinstance(grid, Mapping) else grid)
            found["grid"][layer], found["tokens"][layer] = size, array[:, special:]
            found["data"][layer] = array[:, 0] if special else array.mean(axis=1)
        else:
            raise DataError(
                f"layer {layer!r} has shape {array.shape}, not (n, d), (n, tokens, channels) or (n, channels, rows, columns)"
            )
    return found


def _token_grid(layer: str, tokens: int, grid: Sequence[int] | None) -> tuple[tuple[int, int], int]:
    """(rows, columns) of a layer's tokens, and whether a class token stands before them (0 or 1)."""
    if grid is not None:
        rows, columns = (int(side) for side in grid)
        if tokens - rows * columns not in (0, 1) or min(rows, columns) < 1:
            raise DataError(
                f"layer {layer!r}: {tokens} tokens are not a grid of {rows} x {columns}, with or without a class token; "
                "cut other tokens (registers) off first"
            )
        return (rows, columns), tokens - rows * columns
    for special in (0, 1):
        side = round(np.sqrt(tokens - special))
        if side > 0 and side * side == tokens - special:
            return (side, side), special
    raise DataError(
        f"layer {layer!r}: {tokens} tokens are neither a square nor a class token and a square; "
        "give grid=(rows, columns), and cut other tokens (registers) off first"
    )


def varies(array: np.ndarray) -> bool:
    """Whether features (image, ...) differ between images by more than the last bit of float16.

    sum_c Var_c > 1e-6 sum_c mean(f_c^2). A layer that is the same for all images, stored in float16, reaches at most 2.4e-7
    even if rounding goes either way in every channel.
    """
    some = np.asarray(array[:256], dtype=np.float64)
    return bool(some.var(axis=0).sum() > 1e-6 * (some**2).mean(axis=0).sum() + 1e-24)
