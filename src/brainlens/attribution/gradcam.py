"""Grad-CAM on tokens: features weighted by the mean gradient of their channel (Selvaraju et al. 2017, eq. 1 and 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from brainlens.attribution.targets import ROUNDINGS, Score, Tail, check_targets, cosine, slope


def gradcam(
    tokens: Tensor,
    tail: Tail,
    targets: Tensor,
    *,
    skip: int = 0,
    signed: bool = False,
    batch: int = 32,
    score: Score = cosine,
) -> Tensor:
    """Maps (sample, token) of features (B, T, D) behind which `tail` gives embeddings.

    w_c = mean_t ds/dA_tc, map_t = max(0, sum_c w_c A_tc); the first `skip` tokens (class token) are left out of the
    mean. signed: without the max. A sum that cancels to the rounding of its terms is 0: a cosine does not change with the
    length of the embedding, so where one token makes all of it the map is 0 and its digits are noise.
    score: of the embeddings and their targets.
    """
    check_targets(len(tokens), targets)
    maps = []
    for part, aim in zip(tokens.detach().split(batch), targets.split(batch)):
        weights = slope(tail, part, aim, score)[:, skip:].mean(1, keepdim=True)
        terms = weights * part
        value = terms.sum(-1)
        maps.append(value * (value.abs() > ROUNDINGS * torch.finfo(value.dtype).eps * terms.abs().sum(-1)))
    found = torch.cat(maps)
    return found if signed else found.clamp_min(0)
