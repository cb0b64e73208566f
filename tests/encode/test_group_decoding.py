"""Decoding of several subjects: the interval of their mean over time, against plain loops and repeated experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from brainlens import report, store
from brainlens.datasets.source import Source
from brainlens.encode import OverTime, decode
from brainlens.encode.discriminant import areas, drawn_areas
from brainlens.encode.group_decoding import Draws, drawn_units
from brainlens.encode.run_decode import run_decode
from brainlens.metrics.statistics import mean_over_subjects, stimulus_counts
from brainlens.types import DataError, Responses, Result

TIMES = 2
SEEDS = range(10)


def silent(text: str, share: float | None = None) -> None:
    pass


def people(seed: int, subjects: int, *, images: int = 40, own: float = 0.0, stimulus: float = 0.0) -> Responses:
    """Two categories of `images` pictures that every subject saw once. Subjects differ in their gain by e^own, and pictures move
    along the axis that tells the categories apart, alike for all subjects, by `stimulus`."""
    rng = np.random.default_rng(seed)
    axis = np.array([1.0, -1, 0.5, 0]) / 1.5
    kinds, moved = np.arange(images) % 2, stimulus * rng.normal(size=images)
    data, trials = [], []
    for s in range(subjects):
        gain = np.exp(own * rng.normal())
        along = gain * (kinds - 0.5 + moved)
        data.append(rng.normal(size=(images, 4, TIMES)) + along[:, None, None] * axis[None, :, None])
        shown = {"stimulus": [f"i{k}" for k in range(images)], "category": [f"c{k}" for k in kinds]}
        trials.append(pd.DataFrame(shown).assign(subject=f"{s + 1}", run=np.arange(images) // 2 % 2))
    units = pd.DataFrame({"channel": list("abcd")})
    whole = np.concatenate(data).astype(np.float32)
    return Responses(whole, pd.concat(trials, ignore_index=True), units, times=np.arange(TIMES) / 10, measure="uV")


@pytest.mark.parametrize("classes", [2, 3])
def test_areas_of_drawn_trials_are_those_of_repeated_rows(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = np.arange(24) % classes
    odds = np.round(rng.normal(size=(24, classes)) + np.eye(classes)[labels], 1)  # with ties
    odds = np.stack([-odds[:, 1], odds[:, 1]], axis=1) if classes == 2 else odds
    counts = stimulus_counts(np.arange(24), 60)
    found = drawn_areas(odds, labels, counts)
    for k in range(60):
        rows = np.repeat(np.arange(24), counts[k].astype(int))
        each = [roc_auc_score(labels[rows] == c, odds[rows, c]) for c in range(classes)]
        assert found[k] == pytest.approx(np.mean(each), abs=1e-12)
    assert drawn_areas(odds, labels, np.ones((1, 24)))[0] == pytest.approx(areas(odds[None], labels[None])[0], abs=1e-12)
    assert np.isnan(drawn_areas(odds, labels, (labels == 1)[None].astype(float))).all()
    assert np.isnan(drawn_areas(odds, np.zeros(24, int), counts)).all()


def test_a_subjects_draws_are_means_over_its_folds_and_stimuli_count_alike() -> None:
    responses = people(0, 2)
    subjects = np.repeat([0, 1], 40)
    units, what = drawn_units(responses.trials, "category", subjects)
    assert what == "stimuli"
    assert units[:40].tolist() == units[40:].tolist()
    assert drawn_units(responses.trials, "stimulus", subjects)[1] == "trials"
    own, what = drawn_units(responses.trials.assign(category=["c0", "c1"] * 20 + ["c1", "c0"] * 20), "category", subjects)
    assert what == "trials"  # the answers of a subject are no property of a picture
    assert len(set(own)) == 80
    draws = Draws(units, np.array([0, 0, 1]), 1, seed=3)
    rng, tests, expected = np.random.default_rng(0), [np.arange(0, 20), np.arange(20, 40), np.arange(40, 60)], []
    labels = np.arange(60) % 2
    for fold, test in enumerate(tests):
        odds = rng.normal(size=(20, 2))
        draws.add(fold, 0, odds, labels[test], draws.counts(test))
        expected.append(drawn_areas(odds, labels[test], stimulus_counts(units[test], 1000, 3)))
    np.testing.assert_allclose(draws.areas[:, :, 0], [(expected[0] + expected[1]) / 2, expected[2]])


def plain_interval(values: np.ndarray, drawn: np.ndarray, factor: float) -> tuple[float, float]:
    """`mean_over_subjects` of (subject,) by loops; t of 2 degrees of freedom from a table."""
    n = len(values)
    mean = sum(values) / n
    between = sum((v - mean) ** 2 for v in values) / (n - 1) / n
    shared = sum(np.cov(drawn[s], drawn[u])[0, 1] for s in range(n) for u in range(n) if s != u) / n**2
    reach = np.sqrt(4.302653**2 * factor * between + 1.959964**2 * max(0.0, shared))
    return mean - reach, mean + reach


@pytest.mark.parametrize("seed", SEEDS)
def test_the_interval_over_subjects_equals_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, common = rng.normal(0.7, 0.1, 3), rng.normal(size=(1, 300))
    drawn = values[:, None] + 0.05 * common + 0.05 * rng.normal(size=(3, 300))
    wide = mean_over_subjects(values, drawn, people=True, factor=1.5)
    np.testing.assert_allclose(wide, plain_interval(values, drawn, 1.5), atol=1e-6)
    low, high = mean_over_subjects(values, drawn, people=False)
    assert (high - low) / 2 == pytest.approx(1.959964 * drawn.mean(axis=0).std(ddof=1))
    drawn[1, :298] = np.nan
    left = plain_interval(values, drawn[:, 298:], 1.0)
    np.testing.assert_allclose(mean_over_subjects(values, drawn, people=True), left, atol=1e-6)
    drawn[1, 298] = np.nan
    assert np.isnan(mean_over_subjects(values, drawn, people=True)).all()


@pytest.mark.parametrize("subjects", [3, 8])
@pytest.mark.parametrize(("own", "stimulus"), [(0.3, 0.0), (0.1, 1.0), (0.0, 1.0)])
def test_the_interval_holds_the_mean_of_other_subjects_and_other_stimuli(subjects: int, own: float, stimulus: float) -> None:
    """Scores that are sums of a subject's part, a stimulus's and noise, whose mean is 0; 93 to 97 % of 600 hold it."""
    held, rng = 0, np.random.default_rng(subjects)
    for _ in range(200):
        parts = own * rng.normal(size=(subjects, 1)) + stimulus * rng.normal(size=(1, 60)) + 0.7 * rng.normal(size=(subjects, 60))
        counts = rng.poisson(1, (300, 60))
        low, high = mean_over_subjects(parts.mean(axis=1), parts @ counts.T / counts.sum(axis=1), people=True)
        held += low <= 0 <= high
    assert held > 176  # .88: .93 less 2.8 standard errors of 200


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_interval_of_a_recording_speaks_of(seed: int) -> None:
    """Below three subjects stimuli alone; from three on people too, so that it grows with what they differ in."""
    options = OverTime(permutations=20)
    two = decode(people(seed, 2), "category", over_time=options, seed=seed)
    assert two.config["interval_over"] == "stimuli"
    table = two.tables["subjects"]
    assert table["subject"].tolist() == ["1", "2", "mean"]
    assert table["trials"].tolist() == [40, 40, 80]
    each = two.arrays["auc"].mean(axis=1)
    np.testing.assert_allclose(table["auc_mean"], [*each, each.mean()])
    assert two.metrics["decode/auc_mean"] == pytest.approx(each.mean())
    assert two.metrics["decode/auc_mean.low"] == table["auc_mean.low"].iloc[-1]
    widths = (table["auc_mean.high"] - table["auc_mean.low"]).to_numpy()
    assert widths[2] < widths[:2].max()  # the mean of two is known better than the worse of them
    many = decode(people(seed, 6, own=1.5), "category", over_time=options, seed=seed)
    assert many.config["interval_over"] == "subjects and stimuli"
    course, areas_ = many.tables["timecourse"], many.arrays["auc"]
    over_people = 2.570582 * areas_.std(axis=0, ddof=1) / np.sqrt(6)  # Student's t of 5
    assert (course["auc"] - course["low"] >= 0.999 * np.minimum(over_people, course["auc"])).all()


def test_stimuli_that_all_subjects_share_widen_the_interval() -> None:
    """Six subjects whose pictures move alike against six whose pictures move each by itself, over ten seeds."""
    shared, apart = [], []
    for seed in SEEDS:
        responses = people(seed, 6, stimulus=2.0)
        mixed = responses.trials.assign(stimulus=responses.trials["subject"] + responses.trials["stimulus"])
        for rows, widths in ((responses.trials, shared), (mixed, apart)):
            again = Responses(responses.data, rows, responses.units, times=responses.times)
            course = decode(again, "category", over_time=OverTime(permutations=20), seed=seed).tables["timecourse"]
            widths.append(float((course["high"] - course["low"]).mean()))
    assert (np.array(shared) > np.array(apart)).all()
    assert np.mean(shared) > 1.3 * np.mean(apart)


def saved(folder: Path, *, channels: dict[str, list[str]] | None = None) -> Path:
    """Three subjects as arrays of one's own."""
    responses = people(0, 3)
    folder.mkdir()
    np.save(folder / "epochs.npy", 5 * np.repeat(responses.data, 5, axis=2))
    responses.trials.to_csv(folder / "trials.csv", index=False)
    responses.units.to_csv(folder / "channels.csv", index=False)
    pd.DataFrame({"time": np.arange(10) / 50}).to_csv(folder / "times.csv", index=False)
    return folder


def test_several_subjects_are_one_command_with_a_table_and_two_figures(tmp_path: Path) -> None:
    source, how = Source("epochs", saved(tmp_path / "own")), OverTime(permutations=20)
    folder, rows = run_decode(source, tmp_path / "runs", target="category", subjects=("1", "02", "3"), options=how, tell=silent)
    result = store.load_result(folder)
    assert result.config["subjects"] == ["1", "02", "3"]
    table = result.tables["subjects"].set_index("subject")
    shown = {row["metric"]: row for row in rows}
    assert shown["subject 2: decode/auc_mean"]["value"] == table.loc["2", "auc_mean"]
    assert shown["decode/auc_mean"]["95 % interval"] != ""
    alone, _ = run_decode(source, tmp_path / "runs", target="category", subjects=("3",), options=how, tell=silent)
    single = store.load_result(alone)
    assert "subjects" not in single.tables
    np.testing.assert_allclose(single.tables["timecourse"]["auc"], result.arrays["auc"][2], atol=1e-6)
    page = report.render([("group", result)])
    assert "it speaks of other subjects and stimuli" in page
    assert "Bars of the mean area by subject, with the mean over subjects" in page


def test_subjects_are_decoded_on_the_channels_that_all_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [people(0, 3).where(subject=name) for name in "123"]
    parts[1] = parts[1].columns(np.array([3, 1, 0]))

    def read(source: Source, subject: str | None, cache: Path) -> Responses:
        return parts[int(subject or 1) - 1]

    monkeypatch.setattr("brainlens.encode.run_decode.read_epochs_of", read)
    source, how = Source("epochs", saved(tmp_path / "own")), OverTime(permutations=20)

    def run() -> Result:
        return store.load_result(
            run_decode(source, tmp_path / "runs", target="category", subjects="123", options=how, tell=silent)[0]
        )

    result = run()
    assert result.metrics["decode/channels"] == 3
    assert result.config["warnings"] == ["3 channels that all 3 subjects have are read; they have 3 to 4."]
    three = [part.columns(np.array([part.units["channel"].tolist().index(c) for c in "abd"])) for part in parts]
    by_hand = decode(three[1], "category", over_time=how)
    np.testing.assert_allclose(result.arrays["auc"][1], by_hand.tables["timecourse"]["auc"])
    whole = parts[1]
    parts[1] = whole.columns(np.array([0]))
    with pytest.raises(DataError, match="have 1 channels in common"):
        run()
    parts[1] = Responses(whole.data[:, :, 1:], whole.trials, whole.units, times=whole.times[1:])
    with pytest.raises(DataError, match=r"subject '2' has 1 times from 0.1 to 0.1 s, '1' 2 times from 0 to 0.1 s"):
        run()
    parts[1] = parts[0]
    with pytest.raises(DataError, match="subjects '1' and '2' are one"):
        run()
    monkeypatch.undo()
    with pytest.raises(DataError, match="subjects '1' and '1' are one"):
        run_decode(source, tmp_path / "runs", target="category", subjects=("1", "1"), options=how, tell=silent)
    with pytest.raises(DataError, match="the recording has subjects 1, 2, 3"):
        run_decode(source, tmp_path / "runs", target="category", subjects=("1", "9"), options=how, tell=silent)
