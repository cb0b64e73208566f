"""Drawn scenes with their truth: objects, masks, boxes, concepts and true captions.

A scene is 1-3 objects out of `KINDS` (eight `DOMAINS`) in one of eight colours and two sizes, at free positions that
captions name on a 3 x 3 grid, before one of eight `BACKGROUNDS` whose variant, shift and light vary. Scene k of a
(seed, split) is drawn from its own random stream, so it never depends on how many are asked for.

Splits share no pixels: an eighth of all (kind, colour, background) triples is held out and is shown by the main object of
every test scene and by no object of a train or validation scene; the main object of a train scene stands at an even, that
of a validation scene at an odd pixel.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from brainlens.phantom import captions
from brainlens.phantom.backdrops import BACKGROUNDS, MARGIN, VARIANTS, backdrop
from brainlens.phantom.drawing import DRAWINGS
from brainlens.phantom.pen import COLORS as PALETTE
from brainlens.phantom.sprites import drawn_part, sprite
from brainlens.types import DataError, Stimuli

DOMAINS: tuple[str, ...] = tuple(DRAWINGS)
KINDS: dict[str, str] = {kind: domain for domain, kinds in DRAWINGS.items() for kind in kinds}
COLORS: tuple[str, ...] = tuple(PALETTE)
SIZES: tuple[str, ...] = ("small", "large")
SPLITS: tuple[str, ...] = ("train", "validation", "test")
_GRID = 256  # positions and extents are whole numbers of 1/256 of the picture, so that every render size agrees
_EXTENTS = {"small": (72, 78, 84, 90), "large": (120, 128, 136, 144)}  # side of the drawing
_CELL = 62  # distance of neighbouring cell centres
_JITTER = 18  # largest offset from a cell's centre; the cells' borders stay clear
_APART = 0.56  # least distance of two centres, in sums of their half extents


@dataclass(frozen=True)
class Thing:
    """One object of a scene: centre (`cx`, `cy`) and side `extent` in 1/256 of the picture; `cell` of the 3 x 3 grid."""

    kind: str
    color: str
    size: str
    cell: tuple[int, int]
    cx: int
    cy: int
    extent: int
    flip: bool

    @property
    def domain(self) -> str:
        return KINDS[self.kind]


@dataclass(frozen=True)
class Scene:
    """What a picture shows: `things` from back (main, largest) to front, the background and its variant, shift, light."""

    things: tuple[Thing, ...]
    background: str
    variant: int
    shift: tuple[int, int]
    light: float


@functools.cache
def held_out(kind: str, color: str, background: str) -> bool:
    """Whether this combination occurs in test scenes only (one in eight, by hash)."""
    return hashlib.sha256(f"{kind}/{color}/{background}".encode()).digest()[0] % 8 == 0


def object_words(kind: str) -> tuple[str, ...]:
    """The words by which captions name a kind: the last one is the kind's own."""
    if kind not in KINDS:
        raise DataError(f"kind {kind!r} is unknown; kinds are {sorted(KINDS)}")
    return tuple(word for word in captions.noun(kind).split() if word not in ("a", "of"))


# ------------------------------------------------------------------------------------------------------ drawing at random


def _pick(options: Any, rng: random.Random) -> Any:
    return options[int(rng.random() * len(options))]


def _allowed(thing: Thing, background: str, split: str) -> bool:
    return split == "test" or not held_out(thing.kind, thing.color, background)


def _new_thing(rng: random.Random) -> Thing:
    kind = _pick(tuple(DRAWINGS[_pick(DOMAINS, rng)]), rng)
    size = _pick(SIZES, rng)
    cell = (int(rng.random() * 3) - 1, int(rng.random() * 3) - 1)
    cx, cy = (128 + _CELL * c + int((2 * rng.random() - 1) * _JITTER) for c in cell)
    flip = rng.random() < 0.5
    return Thing(kind, _pick(COLORS, rng), size, cell, cx, cy, _pick(_EXTENTS[size], rng), flip)


def _fits(thing: Thing, others: tuple[Thing, ...]) -> bool:
    for other in others:
        gap = _APART * (thing.extent + other.extent) / 2 * 1.25
        if thing.cell == other.cell or (thing.cx - other.cx) ** 2 + (thing.cy - other.cy) ** 2 < gap**2:
            return False
    return True


def _order(things: tuple[Thing, ...], split: str) -> tuple[Thing, ...]:
    """Largest first; the main object's x on the split's parity."""
    first, *rest = sorted(things, key=lambda t: -t.extent)
    cx = first.cx // 4 * 4 + (2 if split == "validation" else 0)
    return (replace(first, cx=cx), *rest)


def draw_scene(rng: random.Random, split: str) -> Scene:
    """A random scene of a split."""
    background = _pick(BACKGROUNDS, rng)
    n = 1 + int(rng.random() * 3)
    while True:
        things: tuple[Thing, ...] = ()
        for _ in range(40):
            thing = _new_thing(rng)
            if _allowed(thing, background, split) and _fits(thing, things):
                things = (*things, thing)
                if len(things) == n:
                    break
        things = _order(things, split)
        main = things[0]
        if len(things) == n and (split != "test" or held_out(main.kind, main.color, background)):
            break
    shift = (int(rng.random() * 32), int(rng.random() * 32))
    return Scene(things, background, int(rng.random() * VARIANTS), shift, 0.86 + 0.2 * rng.random())


def edit_scene(scene: Scene, what: str, rng: random.Random, *, split: str = "train") -> Scene | None:
    """The minimal pair: the same scene with one thing changed.

    what: "kind", "color", "size", "place" (one object of random number), "background", or "swap" (two objects exchange
    their places). None where the change is impossible there or would show a combination that the split holds out.
    """
    background, things = scene.background, list(scene.things)
    i = int(rng.random() * len(things))
    old = things[i]
    if what == "background":
        background = _pick([b for b in BACKGROUNDS if b != background], rng)
    elif what == "kind":
        things[i] = replace(old, kind=_pick([k for k in KINDS if k != old.kind], rng))
    elif what == "color":
        things[i] = replace(old, color=_pick([c for c in COLORS if c != old.color], rng))
    elif what == "size":
        size = SIZES[1 - SIZES.index(old.size)]
        things[i] = replace(old, size=size, extent=_pick(_EXTENTS[size], rng))
    elif what == "place":
        new = _new_thing(rng)
        if new.cell == old.cell:
            return None
        things[i] = replace(old, cell=new.cell, cx=new.cx, cy=new.cy)
    elif what == "swap":
        if len(things) < 2:
            return None
        j = (i + 1 + int(rng.random() * (len(things) - 1))) % len(things)
        a, b = things[i], things[j]
        if (a.kind, a.color, a.size) == (b.kind, b.color, b.size):
            return None
        things[i] = replace(a, cell=b.cell, cx=b.cx, cy=b.cy)
        things[j] = replace(b, cell=a.cell, cx=a.cx, cy=a.cy)
    else:
        raise DataError(f"edit {what!r} is unknown; edits are kind, color, size, place, background, swap")
    made = _order(tuple(things), split)
    if not all(_allowed(t, background, split) for t in made):
        return None
    if not all(_fits(t, made[:k]) for k, t in enumerate(made)):
        return None
    return replace(scene, things=made, background=background)


def scene_captions(scene: Scene) -> list[str]:
    """All phrasings of a scene; each names every object with colour, size and place or relation, and the background."""
    return [caption(scene, number) for number in range(captions.N_PHRASINGS)]


def caption(scene: Scene, number: int) -> str:
    """Phrasing `number` of a scene."""
    named = [captions.naming(t.kind, t.domain, t.color, t.size) for t in scene.things]
    at = [((t.cx - 128) / 128, (t.cy - 128) / 128) for t in scene.things]
    return captions.phrase(number, named, [t.cell for t in scene.things], at, scene.background)


# --------------------------------------------------------------------------------------------------------------- pictures


def _working_pixels(size: int) -> int:
    if not (isinstance(size, int) and 16 <= size <= 512):
        raise DataError(f"scene size {size!r} is not a whole number from 16 to 512")
    return size * max(2, -(-128 // size))


def render(scene: Scene, *, size: int = 64) -> np.ndarray:
    """The picture (size, size, 3) uint8, drawn at twice the size (128 pixels at least) and reduced."""
    big = _working_pixels(size)
    scale = big / _GRID
    left, top = (round(s / 32 * MARGIN * big) for s in scene.shift)
    picture = backdrop(scene.background, scene.variant, big).crop((left, top, left + big, top + big))
    for thing in scene.things:
        rgb, mask = sprite(thing.domain, thing.kind, thing.color, round(thing.extent * scale), thing.flip)
        picture.paste(rgb, _corner(thing, scale, rgb.width), mask)
    small = picture.reduce(big // size)
    return _light_table(round(scene.light * 100))[np.asarray(small)]


@functools.cache
def _light_table(percent: int) -> np.ndarray:
    return np.minimum(255, np.arange(256) * percent / 100).round().astype(np.uint8)


def _corner(thing: Thing, scale: float, pixels: int) -> tuple[int, int]:
    return round(thing.cx * scale - pixels / 2), round(thing.cy * scale - pixels / 2)


def _masks(things: list[Thing], size: int) -> list[np.ndarray]:
    big = _working_pixels(size)
    scale = big / _GRID
    canvas = Image.new("L", (big, big), 0)  # number of the front-most object at each pixel
    for number, thing in enumerate(things, start=1):
        _, mask = sprite(thing.domain, thing.kind, thing.color, round(thing.extent * scale), thing.flip)
        canvas.paste(number, _corner(thing, scale, mask.width), mask.point(lambda v: 255 if v > 127 else 0))
    front = np.asarray(canvas).reshape(size, big // size, size, big // size)
    masks: list[np.ndarray] = []
    taken = np.zeros((size, size), dtype=bool)
    for number in range(len(things), 0, -1):  # a pixel that two objects share by halves belongs to the nearer one
        mask = ((front == number).mean(axis=(1, 3)) >= 0.5) & ~taken
        taken |= mask
        masks.insert(0, mask)
    return masks


def scene_masks(stimuli: Stimuli, i: int) -> list[np.ndarray]:
    """Visible mask (size, size) bool of each object of scene i, in the order of `objects`; what is covered is False."""
    if "objects" not in stimuli.table.columns:
        raise DataError("these stimuli have no column 'objects'; scene_masks takes what make_scenes returned")
    rows = json.loads(stimuli.table["objects"].iloc[i])
    things = [
        Thing(
            o["kind"], o["color"], o["size"], (0, 0), round(o["x"] * 128 + 128), round(o["y"] * 128 + 128), o["extent"], o["flip"]
        )
        for o in rows
    ]
    return _masks(things, int(np.asarray(stimuli.images[i]).shape[0]))


# ------------------------------------------------------------------------------------------------------------------ table


def scene_at(k: int, *, seed: int = 0, split: str = "train") -> Scene:
    """Scene k of a (seed, split), whatever else is drawn."""
    return draw_scene(random.Random((seed * len(SPLITS) + SPLITS.index(split)) * 1_000_003 * 1_009 + k), split)


def _object_row(thing: Thing, size: int) -> dict[str, Any]:
    x, y, part = thing.cx / 128 - 1, thing.cy / 128 - 1, drawn_part(thing.domain, thing.kind, thing.flip)
    edges = [
        (centre + (share - 0.5) * thing.extent) / _GRID for centre, share in zip((thing.cx, thing.cy) * 2, part, strict=True)
    ]
    box = [round(min(1.0, max(0.0, e)) * size, 2) for e in edges]
    return {
        "kind": thing.kind, "domain": thing.domain, "color": thing.color, "size": thing.size,
        "x": x, "y": y, "box": box, "extent": thing.extent, "flip": thing.flip,
    }  # fmt: skip


def make_scenes(n: int, *, seed: int = 0, split: str = "train", first: int = 0, size: int = 64) -> Stimuli:
    """n scenes, number `first` onwards, of a split; the same arguments give the same bits.

    images (n, size, size, 3) uint8; captions: `captions.N_PHRASINGS` true sentences each, number 0 the plain one; table:
    domain, kind, color, size, x, y of the main object (the largest; centre in [-1, 1], x right, y down), background,
    n_objects, objects (JSON list of {kind, domain, color, size, x, y, box, extent, flip}, main first, later ones in
    front; box = [left, top, right, bottom] in pixels, clipped; extent in 1/256 of the picture), light.

    Raises DataError for an unknown split, a negative number or a size outside 16..512.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; splits are {list(SPLITS)}")
    if n < 0 or first < 0 or seed < 0:
        raise DataError(f"n, first and seed are not negative, got n={n}, first={first}, seed={seed}")
    _working_pixels(size)
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    texts: list[list[str]] = []
    rows: list[dict[str, Any]] = []
    for i in range(n):
        scene = scene_at(first + i, seed=seed, split=split)
        images[i] = render(scene, size=size)
        texts.append(scene_captions(scene))
        objects = [_object_row(thing, size) for thing in scene.things]
        main = {key: objects[0][key] for key in ("domain", "kind", "color", "size", "x", "y")}
        rows.append(
            {
                **main,
                "background": scene.background,
                "n_objects": len(objects),
                "objects": json.dumps(objects),
                "light": scene.light,
            }
        )
    ids = np.array([f"{split}-{seed}-{first + i:06d}" for i in range(n)], dtype=np.str_)
    columns = ["domain", "kind", "color", "size", "x", "y", "background", "n_objects", "objects", "light"]
    return Stimuli(ids, images, texts, pd.DataFrame(rows, columns=columns))
