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
from brainlens.datasets import DEFAULT, check_kind

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
    preset: Annotated[str, typer.Option(help="default or paper (as published); see docs.", rich_help_panel=WORDS)] = "default",
    top: Annotated[
        int | None, typer.Option(help="Strongest pictures whose captions give candidates.", rich_help_panel=WORDS)
    ] = None,
    pictures: Annotated[int | None, typer.Option(help="Pictures of each noun in the bank.", rich_help_panel=WORDS)] = None,
    tagger: Annotated[str | None, typer.Option(help="lexicon, spacy or spacy:MODEL.", rich_help_panel=WORDS)] = None,
    concreteness: Annotated[
        Path | None, typer.Option(help="Table of norms (Word, Conc.M); abstract nouns are dropped.", rich_help_panel=WORDS)
    ] = None,
    bank: Annotated[str, typer.Option(help="real (training pictures by noun) or diffusion.", rich_help_panel=WORDS)] = "real",
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
        bool, typer.Option("--crops", help="Add crops of the strongest pictures as candidates.", rich_help_panel=WORDS)
    ] = False,
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
    from brainlens.describe.run import Asked, run_describe
    from brainlens.describe.run import preset as settings

    if words:
        without(context, PICTURES, "--words reads category names and no pictures")
    if bank != "diffusion":
        without(context, DRAWN, "only --bank diffusion draws pictures")
    if "captioner" in given(context) and not crops:
        without(context, ("captioner",), "it captions the crops of --crops, which is not given")
    if "sentences" in given(context) and model in (None, "miniature"):
        without(context, ("sentences",), "the miniature is a CLIP and has texts of its own; it belongs to a classifier (--model)")
    design = settings(preset)
    typed: dict[str, Any] = {"top": top, "pictures": pictures, "tagger": tagger, "permutations": permutations}
    typed["concreteness"] = None if concreteness is None else str(concreteness)
    design = replace(design, **{name: value for name, value in typed.items() if value is not None})
    design = replace(design, layers=tuple(layer)) if layer else design
    asked = Asked(design, bank, diffusion, crops=crops, captioner=captioner, sentences=sentences, words=words)
    asked = replace(asked, prompt=prompt) if prompt is not None else asked
    asked = replace(asked, steps=drawing_steps) if drawing_steps is not None else asked
    asked = replace(asked, guidance=drawing_guidance) if drawing_guidance is not None else asked
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
