"""Train the miniature captioner on drawn scenes: a `BlipForConditionalGeneration` folder that `load_captioner` reads.

    python tools/train_captioner.py --out src/brainlens/miniatures/captioner --work captioner-training
    python tools/train_captioner.py --out FOLDER --work FOLDER --steps 20 --batch 8 --pool 64 --check 16      # a smoke test

A step says one of the true captions of each of its scenes; the loss is the cross-entropy of its words, labels smoothed. Scenes
come from a pool that is drawn once. The picture tower starts as that of the miniature CLIP, which has the same patches and width,
and learns at a fraction of the rate. A third of the pictures is shown at another brightness, down to a tenth of the light, and a
third is a crop around one object with the caption "a COLOUR NOUN", since crops are what `describe` asks about. Step t is a
function of (seed, t) and of the weights; a checkpoint holds the whole state, so a killed run goes on where it was. At the end
nouns of held-out scenes are scored: recall and precision over kinds and backgrounds, greedy captions.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import BlipConfig, BlipForConditionalGeneration, CLIPModel, PreTrainedTokenizerFast

from brainlens import miniatures, store
from brainlens.backbones.captioner import caption_images, load_captioner
from brainlens.phantom import captions, scenes
from brainlens.stimuli.nouns import LexiconTagger
from brainlens.store.exports import save_npy
from brainlens.types import Stimuli

MEAN, STD = (0.5, 0.5, 0.5), (0.27, 0.27, 0.27)
PAD, UNK, BOS, EOS, SEP = 0, 1, 2, 3, 4
SIDE, WIDTH, TEXT = 64, 128, 64
CROPS, DARK = 1 / 3, 1 / 3  # shares of the pictures


@dataclass(frozen=True)
class Plan:
    """How long and how fast; the fields are the program's options."""

    seed: int = 1
    steps: int = 6000
    batch: int = 64
    rate: float = 1e-3
    tower: float = 0.3  # share of the rate at which the picture tower learns
    pool: int = 40_000  # scenes that are drawn
    precision: str = "float32"  # or bfloat16, for processors with matrix units for it
    warm: int = 200  # steps over which the rate rises
    smoothing: float = 0.05
    save: int = 200  # steps between checkpoints
    check: int = 500  # held-out scenes that are captioned at the end


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the words of captions, `<bos> words <sep>`, as BLIP's decoder starts and ends."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "<unk>", "<bos>", "<eos>", "<sep>", *captions.vocabulary(list(scenes.KINDS), list(scenes.COLORS))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <sep>", special_tokens=[("<bos>", BOS), ("<sep>", SEP)]
    )
    special = {f"{name}_token": f"<{name}>" for name in ("pad", "unk", "bos", "eos", "sep")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=TEXT, **special)


def build_model(vocabulary: int) -> BlipForConditionalGeneration:
    """Six vision layers on 8 x 8 patches, four text layers with cross-attention, width 128."""
    text = {
        "vocab_size": vocabulary, "hidden_size": WIDTH, "encoder_hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": TEXT, "bos_token_id": BOS,
        "eos_token_id": EOS, "sep_token_id": SEP, "pad_token_id": PAD, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "projection_dim": WIDTH,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 6, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 8, "projection_dim": WIDTH,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    return BlipForConditionalGeneration(config)


@torch.no_grad()
def start_from_clip(model: BlipForConditionalGeneration, seen: Tensor) -> int:
    """Copies what has the same shape from the miniature CLIP's picture tower; returns how many tensors.

    CLIP normalises what enters its blocks and BLIP does not. The normalisation divides by each token's deviation; the mean
    deviation over the pictures seen (n, 3, side, side) stands for it in the embedding of patches, and that of the class token,
    which is the same for all pictures, is exact.
    """
    tower = CLIPModel.from_pretrained(miniatures.folder("clip")).float().vision_model
    clip = tower.state_dict()
    own = model.vision_model.state_dict()
    copied = 0
    norm, states = tower.pre_layrnorm, tower.embeddings(seen)
    gain = norm.weight / states[:, 1:].std(-1, unbiased=False).mean()
    place = clip["embeddings.position_embedding.weight"]
    own["embeddings.patch_embedding.weight"].copy_(clip["embeddings.patch_embedding.weight"] * gain[:, None, None, None])
    own["embeddings.patch_embedding.bias"].zero_()
    own["embeddings.position_embedding"][0, 1:].copy_(place[1:] * gain + norm.bias)
    own["embeddings.position_embedding"][0, 0].zero_()
    own["embeddings.class_embedding"][0, 0].copy_(norm(clip["embeddings.class_embedding"] + place[0]))
    for name, value in own.items():
        if name.startswith("embeddings."):
            continue
        found = clip.get(name.replace("projection.weight", "out_proj.weight").replace("projection.bias", "out_proj.bias"))
        if name.endswith(("qkv.weight", "qkv.bias")):
            kind = name.rsplit(".", 1)[1]
            parts = [clip.get(name.replace(f"qkv.{kind}", f"{part}_proj.{kind}")) for part in ("q", "k", "v")]
            found = None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])
        if found is not None and found.shape == value.shape:
            value.copy_(found)
            copied += 1
    return copied + 4  # and the embeddings above


def scene_of(seed: int, k: int) -> scenes.Scene:
    """Scene k of the pool."""
    return scenes.draw_scene(random.Random((seed + 7) * 1_000_000_007 + k), "train")


def pool(seed: int, n: int, work: Path) -> np.ndarray:
    """Pictures (n, 64, 64, 3) of the pool, kept in `work`."""
    file = work / f"pool-{seed}-{n}.npy"
    if not file.exists():
        print(f"drawing {n} scenes", flush=True)
        work.mkdir(parents=True, exist_ok=True)
        found = np.stack([scenes.render(scene_of(seed, k), size=SIDE) for k in range(n)])
        save_npy(file, found)
    return np.load(file, mmap_mode="r")


def draw(seed: int, step: int, size: int, pictures: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Pictures (size, 64, 64, 3) out of the pool and a caption of each, by (seed, step) alone."""
    rng = random.Random((seed + 7) * 1_000_003 + step)
    images, texts = np.empty((size, SIDE, SIDE, 3), np.uint8), []
    for i in range(size):
        k = rng.randrange(len(pictures))
        scene, picture = scene_of(seed, k), np.asarray(pictures[k])
        text = scenes.caption(scene, int(rng.random() * captions.N_PHRASINGS))
        if rng.random() < CROPS:
            picture, text = crop(picture, scene, rng)
        if rng.random() < DARK:
            picture = np.clip(picture * (0.1 + 1.1 * rng.random()), 0, 255).astype(np.uint8)
        images[i] = picture
        texts.append(text)
    return images, texts


def crop(picture: np.ndarray, scene: scenes.Scene, rng: random.Random) -> tuple[np.ndarray, str]:
    """A square around one object, enlarged, and the words for that object."""
    thing = scene.things[int(rng.random() * len(scene.things))]
    half = thing.extent / 256 * SIDE * (0.5 + 0.3 * rng.random())
    x, y = thing.cx / 256 * SIDE, thing.cy / 256 * SIDE
    box = [round(max(0.0, x - half)), round(max(0.0, y - half)), round(min(SIDE, x + half)), round(min(SIDE, y + half))]
    part = Image.fromarray(picture[box[1] : max(box[3], box[1] + 2), box[0] : max(box[2], box[0] + 2)])
    text = "a " + captions.naming(thing.kind, thing.domain, thing.color, thing.size).split(" ", 1)[1]  # a crop has no size
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)), text


def tensors(images: np.ndarray, texts: list[str], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, token numbers and mask of a batch."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    return x, tokens["input_ids"], tokens["attention_mask"]


def loss_of(model: BlipForConditionalGeneration, batch: tuple[Tensor, Tensor, Tensor], smoothing: float, half: bool) -> Tensor:
    """Cross-entropy of the next word, over words."""
    pixels, numbers, mask = batch
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=half):
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        logits = model.text_decoder(input_ids=numbers, attention_mask=mask, encoder_hidden_states=states).logits.float()
    goal = numbers[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), goal.flatten(), ignore_index=-100, label_smoothing=smoothing
    )


def train(plan: Plan, work: Path) -> tuple[BlipForConditionalGeneration, PreTrainedTokenizerFast]:
    """The trained model; goes on from the last checkpoint in `work`."""
    torch.manual_seed(plan.seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))
    pictures = pool(plan.seed, plan.pool, work)
    seen = tensors(*draw(plan.seed, plan.steps, 256, pictures), tokenizer)[0]
    print(f"{start_from_clip(model, seen)} tensors of the picture tower start as the miniature CLIP's", flush=True)
    groups = [
        {"params": list(model.vision_model.parameters()), "share": plan.tower},
        {"params": list(model.text_decoder.parameters()), "share": 1.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=plan.rate, weight_decay=0.02, betas=(0.9, 0.98))
    first = 0
    kept = store.load_checkpoint(work)
    if kept is not None:
        if kept["plan"] != asdict(plan):
            raise SystemExit(f"{work} holds a training with other options: {kept['plan']}; give another --work")
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        first = int(kept["step"])
        print(f"going on from step {first}", flush=True)
    model.train()
    started, total = time.time(), 0.0
    for step in range(first, plan.steps):
        share = min(1.0, (step + 1) / plan.warm) * max(0.02, 1 - step / plan.steps)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * share * group["share"]
        batch = tensors(*draw(plan.seed, step, plan.batch, pictures), tokenizer)
        loss = loss_of(model, batch, plan.smoothing, plan.precision == "bfloat16")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        total += loss.item()
        if (step + 1) % plan.save == 0 or step + 1 == plan.steps:
            state = {"step": step + 1, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "plan": asdict(plan)}
            store.save_checkpoint(work, state)
            seconds = (time.time() - started) / (step + 1 - first)
            print(f"step {step + 1}: loss {total / ((step % plan.save) + 1):.3f}, {seconds:.2f} s a step", flush=True)
            total = 0.0
    return model.eval(), tokenizer


def export(model: BlipForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The folder in half precision, with its preprocessing."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    steps = {
        "do_resize": True, "size": {"height": SIDE, "width": SIDE}, "resample": 2, "do_center_crop": False,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD),
        "image_processor_type": "BlipImageProcessor",
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(steps, indent=1) + "\n")


def score(folder: Path, n: int) -> dict[str, float]:
    """Noun recall and precision of greedy captions of n held-out scenes: kinds and backgrounds."""
    stimuli = scenes.make_scenes(n, split="test", size=SIDE)
    said = caption_images(load_captioner(folder), stimuli, max_new_tokens=TEXT - 4, batch=32)
    named = LexiconTagger(times=0).nouns([[text] for text in said])
    return noun_scores(stimuli, named)


def score_crops(folder: Path, n: int) -> dict[str, float]:
    """Share of crops around single objects of held-out scenes whose caption names the object's kind; n of them."""
    rng, parts, kinds = random.Random(5), [], []
    for k in range(n):
        scene = scenes.scene_at(k, split="test")
        part, text = crop(scenes.render(scene, size=SIDE), scene, rng)
        parts.append(part)
        kinds.append({scenes.object_words(kind)[-1] for kind in scenes.KINDS} & set(text.split()))
    stimuli = Stimuli(np.array([f"crop-{k}" for k in range(n)]), np.stack(parts))
    said = caption_images(load_captioner(folder), stimuli, max_new_tokens=TEXT - 4, batch=32)
    return {"crop_kind": sum(bool(own & set(text.split())) for own, text in zip(kinds, said, strict=True)) / n, "crops": n}


def noun_scores(stimuli: Stimuli, named: list[list[str]]) -> dict[str, float]:
    """Recall: nouns that are there and named, of those there; precision: of those named. Pooled over scenes."""
    known = {scenes.object_words(kind)[-1] for kind in scenes.KINDS} | set(scenes.BACKGROUNDS)
    hits = there = said = 0
    for row, nouns in enumerate(named):
        objects = json.loads(stimuli.table["objects"].iloc[row])
        true = {scenes.object_words(item["kind"])[-1] for item in objects} | {stimuli.table["background"].iloc[row]}
        found = set(nouns) & known
        hits, there, said = hits + len(true & found), there + len(true), said + len(found)
    return {"noun_recall": hits / max(1, there), "noun_precision": hits / max(1, said), "scenes": len(named)}


def main() -> None:
    """Trains, exports and scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    for each in fields(Plan):
        parser.add_argument(f"--{each.name}", type=type(each.default), default=each.default)
    given = vars(parser.parse_args())
    out, work = given.pop("out"), given.pop("work")
    plan = Plan(**given)
    transformers.logging.set_verbosity_error()
    model, tokenizer = train(plan, work)
    export(model, tokenizer, out)
    found = score(out, plan.check) | score_crops(out, plan.check)
    print(json.dumps(found))
    store.save_json(out / "training.json", {"plan": asdict(plan), "scores": found})


if __name__ == "__main__":
    main()
