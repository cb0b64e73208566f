"""Retrieval ranks in tiles against the full similarity matrix, sorted: 16,000 queries against 16,000 items, d = 1024.

`--full` adds one run of ours at 73,000 x 73,000 (all NSD pictures), where the full matrix would take 21 GB and its
sorted order 43 GB. Both sides compute on the CPU. Ours counts items within 1e-6 of the right one as ties against the
query, the sorted matrix orders them by chance of rounding: ranks in the thousands differ by one or two for that.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from floor import Work
from harness import compare, forget_peak, memory_mb

# A script's own folder comes first among the places of imports, and pandas looks for an optional package of the name
# of a neighbour here; None says that there is no such package.
sys.modules.setdefault("bottleneck", None)  # type: ignore[arg-type]

N, FULL, D = 16_000, 73_000, 1024


def embeddings(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose right item is first for some queries and far down for others."""
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((n, D), dtype=np.float32)
    noise = np.linspace(1, 30, n, dtype=np.float32)[:, None]
    query = rng.standard_normal((n, D), dtype=np.float32)
    query *= noise
    query += gallery
    return query, gallery


def ours(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    from brainlens.metrics.retrieval import ranks

    query, gallery = embeddings(N)
    found: dict[str, np.ndarray] = {}
    return lambda: found.update(ranks=ranks(query, gallery)), lambda: found


def peer(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    query, gallery = embeddings(N)
    found: dict[str, np.ndarray] = {}

    def run() -> None:
        one = query / np.linalg.norm(query, axis=1, keepdims=True)
        other = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
        order = np.argsort(-(one @ other.T), axis=1)
        found["ranks"] = np.argmax(order == np.arange(N)[:, None], axis=1)

    return run, lambda: found


def work(device: str) -> Work:
    """Every query times every item; both are read once."""
    del device
    return Work(macs=N * N * D, bytes=2 * 4 * N * D)


def _full(pipe: Any) -> None:
    from brainlens.metrics.retrieval import ranks

    forget_peak()
    before = memory_mb("VmRSS")
    query, gallery = embeddings(FULL)
    forget_peak()  # what is measured is the search with its inputs, not how they were drawn
    start = time.perf_counter()
    found = ranks(query, gallery)
    pipe.send((time.perf_counter() - start, memory_mb("VmHWM") - before, float(np.mean(found == 0))))


def full() -> dict[str, float]:
    """Seconds and peak memory, embeddings included, of one run at 73,000 x 73,000."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_full, args=(send,))
    child.start()
    send.close()  # or a child that dies would leave this one waiting
    seconds, peak, top1 = receive.recv()
    child.join()
    print(f"{FULL} x {FULL}, d = {D}: {seconds:.1f} s, {peak:.0f} MB with the embeddings, top-1 {top1:.3f}")
    return {"full_n": FULL, "full_time_s": seconds, "full_peak_mb": peak}


if __name__ == "__main__":
    more = {}
    if "--full" in sys.argv:
        sys.argv.remove("--full")
        more = full()
    compare("retrieval", ours, peer, peer_name="full similarity matrix and argsort", n=N, d=D, work=work, **more)
