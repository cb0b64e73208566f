"""Decoders of EEG and MEG: how one is trained, and the encoder with its heads as functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.models.sensors.split import prepare
from brainlens.nn.blur_prior import MEDIUM
from brainlens.nn.sensor_baselines import SensorModel, sensor_encoder
from brainlens.nn.sensor_encoder import Head, TSConv
from brainlens.stimuli.blur import LEVELS
from brainlens.types import DataError, Features


@dataclass(frozen=True)
class SensorTraining:
    """How a sensor encoder is trained; the defaults are Table 3 of NeuroAlign for THINGS-EEG2.

    Its text says Adam and batch 1000 (A.3.4), its table AdamW and 256; the table is taken. `guidance`, `adjustment` and
    `saliency` are the three parts that the ablation leaves out one at a time; without adjustment the weights are equal.
    norms, form: see nn.guidance. patience: epochs without a better validation loss before stopping; None: never.
    rescale: each channel is divided by its deviation over training rows and time; False: recordings that are whitened already
    (MVNN) are taken as they are, as the published code does, and others divided all the same. precision: "float32", or
    "bfloat16" for the products of the encoder (weights, norms and losses stay in float32).
    """

    epochs: int = 200
    batch: int = 256
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay_sensor: float = 1e-3
    decay_image: float = 5e-3
    temperature: float = 0.07
    width: int = 256
    dropout: float = 0.2
    validation: int = 740
    guidance: bool = True
    adjustment: bool = True
    saliency: bool = True
    norms: str = "share"
    form: str = "softmax"
    patience: int | None = None
    precision: str = "float32"
    rescale: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise DataError(f"precision {self.precision!r} is not one of ['float32', 'bfloat16']")


THINGS_EEG2 = SensorTraining(rescale=False)


THINGS_MEG = SensorTraining(epochs=100, rescale=False)


NICE_TRAINING = SensorTraining(
    batch=1000, decay_sensor=0.0, decay_image=0.0, guidance=False, adjustment=False, saliency=False, dropout=0.5, rescale=False
)


COMPARED = replace(NICE_TRAINING, rescale=True)  # encoders of our own on NICE's schedule, whose input is scaled


ATM_STYLE = replace(COMPARED, epochs=40, batch=64, lr=3e-4)  # the schedule of ATM's retrieval script


UBP_TRAINING = replace(
    NICE_TRAINING, epochs=50, batch=1024, lr=1e-4, betas=(0.9, 0.999), decay_sensor=1e-4, dropout=0.3, patience=5
)  # the released configuration; across subjects the rate is UBP_ACROSS


UBP_ACROSS = 1e-5


SMALL: dict[str, Any] = {
    "epochs": 30,
    "batch": 64,
    "lr": 1e-3,
    "validation": 200,
    "patience": 8,
    "rescale": True,
}  # for about a thousand images, a tenth of THINGS-EEG2


def without(training: SensorTraining, part: str) -> SensorTraining:
    """The ablation that leaves out "saliency", "guidance" or "adjustment" (Table 4)."""
    if part not in ("saliency", "guidance", "adjustment"):
        raise DataError(f"ablation {part!r} is not one of ['saliency', 'guidance', 'adjustment']")
    changed: dict[str, Any] = {part: False}
    return replace(training, **changed)


UNFILTERED = without(THINGS_EEG2, "saliency")  # the target is the embedding of the picture as it was shown


@dataclass
class SensorDecoder:
    """A trained encoder: `embed` gives brain embeddings, `gallery` those of image (or text) features."""

    model: nn.Module
    image_head: nn.Module
    text_head: nn.Module
    scale: tuple[Tensor, Tensor]
    device: str
    log: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0

    @torch.no_grad()
    def embed(self, data: np.ndarray, *, block: int = 256) -> np.ndarray:
        """(n, channel, time) recordings -> (n, d) float32; each row on its own, whatever the block."""
        self.model.eval()
        found = []
        for start in range(0, len(data), block):
            x = torch.as_tensor(np.array(data[start : start + block], dtype=np.float32))  # a copy: torch warns of read-only maps
            x = ((x - self.scale[0]) / self.scale[1]).to(self.device)
            found.append(self.model(prepare(x, self.model)).float().cpu())
        return torch.cat(found).numpy()

    @torch.no_grad()
    def gallery(self, values: np.ndarray, *, text: bool = False) -> np.ndarray:
        """Image or text features (n, d) in the space of the brain embeddings."""
        head = self.text_head if text else self.image_head
        return head.eval()(torch.as_tensor(np.asarray(values, dtype=np.float32)).to(self.device)).float().cpu().numpy()


def build(
    encoder: str | nn.Module,
    shape: tuple[int, int],
    widths: tuple[int, int | None],
    *,
    training: SensorTraining,
    seed: int,
    device: str,
    scale: tuple[Tensor, Tensor],
) -> SensorDecoder:
    """An untrained decoder for recordings of `shape` (channels, samples) and embeddings of `widths` (image, text or None).

    scale: mean and deviation (channel, 1) of the recordings.
    """
    tri = encoder == "neuroalign"
    d_image, d_text = widths
    width = training.width if tri else d_image
    model = sensor_encoder(encoder, *shape, width, seed=seed, dropout=training.dropout if tri else None)
    if isinstance(model, SensorModel) and model.front is None and isinstance(model.encoder, TSConv):
        model.encoder.filtered = True
    image_head = Head(d_image, width, dropout=training.dropout) if tri else nn.Identity()
    if not tri and d_text is not None and d_text != d_image:
        raise DataError(
            f"{encoder}: images have {d_image} numbers and texts {d_text}; it needs both in one space, as a CLIP gives them"
        )
    text_head = Head(d_text, width, dropout=training.dropout) if tri and d_text is not None else nn.Identity()
    return SensorDecoder(model.to(device), image_head.to(device), text_head.to(device), scale, device)


def target_layer(images: Features, encoder: str | nn.Module, training: SensorTraining) -> str:
    """The layer that an encoder is trained to find: the filtered pictures for NeuroAlign with saliency, else those shown.

    For UBP the pictures of medium blur. Raises DataError where blurred pictures are missing.
    """
    if encoder == "ubp_like":
        missing = [name for name in LEVELS if name not in images.data]
        if missing:
            raise DataError(
                f"ubp_like is trained to find blurred pictures; images have the layers {list(images.data)} and not {missing}; "
                "embed the pictures of stimuli.blur.blurred_stimuli, one layer a level"
            )
        return LEVELS[MEDIUM]
    filtered = encoder == "neuroalign" and training.saliency and "saliency" in images.data
    return "saliency" if filtered else "image"
