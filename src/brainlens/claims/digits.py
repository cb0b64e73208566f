"""The claims on real fMRI with the pictures that were seen: handwritten digits, decoded out of fold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from brainlens.backbones.diffusion import Diffusion, decode, encode
from brainlens.backbones.tiny_autoencoder import grey_functions
from brainlens.claims.digits_diffused import DRAWS, diffusion_path
from brainlens.datasets import digits69
from brainlens.metrics.picture_protocols import resize
from brainlens.metrics.reconstruction import two_way
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.reconstruct.low_level import (
    Autoencoder,
    PictureAxes,
    Pixels,
    Space,
    low_level,
    low_level_chosen,
    low_level_latents,
)

FOLDS = 10
SIDE = 64


def digit_claims(
    folder: Path,
    spaces: Mapping[str, Space],
    *,
    diffusion: Diffusion | None = None,
    draws: int = DRAWS,
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """`digits69/reconstruct/two_way` over all pairs and `two_way_within` of the same digit; and pictures (image, side, side).

    Folds with as many of both digits; the space of each fold is the one that does best among its training images.
    `digits69/reconstruct/SPACE/...`: each space alone. Identification is of pixels, reconstruction->image; intervals over images.
    diffusion: what it makes of the decoded latents of its autoencoder in so many draws, `digits69/reconstruct/diffusion/...`, and
    of the true ones, `.../diffusion_of_truth/...` (`digits_diffused`).
    """
    recording = digits69.load(folder, standardise=False)
    seen = resize(np.asarray(recording.stimuli.images)[..., 0].astype(np.float32) / 255, SIDE)  # they are grey
    digit = recording.stimuli.table["category"].to_numpy(dtype=str)
    x = np.asarray(recording.responses.data, dtype=np.float64)
    fold = np.zeros(len(x), dtype=int)
    for k, (_, held) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, digit)):
        fold[held] = k
    known = {"pixels": Pixels(), "axes20": PictureAxes(20), **spaces}
    chosen = low_level_chosen(x, seen, known, fold=fold, seed=seed)
    made = {"": chosen.pictures} | {
        f"{name}/": low_level(x, seen, space=s, fold=fold, seed=seed).pictures for name, s in known.items()
    }
    metrics: dict[str, float] = {}
    flat = seen.reshape(len(seen), -1)
    for name, pictures in made.items():
        for key, groups in (("two_way", None), ("two_way_within", digit)):
            values = two_way(flat, pictures.reshape(len(seen), -1), groups=groups)
            ends = zip(("", ".low", ".high"), bootstrap_mean(values, seed=seed), strict=True)
            metrics |= {f"digits69/reconstruct/{name}{key}{end}": v for end, v in ends}
    share = {name: float(np.mean([s == name for s in chosen.space])) for name in known}
    metrics |= {f"digits69/reconstruct/{name}/chosen_share": v for name, v in share.items()}
    shown = {"seen": seen, **{name.rstrip("/") or "chosen": pictures for name, pictures in made.items()}}
    if diffusion is not None:
        space = autoencoder_of(diffusion)
        starts = {"diffusion": low_level_latents(x, seen, space, fold=fold, seed=seed), "diffusion_of_truth": space.encode(seen)}
        added, drawn = diffusion_path(diffusion, space, seen, digit, starts, draws=draws, seed=seed)
        metrics, shown = metrics | added, shown | drawn
    return metrics, shown


def spaces_of(taef2: Path | None, diffusion: Diffusion | None) -> dict[str, Space]:
    """Latents of the autoencoders that are there: the published one by its folder, and that of a diffusion model."""
    found: dict[str, Space] = {}
    if taef2 is not None:
        found["taef2"] = Autoencoder(*grey_functions(taef2))
    if diffusion is not None:
        found["miniature"] = autoencoder_of(diffusion)
    return found


def autoencoder_of(diffusion: Diffusion) -> Autoencoder:
    """The autoencoder of a diffusion model as a space of grey pictures (n, side, side) in [0, 1]."""

    def to_latents(pictures: np.ndarray) -> np.ndarray:
        shown = [np.repeat(np.rint(picture * 255).astype(np.uint8)[..., None], 3, axis=2) for picture in pictures]
        with torch.no_grad():
            return encode(diffusion, diffusion.preprocess.batch(shown)).cpu().numpy()

    def to_pictures(latents: np.ndarray) -> np.ndarray:
        return decode(diffusion, torch.from_numpy(np.asarray(latents, np.float32))).mean(axis=-1, dtype=np.float32) / 255

    return Autoencoder(to_latents, to_pictures)
