"""Where the volume encoder starts: voxels weighted by their reliability, ridge on them, and the metric learned from its errors.

Everything here is estimated from training images; the penalty, the shrinkage and the temperature are chosen on validation images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.models.volume.split import AlignmentPart, Split
from brainlens.models.volume.training import reciprocal_rank
from brainlens.nn.losses import info_nce, trimodal
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.solvers.canonical import AffineMap, Canonical, canonical_metric, ridge_path
from brainlens.solvers.kernel_ridge import LinearDecoder, moves
from brainlens.types import DataError

ALPHAS = tuple(float(a) for a in 10.0 ** np.arange(-1.0, 2.1, 0.5))
SHRINKAGES = (3e-4, 3e-3, 3e-2, 0.3)
TEMPERATURES = tuple(float(t) for t in 0.01 * 2.0 ** np.arange(0, 5.1, 0.5))
FOLDS = 5
FREE = 1.0  # size of the random features that the blocks begin with
DIMS = 80  # canonical variates kept for each modality: at 9,000 images the correlations beyond 64 are below .15
KEPT = 0.995  # share of the weighted variance that the coordinates keep


def reliability(part: AlignmentPart, *, block: int = 256) -> Tensor:
    """Weight (V,) of each voxel: the share of a trial's variance that comes back when the image is shown again.

    rho = signal / (signal + noise) = ncsnr^2 / (1 + ncsnr^2) as in `metrics.encoding.noise_ceiling`, less two standard errors
    of rho where there is no signal, not below 0. One for all voxels where no image was shown twice.
    """
    voxels, device = part.x.shape[1], part.x.device
    counts = (part.rows >= 0).sum(1)
    trials, freedom = int(counts.sum()), int((counts - 1).sum())
    if freedom == 0:
        return torch.ones(voxels, device=device)
    within, total, square = (torch.zeros(voxels, device=device) for _ in range(3))
    for rows in part.rows.split(block):
        there = (rows >= 0).to(device)[..., None]
        x = part.x[rows.clamp_min(0)].float() * there
        sums, squares = x.sum(1), x.square().sum(1)
        within += (squares - sums.square() / there.sum(1)).sum(0)
        total += sums.sum(0)
        square += squares.sum(0)
    noise = within / freedom
    signal = (square / trials - (total / trials).square() - noise).clamp_min(0)
    repeats = trials / len(counts)
    error = (2 / (trials * (repeats - 1))) ** 0.5
    weights = (signal / (signal + noise).clamp_min(1e-12) - 2 * error).clamp_min(0)
    return weights if (weights > 0).any() else torch.ones_like(weights)


@dataclass(frozen=True)
class Coordinates:
    """Weighted voxels as principal components of each patch: u_p = (x_p - mean_p) axes_p, for patches p with their voxels."""

    mean: Tensor
    voxels: list[Tensor]
    axes: list[Tensor]

    @property
    def groups(self) -> np.ndarray:
        """Patch number of each coordinate, (R,)."""
        return np.repeat(np.arange(len(self.axes)), [a.shape[1] for a in self.axes])

    def rows(self, x: Tensor) -> Tensor:
        """Responses (n, V) as coordinates (n, R)."""
        pieces = []
        for block in x.split(2048):
            centred = block.float() - self.mean
            pieces.append(torch.cat([centred[:, v] @ a for v, a in zip(self.voxels, self.axes, strict=True)], 1))
        return torch.cat(pieces)

    def part(self, part: AlignmentPart) -> AlignmentPart:
        """The part in these coordinates; a mean of trials is the mean of their coordinates, so nothing else changes."""
        return replace(part, x=self.rows(part.x).to(torch.float16))

    def on_voxels(self, weights: Tensor) -> Tensor:
        """Weights (R, d) on coordinates as weights (V, d) on voxels."""
        out = weights.new_zeros(len(self.mean), weights.shape[1])
        for v, a, piece in zip(self.voxels, self.axes, weights.split([a.shape[1] for a in self.axes]), strict=True):
            out[v] = a @ piece
        return out


def coordinates(part: AlignmentPart, patch_of: Tensor, weights: Tensor, *, kept: float = KEPT) -> Coordinates:
    """Coordinates from the mean training responses: all components above the level that keeps so much weighted variance.

    patch_of (V,) int, weights (V,).
    Voxels of weight 0, or the same for every image, are left out. Every patch keeps at least one coordinate, so that the tokens
    stay those of the whole brain. Scaled to mean variance 1.
    """
    x = part.mean()
    mean = x.mean(0)
    scale = weights / weights.max() * moves(x)
    voxels = []
    for p in range(int(patch_of.max()) + 1):
        inside = (patch_of.to(x.device) == p).nonzero().squeeze(1)
        seen = inside[scale[inside] > 0]
        voxels.append(seen if len(seen) else inside[:1])
    found = []
    for v in voxels:
        rows = (x[:, v] - mean[v]) * scale[v]
        found.append(torch.linalg.eigh((rows.T @ rows / len(rows)).double()))
    order = torch.cat([values for values, _ in found]).clamp_min(0).sort(descending=True).values
    share = order.cumsum(0) / order.sum()
    least = order[min(int((share < kept).sum()), len(order) - 1)]
    count = [max(1, int((values >= least).sum())) for values, _ in found]
    size = float((order[: sum(count)].sum() / sum(count)).sqrt())
    axes = [(scale[v][:, None] * vectors[:, -k:].to(x)) / size for v, k, (_, vectors) in zip(voxels, count, found, strict=True)]
    return Coordinates(mean, voxels, axes)


@dataclass(frozen=True)
class Ridge:
    """The ridge of a start: its stacked targets y (n, d), its penalty and its decoder."""

    y: Tensor
    alpha: float
    decoder: LinearDecoder


@dataclass(frozen=True)
class Start:
    """The linear start: `split` holds coordinates and mapped targets, `linear` maps coordinates to the joint embedding.

    ridge: coordinates to the stacked targets; readout: its predictions to the joint embedding. maps: target (n, d) -> joint
    embedding (n, D), zero outside the dimensions of its modality, which `places` names.
    chosen: what validation chose; seconds: what it took.
    """

    coordinates: Coordinates
    split: Split
    ridge: Ridge
    readout: AffineMap
    maps: dict[str, AffineMap]
    places: dict[str, slice]
    chosen: dict[str, float]
    seconds: float = 0.0

    @property
    def linear(self) -> LinearDecoder:
        """Coordinates to the joint embedding."""
        return _then(self.ridge.decoder, self.readout)


def begin(split: Split, patch_of: Tensor, *, modality: str = "both", dims: int = DIMS) -> Start:
    """The start on a split.

    patch_of (V,) int: the patch of each voxel.
    A ridge from coordinates to the stacked targets, its leave-one-out predictions, and for each modality the canonical metric
    between all of these predictions and its own targets; penalty and shrinkage with the best mean reciprocal rank on validation
    images over both directions and modalities. With one modality the other's targets are looked up in the same space, which
    networks such as CLIP share between the two.
    """
    begun = time.perf_counter()
    points = coordinates(split.train, patch_of, reliability(split.train))
    small = replace(split, train=points.part(split.train), validation=points.part(split.validation), tested=None)
    names = [n for n in ("image", "text") if getattr(split.train, n) is not None and modality in ("both", n)]
    if not names:
        raise DataError("modality 'text' needs captions, and this recording has none; choose image")
    y = torch.cat([getattr(small.train, n) for n in names], 1)
    held = small.validation.mean()
    best: tuple[float, float, float, LinearDecoder, dict[str, Canonical]] | None = None
    for alpha, decoder, left_out in ridge_path(small.train.mean(), y, ALPHAS):
        predicted = decoder(held)
        for shrinkage in SHRINKAGES:
            metrics = {
                n: canonical_metric(left_out, getattr(small.train, n), dims=min(dims, y.shape[1]), shrinkage=shrinkage)
                for n in names
            }
            reached = float(np.mean([_both_ways(metrics[n], predicted, getattr(small.validation, n)) for n in names]))
            if best is None or reached > best[0]:
                best = (reached, alpha, shrinkage, decoder, metrics)
    assert best is not None
    reached, alpha, shrinkage, decoder, metrics = best
    predicted = decoder(held)
    sharpness = {n: _sharpness(metrics[n], predicted, getattr(small.validation, n)) for n in names}
    ridge = Ridge(y, alpha, decoder)
    start = _joined(points, small, ridge, metrics, sharpness)
    temperature = min(TEMPERATURES, key=lambda t: _loss(start.linear, start.split.validation, t))
    chosen = {"alpha": alpha, "shrinkage": shrinkage, "validation_mrr": reached, "temperature": temperature}
    return replace(start, chosen=chosen, seconds=time.perf_counter() - begun)


def _sharpness(metric: Canonical, predicted: Tensor, target: Tensor) -> float:
    """What one modality's brain embeddings are multiplied by, so that dot products with unit targets are its logits."""
    z, aim = metric.prediction(predicted), metric.embedding(target)
    best = min(TEMPERATURES, key=lambda t: float(info_nce(z, aim, t, joint=False)))
    return 1 / (best * float(z.norm(dim=1).mean()))


def _joined(points: Coordinates, small: Split, ridge: Ridge, metrics: dict[str, Canonical], sharpness: dict[str, float]) -> Start:
    """One embedding that holds the dimensions of every modality side by side, and the targets in it.

    The brain's dimensions are scaled so that one temperature suits both modalities, though texts are matched less surely.
    """
    sizes = [len(m.correlations) for m in metrics.values()]
    total, at, places, maps = sum(sizes), 0, {}, {}
    for (name, metric), size in zip(metrics.items(), sizes, strict=True):
        places[name] = slice(at, at + size)
        wide = metric.embedding.matrix.new_zeros(len(metric.embedding.matrix), total)
        wide[:, places[name]] = metric.embedding.matrix
        shift = wide.new_zeros(total)
        shift[places[name]] = metric.embedding.shift
        maps[name], at = AffineMap(wide, shift), at + size
    for name in ("image", "text"):
        places.setdefault(name, next(iter(places.values())))
        maps.setdefault(name, next(iter(maps.values())))
    matrix = torch.cat([m.prediction.matrix * sharpness[name] for name, m in metrics.items()], 1)
    shift = torch.cat([m.prediction.shift * sharpness[name] for name, m in metrics.items()])
    readout = AffineMap(matrix, shift)

    def mapped(part: AlignmentPart) -> AlignmentPart:
        return replace(part, image=maps["image"](part.image), text=None if part.text is None else maps["text"](part.text))

    aimed = replace(small, train=mapped(small.train), validation=mapped(small.validation))
    return Start(points, aimed, ridge, readout, maps, places, {})


def _both_ways(metric: Canonical, predicted: Tensor, target: Tensor) -> float:
    brain, gallery = metric.prediction(predicted), metric.embedding(target)
    return 0.5 * (reciprocal_rank(brain, gallery) + reciprocal_rank(gallery, brain))


def _loss(embed: Callable[[Tensor], Tensor], part: AlignmentPart, temperature: float) -> float:
    return float(trimodal(embed(part.mean()), part.image, part.text, temperature=temperature, joint=False))


def _then(decoder: LinearDecoder, readout: AffineMap) -> LinearDecoder:
    return LinearDecoder(decoder.mean, decoder.weights @ readout.matrix, decoder.intercept @ readout.matrix + readout.shift)


class CrossFitted(nn.Module):
    """An encoder on coordinates that begins at the linear start, and in training sees its out-of-fold predictions.

    Rows are [coordinates (R), correction (D)]: z = encoder(u), with the correction added to what the class token carries. For
    training images it is the difference between the start fitted without their fold and the start; for others it is zero.
    In-sample ridge predictions are over-confident, so training uses out-of-fold predictions (cross-fitting); otherwise the loss
    is near zero from the start and the learned metric degrades.
    """

    carry: Tensor

    def __init__(self, start: Start, design: VolumeDesign, *, seed: int = 0) -> None:
        super().__init__()
        groups, linear = start.coordinates.groups, start.linear
        self.encoder = VolumeEncoder(np.ones(len(groups), bool), design, groups=groups, seed=seed)
        random = self.encoder.projection.detach().clone()
        self.encoder.load_linear(linear.weights, linear.intercept - linear.mean @ linear.weights)
        places = self.encoder.head.weight.detach()  # (D, width) orthonormal rows: where the class token carries each dimension
        size = linear.weights.norm() / self.encoder.projection.detach().norm() * self.encoder.n_patches**0.5
        self.register_buffer("carry", places / size)
        free = torch.eye(design.width) - places.T @ places - 1 / design.width
        with torch.no_grad():  # random features for the blocks, in what the carried dimensions leave free
            self.encoder.projection.add_(FREE * random @ free)

    def forward(self, x: Tensor) -> Tensor:
        u, correction = x.split([self.encoder.n_voxels, len(self.carry)], 1)
        tokens = self.encoder.tokens(u)
        first = tokens[:, :1] + (correction @ self.carry)[:, None]
        return self.encoder.forward_from(torch.cat([first, tokens[:, 1:]], 1), 0)


def cross_fitted(start: Start, *, folds: int = FOLDS, seed: int = 0) -> Split:
    """The split of a start with the corrections of `CrossFitted` beside its coordinates."""
    part, ridge = start.split.train, start.ridge
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(part.ids)) % folds)
    x, full = part.mean(), start.linear
    out = torch.zeros(len(part.x), full.weights.shape[1])
    for k in range(folds):
        kept = fold != k
        _, decoder, _ = next(ridge_path(x[kept], ridge.y[kept], [ridge.alpha]))
        other = _then(decoder, start.readout)
        rows = part.rows[~kept]
        rows = rows[rows >= 0]
        own = part.x[rows].float()
        out[rows] = other(own) - full(own)

    def beside(other: AlignmentPart, columns: Tensor) -> AlignmentPart:
        return replace(other, x=torch.cat([other.x, columns.to(other.x)], 1))

    nothing = torch.zeros(len(start.split.validation.x), out.shape[1])
    return replace(start.split, train=beside(part, out), validation=beside(start.split.validation, nothing))


@torch.no_grad()
def on_voxels(encoder: VolumeEncoder, start: Start, mask: np.ndarray, design: VolumeDesign) -> VolumeEncoder:
    """The same encoder on masked voxels: projections through the axes of each patch, the mean in the positions. Exact.

    mask (x, y, z) bool.
    """
    whole = VolumeEncoder(mask, design).to(encoder.projection)
    state = {k: v for k, v in encoder.state_dict().items() if k not in ("projection", "position")}
    whole.load_state_dict(state, strict=False)
    weights = start.coordinates.on_voxels(encoder.voxel_weights())
    whole.projection.copy_(weights[whole.order])
    base = torch.stack([start.coordinates.mean[v] @ weights[v] for v in start.coordinates.voxels])
    whole.position.copy_(encoder.position - base)
    return whole.eval()
