"""Tables of labels: the name of each value, from a mapping, a frame or a text file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from brainlens.types.errors import DataError
from brainlens.types.texts import read_text

WHOLE = re.compile(r"-?[0-9]{1,18}")  # the number of a label
NOTHING = ("", "background", "none", "nothing", "outside", "unlabeled", "unlabelled", "unassigned", "no label", "clear label")
Table: TypeAlias = "Mapping[int, str] | pd.DataFrame | str | Path"


def lookup(table: Table) -> dict[int, str]:
    """{value: name} from a mapping, a frame, or a text file. Raises DataError for a list, whose order says nothing."""
    if isinstance(table, (str, Path)):
        return _read_table(Path(table))
    if isinstance(table, pd.DataFrame):
        value = next((name for name in ("value", "index") if name in table.columns), None)
        if value is None or "name" not in table.columns:
            raise DataError(f"a lookup table has the columns 'value' (or 'index') and 'name', this one has {list(table.columns)}")
        pairs = list(zip(table[value], table["name"], strict=True))
    elif isinstance(table, Mapping):
        pairs = list(table.items())
    else:
        raise DataError(f"a lookup table is {{value: name}}, got a {type(table).__name__}; the order of a list is not trusted")
    found: dict[int, str] = {}
    for number, name in pairs:
        if not isinstance(number, (int, np.integer)) and not (isinstance(number, float) and number.is_integer()):
            raise DataError(f"a lookup table has whole numbers as values, got {number!r}; give {{value: name}}")
        text = name.decode() if isinstance(name, bytes) else str(name)
        if found.setdefault(int(number), text) != text:
            raise DataError(f"the lookup table has two names for label {int(number)}: {found[int(number)]!r} and {text!r}")
    if not found:
        raise DataError("the lookup table is empty; give {value: name}")
    return found


def _read_table(path: Path) -> dict[int, str]:
    if not path.is_file():
        raise DataError(f"lookup table {str(path)!r} is not found; give a text file with 'value name' in each line")
    found: dict[int, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        parts = line.replace(",", " ").split()
        if not parts or parts[0].startswith("#") or (number == 1 and not WHOLE.fullmatch(parts[0])):
            continue
        if len(parts) < 2 or not WHOLE.fullmatch(parts[0]):
            raise DataError(f"lookup table {path.name}, line {number}: {line[:60]!r} is not 'value name'")
        if found.setdefault(int(parts[0]), parts[1]) != parts[1]:
            raise DataError(f"lookup table {path.name}, line {number}: a second name for label {parts[0]}")
    return lookup(found)


def is_wall(name: str) -> bool:
    """Whether an annotation's name is of what is no cortex."""
    return name.lower() in ("unknown", "medial_wall", "medial wall", "corpuscallosum") or "medial_wall" in name.lower()


def is_nothing(name: str) -> bool:
    """Whether a name says that a unit lies in no region, as tables of atlases call their background."""
    return is_wall(name) or name.strip().strip("?*").lower().replace("_", " ") in NOTHING
