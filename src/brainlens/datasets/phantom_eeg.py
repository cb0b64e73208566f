"""The EEG phantom as a recording: simulated EEG of people who see drawn scenes, or images of which only embeddings are there.

    recording = phantom_eeg.load(n_train=1200, n_test=200)                # scenes, the shipped miniature CLIP
    recording = phantom_eeg.load("things", n_train=1200)                  # real CLIP embeddings of 200 test images

With a folder that holds `clip_feature_maps_test.npy` (200 THINGS-EEG2 test images) and `center_clip.npy` (their concepts'
centres, means of other images) the sources read those embeddings, and the test is the published 200-way task without its
recordings. Training images are then drawn, not real: normal vectors with the mean and the (shrunk) covariance of the concept
centres, of length 1; no test image shapes them, its concept does through that covariance. **It is a simulation.**
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.pictures import NoImages
from brainlens.phantom.eeg import EEGTruth, eeg_trials, eeg_truth, simulate_eeg
from brainlens.signals.mvnn import mvnn
from brainlens.stimuli.saliency import PAPER, FilterSettings, saliency_stimuli
from brainlens.store import open_npy
from brainlens.types import DataError, Features, Recording, Responses, Stimuli

STRONG = 1.1  # uV: four times the calibrated amplitude, so that some 1,000 images of one person are enough to learn from
READS = ("picture", "filtered")
FILES = ("clip_feature_maps_test.npy", "center_clip.npy")

FACTS = {
    "name": "phantom_eeg",
    "title": "brainlens phantom: simulated EEG with known sources, of drawn scenes or of real image embeddings",
    "kind": "EEG",
    "measure": "EEG (simulated)",
    "simulated": True,
    "several_subjects": True,
    "offers": ("pictures", "captions", "coordinates", "split"),
    "subjects": "1, 2, 3, ... (any number)",
    "channels": 63,
    "rate_hz": 250,
    "licence": "MIT",
    "citation": "brainlens",
    "url": "",
    "needs": f"nothing; or a folder with {FILES[0]} and {FILES[1]}",
}


@dataclass(frozen=True)
class Shown:
    """What the simulated people saw: images, their embeddings (image; concept where known), captions, and layers."""

    stimuli: Stimuli
    images: Features
    texts: Features | None
    network: Features


def load(
    folder: str | Path | None = None,
    *,
    n_train: int = 1200,
    n_test: int = 200,
    subjects: Sequence[int] = (1,),
    repeats: tuple[int, int] = (4, 80),
    amplitude: float = STRONG,
    whiten: bool = True,
    seed: int = 0,
    reads: str = "picture",
) -> Recording:
    """Simulated EEG (trial, 63 channels, 250 samples) float16, the images seen, and the sources where there is one subject.

    repeats: of a training and of a test image; a training image is one row, the mean, test images stand as single trials.
    whiten: divide by the noise of training trials, as released recordings are (MVNN); otherwise the values are uV.
    amplitude: of the signal in uV; `phantom.eeg.AMPLITUDE` is the one calibrated on 16,540 images, the default is for few.
    reads: "picture", or "filtered": the sources see the picture after saliency extraction, the control of NeuroAlign's target.
    Raises DataError for a folder that lacks the embeddings.
    """
    seen = shown(folder, n_train=n_train, n_test=n_test, seed=seed, reads=reads)
    responses = record(seen, subjects=subjects, repeats=repeats, amplitude=amplitude, whiten=whiten, seed=seed)
    known = truth(seen, subject=subjects[0], amplitude=amplitude, seed=seed) if len(subjects) == 1 else None
    return Recording(responses, seen.stimuli, known)


def record(
    seen: Shown,
    *,
    subjects: Sequence[int] = (1,),
    repeats: tuple[int, int] = (4, 80),
    rows: tuple[int, int] | None = None,
    amplitude: float = STRONG,
    whiten: bool = True,
    seed: int = 0,
) -> Responses:
    """The recordings of `load` for images whose embeddings are there already; rows: in how many means the repeats stand."""
    if not len(subjects):
        raise DataError("phantom EEG: no subject is named; give subjects=(1,)")
    parts = []
    for subject in subjects:
        known = truth(seen, subject=subject, amplitude=amplitude, seed=seed)
        part = simulate_eeg(known, eeg_trials(seen.stimuli, subject=subject, repeats=repeats, rows=rows or (1, repeats[1])))
        parts.append(mvnn(part, by=None, out=part.data) if whiten else part)
    if len(parts) == 1:
        return parts[0]
    trials = pd.concat([part.trials for part in parts], ignore_index=True)
    return replace(parts[0], data=np.concatenate([part.data for part in parts]), trials=trials)


def truth(seen: Shown, *, subject: int = 1, amplitude: float = STRONG, seed: int = 0) -> EEGTruth:
    """The sources behind the recordings of a subject."""
    return eeg_truth(seen.stimuli, seen.network, subject=subject, amplitude=amplitude, seed=seed)


def shown(
    folder: str | Path | None = None,
    *,
    n_train: int = 1200,
    n_test: int = 200,
    seed: int = 0,
    reads: str = "picture",
    settings: FilterSettings = PAPER,
    cache: str | Path | None = None,
) -> Shown:
    """Scenes with the layers of the miniature CLIP, or the real embeddings of a folder; see the module.

    reads: "picture" or "filtered", what the sources see; settings: of the filter. Raises DataError for anything else, and for
    filtered pictures of a folder that holds embeddings alone.
    """
    if reads not in READS:
        raise DataError(f"phantom EEG: reads {reads!r} is not one of {', '.join(READS)}")
    if folder is not None:
        if reads != "picture":
            raise DataError(f"phantom EEG: reads={reads} needs pictures, and {folder} holds embeddings alone; leave it out")
        return embedded(folder, n_train=n_train, seed=seed)
    from brainlens.datasets import phantom

    stimuli = phantom.scenes(n_train=n_train, n_test=n_test, seed=seed)
    network = phantom.features(stimuli, cache=cache)
    image = np.asarray(network["image"], np.float32)
    read = network if reads == "picture" else phantom.features(saliency_stimuli(stimuli, settings), cache=cache)
    return Shown(stimuli, Features({"image": image}, network.ids, network.model), phantom.texts(stimuli), read)


def embedded(folder: str | Path, *, n_train: int = 1200, seed: int = 0) -> Shown:
    """The real embeddings of a folder as test images with their concept centres, and drawn training images."""
    image, centre = (_embeddings(Path(folder) / name) for name in FILES)
    if image.shape != centre.shape or n_train < 10:
        raise DataError(f"{folder}: {len(image)} images, {len(centre)} centres, n_train {n_train}; they match, n_train >= 10")
    rng = np.random.default_rng([seed, 61])
    mean, spread = centre.mean(0), centre - centre.mean(0)
    share = 0.1  # of the variance that lies outside the span of the centres, equally in all directions
    drawn = rng.standard_normal((n_train, len(centre))) @ spread * np.sqrt((1 - share) / len(centre))
    drawn += rng.standard_normal((n_train, image.shape[1])) * np.sqrt(share * spread.var(0).mean())
    train = _unit(mean + drawn)
    ids = np.array([f"drawn-{seed}-{i:06d}" for i in range(n_train)] + [f"things-test-{i:03d}" for i in range(len(image))])
    table = pd.DataFrame({"split": ["train"] * n_train + ["test"] * len(image)})
    stimuli = Stimuli(ids, NoImages(len(ids), f"{folder} holds embeddings and no images"), [], table)
    data = {"image": np.concatenate([train, image]), "concept": np.concatenate([train, centre])}
    images = Features({name: rows.astype(np.float32) for name, rows in data.items()}, ids, "CLIP ViT-L/14 (THINGS-EEG2)")
    return Shown(stimuli, images, None, Features({"image": images["image"]}, ids, images.model))


def _embeddings(path: Path) -> np.ndarray:
    """(n, d) float64 of length 1; raises DataError for a missing file, another shape, or missing values."""
    if not path.exists():
        raise DataError(f"{path} is missing; the folder holds {FILES[0]} and {FILES[1]}, CLIP embeddings of the THINGS-EEG2 test")
    values = np.asarray(open_npy(path, max_bytes=1 << 30), dtype=np.float64)
    values = values.reshape(len(values), -1) if values.ndim == 3 and values.shape[1] == 1 else values
    if values.ndim != 2 or not np.isfinite(values).all():
        raise DataError(f"{path} should hold finite embeddings (image, dimension), got shape {values.shape}")
    return _unit(values)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
