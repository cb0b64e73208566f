"""The blur prior against a plain loop over rows, and the loss by products against its sum written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from brainlens.nn.blur_prior import LESS, MEDIUM, MORE, BlurPrior
from brainlens.nn.losses import info_nce, scaled_nce
from brainlens.types import DataError


def test_the_rule_is_that_of_a_loop_over_rows() -> None:
    rng = np.random.default_rng(0)
    rows, batch = 83, 20
    prior = BlurPrior(rows)
    similarity, following, seen = [1.0] * rows, [MEDIUM] * rows, set()
    for epoch in range(6):
        level = list(following)
        assert prior.level.tolist() == level
        order = rng.permutation(rows)
        for start in range(0, rows, batch):
            part = order[start : start + batch]
            own = rng.normal(3 * epoch, 2, len(part)).astype(np.float32)
            prior.observe(torch.from_numpy(part), torch.from_numpy(own))
            smooth = [0.3 * float(one) + 0.7 * similarity[row] for row, one in zip(part, own, strict=True)]
            mean = sum(smooth) / len(smooth)
            spread = math.sqrt(sum((s - mean) ** 2 for s in smooth) / (len(smooth) - 1))
            reach = float(norm.ppf(0.975)) * spread
            for row, one, s in zip(part, own, smooth, strict=True):
                similarity[row] = s
                following[row] = LESS if one > mean + reach else MORE if one < mean - reach else MEDIUM
            assert prior.level.tolist() == level  # an epoch ends with the levels that it began with
        assert prior.similarity.tolist() == pytest.approx(similarity)
        prior.advance()
        seen |= set(following)
        assert prior.shares() == {
            name: following.count(which) / rows
            for name, which in (("blur_low", LESS), ("blur_medium", MEDIUM), ("blur_high", MORE))
        }
    assert seen == {LESS, MEDIUM, MORE}


@pytest.mark.parametrize("repeated", [False, True])
def test_the_loss_by_products_is_its_sum(repeated: bool) -> None:
    rng = np.random.default_rng(1)
    a, b, scale = rng.normal(size=(5, 3)) * 2, rng.normal(size=(5, 3)), 1.7
    labels = [0, 1, 0, 2, 1] if repeated else [0, 1, 2, 3, 4]
    unit = b / np.linalg.norm(b, axis=1, keepdims=True)
    total = 0.0
    for logits in (scale * a @ unit.T, scale * unit @ a.T):
        for i in range(5):
            right = [j for j in range(5) if labels[j] == labels[i]]
            each = [logits[i, j] - math.log(sum(math.exp(x) for x in logits[i])) for j in right]
            total -= sum(each) / len(right) / 10
    given = torch.tensor(labels) if repeated else None
    found = scaled_nce(torch.from_numpy(a), torch.from_numpy(b), torch.tensor(scale, dtype=torch.float64), labels=given)
    assert float(found) == pytest.approx(total)


def test_of_unit_rows_it_is_the_loss_by_cosines() -> None:
    rng = torch.Generator().manual_seed(2)
    a, b = (torch.randn(6, 4, generator=rng) for _ in range(2))
    unit = torch.nn.functional.normalize(a, dim=1)
    assert float(scaled_nce(unit, b, torch.tensor(5.0))) == pytest.approx(float(0.5 * info_nce(a, b, 1 / 5)), rel=1e-5)
    assert float(scaled_nce(a, b, torch.tensor(5.0))) != pytest.approx(float(0.5 * info_nce(a, b, 1 / 5)), rel=1e-2)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: BlurPrior(4, share=0.0), "share 0.0 must be in"),
        (lambda: BlurPrior(4, share=1.2), "share 1.2 must be in"),
        (lambda: BlurPrior(4, alpha=1.0), "alpha 1.0 in"),
        (lambda: BlurPrior(4).observe(torch.tensor([0]), torch.ones(1)), "1 rows and logits .* at least 2 rows"),
        (lambda: BlurPrior(4).observe(torch.tensor([0, 1]), torch.ones(3)), "2 rows and logits"),
        (lambda: scaled_nce(torch.ones(1, 3), torch.ones(1, 3), torch.tensor(1.0)), "a batch of 1 has nothing to compare with"),
        (lambda: scaled_nce(torch.ones(2, 3), torch.ones(3, 3), torch.tensor(1.0)), "paired rows must have equal"),
    ],
)
def test_mistakes(call, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
