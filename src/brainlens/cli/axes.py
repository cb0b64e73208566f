"""The pieces of a sweep from a command line or a table: every combination of the options that were given several values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brainlens.types import DataError, read_text

RANGE = re.compile(r"(\d+)\.\.(\d+)")
PARTS = "--parts"  # of the units, each piece one


def axes(words: Sequence[str]) -> dict[str, list[str | None]]:
    """Options with their values, in the order of their first mention; None is the value of a flag.

    `--subject 1..3` is 1, 2, 3; `--parts 4` is `--part 1/4` to `--part 4/4`; an option that comes again adds a value.
    Raises DataError for a word that belongs to no option and for an axis without values.
    """
    found: dict[str, list[str | None]] = {}
    rest = list(words)
    while rest:
        name = rest.pop(0)
        if not name.startswith("--") or len(name) < 3:
            raise DataError(f"sweep: {name!r} belongs to no option; write --name value, several values as --name a --name b")
        name, sign, given = name.partition("=")
        value: str | None = given if sign else None
        if not sign and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        if value is not None and not value.strip():
            raise empty_axis(name)
        found.setdefault(name, []).extend(_values(name, value))
    if PARTS in found:
        found["--part"] = [part for text in found.pop(PARTS) for part in _parts(text)]
    for name, values in found.items():
        if len(set(values)) < len(values):
            raise DataError(f"sweep: {name} has a value twice: {values}")
    return found


def empty_axis(name: str) -> DataError:
    """The error of an option that takes values and was given none."""
    return DataError(f"sweep: {name} is an axis without values; write {name} VALUE, or leave {name} out")


def _values(name: str, value: str | None) -> list[str | None]:
    between = RANGE.fullmatch(value or "")
    if between is None:
        return [value]
    first, last = int(between[1]), int(between[2])
    if last < first:
        raise DataError(f"sweep: {name} {value} is an axis without values; write the smaller number first")
    return [str(number) for number in range(first, last + 1)]


def _parts(text: str | None) -> list[str]:
    if text is None or not text.isdecimal() or int(text) < 1:
        raise DataError(f"sweep: --parts {text} is not a whole number above 0; it is the number of parts of the units")
    return [f"{k}/{text}" for k in range(1, int(text) + 1)]


def combinations(found: Mapping[str, Sequence[str | None]]) -> list[list[tuple[str, str | None]]]:
    """Every combination of one value of each option."""
    if not found:
        return [[]]
    return [list(zip(found, values, strict=True)) for values in itertools.product(*found.values())]


def table_pieces(path: Path) -> list[list[tuple[str, str | None]]]:
    """One piece a row of a .csv or .tsv: columns are options without their dashes, `a;b` gives an option twice in one piece.

    An empty cell leaves the option out; a flag's cell is "yes". Raises DataError for an empty table and a column without name.
    """
    import csv

    if not path.is_file():
        raise DataError(f"sweep: the table {path} is missing")
    lines = read_text(path).splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))
    if not rows:
        raise DataError(f"sweep: {path} has no row; a row is a piece, a column an option (subject, model, seed, ...)")
    pieces = []
    for number, row in enumerate(rows, start=2):
        if None in row or "" in row or None in row.values():
            raise DataError(f"sweep: line {number} of {path} has another number of cells than the header")
        piece: list[tuple[str, str | None]] = []
        for name, cell in row.items():
            option = "--" + name.strip().removeprefix("--").replace("_", "-")
            values: list[Any] = [None] if cell.strip() == "yes" else [v.strip() for v in cell.split(";") if v.strip()]
            piece += [(option, value) for value in values]
        pieces.append(piece)
    return pieces


def command_line(verb: str, piece: Sequence[tuple[str, str | None]]) -> list[str]:
    """The words after `brainlens` that run a piece."""
    return [verb, *(word for name, value in piece for word in ((name,) if value is None else (name, value)))]
