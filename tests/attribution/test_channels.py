"""Contributions sum to what they explain, and point at the channels that carry the signal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from brainlens.attribution.channels import (
    channel_share,
    contributions,
    deeplift,
    gradient_x_input,
    integrated_gradients,
    similarity_score,
)
from brainlens.nn.sensor_encoder import TSConv
from brainlens.types import DataError


def test_linear_scores_are_split_exactly() -> None:
    weight, x = torch.randn(4, 10), torch.randn(3, 4, 10)

    def score(z: torch.Tensor) -> torch.Tensor:
        return (z * weight).sum((1, 2))

    assert torch.allclose(gradient_x_input(score, x), x * weight, atol=1e-6)
    assert torch.allclose(integrated_gradients(score, x, steps=3), x * weight, atol=1e-5)


def test_integrated_gradients_are_complete() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    x, start = torch.randn(5, 4, 10), torch.randn(4, 10)
    found = integrated_gradients(net, x, baseline=start, steps=400).sum((1, 2))
    assert torch.allclose(found, net(x) - net(start[None]), atol=1e-3)


def test_deeplift_is_complete_on_the_tsconv_and_its_layers_are_the_tsconv() -> None:
    torch.manual_seed(0)
    net = TSConv(6, 100).eval()
    net(torch.randn(4, 6, 100))
    x = torch.randn(3, 6, 100)
    assert torch.allclose(net.layers()(x[:, None]).permute(0, 2, 3, 1).flatten(1), net(x), atol=1e-5)
    output = net.layers()(x[:, None]).flatten(1)
    direction = torch.randn_like(output)
    found = deeplift([nn.Unflatten(1, (1, 6)), *net.layers()], x, direction)
    expected = ((output - net.layers()(torch.zeros_like(x)[:, None]).flatten(1)) * direction).sum(1)
    assert found.shape == x.shape
    assert torch.allclose(found.sum((1, 2)), expected, atol=1e-3)


def test_contributions_find_the_informative_channels() -> None:
    torch.manual_seed(1)
    target = torch.randn(60, 5)
    data = 0.3 * torch.randn(60, 8, 5)
    data[:, 2] += target  # channel 2 carries the target
    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 5))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        (net(data) - target).square().mean().backward()
        optimiser.step()
    for method in ("gradient_x_input", "integrated_gradients"):
        mean = contributions(
            lambda rows: similarity_score(net, target[rows], against=target), data.numpy(), method=method, block=25
        )
        share = channel_share(mean)
        assert share.sum() == pytest.approx(1)
        assert share.argmax() == 2
        assert share[2] > 0.7


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: integrated_gradients(lambda x: x.sum((1, 2)), torch.zeros(1, 2, 3), steps=0), "at least 1"),
        (lambda: gradient_x_input(lambda x: x.sum(), torch.zeros(2, 2, 3)), "must be"),
        (lambda: contributions(lambda r: None, np.zeros((2, 2, 3)), method="rise"), "not one of"),  # type: ignore[arg-type, return-value]
        (lambda: channel_share(-np.ones((3, 4))), "no channel contributes"),
    ],
)
def test_mistakes_are_one_line(call: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("method", ["gradient_x_input", "integrated_gradients"])
def test_contributions_that_are_rounding_are_no_map(method: str) -> None:
    x = np.random.default_rng(0).normal(size=(6, 4, 10)).astype(np.float32)
    assert contributions(lambda rows: lambda z: 1e-9 * z.sum((1, 2)), x, method=method).any()
    with pytest.raises(DataError, match="rounding"):
        contributions(lambda rows: lambda z: 1e-15 * z.sum((1, 2)), x, method=method)
