"""Metrics as one tidy table: what a score is, its interval, its chance, its ceiling and its n, found by their names.

A metric `group/name` brings its neighbours along: `group/name.low`, `.high`, `.p`, `.chance`, `.ceiling`; for retrieval
`group/chanceK`; `group/n` and `group/gallery`; for a mean R2 the mean ceiling. Where no neighbour states chance, it is that
of the definition: .5 for an area under the ROC curve, 1/n for n-way accuracy, 0 for r and R2. A difference of two methods
is no score: its chance is 0 and its unit says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

VERBS = ("align", "attribute", "encode", "reconstruct", "describe", "eeg")
SIDES = (".low", ".high", ".p", ".chance", ".ceiling", ".n", ".sd")
COUNTS = ("n", "gallery", "parameters", "multiply_adds", "seconds")
SHARE = re.compile(
    r"(top\d+|nway\d+|accuracy|share\w*|\w+_share\w*|pointing_game|two_way\w*|kind_top\d|domain_top\d|\w*_area|noise_significant)$"
)
RULES = {  # two tests, which need not agree on a unit
    "units_significant": "units, R2 > 0, bootstrap, q < .05",
    "share_significant": "share, r > 0, t test, q < .05",
}
_SPELLED = {  # methods whose names the field writes otherwise than options do
    word.lower().replace("-", ""): word
    for word in ("Grad-CAM", "RISE", "Chefer", "MLP", "CNN", "FactorTopy", "NeuroAlign", "GNet", "EEGNet", "NICE", "SVM")
}
COLUMNS = ("metric", "value", "low", "high", "chance", "ceiling", "n", "unit")


def digits(value: float) -> str:
    """A number as text: counts and large numbers whole and with separators, others to three digits."""
    if (float(value).is_integer() and abs(value) >= 10) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def scores(metrics: Mapping[str, float]) -> pd.DataFrame:
    """One row a score: columns metric, value, low, high (95 % interval), chance, ceiling, n, unit; NaN where unknown.

    Neighbours stand in the row of their score, counts and chance levels have no rows of their own.
    """
    rows = []
    for key, value in metrics.items():
        if not is_score(key):
            continue
        group, _, name = key.rpartition("/")
        level, n = chance(key, metrics), metrics.get(f"{key}.n", metrics.get(join(group, "n"), np.nan))
        low, high = (metrics.get(key + side, np.nan) for side in (".low", ".high"))
        level_of_mean = metrics.get(join(group, "ceiling_mean"), np.nan) if name == "r2_mean" else np.nan
        ceiling = metrics.get(f"{key}.ceiling", level_of_mean)
        unit = f"difference of {unit_of(name)}".removesuffix(" of ") if is_difference(key) else unit_of(name)
        rows.append((key, float(value), low, high, np.nan if level is None else level, ceiling, n, unit))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def is_score(key: str) -> bool:
    """Whether a key stands for itself: not an interval, a chance, a count or a ceiling of another one."""
    group, _, name = key.rpartition("/")
    beside = key.endswith(SIDES) or name in COUNTS or re.fullmatch(r"chance\d*|ceiling(_low|_high)?", name)
    return not beside and group != "data"


def is_difference(key: str) -> bool:
    """Whether a key is `<verb>/<method>-<method>/...` or `<verb>/difference/<method>/...`: of two methods, paired."""
    parts = key.split("/")
    return len(parts) > 2 and parts[0] in VERBS and re.fullmatch(r"difference|[a-z]\w*-[a-z]\w*", parts[1]) is not None


def chance(key: str, metrics: Mapping[str, float]) -> float | None:
    """Chance level of a metric: as stated by a neighbour, else by definition, else None.

    The largest R2 of many units has none by definition: by chance it is above 0, the more so the more units there are. So it is
    with the two-way accuracy at the best of many times.
    """
    group, _, name = key.rpartition("/")
    if is_difference(key):
        return 0.0
    top, ways = re.fullmatch(r"top(\d+)", name), re.fullmatch(r"nway(\d+)", name)
    whole = [] if group.endswith("decode") and name != "accuracy" else [join(group, "chance")]  # which older runs have there
    for other in [f"{key}.chance", *([join(group, f"chance{top[1]}")] if top else []), *whole]:
        if other in metrics:
            return float(metrics[other])
    if ways:
        return 1 / int(ways[1])
    if name in ("mean_rank", "median_rank"):
        size = metrics.get(join(group, "gallery"))
        return None if size is None else (size - 1) / 2
    if name.endswith("auroc") or (name.startswith("two_way") and not name.endswith("_max")):
        return 0.5
    score = name.startswith("r2") and "share" not in name and name != "r2_max"
    if score or name in ("r", "r_mean", "r_median") or name.endswith(("spearman", "_correlation", "hierarchy_slope")):
        return 0.0
    return None


def unit_of(name: str) -> str:
    """What a metric is counted in: share (0 to 1), AUROC, R2, r, rank, ms, s, layers; empty where it is none of these.

    What counts units as significant says by which rule.
    """
    if name in RULES:
        return RULES[name]
    if SHARE.match(name):
        return "share"
    if name.endswith("auroc") or name == "auc":
        return "AUROC"
    if name.startswith("r2"):
        return "R2"
    if name == "r" or name.startswith("r_") or name.endswith(("spearman", "correlation")):
        return "r"
    if name.endswith("rank"):
        return "rank"
    return {"ms": "ms", "s": "s", "seconds": "s", "slope": "share of depth"}.get(name.rpartition("_")[2], "")


def join(group: str, name: str) -> str:
    """`group/name`, or the name where there is no group."""
    return f"{group}/{name}" if group else name


def spelled(name: str) -> str:
    """A method or encoder as the field writes it: Grad-CAM for gradcam, blanks for underscores."""
    return _SPELLED.get(name, name.replace("_", " "))
