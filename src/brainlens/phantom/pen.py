"""A pen that draws in unit coordinates, and the colours of the drawings."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]

COLORS: dict[str, Rgb] = {
    "red": (221, 32, 38),
    "orange": (250, 138, 22),
    "yellow": (250, 218, 44),
    "green": (34, 160, 62),
    "blue": (38, 92, 226),
    "purple": (140, 50, 178),
    "pink": (250, 130, 186),
    "white": (244, 244, 244),
}
DARK: Rgb = (34, 30, 40)
SKIN: Rgb = (242, 196, 160)
WOOD: Rgb = (150, 98, 52)
STEEL: Rgb = (158, 166, 178)
GLASS: Rgb = (190, 226, 246)
PAPER: Rgb = (250, 248, 238)


def shade(color: Rgb, factor: float) -> Rgb:
    """A colour made darker (factor < 1) or lighter (factor > 1, towards white)."""
    if factor <= 1:
        return (int(color[0] * factor), int(color[1] * factor), int(color[2] * factor))
    mix = factor - 1
    return (
        int(color[0] + (255 - color[0]) * mix),
        int(color[1] + (255 - color[1]) * mix),
        int(color[2] + (255 - color[2]) * mix),
    )


class Pen:
    """Draws on an RGBA canvas in unit coordinates; line widths are in units too."""

    def __init__(self, pixels: int) -> None:
        self.image = Image.new("RGBA", (pixels, pixels), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._half = pixels / 2

    def _at(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        scale = self._half * 0.94  # leaves room for the outline
        return [(self._half + x * scale, self._half + y * scale) for x, y in points]

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Rgb) -> None:
        self._draw.ellipse(self._at([(x - rx, y - ry), (x + rx, y + ry)]), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb, round_: float = 0.0) -> None:
        self._draw.rounded_rectangle(self._at([(x0, y0), (x1, y1)]), radius=round_ * self._half, fill=fill)

    def poly(self, points: Sequence[tuple[float, float]], fill: Rgb) -> None:
        self._draw.polygon(self._at(points), fill=fill)

    def line(self, points: Sequence[tuple[float, float]], width: float, fill: Rgb) -> None:
        self._draw.line(self._at(points), fill=fill, width=max(1, round(width * self._half)), joint="curve")
        for x, y in (points[0], points[-1]):
            self.oval(x, y, width / 2, width / 2, fill)

    def arc(self, x: float, y: float, r: float, span: tuple[float, float], width: float, fill: Rgb) -> None:
        self._draw.arc(self._at([(x - r, y - r), (x + r, y + r)]), *span, fill=fill, width=max(1, round(width * self._half)))

    def pie(self, x: float, y: float, r: float, span: tuple[float, float], fill: Rgb) -> None:
        self._draw.pieslice(self._at([(x - r, y - r), (x + r, y + r)]), *span, fill=fill)
