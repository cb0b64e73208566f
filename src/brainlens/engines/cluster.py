"""Pieces on a Dask cluster: of this machine, of a batch system through dask-jobqueue, or one that is already there."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from brainlens.types import DataError

QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster", "htcondor": "HTCondorCluster"}
LOGGERS = ("distributed", "tornado")  # what the names of a cluster's loggers begin with
ONE_PIECE = ("--nthreads", "1")  # whatever number of cores a worker has for the threads of its piece
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def dask(
    work: Callable[[Any], dict[str, Any]], pieces: Sequence[Any], *, workers: int, options: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Pieces on `workers` processes of one thread of work each; the loss of a worker costs the pieces that it held.

    options: scheduler=tcp://HOST:PORT joins a cluster that runs; cluster=slurm (pbs, sge, lsf, htcondor) starts one through
    dask-jobqueue, cluster=kubernetes through dask-kubernetes, with the other options handed on; threads=N of each worker. A
    worker takes one piece at a time on every cluster: a piece has the outputs of its process to itself.
    """
    distributed = _package("distributed")
    chosen = dict(options)
    address, kind = chosen.pop("scheduler", None), chosen.pop("cluster", "local")
    # A piece that runs a network in several threads beside others gains nothing; processes share the processor evenly.
    share = max(1, (os.cpu_count() or 1) // max(1, workers))
    asked = os.environ.get(THREADS[0], "")  # whoever shares the machine has said how many threads are hers
    threads = _whole("threads", chosen.pop("threads", None), int(asked) if asked.isdecimal() and int(asked) else share)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        try:
            if address is not None:
                if chosen or kind != "local":
                    raise DataError(f"engine dask: scheduler={address} is a cluster that runs; it takes no other options")
                client = stack.enter_context(distributed.Client(address, timeout="20s"))
            else:
                made = _started(distributed, kind, workers, threads, chosen)
                client = stack.enter_context(distributed.Client(stack.enter_context(made)))
            futures = client.map(work, list(pieces), pure=False, key=[f"piece-{i}" for i in range(len(pieces))])
            number = {future.key: i for i, future in enumerate(futures)}
            for future in distributed.as_completed(futures):
                if future.status == "error":
                    error = future.exception()
                    yield number[future.key], {"error": f"{type(error).__name__}: {error}"}
                elif future.status in ("cancelled", "lost"):
                    raise _gone(address)
                else:
                    yield number[future.key], future.result()
        except (OSError, TimeoutError) as error:  # CommClosedError is an OSError
            raise _gone(address) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks that a client logs when its scheduler goes away: what is to be said is one line."""
    found = [logging.getLogger(name) for name in ("distributed", *logging.root.manager.loggerDict) if name.startswith(LOGGERS)]
    before = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(found, before, strict=True):
            logger.setLevel(level)


def _gone(address: str | None) -> DataError:
    where = f"the scheduler at {address}" if address else "the scheduler"
    return DataError(
        f"engine dask: {where} cannot be reached or went away; finished pieces are kept, the same command does the rest"
    )


def _started(distributed: Any, kind: str, workers: int, threads: int, options: dict[str, str]) -> Any:
    """A cluster of a kind with so many workers."""
    environment = {name: str(threads) for name in THREADS}
    if kind == "local":
        if options:
            raise DataError(f"engine dask: options {sorted(options)} do not apply on this machine; it takes threads")
        # The workers are processes of their own: a fork of a process with running threads can hang.
        return distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, env=environment,
            silence_logs="ERROR", worker_class=None,
        )  # fmt: skip
    if kind == "kubernetes":
        given: dict[str, Any] = {"env": environment, "worker_command": ["dask-worker", *ONE_PIECE], **options}
        return _package("dask_kubernetes.operator", "kubernetes").KubeCluster(n_workers=workers, **given)
    if kind not in QUEUES:
        raise DataError(f"engine dask: cluster {kind!r} is not known; there are local, {', '.join(QUEUES)}, kubernetes")
    lines = [f"export {name}={value}" for name, value in environment.items()]
    given = {"cores": threads, "processes": 1, "worker_extra_args": list(ONE_PIECE), "job_script_prologue": lines, **options}
    made = getattr(_package("dask_jobqueue"), QUEUES[kind])(**given)
    made.scale(workers)
    return made


def _package(name: str, extra: str = "sweep") -> Any:
    """A package, or a DataError with the extra of this library that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        known = name.split(".")[0].replace("_", "-")
        raise DataError(f"engine dask needs the package {known}: pip install 'brainlens[{extra}]'") from None


def _whole(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"engine dask: {name}={text!r} is not a whole number above 0")
    return int(text)
