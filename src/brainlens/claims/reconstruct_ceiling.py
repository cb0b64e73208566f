"""What a perfect brain would reach: the true embeddings of test scenes, as the tokens that region tokens start as.

The shipped attention draws them with no response at all, so what is missing here is missing of the attention and of the diffusion
model, and what lies between this and a reconstruction is missing of the brain and of the fit to it.
"""

from __future__ import annotations

import numpy as np
import torch

from brainlens.backbones import clip
from brainlens.claims.judging import Judges, shares
from brainlens.metrics.reconstruction import two_way
from brainlens.models.generation.adapter_tables import open_pipeline
from brainlens.models.generation.adapter_training import empty_text
from brainlens.models.generation.pretraining import TOKEN_MAP, token_targets
from brainlens.models.generation.sampling import Prompts, Sampling, draw_pictures
from brainlens.nn.region_adapter import RegionAdapter, RegionPrompt
from brainlens.reconstruct.starting import shipped_attention
from brainlens.types import DataError, Stimuli


def ceiling_claims(
    pipeline: str, scenes: Stimuli, judges: Judges, judged: tuple[str, ...], *, sampling: Sampling, device: str = "cpu"
) -> dict[str, float]:
    """`reconstruct/true_embedding/...` of test scenes, one picture each.

    Raises DataError where no attention ships for the pipeline.
    """
    diffusion = open_pipeline(pipeline, device)
    shipped = shipped_attention(diffusion.files)
    if shipped is None:
        raise DataError(f"no attention ships for {pipeline}; train it with tools/train_attention.py")
    layers, axes = shipped
    seen = clip.embed_images(judges.model, scenes)["image"]
    targets = token_targets(axes(seen), layers)
    assert targets is not None
    tokens = torch.from_numpy(targets).to(device)
    adapter = RegionAdapter(diffusion.unet, [np.zeros(1, np.int64)] * tokens.shape[1]).to(device)
    adapter.layers.load_state_dict({name: value for name, value in layers.items() if name not in TOKEN_MAP})
    adapter.requires_grad_(False)
    text = empty_text(diffusion)

    def given(rows: np.ndarray) -> RegionPrompt:
        return adapter.prompt_of(tokens[torch.from_numpy(rows)], text)

    prompts = Prompts(given, lambda rows: RegionPrompt(text), len(scenes))
    pictures = draw_pictures(diffusion, adapter, prompts, sampling)[:, 0]
    drawn = clip.embed_images(judges.model, Stimuli(scenes.ids, pictures, [[] for _ in scenes.ids]))["image"]
    right = {name: value for name, value in judges(pictures).items() if name in judged}
    return shares("reconstruct/true_embedding", {"two_way_clip": two_way(seen, drawn), **right})
