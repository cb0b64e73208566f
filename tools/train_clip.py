"""Train the miniature CLIP on drawn scenes and export it as a folder that `CLIPModel.from_pretrained` reads.

    python tools/train_clip.py --out src/brainlens/miniatures/clip --work clip-training

Every step draws new scenes: half of a batch are minimal pairs of the other half (another kind, colour, size, place or
background, or two objects that exchange places), so that what distinguishes two pictures is always among the negatives.
Half of the pictures are shown at another brightness and contrast, down to a tenth of the light.
First the pictures show 24 patches, those on objects before others, which costs a third, and a quarter of the captions goes
along. Then follow 32 patches, all captions, and negatives for each picture: its caption with the kind of one object
replaced, half of the time by a kind of the same domain. From step `late` on one of two negatives is a replaced size, and
sizes weigh more. Whole pictures follow, and the text tower's last steps alone, with gradients through the negatives.
Beside the contrastive losses stand auxiliary heads that are thrown away: what each patch shows (from the tokens of layer
4), what each cell of a 3 x 3 grid holds (one linear head for both embeddings) and which kinds are present (from the class
token). Matrices of the layers take orthogonalised momentum steps (Muon; torch 2.9 or newer), all else AdamW. The exported
weights are an exponential mean over steps. Step t is a function of (seed, t) and of the weights, and a checkpoint holds
the whole state, so a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from brainlens.phantom import captions, scenes

MEAN, STD = (0.5, 0.5, 0.5), (0.27, 0.27, 0.27)
PAD, BOS, EOS = 0, 2, 3  # eos is not 2: transformers pools the highest token id for that legacy value
KIND, COLOR, GROUND, SIZES = (
    {name: i for i, name in enumerate(names)} for names in (scenes.KINDS, scenes.COLORS, scenes.BACKGROUNDS, scenes.SIZES)
)
CLASSES = (len(KIND) + 1, len(COLOR) + 1, len(SIZES) + 1)  # 0 stands for nothing there
SHARES = ((0.6, 0.2, 0.2), (0.4, 0.2, 0.4))  # of kind, colour and size in the loss of a head, before and after `late`
EDITS = ("kind", "kind", "kind", "kind", "color", "size", "size", "place", "swap", "swap", "swap", "background")
LATE_EDITS = ("kind", "kind", "color", "size", "size", "size", "size", "size", "place", "swap", "swap", "background")
GRID = 8
KEPT = (24, 32)  # patches of the first and of the second phase, of 64
NEGATIVES = 2  # captions with a replaced kind for each picture


@dataclass(frozen=True)
class Plan:
    """How long and how fast; the fields are the program's options."""

    seed: int = 1
    steps: int = 1820
    first: int = 1220  # steps on 24 patches and a quarter of the captions
    second: int = 1640  # from this step on all 64 patches are seen instead of 32
    text: int = 1680  # from this step on the picture tower is frozen, negatives train the text tower
    late: int = 1500  # from this step on more pairs, negatives and weight for sizes
    batch: int = 128
    rate: float = 1.5e-3  # of AdamW
    muon: float = 0.02  # of the layers' matrices
    fall: float = 0.4  # last share of the steps, over which the rates fall to zero

    def phase(self, step: int) -> int:
        return (step >= self.first) + (step >= self.second) + (step >= self.text)


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
    special = {name: f"<{name[:3]}>" for name in ("pad_token", "unk_token", "bos_token", "eos_token")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **special)


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

    def __call__(self, texts: list[str], *, multiple: int = 1) -> Tensor:
        """Token rows (n, t), t rounded up to a `multiple`: few shapes spare the CPU's kernels from being built anew."""
        rows = [[BOS, *(self.table[w] for w in text.split()), EOS] for text in texts]
        out = torch.full((len(rows), -(-max(map(len, rows)) // multiple) * multiple), PAD)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out


def normalise(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) to (n, 3, h, w) as preprocessor_config.json says."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def draw_batch(seed: int, step: int, size: int, edits: Sequence[str] = EDITS) -> list[scenes.Scene]:
    """`size` train scenes: scene i and its minimal pair i + size / 2 (a new scene where no pair can be made)."""
    rng = random.Random((seed + 1) * 1_000_000_007 + step)
    base = [scenes.draw_scene(rng, "train") for _ in range(size // 2)]
    pairs = []
    for scene in base:
        what = edits[int(rng.random() * len(edits))]
        pair = next((p for p in (scenes.edit_scene(scene, what, rng) for _ in range(4)) if p is not None), None)
        pairs.append(pair or scenes.draw_scene(rng, "train"))
    return base + pairs


def other_kinds(scene: scenes.Scene, n: int, rng: random.Random) -> list[scenes.Scene]:
    """`n` scenes that differ in the kind of one object, none with a combination that the train split holds out.

    Every second one stays in the domain. The negatives hold nothing out on their own, because a combination that is only
    ever a negative would be learnt as wrong.
    """
    out: list[scenes.Scene] = []
    while len(out) < n:
        i = int(rng.random() * len(scene.things))
        old = scene.things[i]
        near = rng.random() < 0.5
        options = [k for k, domain in scenes.KINDS.items() if k != old.kind and (domain == old.domain or not near)]
        kind = options[int(rng.random() * len(options))]
        if not scenes.held_out(kind, old.color, scene.background):
            things = (*scene.things[:i], replace(old, kind=kind), *scene.things[i + 1 :])
            out.append(replace(scene, things=things))
    return out


def negatives(scene: scenes.Scene, rng: random.Random, late: bool) -> list[scenes.Scene]:
    """Two scenes whose captions are wrong for the picture: other kinds, late the second one another size where it fits."""
    sized = scenes.edit_scene(scene, "size", rng) if late else None
    return other_kinds(scene, NEGATIVES, rng) if sized is None else [*other_kinds(scene, NEGATIVES - 1, rng), sized]


def relight(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the pictures (n, h, w, 3) uint8 at another contrast (.5 to 1.2) and light (.1 to 1.3, even in the logarithm)."""
    changed = rng.random(n := len(images)) < 0.5
    contrast = np.where(changed, rng.uniform(0.5, 1.2, n), 1.0).astype(np.float32).reshape(-1, 1, 1, 1)
    light = np.where(changed, np.exp(rng.uniform(math.log(0.1), math.log(1.3), n)), 1.0).astype(np.float32).reshape(-1, 1, 1, 1)
    x = images.astype(np.float32)
    middle = x.mean(axis=(1, 2, 3), keepdims=True)
    return ((middle + (x - middle) * contrast) * light).clip(0, 255).round().astype(np.uint8)


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


def _three(logits: Tensor, target: Tensor, late: bool) -> Tensor:
    """Cross-entropy of kind, colour and size; where nothing is counts a quarter."""
    weight = (target[..., 0] > 0).float().flatten() * 0.75 + 0.25
    parts = [part.flatten(0, -2) for part in logits.float().split(CLASSES, dim=-1)]
    each = [F.cross_entropy(part, target[..., k].flatten(), reduction="none") for k, part in enumerate(parts)]
    return sum(share * (e * weight).sum() for share, e in zip(SHARES[late], each, strict=True)) / weight.sum()


def see(model: CLIPModel, pixels: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Layer 4's patch tokens and the pooled token, from all patches or from those `kept` (n, k)."""
    hidden = (tower := model.vision_model).embeddings(pixels)
    if kept is not None:
        index = torch.cat([torch.zeros(len(kept), 1, dtype=torch.long), kept + 1], dim=1)
        hidden = hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))
    states = [tower.pre_layrnorm(hidden)]
    for layer in tower.encoder.layers:
        states.append(layer(states[-1], None))
    return states[4][:, 1:], tower.post_layernorm(states[-1][:, 0])


def read(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit embeddings (n, d) of token rows."""
    return F.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output).float(), dim=-1)


def contrast(
    model: CLIPModel, image: Tensor, text: Tensor, batch: Sequence[scenes.Scene], wrong: Tensor | None
) -> dict[str, Tensor]:
    """Symmetric cross-entropy (duplicates of a caption are no negatives); `wrong` (n, k, d) are a picture's own negatives."""
    scale = model.logit_scale.exp().clamp(max=100)
    logits = scale * image @ text.T
    plain = [scenes.caption(scene, 0) for scene in batch]
    same = torch.tensor([[a == b for b in plain] for a in plain]) & ~torch.eye(len(batch), dtype=torch.bool)
    logits = logits.masked_fill(same, -1e4)
    target = torch.arange(len(batch))
    rows, out = logits, {}
    if wrong is not None:
        own = scale * torch.einsum("nd,nkd->nk", image, wrong)
        rows = torch.cat([logits, own], dim=1)
        choice = torch.cat([logits.diagonal()[:, None], own], dim=1)
        out["kind"] = F.cross_entropy(choice, torch.zeros_like(target))
        out["kind_right"] = (choice.argmax(dim=1) == 0).float().mean().detach()
    out["clip"] = (F.cross_entropy(rows, target) + F.cross_entropy(logits.T, target)) / 2
    return out


def losses(
    model: CLIPModel, heads: Heads, batch: list[scenes.Scene], words: Words, *, seed: int, phase: int, late: bool
) -> dict[str, Tensor]:
    """The contrastive and auxiliary losses of a batch as its phase asks for."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    n = len(batch)
    pixels = normalise(relight(np.stack([scenes.render(scene) for scene in batch]), noise))
    patch, cell, ground, present = (torch.from_numpy(a) for a in labels(batch, GRID))
    kept = None
    if phase < len(KEPT):
        order = (patch[..., 0] > 0).float() * 1.5 + torch.from_numpy(noise.random((n, GRID**2), dtype=np.float32))
        kept = order.topk(KEPT[phase], dim=1).indices
        patch = patch.gather(1, kept[:, :, None].expand(-1, -1, 3))
    with torch.set_grad_enabled(phase < 3):
        fourth, pooled = see(model, pixels, kept)
        image = F.normalize(model.visual_projection(pooled).float(), dim=-1)
    picked = [*range(n // 8), *range(n // 2, n // 2 + n // 8)] if phase == 0 else list(range(n))
    chosen = [batch[i] for i in picked]
    numbers = [int(rng.random() * captions.N_PHRASINGS) for _ in chosen]
    text = read(model, words([scenes.caption(scene, m) for scene, m in zip(chosen, numbers, strict=True)], multiple=8))
    wrong = None
    if phase:  # a gradient for the text tower only in the last phase, because it trebles the cost
        swapped = [scenes.caption(o, m) for s, m in zip(chosen, numbers, strict=True) for o in negatives(s, rng, late)]
        with torch.set_grad_enabled(phase == 3):
            wrong = read(model, words(swapped, multiple=8)).view(n, NEGATIVES, -1)
    out = contrast(model, image[picked], text, chosen, wrong)
    out["patch"] = _three(heads.patch(fourth), patch, late)
    out["patch_right"] = _right(heads.patch(fourth), patch)
    scale = math.sqrt(image.shape[1])
    placed = torch.tensor([m != captions.N_PHRASINGS - 1 or len(s.things) == 1 for m, s in zip(numbers, chosen, strict=True)])
    found, told = (heads.cells(x * scale).view(-1, 9, sum(CLASSES)) for x in (image, text))
    out["cell_image"], out["cell_right"] = _three(found, cell, late), _right(found, cell)
    out["cell_text"] = _three(told[placed], cell[picked][placed], late)
    out["ground"] = F.cross_entropy(heads.ground(image * scale).float(), ground)
    out["present"] = F.binary_cross_entropy_with_logits(heads.present(pooled).float(), present)
    return out


@torch.no_grad()
def _right(logits: Tensor, target: Tensor) -> Tensor:
    """Share of the places on objects whose kind is right."""
    kind = target[..., 0]
    return (logits[..., : CLASSES[0]].argmax(dim=-1) == kind)[kind > 0].float().mean()


WEIGHTS = {"clip": 1.0, "kind": 1.0, "patch": 1.0, "cell_image": 2.0, "cell_text": 1.0, "ground": 0.2, "present": 2.0}


def export(model: CLIPModel, mean: dict[str, Tensor], tokenizer: PreTrainedTokenizerFast, out: Path, facts: object) -> None:
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


def _optimizers(model: CLIPModel, heads: Heads, plan: Plan) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    rest = [*heads.parameters(), *(p for name, p in model.named_parameters() if ".layers." not in name or p.ndim != 2)]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(matrices, lr=plan.muon, momentum=0.95, weight_decay=0.02)
    return torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), fused=True), muon


def _pace(plan: Plan, step: int) -> float:
    """Share of the full rate: 100 steps of rise, level, and a linear fall over the last share `fall`."""
    if step >= plan.text:
        return 0.5 * (plan.steps - step) / (plan.steps - plan.text)
    return min(1.0, (step + 1) / 100, max(0.01, (plan.text - step) / (plan.fall * plan.text)))


def train(work: Path, out: Path, plan: Plan, save_every: int, origin: Path | None) -> None:
    """The training loop; prints one JSON line every 50 steps."""
    torch.manual_seed(plan.seed)
    tokenizer = build_tokenizer()
    words = Words(tokenizer)
    # eager attention, bfloat16 products: .56 s forward and backward of 128 pictures; the best in float32 takes .99 s
    model = CLIPModel._from_config(build_config(len(tokenizer)), attn_implementation="eager")
    if origin is not None:
        model.load_state_dict(CLIPModel.from_pretrained(origin, dtype=torch.float32).state_dict())
    heads = Heads(128, 192)
    optimizers = _optimizers(model, heads, plan)
    mean = {k: v.detach().clone() for k, v in model.named_parameters()}
    start, used, path = 0, 0.0, work / "checkpoint.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        mean, start, used = state["mean"], state["step"], state["seconds"]
    began, log = time.process_time(), dict[str, float]()
    for step in range(start, plan.steps):
        for optimizer, rate in zip(optimizers, (plan.rate, plan.muon), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * _pace(plan, step)
        late = step >= plan.late
        batch = draw_batch(plan.seed, step, plan.batch, LATE_EDITS if late else EDITS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts = losses(model, heads, batch, words, seed=plan.seed * 7_919_000 + step, phase=plan.phase(step), late=late)
        loss = sum(WEIGHTS[k] * v for k, v in parts.items() if k in WEIGHTS)
        model.zero_grad()
        heads.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(mean.values()), list(model.parameters()), 1 - min(0.97, (1 + step) / (20 + step)))
        log = {k: 0.96 * log.get(k, v.item()) + 0.04 * v.item() for k, v in parts.items()}
        seconds = used + time.process_time() - began
        facts = {
            **vars(plan), "step": step + 1, "cpu_minutes": round(seconds / 60, 1),
            "loss": {k: round(v, 4) for k, v in log.items()},
        }  # fmt: skip
        if (step + 1) % 50 == 0:
            print(json.dumps({"step": step + 1, "minutes": round(seconds / 60, 2), **facts["loss"]}), flush=True)
        if (step + 1) % save_every == 0 or step + 1 == plan.steps:
            state = {
                "model": model.state_dict(), "heads": heads.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                "mean": mean, "step": step + 1, "seconds": seconds,
            }  # fmt: skip
            torch.save(state, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
            export(model, mean, tokenizer, out, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--origin", type=Path, help="folder of weights of the same shape to go on from")
    parser.add_argument("--save-every", type=int, default=100)
    for name, value in vars(Plan()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    a = parser.parse_args()
    torch.set_num_threads(1)
    for folder in (a.out, a.work):
        folder.mkdir(parents=True, exist_ok=True)
    train(a.work, a.out, Plan(**{name: getattr(a, name) for name in vars(Plan())}), a.save_every, a.origin)


if __name__ == "__main__":
    main()
