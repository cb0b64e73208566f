"""Decoding over time: scikit-learn as the truth, known onsets, the level of the tests, and a real recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

from brainlens.encode import OverTime, decode
from brainlens.encode.discriminant import area_variances, areas
from brainlens.encode.repeats import one_part
from brainlens.encode.time_decoding import _folds, _permuted
from brainlens.metrics.statistics import auroc_interval
from brainlens.plots.decoding import over_time as plots_over_time
from brainlens.types import DataError, Responses

ONSET = 10


def make(labels, runs, *, signal=1.0, channels=8, times=20, seed=0, subjects=None, onset=ONSET, drift=0.0, place=None):
    """Noise of unit variance over correlated channels; from `onset` on each category adds its own pattern."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    fixed = rng if place is None else np.random.default_rng(place)
    mix = fixed.normal(size=(channels, channels)) / np.sqrt(channels) + np.eye(channels)
    data = np.einsum("ntc,cd->ndt", rng.normal(size=(len(labels), times, channels)), mix)
    pattern = fixed.normal(size=(labels.max() + 1, channels))
    data[:, :, onset:] += signal * pattern[labels][:, :, None]
    data += drift * rng.normal(size=(np.max(runs) + 1, channels))[np.asarray(runs)][:, :, None]
    trials = pd.DataFrame({"stimulus": [f"c{i}" for i in labels], "run": runs})
    if subjects is not None:
        trials["subject"] = [f"s{i}" for i in subjects]
    return Responses(data.astype(np.float32), trials, pd.DataFrame(index=range(channels)), times=np.arange(times) / 100)


class Shrunk(BaseEstimator):
    """(1 - s) S + s I, whatever the trace: what the discriminant uses."""

    def __init__(self, s: float):
        self.s = s

    def fit(self, x: np.ndarray) -> Shrunk:
        self.covariance_ = (1 - self.s) * np.cov(x.T, bias=True) + self.s * np.eye(x.shape[1])
        return self


def plain(data, labels, groups, s):
    """Areas and balanced accuracies (fold, time) by scikit-learn alone, equal priors."""
    area, accuracy = [], []
    for train, test in LeaveOneGroupOut().split(data, groups=groups):
        row = []
        for t in range(data.shape[2]):
            scaler = StandardScaler().fit(data[train, :, t].astype(float))
            x, y = (scaler.transform(data[rows, :, t].astype(float)) for rows in (train, test))
            model = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Shrunk(s)).fit(x, labels[train])
            two = len(model.classes_) == 2
            prior = np.log(model.priors_)
            model.intercept_ = model.intercept_ - (prior[1] - prior[0] if two else prior)
            if two:
                row.append((roc_auc_score(labels[test], model.decision_function(y)), model.predict(y)))
            elif s >= 0.5:
                row.append((roc_auc_score(labels[test], model.predict_proba(y), multi_class="ovr"), model.predict(y)))
            else:  # probabilities of 1 are ties that log odds are not
                d = model.decision_function(y)
                odds = [d[:, k] - np.logaddexp(d[:, k - 1], d[:, k - 2]) for k in range(3)]
                row.append((np.mean([roc_auc_score(labels[test] == k, odds[k]) for k in range(3)]), model.predict(y)))
        area.append([a for a, _ in row])
        accuracy.append([balanced_accuracy_score(labels[test], guess) for _, guess in row])
    return np.array(area), np.array(accuracy)


TWO = np.random.default_rng(1).permutation(np.arange(60) % 5 < 2).astype(int)  # 24 and 36 trials
THREE = np.random.default_rng(2).permutation(np.arange(72) % 3)


@pytest.mark.parametrize("labels, runs, channels", [(TWO, 2, 8), (TWO, 3, 70), (THREE, 3, 8), (THREE, 2, 50)])
@pytest.mark.parametrize("s", [0.05, 0.5])
def test_areas_and_accuracies_equal_scikit_learn_for_the_labels_and_every_permutation(labels, runs, channels, s):
    groups = np.arange(len(labels)) % runs
    responses = make(labels, groups, channels=channels, times=3, onset=1, signal=0.3)
    options = OverTime(shrinkage=s, permutations=8)
    result = decode(responses, over_time=options, seed=3)
    area, accuracy = plain(responses.data, labels, groups, s)
    np.testing.assert_allclose(result.arrays["auc"], area, atol=1e-5)
    np.testing.assert_allclose(result.arrays["accuracy"], accuracy, atol=1e-5)
    np.testing.assert_allclose(result.tables["timecourse"]["auc"], area.mean(0), atol=1e-5)
    null = [plain(responses.data, row, groups, s)[0].mean(0) for row in _permuted(labels, groups, 8, 3)[1:]]
    np.testing.assert_allclose(result.arrays["null_max"], np.max(null, axis=1), atol=1e-5)
    table = result.tables["timecourse"]
    np.testing.assert_allclose(table["p"], (1 + (np.array(null) >= area.mean(0) - 1e-9).sum(0)) / 9)
    np.testing.assert_allclose(table["p_fwe"], (1 + (np.max(null, axis=1)[:, None] >= area.mean(0) - 1e-9).sum(0)) / 9)


def test_across_subjects_equals_scikit_learn():
    subjects = np.repeat(np.arange(4), 18)
    responses = make(THREE, subjects, subjects=subjects, times=3, onset=1)
    result = decode(responses, over_time=OverTime(subjects="across", shrinkage=0.2, permutations=5))
    area, accuracy = plain(responses.data, THREE, subjects, 0.2)
    np.testing.assert_allclose(result.arrays["auc"], area, atol=1e-5)
    np.testing.assert_allclose(result.tables["timecourse"]["accuracy"], accuracy.mean(0), atol=1e-5)
    assert result.config["interval_over"] == "subjects and trials"


def test_subjects_are_decoded_each_by_itself_and_averaged():
    subjects, runs = np.repeat(np.arange(3), 24), np.arange(72) % 2
    responses = make(THREE, runs, subjects=subjects, times=2, onset=1)
    result = decode(responses, over_time=OverTime(shrinkage=0.2, permutations=5))
    each = [plain(responses.data[subjects == s], THREE[subjects == s], runs[subjects == s], 0.2)[0].mean(0) for s in range(3)]
    np.testing.assert_allclose(result.arrays["auc"], each, atol=1e-5)


def test_permutations_stay_in_their_groups_and_folds_hold_all_classes():
    groups = np.arange(60) % 3
    shuffled = _permuted(TWO, groups, 50, 0)
    np.testing.assert_array_equal(shuffled[0], TWO)
    for group in range(3):
        assert (shuffled[:, groups == group].sum(1) == TWO[groups == group].sum()).all()
    trials = pd.DataFrame({"stimulus": TWO})
    folds = _folds(trials, TWO, ["a", "b"], None, OverTime(folds=4), 0)
    counts = np.array([np.bincount(TWO[test], minlength=2) for _, test in folds.each()])
    assert np.ptp(counts, axis=0).max() <= 1
    assert sorted(np.concatenate([test for _, test in folds.each()])) == list(range(60))
    assert all(not set(train) & set(test) and len(train) + len(test) == 60 for train, test in folds.each())


def test_the_interval_over_trials_is_delongs():
    rng = np.random.default_rng(0)
    score, truth = rng.normal(size=50) + TWO[:50], TWO[:50]
    odds = np.stack([-score, score], axis=1)
    spread = area_variances(odds[None], truth[None])[0]
    area, low, high = auroc_interval(truth, score)
    assert areas(odds[None], truth[None])[0] == pytest.approx(area)
    np.testing.assert_allclose([low, high], area + np.array([-1, 1]) * 1.959964 * np.sqrt(spread), rtol=1e-6)
    odds = rng.normal(size=(60, 3)) + np.eye(3)[THREE[:60]]  # three classes: against resampled trials of each class
    spread = area_variances(odds[None], THREE[None, :60])[0]
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([rng.choice(np.flatnonzero(THREE[:60] == k), (THREE[:60] == k).sum()) for k in range(3)])
        drawn.append(areas(odds[None, rows], THREE[None, rows])[0])
    assert np.std(drawn) == pytest.approx(np.sqrt(spread), rel=0.12)


def test_the_onset_is_found_where_it_is():
    early, found = 0, []
    labels, runs = np.tile([0, 1], 40), np.repeat([0, 1], 40)
    for seed in range(10):
        responses = make(labels, runs, seed=seed)
        table = decode(responses, over_time=OverTime(permutations=200), seed=seed).tables["timecourse"]
        early += bool((table["p_fwe"][:ONSET] < 0.05).any())
        found.append(int(np.argmax(table["p_fwe"][ONSET:] < 0.05)))
        assert table["p_fwe"][ONSET:].max() < 0.05
        assert (table["low"][ONSET:] > 0.5).all()
        assert table["auc"][ONSET:].min() > 0.76 > table["auc"][:ONSET].max()  # .84 and more against .69 and less
        assert (table["low"] <= table["auc"]).all()
        assert (table["auc"] <= table["high"]).all()
        assert (table["p"] <= table["p_fwe"]).all()
    assert max(found) == 0
    assert early <= 2  # none in these ten; one or two of ten is what .05 allows


@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_without_signal_the_tests_hold_their_level(drift):
    """A hundred sets of noise, and of noise whose runs differ in level and in their shares of the categories."""
    family, each, areas_found = 0, [], []
    runs = np.repeat([0, 1, 2], 16)
    labels = np.concatenate([np.arange(16) % 2, np.arange(16) % 4 == 0, np.arange(16) % 4 > 0]).astype(int)
    for seed in range(100):
        responses = make(labels, runs, signal=0.0, times=8, channels=5, seed=seed, drift=drift)
        table = decode(responses, over_time=OverTime(permutations=99), seed=seed).tables["timecourse"]
        family += bool((table["p_fwe"] <= 0.05).any())
        each.append((table["p"] <= 0.05).mean())
        areas_found.append(table["auc"].mean())
    assert binom.ppf(0.001, 100, 0.05) <= family <= binom.ppf(0.999, 100, 0.05)
    assert abs(np.mean(each) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 800)
    assert abs(np.mean(areas_found) - 0.5) < 4 * np.std(areas_found) / 10


@pytest.mark.parametrize(
    "signal, runs, over", [(0.0, 2, "trials"), (0.35, 2, "trials"), (0.35, 4, "trials"), (0.35, 20, "folds")]
)
def test_the_interval_covers_the_mean_of_new_recordings(signal, runs, over):
    """The mean area of 60 recordings with one pattern lies in 95 % of their intervals, folds being no independent samples."""
    labels, groups = np.tile([0, 1], 20), np.repeat(np.arange(runs), 40 // runs)
    found = []
    for seed in range(60):
        responses = make(labels, groups, signal=signal, times=3, onset=0, seed=seed, place=5)
        result = decode(responses, over_time=OverTime(permutations=60), seed=seed)
        found.append(result.tables["timecourse"][["auc", "low", "high"]].to_numpy())
    assert result.config["interval_over"] == over
    area, low, high = np.moveaxis(found, 2, 0)
    inside = (low <= area.mean()) & (area.mean() <= high)
    assert inside.mean() > 0.87  # .91 to .97; 4 standard errors of 180 intervals are .06


@pytest.mark.parametrize("share, signal, runs", [(1, 0.15, 2), (8, 0.15, 2), (8, 0.3, 4), (1, 0.15, 20)])
def test_the_interval_of_the_mean_over_times_covers_it_whether_times_share_their_noise_or_not(share, signal, runs):
    """share: samples of the running mean of the noise, so that 1 leaves 12 times and 8 about two."""
    labels, groups = np.tile([0, 1], 20), np.repeat(np.arange(runs), 40 // runs)
    found = []
    for seed in range(60):
        responses = make(labels, groups, signal=signal, times=12, onset=0, seed=seed, place=5)
        kernel = np.ones(share) / np.sqrt(share)
        data = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), 2, responses.data)  # noqa: B023
        metrics = decode(replace(responses, data=data.astype(np.float32)), over_time=OverTime(permutations=60), seed=seed).metrics
        found.append([metrics[f"decode/auc_mean{end}"] for end in ("", ".low", ".high")])
    mean, low, high = np.transpose(found)
    inside = (low <= mean.mean()) & (mean.mean() <= high)
    assert inside.mean() > 0.8  # .90 to .98; 4 standard errors of 60 intervals are .11
    assert 0.7 < np.mean(high - low) / 2 / 1.96 / mean.std() < 1.5  # .87 to 1.24


def test_windows_average_their_samples():
    labels, runs = np.tile([0, 1], 20), np.repeat([0, 1], 20)
    responses = make(labels, runs, times=21)
    binned = decode(responses, over_time=OverTime(window=0.05, permutations=3))
    means = np.stack([responses.data[:, :, i : i + 5].mean(2) for i in range(0, 20, 5)], axis=2)
    by_hand = Responses(means, responses.trials, responses.units, times=np.array([0.02, 0.07, 0.12, 0.17]))
    pd.testing.assert_frame_equal(
        binned.tables["timecourse"], decode(by_hand, over_time=OverTime(permutations=3)).tables["timecourse"], atol=1e-5
    )
    sliding = decode(responses, over_time=OverTime(window=0.05, step=0.01, permutations=3)).tables["timecourse"]
    np.testing.assert_allclose(sliding["time"], 0.02 + np.arange(17) / 100)


def test_a_time_without_any_difference_between_trials_is_at_chance():
    responses = make(np.tile([0, 1], 20), np.repeat([0, 1], 20), times=4, onset=2)
    data = responses.data.copy()
    data[:, :, 0] = 0
    table = decode(Responses(data, responses.trials, responses.units, times=responses.times)).tables["timecourse"]
    assert table["auc"][0] == table["accuracy"][0] == 0.5
    assert table["p"][0] == 1


def test_stratified_folds_where_there_are_no_runs_and_the_same_seed_gives_the_same_bits():
    responses = make(TWO, np.zeros(60, int), times=4, onset=2)
    trials = responses.trials.drop(columns="run")
    alone = Responses(responses.data, trials, responses.units, times=responses.times)
    one, two = (decode(alone, over_time=OverTime(permutations=20), seed=4) for _ in range(2))
    assert one.config["left_out"] == "stratified"
    assert one.metrics["decode/folds"] == 5
    pd.testing.assert_frame_equal(one.tables["timecourse"], two.tables["timecourse"])


@pytest.mark.realdata
def test_a_real_recording_of_two_events_and_of_two_places(test_data):
    """Squares against button presses, and the two places of the squares, 40 each, which channels do not tell apart."""
    from brainlens.datasets import eeglab_visual

    squares = eeglab_visual.load(test_data / "eeglab_visual").responses
    presses = eeglab_visual.load(test_data / "eeglab_visual", event="rt").responses
    trials = pd.concat([squares.trials, presses.trials], ignore_index=True)
    both = replace(squares, data=np.concatenate([squares.data, presses.data]), trials=trials)
    both.trials["run"] = (both.trials["sample"] > both.trials["sample"].median()).astype(int)  # two halves
    result = decode(both, over_time=OverTime(window=0.05, permutations=100))
    table = result.tables["timecourse"]
    evoked = table[table["time"].between(0.2, 0.45)]
    assert evoked["low"].min() > 0.8
    assert evoked["p_fwe"].max() == pytest.approx(1 / 101)
    assert squares.trials["position"].value_counts().to_dict() == {"1": 40, "2": 40}
    places = decode(squares, "position", over_time=OverTime(window=0.05, permutations=200, shrinkage=0.1))
    folds = _folds(squares.trials, (squares.trials["position"] == "2").to_numpy(int), ["1", "2"], "run", OverTime(), 0)
    binned = squares.data[:, :, 24:30].mean(axis=2, keepdims=True, dtype=float)
    area, _ = plain(binned, squares.trials["position"].to_numpy(), folds.left_out, 0.1)
    np.testing.assert_allclose(places.arrays["auc"][:, 4], area[:, 0], atol=1e-5)
    assert places.metrics["decode/peak_auc.p"] > 0.05  # ten seeds of the folds: .07 to .53


RESPONSES = make(TWO, np.arange(60) % 2, times=3)
FLAT = Responses(RESPONSES.data[:, :, 0], RESPONSES.trials, RESPONSES.units)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: decode(RESPONSES, "kind"), "no column 'kind'"),
        (lambda: decode(RESPONSES, group="session"), "group=None makes folds"),
        (lambda: decode(RESPONSES, penalty=0.1), "over_time=OverTime"),
        (lambda: decode(FLAT, over_time=OverTime()), "for .trial, channel, time."),
        (lambda: decode(FLAT, group=None), "group=None"),
        (lambda: decode(RESPONSES, over_time=OverTime(subjects="across")), "2 subjects or more"),
        (lambda: decode(RESPONSES.rows(np.arange(0, 60, 2))), "needs 2 in each subject"),
        (lambda: decode(RESPONSES, group="stimulus"), "lack a category"),
        (lambda: decode(RESPONSES.rows(np.flatnonzero(TWO))), "2 categories or more"),
        (lambda: decode(RESPONSES, group=None, over_time=OverTime(folds=30)), "30 folds need as many trials of c1"),
        (lambda: decode(RESPONSES, over_time=OverTime(window=1.0)), "longer than the recording"),
        (lambda: decode(RESPONSES, over_time=OverTime(step=0.1)), "needs a window"),
        (lambda: OverTime(shrinkage=0.0), "above 0"),
        (lambda: OverTime(subjects="both"), "not one of"),
        (lambda: OverTime(permutations=0), "at least 1"),
        (lambda: OverTime(window=-1.0), "seconds above 0"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_recording_of_one_run_is_noticed_so_that_folds_take_its_place():
    labels, runs = np.tile([0, 1], 12), np.repeat([0, 1, 2], 8)
    assert not one_part(make(labels, runs), "run")
    assert one_part(make(labels, np.zeros(24, int)), "run")
    assert one_part(make(labels, runs, subjects=np.repeat([0, 1], [16, 8])), "run")  # the second subject has one run
    assert not one_part(make(labels, runs), "block")


def test_a_result_in_a_notebook_has_the_interval_of_its_peak() -> None:
    rng = np.random.default_rng(0)
    kind = np.repeat(["a", "b"], 24)
    data = rng.normal(size=(48, 3, 4))
    data[24:, 1, 2] += 1.5
    result = decode(
        Responses.from_arrays(data, kind, times=[0.0, 0.1, 0.2, 0.3]), "stimulus", over_time=OverTime(permutations=20)
    )
    scores = result.scores().set_index("metric")
    course = result.tables["timecourse"].set_index("time")
    peak = scores.loc["decode/peak_auc"]
    assert (peak["low"], peak["high"]) == tuple(course.loc[0.2, ["low", "high"]])
    assert peak["n"] == 48
    assert peak["chance"] == pytest.approx(result.arrays["null_max"].mean())
    assert peak["chance"] > 0.52  # the largest of four areas of noise is above .5
    assert 1 / 21 <= result.metrics["decode/auc_mean.p"] <= 1
    assert scores.loc["decode/peak_p", "value"] == course.loc[0.2, "p_fwe"]


def test_the_figure_says_whether_trials_or_images_were_told_apart() -> None:
    result = decode(make(np.tile([0, 1], 8), np.repeat([0, 1], 8), times=4), over_time=OverTime(permutations=20))
    for config, said in (({}, "n = 16 trials"), ({"rows_are": "images"}, "n = 16 images")):
        drawn = replace(result, config=result.config | config)
        figure = plots_over_time(drawn.tables["timecourse"], result=drawn)
        assert said in figure.get_suptitle()


@pytest.mark.parametrize("runs", [False, True])
def test_images_without_a_category_are_not_told_apart(runs: bool) -> None:
    """12 images of 8 trials with a pattern each and none of their category: folds of trials find .99, folds of images chance."""
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        seen = rng.permutation(np.repeat(np.arange(12), 8))
        data = 8 * (rng.normal(size=(96, 20, 2)) + rng.normal(size=(12, 20, 1))[seen])
        trials = {"run": np.arange(96) // 12} if runs else {}
        responses = Responses.from_arrays(
            data, [f"i{k:02d}" for k in seen], times=[0.0, 0.1], condition=rng.permutation(12)[seen] % 2, **trials
        )
        result = decode(responses, "condition", over_time=OverTime(permutations=20))
        assert result.metrics["decode/trials"] == 12
        assert "averaged to 12 images" in result.config["warnings"][0]
        found.append(result.metrics["decode/auc_mean"])
    assert np.mean(found) < 0.75
