"""The reverse mapping: which pixels of an image and which words of a caption a measured brain response supports.

The target is the brain's embedding; what is explained is the cosine of the network's own embedding to it. Works on the two
towers of a `transformers` CLIPModel, block by block, with attention written out so that its probabilities can be
differentiated whatever implementation the model was loaded with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens.attribute.brain import Options
from brainlens.attribution.bottleneck import bottleneck, statistics
from brainlens.attribution.chefer import chefer
from brainlens.attribution.gradcam import gradcam
from brainlens.attribution.integrated_gradients import integrated_gradients
from brainlens.attribution.rise import grid_masks, region_masks, rise
from brainlens.attribution.targets import frozen, or_nothing
from brainlens.attribution.voxels import random_maps
from brainlens.backbones.clip_towers import Space, Tower, _end_of_text, pixel_model, text_tower, vision_tower
from brainlens.choices import ATTRIBUTE_METHODS
from brainlens.types import DataError

METHODS = ATTRIBUTE_METHODS


def attribute_pixels(
    clip: Any,
    pixels: Tensor,
    targets: Tensor,
    *,
    method: str = "bottleneck",
    layer: int | None = None,
    reference: Tensor | None = None,
    space: Space | None = None,
    options: Options | None = None,
) -> Tensor:
    """Maps (image, row, column) of preprocessed pixels (image, 3, row, column) for target embeddings (image, d) or (image, k, d).

    layer: the vision block before which features are read; None: the middle. reference: pixels (n, 3, row, column) that the
    bottleneck's feature statistics come from; None takes mean 0 and variance 1, as M2IB does. space: the network's embeddings
    (n, d) -> those that are compared with the targets, (n, d') or (n, k, d'); None: as they are. Patch maps are enlarged
    bilinearly. All 0 for an image whose map would be rounding alone. Raises DataError for unknown methods, layers and shapes.
    """
    options = Options() if options is None else options
    if pixels.ndim != 4:
        raise DataError(f"attribute_pixels: pixels {tuple(pixels.shape)} are not (image, channel, row, column)")
    vision = clip.vision_model
    tower, model = vision_tower(clip, space), pixel_model(clip, space)
    shape = tuple(pixels.shape[-2:])
    with frozen(clip):
        if method == "rise":
            masks = grid_masks(shape, options.cells, keep=options.keep)
            maps = _rise_each(pixels, lambda image, m: model(image * m.view(-1, 1, *shape)), targets, masks, options)
            return maps.view(-1, *shape)
        if method == "integrated_gradients":
            maps = integrated_gradients(pixels, model, targets, steps=options.path).sum(1).abs()
            return or_nothing(maps.flatten(1)).view(-1, *shape)
        with torch.no_grad():
            tokens = vision.pre_layrnorm(vision.embeddings(pixels))
            base = None if reference is None else vision.pre_layrnorm(vision.embeddings(reference))
        pooled = torch.zeros(len(pixels), dtype=torch.int64)
        maps = _token_maps(tower, tokens, pooled, targets, method=method, layer=layer, reference=base, options=options)[:, 1:]
    maps, patch = or_nothing(maps), int(vision.config.patch_size)
    grid = (shape[0] // patch, shape[1] // patch)
    return F.interpolate(maps.view(-1, 1, *grid), shape, mode="bilinear", align_corners=False)[:, 0]


def attribute_words(
    clip: Any,
    tokens: Tensor,
    targets: Tensor,
    *,
    method: str = "bottleneck",
    layer: int | None = None,
    reference: Tensor | None = None,
    space: Space | None = None,
    options: Options | None = None,
) -> Tensor:
    """Maps (caption, token) of token ids (caption, token) for target embeddings (caption, d) or (caption, k, d).

    The first token and everything from end-of-text on are no words and have value 0. layer: the text block before which
    features are read; None: 0, the embedded words, since behind a block with causal attention a place also holds earlier
    words, and values stand on "and" and "the" (docs/attribute.md). reference: token ids (n, token) for the bottleneck's
    statistics. Hidden words (RISE) keep their place, with embedding 0, so that pooling stays in place. space: as for
    `attribute_pixels`. Raises DataError for a caption without an end-of-text token.
    """
    options = Options() if options is None else options
    text = clip.text_model
    tower = text_tower(clip, space)
    pooled = _end_of_text(tokens, text.config)
    words = torch.arange(tokens.shape[1])[None] < pooled[:, None]
    words[:, 0] = False

    def model(inner: Tensor, pooled: Tensor) -> Tensor:
        places = text.embeddings.position_embedding.weight[: inner.shape[1]]
        return tower.finish(inner + places, pooled)

    with frozen(clip):
        with torch.no_grad():
            inner, entered = text.embeddings.token_embedding(tokens), text.embeddings(input_ids=tokens)
            base = None if reference is None else text.embeddings(input_ids=reference)
        if method in ("rise", "integrated_gradients"):
            rows = []
            for i in range(len(tokens)):
                end = pooled[i : i + 1]

                def run(many: Tensor, end: Tensor = end) -> Tensor:
                    return model(many, end.expand(len(many)))

                rows.append(_one_caption(inner[i : i + 1], words[i], run, targets[i : i + 1], method, options))
            maps = torch.cat(rows)
        else:
            layer = 0 if layer is None else layer
            maps = _token_maps(tower, entered, pooled, targets, method=method, layer=layer, reference=base, options=options)
    return or_nothing(maps * words)


def _one_caption(
    inner: Tensor, words: Tensor, run: Callable[[Tensor], Tensor], target: Tensor, method: str, options: Options
) -> Tensor:
    if method == "integrated_gradients":
        baseline = inner * ~words[None, :, None]  # the frame of the sentence stays
        return integrated_gradients(inner, run, target, baseline=baseline, steps=options.path).sum(-1).abs()
    masks = region_masks(torch.arange(inner.shape[1]).numpy(), keep=options.keep)

    def shown(m: Tensor) -> Tensor:
        return run(inner * torch.where(words, m, torch.ones_like(m))[..., None])

    one = torch.ones(1, inner.shape[1])
    maps = rise(one, shown, target, masks=masks, count=options.masks, keep=options.keep, seed=options.seed)
    return (maps - maps[:, words].min(1, keepdim=True).values).clamp_min(0) if words.any() else maps


def _rise_each(x: Tensor, model: Callable[[Tensor, Tensor], Tensor], targets: Tensor, masks: Any, options: Options) -> Tensor:
    rows = []
    for i in range(len(x)):
        one = torch.ones(1, x.shape[-2] * x.shape[-1])

        def run(m: Tensor, image: Tensor = x[i : i + 1]) -> Tensor:
            return model(image, m)

        rows.append(rise(one, run, targets[i : i + 1], masks=masks, count=options.masks, keep=options.keep, seed=options.seed))
    maps = torch.cat(rows)
    return or_nothing(maps - maps.min(1, keepdim=True).values)


def _token_maps(
    tower: Tower,
    tokens: Tensor,
    pooled: Tensor,
    targets: Tensor,
    *,
    method: str,
    layer: int | None,
    reference: Tensor | None,
    options: Options,
) -> Tensor:
    """Maps (sample, token) by methods that read features or attention; `pooled` (sample,) is the token that is read."""
    if method not in METHODS:
        raise DataError(f"attribute: method {method!r} is not known; there are {list(METHODS)}")
    if method == "random":
        return random_maps(len(tokens), tokens.shape[1], seed=options.seed)
    depth = len(tower.blocks)
    layer = depth // 2 if layer is None else layer
    if not 0 <= layer < depth:
        raise DataError(f"attribute: layer {layer} is not available; available are 0 to {depth - 1}")
    with torch.no_grad():
        start = tower.run(tokens, 0, layer)[0]
        stats = None if reference is None else statistics([tower.run(reference, 0, layer)[0]])
    rows = []
    for some in torch.arange(len(tokens)).split(options.batch):
        at = pooled[some]

        def rest(z: Tensor, at: Tensor = at) -> Tensor:
            return tower.finish(z, at.repeat_interleave(len(z) // len(at)), layer)

        def whole(z: Tensor, at: Tensor = at) -> tuple[Tensor, list[Tensor]]:
            last, maps = tower.run(z.detach().requires_grad_())
            return tower.embed(last, at), maps

        part, aim = start[some], targets[some]
        if method == "chefer":
            rows.append(chefer(tokens[some], whole, aim, read=at, batch=len(some)))
        elif method == "gradcam":
            rows.append(gradcam(part, rest, aim, skip=1, batch=len(some)))
        else:
            maps = bottleneck(part, rest, aim, reference=stats, settings=options.bottleneck, batch=len(some))
            rows.append(maps.clamp_min(0))
    return torch.cat(rows)
