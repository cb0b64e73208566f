"""Which channels and samples speak for the right image: contributions of a sensor decoder's inputs, as scalp maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainlens.attribution.channels import channel_share, contributions, deeplift, similarity_score
from brainlens.datasets.sensors import SensorRecording
from brainlens.metrics import timecourse
from brainlens.models.sensors.decoder import SensorDecoder
from brainlens.nn.sensor_baselines import SensorModel
from brainlens.nn.sensor_encoder import TSConv
from brainlens.nn.sensor_linear import BinnedLinear
from brainlens.types import DataError, Responses

METHODS = ("gradient_x_input", "integrated_gradients", "deeplift")


STEP = 0.1  # s, of the scalp maps
POSTERIOR = r"(M[LRZ])?[PO]"  # channels over the back of the head: PO7 in the 10-20 system, MLO11-1609 in CTF's MEG


def sensor_contributions(decoder: SensorDecoder, data: np.ndarray, gallery: np.ndarray, *, method: str) -> np.ndarray:
    """Mean contribution of each channel and sample to the similarity with the right image, (channel, time) float64.

    data (image, channel, time) and gallery (image, d) row by row; similarities are relative to the mean over the gallery.
    DeepLIFT (rescale) runs through the TSConv and takes the gradient through its head; through a linear decoder it is gradient x
    input.
    Raises DataError for an unknown method, and for DeepLIFT on an encoder with attention or recurrence in front.
    """
    if method not in METHODS:
        raise DataError(f"method {method!r} is not one of {', '.join(METHODS)}")
    scaled = ((torch.as_tensor(np.asarray(data, np.float32)) - decoder.scale[0]) / decoder.scale[1]).numpy()
    right = torch.as_tensor(np.array(gallery, np.float32)).to(decoder.device)
    with unfiltered(decoder):
        if method != "deeplift" or isinstance(decoder.model, BinnedLinear):
            return contributions(
                lambda rows: similarity_score(decoder.model, right[rows], against=right),
                scaled,
                method="gradient_x_input" if method == "deeplift" else method,
                device=decoder.device,
            )
        return _deeplift(decoder, scaled, right)


def scalp(
    mean: np.ndarray, test: Responses, recording: SensorRecording
) -> tuple[dict[str, np.ndarray], pd.DataFrame, dict[str, float]]:
    """Contributions as scalp maps, whole and in steps of 0.1 s, and beside the truth where it is known.

    mean (channel, time); maps topomap/contribution (channel,) and topomap/contribution_by_time (window, channel).
    """
    assert test.times is not None
    windows = timecourse.time_windows(test.times, step=STEP, kinds=("sliding",))
    maps = {
        "topomap/contribution": mean.sum(axis=1),
        "topomap/contribution_by_time": np.stack([mean[:, w.mask].sum(1) for w in windows]),
    }
    titles = [f"{10 * round(100 * w.start)} to {10 * round(100 * w.stop)} ms" for w in windows]
    table = pd.DataFrame({"map": "contribution_by_time", "title": titles})
    metrics: dict[str, float] = {}
    back = posterior(test.units["channel"])
    try:
        share = channel_share(mean)
    except DataError:
        return maps, table, metrics  # the decoder is at chance, and no channel speaks for the right image
    if back.any() and not back.all():
        metrics |= {
            "topography/posterior_share": float(share[back].sum()),
            "topography/posterior_share.chance": float(back.mean()),
        }
    if recording.truth is not None:
        truth = recording.truth.topography()
        maps["topomap/truth"] = truth
        metrics["topography/truth_correlation"] = float(np.corrcoef(share, truth)[0, 1])
    return maps, table, metrics


def posterior(names: Iterable[str]) -> np.ndarray:
    """Which of these channels lie over the back of the head, (channel,) bool."""
    return np.array([re.match(POSTERIOR, str(name)) is not None for name in names])


@contextmanager
def unfiltered(decoder: SensorDecoder) -> Iterator[None]:
    """The encoder in evaluation mode and taking recordings as they are, not box-filtered ones."""
    body = getattr(decoder.model, "encoder", None)
    filtered = isinstance(body, TSConv) and body.filtered
    decoder.model.eval()
    if isinstance(body, TSConv):
        body.filtered = False
    try:
        yield
    finally:
        if isinstance(body, TSConv):
            body.filtered = filtered


def _deeplift(decoder: SensorDecoder, data: np.ndarray, right: Tensor, *, block: int = 25) -> np.ndarray:
    model = decoder.model
    body = getattr(model, "encoder", None)
    if not isinstance(model, SensorModel) or not isinstance(body, TSConv) or model.front is not None:
        raise DataError("deeplift runs through a TSConv without attention (neuroalign, nice); take another method or encoder")
    layers = [torch.nn.Unflatten(1, (1, data.shape[1])), *body.layers()]
    total = np.zeros(data.shape[1:])
    for start in range(0, len(data), block):
        x = torch.as_tensor(data[start : start + block]).to(decoder.device)
        hidden = body(x).detach().requires_grad_()
        score = similarity_score(model.head, right[start : start + block], against=right)
        (slope,) = torch.autograd.grad(score(hidden).sum(), hidden)
        direction = slope.view(len(x), body.steps, -1).transpose(1, 2).flatten(1)  # forward is time-major, layers filter-major
        total += deeplift(layers, x, direction).sum(0).double().cpu().numpy()
    return total / len(data)
