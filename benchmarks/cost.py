"""What a training step of FactorTopy costs, from its sizes: a model fitted on some sizes and held against others.

    multiply-adds = 15 L B D N  +  N (2 x 192 x 384 + 9 x 128^2)  +  2 B 65 L C D   (readout; selectors; bottlenecks)
    bytes         = 28 (N (D + 1) + L C D)                                           (AdamW: 7 passes over 4 bytes a weight)
    seconds       = a + b1 readout + b2 selectors + b3 bottlenecks + b4 bytes,       all >= 0

for N units, B images, L layers of C channels and width D; see `nn.factortopy` for where the products come from. The five
numbers are those of one machine and one thread: fitted by non-negative least squares on relative errors, never on the sizes that
are predicted. Time is that of the processor, the least of several steps. `left_out` is the root mean square of the relative
errors of the known sizes, each left out of the fit in turn: from six sizes, which hardly determine five numbers, it was .49, from
these thirteen .09. The last line is JSON with `worst`, the largest relative error of a held-out size.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from floor import machine


@dataclass(frozen=True)
class Size:
    """N units, B images, L layers, C channels, width D."""

    units: int
    batch: int = 8
    layers: int = 4
    channels: int = 384
    width: int = 128

    def work(self) -> np.ndarray:
        """Multiply-adds of readout, selectors and bottlenecks, and bytes of AdamW."""
        n, b, layers, c, d = self.units, self.batch, self.layers, self.channels, self.width
        products = [15 * layers * b * d * n, n * (2 * 192 * 384 + 9 * 128**2), 2 * b * 65 * layers * c * d]
        return np.array([*products, 28 * (n * (d + 1) + layers * c * d)], dtype=float)


KNOWN = (
    Size(1000),
    Size(4000),
    Size(2000, layers=8),
    Size(1000, layers=8, channels=768),
    Size(3000, batch=16),
    Size(6000, layers=2),
    Size(2000, layers=2),
    Size(1000, layers=12),
    Size(4000, layers=2, channels=768),
    Size(2000, layers=12),
    Size(8000, layers=2),
    Size(500),
    Size(3000, batch=4),
)
HELD_OUT = (Size(12_000), Size(8000, layers=6, channels=512), Size(37_984, layers=12, channels=768))  # the last: an NSD subject


def stepper(size: Size) -> Callable[[], None]:
    """A training step of these sizes."""
    import torch

    from brainlens.nn.factortopy import FactorTopyNetwork, entropy_penalty

    torch.manual_seed(0)
    names = [f"layer{i}" for i in range(size.layers)]
    model = FactorTopyNetwork(torch.rand(size.units, 3) * 100, dict.fromkeys(names, size.channels), width=size.width)
    with torch.no_grad():  # selectors of a trained model: places all over the picture
        for last in model.selectors.last:
            last.weight.mul_(20)  # type: ignore[union-attr]
    tokens = {name: torch.randn(size.batch, 64, size.channels) for name in names}
    whole = {name: torch.randn(size.batch, size.channels) for name in names}
    target, optimiser = torch.randn(size.batch, size.units), torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        selected = model.select()
        loss = torch.nn.functional.smooth_l1_loss(model.predict(tokens, whole, selected), target, beta=0.1)
        (loss + 0.1 * entropy_penalty(selected[1], selected[2])).backward()
        optimiser.step()

    return step


def seconds(size: Size, repeats: int = 5) -> float:
    """Processor seconds of a step, the least of some, after one that is not counted."""
    step, found = stepper(size), []
    for _ in range(repeats + 1):
        begun = time.process_time()
        step()
        found.append(time.process_time() - begun)
    return min(found[1:])


def fit(sizes: tuple[Size, ...], measured: np.ndarray) -> np.ndarray:
    """a, b1, ..., b4 >= 0 of the least relative squared error."""
    from scipy.optimize import nnls

    table = np.column_stack([np.ones(len(sizes)), [size.work() for size in sizes]])
    scale = np.abs(table).max(axis=0)
    return nnls(table / scale / measured[:, None], np.ones(len(sizes)))[0] / scale


def predict(cost: np.ndarray, size: Size) -> float:
    """Seconds of a step."""
    return float(cost @ np.r_[1.0, size.work()])


def left_out(sizes: tuple[Size, ...], measured: np.ndarray) -> float:
    """Root mean square of the relative errors of sizes that were left out of the fit, one after the other."""
    found = []
    for i, size in enumerate(sizes):
        rest = tuple(other for other in sizes if other is not size)
        found.append(predict(fit(rest, np.delete(measured, i)), size) / measured[i] - 1)
    return float(np.sqrt(np.mean(np.square(found))))


def main() -> dict[str, Any]:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    known = np.array([seconds(size, chosen.repeats) for size in KNOWN])
    cost = fit(KNOWN, known)
    rows = []
    for size in HELD_OUT:
        measured, predicted = seconds(size, chosen.repeats), predict(cost, size)
        rows.append({"size": str(size), "measured": measured, "predicted": predicted, "error": predicted / measured - 1})
        print(f"{size}: {measured:.3f} s measured, {predicted:.3f} s predicted, {100 * rows[-1]['error']:+.0f} %")
    where = {"name": "cost", "device": chosen.device, "threads": chosen.threads, "machine": machine()}
    worst = max(abs(row["error"]) for row in rows)
    return {**where, "cost": cost.tolist(), "rows": rows, "worst": worst, "left_out": left_out(KNOWN, known)}


if __name__ == "__main__":
    print(json.dumps(main()))
