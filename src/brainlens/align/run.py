"""`align` as the command line runs it: one model for one or several subjects, or one for each, in one or several processes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from brainlens import datasets, store
from brainlens.align import Alignment, align
from brainlens.align.headline import bearable, suited
from brainlens.align.over_subjects import mean_result
from brainlens.datasets.pictures import gallery_table, thumbnails
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.source import Opened, Source, Tell, check_device, open_recording, prepared, standardised
from brainlens.models.processes import first_only, is_first, joined
from brainlens.models.volume.aligners import ENCODERS
from brainlens.models.volume.model import CHEAP, Aligner
from brainlens.models.volume.presets import Preset, preset
from brainlens.models.volume.stored import run_aligner, save_models
from brainlens.types import DataError, Result, Volume
from brainlens.warned import warn

SHOWN = ("top1", "top5", "chance1")


PATCH_MM = 28.0  # edge of the published patches: 14 voxels of 2 mm; 7 of 4 mm in the small form
FAR = 0.2  # share of it by which an edge may differ: voxels of 1.8 mm pass for 2 mm, 3 mm for neither 2 nor 4


def check_whole_brain(name: str, source: Source, encoders: Sequence[str] | None) -> None:
    """Presets of the paper's form read the whole brain: on named regions alone "paper" is an error, the small ones a warning.

    Raises DataError for "paper" where a source keeps regions and the volume encoder is fitted.
    """
    chosen = preset(name)
    if chosen.centred or not source.regions or "whole" in source.regions or "volume" not in (encoders or chosen.encoders):
        return
    found = f"align: preset {name} is a form for the whole brain, and --region {', '.join(source.regions)} keeps a part of it"
    if name == "paper":
        raise DataError(f"{found}; leave it out, take --preset default, or add --part-of-brain where the part is what you want")
    warn(f"{found}; --part-of-brain says that this is meant")


def _warn_of_patches(chosen: Preset, names: Sequence[str], space: object) -> None:
    """Says so where the paper's form meets voxels on which its patches have another size than the published one."""
    if chosen.centred or "volume" not in names or not isinstance(space, Volume):
        return
    size = np.linalg.norm(space.affine[:3, :3], axis=0)
    edge, fits = chosen.design.patch * float(size.mean()), max(1, round(PATCH_MM / float(size.mean())))
    if abs(edge / PATCH_MM - 1) > FAR:
        warn(
            f"align: {chosen.design.patch} voxels of {size.mean():.3g} mm make patches of {edge:.3g} mm, and the published ones "
            f"have {PATCH_MM:g} mm, here {fits} voxels; preset small is for voxels of 4 mm, paper for 2 mm",
        )


def run_align(
    source: Source,
    runs: str | Path,
    *,
    encoders: Sequence[str] | None = None,
    training_steps: int | None = None,
    configuration: Preset | None = None,
    seed: int = 0,
    device: str = "cpu",
    start_from: str | Path | None = None,
    tell: Tell,
) -> tuple[Path, Rows]:
    """Aligns and stores the result with the model of the main encoder, and that of the volume encoder where one was trained.

    configuration: a preset, "default" unless given; on a recording of few images the volume encoder then stays at its linear
    start. Of several encoders the headline is the one that is best on validation images (see `align`).
    start_from: the folder of an align run whose model is trained further; it brings its design, and its encoder is the one that
    is trained where none is named. Checkpoints are kept in `runs/unfinished` until the run is stored; the same call after a stop
    goes on from them. Started by `torchrun`, the
    processes share every batch and the first one writes.
    """
    chosen = (configuration or preset("default")).changed(training={"steps": training_steps})
    names = list(encoders) if encoders else list(chosen.encoders)
    before = None if start_from is None else run_aligner(start_from)
    if before is not None:
        names = list(encoders) if encoders else [before.encoder()]
        chosen = replace(chosen, design=before.settings().design)
    unknown = [name for name in names if name not in ENCODERS]
    if unknown:
        raise DataError(f"encoder {unknown[0]!r} is not one of {list(ENCODERS)}")
    check_device(device)
    own = encoders is None and before is None and not datasets.simulated(source.dataset)  # the recording chooses
    with joined(device) as here:
        say = first_only(tell)
        recording = open_recording(source, device=here, tell=say)
        if own and chosen == preset("default"):
            chosen = suited(chosen, recording.responses)
        names = bearable(names, recording.responses) if own else names
        if before is None and is_first():
            _warn_of_patches(chosen, names, recording.responses.space)
        config = {**source.config(), "encoders": names, "training": asdict(chosen.training), "linear": asdict(chosen.linear)}
        config |= {"design": asdict(chosen.design), "seed": seed} | ({} if chosen.centred else {"centred": False})
        config |= {} if start_from is None else {"from": Path(start_from).resolve().name}
        data = [store.fingerprint(t) for t in (recording.responses, recording.images, recording.texts) if t is not None]
        checkpoints = store.run_folder(Path(runs) / "unfinished", "align", config, data)
        with store.lock(checkpoints) if is_first() else nullcontext():
            found = _fit(
                recording, names, chosen, seed=seed, device=here, folder=checkpoints,
                before=None if before is None else before.to(here), tell=say,
            )  # fmt: skip
            if start_from is not None:
                found = _begun_at(found, start_from)
            if not is_first():
                return checkpoints, []
            folder = _keep(found, recording, source, runs)
        shutil.rmtree(checkpoints)  # the run is stored whole; what it would have gone on from is of no more use
    return folder, _rows(store.load_result(folder))


def run_align_each(
    source: Source,
    runs: str | Path,
    *,
    encoders: Sequence[str] | None = None,
    training_steps: int | None = None,
    configuration: Preset | None = None,
    seed: int = 0,
    device: str = "cpu",
    start_from: str | Path | None = None,
    tell: Tell,
) -> tuple[list[Path], Rows]:
    """One model for each subject of the source, each in a run folder of its own, and the mean over subjects as a further run."""
    if len(source.subjects) < 2:
        raise DataError(f"one model each needs at least 2 subjects, got {list(source.subjects)}; give --subject more than once")
    folders, rows, results = [], [], []
    each = source.one_subject_each()
    for name, one in zip(source.subjects, each, strict=True):
        folder, found = run_align(
            one, runs, encoders=encoders, training_steps=training_steps,
            configuration=configuration, seed=seed, device=device, start_from=start_from, tell=tell,
        )  # fmt: skip
        folders.append(folder)
        if found:
            results.append(store.load_result(folder))
            rows += [{"subject": name, **row} for row in found]
    if results:
        mean = mean_result(results, source.subjects, seed=seed)
        source.take_notes(each)
        folders.append(keep(mean, runs, source))
        rows += [{"subject": "mean", **row} for row in table(mean, "retrieval/", ending=SHOWN)]
    return folders, rows


def _fit(
    recording: Opened,
    names: list[str],
    chosen: Preset,
    *,
    seed: int,
    device: str,
    folder: Path,
    before: Aligner | None,
    tell: Tell,
) -> Alignment:
    def progress(name: str, step: int, record: dict[str, float]) -> None:
        training = chosen.linear if name.startswith(CHEAP) else chosen.training
        whole = training.on(recording.responses.trials["stimulus"].nunique()).steps
        trained = not name.startswith("ridge") and not name.endswith("_projected") and whole > 1
        tell(f"training {name}" if trained else f"fitting {name}", step / max(whole, step) if step else None)

    tell("fitting", None)
    own = names if is_first() else [name for name in names if not name.startswith("ridge")]
    return align(
        standardised(recording.responses), prepared(recording), recording.texts, encoders=own or names, training=chosen.training,
        linear=chosen.linear, design=chosen.design, seed=seed, device=device, folder=folder, progress=progress,
        start_from=before, centred=chosen.centred,
    )  # fmt: skip


def _begun_at(found: Alignment, start_from: str | Path) -> Alignment:
    """Marked with the run that its model began as."""
    config = {**found.result.config, "from": Path(start_from).resolve().name}
    return replace(found, result=replace(found.result, config=config))


def _keep(found: Alignment, recording: Opened, source: Source, runs: str | Path) -> Path:
    """Stores the result with what the report shows of its test images, the centres of the targets and the models."""
    arrays = {f"centre/{which}": value.numpy() for which, value in found.split.centre.items()}
    ids = found.split.test.of(found.split.test.subjects[0]).ids
    gallery = recording.stimuli.take(ids)
    pictures = thumbnails(gallery)
    if pictures is not None:
        arrays["gallery/images"] = pictures
    metrics = {f"data/captions_{name}": float(count) for name, count in recording.counts.items()}
    metrics |= {"data/subjects": float(len(found.split.test.subjects)), "data/units": float(found.split.test.x.shape[1])}
    result = replace(
        found.result,
        metrics={**found.result.metrics, **metrics},
        config={**found.result.config, "trained_on": found.split.train.subjects},
        tables={**found.result.tables, "gallery": gallery_table(gallery)},
    )
    folder = keep(result, runs, source, arrays=arrays)
    save_models(folder, found.models)
    return folder


def _rows(result: Result) -> Rows:
    rows = [row for row in table(result, "align/", ending=SHOWN) if "subject/" not in row["metric"]]
    rows += table(result, "subject/", ending=("top1", "top5"))
    return rows + table(result, "retrieval/brain->image/gallery") + table(result, "data/captions_")
