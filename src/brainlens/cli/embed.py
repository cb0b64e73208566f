"""`brainlens embed`: new recordings through the model that an align run kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from brainlens.cli.attribute import note_of
from brainlens.cli.options import DATA, Again, Data, Device, Runs, Subjects, check_named, check_runs
from brainlens.cli.terminal import carry_out


def embed(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a finished align run.")],
    dataset: Annotated[
        str | None, typer.Option(help="Another recording. Default: that of the run.", rich_help_panel=DATA)
    ] = None,
    data: Data = None,
    subject: Subjects = None,
    runs: Runs = Path("runs"),
    device: Device = "cpu",
    again: Again = False,
) -> None:
    """Embeddings of new recordings by the model of an align run: of the mean response to each image; of each epoch of a file."""
    check_runs(run)
    check_named(context)
    from brainlens import datasets, store
    from brainlens.align.embed import embed_volume_run
    from brainlens.align.embed_sensors import embed_sensor_run
    from brainlens.attribute.run_sensors import is_sensor_run
    from brainlens.datasets.runs import source_of
    from brainlens.datasets.source import Source

    source = source_of(store.load_result(run))
    if dataset is not None:
        datasets.module(dataset)
        source = Source(dataset, data, source.model, n_train=source.n_train, n_test=source.n_test, seed=source.seed)
    if subject:
        source = replace(source, subjects=tuple(subject))

    embed_run = embed_sensor_run if is_sensor_run(run) else embed_volume_run
    carry_out(
        "embed", runs, {**source.config(), "device": device, "run": note_of(run)},
        lambda tell: embed_run(run, runs, source=source, device=device, tell=tell),
        title=f"embed: {source.dataset}", data=source.folder, again=again,
    )  # fmt: skip
