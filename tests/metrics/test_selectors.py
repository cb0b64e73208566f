"""Read-offs of the selectors: equations by hand, clusters against the full kernel, truth scores on made-up truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import linregress
from sklearn.metrics import adjusted_rand_score

from brainlens.metrics import selectors as s
from brainlens.types import DataError

RNG = np.random.default_rng(0)


def one_hot(layers, n=6):
    return np.eye(n)[np.asarray(layers)]


def test_confidence_and_position_by_hand():
    omega = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    np.testing.assert_allclose(s.confidence(omega), [1, 0, 1 - np.log(2) / np.log(3)], atol=1e-12)
    np.testing.assert_allclose(s.layer_position(omega), [0, 0.5, 0.25])


def test_hierarchy_slope_is_the_linear_fit():
    roi = np.repeat(["V1", "V2V3", "OPA", "EBA", "FFA"], 40)
    omega = RNG.dirichlet(np.ones(6), 200) * 0.3 + 0.7 * one_hot(np.repeat([0, 1, 3, 5, 5], 40))
    found = s.hierarchy_slope(omega, roi, resamples=300)
    fit = linregress([s.HIERARCHY[r] for r in roi[:160]], s.layer_position(omega)[:160])
    assert found["slope"] == pytest.approx(fit.slope)
    assert found["b0"] == pytest.approx(fit.intercept)
    assert found["b1"] == pytest.approx(fit.slope + fit.intercept)
    assert found["slope.high"] - found["slope.low"] == pytest.approx(2 * 1.96 * fit.stderr, rel=0.3)
    assert found["p"] < 0.01
    assert found["p_regions"] == pytest.approx(1 / 24)
    assert s.hierarchy_slope(omega[:, ::-1], roi, resamples=100)["p"] > 0.9
    assert 0.005 < s.hierarchy_slope(RNG.dirichlet(np.ones(6), 200), roi, resamples=300)["p"] < 1


def test_clusters_equal_ward_on_the_full_kernel():
    centres = RNG.normal(size=(5, 8)) * 3
    truth = np.repeat(np.arange(5), [50, 40, 30, 20, 10])
    weights = centres[truth] + 0.2 * RNG.normal(size=(150, 8))
    labels = s.channel_clusters(weights, clusters=5)
    full = fcluster(linkage(weights @ weights.T, method="ward"), 5, criterion="maxclust")
    assert adjusted_rand_score(labels, full) == 1
    assert adjusted_rand_score(labels, truth) == 1
    assert np.all(np.diff(np.bincount(labels)) <= 0)
    coarse = s.channel_clusters(weights, clusters=5, centres=40)
    assert adjusted_rand_score(coarse, truth) > 0.95
    np.testing.assert_array_equal(s.channel_clusters(weights, clusters=5, centres=40), coarse)


@pytest.mark.parametrize("clusters", [1, 7, 20])
def test_clusters_always_end(clusters):
    same = np.ones((30, 4))
    assert s.channel_clusters(same, clusters=clusters).max() < clusters
    assert len(set(s.channel_clusters(RNG.normal(size=(60, 4)), clusters=clusters))) == clusters


def test_channel_picture_keeps_what_a_region_shares():
    """Listing 2 by scikit-learn's PCA of (channel, unit); the first colour is what all units of the region read."""
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(3)
    shared = rng.normal(size=16)
    weights = shared + 0.3 * rng.normal(size=(12, 16))
    tokens = rng.normal(size=(5, 2, 9, 16))
    omega = rng.dirichlet(np.ones(2), 12)
    mixed = np.einsum("l,blpd->bpd", omega.mean(0), tokens)
    picture = s.channel_picture(weights, omega, tokens)
    axes = PCA(3).fit_transform(weights.T)  # (D, 3)
    for colour in range(3):
        assert abs(np.corrcoef(picture[..., colour].ravel(), (mixed @ axes[:, colour]).ravel())[0, 1]) == pytest.approx(1)
    assert abs(np.corrcoef(picture[..., 0].ravel(), (mixed @ (shared - shared.mean())).ravel())[0, 1]) > 0.95


def test_channel_picture_shows_the_channels_of_the_region():
    weights = np.zeros((10, 6))
    weights[:, 2] = np.linspace(-3, 3, 10)
    weights += 1e-3 * RNG.normal(size=weights.shape)
    tokens = RNG.normal(size=(4, 2, 9, 6))
    picture = s.channel_picture(weights, np.tile([0.0, 1.0], (10, 1)), tokens)
    assert picture.shape == (4, 9, 3)
    assert picture.min() == 0
    assert picture.max() == 1
    read = tokens[:, 1, :, 2] - tokens[:, 1].mean(axis=2)  # a unit's mean over channels is taken off
    assert abs(np.corrcoef(picture[..., 0].ravel(), read.ravel())[0, 1]) > 0.99


def test_consistency_of_equal_and_unrelated_maps():
    a, b = one_hot(RNG.integers(0, 6, 300)), one_hot(RNG.integers(0, 6, 300))
    assert s.consistency([a, a, a]) == {"correlation": pytest.approx(1), "same_layer": 1.0}
    assert abs(s.consistency([a, b])["correlation"]) < 0.2


def test_region_table_counts_what_is_undefined():
    table = s.region_table(["a", "b", "a"], {"r2": np.array([0.2, np.nan, 0.4])})
    assert table.loc[0, "r2"] == pytest.approx(0.3)
    assert np.isnan(table.loc[1, "r2"])
    assert table.loc[1, "r2 undefined"] == 1


def truth(n=200):
    layer = RNG.integers(0, 6, n).astype(float)
    layer[:50] = np.nan
    return pd.DataFrame(
        {"layer": layer, "rf_x": RNG.uniform(-1, 1, n), "rf_y": RNG.uniform(-1, 1, n), "is_global": layer > 3, "ncsnr": 0.5}
    )


def test_scores_of_a_perfect_and_of_a_random_reader():
    units = truth()
    omega = one_hot(np.nan_to_num(units["layer"].to_numpy()).astype(int))
    omega[:50] = 1 / 6
    found = s.selector_scores(omega, units[["rf_x", "rf_y"]].to_numpy() + [0.3, 0.4], units["is_global"].to_numpy(float), units)
    assert found["truth/layer_spearman"] == pytest.approx(1)
    assert found["truth/rf_error_median"] == pytest.approx(0.5)
    assert found["truth/scale_auroc"] == 1
    assert found["truth/noise_confidence"] == pytest.approx(0, abs=1e-9)
    assert found["truth/units"] == 150
    blind = s.selector_scores(RNG.dirichlet(np.ones(6), 200), RNG.uniform(-1, 1, (200, 2)), RNG.random(200), units)
    assert blind["truth/layer_spearman.low"] < 0 < blind["truth/layer_spearman.high"]
    assert abs(blind["truth/scale_auroc"] - 0.5) < 0.15
    assert blind["truth/rf_error_median"] > 0.6


def test_layer_weights_that_are_alike_everywhere_have_no_rank_correlation():
    units = truth()
    found = s.selector_scores(np.full((200, 6), 1 / 6), np.zeros((200, 2)), np.full(200, 0.5), units)
    for end in ("", ".low", ".high"):
        assert np.isnan(found[f"truth/layer_spearman{end}"])
    assert found["truth/scale_auroc"] == 0.5
    assert found["truth/noise_confidence"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: s.confidence(np.array([[np.nan, 1]])), "layer weights"),
        (lambda: s.hierarchy_slope(one_hot([0, 1]), ["V1", "FFA"]), "two of"),
        (lambda: s.channel_clusters(np.full((5, 2), np.nan)), "finite"),
        (lambda: s.channel_clusters(np.ones((5, 2)), clusters=9), "9 clusters of 5"),
        (lambda: s.channel_picture(np.ones((2, 4)), np.ones((2, 1)), np.ones((1, 1, 4, 4))), "at least 3 units"),
        (lambda: s.consistency([np.ones((3, 2))]), "two or more"),
        (lambda: s.selector_scores(one_hot([0]), np.zeros((1, 2)), np.zeros(1), pd.DataFrame({"layer": [1]})), "missing"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
