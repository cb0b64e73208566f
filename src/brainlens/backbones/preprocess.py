"""Images to network input with PIL and numpy, as the model's preprocessor configuration says.

The processors of transformers change their default backend with what else is installed; here the arithmetic is in
plain sight and the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from brainlens.backbones.folder import read_json
from brainlens.types import DataError, reading

SQUARE_SIZE = ("ViT", "DeiT", "Beit", "Blip")  # processors that read a bare `size: 224` as height and width


@dataclass(frozen=True)
class Preprocess:
    """How one image becomes (3, height, width) float32: resize, centre crop, x * rescale, (x - mean) / std, pad.

    resize: None, ("shortest", s), ("longest", s) or ("exact", height, width); resample: PIL filter number;
    crop, pad: (height, width) or None. Padding is with zeros, after normalisation, on the right and below.
    """

    resize: tuple[Any, ...] | None = None
    resample: int = Image.Resampling.BICUBIC
    crop: tuple[int, int] | None = None
    rescale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    pad: tuple[int, int] | None = None

    def __call__(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """The input tensor of one image, (3, height, width) float32."""
        picture = as_rgb(image)
        if self.resize is not None:
            picture = _resize(picture, self.resize, self.resample)
        if self.crop is not None:
            picture = _center_crop(picture, self.crop)
        mean, std = (np.asarray(v, dtype=np.float32) for v in (self.mean, self.std))
        out = ((picture.astype(np.float32) * np.float32(self.rescale) - mean) / std).transpose(2, 0, 1)
        if self.pad is not None:
            short = [want - have for want, have in zip(self.pad, out.shape[1:], strict=True)]
            if min(short) < 0:
                raise DataError(f"image of {out.shape[1:]} after resizing is larger than the padded size {self.pad}")
            out = np.pad(out, ((0, 0), (0, short[0]), (0, short[1])))
        return np.ascontiguousarray(out, dtype=np.float32)

    def batch(self, images: list[np.ndarray]) -> np.ndarray:
        """Input tensors of several images, (n, 3, height, width). Raises DataError if their sizes come out different."""
        arrays = [self(image) for image in images]
        sizes = sorted({array.shape[1:] for array in arrays})
        if len(sizes) > 1:
            raise DataError(
                f"images come out at sizes {sizes[:3]}; this preprocessing has no crop or exact size to make them equal"
            )
        return np.stack(arrays)


def read_preprocess(folder: Path) -> Preprocess:
    """The preprocessing that stands in `preprocessor_config.json` (or `processor_config.json`) of a model folder.

    Raises DataError if there is none or it says something that is not understood.
    """
    config: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            config = config.get("image_processor", config)
            if not isinstance(config, dict):
                raise DataError(f"{folder / name}: image_processor should be an object; copy the file again")
            if any(key in config for key in ("size", "do_resize", "image_mean")):
                with reading(folder / name, "copy it again from the model's page"):
                    return parse_preprocess(config)
    raise DataError(
        f"model folder {str(folder)!r} has no preprocessor_config.json; copy it there or pass preprocess=Preprocess(...)"
    )


def parse_preprocess(config: dict[str, Any]) -> Preprocess:
    """A preprocessor configuration as `Preprocess`; flags that are absent mean what they mean in transformers."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    resize: tuple[Any, ...] | None = None
    if config.get("do_resize", True) and config.get("size") is not None:
        resize = _resize_rule(config["size"], square=kind.startswith(SQUARE_SIZE))
    crop = None
    if config.get("do_center_crop", "crop_size" in config) and config.get("crop_size") is not None:
        crop = _height_width(config["crop_size"], "crop_size")
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if config.get("do_normalize", True) and config.get("image_mean") is not None:
        mean, std = tuple(map(float, config["image_mean"])), tuple(map(float, config["image_std"]))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise DataError(f"preprocessor config: image_mean {mean} and image_std {std} must be 3 numbers each, std above 0")
    rescale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    pad = None
    if config.get("do_pad") and config.get("pad_size") is not None:
        pad = _height_width(config["pad_size"], "pad_size")
    resample = config.get("resample")
    return Preprocess(resize, int(Image.Resampling.BICUBIC if resample is None else resample), crop, rescale, mean, std, pad)


def as_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """Any picture as (h, w, 3) uint8.

    Grey is repeated; 16 bit is scaled to 8 (65535 -> 255); transparency is laid over white, because what lies under
    it is arbitrary; CMYK and palettes are converted; the EXIF orientation of a PIL image is applied.

    Raises DataError for floating-point arrays (their range is not known) and other shapes.
    """
    if isinstance(image, Image.Image):
        return _pil_rgb(ImageOps.exif_transpose(image))
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise DataError(f"an image is (h, w), (h, w, 3) or (h, w, 4), got shape {array.shape}")
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        raise DataError(
            f"an image is uint8 (or uint16, bool), got {array.dtype}; convert it, e.g. (255 * x).round().astype('uint8')"
        )
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.shape[2] == 4:
        return _pil_rgb(Image.fromarray(array, "RGBA"))
    return array


def _pil_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bit grey, which PIL's own conversion clips at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"image of mode {image.mode} holds {values.min()} to {values.max()}; expected 0 to 65535")
        return as_rgb(values.astype(np.uint16))
    if image.mode == "F":
        raise DataError("image of mode F (floating point) has no known range; save it as 8 or 16 bit")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _height_width(value: Any, what: str) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    if isinstance(value, dict) and {"height", "width"} <= set(value):
        return int(value["height"]), int(value["width"])
    if isinstance(value, dict) and value.get("shortest_edge"):
        return int(value["shortest_edge"]), int(value["shortest_edge"])
    raise DataError(f"preprocessor config: {what} {value!r} is not a number or height and width")


def _resize_rule(size: Any, *, square: bool) -> tuple[Any, ...]:
    if isinstance(size, dict):
        if size.get("shortest_edge") and not size.get("longest_edge"):
            return ("shortest", int(size["shortest_edge"]))
        if size.get("longest_edge") and not size.get("shortest_edge"):
            return ("longest", int(size["longest_edge"]))
    elif isinstance(size, int) and not square:
        return ("shortest", size)
    return ("exact", *_height_width(size, "size"))


def _resize(picture: np.ndarray, rule: tuple[Any, ...], resample: int) -> np.ndarray:
    height, width = picture.shape[:2]
    if rule[0] == "exact":
        size = (rule[1], rule[2])
    elif rule[0] == "shortest":  # the long side is cut to whole pixels, as transformers does it
        long = int(rule[1] * max(height, width) / min(height, width))
        size = (rule[1], long) if height <= width else (long, rule[1])
    elif rule[0] == "longest":
        scale = rule[1] / max(height, width)
        size = (int(height * scale + 0.5), int(width * scale + 0.5))
    else:
        raise DataError(f"resize rule {rule[0]!r} is not one of shortest, longest, exact")
    if size == (height, width):
        return picture  # already there: resampling would only blur
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), resample=Image.Resampling(resample)))


def _center_crop(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    short = [max(want - have, 0) for want, have in zip(size, picture.shape[:2], strict=True)]
    if max(short):  # an image smaller than the crop gets a black margin
        before = [-(-s // 2) for s in short]
        picture = np.pad(picture, ((before[0], short[0] - before[0]), (before[1], short[1] - before[1]), (0, 0)))
    top, left = (picture.shape[0] - size[0]) // 2, (picture.shape[1] - size[1]) // 2
    return picture[top : top + size[0], left : left + size[1]]
