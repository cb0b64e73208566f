"""Nouns of captions, by a tagger: word classes and endings (the default, nothing to fetch) or spaCy.

    LexiconTagger().nouns([["a tennis player hits a ball", ...], ...])  ->  [["player", "tennis player", "ball"], ...]

A tagger gives the nouns of each image's captions; `vocabulary` counts them over images and drops those that say nothing.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from brainlens.stimuli.caption_words import (
    ABLE_NOUNS,
    ADJECTIVES,
    ED_NOUNS,
    FUNCTION,
    GENERAL,
    ING_NOUNS,
    IRREGULAR,
    KEPT_PLURAL,
    S_NOUNS,
    VERBS,
)  # fmt: skip
from brainlens.types import DataError

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\w\s]")
ENDINGS = ("ous", "ful", "ish", "less", "able", "ible")  # of adjectives
TIMES = 2  # how often two words must stand together to be a compound


class Tagger(Protocol):
    """What finds the nouns of captions: singular and in lower case, in order of appearance, for each image."""

    def nouns(self, captions: Sequence[Sequence[str]]) -> list[list[str]]: ...


class LexiconTagger:
    """Nouns by closed word classes: the last word of every noun phrase, and compounds by rule.

    A caption is cut at function words, verbs and punctuation; what stays between two cuts is adjectives and nouns, and its last
    word is the noun. Plurals become singular by rule and a list of exceptions. A compound is the noun with the word before it
    ("tennis player"), if that word is itself the noun of some phrase of these captions, or the two stand together in at least
    `times` images with the first word before no other noun; so no list of compounds is needed. times=0: no compounds.

    Captions in a script without upper and lower case give what stands between spaces; those without a letter give nothing.
    Raises DataError for a caption that is no text.
    """

    def __init__(self, times: int = TIMES) -> None:
        self.times = times

    def nouns(self, captions: Sequence[Sequence[str]]) -> list[list[str]]:
        """The distinct nouns of each image's captions; compounds need all captions of the vocabulary at once."""
        phrases = [[phrase for caption in several for phrase in noun_phrases(caption)] for several in captions]
        heads = Counter(noun for several in phrases for noun in {phrase[-1] for phrase in several})
        pairs = Counter(pair for several in phrases for pair in {tuple(p[-2:]) for p in several if len(p) > 1})
        after: dict[str, set[str]] = {}
        for first, second in pairs:
            after.setdefault(first, set()).add(second)
        found = []
        for several in phrases:
            names: list[str] = []
            for phrase in several:
                names.append(phrase[-1])
                pair = tuple(phrase[-2:])
                often = len(pair) > 1 and self.times > 0 and pairs[pair] >= self.times
                if often and (heads[pair[0]] > 0 or len(after[pair[0]]) == 1):
                    names.append(" ".join(pair))
            found.append(list(dict.fromkeys(names)))
        return found


class SpacyTagger:
    """Nouns by a spaCy pipeline: tokens tagged NOUN, by lemma, and compounds by its dependency "compound".

    model: a folder or the name of an installed pipeline, such as en_core_web_sm. Raises DataError without spaCy or the model.
    """

    def __init__(self, model: str | Path = "en_core_web_sm") -> None:
        try:
            import spacy
        except ImportError:
            raise DataError("spaCy is not installed; `pip install spacy`, or use the lexicon tagger") from None
        try:
            self._pipeline: Any = spacy.load(model)
        except OSError as error:
            said = " ".join(str(error).split())[:120]
            raise DataError(f"spaCy pipeline {str(model)!r} cannot be loaded ({said}); give the folder of one") from None

    def nouns(self, captions: Sequence[Sequence[str]]) -> list[list[str]]:
        """The distinct nouns of each image's captions."""
        out = []
        for several in captions:
            names: list[str] = []
            for document in self._pipeline.pipe([_checked(c) for c in several]):
                for token in document:
                    if token.pos_ != "NOUN" or not token.is_alpha:
                        continue
                    names.append(token.lemma_.lower())
                    names += [f"{c.lemma_} {token.lemma_}".lower() for c in token.children if c.dep_ == "compound"]
            out.append(list(dict.fromkeys(names)))
        return out


def tagger(name: str = "lexicon") -> Tagger:
    """The tagger of a name: "lexicon", "spacy", or "spacy:MODEL". Raises DataError for another one."""
    kind, _, model = name.partition(":")
    if kind == "lexicon" and not model:
        return LexiconTagger()
    if kind == "spacy":
        return SpacyTagger(model or "en_core_web_sm")
    raise DataError(f"tagger {name!r} is not lexicon, spacy or spacy:MODEL")


def noun_phrases(caption: str) -> list[list[str]]:
    """The noun phrases of a caption, each the words up to its noun (singular), adjectives left out."""
    phrases: list[list[str]] = []
    current: list[str] = []
    for token in [*WORD.findall(_checked(caption).lower().replace("’", "'")), "."]:
        word = token.removesuffix("'s")
        if _cuts(word, bool(current)):
            if current:
                phrases.append([*current[:-1], singular(current[-1])])
            current = []
        elif not _describes(word):
            current.append(word)
    return phrases


def singular(word: str) -> str:
    """The singular of a noun by rule: "berries" -> "berry", "boxes" -> "box", "dogs" -> "dog"."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in S_NOUNS or word in KEPT_PLURAL or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1]


@dataclass(frozen=True)
class Vocabulary:
    """nouns, sorted; present (image, noun) bool; dropped: noun -> why ("general", "abstract", "rare"); without: images that
    have captions but no noun."""

    nouns: tuple[str, ...]
    present: np.ndarray
    dropped: dict[str, str]
    without: int


def vocabulary(
    found: Sequence[Sequence[str]],
    *,
    least: int = 2,
    concreteness: Mapping[str, float] | None = None,
    least_concrete: float = 4.0,
    drop: Collection[str] = GENERAL,
) -> Vocabulary:
    """The vocabulary of the nouns of each image.

    least: images that a noun must be in; drop: nouns that say how many or where, not what; concreteness: a rating of 1 to 5 by
    word (see `read_concreteness`); nouns below least_concrete go, a compound by its last word, unknown words stay.
    Raises DataError where nothing is left.
    """
    counts = Counter(noun for several in found for noun in set(several))
    why: dict[str, str] = {}
    for noun, n in counts.items():
        rating = None if concreteness is None else concreteness.get(noun, concreteness.get(noun.split()[-1]))
        if noun in drop or noun.split()[-1] in drop:
            why[noun] = "general"
        elif rating is not None and rating < least_concrete:
            why[noun] = "abstract"
        elif n < least:
            why[noun] = "rare"
    nouns = tuple(sorted(set(counts) - set(why)))
    if not nouns:
        raise DataError(
            f"captions: none of {len(counts)} nouns is in {least} images or more and says what is seen; give more captions, or "
            "least=1"
        )
    return Vocabulary(nouns, presence(found, nouns), dict(sorted(why.items())), sum(not several for several in found))


def presence(found: Sequence[Sequence[str]], nouns: Sequence[str]) -> np.ndarray:
    """Which image names which noun: (image, noun) bool, from the nouns of each image."""
    number = {noun: i for i, noun in enumerate(nouns)}
    present = np.zeros((len(found), len(nouns)), dtype=bool)
    for row, several in enumerate(found):
        present[row, [number[noun] for noun in several if noun in number]] = True
    return present


def read_concreteness(path: str | Path) -> dict[str, float]:
    """Concreteness by word from a table with the columns `Word` and `Conc.M`, as Brysbaert et al. 2014 give it (.csv or .csv.gz).

    Raises DataError for a file without these columns.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: concreteness cannot be read ({' '.join(str(error).split())[:80]})") from None
    names = {str(key).strip().lower(): key for key in (rows[0] if rows else {})}
    word, value = (
        next((names[n] for n in wanted if n in names), None) for wanted in (("word",), ("conc.m", "concreteness", "brysbaert"))
    )
    if word is None or value is None:
        raise DataError(f"{path}: columns Word and Conc.M are needed, there are {sorted(names)}")
    return {row[word].strip().lower(): float(row[value]) for row in rows if row[word] and row[value]}


def _checked(caption: Any) -> str:
    if not isinstance(caption, str):
        raise DataError(f"captions: expected text, got {type(caption).__name__} {caption!r:.60}")
    return unicodedata.normalize("NFC", caption)


def _cuts(word: str, inside: bool) -> bool:
    """Whether a word ends a noun phrase and is no part of one; inside: a noun phrase has begun."""
    if not word[:1].isalpha() or word in FUNCTION:
        return True
    if word in VERBS:
        return inside or not word.endswith("s")
    return word.endswith("ing") and len(word) > 4 and word not in ING_NOUNS and inside


def _describes(word: str) -> bool:
    """Whether a word inside a phrase is an adjective, an adverb or a participle."""
    if word in ADJECTIVES or (word.endswith(ENDINGS) and word not in ABLE_NOUNS):
        return True
    if word.endswith("ed") and len(word) > 3:
        return word not in ED_NOUNS
    return word.endswith("ing") and len(word) > 4 and word not in ING_NOUNS
