"""The judges of the claims in small: every method in every world, kept, gone on with, and one table of the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from brainlens.claims.encode import Plan
from brainlens.claims.judges import STRENGTH, Judging, order_table, renamed, single_mismatches, worlds
from brainlens.claims.real_judge import Digits, alignment_scores, digit_judge, encoding_scores
from brainlens.models.encoding.training import EncodingTraining
from brainlens.types import Features


def test_worlds_differ_in_the_brain_alone(tmp_path) -> None:
    linear, mismatch = worlds(images=60, tests=20)
    assert linear.source.n_train == mismatch.source.n_train == 60
    assert linear.source.model is None
    assert mismatch.source.model is None
    assert dict(linear.source.options) == {}
    assert dict(mismatch.source.options) == {**STRENGTH, "brain_network": "untrained:1"}
    three = worlds(photographs=("somewhere",), other="network", cache=tmp_path)
    assert three[2].aligners == ()
    assert three[2].methods_read == "network"
    single = single_mismatches(images=60, tests=20)
    together: dict[str, object] = {}
    for world in single:
        assert len(world.source.options) == 1
        together |= world.source.options
    assert together == dict(mismatch.source.options)


def test_scores_are_renamed_with_their_intervals() -> None:
    before = {"align/ridge/retrieval/brain->image/top1": 0.2, "align/ridge/retrieval/brain->image/top1.low": 0.1,
              "align/ridge/retrieval/brain->image/median_rank": 3.0, "align/ridge/seconds": 1.0}  # fmt: skip
    after = renamed(before, "align/ridge/retrieval/", "judges/linear/align/ridge/")
    assert after == {"judges/linear/align/ridge/brain->image/top1": 0.2, "judges/linear/align/ridge/brain->image/top1.low": 0.1}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    place, kept = tmp_path_factory.mktemp("judges"), {}
    for world in worlds(images=60, tests=20):
        small = Judging(type(world)(world.name, world.source, ("ridge", "ridge_whitened"), ("ridge",)), place, plan=Plan(noise=0))
        small.align(lambda *_: None, kept.update)
        small.encode(lambda *_: None, kept.update)
    return place, kept


def test_every_method_has_its_score_chance_and_interval(judged) -> None:
    _, kept = judged
    for world in ("linear", "mismatch"):
        for method in ("ridge", "ridge_whitened"):
            base = f"judges/{world}/align/{method}/brain->image"
            assert kept[f"{base}/chance1"] == pytest.approx(1 / 20)
            assert kept[f"{base}/top1.low"] <= kept[f"{base}/top1"] <= kept[f"{base}/top1.high"]
        assert f"judges/{world}/encode/ridge/r2_mean.low" in kept
        assert f"judges/{world}/align/ridge-ridge_whitened/brain->image/top1.p" in kept
    rows = {(row["verb"], row["method"]): row for row in order_table(kept)}
    assert set(rows[("encode", "ridge")]) == {"verb", "method", "linear", "mismatch"}


def test_a_second_call_reads_what_is_there(judged) -> None:
    place, kept = judged
    world = worlds(images=60, tests=20)[1]
    again = Judging(type(world)(world.name, world.source, ("ridge", "ridge_whitened"), ("ridge",)), place, plan=Plan(noise=0))
    found = again.align(lambda *_: None, lambda _: None) | again.encode(lambda *_: None, lambda _: None)
    assert again.opened is None  # nothing was simulated again
    assert found == {key: value for key, value in kept.items() if key.startswith("judges/mismatch")}


def test_real_voxels_stand_in_the_table_beside_the_phantoms() -> None:
    metrics = {"judges/linear/encode/ridge/r2_mean": 0.2, "judges/digits69/encode/ridge/r_p95": 0.6,
               "judges/digits69/encode/ridge/r_p95.low": 0.5, "judges/digits69/encode/ridge/r_p95.high": 0.7,
               "judges/digits69/encode/ridge/r_mean": 0.1}  # fmt: skip
    assert order_table(metrics) == [
        {"verb": "encode", "method": "ridge", "linear": "0.200", "digits69": "0.600 (0.500 to 0.700)"}
    ]
    apart = metrics | {"judges/only_warp/encode/ridge/r2_mean": 0.15}
    assert order_table(apart) == order_table(metrics)
    assert order_table(apart, "only_") == [{"verb": "encode", "method": "ridge", "warp": "0.150"}]


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Forty pictures of two kinds; the first ten of thirty voxels read the network's class token, the others nothing."""
    rng = np.random.default_rng(0)
    kind = np.repeat(["6", "9"], 20)
    whole = {f"vision.{i}": rng.standard_normal((40, 16)) for i in (0, 1)}
    tokens = {name: rng.standard_normal((40, 16, 16)) + value[:, None] for name, value in whole.items()}
    ids = np.array([f"digit{i}" for i in range(40)])
    y = rng.standard_normal((40, 30))
    y[:, :10] += 3 * whole["vision.1"] @ rng.standard_normal((16, 10))
    return Digits(
        y.astype(np.float32), kind, Features(whole, ids, "two blocks", tokens=tokens, grid=dict.fromkeys(tokens, (4, 4)))
    )


@pytest.mark.parametrize("name", ["ridge", "factortopy", "class_token"])
def test_encoders_predict_digits_they_have_not_seen(digits: Digits, name: str) -> None:
    found = encoding_scores(digits, name, training=EncodingTraining(steps=60, batch=8, epoch=20, patience=3, lr=5e-3), folds=4)
    head = f"judges/digits69/encode/{name}"
    assert found[f"{head}/n"] == 40
    assert found[f"{head}/r_p95.low"] <= found[f"{head}/r_p95"] <= found[f"{head}/r_p95.high"]
    assert found[f"{head}/r_p95"] > found[f"{head}/r_p95.chance"] + 0.15


def test_aligners_find_digits_they_have_not_seen_and_other_pictures_by_chance(digits: Digits) -> None:
    head = "judges/digits69/align/ridge/brain->image"
    found = alignment_scores(digits, "ridge", folds=4)
    assert found[f"{head}/chance1"] == pytest.approx(0.1)
    assert found[f"{head}/n"] == 40
    assert found[f"{head}/top1.low"] > 0.2
    others = replace(digits, y=np.random.default_rng(1).permutation(digits.y))
    assert alignment_scores(others, "ridge", folds=4)[f"{head}/top1"] < 0.3


def test_what_is_judged_once_is_not_judged_again(digits: Digits, tmp_path) -> None:
    said: list[str] = []
    asked = {"aligners": ("ridge",), "encoders": ("ridge",)}
    first = digit_judge(digits, tmp_path, lambda text, share: said.append(text), lambda metrics: None, **asked)
    assert len(said) == 2
    assert digit_judge(digits, tmp_path, lambda text, share: said.append(text), lambda metrics: None, **asked) == first
    assert len(said) == 2
