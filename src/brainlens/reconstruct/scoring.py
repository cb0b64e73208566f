"""Scores of reconstructed pictures beside what they must be measured against: baselines, controls, and the best possible choice.

Every row of the table is a set of pictures, one for each test image, scored by the same functions:

    chosen, first, mean, best     candidates of the adapter; mean over them; the best by the score itself, which no one can know
    retrieval                     the training picture whose embedding is nearest to that which a ridge decodes
    evidence_retrieval            the training picture that fits best by evidence, where the adapter has anchors
    random_picture                a training picture drawn at random
    low_level                     a ridge from the same voxels to latents, decoded
    shuffled                      the chosen pictures, each beside another image
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlens.metrics.reconstruction import nearest_training, pixel_correlation, ssim, two_way
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.models.encoding.ridge import RidgeCV
from brainlens.types import DataError

ALPHAS = tuple(float(a) for a in np.logspace(0, 6, 13))
SCORES = ("two_way_clip", "pixcorr", "ssim")
CHANCE = {"two_way_clip": 0.5}
Embed = Callable[[np.ndarray], np.ndarray]  # pictures (n, h, w, 3) uint8 -> (n, d)


@dataclass(frozen=True)
class Scorer:
    """Scores each picture of a set against the seen ones: pictures (n, h, w, 3) uint8, embeddings (n, d) of the seen ones."""

    seen: np.ndarray
    seen_embedding: np.ndarray
    embed: Embed

    @classmethod
    def of(cls, seen: np.ndarray, embed: Embed) -> Scorer:
        return cls(seen, embed(seen), embed)

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """{score: (n,)}: two-way identification (reconstruction->image) by the embedding, pixel correlation, SSIM.

        A picture of one value has no correlation: it counts as 0.
        """
        flat = pictures.reshape(len(pictures), -1)
        varied = flat.min(axis=1) < flat.max(axis=1)
        pixels = np.zeros(len(pictures))
        pixels[varied] = pixel_correlation(self.seen[varied], pictures[varied]) if varied.any() else 0
        return {
            "two_way_clip": two_way(self.seen_embedding, self.embed(pictures)),
            "pixcorr": pixels,
            "ssim": ssim(self.seen, pictures),
        }

    def candidates(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """{score: (n, candidate)} of pictures (n, candidate, h, w, 3), each candidate as a set of its own."""
        each = [self(pictures[:, c]) for c in range(pictures.shape[1])]
        return {name: np.stack([one[name] for one in each], axis=1) for name in SCORES}


def score_rows(
    scorer: Scorer, pictures: np.ndarray, chosen: np.ndarray, others: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """{row: {score: (n,)}} of the candidates (n, c, h, w, 3) and of other sets of pictures (n, h, w, 3)."""
    each = scorer.candidates(pictures)
    at = np.arange(len(pictures))
    rows = {
        "chosen": scorer(pictures[at, chosen]),
        "first": {name: values[:, 0] for name, values in each.items()},
        "mean": {name: values.mean(axis=1) for name, values in each.items()},
        "best": {name: values.max(axis=1) for name, values in each.items()},
    }
    return rows | {name: scorer(given) for name, given in others.items()}


def metrics_of(rows: Mapping[str, Mapping[str, np.ndarray]], *, seed: int = 0) -> dict[str, float]:
    """Flat metrics: `reconstruct/SCORE` of the chosen pictures, `reconstruct/ROW/SCORE` of the others, intervals over images.

    rows: name -> score -> (image,).
    """
    out: dict[str, float] = {}
    for row, scores in rows.items():
        for name, values in scores.items():
            key = f"reconstruct/{name}" if row == "chosen" else f"reconstruct/{row}/{name}"
            ends = ("", ".low", ".high")
            out |= {key + end: v for end, v in zip(ends, bootstrap_mean(values, seed=seed), strict=True)}
            out[f"{key}.n"] = float(len(values))
            if name in CHANCE:
                out[f"{key}.chance"] = CHANCE[name]
    return out


def comparison(metrics: Mapping[str, float]) -> pd.DataFrame:
    """The table of the page: one line a set of pictures, its scores with intervals."""
    lines = []
    for key in metrics:
        if key.endswith("two_way_clip"):
            group = key.removesuffix("two_way_clip")
            row = group.removeprefix("reconstruct/").rstrip("/") or "chosen"
            line: dict[str, object] = {"pictures": row.replace("_", " ")}
            for name in SCORES:
                line |= {name + end: metrics[group + name + end] for end in ("", ".low", ".high")}
            lines.append(line)
    return pd.DataFrame(lines)


def retrieved(x: np.ndarray, embedding: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The training picture for each new response: rows of `embedding` (image, d), by a ridge from responses x (image, unit)."""
    decoded = RidgeCV(alphas=ALPHAS).fit(x, embedding).predict(new)
    return nearest_training(decoded, embedding)


def exchanged(n: int, seed: int = 0) -> np.ndarray:
    """A permutation (n,) of n images in which none stays: a random order, moved on by one."""
    if n < 2:
        raise DataError(f"reconstruct: {n} test image has no other one to be told from; give 2 or more")
    order = np.random.default_rng([seed, 71]).permutation(n)
    out = np.empty(n, dtype=np.int64)
    out[order] = np.roll(order, 1)
    return out
