"""Which encoders suit a recording, and which of them the headline is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brainlens.align.scoring import directions
from brainlens.metrics import retrieval
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.presets import Preset
from brainlens.models.volume.split import AlignmentPart
from brainlens.types import Responses, Result, Volume

OF_VOLUMES = ("cnn", "volume")  # encoders that read patches or neighbours of a voxel grid
VALIDATION, LAST = "validation images", "the last encoder named"  # what chose the main encoder (config: main_by)
FEW = 1000  # training images, below which training the volume encoder further is not worth its time


def suited(chosen: Preset, responses: Responses) -> Preset:
    """The preset with the volume encoder left at its linear start where a recording has few training images.

    Its training on 221 photographs took twenty minutes, where ridge takes a second, and came out below ridge.
    """
    trials = responses.trials
    images = trials.loc[trials["split"] != "test", "stimulus"].nunique() if "split" in trials.columns else 0
    return chosen if images >= FEW else chosen.recipe(training={"steps": 1})


def bearable(encoders: Sequence[str], responses: Responses) -> list[str]:
    """The encoders that a recording bears: those of a volume are left out where units are no voxels, as on a surface."""
    voxels = isinstance(responses.space, Volume)
    return [name for name in encoders if voxels or name not in OF_VOLUMES]


def best_last(fitted: dict[str, Decoder], validation: AlignmentPart) -> tuple[dict[str, Decoder], dict[str, float], str]:
    """(encoders with the main one last, score of each on validation images, what chose it) of the fitted encoders by name.

    The score is `validation_score`; of equal ones the first counts. Test images have no part in it. Where no subject has two
    validation images to tell apart, the last that was named is the main one and there are no scores; one encoder is no choice.
    """
    if len(fitted) < 2:
        return fitted, {}, ""
    if max(len(validation.items(subject)) for subject in validation.subjects) < 2:
        return fitted, {}, LAST
    scores = {name: validation_score(decoder, validation) for name, decoder in fitted.items()}
    best = max(scores, key=lambda name: scores[name])
    return {name: fitted[name] for name in [*(name for name in fitted if name != best), best]}, scores, VALIDATION


def spoken(result: Result) -> str:
    """One line that names the encoder that a run's key numbers are of and how it was chosen; empty where there was no choice."""
    main, names = result.config.get("main"), result.config.get("encoders", [])
    if not result.config.get("main_by") or len(names) < 2:
        return ""
    if result.config["main_by"] == LAST:
        return f"headline: {main}, {LAST}: there are no two validation images to choose by"
    scores = {name: result.metrics[f"align/{name}/validation/mrr"] for name in names}
    listed = ", ".join(f"{name} {scores[name]:.3f}" for name in sorted(names, key=lambda name: -scores[name]))
    images = result.metrics.get("data/validation_images", float("nan"))
    start = " (at its linear start)" if result.config.get("linear_start") else ""
    return f"headline: {main}{start}, the best on {images:.0f} validation images by mean reciprocal rank ({listed})"


def validation_score(decoder: Decoder, part: AlignmentPart) -> float:
    """Mean reciprocal rank of the validation images among themselves, brain to image (and to text where there are texts)."""
    values = []
    for subject in part.subjects:
        own = part.of(subject)
        for name, (query, gallery) in directions(decoder, own).items():
            if name.startswith("brain->"):
                values.append(float(np.mean(1 / (1 + retrieval.ranks(query, gallery)))))
    return float(np.mean(values))
