"""Encoders from sensor recordings (trial, channel, time) to embeddings (trial, feature): the TSConv and its baselines.

The TSConv of NICE is a temporal convolution, an average pool, batch norm, ELU and a convolution over channels. The first
three are affine in the recording, so they are done here as one matrix product on short windows:

1. convolution and pool are both linear: a box filter on the data (no parameters, once per recording) and a strided
   25-tap convolution give the same numbers as a dense convolution and a pool, with 15 times fewer products;
2. the batch statistics of a linear map follow from the second moments of its windows, mean_k = w_k . m and
   var_k = w_k' C w_k, so batch norm folds into the weights, and its backward pass runs over a 26 x 26 matrix instead of
   23 million activations;
3. ELU runs in the cache, on pieces of a few trials, and its output lies as the spatial product needs it.

Recordings in bfloat16 run both products in bfloat16 (sums in float32, weights and all the rest in float32): faster where the
processor has such products, and not equal to 1e-5.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.types import DataError

LOG2E = 1.4426950408889634
CHUNK = 4  # trials per piece on the CPU: windows and activations of 4 x 36 x 63 fit in a second-level cache


def box_filter(x: Tensor, width: int = 51) -> Tensor:
    """Moving mean over `width` samples of the last axis: (..., T) -> (..., T - width + 1).

    Linear, so filtering the recording once equals the average pool after the temporal convolution (pool stride aside).
    Raises DataError when the recording is shorter than the filter.
    """
    samples = x.shape[-1]
    if samples < width:
        raise DataError(f"box filter of {width} samples on a recording of {samples}; give a longer window or a shorter pool")
    if samples <= 1024:  # a product with a banded matrix, more arithmetic and less memory traffic than a running sum
        offset = torch.arange(samples, device=x.device)[:, None] - torch.arange(samples - width + 1, device=x.device)
        return x @ ((offset >= 0) & (offset < width)).to(x.dtype).div(width)
    total = F.pad(x.double().cumsum(-1), (1, 0))
    return ((total[..., width:] - total[..., : samples - width + 1]) / width).to(x.dtype)


def tsconv_steps(samples: int, kernel: int = 25, pool: int = 51, stride: int = 5) -> int:
    """Time steps after temporal convolution and pool, floor((T - kernel + 1 - pool) / stride) + 1; 36 for 250 samples.

    Raises DataError when the recording is too short for one step.
    """
    steps = (samples - kernel + 1 - pool) // stride + 1
    if samples < kernel - 1 + pool:
        raise DataError(f"{samples} samples are too few for kernel {kernel} and pool {pool}; give at least {kernel - 1 + pool}")
    return steps


def _windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """(B, C, T) -> (B, W, C, kernel + 1), the last column 1 so that a shift is part of the matrix product."""
    cut = x.unfold(2, kernel, stride).permute(0, 2, 1, 3)
    if x.requires_grad:
        return torch.cat([cut, cut.new_ones(*cut.shape[:3], 1)], -1)
    out = x.new_empty(*cut.shape[:3], kernel + 1)
    out[..., :kernel].copy_(cut)
    out[..., kernel] = 1
    return out


def window_moments(x: Tensor, *, kernel: int = 25, stride: int = 5) -> Tensor:
    """Sum over windows of [window, 1] [window, 1]' for each trial of box-filtered data: (B, C, T) -> (B, kernel + 1, kernel + 1).

    They depend on the data alone, so a training computes them once and a step only adds those of its batch.
    """
    pieces = []
    for part in x.split(len(x) if x.is_cuda else CHUNK):
        flat = _windows(part.double(), kernel, stride).flatten(1, 2)  # a covariance is a difference of these sums
        pieces.append(flat.transpose(1, 2) @ flat)
    return torch.cat(pieces)


def product(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    """a (n, p) @ b (p, m) = (n, m), in their own precision, by oneDNN on the CPU where torch has it.

    torch sends float32 products to MKL, which keeps to half-width registers on processors that are not Intel's.
    """
    direct = torch.ops.mkldnn._linear_pointwise if _ONEDNN and not a.is_cuda and a.dtype == torch.float32 else None
    if direct is None:
        return torch.mm(a, b, out=out) if out is not None else a @ b
    found: Tensor = direct(a, b.t(), None, "none", [], "")
    return found if out is None else out.copy_(found)


def _has_onednn() -> bool:
    """Whether the fused linear layer that torch's compiler uses is there and takes plain matrices."""
    try:
        torch.ops.mkldnn._linear_pointwise(torch.zeros(2, 2), torch.zeros(2, 2), None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.backends.mkldnn.is_available())


_ONEDNN = _has_onednn()


def _elu(z: Tensor, out: Tensor) -> None:
    """out = elu(z) = max(z, 2^(min(z, 0) log2 e) - 1); torch's elu takes twice as long, its 2^x a quarter of its e^x."""
    if z.is_cuda:
        out.copy_(F.elu_(z))
        return
    low = torch.clamp(z, max=0).mul_(LOG2E).exp2_().sub_(1)
    torch.maximum(z, low, out=out)


def _outer(cut: Tensor, back: Tensor) -> Tensor:
    """sum_i cut_i' back_i, trial by trial and added in double; in bfloat16 all at once, whose rounding is larger anyway."""
    if cut.dtype == torch.bfloat16:
        return product(cut.flatten(0, 1).t(), back.flatten(0, 1)).double()
    return (cut.transpose(1, 2) @ back).double().sum(0)


class _Buffers:
    """Activations kept for the backward pass, reused from step to step: a fresh 93 MB costs more in page faults than ELU."""

    def __init__(self) -> None:
        self.free: list[Tensor] = []

    def lease(self, like: Tensor, rows: int, columns: int) -> _Lease:
        for i, old in enumerate(self.free):
            if old.shape == (rows, columns) and old.dtype == like.dtype and old.device == like.device:
                return _Lease(self, self.free.pop(i))
        self.free.clear()
        return _Lease(self, like.new_empty(rows, columns))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Buffers:
        return _Buffers()


class _Lease:
    """A buffer that goes back when nothing refers to it: a graph may be walked twice (retain_graph) or never."""

    def __init__(self, owner: _Buffers, tensor: Tensor) -> None:
        self.owner, self.tensor = owner, tensor

    def __del__(self) -> None:
        if len(self.owner.free) < 2:
            self.owner.free.append(self.tensor)


class _TemporalSpatial(torch.autograd.Function):
    """out (B W, O) = elu(windows(x) @ affine) @ spatial, with windows (B W C, kernel + 1), spatial (C K, O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, affine: Tensor, spatial: Tensor, stride: int, buffers: _Buffers) -> Tensor:  # type: ignore[override]
        taps, filters = affine.shape
        batch, channels, samples = x.shape
        steps = (samples - taps + 1) // stride + 1
        lease = buffers.lease(x, batch * steps, channels * filters)
        out = spatial.new_empty(batch * steps, spatial.shape[1])
        narrow, wide = affine.to(x.dtype), spatial.detach().to(x.dtype)
        size = batch if x.is_cuda else CHUNK
        for start in range(0, batch, size):
            rows = slice(start * steps, min(start + size, batch) * steps)
            cut = _windows(x.detach()[start : start + size], taps - 1, stride)
            active = lease.tensor[rows]
            _elu(product(cut.view(-1, taps), narrow), active.view(-1, filters))
            out[rows] = product(active, wide)
        ctx.save_for_backward(x, affine, spatial)
        ctx.lease, ctx.stride, ctx.steps = lease, stride, steps
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, affine, spatial = ctx.saved_tensors
        taps, filters = affine.shape
        batch, steps = len(x), ctx.steps
        d_affine, d_spatial = torch.zeros_like(affine), torch.zeros_like(spatial).t().contiguous()
        d_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad, wide = grad.to(x.dtype).contiguous(), spatial.t().to(x.dtype)
        size = batch if x.is_cuda else min(CHUNK, batch)
        for start in range(0, batch, size):
            stop = min(start + size, batch)
            rows = slice(start * steps, stop * steps)
            active, back = ctx.lease.tensor[rows], product(grad[rows], wide)
            torch.ops.aten.elu_backward.grad_input(back, 1.0, 1.0, 1.0, True, active, grad_input=back)
            d_spatial += product(grad[rows].t(), active)
            cut = _windows(x.detach()[start:stop], taps - 1, ctx.stride)
            # norm removes most of this sum again, so the pieces are added in double
            d_affine += _outer(cut.view(stop - start, -1, taps), back.view(stop - start, -1, filters))
            if d_x is not None:
                d_windows = product(back.view(-1, filters), affine[:-1].t().to(x.dtype))
                d_cut = d_windows.view(stop - start, steps, -1, taps - 1).transpose(1, 2)
                for tap in range(taps - 1):
                    last = tap + (steps - 1) * ctx.stride + 1
                    d_x[start:stop, :, tap : last : ctx.stride] += d_cut[..., tap]
        return d_x, d_affine, d_spatial.t(), None, None


class TSConv(nn.Module):
    """Temporal-spatial convolution: (B, C, T) -> (B, filters * W), W = tsconv_steps(T); 1440 for 63 x 250.

    conv(1, filters, (1, kernel)) -> mean over (1, pool), stride -> batch norm -> ELU -> conv(filters, filters, (C, 1))
    -> batch norm -> ELU -> dropout -> conv(filters, filters, 1), flattened time-major as in the NICE code. Parameters are
    those of the separate layers; only the order of the sums differs (outputs and gradients agree to 1e-5).
    With filtered=True the input has gone through `box_filter` already and holds T - pool + 1 samples.
    Source: NICE (Song et al. 2024); NeuroAlign A.2.2 and A.3.4, k = 40, m1 = 25, m2 = 51, s = 5.
    Raises DataError for a recording of another shape than (B, channels, samples).
    """

    def __init__(
        self,
        channels: int,
        samples: int,
        *,
        filters: int = 40,
        kernel: int = 25,
        pool: int = 51,
        stride: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.channels, self.samples, self.kernel, self.pool, self.stride = channels, samples, kernel, pool, stride
        self.filtered = False
        self.steps = tsconv_steps(samples, kernel, pool, stride)
        self.width = filters * self.steps
        self.temporal = nn.Conv2d(1, filters, (1, kernel))
        self.norm1 = nn.BatchNorm2d(filters)
        self.spatial = nn.Conv2d(filters, filters, (channels, 1))
        self.norm2 = nn.BatchNorm2d(filters)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Conv2d(filters, filters, 1)
        self._buffers_reused = _Buffers()

    def _affine(self, moments: Tensor) -> Tensor:
        """Temporal weights with batch norm folded in, (kernel + 1, filters), double; `moments` is summed over the batch."""
        weight = self.temporal.weight.flatten(1).double()
        bias = self.temporal.bias.double() if self.temporal.bias is not None else weight.new_zeros(len(weight))
        norm = self.norm1
        if self.training:
            count = moments[-1, -1]
            mean_window = moments[-1, :-1] / count
            covariance = moments[:-1, :-1] / count - torch.outer(mean_window, mean_window)
            mean, variance = weight @ mean_window + bias, torch.einsum("kt,ts,ks->k", weight, covariance, weight)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            with torch.no_grad():
                rate = norm.momentum or 0.1
                norm.running_mean.lerp_(mean.to(norm.running_mean), rate)
                norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var), rate)
                norm.num_batches_tracked.add_(1)
        else:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            mean, variance = norm.running_mean.double(), norm.running_var.double()
        gain = norm.weight.double() / torch.sqrt(variance + norm.eps)
        shift = (bias - mean) * gain + norm.bias.double()
        return torch.cat([(weight * gain[:, None]).t(), shift[None]])

    def layers(self) -> nn.Sequential:
        """The same network as separate layers that share these weights, (B, 1, C, T) -> (B, filters, 1, W).

        For methods that look at every layer. In time-major order its output is that of `forward`.
        """
        pool = nn.AvgPool2d((1, self.pool), (1, self.stride))
        parts = (self.temporal, pool, self.norm1, nn.ELU(), self.spatial, self.norm2, nn.ELU(), self.dropout, self.mix)
        return nn.Sequential(*parts)

    def forward(self, x: Tensor, moments: Tensor | None = None) -> Tensor:
        """x (B, C, T); moments (B, kernel + 1, kernel + 1) of the same trials, from `window_moments`, or None to compute them."""
        expected = self.samples - self.pool + 1 if self.filtered else self.samples
        if x.ndim != 3 or x.shape[1:] != (self.channels, expected):
            raise DataError(f"TSConv was built for (trial, {self.channels}, {expected}), got {tuple(x.shape)}")
        x = x if self.filtered else box_filter(x, self.pool)
        total = torch.zeros(())
        if self.training:
            each = window_moments(x, kernel=self.kernel, stride=self.stride) if moments is None else moments
            total = each.double().sum(0)
        affine = self._affine(total)
        filters = len(self.temporal.weight)
        spatial = self.spatial.weight.squeeze(-1).permute(2, 1, 0).reshape(self.channels * filters, filters)
        hidden = _TemporalSpatial.apply(x, affine, spatial, self.stride, self._buffers_reused) + self.spatial.bias
        hidden = self.dropout(F.elu(self.norm2(hidden[..., None, None])[..., 0, 0]))
        mixed = F.linear(hidden, self.mix.weight.flatten(1), self.mix.bias)
        return mixed.view(len(x), self.width)


class Head(nn.Module):
    """Projection head of NICE: y = W x + b; y + dropout(W' gelu(y) + b'); layer norm. (B, d_in) -> (B, d_out)."""

    def __init__(self, d_in: int, d_out: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.enter = nn.Linear(d_in, d_out)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(d_out, d_out), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(d_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.norm(y + self.residual(y))
