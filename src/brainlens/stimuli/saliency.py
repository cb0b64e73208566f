"""Visual saliency extraction of NeuroAlign: edges gated by low-level contrast, then centre-surround antagonism.

    E_d = sqrt((dI/dx)^2 + (dI/dy)^2)                                            eq. 10, Sobel on the grey image I_g
    S_l = |I_g - mean|,  S_d = |I_g - std|,  S_c = sum_{i != j} |C_i - C_j|      eq. 11
    E_x = alpha_l S_l + alpha_d S_d + alpha_c S_c
    S_a = [sigmoid(N(E_d)) - sigmoid(N(E_x))] + eta                              eq. 1, sign "printed"
    S_a = [sigmoid(N(E_d)) + sigmoid(N(E_x))] + eta                              sign "enhancing"
    R_a = N(|1/n_s sum_s [G_c(S_a) - lambda G_s(S_a)]|^gamma)                    eq. 2, G of sigma s and 2 s: eqs. 12, 13
    I_a = I R_a                                                                  eq. 3

The printed sign takes weight from bright, coloured and contrasted places; the paper's text and figures want them enhanced, which
is the other sign. Before the filter a picture is resized to 224 px on its shorter side and cut to a square, as Table 3 says; the
kernels are in pixels.

All of it is convolutions on batches. Where the paper gives two values or none: the scales are (1, 2, 4) as in Table 3, not
{1, 2} as in A.2.1; N maps each picture to [0, 1]; alpha_j = 1/3; eta = 0.5, which keeps S_a above zero (Algorithm 1 prints
gamma in its place).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from brainlens.types import DataError, Stimuli, image_key

if TYPE_CHECKING:  # readers of recordings name the settings here, and a list of recordings waits for no torch
    from torch import Tensor

SIGNS = ("printed", "enhancing")
SIZE = 224  # px, Table 3
ROUNDS = 8  # of restoring the brightness: what is clipped at white is made up for elsewhere
GREY = (0.299, 0.587, 0.114)  # luminance weights of R, G, B (ITU-R 601), as in common image libraries


@dataclass(frozen=True)
class FilterSettings:
    """How pictures are filtered before they are embedded.

    sign: of the gate, see the module. size: px on the shorter side, and of the square that is cut; 0 leaves pictures at their own
    size. brightness: the filtered picture gets the mean of the picture back, as far as white allows.
    Raises DataError for another sign and a size that is too small.
    """

    sign: str = "printed"
    size: int = SIZE
    brightness: bool = False

    def __post_init__(self) -> None:
        if self.sign not in SIGNS:
            raise DataError(f"saliency: sign {self.sign!r} is not one of {', '.join(SIGNS)}")
        if self.size != 0 and self.size < 32:
            raise DataError(
                f"saliency: size {self.size} must be 0 (pictures as they are) or at least 32 px; the paper's is {SIZE}"
            )


PAPER = FilterSettings()


@dataclass(frozen=True)
class Saliency:
    """Every stage of the filter (n, h, w), and the weighted pictures `image` (n, h, w, 3) in [0, 1]."""

    edges: np.ndarray
    luminance: np.ndarray
    contrast: np.ndarray
    colour: np.ndarray
    exogenous: np.ndarray
    gate: np.ndarray
    antagonism: np.ndarray
    attention: np.ndarray
    image: np.ndarray


def saliency(
    images: np.ndarray,
    *,
    sobel: int = 7,
    alphas: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3),
    eta: float = 0.5,
    scales: Sequence[float] = (1.0, 2.0, 4.0),
    surround: float = 0.5,
    gamma: float = 1.2,
    sign: str = "printed",
    device: str = "cpu",
) -> Saliency:
    """All stages for pictures (n, h, w, 3), uint8 or floats in [0, 1]; equations in the module.

    sobel: odd kernel size; scales: sigma_c in pixels, sigma_s is twice that; surround: lambda.
    Raises DataError for another shape, values outside [0, 1], an even or too small kernel, no scale.
    """
    import torch

    rgb = _as_rgb(images).to(device)
    FilterSettings(sign)
    if sobel < 3 or sobel % 2 == 0:
        raise DataError(f"saliency: sobel {sobel} must be odd and at least 3; the paper's is 7")
    if not len(scales) or min(scales) <= 0:
        raise DataError(f"saliency: scales {tuple(scales)} must be above 0; the paper's are (1, 2, 4)")
    grey = (rgb * torch.tensor(GREY, device=rgb.device)[:, None, None]).sum(1, keepdim=True)
    smooth, slope = _sobel_taps(sobel, rgb)
    edges = (_separable(grey, smooth, slope).square() + _separable(grey, slope, smooth).square()).sqrt()
    mean, spread = grey.mean((2, 3), keepdim=True), grey.std((2, 3), keepdim=True, correction=0)
    luminance, contrast = (grey - mean).abs(), (grey - spread).abs()
    colour = 2 * (rgb[:, [0, 0, 1]] - rgb[:, [1, 2, 2]]).abs().sum(1, keepdim=True)
    exogenous = alphas[0] * luminance + alphas[1] * contrast + alphas[2] * colour
    direction = -1.0 if sign == "printed" else 1.0
    gate = torch.sigmoid(_unit_range(edges)) + direction * torch.sigmoid(_unit_range(exogenous)) + eta
    responses = []
    for scale in scales:
        centre, around = _gauss_taps(scale, rgb), _gauss_taps(2 * scale, rgb)
        responses.append(_separable(gate, centre, centre) - surround * _separable(gate, around, around))
    antagonism = torch.stack(responses).mean(0).abs().pow(gamma)
    attention = _unit_range(antagonism)
    stages = (edges, luminance, contrast, colour, exogenous, gate, antagonism, attention)
    found = {name: stage[:, 0].cpu().numpy() for name, stage in zip(stage_names(), stages, strict=False)}
    found["image"] = (rgb * attention).permute(0, 2, 3, 1).cpu().numpy()
    return Saliency(**found)


class Altered(Sequence[np.ndarray]):
    """Pictures, each altered by `settings` when it is asked for, so that 16,540 photographs are never in memory at once."""

    def __init__(self, images: Sequence[np.ndarray] | np.ndarray, settings: Any) -> None:
        self._images, self.settings = images, settings

    def altered(self, picture: np.ndarray) -> np.ndarray:
        """What becomes of a picture (h, w, 3) uint8."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.altered(np.asarray(self._images[index]))

    def key(self, index: int) -> bytes:
        """What tells this altered picture from others, without altering it: the picture and the settings."""
        return image_key(np.asarray(self._images[index])) + repr(sorted(asdict(self.settings).items())).encode()


class Filtered(Altered):
    """Pictures I R_a, uint8."""

    def __init__(self, images: Sequence[np.ndarray] | np.ndarray, settings: FilterSettings = PAPER, device: str = "cpu") -> None:
        super().__init__(images, settings)
        self._device = device

    def altered(self, picture: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) uint8, filtered."""
        return filtered(picture, self.settings, device=self._device)


def saliency_stimuli(stimuli: Stimuli, settings: FilterSettings = PAPER, *, device: str = "cpu") -> Stimuli:
    """The same stimuli with each picture I replaced by I R_a, uint8, filtered as it is opened; other constants at defaults."""
    return Stimuli(stimuli.ids, Filtered(stimuli.images, settings, device), stimuli.captions, stimuli.table)


def filtered(picture: np.ndarray, settings: FilterSettings = PAPER, *, device: str = "cpu") -> np.ndarray:
    """I R_a of one picture (h, w, 3) uint8."""
    square = cut_square(picture, settings.size)
    found = saliency(square[None], sign=settings.sign, device=device).image[0]
    if settings.brightness:
        found = restored(found, float(square.mean()) / 255)
    return np.rint(found * 255).astype(np.uint8)


def cut_square(picture: np.ndarray, size: int) -> np.ndarray:
    """Resized to `size` on the shorter side (bicubic) and cut to the square in the middle; as it is at size 0.

    picture (h, w, 3) uint8 -> (size, size, 3).
    """
    if size == 0:
        return picture
    image = Image.fromarray(picture)
    scale = size / min(image.size)
    wide, high = (max(size, round(n * scale)) for n in image.size)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.array(image.resize((wide, high), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size)))


def restored(image: np.ndarray, brightness: float) -> np.ndarray:
    """The picture in [0, 1] multiplied by one gain and cut at white, so that its mean is `brightness` as far as it can be.

    image of any shape -> the same.
    """
    if image.max() <= 0:
        return image
    gain = 1.0
    for _ in range(ROUNDS):
        gain *= brightness / max(float(np.minimum(image * gain, 1).mean()), 1e-6)
    return np.minimum(image * gain, 1)


def stage_names() -> list[str]:
    """The stages in the order of computation, for a figure of all of them."""
    return [each.name for each in fields(Saliency)]


def _as_rgb(images: np.ndarray) -> Tensor:
    import torch

    if images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(f"saliency: pictures are (n, h, w, 3), got {images.shape}")
    values = torch.as_tensor(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    values = values.float() / 255 if images.dtype == np.uint8 else values.float()
    if not torch.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DataError(f"saliency: pictures are uint8 or floats in [0, 1], got {images.dtype} up to {float(values.max()):.3g}")
    return values.contiguous()


def _sobel_taps(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Binomial smoothing and its derivative: [1 6 15 20 15 6 1] and [-1 -4 -5 0 5 4 1] for size 7."""
    import torch

    smooth = np.array([1.0])
    for _ in range(size - 1):
        smooth = np.convolve(smooth, [1.0, 1.0])
    slope = np.array([1.0])
    for _ in range(size - 3):
        slope = np.convolve(slope, [1.0, 1.0])
    slope = np.convolve(slope, [-1.0, 0.0, 1.0])
    return torch.as_tensor(smooth).to(like), torch.as_tensor(slope).to(like)


def _gauss_taps(sigma: float, like: Tensor) -> Tensor:
    import torch

    radius = int(np.ceil(4 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return torch.as_tensor(taps / taps.sum()).to(like)


def _separable(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Correlation of (n, 1, h, w) with down' across, borders repeated."""
    import torch.nn.functional as F

    high, wide = len(down) // 2, len(across) // 2
    x = F.conv2d(F.pad(x, (0, 0, high, high), mode="replicate"), down[None, None, :, None])
    return F.conv2d(F.pad(x, (wide, wide, 0, 0), mode="replicate"), across[None, None, None, :])


def _unit_range(x: Tensor) -> Tensor:
    """N: each picture to [0, 1]; a map without any contrast becomes zeros."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-12)
