"""Encoding of several subjects as a group: the mean over subjects with an interval of other subjects and other stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from brainlens.encode import EncodingDesign
from brainlens.metrics.encoding import bootstrap_score
from brainlens.metrics.statistics import mean_over_subjects, stimulus_counts
from brainlens.models.encoding import EncodingModel, RidgeCV
from brainlens.models.encoding.tables import tables
from brainlens.subjects import FEW_SUBJECTS
from brainlens.types import DataError, Features, Responses, Result

COLUMNS = ("r2_mean", "r2_of_ceiling", "r_mean", "units_scored", "units", "images_test")


def drawn_means(
    model: EncodingModel, responses: Responses, features: Features, *, design: EncodingDesign, seed: int = 0
) -> np.ndarray:
    """Resampled means of R2 over the scored units of one subject (resample,), stimuli drawn by `stimulus_counts`."""
    if isinstance(model, RidgeCV):
        raise DataError("group: a model of layered features is needed, got RidgeCV")
    data = tables(responses, features, seed=seed, single_trials=design.single_trials)
    predicted, data = data.in_units(model.predict(features, rows=data.test.rows))
    chosen = data.scored(design.least_ncsnr)
    counts = stimulus_counts(data.test.ids, design.resamples, seed)
    return bootstrap_score(data.test.y[:, chosen], predicted[:, chosen], counts=counts, seed=seed).drawn


def group_scores(
    results: Sequence[Result], drawn: Sequence[np.ndarray], names: Sequence[str]
) -> tuple[dict[str, float], pd.DataFrame, str]:
    """(metrics `encoding/group/...`, table `subjects` with a row each and one of their mean, over what the interval is).

    drawn: of each subject (resample,). The interval is that of `metrics.statistics.mean_over_subjects`; below `FEW_SUBJECTS`
    subjects, which say nothing of others, it is over stimuli alone.
    Raises DataError for resamples of different lengths.
    """
    if len({len(one) for one in drawn}) != 1 or len(drawn) != len(results):
        raise DataError(f"group: resamples of one length for each of {len(results)} subjects are needed, got {len(drawn)}")
    people = len(results) >= FEW_SUBJECTS
    rows = [{"subject": name} | _row(result) for name, result in zip(names, results, strict=True)]
    means = {key: float(np.mean([row[key] for row in rows])) for key in COLUMNS if all(key in row for row in rows)}
    low, high = mean_over_subjects(np.array([row["r2_mean"] for row in rows]), np.stack(drawn), people=people)
    mean = {"subject": "mean", **means, "r2_mean.low": float(low), "r2_mean.high": float(high)}
    key = "encoding/group/r2_mean"
    metrics = {key: means["r2_mean"], f"{key}.low": float(low), f"{key}.high": float(high), f"{key}.n": float(len(results))}
    metrics["encoding/group/subjects"] = float(len(results))
    return metrics, pd.DataFrame([*rows, mean]), "subjects and stimuli" if people else "stimuli"


def _row(result: Result) -> dict[str, float]:
    keys = [f"{key}{end}" for key in COLUMNS for end in ("", ".low", ".high")]
    return {key: result.metrics[f"encoding/{key}"] for key in keys if f"encoding/{key}" in result.metrics}


def as_group(found: Result, results: Sequence[Result], names: Sequence[str], drawn: Sequence[np.ndarray]) -> Result:
    """A comparison of subjects with their mean first, its table `subjects`, and over what its interval is.

    drawn: of each subject (resample,).
    """
    metrics, table_, over = group_scores(results, drawn, names)
    data = [entry for result in results for entry in result.provenance.get("data", [])]
    config = found.config | {"subjects": list(names), "interval_over": over}
    return replace(
        found, metrics=metrics | found.metrics, tables={**found.tables, "subjects": table_}, config=config,
        provenance={**found.provenance, "data": list(dict.fromkeys(data))},
    )  # fmt: skip
