"""Named configurations of an alignment: our default, the paper's, and the paper's form at a size for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
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
    centred: bool = True  # targets less their training mean, for every encoder of the run

    def changed(self, *, training: Mapping[str, Any] | None = None, design: Mapping[str, Any] | None = None) -> Preset:
        """The preset with some fields of its training and its design replaced; None leaves a field as it is.

        Steps that are given replace epochs; steps, modality and pieces hold for the cheap encoders too. Raises DataError
        for a field that is not known.
        """
        both = {k: v for k, v in (training or {}).items() if k in ("steps", "modality", "accumulate")}
        return self.recipe(training=training, linear=both, design=design)

    def recipe(
        self,
        *,
        training: Mapping[str, Any] | None = None,
        linear: Mapping[str, Any] | None = None,
        design: Mapping[str, Any] | None = None,
    ) -> Preset:
        """The preset with some fields of each of its recipes replaced, each on its own."""
        return replace(
            self,
            training=_replaced(self.training, training),
            linear=_replaced(self.linear, linear),
            design=_replaced(self.design, design),
        )


def _replaced(one: Any, changes: Mapping[str, Any] | None) -> Any:
    """A recipe or a design with the fields replaced that are given and not None; steps switch epochs off."""
    wanted = {k: v for k, v in (changes or {}).items() if v is not None}
    known = [f.name for f in fields(one)]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise DataError(f"{type(one).__name__.lower()} has no {unknown[0]!r}; it has {', '.join(known)}")
    if "steps" in wanted and "epochs" in known:
        wanted.setdefault("epochs", 0)
    return replace(one, **wanted)


# `default` starts the volume encoder at the linear one and fine-tunes it for a few hundred steps. `paper` is section 5 of
# "Bridging Vision, Language, and Brain" for volumes of 91 x 109 x 91 at 2 mm: patches of 14 voxels, the grid padded with
# zeros to 98 x 112 x 98, CLIP-ViT-H/14 widths and 12 blocks, all from scratch; AdamW 3e-4, 1 % warm-up, cosine to 1e-5, 256
# images a batch (over all processes), a queue of 4096, 150 epochs (an epoch: as many images as a subject has), mixed
# precision; single trials, targets as CLIP gives them, not centred. The paper leaves open and is chosen here: weight decay .01,
# CLIP's released temperature, bfloat16, no average of the weights; the checkpoint kept is the one that retrieves held-out
# training images best, and no early stop. `small` is the paper's form and objective from a random start, small: patches of the
# same 28 mm at 4 mm, width 128, 4 blocks, batches of 128 and a queue of 512 for 60 epochs in float32; an epoch is as many rows
# as there are trials, since rows are single. It does not learn in that time: all brain embeddings become one vector, to which a
# random start at temperature .01 and past brain embeddings in the queue both pull. `small_remedied` has the same patches, token,
# objective, targets and single trials, with temperature .07, no queue, a patch projection that starts at a tenth and a rate of
# 1e-3; 2 blocks, half of the patches a step and batches of 64 make a step some fifteen times cheaper.
_PAPER = AlignmentTraining(
    epochs=150, batch=256, lr=3e-4, warmup=0.01, min_lr=1e-5, temperature=CLIP_TEMPERATURE, queue=4096,
    precision="bfloat16", average=0.0, repeats="single", select="retrieval", patience=10**6, evaluate_every=50,
    checkpoint_every=50,
)  # fmt: skip
_LINEAR = AlignmentTraining(steps=400, batch=512, lr=2e-3, average=0.98, checkpoint_every=20)
PRESETS = {
    "default": Preset(
        ("ridge", "ridge_whitened", "linear", "volume"),
        AlignmentTraining(steps=400, batch=128, lr=3e-4, evaluate_every=15, patience=4, average=0.95, checkpoint_every=15),
        _LINEAR,
        DESIGN,
    ),
    "small": Preset(
        ("ridge", "linear", "volume"),
        replace(_PAPER, epochs=60, batch=128, queue=512, precision="float32", evaluate_every=20, checkpoint_every=20),
        _LINEAR,
        replace(design_preset("small"), width=128, heads=4),
        centred=False,
    ),
    "small_remedied": Preset(
        ("ridge", "linear", "volume"),
        replace(
            _PAPER, epochs=20, batch=64, lr=1e-3, warmup=0.02, temperature=0.07, queue=0, precision="float32",
            evaluate_every=100, checkpoint_every=100,
        ),
        _LINEAR,
        replace(design_preset("small"), width=128, heads=4, depth=2, patch_dropout=0.5, patch_start=0.1),
        centred=False,
    ),
    "paper": Preset(
        ("ridge", "linear", "volume"), _PAPER, _LINEAR, replace(design_preset("paper"), checkpointing=True), centred=False,
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """A preset by name. Raises DataError listing the known ones."""
    if name not in PRESETS:
        raise DataError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]
