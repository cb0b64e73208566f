"""Figures of networks side by side, seeds, single layers, channels and patterns: drawn, and holding what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from brainlens.plots import networks, selected, style
from brainlens.report.sections import sections
from brainlens.types import DataError, Result


def drawn(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def patterns(n: int = 12) -> Result:
    rng = np.random.default_rng(0)
    pairs = n * (n - 1) // 2
    measured = rng.uniform(size=pairs)
    table = pd.DataFrame({"layer": ["stage.0", "stage.1"], "r2": [0.01, 0.05], "two_way": [0.6, 0.8]})
    for column in ("r2", "two_way"):
        table[f"{column}.low"], table[f"{column}.high"] = table[column] - 0.01, table[column] + 0.01
    arrays = {"rdm/measured": measured, "rdm/predicted": measured + 0.3 * rng.uniform(size=pairs)}
    arrays |= {"null/r2_weighted": rng.normal(0, 0.01, 99), "null/two_way_patterns": rng.normal(0.5, 0.05, 99)}
    metrics = {"encoding/n": float(n), "encoding/folds": 28.0, "encoding/rdm/match_correlation": 0.5}
    return Result("encode", metrics, arrays, None, {"layers": table}, {"method": "ridge_patterns"})


def comparison() -> Result:
    table = pd.DataFrame({"model": ["miniature", "mobilenet"], "r2_mean": [0.1, 0.2], "r2_mean.low": [0.08, 0.17]})
    table["r2_mean.high"] = [0.12, 0.22]
    table["distance"] = [0.1, 0.0]
    for roi, values in (("V1", [0.1, 0.3]), ("EBA", [0.2, 0.1])):
        table[f"R2 {roi}"], table[f"distance {roi}"] = values, [max(values) - v for v in values]
    pair = {"a": "s1", "b": "s2", "correlation": 0.9, "same_layer": 0.7, "chance": 0.2, "units": 40}
    tables = {"comparison": table, "consistency": pd.DataFrame([pair])}
    return Result("compare", {}, {}, None, tables, {"method": "factortopy", "models": ["miniature", "mobilenet"]})


def beside() -> Result:
    rng = np.random.default_rng(1)
    one = pd.DataFrame({"layer": ["a", "b", "c"], "selector_weight": [0.2, 0.5, 0.3], "single_layer_r2": [0.1, 0.2, 0.15]})
    arrays = {"channels/images": rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)}
    arrays |= {f"channels/map/{roi}": rng.uniform(size=(4, 8, 8, 3)) for roi in ("V1", "EBA")}
    metrics = {"encoding/one_layer/layer_correlation": 0.8, "encoding/one_layer/layer_correlation.low": 0.7}
    metrics |= {"encoding/one_layer/layer_correlation.high": 0.9}
    return Result("encode", metrics, arrays, None, {"one_layer": one}, {"method": "factortopy"})


@pytest.mark.parametrize("make", [patterns, comparison, beside])
def test_the_report_draws_every_figure_of_them(make):
    result = make()
    made = sections(result, dpi=40)
    pictures = [picture for section in made for picture in section.pictures]
    assert pictures
    assert not [picture.note for picture in pictures if picture.note]


def test_dissimilarities_are_ranks_in_the_order_of_the_groups():
    result = patterns(4)
    result.arrays["rdm/measured"][:] = [5, 1, 2, 3, 4, 0]  # pairs 01 02 03 12 13 23
    figure = networks.dissimilarities(result, groups=["b", "a", "b", "a"])
    square = np.asarray(figure.axes[0].images[0].get_array())  # order 1, 3, 0, 2
    assert square[0, 1] == pytest.approx(4 / 5)
    assert square[2, 3] == pytest.approx(1 / 5)
    assert square[3, 1] == pytest.approx(0)
    assert np.isnan(np.diag(square)).all()


def test_heat_maps_by_region_hold_the_values_of_the_table():
    figure = networks.region_heatmaps(comparison().tables["comparison"])
    np.testing.assert_allclose(np.asarray(figure.axes[0].images[0].get_array()), [[0.1, 0.2], [0.3, 0.1]])
    np.testing.assert_allclose(np.asarray(figure.axes[1].images[0].get_array()), [[0.2, 0.0], [0.0, 0.1]], atol=1e-12)


def test_places_run_from_blue_left_to_orange_right_and_from_light_to_dark():
    left, right, up, down = selected.place_colour(np.array([-1.0, 1, 0, 0]), np.array([0.0, 0, -1, 1]))
    assert left[2] > left[0]
    assert right[0] > right[2]
    assert up.mean() > down.mean() + 0.3
    assert np.ptp(up) < 0.02  # the middle has no hue
    square = selected.place_colour(np.linspace(-1, 1, 5)[None, :], np.linspace(-1, 1, 4)[:, None])
    assert square.shape == (4, 5, 3)
    np.testing.assert_allclose(square[0, 0], selected.place_colour(np.array([-1.0]), np.array([-1.0]))[0])


def test_labels_have_colours_that_differ():
    for count in (3, 20, 30):
        colours = selected.label_colours(count)
        assert len(np.unique(colours.round(3), axis=0)) == count
        assert colours.shape == (count, 3)
    assert selected.label_colours(2)[0] == pytest.approx(np.array([0, 0x72, 0xB2]) / 255)
    assert style.PALETTE[0] == "#0072B2"


def test_what_is_not_there_is_one_line():
    result = patterns()
    cases = [
        (lambda: networks.one_layer(result), "no table 'one_layer'"),
        (lambda: networks.region_heatmaps(pd.DataFrame({"model": ["a"]})), "needs columns model"),
        (lambda: networks.channel_pictures(beside(), regions=["PPA"]), "no region of"),
        (lambda: networks.consistency(result), "no table 'consistency'"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
