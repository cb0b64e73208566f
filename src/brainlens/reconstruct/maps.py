"""Which region drew what: attention over denoising beside its controls, and lesions of sets of regions.

Attention says what was read; whether it mattered, a lesion says. A map of one region alone says little either, since all of
them follow the picture: it stands beside that of another trial's brain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainlens.attribution.cross_attention import AttentionRecord, shuffle_regions
from brainlens.models.generation.adapter_tables import responses_array
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.types import DataError


@dataclass(frozen=True)
class RegionMaps:
    """pictures (trial, candidate, h, w, 3); contributions (trial, step, region), from noise to picture, with the names of the
    regions; maps of each set (trial, bin, side, side). The same under value norms, with region names shuffled, and with the brain
    of another trial at the same noise; gradients (trial, step, region): what more attention to a region would change."""

    names: tuple[str, ...]
    pictures: np.ndarray
    contributions: np.ndarray
    maps: dict[str, np.ndarray]
    value_contributions: np.ndarray
    gradients: np.ndarray
    shuffled_contributions: np.ndarray
    other_contributions: np.ndarray
    other_maps: dict[str, np.ndarray]


@dataclass(frozen=True)
class Lesions:
    """pictures of the whole brain, and of the brain without each set of regions, at the same noise (trial, candidate, h, w, 3);
    change: mean absolute difference of the pictures (trial,), in grey levels of 255, for each set."""

    whole: np.ndarray
    without: dict[str, np.ndarray]
    change: dict[str, np.ndarray]


class _Several:
    """Records that watch together."""

    def __init__(self, records: Sequence[AttentionRecord]) -> None:
        self.records = records

    def at(self, step: int, steps: int, rows: np.ndarray) -> None:
        for record in self.records:
            record.at(step, steps, rows)

    def __call__(self, layer: int, probs: Any, values: Any) -> None:
        for record in self.records:
            record(layer, probs, values)


def region_maps(
    model: NeuroAdapter,
    Y: Any,
    *,
    sets: Mapping[str, Sequence[str]] | None = None,
    side: int = 16,
    bins: int = 4,
    layers: str = "alike",
    seed: int = 0,
    **sampling: Any,
) -> RegionMaps:
    """Draws the pictures of responses Y (trial, unit) and records the attention to regions, and again with other trials' brains.

    sets: names of sets of regions, for maps (None: each region alone); side, bins, layers: see `AttentionRecord`; sampling:
    candidates, guidance, steps of `NeuroAdapter.reconstruct`. Pictures are the same to the bit as without recording.
    Raises DataError for fewer than 2 trials, whose brains cannot be exchanged, and for regions that the model does not have.
    """
    model._check_fitted("parcels_")
    y = responses_array(Y, model.subjects_)
    if y.ndim != 2 or len(y) < 2:
        raise DataError(f"region maps exchange the brains of trials, so Y {y.shape} needs (trial, unit) and 2 trials or more")
    names = model.parcels_.names
    chosen = {name: [name] for name in names} if sets is None else sets
    numbers = {name: model.parcels_.find(list(members)) for name, members in chosen.items()}
    made: dict[str, Any] = {"sets": numbers, "side": side, "bins": bins, "layers": layers}
    own, valued, other = (
        AttentionRecord(len(y), len(names), **made),
        AttentionRecord(len(y), len(names), layers=layers, value_norm=True),
        AttentionRecord(len(y), len(names), **made),
    )
    pictures = model.reconstruct(y, seed=seed, watch=_Several([own, valued]), **sampling)
    model.reconstruct(y[_exchanged(len(y), seed)], seed=seed, watch=other, **sampling)
    return RegionMaps(
        names,
        pictures,
        own.contributions(),
        {name: own.maps(name) for name in numbers},
        valued.contributions(),
        model.region_gradients(y, seed=seed, **{name: value for name, value in sampling.items() if name != "candidates"}),
        shuffle_regions(own.contributions(), seed=seed),
        other.contributions(),
        {name: other.maps(name) for name in numbers},
    )


def lesions(
    model: NeuroAdapter,
    Y: Any,
    sets: Mapping[str, Sequence[str]],
    *,
    refit: Callable[[Sequence[str]], NeuroAdapter] | None = None,
    seed: int = 0,
    **sampling: Any,
) -> Lesions:
    """Pictures of responses Y (trial, unit) with the whole brain and without each set of regions, at the same noise.

    refit: None, and the regions are removed from the model, which says what it made of them; or a function that gives a model
    that was fitted without them, which says what they alone know: what the others know too is still drawn. sampling: candidates,
    guidance, steps of `NeuroAdapter.reconstruct`. Raises DataError for no set, and regions that the model does not have.
    """
    if not sets:
        raise DataError("no set of regions to lesion; give {name: [regions]}")
    for regions in sets.values():
        model.parcels_.find(list(regions))

    def drawn(regions: Sequence[str]) -> np.ndarray:
        if refit is None:
            return model.reconstruct(Y, seed=seed, without=list(regions), **sampling)
        return refit(regions).reconstruct(Y, seed=seed, **sampling)

    whole = model.reconstruct(Y, seed=seed, **sampling)
    without = {name: drawn(regions) for name, regions in sets.items()}
    change = {
        name: np.abs(pictures.astype(np.int16) - whole.astype(np.int16)).mean(axis=(1, 2, 3, 4))
        for name, pictures in without.items()
    }
    return Lesions(whole, without, change)


def _exchanged(n: int, seed: int) -> np.ndarray:
    """A permutation of n trials in which none stays: a random order, moved on by one."""
    order = np.random.default_rng(seed).permutation(n)
    out = np.empty(n, dtype=np.int64)
    out[order] = np.roll(order, 1)
    return out
