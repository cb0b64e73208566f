"""The claims `eeg/...`: NeuroAlign, its baselines and its ablations on simulated EEG, fit by fit, so that a killed run goes on.

Each fit (protocol, subject, method, seed) leaves one JSON file with the rank of every test image; what is there is not fitted
again, and one that was killed goes on from its last checkpoint. Every method is trained as published (NICE: batch 1,000;
NeuroAlign: Table 3), stopped when its validation loss has rested for `patience` epochs, and tested once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import miniatures, store
from brainlens.claims.sensor_summary import UNFILTERED, by_base, summarise
from brainlens.datasets import phantom
from brainlens.datasets.source import Tell
from brainlens.metrics import retrieval as retrieval_metrics
from brainlens.models.sensors.checkpoint import Checkpoint
from brainlens.models.sensors.decoder import (
    COMPARED,
    NICE_TRAINING,
    THINGS_EEG2,
    SensorDecoder,
    SensorTraining,
    target_layer,
    without,
)
from brainlens.models.sensors.fit import fit_sensors
from brainlens.models.sensors.linear import LINEAR
from brainlens.phantom.eeg import AMPLITUDE, EEGTruth, eeg_trials, eeg_truth, simulate_eeg
from brainlens.signals.mvnn import mvnn_covariance, whiten, whitener
from brainlens.stimuli.saliency import PAPER, FilterSettings, saliency_stimuli
from brainlens.subjects import Protocol
from brainlens.types import Features, Responses, Stimuli, positions

METHODS = ("ridge", "canonical", "linear", "nice", "neuroalign", "no_saliency")
ABLATIONS = ("no_guidance", "no_adjustment", *UNFILTERED, "no_saliency_guidance_adjustment", "shuffled")
ENCODERS = {name: name for name in ("nice", "linear", *LINEAR)}  # every other method is a NeuroAlign
KEPT = ("canonical", "no_saliency", "neuroalign")  # decoders whose channel contributions are compared with the truth
TEST_ROWS = 16  # means of 5 repetitions


@dataclass(frozen=True)
class SensorStudy:
    """What is run: training images, subjects tested within and across (on the other subjects), images an other subject gives.

    ablated: for how many of the subjects within, and of those across, the ablations run too. seeds: the first is everyone's; the
    others are for the methods `reseeded` within the ablated subjects. epochs: None as published (200). minutes: no new fit is
    begun after this. settings: of the saliency filter. control: the sources read the filtered picture; controlled: subjects of
    the study that `sensor_claims` runs beside this one with control=True. The amplitude was calibrated on subjects 9 and 10.
    """

    train: int = 16_540
    subjects: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12)
    across: tuple[int, ...] = (1, 2, 3)
    across_train: int = 4_000
    seeds: tuple[int, ...] = (0, 1)
    methods: tuple[str, ...] = METHODS
    ablations: tuple[str, ...] = ABLATIONS
    ablated: tuple[int, int] = (5, 1)
    reseeded: tuple[str, ...] = ("nice", "no_saliency")
    epochs: int | None = None
    patience: int = 6
    amplitude: float = AMPLITUDE
    precision: str = "bfloat16"
    scenes: int = 0
    minutes: float = float("inf")
    settings: FilterSettings = PAPER
    control: bool = False
    controlled: tuple[int, ...] = (1, 2, 3)


@dataclass(frozen=True)
class SensorTables:
    """Scenes without their pictures, the network's layers pooled to 2 x 2 fields with the saliency embedding, captions."""

    stimuli: Stimuli
    network: Features
    texts: Features
    brain: Features | None = None  # what the sources read where it is not the network's view of the picture as shown


def sensor_tables(study: SensorStudy, folder: Path, tell: Tell, *, block: int = 1000) -> SensorTables:
    """What the phantom reads and what is decoded, kept in `folder`; pictures live only while their block is read."""
    stimuli = phantom.scenes(n_train=study.train, n_test=200, seed=study.scenes)
    weights = {file.name: store.sha256(file) for file in sorted(miniatures.folder("clip").glob("*.safetensors"))}
    key = {"scenes": study.scenes, "train": study.train, "saliency": repr(study.settings), "pooled": 2, "weights": weights}

    def layers(start: int, stop: int) -> Features:
        tell(f"network layers {start} of {len(stimuli)}", start / len(stimuli))
        part = stimuli.take(stimuli.ids[start:stop])
        found, filtered = phantom.features(part), phantom.features(saliency_stimuli(part, study.settings))
        data = dict(found.data) | {"saliency": filtered["image"]}
        tokens = {name: _fields(found, name) for name in found.tokens}
        return Features(data, part.ids, found.model, tokens, dict.fromkeys(tokens, (2, 2)))

    def filtered_layers(start: int, stop: int) -> Features:
        tell(f"layers of filtered pictures {start} of {len(stimuli)}", start / len(stimuli))
        part = stimuli.take(stimuli.ids[start:stop])
        found = phantom.features(saliency_stimuli(part, study.settings))
        tokens = {name: _fields(found, name) for name in found.tokens}
        return Features(dict(found.data), part.ids, found.model, tokens, dict.fromkeys(tokens, (2, 2)))

    ids = list(map(str, stimuli.ids))
    network = store.cached_features(folder, key | {"kind": "layers"}, layers, ids=ids, block=block)
    brain = None
    if study.control:
        brain = store.cached_features(folder, key | {"kind": "filtered layers"}, filtered_layers, ids=ids, block=block)
    texts = store.cached_features(
        folder, key | {"kind": "texts"}, lambda a, b: phantom.texts(stimuli.take(stimuli.ids[a:b])), ids=ids, block=block
    )
    pictures = np.zeros((len(stimuli), 1, 1, 3), np.uint8)
    bare = Stimuli(stimuli.ids, pictures, stimuli.captions, stimuli.table)
    return SensorTables(bare, network, texts, brain)  # layers stay on disk: only the simulation reads most of them


def _fields(features: Features, name: str) -> np.ndarray:
    """Tokens averaged over the four quarters of the picture, (image, 4, channel): all that the EEG phantom reads of them."""
    rows, columns = features.grid[name]
    array = np.asarray(features.tokens[name], np.float32)
    quarters = array.reshape(len(array), 2, rows // 2, 2, columns // 2, -1).mean(axis=(2, 4))
    return quarters.reshape(len(array), 4, -1)


@dataclass(frozen=True)
class Subject:
    """One simulated subject: whitened recordings (a memory map), the whitener, and what generated them."""

    responses: Responses
    matrix: np.ndarray
    truth: EEGTruth


def subject_recording(tables: SensorTables, study: SensorStudy, subject: int, folder: Path) -> Subject:
    """Training means of 4, test in 16 means of 5, whitened by training trials alone, float16, kept in `folder`."""
    read = tables.network if tables.brain is None else tables.brain
    truth = eeg_truth(tables.stimuli, read, subject=subject, amplitude=study.amplitude, seed=study.scenes)
    trials = eeg_trials(tables.stimuli, subject=subject, rows=(1, TEST_ROWS))
    mark = "-filtered" if study.control else ""
    place = Path(folder) / f"subject{subject}-{study.train}-{study.scenes}-{study.amplitude:g}{mark}"
    if "recordings" not in store.manifest(place):
        raw = simulate_eeg(truth, trials)
        fitted = np.flatnonzero((trials["split"] == "train").to_numpy())
        matrix = whitener(mvnn_covariance(raw.data, rows=fitted))
        for start in range(0, len(trials), 256):
            raw.data[start : start + 256] = whiten(matrix, raw.data[start : start + 256])
        store.save_array(place, "whitener", matrix)
        store.save_array(place, "recordings", raw.data)
    data = store.open_array(place, "recordings", verify=False)
    responses = Responses(data, trials, truth.units, space=truth.space, times=truth.times, measure="z")
    return Subject(responses, np.array(store.open_array(place, "whitener")), truth)


def training_of(method: str, study: SensorStudy, *, parts: int = 1) -> tuple[str, SensorTraining]:
    """Encoder and training of a method: the published settings, with early stopping; `parts` subjects share the epochs."""
    encoder = ENCODERS.get(method, "neuroalign")
    training = THINGS_EEG2 if encoder == "neuroalign" else NICE_TRAINING if encoder.startswith("nice") else COMPARED
    for part in method.removeprefix("no_").split("_") if method.startswith("no_") else ():
        training = without(training, part)
    epochs = training.epochs if study.epochs is None else study.epochs
    return encoder, replace(training, epochs=max(1, epochs // parts), patience=study.patience, precision=study.precision)


def pooled(people: dict[int, Subject], study: SensorStudy, tested: int) -> Responses:
    """The first `across_train` training images of all other subjects, and the test trials of the tested one."""
    chosen, tables = [], []
    for number, subject in people.items():
        trials = subject.responses.trials
        rows = np.flatnonzero((trials["split"] == "test").to_numpy() if number == tested else trials["split"] == "train")
        rows = rows if number == tested else rows[: study.across_train]
        chosen.append(store.select_rows(subject.responses.data, rows))
        tables.append(trials.iloc[rows])
    first = people[tested].responses
    return replace(first, data=store.join_rows(chosen), trials=pd.concat(tables, ignore_index=True))


def shuffled(responses: Responses, seed: int) -> Responses:
    """Training trials that belong to other images."""
    trials = responses.trials.copy()
    rows = np.flatnonzero((trials["split"] == "train").to_numpy())
    trials.loc[rows, "stimulus"] = np.random.default_rng(seed).permutation(trials.loc[rows, "stimulus"].to_numpy())
    return replace(responses, trials=trials)


def planned(study: SensorStudy) -> Iterator[tuple[str, int, str, int]]:
    """(protocol, subject, method, seed) of every fit, subject by subject, so that a shorter run has whole subjects."""
    for place, subject in enumerate(study.subjects):
        first, ablated = study.seeds[0], place < study.ablated[0]
        yield from (("within", subject, method, first) for method in study.methods)
        yield from (("within", subject, method, first) for method in study.ablations if ablated)
        yield from (("within", subject, m, seed) for m in study.reseeded if ablated for seed in study.seeds[1:])
        if subject in study.across and len(study.subjects) > 1:
            ablated = subject in study.across[: study.ablated[1]]
            yield from (("across", subject, method, first) for method in study.methods)
            yield from (("across", subject, method, first) for method in study.ablations if ablated)


def run_fits(
    study: SensorStudy, tables: SensorTables, folder: Path, tell: Tell, *, only: tuple[str, int] | None = None
) -> list[dict[str, Any]]:
    """Every planned fit that time allows, read back where it was done before, gone on with where it was killed.

    only: the fits of one protocol and subject.
    """
    begin = time.perf_counter()
    people: dict[int, Subject] = {}
    fits, pool = [], None
    for kind, subject, method, seed in planned(study):
        if only not in (None, (kind, subject)):
            continue
        file = Path(folder) / "fits" / f"{kind}-{subject}-{method}-{seed}.json"
        begun = Path(folder) / "unfinished" / file.stem
        if file.exists():
            fits.append(store.read_json(file))
            store.remove_checkpoints(begun)
            continue
        if time.perf_counter() - begin > 60 * study.minutes:
            continue
        tell(f"{kind} {subject} {method} seed {seed}", None)
        needed = study.subjects if kind == "across" else (subject,)
        for number in needed:
            if number not in people:
                people[number] = subject_recording(tables, study, number, folder)
        if kind == "across" and (pool is None or pool[0] != subject):
            pool = (subject, pooled({n: people[n] for n in study.subjects}, study, subject))
        responses = pool[1] if kind == "across" and pool is not None else people[subject].responses
        protocol = Protocol(kind=kind, subject=str(subject))
        kept = Checkpoint(begun, keep=True)  # until the fit's file is there
        decoder, found = fit_once(
            responses, tables, method, study=study, protocol=protocol, seed=seed, tell=tell, checkpoint=kept
        )
        if method in KEPT and (kind, seed) == ("within", study.seeds[0]):
            store.save_weights(folder, f"decoder-{method}-{subject}", _weights(decoder))
        store.save_json(file, found)
        store.remove_checkpoints(begun)
        fits.append(found)
        tell(f"{kind} {subject} {method} seed {seed}: top-1 {found['top1']:.3f}, {found['seconds']:.0f} s", None)
    return fits


def fit_once(
    responses: Responses,
    tables: SensorTables,
    method: str,
    *,
    study: SensorStudy,
    protocol: Protocol,
    seed: int,
    tell: Tell | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[SensorDecoder, dict[str, Any]]:
    """One decoder and what is kept of it: ranks of the test images, curve over epochs, settings.

    checkpoint: where a training that is killed leaves its last epochs.
    """
    started = time.perf_counter()
    if method == "shuffled":
        responses = shuffled(responses, seed)
    others = len(study.subjects) - 1
    parts = max(1, others * study.across_train // study.train) if protocol.kind == "across" else 1
    encoder, training = training_of(method, study, parts=parts)

    def progress(epoch: int, record: dict[str, float]) -> None:
        if tell is not None:
            weights = " ".join(f"{record[w]:.2f}" for w in ("w1", "w2", "w3") if w in record)
            tell(f"  {method} {epoch + 1}: loss {record['loss']:.4f}, validation {record['validation']:.4f} {weights}", None)

    decoder, test = fit_sensors(
        responses, tables.network, tables.texts,
        encoder=encoder, training=training, protocol=protocol, seed=seed, progress=progress,
        checkpoint=checkpoint,
    )  # fmt: skip
    averaged = test.average()
    ids = averaged.trials["stimulus"].to_numpy(dtype=str)
    ranks = retrieval_metrics.ranks(decoder.embed(averaged.data), gallery_of(decoder, tables, ids, encoder, training))
    found = _found((ranks, ids), study, protocol, method, seed)
    found |= {"log": decoder.log, "best_epoch": decoder.best_epoch, "training": asdict(training)}
    return decoder, found | {"seconds": time.perf_counter() - started}


def _found(
    tested: tuple[np.ndarray, np.ndarray], study: SensorStudy, protocol: Protocol, method: str, seed: int
) -> dict[str, Any]:
    ranks, ids = tested
    found = {"kind": protocol.kind, "subject": int(protocol.subject or 0), "method": method, "seed": seed}
    found |= {"ranks": ranks.tolist(), "ids": ids.tolist(), "amplitude": study.amplitude}
    return found | {"top1": float((ranks < 1).mean()), "top5": float((ranks < 5).mean())}


def gallery_of(
    decoder: SensorDecoder, tables: SensorTables, ids: np.ndarray, encoder: str, training: SensorTraining
) -> np.ndarray:
    """Embeddings (n, d) of the images ids (n,) as the decoder was trained to find them."""
    layer = target_layer(tables.network, encoder, training)
    return decoder.gallery(tables.network[layer][positions(ids, tables.network.ids, "images")])


def _weights(decoder: SensorDecoder) -> dict[str, Any]:
    """All weights of a decoder under the names of its parts, and its scale."""
    parts = {"model": decoder.model, "image": decoder.image_head, "text": decoder.text_head}
    found = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    return found | {"scale.0": decoder.scale[0], "scale.1": decoder.scale[1]}


def control_claims(study: SensorStudy, folder: Path, tell: Tell) -> dict[str, float]:
    """`eeg/control/...`: NeuroAlign and its unfiltered form where the sources read the filtered picture, within subjects.

    If the full method wins here and loses where the sources read the picture, its target decides and not its code.
    """
    control = replace(
        study, control=True, subjects=study.controlled, across=(), methods=("neuroalign", "no_saliency"), ablations=(),
        reseeded=(), controlled=(),
    )  # fmt: skip
    place = Path(folder) / "control"
    found = summarise(run_fits(control, sensor_tables(control, place, tell), place, tell))
    return {key.replace("eeg/no_saliency/", "eeg/unfiltered/").replace("eeg/", "eeg/control/", 1): v for key, v in found.items()}


def enhancing_claims(study: SensorStudy, folder: Path, tell: Tell) -> dict[str, float]:
    """The filter's other sign in both worlds, within subjects: `eeg/enhancing/...` where the sources read the picture as shown,
    and `eeg/control/enhancing/...` where they read the filtered one.

    Where pictures are read as shown the unfiltered form knows no sign: its figures are those of `sensor_claims`.
    """
    other = replace(study, settings=FilterSettings("enhancing"), across=(), ablations=(), reseeded=(), controlled=())
    worlds = {
        "eeg/control/enhancing/": replace(other, control=True, subjects=study.controlled, methods=("neuroalign", "no_saliency")),
        "eeg/enhancing/": replace(other, methods=("neuroalign",)),
    }
    place = Path(folder) / "enhancing"
    found: dict[str, float] = {}
    for head, world in worlds.items():
        kept = place / ("filtered" if world.control else "shown")
        scores = summarise(run_fits(world, sensor_tables(world, place, tell), kept, tell))
        found |= {key.replace("eeg/", head, 1).replace("/no_saliency/", "/unfiltered/"): v for key, v in scores.items()}
    return found


def unfiltered_claims(study: SensorStudy, folder: Path, tell: Tell) -> dict[str, float]:
    """`eeg/unfiltered/...`: NeuroAlign without saliency (`full`) and the same without guidance or adjustment, within subjects."""
    some = replace(
        study, methods=("no_saliency",), ablations=UNFILTERED, ablated=(len(study.subjects), 0), across=(), reseeded=()
    )  # fmt: skip
    found = by_base(summarise(run_fits(some, sensor_tables(some, folder, tell), folder, tell)))
    for method in UNFILTERED:
        part = method.removeprefix("no_saliency_")
        old, new = f"eeg/no_saliency/difference/{method}/", f"eeg/unfiltered/difference/no_{part}/"
        found |= {key.replace(old, new): value for key, value in found.items() if key.startswith(old)}
    base = "eeg/no_saliency/within/"
    found |= {key.replace(base, "eeg/unfiltered/full/within/"): value for key, value in found.items() if key.startswith(base)}
    return {key: value for key, value in found.items() if key.startswith("eeg/unfiltered/")}


def sensor_claims(study: SensorStudy, folder: Path, *, tell: Tell, extra: bool = True, workers: int = 1) -> dict[str, float]:
    """All `eeg/...` claims of a study, from the fits in `folder` and those that are still to be run.

    workers: processes that fit side by side, see `sensor_workers`. extra: also what the truth says of the decoders that were kept
    (topography, means over subjects) and of the first subject (onsets, signal to noise).
    """
    from brainlens.claims import sensor_truth, sensor_workers

    if workers > 1:
        sensor_workers.run_side_by_side(study, folder, tell, workers=workers)
    tables = sensor_tables(study, folder, tell)
    done = replace(study, minutes=0.0) if workers > 1 else study
    metrics = by_base(summarise(run_fits(done, tables, folder, tell)))
    if study.controlled:
        metrics |= control_claims(study, folder, tell)
    metrics |= {"eeg/train_images": float(study.train), "eeg/across/train_images": float(study.across_train)}
    metrics["eeg/across/train_subjects"] = float(len(study.subjects) - 1)
    if extra:
        number = study.subjects[0]
        subject = subject_recording(tables, study, number, folder)
        tell("onsets and topography", None)
        metrics |= sensor_truth.signal_facts(subject) | sensor_truth.time_claims(subject, tables)
        for method in KEPT:
            found = []
            for number in study.subjects:
                if f"decoder-{method}-{number}" in store.manifest(folder):
                    subject = subject_recording(tables, study, number, folder)
                    found.append(sensor_truth.topography(subject, tables, study, folder, (method, number)))
            end = "" if method == "no_saliency" else f".{method}"
            for key in found[0] if found else ():
                metrics[key + end] = float(np.mean([each[key] for each in found]))
            metrics[f"eeg/topography_subjects{end}"] = float(len(found))
    return metrics
