"""`align` for EEG and MEG from the command line: encoders on one footing, analyses, ablations, and the stored run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.align.headline import VALIDATION
from brainlens.align.over_subjects import mean_result
from brainlens.align.sensor_analyses import analyses, cases, saliency_note, scored
from brainlens.align.sensor_options import DEFAULT, TRI, SensorOptions, blurs, filters, preset, suited
from brainlens.align.sensors import score_sensors, validation_score
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.sensors import (
    PROMPTS,
    SensorRecording,
    number_of,
    open_sensors,
    prompt_texts,
    with_blur,
    with_saliency,
)
from brainlens.datasets.source import Source, Tell
from brainlens.metrics.retrieval import nearest_share
from brainlens.models.sensors.aligner import SensorAligner
from brainlens.models.sensors.checkpoint import Checkpoint
from brainlens.models.sensors.decoder import (
    SensorTraining,
    without,
)
from brainlens.models.sensors.fit import fit_model, sensor_model
from brainlens.models.sensors.linear import LINEAR
from brainlens.models.sensors.precision import quick_check
from brainlens.models.sensors.stored import FOLDER, load_aligner
from brainlens.stimuli.saliency import FilterSettings
from brainlens.subjects import Protocol
from brainlens.types import DataError, Responses, Result

log = logging.getLogger(__name__)

UNTIMED = {*LINEAR, "linear", "eegnet", "ubp_like"}  # encoders without the TSConv, whose precision needs no check
PARTS = ("saliency", "guidance", "adjustment")


def align_sensor_command(
    source: Source, runs: str | Path, chosen: dict[str, Any], *, seed: int = 0, device: str = "cpu", tell: Tell
) -> tuple[Path | list[Path], Rows]:
    """`run_align_sensors` from what the command line was given: SensorOptions as plain values, None where nothing was said.

    Several `subjects` are a run each, and their mean (`run_align_sensors_each`).
    """
    given = {key: value for key, value in chosen.items() if value is not None and key not in ("protocol", "subjects")}
    for key in ("encoders", "leave_out"):
        if key in given:
            given[key] = tuple(given[key])
    given |= {"start": str(given["start"])} if "start" in given else {}
    given |= {"saliency": FilterSettings(**given["saliency"])} if "saliency" in given else {}
    options = SensorOptions(protocol=Protocol(*chosen["protocol"]), **given)
    if chosen.get("subjects"):
        return run_align_sensors_each(source, runs, options, chosen["subjects"], seed=seed, device=device, tell=tell)
    return run_align_sensors(source, runs, options, seed=seed, device=device, tell=tell)


def run_align_sensors(
    source: Source, runs: str | Path, options: SensorOptions, *, seed: int = 0, device: str = "cpu", tell: Tell
) -> tuple[Path, Rows]:
    """Fits every encoder on the same split, analyses the main one, and stores its run with the weights.

    Of several encoders the main one is that which finds validation images best.

    Prepared recordings and embeddings are kept in `runs/prepared`, trainings in `runs/unfinished` until the run is stored, so
    that the same call after a stop goes on from them.
    """
    started = store.Start()
    protocol = options.protocol
    start = _start(options)  # before minutes of reading
    cache = Path(runs) / "prepared"
    recording = open_sensors(
        source, protocol=protocol, repeats=options.repeats, amplitude=options.amplitude, cache=cache, device=device,
        settings=options.saliency, tell=tell,
    )  # fmt: skip
    options = suited(options, source, recording.responses)
    if filters(options):
        recording = with_saliency(recording, source, options.saliency, cache=cache, device=device, tell=tell)
    if blurs(options):
        recording = with_blur(recording, source, cache=cache, device=device, tell=tell)
    people = [str(s) for s in pd.unique(recording.responses.trials["subject"])]
    protocol = replace(protocol, subject=people[0] if protocol.subject is None else str(number_of(protocol.subject, range(1000))))
    check = ""
    if options.precision is None and (set(options.encoders) - UNTIMED or options.ablation or options.prompts):
        precision, check = quick_check(device)
        options = replace(options, precision=precision)
        log.info(check)
        tell(check, None)
    data = [store.fingerprint(recording.responses)]
    config = {**source.config(), "options": asdict(options), "protocol": asdict(protocol), "seed": seed, "device": device}
    unfinished = store.run_folder(Path(runs) / "unfinished", "align", config, data)
    bench = Bench(recording, source, options, protocol, len(people), seed, device, tell, unfinished, start)
    with store.lock(unfinished):
        folder, rows = _fit_all(bench, runs, {"data": data, "precision_check": check}, started)
    shutil.rmtree(unfinished)  # the run is stored whole; what it would have gone on from is of no more use
    if not any(unfinished.parent.iterdir()):
        unfinished.parent.rmdir()
    return folder, rows


def run_align_sensors_each(
    source: Source,
    runs: str | Path,
    options: SensorOptions,
    subjects: Sequence[str],
    *,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> tuple[list[Path], Rows]:
    """A run for each subject by `run_align_sensors`, by the protocol of the options, and the mean over subjects as a further run.

    The encoder that counts is that of each run: of several encoders each subject's best on validation images.
    Raises DataError for fewer than 2 subjects, and one that comes twice.
    """
    names = [str(number_of(name, range(1000))) for name in subjects]
    if len(set(names)) < max(2, len(names)):
        raise DataError(f"align: subjects {list(subjects)} are not two or more different ones; give --subject once for each")
    folders: list[Path] = []
    rows: Rows = []
    for name in names:
        chosen = replace(options, protocol=replace(options.protocol, subject=name))
        folder, found = run_align_sensors(source, runs, chosen, seed=seed, device=device, tell=tell)
        folders.append(folder)
        rows += [{"subject": name, **row} for row in found]
    mean = mean_result([store.load_result(folder) for folder in folders], names, seed=seed)
    mean = replace(mean, config={**mean.config, "protocol": {**mean.config["protocol"], "subject": None}})
    folders.append(keep(mean, runs, source))
    shown = table(mean, "retrieval/brain->image", ending=("top1", "top5", "chance1", "chance5"))
    return folders, rows + [{"subject": "mean", **row} for row in shown]


def _start(options: SensorOptions) -> SensorAligner | None:
    """The model that a training starts from. Raises DataError for a run that keeps none."""
    try:
        return None if options.start is None else load_aligner(options.start)
    except DataError as error:
        raise DataError(f"--from {error}") from None


def _fit_all(bench: Bench, runs: str | Path, notes: dict[str, Any], started: store.Start) -> tuple[Path, Rows]:
    """All fits, the analyses of the main one, and the stored run."""
    recording, options, seed, device, tell = bench.recording, bench.options, bench.seed, bench.device, bench.tell
    bench.check_start()
    rows, scores, whole, name, (model, test, result) = bench.every()
    arrays, tables, more = analyses(
        recording, result, model.decoder_, test, encoder=name, seed=seed, settings=options.saliency, tell=tell
    )
    tables["comparison"] = pd.DataFrame(rows)
    if options.ablation:
        tables["ablation"], extra = bench.ablation(whole)
        arrays |= extra
        for key, points in extra.items() if "groups" in arrays else ():
            shares = nearest_share(points, arrays["groups"], seed=seed)
            more |= {f"category/{key.removeprefix('embedding_')}/nearest_share{side}": v for side, v in shares.items()}
    if options.prompts:
        tables["prompts"] = bench.prompts()
    arrays["times"] = np.asarray(test.times)
    pictures, captions = cases(recording, result)
    filtered = "neuroalign" in bench.encoders() and "saliency" not in options.leave_out
    warned = saliency_note(tables["time_windows"]) if filtered else []
    chosen = {"main": name, "main_by": VALIDATION} if scores else {}
    kept = replace(
        result,
        metrics=result.metrics | more | bench.counts(test) | {f"align/{k}/validation/mrr": v for k, v in scores.items()},
        tables={**result.tables, **tables, **captions, "log": bench.steps(result)},
        config=result.config
        | {"encoders": [row["encoder"] for row in rows], "options": asdict(options), "warnings": warned}
        | chosen,
        provenance={**store.provenance(seed, device, notes["data"], started), **notes},
    )
    folder = keep(kept, runs, bench.source, arrays=arrays | pictures)
    model.save(folder / FOLDER)
    baselines = [row for each in rows[:-1] for row in _beside(each)]
    return folder, baselines + table(kept, "retrieval/brain->image", ending=("top1", "top5", "chance1", "chance5"))


Fit = tuple[SensorAligner, Responses, Result]  # a model, the test trials, and its result


@dataclass(frozen=True)
class Bench:
    """One recording, on which every fit has the same split, protocol and seed; a stopped run goes on from `unfinished`."""

    recording: SensorRecording
    source: Source
    options: SensorOptions
    protocol: Protocol
    subjects: int
    seed: int
    device: str
    tell: Tell
    unfinished: Path
    start: SensorAligner | None = None

    def every(self) -> tuple[list[dict[str, Any]], dict[str, float], Result | None, str, Fit]:
        """(rows of the comparison with the main encoder last, validation scores, NeuroAlign's result, main encoder, its fit).

        Scores are empty where there is one encoder.
        """
        names = self.encoders()
        choosing = len(names) > 1
        rows, scores, whole = {}, dict[str, float](), None
        for name in names:
            fitted = self.fit(name)
            model, _, result = fitted
            rows[name] = {"encoder": name, **retrieved(result), "seconds": model.decoder_.seconds}
            whole = result if name == "neuroalign" else whole
            if choosing:
                score = validation_score(
                    model.decoder_, self.recording.responses, self.recording.images, encoder=_known(name),
                    training=self.training(name), protocol=self.protocol, seed=self.seed,
                )  # fmt: skip
            if not choosing or score > max(scores.values(), default=0.0):
                main, kept = name, fitted
            scores |= {name: score} if choosing else {}
        return [row for key, row in rows.items() if key != main] + [rows[main]], scores, whole, main, kept

    def encoders(self) -> list[str]:
        """The encoders in their order, each once, `sensors` for neuroalign; without captions NeuroAlign cannot be guided."""
        names = [("neuroalign" if name == "sensors" else name) for name in self.options.encoders]
        names = [name for i, name in enumerate(names) if name not in names[i + 1 :]]
        if self.recording.texts is None and set(TRI) & set(names) and "guidance" not in self.options.leave_out:
            if self.options.encoders == DEFAULT:
                return [name for name in names if name not in TRI]
            raise DataError(
                "neuroalign needs captions and this recording has none; add --without guidance, or take another encoder"
            )
        return names

    def training(self, encoder: str) -> SensorTraining:
        return preset(self.source.dataset, encoder, self.options, subjects=max(1, self.subjects - 1))

    def check_start(self) -> None:
        """Raises DataError where no encoder is of the kind of the model to start from."""
        known = [_known(name) for name in self.encoders()]
        if self.start is not None and self.start.network not in known:
            raise DataError(f"--from {self.options.start}: it keeps {self.start.network!r}; add --encoder {self.start.network}")
        if self.start is not None and self.start.network in LINEAR:
            raise DataError(f"--from {self.options.start}: {self.start.network} is solved in closed form and starts from nothing")

    def fit(self, encoder: str, training: SensorTraining | None = None, *, label: str = "", texts: Any = "own") -> Fit:
        """(model, test trials, result) of one fit."""
        chosen = self.training(encoder) if training is None else training
        captions = self.recording.texts if isinstance(texts, str) else texts
        said, known = label or encoder.replace("_", " "), _known(encoder)

        def progress(epoch: int, record: dict[str, float]) -> None:
            self.tell(f"training {said}", (epoch + 1) / chosen.epochs)

        model = sensor_model(known, chosen, seed=self.seed, device=self.device)
        test = fit_model(
            model, self.recording.responses, self.recording.images, captions, protocol=self.protocol, progress=progress,
            checkpoint=Checkpoint(self.unfinished / said.replace(" ", "-"), keep=True),
            start=self.start if self.start is not None and self.start.network == known else None,
        )  # fmt: skip
        result = score_sensors(
            model.decoder_, test, self.recording.images, captions,
            encoder=known, training=chosen, protocol=self.protocol, seed=self.seed,
        )  # fmt: skip
        return model, test, result

    def ablation(self, full: Result | None) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """NeuroAlign whole and without each part (Table 4), and the brain embeddings (image, d) without guidance (Fig. 4b)."""
        base, arrays = self.training("neuroalign"), {}
        whole = self.fit("neuroalign")[2] if full is None else full
        rows = [{"variant": "full", **scored(whole)}]
        for part in PARTS:
            if not getattr(base, part) or (part == "saliency" and "saliency" not in self.recording.images.data):
                continue
            found = self.fit("neuroalign", without(base, part), label=f"without {part}")[2]
            rows.append({"variant": f"without {part}", **scored(found)})
            if part == "guidance":
                arrays["embedding_without_guidance"] = found.arrays["embedding/brain"]
        return pd.DataFrame(rows), arrays

    def prompts(self) -> pd.DataFrame:
        """NeuroAlign with no text, with labels alone, and with captions of three prompts (Table 5)."""
        base = self.training("neuroalign")
        rows = [
            {"variant": "no text", **scored(self.fit("neuroalign", without(base, "guidance"), label="no text", texts=None)[2])}
        ]
        for prompt in PROMPTS:
            texts = prompt_texts(self.recording, self.source, prompt, self.device)
            name = "label only" if prompt == "label" else f"prompt {prompt}"
            rows.append({"variant": name, **scored(self.fit("neuroalign", base, label=name, texts=texts)[2])})
        return pd.DataFrame(rows)

    def steps(self, result: Result) -> pd.DataFrame:
        """The training log by step, with the losses' weights under the names that the report draws."""
        log = result.tables["log"]
        if "epoch" not in log.columns:  # solved in closed form: one row of what was chosen
            return log
        training = result.config["training"]
        rows = int(self.counts(None)["data/train_images"] * max(1, self.subjects - (self.protocol.kind == "across")))
        each = max(1, -(-rows // int(training["batch"])))
        out = pd.DataFrame({"step": (log["epoch"] * each).astype(int), "loss": log["loss"], "validation_loss": log["validation"]})
        for k, name in ((1, "brain_image"), (2, "image_text"), (3, "guidance")):
            if training["adjustment"] and f"w{k}" in log.columns and log[f"w{k}"].any():
                out[f"weight_{name}"] = log[f"w{k}"]
        return out

    def counts(self, test: Responses | None) -> dict[str, float]:
        """How many images are trained on, held back and tested, and how many repetitions a test image has."""
        trials = self.recording.responses.trials
        images = trials.loc[trials["split"] == "train", "stimulus"].nunique()
        held = min(self.training(self.encoders()[-1]).validation, images // 5)
        found = {"data/train_images": float(images - held), "data/validation_images": float(held)}
        if test is not None:
            many = test.trials["repeats"] if "repeats" in test.trials.columns else pd.Series(np.ones(len(test)))
            repeats = many.groupby(test.trials["stimulus"]).sum()
            found |= {"data/test_images": float(len(repeats)), "data/test_repeats": float(repeats.median())}
        return found


def _beside(row: dict[str, Any]) -> Rows:
    """Top-1 and top-5 of a baseline as rows of the command's table."""
    out: Rows = []
    for k in (1, 5):
        value, low, high = (float(row[f"retrieval/brain->image/top{k}{side}"]) for side in ("", ".low", ".high"))
        one = {"metric": f"{row['encoder']}: brain->image/top{k}", "value": value, "95 % interval": f"{low:.3g} to {high:.3g}"}
        one["chance"] = f"{row[f'retrieval/brain->image/chance{k}']:.3g}"
        out.append(one | {"n": f"{row['retrieval/brain->image/n']:,.0f}"})
    return out


def retrieved(result: Result) -> dict[str, float]:
    """The metrics of retrieval alone."""
    return {key: value for key, value in result.metrics.items() if key.startswith("retrieval/")}


def _known(encoder: str) -> str:
    """The network of an encoder's name."""
    return "neuroalign" if encoder in TRI else encoder
