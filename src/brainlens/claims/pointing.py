"""The claims about pictures and words: does the highest value of a map lie on the object that the target is about?

Scenes of the test split with at least two objects; one of them, drawn by a seed, is attended. The network is the shipped
miniature CLIP, explained by `attribute_pixels` and `attribute_words`.

Pixels: the picture shows the whole scene, the target is the embedding of a phrase that names the attended object alone
("a large red car on the left", no setting). A hit: the map's maximum lies on the object's visible mask. `tolerance_patch`
counts a maximum within one patch of the mask, too.

Words: the caption is that of the whole scene, and the target is what the attended object adds to the scene's embedding: the
picture's embedding less that of the same picture drawn without the object. It is the contrast of two responses, so the
setting and the other objects, which both pictures show, are no true answers. A hit: the highest word is one of the attended
object's own phrase (kind, colour, size or place; "a", "of", "in", "at", "on", "the" never count, nor does the same word in
another object's phrase). `kind_only` counts the kind's words.

`alone` asks the older question, whose target is the picture of the attended object alone before the same background. That
picture shows the setting, which the caption names, so a maximum on the setting is a miss that is not false;
`alone/objects_only` asks for the highest word among those before the setting. Words are read at block 0, before causal attention
moves them into later ones. Both choices were made on validation scenes (docs/attribute.md), the test scenes were run once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens import miniatures
from brainlens.attribute.brain import Options
from brainlens.attribute.pixels_and_words import attribute_pixels, attribute_words
from brainlens.backbones import clip as clips
from brainlens.datasets.source import Tell
from brainlens.metrics.attribution import pointing_game
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.phantom import captions
from brainlens.phantom.scenes import Scene, caption, make_scenes, object_words, render, scene_at, scene_masks
from brainlens.types import DataError

METHODS = ("bottleneck", "gradcam", "chefer", "rise", "integrated_gradients", "random")
SMALL_WORDS = frozenset(("a", "of", "in", "at", "on", "the"))


@dataclass(frozen=True)
class Question:
    """One scene and the attended object: its visible mask (row, column), and for every word of the caption what it names."""

    whole: Scene
    alone: Scene
    without: Scene
    mask: np.ndarray
    phrase: str
    caption: str
    own: np.ndarray  # words of the attended object
    kind: np.ndarray  # of these, those of its kind
    setting: np.ndarray  # words behind the objects' phrases


def questions(n: int, *, split: str = "test", seed: int = 0) -> list[Question]:
    """The first n scenes of a split that have at least two objects, with one visible object attended at random."""
    rng = random.Random(seed)
    found: list[Question] = []
    for k in range(100 * n):
        if len(found) == n:
            break
        scene = scene_at(k, seed=seed, split=split)
        if len(scene.things) < 2:
            continue
        masks = scene_masks(make_scenes(1, seed=seed, split=split, first=k), 0)
        number = rng.choice([i for i, mask in enumerate(masks) if mask.any()])
        found.append(_question(scene, number, masks[number]))
    return found


def _question(scene: Scene, number: int, mask: np.ndarray) -> Question:
    thing = scene.things[number]
    phrases = [f"a {captions.naming(t.kind, t.domain, t.color, t.size)} {captions.PLACES[t.cell]}" for t in scene.things]
    text = caption(scene, 0)
    words = text.split()
    assert text.startswith(" and ".join(phrases))
    start = sum(len(p.split()) + 1 for p in phrases[:number])
    span = np.arange(start, start + len(phrases[number].split()))
    own, kind, setting = (np.zeros(len(words), dtype=bool) for _ in range(3))
    own[[i for i in span if words[i] not in SMALL_WORDS]] = True
    kind[[i for i in span if words[i] in object_words(thing.kind)]] = True
    setting[sum(len(p.split()) + 1 for p in phrases) - 1 :] = True
    others = tuple(t for i, t in enumerate(scene.things) if i != number)
    alone, without = replace(scene, things=(thing,)), replace(scene, things=others)
    return Question(scene, alone, without, mask, phrases[number], text, own, kind, setting)


def pointing_claims(
    *,
    scenes: int = 200,
    methods: tuple[str, ...] = METHODS,
    split: str = "test",
    layers: tuple[int | None, int | None] = (None, None),
    masks: int = 200,
    seed: int = 0,
    tell: Tell,
) -> dict[str, float]:
    """`attribute/pixels/pointing_game`, `attribute/words/pointing_game` of the bottleneck, of other methods under their names.

    hit_i = [argmax map_i in object_i], mean over scenes with a bootstrap interval; `/chance`: mean share of the picture
    that the mask covers, and of the caption's words that name the object. layers: the block before which the pictures' and
    the captions' tower is read; None: the middle for pictures, 0 for captions. masks: of RISE. The bottleneck's statistics
    come from 200 scenes of the training split.
    """
    asked = questions(scenes, split=split, seed=seed)
    model = clips.load_clip(miniatures.folder("clip"))
    options = Options(masks=masks, seed=seed)
    metrics: dict[str, float] = {}
    for method in methods:
        tell(f"pointing, {method}", None)
        metrics |= _pixels(model, asked, method, layers[0], options)
        metrics |= _words(model, asked, method, layers[1], options)
    return metrics


def _pixels(model: clips.Clip, asked: list[Question], method: str, layer: int | None, options: Options) -> dict[str, float]:
    network = model.backbone.model
    pixels = pictures(model, [render(q.whole) for q in asked])
    targets = _texts(model, [q.phrase for q in asked])
    base = pictures(model, list(make_scenes(200, seed=options.seed, split="train").images))
    maps = attribute_pixels(network, pixels, targets, method=method, layer=layer, reference=base, options=options)
    flat = maps.detach().numpy().reshape(len(asked), -1)
    inside = np.stack([q.mask for q in asked])
    patch = int(network.config.vision_config.patch_size)
    near = F.max_pool2d(torch.from_numpy(inside).float()[:, None], 2 * patch + 1, 1, patch)[:, 0].numpy() > 0
    stem = "attribute/pixels" if method == "bottleneck" else f"attribute/pixels/{method}"
    exact, wide = (pointing_game(m.reshape(len(asked), -1), flat) for m in (inside, near))
    found = _scored(f"{stem}/pointing_game", exact) | _scored(f"{stem}/tolerance_patch/pointing_game", wide)
    if method == "bottleneck":
        found["attribute/pixels/pointing_game/chance"] = float(inside.mean())
        found["attribute/pixels/tolerance_patch/pointing_game/chance"] = float(near.mean())
    return found


def _words(model: clips.Clip, asked: list[Question], method: str, layer: int | None, options: Options) -> dict[str, float]:
    tokens = _tokens(model, [q.caption for q in asked])
    base = _tokens(model, [texts[0] for texts in make_scenes(200, seed=options.seed, split="train").captions])
    length = max(tokens.shape[1], base.shape[1])
    tokens, base = (F.pad(t, (0, length - t.shape[1]), value=_filler(model)) for t in (tokens, base))
    stem = "attribute/words" if method == "bottleneck" else f"attribute/words/{method}"
    found: dict[str, float] = {}
    for question, targets in word_targets(model, asked).items():
        maps = attribute_words(model.backbone.model, tokens, targets, method=method, layer=layer, reference=base, options=options)
        rows = [row[1 : 1 + len(q.own)] for row, q in zip(maps.detach().numpy(), asked, strict=True)]  # one token a word
        variants = ("", "/kind_only") if question == "" else ("", "/objects_only")
        for name in variants:
            right = [q.kind if name == "/kind_only" else q.own for q in asked]
            held = [~q.setting if name == "/objects_only" else np.ones(len(q.own), dtype=bool) for q in asked]
            hits = [float(pointing_game(r[None, h], v[None, h])[0]) for v, r, h in zip(rows, right, held, strict=True)]
            found |= _scored(f"{stem}{question}{name}/pointing_game", np.array(hits))
            if method == "bottleneck":
                share = np.mean([r[h].mean() for r, h in zip(right, held, strict=True)])
                found[f"{stem}{question}{name}/pointing_game/chance"] = float(share)
    return found


def word_targets(model: clips.Clip, asked: list[Question]) -> dict[str, Tensor]:
    """Targets (caption, d) of the two questions: "" the object's share in the scene's embedding, "/alone" the object alone."""

    def embedded(scenes: list[Scene]) -> Tensor:
        network = model.backbone.model
        with torch.no_grad():
            stimuli = pictures(model, [render(scene) for scene in scenes])
            return F.normalize(network.visual_projection(network.vision_model(pixel_values=stimuli).pooler_output), dim=-1)

    share = embedded([q.whole for q in asked]) - embedded([q.without for q in asked])
    return {"": share, "/alone": embedded([q.alone for q in asked])}


def _scored(key: str, hits: np.ndarray) -> dict[str, float]:
    return dict(zip((key, f"{key}.low", f"{key}.high"), bootstrap_mean(hits), strict=True))


def pictures(model: clips.Clip, images: list[np.ndarray]) -> Tensor:
    """The network's input (image, 3, row, column)."""
    return torch.from_numpy(model.backbone.preprocess.batch(images))


def _texts(model: clips.Clip, texts: list[str]) -> Tensor:
    found = clips.embed_texts(model, [[t] for t in texts], [str(i) for i in range(len(texts))])
    return torch.from_numpy(np.asarray(found["text"], np.float32))


def _filler(model: clips.Clip) -> int:
    return int(model.tokenizer.pad_token_id)


def _tokens(model: clips.Clip, texts: list[str]) -> Tensor:
    """Token ids (caption, token), padded; the miniature's tokens are whole words, which the maps are read by."""
    rows: list[Any] = [model.tokenizer(text)["input_ids"] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) != len(text.split()) + 2:
            raise DataError(f"caption {text!r} has {len(row)} tokens for {len(text.split())} words; pointing needs one a word")
    width = max(len(row) for row in rows)
    return torch.tensor([row + [_filler(model)] * (width - len(row)) for row in rows])
