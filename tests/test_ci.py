"""What `.ci/run` asks for: a browser that works and many damaged files; without a browser it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"
TOOLS = ("bash", "dirname", "id", "timeout", "mktemp", "tee", "grep", "rm", "cat")
NO, YES = "#!/bin/sh\nexit 1\n", "#!/bin/sh\nexit 0\n"
MAKE = '#!/bin/sh\necho "$@" "$BRAINLENS_BROWSER" "$BRAINLENS_FUZZ" >> "$MADE"\n'


def run(tmp: Path, **programs: str) -> tuple[int, str, list[str]]:
    """(exit code, what it said, calls of make with the two settings) where `make` only says what it was called with."""
    place = tmp / "bin"
    place.mkdir()
    for name in TOOLS:
        (place / name).symlink_to(str(shutil.which(name)))
    for name, text in {"make": MAKE, "apt-get": NO, **programs}.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    given = {"PATH": str(place), "MADE": str(tmp / "made"), "TMPDIR": str(tmp), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run([place / "bash", RUN], env=given, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr, (tmp / "made").read_text().splitlines()


@pytest.mark.parametrize("programs", [{}, {"chromium": NO}])
def test_without_a_browser_that_works_it_fails_before_the_tests(programs: dict[str, str], tmp_path: Path) -> None:
    code, said, made = run(tmp_path, **programs)
    assert code == 1
    assert "no browser that works" in said
    assert not [call for call in made if call.startswith("test")]


def test_with_one_the_tests_must_use_it_and_try_200_mutations(tmp_path: Path) -> None:
    code, said, made = run(tmp_path, chromium=YES)
    assert code == 0, said
    assert "test required 200" in made
