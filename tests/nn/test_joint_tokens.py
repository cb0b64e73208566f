"""Tokens that all regions write together, against plain loops and against diffusers' own processors."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from brainlens.nn.joint_tokens import JointTokens, added_by_regions, value_products
from brainlens.nn.region_adapter import RegionAdapter, text_keys
from brainlens.types import DataError

MEMBERS = [np.array([0, 3, 4]), np.array([9]), np.array([1, 2, 5, 6, 8])]  # units 7 and 10 are in no parcel
WIDTH, TOKENS, CODE = 16, 4, 5
JOINT = (TOKENS, CODE)


@pytest.fixture(scope="module")
def unet(adapting) -> diffusers.UNet2DConditionModel:
    return adapting.small_unet()


@pytest.fixture(scope="module")
def inputs(adapting) -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Latents, responses of eleven units and states of a text."""
    return adapting.inputs


@pytest.fixture(scope="module")
def run(adapting) -> Callable[..., torch.Tensor]:
    """A pass through the network with an adapter."""
    return adapting.run


@pytest.fixture(scope="module")
def adapter(unet) -> RegionAdapter:
    made = RegionAdapter(unet, MEMBERS, joint=JOINT, seed=1).eval().requires_grad_(False)
    made.tokens.bias.normal_(generator=torch.Generator().manual_seed(2))
    return made


def test_tokens_are_sums_over_the_regions_that_are_there(inputs) -> None:
    module = JointTokens(MEMBERS, TOKENS, CODE, WIDTH, seed=3)
    with torch.no_grad():
        module.bias.normal_()
        module.read.add_(0.1)  # padding too: it must not enter
    x, keep = inputs()[1], torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    for mask in (None, keep):
        for row in range(3):
            code = torch.zeros(CODE)
            for p, units in enumerate(MEMBERS):
                if mask is None or mask[row, p]:
                    code = code + x[row, units] @ module.read[p, : len(units)] / 9**0.5  # of nine units in all
            for j in range(TOKENS):
                expected = module.bias[j] + code @ module.weight[j]
                torch.testing.assert_close(module(x, mask)[row, j], expected, rtol=1e-5, atol=1e-5)


def test_tokens_start_with_variance_one_and_padding_learns_nothing() -> None:
    module = JointTokens([np.arange(40), np.arange(40, 43)], 2, 300, 400, seed=0)
    x = torch.randn(50, 43, generator=torch.Generator().manual_seed(0))
    tokens = module(x)
    assert abs(tokens.std().item() - 1) < 0.1
    tokens.sum().backward()
    assert (module.read.grad[1, 3:] == 0).all()
    assert (module.read.grad[1, :3] != 0).any()


def test_the_code_can_be_any_linear_map_of_the_units_and_then_stays(inputs) -> None:
    module = JointTokens(MEMBERS, TOKENS, CODE, WIDTH)
    weights = torch.randn(11, CODE, generator=torch.Generator().manual_seed(0))
    weights[[7, 10]] = 0  # of no parcel
    module.set_code(weights)
    x = inputs()[1]
    torch.testing.assert_close(module.codes(x).sum(1), x @ weights, rtol=1e-4, atol=1e-4)
    module(x).sum().backward()
    assert module.read.grad is None
    assert module.weight.grad is not None


def test_the_adapted_network_equals_the_processors_of_diffusers(unet, adapter, inputs, run) -> None:
    latents, x, text = inputs()
    got = run(unet, adapter, latents, x, text)
    before = {name: attn.processor for name, attn in unet.named_modules() if name.endswith(".attn2")}
    for own, name in zip(adapter.layers, before, strict=True):
        attn = unet.get_submodule(name)
        stock = IPAdapterAttnProcessor2_0(attn.to_q.in_features, WIDTH, num_tokens=(TOKENS,), scale=1.0)
        stock.to_k_ip[0].weight.data.copy_(own.to_k.weight)
        stock.to_v_ip[0].weight.data.copy_(own.to_v.weight)
        attn.set_processor(stock)
    try:
        with torch.no_grad():
            states = (text.expand(3, -1, -1), [adapter.tokens(x)[:, None]])
            expected = unet(latents, 7, encoder_hidden_states=states).sample
    finally:
        for name, processor in before.items():
            unet.get_submodule(name).set_processor(processor)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_removed_region_writes_nothing_and_without_regions_the_text_is_alone(unet, adapter, inputs, run) -> None:
    latents, x, text = inputs()
    keep = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    got = run(unet, adapter, latents, x, text, keep)
    changed = x.clone()
    changed[0, MEMBERS[1]] += 100
    changed[1, MEMBERS[0]] -= 100
    changed[2] = 1e4
    assert torch.equal(run(unet, adapter, latents, changed, text, keep), got)
    with torch.no_grad():
        plain = unet(latents, 7, encoder_hidden_states=text.expand(3, -1, -1)).sample
    assert torch.equal(got[2], plain[2])
    assert not torch.allclose(got[:2], plain[:2], atol=1e-4)
    for row in range(2):
        left = [i for i in range(3) if keep[row, i]]
        fewer = RegionAdapter(unet, [MEMBERS[i] for i in left], joint=JOINT).requires_grad_(False)
        fewer.layers.load_state_dict(adapter.layers.state_dict())
        fewer.tokens.bias.copy_(adapter.tokens.bias)
        fewer.tokens.weight.copy_(adapter.tokens.weight)
        for number, i in enumerate(left):
            size = fewer.tokens.read.shape[1]
            fewer.tokens.read[number] = adapter.tokens.read[i, :size] * fewer.tokens.root / adapter.tokens.root
        alone = run(unet, fewer, latents[row : row + 1], x[row : row + 1], text)
        torch.testing.assert_close(got[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_watching_changes_no_bit_and_shares_are_what_each_region_adds(unet, adapter, inputs, run) -> None:
    latents, x, text = inputs()
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(layer, probs, values):
        seen[layer] = probs, values

    queries: list[torch.Tensor] = []
    first = unet.get_submodule(next(name for name, _ in unet.named_modules() if name.endswith(".attn2")))
    handle = first.to_q.register_forward_hook(lambda module, given, out: queries.append(out))
    try:
        watched = run(unet, adapter, latents, x, text, None, watch)
    finally:
        handle.remove()
    assert torch.equal(watched, run(unet, adapter, latents, x, text))
    own, heads = adapter.layers[0], first.heads
    tokens, size = adapter.tokens(x), queries[0].shape[2] // heads
    shares, values = seen[0]
    assert shares.shape == (3, heads, 64, 3)
    for row in range(3):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            probs = (queries[0][row, :, part] @ own.to_k(tokens[row])[:, part].T / size**0.5).softmax(-1)
            added = torch.zeros(64, 3)
            whole = probs @ own.to_v(adapter.tokens.bias)[:, part]
            for p, units in enumerate(MEMBERS):
                code = x[row, units] @ adapter.tokens.read[p, : len(units)] / 9**0.5
                wrote = torch.stack([code @ adapter.tokens.weight[j] for j in range(TOKENS)])
                brought = probs @ own.to_v(wrote)[:, part]
                added[:, p] = brought.norm(dim=-1)
                whole = whole + brought
            torch.testing.assert_close(whole, probs @ own.to_v(tokens[row])[:, part], rtol=1e-4, atol=1e-5)  # it is a sum
            torch.testing.assert_close(shares[row, head], added / added.sum(1, keepdim=True), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(values[row, head, :, 0], added.sum(1).mean().expand(3), rtol=1e-3, atol=1e-4)


def test_a_region_that_is_not_there_adds_nothing(unet, adapter, inputs, run) -> None:
    latents, x, text = inputs()
    seen: list[torch.Tensor] = []
    keep = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    run(unet, adapter, latents, x, text, keep, lambda layer, probs, values: seen.append(probs))
    for probs in seen:
        assert (probs.permute(3, 0, 1, 2)[~keep.T] == 0).all()
        assert torch.isfinite(probs).all()
        torch.testing.assert_close(probs.sum(-1)[:2], torch.ones_like(probs.sum(-1)[:2]))


def test_repeated_prompts_equal_repeated_rows(unet, adapter, inputs, run) -> None:
    latents, x, text = inputs(2)
    keep = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    four = torch.cat([latents, latents + 1])[[0, 2, 1, 3]]
    seen: list[torch.Tensor] = []
    watch = lambda layer, probs, values: seen.append(probs)  # noqa: E731
    prompt = adapter.prompt(x, text_keys(unet, text), keep).repeat(2).watched(watch)
    with adapter.on(unet), torch.no_grad():
        got = unet(four, 7, encoder_hidden_states=prompt).sample
    expected = run(unet, adapter, four, x.repeat_interleave(2, 0), text, keep.repeat_interleave(2, 0), watch)
    torch.testing.assert_close(got, expected)
    half = len(seen) // 2
    for one, other in zip(seen[:half], seen[half:], strict=True):
        torch.testing.assert_close(one, other)


def test_products_of_values_are_made_once_and_do_not_grow_with_steps(unet, adapter, inputs) -> None:
    latents, x, text = inputs()
    prompt = adapter.prompt(x, text_keys(unet, text)).watched(lambda layer, probs, values: None)
    held = []
    with adapter.on(unet), torch.no_grad():
        for time in (900, 500, 7):
            unet(latents, time, encoder_hidden_states=prompt)
            held.append(dict(prompt.parts.kept))
    assert set(held[0]) == set(range(len(adapter.layers)))
    assert all(later[layer] is one for later in held for layer, one in held[0].items())
    silent = adapter.prompt(x, text_keys(unet, text))
    with adapter.on(unet), torch.no_grad():
        unet(latents, 7, encoder_hidden_states=silent)
    assert not silent.parts.kept  # who does not watch does not pay


def test_added_by_regions_equals_norms_of_sums() -> None:
    draw = torch.Generator().manual_seed(0)
    probs = torch.rand(2, 3, 5, 4, generator=draw).softmax(-1)
    parts = torch.randn(2, 3, 6, 4, 7, generator=draw)
    share, values = added_by_regions(probs, value_products(parts))
    size = torch.einsum("bhqj,bhpjc->bhqpc", probs, parts).norm(dim=-1)
    torch.testing.assert_close(share, size / size.sum(-1, keepdim=True))
    torch.testing.assert_close(values[..., 0], size.sum(-1).mean(2, keepdim=True).expand(2, 3, 6))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": []}, "parcels with units"),
        ({"members": [np.array([], int)]}, "parcels with units"),
        ({"joint": (0, 5)}, "0 tokens"),
        ({"joint": (4, 0)}, "code of 0 channels"),
        ({"head": True}, "have no head"),
        ({"removal": "zero"}, "removal 'mask'"),
    ],
)
def test_bad_input_is_one_line(unet, given, message) -> None:
    with pytest.raises(DataError, match=message) as error:
        RegionAdapter(unet, **({"members": MEMBERS, "joint": JOINT} | given))
    assert "\n" not in str(error.value)
