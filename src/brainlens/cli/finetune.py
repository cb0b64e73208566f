"""`brainlens finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brainlens.cli.options import DATA, OUTPUT, TRAINING, Device, Seed, a_network
from brainlens.cli.terminal import show, steps


def finetune(
    model: Annotated[
        str,
        typer.Argument(help="Vision network: a local folder or a hub name; miniature is the shipped CLIP.", callback=a_network),
    ],
    images: Annotated[Path, typer.Option(help="Folder of pictures.", rich_help_panel=DATA)],
    labels: Annotated[Path, typer.Option(help="CSV with the columns file and label.", rich_help_panel=DATA)],
    out: Annotated[Path, typer.Option(help="Model folder to write.", rich_help_panel=OUTPUT)],
    steps_: Annotated[int, typer.Option("--steps", help="Training steps.", rich_help_panel=TRAINING)] = 3000,
    lr: Annotated[float, typer.Option(help="Step size of AdamW.", rich_help_panel=TRAINING)] = 3e-5,
    batch: Annotated[int, typer.Option(help="Pictures a step.", rich_help_panel=TRAINING)] = 32,
    per_class: Annotated[int, typer.Option(help="Training pictures of a class at most.", rich_help_panel=TRAINING)] = 50,
    held: Annotated[float, typer.Option(help="Share of each class that is tested.", rich_help_panel=TRAINING)] = 0.2,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Trains a network further on labelled pictures; `encode --model BEFORE --model AFTER` shows what moved on the brain."""
    from brainlens.backbones.fine_tuning import FineTuning, fine_tune, read_labels
    from brainlens.backbones.layers import network_path
    from brainlens.datasets.source import check_device, picture_folder

    check_device(device)
    settings = FineTuning(steps_, lr, batch, per_class=per_class, held=held, seed=seed)
    stimuli = picture_folder(images)
    names = read_labels(labels, stimuli)
    with steps(shorter="--steps N") as tell:
        found = fine_tune(network_path(model), stimuli, names, out, settings=settings, device=device, tell=tell)
    rows = [{"score": key, "value": value} for key, value in found.scores.items() if not key.endswith((".low", ".high", ".n"))]
    for row in rows:
        low, high = (found.scores.get(f"{row['score']}{end}") for end in (".low", ".high"))
        row["95 % interval"] = "" if low is None or high is None else f"{low:.3g} to {high:.3g}"
    show(rows, f"finetune: {model}, {len(found.classes)} classes")
    typer.echo(f"model folder: {out}\nNext: brainlens encode --model {model} --model {out}")
