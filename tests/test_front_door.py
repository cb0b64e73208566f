"""`import brainlens`: light, and every name it promises leads somewhere."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import brainlens


def test_importing_brainlens_imports_nothing_else() -> None:
    script = "import sys, time; t = time.perf_counter(); import brainlens; s = time.perf_counter() - t\n"
    script += (
        "print(s, [m for m in sys.modules if m.split('.')[0] in ('numpy', 'pandas', 'torch')], 'brainlens.types' in sys.modules)"
    )
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert all(out.split(" ", 1)[1].strip() == "[] False" for out in runs)
    assert min(float(out.split()[0]) for out in runs) < 0.1  # the fastest of three, since a busy machine is slow at times


@pytest.mark.parametrize("name", brainlens.__all__)
def test_every_name_is_there(name) -> None:
    assert getattr(brainlens, name) is not None
    assert name in dir(brainlens)


@pytest.mark.parametrize("room", brainlens._ROOMS)
def test_rooms_are_rooms(room) -> None:
    script = f"import brainlens; print(brainlens.{room}.__name__, brainlens.{room}.__path__ is not None)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"brainlens.{room}", "True"]


def test_a_name_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(AttributeError, match="no name 'ridge'; it has load, DataError"):
        _ = brainlens.ridge
    assert importlib.import_module("brainlens.encode").encode is brainlens.encode.encode


def test_names_of_the_first_version_still_open_and_say_where_they_are_now():
    code = """
import warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    from brainlens.pipeline.source import Source, open_recording
import brainlens.datasets.source as now
assert Source is now.Source and open_recording is now.open_recording
assert any("has moved to brainlens.datasets.source" in str(one.message) for one in said)
try:
    import brainlens.pipeline.nothing
except ModuleNotFoundError:
    print("fine")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "fine"
