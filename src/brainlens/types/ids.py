"""Ids as strings, and rows by id and by column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from brainlens.types.errors import DataError


def as_ids(ids: Iterable[Any], what: str = "ids") -> np.ndarray:
    """Ids as an array (n,) of unicode strings; numbers are refused, because "001" and 1 are different images."""
    listed = list(ids)
    wrong = [value for value in listed if not isinstance(value, str)]
    if wrong:
        raise DataError(
            f"{what}: ids are strings, got {type(wrong[0]).__name__} {wrong[0]!r}; read them with dtype=str, or name "
            "them alike in every table, e.g. [f'{i:04d}' for i in ids]"
        )
    return np.array(listed, dtype=np.str_) if listed else np.empty(0, dtype="<U1")


def unique_ids(ids: Iterable[Any], what: str = "ids") -> np.ndarray:
    """Ids as strings (n,), each once."""
    array = as_ids(ids, what)
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{what}: {int((counts > 1).sum())} ids occur more than once, first {str(values[counts > 1][0])!r}")
    return array


def positions(of: Iterable[str], among: Iterable[str], what: str = "stimulus") -> np.ndarray:
    """Row numbers (n,) of the ids `of` in the table whose ids are `among`.

    Raises DataError naming the first missing ids and an id of the table, and whether the ending of a file's name is the cause.
    """
    row = {name: i for i, name in enumerate(among)}
    wanted = list(of)
    missing = [name for name in dict.fromkeys(wanted) if name not in row]
    if missing:
        first = ", ".join(repr(str(name)) for name in missing[:3])
        raise DataError(
            f"{what}: {len(missing)} ids are not found, first {first}; the table holds {len(row)} ids{_near(missing, row)}"
        )
    return np.fromiter((row[name] for name in wanted), dtype=np.int64, count=len(wanted))


def _near(missing: Sequence[str], row: Mapping[str, int]) -> str:
    """An id of the table, and the way out where names differ by the ending of a file alone."""
    if not row:
        return ""
    bare = {PurePath(str(name)).stem for name in row}
    ending = all(PurePath(str(name)).stem in bare for name in missing)
    way = "the ending of the file's name is the difference: name both with it or without it" if ending else "name them alike"
    return f", first {str(next(iter(row)))!r}; {way}"


def choose(table: pd.DataFrame, wanted: Mapping[str, Any], what: str) -> np.ndarray:
    """Boolean row mask (row,) of a table for column=value or column=[values]; unknown names list the known ones."""
    keep = np.ones(len(table), dtype=bool)
    for column, value in wanted.items():
        if column not in table.columns:
            raise DataError(f"{what} has no column {column!r}; it has {sorted(map(str, table.columns))}")
        values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        have = table[column]
        unknown = [v for v in values if not (have == v).any()]
        if unknown:
            some = sorted(map(str, pd.unique(have.dropna())))[:30]
            raise DataError(f"{what} column {column!r} has no value {unknown[0]!r}; it has {some}")
        keep &= have.isin(values).to_numpy()
    return keep


def image_key(image: np.ndarray) -> bytes:
    """Shape and bytes of an image of any shape, hashed: two ids with the same key show the same pixels."""
    import hashlib

    array = np.ascontiguousarray(image)
    return hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).digest()
