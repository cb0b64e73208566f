"""What happens to the score when a map decides what is kept: soft masks, matched areas, deletion, insertion, sanity checks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from brainlens.attribution.bottleneck import Bottleneck
from brainlens.attribution.targets import Tail, check_targets, scores
from brainlens.types import DataError

SHARES = (0.0, 0.01, 0.02, 0.05, *(0.1 * k for k in range(1, 11)))  # closer at the start, where informative units are few
EVEN = (0, *range(4, 14))  # those of SHARES that are tenths, over which areas are taken


def unit_range(maps: Tensor) -> Tensor:
    """Every map (sample, unit) to [0, 1] by its own minimum and maximum; a constant map becomes all ones."""
    low, high = maps.min(1, keepdim=True).values, maps.max(1, keepdim=True).values
    return torch.where(high > low, (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny), torch.ones_like(maps))


def top_area(maps: Tensor, area: float) -> Tensor:
    """1 at the share `area` of units with the highest values of each map, 0 elsewhere; exactly round(area n) of them.

    maps (sample, unit) -> the same shape.
    """
    if not 0 < area <= 1:
        raise DataError(f"degradation: area={area} must be in (0, 1]")
    order = _random_ties(maps)
    keep = torch.zeros_like(maps)
    return keep.scatter_(1, order[:, : max(1, round(area * maps.shape[1]))], 1.0)


@dataclass(frozen=True)
class Kept:
    """Scores (sample,) of the whole input and of what the map keeps, and the map's mean (mass) after scaling."""

    full: Tensor
    kept: Tensor
    mass: Tensor


def keep(x: Tensor, model: Tail, targets: Tensor, maps: Tensor, *, area: float | None = None, batch: int = 256) -> Kept:
    """Scores of x * map. area=None: the map scaled to [0, 1] (M2IB's protocol); else the highest `area` of units, hard.

    x: inputs (sample, unit); for units that are not inputs (pixels of three colours, words) ones, and a model of the mask.
    """
    _check(x, targets, maps)
    mask = unit_range(maps) if area is None else top_area(maps, area)
    return Kept(scores(x, model, targets, batch=batch), scores(x * mask, model, targets, batch=batch), mask.mean(1))


def curve(
    x: Tensor,
    model: Tail,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int = 20,
    shares: Sequence[float] | None = None,
    insert: bool = False,
    batch: int = 256,
) -> Tensor:
    """Scores (sample, steps + 1) while units are deleted, or inserted into zeros, in descending order of the map.

    shares: the shares of units that are deleted at each point, in place of even steps from 0 to 1.
    """
    _check(x, targets, maps)
    rank = torch.empty_like(maps).scatter_(
        1, _random_ties(maps), torch.arange(maps.shape[1], device=maps.device).to(maps).expand_as(maps)
    )
    out = []
    for share in [step / steps for step in range(steps + 1)] if shares is None else shares:
        shown = rank < round(share * maps.shape[1])
        out.append(scores(x * (shown if insert else ~shown), model, targets, batch=batch))
    return torch.stack(out, 1)


def controls(maps: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Maps (sample, unit) that know nothing: `random`, `ones`, `shuffled` (each map's own values at random units)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(maps.shape, generator=generator).argsort(1).to(maps.device)
    random = torch.rand(maps.shape, generator=generator).to(maps)
    return {"random": random, "ones": torch.ones_like(maps), "shuffled": maps.gather(1, order)}


def randomised(model: nn.Module, *, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """The model with its weights permuted, cumulatively from the last module to the first (Adebayo et al. 2018).

    Yields (name of the module permuted last, the model); the weights are put back at the end. A permutation keeps
    every parameter's distribution.
    """
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        groups.setdefault(".".join(parts[:2]) if len(parts) > 2 else parts[0], []).append(parameter)
    try:
        for name in reversed(groups):
            with torch.no_grad():
                for parameter in groups[name]:
                    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))
            yield name, model
    finally:
        model.load_state_dict(before)


VARIANCE = 0.1  # of the noise, around which the paper's Table 6 varies one setting at a time
TABLE_6: dict[str, Sequence[float | str]] = {
    "layer": (0, 3, 6, 9),
    "beta": (0.001, 0.01, 0.1, 1.0),
    "variance": (0.01, 0.1, 1.0, 10.0),
    "lr": (0.1, 0.5, 1.0, 2.0),
    "steps": (5, 10, 20, 50),
}


def sensitivity(
    run: Callable[[int | str, Bottleneck], dict[str, float]],
    *,
    layer: int | str,
    settings: Bottleneck | None = None,
    grid: Mapping[str, Sequence[float | str]] | None = None,
) -> list[dict[str, Any]]:
    """One parameter at a time around the given ones (the paper's Table 6): rows of `parameter`, `value` and run(layer, settings).

    Repeated settings are run once. Raises DataError for a parameter that is not found.
    """
    base = Bottleneck(variance=VARIANCE) if settings is None else settings
    grid = TABLE_6 if grid is None else grid
    unknown = sorted(set(grid) - set(TABLE_6))
    if unknown:
        raise DataError(f"sensitivity: {unknown[0]!r} is not a parameter; there are {list(TABLE_6)}")
    known: dict[tuple[int | str, Bottleneck], dict[str, float]] = {}
    rows = []
    for name, value in itertools.chain.from_iterable(((name, v) for v in values) for name, values in grid.items()):
        at: int | str = layer
        chosen = base
        if name == "layer":
            at = value if isinstance(value, str) else int(value)
        else:
            chosen = replace(base, **{name: int(value) if name == "steps" else float(value)})  # type: ignore[arg-type]
        if (at, chosen) not in known:
            known[at, chosen] = run(at, chosen)
        rows.append({"parameter": name, "value": value, **known[at, chosen]})
    return rows


def _random_ties(maps: Tensor) -> Tensor:
    """Descending order in which equal values come in a fixed random order, not in the order of their place in the brain."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(maps.shape[1], generator=generator).to(maps.device)
    return order[maps[:, order].argsort(dim=1, descending=True, stable=True)]


def _check(x: Tensor, targets: Tensor, maps: Tensor) -> None:
    if maps.shape != x.shape:
        raise DataError(f"degradation: maps {tuple(maps.shape)} and inputs {tuple(x.shape)} must have the same shape")
    if not torch.isfinite(maps).all():
        raise DataError("degradation: maps hold NaN or infinity")
    check_targets(len(x), targets)
