"""Train attention to image embeddings for the shipped diffusion model, so that a recording begins with it.

    python tools/train_attention.py --work WORK --out src/brainlens/miniatures/attention [--pictures 12000] [--steps 2000]

Drawn scenes, each as twenty tokens: a learned map of its embedding by the miniature CLIP. The network's own answers under the
captions are what they are trained to. Keys, values and the map know no brain; region tokens start as ridge predictions of such
tokens. No token is dropped: they are of one embedding. A killed run goes on from its last checkpoint.
The file names the hash of the diffusion model that it fits: train it anew when that one changes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from brainlens import miniatures, store
from brainlens.backbones import clip
from brainlens.backbones.diffusion import load_diffusion
from brainlens.models.generation.adapter_training import DEFAULT
from brainlens.models.generation.pretraining import TOKENS, pretrain_attention
from brainlens.phantom.scenes import make_scenes
from brainlens.reconstruct.prompts import PromptAxes
from brainlens.reconstruct.starting import first_captions

SEED = 9_000_017  # of scenes that no recording shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pipeline", type=Path, help="folder of the diffusion model; default: the miniature")
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of an embedding")
    parser.add_argument(
        "--start", type=Path, help="folder of an earlier attention, of a network that this one was trained on from"
    )
    parser.add_argument("--rate", type=float, default=2e-3)
    a = parser.parse_args()
    torch.set_num_threads(1)
    place = a.pipeline or miniatures.folder("diffusion")
    diffusion = load_diffusion(place)
    scenes = make_scenes(a.pictures, seed=SEED, split="train")
    embeddings = clip.embed_images(clip.load_clip(miniatures.folder("clip")), scenes)["image"]
    axes, start = PromptAxes.whitened(embeddings), None
    if a.start:  # the map of tokens is one of these axes
        kept, start = store.load_weights(a.start, "axes"), store.load_weights(a.start, "attention")
        axes = PromptAxes(kept["mean"].numpy(), kept["turn"].numpy())
    training = replace(DEFAULT, steps=a.steps, lr=a.rate, dropout=False, evaluate_every=200)
    said = [0.0]

    def progress(share: float) -> None:
        if time.monotonic() - said[0] > 60:
            said[0] = time.monotonic()
            print(json.dumps({"share": round(share, 3), "cpu_s": round(time.process_time())}), flush=True)

    found = pretrain_attention(
        place, np.asarray(scenes.images), axes(embeddings),
        captions=first_captions(scenes), tokens=a.tokens, start=start, training=training, folder=a.work, progress=progress,
    )  # fmt: skip
    a.out.mkdir(parents=True, exist_ok=True)
    store.save_weights(a.out, "attention", {name: value.half() for name, value in found.items()})
    store.save_weights(a.out, "axes", {"mean": torch.from_numpy(axes.mean), "turn": torch.from_numpy(axes.turn)})
    facts = {
        "model_type": "attention",
        "pipeline": diffusion.files,
        "pictures": a.pictures,
        "steps": a.steps,
        "tokens": a.tokens,
        "seed": SEED,
    }
    store.save_json(a.out / "config.json", facts)


if __name__ == "__main__":
    main()
