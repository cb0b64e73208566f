"""Weights of plain vision transformers under their older names (MoCo v3, DINO, DeiT, timm) as those of `ViTModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from brainlens.types import DataError

OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
INSIDE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def vit_weights(state: Mapping[str, torch.Tensor], *, prefix: str = "module.base_encoder.") -> dict[str, torch.Tensor]:
    """The weights below `prefix` under the names that a `ViTModel` folder uses; heads are left out.

    The stacked attention weight (3 c, c) is cut into query, key and value. MoCo v3 keeps its network below
    "module.base_encoder."; timm's and DINO's files have no prefix (""). Save the result as model.safetensors beside the
    config.json of `ViTConfig(..., layer_norm_eps=1e-6)` and a preprocessor_config.json.

    Raises DataError if nothing stands below the prefix or a name is not known.
    """
    inner = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    inner = {name: value for name, value in inner.items() if not name.startswith(("head", "fc", "pre_logits"))}
    if not inner:
        tops = sorted({name.split(".")[0] for name in state})[:8]
        raise DataError(f"no weights stand below {prefix!r}; the file's names begin with {tops}")
    out: dict[str, torch.Tensor] = {}
    for name, value in inner.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in OUTSIDE:
            out[OUTSIDE[name]] = value
        elif block and block[2] in INSIDE:
            out[f"encoder.layer.{block[1]}.{INSIDE[block[2]]}.{block[3]}"] = value
        elif block and block[2] == "attn.qkv":
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"encoder.layer.{block[1]}.attention.attention.{part}.{block[3]}"] = piece.clone()
        else:
            raise DataError(
                f"weight {name!r} is not one of a plain vision transformer; known are cls_token, blocks.0.attn.qkv, ..."
            )
    return out
