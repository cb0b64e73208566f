"""`brainlens encode` and `brainlens predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.choices import ENCODE_METHODS
from brainlens.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    TRAINING,
    Again,
    BrainNetwork,
    Data,
    Dataset,
    Device,
    Haemodynamics,
    Layer,
    Motion,
    Nonlinearity,
    OfSteps,
    Option,
    Pictures,
    Runs,
    Seed,
    Test,
    Timestep,
    Train,
    Warp,
    a_network,
    a_part,
    check_diffusion,
    check_runs,
    check_source,
    one_of,
    parsed,
    steps_of,
    with_mismatch,
    without,
)  # fmt: skip
from brainlens.cli.terminal import carry_out, show, steps
from brainlens.datasets import DEFAULT, check_kind

DETAILS = (
    *("bottlenecks", "padding", "readout_start", "selector_start", "scale_penalty", "decay_steps", "selector_rate"),
    *("common", "search_beside"),
)
SELECTORS = ("samples", "without_", "per_voxel", "search", "one_layer", "compare_topology", *DETAILS)
TRAINED = ("refit", "training_steps", "preset", "standardise", "single_trials")
SHORTER = "--method ridge, fewer units with --roi, or --steps N"


def encode(
    context: typer.Context,
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Network: folder or hub name; repeat to compare several.", rich_help_panel=MODEL, callback=a_network),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="factortopy, ridge, class_token, patch_token or gnet; repeat to compare several.",
            rich_help_panel=MODEL,
            callback=one_of("encode: method", ENCODE_METHODS),
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "--recipe",
            help="default, paper (as published) or released (its code); see docs.",
            rich_help_panel=TRAINING,
        ),
    ] = "default",
    layer: Layer = None,
    timestep: Timestep = None,
    of_steps: OfSteps = 50,
    samples: Annotated[int, typer.Option(help="Places in the picture that each voxel reads.", rich_help_panel=MODEL)] = 1,
    without_: Annotated[
        list[str] | None,
        typer.Option("--without", help="Selector to switch off: space, layer or scale; repeat.", rich_help_panel=MODEL),
    ] = None,
    per_voxel: Annotated[
        bool, typer.Option(help="Selectors free for each voxel instead of topological.", rich_help_panel=MODEL)
    ] = False,
    search: Annotated[
        bool | None, typer.Option(help="Start the selectors from a search, on by default.", rich_help_panel=TRAINING)
    ] = None,
    refit: Annotated[
        bool | None, typer.Option(help="Solve the channel weights by ridge at the end, on by default.", rich_help_panel=TRAINING)
    ] = None,
    standardise: Annotated[
        bool | None,
        typer.Option(
            "--standardise/--raw-tokens",
            help="Scale the channels of the network's tokens, on by default; the paper does not.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    single_trials: Annotated[
        bool | None,
        typer.Option(
            "--single-trials/--means",
            help="Fit every trial or, by default, the mean over repeats; the paper fits trials.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    bottlenecks: Annotated[
        str | None,
        typer.Option(help="Of spatial and global tokens: shared (paper) or separate (its code).", rich_help_panel=MODEL),
    ] = None,
    common: Annotated[
        str | None,
        typer.Option(
            help="Layer whose global token all voxels read beside their own: evidence (it decides), none (paper), or a name.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    search_beside: Annotated[
        bool | None,
        typer.Option(
            "--search-beside/--search-alone",
            help="Search selectors for what a voxel reads beyond the common reading, or (default) for all that it reads.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    padding: Annotated[
        str | None,
        typer.Option(help="Beyond the outermost tokens: border (the edge token) or zeros (the code).", rich_help_panel=MODEL),
    ] = None,
    readout_start: Annotated[
        str | None,
        typer.Option(
            help="Channel weights start at normal, N(0, 1), or linear, 1/sqrt(D) at most (the code); with --no-search.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    selector_start: Annotated[
        str | None,
        typer.Option(help="Selectors start at random (paper) or zero (the code).", rich_help_panel=TRAINING),
    ] = None,
    scale_penalty: Annotated[
        bool | None,
        typer.Option(
            "--scale-penalty/--no-scale-penalty",
            help="The code's penalty on the scale, on by default; the paper has none.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    decay_steps: Annotated[
        int | None,
        typer.Option(help="Steps until the penalties are gone: 6,000 (paper), 2,000 (code).", rich_help_panel=TRAINING),
    ] = None,
    selector_rate: Annotated[
        float | None,
        typer.Option(help="Step size of the selectors over the others': 0.1; the paper 1.", rich_help_panel=TRAINING),
    ] = None,
    training_steps: Annotated[
        int | None, typer.Option("--steps", help="Training steps at most.", rich_help_panel=TRAINING)
    ] = None,
    roi: Annotated[
        list[str] | None, typer.Option(help="Region to fit; repeat for several. Default: every unit.", rich_help_panel=DATA)
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="K/N: only the K-th of N parts of the units, as 2/8.", rich_help_panel=DATA, callback=a_part),
    ] = None,
    subject: Annotated[list[str] | None, typer.Option(help="Subject; repeat to compare several.", rich_help_panel=DATA)] = None,
    seeds: Annotated[
        int, typer.Option(help="Fits with so many seeds, and how well their layer maps agree.", rich_help_panel=TRAINING)
    ] = 1,
    curve: Annotated[
        list[int] | None,
        typer.Option(help="Number of training images for a learning curve; repeat.", rich_help_panel=TRAINING),
    ] = None,
    one_layer: Annotated[
        bool, typer.Option(help="One-layer models beside the selector's weights.", rich_help_panel=MODEL)
    ] = False,
    compare_topology: Annotated[
        bool,
        typer.Option(
            "--compare-topology", help="The same fit with selectors free for each voxel beside it.", rich_help_panel=MODEL
        ),
    ] = False,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
    pictures: Pictures = None,
    brain_network: BrainNetwork = None,
    nonlinearity: Nonlinearity = 1.0,
    haemodynamics: Haemodynamics = 0.0,
    warp: Warp = 0.0,
    motion: Motion = 0.0,
    again: Again = False,
) -> None:
    """Which part of a network predicts which part of the brain."""
    from dataclasses import replace

    check_source(context, dataset)  # mistakes in the command are said before torch is loaded
    check_kind(dataset, "encode", ("fMRI",))
    methods = tuple(method or ())
    if methods and "factortopy" not in methods:
        without(context, SELECTORS, f"method {' and '.join(methods)} has no selectors")
    if methods == ("ridge",):
        without(context, TRAINED, "method ridge is solved, not trained")
    given_options = parsed(dataset, option)

    from brainlens.datasets.source import Source
    from brainlens.encode.presets import detailed, selectors_without, shorter
    from brainlens.encode.presets import preset as configuration
    from brainlens.encode.run import Asked, run_encode

    check_diffusion(context, model or [None])
    details: dict[str, Any] = {
        "bottlenecks": bottlenecks, "padding": padding, "readout_start": readout_start, "selector_start": selector_start,
        "scale_penalty": scale_penalty, "decay_steps": decay_steps, "selector_rate": selector_rate,
        "common": common, "search_beside": search_beside,
    }  # fmt: skip
    form, training = configuration(preset)
    training = training if training_steps is None else shorter(training, training_steps)
    training = training if search is None else replace(training, searched_start=search)
    design = replace(
        form,
        layers=tuple(layer) if layer else form.layers,
        samples=samples,
        use=selectors_without(without_ or []),
        topological=not per_voxel,
    )
    design, training = detailed(design, training, **details)
    chosen: dict[str, Any] = {"refit": refit, "standardise": standardise, "single_trials": single_trials}
    design = replace(design, **{name: value for name, value in chosen.items() if value is not None})
    asked = Asked(
        methods[0] if len(methods) == 1 else None, design, training, models=tuple(model or ()), seeds=seeds,
        curve=tuple(curve or ()), one_layer=one_layer, steps=steps_of(timestep, of_steps, True),
        methods=methods if len(methods) > 1 else (), compare_topology=compare_topology,
    )  # fmt: skip
    source = Source(
        dataset, data, model[0] if model else None, train, test, seed, subjects=tuple(subject or ()), regions=tuple(roi or ()),
        options=with_mismatch(context, dataset, given_options), part=part,
    )  # fmt: skip

    carry_out(
        "encode", runs, {**source.config(), "asked": asked.config(), "seed": seed, "device": device},
        lambda tell: run_encode(source, runs, asked, seed=seed, device=device, tell=tell),
        title=f"encode: {dataset}", shorter=SHORTER, data=source.folder, again=again,
    )  # fmt: skip


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished encode or describe run.")],
    images: Annotated[Path, typer.Option(help="Folder of new pictures.", rich_help_panel=DATA)],
    out: Annotated[
        Path | None,
        typer.Option(help="The .npy file to write. Default: RUN/predictions/, named after the folder.", rich_help_panel=OUTPUT),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Responses of a fitted brain to new pictures: (image, unit), by the model and the network of a run."""
    check_runs(run)
    from brainlens.encode.predict import run_predict

    with steps() as tell:
        place, table = run_predict(run, images, out=out, device=device, tell=tell)
    show(table, f"predict: {run.name}")
    typer.echo(f"predictions: {place}")
