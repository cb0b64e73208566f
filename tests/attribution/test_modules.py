"""Attribution of a user's torch module: against the plain functions, on networks whose relevant places are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import brainlens.attribution.bottleneck as plain
from brainlens.attribution import modules
from brainlens.attribution.gradcam import gradcam
from brainlens.attribution.integrated_gradients import input_gradient, integrated_gradients
from brainlens.attribution.rise import grid_masks, rise
from brainlens.attribution.targets import output_at
from brainlens.types import DataError

FEW = plain.Bottleneck(steps=10, copies=4)


class Blobs(nn.Module):
    """Class c sums the brightness of picture channel c above 1/2, after a convolution that mixes the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.bend = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(4)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(2)[:, :, None, None])
            self.norm.bias.fill_(-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.pool(self.bend(self.norm(self.mix(x)))).mean((2, 3)) * 40)


class Tokens(nn.Module):
    """A transformer over 9 patches of a picture and a class token; the head reads the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.encoder(torch.cat([self.first.expand(len(x), -1, -1), seen], 1))[:, 0])


class Marked(nn.Module):
    """Tokens in, the mean of the tokens' first channel times two directions out: only tokens with that channel count."""

    def __init__(self, places: list[int]) -> None:
        super().__init__()
        self.inside = nn.Identity()
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        seen = x[:, self.places].mean(1)
        return torch.stack([seen[:, 0], seen[:, 1] + 0.2], 1)


@pytest.fixture
def blobs() -> tuple[Blobs, Tensor]:
    """The network and pictures whose channel 0 is bright at the upper left and channel 1 at the lower right."""
    x = torch.zeros(3, 2, 16, 16)
    x[:, 0, :4, :4] = 1
    x[:, 1, 12:, 12:] = 1
    return Blobs(), x + 0.01 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vit() -> tuple[Tokens, Tensor]:
    torch.manual_seed(0)
    return Tokens(), torch.randn(3, 1, 12, 12)


def corner(maps: Tensor, where: str) -> Tensor:
    """The share of each map's positive part that lies in the 8 x 8 of a corner."""
    kept = maps.clamp_min(0)
    part = kept[:, :8, :8] if where == "upper left" else kept[:, 8:, 8:]
    return part.sum((1, 2)) / kept.sum((1, 2))


@pytest.mark.parametrize(("target", "where"), [(0, "upper left"), (1, "lower right")])
def test_every_method_finds_the_corner_that_a_class_reads(blobs, target, where) -> None:
    model, x = blobs
    maps = {
        "gradcam": modules.gradcam(model, x, target, layer="pool"),
        "integrated_gradients": modules.integrated_gradients(model, x, target, steps=8).sum(1),
        "input_gradient": modules.input_gradient(model, x, target).sum(1),
    }
    for name, found in maps.items():
        assert found.shape == (3, 16, 16), name
        assert (corner(found, where) > 0.9).all(), name  # 1 with every seed, by chance 1/4
    seen = modules.rise(model, x, target, cells=4, count=3000)
    assert seen.shape == (3, 16, 16)
    assert (corner(seen - seen.mean((1, 2), keepdim=True), where) > 0.5).all()  # .67 to .95 over ten seeds


@pytest.mark.parametrize(("target", "cell"), [(0, (0, 0)), (1, (3, 3))])
def test_the_bottleneck_gives_most_bits_to_the_place_that_a_class_reads(blobs, target, cell) -> None:
    model, x = blobs
    generator = torch.Generator().manual_seed(0)
    places = torch.stack([torch.randperm(64, generator=generator) % 16 for _ in range(2)], 1)
    cells = torch.zeros(64, 2, 16).scatter_(2, places[..., None], 1.0).view(64, 2, 4, 4)  # each channel bright in one place
    reference = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    maps = modules.bottleneck(model, x, target, layer="pool", reference=reference)
    assert maps.shape == (3, 16, 16)
    for bits in maps[:, 2::4, 2::4]:  # the middle of each of the layer's 4 x 4 places
        others = bits.clone()
        others[cell] = 0
        assert bits[cell] > 2 * others.max()  # 3.1 to 5.8 times over ten seeds of noise and references


def test_bits_go_to_the_tokens_that_the_model_reads() -> None:
    model, generator = Marked([2, 5]), torch.Generator().manual_seed(0)
    x = torch.randn(4, 9, 6, generator=generator)
    x[:, :, 0] += 3  # the direction that the embedding has to keep
    known = torch.randn(200, 9, 6, generator=generator)
    bits = modules.bottleneck(model, x, torch.tensor([1.0, 0.0]), layer="inside", reference=known)
    assert bits.shape == (4, 9)
    others = [i for i in range(9) if i not in (2, 5)]
    assert (bits[:, [2, 5]].mean(1) > 3 * bits[:, others].mean(1)).all()  # others carry none


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_bottleneck_is_that_of_the_plain_function(vit, batch) -> None:
    model, x = vit
    aims, reference = torch.randn(3, 5), torch.randn(30, 1, 12, 12)
    found = modules.bottleneck(model, x, aims, layer="encoder.layers.0", reference=reference, settings=FEW, batch=batch)
    model.eval().requires_grad_(False)

    def head(pictures: Tensor) -> Tensor:
        seen = model.patches(pictures).flatten(2).transpose(1, 2)
        return model.encoder.layers[0](torch.cat([model.first.expand(len(pictures), -1, -1), seen], 1))

    def tail(tokens: Tensor) -> Tensor:
        return model.head(model.encoder.layers[1](tokens)[:, 0])

    known = plain.statistics([head(reference)])
    expected = plain.bottleneck(head(x), tail, aims, reference=known, settings=FEW)
    assert found.shape == (3, 10)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradcam_gradients_and_rise_are_those_of_the_plain_functions(vit) -> None:
    model, x = vit
    model.eval().requires_grad_(False)
    one_hot = nn.functional.one_hot(torch.tensor([4, 0, 2]), 5).float()
    with torch.no_grad():
        maps = model.patches(x)

    def tail(tokens: Tensor) -> Tensor:
        return model.head(model.encoder(torch.cat([model.first.expand(len(tokens), -1, -1), tokens], 1))[:, 0])

    expected = gradcam(maps.flatten(2).transpose(1, 2), tail, one_hot, score=output_at).view(3, 3, 3)
    enlarged = nn.functional.interpolate(expected[:, None], (12, 12), mode="bilinear")[:, 0]
    torch.testing.assert_close(modules.gradcam(model, x, [4, 0, 2], layer=model.patches, batch=2), enlarged)
    torch.testing.assert_close(
        modules.integrated_gradients(model, x, [4, 0, 2], steps=5, batch=2),
        integrated_gradients(x, model, one_hot, steps=5, score=output_at),
    )
    torch.testing.assert_close(
        modules.input_gradient(model, x.numpy(), np.array([4, 0, 2])), input_gradient(x, model, one_hot, score=output_at)
    )
    aims = torch.randn(3, 5)
    flat = rise(x.flatten(1), lambda rows: model(rows.view(-1, 1, 12, 12)), aims, masks=grid_masks((12, 12), 3), count=20)
    torch.testing.assert_close(modules.rise(model, x, aims, cells=3, count=20), flat.view(3, 12, 12))


def test_rise_of_a_class_is_the_mean_probability_of_the_masks_that_show_a_place(blobs) -> None:
    model, x = blobs
    found = modules.rise(model, x[:1], 1, cells=4, count=50, seed=3)
    masks = grid_masks((16, 16), 4)(50, torch.Generator().manual_seed(3)).view(50, 1, 16, 16)
    p = model.eval()(x[:1] * masks).softmax(1)[:, 1]
    torch.testing.assert_close(found[0], (p[:, None, None] * masks[:, 0]).sum(0).detach() / 25)


def test_a_path_around_the_layer_stays_the_sample_s_own() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.inside(x)).sum(1)

    torch.manual_seed(0)
    model, x = Around(), torch.randn(4, 2, 3)
    cut = modules.Cut(model, "inside")
    other = torch.randn(8, 2, 3)
    rows = x.repeat_interleave(2, 0)
    torch.testing.assert_close(cut.tail(x)(other), (rows + other).sum(1))
    torch.testing.assert_close(cut.tail(x)(cut.features(x)), model(x))


def test_the_module_is_left_as_it_was(blobs) -> None:
    model, x = blobs
    model.train()
    model.norm.eval()  # held on purpose
    model.mix.requires_grad_(False)
    model(x).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        first = modules.bottleneck(model, x, 0, layer="pool", settings=FEW)
    again = modules.bottleneck(model.eval(), x, 0, layer="pool", settings=FEW)
    torch.testing.assert_close(first, again, rtol=0, atol=0)  # dropout is off in both
    model.train()
    model.norm.eval()
    modules.rise(model, x, 0, count=5)
    assert model.training
    assert model.drop.training
    assert not model.norm.training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True]
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name not in grads)
        assert p.grad is None or torch.equal(p.grad, grads[name])


def test_a_model_that_fails_inside_is_left_as_it_was(vit) -> None:
    model, x = vit
    model.train()
    with pytest.raises(DataError, match="runs 0 times"):
        modules.gradcam(model, x, 0, layer=model.encoder.layers[1].self_attn.out_proj)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_named_inputs_and_outputs_of_other_kinds(vit) -> None:
    model, x = vit

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> tuple[Tensor, str]:
            return self.model(pixels), "more"

    found = modules.gradcam(Named(), {"pixels": x}, 1, layer="model.encoder.layers.0", read=lambda out: out[0])
    torch.testing.assert_close(found, modules.gradcam(model, x, 1, layer="encoder.layers.0"))


BAD = [
    ({"layer": "encoder.layer.0"}, "is not found in Tokens; close to it: .*encoder.layers.0"),
    ({"layer": nn.Linear(2, 2)}, "this Linear is no part of the model"),
    ({"layer": "head"}, r"layer 'head' gives \(3, 5\) for 3 samples"),
    ({"target": 5}, "class 5 is not found; the model gives 5, 0 to 4"),
    ({"target": [0, 1]}, r"classes \(2,\) are not one index, or one for each of 3 samples"),
    ({"target": torch.ones(4)}, r"an embedding \(4,\) is not \(5,\)"),
    ({"target": torch.zeros(5)}, "target 0 is zero or not finite"),
    ({"target": True}, "neither a class index nor an embedding"),
    ({"inputs": torch.full((3, 1, 12, 12), torch.nan)}, "inputs hold NaN"),
    ({"inputs": {}}, "should be tensors with one number of samples"),
    ({"inputs": torch.tensor(1.0)}, "at least one sample"),
    ({"read": lambda out: out[:, 0]}, r"gives \(1,\) for one sample; an output \(B, d\) is needed"),
    ({"model": lambda x: x}, "should be a torch module, got function"),
    ({"reference": torch.randn(1, 1, 12, 12)}, "at least 2 reference samples"),
]


@pytest.mark.parametrize(("change", "match"), BAD)
def test_what_is_wrong_is_one_line(vit, change, match) -> None:
    model, x = vit
    given = {"model": model, "inputs": x, "target": 0, "layer": "encoder.layers.0"} | change
    with pytest.raises(DataError, match=match) as caught:
        modules.bottleneck(given.pop("model"), given.pop("inputs"), given.pop("target"), **given)
    assert len(str(caught.value).splitlines()) == 1


def test_methods_on_inputs_refuse_words_and_models_that_give_no_tensor(vit) -> None:
    model, _ = vit
    with pytest.raises(DataError, match="one tensor of real numbers"):
        modules.integrated_gradients(model, torch.ones(3, 1, 12, 12, dtype=torch.long), 0)
    with pytest.raises(DataError, match="not a tensor; say what of it counts"):
        modules.input_gradient(nn.LSTM(3, 4), torch.ones(2, 5, 3), 0)
    with pytest.raises(DataError, match="are not pictures"):
        modules.rise(nn.Flatten(), torch.ones(2, 2, 2, 2, 2), 0)


@pytest.mark.parametrize("change", [lambda x: x[0], lambda x: (255 * x).to(torch.uint8)], ids=["one picture", "whole numbers"])
def test_pictures_that_the_model_cannot_read_are_one_line(blobs, change) -> None:
    model, pictures = blobs
    with pytest.raises(DataError, match=r"cannot read one sample \(1, .+pictures are \(picture, channel, row, column\)") as error:
        modules.gradcam(model, change(pictures), 0, layer="pool")
    assert "\n" not in str(error.value)
