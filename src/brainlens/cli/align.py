"""`brainlens align`: fMRI, EEG and MEG by one command; what belongs to one kind of recording is an error with the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens import choices
from brainlens.cli.attribute import note_of
from brainlens.cli.options import (
    DATA,
    MISMATCH,
    MODEL,
    PHANTOM,
    SENSORS,
    TRAINING,
    Again,
    BrainNetwork,
    Captions,
    Data,
    Dataset,
    Device,
    Haemodynamics,
    Model,
    Motion,
    Nonlinearity,
    Option,
    Pictures,
    Regions,
    Runs,
    Seed,
    Test,
    Train,
    Warp,
    check_source,
    given,
    one_of,
    only,
    parsed,
    with_mismatch,
    without,
)  # fmt: skip
from brainlens.cli.terminal import finished, show, steps
from brainlens.datasets import DEFAULT

BOTH = ("dataset", "data", "option", "model", "encoder", "subject", "captions", "runs", "seed", "device", "train", "test",
        "again", "preset", "epochs", "batch", "from_", "seeds")  # fmt: skip
VOLUME = (*MISMATCH, "steps_", "accumulate", "queue", "recompute", "modality", "region", "part_of_brain", "one_each", "precision")
FILTER = ("saliency_sign", "saliency_size", "saliency_brightness")
SENSOR = ("protocol", "gallery", "repeats", "amplitude", "without_", "ablation", "prompts", "precision", *FILTER)
SOLVED = ("ridge", "ridge_whitened", "ridge_projected", "canonical")  # encoders that are not trained
TRAINED = ("preset", "epochs", "batch", "steps_", "accumulate", "queue", "recompute", "precision")
TRI = ("neuroalign", "unfiltered", "sensors")
ENCODERS = (
    "Encoder; repeat for several. fMRI: ridge, ridge_whitened, ridge_projected, linear, mlp, mindeye_like, mindeye2_like "
    "(a map for each subject, one MLP for all), cnn, volume. "
    "EEG, MEG: ridge, canonical, linear, nice, nice_sa_like, nice_ga_like, nice_llm_like, ubp_like, atm, eegnet, unfiltered, "
    "neuroalign."
)
SHORTER = "--encoder ridge, or --steps N"


def align(
    context: typer.Context,
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    model: Model = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help=ENCODERS, rich_help_panel=MODEL, callback=one_of("encoder", choices.ENCODERS)),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="default, paper (as published); fMRI: small (the paper's form, small), small_remedied (one that learns).",
            rich_help_panel=TRAINING,
        ),
    ] = "default",
    steps_: Annotated[
        int | None, typer.Option("--steps", help="fMRI: training steps of the contrastive encoders.", rich_help_panel=TRAINING)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Training epochs, in place of steps. Default: the preset's.", rich_help_panel=TRAINING)
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, over all processes.", rich_help_panel=TRAINING)] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="fMRI: pieces of a batch; the loss stays that of the batch.", rich_help_panel=TRAINING)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or (fMRI) float16 inside the encoder. EEG, MEG: by the processor.", rich_help_panel=TRAINING
        ),
    ] = None,
    queue: Annotated[
        int | None, typer.Option(help="fMRI: past embeddings kept as further negatives.", rich_help_panel=TRAINING)
    ] = None,
    recompute: Annotated[
        bool, typer.Option(help="fMRI: recompute activations in the backward pass, to save memory.", rich_help_panel=TRAINING)
    ] = False,
    modality: Annotated[
        str | None,
        typer.Option(
            help="fMRI: targets of the loss: image, text or both.",
            rich_help_panel=TRAINING,
            callback=one_of("--modality", choices.MODALITIES),
        ),
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="An align run whose model is trained further.", rich_help_panel=TRAINING)
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(help="Fits with so many seeds, and their mean with its interval over seeds.", rich_help_panel=TRAINING),
    ] = 1,
    region: Regions = None,
    part_of_brain: Annotated[
        bool,
        typer.Option("--part-of-brain", help="fMRI: a whole-brain preset on --region, on purpose.", rich_help_panel=DATA),
    ] = False,
    captions: Captions = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            help="Subject; repeat for several in one model (EEG, MEG: the one tested; several are a run each, and their mean).",
            rich_help_panel=DATA,
        ),
    ] = None,
    one_each: Annotated[
        bool, typer.Option("--one-each", help="fMRI: a model for each subject instead of one for all.", rich_help_panel=DATA)
    ] = False,
    protocol: Annotated[
        str,
        typer.Option(
            help="within (one subject) or across (leave one out).",
            rich_help_panel=SENSORS,
            callback=one_of("--protocol", choices.PROTOCOLS),
        ),
    ] = "within",
    gallery: Annotated[
        str,
        typer.Option(
            help="image (the one seen) or concept (its centre).",
            rich_help_panel=SENSORS,
            callback=one_of("--gallery", choices.GALLERIES),
        ),
    ] = "image",
    repeats: Annotated[int | None, typer.Option(help="Test repetitions averaged. Default: all.", rich_help_panel=SENSORS)] = None,
    without_: Annotated[
        list[str] | None,
        typer.Option("--without", help="NeuroAlign without saliency, guidance or adjustment; repeat.", rich_help_panel=SENSORS),
    ] = None,
    saliency_sign: Annotated[
        str, typer.Option(help="Gate of NeuroAlign's filter: printed (eq. 1) or enhancing.", rich_help_panel=SENSORS)
    ] = "printed",
    saliency_size: Annotated[
        int, typer.Option(help="px of the square that is filtered; 0: pictures as they are.", rich_help_panel=SENSORS)
    ] = 224,
    saliency_brightness: Annotated[
        bool, typer.Option("--saliency-brightness", help="Filtered pictures get their brightness back.", rich_help_panel=SENSORS)
    ] = False,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="NeuroAlign without each part, too.", rich_help_panel=SENSORS)
    ] = False,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="NeuroAlign with other captions, too (phantom).", rich_help_panel=SENSORS)
    ] = False,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
    amplitude: Annotated[
        float | None,
        typer.Option(help="EEG: signal in uV. Default: 1.1; calibrated: 0.28.", rich_help_panel=PHANTOM),
    ] = None,
    pictures: Pictures = None,
    brain_network: BrainNetwork = None,
    nonlinearity: Nonlinearity = 1.0,
    haemodynamics: Haemodynamics = 0.0,
    warp: Warp = 0.0,
    motion: Motion = 0.0,
    again: Again = False,
) -> None:
    """Which image or sentence was seen: brain responses into the space of images and captions, and retrieval there.

    Several processes: torchrun --nproc-per-node 2 -m brainlens align ...
    """
    from brainlens.align.sensor_options import is_sensors

    settings = {k: v for k, v in locals().items() if k not in ("context", "is_sensors", "again")}
    check_source(context, dataset)
    if is_sensors(dataset, encoder):
        _sensors(context, settings, again)
    else:
        _volumes(context, settings, again)


def _volumes(context: typer.Context, given_: dict[str, Any], again: bool) -> None:
    """fMRI: the options that apply, then one model for all subjects or one each."""
    from brainlens.align.over_seeds import run_over_seeds
    from brainlens.align.run import check_whole_brain, run_align, run_align_each
    from brainlens.datasets.runs import once
    from brainlens.datasets.source import Source
    from brainlens.models.volume.presets import preset as configuration

    encoder, dataset, begun = given_["encoder"], given_["dataset"], given_["from_"]
    only(context, (*BOTH, *VOLUME), f"fMRI ({dataset})")
    if encoder and all(name in SOLVED for name in encoder):
        without(context, TRAINED, f"{', '.join(encoder)} is solved, not trained")
    if "epochs" in given(context):
        without(context, ("steps_",), "--epochs takes the place of steps")
    training = {name: given_[name] for name in ("batch", "accumulate", "precision", "queue", "modality", "epochs")}
    chosen = configuration(given_["preset"]).changed(
        training={"steps": given_["steps_"], **training}, design={"checkpointing": True if given_["recompute"] else None}
    )
    parts: dict[str, Any] = {"subjects": tuple(given_["subject"] or ()), "regions": tuple(given_["region"] or ())}
    source = Source(
        dataset, given_["data"], given_["model"], n_train=given_["train"], n_test=given_["test"], seed=given_["seed"],
        captions=given_["captions"], options=with_mismatch(context, dataset, parsed(dataset, given_["option"])), **parts,
    )  # fmt: skip
    if not source.regions:
        without(context, ("part_of_brain",), "no --region keeps a part")
    if begun is None and not given_["part_of_brain"]:
        check_whole_brain(given_["preset"], source, encoder)
    run = run_align_each if given_["one_each"] else run_align
    asked = {**source.config(), "encoders": encoder, "configuration": asdict(chosen), "each": given_["one_each"]}
    asked |= {"seed": given_["seed"], "device": given_["device"], "from": None if begun is None else note_of(begun)}
    asked |= _several(given_["seeds"])

    def anew() -> Any:
        with steps(shorter=SHORTER) as tell:

            def fit(seed: int) -> Any:
                return run(
                    source, given_["runs"], encoders=encoder, configuration=chosen, seed=seed, device=given_["device"],
                    start_from=begun, tell=tell,
                )  # fmt: skip

            if given_["seeds"] == 1:
                return fit(given_["seed"])
            return run_over_seeds(fit, source, given_["runs"], first=given_["seed"], seeds=given_["seeds"])

    folders, table, made = once("align", given_["runs"], asked, anew, data=source.folder, again=again)
    if table:  # of several processes the first one speaks
        show(table, f"align: {dataset}")
        _headline(folders)
        finished(folders, made)


def _several(seeds: int) -> dict[str, int]:
    """What a request says of several seeds; nothing of one. Raises DataError for fewer."""
    from brainlens.types import DataError

    if seeds < 1:
        raise DataError(f"align: {seeds} seeds are asked for; at least 1 is needed")
    return {} if seeds == 1 else {"seeds": seeds}


def _headline(folders: Sequence[Path]) -> None:
    """The encoder that the key numbers of each run are of, where the run chose it."""
    from brainlens import store
    from brainlens.align.headline import spoken

    for folder in folders:
        said = spoken(store.load_result(folder))
        if said:
            typer.echo(said if len(folders) == 1 else f"{folder.name}, {said}")


def _sensors(context: typer.Context, given_: dict[str, Any], again: bool) -> None:
    """EEG and MEG: the options that apply, then every encoder on one split."""
    from brainlens.align.over_seeds import run_over_seeds
    from brainlens.align.run_sensors import align_sensor_command
    from brainlens.align.sensor_options import sensor_dataset
    from brainlens.datasets.runs import once
    from brainlens.datasets.source import Source
    from brainlens.types import DataError

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError("align trains EEG and MEG encoders in one process; torchrun is for fMRI, sweep for many runs")
    encoder, subject = given_["encoder"], given_["subject"] or []
    dataset = sensor_dataset(given_["dataset"])
    only(context, (*BOTH, *SENSOR), f"EEG and MEG ({dataset})")
    names = encoder or []
    if names and all(name in SOLVED for name in names):
        without(context, TRAINED, f"{', '.join(names)} is solved, not trained")
    if names and not set(TRI) & set(names):
        parts = ("without_", "ablation", "prompts")
        without(context, parts, f"it is of neuroalign, and {', '.join(names)} has none of these parts")
    if names and not {"neuroalign", "sensors"} & set(names) and not given_["ablation"]:
        without(context, FILTER, f"it filters pictures for neuroalign, and {', '.join(names)} finds them as they are")
    if "saliency" in (given_["without_"] or []):
        without(context, FILTER, "--without saliency filters nothing")
    source = Source(
        dataset, given_["data"], given_["model"], n_train=given_["train"], n_test=given_["test"], seed=given_["seed"],
        captions=given_["captions"], options=parsed(dataset, given_["option"]),
    )  # fmt: skip
    wanted: dict[str, Any] = {"encoders": encoder, "leave_out": given_["without_"], "preset": given_["preset"]}
    wanted |= {name: given_[name] for name in ("epochs", "repeats", "ablation", "prompts", "amplitude", "batch", "precision")}
    wanted["saliency"] = {name.removeprefix("saliency_"): given_[name] for name in FILTER}
    begun = given_["from_"]
    wanted["start"] = None if begun is None else str(begun)
    wanted["protocol"] = (given_["protocol"], subject[0] if len(subject) == 1 else None, given_["gallery"])
    wanted |= {"subjects": list(subject)} if len(subject) > 1 else {}

    def anew() -> Any:
        with steps(shorter="--encoder ridge, or --epochs N") as tell:

            def fit(seed: int) -> Any:
                return align_sensor_command(source, given_["runs"], wanted, seed=seed, device=given_["device"], tell=tell)

            if given_["seeds"] == 1:
                return fit(given_["seed"])
            return run_over_seeds(fit, source, given_["runs"], first=given_["seed"], seeds=given_["seeds"])

    asked = {
        **source.config(),
        **wanted,
        **_several(given_["seeds"]),
        "from": None if begun is None else note_of(begun),
        "seed": given_["seed"],
        "device": given_["device"],
    }
    folders, table, made = once("align", given_["runs"], asked, anew, data=source.folder, again=again)
    show(table, f"align: {source.dataset}, {given_['protocol']} subjects, gallery: {given_['gallery']}")
    _headline(folders)
    finished(folders, made)
