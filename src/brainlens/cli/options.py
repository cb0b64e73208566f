"""The options that several commands share, in panels of the help; an option that does not apply is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer


def one_of(what: str, known: Iterable[str]) -> Callable[[Any], Any]:
    """A check of an option, or of each of its values, as it is typed: a DataError that lists the known words."""
    words = tuple(known)

    def check(value: Any) -> Any:
        for word in value if isinstance(value, list) else [value]:
            if word is not None and word not in words:
                from brainlens.types import DataError

                raise DataError(f"{what} {word!r} is not one of {', '.join(words)}")
        return value

    return check


def a_device(value: str) -> str:
    """The word for a device as it is typed; whether it is there is asked of torch later."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        from brainlens.types import DataError

        raise DataError(f"device {value!r} is not known; choose cpu, cuda or cuda:N")
    return value


def a_network(value: Any) -> Any:
    """The name of a network, or several, as typed: a folder that is none, or a name that no hub has, is an error."""
    from brainlens.backbones.names import check_network

    for name in value if isinstance(value, list) else [value]:
        check_network(name)
    return value


def a_part(value: str | None) -> str | None:
    """K/N as it is typed; whether there are N units is known later."""
    if value is not None:
        from brainlens.types import part_of

        part_of(value)
    return value


DATA, MODEL, TRAINING, SENSORS, PHANTOM, OUTPUT = (
    "Data", "Model", "Training", "EEG and MEG", "Phantom (the simulation)", "Run"
)  # fmt: skip

Dataset = Annotated[str, typer.Option(help="Name of the recording; `brainlens datasets` lists them.", rich_help_panel=DATA)]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of the recording, or s3://BUCKET/FOLDER.", rich_help_panel=DATA),
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="name=value of the recording's reader (as n_sessions=2); `brainlens datasets NAME` lists them.",
        rich_help_panel=DATA,
    ),
]
Subjects = Annotated[list[str] | None, typer.Option(help="Subject; repeat for several.", rich_help_panel=DATA)]
Regions = Annotated[
    list[str] | None, typer.Option(help="Region (roi), visual or whole; repeat for several.", rich_help_panel=DATA)
]
Captions = Annotated[
    str | None, typer.Option(help="Caption source: its name, or a file of `brainlens captions`.", rich_help_panel=DATA)
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Network: a local folder or a hub name; default: the shipped miniature.", rich_help_panel=MODEL, callback=a_network
    ),
]
Runs = Annotated[Path, typer.Option(help="Folder that takes the run folders.", rich_help_panel=OUTPUT)]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.", rich_help_panel=OUTPUT)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", rich_help_panel=OUTPUT, callback=a_device)]
Again = Annotated[bool, typer.Option("--again", help="Run anew where a finished run is there.", rich_help_panel=OUTPUT)]
Train = Annotated[int, typer.Option(help="Training images.", rich_help_panel=PHANTOM)]
Test = Annotated[int, typer.Option(help="Test images.", rich_help_panel=PHANTOM)]
Pictures = Annotated[
    list[Path] | None, typer.Option(help="Folder of photographs in place of drawn scenes; repeat.", rich_help_panel=PHANTOM)
]
BrainNetwork = Annotated[
    str | None,
    typer.Option(help="Network that the brain reads, in place of the one it is decoded to: a folder, or untrained:SEED.",
                 rich_help_panel=PHANTOM, callback=a_network),
]  # fmt: skip
Nonlinearity = Annotated[
    float, typer.Option(help="Exponent of what a voxel reads, rectified; 1 is linear.", rich_help_panel=PHANTOM)
]
Haemodynamics = Annotated[float, typer.Option(help="SD over voxels, in s, of how late they answer.", rich_help_panel=PHANTOM)]
Warp = Annotated[float, typer.Option(help="mm by which the brain is warped against the atlas.", rich_help_panel=PHANTOM)]
Motion = Annotated[float, typer.Option(help="mm by which the head lies elsewhere in each run.", rich_help_panel=PHANTOM)]
MISMATCH = ("pictures", "brain_network", "nonlinearity", "haemodynamics", "warp", "motion")
Layer = Annotated[list[str] | None, typer.Option(help="Layer to use; repeat for several. Default: all.", rich_help_panel=MODEL)]
Timestep = Annotated[
    list[int] | None,
    typer.Option(
        help="Time step of a diffusion network, 0 = clean picture; repeat for several (one layer).", rich_help_panel=MODEL
    ),
]
OfSteps = Annotated[
    int, typer.Option(help="Even time steps from clean picture to noise that --timestep counts.", rich_help_panel=MODEL)
]
DIFFUSION = ("timestep", "of_steps", "inversion")


def parsed(dataset: str, option: list[str] | None) -> dict[str, Any]:
    """The values of `--option name=value`. Raises DataError listing the options of the recording's reader."""
    from brainlens.datasets import parse_options

    return parse_options(dataset, option or [])


def with_mismatch(context: typer.Context, dataset: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of the recording with those flags of the mismatched phantom that were typed.

    Raises DataError for such a flag with a recording that has none of them, and for one that `--option` gives too.
    """
    from brainlens.datasets import options as known
    from brainlens.types import DataError

    flags = given(context)
    typed = [name for name in MISMATCH if name in flags]
    if typed and not set(MISMATCH) <= set(known(dataset)):
        raise DataError(f"{flags[typed[0]]} is of the fMRI phantom, and {dataset} is another recording; leave it out")
    twice = [name for name in typed if name in options]
    if twice:
        raise DataError(f"{flags[twice[0]]} is given by --option {twice[0]}=... too; give it once")
    found = {name: context.params[name] for name in typed}
    return options | {name: tuple(map(str, value)) if name == "pictures" else value for name, value in found.items()}


def given(context: typer.Context) -> dict[str, str]:
    """The options that were typed, by the name of their parameter: the flag that a user knows."""
    found = {}
    for parameter in options_of(context.command):
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
            off = parameter.secondary_opts and context.params.get(str(parameter.name)) is False
            found[str(parameter.name)] = str(parameter.secondary_opts[0] if off else parameter.opts[0])
    return found


def options_of(command: Any) -> list[Any]:
    """The options of a command, without its arguments; typer may bring its own click, so no class is asked for."""
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help"]


def only(context: typer.Context, applies: Iterable[str], what: str) -> None:
    """Raises DataError for a typed option that is not among those that apply to `what`, listing those that do."""
    from brainlens.types import DataError

    known = set(applies)
    wrong = [flag for name, flag in given(context).items() if name not in known]
    if wrong:
        flags = [p.opts[0] for p in options_of(context.command) if p.name in known]
        raise DataError(f"{wrong[0]} does not apply to {what}; options that do: {', '.join(flags)}")


def without(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Raises DataError for a typed option of these names, saying why it does not apply."""
    from brainlens.types import DataError

    flags = given(context)
    wrong = [flags[name] for name in names if name in flags]
    if wrong:
        raise DataError(f"{wrong[0]} does not apply: {why}; leave it out")


def check_named(context: typer.Context) -> None:
    """Raises DataError for a folder without the name of the recording in it."""
    from brainlens.types import DataError

    typed = given(context)
    if "data" in typed and "dataset" not in typed:
        raise DataError("--data is the folder of a recording: say which by --dataset NAME; `brainlens datasets` lists the names")
    folder = context.params.get("data")
    if folder is not None and not str(folder).startswith("s3:/") and not Path(folder).exists():
        name = context.params.get("dataset")
        raise DataError(f"dataset {name!r}: the folder {str(folder)!r} is not found; name the one that holds the recording")


def check_runs(*runs: Path) -> None:
    """Raises DataError for a run that is not found, before anything heavy is loaded."""
    from brainlens.types import DataError

    for run in runs:
        if not Path(run).is_dir():
            raise DataError(f"{Path(run) / 'result.json'} is missing; run the step that writes it, or name another folder")


def check_folder(*runs: Path) -> None:
    """Raises DataError for a folder of runs that is not found, before anything that draws is loaded."""
    from brainlens.types import DataError

    for run in runs:
        if not Path(run).is_dir():
            raise DataError(f"report: {run} is not a folder; give a run folder or a folder of run folders")


def check_source(context: typer.Context, dataset: str) -> None:
    """`--data` names a folder of a recording that must be named; sizes are those of the phantom alone."""
    from brainlens import datasets

    datasets.check_name(dataset)  # a misspelt name before what does not apply to it
    check_named(context)
    if dataset not in datasets.SIMULATED:
        without(context, ("train", "test"), f"{dataset} is a recording and has the images that it has")


def steps_of(timestep: list[int] | None, of: int, inversion: bool) -> Any:
    """The time steps that were asked of a diffusion network; None where none were."""
    from brainlens.backbones.diffusion import Steps

    return None if not timestep else Steps(at=tuple(timestep), of=of, inversion=inversion)


def check_diffusion(context: typer.Context, models: Iterable[str | None]) -> None:
    """Time steps are those of a diffusion network, and --of-steps and --inversion those of --timestep."""
    from brainlens.backbones.diffusion import is_diffusion

    if not any(name is not None and is_diffusion(name) for name in models):
        without(context, DIFFUSION, "only a diffusion network (--model) has time steps")
    elif "timestep" not in given(context):
        without(context, DIFFUSION, "it counts the steps of --timestep, which is not given")
