"""What a comparison of networks keeps for its maps."""

from __future__ import annotations

import numpy as np
import pandas as pd

from brainlens.encode.run import side_by_side, side_by_side_maps
from brainlens.types import Result


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
