"""Released weights of SLIP, and of the CLIP that was trained beside it, as those of a `CLIPModel` folder.

    pictures: x = [c, P pixels + b] + p; pre-norm blocks (gelu, eps 1e-6); layer norm; class token times V
    captions: x = tokens + p; causal pre-norm blocks (1.702 gelu, eps 1e-5); layer norm; end of text times T

The first is timm's vision transformer: against CLIP's it has a bias b in front of the blocks, which joins the places p here, and
no norm there. A `CLIPModel` has that norm, so its config says `pre_norm: false` below `vision_config` and its weights are left
out: `folder.load_weights` takes the norm away, and a program that does not know the word says that they are missing.

Mu, N. et al. (2022), "SLIP: Self-supervision meets Language-Image Pre-training", ECCV; models.py of facebookresearch/SLIP
(SLIP_VITS16, SLIP_VITB16, SLIP_VITL16, and CLIP_ of each). Its SIMCLR_ networks know no captions and are plain vision
transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from brainlens.types import DataError

VISION = {
    "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
TEXT = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
AGAINST_ITSELF = "image_mlp."  # the head of the loss of pictures with themselves, which no embedding needs
SMALL_WIDTH, SMALL_HEADS = 384, 12  # of its small tower, as of MoCo v3's; others have one for every 64 channels


def prefix_of(state: Mapping[str, torch.Tensor]) -> str | None:
    """What stands before the names of SLIP's weights (of any shape), None where these are of another network."""
    for prefix in ("module.", ""):
        if f"{prefix}image_projection" in state and f"{prefix}visual.patch_embed.proj.weight" in state:
            return prefix
    return None


def slip_weights(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The weights (any shape) below `prefix` under the names of a `CLIPModel`.

    Raises DataError for others, and for missing ones.
    """
    inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    out: dict[str, torch.Tensor] = {}
    try:
        places = inner.pop("visual.pos_embed")[0].clone()
        places[1:] += inner.pop("visual.patch_embed.proj.bias")
        out["vision_model.embeddings.class_embedding"] = inner.pop("visual.cls_token").flatten()
        out["vision_model.embeddings.position_embedding.weight"] = places
        out["vision_model.embeddings.patch_embedding.weight"] = inner.pop("visual.patch_embed.proj.weight")
        out["visual_projection.weight"] = inner.pop("image_projection").T
        out["text_projection.weight"] = inner.pop("text_projection").T
        out["text_model.embeddings.token_embedding.weight"] = inner.pop("token_embedding.weight")
        out["text_model.embeddings.position_embedding.weight"] = inner.pop("positional_embedding")
        out["logit_scale"] = inner.pop("logit_scale")
        for part in ("weight", "bias"):
            out[f"vision_model.post_layernorm.{part}"] = inner.pop(f"visual.norm.{part}")
            out[f"text_model.final_layer_norm.{part}"] = inner.pop(f"ln_final.{part}")
    except KeyError as error:
        raise DataError(f"the file has SLIP's towers and no weight {error.args[0]!r}; copy it again") from None
    for name, value in inner.items():
        if not name.startswith((AGAINST_ITSELF, "visual.head", "visual.pre_logits")):
            out |= _of_block(name, value)
    return out


def _of_block(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """A weight inside a block; the stacked ones (3 c, c) as queries, keys and values."""
    for pattern, tower, inside, stacked in (
        (r"visual\.blocks\.(\d+)\.(.+)[._](weight|bias)", "vision_model", VISION, "attn.qkv"),
        (r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", "text_model", TEXT, "attn.in_proj"),
    ):
        found = re.fullmatch(pattern, name)
        if found is None:
            continue
        head = f"{tower}.encoder.layers.{found[1]}"
        if found[2] in inside:
            return {f"{head}.{inside[found[2]]}.{found[3]}": value}
        if found[2] == stacked:
            names = (f"{head}.self_attn.{part}_proj.{found[3]}" for part in "qkv")
            return {key: piece.clone() for key, piece in zip(names, value.chunk(3), strict=True)}
    raise DataError(
        f"weight {name!r} is not one of SLIP's; known are visual.blocks.0.attn.qkv, transformer.resblocks.0.ln_1, ..."
    )


def slip_config(weights: Mapping[str, torch.Tensor], heads: int | None) -> dict[str, Any]:
    """The config.json of these weights, by their shapes (any shape). heads: of the tower of pictures, which no shape
    tells; the other has one for 64 channels.

    Raises DataError for places that are no square, and heads that do not divide the channels.
    """
    width, _, patch, _ = weights["vision_model.embeddings.patch_embedding.weight"].shape
    places = len(weights["vision_model.embeddings.position_embedding.weight"]) - 1
    rows, (words, inner) = round(places**0.5), weights["text_model.embeddings.token_embedding.weight"].shape
    count = heads if heads is not None else SMALL_HEADS if width == SMALL_WIDTH else max(1, width // 64)
    if rows * rows != places or width % count or inner % max(1, inner // 64):
        raise DataError(f"SLIP: {places} places in {width} channels do not fit a square grid and {count} heads")
    dim = len(weights["visual_projection.weight"])
    vision = _tower(weights, "vision_model", int(width), count, "gelu", 1e-6) | {
        "model_type": "clip_vision_model", "image_size": int(rows * patch), "patch_size": int(patch), "projection_dim": dim,
        "pre_norm": False,
    }  # fmt: skip
    text = _tower(weights, "text_model", int(inner), max(1, int(inner) // 64), "quick_gelu", 1e-5) | {
        "model_type": "clip_text_model", "vocab_size": int(words), "projection_dim": dim, "pad_token_id": int(words) - 1,
        "bos_token_id": int(words) - 2, "eos_token_id": int(words) - 1,
        "max_position_embeddings": len(weights["text_model.embeddings.position_embedding.weight"]),
    }  # fmt: skip
    whole = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": dim}
    return whole | {"vision_config": vision, "text_config": text}


def _tower(weights: Mapping[str, torch.Tensor], name: str, width: int, heads: int, gelu: str, eps: float) -> dict[str, Any]:
    blocks = {key.split(".")[3] for key in weights if key.startswith(f"{name}.encoder.layers.")}
    if f"{name}.encoder.layers.0.mlp.fc1.weight" not in weights:
        raise DataError(f"the file has SLIP's towers and no first block of its {name.replace('_', ' ')}; copy it again")
    hidden = len(weights[f"{name}.encoder.layers.0.mlp.fc1.weight"])
    found = {"hidden_size": width, "num_hidden_layers": len(blocks), "num_attention_heads": heads, "intermediate_size": hidden}
    return found | {"hidden_act": gelu, "layer_norm_eps": eps}
