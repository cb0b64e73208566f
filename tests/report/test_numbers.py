"""Rows of the key-number table, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from brainlens.align.run_sensors import _beside
from brainlens.datasets.runs import table
from brainlens.report import numbers
from brainlens.report.describe import untested
from brainlens.types import Result

METRICS = {
    "retrieval/brain->image/top1": 0.225,
    "retrieval/brain->image/top1.low": 0.18,
    "retrieval/brain->image/top1.high": 0.27,
    "retrieval/brain->image/chance1": 0.005,
    "retrieval/brain->image/n": 200.0,
    "retrieval/brain->image/gallery": 200.0,
    "retrieval/brain->image/mean_rank": 12.5,
    "retrieval/brain->image/nway50": 0.8,
    "align/ridge/retrieval/brain->image/top1": 0.1,
    "align/volume-ridge/retrieval/brain->image/top1": 0.125,
    "align/volume-ridge/retrieval/brain->image/top1.p": 0.003,
    "attribute/bottleneck/truth_auroc": 0.93,
    "rsa/best_layer": 0.2,
    "rsa/ceiling_low": 0.372,
    "rsa/ceiling_high": 0.666,
    "data/units_missing": 3.0,
    "data/units_constant": 0.0,
    "encoding/r2_mean": float("nan"),
}


def test_baselines_of_sensors_have_chance_and_n() -> None:
    way = "retrieval/brain->image/"
    row = {"encoder": "ridge", f"{way}n": 200.0}
    for k, chance in ((1, 0.005), (5, 0.025)):
        row |= {f"{way}top{k}": 0.1, f"{way}top{k}.low": 0.05, f"{way}top{k}.high": 0.2, f"{way}chance{k}": chance}
    assert [(one["chance"], one["n"]) for one in _beside(row)] == [("0.005", "200"), ("0.025", "200")]


def test_a_word_that_could_not_be_tested_is_said() -> None:
    arrays = {"label": np.array([[0, 1], [1, -1], [-1, -1]]), "label_p": np.array([0.01, np.nan, np.nan])}
    assert untested(Result("describe", {}, arrays)).startswith("1 more have a word that could not be tested")


def test_units_without_a_score_are_said_in_words() -> None:
    assert numbers.label("r2_of_ceiling undefined") == "units without R² / noise ceiling"


def test_a_difference_says_that_it_is_one_and_has_its_p() -> None:
    key = "align/volume-ridge/retrieval/brain->image/top5"
    both = {key: 0.05, f"{key}.low": 0.0, f"{key}.high": 0.15, f"{key}.p": 0.62, f"{key}.n": 20.0}
    both |= {"align/ridge/retrieval/brain->image/top5": 0.9, "align/ridge/retrieval/brain->image/chance5": 0.25}
    one, other = table(Result("align", both), "align/")
    assert (one["metric"], one["p"], one["n"]) == (f"{key} (difference)", "0.62", "20")
    assert (other["chance"], "p" in other) == ("0.25", False)


def test_rows_bring_their_neighbours_along() -> None:
    rows = {row.key: row for row in numbers.rows(METRICS, ideal={"retrieval/brain->image/top1": 0.6})}
    top = rows["retrieval/brain->image/top1"]
    assert (top.label, top.value, top.interval) == ("brain → image: top-1", "22.5 %", "[18.0 %, 27.0 %]")
    assert (top.chance, top.ceiling, top.n, top.main) == ("0.5 %", "60.0 % (ideal)", "200", True)
    assert rows["retrieval/brain->image/mean_rank"].chance == "99.5"
    assert rows["retrieval/brain->image/nway50"].chance == "2.0 %"
    assert rows["attribute/bottleneck/truth_auroc"].chance == "0.5"
    assert rows["rsa/best_layer"].ceiling == "0.372 to 0.666"
    assert rows["encoding/r2_mean"].value == "undefined"
    difference = rows["align/volume-ridge/retrieval/brain->image/top1"]
    assert difference.label == "volume minus ridge, brain → image: difference of top-1"
    assert (difference.value, difference.chance, difference.ceiling) == ("+12.5 points", "0 (no difference)", "")
    assert difference.interval == "p\u00a0=\u00a00.003"  # which no line breaks
    assert not rows["align/ridge/retrieval/brain->image/top1"].main
    hidden = {"retrieval/brain->image/chance1", "retrieval/brain->image/n", "rsa/ceiling_low", "data/units_missing"}
    assert not hidden & set(rows)


def test_a_difference_has_neither_the_unit_nor_the_chance_of_a_score() -> None:
    key = "attribute/bottleneck-gradcam/truth_auroc"
    (row,) = numbers.rows({key: 1.1e-5, f"{key}.low": -2e-4, f"{key}.high": 3e-4})
    assert row.label == "bottleneck minus Grad-CAM: difference of area under the ROC curve against the truth"
    assert (row.value, row.interval, row.chance) == ("+1.1e−05", "[−0.0002, +0.0003]", "0 (no difference)")
    assert not numbers.is_difference("compare/dinov2-small/r2_mean")  # a network's name


@pytest.mark.parametrize(
    "value, name, text",
    [
        (0.1234, "top5", "12.3 %"),
        (-0.0345, "r2_median", "−0.0345"),
        (128000, "", "128,000"),
        (1234.5, "", "1,234"),
        (float("inf"), "", "∞"),
    ],
)
def test_numbers_as_text(value: float, name: str, text: str) -> None:
    assert numbers.number(value, name) == text


def test_losses_name_only_what_was_lost() -> None:
    assert numbers.losses(METRICS) == ["data: units missing: 3"]


def test_scores_of_single_subjects_are_named_and_stand_behind_their_mean() -> None:
    metrics = {"align/volume/subject/1/retrieval/brain->image/top1": 0.1, "retrieval/brain->image/top1": 0.2}
    single, mean = numbers.rows(metrics)
    assert single.label == "volume, subject 1, brain → image: top-1"
    assert (single.main, mean.main) == (False, True)
