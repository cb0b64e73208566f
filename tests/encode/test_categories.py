"""Category encoding and decoding with one run left out: scikit-learn as the truth, and the published slice of Haxby 2001."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from brainlens.encode.categories import decode, haxby2001_encode
from brainlens.metrics.encoding import r2
from brainlens.types import DataError, Responses


def make(runs=6, categories=4, units=30, signal=1.0, seed=0):
    rng = np.random.default_rng(seed)
    pattern = rng.normal(size=(categories, units)) * (np.arange(units) < units // 2)
    labels = np.tile(np.arange(categories), runs)
    data = signal * pattern[labels] + rng.normal(size=(len(labels), units))
    trials = pd.DataFrame({"stimulus": [f"c{i}" for i in labels], "run": np.repeat(np.arange(runs), categories)})
    return Responses(data.astype(np.float32), trials, pd.DataFrame(index=range(units)))


def test_encoding_equals_scikit_learn():
    responses = make()
    result = haxby2001_encode(responses, alphas=[5.0])
    x = pd.get_dummies(responses.trials["stimulus"]).to_numpy(float)
    guess = np.zeros_like(responses.data)
    for train, test in LeaveOneGroupOut().split(x, groups=responses.trials["run"]):
        guess[test] = RidgeCV([5.0]).fit(x[train], responses.data[train]).predict(x[test])
    np.testing.assert_allclose(result.arrays["r2"], r2(responses.data, guess), atol=1e-5)
    assert result.arrays["r2"][:15].mean() > 0.1 > 0 > result.arrays["r2"][15:].mean()


def test_decoding_equals_scikit_learn():
    responses = make(signal=0.6)
    result = decode(responses)
    model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0, max_iter=10_000))
    labels, runs = responses.trials["stimulus"], responses.trials["run"]
    truth = cross_val_score(model, responses.data, labels, groups=runs, cv=LeaveOneGroupOut())
    np.testing.assert_allclose(result.tables["by_group"]["accuracy"], truth)
    assert result.metrics["decode/accuracy"] == pytest.approx(truth.mean())
    assert result.metrics["decode/chance"] == 0.25
    np.testing.assert_allclose(result.tables["confusion"].drop(columns="true").sum(axis=1), 1)


def test_labels_shuffled_within_runs_decode_at_chance():
    responses = make(runs=8)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(12):
        shuffled = responses.trials.assign(stimulus=responses.trials.groupby("run")["stimulus"].transform(rng.permutation))
        found.append(decode(Responses(responses.data, shuffled, responses.units)).metrics["decode/accuracy"])
    assert abs(np.mean(found) - 0.25) < 0.08


@pytest.mark.realdata
def test_haxby_2001_reproduces_the_reference_numbers(test_data):
    from brainlens.datasets import haxby2001

    responses = haxby2001.load(test_data / "haxby2001").responses
    encoded = haxby2001_encode(responses).metrics
    assert encoded["encoding/units"] == 530
    assert encoded["encoding/r2_max"] == pytest.approx(0.642, abs=0.03)
    assert encoded["encoding/r2_share_positive"] == pytest.approx(0.319, abs=0.03)
    assert encoded["encoding/r2_median"] == pytest.approx(-0.0345, abs=0.03)
    decoded = decode(responses, target="stimulus", group="run").metrics
    assert decoded["decode/accuracy"] >= 0.78
    assert decoded["decode/chance"] == 0.125


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: decode(make(), target="kind"), "no column 'kind'"),
        (lambda: haxby2001_encode(make(), group="session"), "no column 'session'"),
        (lambda: decode(make(runs=2)), "3 groups"),
        (lambda: decode(make(categories=1)), "2 categories"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
