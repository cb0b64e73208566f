"""Region tokens and their attention, against plain loops and against diffusers' own processors."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from brainlens.nn.region_adapter import RegionAdapter, RegionTokens, cross_attention, drop_regions, text_keys
from brainlens.types import DataError

MEMBERS = [np.array([0, 3, 4]), np.array([9]), np.array([1, 2, 5, 6, 8])]  # units 7 and 10 are in no parcel
WIDTH = 16


def small_unet(**changes) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(0)
    given = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return diffusers.UNet2DConditionModel(**given | changes).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet() -> diffusers.UNet2DConditionModel:
    return small_unet()


@pytest.fixture(scope="module")
def adapter(unet) -> RegionAdapter:
    return RegionAdapter(unet, MEMBERS, seed=1).eval().requires_grad_(False)


def inputs(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    latents = torch.randn(rows, 4, 8, 8, generator=draw)
    return latents, torch.randn(rows, 11, generator=draw), torch.randn(1, 6, WIDTH, generator=draw)


def run(unet, adapter, latents, x, text, keep=None, watch=None) -> torch.Tensor:
    prompt = adapter.prompt(x, text_keys(unet, text), keep).watched(watch)
    with adapter.on(unet), torch.no_grad():
        return unet(latents, 7, encoder_hidden_states=prompt).sample


@pytest.mark.parametrize("head", [False, True])
def test_tokens_equal_one_linear_layer_a_parcel(head):
    module = RegionTokens(MEMBERS, WIDTH, head=head, seed=3)
    with torch.no_grad():
        module.bias.normal_()
        module.weight.add_(0.1)  # padding too: it must not enter
    x, keep = inputs()[1], torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    for mask in (None, keep):
        expected = torch.stack(
            [x[:, units] @ module.weight[p, : len(units)] + module.bias[p] for p, units in enumerate(MEMBERS)], dim=1
        )
        if mask is not None:
            expected = expected * mask[:, :, None]
        if head:
            expected = torch.nn.functional.layer_norm(
                expected @ module.proj.weight.T + module.proj.bias, (WIDTH,), module.norm.weight, module.norm.bias
            )
        torch.testing.assert_close(module(x, mask), expected, rtol=1e-5, atol=1e-5)


def test_tokens_read_their_own_units_and_start_with_variance_one():
    module = RegionTokens([np.arange(40), np.arange(40, 43)], 400, seed=0)
    x = torch.randn(50, 43, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tokens = module(x)
    assert abs(tokens[:, 0].std().item() - 1) < 0.1
    tokens[:, 1].sum().backward()
    assert (x.grad[:, :40] == 0).all()
    assert (x.grad[:, 40:] != 0).any()
    again = module(x.detach())
    again.sum().backward()
    assert (module.weight.grad[1, 3:] == 0).all()  # padding learns nothing


def test_the_adapted_network_equals_the_processors_of_diffusers(unet, adapter):
    latents, x, text = inputs()
    got = run(unet, adapter, latents, x, text)
    before = {name: attn.processor for name, attn in unet.named_modules() if name.endswith(".attn2")}
    for own, (name, _) in zip(adapter.layers, before.items(), strict=True):
        attn = unet.get_submodule(name)
        stock = IPAdapterAttnProcessor2_0(attn.to_q.in_features, WIDTH, num_tokens=(3,), scale=1.0)
        stock.to_k_ip[0].weight.data.copy_(own.to_k.weight)
        stock.to_v_ip[0].weight.data.copy_(own.to_v.weight)
        attn.set_processor(stock)
    try:
        with torch.no_grad():
            expected = unet(latents, 7, encoder_hidden_states=(text.expand(3, -1, -1), [adapter.tokens(x)[:, None]])).sample
    finally:
        for name, processor in before.items():
            unet.get_submodule(name).set_processor(processor)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_without_regions_the_output_is_that_of_the_text_to_the_bit(unet, adapter):
    latents, x, text = inputs()
    with torch.no_grad():
        plain = unet(latents, 7, encoder_hidden_states=text.expand(3, -1, -1)).sample
    none = torch.zeros(3, 3, dtype=torch.bool)
    assert torch.equal(run(unet, adapter, latents, x, text, none), plain)
    with adapter.on(unet), torch.no_grad():
        only = unet(latents, 7, encoder_hidden_states=adapter.prompt(x, text_keys(unet, text)).text_only()).sample
    assert torch.equal(only, plain)
    with torch.no_grad():  # the network is as it was
        assert torch.equal(unet(latents, 7, encoder_hidden_states=text.expand(3, -1, -1)).sample, plain)
    assert not torch.equal(run(unet, adapter, latents, x, text), plain)


def test_a_removed_region_is_not_there(unet, adapter):
    """Its units change nothing, and the output is that of an adapter that never had it; each row has a mask of its own."""
    latents, x, text = inputs()
    keep = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    seen: list[torch.Tensor] = []
    got = run(unet, adapter, latents, x, text, keep, lambda layer, probs, value: seen.append(probs))
    changed = x.clone()
    changed[0, MEMBERS[1]] += 100
    changed[1, MEMBERS[0]] -= 100
    changed[2] = 1e4
    assert torch.equal(run(unet, adapter, latents, changed, text, keep), got)
    for row in range(2):
        left = [MEMBERS[i] for i in range(3) if keep[row, i]]
        fewer = RegionAdapter(unet, left).requires_grad_(False)
        for number, i in enumerate(keep[row].nonzero()[:, 0]):
            fewer.tokens.weight.data[number, : len(left[number])] = adapter.tokens.weight[i, : len(left[number])]
        alone = run(unet, fewer, latents[row : row + 1], x[row : row + 1], text)
        torch.testing.assert_close(got[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    assert len(seen) == len(adapter.layers)
    for probs in seen:
        assert (probs.permute(3, 0, 1, 2)[~keep.T] == 0).all()
        torch.testing.assert_close(probs.sum(-1)[:2], torch.ones_like(probs.sum(-1)[:2]))
        assert torch.isfinite(probs).all()


def test_the_papers_zeroing_leaves_a_token_that_takes_attention(unet):
    zeroing = RegionAdapter(unet, MEMBERS, head=True, removal="zero").requires_grad_(False)
    zeroing.tokens.proj.bias.normal_(generator=torch.Generator().manual_seed(0))
    latents, x, text = inputs()
    seen: list[torch.Tensor] = []
    none = torch.zeros(3, 3, dtype=torch.bool)
    got = run(unet, zeroing, latents, x, text, none, lambda layer, probs, value: seen.append(probs))
    assert all((probs.sum(-1) - 1).abs().max() < 1e-5 for probs in seen)
    changed = run(unet, zeroing, latents, x + 5, text, none)
    assert torch.equal(changed, got)  # the brain does not enter
    with torch.no_grad():
        assert not torch.allclose(got, unet(latents, 7, encoder_hidden_states=text.expand(3, -1, -1)).sample)


def test_watching_changes_no_bit_and_values_are_those_of_the_layer(unet, adapter):
    latents, x, text = inputs()
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(layer, probs, value):
        seen[layer] = (probs, value)

    assert torch.equal(run(unet, adapter, latents, x, text, None, watch), run(unet, adapter, latents, x, text))
    for layer, (probs, value) in seen.items():
        assert probs.shape[:2] == value.shape[:2]
        own = adapter.layers[layer].to_v(adapter.tokens(x))
        assert torch.equal(value.transpose(1, 2).flatten(2), own)


@pytest.mark.parametrize("joint", [None, (4, 5)])
def test_only_the_adapter_learns_also_where_every_region_of_a_row_is_gone(unet, joint):
    learner = RegionAdapter(unet, MEMBERS, joint=joint, seed=2)
    latents, x, text = inputs()
    keep = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    with learner.on(unet):
        unet(latents, 7, encoder_hidden_states=learner.prompt(x, text_keys(unet, text), keep)).sample.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learner.parameters())
    assert all(p.grad.abs().max() > 0 for p in learner.parameters())
    assert all(p.grad is None for name, p in unet.named_parameters())


def test_repeated_prompts_equal_repeated_rows(unet, adapter):
    latents, x, text = inputs(2)
    keep = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    four = torch.cat([latents, latents + 1])[[0, 2, 1, 3]]
    prompt = adapter.prompt(x, text_keys(unet, text), keep).repeat(2)
    with adapter.on(unet), torch.no_grad():
        got = unet(four, 7, encoder_hidden_states=prompt).sample
    expected = run(unet, adapter, four, x.repeat_interleave(2, 0), text, keep.repeat_interleave(2, 0))
    torch.testing.assert_close(got, expected)


def test_dropout_rates_are_uniform():
    keep = drop_regions(4000, 200, torch.Generator().manual_seed(0))
    share = keep.float().mean(1).sort().values
    # the Kolmogorov distance to U(0, 1); the critical value of 4,000 rows at .001 is .031
    assert (share - torch.linspace(0, 1, 4000)).abs().max() < 0.031


def test_bad_input_is_one_clear_line(unet, adapter):
    latents, _, text = inputs()
    plain = small_unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None)
    cases = [
        (lambda: RegionAdapter(unet, []), "parcels with units"),
        (lambda: RegionAdapter(unet, [np.array([], int)]), "parcels with units"),
        (lambda: RegionAdapter(unet, MEMBERS, removal="none"), "removal 'none'"),
        (lambda: cross_attention(plain), "no cross-attention"),
        (lambda: text_keys(unet, torch.zeros(1, 3, 5)), "5 channels, the UNet's cross-attention reads 16"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="reads a RegionPrompt"), adapter.on(unet):
        unet(latents, 7, encoder_hidden_states=text.expand(3, -1, -1))
