"""Maps of several subjects (or of several runs) in one space, as one map of the group with its null."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainlens.metrics.attribution import sign_flip_p
from brainlens.metrics.statistics import auroc_interval, fdr
from brainlens.types import DataError, Result, Volume

LEAST = 5  # subjects below which sign flips cannot reach p = .05


def group(results: Sequence[Result], *, flips: int = 10000, seed: int = 0) -> Result:
    """The mean over results of their mean maps, each scaled to mean 1 (or to mean size 1, where it is signed).

    Results of `attribute` of the brain, one a subject, whose voxels are the same. From 5 on, `map/p` (unit,) tests by sign
    flips of whole subjects that a unit lies above the subjects' mean (signed maps: above 0), `map/q` is its false discovery
    rate. Arrays `map/brain_mean` (unit,), `map/subject` (subject, unit); table `regions` with all subjects' rows.

    Raises DataError for fewer than 2 results, other tasks, and voxels that differ.
    """
    if len(results) < 2:
        raise DataError(f"group: {len(results)} maps; a group needs at least 2")
    maps = np.stack([_mean_map(result, results[0], k) for k, result in enumerate(results)])
    size = np.abs(maps).mean(1, keepdims=True)
    if not (size > 0).all():
        raise DataError(f"group: the map of result {int(np.argmin(size[:, 0]))} is zero everywhere")
    maps = maps / size
    first = results[0]
    arrays = {"map/brain_mean": maps.mean(0), "map/subject": maps}
    numbers = {"attribution/subjects": float(len(maps))}
    numbers["attribution/subject_correlation"] = float(_between(maps))
    if len(maps) >= LEAST:
        null = 0.0 if (maps < 0).any() else 1.0
        p = sign_flip_p(maps - null, flips=flips, seed=seed)
        arrays |= {"map/p": p, "map/q": fdr(p)}
        numbers["attribution/significant_share"] = float((arrays["map/q"] <= 0.05).mean())
    units = first.units
    if units is not None and "informative" in units.columns:
        truth = auroc_interval(units["informative"].to_numpy(dtype=bool), maps.mean(0))
        numbers |= dict(zip(("truth/auroc", "truth/auroc.low", "truth/auroc.high"), truth, strict=True))
        arrays["truth/informative"] = units["informative"].to_numpy(dtype=bool)
    names = [str(r.config.get("run", k)) for k, r in enumerate(results)]
    regions = [r.tables["regions"].assign(run=name) for r, name in zip(results, names, strict=True) if "regions" in r.tables]
    tables = {"regions": pd.concat(regions, ignore_index=True)} if regions else {}
    config = {**first.config, "run": names, "group": True}
    return Result("attribute", numbers, arrays, units, tables, config, first.provenance, first.space)


def _mean_map(result: Result, first: Result, k: int) -> np.ndarray:
    if result.task != "attribute" or "map/brain_mean" not in result.arrays:
        raise DataError(
            f"group: result {k} is a {result.task!r} result without a brain map; give results of attribute of the brain"
        )
    same = isinstance(result.space, Volume) and isinstance(first.space, Volume)
    if not same or not np.array_equal(result.space.mask, first.space.mask):  # type: ignore[union-attr]
        raise DataError(
            f"group: result {k} has other voxels than the first; bring the subjects to one space and mask before aligning"
        )
    return np.asarray(result.arrays["map/brain_mean"], dtype=np.float64)


def _between(maps: np.ndarray) -> float:
    """Mean correlation of each subject's map with the mean of the others."""
    total = maps.sum(0)
    return float(np.mean([np.corrcoef(row, total - row)[0, 1] for row in maps]))
