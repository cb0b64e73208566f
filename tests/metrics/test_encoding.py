"""Encoding scores against scikit-learn, plain loops and simulated noise ceilings."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from brainlens.metrics import encoding as e
from brainlens.metrics.statistics import bootstrap_counts
from brainlens.types import DataError

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(40, 7)) + 5
GUESS = TRUTH + RNG.normal(size=(40, 7)) * np.linspace(0.1, 2, 7)


def test_r2_and_pearson_per_unit():
    np.testing.assert_allclose(e.r2(TRUTH, GUESS), r2_score(TRUTH, GUESS, multioutput="raw_values"))
    loop = [np.corrcoef(GUESS[:, i], TRUTH[:, i])[0, 1] for i in range(7)]
    np.testing.assert_allclose(e.pearson(TRUTH, GUESS), loop)


def test_constant_units_are_nan_and_counted():
    truth = TRUTH.copy()
    truth[:, 2] = 5.0
    assert np.isnan(e.r2(truth, GUESS)[2])
    assert np.isnan(e.pearson(truth, GUESS)[2])
    scored = e.bootstrap_score(truth, GUESS, resamples=50)
    assert scored.constant == 1
    assert np.isnan(scored.low[2])
    np.testing.assert_allclose(scored.mean, np.nanmean(e.r2(truth, GUESS)))


def fixed_r2(truth, guess):
    """R2 whose reference is the mean of all images, not of the resample."""
    return 1 - ((truth - guess) ** 2).sum(0) / ((truth - TRUTH.mean(0)) ** 2).sum(0)


@pytest.mark.parametrize("score", ["r2", "pearson"])
def test_bootstrap_equals_a_plain_loop(score, monkeypatch):
    monkeypatch.setattr(e, "_BLOCK", 3)
    units = np.array([1, 1, 0, 1, 0, 1, 1], bool)
    scored = e.bootstrap_score(TRUTH, GUESS, score=score, units=units, resamples=100, seed=4)
    plain = fixed_r2 if score == "r2" else e.pearson
    rows = [np.repeat(np.arange(40), c) for c in bootstrap_counts(40, 100, 4)]
    drawn = np.array([plain(TRUTH[r], GUESS[r]) for r in rows])
    np.testing.assert_allclose(scored.low, np.quantile(drawn, 0.025, axis=0), atol=1e-5)
    np.testing.assert_allclose(scored.high, np.quantile(drawn, 0.975, axis=0), atol=1e-5)
    np.testing.assert_allclose(scored.drawn, drawn[:, units].mean(1), atol=1e-5)
    np.testing.assert_allclose(scored.mean, plain(TRUTH, GUESS)[units].mean())
    assert scored.mean_low < scored.mean < scored.mean_high
    halves = e.bootstrap_score(TRUTH, GUESS, score=score, units=units * 0.5, resamples=100, seed=4)
    np.testing.assert_allclose(halves.drawn, scored.drawn / 2, rtol=1e-6)


def test_the_interval_of_a_mean_over_many_units_is_not_biased():
    rng = np.random.default_rng(0)
    guess = rng.normal(size=(100, 400)) * 0.3
    truth = guess + rng.normal(size=(100, 400))
    scored = e.bootstrap_score(truth, guess, resamples=400)
    width = scored.mean_high - scored.mean_low
    assert scored.mean_low < scored.mean < scored.mean_high
    assert abs(scored.drawn.mean() - scored.mean) < 0.25 * width
    recentred = [e.r2(truth[rows], guess[rows]).mean() for rows in rng.integers(0, 100, (100, 100))]
    assert np.mean(recentred) - scored.mean < -0.4 * width  # what the fixed reference mends: about -1/n


def simulate(snr, repeats, seed=0):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"i{i}" for i in range(len(repeats))], repeats)
    signal = np.repeat(rng.normal(size=(len(repeats), 200)), repeats, axis=0) * snr
    return signal + rng.normal(size=signal.shape), names


@pytest.mark.parametrize("repeats", [np.full(400, 3), np.tile([1, 2, 3, 3], 150)])
def test_noise_ceiling_recovers_the_truth(repeats):
    data, names = simulate(0.8, repeats)
    shuffled = np.random.default_rng(1).permutation(len(names))
    found = e.noise_ceiling(data[shuffled], names[shuffled])
    assert found.defined
    assert np.mean(found.ncsnr) == pytest.approx(0.8, abs=0.02)
    share = (1 / repeats).mean()
    assert np.mean(found.ceiling) == pytest.approx(0.64 / (0.64 + share), abs=0.01)
    single = e.noise_ceiling(data, names, averaged=False)
    assert np.mean(single.ceiling) == pytest.approx(0.64 / 1.64, abs=0.01)


def test_noise_ceiling_is_what_the_best_model_reaches():
    rng = np.random.default_rng(2)
    signal = rng.normal(size=(2000, 50)) * 0.6
    trials = signal[:, None] + rng.normal(size=(2000, 3, 50))
    reached = e.r2(trials.mean(1), signal).mean()
    ceiling = e.noise_ceiling(trials.reshape(6000, 50), np.repeat(np.arange(2000).astype(str), 3)).ceiling.mean()
    assert reached == pytest.approx(ceiling, abs=0.01)


def test_noise_ceiling_by_hand():
    data = np.array([[1.0], [3.0], [5.0], [7.0]])  # within variance 2, total variance 5, signal 3
    found = e.noise_ceiling(data, ["a", "a", "b", "b"])
    np.testing.assert_allclose(found.ncsnr, np.sqrt(3 / 2))
    np.testing.assert_allclose(found.ceiling, 1.5 / (1.5 + 0.5))


def test_one_repeat_leaves_the_ceiling_undefined():
    found = e.noise_ceiling(TRUTH, np.arange(40).astype(str))
    assert not found.defined
    assert np.isnan(found.ceiling).all()
    assert np.isnan(e.of_ceiling(np.ones(7), found.ceiling)).all()


def test_of_ceiling_never_divides_by_nothing():
    np.testing.assert_allclose(e.of_ceiling([0.1, 0.1, 0.1], [0.2, 0.0, np.nan]), [0.5, np.nan, np.nan])


def test_distance_to_best_by_hand():
    scores = np.array([[0.3, 0.1, np.nan], [0.1, 0.2, 0.5]])
    np.testing.assert_allclose(e.distance_to_best(scores), [np.sqrt(0.01 / 2), np.sqrt(0.04 / 2)])
    np.testing.assert_allclose(e.distance_to_best(scores, reduce="sum"), [0.1, 0.2])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: e.r2(TRUTH, GUESS.T), "both be"),
        (lambda: e.r2(TRUTH[:1], GUESS[:1]), "at least 2"),
        (lambda: e.r2(TRUTH, np.where(GUESS > 6, np.nan, GUESS)), "NaN"),
        (lambda: e.noise_ceiling(TRUTH, ["a"]), "one stimulus per trial"),
        (lambda: e.of_ceiling(np.ones(3), np.ones(4)), "same units"),
        (lambda: e.distance_to_best(np.full((2, 3), np.nan)), "no unit"),
        (lambda: e.distance_to_best(np.ones((2, 3)), reduce="max"), "'mean' or 'sum'"),
        (lambda: e.bootstrap_score(TRUTH[:5], GUESS[:5]), "at least 8 test images"),
        (lambda: e.bootstrap_score(TRUTH, GUESS, score="x"), "not one of"),
        (lambda: e.bootstrap_score(TRUTH, GUESS, units=np.ones(3, bool)), "of 7 units"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", ["r2", "pearson"])
def test_the_bootstrap_p_counts_resamples_at_or_below_zero(score):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=(20, 4)).astype(np.float32) + 3
        noise = rng.normal(size=(20, 4)).astype(np.float32)
        guess = np.array([0.9, 0.3, 0.1, -1], np.float32) * (truth - 3) + 3 + np.array([0, 0.4, 0.3, 0], np.float32) * noise
        found = e.bootstrap_score(truth, guess, score=score, resamples=300, seed=seed)
        below, every = np.zeros(4), truth.astype(float).mean(0)
        for drawn in np.random.default_rng(seed).integers(0, 20, size=(300, 20)):  # the draws, not the counts
            y, z = truth[drawn].astype(float), guess[drawn].astype(float)
            if score == "r2":
                value = 1 - ((y - z) ** 2).sum(0) / ((y - every) ** 2).sum(0)
            else:
                value = np.array([np.corrcoef(y[:, i], z[:, i])[0, 1] for i in range(4)])
            below += value <= 0
        np.testing.assert_allclose(found.p, (1 + below) / 301, atol=1.1 / 301)  # one resample may lie at 0 to rounding
        assert found.p[0] == pytest.approx(1 / 301)
        assert found.p[3] == 1


# seeds 0 to 9 give .027 to .038, .047 to .057 and .036 to .043; with a mean of each resample's own .004 to .008, .026 to .035
# and .022 to .029
@pytest.mark.parametrize("n, size, low, high", [(20, 0.3, 0.015, 0.05), (20, 0.7, 0.04, 0.065), (100, 0.3, 0.032, 0.05)])
def test_a_p_of_five_percent_is_not_more_frequent_where_the_true_r2_is_zero_nor_much_rarer(n, size, low, high):
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(2, n, 4000))
    shared = size**2 / 2  # cov(y, yhat) = var(yhat) / 2: what is explained is what is added
    guess = shared * truth + np.sqrt(size**2 - shared**2) * noise
    found = e.bootstrap_score(truth.astype(np.float32), guess.astype(np.float32), resamples=1000)
    assert low < (found.p <= 0.05).mean() < high
