"""`brainlens paper`: its rows are commands of this program, a second call finds them again, and mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brainlens import store
from brainlens.cli import app, terminal
from brainlens.cli.paper import FREE_ROW, _kept, factortopy, ib_ba, neuroalign
from brainlens.cli.paper_rows import encoded, over_seeds, sized, with_ratios
from brainlens.report import makers
from brainlens.types import DataError, Result, Volume

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
    plans = factortopy(COMMON, ("--steps", "5"), seeds=3, curve=(30, 60), after="folder") + ib_ba(COMMON, (), "small")
    plans += neuroalign(("--dataset", "phantom_eeg", *COMMON[2:]), ["1", "2"], "paper", 1, simulated=True)
    tables = {step.table.split(":")[0] for step in plans}
    assert {"Table 1", "Table 2", "Table 3", "Table 6", "Table 16"} <= tables
    import typer.main

    commands = typer.main.get_command(app).commands
    for step in plans:
        command = commands[step.command[0]]
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        assert {part for part in step.command if part.startswith("--")} <= known, step


def test_seeds_and_sizes_are_of_the_rows_that_bear_them() -> None:
    plan = {(step.table, step.row): step.command for step in factortopy(COMMON, (), seeds=3, curve=(30, 60))}
    of = {row: " ".join(command) for (table, row), command in plan.items() if table.startswith("Table 16")}
    assert [row for row in of if "--seeds 3" not in of[row]] == ["ridge"]  # solved, whatever the seed
    curved = [row for row in of if "--curve 30 --curve 60" in of[row]]
    assert curved == ["class_token", "patch_token", "gnet", "ridge", "factortopy, default"]
    assert all(plan["Figs. 26, 27: training images", row] == plan["Table 16: methods", row] for row in curved)
    assert FREE_ROW in of
    assert len(factortopy(COMMON, ())) == len(of)


def test_a_network_before_and_after_fine_tuning_is_one_command() -> None:
    last = factortopy((*COMMON, "--model", "before"), (), before="before", after="after")[-1].command
    assert [last[i + 1] for i, part in enumerate(last) if part == "--model"] == ["before", "after"]
    last = factortopy(COMMON, (), after="after")[-1].command
    assert [last[i + 1] for i, part in enumerate(last) if part == "--model"] == ["miniature", "after"]


def test_the_interval_over_seeds_is_students() -> None:
    found = over_seeds([0.10, 0.12, 0.17])
    mean, sd = 0.13, ((0.03**2 + 0.01**2 + 0.04**2) / 2) ** 0.5
    reach = 4.302653 * sd / 3**0.5  # t of 2 degrees of freedom
    assert found["r2_over_seeds"] == pytest.approx(mean)
    assert found["r2_over_seeds.low"] == pytest.approx(mean - reach)
    assert found["r2_over_seeds.high"] == pytest.approx(mean + reach)
    assert found["seeds"] == 3


def encoding(layer: list[float], sure: float, r2: list[float]) -> Result:
    arrays = {"layer": np.array(layer), "confidence": np.full(len(layer), sure), "r2": np.array(r2)}
    mask = np.zeros((91, 109, 91), bool)
    mask[40, 40, 40 : 40 + len(layer)] = True
    affine = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    config = {"dataset": "phantom", "method": "factortopy", "layers": ["a", "b", "c"]}
    seeds = pd.DataFrame({"seed": [0, 1], "r2_mean": [0.1, 0.3]})
    curve = pd.DataFrame({"images": [9, 20], "r2_mean": [0.1, 0.2], "r2_mean.low": [0.0, 0.1], "r2_mean.high": [0.2, 0.3]})
    curve["hierarchy_slope"] = np.nan
    metrics = {"encoding/r2_mean": 0.1, "encoding/multiply_adds": 5.0}
    tables = {"seeds": seeds, "learning_curve": curve}
    return Result("encode", metrics, arrays, None, tables, config, {"fit_s": 2.0, "seed": 0}, Volume(mask, affine))


def test_rows_over_seeds_and_sizes_stand_beside_those_with_a_cost() -> None:
    one = encoding([0, 1], 1.0, [0.1, 0.2])
    rows = with_ratios([{"table": "t", **encoded(one)[0]}, *({"table": "f", **row} for row in sized(one))])
    assert (rows[0]["r2_mean"], rows[0]["r2_over_seeds"], rows[0]["time x"]) == (0.1, pytest.approx(0.2), 1.0)
    assert [row["images"] for row in rows[1:]] == [9, 20]
    assert all(set(row) == {"table", "method", "images", "r2_mean", "r2_mean.low", "r2_mean.high"} for row in rows[1:])


def test_the_page_of_factortopy_draws_the_fit_with_and_without_topology(tmp_path: Path) -> None:
    through, free = encoding([0, 1, 2], 0.9, [0.1, 0.2, -0.1]), encoding([0, 2, 2], 0.2, [0.1, -0.3, 0.2])
    folders = [tmp_path / "through", tmp_path / "free"]
    for result, folder in zip((through, free), folders, strict=True):
        store.save_result(result, folder)
    rows = [{"table": "t", "row": "r", "r2_mean": 0.1}]
    made = store.load_result(_kept("factortopy", rows, tmp_path, store.Start(), folders, pair=folders))
    np.testing.assert_array_equal(made.arrays["topology/layer"], [[0, 1, np.nan], [0, 2, np.nan]])  # of units the first predicts
    np.testing.assert_allclose(made.arrays["topology/confidence"], [[0.9, 0.9, np.nan], [0.2, 0.2, np.nan]])
    assert list(makers(made)) == ["layer_rows_selected_layer_with_and_without_topology"]
    alone = store.load_result(_kept("factortopy", rows, tmp_path, store.Start(), folders[:1], pair=folders[:1]))
    assert not makers(alone)


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
