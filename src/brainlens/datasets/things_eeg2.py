"""THINGS-EEG2: 10 subjects, 1,654 training concepts with 10 images each, 200 test images, rapid serial presentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.kept import kept_folder
from brainlens.datasets.pictures import ImageFiles, NoImages
from brainlens.datasets.things_tables import with_categories
from brainlens.datasets.unpickle import load_dictionary
from brainlens.signals.epochs import stimulus_of_event
from brainlens.signals.prepare import CUT, Cut, Piece, prepare
from brainlens.store import ArrayWriter, open_array, release
from brainlens.types import DataError, Recording, Responses, Sensors, Stimuli, inside
from brainlens.types.sensor_units import LIMITS, measure_of
from brainlens.warned import warn

# fmt: off
CHANNELS = (
    "Fp1", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8", "F7", "F5", "F3", "F1", "F2", "F4", "F6", "F8", "FT9", "FT7",
    "FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6", "FT8", "FT10", "T7", "C5", "C3", "C1", "Cz", "C2", "C4", "C6",
    "T8", "TP9", "TP7", "CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6", "TP8", "TP10", "P7", "P5", "P3", "P1", "Pz",
    "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2",
)
# fmt: on
METADATA = "image_set/image_metadata.npy"
TARGET = 99999  # event code of the target that subjects counted
RAW_NAMES = {"training": ("training", "train"), "test": ("test",)}  # two spellings are in use
MEMORY = 2e9  # bytes that may be held where no cache is named
PIECE = 1 << 25  # bytes converted at a time
PLACES = ("", "Preprocessed_data_250Hz", "preprocessed_data")  # in the folder, where the epochs may lie

FACTS: dict[str, Any] = {
    "name": "things_eeg2",
    "title": "A large and rich EEG dataset for modeling human visual object recognition",
    "kind": "EEG",
    "measure": "EEG, noise-normalised",
    "simulated": False,
    "several_subjects": True,
    "offers": ("pictures", "split"),
    "licence": "CC BY 4.0",
    "citation": "Gifford et al. (2022), NeuroImage 264, 119754",
    "url": "https://osf.io/3jk45/",
    "access": "public",
    "subjects": 10,
    "channels": 63,
    "training_images": 16540,
    "training_repeats": 4,
    "test_images": 200,
    "test_repeats": 80,
}


def fetch(folder: str | Path) -> Path:
    """Raises DataError with the address: the preprocessed files are 100 GB and are chosen by the user."""
    raise DataError(f"things_eeg2 is at {FACTS['url']}: put sub-01 ... sub-10 (preprocessed) and image_set into {folder}")


def load(
    folder: str | Path,
    *,
    subject: int = 1,
    channels: tuple[str, ...] | None = None,
    parts: tuple[str, ...] = ("training", "test"),
    unit: str = "z",
    dtype: str = "float16",
    cache: str | Path | None = None,
) -> Recording:
    """Responses (trial, channel, time) of the preprocessed, noise-normalised epochs, and the images seen.

    Every repeat is a trial: rows are (training images x repeats), then (test images x repeats). channels: names, in
    the order wanted (default: those of the file). dtype and cache: the epochs are converted piece by piece from the
    pickled files to a memory map in `cache`, named after files and options; without it up to 2 GB are held in memory.
    Both releases are read: dictionaries stored by np.save, and pickles under the name .npy; nothing in them is run.
    Where `times` is longer than the data (known in released files), its last values count, with a warning. unit: of the
    numbers in the files: "z", noise-normalised as released, or "V", "mV", "uV", which come as microvolts.
    Raises DataError for numbers that look like volts where the unit is "z", listing channels that are missing, and
    for files that do not match each other.
    """
    folder = Path(folder)
    measure, factor = measure_of(unit)
    contents = {part: _open(folder, subject, part, unit) | {"factor": factor} for part in parts}
    first = contents[parts[0]]
    names = list(channels) if channels is not None else first["ch_names"]
    times = first["times"]
    for part, content in contents.items():
        missing = [name for name in names if name not in content["ch_names"]]
        if missing:
            raise DataError(f"{part} epochs of subject {subject} lack channels {missing}; they have {content['ch_names']}")
        if len(content["times"]) != len(times) or np.abs(content["times"] - times).max() > 1e-6:
            raise DataError(f"subject {subject}: {part} and {parts[0]} epochs have other times; they were not cut alike")
    tables = {part: _image_table(folder, part, len(content["data"])) for part, content in contents.items()}
    trials = pd.concat([_trials(tables[p], contents[p]["data"].shape[1], p, subject) for p in parts], ignore_index=True)
    shape = (len(trials), len(names), len(times))
    place = None
    if cache is not None:
        options = {"channels": names, "parts": list(parts), "dtype": dtype}
        name = f"things_eeg2-sub-{subject:02d}" + ("" if measure == "z" else f"-{unit}")
        place = kept_folder(cache, name, [c["path"] for c in contents.values()], options)
    data = _convert(contents, names, shape, dtype, trials, place)
    table = pd.concat(list(tables.values()), ignore_index=True)
    responses = Responses(data, trials, pd.DataFrame({"channel": names}), _sensors(names), times, measure)
    return with_categories(Recording(responses, _stimuli(folder, table)), folder)


def _find(folder: Path, subject: int, part: str) -> Path:
    name = Path(f"sub-{subject:02d}") / f"preprocessed_eeg_{part}.npy"
    for place in PLACES:
        if (folder / place / name).exists():
            return folder / place / name
    raise DataError(f"{folder / name} is missing; see {FACTS['url']}")


def _open(folder: Path, subject: int, part: str, unit: str) -> dict[str, Any]:
    path = _find(folder, subject, part)
    content = load_dictionary(path, ("preprocessed_eeg_data", "ch_names", "times"))
    data = content["preprocessed_eeg_data"]
    if not isinstance(data, np.ndarray) or data.ndim != 4 or data.dtype.kind != "f":
        raise DataError(f"{path}: preprocessed_eeg_data should be numbers (image, repeat, channel, time), got {np.shape(data)}")
    names = [str(name) for name in content["ch_names"] if str(name) != "stim"]
    if len(names) != data.shape[2]:
        raise DataError(f"{path}: {len(names)} channel names but {data.shape[2]} channels")
    _once(names, path)
    times = np.asarray(content["times"], dtype=np.float64).ravel()
    if len(times) > data.shape[3]:
        warn(f"{path}: {len(times)} times for {data.shape[3]} samples; the last {data.shape[3]} are used")
        times = times[-data.shape[3] :]
    if len(times) != data.shape[3]:
        raise DataError(f"{path}: {len(times)} times for {data.shape[3]} samples")
    typical = float(np.median(np.abs(np.asarray(data[:1], dtype=np.float64))))
    if unit == "z" and 0 < typical < LIMITS["uV"][0]:
        raise DataError(
            f"{path}: a median of {typical:.1e} looks like volts, not noise-normalised units; say so by --option unit=V (unit=)"
        )
    return {"data": data, "ch_names": names, "times": times, "path": path}


def _once(names: list[str], path: Path) -> None:
    """Raises DataError for a channel name that comes twice: channels are matched by name, and one would stand for the other."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: the channel {twice[0]!r} comes twice; give every channel its own name")


def _image_table(folder: Path, part: str, count: int | None) -> pd.DataFrame:
    """One row an image: stimulus, concept, file, split; count: how many there must be. Without metadata rows are numbered."""
    short = "train" if part == "training" else part
    path = folder / METADATA
    if not path.exists():
        ids = [f"{short}-{i:05d}" for i in range(FACTS[f"{part}_images"] if count is None else count)]
        return pd.DataFrame({"stimulus": ids, "concept": "", "file": "", "split": short})
    content = load_dictionary(path, (f"{short}_img_files", f"{short}_img_concepts", f"{short}_img_concepts_THINGS"))
    files, folders, things = (list(map(str, content[f"{short}_img_{k}"])) for k in ("files", "concepts", "concepts_THINGS"))
    if not len(files) == len(folders) == len(things) == (len(files) if count is None else count):
        raise DataError(f"{path}: {len(files)} {short} images, the epochs have {count}; they are of another release")
    images = folder / "image_set" / f"{part}_images"
    if folders and not (images / folders[-1]).is_dir() and (images / things[-1]).is_dir():
        folders = things  # a copy whose folders count through all of THINGS, where the release counts through this set
    concepts = [re.sub(r"^\d+_", "", name) for name in folders]
    places = [f"{part}_images/{place}/{file}" for place, file in zip(folders, files)]
    return pd.DataFrame({"stimulus": [Path(f).stem for f in files], "concept": concepts, "file": places, "split": short})


def _trials(table: pd.DataFrame, repeats: int, part: str, subject: int) -> pd.DataFrame:
    rows = np.repeat(np.arange(len(table)), repeats)
    out = table.iloc[rows][["stimulus", "concept", "split"]].reset_index(drop=True)
    return out.assign(subject=str(subject), repeat=np.tile(np.arange(1, repeats + 1), len(table)))


def _convert(
    contents: dict[str, dict[str, Any]],
    names: list[str],
    shape: tuple[int, int, int],
    dtype: str,
    trials: pd.DataFrame,
    place: Path | None,
) -> np.ndarray:
    ids = trials["stimulus"]
    if place is None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > MEMORY:
            raise DataError(f"the epochs need {size / 1e9:.1f} GB; name a folder, cache=, where they are kept as a memory map")
        out = np.empty(shape, dtype=dtype)
        for start, rows in _pieces(contents, names):
            with np.errstate(over="ignore"):
                out[start : start + len(rows)] = rows
        if np.isinf(out).any():
            raise DataError(f"epochs hold values above the range of {dtype}; use dtype='float32'")
        return out
    try:
        kept = open_array(place, "epochs", ids=ids)
        if kept.shape == shape:
            return kept
    except DataError:
        pass  # not written yet, unfinished or of other images: written now
    with ArrayWriter(place, "epochs", shape, dtype, ids=ids) as writer:
        for start, rows in _pieces(contents, names, writer.done):
            writer.write(start, rows)
    return open_array(place, "epochs", ids=ids)


def _pieces(contents: dict[str, dict[str, Any]], names: list[str], done: int = 0) -> Any:
    """(first row, rows (n, channel, time)) of all parts in order, a few megabytes at a time, from row `done` on."""
    start = 0
    for content in contents.values():
        data = content["data"]
        order = [content["ch_names"].index(name) for name in names]
        plain = order == list(range(data.shape[2]))
        repeats = data.shape[1]
        step = max(1, PIECE // max(data[:1].nbytes, 1))
        for at in range(0, len(data), step):
            block = data[at : at + step]
            if start + len(block) * repeats > done:
                rows = block.reshape(-1, *data.shape[2:])
                rows = rows if plain else rows[:, order]
                yield start, rows if content["factor"] == 1.0 else rows * content["factor"]  # before float16 takes their digits
                release(data)
            start += len(block) * repeats


def _sensors(names: list[str]) -> Sensors | None:
    """Positions of the 10-20 names in metres; None when a name is not one of them."""
    import mne

    built_in = mne.channels.get_builtin_montages()
    montage = "colin27_1020" if "colin27_1020" in built_in else "standard_1020"  # one montage, renamed in MNE 1.13
    known = mne.channels.make_standard_montage(montage).get_positions()["ch_pos"]
    if any(name not in known for name in names):
        return None
    return Sensors(np.array(names), np.array([known[name] for name in names]))


def _stimuli(folder: Path, table: pd.DataFrame) -> Stimuli:
    files = inside(folder, [Path("image_set", file) for file in table["file"]], str(folder / METADATA))
    images: ImageFiles | NoImages
    if table["file"].all() and all(file.exists() for file in files):
        images = ImageFiles(files)
    else:
        images = NoImages(len(table), f"the images are not in {folder / 'image_set'}; see {FACTS['url']}")
    return Stimuli(table["stimulus"].to_numpy(), images, [], table[["concept", "split"]])


def raw_pieces(folder: str | Path, *, subject: int = 1, unit: str = "V") -> list[Piece]:
    """The continuous recordings of a subject, session by session, training before test, as `signals.prepare` takes them.

    folder/sub-01/ses-01/raw_eeg_training.npy ... (or under raw_data/): pickled dictionaries that are mapped and not loaded. Event
    codes are image numbers from 1; 99999 is the target and left out. unit: of the values,
    "V" as MNE stores them, or "uV".
    Raises DataError for values that the unit cannot have, missing files,
    event codes without an image, and a recording without its stimulus channel.
    """
    folder = Path(folder)
    sessions = _raw_sessions(folder, subject)
    pieces = []
    for session in sessions:
        for part in ("training", "test"):
            path = next((session / f"raw_eeg_{name}.npy" for name in RAW_NAMES[part] if _there(session, name)), None)
            if path is None:
                raise DataError(f"{session / f'raw_eeg_{part}.npy'} is missing; see {FACTS['url']}")
            pieces.append(_raw_piece(path, folder, part, session.name, unit))
    return pieces


def prepare_subject(
    folder: str | Path,
    out: str | Path,
    *,
    subject: int = 1,
    channels: Sequence[str] | None = CHANNELS,
    unit: str = "V",
    cut: Cut = CUT,
) -> Recording:
    """Continuous recordings of a subject to whitened epochs (trial, channel, time) in `out`, and the images seen.

    The steps of the published pipeline (epochs, baseline, 250 Hz, 0 to 1 s, MVNN by session), but repetitions are taken in the
    order of time and not drawn, and the noise comes from training epochs alone. channels: None for all but the stimulus
    channel. A second call opens what is there; after a kill it goes on.
    """
    folder = Path(folder)
    pieces = raw_pieces(folder, subject=subject, unit=unit)
    names = [name for name in pieces[0].channels if name != "stim"] if channels is None else list(channels)
    found = prepare(pieces, Path(out) / f"things_eeg2-raw-sub-{subject:02d}", channels=names, cut=cut)
    tables = [_image_table(folder, part, None) for part in ("training", "test")]
    table = pd.concat(tables, ignore_index=True)
    seen = table[table["stimulus"].isin(set(found.trials["stimulus"]))].reset_index(drop=True)
    trials = found.trials.assign(subject=str(subject))
    trials["concept"] = trials["stimulus"].map(dict(zip(table["stimulus"], table["concept"])))
    recording = Recording(replace(found, trials=trials, space=_sensors(names)), _stimuli(folder, seen))
    return with_categories(recording, folder)


def released_subjects(folder: str | Path) -> list[int]:
    """Numbers of the subjects whose preprocessed epochs are where `load` looks for them."""
    found = [path for place in PLACES for path in (Path(folder) / place).glob("sub-*/preprocessed_eeg_t*.npy")]
    return _numbers(path.parts[-2] for path in found)


def raw_subjects(folder: str | Path) -> list[int]:
    """Numbers of the subjects whose continuous recordings are in a folder."""
    found = [path for root in (Path(folder), Path(folder) / "raw_data") for path in root.glob("sub-*/ses-*/raw_eeg_t*.npy")]
    return _numbers(path.parts[-3] for path in found)


def _numbers(names: Iterable[str]) -> list[int]:
    return sorted({int(name[4:]) for name in names if name[4:].isdecimal()})


def _there(session: Path, name: str) -> bool:
    return (session / f"raw_eeg_{name}.npy").exists()


def _raw_sessions(folder: Path, subject: int) -> list[Path]:
    for root in (folder, folder / "raw_data"):
        sessions = sorted((root / f"sub-{subject:02d}").glob("ses-*"))
        if sessions:
            return sessions
    raise DataError(f"{folder / f'sub-{subject:02d}' / 'ses-01'} is missing; see {FACTS['url']}")


def _raw_piece(path: Path, folder: Path, part: str, session: str, unit: str) -> Piece:
    import mne

    content = load_dictionary(path, ("raw_eeg_data", "ch_names", "sfreq"))
    data, names = content["raw_eeg_data"], [str(name) for name in content["ch_names"]]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or len(data) != len(names) or "stim" not in names:
        raise DataError(f"{path}: raw_eeg_data is (channel, sample) with one 'stim'; got {np.shape(data)}, channels {names}")
    _once(names, path)
    rate = float(content["sfreq"])
    stim = np.asarray(data[names.index("stim")], dtype=np.float64)[None]
    events = mne.find_events(
        mne.io.RawArray(stim, mne.create_info(["stim"], rate, "stim"), verbose="error"), stim_channel="stim", verbose="error"
    )
    codes, onset = events[:, 2], events[:, 0]
    short = "train" if part == "training" else "test"
    ids = list(_image_table(folder, part, None)["stimulus"])
    shown = stimulus_of_event(codes, {i + 1: name for i, name in enumerate(ids)}, drop=(TARGET,))
    keep = np.array([name is not None for name in shown], dtype=bool)
    _check_unit(data, unit, path)
    return Piece(
        data, names, rate, onset[keep], np.array([name for name in shown if name is not None]), short, session, unit,
        source=f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}",
    )  # fmt: skip


def _check_unit(data: np.ndarray, unit: str, path: Path) -> None:
    """Raises DataError where EEG of this size, 1e-6 to 1e-3 V around its mean, is not in the unit."""
    if unit not in ("V", "uV"):
        raise DataError(f"unit {unit!r} of continuous recordings is not one of V, uV")
    part = np.asarray(data[0, : 1 << 16], dtype=np.float64)
    size = float(np.median(np.abs(part - part.mean())))
    if size > 0 and (size > 1e-2) != (unit == "uV"):
        other = "uV" if unit == "V" else "V"
        raise DataError(f"{path}: a median of {size:.2g} looks like {other}, not {unit}; say so by --option unit={other} (unit=)")
