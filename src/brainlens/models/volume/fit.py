"""One fMRI aligner by name, with the recipes of the contrastive and of the cheap ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from brainlens.models.volume.aligners import (
    DESIGN,
    Decoder,
    find_start,
    fit_cnn,
    fit_linear,
    fit_mlp,
    fit_projected,
    fit_ridge,
    fit_shared,
    fit_volume,
)
from brainlens.models.volume.split import Split
from brainlens.models.volume.training import AlignmentTraining
from brainlens.nn.volume_encoder import VolumeDesign

TRAINING = AlignmentTraining(steps=120, batch=128, lr=3e-4, evaluate_every=15, patience=4, average=0.95)


LINEAR = AlignmentTraining(steps=240, batch=512, lr=2e-3, average=0.98, checkpoint_every=20)


Progress = Callable[[str, int, dict[str, float]], None]


def fit(
    name: str,
    split: Split,
    training: AlignmentTraining,
    *,
    linear: AlignmentTraining = LINEAR,
    design: VolumeDesign = DESIGN,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
    known: dict[str, Decoder] | None = None,
) -> Decoder:
    """One encoder; `known` holds those that are fitted already, whose ridge and whose start are used again."""

    def tell(step: int, record: dict[str, float]) -> None:
        if progress is not None:
            progress(name, step, record)

    place = None if folder is None else Path(folder) / name
    if name in ("ridge", "ridge_whitened"):
        done = (known or {}).get("ridge")
        return fit_ridge(split, whitened=name == "ridge_whitened", fits=None if done is None else done.ridge)
    if name == "cnn":
        return fit_cnn(split, training, seed=seed, folder=place, progress=tell)
    start = None
    if name.endswith("_projected") or (name == "volume" and design.per_patch and design.class_token == "sum"):
        begun = [d.start for d in (known or {}).values() if d.start is not None]
        start = begun[0] if begun else find_start(split, design, modality=training.modality)
    if name == "ridge_projected":
        assert start is not None
        return fit_projected(start)
    if name in ("linear", "linear_projected"):
        return fit_linear(split, linear, seed=seed, start=start, progress=tell)
    if name == "mindeye_like":
        return fit_mlp(split, linear, seed=seed, folder=place, progress=tell, mindeye=True)
    if name == "mindeye2_like":
        return fit_shared(split, linear, seed=seed, folder=place, progress=tell)
    if name in ("mlp", "mlp_projected"):
        return fit_mlp(split, linear, seed=seed, start=start, folder=place, progress=tell)
    return fit_volume(split, training, design=design, start=start, seed=seed, folder=place, progress=tell)
