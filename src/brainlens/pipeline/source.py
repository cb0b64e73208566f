"""A recording with everything a verb needs beside it: the network's layers and the embeddings of images and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens import datasets, miniatures
from brainlens.backbones import clip, vision
from brainlens.phantom.fmri import PhantomTruth, make_trials, simulate
from brainlens.types import DataError, Features, Responses, Stimuli, check_no_leak

Tell = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Source:
    """Which recording and which network: a dataset's name, its folder, the network's folder or hub name (None: the miniature)."""

    dataset: str = "phantom"
    folder: Path | None = None
    model: str | None = None
    n_train: int = 1200
    n_test: int = 200
    seed: int = 0
    n_validation: int = 0

    def config(self) -> dict[str, Any]:
        """What a run folder remembers of it."""
        where = None if self.folder is None else str(self.folder)
        sizes = {"n_train": self.n_train, "n_test": self.n_test, "n_validation": self.n_validation}
        return {"dataset": self.dataset, "folder": where, "model": self.model, "source_seed": self.seed, **sizes}


@dataclass(frozen=True)
class Recording:
    """Responses, stimuli, the network's layers (global and spatial), and the embeddings; `truth` on the phantom only."""

    responses: Responses
    stimuli: Stimuli
    layers: Features | None = None
    images: Features | None = None
    texts: Features | None = None
    truth: PhantomTruth | None = None


def network_folder(source: Source) -> str:
    """The folder or hub name of the network of a source."""
    named = source.model is not None and source.model != "miniature"
    return str(source.model) if named else str(miniatures.folder("clip"))


def open_recording(
    source: Source, *, embeddings: bool = True, layers: bool = False, device: str = "cpu", tell: Tell | None = None
) -> Recording:
    """Loads a recording and extracts what was asked of the network.

    Raises DataError for an unknown dataset, a device that is not there, a recording without a folder, without images where
    layers or embeddings are asked, and for a test image that is also in the training set, by id or by pixels.
    """
    datasets.module(source.dataset)  # its name before its folder: a misspelt name has no folder to give
    check_device(device)
    say: Tell = tell if tell is not None else _silent
    if source.dataset == "phantom":
        return _phantom(source, device, say)
    if source.folder is None:
        raise DataError(
            f"dataset {source.dataset!r} needs its folder: give it with --data; `brainlens datasets` says where to get it"
        )
    say(f"reading {source.dataset}", None)
    responses, stimuli = datasets.load(source.dataset, source.folder)
    _refuse_leaks(responses, stimuli)
    if not (embeddings or layers):
        return Recording(responses, stimuli)
    say("network layers", None)
    network = vision.load(network_folder(source), device=device)
    found = vision.extract(network, stimuli) if layers else None
    if not embeddings:
        return Recording(responses, stimuli, layers=found)
    model = clip.load_clip(network_folder(source), device=device)
    texts = clip.embed_texts(model, stimuli.captions, stimuli.ids) if all(stimuli.captions) else None
    return Recording(responses, stimuli, found, clip.embed_images(model, stimuli), texts)


def check_device(device: str) -> None:
    """Raises DataError for a device that this machine or this build of torch does not have."""
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DataError(f"device {device!r} is not known; choose cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and (chosen.index or 0) >= count):
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise DataError(f"device {device!r} is not there; this machine has {there}")


def _silent(text: str, share: float | None = None) -> None:
    """No progress is shown."""


def _phantom(source: Source, device: str, say: Tell) -> Recording:
    from brainlens.datasets import phantom

    say("drawing scenes", None)
    stimuli = phantom.scenes(n_train=source.n_train, n_validation=source.n_validation, n_test=source.n_test, seed=source.seed)
    say("network layers of the scenes", None)
    own = source.model in (None, "miniature")
    network = phantom.features(stimuli) if own else vision.extract(vision.load(network_folder(source), device=device), stimuli)
    model = clip.load_clip(network_folder(source), device=device)
    images = Features({"image": np.asarray(network["image"], np.float32)}, network.ids, network.model)
    texts = clip.embed_texts(model, stimuli.captions, stimuli.ids)
    say("simulating the brain", None)
    truth = phantom.truth(stimuli, network, seed=source.seed)
    responses = simulate(truth, make_trials(stimuli, seed=source.seed))
    return Recording(responses, stimuli, network, images, texts, truth)


def _refuse_leaks(responses: Responses, stimuli: Stimuli) -> None:
    """A test image in training is an error, whether it is found by its id or by its pixels."""
    if "split" not in responses.trials.columns:
        return
    names = {s: r["stimulus"].unique() for s, r in responses.trials.groupby("split")}
    if "train" in names and "test" in names and len(stimuli.images):
        check_no_leak(stimuli.take(names["train"]), stimuli.take(names["test"]))
