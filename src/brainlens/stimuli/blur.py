"""Pictures blurred away from their centre, as the fovea sees them: the targets of UBP at three levels.

    I_k = w I + (1 - w) G_k * I,    w(x) = 1/2 exp(-g min(1, |x - x_0| / r)),    sigma_k = .3 ((k - 1) / 2 - 1) + .8 px

I: the picture at 224 x 224 px; G_k: a Gaussian of k x k taps, borders mirrored; x_0: the centre, r: its distance from the corner,
both px; g = 3. So half of the centre is sharp, and a fortieth of the corners.

Wu, H. et al. (2025), "Bridging the Vision-Brain Gap with an Uncertainty-Aware Blur Prior", CVPR, and its released code, whose
kernel is 51 and changes by 6: levels 45, 51, 57 (the paper prints another radius and a change of 10; its authors say that the
code is right). The released loop over levels changes its own settings as it goes and so makes 45, 45, 51; here they are what they
are meant to be. The released pictures are squeezed to a square, here they are cut to it, which is the same for square ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from brainlens.stimuli.saliency import SIZE, Altered, cut_square
from brainlens.types import DataError, Stimuli

LEVELS = ("blur_low", "blur_medium", "blur_high")  # the layers of embeddings, from the least blur to the most


@dataclass(frozen=True)
class BlurSettings:
    """How a picture is blurred. kernel: taps; fall: g of the module; size: px of the square.

    Raises DataError for an even or too small kernel, one that is wider than twice the picture, a fall below 0.
    """

    kernel: int = 51
    fall: float = 3.0
    size: int = SIZE

    def __post_init__(self) -> None:
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise DataError(f"blur: kernel {self.kernel} must be odd and at least 3; the published one is 51")
        if self.size <= self.kernel // 2:
            raise DataError(
                f"blur: pictures of {self.size} px are too small for a kernel of {self.kernel}; the published are {SIZE}"
            )
        if not self.fall >= 0:
            raise DataError(f"blur: fall {self.fall} must be at least 0; the published one is 3")


def levels(kernel: int = 51, change: int = 6) -> dict[str, BlurSettings]:
    """The settings of the three levels by the names of their layers: the published ones by default."""
    return {name: BlurSettings(kernel + shift * change) for name, shift in zip(LEVELS, (-1, 0, 1), strict=True)}


class Blurred(Altered):
    """Pictures as the fovea sees them, uint8, each blurred when it is asked for."""

    def altered(self, picture: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) uint8, blurred."""
        return blurred(picture, self.settings)


def blurred_stimuli(stimuli: Stimuli, settings: BlurSettings) -> Stimuli:
    """The same stimuli with each picture blurred as it is opened."""
    return Stimuli(stimuli.ids, Blurred(stimuli.images, settings), stimuli.captions, stimuli.table)


def blurred(picture: np.ndarray, settings: BlurSettings) -> np.ndarray:
    """I_k of one picture (h, w, 3) uint8, rounded once; the released code rounds G_k * I too, which makes 1 of 255 at most."""
    planes = cut_square(picture, settings.size).astype(np.float32).transpose(2, 0, 1)
    smooth = _smoothing(settings) @ planes @ _smoothing(settings).T
    share = sharpness(settings)
    return np.rint(share * planes + (1 - share) * smooth).astype(np.uint8).transpose(1, 2, 0)


@lru_cache(maxsize=8)
def _smoothing(settings: BlurSettings) -> np.ndarray:
    """G_k along one axis as a matrix (size, size), a few times faster than the sum over taps; rows sum to 1."""
    radius, last = settings.kernel // 2, settings.size - 1
    sigma = 0.3 * (radius - 1) + 0.8
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    rows, matrix = np.arange(settings.size), np.zeros((settings.size, settings.size))
    for shift, tap in zip(range(-radius, radius + 1), taps / taps.sum(), strict=True):
        seen = np.abs(rows + shift)  # mirrored at the first pixel, and below at the last one
        matrix[rows, np.where(seen > last, 2 * last - seen, seen)] += tap
    return matrix.astype(np.float32)


@lru_cache(maxsize=8)
def sharpness(settings: BlurSettings) -> np.ndarray:
    """w of the module, (size, size) float32."""
    middle = settings.size // 2
    away = np.arange(settings.size) - middle
    corner = np.sqrt(2) * (settings.size - middle - 1)
    return (0.5 * np.exp(-settings.fall * np.minimum(1, np.hypot(away[:, None], away[None, :]) / corner))).astype(np.float32)
