"""A closing ridge on the channels of a fitted FactorTopy: the selectors stay, each voxel's channel weights are solved for.

    w_i, b_i = argmin sum_m (y_im - <v_im, w> / D - b)^2 + a_i |w / D|^2,     v_im of eq. 1 with the found u, omega, alpha

Not part of the paper. Stochastic training has one stopping time for all voxels, so those with little signal are overfitted
when those with much are done; here every voxel has its own penalty, chosen on validation images, and the trained weights
remain a candidate, so on validation no voxel gets worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from brainlens.encode.tables import LayerTokens, Part, Tables
from brainlens.nn.factortopy import GRID, FactorTopy, locate

ALPHAS = tuple(10.0**k for k in range(-1, 7))


def refit_readout(
    model: FactorTopy, data: Tables, tokens: LayerTokens, *, alphas: Sequence[float] = ALPHAS, block: int = 2048, batch: int = 32
) -> Tensor:
    """Solves `readout` and `bias` of the model in place, and returns the penalty of each voxel (NaN: trained weights kept).

    Penalties are relative to the mean variance of a voxel's channels. One pass over training and one over validation
    images a block of voxels; D^2 numbers a voxel of the block are held.
    """
    voxels = len(model.readout)
    scale = model.width if model.options["reduce"] == "mean" else 1
    chosen = torch.empty(voxels)
    with torch.no_grad():
        selected = model.select()
        for start in range(0, voxels, block):
            rows = torch.arange(start, min(start + block, voxels), device=model.readout.device)
            weights, bias = _solve(model, selected, rows, data.train, tokens, alphas, batch)
            trained = model.readout[rows] / scale
            candidates = torch.cat([weights, trained[:, None]], dim=1)
            offsets = torch.cat([bias, model.bias[rows][:, None]], dim=1)
            error = torch.zeros_like(offsets)
            for v, y in _channels(model, selected, rows, data.validation, tokens, batch):
                error += (y[:, :, None] - torch.bmm(v, candidates.transpose(1, 2)) - offsets[:, None]).square().sum(1)
            best = error.argmin(1)
            at = torch.arange(len(rows), device=best.device)
            model.readout[rows] = candidates[at, best] * scale
            model.bias[rows] = offsets[at, best]
            chosen[rows.cpu()] = torch.tensor([*alphas, float("nan")])[best.cpu()]
    return chosen


def _solve(
    model: FactorTopy,
    selected: tuple[Tensor, Tensor, Tensor],
    rows: Tensor,
    part: Part,
    tokens: LayerTokens,
    alphas: Sequence[float],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Ridge weights (voxel, alpha, D) and intercepts (voxel, alpha) from the normal equations of each voxel."""
    n, width, device = len(rows), model.width, rows.device
    gram = torch.zeros(n, width, width, device=device)
    cross, mean_v, mean_y = (torch.zeros(n, k, device=device) for k in (width, width, 1))
    for v, y in _channels(model, selected, rows, part, tokens, batch):
        gram += v.transpose(1, 2) @ v
        cross += (v.transpose(1, 2) @ y[:, :, None])[:, :, 0]
        mean_v += v.sum(1) / len(part.rows)
        mean_y += y.sum(1, keepdim=True) / len(part.rows)
    gram -= len(part.rows) * mean_v[:, :, None] * mean_v[:, None, :]
    cross -= len(part.rows) * mean_v * mean_y
    values, vectors = torch.linalg.eigh(gram)
    rotated = (vectors.transpose(1, 2) @ cross[:, :, None])[:, :, 0]
    unit = gram.diagonal(dim1=1, dim2=2).mean(1) / len(part.rows)
    penalty = unit[:, None] * torch.tensor(list(alphas), device=device)
    shrunk = rotated[:, None] / (values.clamp_min(0)[:, None] + penalty[:, :, None].clamp_min(1e-12))
    weights = shrunk @ vectors.transpose(1, 2)
    return weights, mean_y - (weights @ mean_v[:, :, None])[:, :, 0]


def _channels(
    model: FactorTopy, selected: tuple[Tensor, Tensor, Tensor], rows: Tensor, part: Part, tokens: LayerTokens, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """v (voxel, image, D) of eq. 1 and the responses (voxel, image), a batch of images at a time."""
    space, omega, alpha = (value[rows] for value in selected)
    target = torch.from_numpy(part.y)
    for start in range(0, len(part.rows), batch):
        table = model.table(*tokens.at(part.rows[start : start + batch]))
        v = torch.zeros(len(rows), table.shape[2], model.width, device=rows.device)
        if "space" in model.use:
            places = [(model.corners[:, :4], *locate(space[:, s], GRID)) for s in range(model.samples)]
        else:
            every = torch.arange(GRID**2, device=rows.device)[None]
            even = torch.full((len(rows), GRID**2), 1 / GRID**2, device=rows.device)
            places = [(every, torch.zeros(len(rows), dtype=torch.long, device=rows.device), even)]
        for corners, cell, mix in places:
            for number in torch.unique(cell).tolist():
                inside = (cell == number).nonzero()[:, 0]
                weights = (mix[inside, :, None] * omega[inside, None, :] * (1 - alpha[inside])[:, None, None]).flatten(1)
                local = weights @ table[corners[number]].flatten(2).flatten(0, 1)
                v[inside] += local.unflatten(1, (table.shape[2], model.width)) / len(places)
        v += torch.einsum("nl,lbd->nbd", omega * alpha[:, None], table[-1])
        yield v, target[start : start + batch, rows.cpu()].T.to(rows.device)
