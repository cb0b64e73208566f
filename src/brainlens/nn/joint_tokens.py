"""Tokens that all regions write together: what one noisy region cannot say alone, their sum can.

    c = sum_p m_p A_p x_p                     a code of d channels; p = 1..P regions, m_p = 1 where region p is there
    e_j = b_j + W_j c,     j = 1..T tokens

A token is linear in the regions, and so is the value that attention fetches from it: v_j = V b_j + sum_p V W_j A_p x_p. What
region p adds to the output of a layer at query q is therefore exact: |sum_j a_qj V W_j A_p x_p|, with a the attention to tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.nn.padded_parcels import ParcelReader
from brainlens.types import DataError


@dataclass(frozen=True)
class Parts:
    """What each region wrote: codes (B, P, d) and the map W (T, d, width) from a code to tokens. kept: `products` by layer."""

    codes: Tensor
    weight: Tensor
    kept: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def products(self, layer: int, to_v: nn.Linear, heads: int) -> Tensor:
        """`value_products` (B, heads, P, T (T + 1) / 2) of a layer's values of each region's part of each token.

        They do not depend on the latents: a layer's are made when it is first watched and serve all later steps.
        """
        if layer not in self.kept:
            values = torch.einsum("bpd,tdc->bptc", self.codes, to_v(self.weight))  # V (W_j c_p) = (V W_j) c_p, the smaller one
            self.kept[layer] = value_products(values.unflatten(3, (heads, -1)).permute(0, 3, 1, 2, 4)).detach()
        return self.kept[layer]

    def gated(self, gate: Tensor) -> Tensor:
        """sum_p g_p of the parts, (B, T, width), for gate (B, P)."""
        return torch.einsum("bp,bpd,tdw->btw", gate, self.codes, self.weight)

    def repeat(self, times: int) -> Parts:
        return Parts(self.codes.repeat_interleave(times, 0), self.weight)


class JointTokens(ParcelReader):
    """T tokens (B, T, width) of a code of d channels that all parcels write together, each through its own linear map.

    members: the units (numbers into x) of each parcel; code: d. Parcels are padded to the largest and multiplied in one batched
    product; padding never enters a result. A is kept as sqrt(n) A for n units in all, so that a step of training moves the code
    no more than it moves a token. Units of variance 1 give codes and tokens of variance 1; biases start at 0.
    Raises DataError for a parcel without units, and fewer than one token or channel.
    """

    def __init__(self, members: Sequence[np.ndarray], count: int, code: int, width: int, *, seed: int = 0) -> None:
        super().__init__(members, "joint tokens need")
        if count < 1 or code < 1:
            raise DataError(f"joint tokens: {count} tokens of a code of {code} channels; ask for 1 or more")
        draw = torch.Generator().manual_seed(seed)
        self.root = float(self.sizes.sum()) ** 0.5
        self.read = nn.Parameter(torch.randn(*self.index.shape, code, generator=draw) * self.real[:, :, None])
        self.weight = nn.Parameter(torch.randn(count, code, width, generator=draw) / code**0.5)
        self.bias = nn.Parameter(torch.zeros(count, width))

    def codes(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """A_p x_p of each region: x (B, units) -> (B, P, d), 0 for a region that is missing; keep (B, P) bool."""
        codes = torch.bmm(self.by_parcel(x), self.read / self.root).transpose(0, 1)
        return codes if keep is None else codes * keep[:, :, None].to(codes)

    def of_codes(self, codes: Tensor, shift: Tensor | None = None) -> Tensor:
        """codes (B, P, d) -> tokens (B, T, width); shift (B, d): a part of the code that no region wrote."""
        code = codes.sum(1) if shift is None else codes.sum(1) + shift
        return self.bias + torch.einsum("bd,tdw->btw", code, self.weight)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x (B, units) -> tokens (B, T, width)."""
        return self.of_codes(self.codes(x, keep))

    def set_code(self, weights: Tensor) -> None:
        """The code becomes x @ weights, (units, d) of all units of the parcels; it stays so in training."""
        with torch.no_grad():
            self.read.copy_(weights[self.index] * self.real[:, :, None] * self.root)
        self.read.requires_grad_(False)


def value_products(values: Tensor) -> Tensor:
    """Products v_pi . v_pj of parts of values (B, heads, P, T, channels), each pair i <= j once: (B, heads, P, T (T + 1) / 2).

    Those of i < j are doubled, so that with the products a_i a_j of one attention vector they sum to |sum_j a_j v_pj|^2.
    """
    i, j = torch.triu_indices(values.shape[3], values.shape[3], device=values.device)
    return (values @ values.transpose(-1, -2))[..., i, j] * (2 - (i == j).to(values))


def added_by_regions(probs: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (B, heads, queries, T) to tokens and `value_products` of their parts, as attention to regions.

        s_qp = |sum_j a_qj v_pj|,     A_qp = s_qp / sum_p s_qp,     n = mean over queries of sum_p s_qp

    Returns A (B, heads, queries, P) and "values" (B, heads, P, 1) of norm n, the same for all regions of a head. No output of a
    single region is ever held, and the products of values do not depend on the queries.
    """
    by_token, count = probs.transpose(-1, -2).contiguous(), probs.shape[-1]  # whole rows are multiplied below
    pairs = probs.new_empty(*probs.shape[:2], products.shape[-1], probs.shape[2])
    start = 0
    for j in range(count):  # in the order of `torch.triu_indices`
        torch.mul(by_token[:, :, j:], by_token[:, :, j : j + 1], out=pairs[:, :, start : start + count - j])
        start += count - j
    size = (products @ pairs).clamp_min_(0).sqrt_()  # (B, heads, P, queries)
    whole = size.sum(2, keepdim=True)
    share = size.div_(whole.clamp_min(torch.finfo(size.dtype).tiny))
    return share.transpose(-1, -2), whole.mean(3, keepdim=True).expand(-1, -1, size.shape[2], -1)
