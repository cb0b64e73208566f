"""Baselines of the TSConv on the same footing, and the one place where a sensor encoder is built by name.

Every encoder maps (B, C, T) to (B, D); D is computed from any channels x samples, never written down.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.choices import TRAINED_SENSOR_ENCODERS
from brainlens.nn.sensor_encoder import Head, TSConv
from brainlens.types import DataError


class SpatialAttention(nn.Module):
    """Self-attention over channels: x + softmax(Q K' / sqrt(d)) V with one token of T samples per channel.

    (B, C, T) -> (B, C, T). Q, K (T -> d), V (T -> T), one head. In the manner of NICE-SA (Song et al. 2024), not its released
    module: that one maps over channels and its product sums the softmax to 1, which leaves the recording as it was.
    """

    def __init__(self, samples: int, *, inner: int = 64, dropout: float = 0.3) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(samples)
        self.query, self.key, self.value = nn.Linear(samples, inner), nn.Linear(samples, inner), nn.Linear(samples, samples)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        mixed = F.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y))
        return x + self.dropout(mixed)


class GraphAttention(nn.Module):
    """Graph attention over channels: x_i + sum_j softmax_j(leaky(a . W x_i + b . W x_j)) W x_j.

    (B, C, T) -> (B, C, T). adjacency (C, C) bool limits the neighbours; all channels by default. In the manner of NICE-GA, whose
    released module has no norm and joins its edges in the first 63 rows of a batch alone.
    """

    adjacency: Tensor

    def __init__(self, channels: int, samples: int, *, adjacency: Tensor | None = None, dropout: float = 0.3) -> None:
        super().__init__()
        joined = torch.ones(channels, channels, dtype=torch.bool) if adjacency is None else adjacency.bool()
        if joined.shape != (channels, channels):
            raise DataError(f"adjacency {tuple(joined.shape)} does not fit {channels} channels; give ({channels}, {channels})")
        self.register_buffer("adjacency", joined | torch.eye(channels, dtype=torch.bool))
        self.norm, self.weight = nn.LayerNorm(samples), nn.Linear(samples, samples, bias=False)
        self.score = nn.Linear(samples, 2, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight(self.norm(x))
        own, other = self.score(y).unbind(-1)
        score = F.leaky_relu(own[:, :, None] + other[:, None, :], 0.2).masked_fill(~self.adjacency, -torch.inf)
        return x + self.dropout(score.softmax(-1) @ y)


class ChannelTransformer(nn.Module):
    """One pre-norm transformer block over channels as tokens, as in ATM: (B, C, T) -> (B, C, T).

    The tokens are mapped to a width that the heads divide (250 samples and 4 heads do not fit) and back.
    """

    def __init__(self, samples: int, *, width: int = 256, heads: int = 4, dropout: float = 0.25) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(samples, width), nn.Linear(width, samples)
        self.block = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=width, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.block(self.enter(x)))


class EEGNetEncoder(nn.Module):
    """EEGNet (Lawhern et al. 2018): temporal, depthwise spatial and separable convolutions, (B, C, T) -> (B, D)."""

    def __init__(self, channels: int, samples: int, *, filters: int = 8, depth: int = 2, kernel: int = 64, dropout: float = 0.25):
        super().__init__()
        if samples < 32:
            raise DataError(f"EEGNet pools time by 32 and got {samples} samples; give at least 32")
        wide = filters * depth
        self.temporal = nn.Sequential(
            nn.ZeroPad2d((kernel // 2 - 1, kernel // 2, 0, 0)), nn.Conv2d(1, filters, (1, kernel), bias=False)
        )
        self.norm1 = nn.BatchNorm2d(filters)
        self.spatial = nn.Conv2d(filters, wide, (channels, 1), groups=filters, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.separable = nn.Sequential(nn.ZeroPad2d((7, 8, 0, 0)), nn.Conv2d(wide, wide, (1, 16), groups=wide, bias=False))
        self.point = nn.Conv2d(wide, wide, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(wide)
        self.dropout = nn.Dropout(dropout)
        self.width = wide * (samples // 4 // 8)

    def forward(self, x: Tensor) -> Tensor:
        # batch norm and the spatial filter are both linear, but the norm is kept in its place for the reader's sake
        y = F.elu(self.norm2(self.spatial(self.norm1(self.temporal(x[:, None])))))
        y = self.dropout(F.avg_pool2d(y, (1, 4)))
        y = F.elu(self.norm3(self.point(self.separable(y))))
        return self.dropout(F.avg_pool2d(y, (1, 8))).flatten(1)


class WideDropout(nn.Dropout):
    """Dropout with 16 random bits an element, so p is rounded to 1/65536 (one half is exact).

    torch draws each element by itself on the CPU, which costs more than all products of a linear encoder.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.is_cuda:
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= round(self.p * 65536) - 32768
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


class Flat(nn.Module):
    """All samples as one vector, dropped out: (B, C, T) -> (B, C T); with a linear head this is the linear encoder."""

    def __init__(self, channels: int, samples: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.width, self.dropout = channels * samples, WideDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x.flatten(1))


class SensorModel(nn.Module):
    """front (B, C, T) -> (B, C, T), encoder -> (B, width), head -> (B, D)."""

    def __init__(self, front: nn.Module | None, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.front, self.encoder, self.head = front, encoder, head

    def forward(self, x: Tensor, moments: Tensor | None = None) -> Tensor:
        x = x if self.front is None else self.front(x)
        return self.head(self.encoder(x, moments) if isinstance(self.encoder, TSConv) else self.encoder(x))


class ScaledModel(SensorModel):
    """A `SensorModel` whose products with targets are multiplied by softplus(logit_scale), learned from ln(1 / .07) on."""

    def __init__(self, front: nn.Module | None, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__(front, encoder, head)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def scale(self) -> Tensor:
        """What products are multiplied by, a positive scalar."""
        return F.softplus(self.logit_scale)


SENSOR_ENCODERS = TRAINED_SENSOR_ENCODERS
WITH_TEXTS = ("neuroalign", "nice_llm_like")  # trained on captions beside images


def sensor_encoder(
    encoder: str | nn.Module, channels: int, samples: int, width: int, *, seed: int = 0, dropout: float | None = None
) -> nn.Module:
    """A module (B, channels, samples) -> (B, width) by name, or a user's module after a check of what it returns.

    neuroalign: TSConv, residual head with dropout .2 (Table 3); nice, nice_llm_like, nice_sa_like, nice_ga_like: the same with
    dropout .5, the last two with attention in front; atm: channel transformer in front; eegnet; linear: one matrix; ubp_like: the
    residual head with dropout .3 on all samples, as released (EEGProjectLayer of UBP). Weights are
    drawn from `seed`, the convolutions of the TSConv family and the linear layers of NICE's head from N(0, .02) as in the NICE
    code.
    Raises DataError for an unknown name, or a module that does not return (B, width).
    """
    if isinstance(encoder, nn.Module):
        return check_encoder(encoder, channels, samples, width)
    if encoder not in SENSOR_ENCODERS:
        raise DataError(
            f"sensor encoder {encoder!r} is not one of {list(SENSOR_ENCODERS)}; or give an nn.Module (B, C, T) -> (B, D)"
        )
    with torch.random.fork_rng(devices=[]):  # module constructors draw from the global generator; it is put back
        torch.manual_seed(seed)
        return _build(encoder, channels, samples, width, dropout)


def _build(name: str, channels: int, samples: int, width: int, dropout: float | None) -> SensorModel:
    if name == "linear":
        return SensorModel(None, Flat(channels, samples), nn.Linear(channels * samples, width))
    if name == "ubp_like":
        whole = Flat(channels, samples, dropout=0.0)
        return ScaledModel(None, whole, Head(whole.width, width, dropout=0.3 if dropout is None else dropout))
    if name == "eegnet":
        net = EEGNetEncoder(channels, samples)
        return SensorModel(None, net, Head(net.width, width, dropout=0.5 if dropout is None else dropout))
    fronts = {
        "nice_sa_like": lambda: SpatialAttention(samples),
        "nice_ga_like": lambda: GraphAttention(channels, samples),
        "atm": lambda: ChannelTransformer(samples),
    }
    body = TSConv(channels, samples)
    for part in body.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, 0.0, 0.02)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)
    rate = dropout if dropout is not None else (0.2 if name == "neuroalign" else 0.5)
    head = Head(body.width, width, dropout=rate)
    for part in head.modules() if name.startswith("nice") else ():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.02)
    return SensorModel(fronts[name]() if name in fronts else None, body, head)


def check_encoder(module: nn.Module, channels: int, samples: int, width: int) -> nn.Module:
    """The module itself, once it has mapped zeros (2, channels, samples) to (2, width); its mode is left as it was."""
    training = module.training
    first = next(module.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            out = module.eval()(torch.zeros(2, channels, samples, dtype=first.dtype, device=first.device))
    except RuntimeError as error:
        raise DataError(f"the encoder does not take (trial, {channels}, {samples}): {str(error).splitlines()[0]}") from None
    finally:
        module.train(training)
    if not isinstance(out, Tensor) or out.shape != (2, width):
        have = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise DataError(f"the encoder gives {have} for 2 trials of {channels} x {samples}; it must give (2, {width})")
    return module
