"""The mean over subjects of one model each: it leads, has a table of subjects, and its interval says what it is over."""

from __future__ import annotations

import numpy as np
import pytest

from brainlens.align.run import _mean_result
from brainlens.metrics.retrieval import summary
from brainlens.types import Result

IDS = np.array([f"i{k}" for k in range(20)])


def one(share: float, seed: int) -> Result:
    ranks = np.where(np.random.default_rng(seed).random(20) < share, 0, 8)
    metrics = {f"retrieval/brain->image/{key}": value for key, value in summary(ranks, 20, seed=0).items()}
    return Result("align", metrics, {"ids": IDS, "ranks/brain->image": ranks}, provenance={"data": [str(seed)]})


@pytest.mark.parametrize(("count", "over"), [(2, "stimuli"), (3, "subjects and stimuli")])
def test_the_mean_leads_and_says_what_its_interval_is_over(count, over):
    each = [one(share, k) for k, share in enumerate((0.1, 0.5, 0.9)[:count])]
    names = [str(k + 1) for k in range(count)]
    found = _mean_result(each, names, seed=0)
    assert next(iter(found.metrics)).startswith("retrieval/brain->image")
    assert found.config["interval_over"] == over
    table = found.tables["subjects"].set_index("subject")
    assert list(table.index) == [*names, "mean"]
    key = "retrieval/brain->image/top1"
    assert [table.loc[name, "top1"] for name in names] == [result.metrics[key] for result in each]
    assert table.loc["mean", "top1"] == pytest.approx(np.mean([result.metrics[key] for result in each]))
    assert table.loc["mean", "top1.low"] < table.loc["mean", "top1"] < table.loc["mean", "top1.high"]
    if count == 3:  # subjects that differ by so much make the interval wide
        widest = max(result.metrics[f"{key}.high"] - result.metrics[f"{key}.low"] for result in each)
        assert table.loc["mean", "top1.high"] - table.loc["mean", "top1.low"] > widest
