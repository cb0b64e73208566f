"""What a group of subjects shows: its map where it holds over subjects, how alike the subjects are, and each of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from brainlens.plots import cortex, layers, sensors, slabs
from brainlens.report.parts import Section, in_standard_space
from brainlens.types import Result, Sensors, Volume

LEVEL = 0.05  # false discovery rate


def group_section(result: Result, dpi: int | None) -> Section:
    """The group's map at a false discovery rate of .05, and how far each subject's map is like that of the others."""
    section = Section("Over subjects", dpi)
    maps = result.arrays.get("map/subject")
    if not result.config.get("group"):
        return section
    if not section.has(result, "map/subject", figure="what is drawn over subjects", beside=("map/q",)) or maps is None:
        return section
    maps = np.asarray(maps, dtype=np.float64)
    n = len(maps)
    section.has(result, "map/q", figure="the group's map")
    q = result.arrays.get("map/q")
    if q is not None:
        mean = maps.mean(axis=0)
        shown = np.where(np.asarray(q) <= LEVEL, mean, 0.0)
        count = int((np.asarray(q) <= LEVEL).sum())
        caption = (
            f"The mean map of {n} subjects at the {count:,} of {len(mean):,} units where it lies above its null (sign flips "
        )
        caption += (
            f"of whole subjects, q ≤ {LEVEL:g}); elsewhere it is set to 0 in this figure. Each subject's map has mean size 1."
        )
        title, unit = "Group map, where q ≤ .05", "times the subject's mean"
        if in_standard_space(result):
            section.draw(partial(cortex.cortex_map, result, shown, title=title, unit=unit), caption, "Group map on the cortex.")
        elif isinstance(result.space, Volume):
            section.draw(partial(slabs.mosaic, result, shown, title=title, unit=unit), caption, "Group map on slices.")
        elif isinstance(result.space, Sensors):
            make = partial(sensors.topomaps, result.space, shown, titles=[], unit=unit, title=title, result=result)
            section.draw(make, caption, "Group map on the scalp.")
    regions = result.tables.get("regions_of_group")
    if regions is not None:
        caption = f"Mean map of each region over {n} subjects, in times of a subject's mean over all units. Whiskers: 95 % "
        caption += f"intervals over {result.config.get('interval_over', 'stimuli')}."
        draw = partial(
            layers.model_bars, regions, "map", name="roi", title="Regions over subjects, 95 % intervals",
            axis="times the subject's mean", chance=0.0 if (maps < 0).any() else 1.0, result=result,
        )  # fmt: skip
        section.draw(draw, caption, "Bars of the mean map of each region over subjects.")
    rows = pd.DataFrame({"subject": _names(result, n), "r": likeness(maps)})
    caption = (
        f"Correlation over units of each subject's map with the mean of the other {n - 1}. It has no interval: neighbouring "
    )
    caption += "units are not independent."
    make = partial(
        layers.model_bars,
        rows,
        "r",
        name="subject",
        title="Likeness of subjects",
        axis="correlation with the others' mean",
        chance=0.0,
        result=result,
    )
    section.draw(make, caption, "Bars of each subject's correlation with the others.")
    return section


def likeness(maps: np.ndarray) -> np.ndarray:
    """Correlation of each subject's map (subject, unit) with the mean of the others: (subject,), NaN for a constant map.

    r_s = corr(m_s, sum_{t != s} m_t); needs two subjects or more.
    """
    total = maps.sum(0)
    pairs = [(row, total - row) for row in maps]
    return np.array([np.corrcoef(a, b)[0, 1] if a.std() > 0 and b.std() > 0 else np.nan for a, b in pairs])


def _names(result: Result, n: int) -> list[str]:
    """Runs of the subjects by name; numbers where they are not told or not told apart."""
    names = result.config.get("run")
    known = [str(v) for v in names] if isinstance(names, (list, tuple)) and len(names) == n else []
    return known if len(set(known)) == n else [f"subject {k + 1}" for k in range(n)]
