"""Representational similarity against scipy, plain loops, and published human and monkey data."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from brainlens.metrics import similarity as S
from brainlens.types import DataError, Features


@pytest.mark.parametrize("metric", S.METRICS)
def test_rdm_equals_scipy(metric: str) -> None:
    x = np.random.default_rng(0).normal(size=(13, 40)) + 3
    np.testing.assert_allclose(S.rdm(x, metric), pdist(x, metric), atol=1e-10)
    whole = S.square(S.rdm(x, metric))
    np.testing.assert_array_equal(whole, squareform(S.rdm(x, metric)))
    assert whole[2, 5] == S.rdm(x, metric)[list(itertools.combinations(range(13), 2)).index((2, 5))]


def test_comparison_equals_scipy_and_the_definition() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, size=(2, 28)).astype(float), rng.normal(size=(3, 28))  # a holds many ties
    for i, j in itertools.product(range(2), range(3)):
        assert S.compare(a, b)[i, j] == pytest.approx(spearmanr(a[i], b[j]).statistic)
        assert S.compare(a, b, "pearson")[i, j] == pytest.approx(pearsonr(a[i], b[j]).statistic)
        signs = [np.sign((a[i, p] - a[i, q]) * (b[j, p] - b[j, q])) for p, q in itertools.combinations(range(28), 2)]
        assert S.compare(a, b, "kendall")[i, j] == pytest.approx(np.mean(signs))
    assert S.compare(b, b, "kendall")[0, 1] == pytest.approx(kendalltau(b[0], b[1]).statistic)  # no ties: the same
    assert S.compare(b[0], b[0]).shape == (1, 1)


def test_noise_ceiling_by_hand() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=45)
    rdms = truth + rng.normal(size=(5, 45))
    for method, scale, agreement in (("spearman", rankdata, spearmanr), ("pearson", np.asarray, pearsonr)):
        low, high = S.noise_ceiling(rdms, method)
        rows = [scale(r) for r in rdms]
        others = [agreement(rows[s], np.mean([rows[t] for t in range(5) if t != s], axis=0)).statistic for s in range(5)]
        assert low == pytest.approx(np.mean(others))
        assert high == pytest.approx(np.mean([agreement(r, np.mean(rows, axis=0)).statistic for r in rows]))
        assert low < high


def test_bootstrap_draws_conditions_and_drops_pairs_with_itself() -> None:
    rng = np.random.default_rng(3)
    patterns = rng.normal(size=(12, 6))
    model, subject = S.rdm(patterns), S.rdm(patterns + rng.normal(size=(12, 6)))
    got = S.bootstrap(model, subject, resamples=20, seed=7)
    generator = np.random.default_rng(7)
    for k in range(20):
        drawn = generator.integers(12, size=12)
        pairs = [(i, j) for i, j in itertools.combinations(drawn, 2) if i != j]
        one, other = ([S.square(v)[p] for p in pairs] for v in (model, subject))
        assert got[k, 0] == pytest.approx(spearmanr(one, other).statistic)


def test_intervals_of_unrelated_rdms_hold_zero() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(60):
        one, other = S.rdm(rng.normal(size=(20, 30))), S.rdm(rng.normal(size=(20, 30)))
        low, high = np.percentile(S.bootstrap(one, other, resamples=100, seed=seed), [2.5, 97.5])
        held += low <= 0 <= high
    assert held >= 52  # 95 % of 60 is 57; below 52 has probability .01


def test_linear_cka() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(30, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert S.linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1)  # rotation, scale and shift do not matter
    wide, other = rng.normal(size=(30, 80)), rng.normal(size=(30, 7))
    centre = np.eye(30) - 1 / 30
    kx, ky = centre @ wide @ wide.T @ centre, centre @ other @ other.T @ centre
    expected = np.sum(kx * ky) / np.sqrt(np.sum(kx * kx) * np.sum(ky * ky))
    assert S.linear_cka(wide, other) == pytest.approx(expected)
    assert S.linear_cka(x[:, :2], other) == pytest.approx(S.linear_cka(np.hstack([x[:, :2], np.zeros((30, 90))]), other))


def test_rsa_finds_the_layer_that_made_the_rdms() -> None:
    rng = np.random.default_rng(6)
    layers = {f"vision.{i}": rng.normal(size=(24, 16)) for i in range(4)}
    rdms = np.stack([S.rdm(layers["vision.2"] + 0.5 * rng.normal(size=(24, 16))) for _ in range(3)])
    features = Features(layers, np.array([f"i{k}" for k in range(24)]), "toy")
    result = S.rsa(features, rdms, resamples=60)
    scores = result.tables["profile"].set_index("layer")
    assert scores["score"].idxmax() == "vision.2"
    assert result.metrics["rsa/best_layer"] == pytest.approx(scores["score"].max())
    assert result.metrics["rsa/best_layer/left_out_subject"] == pytest.approx(scores["score"].max())
    assert result.metrics["rsa/vision.2/spearman.low"] > result.metrics["rsa/vision.0/spearman.high"]
    assert result.arrays["scores"].shape == (4, 3)
    assert S.rsa(features, rdms, resamples=60).metrics == result.metrics
    assert S.rsa(features, rdms, resamples=60, seed=1).metrics != result.metrics


ROWS = np.arange(12.0).reshape(3, 4) ** 2
TOY = Features({"a": ROWS}, np.array(["x", "y", "z"]), "toy")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: S.rdm(np.ones((3, 4))), "pattern 0 is constant"),
        (lambda: S.rdm(np.zeros((3, 4)), "cosine"), "pattern 0 is zero"),
        (lambda: S.rdm(np.full((3, 4), np.nan)), "finite"),
        (lambda: S.rdm(ROWS, "manhattan"), "'manhattan' is not one of correlation, euclidean, cosine"),
        (lambda: S.compare(np.ones(3), np.arange(3)), "constant"),
        (lambda: S.compare(np.arange(3), np.arange(6)), "3 and 6 entries"),
        (lambda: S.compare(np.arange(3), np.arange(3), "tau"), "'tau' is not one of"),
        (lambda: S.compare(np.array([0, 1, np.nan]), np.arange(3)), "NaN"),
        (lambda: S.noise_ceiling(np.arange(3.0)[None]), "2 or more subjects"),
        (lambda: S.square(np.arange(7.0)), "7 entries are not the upper triangle"),
        (lambda: S.rsa(TOY, np.arange(6.0)[None]), "RDMs of 4 conditions, features of 3 stimuli"),
        (lambda: S.rsa(TOY, np.arange(3.0)[None], use="tokens"), "holds no tokens"),
        (lambda: S.rsa(TOY, np.arange(3.0)[None], use="all"), "'all' is not one of"),
        (lambda: S.linear_cka(ROWS, ROWS[:2]), "same conditions"),
        (lambda: S.linear_cka(ROWS, np.ones((3, 2))), "never change"),
        (lambda: S.bootstrap(np.arange(3.0), np.arange(3.0), resamples=0), "resamples"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def images92(test_data: Path) -> dict[str, np.ndarray]:
    with np.load(test_data / "images92" / "k2008_92.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.realdata
def test_published_data_give_the_reference_numbers(images92: dict[str, np.ndarray]) -> None:
    human = images92["hIT_rdm"].mean(axis=1)  # four subjects, two sessions averaged
    assert S.noise_ceiling(human) == pytest.approx((0.372, 0.666), abs=0.005)
    small = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in images92["images"]]
    pixels = S.rdm(np.stack(small).reshape(92, -1).astype(float))
    animal = images92["animal"].astype(int)
    animacy = (animal[:, None] != animal[None])[np.triu_indices(92, 1)].astype(float)
    assert S.compare(pixels, human).mean() == pytest.approx(0.083, abs=0.005)
    assert S.compare(animacy, human).mean() == pytest.approx(0.386, abs=0.005)
    assert S.compare(images92["mIT_rdm"], human).mean() == pytest.approx(0.296, abs=0.005)


@pytest.mark.realdata
def test_real_network_layers_stand_above_pixels(images92: dict[str, np.ndarray], test_data: Path) -> None:
    from brainlens.backbones import vision
    from brainlens.types import Stimuli

    stimuli = Stimuli(np.array([f"object{i:02}" for i in range(92)]), images92["images"])
    backbone = vision.load(test_data / "mobilenet_v2_1.0_224")
    features = vision.extract(backbone, stimuli, dtype=np.float32)
    result = S.rsa(features, images92["hIT_rdm"].mean(axis=1), resamples=100)
    assert list(result.tables["profile"]["layer"]) == list(backbone.layers)
    assert result.metrics["rsa/best_layer"] > 0.083
    assert result.metrics["rsa/best_layer/left_out_subject"] > 0.083
