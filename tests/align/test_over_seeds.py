"""Fits with several seeds: each is kept, and their mean has an interval over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from brainlens import report, store
from brainlens.align import run as align_run
from brainlens.align.over_seeds import EACH, mean_of_fits, mean_over_seeds, run_over_seeds
from brainlens.cli import app
from brainlens.cli.paper import with_means
from brainlens.datasets import runs as run_folders
from brainlens.datasets.source import Source
from brainlens.metrics.statistics import t_interval
from brainlens.types import DataError, Result

TOP = "retrieval/brain->image/top1"


def one(seed: int, *, main: str = "mlp") -> Result:
    """The result of one seed: two encoders, whose scores rise with the seed."""
    rows = []
    for name, base in (("ridge", 0.2), ("mlp", 0.4)):
        value = base + 0.1 * seed**2
        found = {TOP: value, f"{TOP}.low": value - 0.01, f"{TOP}.high": value + 0.01, "retrieval/brain->image/chance1": 0.05}
        rows.append({"encoder": name, **found})
    metrics = {f"align/{row['encoder']}/{k}": v for row in rows for k, v in row.items() if k != "encoder"}
    metrics |= {k: v for k, v in rows[-1].items() if k != "encoder"} | {"data/test_images": 20.0}
    tables = {"comparison": pd.DataFrame(rows)}
    return Result("align", metrics, tables=tables, config={"encoder": main, "seed": seed}, provenance={"data": ["d"]})


def test_the_interval_over_fits_is_students() -> None:
    values = np.array([0.2, 0.3, 0.6, 0.35])
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(t_interval(values), (expected.low, expected.high), rtol=1e-12)
    found = mean_of_fits([{"a": v, "a.low": 0.0, "a.high": 1.0, "a.p": 0.5, "n": 20.0, "b": 1.0} for v in values[:2]] + [
        {"a": v, "a.low": 0.0, "n": 20.0} for v in values[2:]])  # fmt: skip
    assert found == {
        "a": pytest.approx(values.mean()), "a.low": pytest.approx(expected.low), "a.high": pytest.approx(expected.high),
        "a.sd": pytest.approx(values.std(ddof=1)), "n": 20.0,
    }  # fmt: skip
    with pytest.raises(DataError, match="2 or more"):
        t_interval(values[:1])


def test_every_encoder_has_a_mean_over_seeds() -> None:
    mean = mean_over_seeds([one(k) for k in range(3)], [0, 1, 2])
    for name, base in (("ridge", 0.2), ("mlp", 0.4)):
        values = base + 0.1 * np.arange(3) ** 2
        assert mean.metrics[f"align/{name}/{TOP}"] == pytest.approx(values.mean())
        assert mean.metrics[f"align/{name}/{TOP}.low"] == pytest.approx(t_interval(values)[0])
        rows = mean.tables["seeds"].query("encoder == @name").set_index("seed")
        assert list(rows.index) == ["0", "1", "2", "mean"]
        np.testing.assert_allclose(rows["top1"], [*values, values.mean()])
        assert rows.loc["1", "top1.high"] == pytest.approx(values[1] + 0.01)  # of the seed, over stimuli
        assert rows.loc["mean", "top1.high"] == pytest.approx(t_interval(values)[1])
    assert mean.config["seeds"] == [0, 1, 2]
    assert mean.config["interval_over"] == "seeds"
    assert "seed" not in mean.config
    other = mean_over_seeds([one(0), one(1, main="ridge")], [0, 1])
    assert other.config["encoder"] == EACH


def test_runs_of_seeds_and_their_mean_are_kept_and_shown(tmp_path: Path) -> None:
    source, asked = Source(), []

    def fit(seed: int) -> tuple[Path, list[dict[str, Any]]]:
        asked.append(seed)
        return run_folders.keep(one(seed), tmp_path, source), [{"metric": "x", "value": float(seed)}]

    folders, rows = run_over_seeds(fit, source, tmp_path, first=4, seeds=2)
    assert asked == [4, 5]
    assert len(set(folders)) == 3
    mean = store.load_result(folders[-1])
    assert mean.metrics[TOP] == pytest.approx(np.mean([0.4 + 0.1 * k**2 for k in asked]))
    assert [row["seed"] for row in rows] == ["4", "5", "mean", "mean"]
    assert {row["metric"] for row in rows if row["seed"] == "mean"} == {f"align/{name}/{TOP}" for name in ("ridge", "mlp")}
    page = report.build([folders[-1]], tmp_path / "page.html").read_text()
    assert "t intervals over 2 seeds of the fit" in page
    with pytest.raises(DataError, match="1 seeds are asked for; a mean over seeds needs at least 2"):
        run_over_seeds(fit, source, tmp_path, first=0, seeds=1)


def test_seeds_are_a_part_of_the_request_and_the_recording_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    requests: list[dict[str, Any]] = []

    def aligned(source: Source, runs: Path, *, seed: int, **more: Any) -> tuple[Path, list]:
        seen.append((source.seed, seed))
        return run_folders.keep(one(seed), runs, source), [{"metric": "x", "value": 1.0}]

    def once(task: str, runs: Path, asked: dict[str, Any], run: Any, **more: Any) -> tuple[list[Path], list, str]:
        requests.append(dict(asked))
        run()
        return [], [], ""

    monkeypatch.setattr(align_run, "run_align", aligned)
    monkeypatch.setattr(run_folders, "once", once)
    for more in ([], ["--seeds", "2"]):
        done = CliRunner().invoke(app, ["align", "--encoder", "mlp", "--runs", str(tmp_path), "--seed", "3", *more])
        assert done.exit_code == 0, done.output
    assert seen == [(3, 3), (3, 3), (3, 4)]
    assert "seeds" not in requests[0]  # finished runs of before the option are found
    assert requests[1] == requests[0] | {"seeds": 2}


def test_a_paper_has_a_mean_over_subjects_for_encoders_that_all_have() -> None:
    values = {"1": 0.2, "2": 0.4, "3": 0.9}
    rows: list[dict[str, Any]] = [
        {"table": "T", "row": f"subject {s}", "encoder": "nice", "top1": v, "top1.low": 0.0, "top1.high": 1.0, "chance": 0.005}
        for s, v in values.items()
    ]
    only = {"table": "T", "row": "subject 1", "encoder": "neuroalign, without guidance", "top1": 0.1}
    other = {"table": "U", "row": "first subject", "encoder": "nice", "top1": 0.3}
    found = with_means([*rows, only, other])
    assert [row for row in found if "mean" not in row["row"]] == [*rows, only, other]
    (mean,) = [row for row in found if "mean" in row["row"]]
    assert (mean["table"], mean["row"], mean["encoder"]) == ("T", "mean of 3 subjects", "nice")
    assert mean["top1"] == pytest.approx(0.5)
    assert (mean["top1.low"], mean["top1.high"]) == pytest.approx(t_interval(np.array(list(values.values()))))
    two = with_means([row | {} for row in rows[:2]])
    assert "top1.low" not in two[-1]  # two subjects say nothing of others
