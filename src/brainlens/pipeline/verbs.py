"""The verbs as the command line runs them: open the recording, run, store, and say what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from brainlens.backbones.diffusion import Steps
from brainlens.pipeline.networks import extract_layers
from brainlens.pipeline.source import Recording, Source, Tell, check_device, open_recording
from brainlens.types import DataError, Features, Responses, Result

Rows = list[dict[str, Any]]


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


def source_of(result: Result) -> Source:
    """The recording that a stored result came from."""
    config = result.config
    missing = [key for key in ("dataset", "n_train", "n_test", "source_seed") if key not in config]
    if missing:
        raise DataError(f"the run does not say where its data came from: {missing} are missing in its config")
    folder = None if config["folder"] is None else Path(config["folder"])
    sizes = {"n_train": config["n_train"], "n_test": config["n_test"], "n_validation": config["n_validation"]}
    source = Source(config["dataset"], folder, config["model"], seed=config["source_seed"], **sizes)
    parts = [tuple(config.get(name, ())) for name in ("subjects", "regions")]
    return replace(source, subjects=parts[0], regions=parts[1], captions=config.get("captions"))


def standardised(responses: Responses) -> Responses:
    """Responses z-scored by session on training trials, where there are sessions and a split; else as they are."""
    if {"session", "split"} <= set(responses.trials.columns):
        return responses.zscore(by="session", fit_on="train")
    return responses


def prepared(recording: Recording) -> Features:
    """The image embeddings, or a DataError that says what is missing."""
    if recording.images is None:
        raise DataError("this recording has no pictures, so there are no image embeddings to align to")
    return recording.images


def table(result: Result, prefix: str, *, ending: tuple[str, ...] | None = None) -> Rows:
    """Metrics under a prefix as rows with their interval."""
    rows: Rows = []
    for key, value in result.metrics.items():
        if not key.startswith(prefix) or key.endswith((".low", ".high")):
            continue
        if ending is not None and not key.endswith(ending):
            continue
        low, high = result.metrics.get(f"{key}.low", np.nan), result.metrics.get(f"{key}.high", np.nan)
        rows.append({"metric": key, "value": float(value), "95 % interval": "" if np.isnan(low) else f"{low:.3g} to {high:.3g}"})
    return rows
