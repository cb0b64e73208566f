"""The training loop of every contrastive encoder, written out: AdamW, validation, early stopping, exact resume."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainlens import store
from brainlens.align.split import Part, Split, gather_mean
from brainlens.metrics import retrieval as retrieval_metrics
from brainlens.nn.losses import info_nce
from brainlens.types import DataError

Progress = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Training:
    """How a contrastive encoder is trained: AdamW with warm-up and cosine decay, early stopping on validation images.

    `temperature` divides the cosines; `average` is the decay of the exponential moving average of the weights that is
    validated and kept (0: none); `repeats` is what a training row is: the mean of the repeats of an image, or the mean of
    a random subset of them ("subset"), which shows the encoder several noise levels.
    """

    steps: int = 400
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05
    min_lr: float = 1e-5
    temperature: float = 0.07
    evaluate_every: int = 20
    patience: int = 8
    average: float = 0.98
    repeats: str = "subset"
    checkpoint_every: int = 100


@dataclass
class Run:
    """What a training run holds between two steps: all of it goes into a checkpoint."""

    module: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.AdamW
    best: dict[str, Tensor]
    log: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    best_loss: float = float("inf")
    stale: int = 0

    @classmethod
    def begin(cls, module: nn.Module, training: Training) -> Run:
        """A run before its first step."""
        optimiser = torch.optim.AdamW(_decay_groups(module, training.weight_decay), lr=training.lr)
        return cls(module, copy.deepcopy(module).eval(), optimiser, copy.deepcopy(module.state_dict()))

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs; batches and dropout are drawn from (seed, step), so no generator is stored."""
        parts: dict[str, Any] = {"module": self.module, "averaged": self.averaged, "optimiser": self.optimiser}
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        return state | {k: getattr(self, k) for k in ("best", "log", "step", "best_loss", "stale")}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over a stored state."""
        for name in ("module", "averaged", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("best", "log", "step", "best_loss", "stale"):
            setattr(self, name, state[name])

    def average(self, decay: float) -> None:
        """Moves the averaged weights towards the trained ones; early steps are forgotten sooner."""
        keep = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for slow, fast in zip(self.averaged.state_dict().values(), self.module.state_dict().values(), strict=True):
                if slow.is_floating_point():
                    slow.lerp_(fast, 1 - keep)
                else:
                    slow.copy_(fast)

    def judge(self, record: dict[str, float]) -> None:
        """Notes a validation and keeps the weights if it is the best so far."""
        self.log.append(record)
        if record["validation_loss"] < self.best_loss:
            self.best_loss, self.stale = record["validation_loss"], 0
            self.best = copy.deepcopy(self.averaged.state_dict())
        else:
            self.stale += 1


def train_contrastive(
    module: nn.Module,
    split: Split,
    training: Training,
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Trains `module` in place and returns its log; the weights left in it are those with the best validation loss.

    Every step draws its batch and its dropout from a generator seeded by (seed, step), so a run that was killed and
    resumed from `folder` ends with the same weights to the bit on the CPU. Raises DataError when the loss is not finite,
    naming images of the batch; the best weights until then stay in the folder.
    """
    part, device = split.train, split.train.x.device
    run = Run.begin(module, training)
    saved = store.load_checkpoint(folder) if folder is not None else None
    if saved is not None:
        run.restore(saved)
    held = split.validation.mean()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while run.step < training.steps and run.stale <= training.patience:
            module.train()
            x, chosen = draw_batch(part, training, seed=seed, step=run.step)
            text = None if part.text is None else part.text[chosen]
            loss = contrastive_loss(module(x), part.image[chosen], text, training.temperature)
            if not torch.isfinite(loss):
                some = list(part.ids[chosen[:3].numpy()])
                raise DataError(
                    f"align: the loss is {loss.item()} at step {run.step}, in a batch with {some}; lower the learning rate"
                )
            for group in run.optimiser.param_groups:
                group["lr"] = learning_rate(run.step, training) * group["scale"]
            run.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            run.optimiser.step()
            run.average(training.average)
            run.step += 1
            if run.step % training.evaluate_every == 0 or run.step == training.steps:
                record = {"step": run.step, "loss": loss.item(), **validate(run.averaged, held, split.validation, training)}
                run.judge(record)
                if progress is not None:
                    progress(run.step, record)
            if folder is not None and (run.step % training.checkpoint_every == 0 or run.step == training.steps):
                store.save_checkpoint(folder, run.state())
    module.load_state_dict(run.best)
    module.eval()
    return run.log


def draw_batch(part: Part, training: Training, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The batch of a step: rows (B, V) and the numbers of their images, a function of (seed, step) alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    torch.manual_seed(seed * 1_000_003 + step)  # dropout; the caller's state is restored by fork_rng
    chosen = torch.randperm(len(part.ids), generator=generator)[: min(training.batch, len(part.ids))]
    rows = part.rows[chosen]
    return gather_mean(part.x, rows, repeat_weights(rows, training.repeats, generator)), chosen


def contrastive_loss(z: Tensor, image: Tensor, text: Tensor | None, temperature: float) -> Tensor:
    """L = L_BI + L_BT, each the symmetric InfoNCE at a fixed temperature (whole-brain alignment paper, eqs. 1-3)."""
    loss = info_nce(z, image, temperature)
    return loss if text is None else loss + info_nce(z, text, temperature)


def validate(module: nn.Module, held: Tensor, part: Part, training: Training) -> dict[str, float]:
    """Contrastive loss and mean reciprocal rank over the whole validation gallery."""
    with torch.no_grad():
        z = torch.cat([module(rows) for rows in held.split(256)])
        loss = contrastive_loss(z, part.image, part.text, training.temperature)
    return {"validation_loss": loss.item(), "validation_mrr": reciprocal_rank(z, part.image)}


def reciprocal_rank(query: Tensor, gallery: Tensor) -> float:
    """Mean of 1 / (rank + 1) over queries whose match is the gallery row of the same number."""
    ranks = retrieval_metrics.ranks(query.cpu().numpy(), gallery.cpu().numpy())
    return float((1.0 / (ranks + 1.0)).mean())


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices are decayed, vectors are not; a parameter may carry its own factor of the learning rate as `lr_scale`."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            key = (parameter.ndim > 1, float(getattr(parameter, "lr_scale", 1.0)))
            groups.setdefault(key, []).append(parameter)
    return [{"params": p, "weight_decay": weight_decay if d else 0.0, "scale": s} for (d, s), p in groups.items()]


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up over the first share `warmup` of the steps, then a cosine down to `min_lr`."""
    warm = max(1, round(training.warmup * training.steps))
    if step < warm:
        return training.lr * (step + 1) / warm
    done = (step - warm) / max(1, training.steps - warm)
    return training.min_lr + 0.5 * (training.lr - training.min_lr) * (1 + float(np.cos(np.pi * done)))


def repeat_weights(rows: Tensor, repeats: str, generator: torch.Generator) -> Tensor:
    """Weights (n, R) of the repeats in a training row: all equal ("mean"), or a random non-empty subset ("subset")."""
    there = rows >= 0
    if repeats == "mean":
        return there.float()
    if repeats != "subset":
        raise DataError(f"repeats {repeats!r} is not one of 'mean', 'subset'")
    order = torch.rand(rows.shape, generator=generator).masked_fill(~there, 2.0).argsort(1).argsort(1)
    count = (torch.rand(len(rows), generator=generator) * there.sum(1)).long() + 1
    return ((order < count[:, None]) & there).float()
