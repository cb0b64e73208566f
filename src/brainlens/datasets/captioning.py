"""Captions of a recording's images by a network, and a table of how good each source of captions is under a CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.backbones import captioner, clip
from brainlens.datasets.runs import keep
from brainlens.datasets.source import Source, Tell, check_device, chosen_captions, network_folder, open_stimuli
from brainlens.stimuli.captions import (
    CaptionSource,
    captions_of,
    clean_captions,
    count_captions,
    read_captions,
    save_captions,
    source_names,
    with_source,
)
from brainlens.types import DataError, Result


def run_captions(
    source: Source,
    out: str | Path,
    *,
    model: str,
    name: str | None = None,
    images: str | Path | None = None,
    prompt: str | None = None,
    known: str | None = None,
    device: str = "cpu",
    tell: Tell,
) -> tuple[Path, list[dict[str, Any]]]:
    """Captions every image with a vision-language model into `out/NAME.json`; returns the file and what was counted.

    known: a source of captions, as `Source.captions`, that the captioner is told of each image (`captioner.prompts_with`), as in
    App. D.2 of the whole-brain paper. NAME is that of the captioner, with known captions NAME_with_SOURCE, unless given.

    source.model names the CLIP whose text encoder will read the captions: tokens are counted against its limit. Captions
    are noted one by one in `out/NAME/log.jsonl`, and the same call after a stop goes on from them.
    """
    check_device(device)
    store.check_writable(out)
    stimuli = open_stimuli(source, images)
    captions = None
    if known is not None:  # a source that is not there ends here, before the network is loaded
        captions = clean_captions(chosen_captions(stimuli, known).captions, stimuli.ids)[0]
    tell("loading the captioner", None)
    network = captioner.load_captioner(model, device=device)
    prompts = None if captions is None else captioner.prompts_with(network, captions, prompt)
    reader = clip.load_clip(network_folder(source))
    name = name or network.name + ("" if known is None else f"_with_{Path(known).stem}")
    out = Path(out)
    made: list[str] = []
    with store.lock(out / name):
        for start in range(0, len(stimuli), 32):
            tell(f"captions by {network.name}", start / len(stimuli))
            part = stimuli.take(stimuli.ids[start : start + 32])
            asked = prompt if prompts is None else prompts[start : start + 32]
            made += captioner.caption_images(network, part, prompt=asked, folder=out / name)
    counts = counted(reader, [[c] for c in made])
    default = captioner.default_prompt(network) if known is None else captioner.WITH_CAPTIONS
    facts = {"model": network.name, "files": network.files, "prompt": prompt or default, **counts, "reader": reader.backbone.name}
    facts |= {} if known is None else {"with_captions": known}
    found = {str(i): [c] for i, c in zip(stimuli.ids, made, strict=True)}
    place = save_captions(out / f"{name}.json", CaptionSource(name, found, facts))
    return place, [{"what": key, "captions": value} for key, value in counts.items()]


def counted(reader: clip.Clip, captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """The counts of captions, and how many tokens they have against the limit of a text encoder, which cuts the rest."""
    flat = [c for several in captions for c in several if c.strip()]
    tokens = clip.token_counts(reader, flat) if flat else np.zeros(1, np.int64)
    length = {"cut": int((tokens > reader.max_tokens).sum()), "most_tokens": int(tokens.max()), "limit": reader.max_tokens}
    return count_captions(captions) | length


def run_caption_scores(
    source: Source,
    out: str | Path,
    *,
    files: Sequence[str | Path] = (),
    images: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> tuple[Path, list[dict[str, Any]]]:
    """How well images and captions of every source find each other under one CLIP, stored as a run (the paper's Fig. 11).

    files: sources made by `run_captions`, beside those that the recording carries. Where an image has several captions,
    they are scored together (mean embedding) and the first alone, and the source is held against itself too.
    """
    check_device(device)
    store.check_writable(out)
    stimuli = open_stimuli(source, images)
    if images is not None:
        source = replace(source, dataset="pictures", folder=Path(images))  # what the run folder remembers
    for file in files:
        stimuli = with_source(stimuli, read_captions(file))
    names = source_names(stimuli)
    if not names:
        raise DataError("captions: these stimuli carry no captions; make some with `brainlens captions --captioner MODEL` first")
    reader = clip.load_clip(network_folder(source), device=device)
    tell("retrieval between images and captions", None)
    sources = {name: clean_captions(captions_of(stimuli, name), stimuli.ids)[0] for name in names}
    table = captioner.caption_quality(reader, stimuli, sources, seed=seed)
    metrics: dict[str, float] = {"captions/images": float(len(stimuli))}
    for row in table.to_dict("records"):
        for way in ("source->gallery", "gallery->source"):
            query, gallery = (row["source"], row["gallery"])[:: 1 if way == "source->gallery" else -1]
            metrics |= {f"captions/{query}->{gallery}/{k.split('/')[1]}": v for k, v in row.items() if k.startswith(f"{way}/")}
    for name in names:
        metrics |= {f"captions/{name}/{k}": float(v) for k, v in counted(reader, captions_of(stimuli, name)).items()}
    config = {"clip": reader.backbone.name, "sources": names, "images": None if images is None else str(images), "seed": seed}
    result = Result("captions", metrics, tables={"caption_quality": table}, config=config)
    return keep(replace(result, provenance=store.provenance(seed, device, [], store.Start())), out, source), _shown(table)


def _shown(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for row in table.to_dict("records"):
        for way in ("source->gallery", "gallery->source"):
            query, gallery = (row["source"], row["gallery"])[:: 1 if way == "source->gallery" else -1]
            rows.append(
                {
                    "query -> gallery": f"{query} -> {gallery}",
                    "top 1": f"{row[f'{way}/top1']:.3f} ({row[f'{way}/top1.low']:.3f} to {row[f'{way}/top1.high']:.3f})",
                    "chance": f"{row[f'{way}/chance1']:.3f}",
                    "top 5": f"{row[f'{way}/top5']:.3f} ({row[f'{way}/top5.low']:.3f} to {row[f'{way}/top5.high']:.3f})",
                    "n": str(row["n"]),
                    "cut": str(row["cut"]),
                }
            )
    return rows
