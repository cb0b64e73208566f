"""Training of the layered encoding models: AdamW, smooth L1, decaying entropy penalty, early stopping, soup of checkpoints.

Everything is chosen on validation images. The paper averages checkpoints greedily on its *test* set; here on validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens import store
from brainlens.metrics.encoding import r2
from brainlens.models.encoding.readout import refit_readout
from brainlens.models.encoding.shards import ALONE, Shard
from brainlens.models.encoding.start import common_reading, search, start_bottlenecks, start_selectors
from brainlens.models.encoding.tables import EncodingPart, FittingParts, LayerTokens
from brainlens.models.processes import is_first, wait
from brainlens.nn.factortopy import FactorTopyNetwork, entropy_penalty
from brainlens.types import DataError

Progress = Callable[[int, dict[str, float]], None]
State = dict[str, Tensor]


@dataclass(frozen=True)
class EncodingTraining:
    """The recipe of appendix E.3 (batches of 8, rate 1e-3, 10 checkpoints) from a searched start; PAPER is the paper's own.

    searched_start gives factortopy its selectors by the evidence of a ridge on every layer and place, and a ridge readout
    (start.py, readout.py; not in the paper). Gradient steps go on from there for as long as they raise the validation score:
    epochs of `epoch` steps (the paper 1,000), `patience` epochs without a gain (the paper 20), at most `steps`; steps=0
    keeps the start. The start is one of the checkpoints that the soup is made of.
    search_beside: selectors are searched for what units read beside the common reading, and not for all that they read.
    penalty x decay(step) weighs the entropy term, decay falling to 0 over decay_steps (the paper 6,000, its code 2,000);
    scale_penalty adds the code's further term (alpha - 1/2)^2, which the paper does not have; selector_rate multiplies the
    learning rate of the selector networks (the paper and its code: 1). With standardised tokens and a readout that starts at
    N(0, 1), as here, every scale runs to the global token within 200 steps, where the sigmoid has no gradient left; the
    released recipe (raw tokens, small readout, selectors from zero, the scale term) does not need either.
    """

    steps: int = 60_000
    batch: int = 8
    lr: float = 1e-3
    weight_decay: float = 1e-2
    beta: float = 0.1
    penalty: float = 0.1
    decay_steps: int = 6000
    scale_penalty: bool = True
    selector_rate: float = 0.1
    epoch: int = 250
    patience: int = 4
    soup: int = 10
    searched_start: bool = True
    search_beside: bool = False


PAPER = EncodingTraining(epoch=1000, patience=20, searched_start=False, selector_rate=1.0, scale_penalty=False)  # appendix E.3


def train(
    model: nn.Module,
    tables: FittingParts,
    tokens: LayerTokens,
    training: EncodingTraining,
    *,
    units: np.ndarray,
    seed: int = 0,
    common: str | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    shard: Shard = ALONE,
) -> list[dict[str, float]]:
    """Trains `model` in place and returns one record an epoch; the weights left in it are the soup's.

    units (unit,) bool: those whose mean validation R2 decides; common: the layer of a common reading, None for that with the
    most evidence if the searched start predicts the validation images better with it, by more than a standard error. With a
    folder a checkpoint is written after every epoch, and a run that was killed goes on from it to the same bits on the CPU. In
    several processes model, tables and units are those of this one's `shard`; the first one writes, and another number of
    processes can go on. Raises DataError when the loss is not finite.
    """
    shard.agree(model)
    optimiser = _optimiser(model, training)
    generator = torch.Generator().manual_seed(seed)
    log: list[dict[str, float]] = []
    kept: list[tuple[float, State]] = []
    saved = store.load_checkpoint(folder) if folder is not None else None
    if saved is not None:
        model.load_state_dict(shard.part(saved["model"]))
        optimiser.load_state_dict(shard.part_optimiser(model, optimiser, saved["optimiser"]))
        generator.set_state(saved["generator"])
        log, kept = saved["log"], [(score, shard.part(state)) for score, state in saved["kept"]]
    elif isinstance(model, FactorTopyNetwork):
        log, kept = _start(model, tables, tokens, training, units=units, common=common, shard=shard)
    wait()  # all have read what the first one is about to write over
    target = torch.from_numpy(tables.train.y).to(next(model.parameters()).device)
    rows = torch.from_numpy(tables.train.rows)
    while not _finished(log, training):
        start = int(log[-1]["step"]) if log else 0
        stop = min(start + training.epoch, training.steps)
        loss = 0.0
        for step, chosen in enumerate(_batches(len(rows), stop - start, training.batch, generator), start=start):
            loss += _step(model, optimiser, tokens.at(rows[chosen]), target[chosen], training, step, shard) / (stop - start)
        score = validate(model, tables.validation, tokens, units, shard)
        record = {"step": float(stop), "loss": loss, "validation_r2": score}
        log.append(record)
        kept = sorted([*kept, (score, _copy(model))], key=lambda pair: -pair[0])[: max(1, training.soup)]
        if progress is not None and is_first():
            progress(stop, record)
        if folder is not None:
            state: dict[str, Any] = {"model": shard.join(model.state_dict()), "optimiser": shard.join_optimiser(model, optimiser)}
            state |= {"generator": generator.get_state(), "log": log, "kept": [(one, shard.join(own)) for one, own in kept]}
            if is_first():
                store.save_checkpoint(folder, state)
    _soup(model, kept, lambda: validate(model, tables.validation, tokens, units, shard))
    return log


def _start(
    model: FactorTopyNetwork,
    tables: FittingParts,
    tokens: LayerTokens,
    training: EncodingTraining,
    *,
    units: np.ndarray,
    common: str | None,
    shard: Shard,
) -> tuple[list[dict[str, float]], list[tuple[float, State]]]:
    """The layer of the common reading, and the searched start with its score, the first of the log and of the checkpoints."""
    if training.searched_start:
        start_bottlenecks(model, tables, tokens)
        shard.agree(model)
    beside = common_reading(model, tables, tokens, layer=common, shard=shard) if model.common else None
    if not training.searched_start:
        return [], []
    start_selectors(model, search(model, tables, tokens, beside=beside if training.search_beside else None), shard=shard)
    refit_readout(model, [tables.train], tokens)
    best = _copy(model)
    if model.common and common is None:  # twice the weights a unit: with few images they cost more than they bring
        missed = _missed(model, tables.validation, tokens, units, shard)
        model.common_layer.fill_(-1)
        model.common_readout.data.zero_()
        refit_readout(model, [tables.train], tokens)
        gain = _missed(model, tables.validation, tokens, units, shard) - missed
        if not gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5:
            best = _copy(model)
        model.load_state_dict(best)
    score = validate(model, tables.validation, tokens, units, shard)
    return [{"step": 0.0, "loss": float("nan"), "validation_r2": score}], [(score, best)]


def _missed(model: nn.Module, part: EncodingPart, tokens: LayerTokens, units: np.ndarray, shard: Shard) -> np.ndarray:
    """Squared error of each image of a part, (image,), the mean over the chosen units of all processes."""
    error = np.square(part.y[:, units] - predict(model, part, tokens)[:, units]).sum(axis=1, dtype=np.float64)
    return np.array([shard.mean(float(one), int(units.sum())) for one in error])


def predict(model: nn.Module, part: EncodingPart, tokens: LayerTokens, *, batch: int = 32) -> np.ndarray:
    """Responses (image, unit) predicted for a part, float32."""
    return predict_rows(model, part.rows, tokens, batch=batch)


def predict_rows(model: nn.Module, rows: np.ndarray, tokens: LayerTokens, *, batch: int = 32) -> np.ndarray:
    """The same (row, unit) for rows (row,) of the tokens."""
    model.eval()
    parts = []
    with torch.no_grad():
        run: Callable[..., Tensor] = model
        if isinstance(model, FactorTopyNetwork):
            run = partial(model.predict, selected=model.select())
        for start in range(0, len(rows), batch):
            spatial, whole = tokens.at(rows[start : start + batch])
            parts.append(run(spatial, whole).cpu().numpy())
    model.train()
    return np.concatenate(parts)


def validate(model: nn.Module, part: EncodingPart, tokens: LayerTokens, units: np.ndarray, shard: Shard = ALONE) -> float:
    """Mean R2 over the chosen units, (unit,) bool, that vary in the part, of all processes."""
    scores = r2(part.y[:, units], predict(model, part, tokens)[:, units])
    if len(shard.sizes) == 1:
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("-inf")
    found = shard.mean(float(np.nansum(scores)), int((~np.isnan(scores)).sum()))
    return float("-inf") if np.isnan(found) else found


def _optimiser(model: nn.Module, training: EncodingTraining) -> torch.optim.Optimizer:
    """AdamW with a rate of its own for the selectors."""
    slow = list(model.selectors.parameters()) if isinstance(model, FactorTopyNetwork) else []
    ids = {id(p) for p in slow}
    groups = [{"params": [p for p in model.parameters() if id(p) not in ids]}]
    if slow:
        groups.append({"params": slow, "lr": training.lr * training.selector_rate})  # type: ignore[dict-item]
    return torch.optim.AdamW(groups, lr=training.lr, weight_decay=training.weight_decay, fused=True)


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    inputs: tuple[dict[str, Tensor], dict[str, Tensor]],
    target: Tensor,
    training: EncodingTraining,
    step: int,
    shard: Shard = ALONE,
) -> float:
    """One step; returns the loss over the units of all processes."""
    optimiser.zero_grad(set_to_none=True)
    decay = max(0.0, 1 - step / training.decay_steps) if training.decay_steps else 0.0
    if isinstance(model, FactorTopyNetwork):
        selected = model.select()
        loss = F.smooth_l1_loss(model.predict(*inputs, selected), target, beta=training.beta)
        if decay and training.penalty:
            scale = selected[2] if training.scale_penalty else None
            loss = loss + training.penalty * decay * entropy_penalty(selected[1], scale)
    else:
        loss = F.smooth_l1_loss(model(*inputs), target, beta=training.beta)
    loss = loss * shard.share
    loss.backward()
    value = shard.sum_gradients(model, loss).item()
    if not np.isfinite(value):
        raise DataError(f"encode: the loss is {value} at step {step}; lower the learning rate ({training.lr})")
    optimiser.step()
    return value


def _batches(n: int, steps: int, batch: int, generator: torch.Generator) -> list[Tensor]:
    """Batches of row numbers: whole permutations one after the other, so that every image is seen equally often."""
    size = min(batch, n)
    rounds = -(-steps * size // n)
    stream = torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])
    return list(stream[: steps * size].split(size))


def _finished(log: list[dict[str, float]], training: EncodingTraining) -> bool:
    if log and log[-1]["step"] >= training.steps:
        return True
    scores = [record["validation_r2"] for record in log]
    return len(scores) > training.patience and max(scores[-training.patience :]) <= max(scores[: -training.patience])


def _soup(model: nn.Module, kept: list[tuple[float, State]], score: Callable[[], float]) -> None:
    """Greedy soup (Wortsman et al. 2022): checkpoints from best to worst join the average if validation does not fall."""
    best, chosen = kept[0][0], [kept[0][1]]
    model.load_state_dict(chosen[0])
    for _, state in kept[1:]:
        model.load_state_dict(_mean([*chosen, state]))
        reached = score()
        if reached >= best:
            best, chosen = reached, [*chosen, state]
    model.load_state_dict(_mean(chosen))


def _mean(states: list[State]) -> State:
    if len(states) == 1:
        return states[0]
    return {
        name: torch.stack([s[name] for s in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def _copy(model: nn.Module) -> State:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
