"""Category encoding and decoding with one run left out: scikit-learn as the truth, and the published slice of Haxby 2001."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from brainlens.encode.categories import decode, haxby2001_encode
from brainlens.metrics.encoding import r2
from brainlens.report import wording
from brainlens.types import DataError, Responses, Result


def make(runs=6, categories=4, units=30, signal=1.0, seed=0, repeats=1):
    rng = np.random.default_rng(seed)
    pattern = rng.normal(size=(categories, units)) * (np.arange(units) < units // 2)
    labels = np.tile(np.arange(categories), runs * repeats)
    data = signal * pattern[labels] + rng.normal(size=(len(labels), units))
    trials = pd.DataFrame({"stimulus": [f"c{i}" for i in labels], "run": np.repeat(np.arange(runs), categories * repeats)})
    return Responses(data.astype(np.float32), trials, pd.DataFrame(index=range(units)))


def one_category_a_run():
    responses = make(runs=2, categories=2)
    trials = responses.trials.assign(run=[0, 1, 0, 1])
    return Responses(responses.data, trials, responses.units)


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
    assert result.metrics["decode/accuracy.chance"] == 0.25
    np.testing.assert_allclose(result.tables["confusion"].drop(columns="true").sum(axis=1), 1)


@pytest.mark.parametrize("categories", [2, 4])
def test_the_area_equals_scikit_learn(categories):
    """Mean over runs of roc_auc_score of the distances: the one of two classes, or each against the rest."""
    responses = make(runs=8, categories=categories, signal=0.5, repeats=3)
    metrics = decode(responses).metrics
    model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0, max_iter=10_000))
    labels, found = responses.trials["stimulus"].to_numpy(), []
    for train, test in LeaveOneGroupOut().split(labels, groups=responses.trials["run"]):
        distance = model.fit(responses.data[train], labels[train]).decision_function(responses.data[test])
        columns = distance[:, None] if distance.ndim == 1 else distance
        kinds = model.classes_[1:] if distance.ndim == 1 else model.classes_
        found.append(np.mean([roc_auc_score(labels[test] == kind, columns[:, k]) for k, kind in enumerate(kinds)]))
    assert metrics["decode/auc"] == pytest.approx(np.mean(found))
    assert metrics["decode/auc.low"] < metrics["decode/auc"] < metrics["decode/auc.high"]
    assert metrics["decode/auc.n"] == metrics["decode/accuracy.n"] == 8


def test_two_runs_are_decoded_and_the_interval_is_over_trials():
    result = decode(make(runs=2, categories=3, repeats=10))
    metrics, right = result.metrics, result.tables["by_group"]["accuracy"].mean() * 60
    truth = binomtest(round(right), 60).proportion_ci(method="wilson")
    assert (metrics["decode/accuracy.low"], metrics["decode/accuracy.high"]) == pytest.approx((truth.low, truth.high))
    assert metrics["decode/accuracy.n"] == metrics["decode/auc.n"] == 60
    assert metrics["decode/auc.low"] < metrics["decode/auc"] <= metrics["decode/auc.high"]
    assert result.config["interval_over"] == "trials"


def test_the_area_is_left_out_where_every_run_holds_one_category():
    responses = make(runs=4, categories=2)
    trials = responses.trials
    one_each = trials.assign(run=trials["stimulus"] + np.array(["a", "a", "a", "a", "b", "b", "b", "b"]))
    assert "decode/auc" not in decode(Responses(responses.data, one_each, responses.units)).metrics


def test_scores_give_chance_and_n_to_scores_alone():
    for result in (decode(make()), Result("decode", {"decode/accuracy": 0.8, "decode/chance": 0.25, "decode/groups": 6.0})):
        table = result.scores().set_index("metric")
        assert table.loc["decode/accuracy", "chance"] == 0.25
        counts = [name for name in table.index if not name.endswith(("accuracy", "auc"))]
        assert "decode/groups" in counts
        assert table.loc[counts, "chance"].isna().all()
    assert decode(make()).scores().set_index("metric").loc["decode/accuracy", "n"] == 6


def test_the_page_draws_the_confusion_matrix():
    result = decode(make(signal=0.8))
    assert list(result.plot) == ["confusion_matrix"]
    ax = result.plot.confusion_matrix().axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), result.tables["confusion"].drop(columns="true"))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == result.config["categories"]
    assert "at each time" not in wording.sentence(result)


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
    assert decoded["decode/accuracy.chance"] == 0.125
    assert decoded["decode/auc"] > 0.9


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: decode(make(), target="kind"), "no column 'kind'"),
        (lambda: haxby2001_encode(make(), group="session"), "no column 'session'"),
        (lambda: decode(make(runs=1)), "2 groups"),
        (lambda: haxby2001_encode(make(runs=2)), "3 groups"),
        (lambda: decode(one_category_a_run()), "without run '0' the trials hold one stimulus"),
        (lambda: decode(make(categories=1)), "2 categories"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
