"""The pieces of the page: pictures with their captions, cases of a gallery, and the sections that hold them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from brainlens.plots import style
from brainlens.plots.standard import in_standard_space
from brainlens.types import DataError, Result

LOST = "lost_arrays"  # in the config of a result: names of arrays whose files are gone from the run's folder

__all__ = ["LOST", "Case", "Picture", "Section", "capital", "in_standard_space", "lost"]


@dataclass(frozen=True)
class Picture:
    """A figure as PNG with what a reader who cannot see it is told, and its caption; or the reason why there is none.

    make: draws it anew, for a file of another format.
    """

    caption: str
    alt: str = ""
    png: bytes = b""
    note: str = ""
    make: Callable[[], Figure] | None = None


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
    """A heading with pictures, and for retrieval the cases as rows of thumbnails. dpi None: nothing is drawn yet."""

    title: str
    dpi: int | None
    pictures: list[Picture] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)

    def has(self, result: Result, *names: str, figure: str, beside: Collection[str] = ()) -> bool:
        """Whether a result holds all arrays that a figure needs; where it should and does not, a note says which.

        It should where it holds some of them, or one of those `beside` them, and where the run's folder has lost one.
        """
        absent = [name for name in names if name not in result.arrays]
        held = [name for name in {*names, *beside} if name in result.arrays]
        if absent and (held or set(absent) & set(lost(result))):
            which = ", ".join(map(repr, absent))
            self.pictures.append(Picture("", note=f"Not drawn: {figure} needs the array{'s' * (len(absent) > 1)} {which}."))
        return not absent

    def draw(self, maker: Callable[[], Figure], caption: str, alt: str) -> None:
        """Adds the picture, or a note with the reason if the data do not bear it."""
        if self.dpi is None:
            self.pictures.append(Picture(caption, alt, make=maker))
            return
        try:
            self.pictures.append(Picture(caption, alt, style.png(maker(), dpi=self.dpi), make=maker))
        except DataError as error:
            self.pictures.append(Picture(caption, note=f"Not drawn: {error}"))


def lost(result: Result, start: str = "") -> list[str]:
    """Names, beginning so, of the arrays whose files are gone from the run's folder."""
    return [str(name) for name in result.config.get(LOST, ()) if str(name).startswith(start)]


def capital(text: str) -> str:
    """The text with its first letter as a capital, the rest as it is (R² stays R²)."""
    return text[:1].upper() + text[1:]
