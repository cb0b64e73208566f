"""Named configurations of an alignment: the one of the paper, and one for a laptop."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from brainlens.models.volume.aligners import DESIGN
from brainlens.models.volume.training import AlignmentTraining
from brainlens.nn.losses import CLIP_TEMPERATURE
from brainlens.nn.volume_encoder import VolumeDesign
from brainlens.nn.volume_encoder import preset as design_preset
from brainlens.types import DataError


@dataclass(frozen=True)
class Preset:
    """Encoders, the last of which is the main one; recipes of the large and of the cheap ones; the volume encoder's design."""

    encoders: tuple[str, ...]
    training: AlignmentTraining
    linear: AlignmentTraining
    design: VolumeDesign

    def changed(self, *, training: dict[str, Any] | None = None, design: dict[str, Any] | None = None) -> Preset:
        """The preset with some fields of its training and its design replaced; None leaves a field as it is.

        Steps that are given replace epochs; steps, modality and pieces hold for the cheap encoders too. Raises DataError
        for a field that is not there.
        """
        wanted = {k: v for k, v in (training or {}).items() if v is not None}
        looks = {k: v for k, v in (design or {}).items() if v is not None}
        for given, kind in ((wanted, AlignmentTraining), (looks, VolumeDesign)):
            unknown = set(given) - {f.name for f in fields(kind)}
            if unknown:
                raise DataError(
                    f"{kind.__name__.lower()} has no {sorted(unknown)[0]!r}; it has {', '.join(f.name for f in fields(kind))}"
                )
        if "steps" in wanted:
            wanted.setdefault("epochs", 0)
        both = {k: v for k, v in wanted.items() if k in ("steps", "modality", "accumulate")}
        return replace(
            self,
            training=replace(self.training, **wanted),
            linear=replace(self.linear, **both),
            design=replace(self.design, **looks),
        )


# `small` starts the volume encoder at the linear one and fine-tunes it for a few hundred steps. `paper` is section 5 of
# "Bridging Vision, Language, and Brain" for volumes of 91 x 109 x 91 at 2 mm: patches of 14 voxels, the grid padded with
# zeros to 98 x 112 x 98, CLIP-ViT-H/14 widths and 12 blocks, all from scratch; AdamW 3e-4, 1 % warm-up, cosine to 1e-5, 256
# images a batch (over all processes), a queue of 4096, 150 epochs (an epoch: as many images as a subject has), mixed
# precision. The paper leaves open and is chosen here: weight decay .01, CLIP's released temperature, bfloat16, no average of
# the weights; the checkpoint kept is the best on held-out training images, and no early stop.
PRESETS = {
    "small": Preset(
        ("ridge", "ridge_whitened", "linear", "volume"),
        AlignmentTraining(steps=400, batch=128, lr=3e-4, evaluate_every=15, patience=4, average=0.95, checkpoint_every=15),
        AlignmentTraining(steps=400, batch=512, lr=2e-3, average=0.98, checkpoint_every=20),
        DESIGN,
    ),
    "paper": Preset(
        ("ridge", "linear", "volume"),
        AlignmentTraining(
            epochs=150, batch=256, lr=3e-4, warmup=0.01, min_lr=1e-5, temperature=CLIP_TEMPERATURE, queue=4096,
            precision="bfloat16", average=0.0, patience=10**6, evaluate_every=50, checkpoint_every=50,
        ),
        AlignmentTraining(steps=400, batch=512, lr=2e-3, average=0.98, checkpoint_every=20),
        replace(design_preset("paper"), checkpointing=True),
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """A preset by name. Raises DataError listing the known ones."""
    if name not in PRESETS:
        raise DataError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]
