"""How LLaVA-1.6 reads a picture: once as a whole at the side of its vision tower, and once in tiles of that side.

The tiles are those of the grid, of several that a model states, that shows most of the picture's pixels and wastes least; the
picture is put into it with its shape kept and black around it. Liu et al. 2024, "LLaVA-NeXT", in the form of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from brainlens.backbones.preprocess import Preprocess, as_rgb
from brainlens.types import DataError

Size = tuple[int, int]  # height, width


def best_grid(size: Size, grids: Sequence[Sequence[int]]) -> Size:
    """The grid (height, width) that keeps most pixels of a picture of this size; of those, the one with the least area."""
    height, width = size
    found: Size = (0, 0)
    best = (0, -math.inf)
    for rows, columns in grids:
        scale = min(columns / width, rows / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        if (kept, kept - rows * columns) > best:
            found, best = (rows, columns), (kept, kept - rows * columns)
    if not found[0]:
        raise DataError(f"image of {height} x {width} fits into none of the grids {[tuple(grid) for grid in grids]}")
    return found


def tiles(image: np.ndarray, grids: Sequence[Sequence[int]], side: int, steps: Preprocess) -> np.ndarray:
    """The network's input of one picture (1 + tiles, 3, side, side): the whole, then the tiles row by row.

    steps: filter, rescaling, mean and standard deviation; its sizes are not used. Raises DataError where no grid fits.
    """
    picture = as_rgb(image)
    height, width = picture.shape[:2]
    rows, columns = best_grid((height, width), grids)
    if columns / width < rows / height:
        inner = (min(math.ceil(height * (columns / width)), rows), columns)
    else:
        inner = (rows, min(math.ceil(width * (rows / height)), columns))
    padded = np.zeros((rows, columns, 3), np.uint8)
    top, left = (rows - inner[0]) // 2, (columns - inner[1]) // 2
    padded[top : top + inner[0], left : left + inner[1]] = _resized(picture, inner, steps.resample)
    cut = padded.reshape(rows // side, side, columns // side, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    parts = [_resized(picture, (side, side), steps.resample), *cut]
    plain = replace(steps, resize=None, crop=None, pad=None)
    return np.stack([plain(part) for part in parts])


def tile_tokens(size: Size, grids: Sequence[Sequence[int]], side: int, patch: int) -> int:
    """Tokens of a picture of this size, without class tokens: those of the whole, those of its part of the grid, one a line."""
    height, width = size
    cells = side // patch
    rows, columns = (n // side * cells for n in best_grid(size, grids))
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return cells**2 + rows * columns + rows


def _resized(picture: np.ndarray, size: Size, resample: int) -> np.ndarray:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), resample=Image.Resampling(resample)))
