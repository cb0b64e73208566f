"""Named recipes of the trained encoding models, and what a command changes in one: its length, its selectors, single details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from brainlens.encode import EncodingDesign
from brainlens.models.encoding.layered_models import CODE, PUBLISHED, RELEASED
from brainlens.models.encoding.training import PAPER, EncodingTraining
from brainlens.nn.factortopy import OPTIONS
from brainlens.types import DataError


def preset(name: str) -> tuple[EncodingDesign, EncodingTraining]:
    """The form and the recipe of the trained models by name: "default", "paper" (text) or "released" (its code).

    Raises DataError listing the known ones.
    """
    if name == "default":
        return EncodingDesign(), EncodingTraining()
    if name == "paper":
        return EncodingDesign(**PUBLISHED, common=None, single_trials=True), PAPER
    if name == "released":
        return EncodingDesign(**PUBLISHED, common=None, single_trials=True, variant=dict(RELEASED)), CODE
    raise DataError(f"encode: preset {name!r} is not one of default, paper, released")


def shorter(training: EncodingTraining, steps: int) -> EncodingTraining:
    """The recipe cut to so many steps, in the proportions of the demo: 15 epochs, penalty gone after 2/5, patience 5."""
    if steps < 1:
        raise DataError(f"encode: {steps} steps are asked for; at least 1 is needed")
    return replace(training, steps=steps, epoch=max(1, steps // 15), decay_steps=max(1, 2 * steps // 5), patience=5, batch=16)


def selectors_without(names: Sequence[str]) -> tuple[str, ...]:
    """The selectors that stay on. Raises DataError for one that there is not."""
    every = ("space", "layer", "scale")
    unknown = [name for name in names if name not in every]
    if unknown:
        raise DataError(f"encode: there is no selector {unknown[0]!r} to switch off; there are {', '.join(every)}")
    return tuple(name for name in every if name not in names)


def detailed(
    design: EncodingDesign,
    training: EncodingTraining,
    *,
    bottlenecks: str | None = None,
    padding: str | None = None,
    readout_start: str | None = None,
    selector_start: str | None = None,
    scale_penalty: bool | None = None,
    decay_steps: int | None = None,
    selector_rate: float | None = None,
    common: str | None = None,
    search_beside: bool | None = None,
) -> tuple[EncodingDesign, EncodingTraining]:
    """A recipe with single details of FactorTopy set, each as in the paper's text or its code; None leaves one as it is.

    bottlenecks: "shared" by spatial and global tokens, or "separate"; padding beyond the outermost tokens: "border", "zeros";
    readout_start: "normal", N(0, 1), or "linear", U(+-1/sqrt(D)); selector_start: "random" or "zero" (centre, uniform, 1/2);
    common: the layer of the common reading, "evidence" for that with the most, or "none" for eq. 1 alone;
    the others are fields of `EncodingTraining`. A detail that is so already leaves the recipe, and with it the name of its run,
    as it is. Raises DataError for other words, a negative number, and a start of the readout that the search replaces.
    """
    words: dict[str, tuple[str, str | None, dict[str, Any]]] = {
        "bottlenecks": ("shared_bottleneck", bottlenecks, {"shared": True, "separate": False}),
        "padding": ("padding", padding, {"border": "border", "zeros": "zeros"}),
        "readout start": ("readout", readout_start, {"normal": "normal", "linear": "linear"}),
        "selector start": ("zero_start", selector_start, {"random": False, "zero": True}),
    }
    variant = dict(design.variant)
    for what, (name, word, known) in words.items():
        if word is None:
            continue
        if word not in known:
            raise DataError(f"encode: {what} {word!r} is not one of {', '.join(known)}")
        if known[word] != variant.get(name, OPTIONS[name][0]):
            variant[name] = known[word]
    numbers = {"decay_steps": decay_steps, "selector_rate": selector_rate}
    for name, value in numbers.items():
        if value is not None and value < 0:
            raise DataError(f"encode: {name.replace('_', ' ')} {value} is negative; 0 switches it off")
    if readout_start is not None and training.searched_start:
        raise DataError(
            f"encode: readout start {readout_start!r} is replaced by the ridge of the searched start; switch that off too, with "
            "--no-search (searched_start=False)"
        )
    if search_beside and (not training.searched_start or common == "none" or (common is None and design.common is None)):
        raise DataError("encode: selectors are searched beside a common reading; leave out --no-search and --common none")
    given = {"scale_penalty": scale_penalty, "search_beside": search_beside, **numbers}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    shared = design.common if common is None else None if common == "none" else common
    return replace(design, variant=variant, common=shared), replace(training, **changes)
