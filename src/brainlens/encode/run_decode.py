"""`brainlens decode`: from a recording of EEG or MEG to the time course of what can be told from it, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from brainlens.datasets.epoching import read_epochs_of
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.sensors import joined_subjects
from brainlens.datasets.source import Source, Tell
from brainlens.encode.repeats import images_apart, one_part
from brainlens.encode.time_decoding import OverTime, decode_over_time
from brainlens.types import DataError, Responses, Result

TARGETS = ("condition", "category", "stimulus")  # columns that are told apart where none is named, the first that can be
FEW = 4  # trials of a category, below which nothing is told


def run_decode(
    source: Source,
    runs: str | Path,
    *,
    target: str | None = None,
    group: str | None = "run",
    subjects: Sequence[str] = (),
    options: OverTime | None = None,
    seed: int = 0,
    tell: Tell,
) -> tuple[Path, Rows]:
    """Cuts the recording, tells the categories of `target` apart at each time, and stores the result as a run.

    target: a column of the trials (None: the first of TARGETS with 2 categories or more and 4 trials in each). group: the
    column whose parts are left out in turn, where it has two; else stratified folds. subjects: none for the first, several for
    their mean, each told apart by a classifier of its own, on the channels that all have. Raises DataError for a recording that
    cannot be cut, a column that is missing, fewer than two categories, and subjects of other times.
    """
    responses, more_notes = _read(source, subjects, Path(runs) / "prepared", tell)
    chosen = target if target is not None else first_target(responses)
    tell(f"telling {chosen} apart over time", None)
    options = options or OverTime()
    rows, group, folds, notes = images_apart(responses, chosen, group, options.folds)
    options = replace(options, folds=folds)
    if group is not None and one_part(rows, group):
        notes, group = [*notes, f"There is one {group}, which cannot be left out: trials are in stratified folds."], None
    result = decode_over_time(rows, chosen, group, options=options, seed=seed)
    people: dict[str, Any] = {"subjects": list(subjects)} if subjects else {}
    if len(rows.data) < len(responses.data):
        people["rows_are"] = "images"  # means over repeats, which the figure and the counts are of
    result = replace(result, config={**result.config, **people, "warnings": [*more_notes, *notes]})
    counts = {f"decode/trials_{name}": float(n) for name, n in responses.trials[chosen].astype(str).value_counts().items()}
    result = replace(result, metrics=result.metrics | counts)
    return keep(result, runs, source), [*table(result, "decode/"), *_by_subject(result)]


def _read(source: Source, subjects: Sequence[str], cache: Path, tell: Tell) -> tuple[Responses, list[str]]:
    """The epochs of the subjects as one recording, and a remark where they have not the same channels."""
    parts = []
    chosen: Sequence[str | None] = subjects or (None,)
    for name in chosen:
        tell("cutting epochs" if name is None else f"cutting epochs of subject {name}", None)
        parts.append(read_epochs_of(source, name, cache))
    if len(parts) == 1:
        return parts[0], []
    return joined_subjects(parts, subjects)


def _by_subject(result: Result) -> Rows:
    """The mean area of each subject with its interval, where there are several."""
    people = result.tables.get("subjects")
    if people is None:
        return []
    rows = [row._asdict() for row in people.iloc[:-1].rename(columns=lambda name: name.replace(".", "_")).itertuples(index=False)]
    return [
        {
            "metric": f"subject {row['subject']}: decode/auc_mean",
            "value": row["auc_mean"],
            "95 % interval": f"{row['auc_mean_low']:.3g} to {row['auc_mean_high']:.3g}",
            "chance": "0.5",
            "n": f"{row['trials']:,}",
        }
        for row in rows
    ]


def first_target(responses: Responses) -> str:
    """The first of TARGETS by which trials can be told apart. Raises DataError listing what the columns hold."""
    for name in TARGETS:
        if name in responses.trials.columns and _can(responses.trials[name]):
            return name
    kinds = {str(c): responses.trials[c].nunique() for c in responses.trials.columns if c not in ("repeat", "event")}
    listed = ", ".join(f"{name} ({count} values)" for name, count in kinds.items())
    raise DataError(f"decode: no column {', '.join(TARGETS)} has 2 categories of {FEW} trials; name one by --target: {listed}")


def _can(column: pd.Series) -> bool:
    counts = column.astype(str).value_counts()
    return len(counts) > 1 and int(counts.min()) >= FEW
