"""How labels are held against the phantom's truth, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brainlens.claims.describe import chosen_voxels, truth_scores
from brainlens.types import Result


def made(**columns) -> Result:
    nouns = pd.DataFrame({"noun": ["apple", "baby", "beach", "clown", "face", "house", "stop"]})
    return Result("describe", {}, units=pd.DataFrame(columns), tables={"nouns": nouns})


def test_labels_are_scored_by_hand() -> None:
    """Four voxels: right; face for a clown; house first where the second kind is a place; no label. A fifth is not scored."""
    result = made(
        domain=["food", "faces", "faces", "words", "food"],
        kind=["apple", "clown", "baby", "stop", "cake"],
        kind2=["", "", "house", "", ""],
    )
    label = np.array([[0, 2, 5, 6], [4, 2, 5, 3], [5, 1, 2, 3], [-1, -1, -1, -1], [2, 2, 2, 2]])
    scored = np.array([True, True, True, True, False])
    found = truth_scores(label, result, scored, prefix="describe")
    assert found["describe/domain_top1"] == pytest.approx(3 / 4)
    assert found["describe/domain_top1_own"] == pytest.approx(2 / 4)
    assert found["describe/kind_top3"] == pytest.approx(2 / 4)  # the clown is the fourth
    assert found["describe/domain_top1.n"] == 4
    assert "describe/two_kinds_top4" not in found  # one voxel of two kinds has no interval
    # nouns of the domains: food 1 of 7, faces 3, faces or places 4, words 1
    assert found["describe/domain_top1.chance"] == pytest.approx(np.mean([1, 3, 4, 1]) / 7)
    assert found["describe/kind_top3.chance"] == pytest.approx(3 / 7)


def test_where_voxels_prefer_domains_only_domains_are_scored() -> None:
    label = np.array([[0, 1, 2, 3], [4, 1, 2, 3]])
    found = truth_scores(label, made(domain=["food", "food"]), np.ones(2, bool), prefix="x")
    assert found["x/domain_top1"] == found["x/domain_top1_own"] == 0.5
    assert "x/kind_top3" not in found


def test_all_informative_voxels_are_described_and_some_others() -> None:
    units = pd.DataFrame({"informative": np.arange(100) % 4 == 0})
    chosen = chosen_voxels(units, 10, 0)
    assert len(chosen) == 35
    assert set(np.flatnonzero(units["informative"])) <= set(chosen)
    assert (np.diff(chosen) > 0).all()
