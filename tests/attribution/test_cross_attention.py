"""Sums over attention against the plain formulas on all of it at once."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainlens.attribution.cross_attention import AttentionRecord, shuffle_regions
from brainlens.types import DataError

TRIALS, CANDIDATES, HEADS, REGIONS, STEPS = 3, 2, 2, 5, 6
SETS = {"face": [0, 3], "place": [4]}


def attention(step: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(10 * step + layer)
    queries = (16, 64, 4)[layer]
    probs = torch.randn(TRIALS * CANDIDATES, HEADS, queries, REGIONS, generator=draw).mul(2).softmax(-1)
    return probs, torch.randn(TRIALS * CANDIDATES, HEADS, REGIONS, 4, generator=draw)


def filled(**given) -> AttentionRecord:
    record = AttentionRecord(TRIALS, REGIONS, sets=SETS, side=8, bins=3, **given)
    for rows in (np.array([0, 1]), np.array([2])):  # two batches
        pick = np.concatenate([np.arange(CANDIDATES) + CANDIDATES * row for row in rows])
        for step in range(STEPS):
            record.at(step, STEPS, rows)
            for layer in range(3):
                probs, values = attention(step, layer)
                record(layer, probs[pick], values[pick])
    return record


@pytest.mark.parametrize("layers", ["alike", "queries"])
@pytest.mark.parametrize("value_norm", [False, True])
def test_contributions_are_the_formula(layers, value_norm):
    got = filled(layers=layers, value_norm=value_norm).contributions()
    assert got.shape == (TRIALS, STEPS, REGIONS)
    np.testing.assert_allclose(got.sum(-1), 1)
    for trial in range(TRIALS):
        for step in range(STEPS):
            total, weights = np.zeros(REGIONS), 0
            for layer in range(3):
                probs, values = (x.double().numpy() for x in attention(step, layer))
                one = np.zeros(REGIONS)
                for candidate in range(CANDIDATES):
                    b = CANDIDATES * trial + candidate
                    share = np.zeros(REGIONS)
                    for head in range(HEADS):
                        size = np.linalg.norm(values[b, head], axis=1) if value_norm else np.ones(REGIONS)
                        share += (probs[b, head] * size).sum(0)
                    one += share / share.sum() / CANDIDATES
                weight = probs.shape[2] if layers == "queries" else 1
                total, weights = total + weight * one, weights + weight
            np.testing.assert_allclose(got[trial, step], total / weights, rtol=1e-5)


def test_maps_are_the_formula():
    record = filled()
    for name, regions in SETS.items():
        got = record.maps(name)
        assert got.shape == (TRIALS, 3, 8, 8)
        np.testing.assert_allclose(got.sum((2, 3)), 1, rtol=1e-5)
        for bin_ in range(3):
            expected = torch.zeros(TRIALS, 8, 8)
            for step in (2 * bin_, 2 * bin_ + 1):
                for layer in range(3):
                    probs, _ = attention(step, layer)
                    edge = int(probs.shape[2] ** 0.5)
                    grid = probs[:, :, :, regions].mean((1, 3)).reshape(-1, 1, edge, edge)
                    large = F.interpolate(grid, (8, 8), mode="bilinear", align_corners=False)[:, 0]
                    large = large / large.sum((1, 2), keepdim=True)
                    expected += large.reshape(TRIALS, CANDIDATES, 8, 8).mean(1) / 6
            np.testing.assert_allclose(got[:, bin_], expected, rtol=1e-4, atol=1e-6)


def test_a_region_that_is_not_there_has_no_share_and_none_at_all_is_no_nan():
    record = AttentionRecord(2, 3, sets={"all": [0, 1, 2]}, side=2, bins=1)
    record.at(0, 1, np.arange(2))
    probs = torch.tensor([[0.25, 0.75, 0], [0, 0, 0]])[:, None, None].expand(2, 1, 4, 3)
    record(0, probs, torch.ones(2, 1, 3, 1))
    np.testing.assert_allclose(record.contributions()[:, 0], [[0.25, 0.75, 0], [0, 0, 0]])
    assert np.isfinite(record.maps("all")).all()


def test_no_attention_is_kept():
    """What a record holds is the same size after 4 steps and 400, but for one number a region and step."""

    def held(steps: int) -> int:
        record = AttentionRecord(1, REGIONS, sets=SETS, side=8, bins=2)
        alive = []
        for step in range(steps):
            record.at(step, steps, np.array([0]))
            probs, values = torch.rand(1, 1, 64, REGIONS), torch.rand(1, 1, REGIONS, 2)
            alive.append(weakref.ref(probs))
            record(0, probs, values)
            del probs
        assert not any(ref() is not None for ref in alive)
        arrays = [value for value in vars(record).values() if isinstance(value, (np.ndarray, torch.Tensor))]
        return sum(array.nbytes for array in arrays)

    assert held(400) - held(4) == 396 * (REGIONS + 1) * 8


def test_shuffled_names_are_a_permutation_for_each_trial():
    got = filled().contributions()
    shuffled = shuffle_regions(got, seed=1)
    np.testing.assert_allclose(np.sort(shuffled, -1), np.sort(got, -1))
    orders = [tuple(np.argmin(np.abs(s[0][:, None] - g[0]), axis=1)) for s, g in zip(shuffled, got, strict=True)]
    assert len(set(orders)) > 1
    for s, g, order in zip(shuffled, got, orders, strict=True):  # the same names at every step
        np.testing.assert_allclose(s, g[:, list(order)])


def test_bad_input_is_one_clear_line():
    probs, values = attention(0, 0)
    half = AttentionRecord(TRIALS, REGIONS, sets=SETS, bins=2)
    half.at(0, 2, np.arange(TRIALS))
    half(0, probs, values)
    oblong = AttentionRecord(TRIALS, REGIONS, sets=SETS)
    oblong.at(0, 1, np.arange(TRIALS))
    few = AttentionRecord(TRIALS, REGIONS, sets=SETS, bins=4)
    few.at(0, 1, np.arange(TRIALS))
    few(0, probs, values)
    cases = [
        (lambda: AttentionRecord(1, 2, layers="mean"), "choose from alike, queries"),
        (lambda: AttentionRecord(1, 2, bins=0), "bins 0"),
        (lambda: AttentionRecord(1, 2, sets={"a": [2]}), "regions are numbered 0 to 1"),
        (lambda: AttentionRecord(1, 2, sets={"a": []}), "set 'a' holds"),
        (lambda: AttentionRecord(1, 2)(0, probs, values), "call at"),
        (lambda: oblong(0, probs[:, :, :15], values), "15 queries, which are no square"),
        (lambda: oblong(0, probs[:5], values[:5]), "does not fit 3 trials"),
        (lambda: half.at(0, 3, np.arange(3)), "3 trials and 2 steps"),
        (lambda: half.contributions(), "has not been seen"),
        (lambda: half.maps("body"), r"there are \['face', 'place'\]"),
        (lambda: few.maps("face"), "4 bins over fewer steps"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
