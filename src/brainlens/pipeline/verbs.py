"""The verbs as the command line runs them: open the recording, run, store, and say what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainlens import store
from brainlens.align import split_tables
from brainlens.attribute import METHODS as ATTRIBUTIONS
from brainlens.attribute import Options, attribute
from brainlens.backbones import vision
from brainlens.encode import METHODS, encode, haxby2001_encode
from brainlens.nn.canonical import AffineMap
from brainlens.nn.volume_encoder import Design, VolumeEncoder
from brainlens.pipeline.attribution import centred, explained
from brainlens.pipeline.runs import keep
from brainlens.pipeline.source import Recording, Source, Tell, check_device, network_folder, open_recording
from brainlens.types import DataError, Features, Responses, Result, Volume

Rows = list[dict[str, Any]]


def run_features(
    source: Source, out: str | Path, *, layers: Sequence[str] | None = None, device: str = "cpu", tell: Tell
) -> dict[str, dict[str, str]]:
    """Extracts a network's layers for a recording's images to disk; a second call reads what is there. Returns shapes."""
    check_device(device)
    recording = open_recording(source, embeddings=False, device=device, tell=tell) if source.dataset != "phantom" else None
    if recording is None:
        from brainlens.datasets import phantom

        stimuli = phantom.scenes(n_train=source.n_train, n_test=source.n_test, seed=source.seed)
    else:
        stimuli = recording.stimuli
    tell("network layers", None)
    found = vision.extract(vision.load(network_folder(source), device=device), stimuli, layers, cache=out)
    return {
        layer: {
            "global": str(found.data[layer].shape) if layer in found.data else "",
            "spatial": str(found.tokens[layer].shape) if layer in found.tokens else "",
        }
        for layer in found.layer
    }


def run_encode(
    source: Source, runs: str | Path, *, method: str = "factortopy", seed: int = 0, device: str = "cpu", tell: Tell
) -> tuple[Path, Rows]:
    """Voxelwise encoding. A recording without pictures but with categories is encoded from its categories (ridge)."""
    if method not in METHODS:
        raise DataError(f"encode: method {method!r} is not one of {list(METHODS)}")
    if source.dataset == "haxby2001":
        recording = open_recording(source, embeddings=False, device=device, tell=tell)
        tell("ridge on categories, one run left out", None)
        result = haxby2001_encode(recording.responses, seed=seed, device=device)
    else:
        recording = open_recording(source, embeddings=False, layers=True, device=device, tell=tell)
        assert recording.layers is not None
        responses = standardised(recording.responses)
        tell(f"encoding, {method}", None)
        result = encode(responses, recording.layers, method=method, seed=seed, device=device)
    return keep(result, runs, source), table(result, "encoding/")


def run_attribute(
    run: str | Path,
    runs: str | Path,
    *,
    method: str = "bottleneck",
    n_trials: int = 32,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> tuple[Path, Rows]:
    """Explains the volume encoder of a finished align run on its own test images; writes the mean map as NIfTI too."""
    if method not in ATTRIBUTIONS:
        raise DataError(f"attribute: method {method!r} is not one of {list(ATTRIBUTIONS)}")
    if n_trials < 1:
        raise DataError(f"attribute: {n_trials} trials are asked for; at least 1 is needed")
    aligned = store.load_result(run)
    if aligned.task != "align" or "volume" not in aligned.config.get("encoders", []):
        raise DataError(f"{run}: attribute needs a run of `align` with the encoder 'volume'; this one is {aligned.task!r}")
    source = source_of(aligned)
    recording = open_recording(source, device=device, tell=tell)
    responses = standardised(recording.responses)
    split = split_tables(responses, prepared(recording), recording.texts, seed=int(aligned.config["seed"]))
    if not isinstance(split.space, Volume):
        raise DataError(f"{run}: its responses are not in a volume")
    weights = store.load_weights(run, "volume")
    design = replace(Design(**aligned.config["design"]), embed_dim=len(weights["head.weight"]))
    model = VolumeEncoder(split.space.mask, design)
    model.load_state_dict(weights)
    model.eval()
    tell(f"attribution, {method}", None)
    reference = explained(responses, split, part="validation", trials=200)
    images = centred(prepared(recording), split, "image", gallery_of(aligned))
    texts = None if recording.texts is None else centred(recording.texts, split, "text", gallery_of(aligned))
    chosen = explained(responses, split, part="test", trials=n_trials)
    result = attribute(
        model, chosen, images, texts, method=method, options=Options(reference=reference, seed=seed, device=device)
    )
    result = replace(result, config={**result.config, "run": Path(run).resolve().name})  # maps of two runs go to two folders
    folder = keep(result, runs, source)
    store.save_nifti(folder / "map.nii.gz", split.space.fill(result.arrays["map/brain_mean"], 0.0), split.space.affine)
    return folder, table(result, "truth/") + table(result, "attribution/", ending=("drop", "increase", "area"))


def gallery_of(aligned: Result) -> Callable[[Tensor, str], Tensor] | None:
    """The map of targets into the space of the stored main encoder; None where it compares with the targets themselves."""
    if "target/image/matrix" not in aligned.arrays:
        return None
    maps = {}
    for which in ("image", "text"):
        matrix, shift = (np.array(aligned.arrays[f"target/{which}/{part}"]) for part in ("matrix", "shift"))
        maps[which] = AffineMap(torch.from_numpy(matrix), torch.from_numpy(shift))
    return lambda target, which: maps[which](target)


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
