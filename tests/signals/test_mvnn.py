"""MVNN against sklearn's covariance, one epoch at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from sklearn.discriminant_analysis import _cov

from brainlens.signals.mvnn import mvnn, mvnn_covariance, shrunk_covariance, whitener
from brainlens.types import DataError, Responses


def recording(n: int = 24, channels: int = 9, samples: int = 30, seed: int = 0) -> Responses:
    rng = np.random.default_rng(seed)
    data = (np.linalg.qr(rng.normal(size=(channels, channels)))[0] * rng.uniform(0.1, 5, channels)) @ rng.normal(
        size=(n, channels, samples)
    )
    trials = pd.DataFrame({"stimulus": [f"i{k // 3}" for k in range(n)], "session": [1 + k % 2 for k in range(n)]})
    trials["split"] = ["train" if k < n * 3 // 4 else "test" for k in range(n)]
    units = pd.DataFrame({"channel": [f"c{k}" for k in range(channels)]})
    return Responses(data, trials, units, times=np.arange(samples) / 100, measure="uV")


def test_covariance_equals_the_loop() -> None:
    data = recording().data
    each = [_cov(epoch.T, shrinkage="auto") for epoch in data]
    ours = shrunk_covariance(torch.as_tensor(data)).numpy()
    assert np.abs(ours - each).max() < 1e-10
    assert np.abs(mvnn_covariance(data, block=5) - np.mean(each, 0)).max() < 1e-10


def test_time_form_equals_the_loop() -> None:
    r = recording()
    names = r.trials["stimulus"].to_numpy()
    each = [
        np.mean([_cov(r.data[names == name][:, :, t], shrinkage="auto") for t in range(r.data.shape[2])], 0)
        for name in np.unique(names)
    ]
    assert np.abs(mvnn_covariance(r.data, form="time", groups=names) - np.mean(each, 0)).max() < 1e-10


def test_whitening_equals_the_fractional_power_and_uses_training_trials_of_its_session() -> None:
    r = recording()
    out = mvnn(r, by="session", fit_on="train")
    base = r.data[((r.trials.session == 2) & (r.trials.split == "train")).to_numpy()]
    matrix = fractional_matrix_power(np.mean([_cov(epoch.T, shrinkage="auto") for epoch in base], 0), -0.5)
    rows = (r.trials.session == 2).to_numpy()
    assert np.abs(out.data[rows] - matrix @ r.data[rows]).max() < 1e-4
    changed = r.data.copy()
    changed[(r.trials.split == "test").to_numpy()] *= 100
    again = mvnn(Responses(changed, r.trials, r.units, times=r.times, measure="uV"))
    train = (r.trials.split == "train").to_numpy()
    assert np.array_equal(again.data[train], out.data[train])


def test_the_whitener_makes_its_covariance_white() -> None:
    covariance = mvnn_covariance(recording().data)
    matrix = whitener(covariance)
    assert np.allclose(matrix, matrix.T)
    assert np.abs(matrix @ covariance @ matrix - np.eye(len(covariance))).max() < 1e-8


def test_a_memory_map_is_filled(tmp_path: object) -> None:
    r = recording()
    out = np.lib.format.open_memmap(f"{tmp_path}/x.npy", mode="w+", dtype=np.float16, shape=r.data.shape)
    assert mvnn(r, out=out).data is out
    assert np.abs(out - mvnn(r).data).max() < 0.01


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda r: mvnn(r, by="run"), "no column 'run'"),
        (lambda r: mvnn(r.where(split="test")), "fit_on=None"),
        (lambda r: mvnn(r, form="trial"), "not one of"),
        (lambda r: mvnn_covariance(np.full((3, 2, 5), np.nan)), "NaN"),
        (lambda r: mvnn_covariance(r.data, form="time", groups=np.arange(len(r))), "two repetitions"),
        (lambda r: whitener(np.array([[1.0, 2.0], [0.0, 1.0]])), "symmetric"),
        (lambda r: whitener(np.zeros((2, 2))), "flat"),
    ],
)
def test_mistakes_are_one_line(call: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        call(recording())  # type: ignore[operator]
