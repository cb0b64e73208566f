"""Preprocessing against the PIL processors of transformers, and pictures of every mode."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from brainlens.backbones.preprocess import Preprocess, as_rgb, parse_preprocess, read_preprocess
from brainlens.types import DataError

SHAPES = [(50, 70), (71, 40), (32, 32), (20, 90), (33, 31)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rough = np.random.default_rng(seed).integers(0, 256, size=(7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 24}, "crop_size": {"height": 32, "width": 28}}),  # crop is larger
        ("ViTImageProcessorPil", {"size": {"height": 32, "width": 24}, "resample": 2}),
        ("BitImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 3}),
        ("SamImageProcessorPil", {"size": {"longest_edge": 96}, "pad_size": {"height": 96, "width": 96}}),
        ("BlipImageProcessorPil", {"size": {"height": 40, "width": 40}}),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_processor_of_transformers(kind: str, options: dict, shape: tuple[int, int], tmp_path: Path) -> None:
    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path)
    image = picture(*shape)
    expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    got = read_preprocess(tmp_path)(image)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.realdata
def test_real_configuration_equals_transformers(test_data: Path) -> None:
    folder = test_data / "mobilenet_v2_1.0_224"
    processor = transformers.MobileNetV2ImageProcessorPil(**json.loads((folder / "preprocessor_config.json").read_text()))
    image = np.asarray(Image.open(sorted((test_data / "coco_captions" / "images").iterdir())[0]).convert("RGB"))
    expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    np.testing.assert_allclose(read_preprocess(folder)(image), expected, atol=1e-5)


def test_an_image_of_the_target_size_is_not_resampled() -> None:
    image = np.random.default_rng(0).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
    for rule in (("exact", 32, 32), ("shortest", 32), ("longest", 32)):
        got = Preprocess(resize=rule, rescale=1.0)(image)
        assert (got == image.transpose(2, 0, 1)).all()


def test_older_spellings_of_the_configuration() -> None:
    assert parse_preprocess({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}) == Preprocess(
        resize=("shortest", 224), crop=(224, 224)
    )
    assert parse_preprocess({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}).resize == ("exact", 224, 224)
    assert parse_preprocess({"do_resize": False, "size": 10, "do_rescale": False}) == Preprocess(rescale=1.0)
    nested = {"image_processor": {"size": {"height": 8, "width": 8}}}
    assert parse_preprocess(nested["image_processor"]).resize == ("exact", 8, 8)


def test_every_mode_becomes_rgb() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    assert (as_rgb(grey) == grey[:, :, None]).all()
    assert (as_rgb(grey[:, :, None]) == grey[:, :, None]).all()
    assert (as_rgb(Image.fromarray(grey)) == grey[:, :, None]).all()
    sixteen = grey.astype(np.uint16) * 257  # the same grey at 16 bit
    assert (as_rgb(sixteen) == grey[:, :, None]).all()
    assert (as_rgb(Image.fromarray(sixteen)) == grey[:, :, None]).all()
    assert (as_rgb(Image.fromarray(sixteen.astype(np.int32))) == grey[:, :, None]).all()
    assert (as_rgb(grey > 50) == ((grey > 50) * 255)[:, :, None]).all()
    rgba = np.zeros((1, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)  # opaque; the other pixel is clear and black underneath
    assert as_rgb(rgba).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert as_rgb(Image.fromarray(rgba)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    colour = picture(4, 5)
    assert (as_rgb(colour) == colour).all()
    cmyk = as_rgb(Image.new("CMYK", (2, 2), (0, 255, 255, 0)))
    assert cmyk[0, 0, 0] > 200
    assert cmyk[0, 0, 1] < 60
    palette = Image.fromarray(colour).quantize(4)
    assert as_rgb(palette).shape == (4, 5, 3)


def test_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(picture(6, 9))
    tags = image.getexif()
    tags[0x0112] = 6  # the camera was turned
    image.save(tmp_path / "turned.png", exif=tags)
    got = as_rgb(Image.open(tmp_path / "turned.png"))
    assert (got == np.rot90(picture(6, 9), k=-1)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_rgb(np.zeros((4, 4, 3))), "float64; convert it"),
        (lambda: as_rgb(np.zeros((4, 4, 2), np.uint8)), r"got shape \(4, 4, 2\)"),
        (lambda: as_rgb(np.zeros((0, 4, 3), np.uint8)), "got shape"),
        (lambda: as_rgb(Image.fromarray(np.zeros((2, 2), np.float32))), "mode F"),
        (lambda: as_rgb(Image.fromarray(np.full((2, 2), -1, np.int32))), "expected 0 to 65535"),
        (lambda: parse_preprocess({"size": {"long": 3}}), "size"),
        (lambda: parse_preprocess({"image_mean": [0.5], "image_std": [0.5]}), "3 numbers"),
        (lambda: parse_preprocess({"image_mean": [0.5] * 3, "image_std": [0.0] * 3}), "std above 0"),
        (lambda: Preprocess(resize=("odd", 3))(picture(4, 4)), "'odd' is not one of"),
        (lambda: Preprocess(pad=(2, 2))(picture(4, 4)), "larger than the padded size"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_missing_or_broken_configuration_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no preprocessor_config\.json"):
        read_preprocess(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        read_preprocess(tmp_path)
