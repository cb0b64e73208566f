"""A transformer over 3-D patches of masked voxels: brain volumes to embeddings.

A volume at 2 mm has 903,000 voxels of which a quarter are brain, and 392 patches of which about 170 hold any. So the
input here is the masked voxels (B, V) in C order of the mask, patches are gathered from them through an index computed
once, and only patches that hold brain become tokens. The last block is evaluated for its class token alone, because
nothing else is read. Both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brainlens.parcels import cubic_patches
from brainlens.types import DataError


@dataclass(frozen=True)
class VolumeDesign:
    """What a volume encoder is built from.

    patch: edge of a cubic patch in voxels; padding: "end" pads the grid with zeros behind its last voxel up to a
    multiple of the patch, "centre" on both sides (the paper does not say which).
    class_token: "learned", or "sum" = learned + sum over patch tokens / sqrt(P), so that the residual stream carries a
    linear readout of the whole brain past all blocks. per_patch: one projection a patch, (V, width) weights, in place of
    one shared projection. pre_norm: layer norm on the tokens before the first block, as in CLIP (with "sum" on the patch
    tokens only). norm: "layer" or "none" before the head. zero_init: blocks start as the identity.
    patch_dropout: share of patch tokens left out in training (of those attended to; a sum keeps all). input_dropout: share of
    inputs set to zero in training, the others raised.
    patch_start: deviation of the projection's random start, in units of one over the root of a patch's voxels. At 1 a token is
    almost all noise of its voxels, which steps of a fixed size take long to outgrow; below, its position says more at first.
    """

    patch: int = 14
    width: int = 256
    depth: int = 4
    heads: int = 8
    embed_dim: int = 512
    mlp_ratio: float = 4.0
    class_token: str = "learned"
    per_patch: bool = False
    padding: str = "end"
    pre_norm: bool = True
    norm: str = "layer"
    zero_init: bool = False
    dropout: float = 0.0
    patch_dropout: float = 0.0
    input_dropout: float = 0.0
    checkpointing: bool = False
    patch_start: float = 1.0

    def __post_init__(self) -> None:
        for name, known in {"class_token": ("learned", "sum"), "padding": ("end", "centre"), "norm": ("layer", "none")}.items():
            if getattr(self, name) not in known:
                raise DataError(f"volume encoder: {name}={getattr(self, name)!r} is not one of {known}")
        for name in ("patch", "width", "depth", "heads", "embed_dim"):
            if getattr(self, name) < 1:
                raise DataError(f"volume encoder: {name}={getattr(self, name)} must be at least 1")
        if self.width % self.heads:
            raise DataError(f"volume encoder: width {self.width} is not a multiple of {self.heads} heads")
        if not 0 < self.patch_start <= 1:
            raise DataError(f"volume encoder: patch_start={self.patch_start} must be above 0 and at most 1")
        for name in ("dropout", "patch_dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f"volume encoder: {name}={getattr(self, name)} must be in [0, 1)")


PRESETS = {
    # CLIP-ViT-H/14 widths with 12 blocks, for (91, 109, 91) at 2 mm padded to 98 x 112 x 98
    "paper": VolumeDesign(patch=14, width=1280, depth=12, heads=16, embed_dim=1024),
    "small": VolumeDesign(patch=7, width=256, depth=4, heads=8, embed_dim=512),
    "tiny": VolumeDesign(patch=4, width=32, depth=2, heads=2, embed_dim=16),
}


def preset(name: str, *, embed_dim: int | None = None) -> VolumeDesign:
    """A named design, with the embedding width of the network at hand."""
    if name not in PRESETS:
        raise DataError(f"volume encoder preset {name!r} is not known; there are {sorted(PRESETS)}")
    return PRESETS[name] if embed_dim is None else replace(PRESETS[name], embed_dim=embed_dim)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(LN x), then x + MLP(LN x), GELU, as in CLIP."""

    def __init__(
        self, width: int, heads: int, hidden: int, *, dropout: float, stds: tuple[float, float, float], seed: torch.Generator
    ):
        super().__init__()
        attention, out, expand = stds
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = _linear(width, 3 * width, attention, seed), _linear(width, width, out, seed)
        self.expand, self.contract = _linear(width, hidden, expand, seed), _linear(hidden, width, out, seed)

    def forward(self, x: Tensor, *, first_only: bool = False) -> Tensor:
        """(B, T, width) -> the same, or the first token's output (B, 1, width), which needs one query and T keys."""
        read = x[:, :1] if first_only else x
        hidden = self.norm1(x)
        q, k, v = self._heads(hidden, first_only)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self._finish(read, mixed)

    def with_attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same output, and the attention probabilities (B, heads, T, T) as a part of the graph."""
        q, k, v = self._heads(self.norm1(x), False)
        probabilities = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self._finish(x, probabilities @ v), probabilities

    def _heads(self, hidden: Tensor, first_only: bool) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = hidden.shape
        shape = (batch, length, -1, self.heads, width // self.heads)
        if not first_only:
            q, k, v = self.qkv(hidden).view(shape).permute(2, 0, 3, 1, 4)
            return q, k, v
        weight, bias = self.qkv.weight, self.qkv.bias
        one = F.linear(hidden[:, :1], weight[:width], bias[:width])
        k, v = F.linear(hidden, weight[width:], bias[width:]).view(shape).permute(2, 0, 3, 1, 4)
        return one.view(batch, 1, self.heads, -1).transpose(1, 2), k, v

    def _finish(self, read: Tensor, mixed: Tensor) -> Tensor:
        x = read + self._drop(self.out(mixed.transpose(1, 2).reshape(read.shape)))
        return x + self._drop(self.contract(F.gelu(self.expand(self.norm2(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class VolumeEncoder(nn.Module):
    """z = head(LN(class token after N blocks)), from masked voxels (B, V) to embeddings (B, embed_dim).

    mask: bool array whose True voxels in C order are the V inputs. groups (V,) int: tokens by any labelling (regions)
    in place of cubic patches, negative labels left out; the mask may then have any number of axes. Tokens are
    (B, 1 + P, width) with the class token first; `patch_of` (V,) is the patch of each voxel, -1 where left out.
    Whole-brain encoder of "Bridging Vision, Language, and Brain", section 4.1.

    Raises DataError for a mask or labels that do not fit.
    """

    patch_of: Tensor
    order: Tensor
    gather: Tensor

    def __init__(self, mask: np.ndarray, design: VolumeDesign | None = None, *, groups: np.ndarray | None = None, seed: int = 0):
        super().__init__()
        self.design = design = VolumeDesign() if design is None else design
        self.mask, self.n_voxels = mask.copy(), int(np.count_nonzero(mask))
        if groups is None:
            patch_of, slot = cubic_patches(mask, design.patch, design.padding)
        else:
            if not design.per_patch:
                raise DataError("volume encoder: groups of unequal size have no shared projection; set per_patch=True")
            patch_of, slot = _grouped(groups, self.n_voxels)
        self.n_patches = int(patch_of.max()) + 1
        generator = torch.Generator().manual_seed(seed)
        width = design.width
        self.register_buffer("patch_of", torch.from_numpy(patch_of).long(), persistent=False)
        used = np.flatnonzero(patch_of >= 0)
        order = torch.from_numpy(used[np.argsort(patch_of[used], kind="stable")])
        self.register_buffer("order", order, persistent=False)
        self.sizes = np.bincount(patch_of[used], minlength=self.n_patches).tolist()
        if design.per_patch:  # rows in patch order, so that a patch is a slice
            self.projection = nn.Parameter(torch.empty(len(order), width))
            scale = torch.tensor(self.sizes, dtype=torch.float32).rsqrt().repeat_interleave(torch.tensor(self.sizes))
            with torch.no_grad():
                self.projection.normal_(generator=generator).mul_(design.patch_start * scale[:, None])
        else:
            index = np.full((self.n_patches, design.patch**3), self.n_voxels, dtype=np.int64)  # V points at a zero
            index[patch_of, slot] = np.arange(self.n_voxels)
            self.register_buffer("gather", torch.from_numpy(index), persistent=False)
            self.projection = nn.Parameter(torch.empty(design.patch**3, width))
            nn.init.normal_(self.projection, std=design.patch_start * design.patch**-1.5, generator=generator)
        self.position = nn.Parameter(torch.randn(self.n_patches, width, generator=generator) * width**-0.5)
        self.class_token = nn.Parameter(torch.randn(width, generator=generator) * width**-0.5)
        self.pre = nn.LayerNorm(width) if design.pre_norm else nn.Identity()
        out = 0.0 if design.zero_init else width**-0.5 * (2 * design.depth) ** -0.5
        stds = (width**-0.5, out, (2 * width) ** -0.5)  # the initial scales of CLIP
        hidden = int(width * design.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(width, design.heads, hidden, dropout=design.dropout, stds=stds, seed=generator) for _ in range(design.depth)
        )
        self.norm = nn.LayerNorm(width) if design.norm == "layer" else nn.Identity()
        self.head = _linear(width, design.embed_dim, width**-0.5, generator, bias=False)

    def forward(self, x: Tensor, attentions: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Embeddings (B, embed_dim), not normalised; with attentions also every block's (B, heads, T, T)."""
        if attentions:
            return self.with_attentions(self.tokens(x))
        return self.forward_from(self.tokens(x), 0)

    def patches(self, x: Tensor) -> Tensor:
        """Projected patches (B, P, width), before positions: sum over the patch's voxels of voxel times its weights."""
        x = self._entered(x)
        if not self.design.per_patch:
            return F.pad(x, (0, 1))[:, self.gather] @ self.projection
        pieces = zip(x[:, self.order].split(self.sizes, 1), self.projection.split(self.sizes))
        return torch.stack([voxels @ weights for voxels, weights in pieces], 1)

    def embedded(self, x: Tensor) -> Tensor:
        """Projected patches with their positions (B, P, width): all that the encoder knows of its input."""
        return self.patches(x) + self.position

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens before the first block (B, 1 + P, width), class token first.

        Patches that dropout leaves out are not projected where nothing else reads them: the same tokens, for less.
        """
        if self._chosen_only():
            x = self._entered(x)
            chosen = self._chosen(len(x), x.device)
            voxels = F.pad(x, (0, 1)).gather(1, self.gather[chosen].flatten(1)).unflatten(1, (chosen.shape[1], -1))
            return self._joined(voxels @ self.projection + self.position[chosen], None)
        return self.assemble(self.embedded(x))

    def assemble(self, patches: Tensor) -> Tensor:
        """Embedded patches (B, P, width) -> tokens (B, 1 + P, width), class token first."""
        whole = patches
        if self.training and self.design.patch_dropout:
            chosen = self._chosen(len(patches), patches.device)
            patches = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[2]))
        return self._joined(patches, whole)

    def _entered(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.n_voxels:
            raise DataError(f"volume encoder: input {tuple(x.shape)} is not (batch, {self.n_voxels} voxels of the mask)")
        return F.dropout(x, self.design.input_dropout) if self.training and self.design.input_dropout else x

    def _chosen_only(self) -> bool:
        design = self.design
        return self.training and design.patch_dropout > 0 and not design.per_patch and design.class_token == "learned"

    def _chosen(self, batch: int, device: torch.device) -> Tensor:
        """Patches that dropout keeps in each row (batch, kept)."""
        kept = max(1, round(self.n_patches * (1 - self.design.patch_dropout)))
        return torch.rand((batch, self.n_patches), device=device).argsort(1)[:, :kept]

    def _joined(self, patches: Tensor, whole: Tensor | None) -> Tensor:
        """Tokens of kept patches (B, kept, width); whole (B, P, width): all of them, where the class token carries their sum."""
        first = self.class_token.to(patches.dtype).expand(len(patches), 1, -1)
        if self.design.class_token == "sum":  # of all patches: dropout thins what is attended to, not what is summed
            assert whole is not None
            first = first + whole.mean(1, keepdim=True) * self.n_patches**0.5
            return torch.cat([first, self.pre(patches)], 1)
        return self.pre(torch.cat([first, patches], 1))

    def prefix(self, tokens: Tensor, layer: int) -> Tensor:
        """Tokens after the first `layer` blocks (B, T, width)."""
        for block in self.blocks[: self.check_layer(layer)]:
            tokens = self._run(block, tokens)
        return tokens

    def forward_from(self, tokens: Tensor, layer: int) -> Tensor:
        """Embeddings (B, embed_dim) from tokens that stand before block `layer` (0 = all blocks are run)."""
        rest = self.blocks[self.check_layer(layer) :]
        for i, block in enumerate(rest):
            tokens = self._run(block, tokens, first_only=i == len(rest) - 1)
        return self.embed(tokens)

    def embed(self, tokens: Tensor) -> Tensor:
        """Final norm and head on the class token: (B, T, width) -> (B, embed_dim)."""
        return self.head(self.norm(tokens[:, 0]))

    def with_attentions(self, tokens: Tensor, layer: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Embeddings and the attention probabilities (B, heads, T, T) of blocks `layer` and later, in one graph."""
        maps = []
        for block in self.blocks[self.check_layer(layer) :]:
            assert isinstance(block, Block)
            tokens, probabilities = block.with_attention(tokens)
            maps.append(probabilities)
        return self.embed(tokens), maps

    def check_layer(self, layer: int) -> int:
        """The layer number, or DataError with the numbers there are."""
        if not 0 <= layer <= len(self.blocks):
            raise DataError(f"volume encoder: layer {layer} is not available; available are 0 to {len(self.blocks)}")
        return layer

    def voxel_weights(self) -> Tensor:
        """Projection weights of each voxel (V, width) in mask order, zero for voxels left out."""
        if not self.design.per_patch:
            raise DataError("volume encoder: a shared projection has no weights of each voxel; build it with per_patch=True")
        return self.projection.new_zeros(self.n_voxels, self.design.width).index_copy(0, self.order, self.projection)

    @torch.no_grad()
    def load_linear(self, weights: Tensor, intercept: Tensor) -> float:
        """Starts the encoder as the linear decoder z = x W + b: weights (V, embed_dim), intercept (embed_dim,).

        The class token carries s (x W + b) Q E^T with Q the leading eigenvectors of W^T W (embed_dim, r), E (width, r)
        orthonormal and orthogonal to the ones vector, and the head is E Q^T; layer norm then only rescales, since
        nothing has a mean over channels, and every cosine is the decoder's. s makes the carried tokens of unit size
        for white voxels. Blocks are set to the identity, positions to zero. Exact if rank <= width - 1; returns the share of
        ||W||^2 that was kept.

        Raises DataError without class_token="sum" and per_patch=True, or for other shapes.
        """
        design = self.design
        if design.class_token != "sum" or not design.per_patch:
            raise DataError("load_linear needs class_token='sum' and per_patch=True, so that the blocks can be bypassed")
        if weights.shape != (self.n_voxels, design.embed_dim) or intercept.shape != (design.embed_dim,):
            raise DataError(
                f"load_linear: weights {tuple(weights.shape)} and intercept {tuple(intercept.shape)} do not fit "
                f"({self.n_voxels}, {design.embed_dim}) and ({design.embed_dim},)"
            )
        w = weights.detach().to("cpu", torch.float64)[self.order.cpu()]
        values, vectors = torch.linalg.eigh(w.T @ w)
        rank = min(design.width - 1, design.embed_dim)
        top = vectors[:, -rank:]
        ones = torch.ones(design.width, 1, dtype=torch.float64)
        basis = torch.linalg.qr(torch.cat([ones, torch.eye(design.width, dtype=torch.float64)[:, : design.width - 1]], 1))[0]
        carry = top @ basis[:, 1 : rank + 1].T
        size = (values.clamp_min(0).sum() / design.width).sqrt().clamp_min(1e-30)
        self.projection.copy_((w @ carry) / size * self.n_patches**0.5)
        self.class_token.copy_(intercept.detach().to("cpu", torch.float64) @ carry / size)
        self.position.zero_()
        self.head.weight.copy_(carry)
        for block in self.blocks:
            for layer in (block.get_submodule("out"), block.get_submodule("contract")):
                for parameter in layer.parameters():
                    parameter.zero_()
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.weight.fill_(1)
            self.norm.bias.zero_()
        return float(values[-rank:].clamp_min(0).sum() / values.clamp_min(0).sum().clamp_min(1e-30))

    def _run(self, block: nn.Module, tokens: Tensor, first_only: bool = False) -> Tensor:
        if self.design.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, tokens, first_only=first_only, use_reentrant=False)
        return block(tokens, first_only=first_only)


def _linear(inputs: int, outputs: int, std: float, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)  # leaves the global random state alone
    with torch.no_grad():
        layer.weight.normal_(0.0, 1.0, generator=generator).mul_(std)
        if bias:
            layer.bias.zero_()
    return layer


def _grouped(groups: np.ndarray | Sequence[int], n_voxels: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(groups)
    if labels.shape != (n_voxels,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"volume encoder: groups must be {n_voxels} integers, got {labels.dtype} {labels.shape}")
    if not (labels >= 0).any():
        raise DataError("volume encoder: every voxel has a negative group, nothing is left")
    number = np.full(n_voxels, -1)
    number[labels >= 0] = np.unique(labels[labels >= 0], return_inverse=True)[1]
    return number, np.zeros(n_voxels, dtype=np.int64)
