"""Pieces of work that other processes import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def square(n: int) -> dict[str, int]:
    return {"value": n * n}


def dangerous(job: dict) -> dict[str, int]:
    """The square of n; n = 1 is an error, n = 2 kills its process the first time."""
    if job["n"] == 1:
        raise ValueError("piece 1 is wrong")
    note = Path(job["folder"]) / "died"
    if job["n"] == 2 and not note.exists():
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(job["n"])


def slow(n: int) -> dict[str, int]:
    """The square of n, which takes two seconds."""
    time.sleep(2)
    return square(n)
