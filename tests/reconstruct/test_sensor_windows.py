"""EEG and MEG through `reconstruct`: bins against loops, one row an image, and a run whose parcels are time windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlens import store
from brainlens.datasets.sensors import open_sensors
from brainlens.datasets.source import Source
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.plots import reconstruct as figures
from brainlens.reconstruct.asked import Asked
from brainlens.reconstruct.regions import Partition, partition
from brainlens.reconstruct.run import run_reconstruct
from brainlens.reconstruct.sensor_windows import binned, open_windows
from brainlens.report.reconstruct import regions_section
from brainlens.types import DataError, Responses

EEG = Source("phantom_eeg", n_train=40, n_test=6)


def silent(text: str, share: float | None = None) -> None:
    """No progress."""


def responses(times: np.ndarray, channels: int = 3, trials: int = 5) -> Responses:
    data = np.random.default_rng(0).standard_normal((trials, channels, len(times))).astype(np.float32)
    units = pd.DataFrame({"channel": [f"E{i}" for i in range(channels)]})
    return Responses(data, pd.DataFrame({"stimulus": [f"s{i}" for i in range(trials)]}), units, times=times, measure="uV")


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (np.arange(20) / 250, [5, 5, 5, 5]),
        (np.arange(-10, 12) / 250, [5, 5, 5, 7]),  # two samples are no bin of their own
        (np.arange(23) / 250, [5, 5, 5, 5, 3]),
        (np.arange(4) / 10, [1, 1, 1, 1]),  # samples further apart than a bin
        (np.arange(3) / 1000, [3]),
    ],
)
def test_bins_are_means_over_samples_channel_by_channel(times, expected):
    given = responses(times)
    found = binned(given)
    ends = np.cumsum(expected)
    for trial in range(len(given)):
        for channel in range(3):
            for k, end in enumerate(ends):
                mean = given.data[trial, channel, end - expected[k] : end].mean()
                assert found.data[trial, channel * len(ends) + k] == pytest.approx(mean, abs=1e-6)
    np.testing.assert_allclose(found.units["time"], np.tile(times[ends - expected], 3))
    assert list(found.units["channel"]) == [f"E{i}" for i in range(3) for _ in ends]
    assert found.measure == "uV"


def test_windows_hold_all_channels_of_their_time():
    given = binned(responses(np.arange(250) / 250))
    parcels = partition(given, Partition())
    assert parcels.names[:2] == ("0 to 100 ms", "100 to 200 ms")
    assert parcels.names[-1] == "900 to 1000 ms"
    time = given.units["time"].to_numpy()
    for name, members in zip(parcels.names, parcels.members, strict=True):
        start, _, end, _ = name.split(" ")
        inside = (time >= int(start) / 1000 - 1e-9) & (time < int(end) / 1000 - 1e-9)
        np.testing.assert_array_equal(members, np.flatnonzero(inside))
    wide = partition(given, Partition("windows", edge=500))
    assert wide.names == ("0 to 500 ms", "500 to 1000 ms")


def test_a_recording_becomes_one_row_an_image(tmp_path: Path):
    found = open_windows(EEG, cache=tmp_path / "a", tell=silent)
    raw = open_sensors(EEG, cache=tmp_path / "b", tell=silent)
    trials = found.responses.trials
    assert (trials["split"] == "train").sum() == 40
    assert (trials["split"] == "test").sum() == 6
    assert found.responses.data.shape == (46, 63 * 50)
    name = str(trials.loc[trials["split"] == "test", "stimulus"].iloc[0])
    rows = np.flatnonzero((raw.responses.trials["stimulus"] == name).to_numpy())
    assert len(rows) == 80
    mean = np.mean([np.asarray(raw.responses.data[row], np.float64) for row in rows], axis=0)  # (channel, time)
    own = found.responses.data[np.flatnonzero((trials["stimulus"] == name).to_numpy())[0]].reshape(63, 50)
    np.testing.assert_allclose(own, mean.reshape(63, 50, 5).mean(axis=2), atol=1e-4)


def test_eeg_is_drawn_from_time_windows(made_pipeline, tmp_path: Path):
    """A whole run: pictures, contributions by time, a lesion of a window, a model that reads windows, and its figures."""
    pipeline = made_pipeline.build_pipeline(tmp_path / "tiny")
    asked = Asked(
        pipeline=str(pipeline), pretrain=24, pretrain_steps=4, steps=4, candidates=2, sampling_steps=3, explain=3,
        lesions=("100 to 200 ms+200 to 300 ms",), changes={"training": {"batch": 8, "draws": 8}},
    )  # fmt: skip
    folder, rows = run_reconstruct(EEG, tmp_path / "runs", asked, tell=silent)
    result = store.load_result(folder)
    assert any("two_way" in str(row["metric"]) for row in rows)
    assert result.arrays["pictures/candidates"].shape == (6, 2, 16, 16, 3)
    assert result.metrics["data/parcels"] == 10
    np.testing.assert_array_equal(figures.time_windows(result)[:2], [[0, 100], [100, 200]])
    assert {"channel", "time"} <= set(result.units.columns)
    contribution = result.arrays["map/value_contribution"].reshape(63, 50)
    assert (contribution == contribution[:1]).all()  # of a window, so the same at every channel
    assert result.metrics["reconstruct/lesion/100 to 200 ms+200 to 300 ms/change"] > 0
    assert NeuroAdapter.load(folder / "model").parcels_.source.startswith("windows")
    made = regions_section(result, 60)
    assert [text for text in (picture.caption for picture in made.pictures) if "time after the picture" in text]
    assert not any("cortex" in picture.caption for picture in made.pictures)
    bars = figures.contribution_windows(result).axes[0].patches
    mean = result.arrays["value_contribution/parcels"].mean(axis=(0, 1)) * 10
    np.testing.assert_allclose([bar.get_height() for bar in bars], mean, rtol=1e-5)


def test_bad_input_is_one_line(tmp_path: Path):
    flat = Responses(np.zeros((2, 3)), pd.DataFrame({"stimulus": ["a", "b"]}), pd.DataFrame({"roi": ["V1"] * 3}))
    cases = [
        (lambda: binned(flat), "have no time"),
        (lambda: partition(flat, Partition("windows")), "time windows are of EEG and MEG"),
        (lambda: open_windows(Source("phantom_eeg", subjects=("1", "2")), cache=tmp_path, tell=silent), "one subject at a time"),
        (
            lambda: run_reconstruct(Source("phantom_eeg", regions=("V1",)), tmp_path, tell=silent),
            "has channels and no regions",
        ),
        (lambda: run_reconstruct(Source("eeglab_visual", tmp_path), tmp_path, tell=silent), "comes without its pictures"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
