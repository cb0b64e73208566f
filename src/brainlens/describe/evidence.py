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
    """R2 of test images with one-sided bootstrap p and q over units; R2 alone below 8 test images.

    x (image, feature), y (image, unit); arrays (unit,).
    """
    predicted = model.predict(x)
    value, p = r2(y, predicted), np.full(y.shape[1], np.nan)
    if len(y) >= MIN_IMAGES:
        p = bootstrap_score(y, predicted, resamples=resamples, seed=seed).p
    return Scored({"r2": value, "r2_cv": np.asarray(model.best_score_, np.float32), "p_r2": p, "q_r2": fdr(p)})


def evidence_of(label: np.ndarray, auroc: np.ndarray, y: np.ndarray, *, present: np.ndarray, design: Any, seed: int) -> Evidence:
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


@dataclass(frozen=True)
class Described:
    """All parts of a description: tables of the recording, labels (unit, k) after the gate, what they were found from, the
    vocabulary, the noun of each picture of the bank, scores, evidence, agreement of halves, labels of baselines by name, the
    strongest whole pictures (unit, 5), and counts of crops by name, empty where there are none."""

    data: EncodingTables
    label: np.ndarray
    found: Labels
    words: Vocabulary
    noun: np.ndarray
    scored: Scored
    proof: Evidence
    halves: dict[str, float]
    others: dict[str, np.ndarray]
    strongest: np.ndarray
    crops: dict[str, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays over units, as `fit_describe` says."""
        shown = np.where(self.label >= 0, 1.0, np.nan)
        return {
            "label": self.label.astype(np.int32),
            "score": self.found.score * shown,
            "weight": self.found.weight * shown,
            "auroc": self.found.auroc,
            "strongest": self.strongest.astype(np.int32),
            **self.scored.arrays,
            **self.proof.arrays,
            **{f"baseline/{name}": number.astype(np.int32) for name, number in self.others.items()},
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Tables `nouns`, `dropped`, `labels` (one row a unit, in words), `pool` and, where units have regions, `histogram`."""
        label, words, units = self.label, self.words, self.data.units
        table = pd.DataFrame({"noun": words.nouns, "images": words.present.sum(axis=0)})
        table["bank"] = np.bincount(self.noun, minlength=len(words.nouns))
        table["voxels"] = np.bincount(label[label[:, 0] >= 0, 0], minlength=len(words.nouns))
        table["map_r"] = np.nan
        table.loc[self.proof.maps["number"], "map_r"] = self.proof.maps["map_r"].to_numpy()
        names = np.array([*words.nouns, ""], dtype=object)
        rows = pd.DataFrame({f"label{k + 1}": names[label[:, k]] for k in range(label.shape[1])})
        for key in ("label_r", "label_p", "label_q"):
            rows[key] = self.proof.arrays[key]
        fitted = [str(name) for name in np.concatenate([self.data.train.ids, self.data.validation.ids])]
        out = {"nouns": table, "labels": rows, "pool": pd.DataFrame({"stimulus": fitted})}
        if words.dropped:
            out["dropped"] = pd.DataFrame({"noun": list(words.dropped), "why": list(words.dropped.values())})
        if "roi" in units.columns:
            roi = units["roi"].astype(str).to_numpy()
            rows.insert(0, "roi", roi)
            out["histogram"] = histogram(np.where(self.proof.arrays["significant"], label[:, 0], -1), words.nouns, roi)
        return out

    def metrics(self) -> dict[str, float]:
        """Metrics `describe/...`: counts, encoding, evidence, halves, maps, and how often baselines give the same first label."""
        labelled, significant = self.label[:, 0] >= 0, self.proof.arrays["significant"]
        q = np.where(np.isfinite(self.scored.arrays["q_r2"]), self.scored.arrays["q_r2"], 1.0)
        metrics: dict[str, float] = {
            "describe/voxels": len(self.label),
            "describe/labelled": int(labelled.sum()),
            "describe/unlabelled": int((~labelled).sum()),
            "describe/tested": int(np.isfinite(self.proof.arrays["label_p"]).sum()),
            "describe/significant": int(significant.sum()),
            "describe/significant_share": float(significant.mean()),
            "describe/significant_share.n": len(self.label),
            "describe/r2_share_significant": float((q <= self.proof.level).mean()),
            "describe/r2_share_significant.n": len(self.label),
            "describe/nouns": len(self.words.nouns),
            "describe/nouns_in_bank": len(np.unique(self.noun)),
            "describe/bank_pictures": len(self.noun),
            "describe/candidates": float((self.found.counts > 0).sum(axis=1)[labelled].mean()) if labelled.any() else 0.0,
            "describe/images_without_noun": self.words.without,
            "describe/split_half_share": self.halves["agreement"],
            "describe/split_half_share.chance": self.halves["chance"],
            "describe/split_half_share.n": self.halves["n"],
        }
        metrics |= {f"describe/{name}": float(count) for name, count in {**self.crops, **self.data.counts}.items()}
        maps = self.proof.maps["map_r"].to_numpy()
        maps = maps[np.isfinite(maps)]
        if len(maps) > 1:
            key = "describe/map_correlation"
            metrics[key], metrics[f"{key}.low"], metrics[f"{key}.high"] = bootstrap_mean(maps, seed=0)
            metrics[f"{key}.n"] = len(maps)
        for name, number in self.others.items():
            same = split_half(number[:, 0], self.label[:, 0])
            if same["n"]:
                key = f"describe/{name}/same_label_share"
                metrics |= {key: same["agreement"], f"{key}.chance": same["chance"], f"{key}.n": same["n"]}
        return metrics
