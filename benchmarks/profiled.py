"""What a run spends its time in, and where it stands when it holds most memory: one more run beside those that are timed.

Operators of torch are summed by kind, each by its own time without that of the operators within it. What is left of the time of
the run is Python, numpy and what torch does around its operators; where that is more than half, the functions that take most of
it are named instead, by Python's own profiler. Shares are of the run that was watched, which is slower than those that are timed.
"""

from __future__ import annotations

import cProfile
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = (  # the first whose pattern is found in an operator's name
    ("products", r"mm$|mm_|bmm|addmv|\bmv$|\bdot$|conv|linear$|einsum|attention|mkldnn"),
    ("factorisations", r"linalg_(?!vector_norm|norm|matrix_norm)|svd|eigh|cholesky|geqrf|ormqr|triangular_solve"),
    (
        "copies and gathers",
        r"copy|clone|index|gather|scatter|cat$|stack|embedding|unfold|\bfold$|im2col|fill|zero_|contiguous|pad|slice|select",
    ),
    ("elementwise and sums", r""),
)
FIRST = 4  # operators or functions that are named
LEAST = 1.0  # s that are watched: a shorter run is made again
EVERY = 0.005  # s between two looks at the memory


def kind_of(operator: str) -> str:
    """The kind of an operator of torch, by its name."""
    name = operator.removeprefix("aten::")
    return next(kind for kind, pattern in KINDS if re.search(pattern, name))


def profiled(run: Callable[[], Any]) -> dict[str, Any]:
    """{"shares": {kind: share of the time}, "first": [[name, share], ...], "most_memory_in": file:function} of a run.

    Only quiet cores give shares: beside other processes a long operator waits more often than a short one. The functions of a run
    of which torch's operators are less than half are from a second run.
    """
    import torch

    with Watched() as memory, torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        begun = time.perf_counter()
        while (whole := time.perf_counter() - begun) < LEAST:
            run()
    own = {e.key: e.self_cpu_time_total * 1e-6 for e in found.key_averages() if e.key.startswith(("aten::", "mkldnn"))}
    shares = dict.fromkeys((kind for kind, _ in KINDS), 0.0)
    for name, seconds in own.items():
        shares[kind_of(name)] += seconds / whole
    shares["the rest"] = max(0.0, 1 - sum(shares.values()))
    first = [(name.removeprefix("aten::"), seconds / whole) for name, seconds in own.items()]
    if shares["the rest"] > 0.5:
        first = functions(run)
    first = sorted(first, key=lambda one: -one[1])[:FIRST]
    return {
        "shares": {kind: round(share, 3) for kind, share in shares.items()},
        "first": [[name, round(share, 3)] for name, share in first],
        "most_memory_in": memory.place,
    }


def functions(run: Callable[[], Any]) -> list[tuple[str, float]]:
    """Functions of a run and the share of its time that is their own; numpy's element by element belongs to its caller."""
    watch = cProfile.Profile()
    watch.runcall(run)
    rows = [(_place(row.code), row.inlinetime) for row in watch.getstats()]
    whole = sum(seconds for _, seconds in rows) or 1.0
    return [(name, seconds / whole) for name, seconds in rows]


def _place(code: Any) -> str:
    if isinstance(code, str):
        return code.strip("<>").removeprefix("built-in method ")
    return f"{Path(code.co_filename).name}:{code.co_name}"


class Watched:
    """Looks at the memory of the process beside a run; `place`: the function of the library that ran when it held most."""

    def __init__(self) -> None:
        self.place, self._most, self._done = "", 0, threading.Event()
        self._thread, self._of = threading.Thread(target=self._look, daemon=True), threading.get_ident()

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(EVERY):
            held = int(Path("/proc/self/statm").read_text().split()[1])
            if held > self._most:
                self._most, self.place = held, innermost(sys._current_frames().get(self._of)) or self.place


def innermost(frame: Any) -> str:
    """file:function of the innermost frame that is of the library; "" where none is."""
    while frame is not None:
        if "brainlens" in Path(frame.f_code.co_filename).parts:
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return ""
