"""A start for the selectors: a coarse search over layers and places, as in population receptive field mapping.

A random readout gives the selectors a gradient that means nothing, and they saturate before the channel weights are
learnt. With a fixed layer and place (or the global token) a voxel's response is linear in the channels, so that ridge
answers every candidate at once; the selector networks are then fitted to the winners, and training goes on from there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens.encode.tables import LayerTokens, Tables
from brainlens.nn.factortopy import GRID, FactorTopy

RIDGES = (0.1, 1.0)


def search(data: Tables, tokens: LayerTokens) -> Tensor:
    """Validation R2 of ridge on every candidate: (layer, place + global, unit); the global token is the last place.

    Each candidate has its own channels, one penalty of RIDGES (in units of n images of features with variance 1) for all.
    """
    device = next(iter(tokens.whole.values())).device
    y, held = torch.from_numpy(data.train.y).to(device), torch.from_numpy(data.validation.y).to(device)
    total = ((held - y.mean(0)) ** 2).mean(0).clamp_min(1e-12)
    train, validation = tokens.at(data.train.rows), tokens.at(data.validation.rows)
    scores = []
    for layer in tokens.layers:
        for place in range(GRID**2 + 1):
            x, z = (part[0][layer][:, place] if place < GRID**2 else part[1][layer] for part in (train, validation))
            mean = x.mean(0)  # of this place: the standardised channels have mean 0 over all places only
            x, z = x - mean, z - mean
            gram, cross = x.T @ x / len(x), x.T @ (y - y.mean(0)) / len(x)
            eye = torch.eye(len(gram), device=device)
            best = torch.full_like(total, -torch.inf)
            for ridge in RIDGES:
                guess = z @ torch.linalg.solve(gram + ridge * eye, cross)
                best = torch.maximum(best, 1 - ((held - y.mean(0) - guess) ** 2).mean(0) / total)
            scores.append(best)
    return torch.stack(scores).unflatten(0, (len(tokens.layers), GRID**2 + 1))


def start_selectors(model: FactorTopy, scores: Tensor, *, steps: int = 300, lr: float = 3e-3, sharpness: float = 50.0) -> None:
    """Fits the selectors to softmax(sharpness x scores), units weighted by their best score, the others held open.

    sum_i r_i (CE(omega_i, p_i) + |u_i - v_i|^2 + BCE(alpha_i, a_i)) / sum_i r_i + 0.05 (mean CE to uniform + BCE to 1/2),
    with r the best score if positive, p the weight of each layer, v the mean place and a the weight of the global token.
    """
    value = scores.amax((0, 1)).clamp_min(0)
    if not float(value.sum()) > 0:
        return
    share = torch.softmax(scores.flatten(0, 1) * sharpness, dim=0).view_as(scores)
    layer, whole = share.sum(1).T, share[:, -1].sum(0)
    centre = (torch.arange(GRID, device=scores.device) + 0.5) * (2 / GRID) - 1
    grid = torch.stack([centre.repeat(GRID), centre.repeat_interleave(GRID)], dim=1)
    places = share[:, :-1].sum(0).T
    place = (places / places.sum(1, keepdim=True).clamp_min(1e-12)) @ grid
    weight, local = value / value.sum(), 1 - whole
    optimiser = torch.optim.AdamW(model.selectors.parameters(), lr=lr)
    for _ in range(steps):
        space, omega, alpha = model.select()
        logs, alpha = omega.clamp_min(1e-7).log(), alpha.clamp(1e-6, 1 - 1e-6)
        near = ((space - place[:, None]) ** 2).sum(2).mean(1) * local
        scale = F.binary_cross_entropy(alpha, whole, reduction="none")
        loss = (weight * (near - (layer * logs).sum(1) + scale)).sum()
        loss = loss + 0.05 * (F.binary_cross_entropy(alpha, torch.full_like(alpha, 0.5)) - logs.mean())
        optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            optimiser.step()
