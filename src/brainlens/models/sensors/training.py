"""How a sensor encoder is trained, with the loop written out: three losses, their weights, validation, the best weights kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.models.sensors.checkpoint import Checkpoint, SensorRun
from brainlens.models.sensors.decoder import SensorDecoder, SensorTraining
from brainlens.models.sensors.split import SensorPart
from brainlens.nn.blur_prior import BlurPrior
from brainlens.nn.guidance import LossAdjustment, semantic_guidance
from brainlens.nn.losses import info_nce, scaled_nce
from brainlens.nn.sensor_baselines import ScaledModel, SensorModel
from brainlens.nn.sensor_encoder import TSConv
from brainlens.types import DataError

Progress = Callable[[int, dict[str, float]], None]


@dataclass
class TrainingJob:
    """A training that is ready to run: the untrained decoder, its rows and their targets.

    image (image, d), text (image, d) or None: what the rows' `target` numbers; generator: the state that dropout goes on from;
    blurred (level, image, d): the targets of a training with a blur prior.
    """

    decoder: SensorDecoder
    train: SensorPart
    validation: SensorPart
    image: Tensor
    text: Tensor | None
    generator: Tensor
    checkpoint: Checkpoint | None = None
    blurred: Tensor | None = None


def train_decoder(job: TrainingJob, training: SensorTraining, seed: int, *, progress: Progress | None = None) -> None:
    """The loop: AdamW, epochs of shuffled batches, the weights of the least validation loss kept; goes on from a checkpoint."""
    decoder, train, image, text, checkpoint = job.decoder, job.train, job.image, job.text, job.checkpoint
    heads = [*decoder.image_head.parameters(), *decoder.text_head.parameters()]
    groups: list[dict[str, Any]] = [{"params": list(decoder.model.parameters()), "weight_decay": training.decay_sensor}]
    groups += [{"params": heads, "weight_decay": training.decay_image}] if heads else []
    optimiser = torch.optim.AdamW(groups, lr=training.lr, betas=training.betas)
    adjust = LossAdjustment(norms=training.norms) if heads and training.adjustment else None
    shuffle = torch.Generator().manual_seed(seed)
    prior = BlurPrior(len(train.x), device=str(train.x.device)) if job.blurred is not None else None
    run = SensorRun(decoder, optimiser, shuffle, adjust if prior is None else prior)
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
            rows = rows.to(train.x.device)
            batch = train.batch(rows, decoder.device)
            if job.blurred is not None and prior is not None:
                loss, weights = blurred_step(decoder, batch, job.blurred, rows, training, prior)
            else:
                loss, weights = step(decoder, batch, image, text, training, adjust)
            optimiser.step()
            total, steps = total + loss, steps + 1
            weight[: len(weights)] += weights
        record = {
            "epoch": epoch + 1.0,
            "loss": total / steps,
            "validation": validation_loss(decoder, job.validation, image, training),
        }
        if not np.isfinite(record["loss"]):
            raise DataError(f"the loss is {record['loss']} in epoch {epoch + 1}; lower the learning rate {training.lr}")
        record |= {f"w{k + 1}": value / steps for k, value in enumerate(weight)} if heads else {}
        if prior is not None:
            record |= prior.shares()
            prior.advance()
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


def _embedded(model: nn.Module, x: Tensor, moments: Tensor | None, training: SensorTraining) -> Tensor:
    with _products(training, x):
        brain = model(x, moments) if isinstance(model, SensorModel) else model(x)
    return brain.float()


def _contrast(model: nn.Module, brain: Tensor, aim: Tensor, labels: Tensor, training: SensorTraining) -> Tensor:
    """The loss of an encoder with targets as they are: by products where it has a scale of its own, else by cosines."""
    if isinstance(model, ScaledModel):
        return scaled_nce(brain, aim, model.scale(), labels=labels)
    return 0.5 * info_nce(brain, aim, training.temperature, labels=labels, repeats="positive")


def blurred_step(
    decoder: SensorDecoder,
    batch: tuple[Tensor, Tensor | None, Tensor],
    blurred: Tensor,
    rows: Tensor,
    training: SensorTraining,
    prior: BlurPrior,
) -> tuple[float, np.ndarray]:
    """`step` with the picture of each row as blurred as the prior says, which then sees how well the rows have found it.

    batch: as `step` takes it; blurred (level, image, d); rows (B,): numbers of the recordings. Returns as `step` does, (value of
    L1, weight of its one loss (1,)).
    """
    x, moments, target = batch
    model, shown = decoder.model, blurred[prior.level[rows], target]
    assert isinstance(model, ScaledModel)
    brain = _embedded(model, x, moments, training)
    loss = _contrast(model, brain, shown, target, training)
    loss.backward()
    prior.observe(rows, model.scale() * (brain * F.normalize(shown, dim=1)).sum(1))
    return loss.item(), np.ones(1)


def step(
    decoder: SensorDecoder,
    batch: tuple[Tensor, Tensor | None, Tensor],
    image: Tensor,
    text: Tensor | None,
    training: SensorTraining,
    adjust: LossAdjustment | None,
) -> tuple[float, np.ndarray]:
    """Gradients of one batch, left in the parameters; (value of L1, without heads of the whole loss; weights of the losses).

    batch: recordings (B, channel, time), moments, target (B,) into the tables image, text (image, d).
    """
    x, moments, target = batch
    model, shown = decoder.model, image[target]
    if isinstance(decoder.image_head, nn.Identity):
        brain = _embedded(model, x, moments, training)
        aims = [shown] if text is None else [shown, text[target]]
        loss = torch.stack([_contrast(model, brain, aim, target, training) for aim in aims]).mean()
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
    """Brain-image loss over the validation rows, in one gallery per 1,000 rows.

    image: the target table (image, d).
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
            total += _contrast(decoder.model, torch.cat(pieces), gallery, target, training).item() * len(rows)
    return total / len(part.x)
