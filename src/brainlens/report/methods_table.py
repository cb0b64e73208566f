"""Every attribution method that ran on one recording, in one table (the paper's Table 2), whichever runs they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from brainlens.metrics.attribution import area_under
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.plots.style import is_simulation
from brainlens.report import numbers
from brainlens.types import Result
from brainlens.types.scores import spelled

ALL = "all"  # a run of every method, whose numbers stand under methods/NAME/
REFERENCE = "bottleneck"
TARGETS = ("image", "text", "brain")
HEADS = ("truth_auroc", "deletion", "insertion", "agreement")
LABELS = {
    "truth_auroc": "area under the ROC curve against the truth",
    "deletion": "deletion area (less is better)",
    "insertion": "insertion area (more is better)",
}


@dataclass(frozen=True)
class MethodsTable:
    """One table: what it is of, heads, rows as text, and how to read it."""

    title: str
    heads: list[str]
    lines: list[list[str]]
    notes: list[str]
    simulation: bool


@dataclass(frozen=True)
class _Method:
    """A method of one run: its numbers without prefix, trials, and its mean map with that of each trial where they are kept."""

    name: str
    run: str
    metrics: dict[str, float]
    trials: int
    mean: np.ndarray | None
    each: np.ndarray | None


def methods_tables(results: Sequence[tuple[str, Result]]) -> list[MethodsTable]:
    """A table for each recording, model and explained thing with two methods or more; else none.

    Scores are those of the runs, with their intervals over trials (the area against the truth: over patches). Agreement is the
    Spearman correlation over units of a method's map with the reference's (bottleneck, else the first),
    r_t = corr(rank m_t, rank b_t), mean over trials with a 95 % bootstrap interval where both runs keep the maps of the same
    trials, else of the mean maps without one, since units are not independent draws.
    """
    together: dict[tuple[str, ...], list[tuple[_Method, Result]]] = {}
    for name, result in results:
        for method in _methods(name, result):
            together.setdefault(_key(result), []).append((method, result))
    found = [members for members in together.values() if len({method.name for method, _ in members}) > 1]
    return [_table(members) for members in found]


def _key(result: Result) -> tuple[str, ...]:
    """What must be the same for methods to stand in one table: recording, data, aligned model, and what is explained."""
    config, data = result.config, result.provenance.get("data", "")
    return (
        *(str(config.get(k, "")) for k in ("dataset", "subject", "run", "target", "of")),
        type(result.space).__name__,
        str(data),
    )


def _methods(run: str, result: Result) -> list[_Method]:
    if result.task != "attribute" or "sensitivity" in result.tables or result.config.get("group"):
        return []
    trials = len(result.tables["trials"]) if "trials" in result.tables else 0
    if result.config.get("method") == ALL:
        names = [str(name) for name in result.config.get("methods", [])]
        begins = [f"methods/{name}/" for name in names]
        parts = [{k.removeprefix(b): v for k, v in result.metrics.items() if k.startswith(b)} for b in begins]
        maps = [result.arrays.get(f"map/{name}_mean") for name in names]
        return [_Method(n, run, m, trials, mean, None) for n, m, mean in zip(names, parts, maps, strict=True)]
    name = str(result.config.get("method", ""))
    own = f"attribute/{name}/"
    metrics = {k.replace(own, "truth/", 1).replace("truth/truth_", "truth/") if k.startswith(own) else k: v
               for k, v in result.metrics.items()}  # fmt: skip
    each, mean = result.arrays.get("map/brain"), result.arrays.get("map/brain_mean")
    curve = result.arrays.get(f"deletion/{name}")
    trials = trials or (len(each) if each is not None else len(curve) if curve is not None else 0)
    return [_Method(name, run, metrics | _areas(name, result), trials, mean, each)] if name else []


def _areas(name: str, result: Result) -> dict[str, float]:
    """Areas of curves that stand without a number: only where their shares are even."""
    out: dict[str, float] = {}
    for kind in ("deletion", "insertion"):
        curve = result.arrays.get(f"{kind}/{name}")
        known = any(k.endswith(f"/{kind}_auc") for k in result.metrics)
        if curve is None or known or "degradation/shares" in result.arrays or np.ndim(curve) != 2 or len(curve) < 2:
            continue
        values = bootstrap_mean(area_under(np.asarray(curve, dtype=np.float64)))
        out |= dict(zip((f"attribution/image/{kind}_auc{end}" for end in ("", ".low", ".high")), values, strict=True))
    return out


def _table(members: list[tuple[_Method, Result]]) -> MethodsTable:
    methods, first = [method for method, _ in members], members[0][1]
    reference = next((m for m in methods if m.name == REFERENCE), methods[0])
    rows = [_row(method, reference) for method in methods]
    columns = list(dict.fromkeys(c for row in rows for c in row if c not in ("method", "run", "trials")))
    columns = sorted(columns, key=lambda c: [HEADS.index(h) for h in HEADS if c.startswith(h)])
    columns = [c for c in columns if any(row.get(c) for row in rows)]
    several = len({m.run for m in methods}) > 1
    keys = ["method", *(["run"] if several else []), *columns, *(["trials"] if any(row["trials"] for row in rows) else [])]
    heads = [_head(k, reference.name) for k in keys]
    lines = [[row.get(k, "") for k in keys] for row in rows]
    return MethodsTable(_title(first), heads, lines, _notes(methods), is_simulation(first))


def _row(method: _Method, reference: _Method) -> dict[str, str]:
    """One row as text; empty where a run has no such number."""
    m = method.metrics
    row = {"method": spelled(method.name), "run": method.run, "trials": f"{method.trials:,}" if method.trials else ""}
    row["truth_auroc"] = _text(*(m.get(f"truth/auroc{end}") for end in ("", ".low", ".high")))
    for kind in ("deletion", "insertion"):
        for target in TARGETS:
            key = f"attribution/{target}/{kind}_auc"
            row[f"{kind} {target}"] = _text(*(m.get(key + end) for end in ("", ".low", ".high")))
    row["agreement"] = "reference" if method is reference else _text(*_agreement(method, reference))
    return row


def _agreement(method: _Method, reference: _Method) -> tuple[float | None, float | None, float | None]:
    """Spearman correlation over units with the reference's map: (mean, low, high), or of the mean maps without an interval."""
    a, b = method.each, reference.each
    if a is not None and b is not None and a.shape == b.shape and a.ndim == 2:
        each = np.array([_spearman(x, y) for x, y in zip(a, b, strict=True)])
        each = each[np.isfinite(each)]  # an empty map agrees with nothing
        if len(each) > 1:
            return bootstrap_mean(each)
    a, b = method.mean, reference.mean
    if a is None or b is None or np.shape(a) != np.shape(b):
        return None, None, None
    return _spearman(np.asarray(a), np.asarray(b)), None, None


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Over units where both are known; NaN for a constant map."""
    both = np.isfinite(a) & np.isfinite(b)
    x, y = a[both], b[both]
    return float(spearmanr(x, y).statistic) if len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def _text(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or not np.isfinite(value):
        return ""
    text = numbers.number(float(value), "auroc")
    if low is None or high is None or not np.isfinite([low, high]).all():
        return text
    return f"{text} [{numbers.number(float(low), 'auroc')}, {numbers.number(float(high), 'auroc')}]"


def _head(key: str, reference: str) -> str:
    if key == "agreement":
        return f"agreement with {reference.replace('_', ' ')} (Spearman)"
    kind, _, target = key.partition(" ")
    return LABELS.get(kind, kind) + (f", {target}" if target else "")


def _title(result: Result) -> str:
    config: dict[str, Any] = result.config
    bits = [str(config[k]) for k in ("dataset", "subject", "run") if config.get(k) not in (None, "", [])]
    return "Attribution methods side by side" + (f": {', '.join(bits)}" if bits else "")


def _notes(methods: list[_Method]) -> list[str]:
    notes = ["Brackets are 95 % intervals: of the area against the truth over patches of voxels, of all others over trials."]
    if any(m.each is None for m in methods):
        notes.append("Where a run keeps mean maps alone, agreement is that of the mean maps and has no interval.")
    if len({m.trials for m in methods if m.trials}) > 1:
        notes.append("The runs explain different numbers of trials, so differences between their rows are not of methods alone.")
    counts = pd.Series([m.name for m in methods]).value_counts()
    if (counts > 1).any():
        notes.append(f"Several runs of one method: {', '.join(str(n) for n in counts[counts > 1].index)}.")
    return notes
