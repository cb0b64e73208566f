"""The mean over subjects of one alignment each: fMRI, EEG and MEG alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainlens.metrics.retrieval import summary_over_subjects
from brainlens.subjects import FEW_SUBJECTS
from brainlens.types import Result

EACH = "each subject's own"  # the encoder where the best ones of subjects differ


def mean_result(results: Sequence[Result], subjects: Sequence[str], *, seed: int) -> Result:
    """Scores of the main encoder of each subject's run, and their mean over subjects with an interval over subjects and stimuli.

    Two subjects say nothing of others: then the interval is over stimuli alone. config: `interval_over`; table `subjects`.
    """
    people = len(subjects) >= FEW_SUBJECTS
    metrics: dict[str, float] = {}  # the mean first, as it is what a page leads with
    ids = [np.asarray(result.arrays["ids"]) for result in results]
    for key in [key for key in results[0].arrays if key.startswith("ranks/")]:
        found = summary_over_subjects(
            [np.asarray(r.arrays[key]) for r in results], ids, [len(i) for i in ids], seed=seed, people=people
        )
        metrics |= {f"retrieval/{key.removeprefix('ranks/')}/{score}": value for score, value in found.items()}
    for name, result in zip(subjects, results, strict=True):
        metrics |= {f"subject/{name}/{key}": value for key, value in result.metrics.items() if key.startswith("retrieval/")}
    config = {key: value for key, value in results[0].config.items() if key != "main_by"}  # chosen in each run, by its own images
    config |= {"subjects": list(subjects), "one_each": True}
    for key in ("main", "encoder"):
        if len({str(result.config.get(key)) for result in results}) > 1:
            config[key] = EACH
    config["interval_over"] = "subjects and stimuli" if people else "stimuli"
    data = [entry for result in results for entry in result.provenance.get("data", [])]
    table_ = _subject_table(metrics, results, subjects)
    return Result(
        "align", metrics, tables={"subjects": table_}, config=config, provenance={**results[0].provenance, "data": data}
    )


def _subject_table(metrics: dict[str, float], results: Sequence[Result], subjects: Sequence[str]) -> pd.DataFrame:
    """One row a subject and one for their mean: retrieval of the image, with interval, chance and the number of images.

    With the encoder of each, where they say it: the best on validation images may be another for another subject.
    """
    scores = ("top1", "top1.low", "top1.high", "chance1", "top5", "top5.low", "top5.high", "n")
    rows = []
    for name, prefix in [*((one, f"subject/{one}/") for one in subjects), ("mean", "")]:
        found = {score: metrics.get(f"{prefix}retrieval/brain->image/{score}", np.nan) for score in scores}
        rows.append({"subject": name, **found})
    chosen = [str(result.config.get("main") or result.config.get("encoder") or "") for result in results]
    found_ = pd.DataFrame(rows)
    return found_ if not all(chosen) else found_.assign(encoder=[*chosen, chosen[0] if len(set(chosen)) == 1 else EACH])
