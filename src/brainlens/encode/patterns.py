"""Patterns that are known through their dissimilarities alone, fitted from the layers of a network.

With 1 - r as dissimilarity, G = 1 - RDM is the Gram matrix Y Y' of the patterns Y (image, dimension), which fixes them up to a
rotation. Ridge with one layer and one penalty for all dimensions commutes with rotations,

    yhat_i = sum_j B_ij y_j,    B = 1/n + K_it (K_tt + a I)^-1,    K_ij = x_i . x_j  (t: training images, centred on them)

so every choice and every score here is a function of G: squared errors are G_ii - 2 (B G)_ii + (B G B')_ii, similarities of
predicted and measured patterns B G, and predicted dissimilarities come from B G B'. No basis is ever chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.metrics import similarity
from brainlens.metrics.statistics import bootstrap_counts, interval, permutation_p
from brainlens.models.encoding.ridge import layer_matrix
from brainlens.types import DataError, Features, Responses, Result, as_ids, positions

PENALTIES = tuple(float(a) for a in np.logspace(-2, 3, 11))  # times the mean variance of the training images
LEAST = 4  # blocks: fewer leave less than half of the images to learn from


@dataclass(frozen=True)
class Fold:
    """One outer fold. maps (layer, penalty, test, train): B; loo (layer, penalty, train, train): R'R, with R y the residuals
    of each training image under the model that was fitted without it."""

    train: np.ndarray
    test: np.ndarray
    maps: np.ndarray
    loo: np.ndarray


class Tally:
    """Sums over folds, per image: errors and totals of R2, products and norms of r, hits, wins, chance, tests; and of pairs."""

    def __init__(self, n: int) -> None:
        self.error, self.total, self.product, self.size = np.zeros((4, n))
        self.hit, self.win, self.chance, self.tests = np.zeros((4, n))
        self.pair, self.pairs = np.zeros((2, n, n))

    def r2(self, counts: np.ndarray | None = None) -> np.ndarray | float:
        """1 - errors over totals, for all images or for each row of resampling counts (resample, image)."""
        if counts is None:
            return float(1 - self.error.sum() / self.total.sum())
        return 1 - (counts @ self.error) / (counts @ self.total)

    def r(self, counts: np.ndarray | None = None) -> np.ndarray | float:
        """Correlation of predicted and measured patterns over all images and dimensions, both about the training mean.

        counts (resample, image) as in `r2`.
        """
        weights = np.ones((1, len(self.error))) if counts is None else counts
        found = (weights @ self.product) / np.sqrt((weights @ self.size) * (weights @ self.total))
        return float(found[0]) if counts is None else found

    def rdm(self) -> np.ndarray:
        """Predicted dissimilarities, upper triangle (pairs,); every pair was held out together at least once."""
        upper = np.triu_indices(len(self.error), 1)
        return 1 - self.pair[upper] / self.pairs[upper]


def encode_patterns(
    responses: Responses,
    features: Features,
    *,
    rdms: np.ndarray | None = None,
    layers: Sequence[str] | None = None,
    blocks: int = 8,
    permutations: int = 500,
    resamples: int = 2000,
    seed: int = 0,
) -> Result:
    """How well a network predicts patterns of images it was not fitted on; for tens of images and no voxels.

    responses (image, dimension) in any basis; features: of the same images; rdms (subject, pairs): dissimilarities of single
    subjects in the order of the responses (default: of the patterns), to which the predicted ones are compared.
    Images are cut into blocks and every two blocks are left out in turn, so that every image and every pair of images is
    tested; layer and penalty are chosen by leaving one out among the training images (exact, in closed form).

    metrics `encoding/`: r2_weighted, 1 - |Y - Yhat|^2 / |Y - mean|^2 over images and dimensions (dimensions weigh by their
    variance), r_weighted; retrieval/top1 and retrieval/two_way_patterns (is the prediction nearer to its own image's pattern
    than to another's) among the images held out together; rdm/match_correlation, Spearman with single subjects, and its noise
    ceiling. Intervals: bootstrap over images, the fitted models held. p and `.chance`: the whole procedure, choices
    included, with images shuffled. A noise ceiling of R2 needs repeats of the patterns and is undefined.
    tables: layers, each with the penalty chosen inside; arrays: rdm/predicted, rdm/measured, null/....
    Raises DataError for layers and images that are not found, several rows an image, and too few images.
    """
    started = store.Start()
    gram, ids = _gram(responses)
    names = list(layers) if layers is not None else features.layer
    unknown = [name for name in names if name not in features.layer]
    if unknown or not names:
        raise DataError(f"{features.model} has no layer {(unknown or ['(none)'])[0]!r}; it has {features.layer}")
    if not LEAST <= blocks <= len(ids) // 2:
        raise DataError(
            f"encode: {len(ids)} images cannot be cut into {blocks} blocks of two or more; blocks is at least {LEAST}"
        )
    rows = positions(ids, features.ids, "features of the responses' images")
    inputs = {name: x for name in names if np.ptp(x := layer_matrix(features, name)[rows], axis=0).any()}
    if not inputs:
        raise DataError(f"{features.model}: no layer of {names} varies over the images")
    folds = [fold(train, test, list(inputs.values())) for train, test in pairs_of_blocks(len(ids), blocks, seed)]
    whole, chosen = evaluate(folds, gram)
    subjects = np.atleast_2d(rdms) if rdms is not None else 1 - gram[np.triu_indices(len(ids), 1)][None]
    null = shuffled(folds, gram, subjects, permutations, seed)
    counts = bootstrap_counts(len(ids), resamples, seed)
    metrics = _metrics(whole, counts) | _representation(whole.rdm(), subjects, resamples=min(resamples, 1000), seed=seed)
    for key, drawn in null.items():
        metrics |= {f"{key}.p": float(permutation_p(metrics[key], drawn)), f"{key}.chance": float(drawn.mean())}
    metrics |= {"encoding/n": float(len(ids)), "encoding/dimensions": float(responses.data.shape[1])}
    metrics |= {"encoding/folds": float(len(folds)), "encoding/ceiling_undefined": 1.0}
    metrics |= {"encoding/layers_constant_left_out": float(len(names) - len(inputs))}
    share = np.bincount(chosen, minlength=len(inputs)) / len(folds)
    table = _profile(folds, gram, list(inputs), counts).assign(chosen_share=share)
    arrays = {"rdm/predicted": whole.rdm(), "rdm/measured": subjects.mean(axis=0), "ids": ids}
    arrays |= {f"null/{key.rpartition('/')[2]}": drawn for key, drawn in null.items()}
    config: dict[str, Any] = {"method": "ridge_patterns", "model": features.model, "layers": list(inputs), "blocks": blocks}
    config |= {"penalties": list(PENALTIES), "permutations": permutations, "resamples": resamples, "seed": seed}
    provenance = store.provenance(seed, "cpu", [store.fingerprint(responses), store.fingerprint(features)], started)
    return Result("encode", metrics, arrays, None, {"layers": table}, config, provenance)


def pairs_of_blocks(n: int, blocks: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows, each (k,), for every two of `blocks` random blocks of n images."""
    parts = np.array_split(np.random.default_rng(seed).permutation(n), blocks)
    split = []
    for two in combinations(range(blocks), 2):
        train = np.concatenate([part for k, part in enumerate(parts) if k not in two])
        split.append((np.sort(train), np.sort(np.concatenate([parts[k] for k in two]))))
    return split


def fold(train: np.ndarray, test: np.ndarray, inputs: Sequence[np.ndarray], penalties: Sequence[float] = PENALTIES) -> Fold:
    """Everything of a fold that does not depend on the patterns. Features are standardised on its training images.

    train, test: row numbers (k,) into the inputs (image, feature), one for each layer.
    The residual of a left-out training image is (y - H y)_i / (1 - H_ii), with H = B at the training images.
    """
    n = len(train)
    maps = np.empty((len(inputs), len(penalties), len(test), n))
    loo = np.empty((len(inputs), len(penalties), n, n), dtype=np.float32)
    for i, x in enumerate(inputs):
        x = x[:, np.ptp(x[train], axis=0) > 1e-6 * np.abs(x[train]).max(axis=0)]  # the others are rounding
        x = x.astype(np.float64) - x[train].mean(axis=0, dtype=np.float64)
        spread = x[train].std(axis=0)
        x = x / spread
        values, vectors = np.linalg.eigh(x[train] @ x[train].T)
        values = values.clip(0)
        across = x[test] @ x[train].T @ vectors
        for j, penalty in enumerate(penalties):
            shrink = 1 / (values + max(penalty * values.mean(), 1e-12))
            maps[i, j] = 1 / n + (across * shrink) @ vectors.T
            hat = 1 / n + (vectors * (values * shrink)) @ vectors.T
            residual = (np.eye(n) - hat) / (1 - np.diag(hat)).clip(1e-12)[:, None]
            loo[i, j] = residual.T @ residual
    return Fold(train, test, maps, loo)


def evaluate(folds: Sequence[Fold], gram: np.ndarray, *, layer: int | None = None) -> tuple[Tally, np.ndarray]:
    """Held-out sums under the layer and penalty chosen inside each fold (or the penalty of one layer); the layers (fold,).

    gram (image, image): inner products of the patterns.
    """
    tally, chosen = Tally(len(gram)), []
    for each in folds:
        within = gram[np.ix_(each.train, each.train)].astype(np.float32)
        loss = each.loo.reshape(-1, within.size) @ within.ravel()
        loss = loss.reshape(each.loo.shape[:2])
        if layer is not None:
            loss = np.where(np.arange(len(loss))[:, None] == layer, loss, np.inf)
        best = np.unravel_index(int(np.argmin(loss)), loss.shape)
        chosen.append(int(best[0]))
        _add(tally, each, each.maps[best], gram)
    return tally, np.array(chosen)


def shuffled(
    folds: Sequence[Fold], gram: np.ndarray, subjects: np.ndarray, permutations: int, seed: int
) -> dict[str, np.ndarray]:
    """Each score over permutations of the images against their patterns, everything chosen anew; empty for none.

    gram (image, image), subjects (subject, pairs); each score (permutation,).
    """
    if permutations < 1:
        return {}
    rng, upper = np.random.default_rng([seed, 1]), np.triu_indices(len(gram), 1)
    drawn: dict[str, list[float]] = {}
    squares = [similarity.square(s) for s in subjects]
    for _ in range(permutations):
        order = rng.permutation(len(gram))
        tally, _ = evaluate(folds, gram[np.ix_(order, order)])
        moved = np.stack([s[np.ix_(order, order)][upper] for s in squares])
        found = _scores(tally) | {"encoding/rdm/match_correlation": _match(tally.rdm(), moved)}
        for key, value in found.items():
            drawn.setdefault(key, []).append(value)
    return {key: np.array(values) for key, values in drawn.items()}


def _gram(responses: Responses) -> tuple[np.ndarray, np.ndarray]:
    """Inner products of the patterns (image, image) and the ids. Raises DataError for several rows an image."""
    if responses.data.ndim != 2:
        raise DataError(f"encode takes (image, dimension), got {responses.data.shape}; average over time first")
    ids = as_ids(responses.trials["stimulus"])
    if len(set(ids)) != len(ids):
        raise DataError(f"encode: {len(ids)} rows of {len(set(ids))} images; average() them first, patterns are one row an image")
    patterns = np.asarray(responses.data, dtype=np.float64)
    if not np.isfinite(patterns).all():
        raise DataError(f"encode: {int((~np.isfinite(patterns)).any(axis=1).sum())} of {len(ids)} patterns hold NaN or infinity")
    return patterns @ patterns.T, ids


def _add(tally: Tally, each: Fold, b: np.ndarray, gram: np.ndarray) -> None:
    """Adds a fold's held-out sums, from B and the Gram matrix alone."""
    test, n = each.test, len(each.train)
    joint = gram[np.ix_(each.train, each.train)]
    across = gram[np.ix_(each.train, test)]
    about = b - 1 / n  # prediction minus the training mean
    centre = joint.mean()
    product = about @ across - (about @ joint).mean(axis=1)[:, None]  # <yhat_i - m, y_j - m>
    size = np.einsum("ij,jk,ik->i", about, joint, about, optimize=True).clip(0)
    total = np.diag(gram)[test] - 2 * across.mean(axis=0) + centre
    tally.error[test] += total - 2 * np.diag(product) + size
    tally.total[test] += total
    tally.product[test] += np.diag(product)
    tally.size[test] += size
    cosine = product / np.sqrt(np.outer(size, total).clip(1e-300))
    own = np.diag(cosine)[:, None]
    above, ties = (cosine > own).sum(axis=1), (cosine == own).sum(axis=1) - 1
    tally.hit[test] += (above == 0) / (1 + ties)
    tally.win[test] += 1 - (above + ties / 2) / (len(test) - 1)
    tally.chance[test] += 1 / len(test)
    tally.tests[test] += 1
    whole = b @ joint @ b.T
    norm = np.sqrt(np.diag(whole).clip(1e-300))
    tally.pair[np.ix_(test, test)] += whole / np.outer(norm, norm)
    tally.pairs[np.ix_(test, test)] += 1


def _scores(tally: Tally) -> dict[str, float]:
    return {
        "encoding/r2_weighted": float(tally.r2()),
        "encoding/r_weighted": float(tally.r()),
        "encoding/retrieval/top1": float((tally.hit / tally.tests).mean()),
        "encoding/retrieval/two_way_patterns": float((tally.win / tally.tests).mean()),
    }


def _metrics(tally: Tally, counts: np.ndarray) -> dict[str, float]:
    """Scores with percentile intervals over images."""
    metrics = _scores(tally)
    n = len(tally.error)
    drawn = {
        "encoding/r2_weighted": tally.r2(counts),
        "encoding/r_weighted": tally.r(counts),
        "encoding/retrieval/top1": counts @ (tally.hit / tally.tests) / n,
        "encoding/retrieval/two_way_patterns": counts @ (tally.win / tally.tests) / n,
    }
    for key, values in drawn.items():
        low, high = interval(np.asarray(values))
        metrics |= {f"{key}.low": float(low), f"{key}.high": float(high)}
    return metrics | {"encoding/retrieval/chance1": float((tally.chance / tally.tests).mean()), "encoding/retrieval/n": float(n)}


def _match(predicted: np.ndarray, subjects: np.ndarray) -> float:
    """Mean Spearman correlation with single subjects; 0 for a prediction that orders nothing."""
    return float(similarity.compare(predicted, subjects).mean()) if np.ptp(predicted) > 0 else 0.0


def _representation(predicted: np.ndarray, subjects: np.ndarray, *, resamples: int, seed: int) -> dict[str, float]:
    """The predicted dissimilarities against those of single subjects, with their noise ceiling."""
    key, metrics = "encoding/rdm/match_correlation", {"encoding/rdm/n": float(similarity.n_conditions(predicted))}
    metrics[key] = _match(predicted, subjects)
    low, high = interval(similarity.bootstrap(predicted, subjects, resamples=resamples, seed=seed)[:, 0])
    metrics |= {f"{key}.low": float(low), f"{key}.high": float(high), "encoding/rdm/n_subjects": float(len(subjects))}
    if len(subjects) > 1:
        metrics["encoding/rdm/ceiling_low"], metrics["encoding/rdm/ceiling_high"] = similarity.noise_ceiling(subjects)
    return metrics


def _profile(folds: Sequence[Fold], gram: np.ndarray, names: list[str], counts: np.ndarray) -> pd.DataFrame:
    """Each layer alone, its penalty chosen inside every fold."""
    rows = []
    for number, name in enumerate(names):
        found = _metrics(evaluate(folds, gram, layer=number)[0], counts)
        row: dict[str, Any] = {"layer": name}
        for short, key in (("r2", "encoding/r2_weighted"), ("two_way", "encoding/retrieval/two_way_patterns")):
            row |= {f"{short}{end}": found[f"{key}{end}"] for end in ("", ".low", ".high")}
        rows.append(row)
    return pd.DataFrame(rows)
