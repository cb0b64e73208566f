"""The claims of `encode`: FactorTopy and its rivals on the phantom, and what their selectors find of its truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from brainlens.encode import Design, Training, encode, selector_truth
from brainlens.pipeline.runs import keep
from brainlens.pipeline.source import Recording, Source, Tell
from brainlens.types import DataError, Responses, Result

METHODS = ("factortopy", "ridge")
NAMES = {"encoding/r2_mean": "r2_mean", "encoding/r2_of_ceiling": "r2_of_ceiling", "encoding/hierarchy_slope": "hierarchy_slope"}
QUICK = Training(steps=1500, batch=16, epoch=100, patience=5, decay_steps=600)


def informative_and_noise(responses: Responses, *, noise: int, seed: int) -> Responses:
    """All voxels of the regions and a random sample of the others, so that a fit is judged on voxels with nothing to find too."""
    informative = responses.units["informative"].to_numpy(dtype=bool)
    others = np.flatnonzero(~informative)
    drawn = np.random.default_rng(seed).choice(others, size=min(noise, len(others)), replace=False)
    chosen = informative.copy()
    chosen[drawn] = True
    return responses.columns(chosen)


def encode_claims(
    recording: Recording,
    source: Source,
    runs: Path,
    *,
    methods: tuple[str, ...] = METHODS,
    training: Training = QUICK,
    noise: int = 1400,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> dict[str, float]:
    """`encode/...`: R2 of each method over voxels with ncsnr > .3, and how much of the truth the selectors find."""
    if recording.layers is None:
        raise DataError("encode claims need the network's layers; open the recording with layers=True")
    responses = informative_and_noise(recording.responses, noise=noise, seed=seed)
    metrics: dict[str, float] = {}
    for method in methods:

        def progress(step: int, record: dict[str, float], method: str = method) -> None:
            tell(f"encoding, {method}", step / training.steps)

        tell(f"encoding, {method}", None)
        result = encode(
            responses, recording.layers, method=method, design=Design(), training=training, seed=seed, device=device,
            progress=progress,
        )  # fmt: skip
        metrics |= named(result, method)
        if method == "factortopy":
            truth = selector_truth(result)
            metrics |= {f"encode/factortopy/{key}": value for key, value in truth.items()}
            metrics |= floor(result)
            result = replace(result, metrics={**result.metrics, **truth})
        keep(result, runs, source)
    return metrics


def named(result: Result, method: str) -> dict[str, float]:
    """A result's metrics under the names of the claim table, with their intervals."""
    found: dict[str, float] = {}
    for key, value in result.metrics.items():
        base, _, rest = key.partition(".")
        if base in NAMES:
            found[f"encode/{method}/{NAMES[base]}{'.' + rest if rest else ''}"] = value
    return found


def floor(result: Result) -> dict[str, float]:
    """What is found where nothing is: mean R2 and confidence of the noise voxels beside those of the informative ones."""
    assert result.units is not None
    informative = result.units["informative"].to_numpy(dtype=bool)
    found: dict[str, float] = {}
    for name, mask in (("noise", ~informative), ("informative", informative)):
        if mask.any():
            found[f"encode/factortopy/{name}_voxels/r2_mean"] = float(np.nanmean(result.arrays["r2"][mask]))
            found[f"encode/factortopy/{name}_voxels/confidence_mean"] = float(result.arrays["confidence"][mask].mean())
    return found
