"""The fits of the EEG claims side by side: one process a core, one thread each, because small batches gain little from more."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from brainlens.claims.sensors import SensorStudy, planned, run_fits, sensor_tables, subject_recording
from brainlens.datasets.source import Tell

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_side_by_side(study: SensorStudy, folder: Path, tell: Tell, *, workers: int = 2) -> None:
    """Every planned fit; each leaves its file, so that `run_fits` reads them all afterwards and a killed run goes on.

    Recordings are simulated first, so that no two processes write the same one; then a task is all fits of one subject and
    protocol, within subjects first. `tell` must be a function of a module, because processes are started afresh.
    """
    deadline = time.monotonic() + 60 * study.minutes
    sensor_tables(study, folder, tell)
    tasks = sorted(dict.fromkeys((kind, subject) for kind, subject, _, _ in planned(study)), key=lambda task: task[0] != "within")
    with one_thread(), ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(_record, study, folder, tell), study.subjects))
        list(pool.map(partial(_fit, study, folder, tell, deadline), tasks))


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes started inside use one thread; the environment is put back."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _record(study: SensorStudy, folder: Path, tell: Tell, subject: int) -> None:
    tell(f"recording of subject {subject}", None)
    subject_recording(sensor_tables(study, folder, tell), study, subject, folder)


def _fit(study: SensorStudy, folder: Path, tell: Tell, deadline: float, task: tuple[str, int]) -> None:
    study = replace(study, minutes=(deadline - time.monotonic()) / 60)
    run_fits(study, sensor_tables(study, folder, tell), folder, tell, only=task)
