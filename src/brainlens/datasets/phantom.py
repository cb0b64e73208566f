"""The phantom as a recording: drawn scenes, the shipped miniature CLIP, simulated fMRI of one subject.

    from brainlens.datasets import phantom
    recording = phantom.load(n_train=1200, n_test=200)
    network = phantom.features(recording.stimuli)     # the layers that the voxels read; network["image"] is the embedding

It is a simulation: say so in every figure made with it. Truth stands in `responses.units` and `stimuli.table`;
`recording.truth` is the generative model itself, for the ideal observer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens.phantom.fmri import PhantomTruth, make_trials, phantom_truth, simulate
from brainlens.phantom.noise import KAPPA
from brainlens.phantom.scenes import make_scenes
from brainlens.types import DataError, Features, Recording, Stimuli

FACTS = {
    "name": "phantom",
    "title": "brainlens phantom: simulated fMRI of drawn scenes with known truth",
    "kind": "fMRI",
    "measure": "fMRI betas (simulated)",
    "simulated": True,
    "several_subjects": True,
    "offers": ("pictures", "captions", "coordinates", "split"),
    "subjects": "1, 2, 3, ... (any number)",
    "space": "FSL MNI152, 4 mm (46, 55, 46) or 2 mm (91, 109, 91)",
    "licence": "MIT",
    "citation": "brainlens",
    "url": "",
    "needs": "nothing: it is drawn and simulated on the spot",
}


def load(
    cache: str | Path | None = None,
    *,
    n_train: int = 1200,
    n_validation: int = 0,
    n_test: int = 200,
    grid: str = "4mm",
    subject: int = 1,
    seed: int = 0,
    kappa: float = KAPPA,
    concepts: str = "domains",
) -> Recording:
    """Trials of one simulated subject, every scene three times, and the scenes.

    Test scenes show combinations of kind, colour and background that no training scene shows. The scenes depend on the
    seed and not on the subject, so subjects see the same pictures. cache: folder in which features are kept. concepts: what
    category voxels prefer, "domains" or "kinds" (with columns `kind` and `kind2` in the units).

    Raises DataError where the training set is empty, or the miniature CLIP is missing.
    """
    stimuli = scenes(n_train=n_train, n_validation=n_validation, n_test=n_test, seed=seed)
    network = features(stimuli, cache=cache)
    known = truth(stimuli, network, grid=grid, subject=subject, seed=seed, kappa=kappa, concepts=concepts)
    return Recording(simulate(known, make_trials(stimuli, subject=subject, seed=seed)), stimuli, known)


def scenes(*, n_train: int = 1200, n_validation: int = 0, n_test: int = 200, seed: int = 0) -> Stimuli:
    """The scenes of all splits in one table with the column `split`."""
    if n_train < 1 or n_validation < 0 or n_test < 0:
        raise DataError(f"phantom: n_train {n_train}, n_validation {n_validation}, n_test {n_test}: at least one training scene")
    wanted = {"train": n_train, "validation": n_validation, "test": n_test}
    parts = {name: make_scenes(n, seed=seed, split=name) for name, n in wanted.items() if n}
    table = pd.concat([part.table.assign(split=name) for name, part in parts.items()], ignore_index=True)
    return Stimuli(
        np.concatenate([part.ids for part in parts.values()]),
        np.concatenate([part.images for part in parts.values()]),
        [caption for part in parts.values() for caption in part.captions],
        table,
    )


def features(stimuli: Stimuli, *, cache: str | Path | None = None) -> Features:
    """The miniature CLIP's vision layers of these scenes, float16: global and spatial tokens; layer "image" is the embedding."""
    from brainlens import miniatures
    from brainlens.backbones import vision

    return vision.extract(vision.load(miniatures.folder("clip")), stimuli, batch=128, cache=cache)


def texts(stimuli: Stimuli) -> Features:
    """The miniature CLIP's caption embeddings, layer "text": the mean over the phrasings of each scene, of length 1."""
    from brainlens import miniatures
    from brainlens.backbones import clip

    return clip.embed_texts(clip.load_clip(miniatures.folder("clip")), stimuli.captions, stimuli.ids)


def truth(
    stimuli: Stimuli,
    network: Features | None = None,
    *,
    grid: str = "4mm",
    subject: int = 1,
    seed: int = 0,
    kappa: float = KAPPA,
    concepts: str = "domains",
) -> PhantomTruth:
    """The generative model behind `load` with the same arguments; network: `features(stimuli)` if it is there already."""
    network = features(stimuli) if network is None else network
    return phantom_truth(stimuli, network, subject=subject, grid=grid, kappa=kappa, seed=seed, concepts=concepts)
