"""From continuous recordings to whitened epochs on disk, against MNE and a plain loop, and again after a kill."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.discriminant_analysis import _cov

from brainlens import store
from brainlens.datasets import things_eeg2
from brainlens.signals.prepare import Cut, Piece, epochs_of, operator, prepare
from brainlens.types import DataError

NAMES = ["P7", "Oz", "Cz", "P8", "O1"]
RATE = 1000.0


def piece(session: str = "1", split: str = "train", seed: int = 0, images: int = 6, repeats: int = 2) -> Piece:
    rng = np.random.default_rng([seed, split == "test"])
    onset = 300 + 1300 * np.arange(images * repeats)
    stimulus = np.array([f"{split}{i % images}" for i in range(len(onset))])
    mixing = rng.normal(size=(5, 5))
    data = 5e-6 * mixing @ rng.normal(size=(5, onset[-1] + 1200))
    return Piece(data, list(NAMES), RATE, onset, stimulus, split, session, source=f"{session}{split}")


def subject() -> list[Piece]:
    return [piece(s, split, seed) for seed, s in enumerate("12") for split in ("train", "test")]


def by_mne(p: Piece, cut: Cut) -> np.ndarray:
    raw = mne.io.RawArray(p.data, mne.create_info(p.channels, p.rate, "eeg"), verbose="error")
    events = np.column_stack([p.onset, np.zeros(len(p.onset), int), np.ones(len(p.onset), int)])
    epochs = mne.Epochs(raw, events, tmin=cut.window[0], tmax=cut.window[1], baseline=cut.baseline, preload=True, verbose="error")
    epochs.resample(cut.rate)
    inside = (epochs.times >= cut.kept[0] - 1e-9) & (epochs.times < cut.kept[1] - 1e-9)
    return epochs.get_data(copy=False)[:, :, inside] * 1e6


@pytest.mark.parametrize("cut", [Cut(), Cut(rate=100.0, kept=(-0.2, 0.8)), Cut(rate=1000.0), Cut(baseline=None)])
def test_epochs_equal_those_of_mne(cut: Cut) -> None:
    p = piece()
    ours, theirs = epochs_of(p, p.onset, range(5), cut), by_mne(p, cut)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-9 * np.abs(theirs).max()


@pytest.mark.parametrize("apart", [90, 200, 1300, 4000])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16])
def test_epochs_that_overlap_are_those_cut_one_by_one(apart: int, kind: type) -> None:
    """Read as one stretch where they overlap, and one by one where pauses are longer than they are; in any order."""
    rng = np.random.default_rng(apart)
    onset = rng.permutation(250 + apart * np.arange(12))
    p = replace(piece(), data=(1e4 * rng.normal(size=(5, onset.max() + 1001))).astype(kind), onset=onset)
    linear = operator(-200, 1000, RATE, Cut()) * 1e6
    plain = np.stack([np.array(p.data[[3, 0, 4], o - 200 : o + 1001], dtype=np.float64) for o in onset]) @ linear
    read = []

    class Counted(np.ndarray):
        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            read.append(key)
            return np.asarray(self)[key]

    found = epochs_of(replace(p, data=p.data.view(Counted)), onset, [3, 0, 4], Cut())
    np.testing.assert_allclose(found, plain, rtol=1e-12, atol=1e-12 * np.abs(plain).max())
    assert len(read) == (1 if apart <= 1200 else 12)


def test_a_subject_equals_the_plain_loop_session_by_session(tmp_path: Path) -> None:
    found = prepare(subject(), tmp_path, dtype="float32")
    assert found.data.shape == (48, 5, 250)
    assert isinstance(found.data, np.memmap)
    assert found.measure == "z"
    assert found.times[[0, -1]] == pytest.approx([0.0, 0.996])
    for session in "12":
        parts = [p for p in subject() if p.session == session]
        train = by_mne(parts[0], Cut())
        matrix = fractional_matrix_power(np.mean([_cov(e.T, shrinkage="auto") for e in train], 0), -0.5)
        for p in parts:
            rows = ((found.trials["session"] == session) & (found.trials["split"] == p.split)).to_numpy()
            assert np.abs(found.data[rows] - matrix @ by_mne(p, Cut())).max() < 1e-4


def test_repetitions_are_limited_in_the_order_of_time(tmp_path: Path) -> None:
    pieces = [piece("1", "train", repeats=3), piece("1", "test", repeats=3)]
    found = prepare(pieces, tmp_path, cut=Cut(most=(1, 2)), white=False)
    assert found.trials.groupby(["split", "stimulus"]).size().groupby("split").first().to_dict() == {"test": 2, "train": 1}
    assert np.abs(found.data[:6] - by_mne(pieces[0], Cut())[:6]).max() < 0.05  # float16 of some 10 uV
    assert found.measure == "uV"


def test_channels_come_in_the_order_asked_and_the_epochs_of_other_options_are_not_taken(tmp_path: Path) -> None:
    found = prepare(subject(), tmp_path, channels=["Oz", "Cz"], white=False)
    assert found.data.shape[1] == 2
    assert np.abs(found.data[:12] - by_mne(subject()[0], Cut())[:, [1, 2]]).max() < 0.05
    with pytest.raises(DataError, match="other rows"):
        prepare(subject(), tmp_path, channels=["Oz", "P7"], white=False)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from brainlens.store import arrays
from brainlens.signals import prepare as module
import test_prepare
arrays.SYNC_BYTES, module.BLOCK, calls = 1, 4, [0]
real = arrays.ArrayWriter.write
def write(self, start, rows):
    real(self, start, rows)
    calls[0] += 1
    if calls[0] == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
arrays.ArrayWriter.write = write
module.prepare(test_prepare.subject(), {folder!r}, dtype="float32")
"""


@pytest.mark.parametrize("at", [3, 17])  # in the epochs, and in the whitening after two covariances
def test_a_killed_subject_goes_on_to_the_same_bits(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), at=at, folder=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -9, done.stderr
    written: list[int] = []
    real = store.ArrayWriter.write
    monkeypatch.setattr(store.ArrayWriter, "write", lambda self, start, rows: (written.append(start), real(self, start, rows)))
    monkeypatch.setattr("brainlens.signals.prepare.BLOCK", 4)
    again = prepare(subject(), tmp_path / "killed", dtype="float32")
    assert len(written) < 24  # of 24 + the two covariances for a whole run: what was there is kept
    whole = prepare(subject(), tmp_path / "whole", dtype="float32")
    assert np.array_equal(again.data, whole.data)
    assert not (tmp_path / "whole" / "epochs.npy").exists()


def broken(kind: str) -> list[Piece]:
    pieces = subject()
    p = pieces[1]
    data = p.data.copy()
    if kind == "flat":
        data[3] = 1e-6
    if kind == "nan":
        data[2, 5000] = np.nan
    if kind == "few":
        return [replace(p, data=data[:4], channels=NAMES[:4])]
    if kind == "test only":
        return [p]
    if kind == "slow":
        return [replace(p, rate=100.0)]
    return [pieces[0], replace(p, data=data)]


@pytest.mark.parametrize(
    "kind, text",
    [
        ("flat", r"1 channels are flat: \['P8'\]"),
        ("nan", r"1 channels hold NaN or infinite values: \['Cz'\]"),
        ("few", r"1 channels are missing: \['O1'\]"),
        ("test only", "no training epoch"),
        ("slow", "100 Hz is 250 or more"),
    ],
)
def test_bad_recordings_are_one_line(tmp_path: Path, kind: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        prepare(broken(kind), tmp_path, channels=NAMES)


def test_windows_are_checked() -> None:
    with pytest.raises(DataError, match="kept lies in the window"):
        Cut(kept=(0.0, 2.0))


# --- THINGS-EEG2 from its continuous files


def write_raw(folder: Path, *, scale: float = 1.0, codes: tuple[int, ...] = (), style: str = "save") -> dict[str, Piece]:
    """Two sessions of one subject as released: 5 channels and the stimulus channel, targets in between."""
    out = {}
    for p in subject():
        part = "training" if p.split == "train" else "test"
        stim = np.zeros(p.data.shape[1])
        for onset, name in zip(p.onset, p.stimulus):
            stim[onset : onset + 20] = int(name[-1]) + 1
            stim[onset + 600 : onset + 620] = 99999 if name.endswith("3") else 0
        for k, code in enumerate(codes):
            stim[p.onset[k] : p.onset[k] + 20] = code
        content = {"raw_eeg_data": np.vstack([p.data * scale, stim]), "ch_names": [*NAMES, "stim"], "sfreq": 1000}
        content |= {"ch_types": ["eeg"] * 5 + ["stim"], "highpass": 0.01, "lowpass": 100}
        place = folder / "raw_data" / "sub-01" / f"ses-0{p.session}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"raw_eeg_{part}.npy"
        if style == "save":
            np.save(path, content, allow_pickle=True)
        else:
            path.write_bytes(pickle.dumps(content, protocol=4))
        out[p.session + part] = p
    return out


@pytest.mark.parametrize("style", ["save", "pickle"])
def test_released_continuous_files_become_epochs(tmp_path: Path, style: str) -> None:
    pieces = write_raw(tmp_path, style=style)
    assert things_eeg2.raw_subjects(tmp_path) == [1]
    recording = things_eeg2.prepare_subject(tmp_path, tmp_path / "out", channels=None)
    responses, stimuli = recording.responses, recording.stimuli
    assert responses.data.shape == (48, 5, 250)
    assert set(responses.trials["split"]) == {"train", "test"}
    assert list(responses.trials["stimulus"][:3]) == ["train-00000", "train-00001", "train-00002"]
    assert len(stimuli) == 12
    assert responses.space is not None
    same = prepare(list(pieces.values()), tmp_path / "same")
    assert np.array_equal(responses.data, same.data)


def test_a_code_without_an_image_and_microvolts(tmp_path: Path) -> None:
    write_raw(tmp_path / "codes", codes=(20000,))
    with pytest.raises(DataError, match=r"1 event codes have no image, first \[20000\]"):
        things_eeg2.raw_pieces(tmp_path / "codes")
    write_raw(tmp_path / "scaled", scale=1e6)
    with pytest.raises(DataError, match="looks like uV, not V; say so by --option unit=uV"):
        things_eeg2.raw_pieces(tmp_path / "scaled")
    pieces = things_eeg2.raw_pieces(tmp_path / "scaled", unit="uV")
    assert {p.unit for p in pieces} == {"uV"}


class Evil:
    def __reduce__(self) -> tuple:
        return (open, ("evil-was-here", "w"))


def test_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_raw(tmp_path)
    path = tmp_path / "raw_data/sub-01/ses-01/raw_eeg_training.npy"
    path.write_bytes(pickle.dumps({"raw_eeg_data": Evil(), "ch_names": NAMES, "sfreq": 1000}, protocol=4))
    with pytest.raises(DataError, match="blocked"):
        things_eeg2.raw_pieces(tmp_path)
    assert not (tmp_path / "evil-was-here").exists()


def test_the_operator_made_in_parts_is_that_of_all_rows_at_once() -> None:
    cut = Cut(baseline=None)
    found = operator(-200, 1000, 1000.0, cut)
    whole = mne.filter.resample(np.eye(1201), up=250.0, down=1000.0, npad="auto", pad="edge", verbose="error")
    np.testing.assert_allclose(found, whole[:, -found.shape[1] :], atol=1e-15)
