"""The command line: one command a verb. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens import __version__
from brainlens.cli.align import align
from brainlens.cli.attribute import attribute
from brainlens.cli.data import captions, convert, datasets, epochs, features, prepare
from brainlens.cli.decode import decode
from brainlens.cli.describe import describe
from brainlens.cli.embed import embed
from brainlens.cli.encode import encode, predict
from brainlens.cli.finetune import finetune
from brainlens.cli.options import Device, Seed, Test, Train, check_folder
from brainlens.cli.own import check, example
from brainlens.cli.paper import paper
from brainlens.cli.reconstruct import reconstruct
from brainlens.cli.share import compare, export, import_
from brainlens.cli.sweep import EXTRA, sweep
from brainlens.cli.terminal import show, steps
from brainlens.warned import HANDLER

TEMPLATE = "Standard space of volumes that do not say theirs: MNI152."

app = typer.Typer(
    name="brainlens",
    help="What a brain and a deep network see in each other: encode, align, attribute, reconstruct, describe, and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Read pictures and weights that lie outside the folder that names them.")
    ] = False,
) -> None:
    """What a brain and a deep network see in each other."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if allow_outside:
        os.environ["BRAINLENS_ALLOW_OUTSIDE"] = "1"  # for this command and the processes that it starts
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
    """The whole chain on the built-in phantom: align, attribute, encode, reconstruct, describe, report."""
    from brainlens.claims.demo import next_commands, run_demo

    with steps(shorter="fewer scenes with --train N --test N") as tell:
        report, table = run_demo(out, n_train=train, n_test=test, seed=seed, device=device, tell=tell)
    show(table, "Demo on the phantom (a simulation with known truth)")
    typer.echo(f"report: {report}\n\nTry next:")
    for command in next_commands(out):
        typer.echo(f"  {command}")


VERBS = (encode, predict, align, embed, attribute, reconstruct, describe, decode, finetune, paper)
for each in (datasets, example, check, prepare, features, convert, captions, epochs, *VERBS):
    app.command()(each)
app.command(context_settings=EXTRA)(sweep)
app.command()(compare)
app.command()(export)
app.command("import")(import_)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders; one page shows them all.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "brainlens report",
    template: Annotated[str, typer.Option(help=TEMPLATE)] = "",
) -> None:
    """One self-contained HTML page of what was run and found."""
    check_folder(*runs)
    from brainlens.report import build

    typer.echo(f"report: {build(runs, out, title=title, template=template)}")


@app.command()
def figures(
    runs: Annotated[Path, typer.Argument(help="A run folder, or a folder of run folders.")],
    out: Annotated[Path, typer.Option(help="Folder that takes a folder of figures for each run.")] = Path("figures"),
    format_: Annotated[str, typer.Option("--format", help="pdf, svg or png.")] = "pdf",
    dpi: Annotated[int, typer.Option(help="Dots per inch of PNG, and of pictures inside PDF and SVG.", min=20, max=1200)] = 300,
    template: Annotated[str, typer.Option(help=TEMPLATE)] = "",
) -> None:
    """Every figure of a run as a file of its own, for a paper or a talk."""
    check_folder(runs)
    from brainlens.report import save_figures

    files, missed = save_figures(runs, out, kind=format_, dpi=dpi, template=template)
    for line in missed:
        typer.echo(f"not drawn: {line}", err=True)
    for file in files:
        typer.echo(file)


def _wait_asleep() -> None:
    """Threads of OpenMP that wait for each other sleep, unless the environment says otherwise; read when torch is loaded.

    By default they spin, and on a machine where others compute the one that is waited for may have no core: a call of the small
    text encoder that takes 20 ms with two sleeping threads took more than 2 s at a load of 5 on two cores. Sums are the same.
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def main() -> None:
    """Entry point: a mistake of the user is one line and exit code 2, an interruption leaves a run that goes on (130)."""
    warnings.formatwarning = _warning_line  # of other libraries
    HANDLER.setFormatter(logging.Formatter("warning: %(message)s"))  # beside "error: ..."
    _wait_asleep()
    try:
        _check_processes(sys.argv[1:])
        code = _only(sys.argv[1:])(standalone_mode=False)
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


TRAINED = ("align", "encode", "reconstruct")  # whose trainings several processes share


def _check_processes(arguments: list[str]) -> None:
    """Raises DataError for a command in several processes that would do the same work in each of them."""
    name = next((text for text in arguments if not text.startswith("-")), "")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and name not in TRAINED:
        from brainlens.types import DataError

        raise DataError(f"{name or 'brainlens'} runs in one process; torchrun is for {', '.join(TRAINED)}, sweep for many runs")


def _only(arguments: list[str]) -> Any:
    """The command line with the one command that is called, so that the options of the others need not be made; with all where it
    is none of them. `app` holds every command all the time, for commands that call others."""
    from typer.main import get_command

    name = next((text for text in arguments if not text.startswith("-")), "")
    every = app.registered_commands
    app.registered_commands = [one for one in every if (one.name or str(getattr(one.callback, "__name__", ""))) == name] or every
    try:
        return get_command(app)
    finally:
        app.registered_commands = every


def _warning_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as one line, without the line of code that it comes from."""
    return f"warning: {' '.join(str(message).split())}\n"


def _mistake(error: Exception) -> str | None:
    """What to tell the user about a mistake in the command line, the data or the folders; None for a fault of ours."""
    from brainlens.types.errors import DataError

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
