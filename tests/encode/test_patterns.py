"""Patterns from dissimilarities: every score against a plain loop with scikit-learn, in any basis; the real 92 images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group, spearmanr
from sklearn.linear_model import Ridge

from brainlens import store
from brainlens.datasets.source import Source
from brainlens.encode import EncodingDesign, patterns
from brainlens.encode.patterns import encode_patterns, evaluate, fold, pairs_of_blocks
from brainlens.encode.run import Asked, run_encode
from brainlens.types import DataError, Features, Responses

LAYERS = ("stage.3", "stage.9", "stage.13", "image")


def recording(n: int = 24, dims: int = 6, signal: float = 1.0, seed: int = 0) -> tuple[Responses, Features]:
    """Patterns that are a linear readout of layer b and noise; layer a is noise."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"i{k:02d}" for k in range(n)])
    a, b = rng.normal(size=(2, n, 5)).astype(np.float32)
    y = signal * b @ rng.normal(size=(5, dims)) + rng.normal(size=(n, dims))
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    units = pd.DataFrame({"direction": np.arange(dims)})
    return Responses(y.astype(np.float32), pd.DataFrame({"stimulus": ids}), units), Features({"a": a, "b": b}, ids, "made-up")


def test_maps_and_left_out_residuals_are_those_of_scikit_learn():
    responses, features = recording()
    y, x = responses.data.astype(float), features["b"].astype(float)
    (train, test), *_ = pairs_of_blocks(24, 6, 0)
    made = fold(train, test, [x], [0.3, 5.0])
    z = (x - x[train].mean(0)) / x[train].std(0)
    variance = float(np.linalg.eigvalsh(z[train] @ z[train].T).clip(0).mean())
    for j, penalty in enumerate((0.3, 5.0)):
        model = Ridge(alpha=penalty * variance).fit(z[train], y[train])
        np.testing.assert_allclose(made.maps[0, j] @ y[train], model.predict(z[test]), atol=1e-8)
        left = np.stack(
            [
                y[i] - Ridge(alpha=penalty * variance).fit(z[train[train != i]], y[train[train != i]]).predict(z[i][None])[0]
                for i in train
            ]
        )
        loss = float(np.sum(made.loo[0, j] * (y[train] @ y[train].T)))
        assert loss == pytest.approx((left**2).sum(), rel=1e-5)


def test_scores_are_those_of_a_plain_loop():
    responses, features = recording()
    y = responses.data.astype(float)
    result = encode_patterns(responses, features, blocks=4, permutations=0, resamples=50)
    error = total = 0.0
    wins, hits, tests = np.zeros((3, 24))
    top, size, truth, pairs, seen = 0.0, 0.0, 0.0, np.zeros((24, 24)), np.zeros((24, 24))
    for train, test in pairs_of_blocks(24, 4, 0):
        best = None
        for layer in ("a", "b"):
            x = features[layer].astype(float)
            z = (x - x[train].mean(0)) / x[train].std(0)
            variance = float(np.linalg.eigvalsh(z[train] @ z[train].T).clip(0).mean())
            for penalty in patterns.PENALTIES:
                loss = 0.0
                for i in train:
                    rest = train[train != i]
                    guess = Ridge(alpha=penalty * variance).fit(z[rest], y[rest]).predict(z[i][None])[0]
                    loss += ((guess - y[i]) ** 2).sum()
                if best is None or loss < best[0]:
                    best = loss, Ridge(alpha=penalty * variance).fit(z[train], y[train]).predict(z[test])
        guess, mean = best[1], y[train].mean(0)
        error += ((y[test] - guess) ** 2).sum()
        total += ((y[test] - mean) ** 2).sum()
        p, q = guess - mean, y[test] - mean
        top, size, truth = top + (p * q).sum(), size + (p**2).sum(), truth + (q**2).sum()
        similarity = (p / np.linalg.norm(p, axis=1)[:, None]) @ (q / np.linalg.norm(q, axis=1)[:, None]).T
        for k, image in enumerate(test):
            others = np.delete(similarity[k], k)
            hits[image] += similarity[k, k] > others.max()
            wins[image] += (similarity[k, k] > others).mean()
        tests[test] += 1
        unit = guess / np.linalg.norm(guess, axis=1, keepdims=True)
        pairs[np.ix_(test, test)] += unit @ unit.T
        seen[np.ix_(test, test)] += 1
    found = result.metrics
    assert found["encoding/r2_weighted"] == pytest.approx(1 - error / total, abs=1e-5)
    assert found["encoding/r_weighted"] == pytest.approx(top / np.sqrt(size * truth), abs=1e-5)
    assert found["encoding/retrieval/top1"] == pytest.approx((hits / tests).mean())
    assert found["encoding/retrieval/two_way_patterns"] == pytest.approx((wins / tests).mean())
    assert found["encoding/retrieval/chance1"] == pytest.approx(1 / 12)
    upper = np.triu_indices(24, 1)
    assert (seen[upper] >= 1).all()
    np.testing.assert_allclose(result.arrays["rdm/predicted"], 1 - (pairs / np.maximum(seen, 1))[upper], atol=1e-5)
    measured = 1 - (y @ y.T)[upper]
    expected = spearmanr(result.arrays["rdm/predicted"], measured).statistic
    assert found["encoding/rdm/match_correlation"] == pytest.approx(expected, abs=1e-6)
    assert (result.tables["layers"]["chosen_share"] == [0, 1]).all()


def test_a_rotation_of_the_patterns_changes_nothing():
    responses, features = recording()
    turn = ortho_group.rvs(6, random_state=1)
    turned = Responses((responses.data @ turn).astype(np.float32), responses.trials, responses.units)
    one, other = (encode_patterns(r, features, permutations=5, resamples=50).metrics for r in (responses, turned))
    for key, value in one.items():
        assert other[key] == pytest.approx(value, abs=1e-5), key


def test_without_signal_all_scores_are_at_chance():
    p = []
    for seed in range(8):
        responses, features = recording(40, signal=0.0, seed=seed)
        found = encode_patterns(responses, features, permutations=39, resamples=50, seed=seed).metrics
        assert found["encoding/r2_weighted"] < 0.08
        p.append(found["encoding/retrieval/two_way_patterns.p"])
    assert sum(value <= 0.05 for value in p) <= 2  # binomial(8, .05): more than 2 in 0.6 % of cases
    responses, features = recording(40)
    found = encode_patterns(responses, features, permutations=39, resamples=50).metrics
    assert found["encoding/retrieval/two_way_patterns.p"] == 1 / 40
    assert abs(found["encoding/retrieval/two_way_patterns.chance"] - 0.5) < 0.05


def test_one_layer_alone_is_scored_with_its_own_penalty():
    responses, features = recording()
    made = [fold(train, test, [features["a"], features["b"]]) for train, test in pairs_of_blocks(24, 6, 0)]
    gram = responses.data.astype(float) @ responses.data.astype(float).T
    tally, chosen = evaluate(made, gram, layer=0)
    assert (chosen == 0).all()
    alone = encode_patterns(responses, features, layers=["a"], blocks=6, permutations=0, resamples=50)
    assert tally.r2() == pytest.approx(alone.metrics["encoding/r2_weighted"], abs=1e-9)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda r, f: encode_patterns(r, f, layers=["c"]), r"no layer 'c'; it has \['a', 'b'\]"),
        (lambda r, f: encode_patterns(r, f.take(f.ids[:5])), "19 ids are not found"),
        (lambda r, f: encode_patterns(r.rows(np.repeat(np.arange(24), 2)), f), "average"),
        (lambda r, f: encode_patterns(r, f, blocks=20), "cannot be cut into 20 blocks"),
        (lambda r, f: encode_patterns(r.rows(np.arange(6)), f), "6 images cannot be cut"),
        (lambda r, f: encode_patterns(Responses(r.data * np.nan, r.trials, r.units), f), "24 of 24 patterns"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call(*recording())
    assert "\n" not in str(caught.value)


@pytest.mark.realdata
def test_the_92_images_are_told_apart_by_a_real_network(test_data, tmp_path):
    source = Source("images92", test_data / "images92", str(test_data / "mobilenet_v2_1.0_224"))
    folder, rows = run_encode(source, tmp_path, Asked(design=EncodingDesign(layers=LAYERS)), tell=lambda text, share=None: None)
    result = store.load_result(folder)
    found = result.metrics
    assert found["encoding/n"] == 92
    assert 0.04 < found["encoding/retrieval/chance1"] < 0.05
    assert found["encoding/r2_weighted.low"] > 0
    assert found["encoding/retrieval/top1.low"] > 2 * found["encoding/retrieval/chance1"]
    assert found["encoding/retrieval/two_way_patterns.low"] > 0.75
    assert found["encoding/retrieval/two_way_patterns.p"] <= 0.01
    assert found["encoding/rdm/match_correlation.low"] > 0.2
    assert found["encoding/rdm/ceiling_low"] == pytest.approx(0.372, abs=0.002)
    assert len(result.tables["layers"]) == 4
    assert {row["metric"] for row in rows} >= {"encoding/r2_weighted", "encoding/retrieval/top1"}
