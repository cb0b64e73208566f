"""The phantom whose voxels prefer kinds: what it changes, what it leaves, and that its truth is what the signals hold."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from brainlens.phantom.fmri import phantom_truth
from brainlens.phantom.readout import CONCEPT_SHARE, domain_table
from brainlens.phantom.scenes import KINDS, make_scenes
from brainlens.types import DataError, Features, Stimuli


@pytest.fixture(scope="module")
def scenes() -> tuple[Stimuli, Features]:
    """600 scenes and a network of noise, so that what is read of the picture's kinds is the concept alone."""
    stimuli = make_scenes(600, size=16)
    rng = np.random.default_rng(0)
    data = {name: rng.standard_normal((600, 24)) for name in ("block1", "block2", "image")}
    return stimuli, Features(data, stimuli.ids, "noise")


@pytest.fixture(scope="module")
def truth(scenes):
    return phantom_truth(*scenes, concepts="kinds")


def test_domains_are_the_default_to_the_bit(scenes) -> None:
    known = phantom_truth(*scenes)
    same = phantom_truth(*scenes, concepts="domains")
    assert hashlib.sha256(known.signal).digest() == hashlib.sha256(same.signal).digest()
    assert "kind" not in known.units.columns


def test_only_category_voxels_change(scenes, truth) -> None:
    known = phantom_truth(*scenes)
    units = truth.units.iloc[truth.informative]
    category = (units["domain"] != "").to_numpy()
    np.testing.assert_array_equal(known.signal[:, ~category], truth.signal[:, ~category])
    assert (known.signal[:, category] != truth.signal[:, category]).any(axis=0).all()
    for column in ("roi", "domain", "ncsnr", "layer"):
        np.testing.assert_array_equal(known.units[column], truth.units[column])
    np.testing.assert_allclose(known.signal.var(axis=0), truth.signal.var(axis=0), rtol=1e-4)


def test_kinds_belong_to_their_domain_and_a_third_has_two(truth) -> None:
    units = truth.units[truth.units["domain"] != ""]
    assert (truth.units.loc[truth.units["domain"] == "", ["kind", "kind2"]] == "").all().all()
    assert (units["kind"].map(KINDS) == units["domain"]).all()
    two = units[units["kind2"] != ""]
    assert (two["kind"] != two["kind2"]).all()
    share = len(two) / len(units)
    assert abs(share - 1 / 3) < 0.01  # rounding within seven regions
    crossed = (two["kind2"].map(KINDS) != two["domain"]).mean()
    assert 0.05 < crossed <= 0.5


def test_neighbours_prefer_the_same_kind_more_often_than_far_voxels(truth) -> None:
    units = truth.units[truth.units["roi"] == "FFA"]
    xyz, kind = units[["x", "y", "z"]].to_numpy(), units["kind"].to_numpy()
    distance = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    same = kind[:, None] == kind[None]
    near, far = (distance > 0) & (distance <= 4.1), distance > 30
    assert same[near].mean() > 0.7  # fields of 8 mm, voxels of 4 mm
    assert same[near].mean() > same[far].mean() + 0.2


def test_the_concept_holds_its_share_of_the_variance(scenes, truth) -> None:
    stimuli, _ = scenes
    units = truth.units.iloc[truth.informative].reset_index(drop=True)
    rows = [[item["kind"] for item in json.loads(text)] for text in stimuli.table["objects"]]
    shares = []
    for number in np.flatnonzero(units["kind"] != ""):
        here = [name for name in units.loc[number, ["kind", "kind2"]] if name]
        columns = np.array([[name in row for name in here] for row in rows], dtype=float)
        columns = ((columns - columns.mean(axis=0)) / columns.std(axis=0)).sum(axis=1)
        shares.append(np.corrcoef(columns, truth.signal[:, number])[0, 1] ** 2)
    # the rest is read from noise, and the private part takes a little of both
    assert abs(np.mean(shares) - CONCEPT_SHARE) < 0.05


def test_what_cannot_be_is_refused(scenes) -> None:
    stimuli, features = scenes
    with pytest.raises(DataError, match="not one of domains, kinds"):
        phantom_truth(stimuli, features, concepts="words")
    bare = Stimuli(stimuli.ids, stimuli.images, table=stimuli.table[["domain"]])
    assert len(domain_table(bare))
    with pytest.raises(DataError, match="objects"):
        phantom_truth(bare, features, concepts="kinds")
