"""Features at each place of a picture in the space of the network's pooled embedding, where a linear readout can be applied.

| network | pooled embedding | place | mean over places = embedding |
|---|---|---|---|
| convolutional (MobileNetV2, ResNet, SAM) | mean of the last map | the last map | exactly |
| ViT, DINOv2, MAE | class token, normalised | patch tokens through the same normalisation | no |
| CLIP | projected class token | patch tokens through the same normalisation and projection | no |

Attention decides what a class token gathers, so for transformers the map says which places hold the direction that a voxel
reads, and not how much each contributes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from brainlens.backbones.vision import Backbone, _run, _split_tokens, read_images
from brainlens.types import DataError, Features, Stimuli


def place_features(backbone: Backbone, stimuli: Stimuli, *, batch: int = 32) -> Features:
    """Layer "image" with tokens: data (image, channel) the embedding, tokens (image, row x column, channel), float32.

    Raises DataError for a network whose embedding has no places (attention pooling without a projection).
    """
    data, tokens, grid = [], [], (0, 0)
    for start in range(0, len(stimuli), batch):
        images = read_images(stimuli, range(start, min(start + batch, len(stimuli))))
        with torch.inference_mode():
            pixels = backbone.preprocess.batch(images)
            hidden, embedding = _run(backbone, pixels)
            places = _at_places(backbone, hidden[-1], pixels.shape[2:])
        grid = (int(places.shape[2]), int(places.shape[3]))
        data.append(embedding.float().cpu().numpy())
        tokens.append(places.flatten(2).transpose(1, 2).float().cpu().numpy())
    if not data:
        raise DataError("places: there are no stimuli")
    return Features(
        {"image": np.concatenate(data)}, stimuli.ids, backbone.name, {"image": np.concatenate(tokens)}, {"image": grid}
    )


def _at_places(backbone: Backbone, state: torch.Tensor, size: Any) -> torch.Tensor:
    """(batch, channel, row, column) of the last state, brought into the space of the embedding."""
    if state.ndim == 4:
        return state
    model: Any = backbone.model
    _, patches = _split_tokens(backbone, state, size)
    along = patches.permute(0, 2, 3, 1)
    if hasattr(model, "visual_projection"):
        tower = model.vision_model if hasattr(model, "vision_model") else model
        along = model.visual_projection(tower.post_layernorm(along))
    elif hasattr(model, "layernorm"):
        along = model.layernorm(along)
    else:
        raise DataError(f"places: a {model.config.model_type} model pools by attention, so no readout can be applied at a place")
    return along.permute(0, 3, 1, 2)
