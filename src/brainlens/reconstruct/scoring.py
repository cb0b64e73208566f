"""Scores of reconstructed pictures beside what they must be measured against: baselines, controls, and the best possible choice.

Every row of the table is a set of pictures, one for each test image, scored by the same functions:

    chosen, first, mean, best     candidates of the adapter; mean over them; the best by the score itself, which no one can know
    retrieval                     the training picture whose embedding is nearest to that which a ridge decodes
    evidence_retrieval            the training picture that fits best by evidence, where the adapter has anchors
    random_picture                a training picture drawn at random
    low_level                     a ridge from the same voxels to latents, decoded
    shuffled                      the chosen pictures, each beside another image: the mean over 20 exchanges
    repeat_ceiling                pictures drawn from each repetition alone, one beside another, where that is asked for
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from brainlens.metrics.reconstruction import nearest_training, pixel_correlation, repeat_ceiling, ssim, two_way
from brainlens.metrics.statistics import bootstrap_mean, paired_bootstrap
from brainlens.models.encoding.ridge import RidgeCV
from brainlens.types import DataError

ALPHAS = tuple(float(a) for a in np.logspace(0, 6, 13))
SCORES = ("two_way_clip", "pixcorr", "ssim")
CHANCE = {"two_way_clip": 0.5}
EXCHANGES = 20  # of the drawn pictures among the test images: one alone would be one draw of the control
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
        return {"two_way_clip": two_way(self.seen_embedding, self.embed(pictures)), **self._pixels(pictures)}

    def _pixels(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        varied = varies(pictures)
        pixels = np.zeros(len(pictures))
        pixels[varied] = pixel_correlation(self.seen[varied], pictures[varied]) if varied.any() else 0
        return {"pixcorr": pixels, "ssim": ssim(self.seen, pictures)}

    def shuffled(self, pictures: np.ndarray, orders: np.ndarray) -> dict[str, np.ndarray]:
        """{score: (n,)} of pictures that stand beside other images: two-way identification as the mean over exchanges.

            t_i = mean_k t_i(y_order_k(i))

        pictures (n, h, w, 3); orders (exchange, n): the picture that each image is given. Nothing is drawn or embedded again.
        The scores of pixels are those of the first exchange.
        """
        embedding = self.embed(pictures)
        each = [two_way(self.seen_embedding, embedding[order]) for order in orders]
        return {"two_way_clip": np.mean(each, axis=0), **self._pixels(pictures[orders[0]])}

    def repeat_ceiling(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """{score: (n,)} of pictures (repetition, n, h, w, 3) of one repetition each, see `metrics.reconstruction.repeat_ceiling`.

        Of SSIM, which no rule takes from two noisy sides to one, the mean over pairs. A picture of one value counts as 0.
        """
        count, n = pictures.shape[:2]
        embedding = self.embed(pictures.reshape(-1, *pictures.shape[2:])).reshape(count, n, -1)
        varied = varies(pictures.reshape(-1, *pictures.shape[2:])).reshape(count, n).all(axis=0)
        pixels = np.zeros(n)
        if varied.sum() > 1:
            flat = pictures[:, varied].reshape(count, int(varied.sum()), -1).astype(np.float32)
            pixels[varied] = repeat_ceiling(flat, "correlation")
        alike = [ssim(pictures[a], pictures[b]) for a, b in combinations(range(count), 2)]
        return {"two_way_clip": repeat_ceiling(embedding), "pixcorr": pixels, "ssim": np.mean(alike, axis=0)}

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


def differences(chosen: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, float]:
    """`reconstruct/difference/retrieval_baseline/SCORE`: chosen minus nearest training picture over the same images.

    score -> (image,) of both; with `.low`, `.high` (95 % bootstrap over images), `.p` against 0 and `.n`.
    """
    out: dict[str, float] = {}
    for name, values in chosen.items():
        key = f"reconstruct/difference/retrieval_baseline/{name}"
        found = paired_bootstrap(values, baseline[name], seed=seed)
        out |= dict(zip((key, f"{key}.low", f"{key}.high", f"{key}.p"), found, strict=True)) | {f"{key}.n": float(len(values))}
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


def exchanges(n: int, seed: int = 0, count: int = EXCHANGES) -> np.ndarray:
    """Permutations (count, n) of n images in which none stays: random orders, moved on by one.

    Raises DataError for fewer than 2 images.
    """
    if n < 2:
        raise DataError(f"reconstruct: {n} test image has no other one to be told from; give 2 or more")
    out = np.empty((count, n), dtype=np.int64)
    for k, row in enumerate(out):
        order = np.random.default_rng([seed, 71, k]).permutation(n)
        row[order] = np.roll(order, 1)
    return out


def varies(pictures: np.ndarray) -> np.ndarray:
    """Whether each picture (n, h, w, 3) has more than one value (n,)."""
    flat = pictures.reshape(len(pictures), -1)
    return flat.min(axis=1) < flat.max(axis=1)
