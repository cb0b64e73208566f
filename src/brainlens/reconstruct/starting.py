"""What an adapter may begin with: attention that was trained on embeddings of other pictures, or an adapter that was trained on
responses which an encoding model predicts for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from brainlens import miniatures, store
from brainlens.models.generation.adapter_training import AdapterTraining
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.generation.pretraining import pretrain_attention
from brainlens.models.processes import from_first, is_first
from brainlens.parcels import Parcels
from brainlens.phantom.scenes import make_scenes
from brainlens.reconstruct.prompts import PromptAxes
from brainlens.types import DataError, Stimuli

OTHER_SCENES = 7_000_003  # added to a seed for scenes that no recording shows
REPEATS = 2  # predicted trials of each new picture, so that voxels can be weighted by reliability


def new_scenes(count: int, *, seed: int) -> Stimuli:
    """Drawn scenes that no phantom recording of this seed shows, by the rules of its training scenes."""
    return make_scenes(count, seed=seed + OTHER_SCENES, split="train")


def trained_attention(
    pipeline: str | Path,
    pictures: Any,
    prompts: np.ndarray,
    *,
    captions: Sequence[str] | None,
    training: AdapterTraining,
    seed: int,
    device: str,
    folder: Path,
    progress: Callable[[float], None],
) -> dict[str, Tensor]:
    """Attention to embeddings of pictures, from the folder where it was finished before. prompts (picture, d)."""
    if from_first((folder / "attention.safetensors").is_file()):
        return store.load_weights(folder, "attention")
    found = pretrain_attention(
        pipeline, pictures, prompts, captions=captions, training=training, seed=seed, device=device, folder=folder,
        progress=progress,
    )  # fmt: skip
    if is_first():
        store.save_weights(folder, "attention", found)
    return found


def shipped_attention(files: str) -> tuple[dict[str, Tensor], PromptAxes] | None:
    """Attention that was trained on drawn scenes for the shipped diffusion model, and the axes of its prompts; None for another
    pipeline (by the hash of its files), or where none ships.

    Weights by name, of any shape.
    """
    try:
        place = miniatures.folder("attention")
    except DataError:
        return None
    if store.read_json(place / "config.json").get("pipeline") != files:
        return None
    weights = {name: value.float() for name, value in store.load_weights(place, "attention").items()}
    axes = {name: value.numpy() for name, value in store.load_weights(place, "axes").items()}
    return weights, PromptAxes(axes["mean"], axes["turn"])


def first_captions(stimuli: Stimuli) -> list[str] | None:
    """The first caption of every picture; None where one has none."""
    texts = [str(own[0]) for own in stimuli.captions if len(own)]
    return texts if len(texts) == len(stimuli) else None


def predicted_responses(predicted: np.ndarray, residual: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Responses of trials that were never recorded: what an encoding model predicts, plus what it left over of random trials.

        y_ir = f(picture_i) + e_k(i,r),     e_k = y_k - f(picture_k) of a training trial k drawn at random

    predicted (picture, unit), residual (trial, unit); returns rows (picture x 2, unit) and the number of each row's picture.
    """
    group = np.repeat(np.arange(len(predicted)), REPEATS)
    drawn = np.random.default_rng([seed, 67]).integers(len(residual), size=len(group))
    return (predicted[group] + residual[drawn]).astype(np.float32), group


def fit_predicted(
    model: NeuroAdapter,
    pictures: Stimuli,
    predicted: np.ndarray,
    residual: np.ndarray,
    parcels: Parcels,
    *,
    training: Mapping[str, Any],
    **more: Any,
) -> NeuroAdapter:
    """An adapter like `model`, fitted to predicted trials of other pictures; more: pipeline, folder, progress of the fit.

    predicted (picture, unit), residual (trial, unit).
    """
    first = NeuroAdapter(**model.get_params())
    first.set_params(start="random", reliability=True, training=dict(training))
    y, group = predicted_responses(predicted, residual, seed=model.seed)
    return first.fit(y, pictures, parcels, ids=[str(name) for name in pictures.ids[group]], **more)


def recipe(training: AdapterTraining, steps: int | None) -> AdapterTraining:
    """The training cut to so many steps, its validation read at least five times; 0 trains nothing."""
    if steps is None:
        return training
    if steps == 0:
        return replace(training, epochs=0, steps=0)
    return replace(training, steps=steps, evaluate_every=max(1, min(training.evaluate_every, steps // 5)))
