"""The rows of a sensor alignment: who is trained on, who is tested, which images are held back, and recordings as tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from brainlens.nn.sensor_encoder import TSConv, box_filter, window_moments
from brainlens.store import select_rows
from brainlens.subjects import Protocol
from brainlens.types import DataError, Responses
from brainlens.types.sensor_units import check_magnitudes

FLOAT32_LIMIT = 1 << 30  # bytes; a larger training set is kept in half precision, whose rounding is far below the noise


@dataclass(frozen=True)
class SensorPart:
    """Recordings (row, channel, time), the row of each in the target tables, and box-filtered window moments if any."""

    x: Tensor
    target: Tensor
    moments: Tensor | None = None

    def batch(self, rows: Tensor, device: str) -> tuple[Tensor, Tensor | None, Tensor]:
        x = self.x[rows].to(device)
        x = x.float() if x.dtype == torch.float16 else x
        moments = None if self.moments is None else self.moments[rows].to(device)
        return x, moments, self.target[rows]


def split_subjects(responses: Responses, protocol: Protocol) -> tuple[Responses, Responses]:
    """(training rows, test rows) of a protocol; in "across" the tested subject is in no training row.

    Rows are not copied: data that lie on disk, or in memory in another order, are read when asked for (`store.LazyRows`).
    Raises DataError for an unknown subject, several subjects where one must be named, an image in both parts, and magnitudes
    that the measure cannot have, such as volts given as microvolts.
    """
    trials = responses.trials
    if responses.data.ndim != 3:
        raise DataError(f"sensor recordings are (trial, channel, time), got shape {responses.data.shape}")
    if "split" not in trials.columns:
        raise DataError("trials have no column 'split'; add one with values train and test")
    subject = trials["subject"].astype(str).to_numpy() if "subject" in trials.columns else np.full(len(trials), "1")
    known = list(pd.unique(subject))
    chosen = protocol.subject if protocol.subject is not None else known[0]
    if chosen not in known or (protocol.subject is None and len(known) > 1):
        raise DataError(f"subject {protocol.subject!r}: name one of {known} to test")
    if protocol.kind == "across" and len(known) < 2:
        raise DataError(f"protocol 'across' needs 2 subjects or more; the recording holds {known}")
    own = subject == chosen
    split = trials["split"].astype(str).to_numpy()
    train = (split == "train") & (own if protocol.kind == "within" else ~own)
    test = (split == "test") & own
    if not train.any() or not test.any():
        raise DataError(f"subject {chosen!r} leaves {train.sum()} training and {test.sum()} test trials; both must be there")
    names = trials["stimulus"].to_numpy(dtype=str)
    shared = np.intersect1d(names[train], names[test])
    if len(shared):
        raise DataError(f"{len(shared)} test images are in the training set, first {shared[0]!r}; fix the column 'split'")
    check_magnitudes(responses.data, subject, responses.measure, "responses are kept in uV and fT: multiply volts by 1e6")
    fitting, tested = (uncopied(responses, np.flatnonzero(keep)) for keep in (train, test))
    repeated = fitting.trials.duplicated([c for c in ("subject", "stimulus") if c in fitting.trials.columns]).any()
    return (fitting.average() if repeated else fitting), tested


def uncopied(responses: Responses, rows: np.ndarray) -> Responses:
    """responses.rows(rows), rows (n,) int, without a copy of the data."""
    return replace(responses, data=select_rows(responses.data, rows), trials=responses.trials.iloc[rows])


def channel_scale(data: np.ndarray, rows: np.ndarray, *, whitened: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (channel, 1) over training rows and time, in pieces; flat or missing channels are errors.

    whitened: 0 and 1, so that channels are not divided a second time.
    """
    total, square, count = 0.0, 0.0, 0
    for start in range(0, len(rows), 512):
        block = np.asarray(data[rows[start : start + 512]], dtype=np.float64)
        total, square = total + block.sum((0, 2)), square + (block**2).sum((0, 2))
        count += block.shape[0] * block.shape[2]
    mean = total / count
    spread = np.sqrt(np.maximum(square / count - mean**2, 0))
    bad = np.flatnonzero(~np.isfinite(spread) | (spread == 0))
    if len(bad):
        raise DataError(f"{len(bad)} channels are flat or hold NaN, first number {bad[0]}; drop them with clean()")
    if whitened:
        return torch.zeros(len(spread), 1), torch.ones(len(spread), 1)
    return torch.as_tensor(mean, dtype=torch.float32)[:, None], torch.as_tensor(spread, dtype=torch.float32)[:, None]


def prepare(x: Tensor, model: nn.Module) -> Tensor:
    """The box filter of x (B, channel, time) along time, where the encoder wants filtered data."""
    body = getattr(model, "encoder", None)
    return box_filter(x, body.pool) if isinstance(body, TSConv) and body.filtered else x


def tensors(
    data: np.ndarray,
    rows: np.ndarray,
    target: np.ndarray,
    *,
    model: nn.Module,
    scale: tuple[Tensor, Tensor],
    device: str,
    precision: str = "float32",
) -> SensorPart:
    """Scaled (and box-filtered) recordings with their window moments, made in pieces so that no float64 copy exists.

    data (trial, channel, time); rows (n,): the trials taken; target (trial,): row of each in the target tables; scale: mean and
    deviation (channel, 1).
    """
    body = getattr(model, "encoder", None)
    filtered = isinstance(body, TSConv) and body.filtered
    cut = data.shape[2] - (body.pool - 1 if isinstance(body, TSConv) and filtered else 0)
    half = len(rows) * data.shape[1] * cut * 4 > FLOAT32_LIMIT
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float16 if half else torch.float32
    x = torch.empty(len(rows), data.shape[1], cut, dtype=kind)
    moments = []
    for start in range(0, len(rows), 256):
        block = torch.as_tensor(np.asarray(data[rows[start : start + 256]], dtype=np.float32))
        if not torch.isfinite(block).all():
            raise DataError(
                f"trials {rows[start]} to {rows[min(start + 256, len(rows)) - 1]} hold NaN or infinity; drop them with clean()"
            )
        block = prepare((block - scale[0]) / scale[1], model)
        x[start : start + len(block)] = block
        if isinstance(body, TSConv) and filtered:
            moments.append(window_moments(x[start : start + len(block)].float(), kernel=body.kernel, stride=body.stride))
    on = device
    return SensorPart(x.to(on), torch.as_tensor(target[rows], device=on), torch.cat(moments).to(on) if moments else None)
