"""Region tokens that a frozen diffusion network attends to, beside its text: NeuroAdapter in the manner of IP-Adapter.

    tokens       e_p = W_p x_p + b_p                                       one linear map for each parcel p, (B, P, width)
    attention    h = softmax(q k_text / sqrt d) v_text + scale * softmax(q K e + log M) V e,   q of the frozen network

K and V are new for every cross-attention layer; M (B, P) says which regions are there. A removed region has weight 0 in the
softmax, so that the others share all of it; where every region is removed the second term is 0 and the output is that of the
text alone, to the bit. (Towards Interpretable Visual Decoding with Attention to Brain Representations, section 3; there a
dropped token is multiplied by 0 before a further linear map, and goes on taking attention as a constant.)

Keys and values do not depend on the latents: they are computed once for a prompt and serve all steps of denoising; so are the
products of values that recording reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.nn.joint_tokens import JointTokens, Parts, added_by_regions
from brainlens.nn.padded_parcels import ParcelReader
from brainlens.types import DataError

Pair = tuple[Tensor, Tensor]  # keys and values of a layer, (B or 1, tokens, channels)
Watch = Callable[[int, Tensor, Tensor], None]  # layer, attention (B, heads, queries, P), values (B, heads, P, channels)


@dataclass(frozen=True)
class RegionPrompt:
    """What every cross-attention layer reads: keys and values of the text and of the regions, and which regions are there.

    text, regions: one pair a layer (regions None: text alone); keep (B, P) bool; watch: called with the attention to regions;
    gate (B, P): added to the scores of the regions before the softmax, in every layer, so that a gradient by it says what more
    attention to a region would change. parts: what each region wrote into T joint tokens, of which `regions` are then the
    keys and values; the gate is added to the factor 1 of each part, and keep (B, T) says whether any region is there.
    """

    text: list[Pair]
    regions: list[Pair] | None = None
    keep: Tensor | None = None
    watch: Watch | None = None
    gate: Tensor | None = None
    parts: Parts | None = None

    def text_only(self) -> RegionPrompt:
        """The same prompt with every region removed."""
        return RegionPrompt(self.text)

    def watched(self, watch: Watch | None) -> RegionPrompt:
        return replace(self, watch=watch)

    def gated(self, gate: Tensor) -> RegionPrompt:
        return replace(self, gate=gate)

    def repeat(self, times: int) -> RegionPrompt:
        """Every row `times` times in a row, for as many candidates."""
        again = lambda x: x if x is None or len(x) == 1 else x.repeat_interleave(times, 0)  # noqa: E731
        if self.regions is None or times == 1:
            return self
        pairs = [(k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for k, v in self.regions]
        keep = None if self.keep is None else self.keep.repeat_interleave(times, 0)
        parts = None if self.parts is None else self.parts.repeat(times)
        return RegionPrompt([(again(k), again(v)) for k, v in self.text], pairs, keep, self.watch, parts=parts)


class RegionTokens(ParcelReader):
    """One token for each parcel from its own units: e_p = W_p x_p + b_p.

    members: the units (numbers into x) of each parcel. head: a linear map and layer norm that all tokens share (the paper's
    code has one). Parcels are padded to the largest and multiplied in one batched product; padding never enters a result.
    Weights start so that units of variance 1 give tokens of variance 1; biases at 0.
    """

    def __init__(self, members: Sequence[np.ndarray], width: int, *, head: bool = False, seed: int = 0) -> None:
        super().__init__(members, "region tokens need")
        draw = torch.Generator().manual_seed(seed)
        weight = torch.randn(*self.index.shape, width, generator=draw) / torch.from_numpy(self.sizes)[:, None, None].sqrt()
        self.weight = nn.Parameter(weight * self.real[:, :, None])
        self.bias = nn.Parameter(torch.zeros(self.regions, width))
        self.proj = self.norm = None
        if head:
            self.proj, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
            with torch.no_grad():
                self.proj.weight.copy_(torch.randn(width, width, generator=draw) / width**0.5)
                self.proj.bias.zero_()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x (B, units) -> tokens (B, P, width); keep (B, P): tokens multiplied by 0 before the head, as the paper drops them."""
        tokens = torch.bmm(self.by_parcel(x), self.weight).transpose(0, 1) + self.bias
        if keep is not None:
            tokens = tokens * keep[:, :, None].to(tokens)
        return tokens if self.proj is None or self.norm is None else self.norm(self.proj(tokens))


class RegionAttention(nn.Module):
    """Attention processor of one cross-attention layer: the layer's own text attention, plus attention to region tokens.

    Text goes through the same fused attention as in diffusers' own processor. Attention to regions is computed in the open
    always, so that watching it changes nothing.
    """

    def __init__(self, layer: int, hidden: int, width: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.to_k, self.to_v = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)

    def keys(self, tokens: Tensor) -> Pair:
        """Keys and values (B, T, hidden) of tokens (B, T, width)."""
        return self.to_k(tokens), self.to_v(tokens)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states (B, queries, channels) -> the same; encoder_hidden_states is a RegionPrompt."""
        prompt = encoder_hidden_states
        if not isinstance(prompt, RegionPrompt):
            raise DataError(f"the adapted network reads a RegionPrompt, got a {type(prompt).__name__}; use RegionAdapter.prompt")
        residual, batch = hidden_states, len(hidden_states)
        query = _split(attn.to_q(hidden_states), attn.heads)
        key, value = (_split(x, attn.heads).expand(batch, -1, -1, -1) for x in prompt.text[self.layer])
        out = F.scaled_dot_product_attention(query, key, value)
        if prompt.regions is not None:
            out = out + self._regions(query, attn.heads, prompt)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        return (out + residual if attn.residual_connection else out) / attn.rescale_output_factor

    def _regions(self, query: Tensor, heads: int, prompt: RegionPrompt) -> Tensor:
        assert prompt.regions is not None
        pair, joint = prompt.regions[self.layer], prompt.parts is not None
        if prompt.parts is not None and prompt.gate is not None:
            more = self.keys(prompt.parts.gated(prompt.gate))
            pair = (pair[0] + more[0], pair[1] + more[1])
        key, value = (_split(x, heads) for x in pair)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if prompt.gate is not None and not joint:
            scores = scores + prompt.gate[:, None, None, :]
        if prompt.keep is None:
            probs = scores.softmax(-1)
        else:
            keep = prompt.keep[:, None, None, :]
            probs = scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1) * keep  # finite: no row becomes NaN
        if prompt.watch is not None:
            seen = probs, value
            if prompt.parts is not None:
                seen = added_by_regions(probs.detach(), prompt.parts.products(self.layer, self.to_v, heads))
            prompt.watch(self.layer, *(part.detach() for part in seen))
        return self.scale * (probs @ value)


class RegionAdapter(nn.Module):
    """Region tokens and the attention to them in all cross-attention layers of a frozen UNet.

    unet: a diffusers UNet2DConditionModel; members: units of each parcel; width: channels of the tokens, those of the UNet's
    text. removal: "mask" takes a region out of the softmax, "zero" multiplies its token by 0 as the paper does. joint: None, or
    (T, d) for T tokens that all regions write together through a code of d channels (`joint_tokens`); a removed region then
    writes nothing. K and V start as
    the layer's own for text. Raises DataError for a UNet without cross-attention or with one of another kind.
    """

    def __init__(
        self,
        unet: Any,
        members: Sequence[np.ndarray],
        *,
        head: bool = False,
        removal: str = "mask",
        scale: float = 1.0,
        joint: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if joint is not None and (head or removal != "mask"):
            raise DataError("joint tokens have no head and removal 'mask': a removed region writes nothing")
        if removal not in ("mask", "zero"):
            raise DataError(f"removal {removal!r} of regions is not known; choose 'mask' or 'zero'")
        self.removal = removal
        layers = cross_attention(unet)
        width = layers[0].to_k.in_features
        self.tokens: RegionTokens | JointTokens
        if joint is None:
            self.tokens = RegionTokens(members, width, head=head, seed=seed)
        else:
            self.tokens = JointTokens(members, *joint, width, seed=seed)
        self.layers = nn.ModuleList(
            RegionAttention(i, attn.to_k.out_features, width, scale=scale) for i, attn in enumerate(layers)
        )
        with torch.no_grad():
            for own, attn in zip(self.attention, layers, strict=True):
                own.to_k.weight.copy_(attn.to_k.weight)
                own.to_v.weight.copy_(attn.to_v.weight)

    @property
    def attention(self) -> list[RegionAttention]:
        """The processor of each cross-attention layer."""
        return [layer for layer in self.layers if isinstance(layer, RegionAttention)]

    @property
    def width(self) -> int:
        return int(self.tokens.bias.shape[1])

    @property
    def regions(self) -> int:
        """The number of parcels."""
        return self.tokens.regions

    def prompt(
        self, x: Tensor, text: list[Pair], keep: Tensor | None = None, *, moved: tuple[Tensor, Tensor] | None = None
    ) -> RegionPrompt:
        """The prompt of responses x (B, units); text: `text_keys`; keep (B, P) bool, None for all regions.

        moved: of joint tokens, G (d, d) and s (B, d), by which what region p wrote becomes c_p G and the code sum_p c_p G + s.
        """
        if isinstance(self.tokens, JointTokens):
            codes, shift = self.tokens.codes(x, keep), None
            if moved is not None:
                codes, shift = codes @ moved[0], moved[1]
            tokens = self.tokens.of_codes(codes, shift)
            there = None if keep is None else keep.any(1, keepdim=True).expand(-1, tokens.shape[1])
            return replace(self.prompt_of(tokens, text, there), parts=Parts(codes, self.tokens.weight))
        if keep is None or self.removal == "mask":
            return self.prompt_of(self.tokens(x), text, keep)
        return self.prompt_of(self.tokens(x, keep), text)

    def prompt_of(self, tokens: Tensor, text: list[Pair], keep: Tensor | None = None) -> RegionPrompt:
        """The prompt of tokens (B, T, width) from wherever they come, such as an image embedding."""
        return RegionPrompt(text, [layer.keys(tokens) for layer in self.attention], keep)

    @contextmanager
    def on(self, unet: Any) -> Iterator[Any]:
        """The UNet with this adapter in its cross-attention; its own processors are back afterwards."""
        layers = cross_attention(unet)
        before = [attn.processor for attn in layers]
        try:
            for attn, own in zip(layers, self.layers, strict=True):
                attn.set_processor(own)
            yield unet
        finally:
            for attn, old in zip(layers, before, strict=True):
                attn.set_processor(old)


def cross_attention(unet: Any) -> list[Any]:
    """The cross-attention layers of a UNet, in the order of its modules. Raises DataError for kinds that cannot be adapted."""
    named = [(name, module) for name, module in unet.named_modules() if name.endswith(".attn2")]
    if not named:
        raise DataError("the UNet has no cross-attention layer; give one with CrossAttn blocks, as Stable Diffusion has")
    for name, attn in named:
        if getattr(attn, "norm_cross", None) or attn.spatial_norm is not None or attn.group_norm is not None:
            raise DataError(f"the UNet normalises inside {name}, which the adapter does not; give one like Stable Diffusion's")
        if getattr(attn, "norm_q", None) is not None or attn.to_k is None:
            raise DataError(f"the UNet's {name} has no plain keys; give one like Stable Diffusion's")
    widths = sorted({attn.to_k.in_features for _, attn in named})
    if len(widths) != 1:
        raise DataError(f"the UNet's cross-attention layers read {widths} channels; one width is needed")
    return [attn for _, attn in named]


def text_keys(unet: Any, text: Tensor) -> list[Pair]:
    """Keys and values (B, tokens, channels) of text states (B, tokens, width), one pair a layer: computed once for all steps.

    Raises DataError for states of another width than the UNet's cross-attention.
    """
    layers = cross_attention(unet)
    if text.shape[-1] != layers[0].to_k.in_features:
        raise DataError(
            f"text states have {text.shape[-1]} channels, the UNet's cross-attention reads {layers[0].to_k.in_features}; "
            "they belong to different models"
        )
    with torch.no_grad():
        return [(attn.to_k(text), attn.to_v(text)) for attn in layers]


def drop_regions(rows: int, regions: int, generator: torch.Generator) -> Tensor:
    """Token dropout: keep (rows, regions) bool, each region gone with probability r, r ~ U(0, 1) for every row."""
    rate = torch.rand(rows, 1, generator=generator)
    return torch.rand(rows, regions, generator=generator) >= rate


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) -> (B, heads, T, d)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
