"""Measures retrieval on the full-size phantom, finds the private share q, and sweeps kappa.

    python tools/calibrate_phantom.py --work FOLDER                  # ridge and ideal at the frozen q, sweep over kappa
    python tools/calibrate_phantom.py --work FOLDER --search         # find q: ridge top-1 = 22 %, by interpolation

Full size: 9,000 training, 500 validation and 1,000 test scenes, each shown three times, 4 mm grid. Ridge goes from all
voxels (z-scored by session, repetitions averaged) to the centred image embedding of length 1; its penalty is the one of
the best mean reciprocal rank among the validation scenes; candidates are ranked by cosine. q is found with ridge alone, at
kappa = 2, and then frozen in `brainlens.phantom.fmri.PRIVATE`. Arrays that do not depend on q and kappa are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import scipy.linalg

from brainlens.backbones import vision
from brainlens.datasets import phantom
from brainlens.metrics.retrieval import ranks, ranks_from_scores, top_k
from brainlens.phantom.fmri import PRIVATE, PhantomTruth, make_trials, phantom_truth, simulate
from brainlens.phantom.ideal import ideal_scores
from brainlens.phantom.noise import KAPPA
from brainlens.types import Features, Responses, Stimuli

TARGET = 0.22  # published top-1 of ridge, brain -> image, 1,000-way
ALPHAS = 10.0 ** np.arange(-1.5, 2.1, 0.5)  # in units of the kernel's mean diagonal


def averaged(recording: Responses, columns: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Voxels z-scored by session and averaged over repeats, (image in the order of ids, voxel) float32."""
    part = Responses(recording.data[:, columns], recording.trials, recording.units.iloc[columns]).zscore().average()
    row = {name: i for i, name in enumerate(part.trials["stimulus"])}
    return part.data[[row[name] for name in ids]]


def noise_kernel(recording: Responses, truth: PhantomTruth, work: Path, key: str) -> np.ndarray:
    """Gram matrix of all images over the voxels outside the regions, which depends on neither q nor kappa."""
    file = work / f"noise_kernel_{key}.npy"
    if not file.exists():
        outside = np.setdiff1d(np.arange(len(truth.units)), truth.informative)
        total = np.zeros((len(truth.ids), len(truth.ids)), dtype=np.float32)
        for chunk in np.array_split(outside, 14):
            x = averaged(recording, chunk, truth.ids)
            x -= x.mean(axis=0)
            total += x @ x.T
        np.save(file, total)
    return np.load(file)


def ridge(kernel: np.ndarray, target: np.ndarray, split: np.ndarray) -> dict[str, float]:
    """Retrieval of the test images by kernel ridge, the penalty chosen on the validation images."""
    train, held, test = (np.flatnonzero(split == name) for name in ("train", "validation", "test"))
    goal = target - target[train].mean(axis=0)
    goal /= np.linalg.norm(goal, axis=1, keepdims=True)
    middle = kernel[np.ix_(train, train)].astype(np.float64)
    column = middle.mean(axis=0)
    across = kernel[np.ix_(np.concatenate([held, test]), train)].astype(np.float64)
    across = across - column - across.mean(axis=1, keepdims=True) + column.mean()  # centred by the training mean
    middle = middle - column - column[:, None] + column.mean()
    offset = goal[train].mean(axis=0)
    scale = middle.diagonal().mean()
    best: tuple[float, float, np.ndarray] = (-1.0, 0.0, goal)
    for alpha in ALPHAS:
        damped = middle + alpha * scale * np.eye(len(train))
        dual = scipy.linalg.cho_solve(scipy.linalg.cho_factor(damped, overwrite_a=True), goal[train] - offset)
        predicted = across @ dual + offset
        score = float((1 / (ranks(predicted[: len(held)], goal[held]) + 1.0)).mean())
        print(f"    alpha {alpha:8.3f} validation reciprocal rank {score:.4f}", flush=True)
        if score > best[0]:
            best = (score, float(alpha), predicted[len(held) :])
    found = ranks(best[2], goal[test])
    few = found_among(best[2], goal[test], 200)
    return {"top1": top_k(found, 1), "top5": top_k(found, 5), "top1_of_200": few[0], "top5_of_200": few[1], "alpha": best[1]}


def found_among(predicted: np.ndarray, gallery: np.ndarray, size: int) -> tuple[float, float]:
    """Top-1 and top-5 in consecutive galleries of `size`."""
    parts = [ranks(predicted[i : i + size], gallery[i : i + size]) for i in range(0, len(gallery) - size + 1, size)]
    return top_k(np.concatenate(parts), 1), top_k(np.concatenate(parts), 5)


def measure(
    stimuli: Stimuli, network: Features, work: Path, *, private: float, kappa: float, key: str, ideal: bool = True
) -> dict[str, float]:
    """Ridge and, if asked for, the ideal observer at one q and kappa."""
    start = time.time()
    truth = phantom_truth(stimuli, network, private=private, kappa=kappa)
    recording = simulate(truth, make_trials(stimuli))
    simulated = time.time() - start
    split = stimuli.table["split"].to_numpy(dtype=str)
    inside = averaged(recording, truth.informative, truth.ids)
    kernel = noise_kernel(recording, truth, work, key)
    centred = inside - inside.mean(axis=0)
    kernel += centred @ centred.T
    values = ridge(kernel, network["image"].astype(np.float64), split)
    del kernel
    test = np.flatnonzero(split == "test")
    if ideal:
        top = ranks_from_scores(ideal_scores(all_voxels(recording, truth.ids[test]), truth.ids[test], truth, repeats=3))
        values |= {"ideal_top1": top_k(top, 1), "ideal_top5": top_k(top, 5)}
    values |= {"private": private, "kappa": kappa, "n_test": len(test)}
    values |= {"simulate_s": round(simulated, 1), "total_s": round(time.time() - start, 1)}
    print(json.dumps(values), flush=True)
    with (work / f"measured_{key}.jsonl").open("a") as log:
        log.write(json.dumps(values) + "\n")
    return values


def all_voxels(recording: Responses, ids: np.ndarray) -> np.ndarray:
    """Every voxel of the images `ids`, z-scored by session and averaged, a chunk at a time."""
    chunks = np.array_split(np.arange(len(recording.units)), 14)
    return np.concatenate([averaged(recording, chunk, ids) for chunk in chunks], axis=1)


def search(stimuli: Stimuli, network: Features, work: Path, key: str) -> float:
    """q at which ridge's top-1 is the published one to half a point, by interpolation between a too easy and a too hard q."""

    def top1(private: float) -> float:
        return measure(stimuli, network, work, private=private, kappa=KAPPA, key=key, ideal=False)["top1"]

    low, high = 0.0, 0.4
    easy = top1(low)
    if easy < TARGET:
        print(f"ridge reaches {easy:.3f} at q = 0: the target of {TARGET} cannot be reached by a private share", flush=True)
        return low
    hard = top1(high)
    while hard > TARGET and high < 0.9:
        low, easy = high, hard
        high = round(high + 0.2, 3)
        hard = top1(high)
    for _ in range(6):
        middle = round(low + (high - low) * (easy - TARGET) / (easy - hard), 3)
        value = top1(middle)
        if abs(value - TARGET) <= 0.005:
            return middle
        if value > TARGET:
            low, easy = middle, value
        else:
            high, hard = middle, value
    return middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for arrays that are used again")
    parser.add_argument("--clip", type=Path, help="a CLIP folder in place of the shipped miniature")
    parser.add_argument("--sizes", type=int, nargs=3, default=(9000, 500, 1000), metavar=("TRAIN", "VALIDATION", "TEST"))
    parser.add_argument("--private", type=float, nargs="*", default=[PRIVATE])
    parser.add_argument("--kappas", type=float, nargs="*", default=[0.0, 1.0, 2.0, 4.0])
    parser.add_argument("--search", action="store_true")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    train, validation, test = chosen.sizes
    stimuli = phantom.scenes(n_train=train, n_validation=validation, n_test=test)
    if chosen.clip is None:
        network = phantom.features(stimuli, cache=chosen.work / "features")
    else:
        network = vision.extract(vision.load(chosen.clip), stimuli, batch=128)
    key = f"{train}_{validation}_{test}"
    if chosen.search:
        q = search(stimuli, network, chosen.work, key)
        print(json.dumps({"private": q}))
        return
    for private in chosen.private:
        for kappa in chosen.kappas:
            measure(stimuli, network, chosen.work, private=private, kappa=kappa, key=key)


if __name__ == "__main__":
    main()
