"""What several processes do in the tests of this folder; a file of its own, which their interpreters can import."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp

from brainlens.models.encoding import ClassToken, FactorTopy, GNet
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.processes import joined
from brainlens.models.volume.training import AlignmentTraining, train_contrastive
from brainlens.nn.distributed import processes

HERE = Path(__file__).resolve().parent
UNITS, IMAGES = 21, 60  # an odd number: the two shards differ
RECIPE = {"steps": 12, "epoch": 4, "batch": 8, "lr": 1e-2, "decay_steps": 8, "soup": 2, "patience": 9}
READERS = {
    "searched": FactorTopy(6, samples=2, training=RECIPE),
    "paper": FactorTopy.paper(width=6, training=RECIPE | {"searched_start": False}),
    "free": FactorTopy(6, variant={"topological": False}, training=RECIPE, refit=False),
    "gnet": GNet(6, training=RECIPE),
    "class": ClassToken(6, training=RECIPE, refit=False),
}
ADAPTER = {"steps": 6, "batch": 6, "evaluate_every": 2, "draws": 12}
ALIGNMENT = AlignmentTraining(steps=12, batch=16, evaluate_every=4, checkpoint_every=4, lr=3e-3, warmup=0.1, queue=24)


def beside(path: str) -> ModuleType:
    """Another test file as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, HERE.parent / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def encode(folder: Path | None = None, progress: Callable[..., None] | None = None, which: str = "searched") -> dict[str, Any]:
    """Units that read two layers, the mean and the log of their fit."""
    rng = np.random.default_rng(0)
    states = {name: rng.normal(size=(IMAGES, 17, 5)).astype(np.float32) * 4**k for k, name in enumerate("ab")}
    xyz = np.repeat([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]], 7, axis=0) + rng.normal(size=(UNITS, 3))
    signal_ = np.c_[states["a"][:, 7] @ rng.normal(size=(5, 7)), states["b"][:, 0] @ rng.normal(size=(5, 14)) / 4]
    y = (signal_ + 0.5 * rng.normal(size=signal_.shape)) * 3 + np.arange(UNITS)
    model = READERS[which]
    model = type(model)(**model.get_params())
    places = {"coordinates": xyz} if isinstance(model, FactorTopy) else {}
    model.fit(states, y, **places, folder=folder, progress=progress, scored=np.arange(UNITS) != 3)
    found = {f"network/{name}": value.detach() for name, value in model.network_.state_dict().items()}
    found |= {"mean": torch.from_numpy(model.y_mean_), "prediction": torch.from_numpy(model.predict(states))}
    if isinstance(model, FactorTopy):
        chosen = {"space": model.space_, "omega": model.layer_weights_, "alpha": model.scale_}
        found |= {name: torch.from_numpy(value) for name, value in chosen.items()}
    return found | {"log": torch.tensor([[record["loss"], record["validation_r2"]] for record in model.training_log_])}


def reconstruct(folder: Path | None = None, progress: Callable[..., None] | None = None, *, pipeline: Path) -> dict[str, Any]:
    """Region tokens of planted responses; dropout of tokens is drawn for the joint batch, so it is on."""
    planted = beside("models/test_neuro_adapter.py").Planted(images=40)
    model = planted.fit(pipeline, NeuroAdapter(3, training=ADAPTER), folder=folder, progress=progress)
    log = [[record["validation"]] for record in model.history_]
    return dict(model.adapter_) | {"log": torch.tensor(log)}


def align(folder: Path | None = None, progress: Callable[..., None] | None = None) -> dict[str, Any]:
    """The volume encoder with a queue, without dropout, whose draws depend on the number of pieces."""
    steps = beside("align/test_steps.py")
    module = steps.encoder()
    log = train_contrastive(module, steps.split(subjects=2), ALIGNMENT, seed=1, folder=folder, progress=progress)
    found: dict[str, Any] = {name: value.detach() for name, value in module.state_dict().items()}
    return found | {"log": torch.tensor([[record["loss"], record["validation_loss"]] for record in log])}


def killed(*told: Any) -> None:
    """Ends this process as a scheduler does, at the second time that progress is told."""
    step = told[0] if isinstance(told[0], int) else round(told[0] * ADAPTER["steps"])
    if step >= {True: 8, False: 5}[isinstance(told[0], int)]:
        os.kill(os.getpid(), signal.SIGKILL)


def together(work: str, count: int, folder: Path) -> None:
    """Does a work of this file in so many processes, told who they are as `torchrun` tells."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, args=(work, count, port, str(folder)), nprocs=count)


def _process(rank: int, work: str, count: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined() as device:
        assert (device, processes()) == ("cpu", (rank, count))
        WORKS[work](Path(folder), rank)
    assert processes() == (0, 1)


def _every(folder: Path, rank: int) -> None:
    """Every training from its start, and a training that one process began."""
    found = {name: encode(which=name) for name in READERS}
    found |= {"align": align(), "reconstruct": reconstruct(pipeline=folder / "tiny")}
    found |= {"begun by one": encode(folder / "one")}
    torch.save(found, folder / f"{rank}.pt")


WORKS: dict[str, Callable[[Path, int], Any]] = {
    "every": _every,
    "kill encode": lambda folder, rank: encode(folder / "encode", killed),
    "kill align": lambda folder, rank: align(folder / "align", killed),
    "kill reconstruct": lambda folder, rank: reconstruct(folder / "reconstruct", killed, pipeline=folder / "tiny"),
}
