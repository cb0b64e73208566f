"""What `--preset paper` asks for, and that what is typed beside it goes before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from brainlens.cli import app
from brainlens.describe import PAPER, RELEASED, Describing
from brainlens.describe import run as verb
from brainlens.describe.run import BLIP, STABLE_DIFFUSION, Asked, preset
from brainlens.types import DataError


def test_the_published_procedure_is_whole() -> None:
    asked = preset("paper")
    assert asked == Asked(PAPER, "diffusion", STABLE_DIFFUSION, crops=True, captioner=BLIP)
    assert (asked.design.top, asked.design.pictures, asked.design.best) == (10, 10, 5)
    assert preset("paper", simulated=True).diffusion == preset("paper", simulated=True).captioner == "miniature"
    assert preset("default") == Asked(Describing())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ((), Asked()),
        (("--preset", "paper"), preset("paper", simulated=True)),
        (("--preset", "released"), Asked(RELEASED, "diffusion", "miniature", crops=True, captioner="miniature")),
        (("--preset", "paper", "--bank", "real"), Asked(PAPER, "real", None, crops=True, captioner="miniature")),
        (("--preset", "paper", "--no-crops"), Asked(PAPER, "diffusion", "miniature")),
        (
            ("--preset", "paper", "--top", "3", "--diffusion", "x", "--captioner", "y", "--drawing-guidance", "2"),
            Asked(Describing(top=3, pictures=10, best=5), "diffusion", "x", crops=True, captioner="y", guidance=2.0),
        ),
        (("--bank", "diffusion", "--prompt", "a {}", "--drawing-steps", "4"), Asked(bank="diffusion", prompt="a {}", steps=4)),
        (("--crops", "--captioner", "miniature"), Asked(crops=True, captioner="miniature")),
    ],
)
def test_what_is_typed_goes_before_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], expected: Asked
) -> None:
    heard: list[Asked] = []

    def listen(source: object, runs: object, asked: Asked, **rest: object) -> None:
        heard.append(asked)
        raise DataError("heard")

    monkeypatch.setattr(verb, "run_describe", listen)
    found = CliRunner().invoke(app, ["describe", "--runs", str(tmp_path), *typed])
    assert found.exit_code != 0
    assert heard == [expected], found.output


@pytest.mark.parametrize("typed", [("--preset", "paper", "--bank", "real", "--prompt", "a {}"), ("--captioner", "x")])
def test_what_would_be_without_effect_is_refused(tmp_path: Path, typed: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, ["describe", "--runs", str(tmp_path), *typed])
    assert found.exit_code != 0
    assert typed[-2] in str(found.exception)
