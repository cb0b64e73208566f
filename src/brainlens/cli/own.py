"""Commands for one's own data: `brainlens example` and `brainlens check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brainlens.cli.options import DATA, Option, Seed, parsed
from brainlens.cli.terminal import show


def example(
    layout: Annotated[str, typer.Argument(help="folder, epochs or bids.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    seed: Seed = 0,
) -> None:
    """Writes a small working example of a layout: drawn scenes and a simulated brain."""
    from brainlens.datasets.examples import next_commands, write_example

    files = write_example(layout, out, seed=seed)
    typer.echo(f"{len(files)} files in {out}\n\nTry next:")
    for command in next_commands(layout, out):
        typer.echo(f"  {command}")


def check(
    data: Annotated[Path, typer.Argument(help="Folder of the recording.")],
    dataset: Annotated[
        str | None, typer.Option(help="Name of the recording or layout; default: seen from its files.", rich_help_panel=DATA)
    ] = None,
    option: Option = None,
    out: Annotated[Path | None, typer.Option(help="The page to write. Default: DATA-check.html beside the folder.")] = None,
    seal: Annotated[
        bool, typer.Option("--seal", help="Write a manifest of SHA-256 that is held against the files whenever they are read.")
    ] = False,
) -> None:
    """Audits a recording: counts, leakage by id and by pixels, missing values, units, order, space; a table and a page."""
    from brainlens.datasets import recognised
    from brainlens.datasets.audit import audit
    from brainlens.datasets.sealed import seal_folder
    from brainlens.report.audit_page import write_page

    name = dataset if dataset is not None else recognised(data)
    findings = audit(name, data, parsed(name, option))
    show([finding.row() for finding in findings], f"check: {data} as {name}")
    place = write_page(
        findings, name, data, out if out is not None else data.resolve().with_name(f"{data.resolve().name}-check.html")
    )
    typer.echo(f"page: {place}")
    if any(finding.level == "error" for finding in findings):
        if seal:
            typer.echo("not sealed: there are errors; mend them first", err=True)
        raise typer.Exit(code=2)
    if seal:
        note, count = seal_folder(data)
        typer.echo(f"sealed: {count} files in {note}")
