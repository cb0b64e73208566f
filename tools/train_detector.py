"""Train the detector of kinds: a small network that names the main object of a drawn scene from a crop at its true centre.

    python tools/train_detector.py --work WORK --out src/brainlens/miniatures/kinds [--steps 900]

The miniature CLIP names the kind right in little more than half of real scenes, so it cannot judge pictures that are
reconstructed; this one is right in nearly all. Crops are blurred, made noisy and moved by a few pixels, since
reconstructions are soft. Scenes are functions of (seed, step); a killed run goes on from its last checkpoint. Written beside the
weights: accuracy on validation scenes as they are, blurred, and by size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens import store
from brainlens.claims.detector import crops
from brainlens.nn.kind_detector import WIDTHS, KindDetectorNetwork
from brainlens.phantom import scenes

KINDS = sorted(scenes.KINDS)


def batch(seed: int, step: int, size: int, split: str = "train") -> tuple[np.ndarray, np.ndarray, Tensor, list[str]]:
    """Pictures, centres of the main objects, the numbers of their kinds, and their sizes."""
    rng = random.Random((seed + 1) * 1_000_000_007 + step)
    drawn = [scenes.draw_scene(rng, split) for _ in range(size)]
    mains = [scene.things[0] for scene in drawn]
    at = np.array([[t.cx / 128 - 1, t.cy / 128 - 1] for t in mains])
    return (
        np.stack([scenes.render(scene) for scene in drawn]), at, torch.tensor([KINDS.index(t.kind) for t in mains]),
        [t.size for t in mains],
    )  # fmt: skip


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of pictures (n, 3, h, w)."""
    if sigma < 0.2:
        return x
    reach = int(3 * sigma) + 1
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    line = (line / line.sum()).repeat(3, 1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), "replicate"), line[:, None, None, :], groups=3)
    return F.conv2d(F.pad(x, (0, 0, reach, reach), "replicate"), line[:, None, :, None], groups=3)


def soft(x: Tensor, generator: torch.Generator) -> Tensor:
    """Crops as a reconstruction might show them: blurred in quarters of the batch, with noise and another light."""
    parts = [blurred(part, float(1.3 * torch.rand(1, generator=generator))) for part in x.split(max(1, len(x) // 4))]
    x = torch.cat(parts)
    light = 0.85 + 0.3 * torch.rand(len(x), 1, 1, 1, generator=generator)
    spread = 0.08 * torch.rand(len(x), 1, 1, 1, generator=generator)
    return (x * light + spread * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@torch.no_grad()
def accuracy(model: KindDetectorNetwork, seed: int, *, n: int = 1000, sigma: float = 0.0) -> dict[str, float]:
    """Share of kinds that are right on validation scenes, and of small objects."""
    pictures, at, kind, size = batch(seed, 0, n, "validation")
    right = torch.cat([model(blurred(part, sigma)).argmax(1) for part in crops(pictures, at).split(100)]) == kind
    small = torch.tensor([s == "small" for s in size])
    return {"all": float(right.float().mean()), "small": float(right[small].float().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    a.work.mkdir(parents=True, exist_ok=True)
    model = KindDetectorNetwork(len(KINDS))
    optimiser = torch.optim.AdamW(model.parameters(), lr=a.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, a.rate, total_steps=a.steps, pct_start=0.15)
    file, first = a.work / "detector.pt", 0
    if file.exists():
        kept = torch.load(file, weights_only=True)
        first = kept["step"]
        for part, name in ((model, "model"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(kept[name])
    for step in range(first, a.steps):
        pictures, at, kind, _ = batch(a.seed, step, a.batch)
        generator = torch.Generator().manual_seed(a.seed * 104_729 + step)
        at = at + (torch.rand(at.shape, generator=generator).numpy() - 0.5) * 6 / 32
        loss = F.cross_entropy(model(soft(crops(pictures, at), generator)), kind)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == a.steps:
            print(json.dumps({"step": step + 1, "cpu_s": round(time.process_time()), "loss": round(loss.item(), 4)}), flush=True)
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
            torch.save(state | {"step": step + 1}, file.with_suffix(".tmp"))
            os.replace(file.with_suffix(".tmp"), file)
    model.half().float().eval()  # as it ships
    facts = {"model_type": "kind_detector", "kinds": KINDS, "widths": list(WIDTHS), "steps": a.steps, "batch": a.batch}
    facts["validation"] = {f"blur {sigma}": accuracy(model, 991, sigma=sigma) for sigma in (0.0, 0.8, 1.2)}
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    a.out.mkdir(parents=True, exist_ok=True)
    store.save_weights(a.out, "model", {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()})
    (a.out / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts["validation"]))


if __name__ == "__main__":
    main()
