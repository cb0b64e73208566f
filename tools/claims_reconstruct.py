"""The groups of claims about pictures: `diffusion` (from captions), `reconstruct` (from the phantom's brain) and
`digits69` (real fMRI). `tools/claims.py` runs them; parts of `reconstruct` can be asked for singly:

    python tools/claims.py --only reconstruct --go-on --parts main truth no_dropout
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from brainlens import miniatures, store
from brainlens.backbones.diffusion import load_diffusion
from brainlens.claims.diffusion import diffusion_claims
from brainlens.claims.digits import digit_claims, spaces_of
from brainlens.claims.reconstruct import ABLATIONS, ReconstructStudy
from brainlens.datasets.source import Source, open_recording
from brainlens.reconstruct.asked import Asked
from brainlens.types import DataError
from claims_page import Versus

PARTS = ("main", "truth", "true_embedding", "contributions", "shuffled_training", *ABLATIONS)
FIRST = (
    *("main", "truth", "true_embedding", "contributions", "shuffled_training", "at_prediction", "four_candidates"),
    *("ridge_chooser", "low_level"),
    *("trained", "reference", "no_dropout", "no_min_snr", "no_distillation", "start_ridge", "paper", "parcels/50", "parcels/200"),
)
SIZES = {  # training scenes, test scenes, what is asked of the main run, training steps of an ablation
    "full": (9000, 1000, Asked(trials=200, explain=16, candidates=8), 250),
    "half": (3000, 300, Asked(trials=100, explain=16), 400),
    "small": (300, 60, Asked(pretrain=200, pretrain_steps=8, steps=8, trials=12, explain=4, candidates=2, sampling_steps=4), 4),
}


def _retrieved(score: str) -> tuple[str, ...]:
    """The same score of the nearest training picture, by ridge and by evidence."""
    return tuple(f"reconstruct/{name}/{score}" for name in ("retrieval_baseline", "evidence_retrieval"))


TARGETS: dict[str, str | Versus] = {
    "diffusion/pick50": ">= .9",
    "diffusion/color": ">= .85",
    "diffusion/place": ">= .7",
    "diffusion/kind_detector": ">= .6",
    "reconstruct/two_way_clip": ">= .9",
    "reconstruct/kind_top1": ">= .6",
    "reconstruct/kind_detector": Versus("above retrieval", above=_retrieved("kind_detector")),
    "reconstruct/color": Versus("above retrieval", above=_retrieved("color")),
    "reconstruct/place": Versus("above retrieval", above=_retrieved("place")),
    "reconstruct/shuffled/two_way_clip": ".5",
    "reconstruct/shuffled_training/two_way_clip": ".5",
    "reconstruct/contribution_auroc": ">= .85",
    "reconstruct/lesion/faces_drop": "> 0",
    "reconstruct/lesion/places_drop": "> 0",
    "reconstruct/lesion_refit/faces_drop": "> 0",
    "reconstruct/lesion_refit/places_drop": "> 0",
    "reconstruct/field_correlation": Versus("above the shuffled", above=("reconstruct/field_correlation_shuffled",)),
    "digits69/reconstruct/two_way": ">= .91",
    "digits69/reconstruct/two_way_within": ">= .85",
}
Tell = Callable[..., None]


def diffusion_group(scale: str, work: Path, tell: Tell) -> dict[str, float]:
    """Pictures that the miniature draws from captions; a grid of them is kept for the docs."""
    scenes = {"full": 200, "half": 100, "small": 16}[scale]
    metrics, real, drawn = diffusion_claims(
        miniatures.folder("diffusion"), scenes=scenes, chosen_on=min(64, scenes), steps=25 if scale != "small" else 6, tell=tell
    )
    for name, pictures in (("real", real), ("drawn", drawn)):
        store.save_array(work / "diffusion", name, pictures)
    return metrics


def reconstruct_group(
    scale: str, work: Path, tell: Tell, *, parts: tuple[str, ...] = FIRST, done: Callable[[dict[str, float]], None]
) -> dict[str, float]:
    """The phantom's brain draws its test scenes; each part is kept, so that a second call goes on."""
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise DataError(f"reconstruct has no part {unknown[0]!r}; it has {', '.join(PARTS)}")
    train, test, asked, short = SIZES[scale]
    miniatures.folder("diffusion")  # said before anything is simulated
    source = Source(n_train=train, n_test=test)
    recording = open_recording(source, layers=True, tell=tell)
    half = replace(recording.responses, data=recording.responses.data.astype(np.float16))
    study = ReconstructStudy(
        replace(recording, responses=half), source, work / f"reconstruct-{scale}", asked, short=short, tell=tell,
        scenes={"full": 48, "half": 24, "small": 4}[scale], lesioned={"full": 150, "half": 48, "small": 4}[scale],
    )  # fmt: skip
    made = {
        "main": study.main,
        "truth": study.truth,
        "true_embedding": study.ceiling,
        "contributions": study.contributions,
        "shuffled_training": study.shuffled,
    }
    metrics: dict[str, float] = {}
    for name in parts:
        metrics |= made[name]() if name in made else study.ablation(name)
        done(metrics)
    return metrics


def digits_group(scale: str, work: Path, tell: Tell) -> dict[str, float]:
    """Real fMRI of handwritten digits, decoded in ten folds through the spaces that are there, and drawn on by the miniature."""
    folder = os.environ.get("BRAINLENS_TEST_DATA")
    if not folder:
        raise SystemExit("set BRAINLENS_TEST_DATA to the folder of the real recordings, or leave this group out")
    data = Path(folder)
    try:
        diffusion = load_diffusion(miniatures.folder("diffusion"))
    except DataError:
        diffusion = None  # without the miniature its autoencoder is no space to choose from, and nothing is drawn
    tell("digits in ten folds", None)
    metrics, pictures = digit_claims(data / "digits69", spaces_of(data / "taef2", diffusion), diffusion=diffusion)
    for name, found in pictures.items():
        store.save_array(work / "digits69", name, found)
    return metrics
