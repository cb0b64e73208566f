"""What a sweep costs beside its runs: six runs of `encode` of about a second each, typed one by one, swept, and on Dask.

    python benchmarks/sweep.py [--device cpu] [--runs 8]

overhead: (time of the sweep - time of the same commands one by one) / the latter, both in one process that is warm. The floor of
a sweep is the time of its runs.
dask_workers_busy: the share of the sweep's time in which the workers of a new Dask cluster work, its start and their imports
included. The network's layers are in the cache for all sides, as they are from the second run of a sweep on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from floor import machine

sys.modules.setdefault("bottleneck", None)  # type: ignore[arg-type]
IMAGES, TEST, UNITS, WORKERS = 300, 60, 1000, 2  # units of a run


def recording(folder: Path, runs: int) -> None:
    """Pictures of noise and responses of noise: what a run computes does not hang on what it finds."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    names = [f"{i:04d}.png" for i in range(IMAGES + TEST)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "images" / name)
    np.save(folder / "responses.npy", rng.standard_normal((len(names), UNITS * runs)).astype(np.float32))
    lines = [f"{name},{'train' if i < IMAGES else 'test'}" for i, name in enumerate(names)]
    (folder / "trials.csv").write_text("stimulus,split\n" + "\n".join(lines) + "\n")


def quietly(line: list[str]) -> float:
    """Seconds of a command of this process."""
    from brainlens.cli import app

    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        app(line, standalone_mode=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1, help="of a run")
    a = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    from brainlens import store

    with tempfile.TemporaryDirectory() as place:
        own, runs = Path(place) / "own", Path(place) / "runs"
        recording(own, a.runs)
        common = ["--dataset", "folder", "--data", str(own), "--method", "ridge", "--device", a.device]
        parts = ["--parts", str(a.runs)]
        each = [["encode", *common, "--part", f"{k + 1}/{a.runs}", "--runs", str(runs), "--again"] for k in range(a.runs)]
        quietly(each[0])  # imports, and the layers into the cache
        typed = sum(quietly(line) for line in each)
        swept = quietly(["sweep", "encode", *common, *parts, "--runs", str(runs), "--again"])
        engine = ["--engine", "dask", "--workers", str(WORKERS), "--engine-option", "threads=1", "--runs", str(runs), "--again"]
        whole = quietly(["sweep", "encode", *common, *parts, *engine])
        (folder,) = runs.glob("sweep-*")
        busy = float(np.sum(store.load_result(folder).tables["runs"]["seconds"]))
    row = {
        "name": "sweep", "peer": "the same commands, one by one", "time_s": round(swept, 3), "peer_time_s": round(typed, 3),
        "time_ratio": round(typed / swept, 3), "overhead": round((swept - typed) / typed, 4), "run_s": round(typed / a.runs, 3),
        "runs": a.runs, "workers": WORKERS, "dask_time_s": round(whole, 3), "dask_workers_busy": round(busy / WORKERS / whole, 3),
        "max_rel_error": 0.0, "device": a.device, "floor_s": round(typed, 3), "share": round(typed / swept, 4),
        "floor_by": "its runs", "threads": int(os.environ["OMP_NUM_THREADS"]), "machine": machine(a.device),
    }  # fmt: skip
    for name, value in row.items():
        print(f"{name:24} {value}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
