"""Pieces as an array of SLURM jobs through submitit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from brainlens.types import DataError


def slurm(
    work: Callable[[Any], dict[str, Any]], pieces: Sequence[Any], *, workers: int, options: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """One job a piece, `workers` of them at a time.

    options: folder=DIR of the jobs' logs (default `slurm-jobs`), cluster=local tries the same jobs on this machine; all others
    go to submitit (timeout_min=60, slurm_partition=gpu, mem_gb=16, ...). A job that is lost is an outcome that names it.
    """
    try:
        import submitit
    except ImportError:
        raise DataError("engine slurm needs the package submitit: pip install 'brainlens[sweep]'") from None
    chosen = {name: int(value) if value.isdecimal() else value for name, value in options.items()}
    kind = str(chosen.pop("cluster", "slurm"))
    if kind not in ("slurm", "local"):
        raise DataError(f"engine slurm: cluster {kind!r} is not known; there are slurm and local")
    if kind == "slurm" and shutil.which("sbatch") is None:
        raise DataError("engine slurm: the command sbatch is not on this machine; run on a login node, or take --engine dask")
    executor = submitit.AutoExecutor(folder=str(chosen.pop("folder", "slurm-jobs")), cluster=kind)
    try:
        executor.update_parameters(**{"name": "brainlens", "slurm_array_parallelism": workers, **chosen})
    except (NameError, TypeError, ValueError) as error:
        raise DataError(f"engine slurm: {' '.join(str(error).split())}") from None
    if kind == "slurm":
        jobs = executor.map_array(work, list(pieces))
        yield from ((index, _outcome(job)) for index, job in _as_they_end(submitit, jobs))
        return
    for start in range(0, len(pieces), workers):  # this machine starts all jobs that it is given at once
        jobs = executor.map_array(work, list(pieces[start : start + workers]))
        yield from ((start + index, _outcome(job)) for index, job in _as_they_end(submitit, jobs))


def _as_they_end(submitit: Any, jobs: list[Any]) -> Iterator[tuple[int, Any]]:
    place = {job.job_id: index for index, job in enumerate(jobs)}
    for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
        yield place[job.job_id], job


def _outcome(job: Any) -> dict[str, Any]:
    error = job.exception()
    if error is None:
        return dict(job.result())
    return {"error": f"job {job.job_id}: {' '.join(str(error).split())[-300:]}"}
