"""What fewer steps of sampling save at the same score: the published way of drawing beside ours, from the same prompts.

Published: the stock pipeline, one picture at a time, 50 steps of DDPM, guidance by two passes. DDIM in as many steps costs as
much and may draw better, so that the better of the two counts. Ours: batches, keys computed once,
and as few steps of DDIM as lose less than `WITHIN` in two-way identification on validation scenes against 50; the scenes that are
compared have no part in that choice. A prompt stands for what a brain tells: the embedding of a drawn scene under noise of half
its variance, read by the attention that ships. The published pictures are drawn in batches for their score, which changes no
picture, and `TIMED` of them one at a time for their time, which is scaled to all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch

from brainlens import miniatures
from brainlens.backbones.clip import embed_images, load_clip
from brainlens.metrics.reconstruction import two_way
from brainlens.models.generation.adapter_training import empty_text
from brainlens.models.generation.noise import candidate_noise
from brainlens.models.generation.sampling import Prompts, Sampling, draw_pictures
from brainlens.nn.region_adapter import RegionAdapter, RegionPrompt
from brainlens.phantom.scenes import make_scenes
from brainlens.reconstruct.starting import shipped_attention
from brainlens.types import Stimuli

SCENES, CANDIDATES, GUIDANCE = 24, 2, 4.0  # scenes compared, and as many for the choice
PUBLISHED, TRIED, WITHIN, TIMED = 50, (5, 10, 20), 0.01, 6
SEED = 7_000_003  # of scenes that neither a recording nor the attention's training shows


class Told:
    """Scenes, what is told of them, and the attention that reads it."""

    def __init__(self, diffusion: Any) -> None:
        found = shipped_attention(diffusion.files)
        assert found is not None
        weights, axes = found
        self.diffusion, self.text = diffusion, empty_text(diffusion)
        self.clip = load_clip(miniatures.folder("clip"), device=str(diffusion.prompt.device))
        scenes = make_scenes(2 * SCENES, seed=SEED, split="train")
        self.truth = self.features(np.asarray(scenes.images))
        noise = np.random.default_rng(1).standard_normal(axes(self.truth).shape, dtype=np.float32)
        self.x = torch.from_numpy((axes(self.truth) + noise) * np.float32(0.5**0.5)).to(diffusion.prompt.device)
        count, width, _ = weights["tokens.weight"].shape
        self.adapter = RegionAdapter(diffusion.unet, [np.arange(width)] * count).to(self.x.device).eval().requires_grad_(False)
        self.adapter.layers.load_state_dict({n: w for n, w in weights.items() if not n.startswith("tokens.")})
        self.adapter.tokens.weight.data.copy_(weights["tokens.weight"])
        self.adapter.tokens.bias.data.copy_(weights["tokens.bias"])

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Embeddings of pictures by the CLIP that ships."""
        ids = np.array([f"{i:06d}" for i in range(len(pictures))])
        return np.asarray(embed_images(self.clip, Stimuli(ids, pictures, [[] for _ in ids]))["image"])

    def score(self, pictures: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Two-way identification of each scene, mean over candidates of (scene, candidate, h, w, 3) pictures."""
        found = [two_way(self.truth[rows], self.features(pictures[:, c])) for c in range(pictures.shape[1])]
        return np.mean(found, axis=0)

    def ours(self, rows: np.ndarray, steps: int, candidates: int = CANDIDATES) -> np.ndarray:
        """Pictures (scene, candidate, h, w, 3) by this library."""
        x, text = self.x[torch.from_numpy(rows).to(self.x.device)], self.text
        prompts = Prompts(
            lambda some: self.adapter.prompt(x[torch.from_numpy(some)], text), lambda some: RegionPrompt(text), len(x)
        )
        return draw_pictures(self.diffusion, self.adapter, prompts, Sampling(candidates, GUIDANCE, steps))


def published(told: Told, pipeline: Callable[..., Any], rows: np.ndarray, batch: int) -> np.ndarray:
    """Pictures (scene, candidate, h, w, 3) by the stock pipeline, `batch` at a time."""
    diffusion, drawn = told.diffusion, []
    config = diffusion.unet.config
    shape = (int(config.in_channels), int(config.sample_size), int(config.sample_size))
    every = [(row, c) for row in rows for c in range(CANDIDATES)]
    for start in range(0, len(every), batch):
        part = every[start : start + batch]
        with torch.no_grad():
            tokens = told.adapter.tokens(told.x[torch.tensor([row for row, _ in part], device=told.x.device)])
        text = diffusion.prompt.expand(len(part), -1, -1)
        drawn.append(
            pipeline(
                prompt_embeds=text,
                negative_prompt_embeds=text,
                ip_adapter_image_embeds=[torch.cat([torch.zeros_like(tokens), tokens])[:, None]],
                latents=torch.stack([candidate_noise(0, c, shape) for _, c in part]).to(tokens.device),
                guidance_scale=GUIDANCE,
                num_inference_steps=PUBLISHED,
                generator=[torch.Generator().manual_seed(int(1000 * row + c)) for row, c in part],
                output_type="np",
            ).images
        )
    pictures = (np.concatenate(drawn) * 255).round().astype(np.uint8)
    return pictures.reshape(len(rows), CANDIDATES, *pictures.shape[1:])


def seconds(run: Callable[[], Any], device: str) -> float:
    """Of one call."""
    begun = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def at_equal_score(diffusion: Any, stock: Callable[[Any, RegionAdapter], Any]) -> dict[str, Any]:
    """Scores and times of both ways; stock(diffusion, adapter): the pipeline with the adapter's attention in it."""
    device = str(diffusion.prompt.device)
    if shipped_attention(diffusion.files) is None:
        return {"equal_score": "needs the network that ships"}
    told = Told(diffusion)
    tuned, tested = np.arange(SCENES), np.arange(SCENES, 2 * SCENES)
    tries = {steps: float(told.score(told.ours(tuned, steps, 1), tuned).mean()) for steps in (*TRIED, PUBLISHED)}
    steps = next((s for s in TRIED if tries[s] >= tries[PUBLISHED] - WITHIN), PUBLISHED)
    ours_s = seconds(lambda: told.ours(tested, steps), device)
    ours = told.score(told.ours(tested, steps), tested)
    pipe = stock(diffusion, told.adapter)
    scores = {}
    for name in ("DDIM", "DDPM"):
        pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(diffusion.scheduler.config)
        scores[name] = told.score(published(told, pipe, tested, 16), tested)
    best = max(scores, key=lambda name: scores[name].mean())
    other, worse = scores.pop(best), next(iter(scores.items()))
    few = tested[: -(-TIMED // CANDIDATES)]
    peer_s = seconds(lambda: published(told, pipe, few, 1), device) * len(tested) / len(few)
    draw = np.random.default_rng(0).integers(0, SCENES, (2000, SCENES))
    low, high = np.quantile((ours - other)[draw].mean(axis=1), [0.025, 0.975])
    return {
        "equal_score_ratio": peer_s / ours_s, "equal_score_holds": bool(ours.mean() >= other.mean() - WITHIN),
        "equal_score_steps": steps, "two_way": float(ours.mean()),
        "peer_two_way": float(other.mean()), "two_way_difference": [float(low), float(high)],
        "equal_score_time_s": ours_s, "equal_score_peer_time_s": peer_s,
        "peer_scheduler": best,
        "note": (
            f"at {steps} steps of DDIM, chosen on validation scenes, two-way is {ours.mean():.3f}; the stock pipeline in "
            f"{PUBLISHED} steps has {other.mean():.3f} by {best} and {worse[1].mean():.3f} by {worse[0]} (ours - {best}: "
            f"{(ours - other).mean():+.3f}, {low:+.3f} to {high:+.3f} over {SCENES} scenes x {CANDIDATES} candidates). That is "
            f"{peer_s / ours_s:.1f} times faster; the ratio in the table is that of exact rewriting alone"
        ),
    }  # fmt: skip
