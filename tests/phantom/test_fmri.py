"""The simulated recording does what its documentation says: variance parts, ceilings, fields, reproducibility."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from brainlens.phantom.fmri import make_fmri, make_trials, phantom_truth, simulate
from brainlens.phantom.noise import GLOBAL, INDEPENDENT, SMOOTH, draw_ncsnr, rest_noise, rest_variance, trial_generator
from brainlens.phantom.private import private_part
from brainlens.phantom.readout import domain_table, pooling
from brainlens.types import DataError, Features, Stimuli

LAYERS = ("block1", "block2", "block3")


def pictures(n: int, *, seed: int = 0) -> tuple[Stimuli, Features]:
    """Images with domains, and a small network with layers, tokens and an embedding."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{i:05d}" for i in range(n)])
    domain = rng.choice(["faces", "bodies", "places", "words", "food"], n)
    objects = [json.dumps([{"domain": d}, {"domain": "tools"}]) for d in domain]
    table = pd.DataFrame({"domain": domain, "objects": objects, "split": np.where(np.arange(n) < 0.8 * n, "train", "test")})
    hidden = rng.standard_normal((n, 24)) + 0.5 * (domain == "faces")[:, None]
    data = {name: hidden @ rng.standard_normal((24, 32)) for name in LAYERS}
    data["image"] = hidden @ rng.standard_normal((24, 16))
    tokens = {name: rng.standard_normal((n, 16, 12)) for name in LAYERS}
    images = np.zeros((n, 4, 4, 3), dtype=np.uint8)
    grid = dict.fromkeys(LAYERS, (4, 4))
    return Stimuli(ids, images, table=table), Features(data, ids, "small", tokens, grid)


@pytest.fixture(scope="module")
def stimuli_features() -> tuple[Stimuli, Features]:
    return pictures(240)


@pytest.fixture(scope="module")
def truth(stimuli_features):
    return phantom_truth(*stimuli_features, private=0.2)


@pytest.fixture(scope="module")
def recording(stimuli_features, truth):
    return simulate(truth, make_trials(stimuli_features[0]))


def test_signal_and_the_four_noise_parts_add_to_one(truth) -> None:
    assert pytest.approx(1.0) == SMOOTH + GLOBAL + INDEPENDENT
    ncsnr = truth.units["ncsnr"].to_numpy()
    signal = np.zeros(len(ncsnr))
    signal[truth.informative] = truth.signal.var(axis=0)
    np.testing.assert_allclose(signal * (1 + truth.kappa) + rest_variance(ncsnr, truth.kappa), 1.0, atol=1e-5)
    assert (rest_variance(ncsnr, truth.kappa) > 0).all()


def test_measured_variance_and_ceiling_agree_with_the_true_ones(truth, recording) -> None:
    z = recording.zscore()
    order = np.argsort(z.trials["stimulus"].to_numpy(), kind="stable")
    cube = z.data[order].reshape(-1, 3, z.data.shape[1]).astype(np.float64)
    noise = cube.var(axis=1, ddof=1).mean(axis=0)
    signal = np.maximum(cube.reshape(-1, cube.shape[2]).var(axis=0) - noise, 0)
    measured, true = np.sqrt(signal / noise), z.units["ncsnr"].to_numpy()
    inside = z.units["informative"].to_numpy()
    assert abs(measured[inside].mean() - true[inside].mean()) < 0.03
    assert np.corrcoef(measured[inside], true[inside])[0, 1] > 0.85
    assert (true[~inside] == 0).all()
    raw = recording.data.astype(np.float64)
    assert abs(raw.var(axis=0).mean() - 1.0) < 0.08  # session offsets and drift come on top


def test_ncsnr_follows_nsd_and_stays_under_the_limit() -> None:
    free = draw_ncsnr(20000, 0.0, np.random.default_rng(0))
    assert abs(np.median(free) - 0.42) < 0.01
    assert abs(np.log(free).std() - 0.40) < 0.01
    for kappa, share in ((2.0, 0.13), (4.0, 0.39)):
        clipped = draw_ncsnr(20000, kappa, np.random.default_rng(0))
        assert clipped.max() < 1 / np.sqrt(kappa)
        assert abs((clipped == clipped.max()).mean() - share) < 0.03


def test_feature_noise_has_kappa_times_the_covariance_of_the_signals(truth) -> None:
    draws = np.random.default_rng(1).standard_normal((20000, len(truth.factor))) @ truth.factor[:, :60]
    signal = truth.signal[:, :60]
    expected = signal.T @ signal / len(signal)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=6 * expected.max() / np.sqrt(20000))


def test_voxels_outside_the_regions_do_not_follow_the_images(stimuli_features, recording) -> None:
    z = recording.zscore()
    outside = np.flatnonzero(~z.units["informative"].to_numpy())[::20]
    embedding = stimuli_features[1].data["image"]
    row = {name: i for i, name in enumerate(stimuli_features[0].ids)}
    x = embedding[[row[name] for name in z.trials["stimulus"]]]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = z.data[:, outside] / z.data[:, outside].std(axis=0)
    r = x.T @ y / len(x)
    assert abs(r.mean()) < 0.01
    assert abs(np.sqrt((r**2).mean()) * np.sqrt(len(x)) - 1) < 0.15  # as wide as chance, no wider


def test_smooth_part_has_the_stated_width_and_unit_variance(truth) -> None:
    noise = rest_noise(truth.space, subject=1, seed=0)
    shape = tuple(part.stop - part.start for part in noise.box)
    smooth = noise.smooth(np.random.default_rng(0).standard_normal((300, *shape), dtype=np.float32))
    assert abs(smooth.var(axis=0).mean() - 1) < 0.01
    index = np.argwhere(truth.space.mask)
    number = {tuple(place): i for i, place in enumerate(index)}
    pairs = np.array([(i, number[x, y, z + 1]) for i, (x, y, z) in enumerate(index) if (x, y, z + 1) in number])
    r = (smooth[:, pairs[:, 0]] * smooth[:, pairs[:, 1]]).mean()
    # white noise smoothed with a Gaussian of width s: correlation exp(-d^2 / 4 s^2) at distance d
    width = np.sqrt(-(4.0**2) / (4 * np.log(r))) * np.sqrt(8 * np.log(2))
    assert abs(width - 10.0) < 0.5


def test_same_seed_same_bits_other_seed_other_noise(stimuli_features, truth, recording) -> None:
    again = simulate(phantom_truth(*stimuli_features, private=0.2), make_trials(stimuli_features[0]))
    assert again.data.tobytes() == recording.data.tobytes()
    other = phantom_truth(*stimuli_features, private=0.2, seed=1)
    assert not np.array_equal(simulate(other, make_trials(stimuli_features[0]).head(5)).data, recording.data[:5])


def test_the_block_size_does_not_change_the_recording(stimuli_features, truth, recording) -> None:
    other = simulate(truth, make_trials(stimuli_features[0]), block=17)
    # matrix products of another size may differ in the last bit before rounding to float16
    np.testing.assert_allclose(other.data.astype(np.float32), recording.data.astype(np.float32), atol=4e-3, rtol=2e-3)


def test_trial_streams_do_not_overlap() -> None:
    one, two = trial_generator(0, 1, 0, 5), trial_generator(0, 1, 0, 6)
    assert abs(np.corrcoef(one.standard_normal(20000), two.standard_normal(20000))[0, 1]) < 0.03


def test_fields_are_contralateral_and_steady(truth) -> None:
    units = truth.units
    early = units[units["roi"].isin(["V1", "V2V3", "V4"])]
    assert not early["is_global"].any()
    assert (np.sign(early["rf_x"]) == -np.sign(early["x"])).all()
    assert early[["rf_x", "rf_y"]].abs().to_numpy().max() <= 1
    assert (early["rf_size"] > 0).all()
    v1 = early[(early["roi"] == "V1") & (early["hemisphere"] == "left")]
    upper, lower = v1[v1["z"] < v1["z"].quantile(0.3)], v1[v1["z"] > v1["z"].quantile(0.7)]
    assert upper["rf_y"].max() < 0 < lower["rf_y"].min()  # ventral V1 sees the upper field; y points down
    eccentricity = np.hypot(v1["rf_x"], v1["rf_y"])
    assert np.corrcoef(eccentricity, v1["y"])[0, 1] > 0.9
    assert units.loc[~units["informative"], ["layer", "rf_x", "rf_y"]].isna().all().all()


def test_layers_rise_from_early_to_late_regions(truth) -> None:
    mean = truth.units.groupby("roi")["layer"].mean()
    assert mean["V1"] < mean["V2V3"] < mean["V4"] < mean["FFA"] <= mean["LANG"] == 2
    assert truth.units["layer"].max() == 2  # nothing reads the embedding itself


def test_a_local_voxel_reads_its_place_and_no_other(stimuli_features) -> None:
    stimuli, features = stimuli_features
    local = {k: v.copy() for k, v in features.tokens.items()}
    for array in local.values():
        array[:, [0, 1, 4, 5, 8, 9, 12, 13]] = array[:1, :1]  # the left half of every image is now the same
    half = Features(features.data, features.ids, "half", local, features.grid)
    before = phantom_truth(stimuli, features, private=0.0)
    after = phantom_truth(stimuli, half, private=0.0)
    units = before.units.iloc[before.informative]
    v1 = ((units["roi"] == "V1") & (units["rf_x"].abs() > 0.6)).to_numpy()
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(before.signal.T[v1], after.signal.T[v1])])
    sees_right = units["rf_x"].to_numpy()[v1] > 0
    assert r[sees_right].min() > 0.95


def test_pooling_is_bilinear_for_points_and_agrees_with_plain_averaging() -> None:
    point = pooling(np.array([[0.1, -0.3, 1e-9]]), (4, 4))[0].reshape(4, 4)
    column, row = (0.1 + 1) * 2 - 0.5, (-0.3 + 1) * 2 - 0.5
    expected = np.outer([max(0, 1 - abs(row - i)) for i in range(4)], [max(0, 1 - abs(column - i)) for i in range(4)])
    np.testing.assert_allclose(point, expected, atol=1e-6)
    field = np.array([[0.2, 0.1, 0.25]])
    draws = np.random.default_rng(0).normal(field[0, :2], 0.25, (200000, 2))
    tiny = np.concatenate([draws, np.full((len(draws), 1), 1e-9)], axis=1)
    np.testing.assert_allclose(pooling(field, (4, 4))[0], pooling(tiny, (4, 4)).mean(axis=0), atol=0.01)


def test_category_regions_prefer_their_domain(stimuli_features, truth) -> None:
    stimuli, _ = stimuli_features
    units = truth.units.iloc[truth.informative]
    ffa, rsc = (units["roi"] == "FFA").to_numpy(), (units["roi"] == "RSC").to_numpy()
    faces = (stimuli.table["domain"] == "faces").to_numpy()
    contrast = truth.signal[faces].mean(axis=0) - truth.signal[~faces].mean(axis=0)
    assert (contrast[ffa] > 0).mean() > 0.95
    assert contrast[ffa].mean() > contrast[rsc].mean()
    assert set(units.loc[ffa, "domain"]) == {"faces"}
    assert "tools" not in domain_table(stimuli).columns  # in every picture: says nothing


def explained(target: np.ndarray, by: np.ndarray) -> float:
    """Share of the variance of a target (image, d) that a linear regression on centred columns explains."""
    if not by.shape[1]:
        return 0.0
    centred = target - target.mean(axis=0)
    left, values, _ = np.linalg.svd(by - by.mean(axis=0), full_matrices=False)
    return float(((left[:, values > 1e-4 * values[0]].T @ centred) ** 2).sum() / (centred**2).sum())


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.6])
def test_the_private_share_is_what_is_asked_and_no_voxel_carries_it(stimuli_features, share: float) -> None:
    embedding = stimuli_features[1].data["image"]
    hidden, strength = private_part(embedding, share, seed=0)
    np.testing.assert_allclose(hidden.T @ hidden / len(hidden), np.eye(len(strength)), atol=1e-10)
    wholly, all_of_it = explained(embedding, hidden[:, :-1]), explained(embedding, hidden)
    assert (strength[:-1] == 1).all()
    part = float(strength[-1]) if share else 0.0
    assert wholly + part * (all_of_it - wholly) == pytest.approx(share, abs=1e-9)
    truth = phantom_truth(*stimuli_features, private=share)
    whole = hidden[:, strength > 1 - 1e-9]
    if whole.shape[1]:
        assert abs(whole.T @ truth.signal / len(whole)).max() < 1e-6


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_voxels_without_noise_explain_what_is_not_private(stimuli_features, share: float) -> None:
    """LANG reads the 24 numbers of which the embedding is made: without noise its voxels give all that is not private."""
    embedding = stimuli_features[1].data["image"]
    truth = phantom_truth(*stimuli_features, private=share)
    lang = (truth.units["roi"].iloc[truth.informative] == "LANG").to_numpy()
    last = explained(embedding, truth.private) - explained(embedding, truth.private[:, :-1])
    assert 1 - share - 1e-3 < explained(embedding, truth.signal[:, lang]) < 1 - share + last + 1e-3


def test_any_stimuli_and_features_will_do() -> None:
    _, features = pictures(60)
    plain = Stimuli(features.ids, np.zeros((60, 2, 2, 3), np.uint8))
    flat = Features({"only": features.data["block1"]}, features.ids, "flat")
    recording = make_fmri(plain, flat, repeats=1)
    units = recording.units[recording.units["informative"]]
    assert units["is_global"].all()
    assert (units["domain"] == "").all()
    assert set(recording.trials["split"]) == {"train"}


def test_features_in_another_order_are_joined_by_id(stimuli_features, truth) -> None:
    stimuli, features = stimuli_features
    turned = features.take(features.ids[::-1])
    np.testing.assert_allclose(phantom_truth(stimuli, turned, private=0.2).signal, truth.signal, atol=1e-5)


def test_the_2mm_grid_works(stimuli_features) -> None:
    stimuli, features = stimuli_features
    truth = phantom_truth(stimuli, features, grid="2mm")
    recording = simulate(truth, make_trials(stimuli).head(4), block=2)
    assert recording.data.shape[1] == len(truth.space) > 200000
    assert 0.9 < recording.data.astype(np.float32).var(axis=1).mean() < 1.3


def test_trials_hold_every_image_in_every_session_share(stimuli_features) -> None:
    trials = make_trials(pictures(600)[0])
    assert len(trials) == 1800
    assert trials["session"].nunique() == 3
    assert (trials.groupby("stimulus")["repeat"].apply(sorted).map(tuple) == (1, 2, 3)).all()
    assert trials.groupby("session")["split"].nunique().min() == 2
    assert (trials.groupby("stimulus")["split"].nunique() == 1).all()


def test_no_noise_gives_the_signal_itself(stimuli_features, truth) -> None:
    trials = make_trials(stimuli_features[0]).head(10)
    clean = simulate(truth, trials, noise=False, dtype="float32")
    row = {name: i for i, name in enumerate(truth.ids)}
    np.testing.assert_array_equal(clean.data[:, truth.informative], truth.signal[[row[s] for s in trials["stimulus"]]])
    assert (clean.data[:, ~truth.units["informative"].to_numpy()] == 0).all()


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"private": 1.0}, "private"),
        ({"private": -0.1}, "private"),
        ({"kappa": -1.0}, "kappa"),
        ({"seed": -1}, "seed"),
        ({"grid": "1mm"}, "grid"),
    ],
)
def test_wrong_arguments_are_named(stimuli_features, arguments: dict, text: str) -> None:
    with pytest.raises(DataError, match=text):
        phantom_truth(*stimuli_features, **arguments)


def test_wrong_inputs_are_named(stimuli_features, truth) -> None:
    stimuli, features = stimuli_features
    with pytest.raises(DataError, match="not found"):
        phantom_truth(stimuli, features.take(features.ids[:30]))
    constant = Features({"flat": np.ones((240, 3))}, features.ids, "constant")
    with pytest.raises(DataError, match="never changes"):
        phantom_truth(stimuli, constant)
    broken = Stimuli(stimuli.ids, stimuli.images, table=pd.DataFrame({"objects": ["{"] * 240}))
    with pytest.raises(DataError, match="objects"):
        phantom_truth(broken, features)
    with pytest.raises(DataError, match="out has shape"):
        simulate(truth, make_trials(stimuli), out=np.zeros((2, 2), np.float16))
    with pytest.raises(DataError, match="repeats"):
        make_trials(stimuli, repeats=0)
