"""An in-silico brain as a recording: any model from pictures to responses, asked for the pictures of a folder.

    from brainlens.datasets import insilico
    recording = insilico.load("pictures", brain=my_model)              # my_model(images) -> (image, unit)
    recording = insilico.load("pictures", brain="package.module:name") # the same by its name; `--option brain=...`

images is a list of (h, w, 3) uint8 arrays. `berg(...)` makes such a function of a package that is called the way BERG is.
The model's answer is the response without noise; trials are that answer with noise that is independent over units and trials.
Such models were trained on real recordings, so that their responses are those of no network that a method reads.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.types import DataError, Recording, Responses, Stimuli

Brain = Callable[[list[np.ndarray]], Any]
FACTS = {
    "name": "insilico",
    "title": "responses of a model of the brain to a folder of pictures",
    "kind": "fMRI",
    "measure": "responses of a model (simulated)",
    "simulated": False,  # the word is kept for the phantoms, whose truth is known unit by unit; `measure` says what this is
    "several_subjects": False,
    "offers": ("pictures", "captions", "split"),
    "licence": "that of the model and of the pictures",
    "citation": "the model's own",
    "url": "",
    "needs": "a folder of pictures, and --option brain=package.module:function",
}
BATCH = 32


def load(
    folder: str | Path, *, brain: str | Brain | None = None, tests: int = 50, repeats: int = 3, ncsnr: float = 0.5, draw: int = 0
) -> Recording:
    """Trials (image x repeat, unit) and the pictures; `truth` is the response without noise, as Responses of one trial an image.

    brain: a function of images, or where it is found as "package.module:name". tests: pictures of the test, drawn with `draw`;
    repeats: trials of each picture; ncsnr: standard deviation of the signal over that of a trial's noise, the same in every
    unit; each unit has mean 0 and trial variance 1. Units that answer the same to every picture are kept and get noise alone.

    Raises DataError for a model that is not found, fails, or gives another number of units or of rows than it should.
    """
    from brainlens.datasets.source import picture_folder  # which loads torch: the list of recordings does without

    stimuli = picture_folder(folder)
    if brain is None:
        raise DataError("insilico: no brain is named; give --option brain=package.module:function, or brain=function in Python")
    if not (0 < tests < len(stimuli)) or repeats < 1 or not ncsnr > 0:
        raise DataError(
            f"insilico: tests {tests} of {len(stimuli)} pictures, repeats {repeats} and ncsnr {ncsnr}: there must be test and "
            f"training pictures, at least one repeat, and signal"
        )
    clean = answers(named(brain) if isinstance(brain, str) else brain, stimuli.images)
    spread = clean.std(axis=0)
    signal = np.where(spread > 0, (clean - clean.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)
    signal *= ncsnr / np.sqrt(1 + ncsnr**2)
    rng = np.random.default_rng([draw, 61])
    split = np.full(len(stimuli), "train", dtype="<U5")
    split[rng.permutation(len(stimuli))[:tests]] = "test"
    image = rng.permutation(np.repeat(np.arange(len(stimuli)), repeats))
    noise = rng.standard_normal((len(image), signal.shape[1]), dtype=np.float32) / np.sqrt(1 + ncsnr**2)
    trials = pd.DataFrame({"stimulus": stimuli.ids[image], "subject": "1", "split": split[image]})
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    units = pd.DataFrame({"unit": np.arange(signal.shape[1]), "ncsnr": np.where(spread > 0, ncsnr, 0.0)})
    shown = Stimuli(stimuli.ids, stimuli.images, stimuli.captions, stimuli.table.assign(split=split))
    one_each = pd.DataFrame({"stimulus": stimuli.ids, "subject": "1", "split": split})
    truth = Responses(signal.astype(np.float32), one_each, units, measure="z")
    return Recording(Responses((signal[image] + noise).astype(np.float32), trials, units, measure="z"), shown, truth)


def answers(brain: Brain, images: Sequence[np.ndarray] | np.ndarray, *, batch: int = BATCH) -> np.ndarray:
    """The model's responses (image, unit), float64, asked batch by batch. Raises DataError where what comes back does not fit."""
    rows: list[np.ndarray] = []
    for start in range(0, len(images), batch):
        pictures = [np.asarray(images[i]) for i in range(start, min(start + batch, len(images)))]
        try:
            said = brain(pictures)
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            raise DataError(f"insilico: the model failed on pictures {start} to {start + len(pictures) - 1}: {text}") from error
        found = np.asarray(said.detach().cpu() if hasattr(said, "detach") else said, dtype=np.float64)
        if found.ndim != 2 or len(found) != len(pictures):
            raise DataError(f"insilico: {len(pictures)} pictures gave an array of shape {found.shape}; a row each is needed")
        if rows and found.shape[1] != rows[0].shape[1]:
            raise DataError(
                f"insilico: the model gave {found.shape[1]} units for pictures from {start} on and {rows[0].shape[1]} before; "
                f"it must give the same units at every call"
            )
        rows.append(found)
    clean = np.concatenate(rows)
    if not np.isfinite(clean).all():
        raise DataError(f"insilico: the model gave {int((~np.isfinite(clean)).sum())} values that are NaN or infinite")
    return clean


def named(name: str) -> Brain:
    """The function that a text "package.module:name" names. Raises DataError."""
    place, _, what = name.partition(":")
    if not place or not what:
        raise DataError(f"insilico: brain {name!r} is not package.module:function")
    try:
        found = getattr(importlib.import_module(place), what, None)
    except ImportError as error:
        raise DataError(f"insilico: brain {name!r}: {error}; the module must be installed or on PYTHONPATH") from None
    if not callable(found):
        raise DataError(f"insilico: {place} has no function {what!r}")
    return found


def berg(package: Any, model: Any, *, size: int = 224) -> Brain:
    """A brain of a package with `encode(model, images)`, images (n, 3, h, w) uint8, as BERG has it.

        brain = berg(BERG(folder), BERG(folder).get_encoding_model("fmri-nsd-fwrf", subject=1, selection={"roi": "V1"}))

    Pictures are cut to a square and resized to `size`. An answer with more axes (EEG: repeat, channel, time) is averaged over
    the repeats, if there are four, and laid out as units; of a pair (responses, metadata) the responses are taken.
    """
    from PIL import Image

    def brain(images: list[np.ndarray]) -> np.ndarray:
        made = []
        for picture in images:
            edge = min(picture.shape[:2])
            top, left = ((n - edge) // 2 for n in picture.shape[:2])
            square = Image.fromarray(picture[top : top + edge, left : left + edge])
            made.append(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1))
        said = package.encode(model, np.stack(made))
        found = np.asarray(said[0] if isinstance(said, tuple) else said)
        found = found.mean(axis=1) if found.ndim == 4 else found
        return found.reshape(len(images), -1)

    return brain
