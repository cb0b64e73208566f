"""Steps of training region tokens with latents and text states that are computed once, beside encoding them at every step.

    python benchmarks/adapter_training.py [--device cuda]

Both sides make the same steps on the same pictures, noise and responses, and end at the same weights. The peer encodes the
pictures of each batch by the autoencoder and the prompt by the text tower at every step, and projects the text to keys and
values, as training scripts of the pipeline do. The network is the shipped diffusion miniature, or one of its size with random
weights. Its autoencoder is so small that little can be saved: what is left is the pass through the network and back, which both
sides need. That of Stable Diffusion costs about as much as a pass through its network.
"""

from __future__ import annotations

import sys

sys.modules["bottleneck"] = None  # type: ignore[assignment]  # pandas would take bottleneck.py here for the package
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

from brainlens.models.generation.noise import add_noise, loss_weights, target  # noqa: E402
from brainlens.nn.region_adapter import RegionAdapter, drop_regions, text_keys  # noqa: E402
from harness import compare  # noqa: E402
from sampling import model  # noqa: E402

REGIONS, VOXELS, BATCH, STEPS, RATE = 100, 15, 16, 3, 2e-3
TEXT = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 72,
        "max_position_embeddings": 77, "bos_token_id": 2, "eos_token_id": 3}  # fmt: skip
TOKENS = 48


class Problem:
    """Pictures, responses, noise and times of every step, and a text tower of the miniature's size."""

    def __init__(self, device: str) -> None:
        self.diffusion = model(device)
        self.diffusion.unet.requires_grad_(False)
        members = list(np.arange(REGIONS * VOXELS).reshape(REGIONS, VOXELS))
        self.adapter = RegionAdapter(self.diffusion.unet, members).to(device)
        torch.manual_seed(3)
        self.tower = CLIPTextModel(CLIPTextConfig(**TEXT)).to(device).eval().requires_grad_(False)
        draw = torch.Generator().manual_seed(1)
        side = int(self.diffusion.unet.config.sample_size)
        channels = int(self.diffusion.unet.config.in_channels)
        self.pictures = (torch.rand(STEPS, BATCH, 3, 4 * side, 4 * side, generator=draw) * 2 - 1).to(device)
        self.x = torch.randn(STEPS, BATCH, REGIONS * VOXELS, generator=draw).to(device)
        self.noise = torch.randn(STEPS, BATCH, channels, side, side, generator=draw).to(device)
        self.times = torch.randint(len(self.diffusion.alphas), (STEPS, BATCH), generator=draw)
        self.keep = torch.stack([drop_regions(BATCH, REGIONS, draw) for _ in range(STEPS)]).to(device)
        self.numbers = torch.full((1, TOKENS), 2, device=device)
        self.state = {name: value.clone() for name, value in self.adapter.state_dict().items()}

    def latents(self, step: int) -> Tensor:
        with torch.no_grad():
            return self.diffusion.vae.encode(self.pictures[step]).latents * self.diffusion.vae.config.scaling_factor

    def text(self) -> Tensor:
        with torch.no_grad():
            return self.tower(self.numbers).last_hidden_state

    def train(self, latents_of: Callable[[int], Tensor], text_of: Callable[[], Any]) -> None:
        """All steps from the first weights."""
        diffusion, adapter = self.diffusion, self.adapter
        adapter.load_state_dict(self.state)
        optimiser = torch.optim.AdamW(adapter.parameters(), lr=RATE)
        weights = loss_weights(diffusion.alphas, diffusion.prediction, "min-snr-velocity").to(self.x.device)
        with adapter.on(diffusion.unet):
            for step in range(STEPS):
                clean, times = latents_of(step), self.times[step].to(self.x.device)
                alphas = diffusion.alphas.to(self.x.device)[times]
                noisy = add_noise(clean, self.noise[step], alphas)
                prompt = adapter.prompt(self.x[step], text_of(), self.keep[step])
                said = diffusion.unet(noisy, times, encoder_hidden_states=prompt, return_dict=False)[0]
                error = (said - target(clean, self.noise[step], alphas, diffusion.prediction)).square().flatten(1).mean(1)
                optimiser.zero_grad(set_to_none=True)
                (error * weights[times]).mean().backward()
                optimiser.step()

    def outputs(self) -> dict[str, np.ndarray]:
        return {"bias": self.adapter.tokens.bias.detach().cpu().numpy()}


def ours(device: str) -> Any:
    problem = Problem(device)
    kept, text = [problem.latents(step) for step in range(STEPS)], text_keys(problem.diffusion.unet, problem.text())
    return lambda: problem.train(lambda step: kept[step], lambda: text), problem.outputs


def peer(device: str) -> Any:
    problem = Problem(device)

    def text() -> Any:
        return text_keys(problem.diffusion.unet, problem.text().expand(BATCH, -1, -1))

    return lambda: problem.train(problem.latents, text), problem.outputs


if __name__ == "__main__":
    compare("adapter_training", ours, peer, peer_name="pictures and text encoded at every step", pictures=BATCH * STEPS)
