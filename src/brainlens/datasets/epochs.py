"""EEG or MEG of one's own: anything that MNE reads and a table of events, a saved mne.Epochs, or an array of epochs.

a continuous file (.fif, .vhdr, .edf, .bdf, .set, ...) or recording.csv     events.csv   onset or event, stimulus, ...
or NAME-epo.fif with metadata                                               images/      a picture for each stimulus, if any
or epochs.npy (.mat, .h5: trial, channel, time) with trials.csv, channels.csv and times.csv
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.electrode_places import with_electrodes
from brainlens.datasets.folder import OF_TRIALS, check_rows, read_trials
from brainlens.datasets.shown_stimuli import shown_stimuli, with_split
from brainlens.datasets.stored_arrays import find_array, read_array
from brainlens.datasets.text_tables import EMPTY, read_table
from brainlens.signals.epochs import cleaned, make_epochs
from brainlens.types import DataError, Recording, Responses, Sensors, check_fif, check_gzip, check_mat
from brainlens.types.sensor_units import check_size, measure_of, typical_size
from brainlens.warned import warn

CONTINUOUS = (".fif", ".fif.gz", ".vhdr", ".edf", ".bdf", ".gdf", ".set", ".cnt", ".mff", ".nxe", ".sqd", ".con")
SAVED = re.compile(r".*[-_]epo\.fif(\.gz)?$")
SPLIT_PART = re.compile(r".*-\d+\.fif$")  # further files of a recording that is split, which MNE finds by itself
OWN_CSV = "recording.csv"
WINDOW = (-0.2, 0.8)  # s
ARRAYS = (".npy", ".mat", ".h5", ".hdf5")

FACTS = {
    "name": "epochs",
    "title": "EEG or MEG of your own: a file that MNE reads with a table of events, or saved epochs",
    "kind": "EEG",
    "measure": "EEG or MEG, in uV, fT or fT/cm",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "captions", "split"),
    "licence": "yours",
    "citation": "yours",
    "url": "docs/recordings.md",
    "access": "yours",
}


def load(
    folder: str | Path,
    *,
    window: tuple[float, float] = WINDOW,
    band: tuple[float, float] | None = None,
    rate: float | None = None,
    rename: tuple[str, ...] | None = None,
    unit: str | None = None,
    reference: tuple[str, ...] | None = None,
    reject: float | None = None,
    stimulus: str = "stimulus",
    test: float = 0.2,
    draw: int = 0,
) -> Recording:
    """Responses (trial, channel, time) and stimuli of a folder in the layout of docs/recordings.md.

    window: s around the event, cut of a continuous recording, whose baseline is what lies before 0; band: filter edges in Hz;
    rate: new rate in Hz. rename: channels as OLD=NEW. unit: of numbers in recording.csv or an array (V, uV, T, fT, T/m,
    fT/cm, z; uV unless given); MNE's files are volts and tesla. reference: "average" or channels, whose mean EEG is then against;
    reject: epochs whose range exceeds so many uV, fT or fT/cm in any channel are left out (`signals.epochs.cleaned`).
    stimulus: the column of the events, or of the metadata, that names what was seen. test, draw: share of the images, and
    seed, of the test where there are pictures and no column split.
    Raises DataError for missing files and columns, events that do not occur, and magnitudes that the unit does not have.
    """
    folder = Path(folder)
    kind, path = _found(folder)
    rename = rename or ()
    if kind != "array" and kind != "csv" and unit is not None:
        raise DataError(f"option unit={unit!r}: {path.name} holds volts or tesla by its format; leave it out")
    cut = [name for name, given in (("window", window != WINDOW), ("band", band), ("rate", rate)) if given]
    if kind in ("array", "saved") and cut:
        raise DataError(f"option {cut[0]}: {path.name} holds epochs that are cut already; leave it out, or give the recording")
    if kind == "array" and (reference is not None or reject is not None):
        name = "reference" if reference is not None else "reject"
        raise DataError(f"option {name}: {path.name} is an array as it is; clean it before, or give a recording or NAME-epo.fif")
    clean: dict[str, Any] = {"reference": reference, "reject": reject}
    if kind == "array":
        responses = _from_array(folder, path, unit or "uV", rename)
    elif kind == "saved":
        responses = _from_saved(path, stimulus, rename, clean)
    else:
        raw = _read_csv(path, unit or "uV") if kind == "csv" else _read_raw(path)
        raw = _placed(_renamed(with_electrodes(_without_marked(raw, folder), folder), rename))
        responses = _cut(raw, folder, stimulus, {"window": window, "band": band, "rate": rate, **clean})
    trials = _named_subjects(responses.trials.assign(session=responses.trials.get("session", "1")))
    pictures = (folder / "images").is_dir() or (folder / "stimuli.csv").is_file()
    if pictures or "split" in trials.columns:
        trials = with_split(trials, test=test, seed=draw, where=folder)
    responses = Responses(responses.data, trials, responses.units, responses.space, responses.times, responses.measure)
    return Recording(responses, shown_stimuli(folder, trials["stimulus"]))


def subjects(folder: str | Path, **options: Any) -> list[int]:
    """Numbers of the subjects of the recording."""
    return sorted({int(name) for name in load(folder, **options).responses.trials["subject"]})


def _found(folder: Path) -> tuple[str, Path]:
    """What kind of recording lies in a folder, and its file. Raises DataError for none and for several."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    saved = [p for p in files if SAVED.match(p.name)]
    raws = [p for p in files if p.name.lower().endswith(CONTINUOUS) and p not in saved and not SPLIT_PART.match(p.name)]
    array = find_array(folder, "epochs", ARRAYS)
    found = [*(("saved", p) for p in saved), *(("raw", p) for p in raws), *([] if array is None else [("array", array)])]
    found += [("csv", p) for p in files if p.name == OWN_CSV]
    if not found:
        raise DataError(
            f"{folder} holds no recording: a file that MNE reads ({', '.join(CONTINUOUS[:7])}, ...), NAME-epo.fif, {OWN_CSV} or "
            f"epochs.npy is expected"
        )
    if len(found) > 1:
        raise DataError(f"{folder} holds {found[0][1].name} and {found[1][1].name}; give each recording a folder of its own")
    return found[0]


def _read_raw(path: Path) -> Any:
    import mne

    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # boundaries and channel types that MNE guesses; what matters is checked below
            raw = mne.io.read_raw(path, preload=True, verbose="error")
    except Exception as error:  # the readers raise many kinds for damaged files
        raise DataError(f"{path} cannot be read by MNE ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from None
    triggers = not len(raw.annotations) and "stim" in raw
    events: Any = mne.find_events(raw, verbose="error", initial_event=True) if triggers else []
    if len(events):  # triggers become annotations by their number
        names = {int(code): str(code) for code in np.unique(events[:, 2])}
        rate, first, date = raw.info["sfreq"], raw.first_samp, raw.info["meas_date"]
        raw.set_annotations(mne.annotations_from_events(events, rate, names, first_samp=first, orig_time=date, verbose="error"))
    return raw


def _check_file(path: Path) -> None:
    """Raises DataError for a packed recording that unpacks to more than anyone would store so, a broken .set or .fif."""
    if path.suffix == ".gz":
        check_gzip(path)
    if path.suffix == ".set":
        check_mat(path)
    if path.name.endswith((".fif", ".fif.gz")):
        check_fif(path)


def _read_csv(path: Path, unit: str) -> Any:
    """`recording.csv`: a column `time` in s and one column a channel, in `unit`, as an mne Raw of EEG or MEG."""
    import mne

    table = read_table(path, ("time",)).apply(pd.to_numeric, errors="coerce")
    wrong = np.argwhere(table.isna().to_numpy())
    if len(wrong):
        row, column = wrong[0]
        raise DataError(f"{path}: line {row + 2}, column {table.columns[column]!r} is not a number; every sample has one")
    steps = np.diff(table["time"].to_numpy())
    if len(steps) < 2 or steps.min() <= 0 or np.abs(steps - np.median(steps)).max() > 0.1 * np.median(steps):
        raise DataError(f"{path}: the column time should rise in even steps of seconds; resample the recording first")
    measure, factor = measure_of(unit)
    kinds = {"uV": ("eeg", 1e-6), "fT": ("mag", 1e-15), "fT/cm": ("grad", 1e-13)}
    if measure not in kinds:
        raise DataError(f"option unit={unit!r}: a continuous recording is in V, mV, uV, T, fT, T/m or fT/cm")
    kind, si = kinds[measure]
    names = [name for name in table.columns if name != "time"]
    info = mne.create_info(names, 1 / float(np.mean(steps)), kind)
    return mne.io.RawArray(table[names].to_numpy().T * (factor * si), info, verbose="error")


def _placed(raw: Any) -> Any:
    """With the standard places of 10-20 names, where no EEG channel has a place and all have such names."""
    import mne

    kinds = raw.get_channel_types()
    eeg = [channel for channel, kind in zip(raw.info["chs"], kinds, strict=True) if kind == "eeg"]
    if any(np.isfinite(channel["loc"][:3]).all() and np.any(channel["loc"][:3]) for channel in eeg):
        return raw
    built_in = mne.channels.get_builtin_montages()
    montage = mne.channels.make_standard_montage("colin27_1020" if "colin27_1020" in built_in else "standard_1020")
    known = {name.lower() for name in montage.ch_names}
    if eeg and all(channel["ch_name"].lower() in known for channel in eeg):
        raw.set_montage(montage, match_case=False, on_missing="ignore", verbose="error")
    return raw


def _renamed(data: Any, rename: Sequence[str]) -> Any:
    """Channels of an mne object by other names. Raises DataError for what is not OLD=NEW and names that are not found."""
    names = _new_names(list(data.ch_names), rename)
    return data.rename_channels(dict(zip(data.ch_names, names, strict=True)), verbose="error") if rename else data


def _new_names(names: list[str], rename: Sequence[str]) -> list[str]:
    new = dict(zip(names, names, strict=True))
    for text in rename:
        old, equals, name = text.partition("=")
        if not equals or not name:
            raise DataError(f"rename {text!r} is not OLD=NEW")
        if old not in new:
            raise DataError(f"rename {text!r}: there is no channel {old!r}; the recording has {', '.join(names[:40])}")
        new[old] = name
    twice = [name for name in new.values() if list(new.values()).count(name) > 1]
    if twice:
        raise DataError(f"rename gives two channels the name {twice[0]!r}; channels are matched by name")
    return list(new.values())


def _cut(raw: Any, folder: Path, stimulus: str, options: dict[str, Any]) -> Responses:
    """Epochs of a continuous recording around the events of `events.csv`, or around its own without that table; options: of
    `make_epochs`."""
    path = find_array(folder, "events", (".csv", ".tsv")) or _of_bids(folder)
    table = None if path is None else read_table(path, (), ("onset", "event", stimulus, *OF_TRIALS))
    more: dict[str, Any] = {**options, "baseline": (None, 0.0) if options["window"][0] < 0 else None}
    if table is None:
        own = [str(text) for text in dict.fromkeys(raw.annotations.description)]
        own = [text for text in own if not text.lower().startswith(("bad", "boundary", "new segment"))]
        if not own:
            raise DataError(
                f"{folder / 'events.csv'} is missing, and the recording holds no events; list onset and stimulus of each"
            )
        return make_epochs(raw, {text: text for text in own}, **more)
    if stimulus not in table.columns or not {"onset", "event"} & set(table.columns):
        raise DataError(
            f"{path} has the columns {', '.join(table.columns)}; it needs {stimulus!r} and either onset (s after the first "
            "sample) or event (the name of the event in the recording); another column of what was seen: --option stimulus=COLUMN"
        )
    assert path is not None
    table = _named(table, stimulus, path)
    if "onset" in table.columns:
        onsets = pd.to_numeric(table["onset"], errors="coerce")
        if onsets.isna().any():
            at = int(onsets.isna().to_numpy().argmax())
            raise DataError(f"{path}: onset {table['onset'].iloc[at]!r} in line {at + 2} is not a number of seconds")
        found = make_epochs(raw, list(zip(onsets, table[stimulus], strict=True)), **more)
        rows = table.iloc[found.trials["event"]].reset_index(drop=True)
    else:
        if table["event"].duplicated().any():
            raise DataError(
                f"{path}: event {table['event'][table['event'].duplicated()].iloc[0]!r} comes twice; one line an event"
            )
        found = make_epochs(raw, {name: name for name in table["event"]}, **more)
        rows = table.set_index("event").loc[found.trials["stimulus"]].reset_index()
    trials = rows.drop(columns=["onset", stimulus], errors="ignore").assign(stimulus=rows[stimulus])
    return Responses(found.data, _repeats(trials), found.units, found.space, found.times, found.measure)


def _of_bids(folder: Path) -> Path | None:
    """The events of a recording as BIDS names them, `..._events.tsv`. Raises DataError where there are several."""
    found = sorted(folder.glob("*_events.tsv"))
    if len(found) > 1:
        raise DataError(f"{folder} holds {found[0].name} and {found[1].name}; give each recording a folder of its own")
    return found[0] if found else None


def _without_marked(raw: Any, folder: Path) -> Any:
    """The recording with the channels marked bad that BIDS's `..._channels.tsv` beside it calls so."""
    for path in sorted(folder.glob("*_channels.tsv")):
        table = read_table(path, ("name",), ("status",))
        if "status" in table.columns:
            bad = table["name"][table["status"] == "bad"]
            raw.info["bads"] = sorted({*raw.info["bads"], *(name for name in bad if name in raw.ch_names)})
    return raw


def _named(table: pd.DataFrame, stimulus: str, path: Path) -> pd.DataFrame:
    """The events that name what was seen; those without (empty, n/a) are counted in a warning. DataError where none does."""
    there = ~table[stimulus].isin(EMPTY)
    if not there.any():
        raise DataError(f"{path}: no line names a {stimulus}; name another column by --option stimulus=COLUMN")
    if not there.all():
        warn(f"{path}: {int((~there).sum())} of {len(there)} events name no {stimulus} and are left out")
    return table[there].reset_index(drop=True)


def _from_saved(path: Path, stimulus: str, rename: Sequence[str], clean: dict[str, Any]) -> Responses:
    """Saved mne.Epochs; what was seen is a column of their metadata, or the name of the event without one."""
    import mne

    _check_file(path)
    try:
        epochs = cleaned(_renamed(mne.read_epochs(path, preload=True, verbose="error"), rename), **clean)
    except DataError:
        raise
    except Exception as error:  # the reader raises many kinds for damaged and for missing parts
        raise DataError(f"{path} is damaged or a part of it is missing ({' '.join(str(error).split())[:200]})") from None
    table = epochs.metadata
    if table is not None and stimulus not in table.columns:
        raise DataError(
            f"{path}: its metadata have no column {stimulus!r}; they have {', '.join(map(str, table.columns))}: "
            "name one by --option stimulus=COLUMN"
        )
    if table is not None:
        whole = table.select_dtypes("integer").columns  # numbers of images are names here as everywhere
        with mne.utils.use_log_level("error"):  # which says on the terminal that metadata are replaced
            epochs.metadata = table.assign(**{name: table[name].astype(str) for name in {*whole, stimulus}})
    found = Responses.from_epochs(epochs, stimulus=None if table is None else stimulus)
    trials = found.trials
    if epochs.metadata is not None:
        rest = epochs.metadata.reset_index(drop=True).drop(columns=[stimulus, *trials.columns], errors="ignore")
        trials = pd.concat([trials, rest], axis=1)
    return Responses(found.data, _repeats(trials), found.units, found.space, found.times, found.measure)


def _from_array(folder: Path, path: Path, unit: str, rename: Sequence[str]) -> Responses:
    """An array (trial, channel, time) with trials.csv, channels.csv (channel; x, y, z in mm) and times.csv (time in s)."""
    trials, channels, times = read_trials(folder), read_table(folder / "channels.csv", ("channel",), ("x", "y", "z")), read_table(
        folder / "times.csv", ("time",)
    )  # fmt: skip
    data = read_array(path, "epochs")
    if data.ndim != 3:
        raise DataError(
            f"{path}: epochs are (trial, channel, time), got shape {data.shape}; (trial, unit) is read by --dataset folder"
        )
    check_rows(folder, data, len(trials), len(channels))
    axis = pd.to_numeric(times["time"], errors="coerce").to_numpy(dtype=float)
    if len(axis) != data.shape[2] or not (np.diff(axis) > 0).all():
        raise DataError(
            f"{folder / 'times.csv'}: {len(axis)} times for {data.shape[2]} samples; give the rising time of each in s"
        )
    measure, factor = measure_of(unit)
    units = channels.assign(channel=_new_names(list(channels["channel"]), rename))
    for name in [name for name in "xyz" if name in units.columns]:
        units[name] = pd.to_numeric(units[name], errors="coerce")
    scaled = data if factor == 1.0 else np.asarray(data, np.float64) * factor
    check_size(typical_size(scaled), measure, "say what its numbers are by --option unit=V, mV, uV, T, fT, T/m, fT/cm or z")
    places = units[[*"xyz"]].to_numpy(dtype=float) / 1000 if {*"xyz"} <= set(units.columns) else np.full((len(units), 3), np.nan)
    space = Sensors(units["channel"].to_numpy(dtype=str), places) if np.isfinite(places).all() else None
    return Responses(np.asarray(scaled, np.float32), trials, units, space, axis, measure)


def _repeats(trials: pd.DataFrame) -> pd.DataFrame:
    if "repeat" in trials.columns:
        return trials
    keys = [name for name in ("subject", "stimulus") if name in trials.columns]
    return trials.assign(repeat=trials.groupby(keys).cumcount() + 1)


def _named_subjects(trials: pd.DataFrame) -> pd.DataFrame:
    """Subjects as numbers, from 7, 07 or sub-07; all of "1" where there is no column."""
    if "subject" not in trials.columns:
        return trials.assign(subject="1")
    plain = [re.sub(r"^(sub-|P)?0*(?=\d)", "", str(name)) for name in trials["subject"]]
    wrong = [name for name, number in zip(trials["subject"], plain, strict=True) if not number.isdecimal()]
    if wrong:
        raise DataError(f"subject {wrong[0]!r} is not a number; name subjects 1, 2, ... or sub-01, sub-02, ...")
    return trials.assign(subject=plain)
