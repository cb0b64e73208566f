"""What speaks for the labels: encoding scores, the test on measured responses, halves of the images, and tables of it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from brainlens.describe.labelling import Labels, taken
from brainlens.metrics.encoding import MIN_IMAGES, bootstrap_score, r2
from brainlens.metrics.semantic_evidence import concept_maps, histogram, label_test, split_half
from brainlens.metrics.statistics import bootstrap_mean, fdr
from brainlens.models.encoding import RidgeCV
from brainlens.models.encoding.tables import EncodingTables
from brainlens.stimuli.nouns import Vocabulary

LEAST_SHOWN = 3  # test images of a noun from which its measured map is compared


@dataclass(frozen=True)
class Scored:
    """Encoding scores over units: arrays r2, r2_cv, p_r2, q_r2."""

    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """Over units: arrays label_r, label_p, label_q, significant, auroc_label; maps: the table of concepts' predicted maps."""

    arrays: dict[str, np.ndarray]
    maps: pd.DataFrame
    level: float


def encoding_scores(model: RidgeCV, x: np.ndarray, y: np.ndarray, *, resamples: int, seed: int) -> Scored:
    """R2 of test images with one-sided bootstrap p and q over units; R2 alone below 8 test images."""
    guess = model.predict(x)
    value, p = r2(y, guess), np.full(y.shape[1], np.nan)
    if len(y) >= MIN_IMAGES:
        p = bootstrap_score(y, guess, resamples=resamples, seed=seed).p
    return Scored({"r2": value, "r2_cv": np.asarray(model.best_score_, np.float32), "p_r2": p, "q_r2": fdr(p)})


def evidence_of(label: np.ndarray, auroc: np.ndarray, y: np.ndarray, present: np.ndarray, design: Any, *, seed: int) -> Evidence:
    """The test of first labels on measured test responses y (image, unit), and each noun's predicted against its measured map."""
    r, p, q = label_test(y, present, label[:, 0], permutations=design.permutations, seed=seed)
    arrays = {"label_r": r, "label_p": p, "label_q": q, "significant": np.where(np.isfinite(q), q, 1.0) <= design.level}
    arrays["auroc_label"] = taken(auroc, label)
    n = present.sum(axis=0)
    shown = np.flatnonzero((n >= LEAST_SHOWN) & (n < len(y)) & np.isfinite(auroc).all(axis=0))
    measured = np.stack([y[present[:, c]].mean(axis=0) - y[~present[:, c]].mean(axis=0) for c in shown]) if len(shown) else None
    found = np.zeros(0) if measured is None else concept_maps(auroc[:, shown].T, measured)
    return Evidence(arrays, pd.DataFrame({"number": shown, "map_r": found, "images": n[shown]}), design.level)


def halves_agreement(label: Callable[[np.ndarray], np.ndarray], n: int, *, seed: int) -> dict[str, float]:
    """Agreement of the first labels from two random halves of the training images, `label(numbers of images)` -> (unit,)."""
    order = np.random.default_rng([seed, 53]).permutation(n)
    return split_half(label(np.sort(order[: n // 2])), label(np.sort(order[n // 2 :])))


def tables_of(
    units: pd.DataFrame, label: np.ndarray, found: Labels, words: Vocabulary, noun: np.ndarray, proof: Evidence
) -> dict[str, pd.DataFrame]:
    """Tables `nouns`, `dropped`, `labels` (one row a unit, in words) and, where the units have regions, `histogram`."""
    counts = np.bincount(noun, minlength=len(words.nouns))
    table = pd.DataFrame({"noun": words.nouns, "images": words.present.sum(axis=0), "bank": counts})
    table["voxels"] = np.bincount(label[label[:, 0] >= 0, 0], minlength=len(words.nouns))
    table["map_r"] = np.nan
    table.loc[proof.maps["number"], "map_r"] = proof.maps["map_r"].to_numpy()
    names = np.array([*words.nouns, ""], dtype=object)
    rows = pd.DataFrame({f"label{k + 1}": names[label[:, k]] for k in range(label.shape[1])})
    for key in ("label_r", "label_p", "label_q"):
        rows[key] = proof.arrays[key]
    if "roi" in units.columns:
        rows.insert(0, "roi", units["roi"].astype(str).to_numpy())
    out = {"nouns": table, "labels": rows}
    if words.dropped:
        out["dropped"] = pd.DataFrame({"noun": list(words.dropped), "why": list(words.dropped.values())})
    if "roi" in units.columns:
        first = np.where(proof.arrays["significant"], label[:, 0], -1)
        out["histogram"] = histogram(first, words.nouns, units["roi"].astype(str).to_numpy())
    return out


def metrics_of(
    data: EncodingTables,
    label: np.ndarray,
    words: Vocabulary,
    noun: np.ndarray,
    scored: Scored,
    proof: Evidence,
    halves: dict[str, float],
    others: dict[str, np.ndarray],
) -> dict[str, float]:
    """Metrics `describe/...`: counts, encoding, evidence, halves, maps, and how often baselines give the same first label."""
    labelled = label[:, 0] >= 0
    significant = proof.arrays["significant"]
    tested = np.isfinite(proof.arrays["label_p"])
    q = np.where(np.isfinite(scored.arrays["q_r2"]), scored.arrays["q_r2"], 1.0)
    metrics: dict[str, float] = {
        "describe/voxels": len(label),
        "describe/labelled": int(labelled.sum()),
        "describe/unlabelled": int((~labelled).sum()),
        "describe/tested": int(tested.sum()),
        "describe/significant": int(significant.sum()),
        "describe/significant_share": float(significant.mean()),
        "describe/r2_share_significant": float((q <= proof.level).mean()),
        "describe/nouns": len(words.nouns),
        "describe/nouns_in_bank": int((np.bincount(noun, minlength=len(words.nouns)) > 0).sum()),
        "describe/bank_pictures": len(noun),
        "describe/images_without_noun": words.without,
        "describe/split_half_share": halves["agreement"],
        "describe/split_half_share.chance": halves["chance"],
        "describe/split_half_share.n": halves["n"],
    }  # fmt: skip
    metrics |= {f"describe/{name}": float(count) for name, count in data.counts.items()}
    maps = proof.maps["map_r"].to_numpy()
    maps = maps[np.isfinite(maps)]
    if len(maps) > 1:
        mean, low, high = bootstrap_mean(maps, seed=0)
        metrics |= {"describe/map_correlation": mean, "describe/map_correlation.low": low, "describe/map_correlation.high": high}
        metrics["describe/map_correlation.n"] = len(maps)
    for name, number in others.items():
        same = labelled & (number[:, 0] >= 0)
        if same.any():
            metrics[f"describe/{name}/same_label_share"] = float((number[same, 0] == label[same, 0]).mean())
    return metrics
