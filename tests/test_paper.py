"""`brainlens paper`: its rows are commands of this program, a second call finds them again, and mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from brainlens import store
from brainlens.cli import app, terminal
from brainlens.cli.paper import factortopy, ib_ba, neuroalign
from brainlens.types import DataError

COMMON = ("--dataset", "phantom", "--runs", "runs", "--seed", "0", "--device", "cpu")

SMALL = ("--train", "60", "--test", "20", "--roi", "V1", "--steps", "4")


def call(*arguments: str):
    return CliRunner().invoke(app, ["paper", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, str]:
    runs = tmp_path_factory.mktemp("paper")
    done = call("factortopy", *SMALL, "--runs", str(runs), "--only", "methods ridge", "--only", "class_token")
    assert done.exit_code == 0, done.output
    return runs, done.output


def test_rows_stand_in_one_table_with_their_runs_and_a_page(made) -> None:
    runs, said = made
    folder = next(runs.glob("paper-*/"))
    result = store.load_result(folder)
    table = result.tables["comparison"]
    assert list(table["row"]) == ["class_token", "ridge"]
    for row in table.to_dict("records"):
        own = store.load_result(runs / row["run"])
        assert row["r2_mean"] == pytest.approx(own.metrics["encoding/r2_mean"])
        assert row["r2_mean.low"] <= row["r2_mean"] <= row["r2_mean.high"]
        assert row["fit_s"] == own.provenance["fit_s"] > 0
        assert row["multiply_adds"] == own.metrics["encoding/multiply_adds"] > 0
    unit = table.iloc[0]
    np.testing.assert_allclose(table["MACs x"], table["multiply_adds"] / unit["multiply_adds"])
    np.testing.assert_allclose(table["time x"], table["fit_s"] / unit["fit_s"])
    page = (runs / "paper-factortopy.html").read_text()
    assert "class_token" in page
    assert "Brain Decodes Deep Nets" in page
    assert str(runs / "paper-factortopy.html") in said


def test_a_second_call_finds_what_is_finished(made, monkeypatch) -> None:
    runs, _ = made
    monkeypatch.setattr("brainlens.encode.run.run_encode", lambda *_, **__: pytest.fail("encoded again"))
    again = call("factortopy", *SMALL, "--runs", str(runs), "--only", "methods ridge")
    assert again.exit_code == 0, again.output
    assert terminal.LAST


def test_every_command_of_every_plan_is_one_that_can_be_typed() -> None:
    plans = factortopy(COMMON, ("--steps", "5")) + ib_ba(COMMON, (), "small")
    plans += neuroalign(("--dataset", "phantom_eeg", *COMMON[2:]), ["1", "2"], "paper", 1, simulated=True)
    tables = {step.table.split(":")[0] for step in plans}
    assert {"Table 1", "Table 2", "Table 3", "Table 6", "Table 16"} <= tables
    import typer.main

    commands = typer.main.get_command(app).commands
    for step in plans:
        command = commands[step.command[0]]
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        assert {part for part in step.command if part.startswith("--")} <= known, step


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("dream",), "'dream' is not one of factortopy, ib_ba, neuroalign"),
        (("neuroalign", "--dataset", "haxby2001"), "is of EEG and MEG, and haxby2001 is fMRI"),
        (("ib_ba", "--dataset", "phantom_eeg"), "is of fMRI, and phantom_eeg is EEG"),
        (("neuroalign", "--steps", "3"), "--steps does not apply to neuroalign; --epochs does"),
        (("ib_ba", "--epochs", "3"), "--epochs does not apply to ib_ba; --steps does"),
        (("ib_ba", "--roi", "V1"), "--roi does not apply to ib_ba"),
        (("factortopy", "--preset", "paper"), "--preset does not apply to factortopy"),
        (("factortopy", "--only", "nothing"), "--only matches no row; there are: Table 16: methods, class_token"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], text: str) -> None:
    found = call(*arguments)
    assert isinstance(found.exception, DataError)
    assert text in str(found.exception)
    assert "\n" not in str(found.exception)
