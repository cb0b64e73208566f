"""Networks as functions from pictures to features, for the scores of `metrics.picture_protocols`.

    features = protocol_features("mindeye", {"alexnet": "alexnet-owt.pth", "clip": "openai/clip-vit-large-patch14"})
    score_pictures(seen, reconstructed, "mindeye", features=features)

A feature function takes pictures (n, side, side, 3) float32 in [0, 1] and gives (n, feature) float32. Built here are AlexNet,
from weights that are given, and every network that `vision.load` opens: CLIP, and whatever serves in place of the published
ones. Inception v3, EfficientNet-B1 and SwAV are given as torch modules, and read at the layer that the protocol names; a folder
or hub name in place of one is a network that stands in for it, read at its embedding of the whole picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.backbones import vision
from brainlens.choices import PICTURE_NETWORKS
from brainlens.metrics.picture_protocols import Extractor, Protocol, protocol
from brainlens.types import DataError, Stimuli

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GIVEN = {  # the networks that are given as modules or folders, and where their published weights come from
    "inception": "Inception v3 in the names of torchvision (weights IMAGENET1K_V1)",
    "efficientnet": "EfficientNet-B1 in the names of torchvision (weights as in protocol_table())",
    "swav": "the ResNet-50 of SwAV in the names of torchvision (weights facebookresearch/swav)",
}
NETWORKS = PICTURE_NETWORKS
WEIGHTS = (".pth", ".pt", ".safetensors")  # a file of weights says nothing of the network that they are of


class AlexNet(nn.Module):
    """The convolutions of AlexNet ("one weird trick"), in torchvision's order and names: features.0 to features.12.

    features.4 follows the second convolution ("AlexNet(2)"), features.11 the fifth ("AlexNet(5)"); both after the rectifier.
    (n, 3, row, column), normalised as for ImageNet, 63 pixels or more -> (n, 256, row', column').
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def alexnet(weights: str | Path | Mapping[str, Tensor], *, device: str = "cpu") -> AlexNet:
    """AlexNet's convolutions with weights from a state dict, or its file (.safetensors, or .pth read as plain weights).

    The network turns pictures (n, 3, row, column) into maps (n, 256, row, column) of fewer rows and columns.
    Entries of the classifier are left out. Raises DataError for a file that is missing or holds more than weights, and for
    entries that are missing or of another shape.
    """
    state = weights if isinstance(weights, Mapping) else read_state(weights)
    model = AlexNet()
    own = {name: value for name, value in state.items() if name.startswith("features.")}
    for name, value in model.state_dict().items():
        if name not in own or own[name].shape != value.shape:
            have = tuple(own[name].shape) if name in own else f"no entry of that name but {sorted(state)[:4]}"
            raise DataError(
                f"AlexNet: weight {name!r} must have shape {tuple(value.shape)}, got {have}; give torchvision's alexnet"
            )
    model.load_state_dict({name: own[name].float() for name in model.state_dict()})
    return model.to(device).eval().requires_grad_(False)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The named weights of a .safetensors or torch file; nothing in it can run. Raises DataError where it holds none.

    Tensors of any shape, by name.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"weights {str(path)!r} are not found; name a .safetensors or .pth file of a state dict")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # damaged, of another kind, or with other objects: the way out is the same
        said = " ".join(str(error).split())[:120]
        raise DataError(f"weights {str(path)!r} cannot be read as a plain state dict ({said})") from None
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise DataError(f"weights {str(path)!r} hold no named tensors; save the network's state_dict() there")
    return state


def module_features(
    network: nn.Module,
    layer: str,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    batch: int = 32,
) -> Extractor:
    """The output of a layer of any torch network, flattened: pictures (n, side, side, 3) in [0, 1] -> (n, feature).

    layer: a name of `network.named_modules()`; the input is (x - mean) / std for each colour, and the network is put into
    evaluation mode. Raises DataError for a layer that is not found, does not run, or gives no tensor with a row a picture.
    """
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        raise DataError(f"{type(network).__name__} has no layer {layer!r}; it has {', '.join(names[:12])}, ...")
    network.eval()
    place = next((p for p in network.parameters()), torch.zeros(1))
    shift, scale = (torch.tensor(v, dtype=place.dtype, device=place.device)[:, None, None] for v in (mean, std))

    def extract(pictures: np.ndarray) -> np.ndarray:
        kept: list[Any] = []
        handle = network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
        rows = []
        try:
            with torch.inference_mode():
                for start in range(0, len(pictures), batch):
                    kept.clear()
                    x = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch].transpose(0, 3, 1, 2)))
                    network((x.to(place.device, place.dtype) - shift) / scale)
                    rows.append(_rows(kept, len(x), layer))
        finally:
            handle.remove()
        return np.concatenate(rows)

    return extract


def network_features(
    name_or_folder: str | Path, layer: str = "image", *, tokens: bool = False, batch: int = 32, device: str = "cpu"
) -> Extractor:
    """A layer of a network that `vision.load` opens (CLIP, DINOv2, MobileNetV2, ...), as a feature function.

    layer "image": the embedding of the whole picture, for CLIP the projected one; tokens: the spatial tokens of a layer,
    flattened, in place of its global one. Pictures are rounded to 8 bits and prepared as the network's own configuration
    says, so what a protocol resized is resized again where the network reads another size.
    Raises DataError as `vision.load` and `vision.extract` do, and for a layer without spatial tokens.
    """
    backbone = vision.load(name_or_folder, device=device)
    if layer not in backbone.layers:
        raise DataError(f"{backbone.name} has no layer {layer!r}; it has {list(backbone.layers)}")

    def extract(pictures: np.ndarray) -> np.ndarray:
        eight = np.round(255 * pictures).astype(np.uint8)
        stimuli = Stimuli(np.array([f"picture{i}" for i in range(len(eight))]), eight)
        found = vision.extract(backbone, stimuli, [layer], batch=batch, dtype=np.float32)
        if not tokens:
            return found.data[layer]
        if layer not in found.tokens:
            raise DataError(f"{backbone.name}: layer {layer!r} has no spatial tokens; leave tokens=True out")
        return found.tokens[layer].reshape(len(eight), -1)

    return extract


def protocol_features(
    name: str | Protocol, networks: Mapping[str, Any], *, batch: int = 32, device: str = "cpu"
) -> dict[str, Extractor]:
    """The feature functions of a protocol from its networks, those that are given.

    networks: "alexnet": a state dict, its file, or a module with torchvision's names; "clip": a folder or hub name of CLIP
    ViT-L/14; "inception", "efficientnet", "swav": torch modules with their weights, or the folder or hub name of a network that
    `vision.load` opens and that stands in for them. A function stands in for any.
    Raises DataError for other names, and for a network in another form, naming what is needed.
    """
    chosen = protocol(name)
    unknown = [one for one in networks if one not in NETWORKS]
    if unknown:
        raise DataError(f"network {unknown[0]!r} is not one of {', '.join(NETWORKS)}")
    out: dict[str, Extractor] = {}
    opened: dict[str, Any] = {}
    for measure in chosen.measures:
        network = measure.features.rstrip("25")  # alexnet2 and alexnet5 are layers of one network
        if network not in networks:
            continue
        if network not in opened:
            opened[network] = _open(network, networks[network], device)
        found = opened[network]
        is_module = isinstance(found, nn.Module)
        out[measure.features] = module_features(found, measure.layer, batch=batch) if is_module else found
    return out


def _open(network: str, given: Any, device: str) -> Any:
    """A module to read layers of, or a feature function."""
    if isinstance(given, nn.Module):
        if network == "clip":
            raise DataError("network 'clip' is a folder or hub name that holds CLIP in the form of transformers, got a module")
        return given.to(device)
    if network != "alexnet" and isinstance(given, str | Path) and Path(given).suffix not in WEIGHTS:
        return network_features(given, device=device)
    if network == "alexnet" and isinstance(given, str | Path | Mapping):
        return alexnet(given, device=device)
    if callable(given):
        return given
    need = GIVEN.get(network, "a state dict or its file" if network == "alexnet" else "a folder or hub name")
    raise DataError(
        f"network {network!r} needs {need} as a torch module, a function, or the folder of a network that "
        f"stands in for it, got {type(given).__name__}"
    )


def _rows(kept: list[Any], n: int, layer: str) -> np.ndarray:
    if not kept:
        raise DataError(f"layer {layer!r} does not run when the network reads a picture; name another one")
    value = kept[-1]
    if not isinstance(value, Tensor) or len(value) != n:
        kind = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise DataError(f"layer {layer!r} gives {kind} for {n} pictures; name a layer whose output is a tensor, a row a picture")
    return value.flatten(1).float().cpu().numpy()
