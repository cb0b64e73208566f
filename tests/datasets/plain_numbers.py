"""What the numbers of a run should be, by loops over what was recorded and what the run kept: no metric of the package counts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlens import miniatures, store
from brainlens.backbones import clip
from brainlens.backbones.layers import extract_layers
from brainlens.datasets import load, parse_options
from brainlens.datasets.epoching import read_epochs_of
from brainlens.datasets.source import Source
from brainlens.encode.time_decoding import OverTime, _folds
from brainlens.models.encoding import load as load_model
from brainlens.types import Recording, Result, Stimuli


def run_of(runs: Path, task: str) -> tuple[Path, Result]:
    (place,) = runs.glob(f"{task}-*")
    return place, store.load_result(place)


def shown_means(dataset: str, folder: Path, options: Sequence[str]) -> tuple[Recording, list[str], np.ndarray]:
    """(recording, test images, their mean responses (image, unit) of units without a missing value): sessions standardised by
    their training trials, else by all of their own, repeats averaged."""
    opened = load(dataset, folder, **parse_options(dataset, list(options)))
    trials, data = opened.responses.trials, np.array(opened.responses.data, np.float64)
    session = trials["session"].astype(str) if "session" in trials.columns else pd.Series(dtype=str)  # else as they are
    train, test = ((trials["split"] == part).to_numpy() for part in ("train", "test"))
    for name in session.unique():
        rows = (session == name).to_numpy()
        own = rows & train if (rows & train).sum() > 1 else rows  # a session of test images alone has no other trials
        data[rows] = (data[rows] - data[own].mean(axis=0)) / data[own].std(axis=0)
    kept = np.isfinite(data).all(axis=0)
    names = list(dict.fromkeys(trials["stimulus"][test]))
    return opened, names, np.stack([data[test & (trials["stimulus"] == name).to_numpy()].mean(axis=0) for name in names])[:, kept]


def encoding(dataset: str, folder: Path, options: Sequence[str], runs: Path) -> None:
    """R2 of every unit on the test images from the stored model's predictions of the pictures that were shown."""
    place, result = run_of(runs, "encode")
    opened, names, truth = shown_means(dataset, folder, options)
    features = extract_layers(None, opened.stimuli, None)
    model = load_model(place / "model")
    predicted = model.predict(features, rows=np.array([list(features.ids).index(name) for name in names]))
    assert truth.shape == predicted.shape == (result.metrics["encoding/images_test"], result.metrics["encoding/units"])
    found = [1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum() for y, p in zip(truth.T, predicted.T, strict=True)]
    np.testing.assert_allclose(result.arrays["r2"], found, atol=2e-4)


def ranks(runs: Path) -> None:
    """Top-1 and top-5 of brain to image, counted one query at a time from the stored embeddings."""
    _, result = run_of(runs, "align")
    brain, image = (np.asarray(result.arrays[f"embedding/{which}"], np.float64) for which in ("brain", "image"))
    found = []
    for i, query in enumerate(brain):
        cosines = [float(query @ one / np.linalg.norm(query) / np.linalg.norm(one)) for one in image]
        found.append(sum(value > cosines[i] for value in cosines))
    for k in (1, 5):
        assert result.metrics[f"retrieval/brain->image/top{k}"] == pytest.approx(np.mean([rank < k for rank in found]))
        assert result.metrics[f"retrieval/brain->image/chance{k}"] == pytest.approx(k / len(image))


def attribution(runs: Path) -> None:
    """Of maps over voxels: mean map, regions, mass, area, false discovery rate, and areas under the curves of deletion."""
    _, result = run_of(runs, "attribute")
    maps, metrics = np.asarray(result.arrays["map/brain"], np.float64), result.metrics
    seen = [row for row in maps if any(value != 0 for value in row)]
    assert metrics["attribution/maps_empty"] == len(maps) - len(seen)
    assert seen, "every map is empty, so that nothing is recounted"
    np.testing.assert_allclose(result.arrays["map/brain_mean"], sum(maps) / len(maps), rtol=1e-4, atol=1e-9)
    mass = [(row.mean() - row.min()) / (row.max() - row.min()) for row in seen]
    half = [np.mean([value >= (row.min() + row.max()) / 2 for value in row]) for row in seen]
    assert metrics["attribution/mass"] == pytest.approx(np.mean(mass), rel=1e-3)
    assert metrics["attribution/area"] == pytest.approx(np.mean(half), abs=2 / maps.shape[1])
    mean, regions = maps.mean(axis=0), result.tables.get("regions")
    if regions is not None and "roi" in result.units.columns:
        roi = result.units["roi"].fillna("").astype(str).to_numpy()
        for line in regions.fillna({"roi": ""}).itertuples():
            inside = [value for value, name in zip(mean, roi, strict=True) if name == line.roi]
            assert line.mean == pytest.approx(sum(inside) / len(inside), rel=1e-3)
            assert line.share == pytest.approx(sum(inside) / mean.sum(), rel=1e-3)
    for form in ("deletion", "insertion"):
        total = 0.0
        for curve in result.arrays[f"{form}/{result.config['method']}"][:, [0, *range(4, 14)]]:
            total += sum((a + b) / 2 for a, b in pairwise(curve)) / 10 / len(seen)
        shown = [key for key in metrics if re.fullmatch(rf"attribution/(image|text)/{form}_auc", key)]
        assert sum(metrics[key] for key in shown) == pytest.approx(total, rel=1e-4)
    if "map/p" in result.arrays:
        q = false_discovery(result.arrays["map/p"])
        assert metrics["attribution/significant_share"] == pytest.approx(np.mean(q <= 0.05))


def false_discovery(p: np.ndarray) -> np.ndarray:
    """q of each p that is known: the least p_j m / rank_j over those not below it."""
    out, known = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    ordered = np.sort(np.asarray(p, np.float64)[known])
    for i in known:
        out[i] = min([ordered[j] * len(known) / (j + 1) for j in range(len(ordered)) if ordered[j] >= p[i]] + [1.0])
    return out


def description(dataset: str, folder: Path, options: Sequence[str], runs: Path, told: Path | None) -> None:
    """Each voxel's first label against its mean responses to test images whose captions hold the word; q, and the counts."""
    places = sorted(runs.glob("describe-*"))
    result = store.load_result(places[-1])
    opened, names, truth = shown_means(dataset, folder, options)
    captions = dict(zip(map(str, opened.stimuli.ids), opened.stimuli.captions, strict=True))
    if told is not None:
        captions = json.loads(told.read_text())
    words = [{word for text in captions[str(name)] for word in re.findall(r"[a-z]+", text.lower())} for name in names]
    table, metrics = result.tables["labels"], result.metrics
    labels = table["label1"].fillna("").astype(str).tolist()
    tested = 0
    for v, label in enumerate(labels):
        if not np.isfinite(table["label_r"][v]) or " " in label:
            continue
        present = np.array([label in each or f"{label}s" in each for each in words], float)
        assert table["label_r"][v] == pytest.approx(np.corrcoef(truth[:, v], present)[0, 1], abs=1e-4)
        tested += 1
    assert tested > 0
    q = false_discovery(table["label_p"].to_numpy(float))
    np.testing.assert_allclose(table["label_q"].to_numpy(float), q, atol=1e-9)
    level = result.config["design"]["level"]
    assert metrics["describe/voxels"] == truth.shape[1] == len(labels)
    assert metrics["describe/labelled"] == sum(label != "" for label in labels)
    assert metrics["describe/significant"] == sum(value <= level for value in q)


def reconstruction(dataset: str, folder: Path, options: Sequence[str], runs: Path) -> None:
    """Pixel correlation and two-way identification of the chosen and of the retrieved pictures, one pair at a time."""
    _, result = run_of(runs, "reconstruct")
    arrays, metrics = result.arrays, result.metrics
    _, names, _ = shown_means(dataset, folder, options)
    assert {str(name) for name in arrays["ids"]} <= {str(name) for name in names}
    seen = np.asarray(arrays["pictures/seen"])
    model = clip.load_clip(str(miniatures.folder("clip")))

    def embedded(pictures: np.ndarray) -> np.ndarray:
        ids = np.array([f"{i}" for i in range(len(pictures))])
        return clip.embed_images(model, Stimuli(ids, pictures, [[] for _ in ids]))["image"].astype(np.float64)

    candidates = np.asarray(arrays["pictures/candidates"])
    chosen = np.stack([row[k] for row, k in zip(candidates, arrays["chosen"], strict=True)])
    for prefix, pictures in (("", chosen), ("retrieval/", np.asarray(arrays["pictures/retrieval"]))):
        flat = [(a.ravel().astype(float), b.ravel().astype(float)) for a, b in zip(seen, pictures, strict=True)]
        pixels = [0.0 if np.ptp(b) == 0 else np.corrcoef(a, b)[0, 1] for a, b in flat]
        assert metrics[f"reconstruct/{prefix}pixcorr"] == pytest.approx(np.mean(pixels), abs=1e-5)
        true, made, won = embedded(seen), embedded(pictures), []
        for i, one in enumerate(made):
            own = np.corrcoef(true[i], one)[0, 1]
            won.append(np.mean([own > np.corrcoef(true[j], one)[0, 1] + 1e-6 for j in range(len(true)) if j != i]))
        assert metrics[f"reconstruct/{prefix}two_way_clip"] == pytest.approx(np.mean(won), abs=1e-9)
        assert metrics[f"reconstruct/{prefix}two_way_clip.n"] == len(seen)


def time_course(dataset: str, folder: Path, options: Sequence[str], runs: Path) -> None:
    """Area under the ROC curve at some times, by a linear discriminant written out and pairs of trials counted; p from the
    largest areas of permuted labels that the run kept."""
    _, result = run_of(runs, "decode")
    source = Source(dataset, folder, options=parse_options(dataset, list(options)))
    responses = read_epochs_of(source, None, runs / "prepared")
    target, trials = result.config["target"], responses.trials
    if result.metrics["decode/trials"] < len(trials):  # repeats of an image are averaged
        responses = responses.average()
        trials = responses.trials
    names = sorted(set(trials[target].astype(str)))
    labels = np.array([names.index(str(name)) for name in trials[target]])
    over = OverTime(**result.config["over_time"])
    width = round(over.window / np.median(np.diff(responses.times)))
    data = np.asarray(responses.data, np.float64)
    folds = list(_folds(trials, labels, names, result.config["group"], over, int(result.config["seed"])).each())
    course = result.tables["timecourse"]
    for at in (0, len(course) // 2, len(course) - 1):
        x = data[:, :, at * width : (at + 1) * width].mean(axis=2)
        each = [fold_area(x[train], labels[train], x[test], labels[test], len(names), over.shrinkage) for train, test in folds]
        assert course["auc"][at] == pytest.approx(np.mean(each), abs=1e-6)
    metrics, null = result.metrics, np.asarray(result.arrays["null_max"])
    assert metrics["decode/auc_mean"] == pytest.approx(sum(course["auc"]) / len(course))
    assert metrics["decode/peak_auc"] == pytest.approx(max(course["auc"]))
    for value, p in zip(course["auc"], course["p_fwe"], strict=True):
        assert p == pytest.approx((1 + sum(one >= value - 1e-9 for one in null)) / (1 + len(null)))


def fold_area(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, classes: int, shrinkage: float | None
) -> float:
    """Mean over categories of the area for each against the rest, of the discriminant A = (1 - s) S_within + s I."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    middle, spread = train.mean(axis=0), train.std(axis=0)
    a, b = (train - middle) / spread, (test - middle) / spread
    s = max(0.01, float(ledoit_wolf_shrinkage(a, assume_centered=True))) if shrinkage is None else shrinkage
    means = [a[labels == k].mean(axis=0) for k in range(classes)]
    within = sum((row - means[k])[:, None] * (row - means[k])[None] for row, k in zip(a, labels, strict=True)) / len(a)
    inverse = np.linalg.inv((1 - s) * within + s * np.eye(len(middle)))
    delta = np.array([[m @ inverse @ row - m @ inverse @ m / 2 for m in means] for row in b])
    areas = []
    for k in range(classes) if classes > 2 else (1,):
        others = np.delete(delta, k, axis=1)
        odds = delta[:, k] - np.log(np.exp(others - others.max(axis=1, keepdims=True)).sum(axis=1)) - others.max(axis=1)
        true, false = odds[truth == k], odds[truth != k]
        areas.append(np.mean([[float(x > y) + 0.5 * (x == y) for y in false] for x in true]))
    return float(np.mean(areas))
