"""The claims on real fMRI with the pictures that were seen: handwritten digits, decoded out of fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from brainlens.backbones.diffusion import Diffusion, decode, encode
from brainlens.backbones.tiny_autoencoder import grey_functions
from brainlens.datasets import digits69
from brainlens.metrics.picture_protocols import resize
from brainlens.metrics.reconstruction import two_way
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.models.generation.noise import candidate_noise
from brainlens.models.generation.schedules import open_schedule
from brainlens.reconstruct.low_level import Autoencoder, PictureAxes, Pixels, Space, low_level, low_level_chosen

FOLDS = 10
SIDE = 64
STRENGTHS = (0.1, 0.2, 0.4, 0.6)  # shares of the noise under which latents are drawn again
DRAWS, STEPS, BATCH = 4, 20, 25


def digit_claims(
    folder: Path, spaces: Mapping[str, Space], *, diffusion: Diffusion | None = None, folds: int = FOLDS, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """`digits69/reconstruct/two_way` over all pairs and `two_way_within` of the same digit; and pictures (image, side, side).

    Folds with as many of both digits; the space of each fold is the one that does best among its training images.
    `digits69/reconstruct/SPACE/...`: each space alone; with a diffusion model what `redrawn_claims` says. Identification is of
    pixels, reconstruction->image; intervals over images.
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
        more, drawn = redrawn_claims(x, seen, digit, fold, diffusion, seed=seed)
        metrics, shown = metrics | more, shown | drawn
    return metrics, shown


def redrawn_claims(
    x: np.ndarray, seen: np.ndarray, digit: np.ndarray, fold: np.ndarray, diffusion: Diffusion, *,
    strengths: Sequence[float] = STRENGTHS, draws: int = DRAWS, seed: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:  # fmt: skip
    """What a diffusion model adds to the latents that ridge predicts, drawn again at each strength; and the pictures.

    `digits69/reconstruct/diffusion/STRENGTH/two_way[_within]` of the mean picture of `draws` draws, `.../single/...` of one draw;
    `.../added[_within]` less that of the same latents decoded as they are, over the same pairs; `diffusion_of_truth/...` from the
    latents of the pictures themselves: whether the network keeps a digit. x (image, voxel), seen (image, side, side) in [0, 1],
    digit and fold (image,).
    """
    metrics, shown = dict[str, float](), dict[str, np.ndarray]()
    flat = seen.reshape(len(seen), -1)
    plain = low_level(x, seen, space=autoencoder_of(diffusion), fold=fold, seed=seed).pictures
    for strength in strengths:
        spaces = [autoencoder_of(diffusion, partial(redrawn, diffusion, strength=strength, draw=draw)) for draw in range(draws)]
        each = [low_level(x, seen, space=space, fold=fold, seed=seed).pictures for space in spaces]
        true = [np.clip(space.fit(seen).decode(space.encode(seen)), 0, 1) for space in spaces]
        mean = np.mean(each, axis=0)
        shown |= {f"diffusion-{strength:g}": mean, f"diffusion_of_truth-{strength:g}": np.mean(true, axis=0)}
        for end, groups in (("", None), ("_within", digit)):
            score = partial(_identified, flat, groups=groups)
            found = {
                f"diffusion/{strength:g}/two_way{end}": score(mean),
                f"diffusion/{strength:g}/added{end}": score(mean) - score(plain),
                f"diffusion/{strength:g}/single/two_way{end}": np.mean([score(one) for one in each], axis=0),
                f"diffusion_of_truth/{strength:g}/two_way{end}": np.mean([score(one) for one in true], axis=0),
            }
            for name, values in found.items():
                span = zip(("", ".low", ".high"), bootstrap_mean(values, seed=seed), strict=True)
                metrics |= {f"digits69/reconstruct/{name}{key}": value for key, value in span}
    return metrics, shown


def redrawn(diffusion: Diffusion, latents: np.ndarray, *, strength: float, draw: int) -> np.ndarray:
    """Latents (n, c, h, w) noised to `strength` and denoised: what the network takes for a likely picture near them.

        z' = DDIM(sqrt(abar_t) z + sqrt(1 - abar_t) e),     t after the first 1 - strength of `STEPS` steps

    Under the empty prompt without guidance; e is that of candidate `draw`, the same for all pictures.
    """
    made = []
    for start in range(0, len(latents), BATCH):
        z = torch.from_numpy(np.asarray(latents[start : start + BATCH], np.float32)).to(diffusion.prompt.device)
        schedule = open_schedule(diffusion, "ddim", STEPS, seed=0, candidates=1, trials=len(z))
        first = min(int((1 - strength) * STEPS), STEPS - 1)
        noise = candidate_noise(0, draw, tuple(z.shape[1:])).to(z).expand_as(z)
        prompt = diffusion.prompt.expand(len(z), -1, -1)
        with torch.no_grad():
            z = schedule.noised(z, noise, first)
            for number in range(first, STEPS):
                seen, time = schedule.seen(z, number), schedule.times[number]
                said = diffusion.unet(seen, time, encoder_hidden_states=prompt, return_dict=False)[0]
                z = schedule.after(said, z, number)
        made.append(z.cpu().numpy())
    return np.concatenate(made)


def _identified(flat: np.ndarray, pictures: np.ndarray, *, groups: np.ndarray | None) -> np.ndarray:
    """Two-way identification (image,) of pixels, reconstruction->image."""
    return two_way(flat, pictures.reshape(len(flat), -1), groups=groups)


def spaces_of(taef2: Path | None, diffusion: Diffusion | None) -> dict[str, Space]:
    """Latents of the autoencoders that are there: the published one by its folder, and that of a diffusion model."""
    found: dict[str, Space] = {}
    if taef2 is not None:
        found["taef2"] = Autoencoder(*grey_functions(taef2))
    if diffusion is not None:
        found["miniature"] = autoencoder_of(diffusion)
    return found


def autoencoder_of(diffusion: Diffusion, between: Callable[[np.ndarray], np.ndarray] | None = None) -> Autoencoder:
    """The autoencoder of a diffusion model as a space of grey pictures (n, side, side) in [0, 1].

    between: what is done to latents (n, c, h, w) before they are decoded.
    """

    def to_latents(pictures: np.ndarray) -> np.ndarray:
        shown = [np.repeat(np.rint(picture * 255).astype(np.uint8)[..., None], 3, axis=2) for picture in pictures]
        with torch.no_grad():
            return encode(diffusion, diffusion.preprocess.batch(shown)).cpu().numpy()

    def to_pictures(latents: np.ndarray) -> np.ndarray:
        latents = latents if between is None else between(latents)
        return decode(diffusion, torch.from_numpy(np.asarray(latents, np.float32))).mean(axis=-1, dtype=np.float32) / 255

    return Autoencoder(to_latents, to_pictures)
