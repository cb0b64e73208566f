"""Tables of text files: every cell a text, so that "001" stays "001", with columns that must be there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from brainlens.types import DataError, read_text


def read_table(path: str | Path, needed: Sequence[str] = ()) -> pd.DataFrame:
    """A table of texts from .csv (commas, or semicolons where the first line has no comma) or .tsv (tabs), blanks cut off.

    Raises DataError for a missing or empty file, rows of another length, a column twice, and a needed column that is missing.
    """
    path = Path(path)
    text = read_text(path)
    first = text.lstrip().split("\n", 1)[0]
    if not first.strip():
        raise DataError(f"{path} is empty; its first line names the columns")
    mark = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
    try:
        rows = pd.read_csv(io.StringIO(text), sep=mark, dtype=str, header=None, keep_default_na=False, skip_blank_lines=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is not a table ({' '.join(str(error).split())}); each line has the cells of the first") from None
    names = [str(name).strip() for name in rows.iloc[0]]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} comes twice; name each column once")
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(names)}")
    table = rows.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    return table.apply(lambda column: column.fillna("").str.strip())
