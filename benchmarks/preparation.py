"""Continuous EEG to whitened epochs on disk: in blocks and resumable, against the published pipeline, which holds them all.

    python benchmarks/preparation.py [--epochs 600]

Raw data are a memory map of 64 channels at 1,000 Hz, one image every 200 ms, as in THINGS-EEG2. The peer is the pipeline of that
data set: RawArray, Epochs, resample, one sklearn covariance an epoch, fractional matrix power.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.modules["bottleneck"] = None  # type: ignore[assignment]  # pandas would take bottleneck.py here for the package
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from floor import Work  # noqa: E402
from harness import compare  # noqa: E402

CHANNELS, RATE, SOA = 63, 1000, 200
EPOCHS = 600


def recording(folder: Path, epochs: int) -> np.ndarray:
    """(channel, sample) volts as a memory map, made once and read from disk."""
    path = folder / f"raw-{epochs}.npy"
    if not path.exists():
        rng = np.random.default_rng(0)
        mixing = 1e-5 * rng.standard_normal((CHANNELS, CHANNELS)) * np.geomspace(1, 0.05, CHANNELS)
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(CHANNELS, epochs * SOA + 2000))
        for start in range(0, out.shape[1], 10_000):
            part = out[:, start : start + 10_000]
            part[:] = mixing @ rng.standard_normal(part.shape)
        del out
    return np.load(path, mmap_mode="r")


def onsets(epochs: int) -> np.ndarray:
    return 500 + SOA * np.arange(epochs)


def ours(device: str) -> Any:
    from brainlens.signals.prepare import Cut, Piece, prepare

    folder = Path(tempfile.mkdtemp())
    raw, kept = recording(Path(tempfile.gettempdir()), EPOCHS), {"runs": 0}
    names = [f"E{i}" for i in range(CHANNELS)]
    ids = np.array([f"i{i}" for i in range(EPOCHS)])
    piece = Piece(raw, names, float(RATE), onsets(EPOCHS), ids, "train", "1", source="made")

    def run() -> None:
        kept["runs"] += 1
        kept["data"] = prepare([piece], folder / str(kept["runs"]), cut=Cut(most=(None, None)), dtype="float32").data

    return run, lambda: {"whitened": np.asarray(kept["data"][:50])}


def peer(device: str) -> Any:
    import mne
    from scipy.linalg import fractional_matrix_power
    from sklearn.discriminant_analysis import _cov

    raw, kept = recording(Path(tempfile.gettempdir()), EPOCHS), {}
    events = np.column_stack([onsets(EPOCHS), np.zeros(EPOCHS, int), np.ones(EPOCHS, int)])

    def run() -> None:
        info = mne.create_info([f"E{i}" for i in range(CHANNELS)], RATE, "eeg")
        made = mne.io.RawArray(np.array(raw), info, verbose="error")
        epochs = mne.Epochs(made, events, tmin=-0.2, tmax=1.0, baseline=(None, 0), preload=True, verbose="error")
        epochs.resample(250)
        data = epochs.get_data(copy=True)[:, :, 50:] * 1e6
        covariance = np.mean([_cov(epoch.T, shrinkage="auto") for epoch in data], axis=0)
        kept["data"] = (data.swapaxes(1, 2) @ fractional_matrix_power(covariance, -0.5)).swapaxes(1, 2)

    return run, lambda: {"whitened": kept["data"][:50]}


def work(device: str) -> Work:
    """Baseline and resampling as one product (1,201 to 250 samples), X X' and Sigma^(-1/2) X, all in double.

    Raw samples are read once, float32 epochs written, read twice and written again.
    """
    del device
    raw, kept = 1201, 250
    products = EPOCHS * CHANNELS * kept * (raw + 2 * CHANNELS)
    return Work(macs64=products, bytes=EPOCHS * CHANNELS * (8 * raw + 4 * 4 * kept))


if __name__ == "__main__":
    compare(
        "preparation",
        ours,
        peer,
        peer_name="MNE and sklearn, all epochs in memory (THINGS-EEG2 pipeline)",
        repeats=1,
        epochs=EPOCHS,
        work=work,
    )
