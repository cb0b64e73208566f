"""What the rows of a paper's tables take from a finished run: each function gives the rows of one result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def scores_of(metrics: dict[str, float], head: str, names: Sequence[str]) -> dict[str, float]:
    """The scores of these names behind a head, each with its interval, as far as they are there."""
    ends = ("", ".low", ".high")
    return {f"{n}{e}": float(metrics[f"{head}{n}{e}"]) for n in names for e in ends if f"{head}{n}{e}" in metrics}


def encoded(result: Any) -> list[dict[str, Any]]:
    """R2, its share of the ceiling, time and multiply-adds, units, and the hierarchy of one encoding, the first of its seeds."""
    found = scores_of(result.metrics, "encoding/", ("r2_mean", "r2_of_ceiling"))
    found |= {"fit_s": float(result.provenance["fit_s"])}
    found |= scores_of(result.metrics, "encoding/", ("multiply_adds", "parameters", "hierarchy_slope"))
    if "seeds" in result.tables:
        found |= over_seeds(result.tables["seeds"]["r2_mean"])
    return [{**found, "units": len(result.arrays["r2"]), "method": result.config["method"]}]


def over_seeds(scores: Sequence[float]) -> dict[str, float]:
    """Mean over fits that differ in their seed, its 95 % interval (Student's t over seeds, the images held) and their number."""
    import numpy as np

    from brainlens.metrics.statistics import t_interval

    values = np.asarray(scores, dtype=float)
    low, high = t_interval(values)
    mean = float(values.mean())
    return {"r2_over_seeds": mean, "r2_over_seeds.low": low, "r2_over_seeds.high": high, "seeds": float(len(scores))}


def sized(result: Any) -> list[dict[str, Any]]:
    """R2 and hierarchy at each number of training images."""
    rows = []
    for line in result.tables["learning_curve"].to_dict("records"):
        found = scores_of(line, "", ("r2_mean", "hierarchy_slope"))
        known = {key: value for key, value in found.items() if value == value}  # a method without layers has no hierarchy
        rows.append({"method": result.config["method"], "images": int(line["images"]), **known})
    return rows


def moved(result: Any) -> list[dict[str, Any]]:
    """R2, hierarchy and confidence of a network and of the same after fine-tuning."""
    names = ("r2_mean", "r2_of_ceiling", "hierarchy_slope", "confidence")
    return [{"model": line["model"], **scores_of(line, "", names)} for line in result.tables["comparison"].to_dict("records")]


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of encodings with time and multiply-adds in units of the class token, or of the first row, as in table 16."""
    import pandas as pd

    from brainlens.encode.compare import relative_cost

    costed = [row for row in rows if "fit_s" in row]
    if not costed:
        return rows
    found = relative_cost(pd.DataFrame(costed), [row["method"] for row in costed]).to_dict("records")
    return [*({key: v for key, v in row.items() if v == v} for row in found), *(row for row in rows if "fit_s" not in row)]


def aligned(result: Any) -> list[dict[str, Any]]:
    """Top-1 and top-5 of every encoder in four directions, with chance."""
    names = [n for n in dict.fromkeys(k.split("/")[1] for k in result.metrics if k.startswith("align/")) if "-" not in n]
    rows = []
    for name in names:
        row: dict[str, Any] = {"encoder": name}
        for direction in ("brain->image", "image->brain", "brain->text", "text->brain"):
            head = f"align/{name}/retrieval/{direction}/"
            found = scores_of(result.metrics, head, ("top1", "top5"))
            row |= {f"{direction} {key}": value for key, value in found.items()}
        row["chance"] = result.metrics.get(f"align/{name}/retrieval/brain->image/chance1", float("nan"))
        rows.append(row)
    return rows


def attributed(result: Any) -> list[dict[str, Any]]:
    """The table of all methods."""
    return list(result.tables["methods"].to_dict("records"))


def settings(result: Any) -> list[dict[str, Any]]:
    """The sensitivity table."""
    return list(result.tables["sensitivity"].drop(columns="map").to_dict("records"))


def sensed(result: Any) -> list[dict[str, Any]]:
    """Top-1 and top-5 of every encoder, and of the variants where they were fitted."""
    rows = []
    for line in result.tables["comparison"].to_dict("records"):
        found = scores_of(line, "retrieval/brain->image/", ("top1", "top5"))
        rows.append({"encoder": line["encoder"], **found, "chance": float(line["retrieval/brain->image/chance1"])})
    for name in ("ablation", "prompts"):
        for line in result.tables[name].to_dict("records") if name in result.tables else ():
            rows.append({"encoder": f"neuroalign, {line['variant']}", **scores_of(line, "", ("top1", "top5"))})
    return rows


def with_means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With a row "mean" behind the subjects of each table, for each encoder that all of them have: intervals over subjects."""
    from brainlens.align.over_seeds import mean_of_fits
    from brainlens.subjects import FEW_SUBJECTS

    out: list[dict[str, Any]] = []
    for table in dict.fromkeys(row["table"] for row in rows):
        own = [row for row in rows if row["table"] == table]
        people = list(dict.fromkeys(row["row"] for row in own if str(row["row"]).startswith("subject ")))
        out += own
        for encoder in dict.fromkeys(row["encoder"] for row in own if row["row"] in people):
            each = [row for row in own if row["encoder"] == encoder and row["row"] in people]
            if len(each) == len(people) > 1:
                found = mean_of_fits([{k: v for k, v in row.items() if isinstance(v, float)} for row in each])
                few = len(people) < FEW_SUBJECTS  # two say nothing of others
                found = {k: v for k, v in found.items() if not k.endswith(".sd") and not (few and k.endswith((".low", ".high")))}
                out.append({"table": table, "row": f"mean of {len(people)} subjects", "encoder": encoder, **found, "run": ""})
    return out
