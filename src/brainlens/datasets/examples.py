"""A small working example in each layout of one's own: drawn scenes and a simulated brain, written as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.types import DataError, Responses, Stimuli, Volume

TRAIN, TEST = 160, 40  # scenes
CLEAR = 2.2  # uV, amplitude of the EEG of the example: twice that of the phantom, so that 200 pictures show a time course


def write_example(layout: str, out: str | Path, *, seed: int = 0) -> list[Path]:
    """Writes the example of a layout into an empty or new folder and returns its files.

    Raises DataError for another layout, and a folder that holds something.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; name a new folder")
    LAYOUTS[layout](out, seed)
    return sorted(path for path in out.rglob("*") if path.is_file())


def next_commands(layout: str, out: str | Path) -> list[str]:
    """What can be run on the example of a layout."""
    where = f"--dataset {layout} --data {out} --runs {Path(out).name}-runs"
    if layout == "epochs":
        return [f"brainlens check {out}", f"brainlens decode {where} --target condition", f"brainlens align {where}", *_page(out)]
    first = [f"brainlens check {out}", f"brainlens encode {where}", f"brainlens align {where}"]
    return [*first, f"brainlens attribute {Path(out).name}-runs/align-*", *_page(out)]


def _page(out: str | Path) -> list[str]:
    return [f"brainlens report {Path(out).name}-runs"]


def _folder(out: Path, seed: int) -> None:
    responses, stimuli = _fmri(seed)
    assert isinstance(responses.space, Volume)
    store.save_npy(out / "responses.npy", np.asarray(responses.data, np.float32))
    store.save_table(out / "trials.csv", responses.trials[["stimulus", "split", "session", "repeat"]])
    store.save_table(out / "units.csv", responses.units[["roi"]])
    store.save_nifti(out / "mask.nii.gz", responses.space.mask, responses.space.affine)
    _pictures(out, stimuli)


def _fmri(seed: int) -> tuple[Responses, Stimuli]:
    """The named regions of the phantom, and its scenes."""
    from brainlens.datasets import phantom

    recording = phantom.load(n_train=TRAIN, n_test=TEST, seed=seed)
    responses, stimuli = _renamed(recording.responses, recording.stimuli)
    return responses.columns((responses.units["roi"] != "none").to_numpy()), stimuli


def _renamed(responses: Responses, stimuli: Stimuli) -> tuple[Responses, Stimuli]:
    """The same with ids scene-001, scene-002, ..."""
    names = {name: f"scene-{i:03d}" for i, name in enumerate(stimuli.ids, 1)}
    trials = responses.trials.assign(stimulus=responses.trials["stimulus"].map(names))
    renamed = Stimuli(np.array(list(names.values())), stimuli.images, stimuli.captions, stimuli.table)
    return Responses(responses.data, trials, responses.units, responses.space, responses.times, responses.measure), renamed


def _pictures(out: Path, stimuli: Stimuli, place: str = "images") -> None:
    for name, image in zip(stimuli.ids, stimuli.images, strict=True):
        store.save_image(out / place / f"{name}.png", np.asarray(image))
    captions = {str(name): list(several) for name, several in zip(stimuli.ids, stimuli.captions, strict=True)}
    store.save_json(out / "captions.json", captions)


def _bids(out: Path, seed: int) -> None:
    """Betas in derivatives, two sessions, with events that name the pictures."""
    responses, stimuli = _fmri(seed)
    space = responses.space
    assert isinstance(space, Volume)
    store.save_json(out / "dataset_description.json", {"Name": "brainlens example (a simulation)", "BIDSVersion": "1.9.0"})
    derived = out / "derivatives" / "betas"
    store.save_json(derived / "dataset_description.json", {"Name": "betas", "BIDSVersion": "1.9.0", "DatasetType": "derivative"})
    for session, rows in enumerate(np.array_split(np.arange(len(responses)), 2), 1):
        stem = f"sub-01/ses-{session:02d}/func/sub-01_ses-{session:02d}_task-view_run-1"
        trials = responses.trials.iloc[rows]
        events = pd.DataFrame({"onset": 4.0 * np.arange(len(rows)), "duration": 3.0})
        events["stim_file"] = [f"{name}.png" for name in trials["stimulus"]]
        events["split"] = trials["split"].to_numpy()
        store.save_table(out / f"{stem}_events.tsv", events)
        values = np.zeros((*space.mask.shape, len(rows)), np.float32)
        values[space.mask] = np.asarray(responses.data[rows], np.float32).T
        store.save_nifti(derived / f"{stem}_space-MNI152_betas.nii.gz", values, space.affine)
    name = "sub-01/anat/sub-01_space-MNI152_desc-brain_mask.nii.gz"
    store.save_nifti(derived / name, space.mask, space.affine)
    _pictures(out, stimuli, "stimuli")


def _epochs(out: Path, seed: int) -> None:
    """A continuous .fif with an annotation for each picture: single trials of the EEG phantom, one after the other."""
    import mne

    from brainlens.datasets import phantom_eeg

    seen = phantom_eeg.shown(n_train=TRAIN, n_test=TEST, seed=seed)
    recorded = phantom_eeg.record(seen, repeats=(2, 8), rows=(2, 8), whiten=False, amplitude=CLEAR, seed=seed)
    responses, stimuli = _renamed(recorded, seen.stimuli)
    order = np.random.default_rng([seed, 71]).permutation(len(responses))
    data, (channels, samples) = np.asarray(responses.data, np.float32)[order], responses.data.shape[1:]
    gap, rate = samples // 4, 1 / float(np.median(np.diff(np.asarray(responses.times))))
    rng = np.random.default_rng([seed, 73])
    signal = rng.normal(0, data.std(), (channels, len(data) * (samples + gap) + gap)).astype(np.float64)
    starts = gap + np.arange(len(data)) * (samples + gap)
    for start, trial in zip(starts, data, strict=True):
        signal[:, start : start + samples] = trial
    info = mne.create_info(list(responses.units["channel"]), rate, "eeg")
    raw = mne.io.RawArray(signal * 1e-6, info, verbose="error")
    raw.set_montage(_standard_montage(), verbose="error")
    trials = responses.trials.iloc[order].reset_index(drop=True)
    table = pd.DataFrame({"onset": np.round(starts / rate, 4), "stimulus": trials["stimulus"], "split": trials["split"]})
    table["domain"] = trials["stimulus"].map(dict(zip(stimuli.ids, stimuli.table["domain"], strict=True)))
    table["condition"] = trials["stimulus"].map(dict(zip(stimuli.ids, _warm_or_cold(stimuli), strict=True)))
    store.save_recording(out / "recording_raw.fif", raw)
    store.save_table(out / "events.csv", table)
    _pictures(out, stimuli)


def _warm_or_cold(stimuli: Stimuli) -> np.ndarray:
    """Two conditions of the pictures: those with more red than blue, as against the others, cut at the median."""
    colours = np.stack([np.asarray(image, np.float64).mean(axis=(0, 1)) for image in stimuli.images])
    warmth = colours[:, 0] - colours[:, 2]
    return np.where(warmth > np.median(warmth), "warm", "cold")


def _standard_montage() -> object:
    import mne

    known = mne.channels.get_builtin_montages()
    return mne.channels.make_standard_montage("colin27_1020" if "colin27_1020" in known else "standard_1020")


LAYOUTS: dict[str, Callable[[Path, int], None]] = {"folder": _folder, "epochs": _epochs, "bids": _bids}
