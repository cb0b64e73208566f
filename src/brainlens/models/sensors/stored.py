"""A trained sensor decoder read back from the run folder that holds its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from brainlens import store
from brainlens.models.sensors.decoder import SensorDecoder, SensorTraining, build
from brainlens.models.sensors.linear import LINEAR, stored_decoder
from brainlens.types import DataError, Responses, Result


def load_decoder(run: str | Path, aligned: Result, train: Responses, *, device: str = "cpu") -> SensorDecoder:
    """The trained decoder of a stored run, rebuilt for the channels and samples of its recording."""
    weights = store.load_weights(run, "sensors")
    training, encoder = SensorTraining(**_tuples(aligned.config["training"])), str(aligned.config["encoder"])
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "image_head": {}, "text_head": {}, "scale": {}}
    for key, value in weights.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    scale = (parts["scale"]["mean"], parts["scale"]["spread"])
    if len(scale[0]) != train.data.shape[1]:
        raise DataError(f"{run}: it was trained on {len(scale[0])} channels, the recording has {train.data.shape[1]}")
    if encoder in LINEAR:
        return stored_decoder(train.data.shape[1:], parts, device)
    image, text = parts["image_head"].get("enter.weight"), parts["text_head"].get("enter.weight")
    wide = image.shape[1] if image is not None else aligned.arrays["embedding/image"].shape[1]
    decoder = build(encoder, train, wide, None if text is None else torch.empty(1, text.shape[1]), training, 0, device, scale)
    for name in ("model", "image_head", "text_head"):
        getattr(decoder, name).load_state_dict(parts[name])
    return decoder


def _tuples(training: dict[str, Any]) -> dict[str, Any]:
    """Settings read back from JSON, where tuples have become lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in training.items()}
