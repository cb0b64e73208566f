"""Drawing pictures from prompts of regions: batches over trials and candidates, kept on disk as they are done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from brainlens import store
from brainlens.backbones.diffusion import decode, encode
from brainlens.models.generation.noise import candidate_noise
from brainlens.models.generation.schedules import Schedule, check_scheduler, open_schedule
from brainlens.nn.region_adapter import RegionAdapter, RegionPrompt
from brainlens.types import DataError

NOTE = "sampling.json"
LATER = {"scheduler": "ddim", "grey": False}  # at these, a folder that was begun before they were there goes on


class Watcher(Protocol):
    """What sees the attention to regions while pictures are drawn (`attribution.cross_attention.AttentionRecord`)."""

    def at(self, step: int, steps: int, rows: np.ndarray) -> None:
        """What comes next is step `step` of `steps`, for trials rows (n,)."""

    def __call__(self, layer: int, probs: Tensor, values: Tensor) -> None: ...


@dataclass(frozen=True)
class Sampling:
    """candidates: pictures of a trial; guidance g: u + g (c - u) of the network's answers with (c) and without regions (u);
    steps of denoising; seed of the noise, which a candidate shares over trials; strength: share of the noise that a given start
    gets; batch: pictures drawn at a time; scheduler: ddim, ddpm, euler or dpm (`schedules`); grey: drawing begins at the latents
    of a grey picture under the noise of the first step, not at noise alone. The same where the schedule ends in pure noise."""

    candidates: int = 1
    guidance: float = 4.0
    steps: int = 20
    seed: int = 0
    strength: float = 1.0
    batch: int = 16
    scheduler: str = "ddim"
    grey: bool = False

    def __post_init__(self) -> None:
        check_scheduler(self.scheduler)
        if self.candidates < 1:
            raise DataError(f"{self.candidates} candidates of a picture; ask for 1 or more")
        if self.steps < 1 or self.batch < 1:
            raise DataError(f"sampling: steps={self.steps}, batch={self.batch}; both are 1 or more")
        if not np.isfinite(self.guidance) or self.guidance < 0:
            raise DataError(f"sampling: guidance={self.guidance} should be 0 or more; 1 is without guidance")
        if not 0 < self.strength <= 1:
            raise DataError(f"sampling: strength={self.strength} of the noise lies above 0 and up to 1")


@dataclass(frozen=True)
class Prompts:
    """Prompts of trials: `given(rows)` with their regions, `without(rows)` the unconditional ones; n trials; start: latents
    (n, c, h, w) to begin from, or None for noise; key: a hash of all that they depend on. apart: every candidate has a prompt of
    its own, those of a trial one after the other."""

    given: Callable[[np.ndarray], RegionPrompt]
    without: Callable[[np.ndarray], RegionPrompt]
    n: int
    start: Tensor | None = None
    key: str = ""
    apart: Callable[[np.ndarray, int], RegionPrompt] | None = None

    def of(self, rows: np.ndarray, candidates: int) -> RegionPrompt:
        """The prompts of these trials (n,), one for each of their candidates."""
        return self.given(rows).repeat(candidates) if self.apart is None else self.apart(rows, candidates)


def draw_pictures(
    diffusion: Any,
    adapter: RegionAdapter,
    prompts: Prompts,
    sampling: Sampling,
    *,
    watch: Watcher | None = None,
    folder: str | Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Pictures (n, candidates, h, w, 3) uint8.

    Keys and values of text and regions are computed once for a batch and serve all steps. watch: sees the attention of the
    conditional pass. folder: every batch is kept there, and a run that was killed goes on behind the last.
    progress: called with the share of the trials that are drawn.
    Raises DataError for a folder that holds other pictures, and for watching together with a folder.
    """
    if watch is not None and folder is not None:
        raise DataError("attention is not kept in a folder of pictures; leave folder out to watch, or watch out to go on later")
    trials = max(1, sampling.batch // sampling.candidates)
    if folder is not None:
        _claim(Path(folder), prompts, sampling)
    done: list[np.ndarray] = []
    for rows in np.array_split(np.arange(prompts.n), range(trials, prompts.n, trials)):
        name = f"pictures-{rows[0]:06d}"
        if folder is not None and name in store.manifest(folder):
            done.append(np.asarray(store.open_array(folder, name)))
            continue
        latents = draw_latents(diffusion, adapter, prompts, sampling, rows=rows, watch=watch)
        pictures = np.concatenate([decode(diffusion, part) for part in latents.split(sampling.batch)])
        pictures = pictures.reshape(len(rows), sampling.candidates, *pictures.shape[1:])
        if folder is not None:
            store.save_array(folder, name, pictures)
        done.append(pictures)
        if progress is not None:
            progress((int(rows[-1]) + 1) / prompts.n)
    return np.concatenate(done)


def draw_latents(
    diffusion: Any,
    adapter: RegionAdapter,
    prompts: Prompts,
    sampling: Sampling,
    *,
    rows: np.ndarray,
    watch: Watcher | None = None,
) -> Tensor:
    """Latents (rows x candidates, c, h, w) of these trials, candidates of a trial one after the other."""
    device, count = diffusion.prompt.device, sampling.candidates
    schedule = _schedule(diffusion, sampling, len(rows))
    times, shape = schedule.times, _latent_shape(diffusion)
    noise = torch.stack([candidate_noise(sampling.seed, c, shape) for c in range(count)]).repeat(len(rows), 1, 1, 1).to(device)
    latents, first = _begin(diffusion, schedule, prompts, sampling, noise, rows)
    with torch.no_grad(), adapter.on(diffusion.unet):
        given = prompts.of(rows, count).watched(watch)
        without = prompts.without(rows).repeat(count) if sampling.guidance != 1 else None
        for number in range(first, len(times)):
            if watch is not None:
                watch.at(number - first, len(times) - first, rows)
            seen = schedule.seen(latents, number)
            said = diffusion.unet(seen, times[number], encoder_hidden_states=given, return_dict=False)[0]
            if without is not None:
                free = diffusion.unet(seen, times[number], encoder_hidden_states=without, return_dict=False)[0]
                said = free + sampling.guidance * (said - free)
            latents = schedule.after(said, latents, number)
    return latents


def gate_gradients(
    diffusion: Any, adapter: RegionAdapter, prompts: Prompts, sampling: Sampling, *, rows: np.ndarray
) -> np.ndarray:
    """How much more attention to each region would change the network's answer in the direction in which the brain changes it:
    shares (row, step, region) that sum to 1, along the drawing of the first candidate.

        G_j = |d <c(g), (c - u) / |c - u|> / d g_j|  at g = 0,     g added to the attention scores of region j in every layer,
                                                           or to the factor 1 of what it writes into joint tokens

    c, u: the answers with regions and without. A region that is looked at and changes nothing has none; so has one removed.
    """
    one, device = replace(sampling, candidates=1), diffusion.prompt.device
    schedule = _schedule(diffusion, one, len(rows))
    noise = candidate_noise(one.seed, 0, _latent_shape(diffusion))[None].repeat(len(rows), 1, 1, 1).to(device)
    latents, first = _begin(diffusion, schedule, prompts, one, noise, rows)
    found = []
    with adapter.on(diffusion.unet):
        with torch.no_grad():
            given, without = prompts.of(rows, 1), prompts.without(rows)
        regions = adapter.regions
        for number in range(first, len(schedule.times)):
            seen, time = schedule.seen(latents, number), schedule.times[number]
            gate = torch.zeros(len(rows), regions, device=device, requires_grad=True)
            said = diffusion.unet(seen, time, encoder_hidden_states=given.gated(gate), return_dict=False)[0]
            with torch.no_grad():
                free = diffusion.unet(seen, time, encoder_hidden_states=without, return_dict=False)[0]
                change = said - free
                size = change.flatten(1).norm(dim=1).clamp_min(torch.finfo(change.dtype).tiny).view(-1, 1, 1, 1)
            (slope,) = torch.autograd.grad((said * change / size).sum(), gate)
            slope = slope.abs()
            found.append((slope / slope.sum(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)).double().cpu().numpy())
            with torch.no_grad():
                latents = schedule.after(free + one.guidance * (said - free), latents, number)
    return np.stack(found, axis=1)


def _schedule(diffusion: Any, sampling: Sampling, trials: int) -> Schedule:
    how: dict[str, int] = {"seed": sampling.seed, "candidates": sampling.candidates, "trials": trials}
    return open_schedule(diffusion, sampling.scheduler, sampling.steps, **how)


def _begin(
    diffusion: Any, schedule: Schedule, prompts: Prompts, sampling: Sampling, noise: Tensor, rows: np.ndarray
) -> tuple[Tensor, int]:
    """Latents that drawing begins with, and the number of its first step: pure noise, or a given start under some noise."""
    if prompts.start is not None:
        steps = len(schedule.times)
        first = min(int((1 - sampling.strength) * steps), steps - 1)
        start = prompts.start[torch.from_numpy(rows)].to(noise.device).repeat_interleave(sampling.candidates, 0)
        return schedule.noised(start, noise, first), first
    if sampling.grey:
        with torch.no_grad():
            middle = encode(diffusion, np.zeros((1, 3, *diffusion.preprocess.crop), np.float32))
        return schedule.noised(middle.expand_as(noise), noise, 0), 0
    return noise * schedule.sigma, 0


def _latent_shape(diffusion: Any) -> tuple[int, int, int]:
    side = int(diffusion.unet.config.sample_size)
    return int(diffusion.unet.config.in_channels), side, side


def _claim(folder: Path, prompts: Prompts, sampling: Sampling) -> None:
    """The folder is for these pictures and no others."""
    asked = sorted(store.settings_of(sampling, LATER).items())
    text = repr([prompts.key, prompts.n, asked])
    key = hashlib.sha256(text.encode()).hexdigest()
    note = folder / NOTE
    if note.is_file():
        held = store.read_json(note)
        if not isinstance(held, dict) or held.get("key") != key:
            raise DataError(f"{folder} holds pictures of other responses, settings or another model; name another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    store.save_json(note, {"key": key, "sampling": asdict(sampling)})
