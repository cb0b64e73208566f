"""Every script of examples/ runs by itself, in half a minute of one core, and makes its figure or page."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
RECORDINGS = {"haxby": "haxby2001", "digits_reconstruction": "digits69"}  # scripts that need test data
MOST = 60.0  # s of processor time, twice what a quiet core takes for the longest


def test_there_are_at_least_eight() -> None:
    assert len(SCRIPTS) >= 8


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_makes_what_it_says(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name in RECORDINGS:
        folder = request.getfixturevalue("test_data") / RECORDINGS[name]
        if not folder.is_dir():
            pytest.skip(f"no {RECORDINGS[name]} in the test data")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-W", "error::UserWarning:__main__", str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < MOST
    named = done.stdout.split("\n")[:-1]
    assert named
    for line in named:
        made = tmp_path / line
        if made.suffix == ".png":
            with Image.open(made) as image:
                assert min(image.size) > 200
        else:
            assert "My responses and my network" in made.read_text(encoding="utf-8")
            assert list((tmp_path / "figures").rglob("*.svg"))
