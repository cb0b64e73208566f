"""Pointing at the attended object: the questions name what they should, and the scores stand beside a random map's."""

from __future__ import annotations

import numpy as np
import pytest

from brainlens.claims.pointing import SMALL_WORDS, pointing_claims, questions


def quiet(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def claims() -> dict[str, float]:
    return pointing_claims(scenes=12, methods=("gradcam", "random"), tell=quiet)


def test_questions_mark_the_words_of_the_attended_object():
    asked = questions(20)
    assert len(asked) == 20
    for q in asked:
        words = np.array(q.caption.split())
        thing = q.alone.things[0]
        assert len(q.whole.things) >= 2
        assert q.alone.background == q.without.background == q.whole.background
        assert {*q.without.things, thing} == set(q.whole.things)
        assert thing not in q.without.things
        assert q.mask.any()
        assert sorted(words[q.own]) == sorted(w for w in q.phrase.split() if w not in SMALL_WORDS)
        assert {thing.color, thing.size} <= set(words[q.own])
        assert (q.own | ~q.kind).all()
        assert q.kind.any()
        assert not (q.own & q.setting).any()
        assert words[q.setting][0] == ","


def test_questions_repeat_with_their_seed():
    assert [q.phrase for q in questions(5, seed=3)] == [q.phrase for q in questions(5, seed=3)]
    assert [q.phrase for q in questions(5, seed=3)] != [q.phrase for q in questions(5, seed=4)]


def test_scores_are_shares_with_intervals(claims):
    for tower in ("pixels", "words"):
        for method in ("gradcam", "random"):
            key = f"attribute/{tower}/{method}/pointing_game"
            assert 0 <= claims[f"{key}.low"] <= claims[key] <= claims[f"{key}.high"] <= 1
    exact, wide = (claims[f"attribute/pixels/random/{name}pointing_game"] for name in ("", "tolerance_patch/"))
    assert exact <= wide


def test_a_random_map_points_by_chance(claims):
    asked = questions(12)
    for tower, share in (("pixels", np.mean([q.mask.mean() for q in asked])), ("words", np.mean([q.own.mean() for q in asked]))):
        assert abs(claims[f"attribute/{tower}/random/pointing_game"] - share) < 4 * np.sqrt(share * (1 - share) / 12)


def test_bottleneck_points_better_than_chance():
    found = pointing_claims(scenes=6, methods=("bottleneck",), tell=quiet)
    for tower in ("pixels", "words"):
        assert found[f"attribute/{tower}/pointing_game"] > found[f"attribute/{tower}/pointing_game/chance"]
