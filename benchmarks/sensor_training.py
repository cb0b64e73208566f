"""A whole subject, 16,540 averaged trials of 63 x 250, 200 epochs of the NICE objective at batch 1,000: ours against its loop.

The peer is a straightforward port: layers one after the other, Adam, image features computed beforehand. On
the CPU a few batches of each are timed and scaled to 200 epochs (`epochs_timed` says how much was run; the preparation of
the data, done once, is added); on a GPU both run in full. Both start from the same weights, see the same batches and have
dropout off, so that their losses can be compared. For a fair count neither evaluates a validation set.
"""

from __future__ import annotations

import sys

sys.modules["bottleneck"] = None  # type: ignore[assignment]  # pandas would take bottleneck.py here for the package
import json  # noqa: E402
import time  # noqa: E402
from dataclasses import replace  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from brainlens.models.sensors.decoder import NICE_TRAINING, THINGS_EEG2, SensorDecoder, build  # noqa: E402
from brainlens.models.sensors.split import tensors  # noqa: E402
from brainlens.models.sensors.training import step  # noqa: E402
from brainlens.nn.guidance import LossAdjustment  # noqa: E402
from brainlens.nn.sensor_encoder import Head, TSConv  # noqa: E402
from brainlens.types import Responses  # noqa: E402
from floor import Work, against  # noqa: E402
from harness import measure, measured_rates, parser, profile_of, relative_error, use_threads  # noqa: E402

TRIALS, CHANNELS, SAMPLES, WIDTH, BATCH, EPOCHS = 16_540, 63, 250, 768, 1000, 200
TIMED = 2_000  # trials run on the CPU


def trials(device: str) -> int:
    return TRIALS if device.startswith("cuda") else TIMED


def epochs(device: str) -> int:
    return EPOCHS if device.startswith("cuda") else 1


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    recordings = np.empty((n, CHANNELS, SAMPLES), dtype=np.float16)
    for start in range(0, n, 500):
        size = (min(500, n - start), CHANNELS, SAMPLES)
        recordings[start : start + 500] = rng.standard_normal(size, dtype=np.float32)
    return recordings, rng.standard_normal((n, WIDTH), dtype=np.float32)


def batches(n: int) -> list[Tensor]:
    return [rows for rows in torch.randperm(n, generator=torch.Generator().manual_seed(1)).split(BATCH) if len(rows) > 1]


def weights() -> tuple[TSConv, Head]:
    torch.manual_seed(2)
    return TSConv(CHANNELS, SAMPLES, dropout=0.0), Head(1440, WIDTH, dropout=0.0)


def ours(device: str, precision: str = "float32") -> Any:
    recordings, features = data(trials(device))
    n, kept = len(recordings), {}
    begin = time.perf_counter()
    table = pd.DataFrame({"stimulus": [f"{i:05d}" for i in range(n)]})
    units = pd.DataFrame({"channel": range(CHANNELS)})
    responses = Responses(recordings, table, units, times=np.arange(SAMPLES) / 250, measure="uV")
    scale = (torch.zeros(CHANNELS, 1), torch.ones(CHANNELS, 1))
    decoder: SensorDecoder = build(
        "nice", responses.data.shape[1:], (WIDTH, None), training=NICE_TRAINING, seed=0, device=device, scale=scale
    )
    part = tensors(recordings, np.arange(n), np.arange(n), model=decoder.model, scale=scale, device=device, precision=precision)
    image = torch.as_tensor(features).to(device)
    kept["setup"] = time.perf_counter() - begin
    body, head = weights()
    state = {f"encoder.{k}": v for k, v in body.state_dict().items()} | {f"head.{k}": v for k, v in head.state_dict().items()}

    def run() -> None:
        decoder.model.load_state_dict(state)
        decoder.model.train()
        for module in decoder.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        recipe = NICE_TRAINING
        optimiser = torch.optim.AdamW(decoder.model.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=0.0)
        losses = []
        for _ in range(epochs(device)):
            for rows in batches(n):
                optimiser.zero_grad(set_to_none=True)
                batch = part.batch(rows.to(part.x.device), device)
                loss, _ = step(decoder, batch, image, None, replace(NICE_TRAINING, precision=precision), None)
                optimiser.step()
                losses.append(loss)
        kept["losses"] = losses[:4]

    return run, lambda: {"losses": np.array(kept["losses"]), "setup": np.array(kept["setup"])}


class Port(nn.Module):
    """Encoder and projection as in the NICE code."""

    def __init__(self) -> None:
        super().__init__()
        body, self.head = weights()
        self.body = nn.Sequential(
            body.temporal, nn.AvgPool2d((1, 51), (1, 5)), body.norm1, nn.ELU(), body.spatial, body.norm2, nn.ELU(), body.mix
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).permute(0, 2, 3, 1).flatten(1))


def peer(device: str) -> Any:
    recordings, features = data(trials(device))
    x = torch.as_tensor(recordings.astype(np.float32))[:, None]
    model, kept = Port().to(device), {}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.as_tensor(features)

    def run() -> None:
        model.load_state_dict(state)
        model.train()
        optimiser = torch.optim.Adam(model.parameters(), lr=NICE_TRAINING.lr, betas=NICE_TRAINING.betas)
        losses = []
        for _ in range(epochs(device)):
            for rows in batches(len(x)):
                shown, response = image[rows].to(device), model(x[rows].to(device))
                score = F.normalize(response, dim=-1) @ F.normalize(shown, dim=-1).T / NICE_TRAINING.temperature
                label = torch.arange(len(rows), device=device)
                loss = (F.cross_entropy(score, label) + F.cross_entropy(score.T, label)) / 2
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
        kept["losses"] = losses[:4]

    return run, lambda: {"losses": np.array(kept["losses"])}


def adjustment_cost(device: str) -> float:
    """Seconds of NeuroAlign steps with dynamic loss adjustment over seconds with fixed weights, batch 256."""
    recordings, features = data(256)
    table, units = pd.DataFrame({"stimulus": [f"{i:05d}" for i in range(256)]}), pd.DataFrame({"channel": range(CHANNELS)})
    responses = Responses(recordings, table, units, times=np.arange(SAMPLES) / 250, measure="uV")
    image = torch.as_tensor(features[:, :512]).to(device)
    scale = (torch.zeros(CHANNELS, 1), torch.ones(CHANNELS, 1))
    decoder = build(
        "neuroalign", responses.data.shape[1:], (512, image.shape[1]), training=THINGS_EEG2, seed=0, device=device, scale=scale
    )
    part = tensors(recordings, np.arange(256), np.arange(256), model=decoder.model, scale=decoder.scale, device=device)
    batch = part.batch(torch.arange(256, device=part.x.device), device)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(6):
        for adjusted in (True, False):
            start = time.perf_counter()
            step(decoder, batch, image, image, THINGS_EEG2, LossAdjustment() if adjusted else None)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds[adjusted].append(time.perf_counter() - start)
    return float(np.median(seconds[True][1:]) / np.median(seconds[False][1:]))


def main() -> None:
    options = parser("sensor_training", repeats=1)
    options.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of our products")
    chosen = options.parse_args()
    use_threads(chosen.threads)
    device = chosen.device
    part = trials(device) * epochs(device) / TRIALS
    side = partial(ours, precision=chosen.precision)
    if chosen.profile:
        print(json.dumps({"name": "sensor_training", "device": device, "profile": profile_of(side, device)}))
        return
    own = measure(side, device, chosen.repeats, count=True, watch=True)
    theirs = measure(peer, device, chosen.repeats)
    one, peak, found = own.time_s, own.peak_mb, own.outputs
    other, peer_peak, truth = theirs.time_s, theirs.peak_mb, theirs.outputs
    setup = float(found.pop("setup")) * TRIALS / trials(device)
    assert own.work is not None
    read = 2.0 * TRIALS * CHANNELS * SAMPLES * EPOCHS  # half floats, once an epoch
    whole = Work(own.work.macs * EPOCHS / part, read)
    row = {
        "name": "sensor_training",
        "peer": "port of the NICE training loop",
        "device": device,
        "precision": chosen.precision,
        "time_s": setup + one * EPOCHS / part,
        "peer_time_s": other * EPOCHS / part,
        "time_ratio": other * EPOCHS / part / (setup + one * EPOCHS / part),
        "peak_mb": peak,
        "peer_peak_mb": peer_peak,
        "memory_ratio": peer_peak / peak,
        "max_rel_error": relative_error(found, truth),
        "epochs_timed": part,
        "epochs": EPOCHS,
        "trials": TRIALS,
        "setup_s": setup,
        **against(setup + one * EPOCHS / part, whole, measured_rates(device)),
        "adjustment_cost_ratio": adjustment_cost(device),
        **({} if own.profile is None else {"profile": own.profile}),
    }
    print(f"a subject of {TRIALS} trials, {EPOCHS} epochs on {device}; {part:.2f} epochs were run and scaled")
    print(f"floor {row['floor_s']:8.1f} s by {row['floor_by']}; ours reaches {100 * row['share']:.0f} % of it")
    print(f"ours {row['time_s']:9.1f} s   peer {row['peer_time_s']:9.1f} s   ratio {row['time_ratio']:.1f}")
    print(json.dumps({k: (float(f"{v:.6g}") if isinstance(v, float) else v) for k, v in row.items()}))


if __name__ == "__main__":
    main()
