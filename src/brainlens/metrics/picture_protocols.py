"""The published protocols for scoring reconstructed pictures, as data, and the one function that follows them.

    scores = score_pictures(seen, reconstructed, "mindeye", features={"clip": embed})
    scores.values["two_way_clip"]                # one number an image
    scores.metrics(ceiling=score_pictures(seen, training[rows], "mindeye", features={"clip": embed}))

`protocol_table()` lists what each protocol resizes to, which layer of which network it reads, and what it computes. They
share the names of their scores and are different quantities: never compare a column of one with that of another.

What is done alike here for all: pictures are resized to squares as floats, with PIL's filters, which average when they
shrink. The published programs round to 8 bits in between (Brain-Diffuser, NeuroAdapter) or resize tensors (MindEye).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import pandas as pd
from PIL import Image

from brainlens.metrics.reconstruction import (
    as_unit_range,
    correlation_distance,
    pixel_correlation,
    repeat_ceiling,
    similarities,
    ssim,
    two_way,
)
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.types import DataError
from brainlens.types.scores import join, scores

Extractor = Callable[[np.ndarray], np.ndarray]  # pictures (n, side, side, 3) float32 in [0, 1] -> (n, feature)
BLOCK = 32  # pictures that are resized at once
STATISTICS = ("pixel_correlation", "ssim_plane", "ssim_columns", "two_way", "correlation_distance")


@dataclass(frozen=True)
class Measure:
    """One score: its name, the statistic, the square that pictures are resized to, and what is read of which network.

    features: the name under which `score_pictures` is given the network ("" for scores of pixels); direction: of two-way
    identification, query -> what is searched; resample: the filter of the resize.
    """

    name: str
    statistic: str
    side: int
    resample: str = "bilinear"
    features: str = ""
    network: str = ""
    layer: str = ""
    weights: str = ""
    direction: str = ""


@dataclass(frozen=True)
class Protocol:
    """What a paper computes: the step before all scores, and the scores.

    first: "" (nothing), "resize" (to a square of first_side) or "range" (each picture to [0, 1] by its own extremes).
    """

    name: str
    measures: tuple[Measure, ...]
    first: str = ""
    first_side: int = 0

    def measure(self, name: str) -> Measure:
        """A score by its name. Raises DataError listing those there are."""
        found = [one for one in self.measures if one.name == name]
        if not found:
            raise DataError(f"protocol {self.name!r} has no score {name!r}; it has {', '.join(m.name for m in self.measures)}")
        return found[0]


def _networks(sides: Sequence[int], direction: str, efficientnet: str) -> tuple[Measure, ...]:
    """The six readings of networks that the three protocols share; sides: AlexNet, Inception, CLIP, EfficientNet, SwAV."""
    read = (
        ("two_way_alexnet2", "alexnet2", "AlexNet", "features.4", "IMAGENET1K_V1"),
        ("two_way_alexnet5", "alexnet5", "AlexNet", "features.11", "IMAGENET1K_V1"),
        ("two_way_inception", "inception", "Inception v3", "avgpool", "IMAGENET1K_V1"),
        ("two_way_clip", "clip", "CLIP ViT-L/14", "image", "OpenAI"),
        ("distance_efficientnet", "efficientnet", "EfficientNet-B1", "avgpool", efficientnet),
        ("distance_swav", "swav", "SwAV ResNet-50", "avgpool", "facebookresearch/swav"),
    )
    out = []
    for (name, features, network, layer, weights), side in zip(
        read, (sides[0], *sides), strict=True
    ):  # two layers of AlexNet at one size
        two = name.startswith("two_way")
        statistic = "two_way" if two else "correlation_distance"
        out.append(Measure(name, statistic, side, "bilinear", features, network, layer, weights, direction if two else ""))
    return tuple(out)


def _pixels(form: str, resample: str = "bilinear") -> tuple[Measure, ...]:
    return (Measure("pixcorr", "pixel_correlation", 425, resample), Measure("ssim", f"ssim_{form}", 425, resample))


PER_RECONSTRUCTION, PER_IMAGE = "reconstruction->image", "image->reconstruction"
PROTOCOLS = {
    one.name: one
    for one in (
        Protocol(
            "mindeye",
            _pixels("plane") + _networks((256, 342, 224, 255, 224), PER_RECONSTRUCTION, "IMAGENET1K_V2"),
            first="resize",
            first_side=256,
        ),
        Protocol("brain-diffuser", _pixels("columns", "bicubic") + _networks((224,) * 5, PER_RECONSTRUCTION, "IMAGENET1K_V1")),
        Protocol(
            "neuroadapter",
            _pixels("plane") + _networks((256, 342, 224, 255, 224), PER_IMAGE, "IMAGENET1K_V2"),
            first="range",
        ),
    )
}


@dataclass(frozen=True)
class PictureScores:
    """The scores of reconstructions: values[name] (image,), chance[name], in the order of the protocol."""

    protocol: str
    values: dict[str, np.ndarray]
    chance: dict[str, float]

    def metrics(
        self, group: str = "reconstruct", *, ceiling: PictureScores | None = None, resamples: int = 2000, seed: int = 0
    ) -> dict[str, float]:
        """Flat `group/name`, with `.low`, `.high` (95 %), `.chance`, and `.ceiling` where a ceiling is given; `group/n`.

        The interval is the percentile bootstrap over images; distractors of two-way identification stay as they are. ceiling:
        the same scores of the nearest training pictures, say. Raises DataError for one of another protocol or other images.
        """
        out: dict[str, float] = {}
        for name, values in self.values.items():
            mean, low, high = bootstrap_mean(values, resamples=resamples, seed=seed)
            key = join(group, name)
            out |= {key: mean, f"{key}.low": low, f"{key}.high": high, f"{key}.chance": self.chance[name]}
            if ceiling is None:
                continue
            if ceiling.protocol != self.protocol or len(ceiling.values.get(name, ())) != len(values):
                raise DataError(
                    f"ceiling of {name!r}: it is of protocol {ceiling.protocol!r} with {list(ceiling.values)}; "
                    f"score the ceiling's pictures by {self.protocol!r} on the same {len(values)} images"
                )
            out[f"{key}.ceiling"] = float(ceiling.values[name].mean())
        return out | {join(group, "n"): float(len(next(iter(self.values.values()))))}

    def table(self, *, ceiling: PictureScores | None = None, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """One row a score: metric, value, low, high, chance, ceiling, n, unit."""
        return scores(self.metrics("", ceiling=ceiling, resamples=resamples, seed=seed))


def protocol(name: str | Protocol) -> Protocol:
    """A protocol by its name, or the one that is given. Raises DataError listing the names."""
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise DataError(f"protocol {name!r} is not one of {', '.join(PROTOCOLS)}; or give a Protocol of your own")
    return PROTOCOLS[name]


def protocol_table(names: Sequence[str] = tuple(PROTOCOLS)) -> pd.DataFrame:
    """One row for each score of each protocol: protocol, first step, and the fields of `Measure`."""
    rows = []
    for one in (protocol(name) for name in names):
        first = f"resize {one.first_side}" if one.first == "resize" else one.first
        rows += [(one.name, first, *(getattr(m, f.name) for f in fields(Measure))) for m in one.measures]
    return pd.DataFrame(rows, columns=["protocol", "first", *(f.name for f in fields(Measure))])


def score_pictures(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    name: str | Protocol = "mindeye",
    *,
    features: Mapping[str, Extractor] | None = None,
    measures: Sequence[str] | None = None,
    groups: Sequence[object] | np.ndarray | None = None,
) -> PictureScores:
    """The scores of a protocol for reconstructions of pictures, image by image.

    y_true (image, row, column[, 3]) the seen pictures, y_pred the reconstructions, uint8 or floats in [0, 1]; the two may be of
    different sizes. features: networks by the names of the protocol ("alexnet2", "clip", ...), each a function from pictures
    (n, side, side, 3) float32 in [0, 1] of the protocol's side to (n, feature); `backbones.picture_features` makes them.
    measures: names of scores; None: those of pixels and of every network that is given. groups: as in `two_way`.

    Chance is .5 for two-way identification, for distances the mean over all pairs that do not belong together, and for scores
    of pixels the mean over a random pairing in which none does (a picture is like another one by more than 0).
    Raises DataError for a network that is needed and not given, one that the protocol does not read, and as the scores do.
    """
    sets = {"y_pred": y_pred}
    return score_sets(y_true, sets, name, features=features, measures=measures, groups=groups)["y_pred"]


def score_sets(
    y_true: np.ndarray,
    sets: Mapping[str, np.ndarray],
    name: str | Protocol = "mindeye",
    *,
    features: Mapping[str, Extractor] | None = None,
    measures: Sequence[str] | None = None,
    groups: Sequence[object] | np.ndarray | None = None,
) -> dict[str, PictureScores]:
    """`score_pictures` of several sets of reconstructions of the same pictures, which a network then reads once.

    sets: name -> pictures (image, row, column[, 3]), such as candidates and baselines.
    """
    chosen, given = protocol(name), dict(features or {})
    wanted = _wanted(chosen, given, measures)
    true, made = _pictures(y_true, "y_true"), {what: _pictures(pred, what) for what, pred in sets.items()}
    for pred in made.values():
        if len(true) != len(pred) or len(true) < 2:
            raise DataError(f"scores of pictures: {len(true)} seen, {len(pred)} reconstructed; give the same 2 images or more")
    if any(one.statistic == "pixel_correlation" for one in wanted):
        for what, pictures in (("y_true", true), *made.items()):
            _refuse_flat(pictures, what)
    out = {what: PictureScores(chosen.name, {}, {}) for what in made}
    every, other = np.arange(len(true)), _mismatched(len(true))
    for one in wanted:
        seen = _network_rows(one, chosen, true, given[one.features]) if one.features else None
        for what, pred in made.items():
            values, level = out[what].values, out[what].chance
            if seen is None:
                values[one.name] = _pixel_score(one, chosen, true, pred, every)
                level[one.name] = float(_pixel_score(one, chosen, true, pred, other).mean())
                continue
            drawn = _network_rows(one, chosen, pred, given[one.features])
            if one.statistic == "two_way":
                values[one.name], level[one.name] = two_way(seen, drawn, one.direction, groups=groups), 0.5
            else:
                n, like = len(seen), similarities(seen, drawn)
                values[one.name] = correlation_distance(seen, drawn)
                level[one.name] = float(1 - (like.sum() - np.trace(like)) / (n * (n - 1)))
    return out


def repeat_scores(
    pictures: np.ndarray, name: str | Protocol = "mindeye", *, features: Mapping[str, Extractor] | None = None
) -> PictureScores:
    """The repeat noise ceiling in the scores of a protocol: reconstructions of one repetition beside those of another.

        two-way:   mean over ordered pairs of repetitions            pixcorr:   sqrt(max(0, mean over pairs of r))
        distance:  1 - sqrt(max(0, mean over pairs of r))            ssim:      mean over pairs

    pictures (repetition, image, row, column[, 3]) of each repetition alone. See `metrics.reconstruction.repeat_ceiling`.
    Chance is that of pictures which do not belong together, in the same terms but for .5 of two-way identification.
    Raises DataError as `score_pictures` and `repeat_ceiling` do.
    """
    chosen, given = protocol(name), dict(features or {})
    sets = [_pictures(one, f"repetition {k}") for k, one in enumerate(pictures)]
    if len(sets) < 2 or len(sets[0]) < 2:
        raise DataError(
            f"repeat ceiling: {len(sets)} repetitions of {len(sets[0]) if sets else 0} images; give 2 or more of both"
        )
    for k, each in enumerate(sets):
        _refuse_flat(each, f"repetition {k}")
    out = PictureScores(chosen.name, {}, {})
    every, other = np.arange(len(sets[0])), _mismatched(len(sets[0]))
    for one in _wanted(chosen, given, None):
        if one.features:
            rows = np.stack([_network_rows(one, chosen, own, given[one.features]) for own in sets])
            if one.statistic == "two_way":
                out.values[one.name], out.chance[one.name] = repeat_ceiling(rows), 0.5
            else:
                out.values[one.name] = 1 - repeat_ceiling(rows, "correlation")
                out.chance[one.name] = float(1 - repeat_ceiling(np.stack([rows[0], rows[1][other]]), "correlation").mean())
            continue
        alike, unlike = (
            np.mean([_pixel_score(one, chosen, a, b, partner) for a, b in combinations(sets, 2)], axis=0)
            for partner in (every, other)
        )
        root = one.statistic == "pixel_correlation"
        out.values[one.name] = np.sqrt(np.maximum(0.0, alike)) if root else alike
        out.chance[one.name] = float((np.sqrt(np.maximum(0.0, unlike)) if root else unlike).mean())
    return out


def resize(pictures: np.ndarray, side: int, resample: str = "bilinear") -> np.ndarray:
    """Pictures (n, row, column[, 3]) of floats as squares (n, side, side[, 3]) float32; those of that size stay as they are.

    resample: "bilinear" or "bicubic", whose overshoots are cut to [0, 1]. Raises DataError for another filter.
    """
    if resample not in ("bilinear", "bicubic"):
        raise DataError(f"resize: filter {resample!r} is not one of bilinear, bicubic")
    if pictures.shape[1:3] == (side, side):
        return pictures.astype(np.float32, copy=False)
    planes = pictures[..., None] if pictures.ndim == 3 else pictures
    out = np.empty((len(planes), side, side, planes.shape[3]), dtype=np.float32)
    how = Image.Resampling[resample.upper()]
    for i, picture in enumerate(planes.astype(np.float32)):
        for colour in range(picture.shape[2]):
            out[i, :, :, colour] = np.asarray(
                Image.fromarray(np.ascontiguousarray(picture[:, :, colour])).resize((side, side), how)
            )
    np.clip(out, 0, 1, out=out)
    return out[..., 0] if pictures.ndim == 3 else out


def _wanted(chosen: Protocol, given: Mapping[str, Extractor], measures: Sequence[str] | None) -> list[Measure]:
    known = {one.features for one in chosen.measures} - {""}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise DataError(f"protocol {chosen.name!r} reads no network {unknown[0]!r}; it reads {', '.join(sorted(known))}")
    if measures is None:
        return [one for one in chosen.measures if not one.features or one.features in given]
    if isinstance(measures, str) or not measures:
        raise DataError(f"scores of pictures: measures are a list of names, got {measures!r}")
    wanted = [chosen.measure(name) for name in measures]
    for one in wanted:
        if one.features and one.features not in given:
            raise DataError(
                f"score {one.name!r} needs the network {one.features!r}: give features={{{one.features!r}: FUNCTION}} for layer "
                f"{one.layer!r} of {one.network} ({one.weights}) at {one.side} pixels"
            )
    return wanted


def _pictures(pictures: np.ndarray, what: str) -> np.ndarray:
    """Pictures that `as_unit_range` accepts; uint8 stays what it is, since blocks become floats when they are read."""
    array = np.asarray(pictures)
    if array.dtype != np.uint8:
        return as_unit_range(array, what)
    as_unit_range(array[:1], what)
    return array


def _refuse_flat(pictures: np.ndarray, what: str) -> None:
    """Raises DataError for a picture of one value, by its own number and before anything is computed."""
    for i, picture in enumerate(pictures):
        if picture.min() == picture.max():
            raise DataError(f"{what}: image {i} is constant, so it has no correlation; leave it out of both sides and count it")


def _prepared(one: Measure, chosen: Protocol, pictures: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of the pictures at these rows as the protocol's score reads them."""
    for start in range(0, len(rows), BLOCK):
        block = as_unit_range(pictures[rows[start : start + BLOCK]])
        if chosen.first == "resize":
            block = resize(block, chosen.first_side)
        elif chosen.first == "range":
            inside = tuple(range(1, block.ndim))
            low, high = block.min(axis=inside, keepdims=True), block.max(axis=inside, keepdims=True)
            if (high == low).any():
                flat = int(rows[start + int(np.argmax((high == low).ravel()))])
                raise DataError(f"protocol {chosen.name!r}: picture {flat} is of one value, so it has no range; leave it out")
            block = (block - low) / (high - low)
        yield resize(block, one.side, one.resample)


def _pixel_score(one: Measure, chosen: Protocol, true: np.ndarray, pred: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """The score of each seen picture with the reconstruction at `partner`."""
    parts = []
    for a, b in zip(_prepared(one, chosen, true, np.arange(len(true))), _prepared(one, chosen, pred, partner), strict=True):
        a, b = (a, b) if a.ndim == b.ndim else (_colour(a), _colour(b))
        parts.append(
            pixel_correlation(a, b) if one.statistic == "pixel_correlation" else ssim(a, b, one.statistic[len("ssim_") :])
        )
    return np.concatenate(parts)


def _network_rows(one: Measure, chosen: Protocol, pictures: np.ndarray, extract: Extractor) -> np.ndarray:
    rows = [np.asarray(extract(_colour(block))) for block in _prepared(one, chosen, pictures, np.arange(len(pictures)))]
    if any(row.ndim != 2 for row in rows) or sum(map(len, rows)) != len(pictures):
        raise DataError(f"network {one.features!r} gives {rows[0].shape} for pictures; it must give (picture, feature)")
    return np.concatenate(rows)


def _colour(pictures: np.ndarray) -> np.ndarray:
    return np.repeat(pictures[..., None], 3, axis=3) if pictures.ndim == 3 else pictures


def _mismatched(n: int) -> np.ndarray:
    """A picture of another image for each image: one random cycle through all."""
    order = np.random.default_rng(0).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other
