"""A fitted aligner trained further, on other recordings: it keeps its design and the space that it shares with the targets."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from brainlens.models.processes import shared
from brainlens.models.volume.aligners import MINDEYE, to_the_end
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.split import AlignmentPart, Split
from brainlens.models.volume.training import AlignmentTraining, Progress, train_contrastive, validate
from brainlens.nn.decoding_baselines import ComponentDecoder, SharedSubjectMLP
from brainlens.nn.volume_encoder import Block, VolumeEncoder
from brainlens.solvers.kernel_ridge import LinearDecoder, principal_axes
from brainlens.types import DataError

COMPONENTS = 500


def fine_tune(
    before: Decoder,
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """The decoder after more contrastive training; the one it began as is kept where the validation loss does not fall.

    The encoders after MindEye go on by its objective and are judged by validation retrieval; a model with a map for each subject
    gets one for each new subject, which begins as the mean of the others.

    split: centred by the means of the model (see `split_tables`). Its validation images speak for the old model where that
    one was trained on them. Raises DataError for a ridge, which has no steps, and for
    another number of voxels.
    """
    begun = time.perf_counter()
    reader = before.readers.get("both")
    if reader is None or before.name.startswith("ridge"):
        raise DataError(f"{before.name}: a ridge is solved in one step, so there is nothing to train further; fit it anew")
    _check_voxels(before, split)
    split, training = _aimed(before, split), replace(training, temperature=before.chosen.get("temperature", training.temperature))
    after: LinearDecoder | nn.Module
    mindeye = before.name in MINDEYE
    if isinstance(reader, SharedSubjectMLP):
        reader = copy.deepcopy(reader)
        reader.add(split.train.subjects)
    if isinstance(reader, LinearDecoder):
        after, log = _further_linear(reader, split, training, seed=seed, folder=folder, progress=progress)
    else:
        training = to_the_end(training) if mindeye else training
        after, log = _further_module(reader, split, training, seed=seed, folder=folder, progress=progress, mindeye=mindeye)
    found = [_validated(one, split.validation, training) for one in (reader, after)]
    losses, ranks = ([one[key] for one in found] for key in ("validation_loss", "validation_mrr"))
    kept = ranks[0] >= ranks[1] if mindeye else losses[0] <= losses[1]
    chosen = {**before.chosen, "start_loss": losses[0], "validation_loss": losses[1], "kept_start": float(kept)}
    seconds = time.perf_counter() - begun
    return replace(before, readers={"both": reader if kept else after}, seconds=seconds, chosen=chosen, log=log, start=None)


def _check_voxels(before: Decoder, split: Split) -> None:
    reader, given = before.readers["both"], split.train.x.shape[1]
    voxels = len(reader.mean) if isinstance(reader, LinearDecoder) else getattr(reader, "n_voxels", given)
    inside = getattr(reader, "inside", None)
    voxels = voxels if inside is None else len(inside)
    if voxels != given:
        raise DataError(
            f"{before.name}: the model reads {voxels} voxels, the recording has {given}; bring both to one mask first"
        )


def _aimed(before: Decoder, split: Split) -> Split:
    """The split with its targets in the space of the decoder."""

    def mapped(part: AlignmentPart) -> AlignmentPart:
        text = None if part.text is None else before.gallery(part.text, "text")
        return replace(part, image=before.gallery(part.image, "image"), text=text)

    return replace(split, train=mapped(split.train), validation=mapped(split.validation), tested=None)


def _validated(reader: LinearDecoder | nn.Module, part: AlignmentPart, training: AlignmentTraining) -> dict[str, float]:
    each = [part.of(name) for name in part.subjects]
    return validate(reader, [one.mean() for one in each], each, training)  # type: ignore[arg-type]


def _further_module(
    reader: nn.Module,
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int,
    folder: Path | None,
    progress: Progress | None,
    mindeye: bool,
) -> tuple[nn.Module, list[dict[str, float]]]:
    module = copy.deepcopy(reader).to(split.train.x.device)
    if isinstance(module, VolumeEncoder):  # one step moves every matrix by the same share, though voxel weights are far smaller
        block = module.blocks[0]
        assert isinstance(block, Block)
        sizes = [float(w.detach().square().mean().sqrt()) for w in (module.projection, block.expand.weight)]
        module.projection.lr_scale = min(1.0, sizes[0] / sizes[1])  # type: ignore[attr-defined]
    log = train_contrastive(module, split, training, seed=seed, folder=folder, progress=progress, mindeye=mindeye)
    return module, log


def _further_linear(
    reader: LinearDecoder,
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int,
    folder: Path | None,
    progress: Progress | None,
) -> tuple[LinearDecoder, list[dict[str, float]]]:
    """Trained on the components of the new responses; what lies outside them stays as it was."""
    rows = split.train.mean()
    mean = rows.mean(0)
    axes, scales = principal_axes(rows - mean, COMPONENTS, generator=torch.Generator().manual_seed(seed))
    axes, scales = shared(axes.contiguous()), shared(scales.contiguous())
    first = (axes * scales.square()).T @ reader.weights

    def project(part: AlignmentPart) -> AlignmentPart:
        return replace(part, x=torch.cat([(block.float() - mean) @ axes for block in part.x.split(1024)]))

    module = ComponentDecoder(axes.shape[1], reader.weights.shape[1])
    with torch.no_grad():
        module.linear.weight.copy_(first.T)
        module.linear.bias.copy_(reader(mean[None])[0])
    module = module.to(rows.device)
    small = replace(split, train=project(split.train), validation=project(split.validation))
    log = train_contrastive(module, small, training, seed=seed, folder=folder, progress=progress)
    weight: Tensor = module.linear.weight.detach()
    return LinearDecoder(mean, reader.weights + axes @ (weight.T - first), module.linear.bias.detach().clone()), log
