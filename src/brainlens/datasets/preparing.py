"""Recordings whose files are slow to read, converted once into memory maps that every later command opens at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from brainlens import datasets, store
from brainlens.datasets.source import Source, Tell, subject_number
from brainlens.types import DataError

BUSY = 0.7  # share of the time from which on the processor is what a conversion waits for


def run_prepare(source: Source, out: str | Path, *, tell: Tell) -> list[dict[str, Any]]:
    """Converts each subject of a source into the folder `out`, which is then the option `cache` of its reader: a row a subject.

    A session or a block at a time is in memory, and a call that was stopped goes on where it was. A row says trials, units,
    gigabytes, seconds, and what they went into: the processor (unpacking, scaling, rounding, hashing) or the disk.
    Raises DataError for a recording that is read from its files as they are.
    """
    name = source.dataset
    known = [each for each in datasets.DATASETS if each not in datasets.SIMULATED and "cache" in datasets.options(each)]
    if name not in known:
        raise DataError(f"{name} is read from its files as they are; those that are converted once are {', '.join(known)}")
    if "cache" in source.options:
        raise DataError("prepare: the folder of the option cache is given by --out; leave cache out of the options")
    store.check_writable(out)
    rows = []
    for subject in source.subjects or ("",):
        tell(f"converting {name}{f', subject {subject}' if subject else ''}", None)
        chosen: dict[str, Any] = {"subject": subject_number(subject)} if subject else {}
        wall, busy = time.perf_counter(), time.process_time()
        data = datasets.load(name, source.folder, cache=str(out), **chosen, **source.options).responses.data
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        size = float(np.prod(data.shape)) * data.dtype.itemsize
        row = {
            "subject": subject or "the first",
            "trials": f"{len(data):,}",
            "units": " x ".join(f"{n:,}" for n in data.shape[1:]),
        }
        row |= {"GB": f"{size / 1e9:.3g}", "s": f"{wall:.1f}", "waited for": "processor" if busy > BUSY * wall else "disk"}
        rows.append(row)
    return rows
