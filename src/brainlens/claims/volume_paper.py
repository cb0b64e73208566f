"""The paper's form of the whole-brain aligner, trained from a random start at a laptop's size, beside ridge on the same split.

    align/volume_paper_small/...            single trials, targets as they are, temperature .01, queue, 60 epochs
    align/volume_paper_small_REMEDY/...     one thing changed at a time; REMEDIES says which

Each fit is kept as soon as it is finished, and a training goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brainlens import store
from brainlens.align.scoring import score
from brainlens.datasets.source import Opened, Tell
from brainlens.models.volume.aligners import fit_ridge
from brainlens.models.volume.fit import fit
from brainlens.models.volume.presets import Preset, preset
from brainlens.models.volume.split import split_tables
from brainlens.types import DataError

# What the form fails of: "remedied" is a preset with all remedies, and each "remedied_..." is that with one of them taken back,
# or with another in its place.
_REMEDIED = "remedied"
REMEDIES: dict[str, dict[str, Any]] = {
    "": {},
    "remedied": {},
    "remedied_tau01": {"training": {"temperature": 0.01}},
    "remedied_queue": {"training": {"queue": 512}},
    "remedied_queue_of_targets": {"training": {"queue": 512, "queue_holds": "targets"}},
    "remedied_queue_centred": {"training": {"queue": 512}, "centred": True},
    "remedied_centred": {"centred": True},
    "remedied_full_start": {"design": {"patch_start": 1.0}},
}


def changed(remedy: str, *, training: Mapping[str, Any] | None = None) -> Preset:
    """The preset `small` with one remedy. Raises DataError listing those that there are."""
    if remedy not in REMEDIES:
        raise DataError(f"remedy {remedy!r} is not one of {', '.join(name or 'none' for name in REMEDIES)}")
    parts = REMEDIES[remedy]
    base = "small_remedied" if remedy.startswith(_REMEDIED) else "small"
    chosen = preset(base).recipe(training=parts.get("training"), design=parts.get("design"))
    return replace(chosen.recipe(training=training), centred=parts.get("centred", chosen.centred))


def volume_paper_claims(
    recording: Opened,
    folder: Path,
    *,
    remedies: Sequence[str] = ("",),
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
    done: Callable[[dict[str, float]], None],
) -> dict[str, float]:
    """`align/volume_paper_small.../...` in four directions, and `align/volume_paper_small/ridge/...` on the same split.

    training: fields of `AlignmentTraining` in place of the preset's, such as epochs. The log of validation stands beside the
    scores in `folder`, for the learning curve.
    """
    assert recording.images is not None
    metrics: dict[str, float] = {}
    for name in ("ridge", *remedies):
        label = "volume_paper_small" + ("/ridge" if name == "ridge" else f"_{name}" if name else "")
        file = folder / f"{label.replace('/', '+')}.json"
        if not file.exists():
            chosen = changed("" if name == "ridge" else name, training=training)
            split = split_tables(
                recording.responses, recording.images, recording.texts, seed=seed, device=device, centred=chosen.centred
            )
            tell(f"fitting {label}", None)
            if name == "ridge":
                decoder = fit_ridge(split)
            else:
                trials = int((split.train.rows >= 0).sum())
                decoder = fit(
                    "volume", split, chosen.training, design=chosen.design, seed=seed, folder=folder / "checkpoints" / label,
                    progress=_said(tell, chosen.training.on(trials).steps),
                )  # fmt: skip
            found = {f"align/{label}/{key}": value for key, value in score(decoder, split.test, seed=seed).items()}
            found |= {f"align/{label}/parameters": float(decoder.parameters), f"align/{label}/seconds": decoder.seconds}
            if decoder.log:
                best = max(decoder.log, key=lambda record: record["validation_mrr"])
                found |= {f"align/{label}/best_step": float(best["step"]), f"align/{label}/steps": float(decoder.log[-1]["step"])}
            store.save_json(file, {"metrics": found, "log": decoder.log})
        metrics |= store.read_json(file)["metrics"]
        done(metrics)
    return metrics


def _said(tell: Tell, steps: int) -> Callable[[str, int, dict[str, float]], None]:
    """Progress with the retrieval of validation images, which is what is waited for."""
    return lambda _, step, record: tell(f"training, validation {record['validation_mrr']:.3f}", step / steps)
