"""Several sets of captions for the same images: kept as columns of the table of stimuli, and one JSON file a source.

A source is one way to describe every image: people, one captioner, another one. Beside the captions that a recording
comes with (`Stimuli.captions`, the source "own"), the column `captions/NAME` of the table holds the lists of source NAME, so
that `take` and joins carry them along. `choose_source` makes one of them the captions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brainlens import store
from brainlens.types import DataError, Stimuli, as_captions

OWN = "own"
COLUMN = "captions/"
FORMAT = 1


@dataclass(frozen=True)
class CaptionSource:
    """The captions of one source by stimulus id, its name, and facts: model, prompt, counts."""

    name: str
    captions: dict[str, list[str]]
    facts: dict[str, Any] = field(default_factory=dict)


def source_names(stimuli: Stimuli) -> list[str]:
    """The sources that these stimuli carry; "own" first, where the recording comes with captions."""
    own = [OWN] if any(stimuli.captions) else []
    return own + [str(c).removeprefix(COLUMN) for c in stimuli.table.columns if str(c).startswith(COLUMN)]


def captions_of(stimuli: Stimuli, name: str) -> list[list[str]]:
    """The captions of one source, one list an image. Raises DataError listing the sources that there are."""
    if name not in source_names(stimuli):
        there = ", ".join(source_names(stimuli)) or "none"
        raise DataError(f"caption source {name!r} is not available; available: {there}; `brainlens captions` makes others")
    return list(stimuli.captions) if name == OWN else [list(each) for each in stimuli.table[COLUMN + name]]


def with_source(stimuli: Stimuli, source: CaptionSource) -> Stimuli:
    """The stimuli with one more source. Raises DataError where an image has no captions there, or the name is taken."""
    if source.name in (*source_names(stimuli), OWN):
        raise DataError(f"caption source {source.name!r} exists already; give it another name")
    missing = [str(name) for name in stimuli.ids if name not in source.captions]
    if missing:
        some = next(iter(source.captions), "nothing")
        raise DataError(
            f"captions {source.name!r}: {len(missing)} of {len(stimuli)} images have none, first {missing[0]!r}; "
            f"the source knows ids such as {some!r}"
        )
    table = stimuli.table.copy()
    table[COLUMN + source.name] = [list(source.captions[name]) for name in stimuli.ids]
    return replace(stimuli, table=table)


def choose_source(stimuli: Stimuli, name: str) -> Stimuli:
    """The stimuli whose captions are those of one source."""
    return replace(stimuli, captions=captions_of(stimuli, name))


def count_captions(captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Captions in all, empty ones, repetitions within an image, and captions that stand at more than one image (`shared`)."""
    tidy = [[" ".join(c.split()) for c in several] for several in captions]
    kept = [[c for c in dict.fromkeys(texts) if c] for texts in tidy]
    owners = Counter(c for texts in kept for c in texts)
    full = sum(bool(c) for texts in tidy for c in texts)
    every = sum(map(len, tidy))
    repeated, shared = full - sum(map(len, kept)), sum(n for n in owners.values() if n > 1)
    return {"all": every, "empty": every - full, "repeated": repeated, "shared": shared}


def clean_captions(captions: Sequence[Sequence[str]], ids: Iterable[str]) -> tuple[list[list[str]], dict[str, int]]:
    """Captions without empty ones and without repetitions within an image, and the counts of `count_captions`.

    Captions shared by several images stay, and no retrieval can tell their images apart. Raises DataError for an image with
    no caption left while others have some, and for what is not text.
    """
    names = list(ids)
    captions = [as_captions(given, f"stimulus {str(name)!r}") for name, given in zip(names, captions, strict=True)]
    out = [[c for c in dict.fromkeys(" ".join(c.split()) for c in several) if c] for several in captions]
    bare = [str(name) for name, kept in zip(names, out, strict=True) if not kept]
    if bare and len(bare) < len(out):
        raise DataError(
            f"captions: {len(bare)} of {len(out)} images have none that is not empty, first {bare[0]!r}; "
            "write one, take another caption source, or none at all: --captions none"
        )
    return out, count_captions(captions)


def save_captions(path: str | Path, source: CaptionSource) -> Path:
    """Writes a source as one JSON file."""
    path = Path(path)
    content = {"format": FORMAT, "name": source.name, "facts": source.facts, "captions": source.captions}
    store.save_json(path, content)
    return path


def read_captions(path: str | Path) -> CaptionSource:
    """A source from a JSON file: of `brainlens captions`, or {id: caption or captions}, named after the file.

    Raises DataError for another format or what is not texts by id.
    """
    path = Path(path)
    content = store.read_json(path)
    plain = isinstance(content, Mapping) and content and not {"format", "captions"} & set(content)
    content = {"format": FORMAT, "name": path.stem, "captions": content} if plain else content
    found = content.get("captions") if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not a file of captions of this version; `brainlens captions` writes one")
    facts = content.get("facts")
    try:
        captions = {str(name): as_captions(given, f"{name!r}") for name, given in found.items()}
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return CaptionSource(str(content.get("name", path.stem)), captions, dict(facts) if isinstance(facts, Mapping) else {})
