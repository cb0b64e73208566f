"""The fused TSConv against its separate layers, and its baselines on any number of channels and samples."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from brainlens.nn.sensor_baselines import SENSOR_ENCODERS, WideDropout, sensor_encoder
from brainlens.nn.sensor_encoder import TSConv, _elu, box_filter, product, tsconv_steps, window_moments
from brainlens.types import DataError

SHAPES = [(63, 250, 1440), (17, 100, 240), (4, 201, 1040), (3, 200, 1040), (2, 276, 1640), (2, 300, 1840)]


def layers(net: TSConv) -> nn.Sequential:
    """The layers one after the other, with the weights of `net`."""
    filters = len(net.temporal.weight)
    plain = nn.Sequential(
        nn.Conv2d(1, filters, (1, net.kernel)),
        nn.AvgPool2d((1, net.pool), (1, net.stride)),
        nn.BatchNorm2d(filters),
        nn.ELU(),
        nn.Conv2d(filters, filters, (net.channels, 1)),
        nn.BatchNorm2d(filters),
        nn.ELU(),
        nn.Dropout(0.0),
        nn.Conv2d(filters, filters, 1),
    )
    for mine, theirs in zip((net.temporal, net.norm1, net.spatial, net.norm2, net.mix), (plain[i] for i in (0, 2, 4, 5, 8))):
        theirs.load_state_dict(mine.state_dict())
    return plain


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("channels, samples, width", SHAPES)
def test_width_is_computed(channels: int, samples: int, width: int) -> None:
    net = TSConv(channels, samples)
    assert net.width == width == layers(net).eval()(torch.randn(1, 1, channels, samples)).flatten(1).shape[1]
    assert net(torch.randn(2, channels, samples)).shape == (2, width)


@pytest.mark.parametrize("channels, samples", [(31, 250), (17, 100)])
@pytest.mark.parametrize("wants_input", [False, True])
def test_equals_the_separate_layers(channels: int, samples: int, wants_input: bool) -> None:
    torch.manual_seed(0)
    net = TSConv(channels, samples, dropout=0.0)
    nn.init.normal_(net.norm1.weight, 1.0, 0.3)
    nn.init.normal_(net.norm1.bias, 0.0, 0.3)
    plain = layers(net)
    x = (torch.randn(5, channels, samples) + 0.3).requires_grad_(wants_input)  # 5: the last piece is smaller
    y = x.detach().clone().requires_grad_(wants_input)
    ours, theirs = net(x), plain(y[:, None]).permute(0, 2, 3, 1).flatten(1)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    assert relative(ours, theirs) < 1e-5
    expected = dict(zip([n for n, _ in net.named_parameters()], plain.parameters()))
    for name, parameter in net.named_parameters():
        if name in ("temporal.bias", "spatial.bias"):  # zero in exact arithmetic in front of batch norm
            assert parameter.grad.abs().max() < 1e-3 * net.mix.weight.grad.abs().max()
        else:
            assert relative(parameter.grad, expected[name].grad) < 1e-5, name
    if wants_input:
        assert relative(x.grad, y.grad) < 1e-5
    assert relative(net.norm1.running_var, plain[2].running_var) < 1e-5
    assert relative(net.norm1.running_mean, plain[2].running_mean) < 1e-5
    net.eval(), plain.eval()
    assert relative(net(x), plain(y[:, None]).permute(0, 2, 3, 1).flatten(1)) < 1e-5


def test_filtered_input_and_stored_moments_change_nothing() -> None:
    torch.manual_seed(1)
    net = TSConv(7, 120, dropout=0.0)
    other = copy.deepcopy(net)
    other.filtered = True
    x = torch.randn(6, 7, 120)
    filtered = box_filter(x)
    moments = window_moments(filtered)
    assert torch.allclose(net(x), other(filtered, moments), atol=1e-6)
    assert torch.allclose(moments.sum(0), window_moments(filtered[[3, 1, 0, 5, 4, 2]]).sum(0))


def test_box_filter_is_a_moving_mean() -> None:
    for samples in (60, 1500):  # the two ways of computing it
        x = torch.randn(2, 3, samples, dtype=torch.float64)
        assert torch.allclose(box_filter(x), nn.functional.avg_pool1d(x, 51, 1), atol=1e-12)


def test_a_graph_can_be_walked_twice_and_two_graphs_can_live() -> None:
    torch.manual_seed(2)
    net = TSConv(4, 90, dropout=0.0)
    a, b = torch.randn(5, 4, 90), torch.randn(5, 4, 90)
    first, second = net(a), net(b)
    once = torch.autograd.grad(first.square().sum(), net.spatial.weight, retain_graph=True)[0]
    net(a).sum().backward()  # takes and gives back another buffer in between
    again = torch.autograd.grad(first.square().sum(), net.spatial.weight)[0]
    assert torch.equal(once, again)
    alone = copy.deepcopy(net)
    expected = torch.autograd.grad(alone(b).square().sum(), alone.spatial.weight)[0]
    assert torch.allclose(torch.autograd.grad(second.square().sum(), net.spatial.weight)[0], expected, rtol=1e-5)


def test_eval_does_not_depend_on_the_batch() -> None:
    net = TSConv(5, 100).eval()
    x = torch.randn(7, 5, 100)
    assert torch.allclose(net(x)[[4, 2]], net(x[[4, 2]]), atol=1e-6)


@pytest.mark.parametrize("name", SENSOR_ENCODERS)
@pytest.mark.parametrize("channels, samples", [(17, 100), (9, 201)])
def test_every_encoder_gives_the_width_asked_for(name: str, channels: int, samples: int) -> None:
    net = sensor_encoder(name, channels, samples, 24, seed=3)
    same = sensor_encoder(name, channels, samples, 24, seed=3)
    x = torch.randn(4, channels, samples)
    out = net(x)
    assert out.shape == (4, 24)
    out.square().sum().backward()
    moved = [p.grad for part, p in net.named_parameters() if part != "logit_scale"]  # which is of the loss, not of what it gives
    assert all(grad is not None and torch.isfinite(grad).all() for grad in moved)
    assert torch.equal(net.eval()(x), same.eval()(x)) or name != "linear"
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters()))


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    sensor_encoder("nice", 5, 100, 8, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_users_module_is_taken() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(6 * 50, 12))
    assert sensor_encoder(module, 6, 50, 12) is module


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: tsconv_steps(74), "at least 75"),
        (lambda: box_filter(torch.zeros(1, 1, 50)), "box filter of 51"),
        (lambda: TSConv(5, 100)(torch.zeros(2, 6, 100)), "built for"),
        (lambda: TSConv(5, 100)(torch.zeros(2, 5, 50)), "built for"),
        (lambda: sensor_encoder("transformer", 5, 100, 8), "not one of"),
        (lambda: sensor_encoder(nn.Linear(50, 8), 6, 50, 8), "must give"),
        (lambda: sensor_encoder(nn.Linear(40, 8), 6, 50, 8), "does not take"),
        (lambda: sensor_encoder("eegnet", 6, 20, 8), "at least 32"),
    ],
)
def test_mistakes_are_one_line(call: object, text: str) -> None:
    with pytest.raises(DataError, match=text) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_products_and_elu_are_those_of_torch() -> None:
    torch.manual_seed(3)
    a, b, wide = torch.randn(90, 26), torch.randn(26, 40), torch.randn(50, 90)
    assert relative(product(a, b), (a.double() @ b.double()).float()) < 1e-6
    assert relative(product(wide.t()[:50].t(), a[:50]), (wide[:, :50].double() @ a[:50].double()).float()) < 1e-6  # strided
    z, out = 4 * torch.randn(3000), torch.empty(3000)
    _elu(z, out)
    assert (out - nn.functional.elu(z.double()).float()).abs().max() < 1e-6


def test_bfloat16_recordings_give_nearly_the_same_gradients() -> None:
    torch.manual_seed(4)
    net = TSConv(31, 250, dropout=0.0)
    x, weight = torch.randn(16, 31, 250), torch.randn(16, net.width)
    found = []
    for kind in (torch.float32, torch.bfloat16):
        net.zero_grad(set_to_none=True)
        out = net(x.to(kind))
        assert out.dtype == torch.float32
        (out * weight).sum().backward()
        found.append([out.flatten().detach()] + [p.grad.flatten().clone() for p in (net.temporal.weight, net.spatial.weight)])
    for exact, rounded in zip(*found):
        assert torch.cosine_similarity(exact, rounded, dim=0) > 0.999


def test_wide_dropout_drops_its_share_scales_the_rest_and_is_seeded() -> None:
    layer, x = WideDropout(0.3), torch.ones(301, 997)
    torch.manual_seed(5)
    first = layer(x)
    torch.manual_seed(5)
    assert torch.equal(first, layer(x))
    gone = (first == 0).double()
    assert gone.mean() == pytest.approx(0.3, abs=0.003)
    assert gone.mean(0).std() == pytest.approx((0.3 * 0.7 / 301) ** 0.5, rel=0.1)  # no column is favoured: binomial spread
    assert gone.mean(1).std() == pytest.approx((0.3 * 0.7 / 997) ** 0.5, rel=0.15)
    assert first[first > 0].unique().item() == pytest.approx(1 / 0.7)
    assert torch.equal(layer.eval()(x), x)
