"""Attribution of pictures and captions as a verb: tables in, a Result out, with what the maps are worth.

The target is the measured brain response's embedding (the reverse mapping, "Bridging Vision, Language, and Brain", Fig. 6), the
other network modality, or both. What is explained is the cosine of the network's own embedding, brought into the space of
each target, to that target; several targets are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainlens import store
from brainlens.attribute.brain import Options, warn_of_empty
from brainlens.attribute.pixels_and_words import METHODS, attribute_pixels, attribute_words
from brainlens.attribution import degradation
from brainlens.attribution.targets import Tail, frozen
from brainlens.backbones.clip import Clip
from brainlens.backbones.clip_towers import pixel_model, word_model
from brainlens.metrics import attribution as metrics
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.types import DataError, Features, Result, Stimuli

STEPS = 10  # points of a deletion curve


@dataclass(frozen=True)
class Aim:
    """A target of every stimulus, (stimulus, d) under its only layer; space takes the network's unit embeddings there."""

    targets: Features
    space: Callable[[Tensor], Tensor] = lambda z: z


@dataclass(frozen=True)
class Words:
    """Captions as tokens: ids (caption, token), and of every token the number of its word, -1 for none."""

    tokens: Tensor
    word: np.ndarray
    words: list[list[str]]


def attribute_stimuli(
    clip: Clip,
    stimuli: Stimuli,
    aims: dict[str, Aim],
    *,
    of: str = "pixels",
    method: str = "bottleneck",
    layer: int | None = None,
    reference: Stimuli | None = None,
    options: Options | None = None,
) -> Result:
    """Maps of the pixels (or the words of the first caption) of each stimulus that support its targets, and their worth.

    aims: targets by name ("brain", "image", "text"), with a row for every stimulus. reference: stimuli that the bottleneck's
    feature statistics come from, none of them explained; None takes mean 0 and variance 1.

    Arrays of pixels: `map/pixels` (stimulus, row, column), `pixels/images` as the network sees them; of words: the table
    `words` (stimulus, word, weight), a word's weight being the sum over its tokens. Metrics `attribution/<aim>/...` as those of
    `attribute`, without maps that are empty, only rounding (`map/empty`); arrays `deletion/<method>`, `insertion/<method>`
    (stimulus, point) beside a random map's.

    Raises DataError for ids without a target, captions that are missing, empty or beyond the text limit, unknown methods.
    """
    started = store.Start()
    options = Options() if options is None else options
    _check(stimuli, aims, of, method)
    rows = {name: _rows(name, aim, stimuli) for name, aim in aims.items()}
    network = clip.backbone.model
    every, targets = _together(list(aims.values()), list(rows.values()))
    pictures = of == "pixels"
    inputs = network_input(clip, stimuli) if pictures else tokenised(clip, stimuli)
    reference = None if options.normalise == "none" else reference
    base = None if reference is None else network_input(clip, reference) if pictures else tokenised(clip, reference)
    if isinstance(inputs, Words):
        tokens, base_tokens = _same_length(clip, inputs, base if isinstance(base, Words) else None)
        inputs = replace(inputs, tokens=tokens)
        maps = attribute_words(
            network, tokens, targets, method=method, layer=layer, reference=base_tokens, space=every, options=options
        )
        flat = per_word(maps.detach().cpu().numpy(), inputs)
    else:
        assert not isinstance(base, Words)
        maps = attribute_pixels(
            network, inputs, targets, method=method, layer=layer, reference=base, space=every, options=options
        ).detach()
        flat = list(maps.cpu().numpy().reshape(len(stimuli), -1))
    empty = np.array([not values.any() for values in flat])
    arrays: dict[str, np.ndarray] = {"ids": stimuli.ids, "map/empty": empty}
    tables = {}
    if isinstance(inputs, Words):
        tables["words"] = _word_table(stimuli, inputs, flat)
    else:
        arrays |= {"map/pixels": maps.cpu().numpy(), "pixels/images": seen(clip, inputs)}
    numbers = {"attribution/maps_empty": float(empty.sum())}
    numbers |= _worth(network, inputs, flat, aims, rows, arrays, method=method, options=options)
    config = {"of": of, "target": list(aims), "method": method, "layer": layer, **asdict(replace(options, reference=None))}
    config |= warn_of_empty(empty, method)
    config["reference_stimuli"] = 0 if reference is None else len(reference)
    data = [store.fingerprint(stimuli), *(store.fingerprint(aim.targets) for aim in aims.values())]
    provenance = store.provenance(options.seed, options.device, data, started)
    return Result("attribute", numbers, arrays, tables=tables, config=config, provenance=provenance)


def _check(stimuli: Stimuli, aims: dict[str, Aim], of: str, method: str) -> None:
    if of not in ("pixels", "words"):
        raise DataError(f"attribute: of={of!r} is not one of ('pixels', 'words')")
    if method not in METHODS:
        raise DataError(f"attribute: method {method!r} is not known; there are {list(METHODS)}")
    if not len(stimuli) or not aims:
        raise DataError("attribute: there are no stimuli, or no targets")


def network_input(clip: Clip, stimuli: Stimuli) -> Tensor:
    """The vision tower's input (stimulus, 3, row, column)."""
    return torch.from_numpy(clip.backbone.preprocess.batch(list(stimuli.images))).to(clip.backbone.device)


def seen(clip: Clip, pixels: Tensor) -> np.ndarray:
    """Network input as pictures again, (n, row, column, 3) uint8: what the crop left of them."""
    how = clip.backbone.preprocess
    values = pixels.cpu().numpy().transpose(0, 2, 3, 1) * np.asarray(how.std) + np.asarray(how.mean)
    return np.clip(np.rint(values / how.rescale), 0, 255).astype(np.uint8)


def tokenised(clip: Clip, stimuli: Stimuli) -> Words:
    """The first caption of each stimulus as token ids, and which word each token belongs to (by its place in the text)."""
    rows, words, numbers = [], [], []
    for name, several in zip(stimuli.ids, stimuli.captions, strict=True):
        text = " ".join(several[0].split()) if several else ""
        if not text:
            raise DataError(f"attribute: stimulus {str(name)!r} has no caption, or an empty one; drop it or write one")
        found = clip.tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False)
        if len(found["input_ids"]) > clip.max_tokens:
            raise DataError(
                f"attribute: the caption of stimulus {str(name)!r} has {len(found['input_ids'])} tokens, the network reads "
                f"{clip.max_tokens}; shorten it"
            )
        starts = np.cumsum([0, *(len(w) + 1 for w in text.split())])
        inside = [
            int(np.searchsorted(starts, (a + b) / 2, side="right")) - 1 if b > a else -1 for a, b in found["offset_mapping"]
        ]
        rows.append(list(found["input_ids"]))
        numbers.append(inside)
        words.append(text.split())
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [_filler(clip)] * (width - len(row)) for row in rows])
    word = np.array([row + [-1] * (width - len(row)) for row in numbers])
    return Words(tokens.to(clip.backbone.device), word, words)


def per_word(maps: np.ndarray, captions: Words) -> list[np.ndarray]:
    """Weights (word,) of each caption's words, from maps (caption, token): the sum over a word's tokens."""
    out = []
    for row, owner, words in zip(maps, captions.word, captions.words, strict=True):
        weight = np.zeros(len(words))
        inside = owner >= 0
        np.add.at(weight, owner[inside], row[: len(owner)][inside])
        out.append(weight)
    return out


def _filler(clip: Clip) -> int:
    end = clip.tokenizer.pad_token_id
    return int(clip.tokenizer.eos_token_id if end is None else end)


def _same_length(clip: Clip, captions: Words, base: Words | None) -> tuple[Tensor, Tensor | None]:
    tables = [captions.tokens] + ([] if base is None else [base.tokens])
    width = max(t.shape[1] for t in tables)
    filled = [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=_filler(clip)) for t in tables]
    return filled[0], filled[1] if base is not None else None


def _rows(name: str, aim: Aim, stimuli: Stimuli) -> Tensor:
    table = aim.targets
    known = {str(s): i for i, s in enumerate(table.ids)}
    missing = [str(s) for s in stimuli.ids if str(s) not in known]
    if missing:
        raise DataError(f"attribute: {len(missing)} stimuli have no {name} target, first {missing[0]!r}; give their embeddings")
    rows = table.check_finite()[next(iter(table.data))][[known[str(s)] for s in stimuli.ids]]
    return torch.from_numpy(np.asarray(rows, dtype=np.float32))


def _together(aims: list[Aim], rows: list[Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """One map of unit embeddings to (B, k, d) and the targets (B, k, d); spaces of fewer dimensions are filled with zeros."""
    width = max(r.shape[1] for r in rows)

    def every(z: Tensor) -> Tensor:
        z = torch.nn.functional.normalize(z, dim=-1)
        found = [aim.space(z) for aim in aims]
        return torch.stack([torch.nn.functional.pad(f, (0, width - f.shape[1])) for f in found], 1)

    return every, torch.stack([torch.nn.functional.pad(r, (0, width - r.shape[1])) for r in rows], 1)


def _word_table(stimuli: Stimuli, captions: Words, weights: list[np.ndarray]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"stimulus": str(s), "word": words, "weight": weight})
        for s, words, weight in zip(stimuli.ids, captions.words, weights, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def _worth(
    network: Any,
    inputs: Tensor | Words,
    maps: list[np.ndarray],
    aims: dict[str, Aim],
    rows: dict[str, Tensor],
    arrays: dict[str, np.ndarray],
    *,
    method: str,
    options: Options,
) -> dict[str, float]:
    """Confidence, deletion and insertion of each map and of maps that know nothing, one stimulus at a time.

    Of maps that are not empty; nothing where all are.
    """
    areas = [metrics.map_area(m[None])[0] for m in maps if m.any()]
    out = {"attribution/area": float(np.mean(areas))} if areas else {}
    found: dict[str, list[float]] = {}
    curves: dict[str, list[np.ndarray]] = {}
    with frozen(network), torch.no_grad():
        for i, values in enumerate(maps):
            if not values.any():
                continue
            one = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None]
            baselines = {method: one, **degradation.controls(one, seed=options.seed + i)}
            for name, aim in aims.items():
                model, target = _masked(network, inputs, i, aim), rows[name][i : i + 1]
                whole = torch.ones_like(one)
                for who, baseline in baselines.items():
                    stem = name if who == method else f"{who}/{name}"
                    for form, area in (("soft", None), ("matched", options.area)):
                        kept = degradation.keep(whole, model, target, baseline, area=area)
                        found.setdefault(f"{stem}/{form}/full", []).append(float(kept.full))
                        found.setdefault(f"{stem}/{form}/kept", []).append(float(kept.kept))
                    if who in (method, "random"):
                        for kind in ("deletion", "insertion"):
                            line = degradation.curve(whole, model, target, baseline, steps=STEPS, insert=kind == "insertion")
                            curves.setdefault(f"{kind}/{name}/{who}", []).append(line[0].numpy())
    for key in [k[:-5] for k in found if k.endswith("/full")]:
        pair = np.array(found[f"{key}/full"]), np.array(found[f"{key}/kept"])
        out |= {f"attribution/{key}/{k}": v for k, v in metrics.confidence(*pair).items() if v == v}
    for key, lines in curves.items():
        kind, name, who = key.split("/")
        stacked = np.stack(lines)
        stem = name if who == method else f"{who}/{name}"
        interval = bootstrap_mean(metrics.area_under(stacked), seed=options.seed)
        out |= dict(zip([f"attribution/{stem}/{kind}_auc{end}" for end in ("", ".low", ".high")], interval, strict=True))
        arrays[f"{kind}/{who}"] = arrays.get(f"{kind}/{who}", 0) + stacked  # the sum over the targets, as the maps explain it
    return out


def _masked(network: Any, inputs: Tensor | Words, i: int, aim: Aim) -> Tail:
    """masks (n, unit) of stimulus i -> its embeddings in the space of the aim."""
    if isinstance(inputs, Words):
        run = word_model(network, inputs.tokens[i : i + 1])
        owner = torch.from_numpy(inputs.word[i])
        owner = torch.nn.functional.pad(owner, (0, inputs.tokens.shape[1] - len(owner)), value=-1)

        def words(mask: Tensor) -> Tensor:
            shown = torch.where(owner >= 0, mask[:, owner.clamp_min(0)], torch.ones(()))
            return aim.space(torch.nn.functional.normalize(run(shown), dim=-1))

        return words
    picture, look = inputs[i : i + 1], pixel_model(network)
    shape = picture.shape[-2:]

    def pixels(mask: Tensor) -> Tensor:
        return aim.space(torch.nn.functional.normalize(look(picture * mask.view(-1, 1, *shape)), dim=-1))

    return pixels
