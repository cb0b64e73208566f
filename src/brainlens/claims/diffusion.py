"""The claims of the diffusion miniature: pictures that it draws from captions, under three judges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from brainlens.backbones.diffusion import Diffusion, caption_states, decode, load_diffusion
from brainlens.claims.judging import Judges, shares
from brainlens.datasets.source import Tell
from brainlens.models.generation.noise import candidate_noise, ddim_step, sampling_times
from brainlens.phantom.scenes import make_scenes

GUIDANCE = (2.0, 3.0, 4.0)  # chosen from on validation scenes
SEED = 41  # of the scenes, which no recording shows
STEPS = 25


def draw_captions(
    diffusion: Diffusion, states: Tensor, *, guidance: float, steps: int = STEPS, seed: int = 0, batch: int = 16
) -> np.ndarray:
    """Pictures (n, h, w, 3) uint8 of captions by their states (n, token, channel): DDIM, each with noise of its own."""
    config = diffusion.unet.config
    shape = (int(config.in_channels), int(config.sample_size), int(config.sample_size))
    times = sampling_times(diffusion, steps)
    done = []
    with torch.no_grad():
        for start in range(0, len(states), batch):
            said = states[start : start + batch].to(diffusion.prompt)
            noise = [candidate_noise(seed, start + i, shape) for i in range(len(said))]
            x = torch.stack(noise).to(diffusion.prompt) * float(diffusion.scheduler.init_noise_sigma)
            both = torch.cat([said, diffusion.prompt.expand(len(said), -1, -1)])
            for number, time in enumerate(times):
                told, free = diffusion.unet(torch.cat([x, x]), time, encoder_hidden_states=both, return_dict=False)[0].chunk(2)
                x = ddim_step(
                    diffusion, free + guidance * (told - free), x, time, times[number + 1] if number + 1 < len(times) else None
                )
            done.append(decode(diffusion, x))
    return np.concatenate(done)


def diffusion_claims(
    place: str | Path, *, scenes: int = 200, chosen_on: int = 64, steps: int = STEPS, device: str = "cpu", tell: Tell
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """`diffusion/JUDGE` on test scenes, `diffusion/real/JUDGE` of the same scenes as they are; the pictures, real and drawn.

    The pictures are (scene, h, w, 3).
    Guidance is the one with the best sum of judges on validation scenes. Captions are the plain ones (number 0), as the scenes'
    table has them.
    """
    diffusion = load_diffusion(place, device=device)
    best, level = -1.0, GUIDANCE[0]
    held = make_scenes(chosen_on, seed=SEED, split="validation")
    states, judges = caption_states(place, [c[0] for c in held.captions]), Judges.of(held, device=device)
    for number, guidance in enumerate(GUIDANCE):
        tell("guidance on validation scenes", number / len(GUIDANCE))
        found = judges(draw_captions(diffusion, states, guidance=guidance, steps=steps))
        total = float(sum(right.mean() for right in found.values()))
        best, level = (total, guidance) if total > best else (best, level)
    test = make_scenes(scenes, seed=SEED, split="test")
    judges = Judges.of(test, device=device)
    tell("drawing captions", None)
    drawn = draw_captions(diffusion, caption_states(place, [c[0] for c in test.captions]), guidance=level, steps=steps)
    metrics = shares("diffusion", judges(drawn)) | shares("diffusion/real", judges(np.asarray(test.images)))
    return metrics | {"diffusion/guidance": level}, np.asarray(test.images), drawn
