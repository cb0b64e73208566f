"""Multiply-adds of a prediction against plain sums over the equations, and the table of methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlens.datasets.source import Source
from brainlens.encode import EncodingDesign, encode
from brainlens.encode.compare import compare, relative_cost
from brainlens.encode.run import Asked, run_encode
from brainlens.models.encoding.training import EncodingTraining
from brainlens.store import load_result
from brainlens.types import DataError, Features, Responses

FEW = EncodingTraining(steps=2, epoch=1, batch=8, decay_steps=2)
N, C, L, D, PLACES, BATCH, CODE, HIDDEN = 30, 5, 2, 4, 64, 8, 192, 128
SELECTORS = CODE * 3 * HIDDEN + 3 * HIDDEN * HIDDEN + HIDDEN * (2 + L + 1)  # multiply-adds a voxel, once a batch
PLAIN = {
    ("class_token", ()): L * C * D + N * D,
    ("patch_token", ()): L * (PLACES * C * D + D * D) + N * D,
    # a product of every voxel with every token, and their sum weighted by the field
    ("gnet", ()): L * PLACES * C * D + N * L * PLACES * (D + 1),
    # four corners and the global token of every layer, and their weighted sum
    ("factortopy", ()): L * (PLACES + 1) * C * D + N * 5 * L * (D + 1) + N * SELECTORS / BATCH,
    ("factortopy", ("topological", False)): L * (PLACES + 1) * C * D + N * 5 * L * (D + 1),
    ("factortopy", ("use", ("layer", "scale"))): L * (PLACES + 1) * C * D + N * 2 * L * (D + 1) + N * SELECTORS / BATCH,
    ("factortopy", ("samples", 3)): (
        L * (PLACES + 1) * C * D + 3 * N * 5 * L * (D + 1) + N * (SELECTORS + HIDDEN * 4) / BATCH
    ),
    # and the global token of one layer, which all read
    ("factortopy", ("common", "a")): L * (PLACES + 1) * C * D + N * 5 * L * (D + 1) + N * D + N * SELECTORS / BATCH,
    # ridge reads the global token and four fields of one layer
    ("ridge", ()): N * 5 * C,
}  # fmt: skip
WEIGHTS = {
    "class_token": L * C * D + N * D + N,
    "patch_token": L * (PLACES * C * D + D + D * D + D) + N * D + N,
    "gnet": L * C * D + N * L * PLACES + N * D + N,
    "factortopy": L * C * D + N * D + N + SELECTORS + 3 * HIDDEN + 3 * HIDDEN,
    "ridge": N * 5 * C + N,
}


def recording() -> tuple[Responses, Features]:
    rng = np.random.default_rng(0)
    ids = np.array([f"i{k:02d}" for k in range(60)])
    tokens = {name: rng.normal(size=(60, 16, C)).astype(np.float32) for name in "ab"}
    features = Features({k: v.mean(axis=1) for k, v in tokens.items()}, ids, "made-up", tokens, dict.fromkeys("ab", (4, 4)))
    data = features.data["a"] @ rng.normal(size=(C, N)) + rng.normal(size=(60, N))
    split = np.where(np.arange(60) < 40, "train", np.where(np.arange(60) < 48, "validation", "test"))
    units = pd.DataFrame(dict(zip("xyz", rng.normal(size=(3, N)), strict=True)) | {"roi": ["V1"] * N})
    return Responses(data.astype(np.float32), pd.DataFrame({"stimulus": ids, "split": split}), units), features


R, F = recording()


def fit(method: str, change: tuple = ()):
    design = EncodingDesign(**{"width": D, "resamples": 0, "clusters": 2, "common": None, **(dict([change]) if change else {})})
    return encode(R, F, method=method, design=design, training=FEW)


@pytest.mark.parametrize("method, change", list(PLAIN))
def test_multiply_adds_are_those_of_the_equations(method: str, change: tuple) -> None:
    found = fit(method, change)
    assert found.metrics["encoding/multiply_adds"] == pytest.approx(PLAIN[method, change], rel=1e-12)
    if not change:
        assert found.metrics["encoding/parameters"] == WEIGHTS[method]
    elif change == ("common", "a"):
        assert found.metrics["encoding/parameters"] == WEIGHTS[method] + N * D
    assert 0 < found.provenance["fit_s"] <= found.provenance["wall_s"]


def test_cost_is_in_units_of_the_class_token_or_of_the_first() -> None:
    table = pd.DataFrame({"model": ["a", "b"], "fit_s": [2.0, 8.0], "multiply_adds": [10.0, 5.0]})
    found = relative_cost(table, ["ridge", "class_token"])
    assert list(found.columns) == ["model", "time x", "fit_s", "MACs x", "multiply_adds"]
    np.testing.assert_allclose(found["time x"], [0.25, 1])
    np.testing.assert_allclose(found["MACs x"], [2, 1])
    np.testing.assert_allclose(relative_cost(table, ["ridge", "gnet"])["time x"], [1, 4])
    assert relative_cost(table.assign(fit_s=np.nan), ["ridge", "gnet"])["time x"].isna().all()


def test_networks_of_one_method_have_their_cost_without_ratios() -> None:
    ridge = fit("ridge")
    found = compare({"a": ridge, "b": ridge})
    assert "MACs x" not in found.columns
    np.testing.assert_allclose(found["multiply_adds"], N * 5 * C)


def test_several_methods_of_one_call_stand_in_one_table(tmp_path: Path) -> None:
    design = EncodingDesign(layers=("vision.2", "vision.6"), width=8, resamples=20, clusters=2)
    source = Source("phantom", n_train=60, n_test=12, regions=("V1",))
    asked = Asked(None, design, FEW, methods=("ridge", "class_token", "factortopy"))
    folder, rows = run_encode(source, tmp_path, asked, tell=lambda text, share=None: None)
    result = load_result(folder)
    table = result.tables["comparison"]
    assert list(table["model"]) == ["ridge", "class_token", "factortopy"]
    assert result.config["methods"] == ["ridge", "class_token", "factortopy"]
    assert table["MACs x"].iloc[1] == table["time x"].iloc[1] == 1
    np.testing.assert_allclose(table["MACs x"] * table["multiply_adds"].iloc[1], table["multiply_adds"])
    assert {"R2 V1", "parameters"} <= set(table.columns)
    assert {"time x", "MACs x"} <= set(rows[0])
    assert len({path.name for path in tmp_path.glob("encode-*/")}) == 3


@pytest.mark.parametrize(
    "methods, text",
    [(("ridge", "magic"), "'magic' is not one of"), (("ridge", "ridge"), "a method is given twice"),
     (("ridge", "gnet"), "method 'ridge' does not have")],
)  # fmt: skip
def test_mistakes(methods: tuple[str, ...], text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        run_encode(Source("phantom"), tmp_path, Asked(methods=methods, one_layer=True), tell=print)
