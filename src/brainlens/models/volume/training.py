"""The training loop of every contrastive encoder, written out: AdamW, validation, early stopping, exact resume."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainlens import store
from brainlens.metrics import retrieval as retrieval_metrics
from brainlens.models import processes
from brainlens.models.volume.batches import REPEATS, Batches, repeat_weights
from brainlens.models.volume.split import AlignmentPart, Split
from brainlens.models.volume.steps import (
    MODALITIES,
    PRECISIONS,
    joint_gradients,
    mindeye_step,
    remember,
    targets,
    wrong_items,
)
from brainlens.nn.decoding_baselines import embedded
from brainlens.nn.distributed import processes as world
from brainlens.nn.losses import trimodal
from brainlens.nn.memory_queue import MemoryQueue
from brainlens.types import DataError

__all__ = ["AlignmentTraining", "learning_rate", "reciprocal_rank", "repeat_weights", "train_contrastive", "validate"]

Progress = Callable[[int, dict[str, float]], None]
FORMAT = 2  # of a checkpoint; raised when what it holds changes
LATER = {"select": "loss", "queue_holds": "all"}  # fields that older checkpoints lack, at the value they were trained with


@dataclass(frozen=True)
class AlignmentTraining:
    """How a contrastive encoder is trained: AdamW with warm-up and cosine decay, early stopping on validation images.

    `temperature` divides the cosines; `average` is the decay of the exponential moving average of the weights that is
    validated and kept (0: none); `repeats` is what a training row is: the mean of the repeats of an image, the mean of
    a random subset of them ("subset"), which shows the encoder several noise levels, or one of them ("single").
    `select`: the checkpoint that is kept, and what early stopping waits for: the least validation "loss", or the best
    "retrieval", the mean reciprocal rank among the validation images. At a temperature of .01 the loss rises with
    over-confidence while retrieval still improves.

    `epochs` above 0 sets the steps: epochs x items / batch, items being images, or trials where rows are single. `accumulate`:
    the batch is computed in so many pieces, with the loss of the whole batch. `precision`: float32, bfloat16 or float16 (with a
    scaled loss) inside the encoder; weights, loss and validation stay float32. `queue`: past embeddings kept as further
    negatives (0: none), cleared when the subject changes. `queue_holds`: those of brain, image and text ("all"), or of
    image and text alone ("targets"): past brain embeddings are those of an older encoder and carry no gradient, so that nothing
    holds against the pull of all present ones towards the mean target. `modality`: which targets enter the loss, image, text or
    both. The batch is that of all processes together.
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
    epochs: int = 0
    accumulate: int = 1
    precision: str = "float32"
    queue: int = 0
    modality: str = "both"
    select: str = "loss"
    queue_holds: str = "all"

    def __post_init__(self) -> None:
        for name, known in {
            "precision": tuple(PRECISIONS),
            "modality": MODALITIES,
            "repeats": REPEATS,
            "select": ("loss", "retrieval"),
            "queue_holds": ("all", "targets"),
        }.items():
            if getattr(self, name) not in known:
                raise DataError(f"training: {name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name, least in {
            "batch": 2,
            "accumulate": 1,
            "evaluate_every": 1,
            "checkpoint_every": 1,
            "queue": 0,
            "steps": 0,
        }.items():
            if getattr(self, name) < least:
                raise DataError(f"training: {name} {getattr(self, name)} is too small; it is at least {least}")
        if self.temperature <= 0:
            raise DataError(f"training: temperature {self.temperature} must be above 0")

    def on(self, items: int) -> AlignmentTraining:
        """The same with its steps counted out for so many training items, where `epochs` says so."""
        return replace(self, steps=max(1, round(self.epochs * items / self.batch))) if self.epochs else self


@dataclass
class AlignmentRun:
    """What a training run holds between two steps: all of it goes into a checkpoint."""

    module: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.AdamW
    best: dict[str, Tensor]
    log: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    best_loss: float = float("inf")  # of what the checkpoint is selected by; retrieval counts as its negative
    stale: int = 0
    queue: MemoryQueue | None = None
    scaler: torch.amp.GradScaler | None = None

    @classmethod
    def begin(cls, module: nn.Module, training: AlignmentTraining, part: AlignmentPart) -> AlignmentRun:
        """A run before its first step, the same in every process."""
        processes.same_everywhere(module)
        optimiser = torch.optim.AdamW(_decay_groups(module, training.weight_decay), lr=training.lr)
        run = cls(module, copy.deepcopy(module).eval(), optimiser, copy.deepcopy(module.state_dict()))
        if training.queue:
            there = {"brain": training.queue_holds == "all", "image": training.modality != "text"}
            there["text"] = part.text is not None and training.modality != "image"
            names = tuple(name for name, present in there.items() if present)
            run.queue = MemoryQueue(part.image.shape[1], training.queue, names=names).to(part.x.device)
        if training.precision == "float16":
            run.scaler = torch.amp.GradScaler(part.x.device.type)
        return run

    def parts(self) -> dict[str, Any]:
        """What has a state of its own."""
        parts = {"module": self.module, "averaged": self.averaged, "optimiser": self.optimiser}
        parts |= {"queue": self.queue, "scaler": self.scaler}
        return {name: part for name, part in parts.items() if part is not None}

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs; batches and dropout are drawn from (seed, step), so no generator is stored."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts().items()}
        return state | {k: getattr(self, k) for k in ("best", "log", "step", "best_loss", "stale")}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over a stored state."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
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

    def judge(self, record: dict[str, float], select: str = "loss") -> None:
        """Notes a validation and keeps the weights if it is the best so far."""
        self.log.append(record)
        value = record["validation_loss"] if select == "loss" else -record["validation_mrr"]
        if value < self.best_loss:
            self.best_loss, self.stale = value, 0
            self.best = copy.deepcopy(self.averaged.state_dict())
        else:
            self.stale += 1


def train_contrastive(
    module: nn.Module,
    split: Split,
    training: AlignmentTraining,
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
    mindeye: bool = False,
) -> list[dict[str, float]]:
    """Trains `module` in place and returns its log; the weights left in it are those with the best validation (see `select`).

    mindeye: BiMixCo and then SoftCLIP in place of InfoNCE (see `steps.mindeye_step`), for the whole batch at once.

    Every step draws its batch and its dropout from generators seeded by (seed, step), so a run that was killed and
    resumed from `folder` ends with the same weights to the bit on the CPU. In several processes (see `processes.joined`)
    the first one writes the checkpoints, and all end with the same weights.

    Raises DataError for MindEye's objective on pieces of a batch or with a queue, and when a loss or a gradient is not finite,
    naming images and trials; the checkpoint before it stays in the folder. Raises DataError for a checkpoint of other data,
    another configuration or another version.
    """
    part, device = split.train, split.train.x.device
    training = training.on(int((part.rows >= 0).sum()) if training.repeats == "single" else len(part.ids))
    batches, run = Batches(part, training.batch, training.repeats, seed), AlignmentRun.begin(module, training, part)
    if mindeye and (training.accumulate > 1 or training.queue or world()[1] > 1):
        raise DataError("align: BiMixCo mixes the rows of a whole batch; train it in one process, without --accumulate and queue")
    made_for = _made_for(module, part, training, seed) | ({"objective": "mindeye"} if mindeye else {})
    saved = store.load_checkpoint(folder) if folder is not None else None
    if saved is not None:
        _check_made_for(folder, saved.get("made_for"), made_for)
        run.restore(saved)
    processes.wait()  # all have read what the first one is about to write over
    held = [split.validation.of(name) for name in split.validation.subjects]
    rows = [one.mean() for one in held]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while run.step < training.steps and run.stale <= training.patience:
            loss = _step(run, part, batches, training, mindeye)
            if run.step % training.evaluate_every == 0 or run.step == training.steps:
                first = processes.is_first()
                record = {"step": run.step, "loss": loss, **(validate(run.averaged, rows, held, training) if first else {})}
                record = processes.from_first(record)
                run.judge(record, training.select)
                if progress is not None and processes.is_first():
                    progress(run.step, record)
            due = run.step % training.checkpoint_every == 0 or run.step == training.steps
            if folder is not None and due and processes.is_first():
                store.save_checkpoint(folder, {**run.state(), "made_for": made_for})
    module.load_state_dict(run.best)
    module.eval()
    return run.log


def _step(run: AlignmentRun, part: AlignmentPart, batches: Batches, training: AlignmentTraining, mindeye: bool = False) -> float:
    """One step of the optimiser; returns the loss of the joint batch."""
    module, drawn = run.module, batches.draw(run.step)
    module.train()
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(run.step, training) * group["scale"]
    run.optimiser.zero_grad(set_to_none=True)
    loss, z = joint_gradients(
        module, part, drawn, accumulate=training.accumulate, precision=training.precision, modality=training.modality,
        temperature=training.temperature, queue=run.queue, scale=None if run.scaler is None else run.scaler.scale,
        mindeye=mindeye_step(run.step, training.steps, len(drawn), drawn.seed) if mindeye else None,
    )  # fmt: skip
    if not torch.isfinite(loss):
        _stop(f"the loss is {loss.item()}", run, part, wrong_items(module, z, drawn, training.accumulate))
    if run.scaler is None:
        size = torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
        if not torch.isfinite(size):
            _stop("the gradient is not finite", run, part, wrong_items(module, z, drawn, training.accumulate))
        run.optimiser.step()
    else:  # skips the step where a gradient overflowed, and scales less from then on
        run.scaler.step(run.optimiser)
        run.scaler.update()
    if run.queue is not None:
        remember(run.queue, part, drawn, z, accumulate=training.accumulate, modality=training.modality)
    run.average(training.average)
    run.step += 1
    return loss.item()


def _stop(what: str, run: AlignmentRun, part: AlignmentPart, items: Tensor) -> None:
    """Ends the run with the names of the images and trials that went wrong."""
    some = items[:3].numpy()
    rows = part.rows[items[:3]]
    trials = np.unique(rows[rows >= 0].numpy())
    names = [str(name) for name in part.ids[some]]
    where = "" if part.trials is None else f", trials {part.trials[trials].tolist()}"
    raise DataError(
        f"align: {what} at step {run.step}, in a batch with {names}{where}; look at these trials, or lower the learning rate; "
        "the checkpoint before stays as it was"
    )


def _made_for(module: nn.Module, part: AlignmentPart, training: AlignmentTraining, seed: int) -> dict[str, Any]:
    """What a checkpoint belongs to: it goes on only where all of it is the same."""
    shapes = repr([(name, tuple(value.shape)) for name, value in module.state_dict().items()])
    return {
        "version": FORMAT,
        "subjects": part.subjects,
        "voxels": part.x.shape[1],
        "images": hashlib.sha256("\n".join(part.ids.tolist()).encode()).hexdigest()[:16],
        "encoder": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        "training": store.settings_of(training, LATER),
        "seed": seed,
    }


def _check_made_for(folder: Path | None, theirs: Any, ours: dict[str, Any]) -> None:
    theirs = theirs if isinstance(theirs, dict) else {"version": 1}
    for name, value in ours.items():
        if theirs.get(name) != value:
            old, new = theirs.get(name), value
            if name == "training":
                key = next(k for k in value if theirs[name].get(k) != value[k])
                name, old, new = f"training.{key}", theirs[name].get(key), value[key]
            raise DataError(
                f"{folder}: the checkpoint there is of another run: its {name} is {old!r}, this run's {new!r}; "
                "give another folder, or remove it to train from the start"
            )


def validate(module: nn.Module, rows: list[Tensor], parts: list[AlignmentPart], training: AlignmentTraining) -> dict[str, float]:
    """Contrastive loss and mean reciprocal rank over the whole validation gallery, mean over subjects.

    rows: of each subject the mean responses (image, V).
    """
    found = []
    modality = training.modality
    for x, part in zip(rows, parts, strict=True):
        whose = part.subjects[0]
        with torch.no_grad():
            z = torch.cat([embedded(module, block, whose) for block in x.split(256)])
            image, text = targets(part, torch.arange(len(z)), modality)
            loss = trimodal(z, image, text, temperature=training.temperature, joint=False)
        aim = part.image if text is None or image is not None else text
        found.append((loss.item(), reciprocal_rank(z, aim)))
    loss_, rank = np.mean(found, axis=0).tolist()
    return {"validation_loss": loss_, "validation_mrr": rank}


def reciprocal_rank(query: Tensor, gallery: Tensor) -> float:
    """Mean of 1 / (rank + 1) over queries (n, d) whose match is the gallery row of the same number, (n, d)."""
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


def learning_rate(step: int, training: AlignmentTraining) -> float:
    """Linear warm-up over the first share `warmup` of the steps, then a cosine down to `min_lr`."""
    warm = max(1, round(training.warmup * training.steps))
    if step < warm:
        return training.lr * (step + 1) / warm
    done = (step - warm) / max(1, training.steps - warm)
    return training.min_lr + 0.5 * (training.lr - training.min_lr) * (1 + float(np.cos(np.pi * done)))
