"""What a user calls features, as `Features`: the layers of a network as plain arrays, hidden states as a ViT gives them, maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainlens.types import DataError, Features

ONE = "features"  # the name of a layer that comes without one

Form = tuple[int | None, int | None]
Layers = Features | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Any  # Any: one array or tensor


def as_features(given: Layers) -> Features:
    """Layers of n images as `Features`; arrays may be numpy or torch.

    {layer: array} with an array (n, tokens, channels): spatial tokens of a square grid, row-major; with one token more than a
    square the first is the class token, as in the hidden states of a ViT, and becomes the layer's global token.
    (n, channels, rows, columns): a map. (n, channels): a global token alone. One array: one layer; a sequence of arrays of
    3 or 4 axes, such as a network's hidden states: layers "layer.0", "layer.1", ... A sequence of n dicts, one an image:
    the same, in a form that scikit-learn can cut into folds. `Features` are taken as they are.
    Images that come without ids are numbered. Raises DataError for what is none of these.
    """
    if isinstance(given, Features):
        return given
    if isinstance(given, Mapping):
        layers = dict(given)
    elif isinstance(given, (list, tuple)) and given and all(isinstance(row, Mapping) for row in given):
        layers = _stacked(given)
    elif hasattr(given, "shape"):
        layers = {ONE: given}
    elif isinstance(given, (list, tuple)) and given and all(np.ndim(state) in (3, 4) for state in given):
        layers = {f"layer.{i}": state for i, state in enumerate(given)}
    else:
        raise DataError(f"features are Features, a dict of arrays or one array, not a {type(given).__name__}")
    if not layers:
        raise DataError("features hold no layer; give {layer: (image, tokens, channels)}")
    data: dict[str, np.ndarray] = {}
    tokens: dict[str, np.ndarray] = {}
    grid: dict[str, tuple[int, int]] = {}
    sizes = {}
    for name, value in layers.items():
        if not isinstance(name, str):
            raise DataError(f"layer names are text, got {type(name).__name__} {name!r}; use str({name!r})")
        array = numbers(value, f"layer {name!r}")
        sizes[name] = len(array) if array.ndim else 0
        if array.ndim == 2:
            data[name] = array
        elif array.ndim == 4:
            tokens[name], grid[name] = array.reshape(*array.shape[:2], -1).transpose(0, 2, 1), array.shape[2:]  # type: ignore[assignment]
        elif array.ndim == 3:
            side, special = _square(array.shape[1], name)
            tokens[name], grid[name] = array[:, special:], (side, side)
            if special:
                data[name] = array[:, 0]
        else:
            raise DataError(
                f"layer {name!r} is (image, tokens, channels), (image, channels, rows, columns) or (image, channels), "
                f"got {array.shape}"
            )
    if len(set(sizes.values())) > 1 or not min(sizes.values()):
        raise DataError(f"every layer holds the same images, at least one; got {sizes}")
    n = next(iter(sizes.values()))
    return Features(data, np.array([f"{i:09d}" for i in range(n)]), "arrays", tokens, grid)


def pooled(features: Features, layers: Sequence[str], rows: np.ndarray | None = None) -> np.ndarray:
    """The pooled features (image, feature) float32 of the named layers side by side.

    Raises DataError for a layer without a global token or embedding, and for NaN.
    """
    unknown = [name for name in layers if name not in features.data]
    if unknown or not layers:
        raise DataError(f"{features.model} has no pooled layer {(unknown or ['(none)'])[0]!r}; it has {list(features.data)}")
    chosen = slice(None) if rows is None else rows
    x = np.concatenate([np.asarray(features.data[name][chosen], dtype=np.float32) for name in layers], axis=1)
    if not np.isfinite(x).all():
        raise DataError(f"features of {features.model}: NaN or infinity in {list(layers)}; check_finite() names the image")
    return x


def numbers(value: Any, what: str) -> np.ndarray:
    """An array of real numbers, of any shape, from numpy or torch. Raises DataError for anything else."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: expected an array of real numbers, got {type(value).__name__} of {array.dtype}")
    return array


def responses_of(y: Any, images: int) -> np.ndarray:
    """Responses (image, unit). Raises DataError for another shape, other images, NaN and infinity."""
    array = numbers(y, "Y")
    if array.ndim != 2 or not array.shape[1]:
        hint = "; use Y[:, None] for one unit" if array.ndim == 1 else ""
        raise DataError(f"Y is (image, unit), got {array.shape}{hint}")
    if len(array) != images:
        raise DataError(f"features hold {images} images but Y has {len(array)} rows; give both for the same images")
    bad = ~np.isfinite(array.sum(axis=0, dtype=np.float64))
    if bad.any():
        raise DataError(
            f"Y holds NaN or infinity in {int(bad.sum())} of {len(bad)} units, first unit {int(bad.argmax())}; drop such units"
        )
    return array


def rows_of(rows: Any, images: int) -> np.ndarray:
    """Row numbers (n,) into so many images (None: all of them). Raises DataError for numbers that are not found."""
    found = np.arange(images) if rows is None else np.asarray(rows)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise DataError(f"rows are a list of row numbers, at least one, got {found.dtype} {found.shape}")
    if found.min() < 0 or found.max() >= images:
        raise DataError(f"rows go from {found.min()} to {found.max()}, but the features hold {images} images")
    return found


def layer_form(features: Features, layer: str) -> Form:
    """Channels of a layer's spatial tokens and of its global token, None for what it does not have."""
    spatial = int(features.tokens[layer].shape[2]) if layer in features.tokens else None
    return spatial, int(features.data[layer].shape[1]) if layer in features.data else None


def check_form(features: Features, layer: str, form: Form) -> None:
    """Raises DataError where a layer is missing or has other channels than those that a model was fitted on."""
    if layer not in features.layer:
        raise DataError(f"features hold no layer {layer!r}, which the model reads; they hold {features.layer}")
    found = layer_form(features, layer)
    for kind, have, wanted in zip(("spatial tokens", "a global token"), found, form, strict=True):
        if have != wanted:
            said = ["none" if count is None else f"{count} channels" for count in (have, wanted)]
            raise DataError(f"layer {layer!r}: {said[0]} in {kind}, the model was fitted on {said[1]}; give the same network")


def _stacked(images: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = list(images[0])
    if any(list(row) != names for row in images):
        raise DataError(f"features: every image has the layers of the first, {names}")
    return {name: np.stack([numbers(row[name], f"layer {name!r}") for row in images]) for name in names}


def _square(count: int, layer: str) -> tuple[int, int]:
    """Side of the grid and the number of tokens that stand before it."""
    for special in (0, 1):
        side = math.isqrt(max(count - special, 0))
        if side and side**2 == count - special:
            return side, special
    raise DataError(
        f"layer {layer!r} has {count} tokens: neither {count} nor {count - 1} is a square; drop other special tokens, or give "
        "a map (image, channels, rows, columns)"
    )
