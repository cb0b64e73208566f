"""Measures retrieval on the full-size phantom, finds the private share q, and sweeps kappa.

    python tools/calibrate_phantom.py --work FOLDER                  # ridge and ideal at the frozen q, sweep over kappa
    python tools/calibrate_phantom.py --work FOLDER --search         # find q: ridge top-1 = 22 %, by interpolation

Full size: 9,000 training, 500 validation and 1,000 test scenes, each shown three times, 4 mm grid. Ridge goes from all
voxels (z-scored by session, repetitions averaged) to the centred image embedding of length 1; its penalty is the one of
the best mean reciprocal rank among the validation scenes; candidates are ranked by cosine. q is found with ridge alone, at
kappa = 2, and then frozen in `brainlens.phantom.fmri.PRIVATE`.

What depends on neither q, kappa nor the network (the noise of all voxels, the random numbers of the feature noise) is kept in
FOLDER and used again, the features too; a value of q then costs its signals and the ridge alone. The trials are those of
`simulate` up to their rounding to float16.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.linalg

from brainlens.backbones import vision
from brainlens.datasets import phantom
from brainlens.metrics.retrieval import ranks, ranks_from_scores, top_k
from brainlens.phantom.fmri import PRIVATE, PhantomTruth, Reading, make_trials, place_in_session, read_network, simulate, truth_of
from brainlens.phantom.ideal import ideal_scores
from brainlens.phantom.noise import KAPPA, session_effects, trial_generator
from brainlens.types import Responses, Stimuli, positions

TARGET = 0.22  # published top-1 of ridge, brain -> image, 1,000-way
CLOSE = 0.005  # q is found when ridge is this near
ALPHAS = 10.0 ** np.arange(-1.5, 2.1, 0.5)  # in units of the kernel's mean diagonal


@dataclass
class Stage:
    """All that does not change from one q to the next; alpha: number of the best penalty so far, where the next search starts.

    kernel (image, image): Gram matrix over the voxels outside the regions; rest (trial, informative voxel): noise of unit
    variance with its session effects; draws (trial, k): random numbers of the feature noise; outside (test image, unit): the
    averaged voxels outside the regions.
    """

    stimuli: Stimuli
    read: Reading
    goal: np.ndarray
    trials: pd.DataFrame
    kernel: np.ndarray
    rest: np.ndarray
    draws: np.ndarray
    outside: np.ndarray
    alpha: int = 3


def averaged(data: np.ndarray, trials: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    """Voxels (trial, voxel) z-scored by session and averaged over repeats, (image in the order of ids, voxel) float32."""
    part = Responses(data, trials, pd.DataFrame(index=range(data.shape[1]))).zscore().average()
    return part.data[positions(ids, part.trials["stimulus"].to_numpy(dtype=str))]


def set_stage(stimuli: Stimuli, read: Reading, goal: np.ndarray, work: Path, key: str) -> Stage:
    """The noise of a full recording without signals, drawn once and kept in `work`."""
    trials = make_trials(stimuli)
    files = {name: work / f"{name}_{key}.npy" for name in ("kernel", "rest", "draws", "outside")}
    if not all(file.exists() for file in files.values()):
        truth = truth_of(read, private=0.0)
        inside, test = truth.informative, np.flatnonzero(stimuli.table["split"].to_numpy(dtype=str) == "test")
        silent = replace(truth, signal=0 * truth.signal, factor=0 * truth.factor[:1], units=truth.units.assign(ncsnr=0.0))
        recording = simulate(silent, trials).data
        np.save(files["rest"], recording[:, inside])
        kernel = np.zeros((len(read.ids), len(read.ids)), dtype=np.float32)
        outside = np.zeros((len(test), len(truth.units)), dtype=np.float32)
        for chunk in np.array_split(np.setdiff1d(np.arange(len(truth.units)), inside), 14):
            x = averaged(recording[:, chunk], trials, read.ids)
            outside[:, chunk] = x[test]
            x -= x.mean(axis=0)
            kernel += x @ x.T
        np.save(files["kernel"], kernel)
        np.save(files["outside"], outside)
        own = (trial_generator(read.seed, read.subject, 1, t) for t in range(len(trials)))
        np.save(files["draws"], np.stack([g.standard_normal(len(truth.factor), dtype=np.float32) for g in own]))
    return Stage(stimuli, read, goal, trials, **{name: np.load(file) for name, file in files.items()})


def informative_trials(truth: PhantomTruth, stage: Stage) -> np.ndarray:
    """The informative voxels of `simulate(truth, trials)`, (trial, voxel) float16, from the noise that is kept."""
    inside, trials = truth.informative, stage.trials
    image = positions(trials["stimulus"].to_numpy(dtype=str), truth.ids)
    session, place = trials["session"].to_numpy(dtype=int), place_in_session(trials["session"].to_numpy())
    spread = np.sqrt(truth.rest_variance()[inside]).astype(np.float32)
    effect = session_effects(truth.seed, truth.subject, len(truth.units))
    factor = np.float32(np.sqrt(truth.kappa)) * truth.factor
    out = np.empty(stage.rest.shape, dtype=np.float16)
    for number in np.unique(session):
        rows = np.flatnonzero(session == number)
        values = truth.signal[image[rows]] + stage.draws[rows] @ factor
        for value, t in zip(values, rows):
            gain, offset = (part[inside] for part in effect(number, place[t]))
            out[t] = gain * value + spread * (stage.rest[t] - offset) + offset
    return out


def ridge(kernel: np.ndarray, target: np.ndarray, split: np.ndarray, start: int) -> dict[str, float]:
    """Retrieval of the test images by kernel ridge, the penalty chosen on the validation images.

    From penalty number `start` the neighbour that is better is taken until none is. Factors are float32: with penalties of
    .03 of the mean diagonal and more that is exact to a few 1e-4 of a prediction.
    """
    train, held, test = (np.flatnonzero(split == name) for name in ("train", "validation", "test"))
    goal = target - target[train].mean(axis=0)
    goal /= np.linalg.norm(goal, axis=1, keepdims=True)
    middle = kernel[np.ix_(train, train)]
    column = middle.mean(axis=0, dtype=np.float64).astype(np.float32)
    total = column.mean(dtype=np.float64).astype(np.float32)
    across = kernel[np.ix_(np.concatenate([held, test]), train)]
    across = across - column - across.mean(axis=1, keepdims=True) + total  # centred by the training mean
    middle -= column
    middle -= (column - total)[:, None]
    offset = goal[train].mean(axis=0)
    scale = middle.diagonal().mean(dtype=np.float64)
    found: dict[int, tuple[float, np.ndarray]] = {}

    def reciprocal_rank(number: int) -> float:
        if not 0 <= number < len(ALPHAS):
            return -1.0
        if number not in found:
            damped = middle.copy()
            damped[np.diag_indices(len(train))] += ALPHAS[number] * scale
            lower = scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
            dual = scipy.linalg.cho_solve(lower, (goal[train] - offset).astype(np.float32), check_finite=False)
            predicted = across @ dual + offset
            found[number] = (float((1 / (ranks(predicted[: len(held)], goal[held]) + 1.0)).mean()), predicted[len(held) :])
            print(f"    alpha {ALPHAS[number]:8.3f} validation reciprocal rank {found[number][0]:.4f}", flush=True)
        return found[number][0]

    best = start
    while (better := max((best, best - 1, best + 1), key=reciprocal_rank)) != best:
        best = better
    predicted = found[best][1]
    first = ranks(predicted, goal[test])
    few = found_among(predicted, goal[test], 200)
    return {
        "top1": top_k(first, 1),
        "top5": top_k(first, 5),
        "top1_of_200": few[0],
        "top5_of_200": few[1],
        "alpha": float(ALPHAS[best]),
    }


def found_among(predicted: np.ndarray, gallery: np.ndarray, size: int) -> tuple[float, float]:
    """Top-1 and top-5 in consecutive galleries of `size`."""
    parts = [ranks(predicted[i : i + size], gallery[i : i + size]) for i in range(0, len(gallery) - size + 1, size)]
    return top_k(np.concatenate(parts), 1), top_k(np.concatenate(parts), 5)


def measure(stage: Stage, work: Path, *, private: float, kappa: float, key: str, ideal: bool = True) -> dict[str, float]:
    """Ridge and, if asked for, the ideal observer at one q and kappa."""
    start, busy = time.time(), time.process_time()
    truth = truth_of(stage.read, private=private, kappa=kappa)
    inside = averaged(informative_trials(truth, stage), stage.trials, truth.ids)
    simulated = time.time() - start
    split = stage.stimuli.table["split"].to_numpy(dtype=str)
    centred = inside - inside.mean(axis=0)
    kernel = centred @ centred.T
    kernel += stage.kernel
    values = ridge(kernel, stage.goal, split, stage.alpha)
    stage.alpha = int(np.argmin(np.abs(ALPHAS - values["alpha"])))
    del kernel
    test = np.flatnonzero(split == "test")
    if ideal:
        seen = stage.outside.copy()
        seen[:, truth.informative] = inside[test]
        top = ranks_from_scores(ideal_scores(seen, truth.ids[test], truth, repeats=3))
        values |= {"ideal_top1": top_k(top, 1), "ideal_top5": top_k(top, 5)}
    values |= {"private": private, "kappa": kappa, "n_test": len(test)}
    values |= {"simulate_s": round(simulated, 1), "total_s": round(time.time() - start, 1)}
    values |= {"cpu_s": round(time.process_time() - busy, 1)}
    print(json.dumps(values), flush=True)
    with (work / f"measured_{key}.jsonl").open("a") as log:
        log.write(json.dumps(values) + "\n")
    return values


def search(stage: Stage, work: Path, key: str) -> float:
    """q at which ridge's top-1 is the published one to half a point, by interpolation between a too easy and a too hard q.

    It starts at the frozen q and goes a tenth at a time towards the target until that lies between two values.
    """

    def top1(private: float) -> float:
        return measure(stage, work, private=private, kappa=KAPPA, key=key, ideal=False)["top1"]

    tried = {PRIVATE: top1(PRIVATE)}
    while abs(min(tried.values(), key=lambda value: abs(value - TARGET)) - TARGET) > CLOSE:
        easy = [q for q, value in tried.items() if value > TARGET]
        hard = [q for q, value in tried.items() if value <= TARGET]
        if not easy and min(hard) <= 0:
            print(
                f"ridge reaches {tried[0.0]:.3f} at q = 0: the target of {TARGET} cannot be reached by a private share",
                flush=True,
            )
            break
        if len(tried) >= 12:
            print("no q of 12 is near enough; more test scenes make the curve smoother", flush=True)
            break
        if not easy:
            q = max(min(hard) - 0.1, 0.0)
        elif not hard:
            q = min(max(easy) + 0.1, (1 + max(easy)) / 2)
        else:
            low, high = max(easy), min(hard)
            q = low + (high - low) * (tried[low] - TARGET) / (tried[low] - tried[high])
        q = round(q, 3)
        if q in tried:
            break
        tried[q] = top1(q)
    return min(tried, key=lambda q: abs(tried[q] - TARGET))


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
    read, goal = read_network(stimuli, network), network["image"].astype(np.float64)
    del network  # more than a gigabyte that is not needed any more
    stage = set_stage(stimuli, read, goal, chosen.work, key)
    if chosen.search:
        q = search(stage, chosen.work, key)
        print(json.dumps({"private": q}))
        return
    for private in chosen.private:
        for kappa in chosen.kappas:
            measure(stage, chosen.work, private=private, kappa=kappa, key=key)


if __name__ == "__main__":
    main()
