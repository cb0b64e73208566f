"""Which precision trains the TSConv faster here: a check of a second, since half precision is slow on many processors.

Products in bfloat16 are fast on processors with matrix units for it (AMX) and on GPUs; elsewhere they take longer than float32.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from brainlens import store
from brainlens.models.sensors.split import tensors
from brainlens.nn.sensor_baselines import SensorModel, sensor_encoder
from brainlens.nn.sensor_encoder import TSConv

GAIN = 0.8  # bfloat16 is taken below this share of the time of float32, since it costs digits
TRIALS, WIDTH, TIMES, LIMIT = 32, 256, 4, 2.0  # seconds, after which a busy machine is timed no further
PRECISIONS = ("float32", "bfloat16")


def step_seconds(shape: tuple[int, int], device: str = "cpu", *, trials: int = TRIALS) -> dict[str, float]:
    """Seconds of a forward and backward pass of the TSConv on noise (trial, channel, time) in each precision.

    shape: channels and samples. The least of four, taken in turns, after one that is not counted, of fewer on a busy
    machine; the generators of torch are put back.
    """
    data = np.random.default_rng(0).normal(size=(trials, *shape)).astype(np.float32)
    scale = torch.zeros(shape[0], 1), torch.ones(shape[0], 1)
    found: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.startswith("cuda") else []):
        model = sensor_encoder("neuroalign", *shape, WIDTH).to(device)
        assert isinstance(model, SensorModel)
        assert isinstance(model.encoder, TSConv)
        model.encoder.filtered = True  # as in a training
        rows = np.arange(trials)
        parts = {name: tensors(data, rows, rows, model=model, scale=scale, device=device, precision=name) for name in PRECISIONS}
        begun = time.perf_counter()
        for turn in range(1 + TIMES):
            if turn > 1 and time.perf_counter() - begun > LIMIT:
                break
            for name, part in parts.items():
                x, moments, _ = part.batch(torch.arange(trials, device=part.x.device), device)
                started = time.perf_counter()
                with torch.autocast(x.device.type, torch.bfloat16, enabled=name == "bfloat16"):
                    z = model(x, moments)
                z.float().square().mean().backward()
                if x.is_cuda:  # its clock stops when the work is done, not when it is asked for
                    torch.cuda.synchronize()
                found[name].append(time.perf_counter() - started)
    return {name: min(times[1:]) for name, times in found.items()}


def faster(seconds: dict[str, float]) -> str:
    """ "bfloat16" where it takes less than GAIN of the time of float32, else "float32"."""
    return "bfloat16" if seconds["bfloat16"] < GAIN * seconds["float32"] else "float32"


def quick_check(shape: tuple[int, int], device: str = "cpu", folder: Path | None = None) -> tuple[str, str]:
    """(precision, what is said of it) for recordings of `shape` (channels, samples).

    folder: where the answer is noted, and taken from by a later check on such recordings and as many threads, so that a training
    that was stopped goes on in the precision that it began in.
    """
    asked = [*shape, device, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]
    note = None if folder is None else folder / "precision.json"
    known = store.read_json(note) if note is not None and note.is_file() else {}
    if isinstance(known, dict) and known.get("asked") == asked and known.get("chosen") in PRECISIONS:
        return str(known["chosen"]), str(known.get("said", ""))
    seconds = step_seconds(shape, device)
    chosen = faster(seconds)
    each = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
    said = f"precision {chosen}: a step of {TRIALS} trials takes {each} here; --precision chooses another"
    if note is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        store.save_json(note, {"asked": asked, "chosen": chosen, "said": said})
    return chosen, said
