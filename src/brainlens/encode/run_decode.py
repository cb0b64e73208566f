"""`brainlens decode`: from a recording of EEG or MEG to the time course of what can be told from it, in one call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.epoching import read_epochs_of
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.source import Source, Tell
from brainlens.encode.time_decoding import OverTime, decode_over_time
from brainlens.types import DataError, Responses

TARGETS = ("condition", "category", "stimulus")  # columns that are told apart where none is named, the first that can be
FEW = 4  # trials of a category, below which nothing is told


def run_decode(
    source: Source,
    runs: str | Path,
    *,
    target: str | None = None,
    group: str | None = "run",
    subject: str | None = None,
    options: OverTime | None = None,
    seed: int = 0,
    tell: Tell,
) -> tuple[Path, Rows]:
    """Cuts the recording, tells the categories of `target` apart at each time, and stores the result as a run.

    target: a column of the trials (None: the first of TARGETS with 2 categories or more and 4 trials in each). group: the
    column whose parts are left out in turn, where it has two; else stratified folds. Raises DataError for a recording that
    cannot be cut, a column that is not there, and fewer than two categories.
    """
    tell("cutting epochs", None)
    responses = read_epochs_of(source, subject, Path(runs) / "prepared")
    chosen = target if target is not None else first_target(responses)
    tell(f"telling {chosen} apart over time", None)
    options = options or OverTime()
    rows, notes = one_row_an_image(responses, chosen, options.folds)
    if group is not None and one_part(rows, group):
        notes, group = [*notes, f"There is one {group}, which cannot be left out: trials are in stratified folds."], None
    result = decode_over_time(rows, chosen, group, options=options, seed=seed)
    result = replace(result, config={**result.config, "warnings": notes})
    course = result.tables["timecourse"]
    peak = course.loc[course["auc"].idxmax()]
    more = {"decode/peak_auc.low": float(peak["low"]), "decode/peak_auc.high": float(peak["high"])}
    more |= {"decode/peak_auc.chance": 0.5, "decode/peak_p": float(peak["p_fwe"])}
    counts = more | {f"decode/trials_{name}": float(n) for name, n in responses.trials[chosen].astype(str).value_counts().items()}
    result = replace(result, metrics=result.metrics | counts)
    return keep(result, runs, source), table(result, "decode/")


def one_part(responses: Responses, group: str) -> bool:
    """Whether a subject has trials of one value of this column alone, so that none can be left out of its fit."""
    trials = responses.trials
    if group not in trials.columns:
        return False
    people = trials["subject"] if "subject" in trials.columns else np.zeros(len(trials))
    return bool((trials.groupby(people)[group].nunique() < 2).any())


def one_row_an_image(responses: Responses, target: str, folds: int) -> tuple[Responses, list[str]]:
    """(rows to be told apart, remarks): means over the repeats of each image where a category is of several images.

    Trials of one image in training and test would let a classifier tell the images and not the categories, and labels could
    not be shuffled trial by trial. Where a category has fewer images than folds the trials stay, with a remark.
    """
    trials = responses.trials
    if target not in trials.columns or target == "stimulus" or not trials.duplicated(["stimulus"]).any():
        return responses, []
    if (trials.groupby("stimulus")[target].nunique() > 1).any() or (trials.groupby(target)["stimulus"].nunique() == 1).any():
        return responses, []  # not a property of the image, or its name
    images = int(trials.groupby(target)["stimulus"].nunique().min())
    if images < folds:
        return responses, [
            f"The smallest {target} has {images} images, fewer than the {folds} folds: trials of one image are in training and "
            "test, so that images may be told apart in place of categories."
        ]
    said = f"{len(trials):,} trials were averaged to {trials['stimulus'].nunique():,} images, each in one fold."
    return responses.average(), [said]


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
