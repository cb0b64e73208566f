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
