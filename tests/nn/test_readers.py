"""The baselines of FactorTopy against plain loops over images, voxels and layers."""

import pytest
import torch

from brainlens.nn.encoding_baselines import ClassTokenNetwork, GNetNetwork, PatchTokenNetwork
from brainlens.types import DataError

CHANNELS = {"a": 5, "b": 7}
READERS = (ClassTokenNetwork, PatchTokenNetwork, GNetNetwork)


def data(kind, **options):
    torch.manual_seed(0)
    model = kind(30, CHANNELS, width=6, **options)
    tokens = {k: torch.randn(3, 64, c) for k, c in CHANNELS.items()}
    return model, tokens, {k: torch.randn(3, c) for k, c in CHANNELS.items()}


def test_class_token_by_a_loop():
    model, tokens, whole = data(ClassTokenNetwork)
    out = model(tokens, whole)
    for image in range(3):
        v = sum(model.bottleneck[i].T @ whole[k][image] for i, k in enumerate(CHANNELS)) / 2
        torch.testing.assert_close(out[image], torch.stack([(v * w).mean() for w in model.readout]))


def test_patch_token_by_a_loop():
    model, tokens, whole = data(PatchTokenNetwork)
    out = model(tokens, whole)
    for image in range(3):
        v = sum(
            model.second[i](torch.nn.functional.gelu(model.first[i](tokens[k][image].reshape(-1))))
            for i, k in enumerate(CHANNELS)
        )
        torch.testing.assert_close(out[image], (v / 2 * model.readout).mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [7, 64])
def test_pooling_fields_by_a_loop(block):
    model, tokens, whole = data(GNetNetwork, block=block)
    torch.nn.init.normal_(model.field)
    plain = torch.zeros(3, 30)
    for n in range(30):
        for i, layer in enumerate(CHANNELS):
            pooled = torch.einsum("p,bpc->bc", torch.softmax(model.field[n, i], 0), tokens[layer]) @ model.bottleneck[i]
            plain[:, n] += (pooled * model.readout[n]).mean(1) / 2
    out = model(tokens, whole)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-6)
    ours = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    theirs = torch.autograd.grad((plain + model.bias).square().sum(), list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reader", READERS)
def test_each_learns_a_voxel_and_ignores_the_batch(reader):
    model, tokens, whole = data(reader)
    torch.testing.assert_close(
        model({k: v[1:2] for k, v in tokens.items()}, {k: v[1:2] for k, v in whole.items()}), model(tokens, whole)[1:2]
    )
    target = torch.randn(3, 30)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-2)
    first = last = 0.0
    for step in range(60):
        optimiser.zero_grad()
        loss = (model(tokens, whole) - target).square().mean()
        loss.backward()
        optimiser.step()
        first, last = (loss.item(), last) if step == 0 else (first, loss.item())
    assert last < first / 2


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_layer_is_named(reader):
    model, tokens, whole = data(reader)
    del tokens["b"], whole["b"]
    with pytest.raises(DataError, match="layer 'b'"):
        model(tokens, whole)
