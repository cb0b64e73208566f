"""Single details of the published recipes: each acts on its own, all together make the recipe, none changes a run's name."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from brainlens.cli import app
from brainlens.encode import EncodingDesign, EncodingTraining, model_of
from brainlens.encode.presets import detailed, preset
from brainlens.encode.run import Asked
from brainlens.nn.factortopy import OPTIONS
from brainlens.types import DataError

CODE: dict[str, Any] = {  # of the released code
    "bottlenecks": "separate",
    "padding": "zeros",
    "readout_start": "linear",
    "selector_start": "zero",
    "scale_penalty": True,
    "decay_steps": 2000,
    "selector_rate": 1.0,
}
ALREADY = {"bottlenecks": "shared", "padding": "border", "selector_start": "random", "scale_penalty": True, "decay_steps": 6000}


def test_the_details_of_the_code_turn_the_papers_recipe_into_the_released_one() -> None:
    assert detailed(*preset("paper"), **CODE) == preset("released")


def test_what_is_so_already_changes_nothing() -> None:
    assert detailed(*preset("default")) == preset("default")
    assert detailed(*preset("default"), **ALREADY) == preset("default")
    assert detailed(*preset("released"), **CODE) == preset("released")


@pytest.mark.parametrize("name", sorted(set(CODE) - {"readout_start"}))
def test_each_detail_changes_one_thing_of_the_default(name: str) -> None:
    """The model that is fitted differs in that one setting; of the scale penalty the paper's side is not the default's."""
    value = False if name == "scale_penalty" else CODE[name]
    changed = model_of("factortopy", *detailed(*preset("default"), **{name: value}), seed=0, device="cpu").get_params()
    plain = model_of("factortopy", *preset("default"), seed=0, device="cpu").get_params()
    found = {k: v for k, v in changed["variant"].items() if plain["variant"].get(k) != v} | dict(changed["training"])
    assert len(found) == 1
    assert {k: v for k, v in changed.items() if k not in ("variant", "training")} == {
        k: v for k, v in plain.items() if k not in ("variant", "training")
    }
    key, set_to = next(iter(found.items()))
    assert set_to in OPTIONS[key] if key in OPTIONS else set_to == getattr(EncodingTraining(**{key: value}), key)


def test_back_to_the_papers_side_of_a_detail() -> None:
    design, _ = detailed(*preset("released"), padding="border")
    assert design.variant == {**preset("released")[0].variant, "padding": "border"}


@pytest.mark.parametrize(
    ("details", "text"),
    [
        ({"padding": "mirror"}, "padding 'mirror' is not one of border, zeros"),
        ({"bottlenecks": "two"}, "bottlenecks 'two' is not one of shared, separate"),
        ({"selector_start": "one"}, "'one' is not one of random, zero"),
        ({"decay_steps": -1}, "decay steps -1 is negative"),
        ({"selector_rate": -0.1}, "selector rate -0.1 is negative"),
        ({"readout_start": "linear"}, "--no-search"),
    ],
)
def test_mistakes_are_one_line(details: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text) as error:
        detailed(*preset("default"), **details)
    assert "\n" not in str(error.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """What the command line makes of its options: the part of the run's name that holds them."""
    seen: list[dict[str, Any]] = []

    def carry_out(task: str, runs: Path, asked: dict[str, Any], *_: Any, **__: Any) -> None:
        seen.append(asked["asked"])

    monkeypatch.setattr(import_module("brainlens.cli.encode"), "carry_out", carry_out)

    def call(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["encode", *options])
        assert done.exit_code == 0, done.output
        return seen[-1]

    return call


def test_a_call_without_new_options_keeps_its_name(asked) -> None:
    plain = asked()
    assert plain == {k: v for k, v in asdict(Asked()).items() if k != "compare_topology"}
    assert list(plain) == ["method", "design", "training", "models", "seeds", "curve", "one_layer", "steps", "methods"]
    assert list(plain["design"]) == list(asdict(EncodingDesign()))
    assert plain["design"]["variant"] == {}
    assert asked("--padding", "border", "--scale-penalty", "--decay-steps", "6000") == plain


def test_the_command_line_reaches_every_detail(asked) -> None:
    options = [f"--{k.replace('_', '-')}={v}" for k, v in CODE.items() if k != "scale_penalty"]
    found = asked("--recipe", "paper", *options, "--scale-penalty")
    assert found == asked("--preset", "released")
    assert asked("--no-scale-penalty")["training"] == asdict(EncodingTraining(scale_penalty=False))
    assert asked("--steps", "50", "--decay-steps", "7")["training"]["decay_steps"] == 7  # not what --steps makes of it
    assert asked("--no-search", "--readout-start", "linear")["design"]["variant"] == {"readout": "linear"}
    assert asked("--common", "none")["design"]["common"] is None
    assert asked("--recipe", "released", "--common", "vision.6")["design"]["common"] == "vision.6"
    assert asked("--search-beside")["training"]["search_beside"] is True
    assert asked("--compare-topology")["compare_topology"] is True
