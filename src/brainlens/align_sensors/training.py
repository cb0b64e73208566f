"""How a sensor encoder is trained, with the loop written out: three losses, their weights, validation, the best weights kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.align_sensors.parts import SensorPart, prepare
from brainlens.align_sensors.resume import Checkpoint, Run
from brainlens.nn.guidance import LossAdjustment, semantic_guidance
from brainlens.nn.losses import info_nce
from brainlens.nn.sensor_encoder import Head, TSConv
from brainlens.nn.sensor_peers import SensorModel, sensor_encoder
from brainlens.types import DataError, Responses

Progress = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class SensorTraining:
    """How a sensor encoder is trained; the defaults are Table 3 of NeuroAlign for THINGS-EEG2.

    Its text says Adam and batch 1000 (A.3.4), its table AdamW and 256; the table is taken. `guidance`, `adjustment` and
    `saliency` are the three parts that the ablation leaves out one at a time; without adjustment the weights are equal.
    norms, form: see nn.guidance. patience: epochs without a better validation loss before stopping; None: never.
    precision: "float32", or "bfloat16" for the products of the encoder (weights, norms and losses stay in float32).
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

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise DataError(f"precision {self.precision!r} is not one of ['float32', 'bfloat16']")


THINGS_EEG2 = SensorTraining()
THINGS_MEG = SensorTraining(epochs=100)
NICE = SensorTraining(
    batch=1000, decay_sensor=0.0, decay_image=0.0, guidance=False, adjustment=False, saliency=False, dropout=0.5
)


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
    channels: tuple[str, ...] = ()
    times: np.ndarray | None = None

    def takes(self, responses: Responses) -> None:
        """Remembers the channels and times that the encoder was built for."""
        self.channels = tuple(map(str, responses.units["channel"])) if "channel" in responses.units.columns else ()
        self.times = responses.times

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
    train: Responses,
    d_image: int,
    text: Tensor | None,
    training: SensorTraining,
    seed: int,
    device: str,
    scale: tuple[Tensor, Tensor],
) -> SensorDecoder:
    channels, samples = train.data.shape[1:]
    tri = encoder == "neuroalign"
    width = training.width if tri else d_image
    model = sensor_encoder(encoder, channels, samples, width, seed=seed, dropout=training.dropout if tri else None)
    if isinstance(model, SensorModel) and model.front is None and isinstance(model.encoder, TSConv):
        model.encoder.filtered = True
    image_head = Head(d_image, width, dropout=training.dropout) if tri else nn.Identity()
    text_head = Head(text.shape[1], width, dropout=training.dropout) if text is not None else nn.Identity()
    return SensorDecoder(model.to(device), image_head.to(device), text_head.to(device), scale, device)


def train_decoder(
    decoder: SensorDecoder,
    train: SensorPart,
    validation: SensorPart,
    image: Tensor,
    text: Tensor | None,
    training: SensorTraining,
    seed: int,
    progress: Progress | None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """The loop: AdamW, epochs of shuffled batches, the weights of the least validation loss kept; goes on from a checkpoint."""
    heads = [*decoder.image_head.parameters(), *decoder.text_head.parameters()]
    groups: list[dict[str, Any]] = [{"params": list(decoder.model.parameters()), "weight_decay": training.decay_sensor}]
    groups += [{"params": heads, "weight_decay": training.decay_image}] if heads else []
    optimiser = torch.optim.AdamW(groups, lr=training.lr, betas=training.betas)
    adjust = LossAdjustment(norms=training.norms) if heads and training.adjustment else None
    shuffle = torch.Generator().manual_seed(seed)
    run = Run(decoder, optimiser, shuffle, adjust)
    if checkpoint is not None:
        checkpoint.restore(run)
    for epoch in range(run.epoch, training.epochs):
        if training.patience is not None and run.stale >= training.patience:
            break
        decoder.model.train(), decoder.image_head.train(), decoder.text_head.train()
        total, steps, weight = 0.0, 0, np.zeros(3)
        for rows in torch.randperm(len(train.x), generator=shuffle).split(training.batch):
            if len(rows) < 2:
                continue
            optimiser.zero_grad(set_to_none=True)
            loss, weights = step(decoder, train.batch(rows.to(train.x.device), decoder.device), image, text, training, adjust)
            optimiser.step()
            total, steps = total + loss, steps + 1
            weight[: len(weights)] += weights
        record = {
            "epoch": epoch + 1.0,
            "loss": total / steps,
            "validation": validation_loss(decoder, validation, image, training),
        }
        if not np.isfinite(record["loss"]):
            raise DataError(f"the loss is {record['loss']} in epoch {epoch + 1}; lower the learning rate {training.lr}")
        record |= {f"w{k + 1}": value / steps for k, value in enumerate(weight)} if heads else {}
        decoder.log.append(record)
        if progress is not None:
            progress(epoch, record)
        run.judge(record["validation"])
        if checkpoint is not None:
            checkpoint.save(run)
    if checkpoint is not None:
        checkpoint.finish(run)
    run.finish()


def _products(training: SensorTraining, x: Tensor) -> torch.autocast:
    """Matrix products in bfloat16 inside, if the training asks for it."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=training.precision == "bfloat16")


def step(
    decoder: SensorDecoder,
    batch: tuple[Tensor, Tensor | None, Tensor],
    image: Tensor,
    text: Tensor | None,
    training: SensorTraining,
    adjust: LossAdjustment | None,
) -> tuple[float, np.ndarray]:
    """Gradients of one batch, left in the parameters; (value of L1, weights of the losses)."""
    x, moments, target = batch
    model, shown = decoder.model, image[target]
    if isinstance(decoder.image_head, nn.Identity):
        with _products(training, x):
            brain = model(x, moments) if isinstance(model, SensorModel) else model(x)
        brain = brain.float()
        loss = 0.5 * info_nce(brain, shown, training.temperature, labels=target, repeats="positive")
        loss.backward()
        return loss.item(), np.ones(1)
    assert isinstance(model, SensorModel) and isinstance(model.encoder, TSConv)  # noqa: PT018
    with _products(training, x):
        hidden = model.encoder(x, moments)
        leaf = hidden.detach().requires_grad_()
        e = model.head(leaf)
    e, v = e.float(), decoder.image_head(shown)
    losses = [0.5 * info_nce(e, v, training.temperature, labels=target, repeats="positive")]
    if text is not None:
        t = decoder.text_head(text[target])
        losses.append(0.5 * info_nce(v, t, training.temperature, labels=target, repeats="positive"))
        if training.guidance:
            losses.append(semantic_guidance(e, v, t, temperature=training.temperature, form=training.form))
    parameters = [*model.head.parameters(), *decoder.image_head.parameters(), *decoder.text_head.parameters()]
    if adjust is not None and len(losses) > 1:
        weights, back = adjust.backward(losses, parameters, leaf)
        hidden.backward(back)
        return losses[0].item(), weights.cpu().numpy()
    torch.stack(losses).mean().backward()
    hidden.backward(leaf.grad)
    return losses[0].item(), np.full(len(losses), 1 / len(losses))


@torch.no_grad()
def validation_loss(decoder: SensorDecoder, part: SensorPart, image: Tensor, training: SensorTraining) -> float:
    """Brain-image InfoNCE over the validation rows, in one gallery per 1,000 rows.

    Only this loss, not the weighted sum: its weights move, so sums of different epochs cannot be compared.
    """
    decoder.model.eval(), decoder.image_head.eval()
    total = 0.0
    for rows in torch.arange(len(part.x), device=part.x.device).split(1000):
        pieces = []
        for few in rows.split(256):
            x, _, _ = part.batch(few, decoder.device)
            with _products(training, x):
                pieces.append(decoder.model(x).float())
        target = part.target[rows]
        gallery = decoder.image_head(image[target])
        if len(rows) > 1:
            each = info_nce(torch.cat(pieces), gallery, training.temperature, labels=target, repeats="positive")
            total += 0.5 * each.item() * len(rows)
    return total / len(part.x)
