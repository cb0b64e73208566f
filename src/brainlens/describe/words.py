"""Words per region from a recording that has category names and no pictures: betas by name, ranked, with a ceiling."""

from __future__ import annotations

import numpy as np

from brainlens import store
from brainlens.metrics.semantic_evidence import word_ranking
from brainlens.types import DataError, Responses, Result


def describe_words(responses: Responses, *, column: str = "stimulus", level: str | None = None, seed: int = 0) -> Result:
    """Which words drive each region: the mean response to each category name, in two halves of the runs.

    responses: trials with the name of what was shown in `column`; `run` or `session` gives the halves (odd and even), else
    trials of a name go to them in turn. Units without `roi` are one region, "all". Table `words`: rank, score and the ceiling of
    each region's order, see `metrics.semantic_evidence.word_ranking`; no p, for the voxels of a region are correlated.
    Metrics `describe/words/...`: categories, regions, ceiling_mean.
    Raises DataError for fewer than 3 names, a name that is in one half only, and several subjects.
    """
    started = store.Start()
    trials = responses.trials
    if column not in trials.columns:
        raise DataError(f"describe: trials have no column {column!r}; they have {sorted(map(str, trials.columns))}")
    if "subject" in trials.columns and trials["subject"].nunique() > 1:
        raise DataError(
            f"describe takes one subject at a time, got {trials['subject'].nunique()}; use responses.where(subject=...)"
        )
    responses, counts = responses.clean()
    names = trials[column].astype(str).to_numpy()
    kinds = np.unique(names)
    half = _halves(responses, names, level)
    means = np.empty((2, len(kinds), responses.data.shape[1]))
    for h in (0, 1):
        for c, kind in enumerate(kinds):
            rows = np.flatnonzero((names == kind) & (half == h))
            if not len(rows):
                raise DataError(f"describe: {kind!r} is in one half of the {level or 'trials'} only; a ceiling needs it in both")
            means[h, c] = np.asarray(responses.data[rows], dtype=np.float64).mean(axis=0)
    units = responses.units
    roi = units["roi"].astype(str).to_numpy() if "roi" in units.columns else np.full(len(units), "all")
    table = word_ranking(means, list(kinds), roi)
    ceilings = table.drop_duplicates("roi")["ceiling"].to_numpy()
    known = ceilings[np.isfinite(ceilings)]
    metrics: dict[str, float] = {"describe/words/categories": len(kinds), "describe/words/regions": len(ceilings)}
    metrics["describe/words/ceiling_mean"] = float(known.mean()) if len(known) else float("nan")
    metrics |= {f"describe/{name}": float(count) for name, count in counts.items()}
    arrays = {"category": np.array(kinds, dtype=np.str_), "mean": means.mean(axis=0).T.astype(np.float32)}
    provenance = store.provenance(seed, "cpu", [store.fingerprint(responses)], started)
    config = {"method": "words", "column": column, "seed": seed}
    return Result("describe", metrics, arrays, units, {"words": table}, config, provenance, responses.space)


def _halves(responses: Responses, names: np.ndarray, level: str | None) -> np.ndarray:
    """0 or 1 for each trial: odd and even runs (or sessions), else the trials of a name in turn."""
    columns = [level] if level is not None else [c for c in ("run", "session") if c in responses.trials.columns]
    for column in columns:
        if column not in responses.trials.columns:
            raise DataError(f"describe: trials have no column {column!r} to make halves of")
        groups = responses.trials[column].to_numpy()
        if len(np.unique(groups)) > 1:
            return np.unique(groups, return_inverse=True)[1] % 2
    half = np.zeros(len(names), dtype=np.int64)
    for kind in np.unique(names):
        rows = np.flatnonzero(names == kind)
        half[rows] = np.arange(len(rows)) % 2
    return half
