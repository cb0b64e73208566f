"""The published layers of NICE, defined here once more, and ours with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from brainlens.nn.sensor_baselines import SensorModel, sensor_encoder


class ReleasedEncoder(nn.Module):
    """Song et al. 2024: temporal convolution, pool, norm, ELU, convolution over channels, norm, ELU, dropout, 1 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.tsconv = nn.Sequential(
            nn.Conv2d(1, 40, (1, 25), (1, 1)),
            nn.AvgPool2d((1, 51), (1, 5)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Conv2d(40, 40, (63, 1), (1, 1)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Dropout(0.5),
        )
        self.projection = nn.Conv2d(40, 40, (1, 1), stride=(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        found = self.projection(self.tsconv(x))  # (batch, e, h, w) -> (batch, (h w), e) -> flat
        return found.flatten(2).transpose(1, 2).reshape(len(x), -1)


class ReleasedHead(nn.Module):
    """Linear, residual of GELU, Linear and Dropout, LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(1440, 768)
        self.block = nn.Sequential(nn.GELU(), nn.Linear(768, 768), nn.Dropout(0.5))
        self.norm = nn.LayerNorm(768)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.norm(x + self.block(x))


def copied(ours: SensorModel) -> tuple[ReleasedEncoder, ReleasedHead]:
    """The published classes with our weights."""
    encoder, head, body = ReleasedEncoder(), ReleasedHead(), ours.encoder
    pairs = [(encoder.tsconv[0], body.temporal), (encoder.tsconv[2], body.norm1), (encoder.tsconv[4], body.spatial)]
    pairs += [(encoder.tsconv[5], body.norm2), (encoder.projection, body.mix), (head.enter, ours.head.enter)]
    pairs += [(head.block[1], ours.head.residual[1]), (head.norm, ours.head.norm)]
    for theirs, mine in pairs:
        theirs.load_state_dict(mine.state_dict())
    return encoder, head


@pytest.fixture(scope="module")
def ours() -> SensorModel:
    model = sensor_encoder("nice", 63, 250, 768, seed=3)
    generator = torch.Generator().manual_seed(0)
    for norm in (model.encoder.norm1, model.encoder.norm2):  # as after a training
        norm.running_mean.copy_(0.1 * torch.randn(40, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(40, generator=generator))
    return model


def close(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_outputs_are_those_of_the_published_layers(ours) -> None:
    encoder, head = copied(ours)
    x = torch.randn(6, 63, 250, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = head.eval()(encoder.eval()(x[:, None]))
        assert close(ours.eval()(x), theirs) < 1e-5
        ours.encoder.dropout.p, encoder.tsconv[7].p = 0.0, 0.0
        inside = encoder.train()(x[:, None])
        assert close(ours.encoder.train()(x), inside) < 1e-5
        assert close(ours.encoder.norm1.running_var, encoder.tsconv[2].running_var) < 1e-5
        ours.encoder.dropout.p = 0.5


def test_every_weight_is_of_one_of_them_and_starts_as_theirs() -> None:
    model = sensor_encoder("nice", 63, 250, 768, seed=0)
    encoder, head = copied(model)
    count = sum(p.numel() for p in encoder.parameters()) + sum(p.numel() for p in head.parameters())
    assert sum(p.numel() for p in model.parameters()) == count == 103_680 + 1_698_816
    for layer in (head.enter, head.block[1], encoder.projection, encoder.tsconv[4]):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        assert abs(float(layer.weight.detach().mean())) < 0.002
    other = sensor_encoder("neuroalign", 63, 250, 768, seed=0)  # NeuroAlign's paper says nothing of its heads' start
    assert float(other.head.enter.weight.detach().std()) < 0.017
