"""Every figure of a run by its name: as a matplotlib figure in a notebook, and as a file in PDF, SVG or PNG."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from brainlens import store
from brainlens.plots import retrieval
from brainlens.report.page import run_folders
from brainlens.report.parts import lost
from brainlens.report.sections import sections
from brainlens.types import DataError, Result

FORMATS = ("pdf", "svg", "png")
LOOK: Any = {
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "brainlens",
}  # text stays text


def makers(result: Result) -> dict[str, Callable[[], Figure]]:
    """{name: function that draws} of every figure that the page of this result would hold, in its order.

    A name is that of the function of `brainlens.plots`, and of what it is given where one function draws several.
    """
    found: dict[str, Callable[[], Figure]] = {}
    for section in sections(result, dpi=None):
        if section.cases:
            _put(found, "gallery", partial(retrieval.gallery, result))
        for picture in section.pictures:
            if picture.make is not None:
                _put(found, _name(picture.make), picture.make)
    return found


def save_figures(
    runs: Sequence[Path | str] | Path | str, out: Path | str, *, kind: str = "pdf", dpi: int = 300, template: str = ""
) -> tuple[list[Path], list[str]]:
    """Writes every figure of every run under `runs` to `out/<run>/<name>.<kind>`: (files, what was not drawn and why).

    kind: pdf, svg or png; dpi: of PNG, and of pictures inside the others; template: as in `report.build`.
    Raises DataError for another kind and where there is no run.
    """
    if kind not in FORMATS:
        raise DataError(f"figures: format {kind!r} is not one of {', '.join(FORMATS)}")
    files, missed = [], []
    found, damaged = run_folders(runs, template=template)
    missed += damaged
    for folder, result in found:
        missed += [f"{folder.name}: what needs the array {name!r}, whose file is gone" for name in lost(result)]
        for name, make in makers(result).items():
            path = Path(out) / folder.name / f"{name}.{kind}"
            try:
                figure = make()
            except DataError as error:
                missed.append(f"{folder.name}/{name}: {error}")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with matplotlib.rc_context(LOOK):
                store.save_figure(path, figure, dpi=dpi)
            files.append(path)
    return files, missed


class Plots:
    """`result.plot`: one function a figure of this result, each returns the matplotlib figure; `dir(result.plot)` lists them."""

    def __init__(self, result: Result) -> None:
        self._made = makers(result)

    def __getattr__(self, name: str) -> Callable[[], Figure]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._made:
            raise DataError(f"plot: there is no figure {name!r} of this result; there are {', '.join(self._made) or 'none'}")
        return self._made[name]

    def __dir__(self) -> list[str]:
        return list(self._made)

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __repr__(self) -> str:
        return f"figures: {', '.join(f'{name}()' for name in self._made) or 'none'}"


def _put(found: dict[str, Callable[[], Figure]], name: str, make: Callable[[], Figure]) -> None:
    """Under the name, or the name with a number where it is taken."""
    unique, number = name, 2
    while unique in found:
        unique, number = f"{name}_{number}", number + 1
    found[unique] = make


def _name(make: Any) -> str:
    """The drawing function's name and the array, metric or number that tells two of its figures apart."""
    words: list[str] = []
    settings: dict[str, Any] = {}
    while isinstance(make, partial):
        words = [str(arg) for arg in make.args if isinstance(arg, str)] + words
        settings = {**make.keywords, **settings}
        make = make.func
    told = [f"top{settings['k']}"] if "k" in settings else []
    told += [str(settings[key]) for key in ("kind", "title") if key in settings and not words]
    slug = re.sub(r"[^a-z0-9]+", "_", "_".join([make.__name__, *words, *told]).lower()).strip("_")
    return slug[:60].rstrip("_")
