from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder, cubic_patches, preset
from brainlens.types import DataError

TINY = VolumeDesign(patch=3, width=16, depth=3, heads=2, embed_dim=8)


def blob(shape=(8, 9, 7), seed=0):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, s) for s in shape], indexing="ij"))
    return ((grid**2).sum(0) < 0.9) & (rng.random(shape) < 0.9)


def volumes(mask, x):
    out = torch.zeros(len(x), *mask.shape)
    out[:, torch.from_numpy(mask)] = x
    return out


def plain(encoder, mask, x):
    """The full zero-padded volume through Conv3d, every patch a token, empty ones masked out as keys, all blocks in full."""
    design = encoder.design
    pad = [(-s) % design.patch for s in mask.shape]
    volume = F.pad(volumes(mask, x), (0, pad[2], 0, pad[1], 0, pad[0]))[:, None]
    kernel = encoder.projection.T.reshape(design.width, 1, design.patch, design.patch, design.patch)
    patches = F.conv3d(volume, kernel, stride=design.patch).flatten(2).transpose(1, 2)
    brain = F.max_pool3d(volumes(mask, torch.ones(1, encoder.n_voxels))[:, None], design.patch, design.patch, ceil_mode=True) > 0
    brain = brain.flatten()
    position = torch.zeros(len(brain), design.width)
    position[brain] = encoder.position
    tokens = torch.cat([encoder.class_token.expand(len(x), 1, -1), patches + position], 1)
    tokens = encoder.pre(tokens)
    keys = torch.cat([torch.ones(1, dtype=torch.bool), brain])
    for block in encoder.blocks:
        hidden = block.norm1(tokens)
        b, t, w = hidden.shape
        q, k, v = (part.view(b, t, block.heads, -1).transpose(1, 2) for part in block.qkv(hidden).chunk(3, -1))
        scores = (q @ k.transpose(-1, -2) / (w / block.heads) ** 0.5).masked_fill(~keys, -torch.inf)
        tokens = tokens + block.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, w))
        tokens = tokens + block.contract(F.gelu(block.expand(block.norm2(tokens))))
    return encoder.head(encoder.norm(tokens[:, 0]))


def test_equals_the_full_volume_encoder_in_value_and_gradient():
    mask = blob()
    encoder = VolumeEncoder(mask, TINY)
    x = torch.randn(5, encoder.n_voxels, generator=torch.Generator().manual_seed(1), requires_grad=True)
    aim = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    results = []
    for run in (lambda: encoder(x), lambda: plain(encoder, mask, x)):
        encoder.zero_grad()
        x.grad = None
        z = run()
        (z * aim).sum().backward()
        results.append([z.detach(), x.grad.clone(), *[p.grad.clone() for p in encoder.parameters()]])
    for ours, truth in zip(*results):
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()) + 1e-8)


def test_patch_numbers_on_a_hand_worked_mask():
    mask = np.zeros((3, 2, 4), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[2, 0, 3] = True
    group, slot = cubic_patches(mask, 2)
    assert group.tolist() == [0, 0, 1]
    assert slot.tolist() == [0, 3, 1]
    group, _ = cubic_patches(np.ones((3, 1, 1), bool), 2, "centre")
    assert group.tolist() == [0, 0, 1]


def test_own_projections_equal_a_plain_sum():
    mask = blob()
    encoder = VolumeEncoder(mask, replace(TINY, per_patch=True, padding="centre"))
    x = torch.randn(4, encoder.n_voxels)
    weights = encoder.voxel_weights()
    expected = torch.zeros(4, encoder.n_patches, 16)
    for v in range(encoder.n_voxels):
        expected[:, encoder.patch_of[v]] += x[:, v, None] * weights[v]
    torch.testing.assert_close(encoder.patches(x), expected, rtol=1e-5, atol=1e-5)


def test_regions_as_tokens_leave_out_negative_labels():
    labels = np.array([4, -1, 4, 9, 9, 4])
    encoder = VolumeEncoder(np.ones(6, bool), replace(TINY, per_patch=True), groups=labels)
    assert encoder.patch_of.tolist() == [0, -1, 0, 1, 1, 0]
    x = torch.randn(3, 6)
    moved = x.clone()
    moved[:, 1] += 5
    torch.testing.assert_close(encoder(moved), encoder(x))
    assert encoder.voxel_weights()[1].abs().sum() == 0


@pytest.mark.parametrize("kind", ["learned", "sum"])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_running_from_a_layer_continues_the_whole_run(kind, pre_norm):
    encoder = VolumeEncoder(blob(), replace(TINY, class_token=kind, pre_norm=pre_norm)).eval()
    x = torch.randn(4, encoder.n_voxels)
    z = encoder(x)
    tokens = encoder.tokens(x)
    for layer in range(4):
        torch.testing.assert_close(encoder.forward_from(encoder.prefix(tokens, layer), layer), z, rtol=1e-5, atol=1e-6)
    with_maps, maps = encoder(x, attentions=True)
    torch.testing.assert_close(with_maps, z, rtol=1e-5, atol=1e-6)
    assert [m.shape for m in maps] == [(4, 2, encoder.n_patches + 1, encoder.n_patches + 1)] * 3
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(4, 2, encoder.n_patches + 1))
    assert torch.autograd.grad(with_maps.sum(), maps)[0].abs().sum() > 0


def test_a_sample_does_not_depend_on_its_batch():
    encoder = VolumeEncoder(blob(), replace(TINY, per_patch=True)).eval()
    x = torch.randn(6, encoder.n_voxels)
    torch.testing.assert_close(torch.cat([encoder(row[None]) for row in x]), encoder(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("width", [9, 16])
def test_a_linear_decoder_can_be_loaded_and_ranks_the_same(norm, width):
    design = replace(TINY, width=width, heads=1, class_token="sum", per_patch=True, zero_init=True, norm=norm)
    encoder = VolumeEncoder(blob(), design).eval()
    weights, intercept = torch.randn(encoder.n_voxels, 8), torch.randn(8)
    kept = encoder.load_linear(weights, intercept)
    x = torch.randn(50, encoder.n_voxels)
    ours, linear = F.normalize(encoder(x).detach(), dim=1), F.normalize(x @ weights + intercept, dim=1)
    assert kept == pytest.approx(1)
    assert float((ours * linear).sum(1).min()) > 1 - 1e-5


def test_a_narrow_encoder_keeps_the_leading_part_of_a_linear_decoder():
    design = replace(TINY, width=6, heads=1, class_token="sum", per_patch=True)
    encoder = VolumeEncoder(blob(), design).eval()
    left = torch.randn(encoder.n_voxels, 5)
    kept = encoder.load_linear(left @ torch.randn(5, 8), torch.zeros(8))
    assert kept == pytest.approx(1, abs=1e-9)  # rank 5 fits into width 6
    x = torch.randn(20, encoder.n_voxels)
    weights = torch.randn(encoder.n_voxels, 8)
    kept = encoder.load_linear(weights, torch.zeros(8))
    assert 0.4 < kept < 1
    agreement = float(F.cosine_similarity(encoder(x), x @ weights, dim=1).mean().detach())
    assert agreement == pytest.approx(kept**0.5, abs=0.1)


def test_patch_dropout_keeps_the_sum_whole_and_is_off_in_evaluation():
    design = replace(TINY, class_token="sum", patch_dropout=0.5, pre_norm=False)
    encoder = VolumeEncoder(blob(), design)
    x = torch.randn(1, encoder.n_voxels)
    full = encoder.eval().tokens(x).detach()
    assert full.shape[1] == encoder.n_patches + 1
    encoder.train()
    torch.manual_seed(0)
    many = encoder.tokens(x.expand(40, -1)).detach()
    assert many.shape[1] == round(encoder.n_patches / 2) + 1
    torch.testing.assert_close(many[:, 0], full[:, 0].expand(40, -1))
    assert (many[0, 1:, None] - full[0, None, 1:]).abs().sum(-1).min(1).values.max() < 1e-5  # each of them is a patch


def test_patches_that_dropout_leaves_out_are_not_projected_and_the_rest_is_the_same():
    encoder = VolumeEncoder(blob(), replace(TINY, patch_dropout=0.5, input_dropout=0.2)).train()
    x, found = torch.randn(5, encoder.n_voxels), []
    for tokens in (encoder.tokens, lambda x: encoder.assemble(encoder.embedded(x))):
        torch.manual_seed(0)
        encoder.zero_grad()
        value = tokens(x)
        value.square().sum().backward()
        found.append((value.detach(), encoder.projection.grad.clone(), encoder.position.grad.clone()))
    for fast, plain in zip(*found):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_input_dropout_keeps_the_projection_in_expectation():
    encoder = VolumeEncoder(blob(), replace(TINY, per_patch=True, input_dropout=0.3))
    x = torch.randn(1, encoder.n_voxels)
    full = encoder.eval().patches(x).detach()
    encoder.train()
    torch.manual_seed(0)
    many = encoder.patches(x.expand(4000, -1)).detach()
    error = (many.mean(0) - full[0]).abs() / (many.std(0) / 4000**0.5).clamp_min(1e-6)
    assert float(error.max()) < 5


def test_checkpointing_gives_the_same_gradients():
    x = torch.randn(3, int(blob().sum()))
    grads = []
    for checkpointing in (False, True):
        encoder = VolumeEncoder(blob(), replace(TINY, checkpointing=checkpointing))
        encoder(x).square().sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a = VolumeEncoder(blob(), TINY, seed=3)
    assert torch.equal(torch.rand(1), expected)
    b, c = VolumeEncoder(blob(), TINY, seed=3), VolumeEncoder(blob(), TINY, seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.projection, c.projection)


def test_zero_init_starts_as_the_identity():
    encoder = VolumeEncoder(blob(), replace(TINY, zero_init=True))
    tokens = encoder.tokens(torch.randn(2, encoder.n_voxels))
    torch.testing.assert_close(encoder.prefix(tokens, 3), tokens)


def test_the_paper_preset_is_clip_vit_h():
    design = preset("paper")
    assert (design.patch, design.width, design.depth, design.heads, design.embed_dim) == (14, 1280, 12, 16, 1024)
    assert preset("tiny", embed_dim=99).embed_dim == 99


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: preset("huge"), "paper"),
        (lambda: VolumeDesign(width=10, heads=4), "multiple"),
        (lambda: VolumeDesign(class_token="mean"), "learned"),
        (lambda: VolumeDesign(depth=0), "at least 1"),
        (lambda: VolumeDesign(dropout=1.0), r"\[0, 1\)"),
        (lambda: VolumeEncoder(np.zeros((4, 4, 4), bool), TINY), "mask"),
        (lambda: VolumeEncoder(np.ones((4, 4, 4)), TINY), "bool"),
        (lambda: VolumeEncoder(np.ones(6, bool), TINY, groups=np.arange(6)), "per_patch"),
        (lambda: VolumeEncoder(np.ones(6, bool), replace(TINY, per_patch=True), groups=np.arange(5)), "6 integers"),
        (lambda: VolumeEncoder(np.ones(6, bool), replace(TINY, per_patch=True), groups=-np.ones(6, int)), "negative"),
        (lambda: VolumeEncoder(blob(), TINY)(torch.zeros(2, 5)), "voxels of the mask"),
        (lambda: VolumeEncoder(blob(), TINY).forward_from(torch.zeros(2, 5, 16), 4), "0 to 3"),
        (lambda: VolumeEncoder(blob(), TINY).load_linear(torch.zeros(3, 8), torch.zeros(8)), "class_token"),
        (lambda: VolumeEncoder(blob(), TINY).voxel_weights(), "per_patch"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(DataError, match=words):
        make()
