"""Networks as feature functions: AlexNet against plain convolutions, layers of any module, and the networks of the test data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from brainlens import miniatures
from brainlens.backbones import clip, picture_features, vision
from brainlens.backbones.picture_features import AlexNet, alexnet, module_features, network_features, protocol_features
from brainlens.metrics.picture_protocols import PROTOCOLS, score_pictures
from brainlens.types import DataError, Stimuli


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """AlexNet's state dict as torchvision names it, with small random weights, the classifier's among them."""
    torch.manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    out: dict[str, torch.Tensor] = {}
    for number, (to, of, side) in shapes.items():
        out[f"features.{number}.weight"] = torch.randn(to, of, side, side) / (of * side * side) ** 0.5
        out[f"features.{number}.bias"] = 0.1 * torch.randn(to)
    return out | {"classifier.1.weight": torch.zeros(4, 4)}


def pictures(n: int = 3, side: int = 80) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(n, side, side, 3)).astype(np.float32)


def plain_alexnet(state: dict[str, torch.Tensor], seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AlexNet(2) and AlexNet(5) by hand: after the rectifiers of the second and the fifth convolution."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(seen) - mean) / std).permute(0, 3, 1, 2)

    def step(x: torch.Tensor, number: int, **how: int) -> torch.Tensor:
        return F.relu(F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], **how))

    second = step(F.max_pool2d(step(x, 0, stride=4, padding=2), 3, 2), 3, padding=2)
    fifth = step(step(step(F.max_pool2d(second, 3, 2), 6, padding=1), 8, padding=1), 10, padding=1)
    return second.flatten(1).numpy(), fifth.flatten(1).numpy()


def test_alexnet_reads_the_published_names_from_either_kind_of_file(state, tmp_path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    second, fifth = plain_alexnet(state, pictures())
    for weights in (state, tmp_path / "a.safetensors", tmp_path / "a.pth"):
        features = protocol_features("mindeye", {"alexnet": weights})
        assert sorted(features) == ["alexnet2", "alexnet5"]
        np.testing.assert_allclose(features["alexnet2"](pictures()), second, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(features["alexnet5"](pictures()), fifth, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            module_features(alexnet(weights), "features.4", batch=2)(pictures()), second, rtol=1e-4, atol=1e-4
        )


class Small(nn.Module):
    """A network with a pooled layer, one of two outputs, one that never runs, and dropout, which must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.avgpool = nn.Conv2d(3, 5, 3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
        self.pair = nn.Module()
        self.pair.forward = lambda x: (x, x)  # type: ignore[method-assign]
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(self.avgpool(self.drop(self.conv(x))))[0]


def test_any_module_is_read_at_a_layer() -> None:
    network = Small().train()
    extract = module_features(network, "avgpool", mean=(0, 0, 0), std=(1, 1, 1), batch=2)
    with torch.no_grad():
        plain = network.conv(torch.from_numpy(pictures()).permute(0, 3, 1, 2)).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(extract(pictures()), plain, atol=1e-5)
    assert not network.avgpool._forward_hooks
    with pytest.raises(DataError, match="pair"):
        module_features(network, "pair")(pictures())
    assert not network.pair._forward_hooks  # the hook is gone after an error too


def test_given_modules_and_functions_serve_the_protocol() -> None:
    def function(seen: np.ndarray) -> np.ndarray:
        return seen.reshape(len(seen), -1)

    features = protocol_features(
        "brain-diffuser", {"inception": Small(), "efficientnet": Small(), "swav": Small(), "clip": function}
    )
    assert sorted(features) == ["clip", "efficientnet", "inception", "swav"]
    seen = (255 * pictures(4, 30)).astype(np.uint8)
    found = score_pictures(seen, seen[:, ::-1], "brain-diffuser", features=features)
    assert list(found.values) == [m.name for m in PROTOCOLS["brain-diffuser"].measures if "alexnet" not in m.name]


def test_the_miniature_clip_gives_its_own_embeddings() -> None:
    seen = (255 * pictures(4, 64)).astype(np.uint8)
    extract = network_features(miniatures.folder("clip"))
    stimuli = Stimuli(np.array(list("abcd")), seen)
    plain = clip.embed_images(clip.load_clip(miniatures.folder("clip")), stimuli, normalise=False)["image"]
    np.testing.assert_allclose(extract(seen.astype(np.float32) / 255), plain, atol=1e-5)
    features = protocol_features("neuroadapter", {"clip": str(miniatures.folder("clip"))})
    noisy = np.clip(seen.astype(int) + np.random.default_rng(1).integers(-9, 9, seen.shape), 0, 255).astype(np.uint8)
    found = score_pictures(seen, noisy, "neuroadapter", features=features, measures=["two_way_clip"])
    np.testing.assert_array_equal(found.values["two_way_clip"], 1.0)


@pytest.mark.realdata
@pytest.mark.parametrize("name, layer", [("mobilenet_v2_1.0_224", "stage.3"), ("dinov2_vits14_11blocks", "vision.4")])
def test_the_networks_of_the_test_data_stand_in(test_data, name, layer) -> None:
    with np.load(test_data / "images92" / "k2008_92.npz", allow_pickle=False) as file:
        seen = file["images"][::12]
    whole = network_features(test_data / name)
    dimmed = (0.7 * seen).astype(np.uint8)
    found = score_pictures(seen, dimmed, features={"clip": whole}, measures=["two_way_clip"])
    assert found.values["two_way_clip"].mean() > 0.95  # a photograph stays itself in dimmer light
    tokens = network_features(test_data / name, layer, tokens=True)(seen[:2].astype(np.float32) / 255)
    plain = vision.extract(vision.load(test_data / name), Stimuli(np.array(["a", "b"]), seen[:2]), [layer], dtype=np.float32)
    np.testing.assert_allclose(tokens, plain.tokens[layer].reshape(2, -1), atol=1e-4)


def broken(state: dict[str, torch.Tensor], **change: Any) -> dict[str, torch.Tensor]:
    return {key: value for key, value in (state | change).items() if value is not None}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s, f: alexnet(f / "none.pth"), "are not found"),
        (lambda s, f: alexnet(f / "bad.pth"), "cannot be read as a plain state dict"),
        (lambda s, f: alexnet(f / "bad.safetensors"), "cannot be read as a plain state dict"),
        (lambda s, f: alexnet(f / "module.pth"), "cannot be read as a plain state dict"),
        (lambda s, f: alexnet(f / "empty.pth"), "hold no named tensors"),
        (
            lambda s, f: alexnet(broken(s, **{"features.3.bias": None})),
            "'features.3.bias' must have shape .* no entry of that name",
        ),
        (lambda s, f: alexnet(broken(s, **{"features.0.bias": torch.zeros(9)})), r"shape \(64,\), got \(9,\)"),
        (lambda s, f: module_features(AlexNet(), "features.13"), "has no layer 'features.13'; it has features"),
        (lambda s, f: module_features(Small(), "unused")(pictures()), "'unused' does not run"),
        (lambda s, f: network_features(miniatures.folder("clip"), "vision.99"), "no layer 'vision.99'; it has"),
        (lambda s, f: network_features(miniatures.folder("clip"), tokens=True)(pictures()), "no spatial tokens"),
        (lambda s, f: protocol_features("mindeye", {"vgg": AlexNet()}), "'vgg' is not one of alexnet, clip, inception"),
        (lambda s, f: protocol_features("mindeye", {"inception": "weights.pth"}), "needs Inception v3 .* as a torch module"),
        (lambda s, f: protocol_features("mindeye", {"swav": 3}), "ResNet-50 of SwAV .* got int"),
        (lambda s, f: protocol_features("mindeye", {"clip": AlexNet()}), "got a module"),
        (lambda s, f: protocol_features("other", {}), "'other' is not one of mindeye"),
    ],
)
def test_bad_input_is_one_line(state, tmp_path, call: Callable[..., Any], message) -> None:
    (tmp_path / "bad.pth").write_bytes(b"junk")
    (tmp_path / "bad.safetensors").write_bytes(b"junk")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(DataError, match=message) as caught:
        call(state, tmp_path)
    assert "\n" not in str(caught.value)


def test_networks_that_are_given_as_modules_are_named_by_the_protocols() -> None:
    read = {m.features for one in PROTOCOLS.values() for m in one.measures if m.features}
    assert {name.rstrip("25") for name in read} == set(picture_features.NETWORKS)
