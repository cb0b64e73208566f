"""Layers of any network for the pictures of a recording, extracted once to disk: vision networks and latent diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from brainlens import miniatures
from brainlens.backbones import diffusion, vision
from brainlens.backbones.diffusion import Steps
from brainlens.backbones.names import PIXELS, UNTRAINED
from brainlens.types import DataError, Features, Stimuli

GRID = (8, 8)  # what FactorTopy reads; a map of 112 x 112 kept whole would be 196 times as large


def pixel_features(stimuli: Stimuli, side: int = 32) -> Features:
    """The pictures themselves as the one layer "pixels": RGB at side x side, flattened, in [0, 1]."""
    small = [Image.fromarray(np.asarray(image)).resize((side, side), Image.Resampling.BILINEAR) for image in stimuli.images]
    rows = np.stack([np.asarray(picture, dtype=np.float32).ravel() / 255 for picture in small])
    return Features({PIXELS: rows}, stimuli.ids, f"RGB {side} x {side}")


def network_path(name: str | None) -> str:
    """The folder or hub name; None and "miniature" are the shipped CLIP."""
    return str(miniatures.folder("clip")) if name in (None, "miniature") else str(name)


def network_label(name: str | None) -> str:
    """What a network is called in tables and figures: the last part of its name."""
    return "miniature" if name in (None, "miniature") else Path(str(name)).name


def extract_layers(
    name: str | None,
    stimuli: Stimuli,
    layers: Sequence[str] | None = None,
    *,
    steps: Steps | None = None,
    pool_grid: tuple[int, int] | None = GRID,
    cache: str | Path | None = None,
    device: str = "cpu",
) -> Features:
    """Global and spatial tokens of the named layers (None: all), in float16; a second call reads what is in the cache.

    A folder with a model_index.json is read as Stable Diffusion, at `steps` (one step and many layers, or one layer and many
    steps); "pixels" are the pictures themselves; "untrained:SEED" is the miniature with weights as drawn;
    everything else is a vision network.
    Raises DataError for steps of a network that has none.
    """
    if name == PIXELS:
        return pixel_features(stimuli)
    if name is not None and name.startswith(UNTRAINED):
        if steps is not None or not name.removeprefix(UNTRAINED).isdecimal():
            raise DataError(f"model {name!r} is not {UNTRAINED}SEED with a whole number, and has no time steps")
        return vision.extract(_untrained(name, device), stimuli, layers, pool_grid=pool_grid, cache=cache)
    where = network_path(name)
    if diffusion.is_diffusion(where):
        model = diffusion.load_diffusion(where, device=device)
        return diffusion.extract_diffusion(
            model, stimuli, layers, steps=steps if steps is not None else Steps(), pool_grid=pool_grid, cache=cache
        )
    if steps is not None:
        raise DataError(f"model {where!r} has no time steps: they belong to a Stable Diffusion folder (with model_index.json)")
    return vision.extract(vision.load(where, device=device), stimuli, layers, pool_grid=pool_grid, cache=cache)


def _untrained(name: str, device: str) -> vision.Backbone:
    """The miniature's architecture with weights drawn from the seed in the name."""
    trained = vision.load(network_path(None), device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(name.removeprefix(UNTRAINED)))
        drawn = type(trained.model)(trained.model.config).to(device=device, dtype=trained.dtype).eval()
    return replace(trained, model=drawn, name=name, files=f"{trained.files} {name}")
