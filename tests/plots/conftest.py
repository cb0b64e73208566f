"""Synthetic results for the figure tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """The module `made_results` beside this file (test folders are no packages, so it is loaded by its path)."""
    path = Path(__file__).parents[1] / "plots" / "made_results.py"
    spec = importlib.util.spec_from_file_location("made_results", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
