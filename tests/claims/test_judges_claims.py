"""The judges of the claims in small: every method in every world, kept, gone on with, and one table of the order."""

from __future__ import annotations

import pytest

from brainlens.claims.encode import Plan
from brainlens.claims.judges import STRENGTH, Judging, order_table, renamed, worlds


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
