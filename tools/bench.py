"""Runs every benchmark and writes docs/benchmarks.md: one row each, with the date, the device and what limits it.

    python tools/bench.py [--device cpu|cuda] [--only NAME ...]

Each benchmark is a program of its own that prints a JSON object as its last line. A benchmark that fails is reported as
failed and does not stop the others. Rows of another device, or of benchmarks that were not run, stay in the file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from brainlens import store

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    *("ridge", "store", "factortopy", "bottleneck", "volume_encoder", "sensor_encoder"),
    *("sensor_training", "mvnn", "preparation", "sampling", "adapter_training", "voxel_bank", "conversion", "retrieval"),
)


def run(name: str, device: str, limit_s: float) -> dict[str, Any]:
    """The JSON object of one benchmark, or a row that says how it failed."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--device", device]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"name": name, "device": device, "failed": f"not finished after {limit_s:.0f} s"}
    lines = done.stdout.strip().splitlines()
    print(done.stdout, end="", flush=True)
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"name": name, "device": device, "failed": reason}
    return {"device": device, **json.loads(lines[-1])}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = [
        "benchmark",
        "device",
        "beside",
        "time [s]",
        "its time [s]",
        "ratio",
        "peak [MB]",
        "its peak [MB]",
        "ratio",
        "largest error",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['name']} | {row['device']} | failed: {row['failed']} |" + " |" * 7)
            continue
        numbers = [
            f"{row['time_s']:.3g}",
            f"{row['peer_time_s']:.3g}",
            f"**{row['time_ratio']:.3g}**",
            f"{row['peak_mb']:.0f}",
            f"{row['peer_peak_mb']:.0f}",
            f"**{row['memory_ratio']:.3g}**",
            f"{row['max_rel_error']:.1e}",
        ]
        lines.append("| " + " | ".join([row["name"], row["device"], row["peer"], *numbers]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs, merges with what was measured before, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which a benchmark is given up")
    chosen = parser.parse_args()
    kept = ROOT / "docs" / "benchmarks.json"
    known = {(row["name"], row["device"]): row for row in (store.read_json(kept) if kept.exists() else [])}
    names = [n for n in NAMES if (ROOT / "benchmarks" / f"{n}.py").exists() and (not chosen.only or n in chosen.only)]
    for name in names:
        row = run(name, chosen.device, chosen.limit)
        row["date"] = datetime.date.today().isoformat()
        known[(name, row["device"])] = row
        rows = sorted(known.values(), key=lambda r: (NAMES.index(r["name"]), r["device"]))
        store.save_json(kept, rows)
        store.save_text(ROOT / "docs" / "benchmarks.md", page(rows))


def page(rows: list[dict[str, Any]]) -> str:
    """The whole page."""
    missing = [name for name in NAMES if name not in {row["name"] for row in rows}]
    dates = sorted({row["date"] for row in rows})
    span = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    parts = [
        "# Benchmarks\n",
        "Each row is one program in `benchmarks/`, run by `make bench`: ours and the straightforward way on the same data, each "
        "in a process of its own. Ratios are peer / ours, so more than 1 means faster or smaller. The largest error is relative "
        "to the largest value of the peer's output. What each benchmark's size is, and what limits it, stands at the top of its "
        "program.\n",
        f"Measured {span} on {platform.machine()}, 2 cores, unless the device column says otherwise.\n",
        table(rows),
    ]
    notes = [f"- {r['name']}: {r['note']}" for r in rows if r.get("note")]
    if notes:
        parts += ["\n## Notes\n", "\n".join(notes)]
    if missing:
        parts.append(f"\nNot measured yet: {', '.join(missing)}.")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
