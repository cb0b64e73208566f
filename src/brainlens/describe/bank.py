"""The bank: t pictures of every noun, the same for all voxels, from a recording's own pictures or from a diffusion model.

A bank of real pictures takes them from the training images whose captions name the noun. A drawn bank has one picture for every
(noun, k); its noise depends on the noun and on k alone, so that neither the order of the nouns nor a restart changes a picture,
and a noun that joins later leaves the others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainlens import store
from brainlens.models.encoding.layered import pooled
from brainlens.types import DataError, Features, Stimuli

PROMPT = "One realistic image of {}"
NOTE = "bank.json"
Draw = Callable[[Sequence[str], Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Bank:
    """Features (picture, feature) of a bank, the noun of each picture as a number into `nouns`, and where they come from.

    rows: the number of each picture where one may stand for several nouns (a real bank: its row in the recording), else empty.
    """

    x: np.ndarray
    noun: np.ndarray
    nouns: tuple[str, ...]
    source: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.noun)

    def pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """Features (different picture, feature) of its pictures, each once, and where each place of the bank finds its own."""
        if not len(self.rows):
            return self.x, np.arange(len(self.x))
        _, first, back = np.unique(self.rows, return_index=True, return_inverse=True)
        return self.x[first], back


def picture_seed(noun: str, k: int, seed: int = 0) -> int:
    """The seed of picture k of a noun: 63 bits of SHA-256 over seed, noun and k."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{noun}\0{k}".encode()).digest()[:8], "big") >> 1


def real_rows(
    nouns: Sequence[str], present: np.ndarray, rows: np.ndarray, *, pictures: int, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Rows of real pictures and the number of the noun of each: up to `pictures` of each noun, chosen by the noun's own seed.

    present (image, noun) over all images, rows: the images that may be used (training images). A picture may stand for several
    nouns. Raises DataError where no noun has a picture.
    """
    if pictures < 1:
        raise DataError(f"bank: {pictures} pictures a noun; at least 1 is needed")
    chosen, number = [], []
    for c, noun in enumerate(nouns):
        have = rows[present[rows, c]]
        order = np.random.default_rng(picture_seed(noun, 0, seed)).permutation(len(have))[:pictures]
        chosen.append(have[np.sort(order)])
        number.append(np.full(len(order), c))
    if not sum(map(len, chosen)):
        raise DataError("bank: no picture that may be used shows any of the nouns")
    return np.concatenate(chosen), np.concatenate(number)


def drawn_bank(
    nouns: Sequence[str],
    draw: Draw,
    folder: str | Path,
    *,
    pictures: int = 10,
    seed: int = 0,
    key: str = "",
    prompt: str = PROMPT,
    tell: Callable[[str, float | None], None] | None = None,
) -> Stimuli:
    """Pictures of every noun, ids "noun#k", kept in a folder noun by noun; what is there is not drawn again.

    draw(prompts, seeds) -> (n, h, w, 3) uint8: the diffusion model (`models.generation.text_drawing`). key: what the pictures
    depend on beside noun, k, seed and prompt (model, steps); a folder with another key is refused. prompt holds one {}.
    Raises DataError for another key, and for a drawing function that gives other shapes.
    """
    if pictures < 1 or not len(nouns):
        raise DataError(f"bank: {pictures} pictures of {len(nouns)} nouns; at least one of each is needed")
    if prompt.count("{}") != 1:
        raise DataError(f"bank: the prompt {prompt!r} needs one {{}} where the noun stands")
    folder = Path(folder)
    note = {"key": key, "seed": seed, "prompt": prompt}
    if (folder / NOTE).exists() and store.read_json(folder / NOTE) != note:
        raise DataError(f"{folder} holds a bank of another model, seed or prompt; choose another folder")
    images: list[np.ndarray] = []
    ids: list[str] = []
    with store.lock(folder):
        store.save_json(folder / NOTE, note)
        for number, noun in enumerate(nouns):
            if tell is not None:
                tell(f"pictures of {len(nouns)} nouns", number / len(nouns))
            images.append(_pictures(noun, draw, folder, pictures, (seed, prompt)))
            ids += [f"{noun}#{k}" for k in range(pictures)]
    shapes = {each.shape[1:] for each in images}
    if len(shapes) != 1:
        raise DataError(f"bank: pictures of several shapes {sorted(shapes)} lie in {folder}; choose another folder")
    return Stimuli(np.array(ids), np.concatenate(images), [[noun] for noun in nouns for _ in range(pictures)])


def _pictures(noun: str, draw: Draw, folder: Path, pictures: int, fixed: tuple[int, str]) -> np.ndarray:
    """The pictures of one noun: those that are kept, and the rest drawn."""
    name = "noun-" + hashlib.sha256(noun.encode()).hexdigest()[:20]
    kept = np.asarray(store.open_array(folder, name)) if name in store.manifest(folder) else np.zeros((0, 1, 1, 3), np.uint8)
    if len(kept) >= pictures:
        return kept[:pictures]
    missing, (seed, prompt) = range(len(kept), pictures), fixed
    made = np.asarray(draw([prompt.format(noun)] * len(missing), [picture_seed(noun, k, seed) for k in missing]))
    if made.ndim != 4 or len(made) != len(missing) or made.shape[3] != 3 or made.dtype != np.uint8:
        raise DataError(f"bank: the drawing of {noun!r} gave {made.dtype} {made.shape}, expected uint8 ({len(missing)}, h, w, 3)")
    both = np.concatenate([kept, made]) if len(kept) else made
    store.save_array(folder, name, both)
    return both


def bank_of(features: Features, stimuli: Stimuli, layers: Sequence[str]) -> Bank:
    """A bank from the features of drawn pictures, whose captions are their nouns."""
    names = tuple(dict.fromkeys(caption[0] for caption in stimuli.captions))
    number = {noun: c for c, noun in enumerate(names)}
    noun = np.array([number[caption[0]] for caption in stimuli.captions])
    return Bank(pooled(features.take(stimuli.ids), layers), noun, names, "diffusion", np.zeros(0, dtype=np.int64))
