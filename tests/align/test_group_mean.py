"""The mean over subjects of one model each: it leads, has a table of subjects, and its interval says what it is over."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from brainlens import store
from brainlens.align import run_sensors
from brainlens.align.headline import spoken
from brainlens.align.over_subjects import mean_result
from brainlens.align.sensor_options import SensorOptions
from brainlens.datasets.source import Source
from brainlens.metrics.retrieval import summary
from brainlens.subjects import Protocol
from brainlens.types import DataError, Result

IDS = np.array([f"i{k}" for k in range(20)])


def one(share: float, seed: int) -> Result:
    ranks = np.where(np.random.default_rng(seed).random(20) < share, 0, 8)
    metrics = {f"retrieval/brain->image/{key}": value for key, value in summary(ranks, 20, seed=0).items()}
    return Result("align", metrics, {"ids": IDS, "ranks/brain->image": ranks}, provenance={"data": [str(seed)]})


@pytest.mark.parametrize(("count", "over"), [(2, "stimuli"), (3, "subjects and stimuli")])
def test_the_mean_leads_and_says_what_its_interval_is_over(count, over):
    each = [one(share, k) for k, share in enumerate((0.1, 0.5, 0.9)[:count])]
    names = [str(k + 1) for k in range(count)]
    found = mean_result(each, names, seed=0)
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


def test_the_table_says_whose_encoder_it_was():
    each = [one(share, k) for k, share in enumerate((0.1, 0.5))]
    assert "encoder" not in mean_result(each, ["1", "2"], seed=0).tables["subjects"]
    for second, together in (("ridge", "ridge"), ("canonical", "each subject's own")):
        chosen = {"main_by": "validation images", "encoders": ["ridge", "canonical"]}
        named = [replace(r, config=chosen | {"main": name}) for r, name in zip(each, ("ridge", second), strict=True)]
        mean = mean_result(named, ["1", "2"], seed=0)
        assert mean.tables["subjects"]["encoder"].tolist() == ["ridge", second, together]
        assert mean.config["main"] == together
        assert spoken(mean) == ""  # validation scores are of each run


def test_the_mean_over_subjects_of_eeg_is_a_further_run(tmp_path, monkeypatch):
    """A run for each subject with the protocol asked for, told apart by its subject, and their mean."""
    asked = []

    def aligned(source, runs, options, *, seed, device, tell):
        asked.append(options.protocol)
        number = int(options.protocol.subject)
        config = {"protocol": asdict(options.protocol), "main": "ridge"}
        result = replace(one(0.2 * number, number), config=config)
        return run_sensors.keep(result, runs, source), [{"metric": "x", "value": "1"}]

    monkeypatch.setattr(run_sensors, "run_align_sensors", aligned)
    options = SensorOptions(("ridge",), protocol=Protocol("across"))
    source = Source("phantom_eeg")
    quiet = lambda text, share=None: None  # noqa: E731
    folders, rows = run_sensors.run_align_sensors_each(source, tmp_path, options, ["1", "sub-02", "3"], tell=quiet)
    assert [(p.kind, p.subject) for p in asked] == [("across", "1"), ("across", "2"), ("across", "3")]
    assert len(set(folders)) == 4
    mean = store.load_result(folders[-1])
    assert mean.tables["subjects"]["subject"].tolist() == ["1", "2", "3", "mean"]
    each = [store.load_result(folder).metrics["retrieval/brain->image/top1"] for folder in folders[:3]]
    assert mean.metrics["retrieval/brain->image/top1"] == pytest.approx(np.mean(each))
    assert mean.config["interval_over"] == "subjects and stimuli"
    assert mean.config["protocol"]["subject"] is None
    assert [row["subject"] for row in rows][:4] == ["1", "2", "3", "mean"]
    for wrong in (["1"], ["1", "sub-01"]):
        with pytest.raises(DataError, match="not two or more different ones; give --subject once for each"):
            run_sensors.run_align_sensors_each(source, tmp_path, options, wrong, tell=quiet)
