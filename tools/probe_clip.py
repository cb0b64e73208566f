"""What the miniature CLIP knows: retrieval, minimal pairs, and linear probes of every layer, as one JSON object.

    python tools/probe_clip.py src/brainlens/miniatures/clip [--scenes 500] [--no-probes]

Retrieval is among held-out (test split) scenes with distinct captions. A minimal pair is a scene and the same scene with
one thing changed; a picture is right when its own caption scores above the other one's (chance .5), and both pictures of
a pair count. Probes are ridge classifiers (one against the rest) of the main object's kind, domain, colour, size and cell
and of the background, fitted on train scenes and scored on test scenes.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from brainlens.phantom import scenes

EDITS = ("color", "size", "background", "kind", "swap", "place")
GATES = {
    "image->text/R@1": 0.90, "text->image/R@1": 0.90, "pair/color": 0.93, "pair/size": 0.93,
    "pair/background": 0.98, "pair/kind": 0.90, "pair/swap": 0.75,
}  # fmt: skip


class Clip:
    """The model folder with the preprocessing that it names."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        facts = json.loads((folder / "preprocessor_config.json").read_text())
        self.mean = torch.tensor(facts["image_mean"]).view(1, 3, 1, 1)
        self.std = torch.tensor(facts["image_std"]).view(1, 3, 1, 1)

    @torch.no_grad()
    def images(self, pictures: np.ndarray, *, layers: bool = False) -> tuple[Tensor, list[np.ndarray]]:
        """Unit embeddings (n, d), and the hidden states (n, token, channel) of every layer where asked for."""
        embedded, hidden = [], []
        for part in np.array_split(pictures, max(1, len(pictures) // 100)):
            x = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float() / 255
            out = self.model.vision_model(pixel_values=(x - self.mean) / self.std, output_hidden_states=layers)
            embedded.append(torch.nn.functional.normalize(self.model.visual_projection(out.pooler_output), dim=-1))
            hidden.append([h.numpy() for h in out.hidden_states] if layers else [])
        return torch.cat(embedded), [np.concatenate(h) for h in zip(*hidden, strict=True)]

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings (n, d) of sentences."""
        out = []
        for i in range(0, len(texts), 100):
            tokens = self.tokenizer(texts[i : i + 100], padding=True, truncation=True, return_tensors="pt")
            hidden = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            out.append(torch.nn.functional.normalize(self.model.text_projection(hidden.pooler_output), dim=-1))
        return torch.cat(out)


def retrieval(clip: Clip, n: int, *, seed: int = 11) -> dict[str, float]:
    """R@1 and R@5 in both directions among n test scenes with distinct captions."""
    chosen: dict[str, scenes.Scene] = {}
    k = 0
    while len(chosen) < n:
        scene = scenes.scene_at(k, seed=seed, split="test")
        chosen.setdefault(scenes.caption(scene, 0), scene)
        k += 1
    images, _ = clip.images(np.stack([scenes.render(s) for s in chosen.values()]))
    similarity = (images @ clip.texts(list(chosen)).T).numpy()
    out = {}
    for name, s in (("image->text", similarity), ("text->image", similarity.T)):
        rank = (s >= np.diag(s)[:, None]).sum(axis=1)  # a tie counts against
        out |= {f"{name}/R@1": float((rank <= 1).mean()), f"{name}/R@5": float((rank <= 5).mean())}
    return out


def minimal_pairs(clip: Clip, n: int, *, seed: int = 12) -> dict[str, float]:
    """Share of pictures whose own caption beats that of the scene with one thing changed, per kind of change."""
    out = {}
    for what in EDITS:
        rng, pairs, k = random.Random(seed), [], 0
        while len(pairs) < n:
            scene = scenes.scene_at(k, seed=seed, split="test")
            other = scenes.edit_scene(scene, what, rng, split="test")
            k += 1
            if other is not None and scenes.caption(other, 0) != scenes.caption(scene, 0):
                pairs.append((scene, other))
        flat = [scene for pair in pairs for scene in pair]
        images, _ = clip.images(np.stack([scenes.render(s) for s in flat]))
        texts = clip.texts([scenes.caption(s, 0) for s in flat])
        own = (images * texts).sum(dim=1)
        other_text = texts.view(n, 2, -1).flip(1).reshape(2 * n, -1)
        out[f"pair/{what}"] = float((own > (images * other_text).sum(dim=1)).float().mean())
    return out


def _ridge_accuracy(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    names, labels = np.unique(y, return_inverse=True)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    a, b = (x - mean) / std, (x_test - mean) / std
    target = np.eye(len(names))[labels]
    weights = np.linalg.solve(a.T @ a + 10.0 * np.eye(a.shape[1]), a.T @ (target - target.mean(axis=0)))
    return float((names[(b @ weights + target.mean(axis=0)).argmax(axis=1)] == y_test).mean())


def probes(clip: Clip, n: int, *, seed: int = 13) -> dict[str, dict[str, list[float]]]:
    """Accuracy per target, token ("class", "mean", "local": the patch at the main object's centre) and layer 0..6."""
    views: list[list[dict[str, np.ndarray]]] = []
    tables: list[dict[str, np.ndarray]] = []
    for split, count in (("train", n), ("test", n // 2)):
        stimuli = scenes.make_scenes(count, seed=seed, split=split)
        table = stimuli.table
        _, hidden = clip.images(np.asarray(stimuli.images), layers=True)
        grid = round((hidden[0].shape[1] - 1) ** 0.5)
        column, row = (np.clip(((table[a].to_numpy() + 1) / 2 * grid).astype(int), 0, grid - 1) for a in "xy")
        at = 1 + row * grid + column
        views.append([{"class": h[:, 0], "mean": h[:, 1:].mean(axis=1), "local": h[np.arange(count), at]} for h in hidden])
        tables.append({name: table[name].to_numpy().astype(str) for name in ("kind", "domain", "color", "size", "background")})
        cell = (np.round(table["x"].to_numpy() * 128 / 62) * 10 + np.round(table["y"].to_numpy() * 128 / 62)).astype(int)
        tables[-1]["place"] = cell.astype(str)
    out: dict[str, dict[str, list[float]]] = {}
    for target in tables[0]:
        out[target] = {"chance": [float(max(np.unique(tables[1][target], return_counts=True)[1]) / (n // 2))]}
        for token in ("class", "mean", "local"):
            out[target][token] = [
                round(_ridge_accuracy(a[token], tables[0][target], b[token], tables[1][target]), 3)
                for a, b in zip(views[0], views[1], strict=True)
            ]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--no-probes", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    clip = Clip(a.folder)
    gates = {**retrieval(clip, a.scenes), **minimal_pairs(clip, a.scenes)}
    result: dict[str, object] = {
        "gates": gates, "missed": {k: [gates[k], v] for k, v in GATES.items() if gates[k] < v},
    }  # fmt: skip
    if not a.no_probes:
        result["probes"] = probes(clip, 4 * a.scenes)
    if (a.folder / "training.json").exists():
        result["training"] = json.loads((a.folder / "training.json").read_text())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
