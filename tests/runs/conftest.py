"""The command line in this process, as a user sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from brainlens.cli import main


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`say("align", "--dataset", ...)`: exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["brainlens", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run
