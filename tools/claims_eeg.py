"""The `eeg/...` claims on the phantom, at any size, resumable fit by fit; and the calibration of the phantom's amplitude.

    python tools/claims_eeg.py --out runs/claims_eeg --subjects 2 --train 4000 --epochs 40 --seeds 1
    python tools/claims_eeg.py --calibrate --train 4000 --epochs 40

Each fit (method, protocol, subject, seed) is one JSON file; what is there is not run again. `result.json` holds the means
over subjects and seeds under the keys of the claims, with bootstrap intervals over test stimuli.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from brainlens.align_sensors import NICE, THINGS_EEG2, Protocol, SensorTraining, align_sensors, fit_sensors, without
from brainlens.attribution.channels import channel_share, contributions, similarity_score
from brainlens.metrics.timecourse import half_height, mean_correlation, time_windows, window_scores
from brainlens.phantom.eeg import AMPLITUDE, EARLY, RATE, eeg_trials, eeg_truth, simulate_eeg
from brainlens.signals.mvnn import mvnn
from brainlens.types import Features, Responses, Stimuli

POSTERIOR = ("P", "O")  # channel names that begin so lie over the back of the head (with PO)
METHODS = ("neuroalign", "nice", "linear", "no_saliency", "no_guidance", "no_adjustment", "shuffled")


def training_of(method: str, arguments: argparse.Namespace) -> tuple[str, SensorTraining]:
    """Encoder name and training of a method; all see the same batches for the same number of epochs."""
    same = {"epochs": arguments.epochs, "patience": arguments.patience, "batch": arguments.batch}
    if method in ("neuroalign", "shuffled"):
        return "neuroalign", replace(THINGS_EEG2, **same)
    if method.startswith("no_"):
        return "neuroalign", without(replace(THINGS_EEG2, **same), method.removeprefix("no_"))
    return method, replace(NICE, **same)


def networks(n_train: int, seed: int) -> tuple[Stimuli, Features, Features]:
    """Scenes, the miniature CLIP's layers with the embedding of the saliency-filtered scenes added, caption embeddings."""
    from brainlens.datasets import phantom
    from brainlens.stimuli.saliency import saliency_stimuli

    stimuli = phantom.scenes(n_train=n_train, n_test=200, seed=seed)
    network = phantom.features(stimuli)
    filtered = phantom.features(saliency_stimuli(stimuli))
    data = {name: np.asarray(value, np.float32) for name, value in network.data.items()}
    return stimuli, replace(network, data=data | {"saliency": np.asarray(filtered["image"], np.float32)}), phantom.texts(stimuli)


def recording(stimuli: Stimuli, network: Features, subject: int, amplitude: float, seed: int) -> Responses:
    """One subject, training means of 4, test in 16 means of 5, whitened by training noise."""
    truth = eeg_truth(stimuli, network, subject=subject, amplitude=amplitude, seed=seed)
    responses = simulate_eeg(truth, eeg_trials(stimuli, subject=subject, rows=(1, 16)))
    return mvnn(responses, by=None, out=responses.data)


def join(parts: list[Responses]) -> Responses:
    """Subjects one after the other."""
    trials = pd.concat([part.trials for part in parts], ignore_index=True)
    return replace(parts[0], data=np.concatenate([part.data for part in parts]), trials=trials)


def shuffled(responses: Responses, seed: int) -> Responses:
    """Training trials that belong to other images."""
    trials = responses.trials.copy()
    rows = np.flatnonzero((trials["split"] == "train").to_numpy())
    trials.loc[rows, "stimulus"] = np.random.default_rng(seed).permutation(trials.loc[rows, "stimulus"].to_numpy())
    return replace(responses, trials=trials)


def write(path: Path, value: object) -> None:
    """JSON in one step, so that a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)


def one_fit(arguments: argparse.Namespace, tables: tuple, method: str, kind: str, subject: int, seed: int, parts: dict) -> dict:
    """The metrics of one fit, read back if they are there."""
    path = Path(arguments.out) / f"{kind}-{subject}-{method}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    _, network, texts = tables
    start = time.perf_counter()
    responses = parts[subject] if kind == "within" else join(list(parts.values()))
    if method == "shuffled":
        responses = shuffled(responses, seed)
    encoder, training = training_of(method, arguments)
    if kind == "across":
        training = replace(training, epochs=max(1, arguments.epochs // max(1, len(parts) - 1)))
    protocol = Protocol(kind=kind, subject=str(subject))
    result = align_sensors(responses, network, texts, encoder=encoder, training=training, protocol=protocol, seed=seed)
    found = {"method": method, "kind": kind, "subject": subject, "seed": seed, "seconds": time.perf_counter() - start}
    found |= {
        "metrics": result.metrics,
        "ranks": result.arrays["ranks/brain->image"].tolist(),
        "ids": result.arrays["ids"].tolist(),
    }
    found |= {"log": result.tables["log"].to_dict("list"), "repeats": result.tables["repeats"].to_dict("list")}
    found |= {"training": asdict(training)}
    write(path, found)
    top = [result.metrics[f"retrieval/brain->image/top{k}"] for k in (1, 5)]
    best = result.metrics["training/best_epoch"]
    line = f"{kind:7} {subject:2} {method:14} seed {seed}: {top[0]:.3f} {top[1]:.3f}"
    print(f"{line}  best {best:.0f}  {found['seconds']:.0f} s", flush=True)
    return found


def topography(responses: Responses, tables: tuple, truth_rms: np.ndarray, arguments: argparse.Namespace) -> dict[str, float]:
    """Channel contributions of a decoder trained on unwhitened data against the true scalp topography."""
    _, network, texts = tables
    encoder, training = training_of("neuroalign", arguments)
    decoder, test = fit_sensors(responses, network, texts, encoder=encoder, training=training)
    averaged = test.average()
    ids = averaged.trials["stimulus"].to_numpy(dtype=str)
    gallery = torch.as_tensor(decoder.gallery(network["saliency"][[{n: i for i, n in enumerate(network.ids)}[k] for k in ids]]))
    decoder.model.eval()
    decoder.model.encoder.filtered = False
    data = ((torch.as_tensor(averaged.data) - decoder.scale[0]) / decoder.scale[1]).numpy()
    mean = contributions(lambda rows: similarity_score(decoder.model, gallery[rows], against=gallery), data)
    share = channel_share(mean)
    back = np.array([str(name).startswith(POSTERIOR) for name in responses.units["channel"]])
    return {
        "eeg/topography_correlation": float(np.corrcoef(share, truth_rms)[0, 1]),
        "eeg/topography_posterior_share": float(share[back].sum()),
        "eeg/topography_posterior_share.uniform": float(back.mean()),
    }


def time_claims(responses: Responses, tables: tuple, truth: object) -> dict[str, float]:
    """Onsets of decoding the low-level and the category sources in growing windows."""
    stimuli, _, _ = tables
    train, test = responses.where(split="train"), responses.where(split="test").average()
    row = {name: i for i, name in enumerate(stimuli.ids)}
    early = truth.sources["region"].isin(EARLY).to_numpy()
    windows = time_windows(responses.times, step=0.02, kinds=("growing",))
    windows = [window for window in windows if window.stop <= 0.6]
    found = {}
    for name, keep in (("low_level", early), ("category", ~early)):
        values = truth.signal[:, keep]
        target = [values[[row[s] for s in part.trials["stimulus"]]] for part in (train, test)]
        curve = window_scores(train.data, target[0], test.data, windows, mean_correlation, test_target=target[1])
        found[f"eeg/onset/{name}"] = half_height(windows, curve)
    return found


def summarise(fits: list[dict]) -> dict[str, float]:
    """Means over subjects and seeds, with 95 % intervals when test stimuli are drawn again (the same ones for all fits)."""
    out: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for method, kind in sorted({(fit["method"], fit["kind"]) for fit in fits}):
        chosen = [fit for fit in fits if (fit["method"], fit["kind"]) == (method, kind)]
        ranks = np.array([np.array(fit["ranks"])[np.argsort(fit["ids"])] for fit in chosen])
        drawn = rng.integers(ranks.shape[1], size=(2000, ranks.shape[1]))
        for k in (1, 5):
            hits = (ranks < k).mean(axis=0)
            low, high = np.percentile(hits[drawn].mean(axis=1), [2.5, 97.5])
            key = f"eeg/{method}/{kind}/top{k}"
            out |= {key: float(hits.mean()), f"{key}.low": float(low), f"{key}.high": float(high)}
            out[f"{key}.sd_fits"] = float((ranks < k).mean(axis=1).std()) if len(ranks) > 1 else 0.0
        out[f"eeg/{method}/{kind}/fits"] = float(len(chosen))
    return out | {"eeg/chance1": 1 / 200, "eeg/chance5": 5 / 200}


def calibrate(arguments: argparse.Namespace, tables: tuple) -> dict[float, float]:
    """Top-1 of the NICE-style encoder for some amplitudes; the amplitude is then written into phantom/eeg.py by hand, once."""
    stimuli, network, texts = tables
    found = {}
    for amplitude in arguments.amplitudes:
        part = recording(stimuli, network, 1, amplitude, 0)
        _, training = training_of("nice", arguments)
        result = align_sensors(part, network, texts, encoder="nice", training=training)
        truth = eeg_truth(stimuli, network, amplitude=amplitude)
        top = [result.metrics[f"retrieval/brain->image/top{k}"] for k in (1, 5)]
        line = f"amplitude {amplitude}: top1 {top[0]:.3f} top5 {top[1]:.3f}"
        best = result.metrics["training/best_epoch"]
        print(f"{line} best epoch {best:.0f} snr {truth.snr():.5f} x80 {truth.snr(80):.3f}", flush=True)
        found[amplitude] = top[0]
    return found


def run(arguments: argparse.Namespace, tables: tuple) -> dict[str, float]:
    """All fits that are not there yet, and the summary of all."""
    begin = time.perf_counter()
    stimuli, network, _ = tables
    parts = {s: recording(stimuli, network, s, arguments.amplitude, 0) for s in range(1, arguments.subjects + 1)}
    fits = []
    for seed in range(arguments.seeds):
        for kind in arguments.protocols:
            for subject in parts:
                for method in arguments.methods:
                    if kind == "across" and len(parts) < 2:
                        continue
                    if time.perf_counter() - begin < 60 * arguments.minutes:
                        fits.append(one_fit(arguments, tables, method, kind, subject, seed, parts))
    metrics = summarise(fits)
    truth = eeg_truth(stimuli, network, subject=1, amplitude=arguments.amplitude)
    raw = simulate_eeg(truth, eeg_trials(stimuli, subject=1, rows=(1, 16)))
    metrics |= time_claims(parts[1], tables, truth)
    metrics |= topography(raw, tables, truth.topography(), arguments)
    metrics |= {"eeg/snr_single": truth.snr(), "eeg/snr_80": truth.snr(80), "eeg/amplitude_uv": arguments.amplitude}
    config = {**vars(arguments), "rate": RATE, "images": network.model}
    write(Path(arguments.out) / "result.json", {"metrics": metrics, "config": config})
    print(json.dumps(metrics, indent=1))
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/claims_eeg")
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--train", type=int, default=16540)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--amplitude", type=float, default=AMPLITUDE, help="uV; the frozen value by default")
    parser.add_argument("--patience", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocols", nargs="+", default=["within", "across"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--amplitudes", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--minutes", type=float, default=1e9, help="no new fit is begun after this")
    arguments = parser.parse_args()
    tables = networks(arguments.train, 0)
    if arguments.calibrate:
        calibrate(arguments, tables)
        return
    run(arguments, tables)


if __name__ == "__main__":
    main()
