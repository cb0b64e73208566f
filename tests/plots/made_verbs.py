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
