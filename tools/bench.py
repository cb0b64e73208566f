"""Runs every benchmark and writes docs/benchmarks.md: what was measured, its floor, and the goals beside what was reached.

    python tools/bench.py [--device cpu|cuda] [--only NAME ...] [--go-on]
    python tools/bench.py --profile --only ridge        what its time is spent in, beside the times that are there
    python tools/bench.py --page                       the page alone, from what was measured

Each benchmark is a program of its own that prints a JSON object as its last line. One that fails is reported as failed and does
not stop the others. Rows of another device, or of benchmarks that were not run, stay in the file with their date; --go-on leaves
out those that were measured today.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench_page import Goal, page
from brainlens import store

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    *("ridge", "store", "factortopy", "bottleneck", "volume_encoder", "sensor_encoder"),
    *("sensor_training", "mvnn", "preparation", "sampling", "adapter_training", "voxel_bank", "conversion", "retrieval"),
    *("sweep", "cost", "recording_to_result"),
)
ONE_THREAD_TOO = ("factortopy", "sensor_training")  # which many run beside others on a shared machine
GOALS = (
    Goal(
        "factortopy",
        "time_ratio",
        40,
        bound="the selector networks, whose products both sides make alike, and gathers of voxels by cell",
    ),
    Goal("factortopy", "memory_ratio", 6, bound="selectors and channel weights with their gradients, which both sides hold"),
    Goal(
        "ridge",
        "time_ratio",
        6,
        bound="the predictions of every penalty in every fold, and passes over their residuals",
    ),
    Goal(
        "bottleneck",
        "time_ratio",
        5,
        bound="every step passes fresh noise through the blocks behind the bottleneck and back, as the baseline's does",
    ),
    Goal(
        "volume_encoder",
        "time_ratio",
        4,
        bound="projections and attention over the patches inside the brain",
    ),
    Goal(
        "sensor_training",
        "time_ratio",
        15,
        bound="ELU and copies of windows beside the products that are left of the two convolutions",
    ),
    Goal(
        "sampling",
        "equal_score_ratio",
        4,
        needs="equal_score_holds",
        bound="passes through the diffusion network, whose number the score needs",
    ),
    Goal("sampling", "recording_ratio", 1.25, most=True, bound="products of the attention to pairs of tokens, for every region"),
    Goal(
        "adapter_training",
        "time_ratio",
        3,
        bound="the pass through the diffusion network and back is nearly all; what is encoded once is small here",
    ),
    Goal("preparation", "time_ratio", 3, bound="a product in double for baseline and resampling, and every epoch written twice"),
    Goal("preparation", "memory_ratio", 4, bound="a block of epochs in double, and the libraries' own buffers"),
    Goal("conversion", "time_ratio", 3, bound="rounding to half floats and hashing them, each on one core, and writing"),
    Goal("conversion", "memory_ratio", 4, bound="a block of rows and the pages of the file"),
    Goal("voxel_bank", "time_s", 60, most=True, bound="sorting the responses of every voxel"),
    Goal("voxel_bank", "peak_mb", 4096, most=True, bound="responses of a block of voxels"),
    Goal("sweep", "overhead", 0.05, most=True, bound="a table and a log that every run of a sweep writes"),
    Goal("cost", "worst", 0.25, most=True, bound="one rate for products of all shapes"),
)


def run(name: str, device: str, threads: int | None, limit_s: float, *more: str) -> dict[str, Any]:
    """The JSON object of one benchmark, or a row that says how it failed; more: further options of its program."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--device", device, *more]
    command += [] if threads is None else ["--threads", str(threads)]
    known = {"name": name, "device": device, "threads": threads}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)
    try:
        out, err = done.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)  # with the processes that it measures in
        done.communicate()
        return {**known, "failed": f"not finished after {limit_s:.0f} s"}
    lines = out.strip().splitlines()
    print(out, end="", flush=True)
    if done.returncode or not lines:
        reason = (err.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {**known, "failed": reason}
    return {"device": device, **json.loads(lines[-1])}


def others_use(seconds: float = 2.0) -> float:
    """Cores that other processes keep busy now; a time beside them is longer, and its row says so. NaN where none can say."""
    try:
        first = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        time.sleep(seconds)
        last = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except OSError:
        return float("nan")
    idle = (last[3] + last[4] - first[3] - first[4]) / max(sum(last) - sum(first), 1)
    return (1 - idle) * (os.cpu_count() or 1)


def planned(only: list[str] | None, device: str) -> list[tuple[str, int | None]]:
    """(benchmark, threads) in the order of the page; None: a thread a core."""
    names = [name for name in NAMES if (ROOT / "benchmarks" / f"{name}.py").exists() and (not only or name in only)]
    also = ONE_THREAD_TOO if device == "cpu" else ()
    return [(name, threads) for name in names for threads in ((None, 1) if name in also else (None,))]


def merged(rows: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with a new one in place of that of the same benchmark, device and threads, or of one without its threads."""
    taken = (new.get("threads"), None)
    kept = [r for r in rows if (r["name"], r["device"]) != (new["name"], new["device"]) or r.get("threads") not in taken]
    return sorted([*kept, new], key=lambda r: (NAMES.index(r["name"]), r["device"], -(r.get("threads") or 0)))


def with_profile(
    rows: list[dict[str, Any]], name: str, device: str, threads: int | None, limit_s: float, today: str
) -> list[dict[str, Any]]:
    """The rows with a profile beside the times of one benchmark: of its row with so many threads, or of its first one."""
    own = [row for row in rows if (row["name"], row["device"]) == (name, device) and "failed" not in row]
    own = [row for row in own if threads is None or row.get("threads") == threads]
    if not own:
        return rows
    busy = others_use()
    found = run(name, device, own[0].get("threads"), limit_s, "--profile")
    if "profile" in found:
        note = f"{today} (others: {busy:.1f} cores)" if busy > 0.1 else today
        own[0]["profile"] = found["profile"] | {"date": note}
    return rows


def main() -> None:
    """Runs, merges with what was measured before, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--go-on", action="store_true", help="leave out what was measured today")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which a benchmark is given up")
    parser.add_argument("--profile", action="store_true", help="only what the time is spent in, for the rows that are there")
    parser.add_argument("--threads", type=int, default=None, help="with --profile: of the runs and the rows")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from what was measured")
    chosen = parser.parse_args()
    kept = ROOT / "docs" / "benchmarks.json"
    rows = store.read_json(kept) if kept.exists() else []
    today = datetime.date.today().isoformat()
    for name, threads in () if chosen.page else planned(chosen.only, chosen.device):
        done = [r for r in rows if (r["name"], r["device"], r.get("date")) == (name, chosen.device, today) and "failed" not in r]
        if chosen.go_on and any(r.get("asked_threads") == threads for r in done):
            continue
        if chosen.profile:
            rows = with_profile(rows, name, chosen.device, chosen.threads, chosen.limit, today)
            store.save_json(kept, rows)
            continue
        busy, begun = others_use(), time.monotonic()
        row = run(name, chosen.device, threads, chosen.limit)
        row |= {"date": today, "wall_s": round(time.monotonic() - begun, 1), "asked_threads": threads}
        row |= {"others_cores": round(busy, 2)} if busy == busy else {}
        rows = merged(rows, row)
        store.save_json(kept, rows)
        store.save_text(ROOT / "docs" / "benchmarks.md", page(rows, GOALS, NAMES))
    store.save_text(ROOT / "docs" / "benchmarks.md", page(rows, GOALS, NAMES))


if __name__ == "__main__":
    main()
