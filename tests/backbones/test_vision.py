"""Layered features: tiny random networks of every kind through the one code path, and the real MobileNetV2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from brainlens.backbones import vision
from brainlens.backbones.preprocess import Preprocess
from brainlens.types import DataError, Features, Stimuli

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
PICTURE = {"image_size": 32, "patch_size": 8}
SQUARE = {"do_resize": True, "size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def build_clip() -> torch.nn.Module:
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config={**SMALL, **PICTURE}, projection_dim=20)
    )


def build_mae() -> torch.nn.Module:
    small = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SMALL, **PICTURE, **small, mask_ratio=0.75))


def build_sam() -> torch.nn.Module:
    tower = {
        **SMALL,
        **PICTURE,
        "output_channels": 12,
        "num_pos_feats": 6,
        "window_size": 2,
        "global_attn_indexes": [2],
        "mlp_dim": 32,
    }
    decoder = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16, "iou_head_hidden_dim": 12}
    prompt = {"hidden_size": 12, "image_size": 32, "patch_size": 8, "mask_input_channels": 4}
    return transformers.SamModel(
        transformers.SamConfig(vision_config=tower, mask_decoder_config=decoder, prompt_encoder_config=prompt)
    )


BUILD: dict[str, Callable[[], torch.nn.Module]] = {
    "clip": build_clip,
    "clip_vision": lambda: transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**SMALL, **PICTURE, projection_dim=20)
    ),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, **PICTURE)),
    "dinov2_registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**SMALL, **PICTURE, num_register_tokens=4)
    ),
    "mae": build_mae,
    "sam": build_sam,
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **PICTURE)),
    "siglip": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(vision_config={**SMALL, **PICTURE}, text_config={**SMALL, "vocab_size": 40})
    ),
    "resnet": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ),
    "mobilenet_v2": lambda: transformers.MobileNetV2Model(transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.35)),
    "convnext": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(image_size=32, hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, patch_size=4)
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for i, (name, make) in enumerate(BUILD.items()):
        torch.manual_seed(i)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():  # zero-initialised parts would hide mistakes of order
                if parameter.ndim == 4 and name == "mobilenet_v2":  # as it comes, its signal dies out on the way
                    torch.nn.init.kaiming_normal_(parameter)
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(json.dumps(SQUARE))
    return {name: root / name for name in BUILD}


def pictures(n: int = 5, size: int = 40, seed: int = 0) -> Stimuli:
    images = np.random.default_rng(seed).integers(0, 256, size=(n, size, size, 3), dtype=np.uint8)
    return Stimuli(np.array([f"picture{i}" for i in range(n)]), images)


@pytest.mark.parametrize("kind", list(BUILD))
def test_every_kind_gives_global_and_spatial_tokens(folders: dict[str, Path], kind: str) -> None:
    backbone = vision.load(folders[kind])
    stimuli = pictures()
    got = vision.extract(backbone, stimuli, dtype=np.float32)
    assert tuple(got.layer) == backbone.layers
    assert backbone.layers[-1] == "image"
    assert "image" not in got.tokens
    if kind not in ("mobilenet_v2", "convnext", "resnet"):
        assert backbone.layers == ("vision.0", "vision.1", "vision.2", "vision.3", "image")
        assert all(got.grid[layer] == (4, 4) for layer in got.tokens)
        assert got["vision.2"].shape == (5, 24)
    # The image decides the features: another order of images, the same rows.
    turned = vision.extract(backbone, stimuli.take(stimuli.ids[::-1]), dtype=np.float32)
    for layer in backbone.layers:
        np.testing.assert_allclose(turned[layer][::-1], got[layer], atol=1e-5)
        rows = got.tokens[layer] if layer == "vision.0" else got[layer]  # a class token has seen nothing at the start
        assert np.abs(rows[0] - rows[1]).max() > 1e-4


@pytest.mark.parametrize("kind", list(BUILD))
def test_batch_size_changes_nothing(folders: dict[str, Path], kind: str) -> None:
    backbone = vision.load(folders[kind])
    one, three, all_ = (vision.extract(backbone, pictures(7), batch=b, dtype=np.float32) for b in (1, 3, 7))
    for other in (one, three):
        same_but_rounding(other, all_)


def same_but_rounding(one: Features, other: Features) -> None:
    """Within 1e-5 of each layer's largest value (of 1, if that is larger): float32 carries seven digits, not more."""
    for kind in ("data", "tokens"):
        for layer, values in getattr(other, kind).items():
            limit = 1e-5 * max(1.0, float(np.abs(values).max()))
            assert np.abs(getattr(one, kind)[layer] - values).max() <= limit, layer


def inputs(backbone: vision.Backbone, stimuli: Stimuli) -> torch.Tensor:
    return torch.from_numpy(np.stack([backbone.preprocess(image) for image in stimuli.images]))


def test_clip_layers_equal_the_model_called_by_hand(folders: dict[str, Path]) -> None:
    backbone, stimuli = vision.load(folders["clip"]), pictures()
    got = vision.extract(backbone, stimuli, dtype=np.float32)
    model = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    with torch.no_grad():
        x = inputs(backbone, stimuli)
        hidden = model.vision_model(pixel_values=x, output_hidden_states=True).hidden_states
        image = model.get_image_features(pixel_values=x).pooler_output
    for i, state in enumerate(hidden):
        np.testing.assert_allclose(got[f"vision.{i}"], state[:, 0].numpy(), atol=1e-6)
        np.testing.assert_allclose(got.tokens[f"vision.{i}"], state[:, 1:].numpy(), atol=1e-6)
    np.testing.assert_allclose(got["image"], image.numpy(), atol=1e-6)
    alone = vision.extract(vision.load(folders["clip_vision"]), stimuli, ["image"], dtype=np.float32)
    assert alone["image"].shape == (5, 20)


def test_masked_autoencoder_sees_every_patch_in_its_place(folders: dict[str, Path]) -> None:
    backbone, stimuli = vision.load(folders["mae"]), pictures()
    got = vision.extract(backbone, stimuli, dtype=np.float32)
    weights = load_file(folders["mae"] / "model.safetensors")
    kernel = weights["vit.embeddings.patch_embeddings.projection.weight"]
    bias = weights["vit.embeddings.patch_embeddings.projection.bias"]
    position = weights["vit.embeddings.position_embeddings"]
    patches = torch.nn.functional.conv2d(inputs(backbone, stimuli), kernel, bias, stride=8)
    expected = patches.flatten(2).transpose(1, 2) + position[:, 1:]
    np.testing.assert_allclose(got.tokens["vision.0"], expected.numpy(), atol=1e-5)
    again = vision.extract(backbone, stimuli, dtype=np.float32)
    assert (again["image"] == got["image"]).all()  # no random mask is drawn


def test_tokens_are_row_major(folders: dict[str, Path]) -> None:
    backbone = vision.load(folders["vit"])
    plain = np.full((32, 32, 3), 100, dtype=np.uint8)
    spot = plain.copy()
    spot[8:16, 16:24] = 200  # row 1, column 2 of the 4 x 4 grid
    got = vision.extract(backbone, Stimuli(np.array(["plain", "spot"]), [plain, spot]), ["vision.0"], dtype=np.float32)
    changed = np.abs(got.tokens["vision.0"][0] - got.tokens["vision.0"][1]).max(axis=1) > 1e-6
    assert np.flatnonzero(changed).tolist() == [1 * 4 + 2]
    narrow = Preprocess(resize=("exact", 24, 40))
    dino = vision.load(folders["dinov2"], preprocess=narrow)  # a picture that is not square
    tall = vision.extract(dino, pictures(), ["vision.1"])
    assert tall.grid["vision.1"] == (3, 5)


def test_registers_and_missing_class_tokens(folders: dict[str, Path]) -> None:
    stimuli = pictures()
    registers = vision.extract(vision.load(folders["dinov2_registers"]), stimuli, dtype=np.float32)
    assert registers.tokens["vision.3"].shape == (5, 16, 24)
    sam = vision.extract(vision.load(folders["sam"]), stimuli, dtype=np.float32)
    np.testing.assert_allclose(sam["vision.2"], sam.tokens["vision.2"].mean(axis=1), atol=1e-6)
    assert sam["image"].shape == (5, 12)
    siglip = vision.extract(vision.load(folders["siglip"]), stimuli, dtype=np.float32)
    np.testing.assert_allclose(siglip["vision.2"], siglip.tokens["vision.2"].mean(axis=1), atol=1e-6)


def test_pooled_grid_is_the_bilinear_resize(folders: dict[str, Path]) -> None:
    backbone, stimuli = vision.load(folders["vit"]), pictures()
    full = vision.extract(backbone, stimuli, ["vision.2"], dtype=np.float32)
    half = vision.extract(backbone, stimuli, ["vision.2"], pool_grid=(2, 2), dtype=np.float32)
    expected = full.tokens["vision.2"].reshape(5, 2, 2, 2, 2, 24).mean(axis=(2, 4)).reshape(5, 4, 24)  # exact at half size
    np.testing.assert_allclose(half.tokens["vision.2"], expected, atol=1e-6)
    assert half.grid["vision.2"] == (2, 2)
    np.testing.assert_allclose(half["vision.2"], full["vision.2"])


def test_half_precision_is_the_rounded_single(folders: dict[str, Path]) -> None:
    backbone = vision.load(folders["vit"])
    half, single = (vision.extract(backbone, pictures(), dtype=d) for d in (np.float16, np.float32))
    assert half["vision.1"].dtype == np.float16
    assert (half["vision.1"] == single["vision.1"].astype(np.float16)).all()


def test_features_that_do_not_fit_half_precision_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(folders["vit"] / "model.safetensors")
    weights["vit.embeddings.cls_token"] = weights["vit.embeddings.cls_token"] + 1e6
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folders["vit"] / name).read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    backbone = vision.load(tmp_path)
    with pytest.raises(DataError, match=r"picture0.* holds NaN or infinity; float16 holds up to 65504"):
        vision.extract(backbone, pictures(), ["vision.0"])
    assert vision.extract(backbone, pictures(), ["vision.0"], dtype=np.float32)["vision.0"].max() > 1e5


def test_the_hash_follows_the_files(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["vit"] / name).read_bytes())
    assert vision.load(tmp_path).files == vision.load(folders["vit"]).files
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**SQUARE, "resample": 0}))
    assert vision.load(tmp_path).files != vision.load(folders["vit"]).files


def test_the_cache_gives_the_same_values_and_follows_pixels_and_layers(folders: dict[str, Path], tmp_path: Path) -> None:
    backbone, stimuli = vision.load(folders["vit"]), pictures()
    seen: list[int] = []
    plain = Preprocess.batch

    def counted(self: Preprocess, images: list[np.ndarray]) -> np.ndarray:
        seen.append(len(images))
        return plain(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preprocess, "batch", counted)
        direct = vision.extract(backbone, stimuli, ["vision.1", "image"], pool_grid=(2, 2))
        first = vision.extract(backbone, stimuli, ["vision.1", "image"], pool_grid=(2, 2), cache=tmp_path)
        again = vision.extract(backbone, stimuli, ["vision.1", "image"], pool_grid=(2, 2), cache=tmp_path)
        assert seen == [5, 5]  # the second time nothing was computed
        for cached in (first, again):
            assert cached.layer == direct.layer
            assert cached.grid == direct.grid
            for layer in direct.layer:
                assert (cached[layer] == direct[layer]).all()
            assert (cached.tokens["vision.1"] == direct.tokens["vision.1"]).all()
        vision.extract(backbone, pictures(seed=1), ["vision.1", "image"], pool_grid=(2, 2), cache=tmp_path)
        vision.extract(backbone, stimuli, ["vision.2"], pool_grid=(2, 2), cache=tmp_path)
        vision.extract(backbone, stimuli, ["vision.1", "image"], cache=tmp_path)
        assert seen == [5] * 5  # same ids, other pixels; other layers; another grid


def unreadable() -> Stimuli:
    class Images(list):
        def __getitem__(self, index):
            raise OSError("truncated file")

    return Stimuli(np.array(["a"]), Images([0]))


def test_bad_input_is_one_clear_line(folders: dict[str, Path]) -> None:
    backbone = vision.load(folders["vit"])
    different = Stimuli(np.array(["a", "b"]), [np.zeros((32, 32, 3), np.uint8), np.zeros((48, 32, 3), np.uint8)])
    loose = vision.load(folders["dinov2"], preprocess=Preprocess())
    cases: list[tuple[Callable[[], Features], str]] = [
        (lambda: vision.extract(backbone, pictures(), ["vision.9"]), r"no layer 'vision.9'; it has \['vision.0', 'vision.1'"),
        (lambda: vision.extract(backbone, pictures(), []), "no layer ''"),
        (lambda: vision.extract(backbone, pictures(), batch=0), "batch 0"),
        (lambda: vision.extract(backbone, pictures(), dtype=np.float64), "float64"),
        (lambda: vision.extract(backbone, pictures(0)), "no stimuli"),
        (lambda: vision.extract(backbone, unreadable()), "stimulus 'a' cannot be read: truncated file"),
        (lambda: vision.extract(loose, different), "come out at sizes"),
        (lambda: vision.extract(loose, different, batch=1), "come out at one size"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.realdata
def test_real_mobilenet(test_data: Path) -> None:
    from PIL import Image

    folder = test_data / "mobilenet_v2_1.0_224"
    backbone = vision.load(folder)
    manifest = json.loads((test_data / "coco_captions" / "manifest.json").read_text())
    names = sorted(p.name for p in (test_data / "coco_captions" / "images").iterdir())[:6]
    images = [np.asarray(Image.open(test_data / "coco_captions" / "images" / name).convert("RGB")) for name in names]
    assert manifest
    stimuli = Stimuli(np.array(names), images)
    got = vision.extract(backbone, stimuli, dtype=np.float32)
    same_but_rounding(vision.extract(backbone, stimuli, batch=4, dtype=np.float32), got)
    assert got.layer[0] == "stage.0"
    assert got["image"].shape == (6, 1280)
    np.testing.assert_allclose(got["image"], got.tokens[got.layer[-2]].mean(axis=1), rtol=1e-4, atol=1e-5)
    reference = transformers.MobileNetV2ForImageClassification.from_pretrained(folder).float().eval()
    with torch.no_grad():
        x = torch.from_numpy(backbone.preprocess.batch(images))
        hidden = reference.mobilenet_v2(x, output_hidden_states=True)
    np.testing.assert_allclose(got["image"], hidden.pooler_output.numpy(), rtol=1e-4, atol=1e-4)
    for i, state in enumerate(hidden.hidden_states):
        np.testing.assert_allclose(got[f"stage.{i}"], state.mean(dim=(2, 3)).numpy(), rtol=1e-4, atol=1e-4)
