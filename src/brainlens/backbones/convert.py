"""Weights of plain vision transformers under their older names (MoCo v3, DINO, DeiT, timm) as those of `ViTModel`, and of SLIP.

convert_checkpoint("vit-b-300ep.pth.tar", "moco")       # a folder that vision.load reads
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from brainlens import store
from brainlens.backbones.slip import SMALL_WIDTH, prefix_of, slip_config, slip_weights
from brainlens.types import DataError

PREFIXES = (
    "module.base_encoder.",
    "base_encoder.",
    "module.backbone.",
    "module.",
    "backbone.",
    "teacher.backbone.",
    "module.visual.",
    "",
)
INSIDE_OF = ("state_dict", "model", "teacher", "student")  # where released files keep the weights, in the order of choice
MOCO_HEADS = 12  # MoCo v3's small and base networks both have 12 heads, also at 384 channels
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

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

    The stacked attention weight (3 x c, c) is cut into query, key and value. MoCo v3 keeps its network below
    "module.base_encoder."; timm's and DINO's files have no prefix (""). `convert_checkpoint` does it file to folder.

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


def convert_checkpoint(
    checkpoint: str | Path, folder: str | Path, *, prefix: str | None = None, heads: int | None = None
) -> dict[str, Any]:
    """Writes a `ViTModel` folder (config, preprocessing, safetensors) from a released .pth file; returns what was found.

    A file of SLIP, or of the CLIP beside it, becomes a `CLIPModel` folder (`backbones.slip`) with pictures prepared as in its own
    evaluation; `clip.load_clip` reads it once the tokenizer of a CLIP (tokenizer.json, the same words) is copied there.
    The file is read with weights_only, so nothing in it can run. Sizes come from the shapes of the weights; heads, which no
    shape tells, are 12 for MoCo v3 (its base_encoder) and else one for every 64 channels. Pictures are prepared as for
    ImageNet: shortest side 256/224 of the network's, centre crop; bilinear for MoCo v3 as in its own evaluation, else bicubic.
    Raises DataError for a file that is not found, holds other objects than weights, or is no plain vision transformer.
    """
    store.check_writable(folder)
    state = _read_state(Path(checkpoint))
    slip = prefix_of(state) if prefix is None else None
    if slip is not None:
        weights = slip_weights(state, slip)
        config = slip_config(weights, heads)
        return _write(Path(folder), weights, config, config["vision_config"], slip, short=1.0, resample=2)
    chosen = _prefix(state, Path(checkpoint)) if prefix is None else prefix
    weights = vit_weights(state, prefix=chosen)
    moco = "base_encoder" in chosen or (  # SLIP's small tower is MoCo v3's
        chosen == "module.visual." and len(weights["embeddings.cls_token"].flatten()) == SMALL_WIDTH
    )
    config = _config(weights, Path(checkpoint), MOCO_HEADS if heads is None and moco else heads)
    own = "base_encoder" in chosen or chosen == "module.visual."  # both evaluate with PIL's bilinear
    short = 1.0 if chosen == "module.visual." else 256 / 224
    return _write(Path(folder), weights, config, config, chosen, short=short, resample=2 if own else 3)


def _write(
    out: Path,
    weights: Mapping[str, torch.Tensor],
    config: dict[str, Any],
    vision: dict[str, Any],
    prefix: str,
    *,
    short: float,
    resample: int,
) -> dict[str, Any]:
    """The folder, and what is said of it. short: the shortest side of pictures in sides of what is cut from them."""
    side = int(vision["image_size"])
    with store.lock(out, wait=store.PATIENCE):
        (out / "config.json").unlink(missing_ok=True)  # last again below: a folder without it is no model folder
        store.save_json(out / "preprocessor_config.json", _preparation(side, short, resample))
        store.save_weights(out, "model", {name: value.float().contiguous() for name, value in weights.items()})
        store.save_json(out / "config.json", config)
    shown = {name: vision[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")}
    return {"prefix": prefix, "weights": len(weights), "image_size": side, **shown}


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise DataError(f"checkpoint {str(path)!r} is not found; name the released .pth or .pth.tar file")
    torch.serialization.add_safe_globals([argparse.Namespace])  # SLIP keeps its options there: a bag of values that runs nothing
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a file with other objects, a damaged one, or none of torch's: the way out is the same
        said = " ".join(str(error).split())[:120]
        raise DataError(f"checkpoint {str(path)!r} cannot be read as plain weights ({said})") from None
    for name in INSIDE_OF:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    state = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise DataError(f"checkpoint {str(path)!r} holds no named weights")
    return state


def _prefix(state: Mapping[str, torch.Tensor], path: Path) -> str:
    for prefix in PREFIXES:
        if f"{prefix}cls_token" in state and f"{prefix}patch_embed.proj.weight" in state:
            return prefix
    tops = sorted({".".join(name.split(".")[:2]) for name in state})[:6]
    raise DataError(f"checkpoint {str(path)!r} is no plain vision transformer: no cls_token beside patch_embed; it has {tops}")


def _config(weights: Mapping[str, torch.Tensor], path: Path, heads: int | None) -> dict[str, Any]:
    """The config.json that these weights belong to."""
    width, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    places = weights["embeddings.position_embeddings"].shape[1] - 1
    rows = round(places**0.5)
    count = heads if heads is not None else max(1, width // 64)
    if rows * rows != places or width % count:
        raise DataError(
            f"checkpoint {str(path)!r}: {places} places in {width} channels do not fit a square grid and {count} heads"
        )
    blocks = {int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")}
    hidden = weights["encoder.layer.0.intermediate.dense.weight"].shape[0]
    biased = "encoder.layer.0.attention.attention.query.bias" in weights
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": int(width),
        "num_hidden_layers": len(blocks),
        "num_attention_heads": int(count),
        "intermediate_size": int(hidden),
        "image_size": int(rows * patch),
        "patch_size": int(patch),
        "qkv_bias": biased,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
    }


def _preparation(side: int, short: float, resample: int) -> dict[str, Any]:
    """Shortest side, then the middle; resample: PIL's number of the filter."""
    return {
        "do_resize": True,
        "size": {"shortest_edge": round(side * short)},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "resample": resample,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": IMAGENET["mean"],
        "image_std": IMAGENET["std"],
    }
