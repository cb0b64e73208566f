"""A sensor training that was stopped goes on: what it holds after an epoch, kept in a folder without a pickle.

An epoch draws its order from a generator of its own and its dropout from the global one, so both states are kept beside
weights, optimiser and loss weights: a resumed training ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from brainlens import store
from brainlens.nn.blur_prior import BlurPrior
from brainlens.nn.guidance import LossAdjustment
from brainlens.types import Responses

if TYPE_CHECKING:
    from brainlens.models.sensors.decoder import SensorDecoder, SensorTraining

FORMAT = 1  # of a checkpoint; raised when what it holds changes
SHARE = 0.01  # of the time since the last checkpoint that the next one may take
PARTS = ("model", "image_head", "text_head")


@dataclass
class SensorRun:
    """What a training holds between two epochs, beside the modules of its decoder and the state of the global generator.

    adjust: what else its steps change, the weights of its losses or the blur of its targets.
    """

    decoder: SensorDecoder
    optimiser: torch.optim.Optimizer
    shuffle: torch.Generator
    adjust: LossAdjustment | BlurPrior | None = None
    epoch: int = 0
    best: float = float("inf")
    stale: int = 0
    best_state: list[dict[str, Tensor]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.best_state = weights(self.decoder)

    def judge(self, validation: float) -> None:
        """Ends an epoch: its weights are kept where the validation loss is the least so far."""
        self.epoch += 1
        if validation < self.best:
            self.best, self.best_state, self.stale = validation, weights(self.decoder), 0
            self.decoder.best_epoch = self.epoch
        else:
            self.stale += 1

    def finish(self) -> None:
        """Leaves the best weights in the decoder."""
        for name, state in zip(PARTS, self.best_state, strict=True):
            getattr(self.decoder, name).load_state_dict(state)

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        decoder, on_gpu = self.decoder, self.decoder.device.startswith("cuda")
        found = {name: getattr(self, name) for name in ("epoch", "best", "stale", "best_state")}
        found |= {"log": decoder.log, "best_epoch": decoder.best_epoch}
        found |= {"seconds": decoder.seconds + time.perf_counter() - self.started}
        found |= {name: getattr(decoder, name).state_dict() for name in PARTS}
        found |= {"optimiser": self.optimiser.state_dict(), "adjust": None if self.adjust is None else dict(vars(self.adjust))}
        found |= {"shuffle": self.shuffle.get_state(), "generator": torch.get_rng_state()}
        return found | {"generator_gpu": torch.cuda.get_rng_state(decoder.device) if on_gpu else None}

    def restore(self, saved: dict[str, Any]) -> None:
        """Takes over a stored state."""
        decoder = self.decoder
        for name in ("epoch", "best", "stale", "best_state"):
            setattr(self, name, saved[name])
        for name in ("log", "best_epoch", "seconds"):
            setattr(decoder, name, saved[name])
        for name in PARTS:
            getattr(decoder, name).load_state_dict(saved[name])
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.adjust is not None:
            there = {k: v.to(decoder.device) if isinstance(v, Tensor) else v for k, v in saved["adjust"].items()}
            vars(self.adjust).update(there)
        self.shuffle.set_state(saved["shuffle"])
        torch.set_rng_state(saved["generator"])
        if saved["generator_gpu"] is not None:
            torch.cuda.set_rng_state(saved["generator_gpu"], decoder.device)


@dataclass
class Checkpoint:
    """A folder in which a training leaves its state after an epoch, and finds it again.

    keep: the last state stays there, so that a further call returns the finished training at once; otherwise the folder is
    removed when the training is finished. made_for: what the training depends on; a state of anything else is not used.
    A state is written after the first epoch, and then as often as it takes at most SHARE of the time.
    """

    folder: Path
    keep: bool = False
    made_for: dict[str, Any] = field(default_factory=dict)
    _saved: float | None = None  # when, at what cost in s, and after which epoch
    _cost: float = 0.0
    _epoch: int = -1

    def restore(self, run: SensorRun) -> None:
        """Puts a run where the folder's state, if there is one for it, has left it."""
        saved = store.load_checkpoint(self.folder)
        if saved is not None and saved.pop("made_for", None) == self.made_for:
            run.restore(saved)
            self._epoch = run.epoch

    def save(self, run: SensorRun, *, last: bool = False) -> None:
        """Writes the state of a run where it is time to, or where it is the last one."""
        begun = time.perf_counter()
        due = self._saved is None or (begun - self._saved) * SHARE >= self._cost
        if (due or last) and run.epoch != self._epoch:
            store.save_checkpoint(self.folder, run.state() | {"made_for": self.made_for})
            self._saved, self._epoch = time.perf_counter(), run.epoch
            self._cost = self._saved - begun

    def finish(self, run: SensorRun) -> None:
        """The training is over: its last state stays, or what it would have gone on from is removed."""
        if self.keep:
            self.save(run, last=True)
        else:
            store.remove_checkpoints(self.folder)


def checkpoint_for(
    where: str | Path | Checkpoint | None,
    decoder: SensorDecoder,
    train: Responses,
    *,
    targets: Sequence[Tensor | None],
    training: SensorTraining,
    seed: int,
) -> Checkpoint | None:
    """The checkpoint of this training in a folder; all its data are read once for their fingerprint.

    targets: tables (image, d), and the weights (n,) that the training starts from, if any.
    """
    if where is None:
        return None
    given = where if isinstance(where, Checkpoint) else Checkpoint(Path(where))
    return Checkpoint(given.folder, given.keep, made_for(decoder, train, targets=targets, training=training, seed=seed))


def weights(decoder: SensorDecoder) -> list[dict[str, Tensor]]:
    """Copies of all weights of a decoder, tensors of any shape by name for each part."""
    return [copy.deepcopy(getattr(decoder, name).state_dict()) for name in PARTS]


def flat_weights(decoder: SensorDecoder) -> Tensor:
    """All weights of a decoder as one vector (n,), by which a training that starts from them is known again."""
    return torch.cat([value.detach().cpu().double().ravel() for state in weights(decoder) for value in state.values()])


def made_for(
    decoder: SensorDecoder, train: Responses, *, targets: Sequence[Tensor | None], training: SensorTraining, seed: int
) -> dict[str, Any]:
    """What the bits of a training depend on: code, architecture, settings, seed, device, and the content of all tables.

    targets: tables (image, d), and the weights (n,) that the training starts from, if any.
    """
    shapes = [(name, tuple(value.shape)) for part in PARTS for name, value in getattr(decoder, part).state_dict().items()]
    tables = [store.fingerprint(train)] + [store.fingerprint(t.cpu().numpy()) for t in targets if t is not None]
    return {
        "format": FORMAT,
        "code": [store.TASKS["align"], str(torch.__version__)],
        "encoder": hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr([decoder.model, shapes])).encode()).hexdigest()[:16],
        "training": asdict(training),
        "seed": seed,
        "device": decoder.device,
        "data": tables,
    }
