"""The tidy table of scores, worked by hand."""

from __future__ import annotations

import numpy as np

from brainlens.types import Result
from brainlens.types.scores import COLUMNS, is_difference, unit_of

METRICS = {
    "retrieval/brain->image/top1": 0.225,
    "retrieval/brain->image/top1.low": 0.18,
    "retrieval/brain->image/top1.high": 0.27,
    "retrieval/brain->image/chance1": 0.005,
    "retrieval/brain->image/n": 200.0,
    "encoding/r2_mean": 0.2,
    "encoding/r2_mean.ceiling": 0.4,
    "attribute/bottleneck-gradcam/truth_auroc": 1.1e-5,
    "data/units_missing": 3.0,
}


def test_a_mean_r2_stands_beside_its_ceiling_and_a_count_by_its_rule() -> None:
    metrics = {"encoding/r2_mean": 0.3, "encoding/ceiling_mean": 0.7, "encoding/r_mean": 0.5}
    metrics |= {"encoding/units_significant": 82.0, "encoding/share_significant": 0.69}
    rows = Result("encode", metrics).scores().set_index("metric")
    assert rows.loc["encoding/r2_mean", "ceiling"] == 0.7
    assert np.isnan(rows.loc["encoding/r_mean", "ceiling"])  # that of R2 is none of r
    assert "R2 > 0" in rows.loc["encoding/units_significant", "unit"]
    assert "r > 0" in rows.loc["encoding/share_significant", "unit"]


def test_a_score_brings_its_interval_chance_ceiling_n_and_unit() -> None:
    found = Result("align", METRICS).scores()
    assert tuple(found.columns) == COLUMNS
    rows = found.set_index("metric")
    assert list(rows.index) == ["retrieval/brain->image/top1", "encoding/r2_mean", "attribute/bottleneck-gradcam/truth_auroc"]
    assert rows.loc["retrieval/brain->image/top1"].tolist()[:4] == [0.225, 0.18, 0.27, 0.005]
    assert rows.loc["retrieval/brain->image/top1", ["n", "unit"]].tolist() == [200.0, "share"]
    assert rows.loc["encoding/r2_mean", ["chance", "ceiling", "unit"]].tolist() == [0.0, 0.4, "R2"]
    assert np.isnan(rows.loc["encoding/r2_mean", "low"])


def test_a_difference_is_named_as_one() -> None:
    rows = Result("attribute", METRICS).scores().set_index("metric")
    difference = rows.loc["attribute/bottleneck-gradcam/truth_auroc"]
    assert (difference["chance"], difference["unit"]) == (0.0, "difference of AUROC")
    assert not is_difference("compare/dinov2-small/r2_mean")  # a network's name
    assert not is_difference("retrieval/brain->image/top1")


def test_units_by_name() -> None:
    names = ("top5", "truth_auroc", "r2_mean", "layer_spearman", "mean_rank", "peak_ms", "hierarchy_slope", "temperature")
    assert [unit_of(name) for name in names] == ["share", "AUROC", "R2", "r", "rank", "ms", "share of depth", ""]


def test_nothing_gives_an_empty_table() -> None:
    assert tuple(Result("x", {}).scores().columns) == COLUMNS


def test_the_largest_of_many_scores_has_no_chance_by_definition() -> None:
    rows = (
        Result("encode", {"encoding/r2_max": 0.6, "encoding/r2_mean": 0.1, "encoding/two_way": 0.7, "time/two_way_max": 0.7})
        .scores()
        .set_index("metric")
    )
    assert np.isnan(rows.loc["encoding/r2_max", "chance"])
    assert np.isnan(rows.loc["time/two_way_max", "chance"])  # the best of many times is above .5 by chance
    assert rows.loc["encoding/r2_mean", "chance"] == 0
    assert rows.loc["encoding/two_way", ["chance", "unit"]].tolist() == [0.5, "share"]
