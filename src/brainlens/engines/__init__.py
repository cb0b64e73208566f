"""Where the pieces of a sweep are worked on: in this process, on a Dask cluster, or as an array of SLURM jobs.

An engine takes a function and pieces and gives (index, outcome) as they end, in any order. The function must be found by its
import path, since other processes import it. A piece that fails says so in its outcome; an engine raises DataError for what no
piece can help: a package that is not installed, a scheduler that is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from brainlens.engines import cluster, jobs
from brainlens.types import DataError

Work = Callable[[Any], dict[str, Any]]


def local(work: Work, pieces: Sequence[Any], *, workers: int, options: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """One piece after another in this process."""
    if options:
        raise DataError(f"engine local takes no options, {sorted(options)} are given; dask and slurm have some")
    if workers != 1:
        raise DataError(f"engine local works in one process, {workers} workers are asked for; take --engine dask")
    for index, piece in enumerate(pieces):
        yield index, work(piece)


ENGINES = {"local": local, "dask": cluster.dask, "slurm": jobs.slurm}


def engine(name: str) -> Callable[..., Iterator[tuple[int, dict[str, Any]]]]:
    """An engine by name. Raises DataError listing those that there are."""
    if name not in ENGINES:
        raise DataError(f"engine {name!r} is not known; there are {', '.join(ENGINES)}")
    return ENGINES[name]
