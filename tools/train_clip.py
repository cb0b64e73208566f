"""Train the miniature CLIP on drawn scenes and export it as a folder that `CLIPModel.from_pretrained` reads.

    python tools/train_clip.py --out src/brainlens/miniatures/clip --work clip-training --steps 9000

Every step draws new scenes: half of a batch are minimal pairs of the other half (another kind, colour, size, place or
background, or two objects that exchange places), so that what distinguishes two pictures is always among the negatives.
Beside the symmetric contrastive loss stand auxiliary heads that are thrown away: what each patch shows (from the tokens
of layer 4), what each cell of a 3 x 3 grid holds (one linear head for both embeddings) and which kinds are present (from
the class token). The exported weights are an exponential mean over steps. Step t is a function of (seed, t) and of the
weights, and a checkpoint holds the whole state, so a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from brainlens.phantom import captions, scenes

MEAN, STD = (0.5, 0.5, 0.5), (0.27, 0.27, 0.27)
PAD, UNK, BOS, EOS = 0, 1, 2, 3  # eos is not 2: transformers pools the highest token id for that legacy value
KIND = {kind: i for i, kind in enumerate(scenes.KINDS)}
COLOR = {color: i for i, color in enumerate(scenes.COLORS)}
GROUND = {name: i for i, name in enumerate(scenes.BACKGROUNDS)}
SIZES = {size: i for i, size in enumerate(scenes.SIZES)}
CLASSES = (len(KIND) + 1, len(COLOR) + 1, len(SIZES) + 1)  # 0 stands for nothing there
EDITS = ("kind", "kind", "color", "size", "size", "place", "swap", "swap", "swap", "background")
GRID = 8


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the caption's vocabulary, `<bos> words <eos>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "<unk>", "<bos>", "<eos>", *captions.vocabulary(list(scenes.KINDS), list(scenes.COLORS))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=77,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    )


def build_config(vocabulary: int) -> CLIPConfig:
    """Six vision layers on 8 x 8 patches of 64 pixels, three text layers, 192 shared dimensions."""
    text = {
        "vocab_size": vocabulary, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 77, "hidden_act": "gelu",
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "projection_dim": 192,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4,
        "image_size": 64, "patch_size": 64 // GRID, "hidden_act": "gelu", "projection_dim": 192,
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=192, logit_scale_init_value=math.log(20.0))


class Heads(nn.Module):
    """The auxiliary heads, used in training only."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(CLASSES))
        self.cells = nn.Linear(dim, 9 * sum(CLASSES))
        self.ground = nn.Linear(dim, len(GROUND))
        self.present = nn.Linear(width, len(KIND))


class Words:
    """Fast word lookup for known captions, equal to the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.table = tokenizer.get_vocab()

    def __call__(self, texts: list[str]) -> Tensor:
        rows = [[BOS, *(self.table[w] for w in text.split()), EOS] for text in texts]
        out = torch.full((len(rows), max(map(len, rows))), PAD)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out


def normalise(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) to (n, 3, h, w) as preprocessor_config.json says."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def draw_batch(seed: int, step: int, size: int) -> list[scenes.Scene]:
    """`size` train scenes: scene i and its minimal pair i + size / 2 (a new scene where no pair can be made)."""
    rng = random.Random((seed + 1) * 1_000_000_007 + step)
    base = [scenes.draw_scene(rng, "train") for _ in range(size // 2)]
    pairs = []
    for scene in base:
        what = EDITS[int(rng.random() * len(EDITS))]
        pair = next((p for p in (scenes.edit_scene(scene, what, rng) for _ in range(4)) if p is not None), None)
        pairs.append(pair or scenes.draw_scene(rng, "train"))
    return base + pairs


def labels(batch: list[scenes.Scene], grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What each patch (n, grid ** 2, 3) and cell (n, 9, 3) shows as (kind, colour, size); background (n,), kinds (n, kind)."""
    n = len(batch)
    patch, cell = np.zeros((n, grid, grid, 3), np.int64), np.zeros((n, 9, 3), np.int64)
    ground, present = np.zeros(n, np.int64), np.zeros((n, len(KIND)), np.float32)
    for i, scene in enumerate(batch):
        ground[i] = GROUND[scene.background]
        for t in scene.things:
            what = (KIND[t.kind] + 1, COLOR[t.color] + 1, SIZES[t.size] + 1)
            half_w, half_h = 0.42 * t.extent, (0.28 if t.domain == "words" else 0.42) * t.extent
            step = 256 / grid
            x0, x1 = (int(np.clip(math.ceil((t.cx + s * half_w) / step - 0.5), 0, grid)) for s in (-1, 1))
            y0, y1 = (int(np.clip(math.ceil((t.cy + s * half_h) / step - 0.5), 0, grid)) for s in (-1, 1))
            patch[i, y0:y1, x0:x1] = what
            cell[i, (t.cell[1] + 1) * 3 + t.cell[0] + 1] = what
            present[i, KIND[t.kind]] = 1
    return patch.reshape(n, -1, 3), cell, ground, present


def _three(logits: Tensor, target: Tensor) -> Tensor:
    parts = logits.float().split(CLASSES, dim=-1)
    return sum(F.cross_entropy(p.flatten(0, -2), target[..., k].flatten()) for k, p in enumerate(parts)) / 3  # type: ignore[return-value]


def losses(
    model: CLIPModel, heads: Heads, batch: list[scenes.Scene], words: Words, rng: random.Random, *, half: bool
) -> dict[str, Tensor]:
    """Contrastive loss (symmetric cross-entropy, duplicates of a caption are not negatives) and the auxiliary ones."""
    images = np.stack([scenes.render(scene) for scene in batch])
    numbers = [int(rng.random() * captions.N_PHRASINGS) for _ in batch]
    texts = [scenes.caption(scene, number) for scene, number in zip(batch, numbers, strict=True)]
    patch, cell, ground, present = (torch.from_numpy(a) for a in labels(batch, GRID // 2 if half else GRID))
    pixels = normalise(images)
    if half:
        pixels = F.avg_pool2d(pixels, 2)
    vision = model.vision_model(pixel_values=pixels, output_hidden_states=True, interpolate_pos_encoding=half)
    image = F.normalize(model.visual_projection(vision.pooler_output).float(), dim=-1)
    text = F.normalize(model.text_projection(model.text_model(input_ids=words(texts)).pooler_output).float(), dim=-1)
    logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
    plain = [scenes.caption(scene, 0) for scene in batch]
    same = torch.tensor([[a == b for b in plain] for a in plain]) & ~torch.eye(len(batch), dtype=torch.bool)
    logits = logits.masked_fill(same, -1e4)
    target = torch.arange(len(batch))
    out = {"clip": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2}
    out["patch"] = _three(heads.patch(vision.hidden_states[4][:, 1:]), patch)
    scale = math.sqrt(image.shape[1])
    placed = torch.tensor(
        [number != captions.N_PHRASINGS - 1 or len(s.things) == 1 for number, s in zip(numbers, batch, strict=True)]
    )
    shape = (len(batch), 9, sum(CLASSES))
    out["cell_image"] = _three(heads.cells(image * scale).view(shape), cell)
    out["cell_text"] = _three(heads.cells(text * scale).view(shape)[placed], cell[placed])
    out["ground"] = F.cross_entropy(heads.ground(image * scale).float(), ground)
    out["present"] = F.binary_cross_entropy_with_logits(heads.present(vision.pooler_output).float(), present)
    return out


WEIGHTS = {"clip": 1.0, "patch": 1.0, "cell_image": 2.0, "cell_text": 1.0, "ground": 0.2, "present": 2.0}


def export(
    model: CLIPModel, mean: dict[str, Tensor], tokenizer: PreTrainedTokenizerFast, out: Path, facts: dict[str, object]
) -> None:
    """Write the folder: float16 weights, config, tokenizer, preprocessor, training facts."""
    copy = CLIPModel(model.config)
    copy.load_state_dict({**model.state_dict(), **mean})
    copy.half().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(out)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": 64},
        "do_center_crop": True, "crop_size": {"height": 64, "width": 64}, "resample": 3,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD),
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(work: Path, out: Path, *, seed: int, steps: int, batch: int, rate: float, coarse: float, save_every: int) -> None:
    """The training loop; prints one JSON line every 50 steps."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    words = Words(tokenizer)
    model = CLIPModel._from_config(build_config(len(tokenizer)), attn_implementation="eager")  # faster than sdpa on the CPU
    heads = Heads(128, 192)
    parameters = [*model.parameters(), *heads.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
    mean = {k: v.detach().clone() for k, v in model.named_parameters()}
    start, used, path = 0, 0.0, work / "checkpoint.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        mean, start, used = state["mean"], state["step"], state["seconds"]
    began, log = time.process_time(), {}
    for step in range(start, steps):
        lr = rate * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts = losses(
                model, heads, draw_batch(seed, step, batch), words, random.Random(seed * 7_919 + step), half=step < coarse * steps
            )
        loss = sum(WEIGHTS[k] * v for k, v in parts.items())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(0.997, (1 + step) / (20 + step))
        with torch.no_grad():
            names, values = zip(*model.named_parameters(), strict=True)
            torch._foreach_lerp_([mean[k] for k in names], list(values), 1 - decay)
        for k, v in parts.items():
            log[k] = 0.98 * log.get(k, v.item()) + 0.02 * v.item()
        minutes = (used + time.process_time() - began) / 60
        if (step + 1) % 50 == 0:
            print(
                json.dumps({"step": step + 1, "minutes": round(minutes, 2), **{k: round(v, 4) for k, v in log.items()}}),
                flush=True,
            )
        if (step + 1) % save_every == 0 or step + 1 == steps:
            facts = {
                "seed": seed, "step": step + 1, "steps": steps, "batch": batch, "rate": rate, "coarse": coarse,
                "cpu_minutes": round(minutes, 1), "loss": {k: round(v, 4) for k, v in log.items()},
            }  # fmt: skip
            save_checkpoint(
                path,
                {
                    "model": model.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict(),
                    "mean": mean, "step": step + 1, "seconds": minutes * 60,
                },
            )  # fmt: skip
            export(model, mean, tokenizer, out, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--coarse", type=float, default=0.5, help="first share of the steps at 32 pixels, which cost a third")
    parser.add_argument("--save-every", type=int, default=250)
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    a.work.mkdir(parents=True, exist_ok=True)
    train(a.work, a.out, seed=a.seed, steps=a.steps, batch=a.batch, rate=a.rate, coarse=a.coarse, save_every=a.save_every)


if __name__ == "__main__":
    main()
