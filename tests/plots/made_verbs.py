"""Results of describe, reconstruct, decode and of a group, as the verbs make them in names and shapes, from random numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from brainlens.attribute.group import group as group_of
from brainlens.types import Result, Sensors, Volume

OWN = {"dataset": "folder", "seed": 0}  # in a grid of its own: the same figures but those of surfaces, in less time
UNITS, PARCELS = 60, 6
REGIONS = ["V1", "V4", "FFA", "PPA"]


def _space() -> tuple[Volume, pd.DataFrame]:
    space = Volume(np.ones((4, 5, 3), dtype=bool), np.eye(4))
    return space, pd.DataFrame({"roi": np.resize(REGIONS, UNITS)})


def describe() -> Result:
    rng = np.random.default_rng(0)
    nouns = pd.DataFrame({"noun": [f"noun {k}" for k in range(8)], "images": 20})
    arrays = {
        "label": rng.integers(0, 8, (UNITS, 4)),
        "weight": rng.dirichlet(np.ones(4), UNITS),
        "auroc": rng.uniform(0.2, 0.9, (UNITS, 8)),
        "significant": np.arange(UNITS) % 3 > 0,
        "label_r": rng.uniform(0, 0.4, UNITS),
        "label_q": rng.uniform(0, 0.1, UNITS),
        "r2": rng.normal(0.1, 0.1, UNITS),
        "cards/unit": np.arange(5) * 3,
        "cards/images": rng.integers(0, 255, (5, 3, 24, 24, 3), dtype=np.uint8),
    }
    histogram = pd.DataFrame({"roi": np.repeat(REGIONS, 2), "label": np.resize(["noun 1", "noun 2"], 8), "voxels": range(2, 10)})
    space, units = _space()
    metrics = {"describe/significant_share": 0.3, "describe/significant_share.low": 0.2, "describe/significant_share.high": 0.4}
    config = OWN | {"design": {"level": 0.05}, "bank": "real", "model": "miniature/clip"}
    return Result("describe", metrics, arrays, units, {"nouns": nouns, "histogram": histogram}, config, {"seed": 0}, space)


def reconstruct(n: int = 9) -> Result:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)
    share = rng.dirichlet(np.ones(PARCELS), (3, 5))
    arrays = {
        "pictures/seen": pictures,
        "pictures/candidates": np.stack([pictures, pictures[::-1]], axis=1),
        "pictures/retrieval": pictures[::-1].copy(),
        "pictures/evidence_retrieval": pictures.copy(),
        "pictures/low_level": pictures // 2,
        "chosen": rng.integers(0, 2, n),
        "each/chosen/two_way_clip": rng.uniform(size=n),
        "value_contribution/parcels": share,
        "map/value_contribution": rng.uniform(size=UNITS),
        **{f"map/value_contribution_{k}": rng.uniform(size=UNITS) for k in range(3)},
        "maps/pictures": pictures[:3],
        "lesion/whole": pictures[:3],
    }
    for name in ("V1", "FFA"):
        arrays |= {f"{kind}/{name}": rng.uniform(size=(3, 5, 8, 8)) for kind in ("maps", "other_maps")}
        arrays[f"lesion/{name}"] = pictures[3:6]
    parcels = pd.DataFrame({"parcel": [f"{name} patch{k}" for k in (1, 2) for name in ("V1", "V4", "FFA")], "number": range(6)})
    space, units = _space()
    metrics = {"reconstruct/two_way_clip": 0.6, "reconstruct/two_way_clip.low": 0.5, "reconstruct/two_way_clip.high": 0.7}
    config = OWN | {"method": "neuro_adapter", "candidates": 2}
    return Result("reconstruct", metrics, arrays, units, {"parcels": parcels}, config, {"seed": 0}, space)


def decode() -> Result:
    rng = np.random.default_rng(0)
    auc = 0.5 + 0.2 * np.exp(-((np.arange(20) - 10) ** 2) / 10) + rng.normal(0, 0.02, (3, 20))
    course = pd.DataFrame({"time": np.linspace(-0.1, 0.5, 20), "auc": auc.mean(0), "low": auc.mean(0) - 0.05})
    course = course.assign(high=auc.mean(0) + 0.05, p_fwe=np.where(auc.mean(0) > 0.6, 0.01, 0.5), p_cluster=0.5)
    people = pd.DataFrame({"subject": ["s1", "s2", "s3", "mean"], "auc_mean": [0.55, 0.56, 0.57, 0.56]})
    people = people.assign(**{"auc_mean.low": 0.5, "auc_mean.high": 0.6})
    metrics = {
        "decode/peak_auc": 0.7,
        "decode/peak_time": 0.2,
        "decode/onset": 0.1,
        "decode/auc_mean": 0.56,
        "decode/trials": 240.0,
    }
    config = {
        "dataset": "epochs",
        "method": "lda",
        "target": "condition",
        "categories": ["face", "house"],
        "interval_over": "subjects and stimuli",
    }
    space = Sensors(np.array([f"E{k}" for k in range(8)]), rng.normal(0, 0.05, (8, 3)))
    units = pd.DataFrame({"channel": space.names})
    return Result("decode", metrics, {"auc": auc}, units, {"timecourse": course, "subjects": people}, config, {}, space)


def group(n: int = 6) -> Result:
    rng = np.random.default_rng(0)
    space, units = _space()
    each = []
    for k in range(n):
        values = np.abs(rng.normal(size=(4, UNITS))) * 0.2 + (np.arange(UNITS) < 20)
        arrays = {"map/brain": values, "map/brain_mean": values.mean(axis=0)}
        metrics = {"attribution/image/deletion_auc": 0.2 + 0.01 * k}
        each.append(Result("attribute", metrics, arrays, units, {}, OWN | {"method": "bottleneck", "run": f"s{k}"}, space=space))
    return group_of(each, flips=100)


def patterns() -> Result:
    """`decode` of patterns (trial, unit)."""
    names = ["face", "house", "cat", "scissors"]
    share = pd.DataFrame(0.7 * np.eye(4) + 0.075, columns=names).assign(true=names)[["true", *names]]
    by_group = pd.DataFrame({"run": ["1", "2", "3"], "accuracy": [0.7, 0.8, 0.75], "auc": [0.9, 0.92, 0.88]})
    metrics = {"decode/accuracy": 0.775, "decode/accuracy.low": 0.7, "decode/accuracy.high": 0.8, "decode/accuracy.chance": 0.25}
    metrics |= {"decode/accuracy.n": 3.0, "decode/auc": 0.9, "decode/auc.chance": 0.5, "decode/trials": 48.0}
    config = OWN | {"method": "svm", "target": "stimulus", "group": "run", "categories": names, "interval_over": "run"}
    return Result("decode", metrics, {}, None, {"by_group": by_group, "confusion": share}, config, {"seed": 0})


def categories() -> Result:
    """`haxby2001_encode`: ridge on one-hot categories in a grid of its own."""
    rng = np.random.default_rng(0)
    space, units = _space()
    arrays = {"r2": rng.uniform(-0.1, 0.6, UNITS), "ceiling": rng.uniform(0.3, 0.9, UNITS), "ncsnr": rng.uniform(0, 2, UNITS)}
    metrics = {"encoding/r2_mean": 0.2, "encoding/r2_mean.low": 0.1, "encoding/r2_mean.high": 0.3, "encoding/units": float(UNITS)}
    config = OWN | {"method": "ridge_onehot", "target": "stimulus", "group": "run", "categories": ["face", "house"]}
    return Result("encode", metrics, arrays, units, {}, config, {"seed": 0}, space)


def similarity() -> Result:
    """`rsa`: layers of a network against the dissimilarities of two subjects."""
    rng = np.random.default_rng(0)
    layers = [f"encoder.{k}" for k in range(6)]
    score = np.linspace(0.05, 0.3, 6)
    table = pd.DataFrame({"layer": layers, "score": score, "low": score - 0.05, "high": score + 0.05, "sem_subjects": 0.02})
    metrics = {f"rsa/{layer}/spearman": value for layer, value in zip(layers, score.tolist(), strict=True)}
    metrics |= {"rsa/ceiling_low": 0.4, "rsa/ceiling_high": 0.5, "rsa/n_stimuli": 24.0, "rsa/n_subjects": 2.0}
    arrays = {"scores": rng.normal(size=(6, 2)), "rdms": rng.uniform(size=(6, 276))}
    config = OWN | {"metric": "correlation", "method": "spearman", "model": "miniature/clip"}
    return Result("rsa", metrics, arrays, tables={"profile": table}, config=config, provenance={"seed": 0})


def image_patterns() -> Result:
    """`encode` of patterns that are known through their dissimilarities."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"layer": ["a", "b", "c"], "r2": [0.1, 0.2, 0.15], "two_way": [0.6, 0.7, 0.65], "chosen_share": [0, 1, 0]}
    )
    for name in ("r2", "two_way"):
        table = table.assign(**{f"{name}.low": table[name] - 0.05, f"{name}.high": table[name] + 0.05})
    arrays = {"rdm/predicted": rng.uniform(size=276), "rdm/measured": rng.uniform(size=276)}
    arrays |= {"null/r2_weighted": rng.normal(0, 0.02, 200), "null/two_way_patterns": rng.normal(0.5, 0.03, 200)}
    metrics = {"encoding/r2_weighted": 0.2, "encoding/n": 24.0, "encoding/folds": 8.0, "encoding/ceiling_undefined": 1.0}
    stimuli = pd.DataFrame({"stimulus": [f"i{k}" for k in range(24)], "category": np.repeat(["face", "body", "tool"], 8)})
    config = OWN | {"method": "ridge_patterns", "model": "miniature/clip", "layers": ["a", "b", "c"]}
    return Result("encode", metrics, arrays, None, {"layers": table, "stimuli": stimuli}, config, {"seed": 0})
