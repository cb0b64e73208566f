"""CLIP: images and captions in one space.

The vision layers of the same folder come from `vision.extract(clip.backbone, ...)`; here are the two embeddings.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens.backbones import vision
from brainlens.backbones.folder import load_tokenizer, model_folder
from brainlens.types import DataError, Features, Stimuli, reading, unique_ids
from brainlens.warned import warn


@dataclass(frozen=True)
class Clip:
    """A CLIP folder, loaded: the vision `backbone` (whose model is the whole CLIP), its `tokenizer`, the text limit in tokens."""

    backbone: vision.Backbone
    tokenizer: Any
    max_tokens: int


def load_clip(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Clip:
    """CLIP with its tokenizer, from a local folder or by hub name.

    Raises DataError if the folder holds no whole CLIP (vision, text, tokenizer).
    """
    place = model_folder(folder)
    backbone = vision.load(place, device=device, dtype=dtype)
    if backbone.model.config.model_type != "clip":  # others pad and pool their text in other ways
        raise DataError(
            f"{str(folder)!r} holds a {backbone.model.config.model_type} model, not CLIP, and cannot embed captions; "
            "give a CLIP, or read images alone (--captions none)"
        )
    with reading(folder, "its configuration and its tokenizer do not fit: copy its files again"):
        text = backbone.model.config.text_config
        return Clip(backbone, load_tokenizer(place, vocabulary=int(text.vocab_size)), int(text.max_position_embeddings))


def embed_images(
    clip: Clip | vision.Backbone,
    stimuli: Stimuli,
    *,
    batch: int = 32,
    normalise: bool = True,
    cache: str | Path | None = None,
) -> Features:
    """The image embeddings, layer "image" (stimulus, dimension) float32, of length 1 unless normalise is False.

    clip: or another network of pictures, whose embedding is its class token, else the mean over places.
    """
    backbone = clip.backbone if isinstance(clip, Clip) else clip
    found = vision.extract(backbone, stimuli, ["image"], batch=batch, dtype=np.float32, cache=cache)
    rows = np.array(found["image"], dtype=np.float32)
    return Features({"image": _unit(rows) if normalise else rows}, found.ids, backbone.name)


def embed_texts(
    clip: Clip,
    captions: Sequence[Sequence[str]],
    ids: Sequence[str] | np.ndarray,
    *,
    average: bool = True,
    normalise: bool = True,
    batch: int = 64,
) -> Features:
    """The caption embeddings, layer "text" (stimulus, dimension) float32.

    captions: the captions of each stimulus. average: the mean of a stimulus's unit embeddings, so that each caption
    counts the same; otherwise one row for each caption, with ids "<stimulus>#<number>". normalise: rows of length 1.
    Captions beyond the text limit are cut, keeping the end token, and their number is logged; `token_counts` tells
    which. Text is brought to Unicode NFC first, so that one spelling has one embedding.

    Raises DataError for a stimulus without captions and an empty caption.
    """
    names = unique_ids(ids, "captions")
    if len(captions) != len(names):
        raise DataError(f"captions: {len(names)} ids but {len(captions)} lists of captions")
    flat, owner, labels = [], [], []
    for i, (name, several) in enumerate(zip(names, captions, strict=True)):
        if isinstance(several, str) or len(several) == 0:
            raise DataError(f"captions of stimulus {str(name)!r}: expected a list of at least one string, got {several!r:.60}")
        for k, caption in enumerate(several):
            flat.append(_cleaned(caption, str(name)))
            owner.append(i)
            labels.append(f"{name}#{k}")
    tokens = _tokenize(clip, flat)
    rows = _unit(_embed(clip, tokens, batch))
    if not average:
        return Features({"text": rows}, np.array(labels), clip.backbone.name).check_finite()
    of = np.array(owner)
    mean = np.zeros((len(names), rows.shape[1]), dtype=np.float64)
    np.add.at(mean, of, rows)
    mean /= np.bincount(of, minlength=len(names))[:, None]
    out = mean.astype(np.float32)
    return Features({"text": _unit(out) if normalise else out}, names, clip.backbone.name).check_finite()


def token_counts(clip: Clip, captions: Sequence[str]) -> np.ndarray:
    """Number of tokens (start and end included) of each caption before any cut; what exceeds `clip.max_tokens` is cut.

    Returns (caption,) int64.
    """
    return np.array([len(_plain(clip, [_cleaned(c, str(i))])[0]) for i, c in enumerate(captions)], dtype=np.int64)


def _cleaned(caption: str, name: str) -> str:
    if not isinstance(caption, str):
        raise DataError(f"captions of stimulus {name!r}: expected text, got {type(caption).__name__} {caption!r:.60}")
    text = unicodedata.normalize("NFC", caption).strip()
    if not text:
        raise DataError(f"captions of stimulus {name!r}: caption {caption!r:.20} is empty; drop it or write one")
    return text


def _plain(clip: Clip, texts: list[str]) -> list[list[int]]:
    """Token numbers without cut or padding (`verbose` would warn about length once a process, not once a caption)."""
    return clip.tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]


def _tokenize(clip: Clip, texts: list[str]) -> list[list[int]]:
    tokens = _plain(clip, texts)
    long = sum(len(row) > clip.max_tokens for row in tokens)
    if long:
        warn(f"{long} of {len(tokens)} captions are longer than {clip.max_tokens} tokens and were cut")
    return [row if len(row) <= clip.max_tokens else [*row[: clip.max_tokens - 1], row[-1]] for row in tokens]


def _embed(clip: Clip, tokens: list[list[int]], batch: int) -> np.ndarray:
    """Text embeddings in the order given; captions of one length go together, so that little is padded."""
    model, device = clip.backbone.model, clip.backbone.device
    filler = clip.tokenizer.pad_token_id
    filler = tokens[0][-1] if filler is None else filler
    order = np.argsort([len(row) for row in tokens], kind="stable")
    out: np.ndarray | None = None
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            here = order[start : start + batch]
            width = max(len(tokens[i]) for i in here)
            numbers = torch.tensor([tokens[i] + [filler] * (width - len(tokens[i])) for i in here], device=device)
            lengths = torch.tensor([len(tokens[i]) for i in here], device=device)
            mask = (torch.arange(width, device=device)[None] < lengths[:, None]).long()
            found = model.get_text_features(input_ids=numbers, attention_mask=mask)
            rows = getattr(found, "pooler_output", found).float().cpu().numpy()
            if out is None:
                out = np.empty((len(tokens), rows.shape[1]), dtype=np.float32)
            out[here] = rows
    assert out is not None
    return out


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not (norm > 0).all():
        raise DataError(f"embedding {int(np.argmin(norm[:, 0]))} has length 0; the weights of this model may be damaged")
    return (rows / norm).astype(np.float32)
