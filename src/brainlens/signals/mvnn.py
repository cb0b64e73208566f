"""Multivariate noise normalisation (MVNN): recordings whitened by the mean covariance of their epochs.

    Sigma = mean over epochs of the Ledoit-Wolf covariance of the epoch's samples,   x <- Sigma^(-1/2) x

as in Guggenmos et al. 2018 and the THINGS-EEG2 pipeline, which computes one covariance at a time. Here all epochs of a
block are done at once, in double: the shrinkage needs only the product X X' and the sums of squares of each sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from brainlens.store import release
from brainlens.types import DataError, Responses
from brainlens.warned import warn

if TYPE_CHECKING:  # a list of recordings names readers that whiten, and waits for no torch
    from torch import Tensor

FORMS = ("epochs", "time")
EPS = float(np.finfo(np.float64).eps)
RELEASED = 1 << 28  # bytes of a memory map that are read before its pages are given back


def shrunk_covariance(x: Tensor) -> Tensor:
    """Ledoit-Wolf covariances of (batch, variable, sample), shrunk on standardised variables: (batch, variable, variable).

    With z the standardised variables, p of them, n samples, S = z z' / n, mu = tr S / p:
    b = [sum_t |z_t|^4 / n - |S|^2] / (p n), d = |S - mu I|^2 / p, rho = min(b, d) / d, C = (1 - rho) S + rho mu I, and the
    scales are put back. Equal to sklearn's `_cov(x.T, shrinkage="auto")` for each, in double. Source: Ledoit & Wolf 2004.
    """
    import torch

    x = x.double()
    mean = x.mean(-1, keepdim=True)
    x = x - mean  # the one pass that writes; everything after it is a product or of the size of the covariance
    p, n = x.shape[-2:]
    raw = torch.bmm(x, x.transpose(1, 2)).div_(n)
    variance = raw.diagonal(dim1=1, dim2=2)
    flat = variance <= n * EPS * variance + (n * EPS * mean[..., 0]).square()  # as sklearn tells a constant variable
    squares = torch.where(flat, 1.0, variance)
    inverse = squares.reciprocal()
    squared = torch.bmm(inverse[:, None], torch.bmm(raw.square(), inverse[:, :, None]))[:, 0, 0]  # |S|^2, without making S
    mu = (variance * inverse).mean(1)
    lengths = torch.bmm(inverse[:, None], x.square_())  # |z_t|^2, without making z
    b = (lengths.square().sum((1, 2)) / n - squared) / (p * n)
    d = (squared - p * mu.square()) / p
    rho = torch.where(d > 0, torch.minimum(b, d) / d.clamp_min(1e-300), torch.zeros_like(d))
    raw.mul_((1 - rho)[:, None, None])
    raw.diagonal(dim1=1, dim2=2).add_((rho * mu)[:, None] * squares)
    return raw


def mvnn_covariance(
    data: np.ndarray, *, rows: np.ndarray | None = None, form: str = "epochs", groups: np.ndarray | None = None, block: int = 8
) -> np.ndarray:
    """Mean shrunk covariance (channel, channel) of recordings (trial, channel, time), a few at a time, which stay in the cache.

    form "epochs": samples of an epoch are its time points; "time": at each time point the samples are the repetitions of
    one stimulus (`groups` (trial,) says which), averaged over time points and stimuli. rows: trials that count.
    Raises DataError for NaN, an unknown form, or "time" without two repetitions of anything.
    """
    import torch

    if form not in FORMS or data.ndim != 3:
        raise DataError(f"MVNN: form {form!r} is not one of {list(FORMS)}, or data {data.shape} is not (trial, channel, time)")
    rows = np.arange(len(data)) if rows is None else np.asarray(rows)
    if not len(rows):
        raise DataError("MVNN: no trial to estimate the noise from; check fit_on")
    total, count = torch.zeros(data.shape[1], data.shape[1], dtype=torch.float64), 0
    read = 0
    for part in _pieces(rows, form, groups, block):
        x = torch.as_tensor(np.asarray(data[part], dtype=np.float64))
        read += len(part) * data[:1].nbytes
        if read > RELEASED:
            release(data)
            read = 0
        if not torch.isfinite(x).all():
            raise DataError(f"MVNN: trials {part[:3].tolist()}... hold NaN or infinite values; clean() the recording first")
        x = x if form == "epochs" else x.permute(2, 1, 0)
        total, count = total + shrunk_covariance(x).sum(0), count + len(x)
    return (total / count).numpy()


def whitener(covariance: np.ndarray, *, floor: float = 1e-10) -> np.ndarray:
    """Sigma^(-1/2) by eigenvectors; eigenvalues below `floor` of the largest (a channel that repeats others) are raised to it.

    covariance (channel, channel) -> the same shape. Raises DataError for a matrix that is not symmetric and positive.
    """
    if not np.allclose(covariance, covariance.T, rtol=1e-8, atol=1e-12 * np.abs(covariance).max()):
        raise DataError("MVNN: the covariance is not symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if values[-1] <= 0:
        raise DataError("MVNN: the covariance has no positive eigenvalue; the recording is flat")
    return (vectors / np.sqrt(np.maximum(values, floor * values[-1]))) @ vectors.T


def whiten(matrix: np.ndarray, data: np.ndarray) -> np.ndarray:
    """matrix @ each epoch, (trial, channel, time), in the precision of the data (at least float32)."""
    kind = np.float64 if data.dtype == np.float64 else np.float32
    with threadpool_limits(1, user_api="blas"):  # an epoch is too small to share: a second thread takes torch's core
        return np.matmul(matrix.astype(kind), np.asarray(data, kind))  # an epoch a product; torch would fold and copy all of them


def mvnn(
    responses: Responses,
    *,
    by: str | None = "session",
    fit_on: str | None = "train",
    form: str = "epochs",
    out: np.ndarray | None = None,
    block: int = 64,
) -> Responses:
    """Whitened recordings; the noise is estimated in each group `by` (subjects are never mixed) from split == fit_on only.

    Training trials alone are the default, as in NICE and UBP; fit_on=None takes all trials (Gifford averages training and
    test covariances, which lets test trials shape their own whitening). out (trial, channel, time): array or memory map to
    fill, float32 where absent. Memory beyond it: a block of epochs. One subject a call makes the work resumable by subject.
    """
    trials = responses.trials
    keys = [name for name in ("subject", by) if name is not None and name in trials.columns]
    if by is not None and by not in trials.columns:
        raise DataError(f"MVNN: trials have no column {by!r}; they have {sorted(map(str, trials.columns))}")
    if fit_on is not None and "split" not in trials.columns:
        raise DataError("MVNN: trials have no column 'split'; add it, or pass fit_on=None to use all trials")
    group = trials.groupby(keys, sort=False).ngroup().to_numpy() if keys else np.zeros(len(trials), int)
    fit = np.ones(len(trials), bool) if fit_on is None else (trials["split"] == fit_on).to_numpy()
    stimulus = trials["stimulus"].to_numpy()
    out = np.empty(responses.data.shape, np.float32) if out is None else out
    if out.shape != responses.data.shape:
        raise DataError(f"MVNN: out has shape {out.shape}, the recording {responses.data.shape}")
    for number in range(group.max() + 1):
        inside = np.flatnonzero(group == number)
        base = inside[fit[inside]]
        if not len(base):
            where = trials.iloc[inside[0]][keys].to_dict()
            raise DataError(f"MVNN: {where} has no trial with split={fit_on!r}; use by=None or fit_on=None")
        matrix = whitener(mvnn_covariance(responses.data, rows=base, form=form, groups=stimulus))
        for start in range(0, len(inside), block):
            part = inside[start : start + block]
            out[part] = whiten(matrix, responses.data[part])
    return Responses(out, trials, responses.units, responses.space, responses.times, "z")


def _pieces(rows: np.ndarray, form: str, groups: np.ndarray | None, block: int) -> list[np.ndarray]:
    if form == "epochs":
        return [rows[start : start + block] for start in range(0, len(rows), block)]
    if groups is None:
        raise DataError("MVNN: form 'time' needs groups, the stimulus of each trial")
    _, number, many = np.unique(np.asarray(groups)[rows], return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    found = [rows[part] for part in np.split(order, np.cumsum(many)[:-1]) if len(part) > 1]
    if not found:
        raise DataError("MVNN: form 'time' needs stimuli with two repetitions or more; use form='epochs'")
    if len(found) < len(many):
        warn(f"MVNN: {len(many) - len(found)} stimuli shown once do not count in form 'time'")
    return found
