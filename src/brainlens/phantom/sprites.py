"""Objects as antialiased sprites: drawn once at `MASTER` pixels, outlined, and reduced with an area filter."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageChops
from scipy.ndimage import maximum_filter

from brainlens.phantom.drawing import DRAWINGS
from brainlens.phantom.pen import COLORS, DARK, Pen

MASTER = 208  # pixels of the master drawing


@cache
def _master(domain: str, kind: str, color: str) -> Image.Image:
    pen = Pen(MASTER)
    DRAWINGS[domain][kind](pen, COLORS[color])
    alpha = pen.image.getchannel("A")
    # rows, then columns: the largest of 9 x 9 pixels as Pillow's MaxFilter gives it, twenty times as fast
    outline = Image.fromarray(maximum_filter(np.asarray(alpha), 9, mode="nearest"))
    out = Image.new("RGBA", pen.image.size, (*DARK, 0))
    out.putalpha(outline)
    out.alpha_composite(pen.image)
    # colour under transparent pixels would bleed into the edge on reduction; the outline's colour stands there instead
    return Image.merge("RGBA", (*out.convert("RGB").split(), ImageChops.lighter(outline, alpha)))


@lru_cache(maxsize=8192)
def sprite(domain: str, kind: str, color: str, pixels: int, flip: bool) -> tuple[Image.Image, Image.Image]:
    """One object as (RGB picture, L mask) of pixels x pixels, antialiased; `flip` mirrors left and right (never words)."""
    master = _master(domain, kind, color)
    if flip and domain != "words":
        master = master.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    small = master.resize((pixels, pixels), Image.Resampling.BOX if pixels * 2 < MASTER else Image.Resampling.LANCZOS)
    return small.convert("RGB"), small.getchannel("A")


@cache
def drawn_part(domain: str, kind: str, flip: bool) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is drawn, as shares of the sprite's side."""
    found = sprite(domain, kind, next(iter(COLORS)), MASTER, flip)[1].point(lambda v: 255 if v > 127 else 0).getbbox()
    assert found is not None
    left, top, right, bottom = (edge / MASTER for edge in found)
    return left, top, right, bottom
