"""Training of region tokens and the attention to them in a frozen diffusion network.

Latents and text states are computed once; a step costs one pass through the network and back. What is kept is the state with
the lowest loss on held-back training images, at noise that is drawn once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainlens import store
from brainlens.models.generation.noise import add_noise, loss_weights, target
from brainlens.models.processes import in_order, is_first, own_rows, same_everywhere, sum_gradients, wait
from brainlens.nn.distributed import processes
from brainlens.nn.region_adapter import Pair, RegionAdapter, RegionPrompt, drop_regions, text_keys
from brainlens.types import DataError

Progress = Callable[[float], None]  # the share that is done
PromptOf = Callable[[Tensor, Tensor | None], RegionPrompt]  # rows, keep -> the prompt of these training images


@dataclass(frozen=True)
class AdapterTraining:
    """AdamW with warm-up and cosine decay, at most `epochs` over the images or `steps` where that is above 0.

    dropout: tokens of a sample are dropped with a probability r ~ U(0, 1) drawn for it. weighting, gamma: `loss_weights`.
    distil: share of the target that is the network's own answer under the caption, where captions are given; see `_aim`.
    head: a linear map and layer norm shared by all tokens. scale: weight of the attention to regions. draws: noisy
    pictures in the validation loss, held-back images in turn, read every `evaluate_every` steps; never more than the training
    itself reads (steps x batch), so that a short trial is not spent on judging it.
    """

    epochs: int = 30
    steps: int = 0
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 1e-5
    clip: float = 1.0
    warmup: float = 0.1
    weighting: str = "min-snr-velocity"
    gamma: float = 5.0
    dropout: bool = True
    distil: float = 1.0
    head: bool = False
    scale: float = 1.0
    evaluate_every: int = 200
    draws: int = 256

    def __post_init__(self) -> None:
        for name in ("batch", "evaluate_every", "draws"):
            if getattr(self, name) < 1:
                raise DataError(f"adapter training: {name}={getattr(self, name)} must be at least 1")
        if self.epochs < 0 or self.steps < 0:
            raise DataError(
                f"adapter training: epochs={self.epochs}, steps={self.steps}; both are 0 or more, both 0 trains nothing"
            )
        if self.lr <= 0 or self.clip <= 0 or not 0 <= self.warmup < 1:
            raise DataError(f"adapter training: lr={self.lr}, clip={self.clip}, warmup={self.warmup}; need > 0, > 0, 0 to 1")

        if not 0 <= self.distil <= 1:
            raise DataError(f"adapter training: distil={self.distil} is a share, 0 to 1")

    def total(self, images: int) -> int:
        return self.steps if self.steps > 0 else self.epochs * max(1, images // self.batch)

    def judging(self, images: int) -> AdapterTraining:
        """The settings of the validation loss: `draws` of at most what the training reads."""
        return replace(self, draws=min(self.draws, max(1, self.total(images)) * self.batch))


DEFAULT = AdapterTraining()
# section 3 and the released code
PAPER = AdapterTraining(epochs=300, batch=16, lr=1e-4, weighting="min-snr", distil=0.0, head=True)


def changed_training(changes: Mapping[str, Any]) -> AdapterTraining:
    """The default recipe with some fields changed. Raises DataError for a field that it does not have."""
    known = set(asdict(DEFAULT))
    unknown = sorted(set(changes) - known)
    if unknown:
        raise DataError(f"training has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return replace(DEFAULT, **dict(changes))


@dataclass(frozen=True)
class AdapterTable:
    """Training images: latents (n, c, h, w), rows of those that train and of those that validate; inputs: what the prompts are
    made of, as a hash; captions (n, token, channel): states of their captions, for distillation, or None."""

    latents: Tensor
    train: Tensor
    validation: Tensor
    inputs: str = ""
    captions: Tensor | None = None

    @classmethod
    def of(cls, latents: Tensor, held: np.ndarray, inputs: str, captions: Tensor | None = None) -> AdapterTable:
        """Of all images, those at `held` (image,) bool for validation."""
        train, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (~held, held))
        return cls(latents, train, validation, inputs, captions)


def train_adapter(
    diffusion: Any,
    adapter: RegionAdapter,
    table: AdapterTable,
    prompt_of: PromptOf,
    *,
    training: AdapterTraining,
    regions: int,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Trains `adapter` in place and leaves its best state in it; returns one record for each evaluation.

    progress: called with the share of the steps that are done.

    validation: loss of held-back images with their regions; validation_text: with none, which no training changes where regions
    are masked. With a folder a checkpoint follows every evaluation, and a run that was killed goes on from it to the same bits.
    In several processes (see `models.processes`) each takes its share of every batch, of which all draw the whole; the first one
    writes, and another number of processes can go on.
    Raises DataError for a loss that is not finite, and for a checkpoint of another fit.
    """
    device = diffusion.prompt.device
    same_everywhere(adapter)
    total, judging = training.total(len(table.train)), training.judging(len(table.train))
    weights = loss_weights(diffusion.alphas, diffusion.prediction, training.weighting, training.gamma).to(device)
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    draw = torch.Generator().manual_seed(seed)
    key = fit_key(diffusion, table, training, seed)
    log, best, start = _resume(folder, key, adapter, optimiser, draw)
    wait()  # all have read what the first one is about to write over

    def evaluate(step: int, loss: float) -> None:
        nonlocal best
        record = {
            "step": float(step),
            "loss": loss,
            "validation": validation_loss(diffusion, adapter, table, prompt_of, judging),
        }
        if not log:
            record["validation_text"] = validation_loss(diffusion, adapter, table, prompt_of, judging, regions=regions)
        log.append(record)
        if best is None or record["validation"] < best[0]:
            best = (record["validation"], {k: v.detach().clone() for k, v in adapter.state_dict().items()})
        if folder is not None and is_first():
            state = {"adapter": adapter.state_dict(), "optimiser": optimiser.state_dict(), "draw": draw.get_state()}
            store.save_checkpoint(folder, state | {"key": key, "log": log, "best": list(best)})

    adapter.train()
    if not log:
        evaluate(0, math.nan)
    recent: list[float] = []
    with adapter.on(diffusion.unet):
        for step in range(start, total):
            loss = _loss(diffusion, table, prompt_of, training, weights, (regions, draw))
            recent.append(_step(optimiser, loss, training, step, total))
            if progress is not None and is_first():
                progress((step + 1) / total)
            if (step + 1) % training.evaluate_every == 0 or step + 1 == total:
                evaluate(step + 1, sum(recent) / len(recent))
                recent = []
    assert best is not None
    adapter.load_state_dict(best[1])
    adapter.eval().requires_grad_(False)
    if folder is not None and is_first():
        store.remove_checkpoints(folder)
    return log


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, training: AdapterTraining, step: int, total: int) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    value = float(sum_gradients((p for group in optimiser.param_groups for p in group["params"]), loss.detach()))
    if not math.isfinite(value):
        raise DataError(f"the loss of the adapter is {value} at step {step}; use a smaller lr than {training.lr}")
    for group in optimiser.param_groups:
        group["lr"] = training.lr * _rate(step, total, training.warmup)
        torch.nn.utils.clip_grad_norm_(group["params"], training.clip)
    optimiser.step()
    return value


def validation_loss(
    diffusion: Any,
    adapter: RegionAdapter,
    table: AdapterTable,
    prompt_of: PromptOf,
    training: AdapterTraining,
    *,
    regions: int = 0,
) -> float:
    """Mean weighted loss of the held-back images at fixed noise and evenly spread times; regions > 0: without any."""
    weights = loss_weights(diffusion.alphas, diffusion.prediction, training.weighting, training.gamma)
    draw = torch.Generator().manual_seed(0)
    rows = table.validation.repeat(-(-training.draws // len(table.validation)))[: training.draws]
    length = len(diffusion.alphas)
    times = ((torch.randperm(len(rows), generator=draw) + 0.5) / len(rows) * length).long()
    noise = torch.randn(len(rows), *table.latents.shape[1:], generator=draw)
    total = 0.0
    with torch.no_grad(), adapter.on(diffusion.unet):
        rank, world = processes()
        for at in torch.arange(len(rows)).split(training.batch)[rank::world]:
            keep = torch.zeros(len(at), regions, dtype=torch.bool) if regions else None
            error = _error(diffusion, table, rows[at], noise[at], times[at], prompt_of(rows[at], keep), training.distil)
            total += float((error * weights[times[at]].to(error)).sum())
    return sum(in_order(total)) / len(rows)


def _loss(
    diffusion: Any,
    table: AdapterTable,
    prompt_of: PromptOf,
    training: AdapterTraining,
    weights: Tensor,
    drawn: tuple[int, torch.Generator],
) -> Tensor:
    """This process's share of the loss of a batch; the shares of all processes sum to it."""
    regions, draw = drawn
    size = min(training.batch, len(table.train))
    rows = table.train[torch.randperm(len(table.train), generator=draw)[:size]]
    even = (torch.randperm(size, generator=draw) + torch.rand(size, generator=draw)) / size  # every part of the schedule
    times = (even * len(diffusion.alphas)).long().clamp_max(len(diffusion.alphas) - 1)
    noise = torch.randn(size, *table.latents.shape[1:], generator=draw)
    keep = drop_regions(size, regions, draw) if training.dropout else None
    own = own_rows(size)
    rows, noise, times, keep = rows[own], noise[own], times[own], None if keep is None else keep[own]
    error = _error(diffusion, table, rows, noise, times, prompt_of(rows, keep), training.distil)
    return (error * weights[times.to(weights.device)]).mean() * (len(rows) / size)


def _error(
    diffusion: Any, table: AdapterTable, rows: Tensor, noise: Tensor, times: Tensor, prompt: RegionPrompt, distil: float
) -> Tensor:
    """Squared error of what the network says, mean over latents: (B,)."""
    device = diffusion.prompt.device
    clean, noise, alphas = table.latents[rows].to(device), noise.to(device), diffusion.alphas[times].to(device)
    noisy = add_noise(clean, noise, alphas)
    times = times.to(device)
    aim = target(clean, noise, alphas, diffusion.prediction)
    if table.captions is not None and distil > 0:
        aim = _aim(diffusion, aim, noisy, times, table.captions[rows].to(device, noisy.dtype), distil)
    said = diffusion.unet(noisy, times, encoder_hidden_states=prompt, return_dict=False)[0]
    return (said - aim).square().flatten(1).mean(1)


def _aim(diffusion: Any, noise: Tensor, noisy: Tensor, times: Tensor, captions: Tensor, distil: float) -> Tensor:
    """(1 - d) target + d network(x_t, t, caption): the frozen network's own answer under the caption of the picture.

    Both have the same mean where the caption says all that the regions know; the answer has none of the noise that no prompt can
    foresee, which is most of the loss and all of the scatter of its gradient.
    """
    with torch.no_grad():
        told = RegionPrompt(text_keys(diffusion.unet, captions))
        return (1 - distil) * noise + distil * diffusion.unet(noisy, times, encoder_hidden_states=told, return_dict=False)[0]


def response_prompts(adapter: RegionAdapter, x: Tensor, text: list[Pair]) -> PromptOf:
    """Prompts of responses x (n, units), on the device of the text."""
    device = text[0][0].device

    def prompt_of(rows: Tensor, keep: Tensor | None) -> RegionPrompt:
        return adapter.prompt(x[rows].to(device), text, None if keep is None else keep.to(device))

    return prompt_of


def embedding_prompts(adapter: RegionAdapter, prompts: Tensor, text: list[Pair]) -> PromptOf:
    """Prompts of tokens (n, tokens, width) that come from elsewhere, such as image embeddings; what is dropped is masked."""
    device = text[0][0].device

    def prompt_of(rows: Tensor, keep: Tensor | None) -> RegionPrompt:
        return adapter.prompt_of(prompts[rows].to(device), text, None if keep is None else keep.to(device))

    return prompt_of


def empty_text(diffusion: Any) -> list[Pair]:
    """Keys and values of the empty prompt, one row for all samples."""
    return text_keys(diffusion.unet, diffusion.prompt)


def fit_key(diffusion: Any, table: AdapterTable, training: AdapterTraining, seed: int) -> str:
    """What a checkpoint must be of to be gone on from."""
    text = repr(
        [diffusion.files, sorted(asdict(training).items()), seed, table.inputs, tuple(table.latents.shape), table.train.tolist()]
    )
    digest = hashlib.sha256(text.encode())
    for part in (table.latents, table.captions):
        digest.update(b"" if part is None else part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _resume(
    folder: Path | None, key: str, adapter: RegionAdapter, optimiser: torch.optim.Optimizer, draw: torch.Generator
) -> tuple[list[dict[str, float]], tuple[float, dict[str, Tensor]] | None, int]:
    saved = store.load_checkpoint(folder) if folder is not None else None
    if saved is None:
        return [], None, 0
    if saved.get("key") != key:
        raise DataError(f"{folder} holds a checkpoint of another fit; remove it, or name another folder")
    adapter.load_state_dict(saved["adapter"])
    optimiser.load_state_dict(saved["optimiser"])
    draw.set_state(saved["draw"])
    return saved["log"], (float(saved["best"][0]), saved["best"][1]), int(saved["log"][-1]["step"])


def _rate(step: int, total: int, warmup: float) -> float:
    """Share of the learning rate: linear warm-up, then a half cosine to 0."""
    rise = max(1, round(warmup * total))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
