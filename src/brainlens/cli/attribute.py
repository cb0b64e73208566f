"""`brainlens attribute`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.cli.options import Again, Captions, Device, Runs, Seed, check_runs, only, without
from brainlens.cli.terminal import carry_out

BOTTLENECK, RISE, COPIED = "Bottleneck", "RISE", "Grad-CAM and Chefer"
OF_METHOD = {  # settings of one method alone
    "bottleneck": ("normalise", "beta", "variance", "lr", "steps_", "copies", "sensitivity"),
    "rise": ("masks", "rise_by"),
    "gradcam and chefer": ("draws",),
}
SENSOR = ("method", "runs", "device", "again")


def attribute(
    context: typer.Context,
    run: Annotated[
        list[Path], typer.Argument(help="Folder of a finished align run; several (one a subject) also give a group map.")
    ],
    of: Annotated[str, typer.Option(help="What is explained: brain, pixels, words, or stimuli (pixels and words).")] = "brain",
    target: Annotated[str, typer.Option(help="Its match with: image, text, brain, or both others.")] = "both",
    method: Annotated[
        str | None,
        typer.Option(
            help="bottleneck (default), rise, gradcam, chefer, integrated_gradients, random, or all in one table; "
            "EEG, MEG: gradient_x_input (default), integrated_gradients, deeplift"
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Where features are read: k, the output of block k, as the paper counts; `input`; or `patches`."),
    ] = None,
    trials: Annotated[int, typer.Option(help="How many test images are explained. Of fMRI: EEG, MEG explain all.")] = 32,
    captions: Captions = None,
    refine: Annotated[str, typer.Option(help="Within a brain patch: product, weight, signed or none (the paper's).")] = "product",
    beta: Annotated[float, typer.Option(help="Weight of the bits.", rich_help_panel=BOTTLENECK)] = 0.1,
    normalise: Annotated[
        str,
        typer.Option(help="Features in units of `reference` statistics, or `none` (the paper's).", rich_help_panel=BOTTLENECK),
    ] = "reference",
    variance: Annotated[
        float | None,
        typer.Option(
            help="Variance of the noise, in that of the features. Default: 1, with --sensitivity .1 (the paper's table).",
            rich_help_panel=BOTTLENECK,
        ),
    ] = None,
    lr: Annotated[float, typer.Option(help="Step size of Adam.", rich_help_panel=BOTTLENECK)] = 1.0,
    steps_: Annotated[int, typer.Option("--steps", help="Steps.", rich_help_panel=BOTTLENECK)] = 20,
    copies: Annotated[int, typer.Option(help="Noisy copies a step.", rich_help_panel=BOTTLENECK)] = 10,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="Vary layer, beta, variance, lr and steps one at a time.", rich_help_panel=BOTTLENECK),
    ] = False,
    masks: Annotated[int, typer.Option(help="Number of masks.", rich_help_panel=RISE)] = 1000,
    rise_by: Annotated[str, typer.Option(help="Hide cells of a grid, or whole regions.", rich_help_panel=RISE)] = "cells",
    draws: Annotated[int, typer.Option(help="Noisy copies of the response to average over.", rich_help_panel=COPIED)] = 1,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    again: Again = False,
) -> None:
    """Which voxels, pixels or words carried the match; brain maps are saved as NIfTI too. For EEG and MEG: which channels."""
    check_runs(*run)
    from brainlens.attribute.brain import Options
    from brainlens.attribute.run import Ask, run_attribute
    from brainlens.attribute.run_sensors import is_sensor_run, run_attribute_sensors
    from brainlens.attribution.bottleneck import Bottleneck
    from brainlens.attribution.degradation import VARIANCE
    from brainlens.datasets.runs import source_of
    from brainlens.store import load_result
    from brainlens.types import DataError

    sensors = is_sensor_run(run[0])
    method = method or ("gradient_x_input" if sensors else "bottleneck")
    if sensors:
        only(context, SENSOR, f"a run of EEG or MEG ({run[0]})")
        fmri = [str(one) for one in run if not is_sensor_run(one)]
        if fmri:
            raise DataError(f"attribute: {fmri[0]} is no run of EEG or MEG, as {run[0]} is; a group is of one kind")
        asked: dict[str, Any] = {"method": method, "device": device}
    else:
        _check(context, of, method)
        ask = Ask(of, target, method, layer, trials, sensitivity)
        noise = variance if variance is not None else VARIANCE if sensitivity else 1.0
        bottleneck = Bottleneck(beta, noise, lr, steps_, copies, seed=seed)
        options = Options(
            refine=refine, normalise=normalise, bottleneck=bottleneck, masks=masks, rise_by=rise_by, draws=draws, seed=seed,
            device=device,
        )  # fmt: skip
        asked = {"ask": asdict(ask), "options": asdict(options)} | ({} if captions is None else {"captions": captions})

    def work(tell: Any) -> Any:
        if sensors:
            return run_attribute_sensors(run, runs, method=method, device=device, tell=tell)
        return run_attribute(run, runs, ask=ask, options=options, captions=captions, tell=tell)

    asked["runs"] = [note_of(one) for one in run]
    title = f"attribute: {'channels' if sensors else of}, {method}"
    carry_out(
        "attribute", runs, asked, work, title=title, shorter="--trials N, or --method gradcam",
        data=[source_of(load_result(one)).folder for one in run], again=again,
    )  # fmt: skip


def _check(context: typer.Context, of: str, method: str) -> None:
    """Settings of another method are refused, and those of brain maps where pixels or words are explained."""
    for name, settings in OF_METHOD.items():
        if method not in (*name.split(" and "), "all"):
            without(context, settings, f"it is a setting of {name}, and the method is {method}")
    if of != "brain":
        without(context, ("refine",), f"patches of the brain are refined, and {of} are explained")
        without(context, ("rise_by",), f"regions are of the brain, and {of} are explained")
    if method in ("rise", "random"):
        without(context, ("layer",), f"{method} reads no layer")


def note_of(run: Path) -> list[str]:
    """A run by its name and by what its result is: another alignment in the same place is another request."""
    from brainlens.store import sha256

    return [str(run.resolve()), sha256(run / "result.json") if (run / "result.json").is_file() else ""]
