"""FactorTopy against the listing of its paper (grid_sample per layer), and the properties that its fast form must keep."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainlens.nn import factortopy as ft
from brainlens.types import DataError

CHANNELS = {"a": 10, "b": 6, "c": 10}


def data(voxels=70, images=4, seed=0, **options):
    torch.manual_seed(seed)
    coordinates = torch.rand(voxels, 3) * 100
    model = ft.FactorTopyNetwork(coordinates, CHANNELS, width=16, **options)
    with torch.no_grad():
        for part in model.selectors.last if options.get("topological", True) else model.selectors.free:
            (part.weight if hasattr(part, "weight") else part).mul_(30)
    tokens = {k: torch.randn(images, 64, c) for k, c in CHANNELS.items()}
    return model, tokens, {k: torch.randn(images, c) for k, c in CHANNELS.items()}


def listing(model, tokens, whole):
    """The paper's listing 1 with the model's parameters and options, [image, voxel, D, layer] materialised."""
    space, omega, alpha = model.select()
    where = []
    for sample in range(model.samples):
        local, everywhere = [], []
        for i, layer in enumerate(CHANNELS):
            maps = (tokens[layer] @ model.local[i]).transpose(1, 2).unflatten(2, (8, 8))
            grid = space[None, :, None, sample].expand(len(maps), -1, -1, -1)
            got = F.grid_sample(maps, grid, align_corners=False, padding_mode=model.options["padding"])[..., 0]
            if "space" not in model.use:
                got = maps.mean((2, 3))[:, :, None].expand_as(got)
            local.append(got.transpose(1, 2))
            matrix = model.local[i] if model.options["shared_bottleneck"] else model.whole[i]
            everywhere.append((whole[layer] @ matrix)[:, None].expand_as(local[-1]))
        v = torch.stack(local, -1) * (1 - alpha)[:, None, None] + torch.stack(everywhere, -1) * alpha[:, None, None]
        where.append((v * omega[None, :, None]).sum(-1))
    v = torch.stack(where).mean(0) * model.readout
    return (v.mean(-1) if model.options["reduce"] == "mean" else v.sum(-1)) + model.bias


OPTIONS = [
    {},
    {"samples": 3},
    {"topological": False},
    {"use": ("layer", "scale")},
    {"use": ("space", "scale")},
    {"use": ("space", "layer")},
    {"variant": {"padding": "zeros", "shared_bottleneck": False, "reduce": "sum"}},
    {"samples": 2, "variant": {"padding": "zeros"}},
]


def gradients(model, y):
    generator = torch.Generator().manual_seed(5)
    model.zero_grad()
    (y * torch.randn(y.shape, generator=generator)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_outputs_and_all_gradients_equal_the_listing(options):
    model, tokens, whole = data(**options)
    truth, fast = listing(model, tokens, whole), model(tokens, whole)
    assert (fast - truth).abs().max() / truth.abs().max() < 1e-5
    ours, theirs = gradients(model, model(tokens, whole)), gradients(model, listing(model, tokens, whole))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        if value.abs().max() > 1e-8:
            assert (ours[name] - value).abs().max() / value.abs().max() < 1e-5, name


def test_blocks_for_a_gpu_equal_the_loop_over_cells():
    torch.manual_seed(0)
    table, corners = torch.randn(66, 3, 2, 5).requires_grad_(), ft.corner_index(8, False)
    u = (torch.rand(300, 2) * 2 - 1) * torch.tensor([1.0, 0.2])
    cell, mix = ft.locate(u, 8)
    mix = torch.cat([mix, torch.rand(300, 1)], 1).requires_grad_()
    omega, readout = torch.rand(300, 3).requires_grad_(), torch.randn(300, 5).requires_grad_()
    loop = ft.read_cells(table, corners, cell, mix, omega, readout)
    order, counts = torch.argsort(cell, stable=True), torch.bincount(cell, minlength=81)
    used = counts.nonzero()[:, 0]
    tokens = table[corners[used].flatten()].unflatten(0, (len(used), 5))
    weights = (mix[:, :, None] * omega[:, None]).flatten(1)
    blocks = ft._read_blocks(tokens, order, counts[used], weights, readout, size=16)
    torch.testing.assert_close(blocks, loop, rtol=1e-5, atol=1e-5)
    noise = torch.randn_like(loop)
    for a, b in zip(*(torch.autograd.grad((y * noise).sum(), [table, mix, omega, readout]) for y in (loop, blocks)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_gradients_of_the_cell_function_in_double_precision():
    torch.manual_seed(1)
    tokens = torch.randn(2, 5, 2, 3, 4, dtype=torch.double, requires_grad=True)
    weights = torch.rand(6, 10, dtype=torch.double, requires_grad=True)
    readout = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    order = torch.tensor([5, 0, 3, 1, 2, 4])
    call = lambda t, a, w: ft._ReadCells.apply(t, order, [2, 4], a, w)  # noqa: E731
    assert torch.autograd.gradcheck(call, (tokens, weights, readout))


def test_subsets_of_voxels_keep_their_selectors():
    coordinates = torch.rand(200, 3) * 50
    code = ft.PositionCode(coordinates)
    torch.testing.assert_close(code(coordinates[20:40]), code(coordinates)[20:40])
    again = ft.PositionCode(torch.zeros(1, 3))
    again.load_state_dict(code.state_dict())
    torch.testing.assert_close(again(coordinates), code(coordinates))


def test_batch_of_images_and_order_of_voxels_change_nothing():
    model, tokens, whole = data()
    everything = model(tokens, whole)
    one = torch.cat(
        [model({k: v[i : i + 1] for k, v in tokens.items()}, {k: v[i : i + 1] for k, v in whole.items()}) for i in range(4)]
    )
    torch.testing.assert_close(one, everything, rtol=1e-5, atol=1e-6)
    turned, _, _ = data()
    for name in ("code", "readout", "bias"):
        getattr(turned, name).data = getattr(model, name).data.flip(0)
    torch.testing.assert_close(turned(tokens, whole), everything.flip(1), rtol=1e-5, atol=1e-6)


def test_a_place_reads_its_own_token():
    token, centre = 8 * 2 + 5, torch.tensor([[(5 + 0.5) / 4 - 1, (2 + 0.5) / 4 - 1]])
    cell, weights = ft.locate(centre, 8)
    table = torch.cat([torch.arange(64.0), torch.zeros(2)])
    assert float((table[ft.corner_index(8, False)[cell, :4]] * weights).sum()) == pytest.approx(token)
    corner, weights = ft.locate(torch.tensor([[-1.0, -1.0]]), 8)
    table = torch.cat([torch.arange(1.0, 65), torch.zeros(2)])
    values = [float((table[ft.corner_index(8, zeros)[corner, :4]] * weights).sum()) for zeros in (False, True)]
    assert values == [1.0, 0.25]  # zeros quarter a corner, which is why the edge is repeated by default


def test_entropy_penalty_by_hand():
    assert float(ft.entropy_penalty(torch.full((5, 4), 0.25))) == pytest.approx(-1)
    sure = F.one_hot(torch.arange(4)).float()
    assert float(ft.entropy_penalty(sure)) == 0
    assert float(ft.entropy_penalty(sure, torch.tensor([0.0, 1.0]))) == pytest.approx(0.25)


def test_zero_start_is_the_centre_and_uniform():
    model, _, _ = data(variant={"zero_start": True})
    space, omega, alpha = model.select()
    assert not space.any()
    np.testing.assert_allclose(omega.detach(), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(alpha.detach(), 0.5)


def test_resize_keeps_what_has_the_size_and_averages_what_has_not():
    tokens = torch.randn(2, 64, 3)
    assert ft.resize_tokens(tokens, (8, 8)) is tokens
    fine = torch.arange(16.0).repeat(16, 1).reshape(1, 256, 1)
    torch.testing.assert_close(ft.resize_tokens(fine, (16, 16))[0, :8, 0], torch.arange(8) * 2 + 0.5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ft.FactorTopyNetwork(torch.zeros(5, 2), CHANNELS), "voxel, 3"),
        (lambda: ft.FactorTopyNetwork(torch.full((5, 3), torch.nan), CHANNELS), "5 of 5 voxels"),
        (lambda: ft.FactorTopyNetwork(torch.rand(5, 3), CHANNELS, use=("colour",)), "colour"),
        (lambda: ft.FactorTopyNetwork(torch.rand(5, 3), CHANNELS, samples=0), "samples"),
        (lambda: ft.FactorTopyNetwork(torch.rand(5, 3), CHANNELS, variant={"padding": "wrap"}), "wrap"),
        (lambda: ft.resize_tokens(torch.zeros(1, 10, 2), (3, 3)), "grid of 3 x 3"),
        (lambda: (lambda m, t, w: m({"a": t["a"]}, w))(*data()), "no tokens for layer 'b'"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_every_cell_reads_four_neighbouring_tokens():
    corners = ft.corner_index(8, True)
    assert corners.shape == (81, 5)
    for (row, column), index in zip(itertools.product(range(-1, 8), repeat=2), corners, strict=True):
        inside = [(r, c) for r in (row, row + 1) for c in (column, column + 1)]
        expected = [r * 8 + c if 0 <= r < 8 and 0 <= c < 8 else 64 for r, c in inside]
        assert index.tolist() == [*expected, 65]
