"""Kriegeskorte et al. 2008: 92 object photographs and the dissimilarities of human and monkey IT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.datasets.npz import read_npz
from brainlens.metrics.similarity import square
from brainlens.types import DataError, Recording, Responses, Stimuli

FACTS = {
    "name": "images92",
    "title": "Matching categorical object representations in inferior temporal cortex of man and monkey",
    "kind": "fMRI",
    "measure": "fMRI dissimilarities",
    "simulated": False,
    "several_subjects": False,
    "offers": ("pictures", "categories", "dissimilarities"),
    "licence": "not stated for the images; through rsatoolbox (MIT)",
    "citation": "Kriegeskorte et al. (2008), Neuron 60, 1126-1141",
    "url": "https://github.com/rsagroup/rsatoolbox",
    "access": "public",
    "subjects": 4,
    "sessions": 2,
    "images": 92,
    "pairs": 4186,
}
FILE = "k2008_92.npz"
KEYS = ("images", "category", "human", "face", "animal", "natural", "hIT_rdm", "mIT_rdm")


def load(folder: str | Path, *, source: str = "human", rank: int | None = None) -> Recording:
    """Patterns (92, k) recovered from the mean dissimilarities, known up to a rotation, and the 92 photographs.

    source: "human" (mean over subjects and sessions), "subject1" ... "subject4" (mean over sessions), "monkey".
    Units are directions, not voxels: what a rotation changes (single-unit maps, per-unit scores) means nothing here;
    the sum over units, distances and retrieval do. rank: keep the first directions only.
    """
    rdms = load_rdms(folder)
    if source not in rdms:
        raise DataError(f"source {source!r} is not known; choose one of {', '.join(rdms)}")
    patterns, negative = responses_from_rdm(rdms[source].mean(axis=0))
    patterns = patterns[:, :rank]
    stimuli = load_stimuli(folder)
    trials = pd.DataFrame({"stimulus": stimuli.ids, "subject": source})
    units = pd.DataFrame({"direction": np.arange(patterns.shape[1]), "negative_share": negative})
    return Recording(Responses(patterns.astype(np.float32), trials, units, measure="z"), stimuli)


def load_stimuli(folder: str | Path) -> Stimuli:
    """The 92 photographs, ids "00" to "91", with category, human, face, animal, natural."""
    content = _read(folder)
    ids = np.array([f"{i:02d}" for i in range(len(content["images"]))])
    table = pd.DataFrame({"category": content["category"].astype(str)})
    for name in ("human", "face", "animal", "natural"):
        table[name] = content[name].astype(bool)
    return Stimuli(ids, content["images"], [[] for _ in ids], table)


def load_rdms(folder: str | Path) -> dict[str, np.ndarray]:
    """Dissimilarities (repetition, 92, 92) = 1 - Pearson r: "human" (8), "subject1" ... "subject4" (2 each), "monkey" (1)."""
    content = _read(folder)
    human = content["hIT_rdm"].astype(np.float64)
    out = {"human": np.stack([square(r) for r in human.reshape(-1, human.shape[-1])])}
    for i, sessions in enumerate(human):
        out[f"subject{i + 1}"] = np.stack([square(r) for r in sessions])
    out["monkey"] = square(content["mIT_rdm"].astype(np.float64))[None]
    return out


def subject_rdms(folder: str | Path) -> np.ndarray:
    """Dissimilarities of the four subjects, mean over sessions: (subject, 4186), upper triangle, row-major."""
    rdms = load_rdms(folder)
    upper = np.triu_indices(len(rdms["human"][0]), 1)
    return np.stack([rdm.mean(axis=0)[upper] for name, rdm in rdms.items() if name.startswith("subject")])


def responses_from_rdm(rdm: np.ndarray) -> tuple[np.ndarray, float]:
    """Patterns X (n, k) with X X' = 1 - RDM, up to a rotation, and the share of eigenvalues that was negative.

    With dissimilarity 1 - r, 1 - RDM is the matrix of correlations, that is the Gram matrix of the patterns after
    each is centred and scaled to length one. X = V sqrt(L) over its positive eigenvalues L. Averaging and noise make
    some eigenvalues negative; they are set to zero and their share |negative| / sum |all| is returned.
    Raises DataError for a matrix that is not symmetric, not finite, or whose diagonal is not zero.
    """
    if rdm.ndim != 2 or rdm.shape[0] != rdm.shape[1] or not np.isfinite(rdm).all():
        raise DataError(f"an RDM is a square matrix of finite numbers, got {rdm.shape}")
    if np.abs(rdm - rdm.T).max() > 1e-8 or np.abs(np.diag(rdm)).max() > 1e-8:
        raise DataError("an RDM is symmetric with a zero diagonal; pass the full matrix (metrics.similarity.square makes it)")
    values, vectors = np.linalg.eigh(1.0 - rdm)
    values, vectors = values[::-1], vectors[:, ::-1]
    negative = float(np.abs(values[values < 0]).sum() / np.abs(values).sum())
    keep = values > 1e-10 * values[0]
    vectors = vectors[:, keep] * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])[keep]
    return vectors * np.sqrt(values[keep]), negative


def _read(folder: str | Path) -> dict[str, np.ndarray]:
    path, content = read_npz(folder, FILE, KEYS)
    n = len(content["images"])
    if content["hIT_rdm"].shape[-1] != n * (n - 1) // 2 or len(content["category"]) != n:
        raise DataError(f"{path}: {n} images but {content['hIT_rdm'].shape[-1]} pairs and {len(content['category'])} categories")
    return content
