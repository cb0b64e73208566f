"""Attention rollout weighted by gradients (Chefer, Gur and Wolf 2021, eq. 5 and 6, self-attention case)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from brainlens.attribution.targets import check_targets, cosine, has_slope

WithAttentions = Callable[[Tensor], tuple[Tensor, Sequence[Tensor]]]


def chefer(
    x: Tensor, model: WithAttentions, targets: Tensor, *, read: Tensor | int = 0, blocks: int | None = None, batch: int = 8
) -> Tensor:
    """Maps (sample, token): per block A = mean_heads max(0, grad * attention), R <- R + A R from R = I; R[read].

    model: input -> (embeddings, attention probabilities (B, heads, T, T) of every block, in one graph). read: the token that is
    pooled, an index or one index per sample (end-of-text). blocks: only that many last blocks; None: all. The
    read token's own column (what it says of itself) is returned too; drop it where it is no input. 0 for every other token
    where the score has no slope, or where blocks pass nothing on (those that are the identity).
    """
    check_targets(len(x), targets)
    rows = torch.as_tensor(read).expand(len(x)) if isinstance(read, int) else read
    maps = []
    for part, aim, row in zip(x.split(batch), targets.split(batch), rows.split(batch)):
        with torch.enable_grad():
            z, attentions = model(part)
            chosen = list(attentions)[-blocks:] if blocks else list(attentions)
            slopes = torch.autograd.grad(cosine(z, aim).sum(), chosen)
        sloped = has_slope(z, aim).view(-1, 1, 1, 1)
        length = chosen[0].shape[-1]
        relevance = torch.eye(length, dtype=z.dtype, device=z.device).expand(len(part), -1, -1)
        for attention, slope in zip(chosen, slopes):
            cam = (attention.detach() * slope * sloped).clamp_min(0).mean(1)
            relevance = relevance + cam @ relevance
        maps.append(relevance[torch.arange(len(part)), row.to(relevance.device)])
    return torch.cat(maps)
