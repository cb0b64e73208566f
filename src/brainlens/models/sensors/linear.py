"""Linear decoders of sensor recordings in closed form: ridge regression, and ridge compared in the canonical metric.

Both are fitted in seconds, on the split of the trained encoders, and are `SensorDecoder`s like them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.choices import SOLVED_SENSOR_ENCODERS
from brainlens.models.sensors.decoder import SensorDecoder
from brainlens.models.sensors.moments import binned, moments
from brainlens.models.sensors.ridge import PENALTIES, RidgeDecoder, solve_ridge
from brainlens.models.sensors.split import split_subjects
from brainlens.nn.losses import info_nce
from brainlens.nn.sensor_linear import BinnedLinear, Centred
from brainlens.solvers.canonical import Canonical, canonical_metric
from brainlens.subjects import WITHIN, Protocol, held_out
from brainlens.types import DataError, Features, Responses, positions

LINEAR = SOLVED_SENSOR_ENCODERS
SHRINKAGES = (0.03, 0.1, 0.3, 0.6, 0.9)
DIMS = (10, 20, 40, 80)
TEMPERATURES = (0.04, 0.08, 0.16, 0.32, 0.64)
FOLDS = 5
EVERY = 5  # samples of a bin, as in `fit_ridge`
GALLERY = 1000


def fit_linear(
    responses: Responses,
    images: Features,
    *,
    encoder: str = "canonical",
    protocol: Protocol = WITHIN,
    layer: str = "image",
    seed: int = 0,
    validation: int = 740,
    device: str = "cpu",
) -> tuple[SensorDecoder, Responses]:
    """A linear decoder, and the test trials of the tested subject, not used for fitting, scaling or selection.

    encoder: "ridge" (`ridge.fit_ridge`) or "canonical": the same regression, but what is compared are canonical variates.
    With y_hat the predictions for images left out of the regression and y the embeddings, both sides are mapped to the space
    in which the dot product is the log likelihood ratio of a match (`solvers.canonical.canonical_metric`), so that dimensions of
    the embedding that the recording does not predict do not count; the cosine of plain ridge gives them full weight.
    Penalty: by the validation images, those of `fit_sensors`. Shrinkage and number of variates: least InfoNCE in galleries of
    left-out training images, of which there are many more, because one mean of few repetitions says little.
    `log` holds one row: what was chosen.
    Raises DataError for an unknown encoder or subject, trials without features, a test image in training.
    """
    train, test = split_subjects(responses, protocol)
    decoder = solve_linear(train, images, encoder=encoder, layer=layer, seed=seed, validation=validation, device=device)
    return decoder, test


def solve_linear(
    train: Responses,
    images: Features,
    *,
    encoder: str,
    layer: str,
    seed: int,
    validation: int,
    penalties: Sequence[float] = PENALTIES,
    device: str = "cpu",
) -> SensorDecoder:
    """`fit_linear` on training rows that are split off already."""
    if encoder not in LINEAR:
        raise DataError(f"linear decoder {encoder!r} is not one of {list(LINEAR)}")
    started = time.perf_counter()
    ridge = solve_ridge(train, images, layer=layer, seed=seed, width=EVERY, validation=validation, penalties=penalties)
    chosen, metric = {"penalty": ridge.penalty, "validation_cosine": ridge.validation[ridge.penalty]}, None
    if encoder == "canonical":
        metric, found = _metric(ridge, train, images, layer, seed, validation)
        chosen |= found
    decoder = as_decoder(ridge, train.data.shape[1:], metric, device)
    decoder.log, decoder.seconds = [chosen], time.perf_counter() - started
    return decoder


def _metric(
    ridge: RidgeDecoder, train: Responses, images: Features, layer: str, seed: int, validation: int
) -> tuple[Canonical, dict[str, float]]:
    """The canonical metric of left-out predictions of the training images, and what was chosen on left-out folds of them."""
    ids, row = np.unique(train.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    target = ridge.gallery(images[layer][positions(ids, images.ids, "images")])
    inner = np.flatnonzero(~held_out(len(ids), validation, seed)[row])
    image = row[inner]
    fold = np.random.default_rng([seed, 61]).permutation(len(ids))[image] % FOLDS
    predicted = cross_fitted(train.data, inner, target[image], fold, width=ridge.width, penalty=ridge.penalty)
    left_out, aim = torch.as_tensor(predicted), torch.as_tensor(target[image])
    wide = sorted({min(dims, target.shape[1]) for dims in DIMS})
    losses = {(shrinkage, dims): 0.0 for shrinkage in SHRINKAGES for dims in wide}
    for k in range(FOLDS):
        inside, asked = torch.as_tensor(fold != k), torch.as_tensor(np.flatnonzero(fold == k)[:GALLERY])
        for shrinkage in SHRINKAGES:
            metric = canonical_metric(left_out[inside], aim[inside], dims=wide[-1], shrinkage=shrinkage, rescale=True)
            for dims in wide:
                losses[shrinkage, dims] += _loss(metric.first(dims), left_out[asked], aim[asked], image[asked.numpy()]) / FOLDS
    shrinkage, dims = min(losses, key=lambda key: losses[key])
    metric = canonical_metric(left_out, aim, dims=dims, shrinkage=shrinkage, rescale=True)
    return metric, {"shrinkage": shrinkage, "variates": float(dims), "left_out_loss": losses[shrinkage, dims]}


def _loss(metric: Canonical, predicted: Tensor, aim: Tensor, image: np.ndarray) -> float:
    """InfoNCE of left-out predictions at the best temperature; recordings of one image are right for each other."""
    z, gallery, labels = metric.prediction(predicted), metric.embedding(aim), torch.as_tensor(image)
    return min(0.5 * float(info_nce(z, gallery, t, labels=labels, repeats="positive")) for t in TEMPERATURES)


def cross_fitted(
    data: np.ndarray, rows: np.ndarray, target: np.ndarray, fold: np.ndarray, *, width: int, penalty: float
) -> np.ndarray:
    """Ridge predictions (row, d) for `rows` of data, each by a regression that saw no row of its fold.

    target (row, d); fold (row,), the same for all recordings of an image, by whomever.
    """
    total = moments(data, rows, target, width)
    out = np.empty(target.shape, np.float32)
    for k in np.unique(fold):
        own = np.flatnonzero(fold == k)
        rest = total.less(moments(data, rows[own], target[own], width, shift=total.shift))
        weights, mean, centre = (a.astype(np.float32) for a in (rest.solve(penalty), rest.mean, rest.centre))
        for place, x in binned(data, rows[own], width):
            out[own[place]] = (x - mean) @ weights + centre
    return out


def as_decoder(ridge: RidgeDecoder, shape: tuple[int, ...], metric: Canonical | None, device: str = "cpu") -> SensorDecoder:
    """The regression as a module for recordings of (channels, samples), both sides mapped by the metric if there is one."""
    weights, mean, centre = (torch.as_tensor(a) for a in (ridge.weights, ridge.mean, ridge.centre))
    bias = -mean @ weights
    variates: nn.Module = nn.Identity()
    if metric is not None:
        one, other = metric.prediction, metric.embedding
        weights, bias = weights @ one.matrix, bias @ one.matrix + one.shift
        variates = _affine(other.matrix.T, other.shift)
    model = BinnedLinear(shape[0], shape[1], weights.shape[1], every=ridge.width)
    model.readout = _affine(weights.T, bias)
    return _decoder(model, nn.Sequential(Centred(centre), variates), shape[0], device)


def stored_decoder(shape: tuple[int, ...], parts: dict[str, dict[str, Tensor]], device: str = "cpu") -> SensorDecoder:
    """A decoder from its stored weights `model` and `image_head`, for recordings of (channels, samples).

    parts: tensors of any shape by name. Raises DataError where they were fitted on another shape.
    """
    model, head = parts["model"], parts["image_head"]
    body = BinnedLinear(shape[0], shape[1], len(model["readout.bias"]), every=int(model["every"]))
    if body.readout.weight.shape != model["readout.weight"].shape:
        raise DataError(f"the stored decoder does not fit {shape[0]} channels of {shape[1]} samples")
    body.load_state_dict(model)
    variates = _affine(head["1.weight"], head["1.bias"]) if "1.weight" in head else nn.Identity()
    return _decoder(body, nn.Sequential(Centred(head["0.centre"]), variates), shape[0], device)


def _decoder(model: nn.Module, head: nn.Module, channels: int, device: str) -> SensorDecoder:
    scale = (torch.zeros(channels, 1), torch.ones(channels, 1))  # the regression takes recordings as they are
    return SensorDecoder(model.to(device).eval(), head.to(device).eval(), nn.Identity(), scale, device)


def _affine(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
