"""EEG and MEG recordings with the embeddings that they are aligned to: the phantom, THINGS-EEG2, THINGS-MEG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from brainlens import datasets
from brainlens.backbones import clip
from brainlens.datasets import epochs, phantom, phantom_eeg, things_eeg2, things_meg
from brainlens.datasets.pictures import NoImages
from brainlens.datasets.source import Source, Tell, check_device, chosen_captions, network_folder, no_folder, noting
from brainlens.datasets.things_tables import PICTURES, concept_centres, pictures_folder
from brainlens.phantom.captions import naming, noun
from brainlens.phantom.eeg import EEGTruth
from brainlens.signals.epochs import channel_numbers, check_channels
from brainlens.stimuli.blur import LEVELS, blurred_stimuli, levels
from brainlens.stimuli.saliency import PAPER, FilterSettings, saliency_stimuli
from brainlens.store import ArrayWriter, LazyRows, join_rows, open_array, open_npy, release
from brainlens.subjects import WITHIN, Protocol, join_stimuli
from brainlens.types import DataError, Features, Recording, Responses, Stimuli
from brainlens.types.sensor_units import check_magnitudes

SENSOR_DATASETS = ("phantom_eeg", "things_eeg2", "things_meg", "epochs")
PROMPTS = ("label", "A", "B", "C")
CENTRES = "center_clip.npy"


@dataclass(frozen=True)
class SensorRecording:
    """Rows of training means and test repetitions, the images seen, their embeddings, those of their captions, and the truth."""

    responses: Responses
    stimuli: Stimuli
    images: Features
    texts: Features | None = None
    truth: EEGTruth | None = None


def open_sensors(
    source: Source,
    *,
    protocol: Protocol = WITHIN,
    repeats: int | None = None,
    amplitude: float | None = None,
    cache: Path,
    device: str = "cpu",
    settings: FilterSettings = PAPER,
    tell: Tell,
) -> SensorRecording:
    """The recordings that a protocol needs: of one subject ("within"), or of all that are there ("across").

    Training repetitions are averaged and test repetitions cut to `repeats` (None: all) one subject at a time, into memory maps
    under `cache`, so that no subject's single trials are in memory at once. amplitude: of the phantom's signal, uV. Two subjects
    are simulated for "across" on the phantom unless a higher one is tested. settings: of the filter through which the sources of
    the phantom see the pictures, with `--option reads=filtered`; the embeddings of filtered pictures are those of
    `with_saliency`.
    Raises DataError for a recording without sensors, a subject that is not found, or fewer repetitions than asked.
    """
    if source.dataset not in SENSOR_DATASETS:
        raise DataError(f"dataset {source.dataset!r} has no EEG or MEG of images; choose one of {', '.join(SENSOR_DATASETS)}")
    check_device(device)
    if amplitude is not None and source.dataset != "phantom_eeg":
        raise DataError(f"--amplitude {amplitude} is the phantom's; {source.dataset} is a recording")
    if source.dataset == "phantom_eeg":
        strength = phantom_eeg.STRONG if amplitude is None else amplitude
        return _phantom(source, protocol, repeats, strength, cache=cache, settings=settings, tell=tell)
    if source.folder is None or not source.folder.is_dir():
        raise DataError(no_folder(source))
    there = subjects_in(source)
    chosen = number_of(protocol.subject if protocol.subject is not None else there[0], there)
    wanted = [chosen] if protocol.kind == "within" else there
    parts, every = [], []
    for each in wanted:
        tell(f"reading {source.dataset}, subject {each}", None)
        loaded = read_subject(source, each, cache)
        responses, seen = loaded.responses, loaded.stimuli
        for part in pd.unique(responses.trials["split"]):
            check_channels(responses, among=np.flatnonzero(responses.trials["split"] == part))
        way = "say what the files hold by --option unit=V" if "unit" in datasets.options(source.dataset) else "convert the files"
        check_magnitudes(responses.data, responses.trials["subject"], responses.measure, way)  # before float16 takes digits
        parts.append(_means(responses, repeats, cache / f"{source.dataset}-{each}-means"))
        every.append(seen)
    stimuli = _all_seen(every)
    if protocol.gallery == "concept" and not ((source.folder / CENTRES).exists() or pictures_folder(source.folder)):
        raise DataError(
            f"gallery 'concept' needs the concepts' centres in {source.folder / CENTRES}, or the THINGS pictures in "
            f"{source.folder / PICTURES[0]} (a folder a concept), of which they are made; see docs/sensors.md"
        )
    stimuli = _captioned(stimuli if source.captions is None else chosen_captions(stimuli, source.captions))
    images, texts = _embeddings(source, stimuli, cache, device, tell, concepts=protocol.gallery == "concept")
    return SensorRecording(_joined(parts), stimuli, images, texts)


def read_subject(source: Source, subject: int, cache: Path) -> Recording:
    """One subject of a recording; of THINGS-EEG2 from released epochs or, where only they are there, continuous files."""
    assert source.folder is not None
    if source.dataset == "things_eeg2" and subject not in things_eeg2.released_subjects(source.folder):
        chosen = datasets.check_options(source.dataset, source.options)
        wrong = [name for name in chosen if name not in ("channels", "unit")]
        if wrong:
            raise DataError(
                f"option {wrong[0]!r} is of released epochs; of subject {subject} only the continuous files are found"
            )
        return things_eeg2.prepare_subject(source.folder, cache, subject=subject, **chosen)
    if source.dataset == "epochs":
        with noting(source):
            found = datasets.load(source.dataset, source.folder, **source.options)
        return replace(found, responses=found.responses.where(subject=str(subject)))
    return datasets.load(source.dataset, source.folder, subject=subject, **{"cache": cache, **source.options})


def subjects_in(source: Source) -> list[int]:
    """Numbers of the subjects whose files lie in the folder of a recording. Raises DataError where there is none."""
    assert source.folder is not None
    if source.dataset == "epochs":
        return epochs.subjects(source.folder, **source.options)
    if source.dataset == "things_eeg2":
        released, raw = things_eeg2.released_subjects(source.folder), things_eeg2.raw_subjects(source.folder)
        found, expected = sorted({*released, *raw}), "sub-01/preprocessed_eeg_training.npy"
    else:
        found, expected = things_meg.subjects(source.folder), "derivatives/preprocessed/preprocessed_P1-epo.fif"
    if not found:
        raise DataError(f"{source.folder}: no subject of {source.dataset} is found; a file {expected} is expected")
    return found


def number_of(subject: str | int, there: Sequence[int]) -> int:
    """The number of a subject named as on disk (1, "01", "sub-01", "P1"). Raises DataError listing those that are found."""
    digits = re.sub(r"^(sub-|P)", "", str(subject))
    if not digits.isdecimal() or int(digits) not in there:
        known = ", ".join(map(str, there[:30])) + (", ..." if len(there) > 30 else "")
        raise DataError(f"subject {subject!r} is not found; the recording has subjects {known}")
    return int(digits)


def prompted(stimuli: Stimuli, prompt: str) -> list[list[str]]:
    """What a captioner with a prompt would say of each scene, from its truth (NeuroAlign Table 5).

    label: the kind alone; A: "a picture of a <kind>"; B: the main object with size and colour; C: every object, place and
    background. Raises DataError for another prompt, or stimuli without that truth.
    """
    if prompt not in PROMPTS:
        raise DataError(f"prompt {prompt!r} is not one of {', '.join(PROMPTS)}")
    if not {"kind", "domain", "color", "size"} <= set(stimuli.table.columns):
        raise DataError("the comparison of prompts needs scenes with known objects; it runs on the phantom without --data")
    out = []
    for i, row in enumerate(stimuli.table.itertuples()):
        named = naming(str(row.kind), str(row.domain), str(row.color), str(row.size))
        said = {"label": noun(str(row.kind)), "A": f"a picture of a {noun(str(row.kind))}", "B": f"a {named}"}
        out.append([said[prompt]] if prompt in said else [stimuli.captions[i][0]])
    return out


def prompt_texts(recording: SensorRecording, source: Source, prompt: str, device: str) -> Features:
    """Caption embeddings of a prompt."""
    model = clip.load_clip(network_folder(source), device=device)
    return clip.embed_texts(model, prompted(recording.stimuli, prompt), recording.stimuli.ids)


def with_saliency(
    recording: SensorRecording, source: Source, settings: FilterSettings, *, cache: Path, device: str = "cpu", tell: Tell
) -> SensorRecording:
    """The recording with the layer "saliency", the embeddings of its filtered pictures; as it is where it has no pictures.

    Embeddings are kept under `cache` by the pictures and the settings, so that a second call filters nothing.
    """
    stimuli = recording.stimuli
    if "saliency" in recording.images.data or isinstance(stimuli.images, NoImages):
        return recording
    tell(f"embeddings of {len(stimuli):,} images after saliency extraction", None)
    filtered = saliency_stimuli(stimuli, settings, device=device)
    return _with_layers(recording, {"saliency": filtered}, source, cache=cache, device=device)


def with_blur(recording: SensorRecording, source: Source, *, cache: Path, device: str = "cpu", tell: Tell) -> SensorRecording:
    """The recording with a layer for each level of blur, the embeddings of its pictures as the fovea sees them (`stimuli.blur`).

    Embeddings are kept under `cache` by the pictures and the level. Raises DataError for a recording without pictures.
    """
    stimuli = recording.stimuli
    if set(LEVELS) <= set(recording.images.data):
        return recording
    if isinstance(stimuli.images, NoImages):
        raise DataError(f"ubp_like looks for blurred pictures, and this recording has none ({stimuli.images.reason})")
    tell(f"embeddings of {len(stimuli):,} images at {len(LEVELS)} levels of blur", None)
    changed = {name: blurred_stimuli(stimuli, settings) for name, settings in levels().items()}
    return _with_layers(recording, changed, source, cache=cache, device=device)


def _with_layers(
    recording: SensorRecording, changed: dict[str, Stimuli], source: Source, *, cache: Path, device: str
) -> SensorRecording:
    """The recording with embeddings of changed pictures as further layers, by the network that embeds those shown."""
    place, data = cache / "features", dict(recording.images.data)
    model = None if source.dataset == "phantom_eeg" else clip.load_clip(network_folder(source), device=device)
    for name, stimuli in changed.items():
        if model is None:
            data[name] = np.asarray(phantom.features(stimuli, cache=place)["image"], np.float32)
        else:
            data[name] = clip.embed_images(model, stimuli, cache=place)["image"]
    return replace(recording, images=replace(recording.images, data=data))


def _phantom(
    source: Source,
    protocol: Protocol,
    repeats: int | None,
    amplitude: float,
    *,
    cache: Path,
    settings: FilterSettings,
    tell: Tell,
) -> SensorRecording:
    kind, subject, gallery = protocol.kind, protocol.subject, protocol.gallery
    chosen = number_of(subject if subject is not None else 1, range(1, 1000))
    many = 80 if repeats is None else repeats
    if not 1 <= many <= 80:
        raise DataError(f"{repeats} repetitions are asked for, a test image of the phantom has 80; ask for 1 to 80")
    if gallery == "concept" and source.folder is None:
        raise DataError(f"gallery 'concept': drawn scenes have no concepts; give a folder with {CENTRES} by --data")
    if source.captions is not None:
        raise DataError(f"--captions {source.captions!r}: scenes of the EEG phantom have their own; --prompts compares others")
    if source.model not in (None, "miniature"):
        raise DataError(f"--model {source.model!r}: the EEG phantom reads the shipped miniature, or the embeddings in --data")
    asked = dict(datasets.check_options(source.dataset, source.options))
    if {"repeats", "amplitude"} & set(asked):
        raise DataError("options repeats and amplitude of the EEG phantom are given by --repeats and --amplitude; leave them out")
    tell("drawing scenes, and the network's layers", None)
    seen = phantom_eeg.shown(
        source.folder, n_train=source.n_train, n_test=source.n_test, seed=source.seed, reads=asked.pop("reads", "picture"),
        settings=settings, cache=cache / "features",
    )  # fmt: skip
    people = [chosen] if kind == "within" else list(range(1, max(2, chosen) + 1))
    tell("simulating EEG", None)
    responses = phantom_eeg.record(seen, subjects=people, repeats=(4, many), amplitude=amplitude, seed=source.seed, **asked)
    truth = phantom_eeg.truth(seen, subject=chosen, amplitude=amplitude, seed=source.seed)
    return SensorRecording(responses, seen.stimuli, seen.images, seen.texts, truth)


def _means(responses: Responses, repeats: int | None, place: Path) -> Responses:
    """Training images as means over their repetitions, test images as single rows, float16 memory map; resumable."""
    trials = responses.trials
    test = (trials["split"] == "test").to_numpy()
    if not test.any() or test.all():
        raise DataError(f"{int(test.sum())} of {len(test)} trials are of the test; training and test must both be there")
    kept = np.flatnonzero(test)
    if repeats is not None:
        order = trials.iloc[kept].groupby("stimulus").cumcount().to_numpy()
        least = int(trials.iloc[kept].groupby("stimulus").size().min())
        if not 1 <= repeats <= least:
            raise DataError(f"{repeats} repetitions are asked for, a test image has {least}; ask for 1 to {least}")
        kept = kept[order < repeats]
    groups = trials[~test].reset_index().groupby("stimulus", sort=False)["index"].agg(list)
    table = trials.iloc[[rows[0] for rows in groups]].drop(columns=["repeat"], errors="ignore").assign(
        repeats=[len(rows) for rows in groups]
    )  # fmt: skip
    table = pd.concat([table, trials.iloc[kept].assign(repeats=1)], ignore_index=True)
    wanted = [list(map(int, rows)) for rows in groups] + [[int(row)] for row in kept]
    shape = (len(table), *responses.data.shape[1:])
    name = f"means-{len(kept)}"
    try:
        data = open_array(place, name, ids=table["stimulus"])
    except DataError:
        with ArrayWriter(place, name, shape, "float16", ids=table["stimulus"]) as writer:
            for start in range(writer.done, len(wanted), 256):
                block = [np.asarray(responses.data[rows], np.float32).mean(0) for rows in wanted[start : start + 256]]
                writer.write(start, np.stack(block))
                release(responses.data)
        data = open_array(place, name, ids=table["stimulus"])
    return replace(responses, data=data, trials=table)


def _all_seen(every: list[Stimuli]) -> Stimuli:
    """The images that any subject saw: where trials were lost, a subject has not seen them all."""
    names = {str(name) for seen in every for name in seen.ids}
    return next((seen for seen in every if len(seen) == len(names)), None) or join_stimuli(every)


def _captioned(stimuli: Stimuli) -> Stimuli:
    """The stimuli with the captions "a photo of a <concept>" where they have concepts and no captions of their own."""
    if any(stimuli.captions) or "concept" not in stimuli.table.columns or (stimuli.table["concept"].astype(str) == "").any():
        return stimuli
    return replace(stimuli, captions=[[f"a photo of a {str(name).replace('_', ' ')}"] for name in stimuli.table["concept"]])


def joined_subjects(parts: Sequence[Responses], names: Sequence[str]) -> tuple[Responses, list[str]]:
    """(subjects one after the other, on the channels that all have; a remark where some have more).

    Raises DataError for a subject that comes twice, for other times, and where no two channels are common.
    """
    first = parts[0]
    kept = [str(c) for c in first.units["channel"]]
    seen: dict[str, str] = {}
    for name, part in zip(names, parts, strict=True):
        number = str(part.trials["subject"].iloc[0])
        if number in seen:
            raise DataError(f"subjects {seen[number]!r} and {name!r} are one; give each once")
        seen[number] = name
        if not np.array_equal(np.asarray(part.times), np.asarray(first.times)):
            two = [np.asarray(one.times) for one in (part, first)]
            ends = [f"{len(times)} times from {times[0]:g} to {times[-1]:g} s" for times in two]
            raise DataError(f"subject {name!r} has {ends[0]}, {names[0]!r} {ends[-1]}; cut all alike, by window and rate")
        have = {str(c).lower() for c in part.units["channel"]}
        kept = [c for c in kept if c.lower() in have]
    if len(kept) < 2:
        raise DataError(f"subjects {', '.join(names)} have {len(kept)} channels in common; give them the same names by --rename")
    counts = [len(part.units) for part in parts]
    said = f"{len(kept)} channels that all {len(parts)} subjects have are read; they have {min(counts)} to {max(counts)}."
    return _joined([parts[0].columns(channel_numbers(parts[0], kept)), *parts[1:]]), [said] if max(counts) > len(kept) else []


def _joined(parts: list[Responses]) -> Responses:
    """Subjects one after the other, their channels by name in the order of the first; their data stay where they are."""
    if len(parts) == 1:
        return parts[0]
    names = [str(name) for name in parts[0].units["channel"]]
    same = []
    for part in parts:
        numbers = channel_numbers(part, names)
        there = np.array_equal(numbers, np.arange(len(part.units)))
        same.append(part.data if there else cast(np.ndarray, LazyRows([part.data], columns=numbers)))
    trials = pd.concat([part.trials for part in parts], ignore_index=True)
    return replace(parts[0], data=join_rows(same), trials=trials)


def _embeddings(
    source: Source, stimuli: Stimuli, cache: Path, device: str, tell: Tell, *, concepts: bool
) -> tuple[Features, Features | None]:
    """Embeddings of images, of concepts where their centres are there, and of captions.

    Rows of the file of centres are the test concepts by name, the order in which released files have them. concepts: without that
    file the centres are made of the THINGS pictures.
    """
    place = network_folder(source)
    tell(f"embeddings of {len(stimuli):,} images", None)
    model = clip.load_clip(place, device=device)
    data = {"image": clip.embed_images(model, stimuli, cache=cache / "features")["image"]}
    assert source.folder is not None
    centres, pictures = source.folder / CENTRES, pictures_folder(source.folder) if concepts else None
    if centres.exists() or pictures is not None:
        test = np.flatnonzero((stimuli.table["split"] == "test").to_numpy())
        if "concept" in stimuli.table.columns:
            test = test[np.argsort(stimuli.table["concept"].to_numpy(dtype=str)[test], kind="stable")]
        if pictures is None or centres.exists():
            values = np.asarray(open_npy(centres), np.float32)
        else:
            tell(f"centres of {len(test):,} concepts from the pictures in {pictures.name}", None)
            values = concept_centres(pictures, stimuli.take(stimuli.ids[test]), model, cache=cache / "features")
        if values.shape != (len(test), data["image"].shape[1]):
            width = data["image"].shape[1]
            raise DataError(f"{centres}: shape {values.shape} does not fit {len(test)} test images of {width} numbers")
        data["concept"] = data["image"].copy()
        data["concept"][test] = values
    texts = clip.embed_texts(model, stimuli.captions, stimuli.ids) if any(stimuli.captions) else None
    return Features(data, stimuli.ids, model.backbone.name), texts
