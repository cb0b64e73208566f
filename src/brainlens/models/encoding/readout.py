"""A closing ridge on the channels of a fitted reader: what it reads stays, each voxel's channel weights are solved for.

    w_i, b_i = argmin sum_m (y_im - <v_im, w> / D - b)^2 + a_i |w / D|^2

with v_im of eq. 1 under the found u, omega, alpha, or what the other readers pool; where a model has a common reading, v_im and
w_i are followed by B_s g_s and z_i. Not part of the paper. Stochastic
training has one stopping time for all voxels, so those with little signal are overfitted when those with much are done;
here every voxel has its own penalty, by generalised cross-validation (Golub, Heath, Wahba 1979) on training and validation
images: the least of n RSS(a) / (n - 1 - sum_k d_k / (d_k + a))^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from brainlens.models.encoding.ridge import ALPHAS
from brainlens.models.encoding.tables import EncodingPart, LayerTokens
from brainlens.nn.encoding_baselines import BaselineNetwork, ClassTokenNetwork, PatchTokenNetwork
from brainlens.nn.factortopy import GRID, FactorTopyNetwork, locate

FLAT = 1e-5  # a range below this share of the largest value is rounding of float32 sums over tokens


def refit_readout(
    model: FactorTopyNetwork | BaselineNetwork,
    parts: Sequence[EncodingPart],
    tokens: LayerTokens,
    *,
    alphas: Sequence[float] = ALPHAS,
    block: int = 2048,
    batch: int = 32,
) -> Tensor:
    """Solves `readout` and `bias` of the model in place on all images of `parts`, and returns the penalties (voxel,).

    Penalties are relative to the mean variance of a voxel's channels. One pass over the images a block of voxels; D^2
    numbers a voxel of the block are held.
    """
    summed = isinstance(model, FactorTopyNetwork) and model.options["reduce"] == "sum"
    scale = 1 if summed else model.width
    chosen = torch.empty(len(model.readout))
    joint = isinstance(model, FactorTopyNetwork) and model.reads_common
    width = 2 * model.width if joint else model.width
    block = max(1, block // 4) if joint else block  # as many numbers are held
    with torch.no_grad():
        selected = model.select() if isinstance(model, FactorTopyNetwork) else None
        for start in range(0, len(model.readout), block):
            rows = torch.arange(start, min(start + block, len(model.readout)), device=model.readout.device)
            sums = Sums(len(rows), width, rows.device, shared=isinstance(model, ClassTokenNetwork | PatchTokenNetwork))
            for part in parts:
                for v, y in _channels(model, selected, rows, part, tokens, batch):
                    sums.add(v, y)
            weights, bias, penalty = sums.solve(alphas)
            model.readout[rows], model.bias[rows] = weights[:, : model.width] * scale, bias
            if joint:
                model.common_readout[rows] = weights[:, model.width :] * scale  # type: ignore[index,operator]
            chosen[rows.cpu()] = penalty.cpu()
    return chosen


class Sums:
    """Normal equations of many units, v (unit, image, D) and y (unit, image); v (1, image, D) if the channels are shared.

    Sums are taken about the means of the first images, so that what is subtracted in the end is small: sums about zero
    leave a channel without variance a variance of rounding, negative or positive, and a weight of any size.
    """

    def __init__(self, units: int, width: int, device: torch.device | str = "cpu", *, shared: bool = False) -> None:
        self.n = 0
        own = 1 if shared else units
        self.shift: tuple[Tensor, Tensor] | None = None
        self.low, self.high = (torch.full((own, width), end, device=device) for end in (torch.inf, -torch.inf))
        self.gram = torch.zeros(own, width, width, device=device)
        self.total = torch.zeros(own, width, device=device)
        self.cross = torch.zeros(units, width, device=device)
        self.y, self.power = (torch.zeros(units, 1, device=device) for _ in range(2))

    def add(self, v: Tensor, y: Tensor) -> None:
        """Some more images."""
        if self.shift is None:
            self.shift = v.mean(1, keepdim=True), y.mean(1, keepdim=True)
        self.low, self.high = torch.minimum(self.low, v.amin(1)), torch.maximum(self.high, v.amax(1))
        v, y = v - self.shift[0], y - self.shift[1]
        self.n += y.shape[1]
        self.gram.baddbmm_(v.transpose(1, 2), v)
        self.cross += y @ v[0] if len(v) == 1 else torch.bmm(v.transpose(1, 2), y[:, :, None])[:, :, 0]
        self.total += v.sum(1)
        self.y += y.sum(1, keepdim=True)
        self.power += y.square().sum(1, keepdim=True)

    def solve(self, alphas: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (unit, D), intercepts (unit,) and penalties (unit,) in units of the mean variance of a unit's channels.

        A channel that no image changes (its range is below `FLAT` of its size) has weight 0, exactly.
        """
        assert self.shift is not None
        n, mean = self.n, self.total / self.n
        moves = (self.high - self.low > FLAT * torch.maximum(self.high.abs(), self.low.abs())).to(mean.dtype)
        gram = (self.gram - n * mean[:, :, None] * mean[:, None, :]) * moves[:, :, None] * moves[:, None, :]
        values, vectors = _eigh(gram)
        values = values.clamp_min(0)
        rotated = _times(vectors.transpose(1, 2), (self.cross - mean * self.y) * moves)
        power = self.power - self.y**2 / n
        unit = values.mean(1, keepdim=True) / n
        unit = torch.where(unit > 0, unit, torch.ones_like(unit))  # nothing moves: any penalty gives weights of 0
        penalty = unit * torch.tensor(list(alphas), device=unit.device)  # (unit, alpha)
        kept = values[:, None] / (values[:, None] + penalty[:, :, None])
        fitted = (rotated.square()[:, None] / (values[:, None] + penalty[:, :, None]) * (2 - kept)).sum(2)
        best = ((power - fitted) / (n - 1 - kept.sum(2)).clamp_min(1e-3) ** 2).argmin(1, keepdim=True)
        at = torch.tensor(list(alphas), device=unit.device)[best]
        weights = _times(vectors, rotated / (values + unit * at)) * moves
        bias = (self.y / n + self.shift[1])[:, 0] - (weights * (mean + self.shift[0][:, 0])).sum(1)
        return weights, bias, at[:, 0].cpu()


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors; in double where single does not converge, as with few images and channels that are the same."""
    try:
        return torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:
        values, vectors = torch.linalg.eigh(gram.double())
        return values.to(gram.dtype), vectors.to(gram.dtype)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """A matrix for every row of vectors (unit, D), or one for all."""
    return vector @ matrix[0].T if len(matrix) == 1 else torch.bmm(matrix, vector[:, :, None])[:, :, 0]


def pooled_ridge(
    parts: Sequence[EncodingPart],
    test: EncodingPart,
    tokens: LayerTokens,
    *,
    layer: np.ndarray,
    pool: np.ndarray,
    common: str | None = None,
    block: int = 256,
) -> np.ndarray:
    """Predictions (image, unit) for `test` of a ridge of every unit on one layer's tokens, pooled by weights of its own.

    layer (unit,): numbers into `tokens.layers`, -1 for none; pool (unit, 64 + 1): weights of the places and the global
    token; common: a layer whose global token all units read as well. With a phantom's true layers and fields this is how far a
    readout gets whose selectors are right. Penalties as
    in `refit_readout`; units without a layer are predicted by their mean.
    """
    predicted = np.broadcast_to(np.concatenate([p.y for p in parts]).mean(axis=0), test.y.shape).astype(np.float32)
    for number, name in enumerate(tokens.layers):
        inside = np.flatnonzero(layer == number)
        for rows in np.split(inside, range(block, len(inside), block)) if len(inside) else []:
            weights = torch.from_numpy(pool[rows]).float()
            sums = Sums(len(rows), tokens.channels[name] + (0 if common is None else tokens.channels[common]))
            for part in parts:
                for v, y in _pooled(weights, rows, part, tokens, name, common):
                    sums.add(v, y)
            solved, bias, _ = sums.solve(ALPHAS)
            told = [
                torch.bmm(v, solved[:, :, None])[:, :, 0] + bias[:, None]
                for v, _ in _pooled(weights, rows, test, tokens, name, common)
            ]
            predicted[:, rows] = torch.cat(told, 1).T.numpy()
    return predicted


def _pooled(
    weights: Tensor, rows: np.ndarray, part: EncodingPart, tokens: LayerTokens, layer: str, common: str | None, batch: int = 64
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(part.rows), batch):
        spatial, whole = tokens.of(layer, part.rows[start : start + batch])
        both = torch.cat([spatial, whole[:, None]], 1).cpu()
        v = (weights @ both.transpose(0, 1).flatten(1)).view(len(rows), len(both), -1)
        if common is not None:
            shared = tokens.of(common, part.rows[start : start + batch])[1].cpu()
            v = torch.cat([v, shared.expand(len(rows), -1, -1)], 2)
        yield v, torch.from_numpy(part.y[start : start + batch, rows].T)


def _channels(
    model: FactorTopyNetwork | BaselineNetwork,
    selected: tuple[Tensor, Tensor, Tensor] | None,
    rows: Tensor,
    part: EncodingPart,
    tokens: LayerTokens,
    batch: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """v (voxel, image, D) and the responses (voxel, image), a batch of images at a time; v (1, image, D) if all read alike."""
    target = torch.from_numpy(part.y)
    for start in range(0, len(part.rows), batch):
        inputs = tokens.at(part.rows[start : start + batch])
        if isinstance(model, FactorTopyNetwork):
            assert selected is not None
            space, omega, alpha = (value[rows] for value in selected)
            table = model.table(*inputs)
            v = _read(model, space, omega, alpha, table)
            if model.reads_common:
                v = torch.cat([v, model.common_tokens(table).expand(len(rows), -1, -1)], dim=2)
        else:
            v = model.read(*inputs, rows)
        yield v, target[start : start + batch, rows.cpu()].T.to(rows.device)


def _read(model: FactorTopyNetwork, space: Tensor, omega: Tensor, alpha: Tensor, table: Tensor) -> Tensor:
    """v (voxel, image, D) of eq. 1, one product a grid cell, as all voxels of a cell read the same corners."""
    v = torch.einsum("nl,lbd->nbd", omega * alpha[:, None], table[-1])
    if "space" in model.use:
        places = [(model.corners[:, :4], *locate(space[:, s], GRID)) for s in range(model.samples)]
    else:
        every = torch.arange(GRID**2, device=omega.device)[None]
        even = torch.full((len(omega), GRID**2), 1 / GRID**2, device=omega.device)
        places = [(every, torch.zeros(len(omega), dtype=torch.long, device=omega.device), even)]
    for corners, cell, mix in places:
        for number in torch.unique(cell).tolist():
            inside = (cell == number).nonzero()[:, 0]
            weights = (mix[inside, :, None] * omega[inside, None, :] * (1 - alpha[inside])[:, None, None]).flatten(1)
            local = weights @ table[corners[number]].flatten(2).flatten(0, 1)
            v[inside] += local.unflatten(1, (table.shape[2], model.width)) / len(places)
    return v
