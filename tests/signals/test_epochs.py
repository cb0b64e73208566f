"""Epochs from continuous recordings: a made one whose truth is known, and the EEGLAB recording."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from brainlens.signals.epochs import (
    check_rate,
    evoked,
    make_epochs,
    match_channels,
    match_times,
    read_eeglab,
    stimulus_of_event,
)
from brainlens.types import DataError, Responses
from brainlens.types.sensor_units import check_magnitudes

NAMES = ["O1", "Oz", "O2", "Cz"]


def made(rate: float = 250.0) -> mne.io.Raw:
    """30 s of small noise with a 10 uV step on Oz from 0.1 to 0.3 s after each event of kind a."""
    rng = np.random.default_rng(0)
    data = rng.normal(0, 1e-7, (4, int(30 * rate)))
    onsets = np.arange(2, 28, 2.0)
    for onset in onsets[::2]:
        data[1, int((onset + 0.1) * rate) : int((onset + 0.3) * rate)] += 10e-6
    raw = mne.io.RawArray(data, mne.create_info(NAMES, rate, "eeg"), verbose=False)
    raw.set_montage("colin27_1020" if "colin27_1020" in mne.channels.get_builtin_montages() else "standard_1020", verbose=False)
    return raw.set_annotations(mne.Annotations(onsets, 0.0, ["a" if i % 2 == 0 else "b" for i in range(len(onsets))]))


def test_epochs_carry_ids_units_and_the_step() -> None:
    r = make_epochs(made(), {"a": "cat", "b": "dog"}, rate=None)
    assert r.measure == "uV"
    assert r.data.shape == (13, 4, 301)
    assert r.trials["stimulus"].value_counts().to_dict() == {"cat": 7, "dog": 6}
    mean = evoked(r, stimulus="cat")
    inside = (r.times > 0.12) & (r.times < 0.28)
    assert mean[1, inside].mean() == pytest.approx(10.0, abs=0.2)
    assert abs(evoked(r, stimulus="dog")[1, inside].mean()) < 0.2
    assert np.abs(mean[[0, 2, 3]]).max() < 1
    assert len(r.space) == 4
    assert r.units["y"].iloc[1] < -60  # Oz lies behind, in mm


def test_resampling_and_onsets_by_time() -> None:
    r = make_epochs(made(500.0), [(2.0, "x"), (6.0, "x"), (8.0, "y")], rate=250.0, window=(0.0, 0.996), baseline=None)
    assert r.data.shape == (3, 4, 250)
    assert list(r.trials["repeat"]) == [1, 2, 1]


def test_channels_are_matched_by_name() -> None:
    r = make_epochs(made(), {"a": "cat"})
    turned = match_channels(r, ["cz", "OZ"])
    assert list(turned.units["channel"]) == ["Cz", "Oz"]
    assert np.array_equal(turned.data[:, 1], r.data[:, 1])
    assert list(turned.space.names) == ["Cz", "Oz"]
    with pytest.raises(DataError, match=r"2 channels are missing: \['P7', 'P8'\]"):
        match_channels(r, ["Oz", "P7", "P8"])


def test_longer_time_axes_are_cut_with_a_warning() -> None:
    times = np.arange(-50, 250) / 250
    with pytest.warns(UserWarning, match="the last 250"):
        assert match_times(times, 250)[0] == 0.0
    assert match_times(times, 300) is not None
    with pytest.raises(DataError, match="10 times for 20"):
        match_times(times[:10], 20)


def test_magnitudes_that_a_unit_cannot_have_are_errors_with_the_way_out() -> None:
    data = np.random.default_rng(0).normal(0, 10, (6, 3, 20))
    subjects = ["1", "1", "1", "2", "2", "2"]
    check_magnitudes(data, subjects, "uV", "do this")
    check_magnitudes(data * 1e-6, subjects, "z", "do this")
    check_magnitudes(np.where(np.arange(6)[:, None, None] < 3, np.nan, data), subjects, "uV", "do this")
    some = np.where(np.arange(6)[:, None, None] < 3, data, data * 1e-6)
    with pytest.raises(DataError, match=r"subject '2': .* uV, which looks like volts or tesla, .*; do this"):
        check_magnitudes(some, subjects, "uV", "do this")
    with pytest.raises(DataError, match="flat or holds NaN"):
        check_magnitudes(data * 0, subjects, "fT", "do this")


@pytest.mark.parametrize("kinds", [["grad", "grad", "mag"], ["mag", "grad", "grad"], ["mag", "mag", "eeg"]])
def test_channels_of_several_types_have_no_common_unit(kinds: list[str]) -> None:
    raw = mne.io.RawArray(np.ones((3, 1000)) * 1e-12, mne.create_info(["A", "B", "C"], 100.0, kinds), verbose=False)
    with pytest.raises(DataError, match=rf"{', '.join(sorted(set(kinds)))} have no common unit; pick one, e.g. raw.copy"):
        make_epochs(raw, [(2.0, "x")])


@pytest.mark.parametrize(("kind", "size", "unit"), [("eeg", 3e-5, "uV"), ("mag", 2e-13, "fT"), ("grad", 5e-12, "fT/cm")])
def test_each_type_of_channel_has_its_unit(kind: str, size: float, unit: str) -> None:
    wave = size * np.sin(2 * np.pi * 10 * np.arange(2000) / 200)
    info = mne.create_info(["A", "B", "eye", "trigger"], 200.0, [kind, kind, "eog", "stim"])
    raw = mne.io.RawArray(np.stack([wave] * 4), info, verbose=False)
    r = make_epochs(raw, [(2.0, "x"), (5.0, "x")], window=(0.0, 1.0), baseline=None, rate=None)
    assert r.measure == unit
    assert list(r.units["channel"]) == ["A", "B"]
    assert np.abs(r.data).max() == pytest.approx(size * {"uV": 1e6, "fT": 1e15, "fT/cm": 1e13}[unit], rel=1e-3)


def test_bad_channels_are_left_out_with_a_word() -> None:
    raw = made()
    raw.info["bads"] = ["O2"]
    with pytest.warns(UserWarning, match="1 of 4 channels are marked bad and left out: O2"):
        r = make_epochs(raw, {"a": "cat"})
    assert list(r.units["channel"]) == ["O1", "Oz", "Cz"]
    scaled = made().apply_function(lambda x: x * 1e8)
    with pytest.raises(DataError, match="MNE keeps volts and tesla: scale the recording"):
        make_epochs(scaled, {"a": "cat"})


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("cut", [0.0, 9.5])
@pytest.mark.parametrize("dated", [False, True])
def test_events_lie_where_they_were_whatever_the_first_sample(dated: bool, cut: float, saved: bool, tmp_path: Path) -> None:
    raw = made()
    raw.set_meas_date(datetime(2020, 1, 1, tzinfo=UTC) if dated else None)
    raw.set_annotations(mne.Annotations(raw.annotations.onset, 0.0, raw.annotations.description))
    raw.crop(cut, None)
    if saved:
        raw.save(tmp_path / "x_raw.fif", verbose=False)
        raw = mne.io.read_raw_fif(tmp_path / "x_raw.fif", verbose=False)
    r = make_epochs(raw, {"a": "cat"}, rate=None)
    mean = evoked(r)[1]
    assert len(r) == (7 if cut == 0 else 5)  # at 2, 6, ... 26 s
    assert mean[(r.times > 0.12) & (r.times < 0.28)].min() > 9  # the step of 10 uV, from 0.1 to 0.3 s
    assert mean[(r.times > 0.35) | (r.times < 0.05)].max() < 1
    seconds = np.array([2.0, 6.0, 10.0, 14.0, 18.0, 22.0, 26.0]) - cut  # the same by the clock of raw.times
    again = make_epochs(raw, [(t, "cat") for t in seconds if t > 0.2], rate=None)
    np.testing.assert_array_equal(again.data, r.data)


def test_events_without_an_epoch_are_counted() -> None:
    raw = made()
    raw.set_annotations(raw.annotations + mne.Annotations([9.5], [5.0], ["BAD_blink"]))
    times = [0.1, 4.0, 10.0, 12.0, 12.0, 14.0, 20.0, 29.9]
    said = (
        "6 of 8 events give no epoch: 2 reach over an end of the recording, 3 lie in a stretch marked 'BAD_blink', "
        "1 stand at the sample of another event"
    )
    with pytest.warns(UserWarning, match="events give no epoch") as caught:
        r = make_epochs(raw, [(t, f"i{k}") for k, t in enumerate(times)], rate=None)
    assert [str(w.message) for w in caught] == [said]
    assert list(r.trials["stimulus"]) == ["i1", "i6"]
    assert list(r.trials["event"]) == [1, 6]


def test_rate_and_window_are_checked() -> None:
    trials, units = pd.DataFrame({"stimulus": ["a"]}), pd.DataFrame({"channel": ["Oz"]})
    r = Responses(np.zeros((1, 1, 250)), trials, units, times=np.arange(250) / 250, measure="uV")
    assert check_rate(r, rate=250, window=(0, 1)) is r
    with pytest.raises(DataError, match="200 Hz"):
        check_rate(r, rate=200, window=(0, 1))
    with pytest.raises(DataError, match=r"-0\.2"):
        check_rate(r, rate=250, window=(-0.2, 1))


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: make_epochs(made(), {"c": "cat"}), "does not occur"),
        (lambda: make_epochs(made(), []), "no event"),
        (lambda: make_epochs(made(), [(29.9, "x")]), "no event leaves"),
        (lambda: read_eeglab("nowhere.set"), "no recording"),
        (lambda: stimulus_of_event([1, 7, 99999], {1: "a"}, drop=[99999]), r"first \[7\]"),
    ],
)
def test_mistakes_are_one_line(call: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        call()  # type: ignore[operator]


def test_target_codes_are_dropped() -> None:
    assert stimulus_of_event([1, 99999], {1: "a"}, drop=[99999]) == ["a", None]


@pytest.mark.realdata
def test_real_recording_from_raw_to_evoked(test_data: Path) -> None:
    raw = read_eeglab(test_data / "eeglab_visual" / "eeglab_data.set")
    r = make_epochs(raw, {"square": "square"}, window=(-0.2, 0.8), rate=None, band=(0.5, 40.0))
    assert len(r) >= 75
    assert r.data.shape[1] == 32
    assert 1 < np.median(np.abs(r.data)) < 100  # microvolts
    mean = evoked(r)
    before = np.abs(mean[:, r.times < 0]).mean()
    n1 = mean[:, (r.times >= 0.16) & (r.times < 0.24)].mean(axis=1)
    p3 = mean[:, (r.times >= 0.4) & (r.times < 0.6)].mean(axis=1)
    assert p3.max() > 5 * before  # the response stands out of the baseline
    assert r.units["channel"][int(n1.argmin())] in {"O1", "Oz", "O2", "PO3", "PO4", "PO7", "PO8", "P7", "P8"}
    assert r.units["channel"][int(p3.argmax())] in {"Pz", "P3", "P4", "CPz", "CP1", "CP2", "Cz"}
