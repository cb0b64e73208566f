"""Pictures from text by a latent diffusion model: what a bank of nouns is drawn with.

    z_T ~ N(0, I) by the picture's own seed,     z_t' = DDIM(z_t, u + g (c - u)),     picture = decode(z_0)

c, u: the network's answers under the prompt and under the empty one. Deterministic: a prompt and a seed give one picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens.backbones.diffusion import Diffusion, decode, load_diffusion
from brainlens.backbones.folder import library, load_tokenizer, load_weights, model_folder
from brainlens.models.generation.noise import ddim_step, sampling_times
from brainlens.types import DataError


@dataclass(frozen=True)
class TextDrawer:
    """A diffusion model with its text encoder. steps of DDIM, guidance g (1: none), batch: pictures drawn at a time."""

    diffusion: Diffusion
    tokenizer: Any
    text: Any
    limit: int
    steps: int = 50
    guidance: float = 7.5
    batch: int = 8

    @property
    def key(self) -> str:
        """What the pictures depend on beside prompt and seed."""
        return json.dumps([self.diffusion.files, self.steps, self.guidance, str(self.diffusion.prompt.dtype)])

    def fits(self, prompt: str) -> bool:
        """Whether the text encoder holds the whole prompt, and knows all of it: nothing is cut, no token is the unknown one."""
        numbers = self.tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        inside = numbers[1:-1]  # start and end tokens; the end is the unknown token of CLIP's tokenizer
        return len(numbers) <= self.limit and bool(inside) and (unknown is None or unknown not in inside)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Pictures (n, h, w, 3) uint8 of prompts with one seed each. Raises DataError for a prompt that does not fit."""
        bad = [prompt for prompt in prompts if not self.fits(prompt)]
        if bad:
            raise DataError(f"diffusion: {self.diffusion.name} cannot hold the prompt {bad[0]!r} ({self.limit} tokens at most)")
        made = [
            self._batch(prompts[start : start + self.batch], seeds[start : start + self.batch])
            for start in range(0, len(prompts), self.batch)
        ]
        return np.concatenate(made)

    def _batch(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        network = self.diffusion
        side = int(network.unet.config.sample_size)
        shape = (int(network.unet.config.in_channels), side, side)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])
        latents = noise.to(network.prompt) * float(network.scheduler.init_noise_sigma)
        with torch.inference_mode():
            given = self._states(prompts)
            without = network.prompt.expand(len(prompts), -1, -1)
            times = sampling_times(network, self.steps)
            for number, time in enumerate(times):
                said = network.unet(latents, time, encoder_hidden_states=given, return_dict=False)[0]
                if self.guidance != 1:
                    free = network.unet(latents, time, encoder_hidden_states=without, return_dict=False)[0]
                    said = free + self.guidance * (said - free)
                following = times[number + 1] if number + 1 < len(times) else None
                latents = ddim_step(network, said, latents, time, following)
        return decode(network, latents)

    def _states(self, prompts: Sequence[str]) -> torch.Tensor:
        padded = {"padding": "max_length", "max_length": self.limit, "truncation": True, "return_tensors": "pt"}
        numbers = self.tokenizer(list(prompts), **padded)["input_ids"]
        return self.text(numbers).last_hidden_state.to(self.diffusion.prompt)


def load_drawer(folder: str | Path, *, steps: int = 50, guidance: float = 7.5, batch: int = 8, device: str = "cpu") -> TextDrawer:
    """A Stable Diffusion folder ready to draw from text. Raises DataError as `load_diffusion` does, and for no step."""
    if steps < 1 or batch < 1 or not np.isfinite(guidance) or guidance < 0:
        raise DataError(f"drawing: steps={steps} and batch={batch} are 1 or more, guidance={guidance} is 0 or more")
    network = load_diffusion(folder, device=device, pictures=True)
    place = model_folder(folder, holding="model_index.json")
    text = load_weights(library().CLIPTextModel, place / "text_encoder").float()
    tokenizer = load_tokenizer(place / "tokenizer", vocabulary=int(text.config.vocab_size))
    limit = min(int(text.config.max_position_embeddings), int(tokenizer.model_max_length))
    return TextDrawer(network, tokenizer, text, limit, steps, guidance, batch)
