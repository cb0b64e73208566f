"""A run that lacks an array has its page: its sections say what they need, and the other runs are whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from brainlens import report, store
from brainlens.cli import app
from brainlens.report import page as page_module
from brainlens.report.sections import sections
from brainlens.types import DataError, Result, Volume

UNITS = 24


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "DPI", (40,))


def fitted(seed: int = 0) -> Result:
    """A result of FactorTopy in a grid of its own."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(3), UNITS)
    arrays = {"r2": rng.uniform(0, 0.4, UNITS), "ceiling": np.full(UNITS, 0.5), "layer": weights @ np.arange(3.0)}
    arrays |= {"confidence": weights.max(axis=1), "layer_weights": weights}
    space = Volume(np.ones((2, 3, 4), dtype=bool), np.eye(4))
    config = {"layers": ["a", "b", "c"], "dataset": "own"}
    return Result("encode", {"encoding/r2_mean": 0.1 + seed}, arrays, config=config, space=space)


def stored(runs: Path) -> Path:
    for seed in (0, 1):
        store.save_result(fitted(seed), runs / f"encode-{seed}")
    return runs


def notes(result: Result) -> str:
    return " ".join(picture.note for section in sections(result, dpi=None) for picture in section.pictures if picture.note)


def test_a_run_whose_file_is_gone_has_its_section_and_the_others_are_whole(tmp_path: Path) -> None:
    runs, page = stored(tmp_path / "runs"), tmp_path / "page.html"
    whole = report.build(runs, page).read_text(encoding="utf-8")
    assert "Not drawn" not in whole
    (runs / "encode-1" / "r2.npy").unlink()
    done = CliRunner().invoke(app, ["report", str(runs), "--out", str(page)])
    assert done.exit_code == 0, done.exception
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 2
    first, second = text.split("<article")[1:]
    assert "folder misses the array" in second
    assert "histogram and map of test R² needs the array &#39;r2&#39;" in second
    assert "misses the array" not in first
    assert "Not drawn" not in first
    assert first.count("<figure>") == whole.split("<article")[1].count("<figure>")
    assert 0 < second.count("<figure>") < first.count("<figure>")
    files, missed = report.save_figures(runs, tmp_path / "figures", kind="png", dpi=40)
    assert any(line.startswith("encode-1") and "'r2'" in line for line in missed)
    assert {file.parent.name for file in files} == {"encode-0", "encode-1"}


@pytest.mark.parametrize("fault", ["flipped", "space", "json", "unlisted"])
def test_a_damaged_run_is_named_on_the_page_of_the_others_and_is_an_error(tmp_path: Path, fault: str) -> None:
    runs, page = stored(tmp_path / "runs"), tmp_path / "page.html"
    folder = runs / "encode-1"
    if fault == "flipped":
        content = bytearray((folder / "r2.npy").read_bytes())
        content[-1] ^= 1
        (folder / "r2.npy").write_bytes(content)
    elif fault == "space":
        next(folder.glob("space*mask*.npy")).unlink()
    elif fault == "json":
        (folder / "result.json").write_text("{", encoding="utf-8")
    else:
        (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"page\.html is written without 1 damaged of 2 runs: .*encode-1"):
        report.build(runs, page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 1
    assert "Damaged runs, not shown" in text
    assert "encode-1" in text.split("<article")[0]
    assert any("encode-1" in line for line in report.save_figures(runs, tmp_path / "figures", kind="png", dpi=40)[1])


@pytest.mark.parametrize(
    "name, said",
    [
        ("layer", "the layer map needs the array 'layer'"),
        ("confidence", "the layer map needs the array 'confidence'"),
        ("layer_weights", "each layer's weight needs the array 'layer_weights'"),
        ("r2", "histogram and map of test R² needs the array 'r2'"),
    ],
)
def test_a_result_in_memory_says_what_its_section_needs(name: str, said: str) -> None:
    whole = fitted()
    assert notes(whole) == ""
    lacking = replace(whole, arrays={key: array for key, array in whole.arrays.items() if key != name})
    assert said in notes(lacking)


@pytest.mark.parametrize("kind", ["align", "attribute", "encode", "eeg", "describe", "reconstruct", "decode", "group"])
def test_every_array_that_costs_a_figure_is_named(made: ModuleType, made_verbs: ModuleType, kind: str) -> None:
    """Each array in turn is gone from the folder: where figures are lost, a section names it."""
    whole = getattr(made, kind)() if hasattr(made, kind) else getattr(made_verbs, kind)()
    before, figures = notes(whole), len(report.makers(whole))
    assert before == ""
    for name in whole.arrays:
        kept = {key: array for key, array in whole.arrays.items() if key != name}
        result = replace(whole, arrays=kept, config=whole.config | {"lost_arrays": [name]})
        if len(report.makers(result)) < figures:
            assert name in notes(result), f"{name} costs a figure without a word"
