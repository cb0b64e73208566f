"""Each encoder of an alignment, fitted on a split: ridge (two metrics), linear contrastive, MLP, 3D CNN, volume transformer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.choices import VOLUME_BASELINES, VOLUME_CONTROLS, VOLUME_ENCODERS
from brainlens.models.processes import shared
from brainlens.models.volume.decoder import Decoder, Reader
from brainlens.models.volume.split import AlignmentPart, Split
from brainlens.models.volume.start import CrossFitted, Start, begin, cross_fitted, on_voxels
from brainlens.models.volume.training import AlignmentTraining, Progress, reciprocal_rank, train_contrastive, validate
from brainlens.nn import decoding_baselines
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.parcels import cubic_patches
from brainlens.solvers.kernel_ridge import KernelRidge, LinearDecoder, kernel_ridge, principal_axes, whitened_metric
from brainlens.subjects import region_labels
from brainlens.types import DataError, Volume

BASELINES = VOLUME_BASELINES
MINDEYE = ("mindeye_like", "mindeye2_like")  # trained by BiMixCo and then SoftCLIP
MINDEYE_RATE = 3e-4  # the published one; at ten times it the losses at temperature .006 do not fall for some seeds
CONTROLS, ENCODERS = VOLUME_CONTROLS, VOLUME_ENCODERS
ALPHAS = tuple(float(a) for a in 10.0 ** np.arange(-2, 3.1, 0.5))


# Patches of 28 mm at 4 mm voxels, each with a projection of its own, and a class token that carries their sum: the
# form that can start from a linear decoder. A Design without these two starts from scratch, in the network's own metric.
DESIGN = VolumeDesign(
    patch=7, width=256, depth=1, heads=4, per_patch=True, class_token="sum", zero_init=True, patch_dropout=0.75, input_dropout=0.3
)


def fit_ridge(
    split: Split,
    *,
    whitened: bool = False,
    alphas: tuple[float, ...] = ALPHAS,
    fits: dict[str, KernelRidge] | None = None,
) -> Decoder:
    """Ridge from voxels to the image and the text embedding, each penalty chosen by validation reciprocal rank.

    whitened: cosines after whitening by the covariance of the leave-one-out residuals of the training images. fits:
    those of a plain ridge on the same split, to be used again.
    """
    start = time.perf_counter()
    names = [which for which in ("image", "text") if getattr(split.train, which) is not None]
    if fits is None:
        found = kernel_ridge(
            split.train.mean(),
            [getattr(split.train, which) for which in names],
            alphas,
            validation=split.validation.mean(),
            scores=[_score(getattr(split.validation, which)) for which in names],
        )
        fits = dict(zip(names, found, strict=True))
    metrics = {k: whitened_metric(fits[k].left_out, getattr(split.train, k)) for k in names} if whitened else {}

    return Decoder(
        "ridge_whitened" if whitened else "ridge",
        {which: found.decoder for which, found in fits.items()},
        metrics=metrics,
        parameters=sum(f.decoder.weights.numel() + f.decoder.intercept.numel() for f in fits.values()),
        seconds=time.perf_counter() - start,
        chosen={f"alpha_{which}": f.alpha for which, f in fits.items()},
        ridge=fits,
    )


def _score(truth: Tensor) -> Callable[[Tensor], float]:
    return lambda predicted: reciprocal_rank(predicted, truth)


def find_start(split: Split, design: VolumeDesign = DESIGN, *, modality: str = "both") -> Start:
    """The linear start and its metric on the patches of a design (see `start.begin`)."""
    patch_of, _ = cubic_patches(_volume(split).mask, design.patch, design.padding)
    return begin(split, torch.from_numpy(patch_of), modality=modality)


def fit_projected(start: Start) -> Decoder:
    """Ridge on reliable voxels in the learned metric: what the volume encoder starts from, without any training."""
    begun = time.perf_counter()
    weights = start.coordinates.on_voxels(start.linear.weights)
    constant = start.linear(start.coordinates.rows(torch.zeros(1, len(weights)).to(weights)))[0]
    linear = LinearDecoder(torch.zeros(len(weights)).to(weights), weights, constant)
    count = weights.numel() + sum(m.matrix.numel() for m in start.maps.values())
    found = _decoder("ridge_projected", linear, count, begun, [], start=start)
    return replace(found, seconds=found.seconds + start.seconds, chosen=start.chosen)


def fit_linear(
    split: Split,
    training: AlignmentTraining,
    *,
    components: int = 500,
    seed: int = 0,
    dropout: float = 0.5,
    start: Start | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """One linear map, trained by the contrastive loss on principal components of the training responses.

    start: its targets and its temperature in place of the network's own (the control `linear_projected`).
    """
    begun = time.perf_counter()
    rows = split.train.mean()
    mean = rows.mean(0)
    axes, _ = principal_axes(rows - mean, components, generator=torch.Generator().manual_seed(seed))
    axes = shared(axes.contiguous())
    split, training = _aims(split, training, start)
    small = replace(split, train=_project(split.train, mean, axes), validation=_project(split.validation, mean, axes))

    def build() -> nn.Module:
        return decoding_baselines.ComponentDecoder(axes.shape[1], split.train.image.shape[1], dropout=dropout)

    module, log = _train(build, small, training, seed=seed, progress=progress)
    assert isinstance(module, decoding_baselines.ComponentDecoder)
    with torch.no_grad():
        linear = LinearDecoder(mean, axes @ module.linear.weight.T, module.linear.bias.detach().clone())
    name = "linear" if start is None else "linear_projected"
    return _decoder(name, linear, linear.weights.numel(), begun, log, start=start)


def _project(part: AlignmentPart, mean: Tensor, axes: Tensor) -> AlignmentPart:
    """The part with its rows as principal components, computed in blocks so that float16 rows stay float16."""
    return replace(part, x=torch.cat([(block.float() - mean) @ axes for block in part.x.split(1024)]))


def fit_mlp(
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int = 0,
    width: int = 512,
    start: Start | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    mindeye: bool = False,
) -> Decoder:
    """A residual MLP on the voxels that carry a region label (all voxels where none does).

    start: its targets and its temperature in place of the network's own (the control `mlp_projected`). mindeye: trained by
    BiMixCo and then SoftCLIP, to the end of the schedule; the checkpoint kept is the one that retrieves best.
    """
    begun, voxels = time.perf_counter(), _region_voxels(split)
    split, training = _aims(split, training, start)
    training = to_the_end(training) if mindeye else training
    parts = {name: replace(getattr(split, name), x=getattr(split, name).x[:, voxels]) for name in ("train", "validation")}

    def build() -> nn.Module:
        return decoding_baselines.ResidualMLP(torch.arange(len(voxels)), split.train.image.shape[1], width=width)

    module, log = _train(build, replace(split, **parts), training, seed=seed, folder=folder, progress=progress, mindeye=mindeye)
    module.voxels = voxels  # trained on these columns alone, read from whole rows from here on
    name = "mindeye_like" if mindeye else "mlp" if start is None else "mlp_projected"
    return _decoder(name, module, _count(module), begun, log, start=start)


def fit_shared(
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int = 0,
    width: int = 512,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """A linear map of each subject and one MLP for all, by BiMixCo and then SoftCLIP (see `nn.decoding_baselines`)."""
    begun, voxels, names = time.perf_counter(), _region_voxels(split), split.train.subjects

    def build() -> nn.Module:
        return decoding_baselines.SharedSubjectMLP(names, voxels, split.train.image.shape[1], width=width)

    module, log = _train(build, split, to_the_end(training), seed=seed, folder=folder, progress=progress, mindeye=True)
    return _decoder("mindeye2_like", module, _count(module), begun, log)


def to_the_end(training: AlignmentTraining) -> AlignmentTraining:
    """The recipe without early stop, since MindEye's losses follow a schedule; kept is what retrieves held-back images best."""
    return replace(training, patience=10**6, select="retrieval")


def _region_voxels(split: Split) -> Tensor:
    """Numbers of the voxels that carry a region label, of all where none does."""
    labels, every = region_labels(split.units), np.arange(split.train.x.shape[1])
    chosen = every if labels is None else np.flatnonzero(~np.isin(labels, ["", "none"]))
    return torch.from_numpy(chosen if len(chosen) else every).to(split.train.x.device)


def fit_cnn(
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int = 0,
    width: int = 16,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """A 3D CNN on the whole volume."""
    begun, mask = time.perf_counter(), torch.from_numpy(_volume(split).mask)

    def build() -> nn.Module:
        return decoding_baselines.VolumeCNN(mask, split.train.image.shape[1], width=width)

    module, log = _train(build, split, training, seed=seed, folder=folder, progress=progress)
    return _decoder("cnn", module, _count(module), begun, log)


def fit_volume(
    split: Split,
    training: AlignmentTraining,
    *,
    design: VolumeDesign = DESIGN,
    start: Start | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """The 3D transformer on patches of masked voxels.

    With `start` it begins as that linear decoder, in its metric, with blocks that begin as the identity: training adds what
    lies beyond, and early stopping keeps the start if nothing does. It is trained on the coordinates of the start, which cost
    a twentieth of the voxels, and is then the same encoder on voxels, exactly. Without, it is trained on voxels from scratch.
    """
    begun, space = time.perf_counter(), _volume(split)
    if start is None:
        design = replace(design, embed_dim=split.train.image.shape[1])
        plain, log = _train(
            lambda: VolumeEncoder(space.mask, design, seed=seed), split, training, seed=seed, folder=folder, progress=progress
        )  # fmt: skip
        return _decoder("volume", plain, _count(plain), begun, log)
    design = replace(design, embed_dim=start.linear.weights.shape[1])
    _, training = _aims(split, training, start)
    begin_at = CrossFitted(start, design, seed=seed).encoder
    module, log = _train(
        lambda: CrossFitted(start, design, seed=seed), cross_fitted(start, seed=seed), training,
        seed=seed, folder=folder, progress=progress,
    )  # fmt: skip
    assert isinstance(module, CrossFitted)
    encoder, losses = module.encoder, [loss_of(e.eval(), start, training) for e in (begin_at, module.encoder)]
    if losses[0] <= losses[1]:
        encoder = begin_at
    whole = on_voxels(encoder, start, space.mask, design)
    found = _decoder("volume", whole, _count(whole), begun, log, start=start)
    chosen = {**start.chosen, "start_loss": losses[0], "validation_loss": losses[1], "kept_start": float(encoder is begin_at)}
    return replace(found, seconds=found.seconds + start.seconds, chosen=chosen)


def loss_of(encoder: VolumeEncoder, start: Start, training: AlignmentTraining) -> float:
    """Contrastive loss on the validation images, for an encoder on coordinates."""
    part = start.split.validation
    return validate(encoder, [part.mean()], [part], training)["validation_loss"]


def _aims(split: Split, training: AlignmentTraining, start: Start | None) -> tuple[Split, AlignmentTraining]:
    """The split with the targets of the start, and its temperature; both as they are without one."""
    if start is None:
        return split, training
    parts = {}
    for name in ("train", "validation"):
        aims = getattr(start.split, name)
        parts[name] = replace(getattr(split, name), image=aims.image, text=aims.text)
    return replace(split, **parts), replace(training, temperature=start.chosen["temperature"])


def _train(
    build: Callable[[], nn.Module],
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int,
    folder: Path | None = None,
    progress: Progress | None = None,
    mindeye: bool = False,
) -> tuple[nn.Module, list[dict[str, float]]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build().to(split.train.x.device)
    log = train_contrastive(module, split, training, seed=seed, folder=folder, progress=progress, mindeye=mindeye)
    return module, log


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _decoder(
    name: str, reader: Reader, parameters: int, begun: float, log: list[dict[str, float]], *, start: Start | None = None
) -> Decoder:
    where = {} if start is None else {"maps": start.maps, "places": start.places}
    seconds = time.perf_counter() - begun
    return Decoder(name, {"both": reader}, **where, parameters=parameters, seconds=seconds, log=log, start=start)  # type: ignore[arg-type]


def _volume(split: Split) -> Volume:
    if not isinstance(split.space, Volume):
        raise DataError(
            f"align: this encoder needs responses in a Volume, got {type(split.space).__name__}; use linear, ridge or mlp"
        )
    return split.space
