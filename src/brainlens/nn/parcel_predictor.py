"""From image tokens to the responses of parcels: a transformer decoder whose queries are the parcels.

    q_p <- q_p + attention(LN q_p, LN tokens), then q_p + MLP(LN q_p);     y_p = W_p LN(q_p) + b_p

Every parcel has a query of its own and a linear readout to its own units. (Adeli et al. 2025; it chooses among the candidates
of NeuroAdapter, section 3.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.nn.padded_parcels import padded
from brainlens.types import DataError


class ParcelPredictorNetwork(nn.Module):
    """Tokens (B, T, channels) -> responses (B, units), for the units of all parcels; others are 0.

    members: units of each parcel, numbers into the output; channels: of the image tokens; width, depth, heads: of the decoder;
    units: length of the output. Raises DataError for a width that the heads do not divide.
    """

    index: Tensor
    real: Tensor

    def __init__(
        self,
        members: Sequence[np.ndarray],
        channels: int,
        units: int,
        *,
        width: int = 64,
        depth: int = 1,
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width % heads or depth < 1:
            raise DataError(
                f"parcel predictor: width {width} over {heads} heads, depth {depth}; the heads divide the width, depth >= 1"
            )
        sizes, index = padded(members, "a parcel predictor needs", fill=units)  # padding goes to a column that is cut off
        self.units = units
        self.register_buffer("index", torch.from_numpy(index))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Linear(channels, width)
            self.queries = nn.Parameter(torch.randn(len(sizes), width))
            self.blocks = nn.ModuleList(_Decoder(width, heads) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.weight = nn.Parameter(torch.randn(len(sizes), width, index.shape[1]) / width**0.5 * 0.1)
            self.bias = nn.Parameter(torch.zeros(len(sizes), index.shape[1]))

    def forward(self, tokens: Tensor) -> Tensor:
        read = self.embed(tokens)
        queries = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            queries = block(queries, read)
        out = torch.bmm(self.norm(queries).transpose(0, 1), self.weight).transpose(0, 1) + self.bias  # (B, P, largest)
        whole = out.new_zeros(len(tokens), self.units + 1)
        return whole.index_copy(1, self.index.flatten(), out.flatten(1))[:, : self.units]


class _Decoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_kv, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.to_q, self.to_kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        split = lambda x: x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        key, value = (split(x) for x in self.to_kv(self.norm_kv(tokens)).chunk(2, dim=2))
        mixed = F.scaled_dot_product_attention(split(self.to_q(self.norm_q(queries))), key, value)
        queries = queries + self.out(mixed.transpose(1, 2).flatten(2))
        return queries + self.mlp(self.norm_mlp(queries))


def choose(predicted: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidate of each trial whose predicted response fits the measured one best: (n,), and all fits (n, c).

        c_i = argmax_c  Pearson(predicted[i, c], measured[i])        over units

    predicted (n, candidates, units), measured (n, units). A candidate without variation never wins over one with it.
    Raises DataError for shapes that do not match, NaN, and fewer than 2 units.
    """
    p, m = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if p.ndim != 3 or m.shape != (p.shape[0], p.shape[2]) or p.shape[1] < 1 or p.shape[2] < 2:
        raise DataError(
            f"predicted {p.shape} should be (trial, candidate, unit) and measured {m.shape} (trial, unit), 2 units or more"
        )
    if not (np.isfinite(p).all() and np.isfinite(m).all()):
        raise DataError("predicted or measured responses hold NaN or infinity; drop those units from both")
    p, m = p - p.mean(axis=2, keepdims=True), m - m.mean(axis=1, keepdims=True)
    size = np.linalg.norm(p, axis=2) * np.linalg.norm(m, axis=1)[:, None]
    fit = np.divide((p * m[:, None]).sum(axis=2), size, out=np.full(size.shape, -1.0), where=size > 0)
    return fit.argmax(axis=1), fit


def choice_table(scores: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """What choosing brings: rows chosen, first, mean and best of a score of every candidate (n, c); columns value, low, high, n.

    best takes the highest score of each trial, which needs the true picture: it bounds what any choice can reach. Intervals are
    95 % bootstrap intervals over trials. Raises DataError for NaN and for choices that are no candidates.
    """
    from brainlens.metrics.statistics import bootstrap_mean

    table, at = np.asarray(scores, dtype=np.float64), np.asarray(chosen)
    if table.ndim != 2 or at.shape != (len(table),) or at.dtype.kind not in "iu" or not np.isfinite(table).all():
        raise DataError(f"scores {table.shape} should be finite (trial, candidate) and chosen {at.shape} one number a trial")
    if at.min() < 0 or at.max() >= table.shape[1]:
        raise DataError(f"chosen candidate {int(at.max())} of {table.shape[1]}; they are numbered from 0")
    each = {
        "chosen": table[np.arange(len(table)), at],
        "first": table[:, 0],
        "mean": table.mean(axis=1),
        "best": table.max(axis=1),
    }
    rows = {name: (*bootstrap_mean(values), len(values)) for name, values in each.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high", "n"])
