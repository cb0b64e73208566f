"""The fMRI aligners as estimators: ridge, linear, MLP, 3D CNN and the volume transformer, which `align` fits by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from brainlens import store
from brainlens.models.volume.aligners import MINDEYE, MINDEYE_RATE
from brainlens.models.volume.model import Aligner
from brainlens.models.volume.presets import Preset, preset
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.types import DataError


class RidgeAligner(Aligner):
    """Ridge from voxels to the embeddings: z = (x - mean) W + b, W = argmin |Z - (X - mean) W|^2 + alpha |W|^2.

    X (n, V) mean responses of the images, Z (n, d) their centred embeddings of length one. The penalty is the one with the
    best mean reciprocal rank on held-back images. whitened: cosines after whitening by the covariance of the leave-one-out
    residuals (linear discriminant analysis). projected: ridge on reliable voxels and the canonical metric, which is what
    `VolumeAligner` starts from; it needs a mask, whose patches have an edge of `patch` voxels.

    Raises DataError for both at once.
    """

    def __init__(
        self,
        whitened: bool = False,
        projected: bool = False,
        *,
        modality: str = "both",
        patch: int = 7,
        validation: float = 0.1,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.whitened = whitened
        self.projected = projected
        self.modality = modality
        self.patch = patch
        self.validation = validation
        self.seed = seed
        self.device = device

    def encoder(self) -> str:
        if self.whitened and self.projected:
            raise DataError("RidgeAligner: whitened and projected are two metrics; choose one")
        return "ridge_whitened" if self.whitened else "ridge_projected" if self.projected else "ridge"

    def settings(self) -> Preset:
        return preset("default").changed(training={"modality": self.modality}, design={"patch": self.patch})

    def needs_mask(self) -> bool:
        return self.projected


class _Trained(Aligner):
    """An aligner with a recipe of training steps over the default one."""

    def __init__(
        self,
        projected: bool = False,
        *,
        training: Mapping[str, Any] | None = None,
        patch: int = 7,
        validation: float = 0.1,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.projected = projected
        self.training = training
        self.patch = patch
        self.validation = validation
        self.seed = seed
        self.device = device

    def settings(self) -> Preset:
        chosen = preset("default").recipe(linear=self.training, design={"patch": self.patch})
        return chosen.recipe(training={"modality": chosen.linear.modality})  # of the start, where it is projected

    def needs_mask(self) -> bool:
        return self.projected


class LinearAligner(_Trained):
    """One linear map z = W x + b trained by the contrastive loss on 500 principal components of the responses.

    Loss: the mean of InfoNCE brain-image and brain-text, both ways (see `nn.losses.trimodal`). projected: in the metric that
    `VolumeAligner` starts from, which needs a mask. training: fields of `AlignmentTraining` to be changed.
    """

    def encoder(self) -> str:
        return "linear_projected" if self.projected else "linear"


class MLPAligner(_Trained):
    """A residual MLP of width 512 from voxels to the embedding, in the manner of MindEye (Scotti et al. 2023).

    It reads all columns that it is given; `align` gives it the voxels that have a region. projected, training: as in
    `LinearAligner`.
    """

    def encoder(self) -> str:
        return "mlp_projected" if self.projected else "mlp"


class MindEyeAligner(_Trained):
    """A residual MLP of width 512 by MindEye's losses: BiMixCo for a third of the steps, then SoftCLIP.

    Inputs are mixed in pairs and each mixture has to find both of its images (`nn.losses.mixco`); later each response has to be
    as alike to the images as its own image is (`nn.losses.soft_clip`). The sum over images and texts. Scotti et al. 2023, without
    its diffusion prior and with the class embedding in place of CLIP's 257 tokens; the checkpoint kept is the one that retrieves
    held-back images best, where the released code keeps the last. Rate 3e-4, as published, in every recipe of `align`. training:
    fields of `AlignmentTraining` to be changed.
    """

    def __init__(
        self, *, training: Mapping[str, Any] | None = None, validation: float = 0.1, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__(training=training, validation=validation, seed=seed, device=device)

    def settings(self) -> Preset:
        return preset("default").recipe(linear={"lr": MINDEYE_RATE, **(self.training or {})})

    def encoder(self) -> str:
        return "mindeye_like"


class SharedSubjectAligner(MindEyeAligner):
    """A linear map for each subject and one MLP for all, by the losses of `MindEyeAligner`; after MindEye2 (Scotti et al. 2024).

    h_s = A_s x + a_s for a subject s, then the same residual MLP and head (`nn.decoding_baselines.SharedSubjectMLP`); all
    subjects are in one voxel space. `fit(Y, images, subject=names)`, and `transform(Y2, subject=names)` where there are several.
    fit(..., start_from=model) on a new subject adds a map, which begins as the mean of the others, and trains all further.
    Not here: the diffusion prior, the low-level submodule, CLIP's 256 tokens; width 512 in place of 4096.
    """

    def encoder(self) -> str:
        return "mindeye2_like"


class CNNAligner(Aligner):
    """Four 3D convolutions of stride 2 over the whole volume, trained by the contrastive loss; it needs a mask."""

    def __init__(
        self, *, training: Mapping[str, Any] | None = None, validation: float = 0.1, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.training = training
        self.validation = validation
        self.seed = seed
        self.device = device

    def encoder(self) -> str:
        return "cnn"

    def needs_mask(self) -> bool:
        return True

    def settings(self) -> Preset:
        return preset("default").recipe(training=self.training)


class VolumeAligner(Aligner):
    """The 3D transformer on patches of the whole brain: z = head(LN(class token after N blocks)).

    Voxels (n, V) are cut into cubic patches, each patch is projected to a token, and the loss is the mean of InfoNCE
    brain-image and brain-text, both ways. "Bridging Vision, Language, and Brain", sections 4.1 and 5.

    | | `preset="default"` | `preset="paper"`, `"small"` |
    |---|---|---|
    | start | ridge on reliable voxels in the canonical metric, blocks as the identity | random |
    | patches | 28 mm at 4 mm, one projection each | 28 mm at 2 mm (small: 4 mm), one projection for all |
    | class token | learned + sum over patches, a linear readout past all blocks | learned |
    | size | width 256, 1 block | width 1280, 12 blocks (small: 128, 4 blocks) |
    | negatives | the batch of 128 | batch of 256 and a queue of 4096 (small: 128 and 512) |
    | a row | mean of a random subset of an image's repeats | one trial |
    | targets | centred by their training mean | as they are |
    | steps | up to 400, early stopping by validation loss | 150 epochs (small: 60), the checkpoint that retrieves best |

    Why: with the thousands of images that a subject has, the linear start is above what random starts reach.
    `"small_remedied"` is `"small"` with what keeps it from learning taken away (temperature .07, no queue, a small start of
    the patch projection, a rate of 1e-3) and made cheaper (2 blocks, half of the patches a step, batches of 64); see the notes
    on align.
    training, design: fields of `AlignmentTraining` and `VolumeDesign` to be changed.
    """

    def __init__(
        self,
        preset: str = "default",
        *,
        training: Mapping[str, Any] | None = None,
        design: Mapping[str, Any] | None = None,
        validation: float = 0.1,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.preset = preset
        self.training = training
        self.design = design
        self.validation = validation
        self.seed = seed
        self.device = device

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The published recipe: CLIP-ViT-H/14 widths on volumes at 2 mm, which takes a GPU."""
        return cls("paper", **changes)

    @classmethod
    def small(cls, remedied: bool = False, **changes: Any) -> Self:
        """The paper's form and objective from a random start, small enough for a laptop and volumes at 4 mm.

        remedied: with the changes without which it learns next to nothing in hours.
        """
        return cls("small_remedied" if remedied else "small", **changes)

    def encoder(self) -> str:
        return "volume"

    def needs_mask(self) -> bool:
        return True

    def settings(self) -> Preset:
        return preset(self.preset).recipe(training=self.training, design=self.design)

    @property
    def network_(self) -> VolumeEncoder:
        """The fitted transformer on masked voxels, for attribution."""
        module = self._ready("image").module
        assert isinstance(module, VolumeEncoder)
        return module


ALIGNERS: dict[str, type[Aligner]] = {
    cls.__name__: cls
    for cls in (RidgeAligner, LinearAligner, MLPAligner, MindEyeAligner, SharedSubjectAligner, CNNAligner, VolumeAligner)
}


def aligner(name: str, chosen: Preset, *, seed: int = 0, device: str = "cpu") -> Aligner:
    """The estimator of an encoder of `align` by its name, with the recipes of a preset."""
    place: dict[str, Any] = {"seed": seed, "device": device}
    projected = name.endswith("_projected")
    if name.startswith("ridge"):
        return RidgeAligner(
            name == "ridge_whitened", projected, modality=chosen.training.modality, patch=chosen.design.patch, **place
        )
    if name in MINDEYE:
        found = MindEyeAligner if name == "mindeye_like" else SharedSubjectAligner
        return found(training={**asdict(chosen.linear), "lr": MINDEYE_RATE}, **place)
    if name == "cnn":
        return CNNAligner(training=asdict(chosen.training), **place)
    if name == "volume":
        return VolumeAligner(training=asdict(chosen.training), design=asdict(chosen.design), **place)
    kind = LinearAligner if name.startswith("linear") else MLPAligner
    return kind(projected, training=asdict(chosen.linear), patch=chosen.design.patch, **place)


def load_aligner(folder: str | Path) -> Aligner:
    """The aligner of any class that was saved to a folder. Raises DataError where there is none."""
    found = store.load_model(folder).model
    if found not in ALIGNERS:
        raise DataError(f"{folder} holds a {found}, which is no aligner of fMRI; those are {', '.join(ALIGNERS)}")
    return ALIGNERS[found].load(folder)
