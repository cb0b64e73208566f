"""A recording with everything a verb needs beside it: the network's layers and the embeddings of images and captions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens import datasets, miniatures, store
from brainlens.backbones import clip, vision
from brainlens.datasets.pictures import ImageFiles
from brainlens.datasets.shown_stimuli import DrawnTest, listed_captions
from brainlens.phantom.fmri import make_trials, simulate
from brainlens.stimuli.captions import choose_source, clean_captions, read_captions, with_source
from brainlens.subjects import join_stimuli, join_subjects, select_part, select_regions, select_subjects
from brainlens.types import DataError, Features, Recording, Responses, Stimuli, as_captions, check_no_leak, inside
from brainlens.warned import pass_on, warn

Tell = Callable[[str, float | None], None]
OWN = {  # options of loaders that a source holds itself, and where they are given
    "subject": "subjects (--subject)",
    "subjects": "subjects (--subject)",
    "seed": "seed (--seed)",
    "n_train": "n_train (--train)",
    "n_validation": "n_validation",
    "n_test": "n_test (--test)",
}


@dataclass(frozen=True)
class Source:
    """Which recording and which network: a dataset's name, its folder, the network's folder or hub name (None: the miniature).

    subjects: those whose trials are used (none: what the dataset gives); regions: the voxels, by `roi`, "visual" or "whole";
    part: "2/8" is the second of eight parts of those voxels, for brains that are fitted piece by piece.
    folder: may be an address on S3, s3://bucket/folder, which `address` then keeps; the folder is its copy in the cache.
    captions: the name of a caption source of the recording, or a JSON file of one. options: of the recording's own `load`, see
    `datasets.options`, but for what stands above. notes: what was said of a test part that had to be drawn, see `noting`.
    """

    dataset: str = datasets.DEFAULT
    folder: Path | None = None
    model: str | None = None
    n_train: int = 1200
    n_test: int = 200
    seed: int = 0
    n_validation: int = 0
    subjects: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    captions: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None
    address: str | None = None
    notes: list[str] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.folder is not None and store.is_remote(self.folder):
            object.__setattr__(self, "address", store.address(self.folder))
            object.__setattr__(self, "folder", store.here(self.folder))
        taken = [name for name in self.options if name in OWN]
        if taken:
            raise DataError(f"option {taken[0]!r} of {self.dataset!r} is given by {OWN[taken[0]]}; leave it out of the options")

    def one_subject_each(self) -> list[Source]:
        """A source for each of its subjects, with notes of its own; this one where none is named."""
        return [replace(self, subjects=(name,), notes=[]) for name in self.subjects] or [self]

    def take_notes(self, each: Sequence[Source]) -> None:
        """Adds what was noted of its subjects, for a run that is of all of them."""
        self.notes.extend(dict.fromkeys(note for one in each for note in one.notes if note not in self.notes))

    def config(self) -> dict[str, Any]:
        """What a run folder remembers of it."""
        where = self.address or (None if self.folder is None else str(self.folder))
        sizes = {"n_train": self.n_train, "n_test": self.n_test, "n_validation": self.n_validation}
        parts: dict[str, Any] = {"subjects": list(self.subjects), "regions": list(self.regions), "captions": self.captions}
        parts["dataset_options"] = {name: list(v) if isinstance(v, tuple) else v for name, v in self.options.items()}
        if self.part is not None:
            parts["part"] = self.part
        return {"dataset": self.dataset, "folder": where, "model": self.model, "source_seed": self.seed, **sizes, **parts}


@dataclass(frozen=True)
class Opened(Recording):
    """A recording with the network's layers (global and spatial) and the embeddings beside it; `truth` on the phantom only.

    counts: captions that are empty, repeated, shared by several images, or cut at the text limit.
    """

    layers: Features | None = None
    images: Features | None = None
    texts: Features | None = None
    counts: dict[str, int] = field(default_factory=dict)


def no_folder(source: Source) -> str:
    """The line that refuses a source whose folder is missing, or is a file."""
    place = source.folder
    if place is not None and place.is_file():
        return f"{place} is a file; give the folder that it lies in with --data {place.parent}"
    got = "" if place is None else f", got {str(place)!r}"
    return f"dataset {source.dataset!r} needs its folder{got}: give it with --data; see `brainlens datasets {source.dataset}`"


def network_folder(source: Source) -> str:
    """The folder or hub name of the network of a source."""
    named = source.model is not None and source.model != "miniature"
    return str(source.model) if named else str(miniatures.folder("clip"))


def open_recording(
    source: Source, *, embeddings: bool = True, layers: bool = False, device: str = "cpu", tell: Tell | None = None
) -> Opened:
    """Loads a recording and extracts what was asked of the network.

    Raises DataError for an unknown dataset, a device that is not available, a recording without a folder, without images where
    layers or embeddings are asked, and for a test image that is also in the training set, by id or by pixels.
    """
    datasets.module(source.dataset)  # the name first, so that a typo is reported as a typo
    check_device(device)
    say: Tell = tell if tell is not None else _silent
    if source.dataset == "phantom":
        return _phantom(source, device, say, embeddings=embeddings)
    if source.folder is None:
        raise DataError(
            f"dataset {source.dataset!r} needs its folder: give it with --data; `brainlens datasets` says where to get it"
        )
    say(f"reading {source.dataset}", None)
    with noting(source):
        loaded = _load(source)
    responses, stimuli = select_part(select_regions(loaded.responses, source.regions), source.part), loaded.stimuli
    _refuse_leaks(responses, stimuli)
    if not (embeddings or layers):
        return Opened(responses, stimuli)
    say("network layers", None)
    network = vision.load(network_folder(source), device=device)
    found = vision.extract(network, stimuli) if layers else None
    if not embeddings:
        return Opened(responses, stimuli, layers=found)
    read = chosen_captions(stimuli, "none") if source.captions == "none" else stimuli
    if network.model.config.model_type != "clip" and not any(read.captions):  # nothing that it cannot embed
        return Opened(responses, read, layers=found, images=clip.embed_images(network, read))
    model = clip.load_clip(network_folder(source), device=device)
    stimuli, texts, counts = _texts(model, stimuli, source)
    return Opened(responses, stimuli, layers=found, images=clip.embed_images(model, stimuli), texts=texts, counts=counts)


@contextmanager
def noting(source: Source) -> Iterator[None]:
    """Writes into the notes of a source that its test part was drawn; every warning is given on as it came."""
    heard: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield
    finally:  # before an error, too
        for one in heard:
            if issubclass(one.category, DrawnTest) and str(one.message) not in source.notes:
                source.notes.append(str(one.message))
            pass_on(one)


def _load(source: Source) -> Recording:
    """The recording, of the subjects that were asked for: loaded one by one, or chosen where one folder holds them all."""
    name, folder, chosen = source.dataset, source.folder, source.options
    if not source.subjects:
        return datasets.load(name, folder, **chosen)
    if "subject" not in datasets.options(name):
        loaded = datasets.load(name, folder, **chosen)
        return replace(loaded, responses=select_subjects(loaded.responses, source.subjects))
    each = [datasets.load(name, folder, subject=subject_number(subject), **chosen) for subject in source.subjects]
    if len(each) == 1:
        return each[0]
    return Recording(join_subjects([one.responses for one in each]), join_stimuli([one.stimuli for one in each]))


def subject_number(name: str) -> int:
    """The number of a subject that is called by it. Raises DataError for other names."""
    if not name.isdecimal() or int(name) < 1:
        raise DataError(f"subject {name!r}: this dataset numbers its subjects 1, 2, 3, ...")
    return int(name)


def chosen_captions(stimuli: Stimuli, name: str) -> Stimuli:
    """The stimuli with the captions of one source: by its name, or from a file of `brainlens captions` or of one's own.

    "none": without any, so that images alone are read.
    """
    if name == "none":
        return replace(stimuli, captions=[[] for _ in stimuli.ids])
    if Path(name).suffix in (".json", ".csv", ".tsv"):
        found = read_captions(name) if Path(name).suffix == ".json" else listed_captions(Path(name))
        stimuli, name = with_source(stimuli, found), found.name
    return choose_source(stimuli, name)


def _texts(model: clip.Clip, stimuli: Stimuli, source: Source) -> tuple[Stimuli, Features | None, dict[str, int]]:
    """The chosen captions without empty and repeated ones, their embeddings (None where no image has any), and counts."""
    if source.captions is not None:
        stimuli = chosen_captions(stimuli, source.captions)
    captions, counts = clean_captions(stimuli.captions, stimuli.ids)
    if not any(captions):
        return stimuli, None, {}
    counts["cut"] = int((clip.token_counts(model, [c for each in captions for c in each]) > model.max_tokens).sum())
    return replace(stimuli, captions=captions), clip.embed_texts(model, captions, stimuli.ids), counts


def check_device(device: str) -> None:
    """Raises DataError for a device that this machine or this build of torch does not have."""
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DataError(f"device {device!r} is not known; choose cpu, cuda or cuda:N") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and (chosen.index or 0) >= count):
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise DataError(f"device {device!r} is not available; this machine has {there}")


def _silent(text: str, share: float | None = None) -> None:
    """No progress is shown."""


def _phantom(source: Source, device: str, say: Tell, *, embeddings: bool) -> Opened:
    """The phantom; its layers are there anyhow. Without embeddings the network may be one that reads no text."""
    from brainlens.datasets import phantom

    first, chosen = phantom.options_of(datasets.check_options(source.dataset, source.options))
    cache = first["cache"]
    say("drawing scenes" if first["pictures"] is None else "reading photographs", None)
    stimuli = phantom.shown(**_sizes(source), seed=source.seed, pictures=first["pictures"])
    say("network layers of the scenes", None)
    if source.model in (None, "miniature"):
        network = phantom.features(stimuli, cache=cache)
    else:
        network = vision.extract(vision.load(network_folder(source), device=device), stimuli)
    images = texts = None
    counts: dict[str, int] = {}
    if embeddings:
        model = clip.load_clip(network_folder(source), device=device)
        images = Features({"image": np.asarray(network["image"], np.float32)}, network.ids, network.model)
        stimuli, texts, counts = _texts(model, stimuli, source)
    elif source.captions is not None:
        stimuli = chosen_captions(stimuli, source.captions)
    if first["brain_network"] is not None:
        say("layers of the brain's own network", None)
    brain = phantom.brain_features(first["brain_network"], stimuli, cache=cache, device=device)
    say("simulating the brain", None)
    each, truths = [], []
    for number in [subject_number(name) for name in source.subjects] or [1]:
        truths.append(phantom.truth(stimuli, network, subject=number, seed=source.seed, brain=brain, **chosen))
        each.append(simulate(truths[-1], make_trials(stimuli, subject=number, seed=source.seed)))
    responses = select_regions(each[0] if len(each) == 1 else join_subjects(each), source.regions)
    responses = select_part(responses, source.part)
    whole = len(each) == 1 and len(responses.units) == len(each[0].units)  # the ideal observer reads every voxel of one brain
    known = truths[0] if whole else None
    return Opened(responses, stimuli, known, layers=network, images=images, texts=texts, counts=counts)


def _sizes(source: Source) -> dict[str, int]:
    return {"n_train": source.n_train, "n_validation": source.n_validation, "n_test": source.n_test}


def _refuse_leaks(responses: Responses, stimuli: Stimuli) -> None:
    """A test image in training is an error, whether it is found by its id or by its pixels."""
    if "split" not in responses.trials.columns:
        return
    names = {s: r["stimulus"].unique() for s, r in responses.trials.groupby("split")}
    if "train" in names and "test" in names and len(stimuli.images):
        check_no_leak(stimuli.take(names["train"]), stimuli.take(names["test"]))


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def open_stimuli(source: Source, images: str | Path | None = None) -> Stimuli:
    """The stimuli of a recording without its responses where that is possible, or of a folder of pictures."""
    if images is not None:
        return picture_folder(images)
    if source.dataset == "phantom":
        from brainlens.datasets import phantom

        first, _ = phantom.options_of(source.options)
        return phantom.shown(**_sizes(source), seed=source.seed, pictures=first["pictures"])
    return datasets.load(source.dataset, source.folder, **source.options).stimuli


def picture_folder(folder: str | Path) -> Stimuli:
    """The pictures of a folder: those that its `manifest.json` lists (file, and captions or caption, a text or
    several), else every picture in name order.

    Ids are file names without their ending. Raises DataError for a folder without pictures or another manifest.
    """
    folder = Path(folder)
    manifest = folder / "manifest.json"
    if manifest.exists():
        rows = store.read_json(manifest)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "file" in row for row in rows):
            raise DataError(f"{manifest} is not a list of objects with the entry 'file'")
        paths = inside(folder, [str(row["file"]) for row in rows], str(manifest))
        captions = [as_captions(row.get("captions", row.get("caption")), str(row["file"])) for row in rows]
    else:
        paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
        inside(folder, [path.name for path in paths], f"the folder {folder.name!r}")
        captions = [[] for _ in paths]
    if not paths:
        raise DataError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}) and no manifest.json")
    return Stimuli(np.array([p.stem for p in paths]), ImageFiles(paths), captions)


def standardised(responses: Responses) -> Responses:
    """Responses z-scored by session on training trials, where there are sessions and a split; else as they are.

    Sessions without training trials, as one of test images alone, are z-scored by their own trials: a warning counts them.
    """
    trials = responses.trials
    if not {"session", "split"} <= set(trials.columns):
        return responses
    keys = [name for name in ("subject", "session") if name in trials.columns]
    training = (trials["split"] == "train").groupby([trials[name] for name in keys]).sum()
    few = int((training < 2).sum())
    if few:
        warn(
            f"{few} of {len(training)} sessions hold fewer than 2 training trials: they are z-scored by all of their own trials",
        )
    return responses.zscore(by="session", fit_on="train", alone=True)


def prepared(recording: Opened) -> Features:
    """The image embeddings, or a DataError that says what is missing."""
    if recording.images is None:
        raise DataError("this recording has no pictures, so there are no image embeddings to align to")
    return recording.images
