"""The noise schedule of a diffusion model: targets, weights of time steps in the loss, and deterministic sampling.

z_t = sqrt(a_t) x + sqrt(1 - a_t) e,     snr_t = a_t / (1 - a_t),     v_t = sqrt(a_t) e - sqrt(1 - a_t) x
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from brainlens.types import DataError

WEIGHTINGS = ("none", "min-snr", "min-snr-velocity")


def loss_weights(alphas: Tensor, prediction: str, weighting: str, gamma: float = 5.0) -> Tensor:
    """Weight of every time step's squared error (t,), finite and non-negative at any a in [0, 1].

    "min-snr" (Hang et al. 2023) weighs the error of the clean picture by min(snr, gamma), which is
        epsilon:     min(1, gamma (1 - a) / a)           1 at zero SNR
        v_prediction: min(a, gamma (1 - a))              min(snr, gamma) / (snr + 1); 0 at zero SNR
    "min-snr-velocity" caps the easy steps on the velocity's own scale and leaves the noisy ones whole, where a zero-terminal
    schedule starts to draw: min(1, gamma (1 - a)) = min(snr + 1, gamma) / (snr + 1). For epsilon it is "min-snr".
    "none": 1. Raises DataError for other names and for gamma that is not positive.
    """
    if weighting not in WEIGHTINGS or gamma <= 0 or prediction not in ("epsilon", "v_prediction"):
        raise DataError(
            f"weighting {weighting!r} with gamma {gamma} of {prediction}; choose from {', '.join(WEIGHTINGS)}, gamma > 0"
        )
    a = alphas.double()
    if weighting == "none":
        return torch.ones_like(a).float()
    if prediction == "epsilon":
        return (gamma * (1 - a) / a.clamp_min(torch.finfo(a.dtype).tiny)).clamp_max(1).float()
    easy = gamma * (1 - a)
    return torch.minimum(a if weighting == "min-snr" else torch.ones_like(a), easy).float()


def add_noise(clean: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """z of clean latents (B, ...) at a (B,)."""
    a = alphas.to(clean).view(-1, *[1] * (clean.ndim - 1))
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def target(clean: Tensor, noise: Tensor, alphas: Tensor, prediction: str) -> Tensor:
    """What the network should say: the noise, or the velocity. clean, noise (B, ...), alphas (B,) -> (B, ...)."""
    if prediction == "epsilon":
        return noise
    a = alphas.to(clean).view(-1, *[1] * (clean.ndim - 1))
    return a.sqrt() * noise - (1 - a).sqrt() * clean


def sampling_times(diffusion: Any, steps: int) -> list[int]:
    """Time steps of sampling, from noise to picture, in the spacing that the model's scheduler has.

    Raises DataError for steps outside the schedule, and for a model of noise whose schedule ends in pure noise, from which the
    clean picture cannot be computed.
    """
    length = len(diffusion.alphas)
    if not 1 <= steps <= length:
        raise DataError(f"{steps} steps of sampling; choose 1 to {length}, the length of the schedule")
    diffusion.scheduler.set_timesteps(steps)
    times = [min(int(t), length - 1) for t in diffusion.scheduler.timesteps]
    if diffusion.prediction == "epsilon" and float(diffusion.alphas[times[0]]) == 0:
        raise DataError(
            f"{diffusion.name} predicts noise at a step that is all noise; a zero-terminal schedule needs v_prediction"
        )
    return times


def ddim_step(diffusion: Any, said: Tensor, latents: Tensor, time: int, following: int | None) -> Tensor:
    """Latents (B, c, h, w) at the following time step (None: the clean picture), DDIM eq. 12 with sigma = 0.

    said: what the network predicts, in the shape of the latents.
    x = (z - sqrt(1 - a) e) / sqrt(a) or sqrt(a) z - sqrt(1 - a) v;  z' = sqrt(a') x + sqrt(1 - a') e. Equal to the scheduler's
    own step where the number of steps divides the schedule; elsewhere that one goes to a time step beside the next.
    """
    scheduler = diffusion.scheduler
    here = diffusion.alphas[time].to(latents)
    there = (scheduler.final_alpha_cumprod if following is None else diffusion.alphas[following]).to(latents)
    a, b = here.sqrt(), (1 - here).sqrt()
    if diffusion.prediction == "epsilon":
        clean, noise = (latents - b * said) / a, said
    else:
        clean, noise = a * latents - b * said, a * said + b * latents
    if scheduler.config.clip_sample:
        clean = clean.clamp(-scheduler.config.clip_sample_range, scheduler.config.clip_sample_range)
    return there.sqrt() * clean + (1 - there).sqrt() * noise


def candidate_noise(seed: int, candidate: int, shape: tuple[int, ...]) -> Tensor:
    """The starting noise of a candidate: the same for every trial, in every batch, with or without lesions.

    Of any shape that is asked for; here (c, h, w) of latents.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}/{candidate}".encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))
