"""A pickled EEG dictionary under `.npy` becomes a float16 memory map: ours against loading it whole and saving it.

The file has the layout of one THINGS-EEG2 test part and a share of its training part, (2,000, 4, 63, 250) float64,
1 GB, stored by np.save as a zero-dimensional object. The peer is what people write: np.load(allow_pickle=True).item(),
astype(float16), np.save. Both end with the same values on disk; ours also with their SHA-256 in a manifest.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from brainlens.datasets.unpickle import load_dictionary
from brainlens.store import ArrayWriter, open_array, release
from floor import Work
from harness import compare

IMAGES, REPEATS, CHANNELS, SAMPLES = 2000, 4, 63, 250
FOLDER = "BRAINLENS_BENCH_CONVERSION"
STEP = 64
Side = tuple[Callable[[], None], Callable[[], dict[str, np.ndarray]]]


def source() -> Path:
    return Path(os.environ[FOLDER]) / "preprocessed_eeg_training.npy"


def ours(device: str) -> Side:
    place = Path(os.environ[FOLDER]) / "ours"

    def run() -> None:
        data = load_dictionary(source(), ("preprocessed_eeg_data",))["preprocessed_eeg_data"]
        shape = (data.shape[0] * data.shape[1], *data.shape[2:])
        with ArrayWriter(place, "epochs", shape, "f2", resume=False) as writer:
            for start in range(0, len(data), STEP):
                writer.write(start * data.shape[1], data[start : start + STEP].reshape(-1, *shape[1:]))
                release(data)

    return run, lambda: checked(open_array(place, "epochs"))


def peer(device: str) -> Side:
    path = Path(os.environ[FOLDER]) / "peer.npy"

    def run() -> None:
        data = np.load(source(), allow_pickle=True).item()["preprocessed_eeg_data"]
        np.save(path, data.reshape(-1, CHANNELS, SAMPLES).astype(np.float16))

    return run, lambda: checked(np.load(path, mmap_mode="r"))


def checked(array: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows in full and all rows in part."""
    return {"rows": np.array(array[::997]), "samples": np.array(array[:, 7, 100])}


def write_source() -> None:
    rng = np.random.default_rng(0)
    data = np.empty((IMAGES, REPEATS, CHANNELS, SAMPLES))
    for start in range(0, IMAGES, 100):
        data[start : start + 100] = rng.standard_normal((100, REPEATS, CHANNELS, SAMPLES), dtype=np.float32)
    names = [f"c{i}" for i in range(CHANNELS)]
    np.save(source(), {"preprocessed_eeg_data": data, "ch_names": names, "times": np.arange(SAMPLES) / 250}, allow_pickle=True)


def work(device: str) -> Work:
    """Doubles are read once, half floats written once and read once for their hash."""
    del device
    return Work(bytes=(8 + 2 + 2) * IMAGES * REPEATS * CHANNELS * SAMPLES)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        # In a process of its own: a child's peak memory starts from what its parent held.
        writer = multiprocessing.get_context("spawn").Process(target=write_source)
        writer.start()
        writer.join()
        compare("conversion", ours, peer, peer_name="np.load whole, astype, np.save", repeats=3, work=work)


if __name__ == "__main__":
    main()
