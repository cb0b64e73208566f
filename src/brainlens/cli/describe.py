"""`brainlens describe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.cli.options import (
    DATA,
    MODEL,
    Again,
    Captions,
    Data,
    Dataset,
    Device,
    Layer,
    Model,
    Option,
    Runs,
    Seed,
    Test,
    Train,
    check_source,
    given,
    parsed,
    without,
)  # fmt: skip
from brainlens.cli.terminal import carry_out
from brainlens.datasets import DEFAULT, check_kind, simulated

WORDS = "Words"
PICTURES = (  # what does not apply to category names alone
    *("model", "layer", "captions", "preset", "top", "pictures", "tagger", "concreteness", "bank", "diffusion", "prompt"),
    *("drawing_steps", "drawing_guidance", "crops", "captioner", "sentences", "permutations"),
)
DRAWN = ("diffusion", "prompt", "drawing_steps", "drawing_guidance")


def describe(
    context: typer.Context,
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    model: Model = None,
    layer: Layer = None,
    captions: Captions = None,
    words: Annotated[
        bool,
        typer.Option("--words", help="Category names alone: words per region from betas, no pictures.", rich_help_panel=WORDS),
    ] = False,
    preset: Annotated[
        str, typer.Option(help="default, paper or released (as published; as its code); see docs.", rich_help_panel=WORDS)
    ] = "default",
    top: Annotated[
        int | None, typer.Option(help="Strongest pictures whose captions give candidates.", rich_help_panel=WORDS)
    ] = None,
    pictures: Annotated[int | None, typer.Option(help="Pictures of each noun in the bank.", rich_help_panel=WORDS)] = None,
    tagger: Annotated[str | None, typer.Option(help="lexicon, spacy or spacy:MODEL.", rich_help_panel=WORDS)] = None,
    concreteness: Annotated[
        Path | None, typer.Option(help="Table of norms (Word, Conc.M); abstract nouns are dropped.", rich_help_panel=WORDS)
    ] = None,
    bank: Annotated[
        str | None, typer.Option(help="real (training pictures by noun; default) or diffusion.", rich_help_panel=WORDS)
    ] = None,
    diffusion: Annotated[
        str | None, typer.Option(help="Stable Diffusion folder or hub name; default: the miniature.", rich_help_panel=WORDS)
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt of the bank, {} for the noun. Default: the published one.", rich_help_panel=WORDS),
    ] = None,
    drawing_steps: Annotated[
        int | None, typer.Option("--drawing-steps", help="Steps of the diffusion model.", rich_help_panel=WORDS)
    ] = None,
    drawing_guidance: Annotated[
        float | None, typer.Option("--drawing-guidance", help="Guidance of the diffusion model.", rich_help_panel=WORDS)
    ] = None,
    crops: Annotated[
        bool | None,
        typer.Option("--crops/--no-crops", help="Add crops of the strongest pictures as candidates.", rich_help_panel=WORDS),
    ] = None,
    captioner: Annotated[
        str | None, typer.Option(help="Network that captions the crops: folder, hub name or miniature.", rich_help_panel=WORDS)
    ] = None,
    sentences: Annotated[
        str | None,
        typer.Option(help="Sentence encoder: the classes of --model become a space for baselines.", rich_help_panel=MODEL),
    ] = None,
    permutations: Annotated[int | None, typer.Option(help="Permutations of the test images.", rich_help_panel=WORDS)] = None,
    roi: Annotated[list[str] | None, typer.Option(help="Region to describe; repeat for several.", rich_help_panel=DATA)] = None,
    subject: Annotated[list[str] | None, typer.Option(help="Subject; repeat for several.", rich_help_panel=DATA)] = None,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
    again: Again = False,
) -> None:
    """What each voxel means, in words."""
    from dataclasses import asdict, replace

    check_source(context, dataset)
    check_kind(dataset, "describe", ("fMRI",))
    given_options = parsed(dataset, option)

    from brainlens.datasets.source import Source
    from brainlens.describe.run import preset as settings
    from brainlens.describe.run import run_describe

    if words:
        without(context, PICTURES, "--words reads category names and no pictures")
    base = settings(preset, simulated=simulated(dataset))
    base = replace(base, bank=bank) if bank is not None else base
    base = replace(base, crops=crops, captioner=base.captioner if crops else None) if crops is not None else base
    if base.bank != "diffusion":
        without(context, DRAWN, "only --bank diffusion draws pictures")
        base = replace(base, diffusion=None)
    if not base.crops:
        without(context, ("captioner",), "it captions the crops of --crops, which is not given")
    if "sentences" in given(context) and model in (None, "miniature"):
        without(context, ("sentences",), "the miniature is a CLIP and has texts of its own; it belongs to a classifier (--model)")
    typed: dict[str, Any] = {"top": top, "pictures": pictures, "tagger": tagger, "permutations": permutations}
    typed["concreteness"] = None if concreteness is None else str(concreteness)
    design = replace(base.design, **{name: value for name, value in typed.items() if value is not None})
    design = replace(design, layers=tuple(layer)) if layer else design
    more: dict[str, Any] = {"diffusion": diffusion, "captioner": captioner, "prompt": prompt, "steps": drawing_steps}
    more |= {"guidance": drawing_guidance, "sentences": sentences}
    asked = replace(base, design=design, words=words, **{name: value for name, value in more.items() if value is not None})
    source = Source(
        dataset, data, model, train, test, seed, subjects=tuple(subject or ()), regions=tuple(roi or ()), captions=captions,
        options=given_options,
    )  # fmt: skip

    folders = carry_out(
        "describe", runs, {**source.config(), "asked": asdict(asked), "seed": seed, "device": device},
        lambda tell: run_describe(source, runs, asked, seed=seed, device=device, tell=tell),
        title=f"describe: {dataset}", shorter="--roi, or fewer --permutations", data=source.folder, again=again,
    )  # fmt: skip
    if not words:
        from brainlens.report.words_page import NAME, build_words

        for folder in folders[: len(subject or ()) or 1]:  # behind the subjects stands the run of their agreement
            page = folder / NAME if (folder / NAME).is_file() else build_words(folder)
            typer.echo(f"words: {page}")
