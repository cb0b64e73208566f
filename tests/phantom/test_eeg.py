"""The EEG phantom: sources where they should be, noise of the stated size, exact means, numbers that do not depend on blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brainlens.phantom.eeg import CHANNELS, EARLY, eeg_trials, eeg_truth, make_eeg, sensors, simulate_eeg
from brainlens.types import DataError, Features, Stimuli


def world(n: int = 120, test: int = 20, seed: int = 0) -> tuple[Stimuli, Features]:
    rng = np.random.default_rng(seed)
    ids = np.array([f"s{i}" for i in range(n)])
    table = pd.DataFrame({"split": ["train"] * (n - test) + ["test"] * test})
    z = rng.normal(size=(n, 12))
    data = {f"layer{k}": np.tanh(z @ rng.normal(size=(12, 30))).astype(np.float32) for k in range(6)}
    data["image"] = (z @ rng.normal(size=(12, 16))).astype(np.float32)
    return Stimuli(ids, np.zeros((n, 2, 2, 3), np.uint8), table=table), Features(data, ids, "random")


def test_channels_are_the_63_of_the_release_and_the_back_is_at_the_back() -> None:
    space = sensors()
    assert len(CHANNELS) == len(set(CHANNELS)) == len(space) == 63
    y = dict(zip(space.names, space.positions[:, 1]))
    assert y["Oz"] < y["Pz"] < y["Cz"] < y["Fp1"]


def test_amplitude_and_noise_are_what_is_said() -> None:
    stimuli, network = world(200, 30)
    truth = eeg_truth(stimuli, network, amplitude=2.0, kappa=0.0)
    clean = truth.clean()
    assert np.sqrt((clean.astype(float) ** 2).mean()) == pytest.approx(2.0, rel=0.02)
    r = simulate_eeg(truth, eeg_trials(stimuli, rows=(1, 1)), dtype="float32")
    train = (r.trials["split"] == "train").to_numpy()
    assert (r.data - clean)[train].std() == pytest.approx(np.sqrt((100 + 16) / 4), rel=0.05)
    assert (r.data - clean)[~train].std() == pytest.approx(np.sqrt((100 + 16) / 80), rel=0.1)
    assert truth.snr() == pytest.approx(4 / 116, rel=0.05)
    assert truth.snr(80) == pytest.approx(80 * truth.snr())


def test_feature_noise_adds_kappa_times_the_signal() -> None:
    stimuli, network = world(160, 120)
    quiet, loud = (eeg_truth(stimuli, network, amplitude=20.0, kappa=k) for k in (0.0, 2.0))
    trials = eeg_trials(stimuli, repeats=(1, 1))
    noise = [(simulate_eeg(t, trials, dtype="float32").data - t.clean()).var() for t in (quiet, loud)]
    assert (noise[1] - noise[0]) / quiet.clean().var() == pytest.approx(2.0, rel=0.15)


def test_early_regions_come_first_and_lie_further_back() -> None:
    stimuli, network = world()
    truth = eeg_truth(stimuli, network)
    early = truth.sources["region"].isin(EARLY).to_numpy()
    first = truth.sources.groupby("region")["latency"].min()
    assert 0.07 < first["V1"] < 0.11
    assert all(0.15 < first[name] < 0.27 for name in ("FFA", "PPA", "EBA", "FOOD"))
    power = [(truth.patterns[keep] ** 2).sum((0, 1)) for keep in (early, ~early)]
    assert truth.times[power[0].argmax()] < truth.times[power[1].argmax()]
    back = truth.units["channel"].str.match("^(O|PO|P)").to_numpy()
    assert truth.topography()[back].mean() > 1.5 * truth.topography()[~back].mean()
    assert np.abs(truth.clean()[:, :, truth.times < 0.02]).max() < 0.2
    assert (truth.units["truth_rms"] > 0).all()


def test_a_trial_does_not_depend_on_its_block_and_the_seed_fixes_it() -> None:
    stimuli, network = world(16, 4)
    truth, trials = eeg_truth(stimuli, network), eeg_trials(stimuli, rows=(1, 2))
    a, b = simulate_eeg(truth, trials, block=7).data, simulate_eeg(truth, trials, block=256).data
    assert np.allclose(a, b, atol=0.05)
    assert np.array_equal(b, simulate_eeg(eeg_truth(stimuli, network), trials).data)
    assert not np.array_equal(b, simulate_eeg(eeg_truth(stimuli, network, seed=1), trials).data)


def test_subjects_share_most_of_their_readout() -> None:
    stimuli, network = world(300, 5)
    one, two, other = (eeg_truth(stimuli, network, subject=s, seed=k) for s, k in ((1, 0), (2, 0), (2, 9)))
    same = [abs(np.corrcoef(one.signal[:, k], two.signal[:, k])[0, 1]) for k in range(one.signal.shape[1])]
    apart = [abs(np.corrcoef(one.signal[:, k], other.signal[:, k])[0, 1]) for k in range(one.signal.shape[1])]
    assert np.mean(same) > 0.6
    assert np.mean(apart) < 0.4


def test_tables_and_the_baseline_window() -> None:
    stimuli, network = world(30, 5)
    r = make_eeg(stimuli, network, subjects=(1, 2), rows=(4, 16))
    assert r.data.shape == (2 * (25 * 4 + 5 * 16), 63, 250)
    assert r.trials.groupby(["subject", "split"])["repeats"].sum().tolist() == [400, 100, 400, 100]
    assert eeg_trials(stimuli, rows=(1, 16)).query("split == 'test'")["repeats"].unique().tolist() == [5]
    truth = eeg_truth(stimuli, network, window=(-0.2, 1.0))
    assert len(truth.times) == 300
    assert np.abs(truth.patterns[:, :, truth.times <= 0]).max() == 0


def test_only_the_target_layer_is_enough() -> None:
    stimuli, network = world(30, 5)
    alone = Features({"image": network["image"]}, network.ids, "embedding only")
    assert eeg_truth(stimuli, alone).signal.shape[0] == 30


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda s, f: eeg_truth(s, f, subject=0), "must be 1"),
        (lambda s, f: eeg_truth(s, f, amplitude=0.0), "above 0"),
        (lambda s, f: eeg_truth(s.take(s.ids[:2]), f), "too few"),
        (lambda s, f: eeg_truth(s, f.take(f.ids[:10])), "not found"),
        (lambda s, f: eeg_trials(s, rows=(3, 1)), "do not divide"),
        (lambda s, f: make_eeg(s, f, subjects=()), "no subject"),
    ],
)
def test_mistakes_are_one_line(call: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        call(*world(12, 3))  # type: ignore[operator]
