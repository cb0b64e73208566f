"""Tokens that all regions write together: what one noisy region cannot say alone, their sum can.

    c = sum_p m_p A_p x_p                     a code of d channels; p = 1..P regions, m_p = 1 where region p is there
    e_j = b_j + W_j c,     j = 1..T tokens

A token is linear in the regions, and so is the value that attention fetches from it: v_j = V b_j + sum_p V W_j A_p x_p. What
region p adds to the output of a layer at query q is therefore exact: |sum_j a_qj V W_j A_p x_p|, with a the attention to tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.nn.padded_parcels import ParcelReader
from brainlens.types import DataError


@dataclass(frozen=True)
class Parts:
    """What each region wrote: codes (B, P, d) and the map W (T, d, width) from a code to tokens."""

    codes: Tensor
    weight: Tensor

    def tokens(self) -> Tensor:
        """The part of each region in each token, (B, P, T, width)."""
        return torch.einsum("bpd,tdw->bptw", self.codes, self.weight)

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


def added_by_regions(probs: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (B, heads, queries, T) to tokens and parts of their values (B, heads, P, T, channels), as attention to regions.

        s_qp = |sum_j a_qj v_pj|,     A_qp = s_qp / sum_p s_qp,     n = mean over queries of sum_p s_qp

    Returns A (B, heads, queries, P) and "values" (B, heads, P, 1) of norm n, the same for all regions of a head. Through the Gram
    matrix of each region's parts no output of a single region is ever held.
    """
    gram = (parts @ parts.transpose(-1, -2)).flatten(3)  # (B, heads, P, T * T)
    pairs = (probs[..., :, None] * probs[..., None, :]).flatten(3)
    size = (pairs @ gram.transpose(-1, -2)).clamp_min(0).sqrt()
    whole = size.sum(-1, keepdim=True)
    share = size / whole.clamp_min(torch.finfo(size.dtype).tiny)
    return share, whole.mean(2, keepdim=True).expand(-1, -1, size.shape[-1], -1)
