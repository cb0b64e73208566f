"""`brainlens reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens import choices
from brainlens.cli.options import (
    DATA,
    MODEL,
    TRAINING,
    Again,
    Data,
    Dataset,
    Device,
    Model,
    Option,
    Regions,
    Runs,
    Seed,
    Test,
    Train,
    check_source,
    one_of,
    parsed,
    without,
)  # fmt: skip
from brainlens.cli.terminal import carry_out
from brainlens.datasets import DEFAULT

DRAWING, PARCELS, SCORES = "Drawing", "Parcels", "Scores"
SHORTER = "--steps N, --trials N, --candidates N or --start ridge"
EXPLAINED = ("lesion", "lesion_by")


def reconstruct(
    context: typer.Context,
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    model: Model = None,
    pipeline: Annotated[
        str | None, typer.Option(help="Stable Diffusion: folder or hub name. Default: the miniature.", rich_help_panel=MODEL)
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="default, or paper (as published, with its training).",
            rich_help_panel=TRAINING,
            callback=one_of("reconstruct: preset", choices.RECONSTRUCT_PRESETS),
        ),
    ] = "default",
    start: Annotated[
        str | None,
        typer.Option(
            help="What training begins with: attention (to other pictures), predicted (responses), ridge or random.",
            rich_help_panel=TRAINING,
            callback=one_of("reconstruct: start", choices.STARTS),
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="joint (all regions write the tokens together) or region (one each, as published). Default: joint with start "
            "attention.",
            rich_help_panel=TRAINING,
            callback=one_of("reconstruct: tokens", choices.TOKENS),
        ),
    ] = None,
    pretrain: Annotated[
        int | None,
        typer.Option(help="Other pictures to train on first. Default: none where attention ships.", rich_help_panel=TRAINING),
    ] = None,
    pretrain_steps: Annotated[
        int | None, typer.Option(help="Training steps on other pictures.", rich_help_panel=TRAINING)
    ] = None,
    training_steps: Annotated[
        int | None,
        typer.Option(
            "--steps", help="Training steps on the recording. Default: the preset's; 0 near anchors.", rich_help_panel=TRAINING
        ),
    ] = None,
    low_level: Annotated[
        float | None,
        typer.Option(help="Share of noise over latents that a ridge decodes, where drawing starts.", rich_help_panel=DRAWING),
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="Pictures drawn for each image.", rich_help_panel=DRAWING)] = None,
    chooser: Annotated[
        str | None,
        typer.Option(
            help="What chooses: evidence, or an encoding model, ridge or predictor (a transformer).",
            rich_help_panel=DRAWING,
            callback=one_of("reconstruct: chooser", choices.CHOOSERS),
        ),
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(
            help="How far from training pictures that fit candidates are drawn, in (0, 1]; 0: at the prediction.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    guidance: Annotated[float, typer.Option(help="Guidance by the brain; 1 is without.", rich_help_panel=DRAWING)] = 4.0,
    sampling_steps: Annotated[int | None, typer.Option(help="Steps of denoising.", rich_help_panel=DRAWING)] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Steps by ddim, ddpm, euler or dpm (DPM-Solver++). Default: ddim; paper: ddpm, from a noised grey picture.",
            rich_help_panel=DRAWING,
            callback=one_of("reconstruct: scheduler", choices.SCHEDULERS),
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Test images that are drawn. Default: all.", rich_help_panel=DRAWING)] = None,
    explain: Annotated[
        int, typer.Option(help="Of so many test images: contributions, maps, lesions; 0 for none.", rich_help_panel=DRAWING)
    ] = 8,
    lesion: Annotated[
        list[str] | None, typer.Option(help="Regions removed in a lesion, FFA or V1+V2V3; repeat.", rich_help_panel=DRAWING)
    ] = None,
    lesion_by: Annotated[
        str,
        typer.Option(
            help="removal: what the model made of the regions; refit: fitted without them, what they alone know.",
            rich_help_panel=DRAWING,
        ),
    ] = "removal",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Scores of a paper's table beside ours: mindeye, brain-diffuser or neuroadapter. Pictures that the same options "
            "drew before are scored alone.",
            rich_help_panel=SCORES,
            callback=one_of("reconstruct: protocol", choices.PICTURE_PROTOCOLS),
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="A network of the protocol, NAME=FOLDER: alexnet=WEIGHTS, or a folder or hub name of clip, inception, "
            "efficientnet, swav; repeat.",
            rich_help_panel=SCORES,
        ),
    ] = None,
    repeat_ceiling: Annotated[
        bool,
        typer.Option(
            "--repeat-ceiling",
            help="Draw from each repetition of test images alone, too: the noise ceiling.",
            rich_help_panel=SCORES,
        ),
    ] = False,
    parcels: Annotated[
        str,
        typer.Option(
            help="patches, regions, blocks, schaefer, windows (EEG, MEG), the file of an atlas, or LEFT.annot,RIGHT.annot of a "
            "surface. Default: by the recording.",
            rich_help_panel=PARCELS,
        ),
    ] = "auto",
    atlas_table: Annotated[
        Path | None, typer.Option(help="Names of an atlas's labels: lines of 'value name'.", rich_help_panel=PARCELS)
    ] = None,
    edge: Annotated[
        int | None,
        typer.Option(
            help="Edge of patches in voxels (3), units of a block (30), or ms of a time window (100).", rich_help_panel=PARCELS
        ),
    ] = None,
    regions: Annotated[
        int | None,
        typer.Option(help="Parcels kept, the best by signal-to-noise. Default: 100; paper: 200.", rich_help_panel=PARCELS),
    ] = None,
    region: Regions = None,
    subject: Annotated[str | None, typer.Option(help="Subject.", rich_help_panel=DATA)] = None,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
    again: Again = False,
) -> None:
    """What the picture looked like: drawn by a diffusion model from the tokens of brain regions, and which region drew what."""
    check_source(context, dataset)
    given_options = parsed(dataset, option)

    from brainlens.datasets.source import Source
    from brainlens.reconstruct.asked import Asked, networks
    from brainlens.reconstruct.asked import preset as configuration
    from brainlens.reconstruct.regions import KINDS, Partition
    from brainlens.reconstruct.run import run_reconstruct

    chosen: dict[str, Any] = configuration(preset)
    typed = {"start": start, "tokens": tokens, "candidates": candidates, "chooser": chooser, "width": width,
             "sampling_steps": sampling_steps, "scheduler": scheduler}  # fmt: skip
    chosen |= {name: value for name, value in typed.items() if value is not None}
    if parcels in KINDS:
        without(context, ("atlas_table",), f"it names the labels of an atlas, and parcels are {parcels}")
        if parcels in ("regions", "schaefer"):
            without(context, ("edge",), f"{parcels} have no edge")
    else:
        without(context, ("edge",), "parcels are those of an atlas")
        if "," in parcels:
            without(context, ("atlas_table",), "annotations hold the names of their labels")
    if chosen.get("start", "attention") in ("ridge", "random"):
        who = "the paper" if preset == "paper" and start is None else f"start {chosen['start']}"
        without(context, ("pretrain", "pretrain_steps"), f"{who} trains on the recording alone")
    if chosen.get("candidates", 4) == 1:
        without(context, ("chooser",), "there is one candidate to choose from")
    if explain == 0:
        without(context, EXPLAINED, "lesions are drawn of the images that are explained, and --explain is 0")
    if not lesion:
        without(context, ("lesion_by",), "no --lesion names regions")
    table = None if atlas_table is None else str(atlas_table)
    how = Partition(parcels, table, edge)
    asked = Asked(
        pipeline=pipeline, parcels=how, regions=regions, pretrain=pretrain, pretrain_steps=pretrain_steps, steps=training_steps,
        low_level=low_level, guidance=guidance, trials=trials, explain=explain, lesions=tuple(lesion or ()),
        lesion_by=lesion_by, repeat_ceiling=repeat_ceiling, protocol=protocol, features=networks(features or ()), **chosen,
    )  # fmt: skip
    source = Source(
        dataset, data, model, train, test, seed, subjects=() if subject is None else (subject,), regions=tuple(region or ()),
        options=given_options,
    )  # fmt: skip

    carry_out(
        "reconstruct", runs, {**source.config(), "asked": asked.settings(), "seed": seed, "device": device},
        lambda tell: run_reconstruct(source, runs, asked, seed=seed, device=device, tell=tell),
        title=f"reconstruct: {dataset}", shorter=SHORTER, data=source.folder, again=again,
    )  # fmt: skip
