"""Any vision network of transformers as layered features, the global token and the spatial tokens kept apart.

Layers in network order. A transformer of L blocks has `vision.0` (what enters the first block) and `vision.1` to
`vision.L` (what leaves each block, before any final normalisation); a convolutional network has `stage.0`, ... ;
both end with `image`, the network's own embedding of the whole picture: CLIP's projected embedding, the class token
after the last normalisation (ViT, DINOv2, MAE), or the mean over the last map (SAM, MobileNetV2).

MoCo v3 is a plain ViT; `convert.vit_weights` brings its published weights under the names of `ViTModel`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens.backbones.folder import files_hash, library, load_weights, model_folder
from brainlens.backbones.preprocess import Preprocess, read_preprocess
from brainlens.store import cached_features
from brainlens.types import DataError, Features, Stimuli, image_key, reading

BLOCK = 256  # images that are written to the cache at once: what a stopped extraction loses at most


@dataclass(frozen=True)
class Backbone:
    """A loaded network: `model` in evaluation mode, its `preprocess`, `layers` in network order, `name`, hash of its `files`."""

    model: Any  # a torch module of transformers
    preprocess: Preprocess
    layers: tuple[str, ...]
    name: str
    files: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def load(
    name_or_folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, preprocess: Preprocess | None = None
) -> Backbone:
    """A vision network or CLIP from a local folder or by hub name, from safetensors, without remote code.

    preprocess: in place of what the folder's preprocessor_config.json says.

    Raises DataError if the model is not found, cannot be loaded, or is of a kind that has no layers to read.
    """
    transformers = library()
    folder = model_folder(name_or_folder)
    steps = preprocess if preprocess is not None else read_preprocess(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise DataError(f"model folder {str(folder)!r} has a config.json that is not understood: {said}") from None
    kind = transformers.AutoModel
    if config.model_type == "clip_vision_model":
        kind = transformers.CLIPVisionModelWithProjection
    pieces = {"add_pooling_layer": False} if config.model_type in ("vit", "deit") else {}
    model = load_weights(kind, folder, **pieces).to(device=device, dtype=dtype)
    with reading(folder, "its configuration and its weights do not fit: copy its files again"):
        return _described(model, config, steps, Path(name_or_folder).name, folder)


def _described(model: Any, config: Any, steps: Preprocess, name: str, folder: Path) -> Backbone:
    """The loaded network with its layers; a convolutional one is tried on a black picture."""
    if config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0  # a masked autoencoder reads the whole picture here
    draft = Backbone(model, steps, (), name, files_hash(folder))
    return replace(draft, layers=_layer_names(draft))


def extract(
    backbone: Backbone,
    stimuli: Stimuli,
    layers: Sequence[str] | None = None,
    *,
    pool_grid: tuple[int, int] | None = None,
    batch: int = 32,
    dtype: type[np.floating] = np.float16,
    device: str | None = None,
    cache: str | Path | None = None,
) -> Features:
    """Features of every image at the named layers (None: all of them).

    data[layer] (stimulus, channel): the class token, or the mean of the spatial tokens where the network has none;
    tokens[layer] (stimulus, row x column, channel): the spatial tokens, row-major, where the layer has them.
    pool_grid: resize the token grid to this many (rows, columns), bilinear without aligned corners, as FactorTopy does.
    dtype: np.float16 or np.float32 of the result. cache: a folder; features that are there are read and not
    computed, the rest is written block by block and read back as memory maps, so that a stopped run goes on where it
    was and no more than a block of 256 images is in memory.

    Raises DataError for an unknown layer, an image that cannot be read and values that dtype cannot hold.
    """
    wanted = _wanted(backbone, layers)
    if batch < 1 or np.dtype(dtype) not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise DataError(f"extract: batch {batch} must be 1 or more and dtype {np.dtype(dtype)} float16 or float32")
    if len(stimuli) == 0:
        raise DataError("extract: there are no stimuli")
    if device is not None:
        backbone.model.to(device)
    key = {
        "model": backbone.files,
        "name": backbone.name,
        "precision": str(backbone.dtype),
        "preprocess": plain_fields(backbone.preprocess),
        "layers": list(wanted),
    }
    return stream(
        stimuli,
        lambda images, ids: _forward(backbone, backbone.preprocess.batch(images), wanted),
        key,
        pool_grid=pool_grid,
        batch=batch,
        dtype=np.dtype(dtype),
        cache=cache,
    )


Layer = tuple[str, torch.Tensor, torch.Tensor | None]  # name, (batch, channel), (batch, channel, row, column) or None


def stream(
    stimuli: Stimuli,
    forward: Callable[[list[np.ndarray], np.ndarray], Iterator[Layer]],
    key: dict[str, Any],
    *,
    pool_grid: tuple[int, int] | None,
    batch: int,
    dtype: np.dtype,
    cache: str | Path | None,
) -> Features:
    """`forward(images, ids)`, of pictures (h, w, 3) and ids (n,), over all stimuli, batch by batch, into arrays or the cache.

    key: what the values depend on beside the pictures and the grid; its "name" names the features.
    """
    if cache is None:
        return _compute(stimuli, range(len(stimuli)), forward, str(key["name"]), pool_grid, batch, dtype)
    grid = None if pool_grid is None else list(pool_grid)
    return cached_features(
        cache,
        key | {"pool_grid": grid, "images": _pictures_hash(stimuli)},
        lambda start, stop: _compute(stimuli, range(start, stop), forward, str(key["name"]), pool_grid, batch, dtype),
        ids=[str(name) for name in stimuli.ids],
        block=-(-BLOCK // batch) * batch,
        dtype=dtype.name,
    )


def _wanted(backbone: Backbone, layers: Sequence[str] | None) -> tuple[str, ...]:
    if layers is None:
        return backbone.layers
    asked = [layers] if isinstance(layers, str) else list(layers)
    unknown = [layer for layer in asked if layer not in backbone.layers]
    if unknown or not asked:
        raise DataError(f"{backbone.name} has no layer {unknown[0] if unknown else ''!r}; it has {list(backbone.layers)}")
    return tuple(layer for layer in backbone.layers if layer in asked)


def plain_fields(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass as JSON would give them back."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings).items()}


def _pictures_hash(stimuli: Stimuli) -> str:
    """Hash over ids and pixels; pictures that are computed when asked for (`key`) are told apart by what they are made of."""
    digest, key = hashlib.sha256(), getattr(stimuli.images, "key", None)
    for i in range(len(stimuli)):
        own = key(i) if key is not None else image_key(read_images(stimuli, range(i, i + 1))[0])
        digest.update(str(stimuli.ids[i]).encode() + b"\0" + own)
    return digest.hexdigest()


def _compute(
    stimuli: Stimuli,
    rows: range,
    forward: Callable[[list[np.ndarray], np.ndarray], Iterator[Layer]],
    name: str,
    grid: tuple[int, int] | None,
    batch: int,
    dtype: np.dtype,
) -> Features:
    data: dict[str, np.ndarray] = {}
    tokens: dict[str, np.ndarray] = {}
    grids: dict[str, tuple[int, int]] = {}
    start = 0
    while start < len(rows):
        here = rows[start : start + batch]
        try:
            with torch.inference_mode():
                for layer, whole, parts in forward(read_images(stimuli, here), stimuli.ids[here.start : here.stop]):
                    if parts is not None:
                        parts = parts if grid is None else torch.nn.functional.interpolate(parts, grid, mode="bilinear")
                        grids[layer] = (int(parts.shape[2]), int(parts.shape[3]))
                        _put(tokens, layer, parts.flatten(2).transpose(1, 2), start, len(rows), dtype)
                    _put(data, layer, whole, start, len(rows), dtype)
        except torch.OutOfMemoryError as error:
            if batch == 1:
                raise DataError(f"{name}: one picture is more than the device can hold; use a larger one, or cpu") from error
            batch //= 2  # a picture's values do not hang on those beside it
            torch.cuda.empty_cache()
            continue
        start += len(here)
    features = Features(data, stimuli.ids[rows.start : rows.stop], name, tokens, grids)
    try:
        return features.check_finite()
    except DataError as error:
        hint = "; float16 holds up to 65504, try dtype=np.float32" if dtype == np.float16 else "; the weights may be damaged"
        raise DataError(f"{error}{hint}") from None


def read_images(stimuli: Stimuli, rows: Iterable[int]) -> list[np.ndarray]:
    """The pictures (h, w, 3) at these rows. Raises DataError naming the stimulus whose picture cannot be read."""
    images = []
    for i in rows:
        try:
            images.append(stimuli.images[i])
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:160]
            raise DataError(f"image of stimulus {str(stimuli.ids[i])!r} cannot be read: {said}") from None
    return images


def _put(store: dict[str, np.ndarray], layer: str, values: torch.Tensor, start: int, n: int, dtype: np.dtype) -> None:
    array = values.float().cpu().numpy()
    if layer not in store:
        store[layer] = np.empty((n, *array.shape[1:]), dtype=dtype)
    if array.shape[1:] != store[layer].shape[1:]:
        raise DataError(
            f"layer {layer!r} gives {array.shape[1:]} after {store[layer].shape[1:]}; images must come out at one size"
        )
    with np.errstate(over="ignore"):  # an overflow is found by check_finite, which can name the image
        store[layer][start : start + len(array)] = array


def _vision_config(model: Any) -> Any:
    return getattr(model.config, "vision_config", model.config)


def _layer_names(backbone: Backbone) -> tuple[str, ...]:
    blocks = getattr(_vision_config(backbone.model), "num_hidden_layers", None)
    if isinstance(blocks, int):
        return (*(f"vision.{i}" for i in range(blocks + 1)), "image")
    with torch.inference_mode():  # a convolutional network: its stages are counted on one black picture
        hidden, _ = _run(backbone, np.zeros((1, 3, *_probe_size(backbone)), dtype=np.float32))
    return (*(f"stage.{i}" for i in range(len(hidden))), "image")


def _probe_size(backbone: Backbone) -> tuple[int, int]:
    return (64, 64) if backbone.preprocess.crop is None else backbone.preprocess.crop


def _forward(backbone: Backbone, pixels: np.ndarray, layers: tuple[str, ...]) -> Iterator[Layer]:
    hidden, embedding = _run(backbone, pixels)
    for layer, state in zip(backbone.layers, [*hidden, None], strict=True):
        if layer not in layers:
            continue
        if state is None:
            yield layer, embedding, None
        elif state.ndim == 4:
            yield layer, state.float().mean(dim=(2, 3)), state.float()
        else:
            yield layer, *_split_tokens(backbone, state.float(), pixels.shape[2:])


def _run(backbone: Backbone, pixels: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States of all layers, (batch, token, channel) or (batch, channel, row, column), and the image embedding."""
    model: Any = backbone.model
    x = torch.from_numpy(pixels).to(device=backbone.device, dtype=backbone.dtype)
    kind = str(model.config.model_type)
    if kind in ("sam", "sam_vision_model"):
        out = getattr(model, "vision_encoder", model)(pixel_values=x, output_hidden_states=True)
        hidden = [state.permute(0, 3, 1, 2) for state in out.hidden_states]
        return hidden, out.last_hidden_state.mean(dim=(2, 3))
    if kind == "vit_mae":
        patches = (x.shape[2] // model.config.patch_size) * (x.shape[3] // model.config.patch_size)
        in_order = torch.arange(patches, device=x.device, dtype=torch.float32).expand(len(x), -1)
        out = model(pixel_values=x, noise=in_order, output_hidden_states=True)  # sorted noise: no patch changes place
        return list(out.hidden_states), out.last_hidden_state[:, 0]
    tower = model.vision_model if hasattr(model, "vision_model") else model
    out = tower(pixel_values=x, output_hidden_states=True)
    if getattr(out, "hidden_states", None) is None:
        raise DataError(f"{backbone.name}: a {kind} model gives no hidden states; give a vision transformer, a CNN or CLIP")
    hidden, last = list(out.hidden_states), out.last_hidden_state
    if last.ndim == 4:
        if last.shape != hidden[-1].shape:
            hidden.append(last)  # MobileNetV2's last 1 x 1 convolution stands outside its stages
        return hidden, last.mean(dim=(2, 3))
    if hasattr(model, "visual_projection"):
        return hidden, model.visual_projection(out.pooler_output)
    pooled = getattr(out, "pooler_output", None)
    if hasattr(model, "text_model") and pooled is not None:  # SigLIP: attention pooling without a projection
        return hidden, pooled
    return hidden, last[:, 0] if _n_special(backbone, last, x.shape[2:]) else last.mean(dim=1)


def embedding(backbone: Backbone, pixels: np.ndarray) -> torch.Tensor:
    """The network's embedding (n, d) of prepared pictures (n, 3, h, w), with its graph where gradients are on."""
    return _run(backbone, pixels)[1].float()


def _patch_grid(backbone: Backbone, size: Sequence[int]) -> tuple[int, int]:
    patch = getattr(_vision_config(backbone.model), "patch_size", None)
    if patch is None:
        raise DataError(
            f"{backbone.name}: a {backbone.model.config.model_type} model states no patch size, so its grid is unknown"
        )
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    return size[0] // rows, size[1] // columns


def _n_special(backbone: Backbone, state: torch.Tensor, size: Sequence[int]) -> int:
    """Tokens that stand before the patches: class token, registers."""
    rows, columns = _patch_grid(backbone, size)
    special = state.shape[1] - rows * columns
    if special < 0:
        raise DataError(f"{backbone.name}: {state.shape[1]} tokens are fewer than its {rows} x {columns} patches")
    return special


def _split_tokens(backbone: Backbone, state: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    special = _n_special(backbone, state, size)
    rows, columns = _patch_grid(backbone, size)
    patches = state[:, special:].transpose(1, 2).reshape(len(state), -1, rows, columns)
    return (state[:, 0] if special else state.mean(dim=1)), patches
