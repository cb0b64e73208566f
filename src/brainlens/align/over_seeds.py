"""Several fits of one alignment that differ in their seed alone, and their mean: fMRI, EEG and MEG alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.source import Source
from brainlens.metrics.statistics import t_interval
from brainlens.types import DataError, Result

SHOWN = ("top1", "top5")
EACH = "each seed's own"  # the encoder where the best ones of seeds differ


def run_over_seeds(
    fit: Callable[[int], tuple[Path | list[Path], Rows]], source: Source, runs: str | Path, *, first: int, seeds: int
) -> tuple[list[Path], Rows]:
    """`fit` with the seeds first, first + 1, ..., each in its own run folders, and their mean as a further run.

    The recording stays; the draw of validation images, the start of the weights and the batches are those of the seed. What is
    averaged is the last run of each call, which of several subjects is their mean. Raises DataError for fewer than 2 seeds.
    """
    if seeds < 2:
        raise DataError(f"align: {seeds} seeds are asked for; a mean over seeds needs at least 2")
    folders: list[Path] = []
    rows: Rows = []
    results = []
    for seed in range(first, first + seeds):
        made, found = fit(seed)
        folders += made if isinstance(made, list) else [made]
        if found:  # of several processes the first one has stored it
            results.append(store.load_result(folders[-1]))
            rows += [{"seed": str(seed), **row} for row in found]
    if results:
        mean = mean_over_seeds(results, range(first, first + seeds))
        folders.append(keep(mean, runs, source))
        shown = table(mean, "align/", ending=SHOWN) or table(mean, "retrieval/", ending=SHOWN)
        rows += [{"seed": "mean", **row} for row in shown]
    return folders, rows


def mean_over_seeds(results: Sequence[Result], seeds: Sequence[int]) -> Result:
    """Scores as means over seeds with intervals over seeds (`mean_of_fits`); config: `seeds`, `interval_over`.

    Table `seeds`: brain to image of every encoder and seed with its interval over stimuli, and the mean with its interval over
    seeds; table `comparison`: the means of every encoder, where the runs have it.
    """
    kept = [{k: v for k, v in result.metrics.items() if not k.startswith("subject/")} for result in results]
    config = {k: v for k, v in results[0].config.items() if k not in ("seed", "main_by")}
    for key in ("main", "encoder"):
        if len({str(result.config.get(key)) for result in results}) > 1:
            config[key] = EACH
    config |= {"seeds": list(seeds), "interval_over": "seeds"}
    each = [by_encoder(result) for result in results]
    names = [name for name in each[0] if all(name in one for one in each)]
    means = {name: mean_of_fits([one[name] for one in each]) for name in names}
    rows = [
        {"seed": str(seed), "encoder": name} | {k: one[name][key] for k, key in _columns() if key in one[name]}
        for name in names
        for seed, one in [*zip(seeds, each, strict=True), ("mean", means)]
    ]
    tables = {"seeds": pd.DataFrame(rows)}
    if all("comparison" in result.tables for result in results):
        tables["comparison"] = pd.DataFrame([{"encoder": name, **found} for name, found in means.items()])
    data = [entry for result in results for entry in result.provenance.get("data", [])]
    provenance = {**results[0].provenance, "data": list(dict.fromkeys(data))}
    return Result("align", mean_of_fits(kept), tables=tables, config=config, provenance=provenance)


def mean_of_fits(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over fits of every number that all of them have; of scores also `.low`, `.high` and `.sd` over the fits.

        mean -+ t_{n-1} sd / sqrt(n)

    A score is what has an interval of its own in the first fit; that one, over stimuli, is not carried. The interval speaks of
    further fits on the same recording and test stimuli.
    """
    sides = (".low", ".high", ".p", ".sd")
    out: dict[str, float] = {}
    for key in [key for key in each[0] if not key.endswith(sides) and all(key in one for one in each)]:
        values = np.array([float(one[key]) for one in each])
        out[key] = float(values.mean())
        if f"{key}.low" in each[0]:
            out[f"{key}.low"], out[f"{key}.high"] = t_interval(values)
            out[f"{key}.sd"] = float(values.std(ddof=1))
    return out


def by_encoder(result: Result) -> dict[str, dict[str, float]]:
    """The numbers of each encoder of an alignment: its row of the table `comparison`, or those of the one that it has."""
    found = result.tables.get("comparison")
    if found is None:
        return {str(result.config.get("encoder") or result.config.get("main") or "mean"): dict(result.metrics)}
    numbers = found.select_dtypes("number").columns
    rows = zip(found["encoder"], found[numbers].to_dict("records"), strict=True)
    return {str(name): {str(k): float(v) for k, v in row.items()} for name, row in rows}


def _columns() -> list[tuple[str, str]]:
    return [(f"{k}{end}", f"retrieval/brain->image/{k}{end}") for k in SHOWN for end in ("", ".low", ".high")] + [
        ("chance1", "retrieval/brain->image/chance1")
    ]
