"""The table of attribution methods over runs, against numbers worked out by scipy and by hand."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from brainlens import report
from brainlens.report.methods_table import methods_tables
from brainlens.types import Result, Volume

UNITS, TRIALS = 60, 8
RNG = np.random.default_rng(3)
MAPS = {"bottleneck": RNG.uniform(size=(TRIALS, UNITS)), "rise": RNG.uniform(size=(TRIALS, UNITS))}
SPACE = Volume(np.ones((3, 4, 5), dtype=bool), np.eye(4))


def run(method: str, *, trials: bool = True, **config: object) -> Result:
    level = {"bottleneck": 0.91, "rise": 0.73}[method]
    metrics = {"truth/auroc": level, "truth/auroc.low": level - 0.02, "truth/auroc.high": level + 0.03}
    metrics |= {"attribution/image/deletion_auc": 0.4, "attribution/image/deletion_auc.low": 0.35}
    metrics |= {"attribution/image/deletion_auc.high": 0.45, "attribution/image/insertion_auc": 0.6}
    arrays = {"map/brain_mean": MAPS[method].mean(0)} | ({"map/brain": MAPS[method]} if trials else {})
    tables = {"trials": pd.DataFrame({"stimulus": [str(i) for i in range(TRIALS)]})}
    settings = {"method": method, "dataset": "haxby2001", "run": "align-1"} | config
    return Result("attribute", metrics, arrays, None, tables, settings, {"data": ["x"]}, SPACE)


def test_a_row_a_method_with_interval_n_and_agreement() -> None:
    (table,) = methods_tables([("one", run("rise")), ("two", run("bottleneck"))])
    assert table.title == "Attribution methods side by side: haxby2001, align-1"
    row = dict(zip(table.heads, table.lines[0], strict=True))
    assert row["method"] == "RISE"
    assert row["run"] == "one"
    assert row["area under the ROC curve against the truth"] == "0.73 [0.71, 0.76]"
    assert row["deletion area (less is better), image"] == "0.4 [0.35, 0.45]"
    assert row["insertion area (more is better), image"] == "0.6", "a score without an interval shows none"
    assert row["trials"] == "8"
    said = row["agreement with bottleneck (Spearman)"]
    each = [spearmanr(a, b).statistic for a, b in zip(MAPS["rise"], MAPS["bottleneck"], strict=True)]
    value, low, high = (float(v.replace("−", "-")) for v in re.findall(r"[−\d.]+", said))
    assert value == pytest.approx(np.mean(each), abs=6e-4)
    assert low < value < high
    assert table.lines[1][-2] == "reference"


def test_mean_maps_alone_give_agreement_without_an_interval() -> None:
    (table,) = methods_tables([("one", run("rise", trials=False)), ("two", run("bottleneck"))])
    said = table.lines[0][-2]
    assert "[" not in said
    expected = spearmanr(MAPS["rise"].mean(0), MAPS["bottleneck"].mean(0)).statistic
    assert float(said.replace("−", "-")) == pytest.approx(expected, abs=6e-4)
    assert "has no interval" in " ".join(table.notes)


def test_a_run_of_all_methods_gives_a_row_each() -> None:
    one, two = run("bottleneck"), run("rise")
    metrics = {f"methods/{r.config['method']}/{k}": v for r in (one, two) for k, v in r.metrics.items()}
    arrays = {f"map/{r.config['method']}_mean": r.arrays["map/brain_mean"] for r in (one, two)}
    config = one.config | {"method": "all", "methods": ["bottleneck", "rise"]}
    (table,) = methods_tables([("both", Result("attribute", metrics, arrays, None, one.tables, config, one.provenance, SPACE))])
    assert [line[0] for line in table.lines] == ["bottleneck", "RISE"]
    assert "run" not in table.heads
    assert table.lines[1][1] == "0.73 [0.71, 0.76]"


@pytest.mark.parametrize(
    "second",
    [
        run("bottleneck"),
        run("rise", dataset="other"),
        run("rise", run="align-2"),
        run("rise", target="text"),
        run("rise", group=True),
        Result("encode", {"encoding/r2_mean": 0.1}, config={"method": "ridge"}),
    ],
    ids=["same method", "other recording", "other model", "other target", "group", "other task"],
)
def test_what_cannot_be_compared_has_no_table(second: Result) -> None:
    assert methods_tables([("one", run("bottleneck")), ("two", second)]) == []


def test_the_page_shows_it_and_escapes_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brainlens.report.page.sections", lambda *_, **__: [])
    text = report.render([("<i>one</i>", run("rise")), ("two", run("bottleneck"))])
    assert 'href="#methods-1"' in text
    assert "agreement with bottleneck (Spearman)" in text
    assert "<i>one" not in text
    assert "methods-1" not in report.render([("one", run("rise"))])
