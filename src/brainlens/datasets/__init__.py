"""Where recordings come from: one file a dataset, each with `load(folder, ...) -> (Responses, Stimuli)` and `FACTS`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from brainlens.types import DataError, Responses, Stimuli

DATASETS = (
    "phantom",
    "phantom_eeg",
    "haxby2001",
    "images92",
    "nsd",
    "algonauts2023",
    "things_eeg2",
    "things_meg",
    "nod",
    "eeglab_visual",
)
SIMULATED = ("phantom", "phantom_eeg")  # these need no folder


def module(name: str) -> ModuleType:
    """The module of a dataset. Raises DataError listing the known names."""
    if name not in DATASETS:
        raise DataError(f"dataset {name!r} is not known; choose one of {', '.join(DATASETS)}")
    return importlib.import_module(f"brainlens.datasets.{name}")


def facts(name: str) -> dict[str, Any]:
    """Name, licence, citation, address and sizes of a dataset."""
    return dict(module(name).FACTS)


def load(name: str, folder: str | Path | None = None, **options: Any) -> tuple[Responses, Stimuli]:
    """A dataset by name, from its folder (the phantoms need none), with the options of its own `load`.

    Raises DataError for unknown names and options, and for a folder that does not exist.
    """
    import inspect

    chosen = module(name).load
    if not (name in SIMULATED and folder is None) and (folder is None or not Path(folder).exists()):
        raise DataError(f"dataset {name!r}: the folder {str(folder)!r} does not exist; name the one that holds the recording")
    known = list(inspect.signature(chosen).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DataError(f"dataset {name!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return chosen(folder, **options)
