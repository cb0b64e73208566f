"""The published recipes of FactorTopy beside our default, trained on the same images, without and with the closing ridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from brainlens.claims.encode import OURS as SEARCHED
from brainlens.claims.encode import Plan, floor, form, informative_and_noise, named
from brainlens.datasets.source import Opened, Tell
from brainlens.encode import encode, selector_truth
from brainlens.encode.presets import preset
from brainlens.types import DataError

PUBLISHED = ("paper", "released")
OURS = (*SEARCHED, "ridge")


def recipe_claims(
    recording: Opened,
    folder: Path,
    *,
    plan: Plan | None = None,
    steps: int = 20_000,
    recipes: Sequence[str] = PUBLISHED,
    size: int | None = None,
    device: str = "cpu",
    tell: Tell,
) -> dict[str, float]:
    """`encode/factortopy_RECIPE/...` and the same with `_refit`; with a size `encode/curve/factortopy_RECIPE/SIZE/...`.

    Each recipe is trained once, single trials and raw tokens as published, until its patience or `steps` end it; `_refit` solves
    the channel weights of the same network by ridge, which the paper does not. Our default and ridge stand beside them on the
    same voxels where a size is given. folder: for checkpoints, from which a killed run goes on.
    """
    if recording.layers is None:
        raise DataError("recipe claims need the network's layers; open the recording with layers=True")
    chosen = plan or Plan()
    responses = informative_and_noise(recording.responses, noise=chosen.noise, seed=chosen.seed)
    metrics: dict[str, float] = {}

    def add(name: str, **settings: object) -> None:
        result = encode(responses, recording.layers, seed=chosen.seed, device=device, **settings)  # type: ignore[arg-type]
        found = named(result, name) | floor(result, name)
        if "layer_weights" in result.arrays:
            found |= {f"encode/{name}/{key}": value for key, value in selector_truth(result).items()}
            if "training" in result.tables:
                found[f"encode/{name}/steps"] = float(result.tables["training"]["step"].iloc[-1])
        head = "encode/" if size is None else "encode/curve/"
        tail = "" if size is None else f"/{size}"
        metrics.update({key.replace(f"encode/{name}", f"{head}{name}{tail}", 1): value for key, value in found.items()})

    for name in OURS if size is not None else ():
        tell(f"encoding, {name}", None)
        design, training = form(name, chosen)
        add(name, method="ridge" if name == "ridge" else "factortopy", design=design, training=training)
    for recipe in recipes:
        design, training = preset(recipe)
        training = replace(training, steps=min(steps, training.steps))
        for refit in (False, True):
            name = f"factortopy_{recipe}" + ("_refit" if refit else "")
            place = folder / f"factortopy_{recipe}"
            tell(f"encoding, {name}", None)
            add(
                name, design=replace(design, refit=refit, resamples=chosen.design.resamples), training=training, folder=place,
                progress=lambda step, record, name=name, most=training.steps: tell(f"encoding, {name}", step / most),
            )  # fmt: skip
    return metrics
