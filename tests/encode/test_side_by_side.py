"""What a comparison of networks keeps for its maps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brainlens.datasets.source import Source
from brainlens.encode import EncodingDesign, EncodingTraining, encode
from brainlens.encode.compare import topology_pair
from brainlens.encode.run import Asked, _check, _Session, side_by_side, side_by_side_maps
from brainlens.types import DataError, Features, Responses, Result


def made(r2: list[float], layer: list[float] | None, layers: list[str]) -> Result:
    arrays = {"r2": np.array(r2)}
    arrays |= {} if layer is None else {"layer": np.array(layer), "confidence": np.ones(len(r2))}
    return Result("encode", {}, arrays, config={"layers": layers})


def maps(*results: Result) -> dict[str, np.ndarray]:
    scores = np.stack([result.arrays["r2"] for result in results])
    known = np.isfinite(scores).all(axis=0) & (np.where(np.isfinite(scores), scores, -np.inf).max(axis=0) > 0)
    return side_by_side_maps({f"n{i}": result for i, result in enumerate(results)}, scores, known)


def test_the_distance_to_the_best_is_zero_where_a_network_is_it() -> None:
    found = maps(made([0.2, 0.1, -0.3, np.nan], None, ["a"]), made([0.1, 0.4, -0.1, 0.2], None, ["b"]))
    np.testing.assert_allclose(found["to_best"], [[0, -0.3, np.nan, np.nan], [-0.1, 0, np.nan, np.nan]])
    assert "models/layer" not in found


def test_layer_maps_stand_side_by_side_where_the_layers_are_the_same() -> None:
    before, after = made([0.2, 0.1], [0.0, 1.0], ["a", "b"]), made([0.1, 0.2], [1.0, 0.5], ["a", "b"])
    found = maps(before, after)
    np.testing.assert_array_equal(found["models/layer"], [[0, 1], [1, 0.5]])
    assert "models/layer" not in maps(before, made([0.1, 0.2], [1.0, 0.5], ["a", "c"]))


def test_counts_of_units_are_whole_numbers_on_the_terminal() -> None:
    frame = pd.DataFrame({"subject": ["p1"], "r2_mean": [0.07944], "r2_mean.low": [0.0235], "r2_mean.high": [0.117]})
    (row,) = side_by_side(frame.assign(units_scored=1556.0, units=1820.0))
    assert row == {"subject": "p1", "r2_mean": "0.0794 (0.0235 to 0.117)", "units_scored": "1,556", "units": "1,820"}


def tiny() -> tuple[Responses, Features]:
    """Two dozen voxels that read the first or the last of three layers."""
    rng = np.random.default_rng(0)
    ids = np.array([f"i{i:02d}" for i in range(60)])
    whole = {name: rng.normal(size=(60, 4)).astype(np.float32) for name in "abc"}
    tokens = {name: rng.normal(size=(60, 64, 4)).astype(np.float32) for name in "abc"}
    signal = np.concatenate([np.repeat(whole[name][:, :1], 12, axis=1) for name in "ac"], axis=1)
    trials = pd.DataFrame({"stimulus": ids, "split": np.where(np.arange(60) < 40, "train", "test"), "subject": "1"})
    places = rng.normal(size=(24, 3)) + np.repeat([[0], [40]], 12, axis=0)
    responses = Responses(
        (signal + 0.3 * rng.normal(size=signal.shape)).astype(np.float32), trials, pd.DataFrame(places, columns=list("xyz"))
    )
    return responses, Features(whole, ids, "made-up", tokens, dict.fromkeys("abc", (8, 8)))


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Result:
    asked = Asked(
        "factortopy", EncodingDesign(width=4, resamples=20, clusters=2), EncodingTraining(steps=4, epoch=2, batch=8),
        curve=(30, 20), compare_topology=True,
    )  # fmt: skip
    session = _Session(Source(), tmp_path_factory.mktemp("runs"), asked, 0, "cpu", lambda *_: None)
    return session.voxels(*tiny(), Source(), "factortopy")[0]


def test_each_training_size_keeps_its_layer_map(beside: Result) -> None:
    curve = beside.tables["learning_curve"]
    assert list(curve["images"]) == [20, 30]
    assert beside.arrays["curve/layer"].shape == beside.arrays["curve/confidence"].shape == (2, 24)
    responses, features = tiny()
    names = np.random.default_rng(0).permutation([f"i{i:02d}" for i in range(40)])[:20]
    part = responses.rows(np.isin(responses.trials["stimulus"], [*names, *(f"i{i:02d}" for i in range(40, 60))]))
    design, training = EncodingDesign(width=4, resamples=20, clusters=2), EncodingTraining(steps=4, epoch=2, batch=8)
    alone = encode(part, features, design=design, training=training)
    np.testing.assert_array_equal(beside.arrays["curve/layer"][0], alone.arrays["layer"])
    np.testing.assert_allclose(beside.arrays["curve/confidence"][0], alone.arrays["confidence"], atol=1e-6)
    assert curve["r2_mean"][0] == pytest.approx(alone.metrics["encoding/r2_mean"], abs=1e-6)


def test_topology_is_switched_off_in_the_second_fit_alone(beside: Result) -> None:
    responses, features = tiny()
    design = EncodingDesign(width=4, resamples=20, clusters=2, topological=False)
    free = encode(responses, features, design=design, training=EncodingTraining(steps=4, epoch=2, batch=8))
    for key in ("layer", "confidence"):
        np.testing.assert_allclose(beside.arrays[f"topology/{key}"], [beside.arrays[key], free.arrays[key]], atol=1e-6)
    assert not np.allclose(free.arrays["confidence"], beside.arrays["confidence"])
    table = topology_pair(beside, free)[0]
    assert list(table["confidence"]) == pytest.approx(list(beside.tables["topology"]["confidence"]))
    assert list(table["r2_mean"]) == pytest.approx([beside.metrics["encoding/r2_mean"], free.metrics["encoding/r2_mean"]])


def test_a_comparison_of_topology_needs_the_topology() -> None:
    with pytest.raises(DataError, match="leave out --per-voxel"):
        _check(Source(), Asked(design=EncodingDesign(topological=False), compare_topology=True))
