"""The phantom is a continuous function of the features: features that differ by little give responses that differ by little.

Features that differ by 1e-3 of their standard deviation stand for other processors, libraries and precisions, whose
differences are far smaller. The embeddings here have fewer dimensions than numbers, and variances that are nearly equal, so
that rank, order and sign of their principal components are those of rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlens.phantom.eeg import eeg_trials, eeg_truth, simulate_eeg
from brainlens.phantom.fmri import make_trials, phantom_truth, simulate
from brainlens.phantom.noise import symmetric_root
from brainlens.phantom.private import private_part
from brainlens.phantom.readout import _percentile, readable_layers
from brainlens.types import Features, Stimuli

LITTLE, LIMIT = 1e-3, 1e-2  # of a standard deviation: difference of the features, bound for the responses
LAYERS = ("block1", "block2", "block3")
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
MADE_AGAIN = """
import sys, numpy as np
from brainlens.datasets import phantom, phantom_eeg
from brainlens.phantom.fmri import make_trials, simulate
scenes = phantom.scenes(n_train=80, n_test=20)
network = phantom.features(scenes)
known = phantom.truth(scenes, network)
trials = simulate(known, make_trials(scenes))
seen = phantom_eeg.Shown(scenes, network, None, network)
waves = phantom_eeg.record(seen, repeats=(4, 8))
np.savez(sys.argv[1], fmri=trials.data, signal=known.signal, eeg=waves.data, clean=phantom_eeg.truth(seen).clean(),
         layer=known.units["layer"], image=network["image"])
"""


def world(n: int, seed: int) -> tuple[Stimuli, Features]:
    """Images and a network of three layers; the embedding has 40 numbers and 24 dimensions of nearly the same variance."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{i:05d}" for i in range(n)])
    domain = rng.choice(["faces", "bodies", "places", "words", "food"], n)
    table = pd.DataFrame({"domain": domain, "split": np.where(np.arange(n) < 0.8 * n, "train", "test")})
    hidden = rng.standard_normal((n, 24)) + 0.5 * (domain == "faces")[:, None]
    data = {name: np.tanh(hidden @ rng.standard_normal((24, 32)) / 4) for name in LAYERS}
    data["image"] = hidden @ np.linalg.qr(rng.standard_normal((40, 24)))[0].T
    tokens = {name: rng.standard_normal((n, 16, 12)) for name in LAYERS}
    stimuli = Stimuli(ids, np.zeros((n, 2, 2, 3), np.uint8), table=table)
    return stimuli, Features(data, ids, "small", tokens, dict.fromkeys(LAYERS, (4, 4)))


def nearly(features: Features, seed: int) -> Features:
    """The same features but for LITTLE standard deviations of each channel, another difference in every number."""
    rng = np.random.default_rng([seed, 1])

    def moved(array: np.ndarray) -> np.ndarray:
        return array + LITTLE * array.std(axis=0) * rng.standard_normal(array.shape)

    data = {name: moved(array) for name, array in features.data.items()}
    tokens = {name: moved(array) for name, array in features.tokens.items()}
    return Features(data, features.ids, features.model, tokens, features.grid)


def difference(one: np.ndarray, two: np.ndarray) -> float:
    """Largest standard deviation, over voxels, of the difference in units of the voxel's own."""
    return float(((two - one).std(axis=0) / one.std(axis=0)).max())


@pytest.mark.parametrize("seed", range(5))
def test_nearly_the_same_features_give_nearly_the_same_voxels(seed: int) -> None:
    # 10 seeds gave at most .0051 for the signals and .0045 for the trials
    stimuli, features = world(240, seed)
    one, two = (phantom_truth(stimuli, f, private=0.45, seed=seed) for f in (features, nearly(features, seed)))
    assert difference(one.signal, two.signal) < LIMIT
    trials = make_trials(stimuli, repeats=1)
    assert difference(*(simulate(t, trials, dtype="float32").data for t in (one, two))) < LIMIT


def test_feature_noise_of_many_images_is_continuous_too() -> None:
    stimuli, features = world(1700, 0)  # more images than informative voxels
    one, two = (phantom_truth(stimuli, f, private=0.45) for f in (features, nearly(features, 0)))
    assert one.factor.shape[0] == one.factor.shape[1] < 1700
    np.testing.assert_allclose(one.factor.T @ one.factor, one.signal.T @ one.signal / 1700, atol=1e-5)
    trials = make_trials(stimuli, repeats=1).head(300)
    assert difference(*(simulate(t, trials, dtype="float32").data for t in (one, two))) < LIMIT


@pytest.mark.parametrize("seed", range(5))
def test_nearly_the_same_features_give_nearly_the_same_eeg(seed: int) -> None:
    # 10 seeds gave at most .0012 for the clean responses and .0007 for the recordings
    stimuli, features = world(120, seed)
    one, two = (eeg_truth(stimuli, f, amplitude=3.0, seed=seed) for f in (features, nearly(features, seed)))
    by_channel = [t.clean().transpose(0, 2, 1).reshape(-1, 63) for t in (one, two)]
    assert difference(*by_channel) < LIMIT
    trials = eeg_trials(stimuli, repeats=(4, 8))
    seen = [simulate_eeg(t, trials, dtype="float32").data.transpose(0, 2, 1).reshape(-1, 63) for t in (one, two)]
    assert difference(*seen) < LIMIT


def test_float16_rounds_and_flips_nothing() -> None:
    stimuli, features = world(120, 3)
    trials = make_trials(stimuli, repeats=1)
    truths = [phantom_truth(stimuli, f, private=0.45) for f in (features, nearly(features, 3))]
    exact, kept = ([simulate(t, trials, dtype=dtype).data.astype(np.float64) for t in truths] for dtype in ("float32", "float16"))
    assert (np.abs(kept[0] - exact[0]) <= float16_step(exact[0])).all()
    step = np.maximum(*map(float16_step, exact))
    assert (np.abs(kept[1] - kept[0]) <= np.abs(exact[1] - exact[0]) + step).all()


def float16_step(values: np.ndarray) -> np.ndarray:
    """Distance between the float16 numbers around each value."""
    return np.spacing(np.abs(values).astype(np.float16)).astype(np.float64)


@pytest.mark.parametrize("share", [0.1, 0.45, 0.9])
def test_rank_and_order_of_components_of_the_embedding_do_not_matter(share: float) -> None:
    embedding = world(400, 1)[1].data["image"]
    turned = np.linalg.qr(np.random.default_rng(2).standard_normal((400, 400)))[0]
    one = private_part(embedding, share, seed=0)
    full = embedding + 1e-6 * turned[:, :40] * np.sqrt(400)  # of rank 40 where the embedding has 24
    two = private_part(full, share, seed=0)
    assert len(one[1]) == len(two[1])
    np.testing.assert_allclose(two[0], one[0], atol=1e-3)
    np.testing.assert_allclose(two[1], one[1], atol=1e-3)


def test_a_component_enters_with_no_strength() -> None:
    """What is taken out of a signal changes steadily with q, also where another component begins."""
    embedding = world(300, 4)[1].data["image"]
    signal = np.random.default_rng(5).standard_normal((300, 6))

    def taken(share: float) -> np.ndarray:
        hidden, strength = private_part(embedding, share, seed=0)
        return hidden @ (strength[:, None] * (hidden.T @ signal)) / 300

    shares = np.arange(0.1, 0.9, 1e-3)
    steps = [np.abs(taken(b) - taken(a)).max() for a, b in pairwise(shares)]
    assert 0 < max(steps) < 20 * np.median(steps)


def test_the_symmetric_root_is_a_root_and_continuous_where_variances_are_equal_or_zero() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    covariance = (basis * np.repeat([4.0, 1.0, 0.0], 10)) @ basis.T
    root = symmetric_root(covariance)
    np.testing.assert_allclose(root @ root, covariance, atol=1e-7)
    other = rng.standard_normal((30, 30)) * 1e-8
    assert np.abs(symmetric_root(covariance + other @ other.T + 1e-12 * (other + other.T)) - root).max() < 1e-5


def test_voxels_at_the_same_place_in_a_region_share_a_rank() -> None:
    place = np.array([1.2, 0.4, 0.4, 3.0, 1.2, 0.4])
    jittered = place + 1e-14 * np.arange(6)
    np.testing.assert_array_equal(_percentile(jittered), _percentile(place))


def test_a_layer_that_is_constant_up_to_the_last_bit_is_not_read() -> None:
    rng = np.random.default_rng(0)
    value = (rng.standard_normal(16) * np.logspace(-2, 2, 16)).astype(np.float16)
    flips = np.where(rng.uniform(size=(200, 16)) < 0.5, value, np.nextafter(value, np.float16(np.inf)))
    ids = np.array([str(i) for i in range(200)])
    steady = rng.standard_normal((200, 16)) * 0.01 + 1.0
    features = Features({"class": flips, "real": steady}, ids, "small")
    assert flips.astype(float).std(axis=0).max() > 0
    assert readable_layers(features) == ([], [1])


@pytest.fixture(scope="module")
def two_processors(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """One small phantom made by two processes, the second without instructions beyond AVX2."""
    place, made = tmp_path_factory.mktemp("processors"), []
    for name, extra in (("as_is", {}), ("avx2", AVX2)):
        file = Path(place) / f"{name}.npz"
        run = subprocess.run(
            [sys.executable, "-c", MADE_AGAIN, file], capture_output=True, text=True, env={**os.environ, **extra}
        )
        assert run.returncode == 0, run.stderr[-400:]
        with np.load(file) as stored:
            made.append({key: stored[key].astype(np.float64) for key in stored.files})
    return made


def test_another_processor_gives_the_same_voxels(two_processors: list[dict[str, np.ndarray]]) -> None:
    one, two = two_processors
    np.testing.assert_array_equal(one["layer"], two["layer"])
    assert difference(one["signal"], two["signal"]) < LIMIT
    assert (np.abs(two["fmri"] - one["fmri"]) <= LIMIT + 2 * float16_step(one["fmri"])).all()


def test_another_processor_gives_the_same_eeg(two_processors: list[dict[str, np.ndarray]]) -> None:
    one, two = ({k: d[k].transpose(0, 2, 1).reshape(-1, 63) for k in ("eeg", "clean")} for d in two_processors)
    assert difference(one["clean"], two["clean"]) < LIMIT
    assert difference(one["eeg"], two["eeg"]) < LIMIT
