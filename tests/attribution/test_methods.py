"""RISE, Grad-CAM, Chefer, integrated gradients and the way back to voxels, each against a plain loop or a known case."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainlens.attribution.chefer import chefer
from brainlens.attribution.gradcam import gradcam
from brainlens.attribution.integrated_gradients import input_gradient, integrated_gradients
from brainlens.attribution.rise import grid_masks, region_masks, rise, volume_masks
from brainlens.attribution.targets import cosine, has_slope, scores, slope
from brainlens.attribution.voxels import random_maps, to_voxels
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.types import DataError


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_sums_over_targets():
    z, aims = rows(3, 5), rows(3, 2, 5, seed=1)
    expected = F.cosine_similarity(z, aims[:, 0]) + F.cosine_similarity(z, aims[:, 1])
    torch.testing.assert_close(cosine(z, aims), expected)
    torch.testing.assert_close(scores(z, lambda x: x, aims, batch=2), expected)


def test_rise_equals_its_formula():
    matrix, x, aims = rows(20, 6), rows(3, 20, seed=1), rows(3, 6, seed=2)
    masks = region_masks(np.arange(20) // 2, keep=0.4)
    ours = rise(x, lambda v: v @ matrix, aims, masks=masks, count=50, keep=0.4, seed=7, batch=16)
    generator = torch.Generator().manual_seed(7)
    chosen = torch.cat([masks(n, generator) for n in (16, 16, 16, 2)])
    expected = torch.zeros(3, 20)
    for i in range(3):
        for m in chosen:
            expected[i] += F.cosine_similarity(((x[i] * m) @ matrix)[None], aims[i : i + 1]) * m
    torch.testing.assert_close(ours, expected / (50 * 0.4), rtol=1e-4, atol=1e-5)
    alone = rise(x[1:2], lambda v: v @ matrix, aims[1:2], masks=masks, count=50, keep=0.4, seed=7, batch=16)
    torch.testing.assert_close(alone, ours[1:2], rtol=1e-4, atol=1e-5)


def test_the_factor_makes_rise_the_mean_score_where_a_unit_is_shown():
    masks = grid_masks((6, 7), 3, keep=0.3)
    one = rise(torch.ones(1, 42), lambda v: torch.ones(len(v), 4), torch.ones(1, 4), masks=masks, count=4000, keep=0.3)
    assert float(one.mean()) == pytest.approx(1, abs=0.03)  # the score is 1 everywhere, and so is the map


@pytest.mark.parametrize("shape", [(11,), (9, 10), (5, 6, 7)])
def test_grid_masks_have_the_expected_mean_and_range(shape):
    found = grid_masks(shape, 3, keep=0.4)(2000, torch.Generator().manual_seed(0))
    assert found.shape == (2000, int(np.prod(shape)))
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float((found.mean(0) - 0.4).abs().max()) < 0.06


def test_volume_masks_are_the_masked_voxels():
    mask = np.random.default_rng(0).random((4, 5, 6)) < 0.5
    found = volume_masks(mask, 2)(3, torch.Generator().manual_seed(1))
    full = grid_masks((4, 5, 6), 2)(3, torch.Generator().manual_seed(1))
    assert torch.equal(found, full[:, torch.from_numpy(mask.reshape(-1))])


def test_gradcam_equals_its_formula():
    tokens, matrix, aims = rows(4, 6, 8), rows(8, 5, seed=1), rows(4, 2, 5, seed=2)

    def tail(t):
        return torch.tanh(t).sum(1) @ matrix

    ours = gradcam(tokens, tail, aims, skip=1, signed=True, batch=3)
    for i in range(4):
        one = tokens[i : i + 1].clone().requires_grad_()
        (g,) = torch.autograd.grad(cosine(tail(one), aims[i : i + 1]).sum(), one)
        weights = g[0, 1:].mean(0)
        torch.testing.assert_close(ours[i], (tokens[i] * weights).sum(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradcam(tokens, tail, aims, skip=1), ours.clamp_min(0))


def test_chefer_equals_its_recursion():
    encoder = VolumeEncoder(np.ones((4, 4, 2), bool), VolumeDesign(patch=2, width=8, depth=3, heads=2, embed_dim=6)).eval()
    x, aims = rows(3, 32), rows(3, 6, seed=1)
    ours = chefer(x, lambda v: encoder(v, attentions=True), aims, batch=2)
    last = chefer(x, lambda v: encoder(v, attentions=True), aims, blocks=1)
    for i in range(3):
        z, maps = encoder(x[i : i + 1], attentions=True)
        slopes = torch.autograd.grad(F.cosine_similarity(z, aims[i : i + 1]).sum(), maps)
        relevance = torch.eye(maps[0].shape[-1])
        for a, g in zip(maps, slopes):
            cam = (a.detach() * g).clamp_min(0)[0].mean(0)
            relevance = relevance + cam @ relevance
        torch.testing.assert_close(ours[i], relevance[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(last[i], torch.eye(len(cam))[0] + cam[0], rtol=1e-4, atol=1e-6)


def test_integrated_gradients_are_complete_and_exact_for_a_straight_score():
    matrix, x, aims = rows(9, 5), rows(4, 9, seed=1), rows(4, 5, seed=2)
    base = rows(4, 9, seed=3)
    ours = integrated_gradients(x, lambda v: v @ matrix, aims, baseline=base, steps=2000, batch=3)
    gap = scores(x, lambda v: v @ matrix, aims) - scores(base, lambda v: v @ matrix, aims)
    torch.testing.assert_close(ours.sum(1), gap, rtol=1e-3, atol=1e-4)
    zero = x.clone()
    zero[:, 4] = base[:, 4]
    assert (integrated_gradients(zero, lambda v: v @ matrix, aims, baseline=base, steps=3)[:, 4] == 0).all()


def test_input_gradient_is_the_first_order_change():
    matrix, x, aims = rows(9, 5).double(), rows(4, 9, seed=1).double(), rows(4, 5, seed=2).double()
    ours = input_gradient(x, lambda v: v @ matrix, aims, batch=3)
    for unit in range(9):
        step = x.clone()
        step[:, unit] *= 1 + 1e-6
        change = (scores(step, lambda v: v @ matrix, aims) - scores(x, lambda v: v @ matrix, aims)) / 1e-6
        torch.testing.assert_close(ours[:, unit], change, rtol=1e-4, atol=1e-5)


def test_patches_come_back_to_voxels():
    patch_of = torch.tensor([0, 1, 1, -1, 0, 2])
    maps = torch.tensor([[1.0, 2.0, 3.0]])
    assert to_voxels(maps, patch_of).tolist() == [[1, 2, 2, 0, 1, 3]]
    weight = torch.tensor([[3.0, 0.0, 0.0, 9.0, 1.0, 5.0]])
    assert to_voxels(maps, patch_of, weight=weight).tolist() == [[1.5, 2, 2, 0, 0.5, 3]]


def test_random_maps_are_as_coarse_as_patches_where_asked():
    patch_of = torch.tensor([0, 0, 1, -1])
    found = random_maps(50, 4, patch_of=patch_of, seed=1)
    assert torch.equal(found[:, 0], found[:, 1])
    assert (found[:, 3] == 0).all()
    assert torch.equal(random_maps(3, 4, seed=2), random_maps(3, 4, seed=2))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: grid_masks((4, 4), [2, 2, 2]), "axes"),
        (lambda: grid_masks((4, 4), 2, keep=1.0), "between 0 and 1"),
        (lambda: rise(rows(2, 3, 3), lambda v: v, rows(2, 3), masks=region_masks(np.arange(3))), "flatten"),
        (lambda: rise(rows(2, 3), lambda v: v, rows(2, 3), masks=region_masks(np.arange(4))), "4 units"),
        (lambda: rise(rows(2, 3), lambda v: v, rows(2, 3), masks=region_masks(np.arange(3)), count=0), "at least 1"),
        (lambda: integrated_gradients(rows(2, 3), lambda v: v, rows(2, 3), steps=0), "steps"),
        (lambda: gradcam(rows(2, 3, 4), lambda t: t.sum(1), rows(3, 4)), "2 samples"),
        (lambda: to_voxels(rows(2, 3), torch.tensor([0, 3])), "4 patches"),
        (lambda: to_voxels(rows(2, 3), torch.tensor([0, 2]), weight=-torch.ones(2, 2)), "not negative"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(DataError, match=words):
        call()


@pytest.mark.parametrize("seed", range(10))
def test_a_score_has_no_slope_at_its_own_target(seed):
    z, other = rows(6, 512, seed=seed), rows(6, 512, seed=seed + 100)
    for size in (1e-6, 1.0, 1e6):
        assert not has_slope(z * size, z).any()
        assert not has_slope(z, torch.stack([z * size, -z], 1)).any()
        assert not has_slope(torch.stack([z, other], 1) * size, torch.stack([z, other], 1)).any()
        assert has_slope(z * size, other).all()
        assert has_slope(z * size, z + 1e-4 * other).all()
        assert has_slope(torch.stack([z, z], 1) * size, torch.stack([z, other], 1)).all()
    found = slope(lambda x: x, z, torch.cat([z[:3], other[3:]]))
    assert not found[:3].any()
    point = z.clone().requires_grad_()
    (truth,) = torch.autograd.grad(cosine(point, other).sum(), point)
    torch.testing.assert_close(found[3:], truth[3:])


def test_a_score_that_no_mask_changes_gives_rise_without_differences():
    masks = grid_masks((6, 7), 3)
    found = rise(rows(2, 42), lambda v: torch.ones(len(v), 4), rows(2, 3, 4, seed=1), masks=masks, count=40)
    assert (found.max(1).values == found.min(1).values).all()


def test_gradcam_of_a_single_token_is_exactly_zero():
    matrix = rows(8, 5, seed=1)
    for seed in range(10):
        tokens, aims = rows(4, 1, 8, seed=seed), rows(4, 5, seed=seed + 50)
        assert not gradcam(tokens, lambda t: t.sum(1) @ matrix, aims, signed=True).any()
        more = rows(4, 2, 8, seed=seed)
        assert gradcam(more, lambda t: t.sum(1) @ matrix, aims, signed=True).all()
