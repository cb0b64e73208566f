"""What the diffusion path adds to digits that were decoded from real fMRI: their latents under some noise, drawn from there.

    z_s = sqrt(a_s) z + sqrt(1 - a_s) e,     picture = decode(DDIM from z_s to the clean latent)

z: latents that ridge predicts out of fold; a_s: of the schedule at strength s. Empty prompt, no guidance. The steps are those of
`brainlens reconstruct --low-level s`. The same from the true latents of the seen pictures says what a perfect brain would keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from brainlens.backbones.diffusion import Diffusion
from brainlens.metrics.reconstruction import pixel_correlation, two_way
from brainlens.metrics.statistics import bootstrap_mean, paired_bootstrap
from brainlens.models.generation.adapter_training import empty_text
from brainlens.models.generation.sampling import Prompts, Sampling, draw_pictures
from brainlens.nn.region_adapter import RegionAdapter, RegionPrompt
from brainlens.reconstruct.low_level import Space

STRENGTHS = (0.1, 0.2, 0.4, 0.6)  # shares of the noise; all are reported, none is chosen
DRAWS = 4  # of one start, each with noise of its own
STEPS = 20  # of the whole schedule, as the command has by default


def diffused(
    diffusion: Diffusion, latents: np.ndarray, strength: float, *, draws: int = DRAWS, steps: int = STEPS, seed: int = 0
) -> np.ndarray:
    """Grey pictures (image, draw, h, w) in [0, 1] that the network draws from latents (image, c, h, w) under a share of noise.

    Empty prompt, no guidance. Raises DataError as `Sampling` does.
    """
    text = RegionPrompt(empty_text(diffusion))
    adapter = RegionAdapter(diffusion.unet, [np.zeros(1, np.int64)])  # its one region is in no prompt
    prompts = Prompts(lambda rows: text, lambda rows: text, len(latents), torch.from_numpy(latents).to(diffusion.prompt))
    sampling = Sampling(candidates=draws, guidance=1.0, steps=steps, seed=seed, strength=strength, batch=64)
    return draw_pictures(diffusion, adapter, prompts, sampling).mean(axis=-1, dtype=np.float32) / 255


def picture_scores(seen: np.ndarray, drawn: np.ndarray, digit: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (image,) of drawn pictures (image, draw, h, w) against seen ones (image, h, w), by name.

    two_way, two_way_within the same digit (image,), pixcorr: of the mean over draws; single/...: the mean score of one draw.
    """
    flat = seen.reshape(len(seen), -1)

    def of(pictures: np.ndarray) -> dict[str, np.ndarray]:
        rows = pictures.reshape(len(seen), -1)
        return {
            "two_way": two_way(flat, rows),
            "two_way_within": two_way(flat, rows, groups=digit),
            "pixcorr": pixel_correlation(seen, pictures),
        }

    each = [of(drawn[:, k]) for k in range(drawn.shape[1])]
    alone = {f"single/{name}": np.mean([scores[name] for scores in each], axis=0) for name in each[0]}
    return of(drawn.mean(axis=1)) | alone


def diffused_claims(
    head: str,
    seen: np.ndarray,
    digit: np.ndarray,
    undiffused: np.ndarray,
    drawn: Mapping[float, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """`HEAD/STRENGTH/SCORE` of each strength, and `.../added...`, two-way minus that of the undiffused pictures, paired.

    seen, undiffused (image, h, w); drawn: by strength, (image, draw, h, w). STRENGTH 0 is undiffused. Intervals over images.
    """
    before = picture_scores(seen, undiffused[:, None], digit)
    metrics: dict[str, float] = {}
    for strength, scores in {0.0: before, **{s: picture_scores(seen, p, digit) for s, p in drawn.items()}}.items():
        place = f"{head}/{strength:g}"
        for name, values in scores.items():
            if strength == 0 and name.startswith("single/"):
                continue  # nothing is drawn
            metrics |= _with_interval(f"{place}/{name}", bootstrap_mean(values, seed=seed))
            if strength and "two_way" in name:
                apart = paired_bootstrap(values, before[name], seed=seed)[:3]
                metrics |= _with_interval(f"{place}/{name.replace('two_way', 'added')}", apart)
    return metrics


def diffusion_path(
    diffusion: Diffusion,
    space: Space,
    seen: np.ndarray,
    digit: np.ndarray,
    starts: Mapping[str, np.ndarray],
    *,
    strengths: Sequence[float] = STRENGTHS,
    draws: int = DRAWS,
    steps: int = STEPS,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """`digits69/reconstruct/NAME/STRENGTH/...` of each start {name: latents (image, value) of the space}; and pictures.

    space: the autoencoder of the diffusion model, fitted; seen (image, h, w). Pictures (image, h, w): of each start and strength
    the first draw, `NAME-STRENGTH`, and the mean over draws, `NAME-STRENGTH-mean`.
    """
    config = diffusion.unet.config
    shape = (-1, int(config.in_channels), int(config.sample_size), int(config.sample_size))
    metrics: dict[str, float] = {}
    pictures: dict[str, np.ndarray] = {}
    for name, latents in starts.items():
        begun = latents.reshape(shape)
        drawn = {s: diffused(diffusion, begun, s, draws=draws, steps=steps, seed=seed) for s in strengths}
        undiffused = np.clip(space.decode(latents), 0, 1)
        metrics |= diffused_claims(f"digits69/reconstruct/{name}", seen, digit, undiffused, drawn, seed=seed)
        for strength, found in drawn.items():
            pictures |= {f"{name}-{strength:g}": found[:, 0], f"{name}-{strength:g}-mean": found.mean(axis=1)}
    return metrics, pictures


def _with_interval(key: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{key}{end}": float(value) for end, value in zip(("", ".low", ".high"), values, strict=True)}
