"""`brainlens decode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brainlens.cli.options import DATA, MODEL, Again, Data, Option, Runs, Seed, check_named, parsed
from brainlens.cli.terminal import carry_out
from brainlens.datasets import DEFAULT_EPOCHS, check_kind


def decode(
    context: typer.Context,
    dataset: Annotated[
        str, typer.Option(help="A recording of EEG or MEG that can be cut.", rich_help_panel=DATA)
    ] = DEFAULT_EPOCHS,
    data: Data = None,
    option: Option = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="A channel by another name, OLD=NEW; repeat for several.", rich_help_panel=DATA)
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(help="Subject; repeat for several and their mean. Default: the first.", rich_help_panel=DATA),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Column that is told apart. Default: condition, category or stimulus.", rich_help_panel=MODEL),
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds that are averaged. Default: every sample alone.", rich_help_panel=MODEL)
    ] = None,
    folds: Annotated[int, typer.Option(help="Stratified folds where trials have no run.", rich_help_panel=MODEL)] = 5,
    permutations: Annotated[int, typer.Option(help="Shuffles of the labels.", rich_help_panel=MODEL)] = 1000,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    again: Again = False,
) -> None:
    """Which condition was it, and when: cross-validated AUC at every time with chance, interval and permutation p, EEG or MEG."""
    from dataclasses import asdict

    check_named(context)
    check_kind(dataset, "decode", ("EEG", "MEG"))
    texts = [*(option or []), *([f"rename={','.join(rename)}"] if rename else [])]
    given_options = parsed(dataset, texts)

    from brainlens.datasets.source import Source
    from brainlens.encode.run_decode import run_decode
    from brainlens.encode.time_decoding import OverTime

    source = Source(dataset, data, options=given_options)
    people = tuple(subject or ())
    how = OverTime(window=window, folds=folds, permutations=permutations)

    carry_out(
        "decode", runs, {**source.config(), "target": target, "subject": list(people), "how": asdict(how), "seed": seed},
        lambda tell: run_decode(source, runs, target=target, subjects=people, options=how, seed=seed, tell=tell),
        title=f"decode: {dataset}", shorter="fewer --permutations, or a --window", data=source.folder, again=again,
    )  # fmt: skip
