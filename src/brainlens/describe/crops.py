"""Dataset augmentation: crops of the places in a voxel's strongest pictures where its readout is high, shared by all voxels.

    A_v(t) = w_v . f_t        the voxel's readout applied at each place t of the picture
    mask = A' > lambda,       A' = A scaled to [0, 1], lambda by Otsu: argmax P_b P_f (r_b - r_f)^2       (eq. 1)

and every connected region of the mask gives its bounding box, the one of its outer contour. What is exact: pooling by the mean
is linear, so that for convolutional networks the mean of the map over places is the response, up to the intercept. A class token
or attention pooling is not linear in the places: there the map shows where the pooled direction is, see `backbones.places`.
BrainLMM (Gao et al.), step 1; its released code wraps signed maps modulo 256 before Otsu, which the scaling avoids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from skimage.filters import threshold_otsu
from skimage.measure import label as connected
from skimage.measure import regionprops
from skimage.transform import resize

from brainlens.describe.labelling import strongest_pictures
from brainlens.models.encoding.layered import pooled
from brainlens.stimuli.nouns import presence, tagger
from brainlens.types import DataError, Features, Stimuli

FINE = 32  # rows and columns to which a map is enlarged, bilinearly, before it is cut
STEP = 16  # boxes lie on this many steps a side, so that crops of many voxels are the same
LEAST = 2  # steps that a crop must be high and wide
OVERLAP, WHOLE, MOST = 0.5, 0.8, 4  # largest overlap of two boxes and of a box and the picture; boxes a picture
Box = tuple[int, int, int, int]  # top, left, bottom, right in steps


class Reader(Protocol):
    """An encoding model with linear weights on raw pooled features."""

    coef_: np.ndarray


@dataclass(frozen=True)
class Crops:
    """Crops that all voxels share: features (crop, feature), nouns (crop, noun) bool, the image (crop,) and box of each."""

    x: np.ndarray
    present: np.ndarray
    image: np.ndarray
    boxes: list[Box]
    wanted: int

    def counted(self, strongest: np.ndarray, pictures: int) -> dict[str, float]:
        """Counts: crops that were made, those that voxels asked for, pictures that were cut, and the share of crops among the
        voxels' strongest; strongest (voxel, top) numbers as in `Labels`, where `pictures` whole ones stand before the crops."""
        cut = {"crops": len(self.x), "crops_asked": self.wanted, "pictures_cut": len(np.unique(self.image))}
        return {**cut, "strongest_share_crops": float((strongest >= pictures).mean())}


@dataclass(frozen=True)
class CropPool:
    """How crops are made. stimuli: all pictures, in the order of the features; tokens: layer -> (image, place, channel) with
    its grid; extract(pictures) -> features of the crops; images: strongest pictures a voxel that are cut; most: crops in all,
    those first that most voxels ask for. caption(pictures) -> captions (None: those of the whole picture)."""

    stimuli: Stimuli
    tokens: Features
    extract: Callable[[Stimuli], Features]
    layers: tuple[str, ...] = ("image",)
    images: int = 5
    most: int = 10_000
    caption: Callable[[Stimuli], list[list[str]]] | None = None
    tagger: str = "lexicon"

    def make(self, model: Reader, x: np.ndarray, rows: np.ndarray, *, present: np.ndarray, nouns: Sequence[str]) -> Crops:
        """The crops that the voxels of a model ask for. x (image, feature), rows: the pictures that may be cut, present
        (image, noun). Raises DataError for tokens that do not fit the model's features."""
        weights = _by_layer(model.coef_, x, self.tokens, self.layers)
        strongest = strongest_pictures(model.coef_ @ x[rows].T, self.images)
        asked: Counter[tuple[int, Box]] = Counter()
        for voxel, numbers in enumerate(strongest):
            for image in rows[numbers]:
                asked.update((int(image), box) for box in map_boxes(self._map(weights, voxel, int(image))))
        order = sorted(asked, key=lambda key: (-asked[key], key))[: self.most]
        if not order:
            return Crops(np.zeros((0, x.shape[1]), np.float32), np.zeros((0, len(nouns)), bool), np.zeros(0, np.int64), [], 0)
        image = np.array([key[0] for key in order])
        boxes = [key[1] for key in order]
        parts = [crop(np.asarray(self.stimuli.images[i]), box) for i, box in order]
        ids = np.array([f"{self.stimuli.ids[i]}#{'-'.join(map(str, box))}" for i, box in order])
        pictures = Stimuli(ids, parts, [list(self.stimuli.captions[i]) for i in image])
        found = present[image]
        if self.caption is not None:
            found = presence(tagger(self.tagger).nouns(self.caption(pictures)), nouns)
        return Crops(pooled(self.extract(pictures), self.layers), found, image, boxes, len(asked))

    def boxes(self, model: Reader, voxel: int, image: int) -> list[Box]:
        """Boxes of the places in a picture, by its number, where a voxel's readout is high: what it asks to be cut."""
        return map_boxes(self._map(_by_layer(model.coef_, model.coef_, self.tokens, self.layers), voxel, image))

    def _map(self, weights: dict[str, np.ndarray], voxel: int, image: int) -> np.ndarray:
        """The voxel's readout at each place of a picture, over its layers, (FINE, FINE)."""
        total = np.zeros((FINE, FINE))
        for name, w in weights.items():
            values = np.asarray(self.tokens.tokens[name][image], dtype=np.float32) @ w[voxel]
            total += resize(values.reshape(self.tokens.grid[name]).astype(np.float64), (FINE, FINE), order=1, mode="edge")
        return total


def map_boxes(activation: np.ndarray) -> list[Box]:
    """Boxes of the regions above Otsu's threshold, largest first: at most 4, in steps of 1/16 of the picture.

    activation (row, column). A map that is the same everywhere has none; neither boxes of less than 2 steps a side, nor those
    that overlap a kept one by more than .5 or are nearly the picture (.8 or more). Overlap: intersection over union.
    """
    values = np.asarray(activation, dtype=np.float64)
    span = float(np.ptp(values))
    if not np.isfinite(span):
        raise DataError("crops: an activation map holds NaN or infinity; check the features of the pictures")
    if span <= 1e-9 * max(1.0, float(np.abs(values).max())):
        return []
    scaled = (values - values.min()) / span
    regions = regionprops(connected(scaled > threshold_otsu(scaled), connectivity=2))
    kept: list[Box] = []
    for region in sorted(regions, key=lambda each: -each.area_bbox):
        box = _on_steps(region.bbox, values.shape)
        if min(box[2] - box[0], box[3] - box[1]) < LEAST or overlap(box, (0, 0, STEP, STEP)) >= WHOLE:
            continue
        if all(overlap(box, other) <= OVERLAP for other in kept):
            kept.append(box)
        if len(kept) == MOST:
            break
    return kept


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0, height) * max(0, width)
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inside / (sum(sizes) - inside)


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of a picture (h, w, 3) in a box, in its own pixels. Raises DataError for a box that holds no pixel."""
    height, width = image.shape[:2]
    top, bottom = round(box[0] * height / STEP), round(box[2] * height / STEP)
    left, right = round(box[1] * width / STEP), round(box[3] * width / STEP)
    if bottom <= top or right <= left:
        raise DataError(f"crops: box {box} holds no pixel of a picture of {height} x {width}; give larger pictures")
    return np.ascontiguousarray(image[top:bottom, left:right])


def _on_steps(bbox: tuple[int, ...], shape: tuple[int, ...]) -> Box:
    """A box of a map, outward to the steps that crops lie on."""
    top, left, bottom, right = (value * STEP / side for value, side in zip(bbox, (*shape, *shape)))
    return int(np.floor(top)), int(np.floor(left)), int(np.ceil(bottom)), int(np.ceil(right))


def _by_layer(coef: np.ndarray, x: np.ndarray, tokens: Features, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """The weights (voxel, channel) of each layer that has places. Raises DataError where none has, or widths differ."""
    found: dict[str, Any] = {}
    start = 0
    for name in layers:
        if name not in tokens.tokens:
            raise DataError(f"crops: layer {name!r} has no places; those with places are {list(tokens.tokens)}")
        width = tokens.tokens[name].shape[2]
        found[name] = coef[:, start : start + width]
        start += width
    if start != x.shape[1]:
        raise DataError(f"crops: places have {start} channels in all, the model reads {x.shape[1]}; use the same layers")
    return found
