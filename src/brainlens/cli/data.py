"""Commands about recordings and networks: datasets, prepare, features, convert, captions, epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    Data,
    Dataset,
    Device,
    Layer,
    OfSteps,
    Option,
    Runs,
    Seed,
    Subjects,
    Test,
    Timestep,
    Train,
    a_network,
    check_diffusion,
    check_named,
    check_source,
    parsed,
    steps_of,
    without,
)  # fmt: skip
from brainlens.cli.terminal import show, steps
from brainlens.datasets import DEFAULT, DEFAULT_EPOCHS

OF_RECORDING = ("dataset", "data", "option", "train", "test")


def datasets(name: Annotated[str | None, typer.Argument(help="One recording, for all its facts and options.")] = None) -> None:
    """Lists the recordings that can be read, with size, licence and where they come from."""
    from brainlens.datasets import DATASETS, facts, options

    rows: list[dict[str, Any]] = []
    for each in DATASETS if name is None else (name,):
        known = facts(each)
        if name is not None:
            rows += [{"fact": key, "value": str(value)} for key, value in known.items()]
            rows += [{"fact": "option", "value": str(option)} for option in options(each).values()]
        else:
            kind = f"{known['kind']} (simulated)" if known["simulated"] else known["kind"]
            rows.append({"name": each, "kind": kind, "licence": known["licence"]})
    show(rows, "Recordings" if name is None else name)


def features(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Network: a local folder or a hub name, or `miniature`.", callback=a_network)],
    out: Annotated[Path, typer.Option(help="Folder of the features.", rich_help_panel=OUTPUT)] = Path("features"),
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    layer: Layer = None,
    timestep: Timestep = None,
    of_steps: OfSteps = 50,
    inversion: Annotated[
        bool, typer.Option(help="DDIM inversion (as the paper), or noise added in one go.", rich_help_panel=MODEL)
    ] = True,
    grid: Annotated[
        int | None, typer.Option(help="Side to which maps are resized, e.g. 8. Default: as they are.", rich_help_panel=MODEL)
    ] = None,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
) -> None:
    """Extracts the layers of a network for the images of a recording, once, to disk."""
    check_source(context, dataset)
    given_options = parsed(dataset, option)

    from brainlens.datasets.features import run_features
    from brainlens.datasets.source import Source

    check_diffusion(context, [model])
    source = Source(dataset, data, model, n_train=train, n_test=test, options=given_options)
    chosen = steps_of(timestep, of_steps, inversion)
    with steps() as tell:
        found = run_features(
            source, out, layers=layer, steps=chosen, pool_grid=None if grid is None else (grid, grid), device=device, tell=tell
        )
    show([{"layer": name, **sizes} for name, sizes in found.items()], f"Features of {model}")


def prepare(
    context: typer.Context,
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    subject: Subjects = None,
    out: Annotated[Path, typer.Option(help="Folder of the memory maps.", rich_help_panel=OUTPUT)] = Path("cache"),
) -> None:
    """Converts a recording once, in little memory, for `--option cache=FOLDER` of all later commands; a second call goes on."""
    check_source(context, dataset)
    given_options = parsed(dataset, option)

    from brainlens.datasets.preparing import run_prepare
    from brainlens.datasets.source import Source

    source = Source(dataset, data, subjects=tuple(subject or ()), options=given_options)
    with steps(shorter="one --subject at a time, or fewer units") as tell:
        rows = run_prepare(source, out, tell=tell)
    show(rows, f"prepare: {dataset}")
    typer.echo(f"read it by --option cache={out}")


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="Released weights of a plain vision transformer or SLIP (.pth, .pt, .pth.tar).")
    ],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    heads: Annotated[
        int | None, typer.Option(help="Attention heads; default: 64 channels each, 12 for MoCo v3 and small SLIP.")
    ] = None,
) -> None:
    """Turns released MoCo v3, DINO, DeiT, timm or SLIP weights into a model folder that `encode` and `features` read."""
    from brainlens.backbones.convert import convert_checkpoint

    found = convert_checkpoint(checkpoint, out, heads=heads)
    show([{"fact": key, "value": str(value)} for key, value in found.items()], f"model folder: {out}")


def captions(
    context: typer.Context,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="BLIP, BLIP-2, Qwen2.5-VL, LLaVA-1.5 or -1.6: a folder or hub name; or miniature.", rich_help_panel=MODEL
        ),
    ] = None,
    score: Annotated[bool, typer.Option("--score", help="Score the sources of captions instead of making one.")] = False,
    file: Annotated[list[Path] | None, typer.Option(help="Captions made before, to be scored; repeat for several.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new source; default: the captioner's.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What is asked of the captioner; default: see `docs/align.md`.")] = None,
    with_captions: Annotated[
        str | None,
        typer.Option(help="Caption source (name or file) that the captioner is told; in a --prompt it stands for {captions}."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder of pictures in place of a recording.", rich_help_panel=DATA)
    ] = None,
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="CLIP that reads the captions; default: the shipped miniature.", rich_help_panel=MODEL, callback=a_network
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the captions, or of the run with --score.", rich_help_panel=OUTPUT)] = Path(
        "captions"
    ),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
) -> None:
    """Describes the images of a recording by a network, or scores how well captions and images find each other."""
    from brainlens.types import DataError

    if score == (captioner is not None):
        raise DataError("captions: give --captioner MODEL to make captions, or --score to score them, and not both")
    check_source(context, dataset)
    if score:
        without(context, ("name", "prompt", "with_captions"), "--score makes no captions")
    else:
        without(context, ("file",), "it holds captions to be scored, and --captioner makes some")
    if images is not None:
        without(context, (*OF_RECORDING, "seed") if not score else OF_RECORDING,
                "--images takes the place of a recording")  # fmt: skip
    elif not score and dataset not in _simulated():
        without(context, ("seed",), "a captioner draws nothing")
    given_options = parsed(dataset, option)

    from brainlens.datasets.captioning import run_caption_scores, run_captions
    from brainlens.datasets.source import Source

    source = Source(dataset, data, model, n_train=train, n_test=test, seed=seed, options=given_options)
    with steps(shorter="fewer images with --images FOLDER" if captioner else "") as tell:
        if captioner is None:
            place, table = run_caption_scores(source, out, files=file or (), images=images, seed=seed, device=device, tell=tell)
        else:
            place, table = run_captions(
                source, out, model=captioner, name=name, images=images, prompt=prompt, known=with_captions, device=device,
                tell=tell,
            )  # fmt: skip
    show(table, "captions" if captioner else "Captions: does each find its image?")
    typer.echo(f"{'run' if score else 'captions'}: {place}")


def epochs(
    context: typer.Context,
    dataset: Annotated[
        str, typer.Option(help="A recording of EEG or MEG that can be cut.", rich_help_panel=DATA)
    ] = DEFAULT_EPOCHS,
    data: Data = None,
    option: Option = None,
    subject: Annotated[str | None, typer.Option(help="Subject; default: the first.", rich_help_panel=DATA)] = None,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
) -> None:
    """From a recording of EEG or MEG to epochs, evoked responses and scalp maps; a second call goes on where one stopped."""
    check_named(context)
    given_options = parsed(dataset, option)

    from brainlens.datasets.epoching import SINGLE, run_epochs
    from brainlens.datasets.source import Source

    if dataset in SINGLE:
        without(context, ("subject",), f"{dataset} is of one subject")
    source = Source(dataset, data, options=given_options)
    with steps() as tell:
        folder, table = run_epochs(source, runs, subject=subject, seed=seed, tell=tell)
    show(table, f"epochs: {dataset}")
    typer.echo(f"run: {folder}")


def _simulated() -> tuple[str, ...]:
    from brainlens.datasets import SIMULATED

    return SIMULATED
