"""Images opened only when they are asked for, the honest stand-in where a dataset has none, and pictures as a page shows them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from brainlens.backbones.preprocess import as_rgb
from brainlens.types import DataError, Stimuli, check_expansion, reading
from brainlens.warned import warn

MAX_PIXELS = 64_000_000
DEEP = re.compile(";16[BLN]")  # PIL's name of 16 bit a colour, by their order of bytes; BGR;16 are 16 bit of all three
THUMBNAIL = 96  # pixels of a picture in the gallery of a report


class NoImages(Sequence[np.ndarray]):
    """As many images as there are stimuli, none of which can be opened; `reason` says what to do."""

    def __init__(self, n: int, reason: str) -> None:
        self._n, self.reason = n, reason
        self.fingerprint = f"no images {n}"

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        raise DataError(self.reason)


class ImageFiles(Sequence[np.ndarray]):
    """Image files as (h, w, 3) uint8, by the one rule of `backbones.preprocess.as_rgb`.

    Raises DataError naming the file when one is damaged or larger than 64 megapixels.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [Path(p) for p in paths]
        missing = [p for p in self.paths if not p.exists()]
        if missing:
            raise DataError(f"{len(missing)} of {len(self.paths)} images are missing, first {missing[0]}")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the bytes of all files, in order."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ImageFiles(self.paths[index])
        return read_image(self.paths[index])


def read_image(path: str | Path) -> np.ndarray:
    """One image file as (h, w, 3) uint8; that 16 bit are scaled to 8 is said once a folder."""
    with reading(path, "save it again", fault="cannot be opened as an image"), Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{path} claims {image.width} x {image.height} pixels, the limit is {MAX_PIXELS}; reduce it first")
        check_expansion(path, 4 * image.width * image.height)
        deep = image.mode.startswith("I") or any(DEEP.search(str(tile[3])) for tile in getattr(image, "tile", ()))  # grey; colour
        picture = np.array(as_rgb(image))
    if deep:
        warn(
            f"{Path(path).parent}: pictures of 16 bit are scaled to 8 (65535 becomes 255); where the values end lower, as at "
            "4095, they come out dark: save them as 8 bit"
        )
    return picture


def thumbnails(stimuli: Stimuli, size: int = THUMBNAIL) -> np.ndarray | None:
    """The pictures at one small size (image, size, size, 3), edges cut to a square; None where they cannot be opened."""
    out = np.empty((len(stimuli), size, size, 3), dtype=np.uint8)
    try:
        for i in range(len(stimuli)):
            picture = np.asarray(stimuli.images[i])
            edge = min(picture.shape[:2])
            top, left = ((n - edge) // 2 for n in picture.shape[:2])
            square = Image.fromarray(picture[top : top + edge, left : left + edge])
            out[i] = np.asarray(square if edge == size else square.resize((size, size), Image.Resampling.BICUBIC))[..., :3]
    except DataError:
        return None
    return out


def gallery_table(stimuli: Stimuli) -> pd.DataFrame:
    """Ids, the first caption and, where it is known, domain or category of stimuli, for the report."""
    rows = {"stimulus": stimuli.ids, "caption": [(c[0] if c else "") for c in stimuli.captions]}
    rows |= {c: stimuli.table[c].astype(str).to_numpy() for c in ("domain", "category") if c in stimuli.table.columns}
    return pd.DataFrame(rows)
