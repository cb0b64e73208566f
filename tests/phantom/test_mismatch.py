"""The mismatched phantom: each part does what its documentation says, and without them nothing changes to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brainlens.phantom.fmri import make_trials, phantom_truth, simulate
from brainlens.phantom.ideal import ideal_scores
from brainlens.phantom.mismatch import (
    APART,
    REACH,
    Mismatch,
    compressed,
    delays,
    leakage,
    moved,
    response,
    run_numbers,
    smeared,
)
from brainlens.types import DataError, Features, Stimuli

N = 40


@pytest.fixture(scope="module")
def pictures() -> tuple[Stimuli, Features]:
    rng = np.random.default_rng(0)
    ids = np.array([f"p{i}" for i in range(N)])
    domain = rng.choice(["faces", "places"], N)
    table = pd.DataFrame({"objects": [json.dumps([{"domain": d}]) for d in domain], "split": ["train"] * 30 + ["test"] * 10})
    data = {f"layer{i}": rng.standard_normal((N, 12)) for i in range(3)} | {"image": rng.standard_normal((N, 8))}
    tokens = {f"layer{i}": rng.standard_normal((N, 16, 12)) for i in range(3)}
    features = Features(data, ids, "small", tokens, dict.fromkeys(tokens, (4, 4)))
    return Stimuli(ids, np.zeros((N, 4, 4, 3), np.uint8), table=table), features


@pytest.fixture(scope="module")
def linear(pictures):
    return phantom_truth(*pictures, private=0.2)


def clean(truth, trials) -> np.ndarray:
    """What is left of a simulation without noise parts (b) to (d) and without session effects."""
    quiet = replace(truth, kappa=0.0)
    with_signal = simulate(quiet, trials.drop(columns="session"), dtype="float32")
    none = simulate(replace(quiet, signal=np.zeros_like(quiet.signal)), trials.drop(columns="session"), dtype="float32")
    return with_signal.data - none.data


def test_a_late_voxel_leaks_as_the_least_squares_fit_of_its_time_course_says() -> None:
    """The whole recording made and fitted at once: 30 trials, a voxel that answers 0.7 s late."""
    rng = np.random.default_rng(1)
    times = np.arange(0.0, 30 * APART + 32.0)
    amplitude = rng.standard_normal(30)
    course = sum(a * response(times, i * APART + 0.7) for i, a in enumerate(amplitude))
    design = np.stack([response(times, i * APART) for i in range(30)], axis=1)
    betas = np.linalg.lstsq(design, course, rcond=None)[0]
    found = smeared(amplitude[:, None], np.zeros(30), leakage(np.array([0.7])))[:, 0]
    np.testing.assert_allclose(found[8:-8], betas[8:-8], atol=0.01)
    assert np.abs(betas - amplitude).max() > 0.1
    np.testing.assert_allclose(leakage(np.zeros(2)), np.eye(2 * REACH + 1)[:, [REACH, REACH]], atol=1e-8)


def test_estimates_stay_in_their_run_whatever_the_block(pictures, linear) -> None:
    truth = replace(linear, mismatch=Mismatch(haemodynamics=1.0))
    trials = make_trials(pictures[0])
    one, other = (simulate(truth, trials, dtype="float32", block=size).data for size in (128, 7))
    np.testing.assert_allclose(one, other, atol=1e-5)
    run = np.repeat([0, 1], 5)
    only_first = smeared(np.r_[np.ones((5, 1)), np.zeros((5, 1))], run, leakage(np.array([1.0])))
    assert np.abs(only_first[5:]).max() == 0
    assert np.abs(only_first[:5] - 1).max() > 0.05


def test_runs_are_twelve_a_session() -> None:
    run = run_numbers(np.repeat([1, 2], 120), np.tile(np.linspace(-1, 1, 120), 2))
    assert len(np.unique(run)) == 24
    assert (np.diff(run) >= 0).all()


def test_a_shifted_head_shows_the_neighbour(linear) -> None:
    """Against scipy's interpolation of the volume, and nothing moves without motion."""
    from scipy.ndimage import map_coordinates
    from scipy.spatial.transform import Rotation

    space, informative = linear.space, linear.informative
    still = moved(space, informative, 0.0, run=0, subject=1, seed=0).toarray()
    assert np.array_equal(still[informative], np.eye(len(informative)))
    values = np.random.default_rng(0).standard_normal(len(informative)).astype(np.float32)
    volume = np.zeros(space.mask.shape)
    volume[tuple(np.argwhere(space.mask)[informative].T)] = values
    rng = np.random.default_rng([0, 1, 47, 3])
    shift, turn = 2.0 * rng.standard_normal(3), 2.0 / 60 * rng.standard_normal(3)
    middle = np.array([0.0, -18.0, 18.0])
    seen = Rotation.from_rotvec(turn).apply(space.coordinates() - middle) + middle + shift
    index = np.linalg.solve(space.affine[:3, :3], (seen - space.affine[:3, 3]).T)
    expected = map_coordinates(volume, index, order=1, mode="constant")
    found = moved(space, informative, 2.0, run=3, subject=1, seed=0) @ values
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_motion_lowers_what_single_runs_share(pictures, linear) -> None:
    trials = make_trials(pictures[0])
    still = clean(linear, trials)[:, linear.informative].ravel()

    def kept(motion: float) -> float:
        moved_ = clean(replace(linear, mismatch=Mismatch(motion=motion)), trials)
        return float(np.corrcoef(still, moved_[:, linear.informative].ravel())[0, 1])

    near, far = kept(1.0), kept(4.0)
    assert far < near < 0.97
    assert near > 0.5


def test_compression_rectifies_and_keeps_order() -> None:
    s = np.random.default_rng(0).standard_normal((200, 3))
    assert compressed(s, 1.0) is s
    found = compressed(s, 0.5)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-12)
    assert np.array_equal(np.argsort(found, axis=0), np.argsort(s, axis=0))
    line = np.linspace(-3, 3, 301)
    slope = np.diff(compressed(line[:, None], 0.5)[:, 0])
    assert slope[-1] < 0.6 * slope[150]  # what is strong is compressed
    assert slope[0] < 0.1 * slope[150]  # what is below zero is cut off


def test_a_warped_brain_keeps_the_atlas_and_tells_the_truth(pictures, linear) -> None:
    truth = phantom_truth(*pictures, private=0.2, mismatch=Mismatch(warp=4.0))
    for name in ("x", "y", "z", "roi"):
        assert truth.units[name].equals(linear.units[name])
    inside = truth.units["roi_true"] != "none"
    assert np.array_equal(truth.units["informative"], inside)
    agree = ((truth.units["roi"] != "none") & inside).sum() / inside.sum()
    assert 0.3 < agree < 0.95
    other = phantom_truth(*pictures, private=0.2, subject=2, mismatch=Mismatch(warp=4.0))
    assert not other.units["roi_true"].equals(truth.units["roi_true"])


def test_the_share_that_is_private_is_that_of_the_given_target(pictures, linear) -> None:
    stimuli, features = pictures
    target = np.random.default_rng(5).standard_normal((N, 3))
    truth = phantom_truth(stimuli, features, private=0.4, target=target)
    assert not np.allclose(truth.private, linear.private[:, : truth.private.shape[1]])
    with pytest.raises(DataError, match="the target has 3 rows, there are 40 images"):
        phantom_truth(stimuli, features, target=target[:3])


def test_values_out_of_range_and_the_ideal_observer_are_refused(pictures, linear) -> None:
    for wrong in ({"nonlinearity": 0.0}, {"nonlinearity": 2.0}, {"haemodynamics": -1.0}, {"warp": 50.0}, {"motion": 7.0}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            Mismatch(**wrong)
    truth = replace(linear, mismatch=Mismatch(motion=1.0))
    with pytest.raises(DataError, match="set both to 0"):
        ideal_scores(np.zeros((2, len(truth.units))), truth.ids, truth)


def test_delays_spread_as_asked(linear) -> None:
    xyz = linear.space.coordinates()
    found = delays(xyz, 0.8, subject=1, seed=0)
    assert found.std() == pytest.approx(0.8, rel=0.15)
