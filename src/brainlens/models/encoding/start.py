"""A start for the selectors: the evidence for every layer and place, gathered over neighbours by the selector networks.

With a fixed layer and place (or the global token) a voxel's response is linear in its channels,
y = X w + e with w ~ N(0, s^2 / a) and e ~ N(0, s^2), and the probability of its training responses has a closed form. With
X'X = U diag(d) U' and r = U'X'y of centred X and y, s^2 at its best and relative to no channels at all (a -> infinity),

    E(a) = -(n - 1) / 2 log(1 - sum_k r_k^2 / (d_k + a) / y'y) - 1/2 sum_k log(1 + d_k / a),      E = max_a E(a)

Unlike a held-out score it spends no image on the choice, and its differences between candidates are log odds: in nats, they
add over voxels. The selectors of all voxels, as functions of place, then maximise

    sum_i log sum_c q_ic exp E_ic + openness sum_i (mean_l log omega_il + (log alpha_i + log(1 - alpha_i)) / 2)
    q_ic = omega_il alpha_i                                            (global token of layer l)
         = omega_il (1 - alpha_i) exp(-|u_i - t_c|^2 / (2 h^2)) / Z    (places t_c in layer l)

so that a voxel with weak evidence takes the layer of its neighbours (the paper's topology). The q of
a voxel sum to 1, hence sum_c q_c exp E_c = 1 + sum_c q_c (exp E_c - 1): only candidates with evidence are kept.
Where the model has a common reading (`nn.factortopy`), y = X w + S z + e with S the global token of one layer, the same for all
units, and z ~ N(0, s^2 / a_S). Layer and a_S are those of the most evidence for S alone, summed over units, and a candidate's
evidence is that beside it: with H = S (S'S + a_S)^-1 S', all of X'X, X'y and y'y become X'(I - H)X, X'(I - H)y, y'(I - H)y. What
a unit reads of its own then no longer has to stand for what all read. a_S is taken `ROOM` times as large, as the units'
own readings take their part.
Not in the paper, which starts at random: there the readout is random too, the gradient of the selectors means nothing at
first, and they saturate before the channel weights are learnt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens.models.encoding.shards import ALONE, Shard
from brainlens.models.encoding.tables import FittingParts, LayerTokens
from brainlens.nn.factortopy import GRID, FactorTopyNetwork, locate

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-5, 5))  # in units of n images of channels with variance 1
RADII = (0.0, 0.15, 0.3, 0.5)  # of the circle that the samples of a voxel stand on, image = [-1, 1]; 0: all at its centre
ROOM = 10**0.5  # the next of the penalties
EDGE = 0.95  # places stay within it: tanh never reaches 1


@dataclass(frozen=True)
class Candidates:
    """Places to choose from: points (place, sample, 2) as (x, y), and their weights on the tokens (place, 64)."""

    points: Tensor
    pools: Tensor


@dataclass(frozen=True)
class Evidence:
    """The best candidates of every unit, both (unit, kept): number = layer x (places + 1) + place, with the global token the
    last place, and the log evidence in nats relative to no signal."""

    number: Tensor
    nats: Tensor


@dataclass(frozen=True)
class Beside:
    """What is regressed out: U (image, k) with orthonormal columns and H = U diag(kept) U', kept (k,) in [0, 1)."""

    axes: Tensor
    kept: Tensor

    def out_of(self, values: Tensor) -> Tensor:
        """(I - H) values, of (image, unit)."""
        return values - self.axes @ (self.kept[:, None] * (self.axes.T @ values))


def candidates(model: FactorTopyNetwork) -> Candidates:
    """Token centres with the samples of a voxel together, and with several samples also on circles around them."""
    device = model.readout.device
    if "space" not in model.use:
        return Candidates(torch.zeros(1, model.samples, 2, device=device), torch.full((1, GRID**2), 1 / GRID**2, device=device))
    centre = (torch.arange(GRID, device=device) + 0.5) * (2 / GRID) - 1
    grid = torch.stack([centre.repeat(GRID), centre.repeat_interleave(GRID)], dim=1)
    angle = torch.arange(model.samples, device=device) * (2 * math.pi / model.samples) - math.pi / 2
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    radii = RADII if model.samples > 1 else RADII[:1]
    points = torch.cat([grid[:, None] + radius * circle for radius in radii]).clamp(-EDGE, EDGE)
    pools = torch.zeros(len(points), GRID**2 + 1, device=device)  # one more for the row of zeros, if the model has it
    for sample in range(model.samples):
        cell, weights = locate(points[:, sample], GRID)
        pools.scatter_add_(1, model.corners[cell, :4], weights / model.samples)
    return Candidates(points, pools[:, :-1].contiguous())


def start_bottlenecks(model: FactorTopyNetwork, data: FittingParts, tokens: LayerTokens) -> None:
    """Sets every bottleneck to the identity, or with more channels than D to the first D principal directions.

    Ridge then shrinks what it would shrink on the channels themselves; a random bottleneck would distort it.
    """
    for number, layer in enumerate(model.layers):
        channels, width = model.local[number].shape
        made = [torch.eye(channels, width)] * 2
        if channels > width:
            both = torch.zeros(2, channels, channels, dtype=torch.float64)
            for spatial, whole in _blocks(tokens, layer, data.train.rows):
                for total, part in zip(both, (spatial.flatten(0, 1), whole), strict=True):
                    total += (part.T @ part).double().cpu()
            if not len(model.whole):
                both = both.sum(0, keepdim=True)  # one bottleneck for both kinds of tokens
            made = [torch.linalg.eigh(total)[1][:, -width:].flip(1).float() for total in both]
        with torch.no_grad():
            model.local[number].copy_(made[0])
            if len(model.whole):
                model.whole[number].copy_(made[1])


def common_reading(
    model: FactorTopyNetwork, data: FittingParts, tokens: LayerTokens, *, layer: str | None = None, shard: Shard = ALONE
) -> Beside:
    """Sets `common_layer` of a model to `layer`, or to that whose global token has the most evidence over all units with one
    penalty for all; and returns its projection on the training images."""
    y = torch.from_numpy(data.train.y - data.train.y.mean(axis=0)).to(model.readout.device)
    power, n = y.double().square().sum(0).float().clamp_min(1e-12), len(y)
    best, chosen = -math.inf, (0, torch.zeros(n, 0), torch.zeros(0))
    with torch.no_grad():
        for at in range(len(model.layers)) if layer is None else [model.layers.index(layer)]:
            whole = model.whole[at] if len(model.whole) else model.local[at]
            x = torch.cat([one @ whole for _, one in _blocks(tokens, model.layers[at], data.train.rows)]).double()
            x -= x.mean(0)
            values, vectors = torch.linalg.eigh(x.T @ x)
            real = values > 1e-6 * values[-1].clamp_min(1e-12)
            axes, values = (x @ vectors[:, real] / values[real].sqrt()).float(), values[real].float()
            share = (axes.T @ y).square() / power
            for penalty in PENALTIES:
                kept = values / (values + penalty * n)
                explained, size = (kept[:, None] * share).sum(0).clamp_max(1 - 1e-6), torch.log1p(values / (penalty * n)).sum()
                nats = (-(n - 1) / 2 * torch.log1p(-explained) - size / 2).clamp_min(0)
                total = shard.mean(float(nats.double().sum()), nats.numel())
                if total > best:
                    best, chosen = total, (at, axes, values / (values + ROOM * penalty * n))
    model.common_layer.fill_(chosen[0])
    return Beside(*chosen[1:])


def search(
    model: FactorTopyNetwork,
    data: FittingParts,
    tokens: LayerTokens,
    *,
    beside: Beside | None = None,
    keep: int = 48,
    block: int = 1024,
) -> Evidence:
    """The log evidence of the training responses for every layer and place, the best `keep` of each unit.

    Channels are those after the model's bottlenecks. beside: what explains the responses already, see the module's text. Cost:
    one product of tokens and responses a layer, and D^2 numbers a unit and candidate; [layer, place, unit] is held for `block`
    units only.
    """
    device = model.readout.device
    y = torch.from_numpy(data.train.y - data.train.y.mean(axis=0)).to(device)
    left = y if beside is None else beside.out_of(y)
    power = (y * left).double().sum(0).float().clamp_min(1e-12)
    found = candidates(model)
    places = len(found.pools) + 1
    keep = min(keep, places * len(model.layers))
    best = torch.full((y.shape[1], keep), -torch.inf, device=device)
    number = torch.zeros(y.shape[1], keep, dtype=torch.long, device=device)
    with torch.no_grad():
        for at in range(len(model.layers)):
            values, vectors = _eigen(model, at, found, data.train.rows, tokens, beside)
            for start in range(0, y.shape[1], block):
                part = slice(start, start + block)
                nats = _evidence(
                    _cross(model, at, found, data.train.rows, tokens, left[:, part]), values, vectors, power[part], len(y)
                )
                here = (at * places + torch.arange(places, device=device)).expand(nats.shape[1], -1)
                both, which = torch.cat([best[part], nats.T], 1), torch.cat([number[part], here], 1)
                best[part], order = both.topk(keep, dim=1)
                number[part] = which.gather(1, order)
    return Evidence(number, best)


def start_selectors(
    model: FactorTopyNetwork,
    found: Evidence,
    *,
    steps: int = 300,
    lr: float = 3e-3,
    openness: float = 0.2,
    blur: float = 1 / GRID,
    shard: Shard = ALONE,
) -> None:
    """Fits the selectors to the evidence, as in the module's equations; blur is h, half the distance of two tokens.

    In several processes the evidence is that of the units of `shard`, and the sum over voxels is over all of them.
    """
    given = candidates(model)
    places = len(given.pools) + 1
    layer, place = found.number // places, found.number % places
    whole = place == places - 1
    points = torch.cat([given.points, given.points.new_zeros(1, model.samples, 2)])[place]  # (unit, kept, sample, 2)
    more = found.nats + torch.log(-torch.expm1(-found.nats.clamp_min(1e-6)))  # log(exp E - 1)
    crowd = math.log(max(1.0, _crowd(given, blur)))
    optimiser = torch.optim.AdamW(model.selectors.parameters(), lr=lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))  # the second half cools down
        space, omega, alpha = model.select()
        logs, alpha = omega.clamp_min(1e-12).log(), alpha.clamp(1e-6, 1 - 1e-6)
        far = (space[:, None] - points).square().sum(3).mean(2) / (2 * blur**2)
        side = torch.where(whole, alpha.log()[:, None], (1 - alpha).log()[:, None] - far - crowd)
        gathered = torch.logsumexp(more + logs.gather(1, layer) + side, dim=1)
        open_ = logs.mean(1) + (alpha.log() + (1 - alpha).log()) / 2
        loss = -(F.softplus(gathered) + openness * open_).mean() * shard.share
        optimiser.zero_grad(set_to_none=True)
        if not loss.requires_grad:
            return
        loss.backward()
        shard.sum_gradients(model, loss)
        optimiser.step()


def _crowd(given: Candidates, blur: float) -> float:
    """Z, how many places a voxel sits among: the mean over places of the sum of their kernels."""
    between = (given.points[:, None] - given.points[None]).square().sum(3).mean(2)
    return float(torch.exp(-between / (2 * blur**2)).sum(1).mean())


def _blocks(tokens: LayerTokens, layer: str, rows: np.ndarray, size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
    """Standardised tokens and global tokens of one layer, some images at a time."""
    for start in range(0, len(rows), size):
        yield tokens.of(layer, rows[start : start + size])


def _mapped(model: FactorTopyNetwork, at: int, rows: np.ndarray, tokens: LayerTokens) -> Iterator[Tensor]:
    """Bottlenecked tokens of one layer, (image, 64 + global, D), some images at a time."""
    local = model.local[at]
    whole = model.whole[at] if len(model.whole) else local
    for spatial, one in _blocks(tokens, model.layers[at], rows):
        yield torch.cat([spatial @ local, (one @ whole)[:, None]], dim=1)


def _eigen(
    model: FactorTopyNetwork, at: int, found: Candidates, rows: np.ndarray, tokens: LayerTokens, beside: Beside | None
) -> tuple[Tensor, Tensor]:
    """Eigenvalues (place, D) and vectors (place, D, D) of the centred channels' Gram matrix at every place and globally."""
    width, places = model.width, len(found.pools) + 1
    gram = torch.zeros(places, width, width, dtype=torch.float64, device=model.readout.device)
    total = torch.zeros(places, width, dtype=torch.float64, device=model.readout.device)
    for block in _mapped(model, at, rows, tokens):
        pooled = found.pools @ block[:, :-1].transpose(0, 1).flatten(1)
        pooled = torch.cat([pooled.view(places - 1, len(block), width), block[:, -1][None]])
        gram += pooled.transpose(1, 2) @ pooled
        total += pooled.sum(1)
    gram -= total[:, :, None] * total[:, None, :] / len(rows)
    if beside is not None:
        cross = _cross(model, at, found, rows, tokens, beside.axes)
        gram -= (cross * beside.kept) @ cross.transpose(1, 2)
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp_min(0).float(), vectors.float()


def _cross(model: FactorTopyNetwork, at: int, found: Candidates, rows: np.ndarray, tokens: LayerTokens, y: Tensor) -> Tensor:
    """X'y at every place and globally: (place, D, unit); y is centred, so X need not be."""
    cross = torch.zeros((GRID**2 + 1) * model.width, y.shape[1], device=y.device)
    done = 0
    for block in _mapped(model, at, rows, tokens):
        cross.addmm_(block.flatten(1).T, y[done : done + len(block)])
        done += len(block)
    cross = cross.view(GRID**2 + 1, -1)
    return torch.cat([found.pools @ cross[:-1], cross[-1:]]).view(-1, model.width, y.shape[1])


def _evidence(cross: Tensor, values: Tensor, vectors: Tensor, power: Tensor, n: int) -> Tensor:
    """E of the module's equation, (place, unit)."""
    share = torch.bmm(vectors.transpose(1, 2), cross).square() / power
    best = torch.zeros(len(cross), cross.shape[2], device=cross.device)
    for penalty in PENALTIES:
        explained = torch.bmm(1 / (values + penalty * n)[:, None], share)[:, 0]
        size = torch.log1p(values / (penalty * n)).sum(1)
        best = torch.maximum(best, -(n - 1) / 2 * torch.log1p(-explained.clamp_max(1 - 1e-6)) - size[:, None] / 2)
    return best
