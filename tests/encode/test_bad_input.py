"""What may be wrong with what `encode` is given: one line that names it, or a count on the page of the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brainlens.encode import EncodingDesign, encode
from brainlens.metrics.statistics import fdr
from brainlens.models.encoding.training import EncodingTraining
from brainlens.report import wording
from brainlens.report.page import render
from brainlens.types import DataError, Features, Responses

FEW = EncodingTraining(steps=4, epoch=2, batch=8, decay_steps=2)
SMALL = EncodingDesign(width=4, resamples=200, clusters=2)


def recording(repeats: int = 2, tests: int = 12) -> tuple[Responses, Features]:
    """60 images with one layer of 4 x 4 tokens, 30 units in two regions: V1 reads it, EBA is noise."""
    rng = np.random.default_rng(0)
    n = 48 + tests
    ids = np.array([f"i{k:02d}" for k in range(n)])
    tokens = rng.normal(size=(n, 16, 5)).astype(np.float32)
    features = Features({"a": tokens.mean(axis=1)}, ids, "made-up", {"a": tokens}, {"a": (4, 4)})
    signal = np.concatenate([features.data["a"] @ rng.normal(size=(5, 15)) * 4, np.zeros((n, 15))], axis=1)
    data = np.tile(signal, (repeats, 1)) + 0.5 * rng.normal(size=(repeats * n, 30))
    split = np.where(np.arange(n) < 40, "train", np.where(np.arange(n) < 48, "validation", "test"))
    trials = pd.DataFrame({"stimulus": np.tile(ids, repeats), "split": np.tile(split, repeats)})
    xyz = rng.normal(size=(30, 3))
    units = pd.DataFrame({"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], "roi": np.repeat(["V1", "EBA"], 15)})
    return Responses(data.astype(np.float32), trials, units), features


R, F = recording()
FEW_TESTS, FEW_FEATURES = recording(tests=5)


def fit(responses: Responses, features: Features = F, method: str = "factortopy", **design: object) -> object:
    return encode(responses, features, method=method, design=replace(SMALL, **design), training=FEW)  # type: ignore[arg-type]


ERRORS = {
    "a coordinate is missing": (
        lambda: fit(replace(R, units=R.units.drop(columns="y"))),
        r"missing \['y'\].*without places, ridge",
    ),
    "a coordinate is NaN": (
        lambda: fit(replace(R, units=R.units.assign(z=np.where(np.arange(30) == 3, np.nan, 0.5)))),
        "1 of 30 ",
    ),
    "a layer that is not there": (lambda: fit(R, layers=("b",)), r"no layer \['b'\].*it has \['a'\]"),
    "and for ridge": (lambda: fit(R, method="ridge", layers=("b",)), r"no layer 'b'; it has \['a'\]"),
    "features of other images": (lambda: fit(R, replace(F, ids=np.array([f"x{k}" for k in range(60)]))), "ids are not found"),
    "features of some images": (lambda: fit(R, F.take(F.ids[:50]), method="ridge"), "10 ids are not found"),
    "fewer test images than an interval needs": (
        lambda: fit(FEW_TESTS, FEW_FEATURES, method="ridge"),
        "at least 8 .*resamples=0",
    ),
    "a region that is not there": (lambda: fit(R.pick(roi=["FFA"])), r"no value 'FFA'; it has \['EBA', 'V1'\]"),
    "most units are missing": (lambda: fit(replace(R, data=np.where(np.arange(30) < 9, np.nan, R.data))), "30% of the 30 units"),
}


@pytest.mark.parametrize("name", list(ERRORS))
def test_a_mistake_is_one_line(name):
    call, message = ERRORS[name]
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_one_repeat_leaves_the_ceiling_undefined_on_the_page():
    once, features = recording(repeats=1)
    result = encode(once, features, method="ridge", design=SMALL)
    said = wording.warnings(result)
    assert any(line.startswith("no noise ceiling") for line in said)
    page = render([("one repeat", result)])
    assert "undefined" in page
    assert np.isnan(result.arrays["ceiling"]).all()


def test_a_region_whose_units_were_all_dropped_is_counted_on_the_page():
    units = R.units.assign(roi=np.where(np.arange(30) < 2, "FOVEA", R.units["roi"]))
    data = R.data.copy()
    data[:, 0], data[5, 1] = 1.0, np.nan  # one never changes, one holds a missing value
    result = encode(replace(R, data=data, units=units), F, method="ridge", design=SMALL)
    said = wording.warnings(result)
    assert "regions left out: 1" in said
    assert "units missing: 1" in said
    assert "units constant: 1" in said
    assert "FOVEA" not in set(result.tables["regions"]["roi"])
    assert "regions left out: 1" in render([("masked", result)])


def test_units_are_significant_by_the_bootstrap_at_a_false_discovery_rate():
    result = encode(R, F, method="ridge", design=SMALL)
    p, q = result.arrays["p"], result.arrays["q"]
    np.testing.assert_allclose(q, fdr(p))
    assert result.metrics["encoding/units_significant"] == (q < 0.05).sum()
    assert (q[:15] < 0.05).mean() > 0.8
    assert (q[15:] < 0.05).sum() <= 2


def test_what_is_read_off_the_channels_is_kept_for_the_figures():
    result = fit(R)
    assert set(result.tables["clusters"]["cluster"]) == {0, 1}
    assert result.tables["clusters"]["units"].sum() == 30
    assert list(result.arrays["channels/ids"]) == [str(i) for i in F.ids[48:][np.linspace(0, 11, 8).round().astype(int)]]
    for roi in ("V1", "EBA"):
        maps = result.arrays[f"channels/map/{roi}"]
        assert maps.shape == (8, 8, 8, 3)
        assert maps.min() >= 0
        assert maps.max() <= 1


@pytest.mark.parametrize("words", [("training", "testing"), ("0", "1")])
def test_other_words_for_the_parts_are_named(words: tuple[str, str]) -> None:
    trials = R.trials.assign(split=np.where(R.trials["split"] == "test", words[1], words[0]))
    with pytest.raises(DataError, match=rf"'split' holds \['{min(words)}', '{max(words)}'\]; name its parts train, test"):
        fit(replace(R, trials=trials), method="ridge")
