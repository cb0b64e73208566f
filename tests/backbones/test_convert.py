"""Converted weights against a vision transformer written out with the older names."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional as F

from brainlens.backbones import vision
from brainlens.backbones.convert import convert_checkpoint, vit_weights
from brainlens.types import DataError, Stimuli

C, BLOCKS, HEADS, PATCH, SIDE = 12, 2, 3, 4, 8


def old_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {
        "cls_token": (1, 1, C),
        "pos_embed": (1, 1 + (SIDE // PATCH) ** 2, C),
        "patch_embed.proj.weight": (C, 3, PATCH, PATCH),
    }
    shapes |= {"patch_embed.proj.bias": (C,), "norm.weight": (C,), "norm.bias": (C,), "head.0.weight": (5, C)}
    for i in range(BLOCKS):
        for name, rows, columns in (("attn.qkv", 3 * C, C), ("attn.proj", C, C), ("mlp.fc1", 2 * C, C), ("mlp.fc2", C, 2 * C)):
            shapes |= {f"blocks.{i}.{name}.weight": (rows, columns), f"blocks.{i}.{name}.bias": (rows,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (C,), f"blocks.{i}.{norm}.bias": (C,)}
    return {name: 0.4 * torch.randn(shape) for name, shape in shapes.items()}


def old_forward(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network as its own repository computes it: pre-norm blocks, one stacked attention weight."""
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    for i in range(BLOCKS):
        b = {k.removeprefix(f"blocks.{i}."): v for k, v in w.items() if k.startswith(f"blocks.{i}.")}
        y = F.layer_norm(x, (C,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        qkv = (
            F.linear(y, b["attn.qkv.weight"], b["attn.qkv.bias"]).reshape(len(x), -1, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        )
        attention = ((qkv[0] @ qkv[1].transpose(-1, -2)) * (C // HEADS) ** -0.5).softmax(dim=-1)
        y = (attention @ qkv[2]).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(y, b["attn.proj.weight"], b["attn.proj.bias"])
        y = F.layer_norm(x, (C,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + F.linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    return F.layer_norm(x, (C,), w["norm.weight"], w["norm.bias"], 1e-6)[:, 0]


def test_a_checkpoint_with_the_older_names_computes_the_same(tmp_path: Path) -> None:
    weights = old_weights()
    state = {f"module.base_encoder.{name}": value for name, value in weights.items()} | {
        "module.predictor.0.weight": torch.ones(2)
    }
    save_file(vit_weights(state), tmp_path / "model.safetensors", metadata={"format": "pt"})
    size = {"hidden_size": C, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "intermediate_size": 2 * C}
    transformers.ViTConfig(**size, image_size=SIDE, patch_size=PATCH, layer_norm_eps=1e-6).save_pretrained(tmp_path)
    half = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(half))
    backbone = vision.load(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, size=(4, SIDE, SIDE, 3), dtype=np.uint8)
    got = vision.extract(backbone, Stimuli(np.array(list("abcd")), images), ["image"], dtype=np.float32)
    expected = old_forward(weights, torch.from_numpy(backbone.preprocess.batch(list(images))))
    np.testing.assert_allclose(got["image"], expected.numpy(), atol=1e-5)


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(DataError, match=r"no weights stand below 'module.base_encoder.'; the file's names begin with \['blocks'"):
        vit_weights({"blocks.0.norm1.weight": torch.ones(2)})
    with pytest.raises(DataError, match=r"'blocks.0.ls1.gamma' is not one of"):
        vit_weights({"blocks.0.ls1.gamma": torch.ones(2)}, prefix="")


def released(folder: Path, name: str = "vit.pth.tar", extra: object = None) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as MoCo v3's training writes it: epoch, arch, state_dict with both encoders and heads, optimizer."""
    weights = old_weights()
    state = {f"module.base_encoder.{key}": value for key, value in weights.items()}
    state |= {f"module.momentum_encoder.{key}": value + 1 for key, value in weights.items()}
    content = {"epoch": 300, "arch": "vit_base", "state_dict": state, "optimizer": {"state": {}}, "extra": extra}
    torch.save(content, folder / name)
    return folder / name, weights


def test_a_released_file_becomes_a_folder_that_computes_the_same(tmp_path: Path) -> None:
    checkpoint, weights = released(tmp_path)
    found = convert_checkpoint(checkpoint, tmp_path / "moco", heads=HEADS)
    assert found == {
        "prefix": "module.base_encoder.",
        "weights": len(vit_weights({f"module.base_encoder.{k}": v for k, v in weights.items()})),
        "image_size": SIDE,
        "hidden_size": C,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "patch_size": PATCH,
    }
    backbone = vision.load(tmp_path / "moco")
    images = np.random.default_rng(0).integers(0, 256, size=(4, 20, 16, 3), dtype=np.uint8)
    got = vision.extract(backbone, Stimuli(np.array(list("abcd")), images), ["image"], dtype=np.float32)
    pixels = backbone.preprocess.batch(list(images))
    assert pixels.shape == (4, 3, SIDE, SIDE)
    np.testing.assert_allclose(got["image"], old_forward(weights, torch.from_numpy(pixels)).numpy(), atol=1e-5)


def test_a_file_that_is_no_vision_transformer_is_one_clear_line(tmp_path: Path) -> None:
    torch.save({"state_dict": {"layer1.weight": torch.ones(2)}}, tmp_path / "resnet.pth")
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("not weights")
    objects = tmp_path / "objects.pth"
    torch.save({"args": PurePosixPath("x"), "state_dict": old_weights()}, objects)
    cases = [
        (tmp_path / "nowhere.pth", None, "is not found"),
        (tmp_path / "resnet.pth", None, "no plain vision transformer"),
        (tmp_path / "empty.pth", None, "holds no named weights"),
        (tmp_path / "text.pth", None, "cannot be read as plain weights"),
        (objects, None, "cannot be read as plain weights"),
        (released(tmp_path)[0], 5, "and 5 heads"),
    ]
    for path, heads, message in cases:
        with pytest.raises(DataError, match=message) as error:
            convert_checkpoint(path, tmp_path / "out", heads=heads)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "config.json").exists()
