"""Stimuli, features, results, and a recording as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from brainlens.looks import look
from brainlens.types import arrays
from brainlens.types.ids import DataError, as_ids, image_key, positions, unique_ids
from brainlens.types.scores import scores
from brainlens.types.spaces import Space
from brainlens.types.texts import as_captions


@dataclass(frozen=True)
class Stimuli:
    """Images with their captions.

    ids (n,) strings, unique; images[i] -> (h, w, 3) uint8, an array or any lazy sequence;
    captions: one list of strings per image (may be empty lists; a text alone is one caption), or {id: them}, joined by id, where
    an image that it does not name has none; table: one row per image.
    Raises DataError for lengths that do not match, an array of pictures that is not uint8 RGB, and captions of other ids.
    """

    ids: np.ndarray
    images: Sequence[np.ndarray] | np.ndarray
    captions: Any = field(default_factory=list)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", unique_ids(self.ids, "stimuli"))
        n = len(self.ids)
        if isinstance(self.captions, Mapping):
            object.__setattr__(self, "captions", _by_id(self.captions, self.ids))
        if not self.captions:
            object.__setattr__(self, "captions", [[] for _ in range(n)])
        if self.table.empty and len(self.table) != n:
            object.__setattr__(self, "table", pd.DataFrame(index=range(n)))
        for name, size in [("images", len(self.images)), ("captions", len(self.captions)), ("table", len(self.table))]:
            if size != n:
                raise DataError(f"stimuli: {n} ids but {size} {name}")
        _check_pictures(self.images)
        captions = [as_captions(given, f"stimulus {str(name)!r}") for name, given in zip(self.ids, self.captions, strict=True)]
        object.__setattr__(self, "captions", captions)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Stimuli(n={len(self)}, captions={sum(map(len, self.captions))}, columns={list(self.table.columns)})"

    def take(self, ids: Iterable[str]) -> Stimuli:
        """The stimuli with these ids, in this order."""
        rows = positions(ids, self.ids)
        images = self.images[rows] if isinstance(self.images, np.ndarray) else [self.images[i] for i in rows]
        table = self.table.iloc[rows].reset_index(drop=True)
        return Stimuli(self.ids[rows], images, [self.captions[i] for i in rows], table)


def _by_id(captions: Mapping[str, Any], ids: np.ndarray) -> list[Any]:
    """The captions of each id, none where it is not named. Raises DataError where no id is."""
    if captions and not any(str(name) in captions for name in ids):
        first = f"{next(iter(captions))!r}, the stimuli {str(ids[0])!r}" if len(ids) else "some, there is no stimulus"
        raise DataError(f"stimuli: captions name none of the {len(ids)} ids; they have {first}; name both alike")
    return [captions.get(str(name)) for name in ids]


def _check_pictures(images: Any) -> None:
    """Raises DataError for an array that is no uint8 RGB; a lazy sequence is not read here."""
    if not isinstance(images, np.ndarray) or images.dtype == object or not len(images):
        return
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        way = "multiply by 255 and .astype('uint8')" if images.dtype.kind == "f" else "convert them to RGB of 8 bits"
        raise DataError(f"stimuli: images are uint8 (n, height, width, 3), got {images.dtype} {images.shape}; {way}")


@dataclass(frozen=True)
class Features:
    """Layered features of a network.

    data[layer] (stimulus, feature): the global token or the embedding; tokens[layer] (stimulus, token, channel):
    the spatial tokens in row-major order of grid[layer] = (rows, columns), where the layer has them.
    """

    data: dict[str, np.ndarray]
    ids: np.ndarray
    model: str
    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    grid: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", unique_ids(self.ids, "features"))
        n = len(self.ids)
        if not self.data and not self.tokens:
            raise DataError("features hold no layer")
        for kind, layers, ndim in (("data", self.data, 2), ("tokens", self.tokens, 3)):
            for layer, array in layers.items():
                if array.ndim != ndim or array.shape[0] != n:
                    raise DataError(f"features {kind}[{layer!r}]: expected {ndim} axes and {n} rows, got {array.shape}")
        for layer, array in self.tokens.items():
            rows, columns = self.grid.get(layer, (0, 0))
            if rows * columns != array.shape[1]:
                raise DataError(f"features tokens[{layer!r}]: grid {rows} x {columns} does not make {array.shape[1]} tokens")

    @classmethod
    def from_arrays(cls, layers: Mapping[str, Any], ids: Iterable[str], *, grid: Any = None, model: str = "arrays") -> Features:
        """Features from {layer: array} of numpy or torch and the stimulus of each row.

        An array is (n, d), a vector; (n, tokens, channels), a square of tokens row by row; (n, 1 + tokens, channels), hidden
        states of a vision transformer with its class token first; or maps (n, channels, rows, columns). grid: (rows, columns)
        of tokens that are no square, for all layers or as {layer: (rows, columns)}. The global token of a layer without a
        class token is the mean over its places.
        Raises DataError for ids that are no strings, lengths that do not match, tokens without a grid, and NaN.
        """
        found = arrays.features_from_arrays(layers, grid)
        listed = as_ids(ids, "ids")
        for layer, array in found["data"].items():
            if len(array) != len(listed):
                raise DataError(f"layer {layer!r} has {len(array)} rows for {len(listed)} ids; give the id of every row")
        return cls(ids=listed, model=model, **found).check_finite()

    @property
    def layer(self) -> list[str]:
        """Layer names, in network order."""
        return list(dict.fromkeys([*self.data, *self.tokens]))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Features({self.model}, n={len(self)}, layers={self.layer})"

    def __getitem__(self, layer: str) -> np.ndarray:
        if layer not in self.data:
            raise DataError(f"{self.model} has no layer {layer!r}; it has {self.layer}")
        return self.data[layer]

    def take(self, ids: Iterable[str]) -> Features:
        """The rows with these ids, in this order (an id may be asked for once)."""
        rows = positions(ids, self.ids, "features")
        data = {k: v[rows] for k, v in self.data.items()}
        return replace(self, data=data, tokens={k: v[rows] for k, v in self.tokens.items()}, ids=self.ids[rows])

    def check_finite(self) -> Features:
        """Self, or DataError naming the first layer and image with a missing or overflowed value."""
        for layer, array in [*self.data.items(), *self.tokens.items()]:
            bad = ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
            if bad.any():
                raise DataError(
                    f"features of {self.model}, layer {layer!r}: image {str(self.ids[bad][0])!r} holds NaN or infinity"
                )
        return self


@dataclass(frozen=True)
class Result:
    """What a verb returns.

    metrics: flat names `group/name` -> float; arrays: named arrays, with `units` as the table of their unit axis;
    tables: further small tables for the report; config: every argument; provenance: versions, seed, fingerprints.
    """

    task: str
    metrics: dict[str, float]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    units: pd.DataFrame | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    space: Space | None = None

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            if not isinstance(value, (int, float, np.floating, np.integer)):
                raise DataError(f"metric {name!r} must be a number, got {type(value).__name__}")

    def scores(self) -> pd.DataFrame:
        """The metrics as one tidy table: metric, value, low, high (95 % interval), chance, ceiling, n, unit."""
        return scores(self.metrics)

    @property
    def plot(self) -> Any:
        """The figures of this result: `result.plot.NAME()` is a matplotlib figure, `result.plot` lists the names."""
        return look("plot", self)

    def _repr_html_(self) -> str:
        return str(look("result", self))

    def __repr__(self) -> str:
        return f"Result({self.task}, metrics={len(self.metrics)}, arrays={ {k: v.shape for k, v in self.arrays.items()} })"


def check_kinds(verb: str, **given: tuple[Any, type]) -> None:
    """Raises DataError, which lists what a verb takes in its order, where one of name=(value, class) is of another class."""
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            wanted = ", ".join(f"{other} ({each.__name__})" for other, (_, each) in given.items())
            raise DataError(
                f"{verb} takes {wanted} in this order, got {type(value).__name__} for {name}; make it with {_made(kind)}"
            )


def _made(kind: type) -> str:
    return f"{kind.__name__}.from_arrays" if hasattr(kind, "from_arrays") else f"{kind.__name__}(ids, images, captions)"


def check_no_leak(train: Stimuli, test: Stimuli) -> None:
    """Raises DataError if a test image is in the training set, by id or by pixels."""
    shared = sorted(set(train.ids) & set(test.ids))
    if shared:
        raise DataError(f"{len(shared)} test images are in the training set by id, first {str(shared[0])!r}")
    seen = {image_key(image): name for name, image in zip(train.ids, train.images, strict=True)}
    for name, image in zip(test.ids, test.images, strict=True):
        if image_key(image) in seen:
            raise DataError(f"test image {str(name)!r} has the same pixels as training image {str(seen[image_key(image)])!r}")
