"""Each encoder of an alignment, fitted on a split: ridge (two metrics), linear contrastive, MLP, 3D CNN, volume transformer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.align.processes import shared
from brainlens.align.split import Part, Split
from brainlens.align.training import Progress, Training, reciprocal_rank, train_contrastive
from brainlens.nn import decoders
from brainlens.nn.volume_encoder import Design, VolumeEncoder
from brainlens.types import DataError, Volume

ENCODERS = ("ridge", "ridge_whitened", "linear", "mlp", "cnn", "volume")
ALPHAS = tuple(float(a) for a in 10.0 ** np.arange(-2, 3.1, 0.5))


@dataclass(frozen=True)
class Decoder:
    """A fitted encoder.

    `embed(x)` maps mean rows (n, V) to the brain embeddings meant for images and for texts; `gallery(target, which)`
    maps targets into the space in which cosines are taken (the identity but for the whitened metric).
    """

    name: str
    embed: Callable[[Tensor], tuple[Tensor, Tensor]]
    parameters: int
    seconds: float
    chosen: dict[str, float] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)
    gallery: Callable[[Tensor, str], Tensor] = lambda target, which: target
    module: nn.Module | None = None
    linear: decoders.LinearDecoder | None = None
    ridge: dict[str, decoders.KernelRidge] | None = None


# Patches of 28 mm at 4 mm voxels, each with a projection of its own, and a class token that carries their sum: the
# form that can start from a linear decoder. A Design without these two starts from scratch.
DESIGN = Design(patch=7, width=192, depth=2, heads=4, per_patch=True, class_token="sum", zero_init=True, patch_dropout=0.5)


def fit_ridge(
    split: Split,
    *,
    whitened: bool = False,
    alphas: tuple[float, ...] = ALPHAS,
    fits: dict[str, decoders.KernelRidge] | None = None,
) -> Decoder:
    """Ridge from voxels to the image and the text embedding, each penalty chosen by validation reciprocal rank.

    whitened: cosines are taken in the metric in which the leave-one-out errors of the training images are round. fits:
    those of a plain ridge on the same split, to be used again.
    """
    start = time.perf_counter()
    names = [which for which in ("image", "text") if getattr(split.train, which) is not None]
    if fits is None:
        found = decoders.kernel_ridge(
            split.train.mean(),
            [getattr(split.train, which) for which in names],
            alphas,
            validation=split.validation.mean(),
            scores=[_score(getattr(split.validation, which)) for which in names],
        )
        fits = dict(zip(names, found, strict=True))
    metrics = {k: decoders.whitened_metric(fits[k].left_out, getattr(split.train, k)) for k in names} if whitened else {}

    def one(x: Tensor, which: str) -> Tensor:
        which = which if which in names else "image"
        z = fits[which].decoder(x)
        return metrics[which].query(z) if whitened else z

    return Decoder(
        "ridge_whitened" if whitened else "ridge",
        lambda x: (one(x, "image"), one(x, "text")),
        parameters=sum(f.decoder.weights.numel() + f.decoder.intercept.numel() for f in fits.values()),
        seconds=time.perf_counter() - start,
        chosen={f"alpha_{which}": f.alpha for which, f in fits.items()},
        gallery=lambda target, which: metrics[which].gallery(target) if which in metrics else target,
        linear=fits["image"].decoder,
        ridge=fits,
    )


def _score(truth: Tensor) -> Callable[[Tensor], float]:
    return lambda predicted: reciprocal_rank(predicted, truth)


def fit_linear(
    split: Split,
    training: Training,
    *,
    components: int = 500,
    seed: int = 0,
    dropout: float = 0.5,
    progress: Progress | None = None,
) -> Decoder:
    """One linear map, trained by the contrastive loss on principal components of the training responses."""
    start = time.perf_counter()
    rows = split.train.mean()
    mean = rows.mean(0)
    axes, _ = decoders.principal_axes(rows - mean, components, generator=torch.Generator().manual_seed(seed))
    axes = shared(axes.contiguous())
    small = replace(split, train=_project(split.train, mean, axes), validation=_project(split.validation, mean, axes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = decoders.ComponentDecoder(axes.shape[1], split.train.image.shape[1], dropout=dropout).to(axes.device)
    log = train_contrastive(module, small, training, seed=seed, progress=progress)
    with torch.no_grad():
        linear = decoders.LinearDecoder(mean, axes @ module.linear.weight.T, module.linear.bias.detach().clone())
    return _decoder("linear", linear, linear.weights.numel(), start, log, module=None, linear=linear)


def _project(part: Part, mean: Tensor, axes: Tensor) -> Part:
    """The part with its rows as principal components, computed in blocks so that float16 rows stay float16."""
    return replace(part, x=torch.cat([(block.float() - mean) @ axes for block in part.x.split(1024)]))


def fit_mlp(
    split: Split,
    training: Training,
    *,
    seed: int = 0,
    width: int = 512,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """A residual MLP on the voxels that carry a region label (all voxels where none does)."""
    labels = split.units["roi"].fillna("").astype(str) if "roi" in split.units.columns else None
    chosen = np.arange(split.train.x.shape[1]) if labels is None else np.flatnonzero(~labels.isin(["", "none"]))
    if not len(chosen):
        chosen = np.arange(split.train.x.shape[1])
    return _fit_module(
        "mlp",
        lambda: decoders.ResidualMLP(torch.from_numpy(chosen), split.train.image.shape[1], width=width),
        split,
        training,
        seed=seed,
        folder=folder,
        progress=progress,
    )


def fit_cnn(
    split: Split,
    training: Training,
    *,
    seed: int = 0,
    width: int = 16,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """A 3D CNN on the whole volume."""
    mask = torch.from_numpy(_volume(split).mask)
    return _fit_module(
        "cnn",
        lambda: decoders.VolumeCNN(mask, split.train.image.shape[1], width=width),
        split,
        training,
        seed=seed,
        folder=folder,
        progress=progress,
    )


def fit_volume(
    split: Split,
    training: Training,
    *,
    design: Design = DESIGN,
    start_from: decoders.LinearDecoder | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """The 3D transformer on patches of masked voxels.

    With `start_from` the patch projections start as that linear decoder, cut into patches, and the blocks start at
    zero, so that training begins where the linear decoder ends and adds what lies beyond it.
    """
    space = _volume(split)
    design = replace(design, embed_dim=split.train.image.shape[1])

    def build() -> nn.Module:
        module = VolumeEncoder(space.mask, design, seed=seed)
        if start_from is not None:
            module.load_linear(start_from.weights, start_from.intercept - start_from.mean @ start_from.weights)
        return module

    return _fit_module("volume", build, split, training, seed=seed, folder=folder, progress=progress)


def _fit_module(
    name: str,
    build: Callable[[], nn.Module],
    split: Split,
    training: Training,
    *,
    seed: int,
    folder: Path | None,
    progress: Progress | None,
) -> Decoder:
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build().to(split.train.x.device)
    log = train_contrastive(module, split, training, seed=seed, folder=folder, progress=progress)
    parameters = sum(p.numel() for p in module.parameters())
    return _decoder(name, module, parameters, start, log, module=module, linear=None)


def _decoder(name: str, run: Callable[[Tensor], Tensor], parameters: int, start: float, log: Any, **more: Any) -> Decoder:
    def embed(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            z = torch.cat([run(rows) for rows in x.split(128)])
        return z, z

    return Decoder(name, embed, parameters, time.perf_counter() - start, log=log, **more)


def _volume(split: Split) -> Volume:
    if not isinstance(split.space, Volume):
        raise DataError(
            f"align: this encoder needs responses in a Volume, got {type(split.space).__name__}; use linear, ridge or mlp"
        )
    return split.space
