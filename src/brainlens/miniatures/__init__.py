"""The small networks that ship with the package, each a folder in the format of the big ones."""

from __future__ import annotations

from pathlib import Path

from brainlens.types import DataError

_HERE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder of a shipped network, e.g. `CLIPModel.from_pretrained(folder("clip"))`.

    Raises DataError naming what there is.
    """
    there = sorted(path.parent.name for path in _HERE.glob("*/config.json"))
    there += sorted({path.parent.name for path in _HERE.glob("*/model_index.json")} - set(there))
    if name not in there:
        raise DataError(f"no miniature is called {name!r}; there are {there}; others are made by the scripts in tools/")
    return _HERE / name
