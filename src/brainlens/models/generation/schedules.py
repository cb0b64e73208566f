"""The steps of a drawing: DDIM as `noise` has it, or one of diffusers' own schedulers on the pipeline's own noise schedule.

    ddim    z' = sqrt(a') x + sqrt(1 - a') e                                       deterministic (Song et al. 2021, eq. 12)
    ddpm    z' ~ q(z' | z, x)                                                      new noise at every step (Ho et al. 2020)
    euler   z' = z + (s' - s) (z - x) / s,  s = sqrt((1 - a) / a)                  deterministic (Karras et al. 2022)
    dpm     two steps of DPM-Solver++ at a time                                    deterministic (Lu et al. 2022)

x: the clean picture that the network's answer says. What diffusers' schedulers do between is theirs (`DDPMScheduler`,
`EulerDiscreteScheduler`, `DPMSolverMultistepScheduler`, each from the configuration of the pipeline's scheduler).
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import torch
from torch import Tensor

from brainlens.backbones.folder import library
from brainlens.choices import SCHEDULERS
from brainlens.models.generation.noise import add_noise, ddim_step, sampling_times
from brainlens.types import DataError

STOCK = {"ddpm": "DDPMScheduler", "euler": "EulerDiscreteScheduler", "dpm": "DPMSolverMultistepScheduler"}


class Schedule(Protocol):
    """times: time steps from noise to picture, as the network takes them; sigma: of the pure noise that drawing begins with."""

    times: list[Any]
    sigma: float

    def noised(self, start: Tensor, noise: Tensor, first: int) -> Tensor:
        """Latents (B, c, h, w) under the noise of step `first`, which drawing then begins with."""

    def seen(self, latents: Tensor, number: int) -> Tensor:
        """What the network is shown at a step, (B, c, h, w)."""

    def after(self, said: Tensor, latents: Tensor, number: int) -> Tensor:
        """Latents (B, c, h, w) behind a step, from what the network said."""


class Ddim:
    """Deterministic DDIM."""

    def __init__(self, diffusion: Any, steps: int) -> None:
        self.diffusion, self.times = diffusion, sampling_times(diffusion, steps)
        self.sigma = float(diffusion.scheduler.init_noise_sigma)

    def noised(self, start: Tensor, noise: Tensor, first: int) -> Tensor:
        """See `Schedule`, (B, c, h, w)."""
        return add_noise(start, noise, self.diffusion.alphas[self.times[first]].expand(len(start)))

    def seen(self, latents: Tensor, number: int) -> Tensor:
        """The latents (B, c, h, w), in the scale that the network was trained on."""
        return latents

    def after(self, said: Tensor, latents: Tensor, number: int) -> Tensor:
        """See `Schedule`, (B, c, h, w)."""
        following = self.times[number + 1] if number + 1 < len(self.times) else None
        return ddim_step(self.diffusion, said, latents, self.times[number], following)


class Stock:
    """A scheduler of diffusers, for one drawing: some remember their last steps. generators: one a picture, for new noise."""

    def __init__(self, diffusion: Any, name: str, steps: int, generators: list[torch.Generator]) -> None:
        sampling_times(diffusion, steps)  # refuses what cannot be drawn
        self.scheduler = getattr(library("diffusers"), STOCK[name]).from_config(diffusion.scheduler.config)
        self.scheduler.set_timesteps(steps, device=diffusion.prompt.device)
        self.times, self.generators = list(self.scheduler.timesteps), generators
        self.sigma = float(self.scheduler.init_noise_sigma)

    def noised(self, start: Tensor, noise: Tensor, first: int) -> Tensor:
        """See `Schedule`, (B, c, h, w)."""
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        return self.scheduler.add_noise(start, noise, self.times[first].expand(len(start)))

    def seen(self, latents: Tensor, number: int) -> Tensor:
        """The latents (B, c, h, w), in the scale that the network was trained on."""
        return self.scheduler.scale_model_input(latents, self.times[number])

    def after(self, said: Tensor, latents: Tensor, number: int) -> Tensor:
        """See `Schedule`, (B, c, h, w)."""
        return self.scheduler.step(said, self.times[number], latents, generator=self.generators, return_dict=False)[0]


def open_schedule(diffusion: Any, name: str, steps: int, *, seed: int, candidates: int, trials: int) -> Schedule:
    """The steps of drawing `trials` x `candidates` pictures, candidates of a trial one after the other.

    New noise at a step is a candidate's own and the same for every trial, as its first noise is (`candidate_noise`).
    Raises DataError for another name, and as `sampling_times`.
    """
    check_scheduler(name)
    if name == "ddim":
        return Ddim(diffusion, steps)
    return Stock(diffusion, name, steps, [step_generator(seed, c) for _ in range(trials) for c in range(candidates)])


def check_scheduler(name: str) -> None:
    """Raises DataError for a scheduler that is not known."""
    if name not in SCHEDULERS:
        raise DataError(f"scheduler {name!r} of the drawing is not one of {', '.join(SCHEDULERS)}")


def step_generator(seed: int, candidate: int) -> torch.Generator:
    """Where a candidate's new noise at each step comes from."""
    number = int.from_bytes(hashlib.sha256(f"{seed}/{candidate}/steps".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)
