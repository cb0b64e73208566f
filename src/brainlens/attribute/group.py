"""Maps of several subjects (or of several runs) in one space, as one map of the group with its null."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainlens.metrics.attribution import sign_flip_p
from brainlens.metrics.statistics import auroc_interval, fdr, mean_over_subjects, stimulus_counts
from brainlens.subjects import FEW_SUBJECTS, region_labels
from brainlens.types import DataError, Result, Sensors, Volume

LEAST = 5  # subjects below which sign flips cannot reach p = .05
RESAMPLES = 1000


def group(results: Sequence[Result], *, flips: int = 10000, seed: int = 0) -> Result:
    """The mean over results of their mean maps, each scaled to mean 1 (or to mean size 1, where it is signed).

    Results of `attribute` of the brain, one a subject, whose voxels are the same. From 5 on, `map/p` (unit,) tests by sign
    flips of whole subjects that a unit lies above the subjects' mean (signed maps: above 0), `map/q` is its false discovery
    rate. Arrays `map/brain_mean` (unit,), `map/subject` (subject, unit); tables `regions` with all subjects' rows and
    `regions_of_group`, see `regions_over_subjects`.

    Raises DataError for fewer than 2 results, other tasks, and voxels that differ.
    """
    if len(results) < 2:
        raise DataError(f"group: {len(results)} maps; a group needs at least 2")
    maps = np.stack([_mean_map(result, results[0], k) for k, result in enumerate(results)])
    maps, size = _scaled(maps)
    first = results[0]
    numbers, arrays = _tested(maps, 0.0 if (maps < 0).any() else 1.0, flips, seed)
    arrays["map/brain_mean"] = maps.mean(0)
    units = first.units
    if units is not None and "informative" in units.columns:
        truth = auroc_interval(units["informative"].to_numpy(dtype=bool), maps.mean(0), clusters=first.arrays.get("map/patch"))
        numbers |= dict(zip(("truth/auroc", "truth/auroc.low", "truth/auroc.high"), truth, strict=True))
        arrays["truth/informative"] = units["informative"].to_numpy(dtype=bool)
    names = [str(r.config.get("run", k)) for k, r in enumerate(results)]
    regions = [r.tables["regions"].assign(run=name) for r, name in zip(results, names, strict=True) if "regions" in r.tables]
    tables = {"regions": pd.concat(regions, ignore_index=True)} if regions else {}
    config = {**first.config, "run": names, "group": True, "interval_over": _over(len(maps), "stimuli")}
    together = regions_over_subjects(results, size, seed=seed)
    if len(together):
        tables["regions_of_group"] = together
    return Result("attribute", numbers, arrays, units, tables, config, first.provenance, first.space)


def regions_over_subjects(results: Sequence[Result], size: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """A row a region: roi, map, map.low, map.high, units; empty where regions or maps of single trials are missing.

        map_r = mean_s mean_{t, u in r} m_stu / size_s

    size (subject,): of each mean map. The interval is that of `mean_over_subjects`, stimuli drawn alike for all who saw them;
    below `FEW_SUBJECTS` subjects over stimuli alone. Maps that are not signed are scaled anew in every resample.
    """
    parts: list[tuple[pd.DataFrame, np.ndarray]] = []
    counted = pd.Series(dtype=float)
    for result, by in zip(results, size, strict=True):
        roi, trials = None if result.units is None else region_labels(result.units), result.tables.get("trials")
        if roi is None or trials is None or "map/brain" not in result.arrays:
            return pd.DataFrame()
        maps = np.asarray(result.arrays["map/brain"], dtype=np.float64) / by
        regions = pd.DataFrame(maps.T).groupby(np.asarray(roi)).mean().T
        counts = stimulus_counts(trials["stimulus"].to_numpy(dtype=str), RESAMPLES, seed)
        whole = np.ones(len(maps)) if (maps < 0).any() else maps.mean(axis=1)
        total = counts @ whole
        drawn = np.divide(counts @ regions.to_numpy(), total[:, None], out=np.full((RESAMPLES, regions.shape[1]), np.nan),
                          where=total[:, None] > 0)  # fmt: skip
        parts.append((regions, drawn))
        counted = counted if len(counted) else pd.Series(np.asarray(roi)).value_counts()
    names = [name for name in parts[0][0].columns if all(name in regions.columns for regions, _ in parts)]
    values = np.stack([regions[names].mean(axis=0).to_numpy() for regions, _ in parts])
    drawn = np.stack([each[:, [list(regions.columns).index(name) for name in names]] for regions, each in parts])
    low, high = mean_over_subjects(values, drawn, people=len(parts) >= FEW_SUBJECTS)
    units = [int(counted[name]) for name in names]
    return pd.DataFrame({"roi": names, "map": values.mean(axis=0), "map.low": low, "map.high": high, "units": units})


def group_of_channels(results: Sequence[Result], *, flips: int = 10000, seed: int = 0) -> Result:
    """The mean over results of `attribute` of EEG or MEG of their contributions, on the channels that all have.

    Each subject's contributions are scaled so that their sums over time have mean size 1 over channels. Arrays `contribution`
    (channel, time), `topomap/...` as of one subject, `map/subject` (subject, channel); from 5 subjects on `map/p` and `map/q`
    (channel,) test by sign flips of whole subjects that a channel speaks for the right image. Table `channels`: the mean of each
    channel with a 95 % interval over subjects, from `FEW_SUBJECTS` on.

    Raises DataError for fewer than 2 results, other tasks, channels or times that differ.
    """
    if len(results) < 2:
        raise DataError(f"group: {len(results)} maps; a group needs at least 2")
    names = [_channels(result, k) for k, result in enumerate(results)]
    common = [name for name in names[0] if all(name in other for other in names)]
    shapes = {np.shape(result.arrays["contribution"])[1:] for result in results}
    if not common or len(shapes) > 1:
        what = "times differ in number" if common else "no channel is of all of them"
        raise DataError(f"group: {what}; align the subjects with the same window, rate and channel names")
    rows = [[own.index(name) for name in common] for own in names]
    course = np.stack([np.asarray(r.arrays["contribution"], np.float64)[row] for r, row in zip(results, rows, strict=True)])
    maps, size = _scaled(course.sum(axis=2))
    first, scale = results[0], 1 / size
    numbers, arrays = _tested(maps, 0.0, flips, seed)
    arrays |= {"contribution": np.tensordot(scale, course, 1) / len(course), "topomap/contribution": maps.mean(axis=0)}
    key = "topomap/contribution_by_time"
    if all(key in result.arrays for result in results):
        parts = [np.asarray(r.arrays[key])[:, row] * by for r, row, by in zip(results, rows, scale, strict=True)]
        arrays[key] = np.mean(parts, axis=0)
    table = pd.DataFrame({"channel": common, "contribution": maps.mean(axis=0)})
    if len(maps) >= FEW_SUBJECTS:
        still = np.repeat(maps[:, None], 2, axis=1)  # maps are means over images, whose own draws are not known
        table["contribution.low"], table["contribution.high"] = mean_over_subjects(maps, still, people=True)
    units = None if first.units is None else first.units.iloc[rows[0]].reset_index(drop=True)
    space = Sensors(first.space.names[rows[0]], first.space.positions[rows[0]]) if isinstance(first.space, Sensors) else None
    runs = [str(result.config.get("run", k)) for k, result in enumerate(results)]
    config = {**first.config, "run": runs, "group": True, "interval_over": "subjects"}
    tables = {name: first.tables[name] for name in ("topomap",) if name in first.tables} | {"channels": table}
    return Result("attribute", numbers, arrays, units, tables, config, first.provenance, space)


def _channels(result: Result, k: int) -> list[str]:
    if result.task != "attribute" or "contribution" not in result.arrays or result.units is None:
        raise DataError(f"group: result {k} is a {result.task!r} result without contributions of channels")
    return [str(name) for name in result.units["channel"]]


def _scaled(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (subject, unit) of mean size 1, and what they were divided by (subject,). DataError for a map of zeros."""
    size = np.abs(maps).mean(axis=1)
    if not (size > 0).all():
        raise DataError(f"group: the map of result {int(np.argmin(size))} is zero everywhere")
    return maps / size[:, None], size


def _tested(maps: np.ndarray, null: float, flips: int, seed: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """How alike the maps (subject, unit) are and where they lie above the null: (metrics, arrays)."""
    arrays = {"map/subject": maps}
    numbers = {"attribution/subjects": float(len(maps)), "attribution/subject_correlation": float(_between(maps))}
    if len(maps) >= LEAST:
        p = sign_flip_p(maps - null, flips=flips, seed=seed)
        arrays |= {"map/p": p, "map/q": fdr(p)}
        numbers["attribution/significant_share"] = float((arrays["map/q"] <= 0.05).mean())
    return numbers, arrays


def _over(subjects: int, what: str) -> str:
    return f"subjects and {what}" if subjects >= FEW_SUBJECTS else what


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
