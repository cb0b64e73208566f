"""Tables of text files: every cell a text, so that "001" stays "001", with columns that must be there."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from brainlens.types import DataError, read_text

EMPTY = ("", "n/a")  # cells of events at which nothing was seen, as BIDS writes them


def read_table(path: str | Path, needed: Sequence[str] = (), known: Sequence[str] = ()) -> pd.DataFrame:
    """A table of texts from .csv (commas, or semicolons where the first line has no comma) or .tsv (tabs), blanks cut off.

    needed, known: columns that must be there, and those that mean something where they are; both are found in capitals too
    (`Split` is split), as they would be passed over without a word. Other columns keep their names.
    Raises DataError for a missing or empty file, rows of another length, a column twice, and a needed column that is missing.
    """
    path = Path(path)
    text = unicodedata.normalize("NFC", read_text(path))  # one spelling of a name is one id, whatever wrote it
    first = text.lstrip().split("\n", 1)[0]
    if not first.strip():
        raise DataError(f"{path} is empty; its first line names the columns")
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
    blank = mark in first  # in a table of one column an empty line is an empty cell: a voxel without a region
    try:
        rows = pd.read_csv(
            io.StringIO(text.strip("\r\n")), sep=mark, dtype=str, header=None, keep_default_na=False, skip_blank_lines=blank
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is not a table ({' '.join(str(error).split())}); each line has the cells of the first") from None
    names = _as_known([str(name).strip() for name in rows.iloc[0]], [*needed, *known])
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} comes twice; name each column once")
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(names)}; rename the one that is meant")
    table = rows.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    return table.apply(lambda column: column.fillna("").str.strip())


def _as_known(names: list[str], known: Sequence[str]) -> list[str]:
    """Names (column,) with the known ones in their own spelling; those that are there as they should be stay alone."""
    spelled = {name.lower(): name for name in known if name not in names}
    return [spelled.get(name.lower(), name) for name in names]
