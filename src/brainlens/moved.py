"""Modules of version 0.1 under their old names, each with a warning that says where it is now; they go with version 0.3."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from brainlens.warned import warn

MOVED = {
    "brainlens.pipeline": "brainlens.datasets",
    "brainlens.pipeline.source": "brainlens.datasets.source",
    "brainlens.align_sensors": "brainlens.align.sensors",
}


class Moved:
    """Finds a module of `MOVED` by its old name and fills it with the public names of its successor."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of a moved module, None for every other name."""
        return ModuleSpec(name, Moved, is_package=True) if name in MOVED else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """An ordinary empty module."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Fills it."""
        name = module.__name__
        warn(f"{name} has moved to {MOVED[name]}; the old name goes with version 0.3", DeprecationWarning)
        now = importlib.import_module(MOVED[name])
        module.__dict__.update({key: value for key, value in vars(now).items() if not key.startswith("_")})


def install() -> None:
    """Lets old names be found, after all that exist."""
    if Moved not in sys.meta_path:
        sys.meta_path.append(Moved)  # type: ignore[arg-type]
