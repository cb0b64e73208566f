"""Epochs from continuous recordings: a made one whose truth is known, and the EEGLAB recording."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from brainlens.signals.epochs import (
    check_magnitude,
    check_rate,
    evoked,
    make_epochs,
    match_channels,
    match_times,
    read_eeglab,
    stimulus_of_event,
)
from brainlens.types import DataError, Responses

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


def test_volts_are_noticed() -> None:
    data = np.random.default_rng(0).normal(0, 10, (5, 3, 20))
    assert check_magnitude(data) == 1.0
    with pytest.warns(UserWarning, match="looks like volts"):
        assert check_magnitude(data * 1e-6) == 1e6
    assert check_magnitude(data * 1e-6, measure="z") == 1.0
    with pytest.raises(DataError, match="flat"):
        check_magnitude(data * 0)


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
