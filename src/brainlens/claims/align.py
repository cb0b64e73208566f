"""The ground-truth claims: what each method recovers of the phantom's truth, under the names of the claim table.

The demo calls these functions at a small size and `make claims` at the full one. Each verb's result goes to a run folder
of its own, so that the report shows it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from brainlens.align import Alignment, align
from brainlens.align.scoring import score
from brainlens.claims.variants import unpaired
from brainlens.datasets.runs import keep
from brainlens.datasets.source import Opened, Source, Tell
from brainlens.metrics.retrieval import ranks_from_scores, summary
from brainlens.models.volume.fit import LINEAR, TRAINING, fit
from brainlens.models.volume.model import CHEAP
from brainlens.models.volume.split import Split
from brainlens.models.volume.stored import save_models
from brainlens.models.volume.training import AlignmentTraining
from brainlens.phantom.ideal import ideal_scores

ENCODERS = ("ridge", "ridge_whitened", "linear", "ridge_projected", "volume")


def align_claims(
    recording: Opened,
    source: Source,
    runs: Path,
    *,
    encoders: tuple[str, ...] = ENCODERS,
    training: AlignmentTraining = TRAINING,
    linear: AlignmentTraining = LINEAR,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> tuple[Alignment, dict[str, float]]:
    """`align/...`: every encoder in four directions, the ideal observer, and training on shuffled pairs."""
    assert recording.images is not None

    def progress(name: str, step: int, record: dict[str, float]) -> None:
        whole = linear.steps if name.startswith(CHEAP) else training.steps
        tell(f"training {name}", step / whole)

    tell("fitting ridge", None)
    alignment = align(
        recording.responses,
        recording.images,
        recording.texts,
        encoders=encoders,
        training=training,
        linear=linear,
        seed=seed,
        device=device,
        progress=progress,
    )
    metrics = {key: value for key, value in alignment.result.metrics.items() if key.startswith("align/")}
    metrics |= ideal_claims(recording, alignment.split)
    metrics |= shuffled_claims(alignment.split, training, seed=seed, tell=tell)
    result = replace(alignment.result, metrics={**alignment.result.metrics, **metrics})
    gallery = recording.stimuli.take(alignment.split.test.ids)
    arrays = {"gallery/images": np.stack(list(gallery.images)), "domain": gallery.table["domain"].to_numpy(dtype=np.str_)}
    save_models(keep(result, runs, source, arrays=arrays), alignment.models)
    return alignment, metrics


def ideal_claims(recording: Opened, split: Split) -> dict[str, float]:
    """`align/ideal/...`: retrieval by the likelihood under the true generative model, the ceiling of every decoder here."""
    if recording.truth is None:
        return {}
    part = split.test
    scores = ideal_scores(part.mean().cpu().numpy(), part.ids, recording.truth, repeats=(part.rows >= 0).sum(1).numpy())
    metrics: dict[str, float] = {}
    for direction, table in (("brain->image", scores), ("image->brain", scores.T)):
        found = summary(ranks_from_scores(table), len(part.ids))
        metrics |= {f"align/ideal/retrieval/{direction}/{key}": value for key, value in found.items()}
    return metrics


def shuffled_claims(split: Split, training: AlignmentTraining, *, seed: int, tell: Tell) -> dict[str, float]:
    """`align/shuffled/...`: the volume encoder with its start and its metric, all from pairs that do not belong together."""
    tell("control: shuffled pairs", None)
    control = fit("volume", unpaired(split, seed=seed + 1), replace(training, steps=min(training.steps, 60)), seed=seed)
    return {f"align/shuffled/{key}": value for key, value in score(control, split.test, seed=seed).items()}
