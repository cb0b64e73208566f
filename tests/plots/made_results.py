"""Results as the verbs make them in names and shapes, from random numbers: what figures and pages are tested on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from brainlens.types import Result, Sensors, Volume

UNITS = 60  # of `small`
NASTY = "<script>alert('x')</script> <img src=http://evil.test/x.png onerror=alert(1)> 🧠 ünï $x_1$"
DIRECTIONS = ("brain->image", "image->brain", "brain->text", "text->brain")
PHANTOM = {"dataset": "phantom", "seed": 0, "device": "cpu"}
PROVENANCE = {
    "versions": {"brainlens": "0.1.0", "numpy": "2.0"},
    "seed": 0,
    "device": "cpu",
    "data": ["a" * 64, "b" * 64],
    "started": "2026-01-01T00:00:00Z",
    "wall_s": 93.2,
    "peak_mb": 1234.5,
}


def volume() -> tuple[Volume, pd.DataFrame]:
    """An ellipsoid of brain on the 4 mm MNI grid, with four regions in both hemispheres."""
    affine = np.diag([-4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (90, -126, -72)
    index = np.stack(np.meshgrid(*(np.arange(s) for s in (46, 55, 46)), indexing="ij"), axis=-1)
    xyz = index @ affine[:3, :3].T + affine[:3, 3]
    space = Volume((((xyz - [0, -18, 8]) / [66, 86, 62]) ** 2).sum(axis=-1) < 1, affine)
    mm = space.coordinates()
    roi = np.full(len(space), "none", dtype=object)
    for name, centre in {"V1": (10, -88, 2), "V4": (30, -78, -14), "FFA": (42, -52, -20), "PPA": (26, -44, -12)}.items():
        roi[np.linalg.norm(np.abs(mm[:, :1] * [1, 0, 0]) + mm * [0, 1, 1] - centre, axis=1) < 13] = name
    return space, pd.DataFrame({"x": mm[:, 0], "y": mm[:, 1], "z": mm[:, 2], "roi": roi})


def retrieval_scores(level: float, n: int = 64) -> dict[str, float]:
    out: dict[str, float] = {}
    for i, direction in enumerate(DIRECTIONS):
        for k in (1, 5, 10):
            value = min(level * (1 + 0.5 * (k > 1)) - 0.02 * i, 1.0)
            key = f"retrieval/{direction}/top{k}"
            out |= {
                key: value,
                f"{key}.low": value - 0.05,
                f"{key}.high": value + 0.05,
                f"retrieval/{direction}/chance{k}": k / n,
            }
        out |= {
            f"retrieval/{direction}/mean_rank": 4.0,
            f"retrieval/{direction}/n": float(n),
            f"retrieval/{direction}/gallery": float(n),
        }
    return out


def align(n: int = 64, d: int = 16, *, caption: str = "a red ball on grass") -> Result:
    rng = np.random.default_rng(0)
    domain = np.array(["faces", "places", "words", "food"])[np.arange(n) % 4]
    centres = rng.normal(size=(4, d))[np.arange(n) % 4]
    image = centres + 0.5 * rng.normal(size=(n, d))
    brain, text = image + 0.6 * rng.normal(size=(n, d)), image + 0.4 * rng.normal(size=(n, d))
    arrays = {
        "ids": np.array([f"s{i:03d}" for i in range(n)]),
        "embedding/brain": brain,
        "embedding/image": image,
        "embedding/text": text,
    }
    for direction in DIRECTIONS:
        query, gallery = (arrays[f"embedding/{side}"] for side in direction.split("->"))
        unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (query, gallery)]
        order = np.argsort(-(unit[0] @ unit[1].T), axis=1)
        arrays[f"neighbours/{direction}"] = order[:, :10]
        arrays[f"ranks/{direction}"] = np.argmax(order == np.arange(n)[:, None], axis=1)
    pictures = np.full((n, 48, 48, 3), 225, dtype=np.uint8)
    yy, xx = np.mgrid[:48, :48]
    for i in range(n):
        disc = (yy - rng.integers(14, 34)) ** 2 + (xx - rng.integers(14, 34)) ** 2 < rng.integers(40, 150)
        pictures[i] = pictures[i] // (1 + i % 4) + 20
        pictures[i][disc] = rng.integers(0, 255, 3)
    arrays["gallery/images"] = pictures
    levels = {"ridge": 0.22, "ridge_whitened": 0.3, "linear": 0.34, "volume": 0.4, "ideal": 0.6}
    rows = [
        {"encoder": e, "parameters": 1e5 * (1 + i), "seconds": 3.0 * i, **retrieval_scores(v)}
        for i, (e, v) in enumerate(levels.items())
    ]
    metrics = retrieval_scores(0.4)
    for encoder, level in levels.items():
        metrics |= {f"align/{encoder}/{k}": v for k, v in retrieval_scores(level).items()}
    difference = "align/volume-ridge/retrieval/brain->image/top5"
    metrics |= {difference: 0.1, f"{difference}.low": 0.02, f"{difference}.high": 0.2, f"{difference}.p": 0.01}
    metrics |= {"data/units_missing": 12.0, "data/units_constant": 0.0, "data/train_images": 1200.0, "data/test_images": float(n)}
    log = pd.concat([_log(e, t) for e, t in (("linear", 150), ("volume", 300))])
    space, units = volume()
    captions = pd.DataFrame({"id": arrays["ids"], "caption": [caption] * n, "domain": domain})
    tables = {"comparison": pd.DataFrame(rows), "log": log, "gallery": captions}
    config = PHANTOM | {"encoders": ["ridge", "ridge_whitened", "linear", "volume"], "images": "miniature/clip"}
    return Result("align", metrics, arrays, units, tables, config, PROVENANCE, space)


def _log(encoder: str, tau: float) -> pd.DataFrame:
    step = np.arange(0, 1000, 50)
    fall = np.exp(-step / tau)
    scores = {"validation_loss": 4 * fall + 1.2 + step / 4000, "validation_mrr": 0.4 * (1 - fall)}
    return pd.DataFrame({"encoder": encoder, "step": step, "loss": 4 * fall + 1, **scores})


def attribute() -> Result:
    rng = np.random.default_rng(1)
    space, units = volume()
    truth = (units["roi"] != "none").to_numpy()
    arrays = {
        "map/brain_mean": np.abs(truth * rng.uniform(0.4, 1, len(truth)) + 0.1 * rng.normal(size=len(truth))),
        "map/random_mean": np.abs(rng.normal(size=len(truth))),
        "truth/informative": truth,
        "deletion/bottleneck": 1 - np.linspace(0, 1, 11) ** 0.5 + 0.02 * rng.normal(size=(20, 11)),
        "deletion/random": 1 - np.linspace(0, 1, 11) + 0.02 * rng.normal(size=(20, 11)),
        "map/pixels": rng.uniform(size=(4, 7, 7)),
        "pixels/images": rng.integers(0, 255, (4, 48, 48, 3), dtype=np.uint8),
    }
    metrics = {
        "attribute/bottleneck/truth_auroc": 0.93,
        "attribute/bottleneck/truth_auroc.low": 0.91,
        "attribute/bottleneck/truth_auroc.high": 0.95,
    }
    metrics |= {"attribute/random/truth_auroc": 0.502, "attribute/bottleneck/map_area": 0.12}
    words = pd.DataFrame(
        {
            "stimulus": ["a"] * 4 + ["b"] * 3,
            "word": ["a", "red", "ball", "🧠"] + ["the", "$cat$", "sat"],
            "weight": [0, 0.4, 1, 0.2, 0, 1, 0.1],
        }
    )
    grid = pd.DataFrame(
        {
            "parameter": ["beta"] * 3 + ["layer"] * 3,
            "value": [0.1, 1.0, 10.0, 3.0, 6.0, 9.0],
            "truth_auroc": [0.8, 0.9, 0.85, 0.88, 0.93, 0.9],
        }
    )
    tables = {"words": words, "sensitivity": grid}
    return Result("attribute", metrics, arrays, units, tables, PHANTOM | {"method": "bottleneck"}, PROVENANCE, space)


def encode(layers: int = 6) -> Result:
    rng = np.random.default_rng(2)
    space, units = volume()
    place = units["roi"].map({"none": -1, "V1": 0, "V4": 2, "FFA": 4, "PPA": 5}).to_numpy(dtype=float)
    target = np.where(place < 0, rng.uniform(0, layers - 1, len(place)), place)
    weights = np.exp(-((np.arange(layers) - target[:, None]) ** 2) / np.where(place < 0, 9.0, 0.8)[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    inside = place >= 0
    r2 = np.where(inside, rng.uniform(0.1, 0.4, len(place)), rng.normal(0, 0.01, len(place)))
    arrays = {
        "layer": weights @ np.arange(layers),
        "layer_weights": weights,
        "confidence": 1 + (weights * np.log(weights + 1e-12)).sum(axis=1) / np.log(layers),
        "r2": r2,
        "ceiling": np.where(inside, 0.5, np.nan),
    }
    metrics = {
        "encoding/r2_mean": 0.25,
        "encoding/r2_mean.low": 0.22,
        "encoding/r2_mean.high": 0.28,
        "encoding/ceiling": 0.5,
        "encoding/n": float(inside.sum()),
    }
    metrics |= {
        "encoding/hierarchy_slope": 1.2,
        "encoding/hierarchy_slope.low": 0.9,
        "encoding/hierarchy_slope.high": 1.5,
        "encoding/hierarchy_slope.p": 0.002,
    }
    metrics |= {"rsa/ceiling_low": 0.37, "rsa/ceiling_high": 0.66, "rsa/pixels": 0.083, "truth/layer_spearman": float("nan")}
    r = np.linspace(0.05, 0.3, layers)
    rsa = pd.DataFrame({"layer": [f"block {i}" for i in range(layers)], "r": r, "low": r - 0.05, "high": r + 0.05})
    models = pd.DataFrame(
        {"encoder": ["factortopy", "ridge"], "r2_mean": [0.25, 0.2], "r2_mean.low": [0.22, 0.18], "r2_mean.high": [0.28, 0.22]}
    )
    regions = pd.DataFrame({"roi": ["V1", "V4"], "n": [100, 80], "r2": [0.2, 0.3], "r2.low": [0.1, 0.2], "r2.high": [0.3, 0.4]})
    config = PHANTOM | {
        "hierarchy": ["V1", "V4", "FFA", "PPA"],
        "model": "miniature/clip",
        "method": "factortopy",
        "warnings": ["region RSC is empty after masking"],
    }
    return Result(
        "encode", metrics, arrays, units, {"rsa": rsa, "comparison": models, "regions": regions}, config, PROVENANCE, space
    )


def eeg() -> Result:
    rng = np.random.default_rng(3)
    golden = np.pi * (3 - np.sqrt(5))
    height = np.linspace(0.98, -0.1, 40)
    around = golden * np.arange(40)
    side = np.sqrt(1 - height**2)
    positions = 0.095 * np.stack([side * np.cos(around), side * np.sin(around), height], axis=1)
    space = Sensors(np.array([f"E{i}" for i in range(40)]), positions)
    back = -positions[:, 1] / 0.095
    arrays = {
        "topomap/contribution": np.clip(back, 0, None) + 0.05 * rng.uniform(size=40),
        "topomap/by_time": back + rng.normal(0, 0.1, (3, 40)),
    }
    rows = [
        {"kind": kind, "start": a, "end": b, "top1": v, "top1.low": v - 0.02, "top1.high": v + 0.02}
        for kind, spans in (
            ("growing", [(-0.2, 0.1, 0.02), (-0.2, 0.4, 0.12)]),
            ("shrinking", [(0.0, 1.0, 0.13), (0.4, 1.0, 0.03)]),
        )
        for a, b, v in spans
    ]
    log = pd.DataFrame(
        {
            "step": np.arange(10),
            "loss": np.linspace(5, 3, 10),
            "weight_image": np.linspace(0.5, 0.6, 10),
            "weight_text": np.linspace(0.5, 0.4, 10),
        }
    )
    return Result(
        "align",
        retrieval_scores(0.14, 200),
        arrays,
        None,
        {"time_windows": pd.DataFrame(rows), "log": log},
        {"dataset": "things_eeg2", "encoder": "neuroalign"},
        PROVENANCE,
        space,
    )


def small(result: Result) -> Result:
    """Of a result on the cortex the first units, in a grid of their own: the same figures but those of surfaces, in less time."""
    if result.units is None or not isinstance(result.space, Volume):
        return result
    n = len(result.units)
    arrays = {name: a[:UNITS] if a.shape[:1] == (n,) else a for name, a in result.arrays.items()}
    units = result.units.head(UNITS).assign(roi=np.resize(["V1", "V4", "FFA", "PPA"], UNITS))
    return replace(result, arrays=arrays, units=units, space=Volume(np.ones((4, 5, 3), dtype=bool), np.eye(4)))
