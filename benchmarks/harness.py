"""How every benchmark here measures: each side in a child process of its own, warmed up, median time, peak memory.

A benchmark defines `SIDES = {"ours": f, "peer": g}`, where each function takes a device name and returns
(run, outputs): `run()` is what is timed, `outputs()` gives named arrays to compare. Peak memory is the growth of
the process's highest resident size from just before the first run, so that imports and inputs do not count. Beside them
stands the floor of our side on this machine (see `floor`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from floor import Rates, Work, against, counted, rates
from profiled import profiled

# pandas looks for an optional package of this name and would find our benchmark `bottleneck` beside this file
sys.modules.setdefault("bottleneck", None)  # type: ignore[arg-type]

Side = Callable[[str], tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]]


def memory_mb(field: str) -> float:
    """A size of /proc/self/status: VmRSS (resident now) or VmHWM (highest so far).

    getrusage's ru_maxrss would not do: a spawned child inherits it from its parent across exec, so that a small run after a
    large one would show the parent's peak.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {field}; peak memory cannot be measured here")


def forget_peak() -> None:
    """Sets VmHWM back to what is resident now. Where that is not permitted, the peak of loading the inputs stays in."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@dataclass(frozen=True)
class Measured:
    """One side: median seconds, peak MB, named outputs, and multiply-adds of a run where they were counted, else None."""

    time_s: float
    peak_mb: float
    outputs: dict[str, np.ndarray]
    work: Work | None
    profile: dict[str, Any] | None = None


def _measure(side: Side, device: str, repeats: int, count: bool, watch: bool, pipe: Any) -> None:
    import torch

    run, outputs = side(device)
    cuda = device.startswith("cuda")

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else memory_mb("VmRSS")
    run()  # warm-up, and the run whose memory counts
    wait()
    peak = (torch.cuda.max_memory_allocated() / 2**20 if cuda else memory_mb("VmHWM")) - before
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    found = outputs()
    work = counted(run) if count else None
    pipe.send(Measured(statistics.median(times), max(peak, 0.1), found, work, profiled(run) if watch and not cuda else None))
    pipe.close()


def measure(side: Side, device: str, repeats: int, *, count: bool = False, watch: bool = False) -> Measured:
    """One side in a fresh process; count: its multiply-adds, watch: what its time is spent in, each in one more run."""
    return _apart(_measure, side, device, repeats, count, watch)


def profile_of(side: Side, device: str) -> dict[str, Any]:
    """What one side spends its time in, in a fresh process, without timing it; see `profiled`."""
    return dict(_apart(_watch, side, device))


def _watch(side: Side, device: str, pipe: Any) -> None:
    run, _ = side(device)
    run()
    pipe.send(profiled(run))
    pipe.close()


def measured_rates(device: str) -> Rates:
    """The rates of this machine, in a fresh process as the sides have."""
    return _apart(_send_rates, device)


def _send_rates(device: str, pipe: Any) -> None:
    pipe.send(rates(device))
    pipe.close()


def _apart(work: Callable[..., None], *given: Any) -> Any:
    """What `work(*given, pipe)` sends from a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(*given, theirs))
    child.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        child.join()
        raise SystemExit(f"the measured process ended with exit code {child.exitcode}") from None
    child.join()
    return answer


def parser(name: str, repeats: int = 3) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    found = argparse.ArgumentParser(description=name)
    found.add_argument("--device", default="cpu")
    found.add_argument("--repeats", type=int, default=repeats)
    found.add_argument("--profile", action="store_true", help="only what our side spends its time in, as JSON")
    found.add_argument("--threads", type=int, default=None, help="of the processor, for both sides; default: a core each")
    return found


def use_threads(threads: int | None) -> None:
    """Processes that are started from here on compute with so many threads."""
    if threads is not None:
        for library in ("OMP", "MKL", "OPENBLAS"):
            os.environ[f"{library}_NUM_THREADS"] = str(threads)


def relative_error(ours: dict[str, np.ndarray], peer: dict[str, np.ndarray]) -> float:
    """Largest |ours - peer| over the largest |peer|, over all outputs that both sides give."""
    if set(ours) != set(peer):
        raise SystemExit(f"the two sides give different outputs: {sorted(ours)} and {sorted(peer)}")
    errors = []
    for name, truth in peer.items():
        error = float(np.abs(np.asarray(ours[name], np.float64) - truth).max())
        errors.append(error / max(float(np.abs(truth).max()), 1e-30))
    return max(errors) if errors else float("nan")


def compare(
    name: str,
    ours: Side,
    peer: Side,
    *,
    peer_name: str,
    repeats: int = 3,
    peer_share: Callable[[str], float] | None = None,
    peer_repeats: int | None = None,
    work: Callable[[str], Work] | None = None,
    moved: Callable[[str], float] | None = None,
    also: Callable[[str], dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Measures both sides and prints the table and, as the last line, the JSON object.

    peer_share(device): the share of the work that the peer does, where all of it would take too long; its time is divided
    by it, and both are printed. peer_repeats: runs of the peer, where it is slow. work(device): multiply-adds and bytes of our
    side; without it torch counts the multiply-adds in one more run and moved(device) says the bytes. A value of `more` that is
    callable is called with the device and its number or text is added to the object; also(device) gives several at once.
    """
    chosen = parser(name, repeats).parse_args()
    use_threads(chosen.threads)
    if chosen.profile:
        print(json.dumps({"name": name, "device": chosen.device, "profile": profile_of(ours, chosen.device)}))
        return {}
    own = measure(ours, chosen.device, chosen.repeats, count=work is None, watch=True)
    other = measure(peer, chosen.device, min(chosen.repeats, peer_repeats or chosen.repeats))
    time_s, peak, out = own.time_s, own.peak_mb, own.outputs
    peer_time, peer_peak, peer_out = other.time_s, other.peak_mb, other.outputs
    share = 1.0 if peer_share is None else peer_share(chosen.device)
    if share < 1:
        print(f"the peer did {share:.3g} of the work in {peer_time:.2f} s, which makes {peer_time / share:.2f} s for all of it")
        peer_time /= share
    row = {
        "name": name,
        "peer": peer_name,
        "device": chosen.device,
        "time_s": time_s,
        "peer_time_s": peer_time,
        "time_ratio": peer_time / time_s,
        "peak_mb": peak,
        "peer_peak_mb": peer_peak,
        "memory_ratio": peer_peak / peak,
        "max_rel_error": relative_error(out, peer_out),
    }
    needed = work(chosen.device) if work is not None else own.work
    assert needed is not None
    needed = needed if moved is None else Work(needed.macs, moved(chosen.device), needed.macs64)
    row |= against(time_s, needed, measured_rates(chosen.device))
    row |= {} if own.profile is None else {"profile": own.profile}
    row |= {key: value(chosen.device) if callable(value) else value for key, value in more.items()}
    row |= also(chosen.device) if also is not None else {}
    if "pictures" in row:
        row["pictures_per_s"] = row["pictures"] / time_s
    print(f"{name} on {chosen.device}: ours against {peer_name}")
    print(f"{'':10}{'time [s]':>12}{'peak [MB]':>12}")
    print(f"{'ours':10}{time_s:12.4f}{peak:12.1f}")
    print(f"{'peer':10}{peer_time:12.4f}{peer_peak:12.1f}")
    print(f"{'floor':10}{row['floor_s']:12.4f}{'':12}   by {row['floor_by']}; ours reaches {100 * row['share']:.0f} % of it")
    print(f"{'ratio':10}{row['time_ratio']:12.2f}{row['memory_ratio']:12.2f}   largest relative error {row['max_rel_error']:.2e}")
    sys.stdout.flush()
    print(json.dumps({k: (float(f"{v:.6g}") if isinstance(v, float) else v) for k, v in row.items()}))
    return row
