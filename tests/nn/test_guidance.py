"""Semantic guidance and loss adjustment against plain loops and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from brainlens.nn.guidance import LossAdjustment, semantic_guidance
from brainlens.types import DataError


def rows(seed: int, n: int = 6, d: int = 5) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(e: np.ndarray, v: np.ndarray, t: np.ndarray, temperature: float, diagonal: bool) -> float:
    """Eq. 6, one entry at a time."""
    e, v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (e, v, t))
    total = 0.0
    for i in range(len(e)):
        q, p = softmax(e[i] @ v.T / temperature), softmax(v[i] @ t.T / temperature)
        for j in range(len(e)):
            q_ij, p_ij = (1.0, 1.0) if diagonal and i == j else (q[j], p[j])
            total += q_ij * math.log(q_ij / p_ij)
    return total


@pytest.mark.parametrize("form", ["softmax", "diagonal"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_guidance_equals_the_loop(form: str, reduction: str) -> None:
    e, v, t = rows(0), rows(1), rows(2)
    expected = loop(e.numpy(), v.numpy(), t.numpy(), 0.2, form == "diagonal") / (6 if reduction == "mean" else 1)
    assert semantic_guidance(e, v, t, temperature=0.2, form=form, reduction=reduction).item() == pytest.approx(expected, rel=1e-9)


def test_guidance_is_zero_where_the_brain_repeats_the_text_relations() -> None:
    v = rows(3)
    assert semantic_guidance(v, v, v).item() == pytest.approx(0.0, abs=1e-12)
    assert semantic_guidance(rows(4), v, v).item() > 0


def test_guidance_does_not_depend_on_the_order_of_the_batch() -> None:
    e, v, t = rows(5), rows(6), rows(7)
    turn = torch.randperm(6)
    assert semantic_guidance(e[turn], v[turn], t[turn]).item() == pytest.approx(semantic_guidance(e, v, t).item())


def test_the_teacher_gets_no_gradient() -> None:
    e, v, t = rows(0).requires_grad_(), rows(1), rows(2).requires_grad_()
    semantic_guidance(e, v, t).backward()
    assert e.grad is not None
    assert t.grad is None
    semantic_guidance(e, v, t, teacher_gradient=True).backward()
    assert t.grad is not None


def test_literal_weights_by_hand() -> None:
    adjust = LossAdjustment(norms="literal", temperature=0.5)
    assert adjust.weights(torch.tensor([0.3, 0.1])).tolist() == pytest.approx(softmax([0.6, 0.2]).tolist())
    # g = (.2, .2): r = (.1/.3, .1/.1), scores g (1 + r) / T
    expected = softmax([0.2 * (1 + 1 / 3) / 0.5, 0.2 * 2 / 0.5])
    assert adjust.weights(torch.tensor([0.2, 0.2])).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_literal_weights_are_one_hot_at_the_printed_temperature_and_the_others_are_not() -> None:
    norms = torch.tensor([1.0, 0.5, 0.1])
    assert LossAdjustment(norms="literal").weights(norms).max() > 0.99
    assert LossAdjustment(norms="relative").weights(norms).tolist() == pytest.approx([1 / 3] * 3)
    expected = softmax([1.0 / 1.6 / 0.07, 0.5 / 1.6 / 0.07, 0.1 / 1.6 / 0.07])
    assert LossAdjustment().weights(norms).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_shares_do_not_depend_on_the_scale_of_all_losses() -> None:
    norms = torch.tensor([1.0, 0.5, 0.1])
    a, b = LossAdjustment(), LossAdjustment()
    for step in (1.0, 0.7, 0.9):
        assert a.weights(step * norms).tolist() == pytest.approx(b.weights(50 * step * norms).tolist(), rel=1e-5)


def test_relative_weights_do_not_depend_on_the_scale_of_a_loss() -> None:
    a, b = LossAdjustment(norms="relative"), LossAdjustment(norms="relative")
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        norms = torch.rand(3, generator=draw) + 0.5
        first, second = a.weights(norms), b.weights(norms * torch.tensor([1.0, 100.0, 0.01]))
    assert torch.allclose(first, second, atol=1e-5)
    assert first.sum().item() == pytest.approx(1.0)


def test_backward_gives_the_gradient_of_the_weighted_sum() -> None:
    torch.manual_seed(0)
    trunk, head, other = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(5, 3)
    x, y = torch.randn(7, 4), torch.randn(7, 5)

    def losses(hidden: torch.Tensor) -> list[torch.Tensor]:
        a, b = head(hidden), other(y)
        return [(a - b).square().mean(), b.square().mean(), a.abs().mean()]

    parameters = [*head.parameters(), *other.parameters()]
    hidden = trunk(x)
    leaf = hidden.detach().requires_grad_()
    weights, back = LossAdjustment(norms="share").backward(losses(leaf), parameters, leaf)
    hidden.backward(back)
    found = [p.grad.clone() for p in [*trunk.parameters(), *parameters]]
    total = sum(w * loss for w, loss in zip(weights.float(), losses(trunk(x))))
    expected = torch.autograd.grad(total, [*trunk.parameters(), *parameters])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected))
    # the second loss reaches only its own head
    own = torch.autograd.grad(losses(trunk(x))[1], list(other.parameters()))
    norm = torch.stack([g.norm() for g in own]).norm().item()
    again = LossAdjustment(norms="literal", temperature=1.0)
    again.backward(losses(leaf), parameters, leaf)
    assert again._now[1].item() == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: semantic_guidance(rows(0), rows(1), rows(2, n=5)), "equal"),
        (lambda: semantic_guidance(rows(0), rows(1), rows(2), temperature=0.0), "above 0"),
        (lambda: semantic_guidance(rows(0), rows(1), rows(2), form="eq4"), "softmax"),
        (lambda: LossAdjustment(norms="raw"), "relative"),
        (lambda: LossAdjustment().weights(torch.tensor([1.0, float("nan")])), "finite"),
    ],
)
def test_mistakes_are_one_line(call: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        call()  # type: ignore[operator]
