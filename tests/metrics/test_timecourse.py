"""Windows, ridge against sklearn, and decoding that starts when the signal starts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from brainlens.metrics.timecourse import (
    half_height,
    mean_correlation,
    ridge_fit,
    time_generalisation,
    time_windows,
    window_scores,
    window_table,
)
from brainlens.types import DataError

TIMES = np.arange(100) / 100


def recording(onset: float, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(n, 3))
    data = rng.normal(size=(n, 6, 100))
    data[:, :3, onset <= TIMES] += target[:, :, None]
    return data, target


def test_windows_cover_and_nest() -> None:
    found = time_windows(TIMES, step=0.25)
    assert len(found) == 12
    growing = [w.mask.sum() for w in found if w.kind == "growing"]
    shrinking = [w.mask.sum() for w in found if w.kind == "shrinking"]
    assert growing == [25, 50, 75, 100]
    assert shrinking == [100, 75, 50, 25]
    assert sum(w.mask for w in found if w.kind == "sliding").tolist() == [1] * 100


@pytest.mark.parametrize(("samples", "sizes"), [(21, [10, 11]), (29, [10, 10, 9]), (4, [4])])
def test_a_short_rest_at_the_end_is_no_window_of_its_own(samples: int, sizes: list[int]) -> None:
    found = time_windows(TIMES[:samples], kinds=("sliding",))
    assert [int(w.mask.sum()) for w in found] == sizes


@pytest.mark.parametrize("n, p", [(30, 8), (8, 30)])
def test_ridge_equals_sklearn(n: int, p: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, 2))
    weights, intercept = ridge_fit(x, y, penalty=0.7)
    truth = Ridge(alpha=0.7 * ((x - x.mean(0)) ** 2).sum() / p).fit(x, y)
    assert np.allclose(weights, truth.coef_.T)
    assert np.allclose(intercept, truth.intercept_)


@pytest.mark.parametrize("onset", [0.2, 0.6])
def test_curves_rise_at_the_onset(onset: float) -> None:
    data, target = recording(onset)
    windows = time_windows(TIMES, step=0.1, kinds=("growing", "sliding"))
    scores = window_scores(data[:150], target[:150], data[150:], windows, mean_correlation, test_target=target[150:])
    sliding = np.array([s for w, s in zip(windows, scores) if w.kind == "sliding"])
    start = round(onset * 10)
    assert sliding[start:].min() > 0.8
    assert np.abs(sliding[:start]).max() < 0.35
    assert half_height(windows, scores) == pytest.approx(onset + 0.1)
    table = window_table(windows, scores, metric="r")
    assert list(table.columns) == ["kind", "start", "end", "r"]
    assert len(table) == 20


def test_generalisation_is_high_where_both_times_hold_the_signal() -> None:
    data, target = recording(0.5)
    out = time_generalisation(data[:150], target[:150], data[150:], mean_correlation, test_target=target[150:], width=10)
    assert out.shape == (10, 10)
    assert out[6:, 6:].min() > 0.8
    assert np.abs(out[:, :4]).max() < 0.4  # no decoder finds anything before the onset


def test_correlation_of_a_constant_is_zero() -> None:
    assert mean_correlation(np.ones((5, 2)), np.random.default_rng(0).normal(size=(5, 2))) == 0


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: time_windows(TIMES, step=0), "above 0"),
        (lambda: time_windows(TIMES, kinds=("rolling",)), "growing"),
        (lambda: half_height(time_windows(TIMES), np.full(30, -1.0)), "nothing to date"),
    ],
)
def test_mistakes_are_one_line(call: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        call()  # type: ignore[operator]
