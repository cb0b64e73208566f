"""The drawings of the phantom's scenes: one function per kind, in unit coordinates.

Every kind is drawn on a canvas whose visible square is [-1, 1] x [-1, 1] (x right, y down) with a dark outline, which
`sprites` adds. Only the object's main part takes the colour that the caption names; skin, tyres, paper and blades keep
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from brainlens.phantom.pen import DARK, GLASS, PAPER, SKIN, STEEL, WOOD, Pen, Rgb, shade

# --------------------------------------------------------------------------------------------------------------- faces


def _eyes(pen: Pen, y: float, gap: float, size: float) -> None:
    for side in (-1, 1):
        pen.oval(side * gap, y, size * 1.25, size * 1.25, (255, 255, 255))
        pen.oval(side * gap, y, size * 0.75, size * 0.8, DARK)


def _man(pen: Pen, c: Rgb) -> None:
    pen.oval(0, 0.14, 0.68, 0.82, SKIN)
    pen.pie(0, 0.3, 0.66, (8, 172), (112, 72, 44))
    pen.oval(0, 0.36, 0.36, 0.24, SKIN)
    pen.box(-0.26, 0.44, 0.26, 0.56, (190, 70, 70), 0.05)
    pen.pie(0, -0.16, 0.8, (180, 360), c)  # hat
    pen.box(-0.98, -0.3, 0.98, -0.1, shade(c, 0.72), 0.08)
    _eyes(pen, 0.06, 0.27, 0.11)


def _woman(pen: Pen, c: Rgb) -> None:
    pen.oval(0, -0.12, 0.92, 0.84, c)  # long hair
    pen.box(-0.92, -0.1, -0.42, 0.92, c, 0.16)
    pen.box(0.42, -0.1, 0.92, 0.92, c, 0.16)
    pen.oval(0, 0.12, 0.56, 0.68, SKIN)
    pen.pie(0, -0.3, 0.62, (180, 360), shade(c, 0.86))
    _eyes(pen, 0.04, 0.24, 0.12)
    pen.oval(0, 0.46, 0.2, 0.09, (200, 40, 60))


def _baby(pen: Pen, c: Rgb) -> None:
    for side in (-1, 1):
        pen.oval(side * 0.8, 0.0, 0.17, 0.2, shade(SKIN, 0.9))
    pen.oval(0, -0.02, 0.8, 0.78, SKIN)
    pen.arc(0.04, -0.74, 0.17, (90, 350), 0.08, WOOD)
    for side in (-1, 1):
        pen.oval(side * 0.52, 0.24, 0.15, 0.11, (246, 160, 150))
    _eyes(pen, -0.04, 0.32, 0.12)
    pen.poly([(-0.96, 0.98), (-0.7, 0.56), (0.7, 0.56), (0.96, 0.98)], c)  # bib
    pen.oval(0, 0.4, 0.26, 0.22, c)
    pen.oval(0, 0.4, 0.1, 0.1, PAPER)


def _clown(pen: Pen, c: Rgb) -> None:
    for side in (-1, 1):
        for x, y in ((0.72, -0.3), (0.82, 0.02), (0.7, 0.3)):
            pen.oval(side * x, y, 0.25, 0.25, c)
    pen.oval(0, 0.14, 0.64, 0.76, PAPER)
    pen.poly([(-0.34, -0.46), (0, -1.0), (0.34, -0.46)], shade(c, 0.75))
    pen.oval(0, -0.94, 0.12, 0.12, PAPER)
    for side in (-1, 1):
        pen.poly([(side * 0.26, -0.26), (side * 0.12, 0.02), (side * 0.26, 0.26), (side * 0.4, 0.02)], DARK)
    pen.oval(0, 0.24, 0.18, 0.18, (230, 30, 40))
    pen.pie(0, 0.42, 0.42, (10, 170), (200, 30, 40))
    pen.pie(0, 0.4, 0.26, (10, 170), (255, 255, 255))


# -------------------------------------------------------------------------------------------------------------- bodies


def _dancer(pen: Pen, c: Rgb) -> None:
    pen.line([(-0.14, -0.4), (-0.46, -0.62), (-0.3, -0.96)], 0.13, SKIN)
    pen.line([(0.14, -0.4), (0.46, -0.62), (0.3, -0.96)], 0.13, SKIN)
    pen.line([(-0.1, 0.3), (-0.14, 0.95)], 0.15, SKIN)
    pen.line([(0.1, 0.3), (0.42, 0.6), (0.16, 0.82)], 0.15, SKIN)
    pen.poly([(-0.2, -0.44), (0.2, -0.44), (0.14, -0.02), (0.76, 0.4), (-0.76, 0.4), (-0.14, -0.02)], c)
    pen.oval(0, -0.64, 0.2, 0.22, SKIN)
    pen.pie(0, -0.68, 0.22, (180, 360), (70, 44, 30))
    pen.oval(0, -0.92, 0.1, 0.1, (70, 44, 30))


def _runner(pen: Pen, c: Rgb) -> None:
    pen.line([(-0.1, 0.16), (0.36, 0.4), (0.2, 0.9), (0.42, 0.92)], 0.18, SKIN)
    pen.line([(-0.1, 0.16), (-0.36, 0.5), (-0.88, 0.56), (-0.94, 0.4)], 0.18, SKIN)
    pen.line([(0.14, -0.4), (-0.4, -0.3), (-0.62, 0.02)], 0.14, SKIN)
    pen.line([(0.1, -0.44), (0.12, 0.12)], 0.1, c)
    pen.poly([(-0.06, -0.54), (0.32, -0.48), (0.14, 0.24), (-0.3, 0.2)], c)
    pen.line([(0.18, -0.38), (0.46, -0.02), (0.84, -0.26)], 0.14, SKIN)
    pen.oval(0.3, -0.74, 0.23, 0.23, SKIN)
    pen.pie(0.28, -0.78, 0.25, (150, 340), (60, 40, 30))


def _hand(pen: Pen, c: Rgb) -> None:
    for x, tip, width in ((-0.4, -0.62, 0.2), (-0.13, -0.88, 0.21), (0.14, -0.84, 0.21), (0.4, -0.56, 0.19)):
        pen.line([(x * 0.85, 0.1), (x, tip)], width, SKIN)
    pen.line([(-0.3, 0.4), (-0.8, -0.02)], 0.22, SKIN)
    pen.box(-0.48, -0.12, 0.48, 0.58, SKIN, 0.16)
    pen.box(-0.44, 0.52, 0.44, 0.98, c, 0.05)  # sleeve
    pen.box(-0.52, 0.5, 0.52, 0.66, shade(c, 0.75), 0.05)
    for x in (-0.26, 0.0, 0.26):
        pen.line([(x, -0.02), (x, -0.24)], 0.035, shade(SKIN, 0.75))


# -------------------------------------------------------------------------------------------------------------- places


def _house(pen: Pen, c: Rgb) -> None:
    pen.box(0.38, -0.86, 0.6, -0.3, (150, 80, 66))
    pen.poly([(-1.0, -0.1), (0, -0.92), (1.0, -0.1)], c)
    pen.box(-0.78, -0.1, 0.78, 0.92, (236, 222, 196))
    pen.box(-0.16, 0.3, 0.2, 0.92, WOOD)
    for x in (-0.5, 0.5):
        pen.box(x - 0.2, 0.12, x + 0.2, 0.48, GLASS)
        pen.line([(x, 0.12), (x, 0.48)], 0.04, DARK)
        pen.line([(x - 0.2, 0.3), (x + 0.2, 0.3)], 0.04, DARK)


def _tower(pen: Pen, c: Rgb) -> None:
    pen.poly([(-0.4, 0.96), (-0.27, -0.46), (0.27, -0.46), (0.4, 0.96)], PAPER)
    for top in (-0.26, 0.16, 0.58):
        half = 0.29 + (top + 0.26) * 0.092
        pen.poly([(-half, top), (half, top), (half + 0.02, top + 0.22), (-half - 0.02, top + 0.22)], c)
    pen.box(-0.4, -0.52, 0.4, -0.42, DARK)
    pen.box(-0.22, -0.78, 0.22, -0.5, (255, 240, 150))
    pen.poly([(-0.34, -0.74), (0, -1.0), (0.34, -0.74)], c)


def _bridge(pen: Pen, c: Rgb) -> None:
    pen.box(-1.0, 0.16, 1.0, 0.34, c)
    for x in (-0.5, 0.5):
        pen.box(x - 0.09, -0.62, x + 0.09, 0.78, shade(c, 0.8))
    for i in range(9):
        t = i / 8 - 0.5
        pen.line([(t, 0.2), (t, -0.5 + 0.56 * (1 - (2 * t) ** 2))], 0.03, shade(c, 0.8))
    pen.line([(i / 8 - 0.5, -0.56 + 0.58 * (1 - (2 * (i / 8 - 0.5)) ** 2)) for i in range(9)], 0.06, c)
    for side in (-1, 1):
        pen.line([(side * 0.5, -0.58), (side * 0.98, 0.2)], 0.06, c)
        pen.line([(side * 0.72, -0.2), (side * 0.72, 0.2)], 0.03, shade(c, 0.8))


# --------------------------------------------------------------------------------------------------------------- words

_LETTERS = {
    "A": ".###.#...##...#######...##...##...#",
    "H": "#...##...##...#######...##...##...#",
    "I": "#####..#....#....#....#....#..#####",
    "O": ".###.#...##...##...##...##...#.###.",
    "P": "####.#...##...#####.#....#....#....",
    "S": ".#####....#.....###.....#....#####.",
    "T": "#####..#....#....#....#....#....#..",
    "X": "#...##...#.#.#...#...#.#.#...##...#",
    "Z": "#####....#...#...#...#...#....#####",
}


def _sign(text: str) -> Callable[[Pen, Rgb], None]:
    def draw(pen: Pen, c: Rgb) -> None:
        # ink and board always differ strongly, whatever the colour is
        board = DARK if sum(c) > 500 else PAPER
        pen.box(-1.0, -0.56, 1.0, 0.56, c, 0.1)
        pen.box(-0.93, -0.49, 0.93, 0.49, board, 0.08)
        gap = 0.075
        cell = (1.7 + gap) / len(text)
        width = min(cell - gap, 0.6)
        left = -(len(text) * (width + gap) - gap) / 2
        for i, letter in enumerate(text.upper()):
            x0 = left + i * (width + gap)
            for row in range(7):
                for column in range(5):
                    if _LETTERS[letter][row * 5 + column] == "#":
                        x, y = x0 + column * width / 5, -0.38 + row * 0.76 / 7
                        pen.box(x, y, x + width / 5 + 0.006, y + 0.76 / 7 + 0.006, c)

    return draw


# ---------------------------------------------------------------------------------------------------------------- food


def _apple(pen: Pen, c: Rgb) -> None:
    pen.line([(0.02, -0.5), (0.12, -0.94)], 0.11, WOOD)
    pen.poly([(0.12, -0.68), (0.4, -0.98), (0.76, -0.84), (0.5, -0.6)], (60, 150, 50))
    pen.oval(-0.36, 0.14, 0.54, 0.66, c)
    pen.oval(0.36, 0.14, 0.54, 0.66, c)
    pen.oval(0, 0.3, 0.64, 0.6, c)
    pen.oval(-0.5, -0.1, 0.12, 0.2, shade(c, 1.6))


def _cake(pen: Pen, c: Rgb) -> None:
    pen.oval(0, 0.72, 0.98, 0.22, (214, 220, 228))
    pen.box(-0.8, 0.02, 0.8, 0.74, (226, 176, 110), 0.06)
    pen.box(-0.8, 0.36, 0.8, 0.48, (140, 84, 44))
    pen.box(-0.84, -0.16, 0.84, 0.14, c, 0.1)
    for x in (-0.6, -0.2, 0.2, 0.6):
        pen.oval(x, 0.18, 0.13, 0.16, c)
    for x in (-0.45, 0, 0.45):
        pen.box(x - 0.06, -0.62, x + 0.06, -0.16, PAPER)
        pen.oval(x, -0.76, 0.1, 0.16, (255, 170, 30))


def _icecream(pen: Pen, c: Rgb) -> None:
    pen.poly([(-0.46, -0.06), (0.46, -0.06), (0, 0.98)], (222, 160, 84))
    for x in (-0.24, 0.0, 0.24):
        pen.line([(x - 0.12, 0.0), (x * 0.3 + 0.06, 0.66)], 0.035, (176, 112, 50))
    pen.oval(-0.3, -0.14, 0.34, 0.32, c)
    pen.oval(0.3, -0.14, 0.34, 0.32, shade(c, 0.88))
    pen.oval(0, -0.5, 0.4, 0.4, c)
    pen.oval(0.04, -0.88, 0.12, 0.12, (200, 20, 40))
    pen.oval(-0.14, -0.6, 0.1, 0.12, shade(c, 1.6))


def _mushroom(pen: Pen, c: Rgb) -> None:
    pen.poly([(-0.26, 0.0), (0.26, 0.0), (0.36, 0.92), (-0.36, 0.92)], (244, 232, 208))
    pen.pie(0, 0.16, 0.98, (180, 360), c)
    pen.box(-0.98, 0.08, 0.98, 0.24, shade(c, 0.8), 0.08)
    dot = PAPER if sum(c) < 680 else (150, 150, 160)
    for x, y, r in ((-0.5, -0.2, 0.15), (0.06, -0.48, 0.18), (0.54, -0.14, 0.14), (0.0, -0.02, 0.1)):
        pen.oval(x, y, r, r, dot)


# ------------------------------------------------------------------------------------------------------------- animals


def _cat(pen: Pen, c: Rgb) -> None:
    pen.line([(0.5, 0.6), (0.88, 0.5), (0.86, 0.0)], 0.15, shade(c, 0.8))
    pen.oval(0.12, 0.52, 0.56, 0.44, c)
    for x in (-0.26, 0.04, 0.42):
        pen.box(x - 0.1, 0.6, x + 0.1, 0.96, shade(c, 0.86), 0.06)
    pen.poly([(-0.82, -0.3), (-0.76, -0.98), (-0.36, -0.62)], c)
    pen.poly([(0.3, -0.3), (0.24, -0.98), (-0.16, -0.62)], c)
    pen.oval(-0.26, -0.2, 0.58, 0.5, c)
    for x in (-0.5, -0.04):
        pen.oval(x, -0.26, 0.11, 0.15, (90, 210, 90))
        pen.oval(x, -0.26, 0.05, 0.14, DARK)
    pen.poly([(-0.36, -0.04), (-0.18, -0.04), (-0.27, 0.08)], (240, 110, 130))


def _fish(pen: Pen, c: Rgb) -> None:
    pen.poly([(0.4, 0.0), (0.98, -0.5), (0.86, 0.0), (0.98, 0.5)], shade(c, 0.78))
    pen.poly([(-0.3, -0.3), (0.1, -0.76), (0.36, -0.2)], shade(c, 0.78))
    pen.poly([(-0.1, 0.3), (0.14, 0.66), (0.3, 0.2)], shade(c, 0.78))
    pen.oval(-0.2, 0, 0.76, 0.46, c)
    for x in (-0.1, 0.14, 0.36):
        pen.arc(x - 0.2, 0, 0.24, (-60, 60), 0.05, shade(c, 0.7))
    pen.oval(-0.62, -0.12, 0.13, 0.13, (255, 255, 255))
    pen.oval(-0.64, -0.12, 0.065, 0.065, DARK)
    pen.line([(-0.92, 0.14), (-0.74, 0.16)], 0.04, DARK)


def _bird(pen: Pen, c: Rgb) -> None:
    pen.line([(-0.08, 0.6), (-0.12, 0.96)], 0.06, (226, 140, 20))
    pen.line([(0.14, 0.6), (0.12, 0.96)], 0.06, (226, 140, 20))
    pen.poly([(0.3, 0.14), (1.0, -0.22), (0.94, 0.3), (0.4, 0.5)], shade(c, 0.7))
    pen.oval(0.04, 0.26, 0.58, 0.46, c)
    pen.oval(-0.4, -0.34, 0.38, 0.38, c)
    pen.poly([(-0.7, -0.44), (-1.0, -0.26), (-0.7, -0.18)], (250, 160, 20))
    pen.oval(0.16, 0.2, 0.38, 0.26, shade(c, 0.74))
    pen.oval(-0.5, -0.42, 0.11, 0.11, (255, 255, 255))
    pen.oval(-0.52, -0.42, 0.06, 0.06, DARK)


def _butterfly(pen: Pen, c: Rgb) -> None:
    for side in (-1, 1):
        pen.line([(0, -0.44), (side * 0.3, -0.92)], 0.05, DARK)
        pen.oval(side * 0.52, -0.32, 0.46, 0.46, c)
        pen.oval(side * 0.42, 0.44, 0.38, 0.4, shade(c, 0.82))
        pen.oval(side * 0.56, -0.34, 0.2, 0.2, shade(c, 0.5))
        pen.oval(side * 0.44, 0.46, 0.14, 0.15, PAPER)
    pen.oval(0, 0.02, 0.11, 0.62, DARK)


# ------------------------------------------------------------------------------------------------------------ vehicles


def _wheels(pen: Pen, xs: Sequence[float], y: float, r: float) -> None:
    for x in xs:
        pen.oval(x, y, r, r, DARK)
        pen.oval(x, y, r * 0.48, r * 0.48, (200, 204, 210))


def _car(pen: Pen, c: Rgb) -> None:
    pen.poly([(-0.62, -0.06), (-0.36, -0.52), (0.32, -0.52), (0.62, -0.06)], c)
    pen.poly([(-0.48, -0.08), (-0.3, -0.42), (-0.04, -0.42), (-0.04, -0.08)], GLASS)
    pen.poly([(0.06, -0.08), (0.06, -0.42), (0.27, -0.42), (0.48, -0.08)], GLASS)
    pen.box(-0.98, -0.1, 0.98, 0.38, c, 0.14)
    pen.box(-0.98, 0.04, -0.84, 0.18, (255, 240, 150))
    _wheels(pen, (-0.54, 0.54), 0.38, 0.25)


def _boat(pen: Pen, c: Rgb) -> None:
    pen.line([(0, -0.92), (0, 0.4)], 0.08, WOOD)
    pen.poly([(0.1, -0.9), (0.1, 0.26), (0.88, 0.26)], PAPER)
    pen.poly([(-0.1, -0.7), (-0.1, 0.26), (-0.66, 0.26)], (214, 220, 230))
    pen.poly([(-0.98, 0.38), (0.98, 0.38), (0.64, 0.92), (-0.64, 0.92)], c)
    pen.line([(-0.84, 0.54), (0.84, 0.54)], 0.06, shade(c, 0.65))


def _plane(pen: Pen, c: Rgb) -> None:
    pen.poly([(0.5, -0.1), (0.72, -0.66), (0.96, -0.66), (0.9, 0.0)], shade(c, 0.75))
    pen.poly([(0.0, -0.1), (0.3, -0.6), (0.46, -0.6), (0.3, -0.1)], shade(c, 0.62))
    pen.oval(-0.08, 0, 0.88, 0.25, c)
    pen.poly([(0.4, -0.2), (0.96, -0.06), (0.4, 0.2)], c)
    pen.poly([(-0.2, 0.06), (0.24, 0.06), (0.52, 0.76), (0.3, 0.76)], shade(c, 0.72))
    for x in (-0.4, -0.16, 0.08, 0.32):
        pen.oval(x, -0.06, 0.07, 0.07, GLASS)
    pen.poly([(-0.84, -0.1), (-0.6, -0.19), (-0.58, -0.02), (-0.86, -0.02)], GLASS)


def _truck(pen: Pen, c: Rgb) -> None:
    pen.box(-0.3, -0.66, 0.98, 0.42, c, 0.04)
    for x in (0.02, 0.34, 0.66):
        pen.line([(x, -0.54), (x, 0.3)], 0.05, shade(c, 0.75))
    pen.box(-0.98, -0.24, -0.32, 0.42, (120, 128, 142), 0.08)
    pen.box(-0.88, -0.14, -0.52, 0.12, GLASS, 0.03)
    pen.box(-0.98, 0.32, 0.98, 0.48, DARK)
    _wheels(pen, (-0.62, 0.24, 0.7), 0.48, 0.22)


# --------------------------------------------------------------------------------------------------------------- tools


def _hammer(pen: Pen, c: Rgb) -> None:
    pen.line([(0.0, -0.4), (0.0, 0.88)], 0.24, c)
    pen.box(-0.62, -0.86, 0.42, -0.38, STEEL, 0.06)
    pen.box(-0.78, -0.92, -0.5, -0.32, shade(STEEL, 0.7), 0.04)
    pen.poly([(0.42, -0.86), (0.94, -0.52), (0.42, -0.44)], shade(STEEL, 0.85))


def _scissors(pen: Pen, c: Rgb) -> None:
    pen.poly([(-0.52, -0.98), (-0.32, -0.94), (0.22, 0.34), (0.02, 0.4)], shade(STEEL, 1.4))
    pen.poly([(0.52, -0.98), (0.32, -0.94), (-0.22, 0.34), (-0.02, 0.4)], STEEL)
    for side in (-1, 1):
        pen.arc(side * 0.38, 0.6, 0.36, (0, 360), 0.19, c)
    pen.oval(0, 0.12, 0.09, 0.09, DARK)


def _saw(pen: Pen, c: Rgb) -> None:
    teeth = [(0.4 - i * 0.115, 0.34 + (0.14 if i % 2 else 0.0)) for i in range(13)]
    pen.poly([(0.4, -0.3), (-0.98, 0.06), (-0.98, 0.34), *reversed(teeth)], shade(STEEL, 1.3))
    pen.box(0.3, -0.5, 0.98, 0.56, c, 0.2)
    pen.box(0.52, -0.2, 0.78, 0.26, shade(c, 0.35), 0.1)


_Draw = Callable[[Pen, Rgb], None]
DRAWINGS: dict[str, dict[str, _Draw]] = {
    "faces": {"man": _man, "woman": _woman, "baby": _baby, "clown": _clown},
    "bodies": {"dancer": _dancer, "runner": _runner, "hand": _hand},
    "places": {"house": _house, "tower": _tower, "bridge": _bridge},
    "words": {"hi": _sign("hi"), "zoo": _sign("zoo"), "stop": _sign("stop"), "taxi": _sign("taxi")},
    "food": {"apple": _apple, "cake": _cake, "icecream": _icecream, "mushroom": _mushroom},
    "animals": {"cat": _cat, "fish": _fish, "bird": _bird, "butterfly": _butterfly},
    "vehicles": {"car": _car, "boat": _boat, "plane": _plane, "truck": _truck},
    "tools": {"hammer": _hammer, "scissors": _scissors, "saw": _saw},
}
