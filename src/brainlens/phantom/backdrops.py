"""The eight backgrounds of the phantom's scenes, each in several variants, drawn larger than the picture and cropped."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]

MARGIN = 0.15  # of the picture's side: how far a backdrop may shift
VARIANTS = 8


class _Canvas:
    """Drawing in a unit square (0..1, y down)."""

    def __init__(self, pixels: int) -> None:
        self.image = Image.new("RGB", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.image)
        self.n = pixels

    def gradient(self, y0: float, y1: float, top: Rgb, bottom: Rgb) -> None:
        a, b = round(y0 * self.n), round(y1 * self.n)
        for y in range(a, b):
            t = (y - a) / max(1, b - a - 1)
            self.draw.line([(0, y), (self.n, y)], fill=tuple(round(p + (q - p) * t) for p, q in zip(top, bottom, strict=True)))

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        n = self.n
        self.draw.rectangle([round(x0 * n), round(y0 * n), round(x1 * n), round(y1 * n)], fill=fill)

    def poly(self, points: list[tuple[float, float]], fill: Rgb) -> None:
        self.draw.polygon([(x * self.n, y * self.n) for x, y in points], fill=fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Rgb) -> None:
        n = self.n
        self.draw.ellipse([(x - rx) * n, (y - ry) * n, (x + rx) * n, (y + ry) * n], fill=fill)


def _beach(c: _Canvas, r: random.Random) -> None:
    sea, sand = 0.38 + 0.06 * r.random(), 0.6 + 0.06 * r.random()
    c.gradient(0, sea, (120, 196, 244), (206, 236, 250))
    c.gradient(sea, sand, (22, 120, 180), (84, 190, 210))
    c.gradient(sand, 1, (246, 226, 168), (226, 194, 124))
    for i in range(4):
        x = i * 0.3 + 0.2 * r.random()
        c.oval(x, sand, 0.18, 0.015, (250, 252, 252))
    c.oval(0.15 + 0.7 * r.random(), 0.16, 0.07, 0.07, (255, 244, 180))


def _forest(c: _Canvas, r: random.Random) -> None:
    c.gradient(0, 1, (96, 140, 98), (38, 74, 44))
    for row, tone in ((0.5, (58, 112, 68)), (0.72, (36, 84, 48)), (0.92, (22, 60, 34))):
        for i in range(7):
            x, h = i / 6 + 0.08 * (r.random() - 0.5), 0.4 + 0.14 * r.random()
            c.rect(x - 0.012, row, x + 0.012, row + 0.1, (70, 48, 30))
            for k in range(3):
                w, y = 0.1 - 0.022 * k, row - h * 0.27 * k
                c.poly([(x - w, y), (x + w, y), (x, y - h * 0.5)], tone)


def _city(c: _Canvas, r: random.Random) -> None:
    c.gradient(0, 0.8, (200, 204, 216), (232, 226, 220))
    x = -0.02
    while x < 1:
        w, h = 0.11 + 0.09 * r.random(), 0.3 + 0.4 * r.random()
        g = 96 + int(50 * r.random())
        c.rect(x, 0.78 - h, x + w, 0.8, (g, g, g + 10))
        for i in range(int(w / 0.04)):
            for j in range(int(h / 0.06)):
                lit = (250, 226, 140) if r.random() < 0.4 else (70, 78, 96)
                c.rect(x + 0.012 + i * 0.04, 0.8 - h + j * 0.06, x + 0.032 + i * 0.04, 0.83 - h + j * 0.06, lit)
        x += w + 0.008
    c.gradient(0.78, 1, (92, 92, 98), (66, 66, 72))
    for i in range(6):
        c.rect(i * 0.2, 0.885, i * 0.2 + 0.1, 0.9, (240, 240, 230))


def _snow(c: _Canvas, r: random.Random) -> None:
    c.gradient(0, 0.7, (150, 186, 226), (216, 230, 244))
    for _ in range(4):
        x, w, h = r.random(), 0.24 + 0.2 * r.random(), 0.3 + 0.24 * r.random()
        c.poly([(x - w, 0.72), (x + w, 0.72), (x, 0.72 - h)], (112, 124, 150))
        c.poly([(x - w * 0.4, 0.72 - h * 0.6), (x + w * 0.4, 0.72 - h * 0.6), (x, 0.72 - h)], (250, 252, 255))
    c.gradient(0.66, 1, (236, 242, 250), (206, 220, 238))
    for _ in range(26):
        c.oval(r.random(), r.random(), 0.009, 0.009, (255, 255, 255))


def _desert(c: _Canvas, r: random.Random) -> None:
    c.gradient(0, 0.56, (250, 196, 120), (254, 230, 178))
    c.gradient(0.52, 1, (226, 150, 80), (190, 108, 50))
    for k in range(3):
        x, y = r.random(), 0.62 + 0.14 * k
        c.oval(x, y + 0.1, 0.5, 0.12, (214 - 14 * k, 136 - 12 * k, 70 - 8 * k))
    for _ in range(3):
        x, y, g = r.random(), 0.5 + 0.3 * r.random(), (86, 128, 62)
        c.rect(x - 0.018, y - 0.16, x + 0.018, y + 0.06, g)
        c.rect(x - 0.06, y - 0.08, x + 0.06, y - 0.055, g)
        c.rect(x - 0.06, y - 0.13, x - 0.04, y - 0.06, g)
        c.rect(x + 0.04, y - 0.12, x + 0.06, y - 0.06, g)


def _room(c: _Canvas, r: random.Random) -> None:
    c.gradient(0, 0.68, (222, 200, 182), (212, 186, 166))
    for i in range(12):
        c.rect(i / 12, 0, i / 12 + 0.014, 0.68, (204, 176, 156))
    c.gradient(0.68, 1, (150, 98, 62), (120, 74, 46))
    for i in range(5):
        c.rect(0, 0.7 + i * 0.065, 1, 0.705 + i * 0.065, (100, 62, 38))
    x = 0.12 + 0.5 * r.random()
    c.rect(x, 0.1, x + 0.3, 0.44, (248, 246, 240))
    c.rect(x + 0.02, 0.12, x + 0.14, 0.42, (156, 206, 240))
    c.rect(x + 0.16, 0.12, x + 0.28, 0.42, (156, 206, 240))
    c.rect(0, 0.65, 1, 0.68, (244, 238, 228))


def _night(c: _Canvas, r: random.Random) -> None:
    c.gradient(0, 1, (10, 12, 40), (36, 36, 84))
    for _ in range(60):
        s, g = 0.004 + 0.004 * r.random(), 180 + int(75 * r.random())
        c.oval(r.random(), r.random() * 0.8, s, s, (g, g, g))
    x, y = 0.2 + 0.6 * r.random(), 0.18 + 0.1 * r.random()
    c.oval(x, y, 0.09, 0.09, (244, 240, 206))
    c.oval(x + 0.04, y - 0.02, 0.08, 0.08, (16, 18, 48))
    c.poly([(0, 1), (0, 0.86), (0.25, 0.8 + 0.04 * r.random()), (0.6, 0.88), (0.85, 0.82), (1, 0.88), (1, 1)], (8, 10, 24))


def _meadow(c: _Canvas, r: random.Random) -> None:
    c.gradient(0, 0.5, (136, 200, 246), (214, 238, 250))
    for _ in range(3):
        x, y = r.random(), 0.1 + 0.2 * r.random()
        for d in (-0.06, 0, 0.06):
            c.oval(x + d, y, 0.06, 0.035 + 0.015 * (d == 0), (252, 252, 255))
    c.gradient(0.46, 1, (150, 206, 88), (92, 160, 56))
    c.oval(0.2 + 0.6 * r.random(), 0.56, 0.5, 0.14, (138, 196, 80))
    for _ in range(40):
        tint = [(250, 240, 120), (250, 250, 250), (240, 150, 190)][int(3 * r.random())]
        c.oval(r.random(), 0.6 + 0.4 * r.random(), 0.008, 0.008, tint)


_DRAW: dict[str, Callable[[_Canvas, random.Random], None]] = {
    "beach": _beach, "forest": _forest, "city": _city, "snow": _snow,
    "desert": _desert, "room": _room, "night": _night, "meadow": _meadow,
}  # fmt: skip
BACKGROUNDS: tuple[str, ...] = tuple(_DRAW)


@lru_cache(maxsize=256)
def backdrop(name: str, variant: int, pixels: int) -> Image.Image:
    """A background picture of pixels x pixels plus `MARGIN` on the right and below, in variant 0..VARIANTS-1."""
    full = round(pixels * (1 + MARGIN))
    canvas = _Canvas(full * 2)
    _DRAW[name](canvas, random.Random(1000 * BACKGROUNDS.index(name) + variant))
    return canvas.image.reduce(2)
