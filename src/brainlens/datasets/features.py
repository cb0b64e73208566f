"""Layers of a network for the images of a recording, extracted once to disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from brainlens import store
from brainlens.backbones.diffusion import Steps
from brainlens.backbones.layers import extract_layers
from brainlens.datasets.source import Source, Tell, check_device, open_recording


def run_features(
    source: Source,
    out: str | Path,
    *,
    layers: Sequence[str] | None = None,
    steps: Steps | None = None,
    pool_grid: tuple[int, int] | None = None,
    device: str = "cpu",
    tell: Tell,
) -> dict[str, dict[str, str]]:
    """Extracts a network's layers for a recording's images to disk; a second call reads what is there. Returns shapes.

    steps: the time steps of a diffusion network; pool_grid: (rows, columns) to which maps are resized, None for as they are.
    """
    check_device(device)
    store.check_writable(out)
    recording = open_recording(source, embeddings=False, device=device, tell=tell) if source.dataset != "phantom" else None
    if recording is None:
        from brainlens.datasets import phantom

        stimuli = phantom.scenes(n_train=source.n_train, n_test=source.n_test, seed=source.seed)
    else:
        stimuli = recording.stimuli
    tell("network layers", None)
    found = extract_layers(source.model, stimuli, layers, steps=steps, pool_grid=pool_grid, cache=out, device=device)
    return {
        layer: {
            "global": str(found.data[layer].shape) if layer in found.data else "",
            "spatial": str(found.tokens[layer].shape) if layer in found.tokens else "",
            "grid": "{} x {}".format(*found.grid[layer]) if layer in found.grid else "",
        }
        for layer in found.layer
    }
