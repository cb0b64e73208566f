"""Random batches of 128 rows from a stored 4,000 x 60,000 float16 array, against fancy indexing of a plain np.memmap.

The array (480 MB) is written once into a temporary folder and lies in the page cache for both sides; the same 32
shuffled batches are read by both, each copied into memory. Hashes are checked once at opening, which is not timed,
as is the opening of the peer's map; `verify_s` says what the check costs.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from brainlens import store
from floor import Work
from harness import compare

ROWS, COLUMNS, BATCH = 4000, 60_000, 128
FOLDER = "BRAINLENS_BENCH_STORE"
Side = tuple[Callable[[], None], Callable[[], dict[str, np.ndarray]]]


def batches() -> list[np.ndarray]:
    rows = np.random.default_rng(1).permutation(ROWS)
    return [rows[i : i + BATCH] for i in range(0, ROWS - BATCH, BATCH)]


def side(array: np.ndarray) -> Side:
    last: dict[str, np.ndarray] = {}

    def run() -> None:
        for rows in batches():
            last["batch"] = array[rows]

    return run, lambda: {"first": array[batches()[0]], "last": np.asarray(last["batch"])}


def ours(device: str) -> Side:
    return side(store.open_array(os.environ[FOLDER], "betas"))


def peer(device: str) -> Side:
    path = Path(os.environ[FOLDER]) / "betas.npy"
    return side(np.memmap(path, dtype=np.float16, mode="r", offset=128, shape=(ROWS, COLUMNS)))


def work(device: str) -> Work:
    """Every value is read and written once."""
    del device
    return Work(bytes=2 * 2 * COLUMNS * sum(map(len, batches())))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        rng = np.random.default_rng(0)
        started = time.perf_counter()
        with store.ArrayWriter(folder, "betas", (ROWS, COLUMNS), "f2") as writer:
            for start in range(0, ROWS, 500):
                writer.write(start, rng.standard_normal((500, COLUMNS), dtype=np.float32))
        write_s = time.perf_counter() - started
        started = time.perf_counter()
        store.open_array(folder, "betas")
        verify_s = time.perf_counter() - started
        times = {"write_s": write_s, "verify_s": verify_s}
        compare("store", ours, peer, peer_name="np.memmap fancy indexing", repeats=9, work=work, **times)


if __name__ == "__main__":
    main()
