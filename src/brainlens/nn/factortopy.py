"""FactorTopy: which place, layer, scale and channels of a network each voxel reads (Brain Decodes Deep Nets, 2024).

    y_i = < sum_l omega_il ((1 - alpha_i) Interp(u_i; B_l V_l) + alpha_i B_l g_l), w_i > / D + b_i          (eq. 1)

u (space), omega (layer) and alpha (scale) come from small networks on sinusoidally encoded voxel coordinates, so that
neighbours read alike; w_i is free. V_l are the spatial tokens and g_l the global token of layer l.

The same numbers with fewer operations. The listing samples every layer at every voxel and holds [image, voxel, D, layer]
twice: 8 x 37,984 x 128 x 12 floats are 1.87 GB each, and a dozen passes over them are the whole cost. But bilinear
sampling reads the four corners of one grid cell, and all voxels of a cell read the same corners. With the voxels sorted
by cell (81 cells on an 8 x 8 grid with its margin), T_cell = [5 L, B, D] holds the cell's corners and the global token and

    U_n = T_cell w_n   ([5 L B, D] x [D, voxels of the cell], one matrix product),   y_nb = sum_kl c_nk omega_nl U_nklb

with c the four bilinear weights times (1 - alpha) and alpha. Nothing larger than U, 5 L B numbers a voxel, exists.

The floor of a step, in multiply-adds, for N = 37,984, B = 8, L = 12, C = 768, D = 128: the products above touch each
entry of T_cell once per voxel, 5 L B D N = 2.3e9 forward and twice that backward (7.0e9; no order of contraction touches
fewer); the three selector networks (192 x 128 + 128 x 128) 3 N = 4.7e9 forward and 6.5e9 backward; the bottlenecks
B L 65 C D = 0.6e9, twice; 19.5e9 in all, and AdamW moves 7 arrays of 6.2e6 numbers (0.17 GB).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.types import DataError

GRID = 8  # the paper resizes every map to 8 x 8
OPTIONS: dict[str, tuple[Any, ...]] = {  # of form, the default first
    "shared_bottleneck": (True, False),
    "padding": ("border", "zeros"),
    "reduce": ("mean", "sum"),
    "zero_start": (False, True),
    "readout": ("normal", "linear"),
}


class PositionCode(nn.Module):
    """Sinusoidal code of voxel coordinates: (voxel, 3) -> (voxel, 6 x frequencies).

    Coordinates are shifted to the smallest and scaled so that the longest axis of the *fitted* points spans `steps`;
    code_f = sin, cos(x / period^(f / frequencies)). The bounds are stored: computed from the points of each call, as the
    released code does, a subset of voxels would get other selectors than within the whole.
    """

    lowest: Tensor
    span: Tensor

    def __init__(self, coordinates: Tensor, *, steps: float = 100.0, frequencies: int = 32, period: float = 1000.0) -> None:
        super().__init__()
        check_coordinates(coordinates)
        lowest = coordinates.double().amin(0)
        span = (coordinates.double().amax(0) - lowest).max().clamp_min(1e-12)
        self.register_buffer("lowest", lowest)
        self.register_buffer("span", span)
        self.steps, self.frequencies, self.period = steps, frequencies, period
        self.width = 6 * frequencies

    def forward(self, coordinates: Tensor) -> Tensor:
        check_coordinates(coordinates)
        at = (coordinates.double() - self.lowest) / self.span * self.steps
        rates = self.period ** (-torch.arange(self.frequencies, device=at.device, dtype=at.dtype) / self.frequencies)
        angle = at[:, :, None] * rates
        return torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1).float()


class Selectors(nn.Module):
    """Space, layer and scale of each voxel: code (voxel, width) -> u (voxel, sample, 2), omega (voxel, layer), alpha (voxel,).

    Three networks width -> hidden -> hidden -> k with GELU, ending in tanh, softmax and sigmoid; with topological=False
    they are free numbers per voxel instead. zero=True starts as the released code does, every voxel at the image
    centre, uniform over layers, alpha = 1/2; the paper starts at random.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        voxels: int,
        *,
        samples: int = 1,
        hidden: int = 128,
        topological: bool = True,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.samples, self.hidden, self.topological = samples, hidden, topological
        sizes = (2 * samples, layers, 1)
        if topological:
            self.first = nn.Linear(width, 3 * hidden)  # the first layers of all three in one product
            self.second = nn.ModuleList(nn.Linear(hidden, hidden) for _ in sizes)
            self.last = nn.ModuleList(nn.Linear(hidden, k, bias=False) for k in sizes)
            if zero:
                for layer in self.last:
                    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        else:
            self.free = nn.ParameterList(nn.Parameter(torch.zeros(voxels, k)) for k in sizes)
            if not zero:
                for value in self.free:
                    nn.init.normal_(value, std=0.1)

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.topological:
            parts = F.gelu(self.first(code)).split(self.hidden, dim=1)
            raw = [last(F.gelu(second(part))) for part, second, last in zip(parts, self.second, self.last, strict=True)]
        else:
            raw = list(self.free)
        space = torch.tanh(raw[0]).unflatten(1, (self.samples, 2))
        return space, torch.softmax(raw[1], dim=1), torch.sigmoid(raw[2][:, 0])


class FactorTopyNetwork(nn.Module):
    """Predicts every voxel's response to images from layered tokens; see the module's text for the equation.

    channels: {layer: C}. forward(tokens {layer: (image, 64, C)}, globals {layer: (image, C)}) -> (image, voxel).
    Options, the paper's choice first: samples 1 or 3 places per voxel (their mean); use: the selectors switched on, the
    others averaged over (all layers alike, all places, alpha = 1/2); topological=False frees the selectors per voxel;
    shared_bottleneck=True one B_l for spatial and global tokens (the code has two); padding "border" keeps the edge
    value beyond the outermost token centres, "zeros" is the code's, which halves voxels pushed to the border;
    reduce "mean" as in listing and code, "sum" as in eq. 1; zero_start as in the code; readout "normal" starts w at N(0, 1),
    "linear" at U(-1/sqrt(D), 1/sqrt(D)), as the `nn.Linear` of the code does, 20 times smaller. common=True adds what all
    voxels read beside their own, <B_s g_s, z_i> / D with the global token of one layer s, `common_layer` (-1: of none), and
    free z_i (not in the paper).
    Raises DataError on missing or NaN coordinates and on unknown options.
    """

    code: Tensor
    corners: Tensor
    common_layer: Tensor

    def __init__(
        self,
        coordinates: Tensor,
        channels: Mapping[str, int],
        *,
        width: int = 128,
        samples: int = 1,
        use: Sequence[str] = ("space", "layer", "scale"),
        topological: bool = True,
        common: bool = False,
        variant: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {name: values[0] for name, values in OPTIONS.items()} | dict(variant or {})
        _check_options(options, use, samples)
        self.layers, self.width, self.samples, self.use, self.options = list(channels), width, samples, tuple(use), options
        voxels = len(coordinates)
        self.position = PositionCode(coordinates)
        self.register_buffer("code", self.position(coordinates), persistent=False)
        self.selectors = Selectors(
            self.position.width, len(channels), voxels, samples=samples, topological=topological, zero=options["zero_start"]
        )
        self.local = nn.ParameterList(_bottleneck(c, width) for c in channels.values())
        shared = options["shared_bottleneck"]
        self.whole = nn.ParameterList([] if shared else [_bottleneck(c, width) for c in channels.values()])
        self.readout, self.bias = start_readout(voxels, width, options["readout"])
        self.register_buffer("corners", corner_index(GRID, options["padding"] == "zeros"), persistent=False)
        self.common = common
        if common:
            self.register_buffer("common_layer", torch.tensor(len(channels) - 1))
            self.common_readout = nn.Parameter(torch.zeros(voxels, width))

    def forward(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> Tensor:
        return self.predict(tokens, whole, self.select())

    def predict(
        self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor], selected: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Responses (image, voxel) with selectors that are already at hand, as `select` gives them."""
        table = self.table(tokens, whole)
        space, omega, alpha = selected
        scale = 1 / self.width if self.options["reduce"] == "mean" else 1.0
        offset: Tensor = self.bias
        if self.reads_common:
            offset = offset + self.common_tokens(table) @ self.common_readout.T * scale
        if "space" not in self.use:
            average = torch.stack([table[: GRID**2].mean(0), table[-1]])
            mix = torch.stack([1 - alpha, alpha], dim=1)
            both = torch.arange(2, device=mix.device)[None]
            cell = torch.zeros(len(alpha), dtype=torch.long, device=alpha.device)
            return read_cells(average, both, cell, mix, omega, self.readout).T * scale + offset
        total: Tensor | None = None
        for sample in range(self.samples):
            cell, bilinear = locate(space[:, sample], GRID)
            mix = torch.cat([bilinear * (1 - alpha)[:, None], alpha[:, None]], dim=1)
            part = read_cells(table, self.corners, cell, mix, omega, self.readout)
            total = part if total is None else total + part
        assert total is not None
        return total.T * (scale / self.samples) + offset

    @property
    def reads_common(self) -> bool:
        """Whether there is a common reading, and a layer that it is of."""
        return self.common and int(self.common_layer) >= 0

    def common_tokens(self, table: Tensor) -> Tensor:
        """B_s g_s, (image, D), of a table as `table` gives it."""
        return table[-1, int(self.common_layer)]

    def table(self, tokens: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> Tensor:
        """Bottlenecked tokens: (64 places + zero + global, layer, image, D)."""
        columns = []
        for i, layer in enumerate(self.layers):
            if layer not in tokens or layer not in whole:
                raise DataError(f"factortopy: no tokens for layer {layer!r}; given are {sorted(tokens)}")
            spatial, one = tokens[layer], whole[layer]
            if self.options["shared_bottleneck"]:
                mapped = torch.cat([spatial, one[:, None]], dim=1).to(self.readout.dtype) @ self.local[i]
            else:
                mapped = torch.cat(
                    [spatial.to(self.readout.dtype) @ self.local[i], (one.to(self.readout.dtype) @ self.whole[i])[:, None]], dim=1
                )
            columns.append(mapped)
        stacked = torch.stack(columns).permute(2, 0, 1, 3)  # (place, layer, image, D)
        nothing = stacked.new_zeros(1, *stacked.shape[1:])
        return torch.cat([stacked[:-1], nothing, stacked[-1:]])

    def select(self) -> tuple[Tensor, Tensor, Tensor]:
        """u (voxel, sample, 2) as (x, y) in [-1, 1], omega (voxel, layer), alpha (voxel,) of the fitted voxels."""
        space, omega, alpha = self.selectors(self.code)
        if "layer" not in self.use:
            omega = torch.full_like(omega, 1 / omega.shape[1])
        if "scale" not in self.use:
            alpha = torch.full_like(alpha, 0.5)
        return space, omega, alpha


def start_readout(voxels: int, width: int, kind: str) -> tuple[nn.Parameter, nn.Parameter]:
    """Channel weights (voxel, D) and bias (voxel,) before training: "normal" N(0, 1) and 0, "linear" both U(+-1/sqrt(D))."""
    if kind == "normal":
        return nn.Parameter(torch.randn(voxels, width)), nn.Parameter(torch.zeros(voxels))
    bound = width**-0.5
    return nn.Parameter((torch.rand(voxels, width) * 2 - 1) * bound), nn.Parameter((torch.rand(voxels) * 2 - 1) * bound)


def entropy_penalty(omega: Tensor, alpha: Tensor | None = None) -> Tensor:
    """Minus the mean entropy of the layer weights over log L, in [-1, 0]: added to the loss it keeps choices open.

    omega (voxel, layer), alpha (voxel,); returns a scalar.
    mean_i sum_l omega log omega / log L (appendix E.3, eq. 1). With alpha, the code's further term mean((alpha - .5)^2).
    """
    layers = omega.shape[1]
    spread = torch.special.entr(omega).sum(1).mean() / math.log(layers) if layers > 1 else omega.new_zeros(())
    return -spread if alpha is None else -spread + ((alpha - 0.5) ** 2).mean()


def locate(space: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Grid cell (voxel,) and the bilinear weights (voxel, 4) of its corners, for places (x, y) in [-1, 1].

    Pixel centres as in grid_sample with align_corners=False: pixel = ((u + 1) size - 1) / 2. Cells count from the
    margin, (size + 1)^2 of them, row-major; corners in the order top left, top right, bottom left, bottom right.
    """
    pixel = ((space + 1) * size - 1) / 2
    low = pixel.detach().floor().clamp(-1, size - 1)
    x, y = (pixel - low).unbind(1)
    index = (low + 1).long()
    weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=1)
    return index[:, 1] * (size + 1) + index[:, 0], weights


def corner_index(size: int, zeros: bool) -> Tensor:
    """Rows of the table that each of (size + 1)^2 cells reads: (cell, 5), four corners and the global token (last row).

    Beyond the edge the nearest token is read, or the row of zeros (number size^2).
    """
    edge = torch.arange(-1, size)
    top, left = torch.meshgrid(edge, edge, indexing="ij")
    rows = torch.stack([top, top, top + 1, top + 1], dim=-1).flatten(0, 1)
    columns = torch.stack([left, left + 1, left, left + 1], dim=-1).flatten(0, 1)
    outside = (rows < 0) | (columns < 0) | (rows >= size) | (columns >= size)
    index = rows.clamp(0, size - 1) * size + columns.clamp(0, size - 1)
    if zeros:
        index[outside] = size * size
    return torch.cat([index, torch.full((len(index), 1), size * size + 1)], dim=1)


def read_cells(table: Tensor, corners: Tensor, cell: Tensor, mix: Tensor, omega: Tensor, readout: Tensor) -> Tensor:
    """sum_kl mix_nk omega_nl <table[corners[cell_n, k], l, b], readout_n>: (voxel, image).

    table (place, layer, image, D); corners (cell, k); cell (voxel,); mix (voxel, k); omega (voxel, layer);
    readout (voxel, D). Voxels are sorted by cell and each cell is one matrix product.
    """
    order = torch.argsort(cell, stable=True)
    counts = torch.bincount(cell, minlength=len(corners))
    used = counts.nonzero()[:, 0]
    corner_tokens = table[corners[used].flatten()].unflatten(0, (len(used), corners.shape[1]))
    weights = (mix[:, :, None] * omega[:, None, :]).flatten(1)
    if readout.is_cuda:
        return _read_blocks(corner_tokens, order, counts[used], weights, readout)
    return _ReadCells.apply(corner_tokens, order, counts[used].tolist(), weights, readout)


class _ReadCells(torch.autograd.Function):
    """The loop over cells with its own backward pass: U is kept, and the gradients are two products a cell."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor, counts: list[int], weights: Tensor, readout: Tensor) -> Tensor:
        images, k = tokens.shape[3], weights.shape[1]
        flat = tokens.reshape(len(counts), -1, tokens.shape[-1])
        keep = any(ctx.needs_input_grad)
        out = weights.new_empty(len(order), images)
        kept = []
        for i, rows in enumerate(order.split(counts)):
            u = torch.mm(readout[rows], flat[i].T).view(len(rows), k, images)
            out[rows] = torch.bmm(weights[rows][:, None], u)[:, 0]
            if keep:
                kept.append(u)
        ctx.save_for_backward(tokens, order, weights, readout, *kept)
        ctx.counts = counts
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tokens, order, weights, readout, *kept = ctx.saved_tensors
        (grad,) = grads
        flat = tokens.reshape(len(ctx.counts), -1, tokens.shape[-1])
        to_tokens, to_weights, to_readout = torch.empty_like(flat), torch.empty_like(weights), torch.empty_like(readout)
        for i, rows in enumerate(order.split(ctx.counts)):
            error = grad[rows]
            to_weights[rows] = torch.bmm(kept[i], error[:, :, None])[:, :, 0]
            to_u = (weights[rows][:, :, None] * error[:, None, :]).flatten(1)
            to_readout[rows] = to_u @ flat[i]
            torch.mm(to_u.T, readout[rows], out=to_tokens[i])
        return to_tokens.view_as(tokens), None, None, to_weights, to_readout


def _read_blocks(tokens: Tensor, order: Tensor, counts: Tensor, weights: Tensor, readout: Tensor, size: int = 256) -> Tensor:
    """The same as a batched product over blocks of `size` voxels of one cell, which keeps a GPU busy in a few launches."""
    blocks = (counts + size - 1) // size
    first = torch.cumsum(blocks, 0) - blocks
    sorted_cell = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    within = torch.arange(len(order), device=order.device) - (torch.cumsum(counts, 0) - counts)[sorted_cell]
    slot = first[sorted_cell] * size + within  # place of each sorted voxel in the padded blocks
    of_block = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), blocks)
    padded = readout.new_zeros(len(of_block) * size, readout.shape[1]).index_copy(0, slot, readout[order])
    flat = tokens.flatten(1, 3)[of_block]
    u = torch.bmm(padded.unflatten(0, (-1, size)), flat.transpose(1, 2)).flatten(0, 1)[slot]
    summed = torch.einsum("nk,nkb->nb", weights[order], u.unflatten(1, (weights.shape[1], -1)))
    return torch.empty_like(summed).index_copy(0, order, summed)


def resize_tokens(tokens: Tensor, grid: tuple[int, int], size: int = GRID) -> Tensor:
    """Spatial tokens (image, rows x columns, C) resized to (image, size x size, C) by bilinear interpolation."""
    if grid == (size, size):
        return tokens
    if tokens.ndim != 3 or grid[0] * grid[1] != tokens.shape[1]:
        raise DataError(f"tokens {tuple(tokens.shape)} do not fit a grid of {grid[0]} x {grid[1]}")
    maps = tokens.transpose(1, 2).unflatten(2, grid).float()
    resized = F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(tokens.dtype)


def check_coordinates(coordinates: Tensor) -> None:
    """Raises DataError unless coordinates are (voxel, 3) and finite."""
    if coordinates.ndim != 2 or coordinates.shape[1] != 3 or not len(coordinates):
        raise DataError(f"voxel coordinates must be (voxel, 3), got {tuple(coordinates.shape)}")
    bad = int((~torch.isfinite(coordinates)).any(1).sum())
    if bad:
        raise DataError(f"{bad} of {len(coordinates)} voxels have NaN or infinite coordinates; drop them or fill units x, y, z")


def _bottleneck(channels: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(channels, width).uniform_(-1, 1) / math.sqrt(channels))


def _check_options(options: Mapping[str, Any], use: Sequence[str], samples: int) -> None:
    for name, value in options.items():
        if name not in OPTIONS or value not in OPTIONS[name]:
            raise DataError(f"factortopy: option {name}={value!r} is not known; there are {OPTIONS}")
    unknown = set(use) - {"space", "layer", "scale"}
    if unknown or samples < 1:
        raise DataError(f"factortopy: use holds space, layer, scale and samples is at least 1, got {sorted(unknown)}, {samples}")
