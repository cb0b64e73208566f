"""A CLIP cut open: each tower as blocks on tokens with their attention, and as functions of pixels and of words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from brainlens.types import DataError

Space = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tower:
    """One tower of a CLIPModel, cut open: blocks on tokens (B, T, D), and what reads token `pooled` (B,) in the end."""

    blocks: list[Any]
    norm: nn.Module
    projection: Callable[[Tensor], Tensor]
    causal: bool

    def run(self, tokens: Tensor, start: int = 0, stop: int | None = None) -> tuple[Tensor, list[Tensor]]:
        """Tokens after the blocks start..stop, and their attention probabilities (B, heads, T, T)."""
        maps = []
        for block in self.blocks[start:stop]:
            mixed, probabilities = _attend(block.self_attn, block.layer_norm1(tokens), self.causal)
            tokens = tokens + mixed
            tokens = tokens + block.mlp(block.layer_norm2(tokens))
            maps.append(probabilities)
        return tokens, maps

    def embed(self, tokens: Tensor, pooled: Tensor) -> Tensor:
        """Embeddings (B, d)."""
        return self.projection(self.norm(tokens[torch.arange(len(tokens)), pooled]))

    def finish(self, tokens: Tensor, pooled: Tensor, start: int = 0) -> Tensor:
        """Embeddings (B, d) of tokens before block `start`; of the last block only the token that is read is computed."""
        tokens, _ = self.run(tokens, start, len(self.blocks) - 1)
        block, rows = self.blocks[-1], torch.arange(len(tokens))
        mixed, _ = _attend(block.self_attn, block.layer_norm1(tokens), self.causal, read=pooled)
        one = tokens[rows, pooled][:, None] + mixed
        one = one + block.mlp(block.layer_norm2(one))
        return self.projection(self.norm(one[:, 0]))


def vision_tower(clip: Any, space: Space | None = None) -> Tower:
    """The tower of pictures; space: what the network's embeddings are brought into before the cosine is taken."""
    vision = clip.vision_model
    return Tower(list(vision.encoder.layers), vision.post_layernorm, _into(clip.visual_projection, space), False)


def text_tower(clip: Any, space: Space | None = None) -> Tower:
    """The tower of captions."""
    text = clip.text_model
    return Tower(list(text.encoder.layers), text.final_layer_norm, _into(clip.text_projection, space), True)


def _into(projection: nn.Module, space: Space | None) -> Callable[[Tensor], Tensor]:
    return projection if space is None else lambda z: space(projection(z))


def pixel_model(clip: Any, space: Space | None = None) -> Callable[[Tensor], Tensor]:
    """Pixels (image, 3, row, column) -> embeddings."""
    tower, vision = vision_tower(clip, space), clip.vision_model

    def model(images: Tensor) -> Tensor:
        return tower.finish(vision.pre_layrnorm(vision.embeddings(images)), torch.zeros(len(images), dtype=torch.int64))

    return model


def word_model(clip: Any, caption: Tensor, space: Space | None = None) -> Callable[[Tensor], Tensor]:
    """Masks (n, token) of one caption's words (1, token) -> embeddings; a hidden word keeps its place, with embedding 0."""
    text = clip.text_model
    tower, pooled = text_tower(clip, space), _end_of_text(caption, text.config)
    inner = text.embeddings.token_embedding(caption)
    places = text.embeddings.position_embedding.weight[: caption.shape[1]]
    return lambda mask: tower.finish(inner * mask[..., None] + places, pooled.expand(len(mask)))


def _attend(attention: Any, hidden: Tensor, causal: bool, read: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mixed values (B, T, D) and probabilities (B, heads, T, T); with read (B,) those of that token alone, (B, 1, D)."""
    batch, length, width = hidden.shape
    heads = attention.num_heads
    asking = hidden if read is None else hidden[torch.arange(batch), read][:, None]
    q, k, v = (
        part(rows).view(batch, -1, heads, width // heads).transpose(1, 2)
        for part, rows in ((attention.q_proj, asking), (attention.k_proj, hidden), (attention.v_proj, hidden))
    )
    logits = q @ k.transpose(-1, -2) * (width // heads) ** -0.5
    if causal:
        place = torch.arange(length, device=hidden.device)
        at = place[:, None] if read is None else read.to(hidden.device)[:, None, None, None]
        logits = logits.masked_fill(place > at, -torch.inf)
    probabilities = logits.softmax(-1)
    return attention.out_proj((probabilities @ v).transpose(1, 2).reshape(batch, -1, width)), probabilities


def _end_of_text(tokens: Tensor, config: Any) -> Tensor:
    if tokens.ndim != 2:
        raise DataError(f"attribute_words: token ids {tuple(tokens.shape)} are not (caption, token)")
    if config.eos_token_id == 2:  # configurations of the first conversions name a wrong token; the highest id is end-of-text
        return tokens.argmax(1)
    found = tokens == config.eos_token_id
    if not found.any(1).all():
        row = int((~found.any(1)).nonzero()[0])
        raise DataError(f"attribute_words: caption {row} has no end-of-text token {config.eos_token_id}; was it cut off?")
    return found.int().argmax(1)
