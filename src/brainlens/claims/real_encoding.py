"""What the layers of a real network say of two real recordings: voxels that saw handwritten digits, dissimilarities of IT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold

from brainlens.backbones import vision
from brainlens.datasets import digits69, images92
from brainlens.metrics import similarity
from brainlens.solvers.ridge import ridge_cv
from brainlens.types import Features, Stimuli

FOLDS, INNER = 10, 5
PENALTIES = tuple(float(a) for a in np.logspace(-3, 3, 13))  # times the mean squared length of a picture's features
PERCENTILE = 95


def layers_of(network: str | Path, stimuli: Stimuli, *, cache: str | Path | None = None) -> dict[str, np.ndarray]:
    """Every layer (picture, feature): all its tokens, or the global token where it has none."""
    found = vision.extract(vision.load(network), stimuli, cache=cache)
    return {name: np.asarray(found.tokens.get(name, found.data.get(name))).reshape(len(found), -1) for name in found.layer}


def digit_encoding(folder: Path, networks: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> dict[str, float]:
    """`digits69/encode/NAME_p95`: the 95th percentile over voxels of the correlation, over 100 pictures, of the response and
    its out-of-fold prediction by ridge.

    networks: {name: {layer: (picture, feature)}}; the pixels join as `pixels`. Ten folds with as many of both digits; layer and
    penalty are chosen by cross-validation among the training pictures of each fold: the layer for all voxels at once, the
    penalty for each. `NAME/LAYER/p95` is each layer alone. Intervals are over pictures (those that were drawn are
    correlated, their fits stay), chance is the percentile with the predictions of other pictures.
    """
    recording = digits69.load(folder, standardise=False)
    digit = recording.stimuli.table["category"].to_numpy(dtype=str)
    y = np.asarray(recording.responses.data, dtype=np.float32)
    pixels = np.stack([np.asarray(image)[..., 0] for image in recording.stimuli.images]).reshape(len(y), -1)
    known = {"pixels": {"pixels": pixels / 255.0}, **(networks or {})}
    metrics: dict[str, float] = {"digits69/encode/n": float(len(y)), "digits69/encode/voxels": float(y.shape[1])}
    for name, layers in known.items():
        predictions, chosen = out_of_fold(layers, y, digit)
        for end, value in percentile_of(y, predictions["chosen"]).items():
            metrics[f"digits69/encode/{name}_p95{end}"] = value
        if len(layers) > 1:
            metrics |= {f"digits69/encode/{name}/{k}/p95": percentile(y, predictions[k]) for k in layers}
            metrics |= {f"digits69/encode/{name}/{k}/chosen_share": float(np.mean([c == k for c in chosen])) for k in layers}
    return metrics


def out_of_fold(layers: Mapping[str, np.ndarray], y: np.ndarray, digit: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """Predictions (picture, voxel) of each layer and, as "chosen", of the layer that each fold's training pictures choose."""
    rotated = {name: rotation(x) for name, x in layers.items()}
    predictions = {name: np.empty_like(y) for name in (*layers, "chosen")}
    chosen = []
    for train, test in folds_of(digit):
        inner = np.zeros(len(train), dtype=int)
        for k, (_, held) in enumerate(StratifiedKFold(INNER, shuffle=True, random_state=0).split(train, digit[train])):
            inner[held] = k
        score = {}
        for name, x in rotated.items():
            centred = x[train] - x[train].mean(axis=0)
            fit = ridge_cv(x[train], y[train], np.array(PENALTIES) * (centred**2).sum(axis=1).mean(), fold=inner, score="r2")
            predictions[name][test] = x[test] @ fit.weights.numpy() + fit.intercept.numpy()
            score[name] = float(fit.cv_score.clamp_min(0).mean())
        chosen.append(max(score, key=lambda name: score[name]))
        predictions["chosen"][test] = predictions[chosen[-1]][test]
    return predictions, chosen


def folds_of(digit: np.ndarray, count: int = FOLDS) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit, rows to judge) of each fold, with as many of every digit (picture,) in each."""
    return list(StratifiedKFold(count, shuffle=True, random_state=0).split(digit, digit))


def rotation(x: np.ndarray) -> np.ndarray:
    """The same pictures in at most as many axes as there are pictures: ridge sees inner products alone.

    x (picture, feature) -> (picture, axis).
    """
    centred = np.asarray(x, dtype=np.float64) - np.asarray(x, dtype=np.float64).mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    kept = values > 1e-10 * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def correlations(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson r (voxel,); 0 where a prediction is constant."""
    a, b = y - y.mean(axis=0), predicted - predicted.mean(axis=0)
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), size, out=np.zeros(y.shape[1], dtype=np.float64), where=size > 0)


def percentile(y: np.ndarray, predicted: np.ndarray) -> float:
    """The 95th percentile over voxels of the correlations of y and predicted, (picture, voxel)."""
    return float(np.percentile(correlations(y, predicted), PERCENTILE))


def percentile_of(y: np.ndarray, predicted: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """The percentile with its 95 % interval over pictures and what pictures in another order give.

    y, predicted (picture, voxel).
    """
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(y), len(y)) for _ in range(resamples)]
    low, high = np.percentile([percentile(y[rows], predicted[rows]) for rows in draws], [2.5, 97.5])
    shuffled = float(np.mean([percentile(y, predicted[rng.permutation(len(y))]) for _ in range(100)]))
    return {"": percentile(y, predicted), ".low": float(low), ".high": float(high), ".chance": shuffled}


def it_similarity(folder: Path, network: str | Path, name: str, *, cache: str | Path | None = None) -> dict[str, float]:
    """`images92/rsa/NAME`: Spearman of the best layer's dissimilarities (its global token) with the mean of the four subjects'
    human IT; `NAME/subjects`: the mean of the four correlations with single subjects, which the noise ceiling is of.

    The mean of subjects holds less noise, so the first is higher than the second; read them apart. The best of the layers is
    chosen on these 92 pictures, as in the other figure of this recording; `.layer` is its number.
    """
    stimuli = images92.load_stimuli(folder)
    found = vision.extract(vision.load(network), stimuli, dtype=np.float32, cache=cache)
    varied = {k: np.asarray(v) for k, v in found.data.items() if np.asarray(v).std(axis=0).max() > 1e-4}
    features, rdms = Features(varied, found.ids, found.model), images92.subject_rdms(folder)
    metrics: dict[str, float] = {}
    for key, known in ((f"images92/rsa/{name}", rdms.mean(axis=0)[None]), (f"images92/rsa/{name}/subjects", rdms)):
        scores = similarity.rsa(features, known).metrics
        best = max((k for k in varied if k != "image"), key=lambda k: scores[f"rsa/{k}/spearman"])
        metrics |= {f"{key}{end}": scores[f"rsa/{best}/spearman{end}"] for end in ("", ".low", ".high")}
        metrics[f"{key}.layer"] = float(best.rpartition(".")[2])
        metrics |= {f"{key}/{k}/spearman": scores[f"rsa/{k}/spearman"] for k in varied}
    return metrics
