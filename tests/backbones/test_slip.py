"""SLIP's released weights as a CLIP folder, against both towers written out as its repository computes them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from brainlens.backbones import clip, vision
from brainlens.backbones.clip_towers import pixel_model, word_model
from brainlens.backbones.convert import convert_checkpoint
from brainlens.backbones.folder import model_folder
from brainlens.backbones.slip import slip_config, slip_weights
from brainlens.types import DataError, Stimuli
from brainlens.warned import BrainlensWarning

C, HEADS, PATCH, SIDE, BLOCKS = 24, 3, 4, 12, 2
W, LENGTH, DIM = 128, 9, 10
WORDS = ["a", "red", "cat", "dog", "on", "grass", "[start]", "[end]"]
Weights = dict[str, torch.Tensor]


def weights(seed: int = 0, head: bool = True) -> Weights:
    """Random weights under the names of models.py, with the shapes of a very small SLIP."""
    draw = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "visual.cls_token": (1, 1, C), "visual.pos_embed": (1, 1 + (SIDE // PATCH) ** 2, C),
        "visual.patch_embed.proj.weight": (C, 3, PATCH, PATCH), "visual.patch_embed.proj.bias": (C,),
        "visual.norm.weight": (C,), "visual.norm.bias": (C,), "image_projection": (C, DIM), "text_projection": (W, DIM),
        "token_embedding.weight": (len(WORDS), W), "positional_embedding": (LENGTH, W), "ln_final.weight": (W,),
        "ln_final.bias": (W,), "logit_scale": (),
    }  # fmt: skip
    for i in range(BLOCKS):
        for tower, wide, names in (
            (f"visual.blocks.{i}", C, ("norm1", "norm2", "attn.qkv.", "attn.proj", "mlp.fc1", "mlp.fc2")),
            (f"transformer.resblocks.{i}", W, ("ln_1", "ln_2", "attn.in_proj_", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")),
        ):
            one, two, stacked, out, first, second = names
            for norm in (one, two):
                shapes |= {f"{tower}.{norm}.weight": (wide,), f"{tower}.{norm}.bias": (wide,)}
            shapes |= {f"{tower}.{stacked}weight": (3 * wide, wide), f"{tower}.{stacked}bias": (3 * wide,)}
            for name, high, across in ((out, wide, wide), (first, 4 * wide, wide), (second, wide, 4 * wide)):
                shapes |= {f"{tower}.{name}.weight": (high, across), f"{tower}.{name}.bias": (high,)}
    if head:
        shapes |= {"image_mlp.layer1.weight": (5, C), "image_mlp.bn1.running_mean": (5,)}
    return {name: 0.2 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def part(w: Weights, head: str) -> Weights:
    return {name.removeprefix(head): value for name, value in w.items() if name.startswith(head)}


def attend(x: torch.Tensor, qkv: torch.Tensor, heads: int, causal: bool) -> torch.Tensor:
    """(B, T, 3 c) -> (B, T, c), written out."""
    q, k, v = (piece.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for piece in qkv.chunk(3, dim=-1))
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        logits = logits + torch.full(logits.shape[-2:], -torch.inf).triu(1)
    return (logits.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


def image_forward(w: Weights, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Embeddings (B, DIM) and what enters and leaves each block."""
    v = part(w, "visual.")
    x = F.conv2d(pixels, v["patch_embed.proj.weight"], v["patch_embed.proj.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([v["cls_token"].expand(len(x), -1, -1), x], dim=1) + v["pos_embed"]
    states = [x]
    for i in range(BLOCKS):
        b = part(v, f"blocks.{i}.")
        y = F.layer_norm(x, (C,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        y = attend(y, F.linear(y, b["attn.qkv.weight"], b["attn.qkv.bias"]), HEADS, causal=False)
        x = x + F.linear(y, b["attn.proj.weight"], b["attn.proj.bias"])
        y = F.layer_norm(x, (C,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + F.linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
        states.append(x)
    return F.layer_norm(x, (C,), v["norm.weight"], v["norm.bias"], 1e-6)[:, 0] @ w["image_projection"], states


def text_forward(w: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, DIM) of token numbers (B, LENGTH), the highest of which ends the text."""
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"][: tokens.shape[1]]
    for i in range(BLOCKS):
        b = part(w, f"transformer.resblocks.{i}.")
        y = F.layer_norm(x, (W,), b["ln_1.weight"], b["ln_1.bias"])
        y = attend(y, F.linear(y, b["attn.in_proj_weight"], b["attn.in_proj_bias"]), W // 64, causal=True)
        x = x + F.linear(y, b["attn.out_proj.weight"], b["attn.out_proj.bias"])
        y = F.linear(F.layer_norm(x, (W,), b["ln_2.weight"], b["ln_2.bias"]), b["mlp.c_fc.weight"], b["mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, b["mlp.c_proj.weight"], b["mlp.c_proj.bias"])
    x = F.layer_norm(x, (W,), w["ln_final.weight"], w["ln_final.bias"])
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ w["text_projection"]


def released(folder: Path, state: Weights, name: str = "slip.pt", **more: object) -> Path:
    """A file as its training writes it, with the options in a Namespace."""
    named = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 25, "state_dict": named, "args": argparse.Namespace(model="SLIP_VITB16", lr=1e-3)} | more, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("slip")
    convert_checkpoint(released(place, weights()), place / "model", heads=HEADS)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[start] $A [end]", special_tokens=[("[start]", 6), ("[end]", 7)])
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[end]", eos_token="[end]").save_pretrained(place / "model")
    return place / "model"


PICTURES = Stimuli(np.array(list("abc")), np.random.default_rng(0).integers(0, 256, size=(3, SIDE, SIDE, 3), dtype=np.uint8))


def test_pictures_are_embedded_as_by_the_released_code(folder: Path) -> None:
    backbone = vision.load(folder)
    layers = ["vision.0", "vision.1", "vision.2", "image"]
    got = vision.extract(backbone, PICTURES, layers, dtype=np.float32)
    embedding, states = image_forward(weights(), torch.from_numpy(backbone.preprocess.batch(list(PICTURES.images))))
    np.testing.assert_allclose(got["image"], embedding.numpy(), atol=1e-5)
    for layer, state in zip(layers, states, strict=False):
        np.testing.assert_allclose(got[layer], state[:, 0].numpy(), atol=1e-5)
        np.testing.assert_allclose(got.tokens[layer], state[:, 1:].numpy(), atol=1e-5)


def test_captions_are_embedded_as_by_the_released_code(folder: Path) -> None:
    both = clip.load_clip(folder)
    said = [["a red cat"], ["dog on grass"], ["a cat on red grass a dog on grass"]]  # the last is cut
    with pytest.warns(BrainlensWarning, match="1 of 3 captions are longer than 9 tokens"):
        found = clip.embed_texts(both, said, ["a", "b", "c"], normalise=True)
    rows = [[6, 0, 1, 2, 7], [6, 3, 4, 5, 7], [6, 0, 2, 4, 1, 5, 0, 3, 7]]
    for i, row in enumerate(rows):
        expected = text_forward(weights(), torch.tensor([row + [0] * (LENGTH - len(row))]))[0]  # padded with 0 there
        np.testing.assert_allclose(found["text"][i], F.normalize(expected, dim=0).numpy(), atol=1e-5)
    assert float(both.backbone.model.logit_scale) == pytest.approx(float(weights()["logit_scale"]))


def test_towers_that_are_cut_open_are_the_same(folder: Path) -> None:
    model = vision.load(folder).model
    pixels, caption = torch.randn(2, 3, SIDE, SIDE), torch.tensor([[6, 0, 1, 2, 7]])
    torch.testing.assert_close(pixel_model(model)(pixels), image_forward(weights(), pixels)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        word_model(model, caption)(torch.ones(1, 5)), text_forward(weights(), caption), rtol=1e-4, atol=1e-5
    )


def test_what_is_said_and_how_pictures_are_prepared(tmp_path: Path) -> None:
    found = convert_checkpoint(released(tmp_path, weights()), tmp_path / "m", heads=HEADS)
    assert (found["prefix"], found["image_size"], found["num_attention_heads"]) == ("module.", SIDE, HEADS)
    said = json.loads((tmp_path / "m" / "preprocessor_config.json").read_text())
    assert said["size"] == {"shortest_edge": SIDE}
    assert (said["resample"], said["image_mean"]) == (2, [0.485, 0.456, 0.406])
    assert model_folder(tmp_path / "m") == tmp_path / "m"
    with pytest.raises(DataError, match="has no tokenizer files; copy tokenizer"):
        clip.load_clip(tmp_path / "m")


def test_the_clip_beside_it_has_no_head_and_is_read_alike(tmp_path: Path) -> None:
    convert_checkpoint(released(tmp_path, weights(head=False)), tmp_path / "m", heads=HEADS)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    model = vision.load(tmp_path / "m").model
    torch.testing.assert_close(pixel_model(model)(pixels), image_forward(weights(), pixels)[0], rtol=1e-4, atol=1e-5)


def test_its_network_without_captions_is_a_plain_vision_transformer(tmp_path: Path) -> None:
    seen = {name: value for name, value in weights().items() if name.startswith(("visual.", "image_mlp."))}
    found = convert_checkpoint(released(tmp_path, seen), tmp_path / "m", heads=HEADS)
    assert found["prefix"] == "module.visual."
    got = vision.extract(vision.load(tmp_path / "m"), PICTURES, ["image"], dtype=np.float32)
    pixels = torch.from_numpy(vision.load(tmp_path / "m").preprocess.batch(list(PICTURES.images)))
    whole = weights() | {"image_projection": torch.eye(C)}
    np.testing.assert_allclose(got["image"], image_forward(whole, pixels)[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("width, heads", [(384, 12), (768, 12), (1024, 16)])
def test_heads_are_those_of_the_released_networks(width: int, heads: int) -> None:
    state = {
        "vision_model.embeddings.patch_embedding.weight": torch.empty(width, 3, 16, 16),
        "vision_model.embeddings.position_embedding.weight": torch.empty(197, width),
        "vision_model.encoder.layers.0.mlp.fc1.weight": torch.empty(4 * width, 1),
        "text_model.embeddings.token_embedding.weight": torch.empty(49408, 512),
        "text_model.embeddings.position_embedding.weight": torch.empty(77, 512),
        "text_model.encoder.layers.0.mlp.fc1.weight": torch.empty(2048, 1),
        "visual_projection.weight": torch.empty(512, width),
    }
    config = slip_config(state, None)
    assert config["vision_config"]["num_attention_heads"] == heads
    assert config["vision_config"]["image_size"] == 224
    assert config["text_config"]["num_attention_heads"] == 8
    assert config["text_config"]["eos_token_id"] == 49407


@pytest.mark.parametrize(
    "change, heads, words",
    [
        ({"ln_final.bias": None}, HEADS, "no weight 'ln_final.bias'; copy it again"),
        ({"visual.blocks.0.ls1.gamma": torch.ones(C)}, HEADS, "weight 'visual.blocks.0.ls1.gamma' is not one of SLIP's"),
        ({}, 5, "9 places in 24 channels do not fit a square grid and 5 heads"),
        ({"visual.pos_embed": torch.ones(1, 9, C)}, HEADS, "8 places in 24 channels do not fit a square grid"),
        ({f"transformer.resblocks.{i}.{name}": None for i in range(BLOCKS) for name in
          part(weights(), "transformer.resblocks.0.")}, HEADS, "no first block of its text model"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, change: dict, heads: int, words: str) -> None:
    state = {name: value for name, value in (weights() | change).items() if value is not None}
    with pytest.raises(DataError, match=words) as error:
        convert_checkpoint(released(tmp_path, state), tmp_path / "out", heads=heads)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_weight_that_its_folder_lacks_is_still_an_error(tmp_path: Path) -> None:
    state = weights()
    del state["visual.blocks.1.mlp.fc2.bias"]
    convert_checkpoint(released(tmp_path, state), tmp_path / "m", heads=HEADS)
    with pytest.raises(DataError, match="lacks 1 weights that the network needs, first 'vision_model"):
        vision.load(tmp_path / "m")
    assert slip_weights(state, "")["visual_projection.weight"].shape == (DIM, C)
