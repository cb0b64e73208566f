"""The methods on a user's own torch module: give the module, the layer and what it should be attributed to.

    maps = bottleneck(model, images, 3, layer="blocks.8")     # class 3; or an embedding (d,), or one a sample (B, d)

The network is cut at the layer by a hook: features are what the layer gives, the tail is the rest of the network run on the
same inputs with other features put in the layer's place. So a path around the layer (a residual connection) stays as it was,
and each call of the tail costs a whole forward pass. The module is put into evaluation mode for the call and back afterwards;
its weights, their gradients and its buffers stay as they are.

A class index is scored as the method's paper does: log softmax (bottleneck), the output itself (Grad-CAM, gradients), softmax
(RISE). An embedding is scored by the cosine.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.attribution import bottleneck as bottlenecks
from brainlens.attribution import gradcam as gradcams
from brainlens.attribution import integrated_gradients as gradients
from brainlens.attribution import rise as rises
from brainlens.attribution.targets import Tail, check_targets, cosine, frozen, log_probability, output_at, probability
from brainlens.types import DataError

Inputs = Any  # a tensor or array (B, ...), or a dict of them that the model takes by name
Read = Callable[[Any], Tensor]


def bottleneck(
    model: nn.Module,
    inputs: Inputs,
    target: Any,
    *,
    layer: str | nn.Module,
    reference: Any = None,
    settings: bottlenecks.Bottleneck | None = None,
    batch: int = 4,
    read: Read | None = None,
) -> Tensor:
    """Bits that every place of a layer must carry for the target to stay, see `attribution.bottleneck`.

    layer: a name of `model.named_modules()` or the module, whose output is tokens (B, T, D) or maps (B, C, H, W).
    target: a class index or one a sample (B,), or an embedding (d,), (B, d), (B, k, d) in the space of the output.
    reference: inputs (n, ...) over which the layer's mean and deviation are taken, or their `Statistics`; None takes mean 0 and
    variance 1. read: from the model's output to (B, d), where that is not a tensor.
    Returns (B, T) for tokens; for maps (B, H, W), enlarged to the size of the inputs where these are pictures (B, C, H, W).
    Raises DataError for a layer that is not found, targets that do not fit, and features that are not finite.
    """
    with _ready(model, inputs, target, read) as ready:
        cut = Cut(model, layer, ready.read)
        known = reference if reference is None or isinstance(reference, bottlenecks.Statistics) else cut.statistics(reference)
        score = log_probability if ready.classes else cosine

        def part(tokens: Tensor, tail: Tail, aim: Tensor) -> Tensor:
            return bottlenecks.bottleneck(
                tokens, tail, aim, reference=known, settings=settings, batch=len(tokens), score=score
            )  # fmt: skip

        return cut.maps(ready, part, batch)


def gradcam(
    model: nn.Module,
    inputs: Inputs,
    target: Any,
    *,
    layer: str | nn.Module,
    skip: int = 0,
    signed: bool = False,
    batch: int = 32,
    read: Read | None = None,
) -> Tensor:
    """Grad-CAM of a layer, see `attribution.gradcam`; (B, T) or (B, H, W); layer, target, read as in `bottleneck`."""
    with _ready(model, inputs, target, read) as ready:
        score = output_at if ready.classes else cosine

        def part(tokens: Tensor, tail: Tail, aim: Tensor) -> Tensor:
            return gradcams.gradcam(tokens, tail, aim, skip=skip, signed=signed, batch=len(tokens), score=score)

        return Cut(model, layer, ready.read).maps(ready, part, batch)


def integrated_gradients(
    model: nn.Module,
    inputs: Inputs,
    target: Any,
    *,
    baseline: Tensor | None = None,
    steps: int = 32,
    batch: int = 32,
    read: Read | None = None,
) -> Tensor:
    """Integrated gradients of the inputs, see `attribution.integrated_gradients`: (B, ...), the shape of the inputs."""
    with _ready(model, inputs, target, read, gradient=True) as ready:
        x, score = ready.inputs, output_at if ready.classes else cosine
        return gradients.integrated_gradients(
            x, ready.outputs, ready.targets, baseline=baseline, steps=steps, batch=batch, score=score
        )


def input_gradient(model: nn.Module, inputs: Inputs, target: Any, *, batch: int = 32, read: Read | None = None) -> Tensor:
    """Input times gradient, see `attribution.integrated_gradients`: (B, ...), the shape of the inputs."""
    with _ready(model, inputs, target, read, gradient=True) as ready:
        score = output_at if ready.classes else cosine
        return gradients.input_gradient(ready.inputs, ready.outputs, ready.targets, batch=batch, score=score)


def rise(
    model: nn.Module,
    inputs: Inputs,
    target: Any,
    *,
    cells: int = 8,
    count: int = 1000,
    keep: float = 0.5,
    seed: int = 0,
    read: Read | None = None,
) -> Tensor:
    """RISE, see `attribution.rise`: (B, H, W) of pictures (B, C, H, W), (B, T) of tokens (B, T, D), (B, unit) of vectors.

    Masks are smooth grids of `cells` a side over places; all channels of a place are hidden together.
    """
    with _ready(model, inputs, target, read, gradient=True) as ready:
        x = ready.inputs
        last = x.ndim == 3  # channels stand last in tokens and first in pictures
        places = x.shape[2:] if x.ndim == 4 else x.shape[1:2]
        if x.ndim not in (2, 3, 4):
            raise DataError(f"rise: inputs {tuple(x.shape)} are not pictures (B, C, H, W), tokens (B, T, D) or vectors (B, unit)")
        channels = 1 if x.ndim == 2 else x.shape[2] if last else x.shape[1]
        draw = rises.grid_masks(tuple(places), [min(cells, size) for size in places], keep=keep)

        def masks(n: int, generator: torch.Generator) -> Tensor:
            plain = draw(n, generator)
            return plain.repeat_interleave(channels, 1) if last else plain.repeat(1, channels)

        maps = []
        for row, aim in zip(x.split(1), ready.targets.split(1)):
            model_of = _flat(ready.outputs, row.shape[1:], aim if ready.classes else None)
            goal = torch.tensor([[1.0, 0.0]]).to(row) if ready.classes else aim
            found = rises.rise(row.flatten(1), model_of, goal, masks=masks, count=count, keep=keep, seed=seed)
            maps.append(found.view((*places, channels) if last else (channels, *places)))
        stacked = torch.stack(maps)
        return stacked[..., 0] if last else stacked[:, 0]


def _flat(outputs: Tail, shape: torch.Size, chosen: Tensor | None) -> Tail:
    """Outputs of flattened inputs; with a class of probability p, (p, sqrt(1 - p^2)), whose cosine to (1, 0) is p."""

    def run(flat: Tensor) -> Tensor:
        z = outputs(flat.view(len(flat), *shape))
        if chosen is None:
            return z
        p = probability(z, chosen.expand(len(z), -1))
        return torch.stack([p, (1 - p**2).clamp_min(0).sqrt()], -1)

    return run


class Cut:
    """A model cut at a layer: `features` of inputs there, and `tail`, the rest of the model behind features put in their place.

    Raises DataError for a layer that is not found (close names are listed) or is no part of the model.
    """

    def __init__(self, model: nn.Module, layer: str | nn.Module, read: Read | None = None) -> None:
        self.model, self.read = model, read or read_output
        self.layer, self.name = find_layer(model, layer)

    def run(self, inputs: Inputs, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Output (B, d) of a forward pass, and what the layer gave (B, ...), in whose place `features` are put."""
        given: list[Tensor] = []

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if not isinstance(first, Tensor):
                raise DataError(f"layer {self.name!r} gives {type(first).__name__}, not a tensor; choose a layer inside it")
            given.append(first.detach().clone())  # what comes next may work in place
            if features is None:
                return None
            new = features.to(first.dtype).clone()
            return new if first is output else (new, *output[1:])

        handle = self.layer.register_forward_hook(hook)
        try:
            out = self.read(_call(self.model, inputs))
        finally:
            handle.remove()
        if len(given) != 1:
            raise DataError(f"layer {self.name!r} runs {len(given)} times in a forward pass; choose one that runs once")
        return out, given[0]

    def features(self, inputs: Inputs) -> Tensor:
        """Tokens (B, T, D) or maps (B, C, H, W) of the layer, without a gradient. Raises DataError for other shapes."""
        found = self.run(inputs)[1].detach()
        if found.ndim not in (3, 4) or len(found) != _length(inputs):
            raise DataError(
                f"layer {self.name!r} gives {tuple(found.shape)} for {_length(inputs)} samples; choose a layer with tokens "
                "(sample, token, channel) or maps (sample, channel, row, column)"
            )
        return found

    def tail(self, inputs: Inputs, shape: torch.Size | None = None) -> Tail:
        """From features of these inputs, tokens or maps as tokens, to outputs; k rows a sample, sample after sample, are allowed.

        shape: (H, W) of maps, which come in as tokens (n, H W, C).
        """

        def run(tokens: Tensor) -> Tensor:
            rows = _repeat(inputs, len(tokens) // _length(inputs))
            features = tokens if shape is None else tokens.transpose(1, 2).unflatten(2, tuple(shape))
            return self.run(rows, features)[0]

        return run

    def statistics(self, reference: Inputs, batch: int = 32) -> bottlenecks.Statistics:
        """Mean and deviation of the layer's features over reference inputs."""
        whole = _tensors(self.model, reference)
        parts = (_tokens(self.features(_part(whole, rows))) for rows in _slices(_length(whole), batch))
        return bottlenecks.statistics(parts)

    def maps(self, ready: _Ready, method: Callable[[Tensor, Tail, Tensor], Tensor], batch: int) -> Tensor:
        """A method on tokens, targets and tail, `batch` samples at a time: (B, T), or (B, H, W) of layer or picture."""
        found, picture = [], ready.inputs.shape[2:] if isinstance(ready.inputs, Tensor) and ready.inputs.ndim == 4 else None
        for rows in _slices(len(ready.targets), batch):
            inputs = _part(ready.inputs, rows)
            features = self.features(inputs)
            shape = features.shape[2:] if features.ndim == 4 else None
            here = method(_tokens(features), self.tail(inputs, shape), ready.targets[rows])
            if shape is not None:
                here = here.view(len(here), *shape)
                if picture is not None:
                    here = F.interpolate(here[:, None], tuple(picture), mode="bilinear", align_corners=False)[:, 0]
            found.append(here)
        return torch.cat(found)


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[nn.Module, str]:
    """The module of a layer and its name. Raises DataError listing close names."""
    names = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, nn.Module):
        name = next((name for name, module in names.items() if module is layer), None)
        if name is None:
            raise DataError(f"layer: this {type(layer).__name__} is no part of the model; give one of model.named_modules()")
        return layer, name
    if layer not in names:
        close = difflib.get_close_matches(str(layer), names, 5, 0.4) or list(names)[:8]
        raise DataError(f"layer {layer!r} is not found in {type(model).__name__}; close to it: {', '.join(close)}")
    return names[layer], layer


def read_output(output: Any) -> Tensor:
    """The output (B, d) of a model: the tensor, or the logits, image embeddings or pooled output of a transformers model."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "image_embeds", "pooler_output"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    raise DataError(f"the model gives {type(output).__name__}, not a tensor; say what of it counts, e.g. read=lambda out: out[0]")


@dataclass(frozen=True)
class _Ready:
    """Inputs on the model's device, one row of targets a sample, whether these are classes, and the model as a function."""

    inputs: Any
    targets: Tensor
    classes: bool
    outputs: Tail
    read: Read


@contextmanager
def _ready(model: nn.Module, inputs: Inputs, target: Any, read: Read | None, *, gradient: bool = False) -> Iterator[_Ready]:
    """The model in evaluation mode, and what was asked of it, checked on its first sample; all is put back afterwards."""
    if not isinstance(model, nn.Module):
        raise DataError(f"model should be a torch module, got {type(model).__name__}; functions go to brainlens.attribution")
    reader = read or read_output
    with torch.inference_mode(False), frozen(model):
        given = _tensors(model, inputs)
        if gradient and not (isinstance(given, Tensor) and given.is_floating_point()):
            raise DataError("this method needs one tensor of real numbers as inputs; for words take the embedding layer's output")

        def outputs(x: Tensor) -> Tensor:
            return reader(_call(model, x))

        with torch.no_grad():
            first = reader(_first(model, given))
        if first.ndim != 2:
            raise DataError(f"the model gives {tuple(first.shape)} for one sample; an output (B, d) is needed: give read=")
        targets, classes = _targets(target, _length(given), first)
        yield _Ready(given, targets, classes, outputs, reader)


def _first(model: nn.Module, given: Any) -> Any:
    """The model's output of the first sample. Raises DataError with torch's reason where it cannot read such inputs."""
    one = _part(given, slice(0, 1))
    try:
        return _call(model, one)
    except (RuntimeError, ValueError, IndexError) as error:
        if not isinstance(one, Tensor) or isinstance(error, (torch.cuda.OutOfMemoryError, DataError)):
            raise
        raise DataError(
            f"the model cannot read one sample {tuple(one.shape)} of {str(one.dtype).removeprefix('torch.')}: "
            f"{str(error).strip().splitlines()[0]}; pictures are (picture, channel, row, column), numbers of the model's own type"
        ) from error


def _targets(target: Any, n: int, output: Tensor) -> tuple[Tensor, bool]:
    """One row a sample, one-hot for classes, and whether they are classes. Raises DataError."""
    width = output.shape[1]
    values = target.detach() if isinstance(target, Tensor) else torch.as_tensor(np.asarray(target))
    if values.dtype == torch.bool or values.is_complex():
        raise DataError(f"target: {values.dtype} is neither a class index nor an embedding")
    if not values.is_floating_point():
        if values.ndim > 1 or (values.ndim == 1 and len(values) != n):
            raise DataError(f"target: classes {tuple(values.shape)} are not one index, or one for each of {n} samples")
        wrong = values[(values < 0) | (values >= width)]
        if wrong.numel():
            raise DataError(f"target: class {int(wrong.flatten()[0])} is not found; the model gives {width}, 0 to {width - 1}")
        return F.one_hot(values.long().expand(n), width).to(output), True
    rows = values.expand(n, -1) if values.ndim == 1 else values
    if rows.ndim not in (2, 3) or len(rows) != n or rows.shape[-1] != width:
        raise DataError(f"target: an embedding {tuple(values.shape)} is not ({width},), ({n}, {width}) or ({n}, k, {width})")
    rows = rows.to(output)
    check_targets(n, rows)
    return rows, False


def _tensors(model: nn.Module, inputs: Inputs) -> Any:
    """Inputs as tensors on the model's device, real numbers in its precision, cut from any graph."""
    if isinstance(inputs, Mapping):
        found = {str(name): _tensors(model, value) for name, value in inputs.items()}
        if not found or len({len(value) for value in found.values()}) != 1:
            raise DataError(f"inputs {list(found)} should be tensors with one number of samples")
        return found
    x = inputs.detach() if isinstance(inputs, Tensor) else torch.as_tensor(np.asarray(inputs))
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None:
        x = x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)
    if x.ndim < 2 or not len(x):
        raise DataError(f"inputs {tuple(x.shape)} should be at least one sample along the first axis, e.g. picture[None]")
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise DataError("inputs hold NaN or infinity; drop those samples")
    return x.clone() if x.is_inference() else x


def _tokens(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features


def _call(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _length(inputs: Inputs) -> int:
    return len(next(iter(inputs.values()))) if isinstance(inputs, Mapping) else len(inputs)


def _part(inputs: Inputs, rows: slice) -> Any:
    return {name: x[rows] for name, x in inputs.items()} if isinstance(inputs, Mapping) else inputs[rows]


def _repeat(inputs: Inputs, times: int) -> Any:
    if isinstance(inputs, Mapping):
        return {name: x.repeat_interleave(times, 0) for name, x in inputs.items()}
    return inputs if times == 1 else inputs.repeat_interleave(times, 0)


def _slices(n: int, batch: int) -> Iterator[slice]:
    return (slice(start, start + batch) for start in range(0, n, batch))
