"""The pieces of the page: pictures with their captions, cases of a gallery, and the sections that hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from brainlens.plots import style
from brainlens.types import DataError, Result, Surface, Volume

FSL_2MM = ((91, 109, 91), np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]))


@dataclass(frozen=True)
class Picture:
    """A figure as PNG with what a reader who cannot see it is told, and its caption; or the reason why there is none."""

    caption: str
    alt: str = ""
    png: bytes = b""
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One query of a gallery: its picture, caption and rank, and what was retrieved as (image, is it the right one)."""

    image: np.ndarray
    caption: str
    rank: int
    found: list[tuple[np.ndarray, bool]]
    good: bool


@dataclass
class Section:
    """A heading with pictures, and for retrieval the cases as rows of thumbnails."""

    title: str
    dpi: int
    pictures: list[Picture] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)

    def draw(self, maker: Callable[[], Figure], caption: str, alt: str) -> None:
        """Adds the picture, or a note with the reason if the data do not bear it."""
        try:
            self.pictures.append(Picture(caption, alt, style.png(maker(), dpi=self.dpi)))
        except DataError as error:
            self.pictures.append(Picture(caption, note=f"Not drawn: {error}"))


def in_standard_space(result: Result) -> bool:
    """Whether the units lie in MNI space or on fsaverage: the phantom, FSL's 2 mm grid, or a config that says `template`."""
    if isinstance(result.space, Surface):
        return True
    if not isinstance(result.space, Volume):
        return False
    template = str(result.config.get("template", result.provenance.get("template", "")))
    fsl = result.space.mask.shape == FSL_2MM[0] and np.allclose(result.space.affine, FSL_2MM[1])
    return style.is_simulation(result) or fsl or template.upper().startswith("MNI")


def capital(text: str) -> str:
    """The text with its first letter as a capital, the rest as it is (R² stays R²)."""
    return text[:1].upper() + text[1:]
