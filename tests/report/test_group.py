"""The section of a group of subjects, and the table of a model for each subject."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brainlens import report
from brainlens.attribute.group import group
from brainlens.report.group import likeness
from brainlens.report.sections import sections
from brainlens.types import Result, Volume

SPACE = Volume(np.ones((6, 5, 4), dtype=bool), np.eye(4))
SIGNAL = np.arange(120) < 30


def subjects(n: int) -> list[Result]:
    rng = np.random.default_rng(0)
    maps = [np.abs(rng.normal(size=120)) * 0.2 + SIGNAL for _ in range(n)]
    config = {"dataset": "haxby2001", "method": "bottleneck"}
    return [
        Result("attribute", {}, {"map/brain_mean": m}, None, {}, config | {"run": f"s{k}"}, space=SPACE)
        for k, m in enumerate(maps)
    ]


def test_likeness_is_the_correlation_with_the_others() -> None:
    maps = np.random.default_rng(1).normal(size=(4, 50))
    expected = [np.corrcoef(maps[k], np.delete(maps, k, 0).mean(0))[0, 1] for k in range(4)]
    assert np.allclose(likeness(maps), expected)
    assert np.isnan(likeness(np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))[0])


@pytest.mark.parametrize("n, figures", [(8, 2), (3, 1)], ids=["enough subjects for a test", "too few"])
def test_a_group_has_its_section_with_the_units_that_hold(n: int, figures: int) -> None:
    result = group(subjects(n), flips=500)
    (section,) = [s for s in sections(result, dpi=50) if s.title == "Over subjects"]
    assert len(section.pictures) == figures
    assert all(p.png and not p.note for p in section.pictures)
    if n == 8:
        count = int((result.arrays["map/q"] <= 0.05).sum())
        assert 0 < count < 120
        assert f"{count} of 120 units" in section.pictures[0].caption
        assert "8 subjects" in section.pictures[0].caption


def test_one_subject_is_no_group() -> None:
    assert "Over subjects" not in [s.title for s in sections(subjects(1)[0], dpi=None)]


def test_a_model_for_each_subject_shows_the_table_of_subjects() -> None:
    table = pd.DataFrame({"subject": ["s1", "s2"], "top1": [0.2, 0.4], "top1.low": [0.1, 0.3], "top1.high": [0.3, 0.5]})
    text = report.render([("align-1", Result("align", {"retrieval/brain->image/top1": 0.3}, tables={"subjects": table}))])
    assert "Table: subjects" in text
    assert "[10.0 %, 30.0 %]" in text


def test_subjects_are_not_drawn_as_models_that_compete() -> None:
    """The maps of the best model and of the distance to it are of models on one brain; the bars stand in the subjects' order."""
    n = 40
    table = pd.DataFrame({"model": ["net, subject a", "net, subject b"], "r2_mean": [0.1, 0.3], "R2 V1": [0.1, 0.3]})
    people = pd.DataFrame({"subject": ["a", "b", "mean"], "r2_mean": [0.1, 0.3, 0.2]})
    arrays = {"best_model": np.arange(n) % 2.0, "to_best": np.zeros((2, n))}
    config = {"models": list(table["model"]), "template": "MNI152"}
    space = Volume(np.ones((5, 4, 2), dtype=bool), np.eye(4))
    models = Result("compare", {}, arrays, None, {"comparison": table}, config, space=space)
    group_run = Result("compare", {}, arrays, None, {"comparison": table, "subjects": people}, config, space=space)
    assert {"label_map_best_model", "region_heatmaps"} <= set(models.plot)
    assert list(group_run.plot) == ["model_bars_r2_mean"]
    text = report.render([("compare-1", group_run)])
    assert "how well is the brain of each subject predicted?" in text
    assert "A model was fitted to each of 2 subjects" in text
    assert "Subjects side by side" in text
    assert "Table: comparison" not in text
    (ax,) = group_run.plot.model_bars_r2_mean().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["mean", "b", "a"]  # from below
