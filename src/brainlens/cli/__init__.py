"""The command line: one command a verb. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens import __version__
from brainlens.cli.terminal import show, steps

app = typer.Typer(
    name="brainlens",
    help="What a brain and a deep network see in each other: encode, align, attribute, and a report of it all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Dataset = Annotated[
    str | None, typer.Option(help="Name of the recording; `brainlens datasets` lists them. Default: the phantom.")
]
Data = Annotated[Path | None, typer.Option(help="Folder of the recording; the phantom needs none.")]
Model = Annotated[str | None, typer.Option(help="Network: a local folder or a hub name; default: the shipped miniature.")]
Runs = Annotated[Path, typer.Option(help="Folder that takes the run folders.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Train = Annotated[int, typer.Option(help="Training images of the phantom.")]
Test = Annotated[int, typer.Option(help="Test images of the phantom.")]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False
) -> None:
    """What a brain and a deep network see in each other."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs, report.html and result.json.")] = Path("demo"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
) -> None:
    """The whole chain on the built-in phantom: align, attribute, encode, report."""
    from brainlens.claims.demo import run_demo

    with steps() as tell:
        report, table = run_demo(out, n_train=train, n_test=test, seed=seed, device=device, tell=tell)
    show(table, "Demo on the phantom (a simulation with known truth)")
    typer.echo(f"report: {report}")


@app.command()
def datasets(name: Annotated[str | None, typer.Argument(help="One recording, for all its facts.")] = None) -> None:
    """Lists the recordings that can be read, with size, licence and where they come from."""
    from brainlens.datasets import DATASETS, facts, options

    rows = []
    for each in DATASETS if name is None else (name,):
        known = facts(each)
        if name is not None:
            rows += [{"fact": key, "value": str(value)} for key, value in known.items()]
            rows += [{"fact": "option", "value": str(option)} for option in options(each).values()]
        else:
            rows.append(
                {
                    "name": each,
                    "kind": str(known["kind"]) + (" (simulated)" if known["simulated"] else ""),
                    "licence": str(known.get("licence", "")),
                }
            )
    show(rows, "Recordings" if name is None else name)


Layer = Annotated[list[str] | None, typer.Option(help="Layer to use; repeat for several. Default: all.")]
Timestep = Annotated[
    list[int] | None, typer.Option(help="Time step of a diffusion network, 0 = clean picture; repeat for several (one layer).")
]
OfSteps = Annotated[int, typer.Option(help="Even time steps from clean picture to noise that --timestep counts.")]


@app.command()
def features(
    model: Annotated[str, typer.Argument(help="Network: a local folder or a hub name, or `miniature`.")],
    out: Annotated[Path, typer.Option(help="Folder of the features.")] = Path("features"),
    dataset: Dataset = None,
    data: Data = None,
    layer: Layer = None,
    timestep: Timestep = None,
    of_steps: OfSteps = 50,
    inversion: Annotated[bool, typer.Option(help="DDIM inversion (as the paper), or noise added in one go.")] = True,
    grid: Annotated[int | None, typer.Option(help="Side to which maps are resized, e.g. 8. Default: as they are.")] = None,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
) -> None:
    """Extracts the layers of a network for the images of a recording, once, to disk."""
    from brainlens.datasets import DEFAULT
    from brainlens.datasets.features import run_features
    from brainlens.datasets.source import Source

    dataset = dataset or DEFAULT
    source = Source(dataset, data, model, n_train=train, n_test=test)
    chosen = _steps_of(timestep, of_steps, inversion)
    with steps() as tell:
        found = run_features(
            source, out, layers=layer, steps=chosen, pool_grid=None if grid is None else (grid, grid), device=device, tell=tell
        )
    show([{"layer": name, **sizes} for name, sizes in found.items()], f"Features of {model}")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Released weights of a plain vision transformer (.pth, .pth.tar).")],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    heads: Annotated[int | None, typer.Option(help="Attention heads; default: 64 channels each, 12 for MoCo v3.")] = None,
) -> None:
    """Turns released MoCo v3, DINO, DeiT or timm weights into a model folder that `encode` and `features` read."""
    from brainlens.backbones.convert import convert_checkpoint

    found = convert_checkpoint(checkpoint, out, heads=heads)
    show([{"fact": key, "value": str(value)} for key, value in found.items()], f"model folder: {out}")


@app.command()
def encode(
    dataset: Dataset = None,
    data: Data = None,
    model: Annotated[list[str] | None, typer.Option(help="Network: folder or hub name; repeat to compare several.")] = None,
    method: Annotated[str | None, typer.Option(help="factortopy, ridge, class_token, patch_token or gnet.")] = None,
    layer: Layer = None,
    timestep: Timestep = None,
    of_steps: OfSteps = 50,
    samples: Annotated[int, typer.Option(help="Places in the picture that each voxel reads.")] = 1,
    without: Annotated[list[str] | None, typer.Option(help="Selector to switch off: space, layer or scale; repeat.")] = None,
    per_voxel: Annotated[bool, typer.Option(help="Selectors free for each voxel instead of topological.")] = False,
    search: Annotated[bool | None, typer.Option(help="Start the selectors from a search, on by default.")] = None,
    refit: Annotated[bool | None, typer.Option(help="Solve the channel weights by ridge at the end, on by default.")] = None,
    training_steps: Annotated[int | None, typer.Option("--steps", help="Training steps at most.")] = None,
    roi: Annotated[list[str] | None, typer.Option(help="Region to fit; repeat for several. Default: every unit.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="Subject; repeat to compare several.")] = None,
    seeds: Annotated[int, typer.Option(help="Fits with so many seeds, and how well their layer maps agree.")] = 1,
    curve: Annotated[list[int] | None, typer.Option(help="Number of training images for a learning curve; repeat.")] = None,
    one_layer: Annotated[bool, typer.Option(help="One-layer models beside the selector's weights.")] = False,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
) -> None:
    """Which part of a network predicts which part of the brain."""
    from dataclasses import replace

    from brainlens.datasets import DEFAULT
    from brainlens.datasets.source import Source
    from brainlens.encode import EncodingDesign
    from brainlens.encode.run import Asked, run_encode, selectors_without, shorter
    from brainlens.models.encoding.training import EncodingTraining

    dataset = dataset or DEFAULT
    training = EncodingTraining() if training_steps is None else shorter(EncodingTraining(), training_steps)
    training = training if search is None else replace(training, searched_start=search)
    design = EncodingDesign(
        layers=tuple(layer) if layer else None, samples=samples, use=selectors_without(without or []), topological=not per_voxel
    )
    design = design if refit is None else replace(design, refit=refit)
    asked = Asked(
        method, design, training, models=tuple(model or ()), seeds=seeds, curve=tuple(curve or ()), one_layer=one_layer,
        steps=_steps_of(timestep, of_steps, True),
    )  # fmt: skip
    source = Source(
        dataset, data, model[0] if model else None, train, test, seed, subjects=tuple(subject or ()), regions=tuple(roi or ())
    )
    with steps() as tell:
        folder, table = run_encode(source, runs, asked, seed=seed, device=device, tell=tell)
    show(table, f"encode: {dataset}")
    typer.echo(f"run: {folder}")


@app.command()
def align(
    dataset: Dataset = None,
    data: Data = None,
    model: Model = None,
    encoder: Annotated[list[str] | None, typer.Option(help="Encoder; repeat for several, the last is the main one.")] = None,
    preset: Annotated[str, typer.Option(help="small (a laptop) or paper (the published configuration).")] = "small",
    steps_: Annotated[int | None, typer.Option("--steps", help="Training steps of the contrastive encoders.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Pieces of a batch; the loss stays that of the batch.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 inside the encoder.")] = None,
    queue: Annotated[int | None, typer.Option(help="Past embeddings kept as further negatives.")] = None,
    recompute: Annotated[bool, typer.Option(help="Recompute activations in the backward pass, to save memory.")] = False,
    modality: Annotated[str | None, typer.Option(help="Targets of the loss: image, text or both.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="Region (roi), visual or whole; repeat for several.")] = None,
    captions: Annotated[str | None, typer.Option(help="Caption source: its name, or a file of `brainlens captions`.")] = None,
    subject: Annotated[
        list[str] | None, typer.Option(help="Subject; repeat for several in one model (EEG, MEG: tested).")
    ] = None,
    one_each: Annotated[bool, typer.Option("--one-each", help="A model for each subject instead of one for all.")] = False,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
    protocol: Annotated[str, typer.Option(help="EEG, MEG: within (one subject) or across (leave one out).")] = "within",
    gallery: Annotated[str, typer.Option(help="EEG, MEG: image (the one seen) or concept (its centre).")] = "image",
    epochs: Annotated[int | None, typer.Option(help="Training epochs, in place of steps. Default: the preset's.")] = None,
    repeats: Annotated[int | None, typer.Option(help="EEG, MEG: test repetitions averaged. Default: all.")] = None,
    amplitude: Annotated[float | None, typer.Option(help="EEG phantom: signal in uV. Default: 1.1; calibrated: 0.28.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="EEG, MEG: saliency, guidance or adjustment; repeat.")] = None,
    ablation: Annotated[bool, typer.Option("--ablation", help="EEG, MEG: neuroalign without each part, too.")] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="EEG phantom: neuroalign with other captions, too.")] = False,
) -> None:
    """Which image or sentence was seen: brain responses into the space of images and captions, and retrieval there.

    Several processes: torchrun --nproc-per-node 2 -m brainlens align ...
    """
    from brainlens.align.run import run_align, run_align_each
    from brainlens.align.run_sensors import align_sensor_command, is_sensors
    from brainlens.datasets import DEFAULT, DEFAULT_SENSORS
    from brainlens.datasets.source import Source
    from brainlens.models.volume.presets import preset as configuration

    dataset = dataset or DEFAULT
    if is_sensors(dataset, encoder):
        source = Source(DEFAULT_SENSORS if dataset == DEFAULT else dataset, data, model, n_train=train, n_test=test, seed=seed)
        wanted: dict[str, Any] = {"encoders": encoder, "epochs": epochs, "repeats": repeats, "leave_out": without}
        wanted |= {"ablation": ablation, "prompts": prompts, "protocol": (protocol, subject[-1] if subject else None, gallery)}
        wanted |= {"amplitude": amplitude, "batch": batch, "precision": precision}
        with steps() as tell:
            folder, table = align_sensor_command(source, runs, wanted, seed=seed, device=device, tell=tell)
        show(table, f"align: {source.dataset}, {protocol} subjects, gallery: {gallery}")
        typer.echo(f"run: {folder}")
        return
    training = {"steps": steps_, "batch": batch, "accumulate": accumulate, "precision": precision, "queue": queue}
    chosen = configuration(preset).changed(
        training={**training, "modality": modality, "epochs": epochs}, design={"checkpointing": True if recompute else None}
    )
    parts = {"subjects": tuple(subject or ()), "regions": tuple(region or ()), "captions": captions}
    source = Source(dataset, data, model, n_train=train, n_test=test, seed=seed, **parts)  # type: ignore[arg-type]
    with steps() as tell:
        run = run_align_each if one_each else run_align
        place, table = run(source, runs, encoders=encoder, configuration=chosen, seed=seed, device=device, tell=tell)
    if table:  # of several processes the first one speaks
        show(table, f"align: {dataset}")
        for one in place if isinstance(place, list) else [place]:
            typer.echo(f"run: {one}")


@app.command()
def captions(
    captioner: Annotated[str | None, typer.Option(help="BLIP, BLIP-2 or Qwen2.5-VL: a local folder or a hub name.")] = None,
    score: Annotated[bool, typer.Option("--score", help="Score the sources of captions instead of making one.")] = False,
    file: Annotated[list[Path] | None, typer.Option(help="Captions made before, to be scored; repeat for several.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new source; default: the captioner's.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What is asked of the captioner; default: see `docs/align.md`.")] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of pictures in place of a recording.")] = None,
    dataset: Dataset = None,
    data: Data = None,
    model: Annotated[str | None, typer.Option(help="CLIP that reads the captions; default: the shipped miniature.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the captions, or of the run with --score.")] = Path("captions"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
) -> None:
    """Describes the images of a recording by a network, or scores how well captions and images find each other."""
    from brainlens.datasets import DEFAULT
    from brainlens.datasets.captioning import run_caption_scores, run_captions
    from brainlens.datasets.source import Source
    from brainlens.types import DataError

    dataset = dataset or DEFAULT
    if score == (captioner is not None):
        raise DataError("captions: give --captioner MODEL to make captions, or --score to score them, and not both")
    source = Source(dataset, data, model, n_train=train, n_test=test, seed=seed)
    with steps() as tell:
        if captioner is None:
            place, table = run_caption_scores(source, out, files=file or (), images=images, seed=seed, device=device, tell=tell)
        else:
            place, table = run_captions(
                source, out, model=captioner, name=name, images=images, prompt=prompt, device=device, tell=tell
            )
    show(table, "captions" if captioner else "Captions: does each find its image?")
    typer.echo(f"{'run' if score else 'captions'}: {place}")


@app.command()
def epochs(
    dataset: Annotated[str | None, typer.Option(help="eeglab_visual, things_eeg2 or things_meg. Default: the first.")] = None,
    data: Data = None,
    subject: Annotated[str | None, typer.Option(help="Subject; default: the first.")] = None,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
) -> None:
    """From a recording of EEG or MEG to epochs, evoked responses and scalp maps; a second call goes on where one stopped."""
    from brainlens.datasets import DEFAULT_EPOCHS
    from brainlens.datasets.epoching import run_epochs
    from brainlens.datasets.source import Source

    dataset = dataset or DEFAULT_EPOCHS
    with steps() as tell:
        folder, table = run_epochs(Source(dataset, data), runs, subject=subject, seed=seed, tell=tell)
    show(table, f"epochs: {dataset}")
    typer.echo(f"run: {folder}")


@app.command()
def attribute(
    run: Annotated[
        list[Path], typer.Argument(help="Folder of a finished align run; several (one a subject) also give a group map.")
    ],
    of: Annotated[str, typer.Option(help="What is explained: brain, pixels, words, or stimuli (pixels and words).")] = "brain",
    target: Annotated[str, typer.Option(help="Its match with: image, text, brain, or both others.")] = "both",
    method: Annotated[
        str | None,
        typer.Option(
            help="bottleneck (default), rise, gradcam, chefer, integrated_gradients; EEG, MEG: gradient_x_input, deeplift"
        ),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Block before which features are read, or `patches`.")] = None,
    trials: Annotated[int, typer.Option(help="How many test images are explained.")] = 32,
    beta: Annotated[float, typer.Option(help="Bottleneck: weight of the bits.")] = 0.1,
    variance: Annotated[float, typer.Option(help="Bottleneck: variance of the noise, in that of the features.")] = 1.0,
    lr: Annotated[float, typer.Option(help="Bottleneck: step size of Adam.")] = 1.0,
    steps_: Annotated[int, typer.Option("--steps", help="Bottleneck: steps.")] = 20,
    copies: Annotated[int, typer.Option(help="Bottleneck: noisy copies a step.")] = 10,
    refine: Annotated[str, typer.Option(help="Within a brain patch: product, weight, signed or none (the paper's).")] = "product",
    masks: Annotated[int, typer.Option(help="RISE: number of masks.")] = 1000,
    rise_by: Annotated[str, typer.Option(help="RISE: hide cells of a grid, or whole regions.")] = "cells",
    draws: Annotated[int, typer.Option(help="Grad-CAM, Chefer: noisy copies of the response to average over.")] = 1,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Vary layer, beta, variance, lr and steps one at a time.")
    ] = False,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Which voxels, pixels or words carried the match; brain maps are saved as NIfTI too. For EEG and MEG: which channels."""
    from brainlens.attribute.brain import Options
    from brainlens.attribute.run import Ask, run_attribute
    from brainlens.attribute.run_sensors import is_sensor_run, run_attribute_sensors
    from brainlens.attribution.bottleneck import Bottleneck

    if is_sensor_run(run[0]):
        with steps() as tell:
            folder, table = run_attribute_sensors(run[0], runs, method=method or "gradient_x_input", device=device, tell=tell)
        show(table, f"attribute: {method or 'gradient_x_input'}")
        typer.echo(f"run: {folder}")
        return
    method = method or "bottleneck"
    ask = Ask(of, target, method, layer, trials, sensitivity)
    bottleneck = Bottleneck(beta, variance, lr, steps_, copies, seed=seed)
    options = Options(refine=refine, bottleneck=bottleneck, masks=masks, rise_by=rise_by, draws=draws, seed=seed, device=device)
    with steps() as tell:
        folder, table = run_attribute(run, runs, ask=ask, options=options, tell=tell)
    show(table, f"attribute: {of}, {method}")
    typer.echo(f"run: {folder}")


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="A run folder, or a folder of run folders.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "brainlens report",
) -> None:
    """One self-contained HTML page of what was run and found."""
    from brainlens.report import build

    typer.echo(f"report: {build(runs, out, title=title)}")


def _steps_of(timestep: list[int] | None, of: int, inversion: bool) -> Any:
    """The time steps that were asked of a diffusion network; None where none were."""
    from brainlens.backbones.diffusion import Steps

    return None if not timestep else Steps(at=tuple(timestep), of=of, inversion=inversion)


def main() -> None:
    """Entry point: a mistake of the user is one line and exit code 2, an interruption leaves a run that goes on (130)."""
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        text = _mistake(error)
        if text is None:
            raise
        if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
            typer.echo(f"error: {' '.join(text.split())}", err=True)
        code = 2
    if code == 130:
        typer.echo("stopped; the same command goes on from the last checkpoint", err=True)
    sys.exit(code or 0)


def _mistake(error: Exception) -> str | None:
    """What to tell the user about a mistake in the command line, the data or the folders; None for a fault of ours."""
    from brainlens.types import DataError

    if isinstance(error, DataError):
        return str(error)
    usage: Any = typer.BadParameter.__bases__  # every fault of usage: unknown options and commands, missing arguments
    if isinstance(error, usage):
        return f"{error.format_message().rstrip('.')}; see `brainlens --help`, or `brainlens COMMAND --help` for its options"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


if __name__ == "__main__":
    main()
