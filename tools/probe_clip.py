"""What the miniature CLIP knows: retrieval, minimal pairs, kinds, dark pictures, and linear probes, as one JSON object.

    python tools/probe_clip.py src/brainlens/miniatures/clip [--scenes 500] [--no-probes] [--look validation|test|final]

Retrieval is among held-out (test split) scenes with distinct captions. A minimal pair is a scene and the same scene with
one thing changed; a picture is right when its own caption scores above the other one's (chance .5), and both pictures of
a pair count. Kinds: a picture's caption against the same caption with the main object's kind replaced by each other kind
(30 ways), apart for scenes of one, two and three objects. Dark pictures: those of the retrieval with .15 to .3 of their
light; how alike different ones are (mean cosine) and how well they find their caption. Probes are ridge classifiers (one
against the rest) of the main object's kind, domain, colour, size and cell and of the background, fitted on train scenes.

Choices of training are made on `validation`; `test` is the look that tests repeat; `final` are test scenes of other
seeds, which no choice has seen: it is read once for each shipped set of weights.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
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
    "kinds/all": 0.85, "kinds/1": 0.85, "kinds/2": 0.75, "kinds/3": 0.75, "dark/image->text/R@1": 0.80,
}  # fmt: skip
CEILINGS = {"dark/cosine": 0.30}  # what has to stay below
DARK = (0.15, 0.30)  # shares of the light


@dataclass(frozen=True)
class Look:
    """Which scenes are looked at: a split and what is added to the seeds of the measures."""

    split: str = "test"
    offset: int = 0


LOOKS = {"validation": Look("validation"), "test": Look("test"), "final": Look("test", 880_000)}


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
        for i in range(0, len(texts), 500):
            tokens = self.tokenizer(texts[i : i + 500], padding=True, truncation=True, return_tensors="pt")
            hidden = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            out.append(torch.nn.functional.normalize(self.model.text_projection(hidden.pooler_output), dim=-1))
        return torch.cat(out)


def _distinct(n: int, seed: int, look: Look) -> dict[str, scenes.Scene]:
    """n scenes by their plain caption, no two alike."""
    chosen: dict[str, scenes.Scene] = {}
    k = 0
    while len(chosen) < n:
        scene = scenes.scene_at(k, seed=seed + look.offset, split=look.split)
        chosen.setdefault(scenes.caption(scene, 0), scene)
        k += 1
    return chosen


def _ranks(images: Tensor, texts: Tensor) -> dict[str, float]:
    similarity = (images @ texts.T).numpy()
    out = {}
    for name, s in (("image->text", similarity), ("text->image", similarity.T)):
        rank = (s >= np.diag(s)[:, None]).sum(axis=1)  # a tie counts against
        out |= {f"{name}/R@1": float((rank <= 1).mean()), f"{name}/R@5": float((rank <= 5).mean())}
    return out


def retrieval(clip: Clip, n: int, *, seed: int = 11, look: Look = LOOKS["test"]) -> dict[str, float]:
    """R@1 and R@5 in both directions among n scenes with distinct captions."""
    chosen = _distinct(n, seed, look)
    images, _ = clip.images(np.stack([scenes.render(s) for s in chosen.values()]))
    return _ranks(images, clip.texts(list(chosen)))


def darken(pictures: np.ndarray, seed: int) -> np.ndarray:
    """The uint8 pictures with a share of their light that is drawn evenly from `DARK`."""
    share = np.random.default_rng(seed).uniform(*DARK, len(pictures)).reshape(-1, 1, 1, 1)
    return np.round(pictures * share).astype(np.uint8)


def dark(clip: Clip, n: int, *, seed: int = 14, look: Look = LOOKS["test"]) -> dict[str, float]:
    """Mean cosine between the embeddings of different pictures, full light and dark, and retrieval from the dark ones."""
    chosen = _distinct(n, seed, look)
    pictures = np.stack([scenes.render(s) for s in chosen.values()])
    out = {}
    for name, shown in (("light", pictures), ("dark", darken(pictures, seed + look.offset))):
        images, _ = clip.images(shown)
        out[f"{name}/cosine"] = float(((images.sum(dim=0) ** 2).sum() - n) / (n * (n - 1)))
    found = _ranks(images, clip.texts(list(chosen)))
    return out | {f"dark/{name}": value for name, value in found.items()}


def kinds(clip: Clip, n: int, *, seed: int = 15, look: Look = LOOKS["test"]) -> dict[str, float]:
    """Share of pictures whose true caption beats all that name another kind for the main object, per number of objects."""
    looked_at = [scenes.scene_at(k, seed=seed + look.offset, split=look.split) for k in range(n)]
    images, _ = clip.images(np.stack([scenes.render(s) for s in looked_at]))
    names = list(scenes.KINDS)
    texts = []
    for scene in looked_at:
        main, *rest = scene.things
        texts += [scenes.caption(replace(scene, things=(replace(main, kind=kind), *rest)), 0) for kind in names]
    similarity = torch.einsum("nd,nkd->nk", images, clip.texts(texts).view(n, len(names), -1))
    own = torch.tensor([names.index(scene.things[0].kind) for scene in looked_at])
    right = (similarity >= similarity.gather(1, own[:, None])).sum(dim=1) == 1  # a tie counts against
    many = torch.tensor([len(scene.things) for scene in looked_at])
    out = {f"kinds/{count}": float(right[many == count].float().mean()) for count in (1, 2, 3)}
    return {"kinds/all": float(right.float().mean())} | out


def minimal_pairs(clip: Clip, n: int, *, seed: int = 12, look: Look = LOOKS["test"]) -> dict[str, float]:
    """Share of pictures whose own caption beats that of the scene with one thing changed, per kind of change."""
    out = {}
    for what in EDITS:
        rng, pairs, k = random.Random(seed + look.offset), [], 0
        while len(pairs) < n:
            scene = scenes.scene_at(k, seed=seed + look.offset, split=look.split)
            other = scenes.edit_scene(scene, what, rng, split=look.split)
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


def probes(clip: Clip, n: int, *, seed: int = 13, look: Look = LOOKS["test"]) -> dict[str, dict[str, list[float]]]:
    """Accuracy per target, token ("class", "mean", "local": the patch at the main object's centre) and layer 0..6."""
    views: list[list[dict[str, np.ndarray]]] = []
    tables: list[dict[str, np.ndarray]] = []
    for split, count in (("train", n), (look.split, n // 2)):
        stimuli = scenes.make_scenes(count, seed=seed + look.offset, split=split)
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


def missed(found: dict[str, float]) -> dict[str, list[float]]:
    """The gates that are not held: value and bound."""
    low = {k: [found[k], v] for k, v in GATES.items() if k in found and found[k] < v}
    return low | {k: [found[k], v] for k, v in CEILINGS.items() if k in found and found[k] > v}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--no-probes", action="store_true")
    parser.add_argument("--look", choices=LOOKS, default="test")
    a = parser.parse_args()
    torch.set_num_threads(1)
    clip = Clip(a.folder)
    look, n = LOOKS[a.look], a.scenes
    gates = {
        **retrieval(clip, n, look=look), **minimal_pairs(clip, n, look=look),
        **kinds(clip, 2 * n, look=look), **dark(clip, n, look=look),
    }  # fmt: skip
    result: dict[str, object] = {"look": a.look, "gates": gates, "missed": missed(gates)}
    if not a.no_probes:
        result["probes"] = probes(clip, 4 * n, look=look)
    if (a.folder / "training.json").exists():
        result["training"] = json.loads((a.folder / "training.json").read_text())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
