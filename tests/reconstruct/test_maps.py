"""Which region drew what, on a pipeline of the size of a thumb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.generation.noise import candidate_noise, sampling_times
from brainlens.reconstruct import lesions, region_maps
from brainlens.types import DataError

SAMPLING = {"candidates": 2, "steps": 4, "guidance": 2.0}


@pytest.fixture(scope="module")
def planted(made_pipeline):
    return made_pipeline.Planted()


@pytest.fixture(scope="module")
def models(made_pipeline, planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NeuroAdapter]:
    place: Path = made_pipeline.build_pipeline(tmp_path_factory.mktemp("sd") / "tiny")
    forms = {
        "mask": NeuroAdapter(3, training=made_pipeline.QUICK),
        "zero": NeuroAdapter.paper(regions=3, training=made_pipeline.QUICK),
        "joint": NeuroAdapter(3, joint=5, training=made_pipeline.QUICK),
    }
    return {name: planted.fit(place, model) for name, model in forms.items()}


def test_recording_leaves_the_pictures_as_they_are_to_the_bit(models, planted):
    for name, model in models.items():
        plain = model.reconstruct(planted.y_new[:5], seed=3, **SAMPLING)
        found = region_maps(model, planted.y_new[:5], side=8, bins=2, seed=3, **SAMPLING)
        assert np.array_equal(found.pictures, plain), name
        assert found.names == model.parcels_.names
        for each in (
            found.contributions,
            found.value_contributions,
            found.gradients,
            found.shuffled_contributions,
            found.other_contributions,
        ):
            assert each.shape == (5, 4, 3)
            np.testing.assert_allclose(each.sum(-1), 1, rtol=1e-5)
        assert set(found.maps) == set(found.names)
        assert all(maps.shape == (5, 2, 8, 8) for maps in (*found.maps.values(), *found.other_maps.values()))
        assert name == "joint" or np.abs(found.contributions - found.value_contributions).max() > 1e-4


def test_the_control_is_the_attention_of_another_brain_at_the_same_noise(models, planted):
    model, y = models["mask"], planted.y_new[:2]
    found = region_maps(model, y, bins=1, seed=3, **SAMPLING)  # of two trials, each has the brain of the other
    turned = region_maps(model, y[::-1].copy(), bins=1, seed=3, **SAMPLING)
    np.testing.assert_allclose(found.other_contributions, turned.contributions, atol=1e-6)
    assert np.abs(found.other_contributions - found.contributions).max() > 1e-4


def test_attention_is_that_of_the_network_at_every_step(models, planted):
    """Contributions by hand from queries and keys, caught in the network by hooks of torch."""
    model, y = models["mask"], planted.y_new[:2]
    diffusion, adapter = model._ready()
    from brainlens.nn.region_adapter import cross_attention

    layers = cross_attention(diffusion.unet)
    caught: list[tuple[int, torch.Tensor]] = []
    handles = [
        attn.to_q.register_forward_hook(lambda module, given, out, i=i: caught.append((i, out.detach())))
        for i, attn in enumerate(layers)
    ]
    try:
        found = region_maps(model, y, bins=1, seed=3, candidates=1, steps=4, guidance=1.0)
    finally:
        for handle in handles:
            handle.remove()
    own = caught[: len(layers) * 4]  # the first drawing; the second is the control's
    with torch.no_grad():
        tokens = adapter.tokens(torch.from_numpy(model.inputs(y)))
        for step in range(4):
            total = np.zeros((2, 3))
            for i, query in own[len(layers) * step : len(layers) * (step + 1)]:
                key, heads = adapter.layers[i].to_k(tokens), layers[i].heads
                size = query.shape[2] // heads
                for head in range(heads):
                    part = slice(head * size, (head + 1) * size)
                    probs = (query[:, :, part] @ key[:, :, part].transpose(1, 2) / size**0.5).softmax(-1)
                    total += probs.mean(1).numpy() / heads / len(layers)
            np.testing.assert_allclose(found.contributions[:, step], total, atol=1e-5)


@pytest.mark.parametrize("name", ["mask", "zero", "joint"])
def test_gradients_are_differences_of_the_networks_answer(models, planted, name):
    """Against central differences, for which keys of a region get a little more score by hand; at the first step."""
    model, y = models[name], planted.y_new[:2]
    diffusion, adapter = model._ready()
    got = model.region_gradients(y, steps=4, seed=3)
    assert got.shape == (2, 4, 3)
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-5)
    prompts = model._prompts(torch.from_numpy(model.inputs(y)), np.ones(3, bool))
    rows, time = np.arange(2), sampling_times(diffusion, 4)[0]
    latents = candidate_noise(3, 0, (4, 8, 8)).expand(2, -1, -1, -1)

    def answer(prompt):
        return diffusion.unet(latents, time, encoder_hidden_states=prompt).sample.flatten(1).double()

    with torch.no_grad(), adapter.on(diffusion.unet):
        given = prompts.given(rows)
        change = answer(given) - answer(prompts.without(rows))
        direction = change / change.norm(dim=1, keepdim=True)
        slopes = torch.zeros(2, 3, dtype=torch.float64)
        for j in range(3):
            gate = torch.zeros(2, 3)
            gate[:, j] = 0.05
            slopes[:, j] = ((answer(given.gated(gate)) - answer(given.gated(-gate))) * direction).sum(1) / 0.1
    share = slopes.abs() / slopes.abs().sum(1, keepdim=True)
    np.testing.assert_allclose(got[:, 0], share, atol=0.01)
    if model.removal == "mask":
        left = model.region_gradients(y, steps=2, without=["FFA"])
        assert (left[:, :, model.parcels_.names.index("FFA")] == 0).all()


@pytest.mark.parametrize("name", ["mask", "joint"])
def test_lesions_are_drawn_at_the_same_noise(models, planted, name):
    model, y = models[name], planted.y_new[:3]
    found = lesions(model, y, {"faces": ["FFA"], "all": list(model.parcels_.names)}, seed=5, **SAMPLING)
    assert np.array_equal(found.whole, model.reconstruct(y, seed=5, **SAMPLING))
    assert np.array_equal(found.without["faces"], model.reconstruct(y, seed=5, without=["FFA"], **SAMPLING))
    assert (found.change["faces"] > 0).all()
    other = y.copy()
    other[:, :8] += 5  # FFA
    assert np.array_equal(model.reconstruct(other, seed=5, without=["FFA"], **SAMPLING), found.without["faces"])
    models_left = {("FFA",): models["mask" if name == "joint" else "joint"]}  # any other model stands for one fitted without
    refitted = lesions(model, y, {"faces": ["FFA"]}, refit=lambda left: models_left[tuple(left)], seed=5, **SAMPLING)
    assert np.array_equal(refitted.without["faces"], models_left["FFA",].reconstruct(y, seed=5, **SAMPLING))
    nothing = found.without["all"]  # the brain does not enter: all trials are alike
    assert np.array_equal(nothing, np.broadcast_to(nothing[:1], nothing.shape))


def test_bad_input_is_one_clear_line(models, planted, tmp_path):
    from brainlens.attribution.cross_attention import AttentionRecord

    model, y = models["mask"], planted.y_new[:3]
    record = AttentionRecord(3, 3)
    cases = [
        (lambda: region_maps(model, y[:1]), "2 trials or more"),
        (lambda: region_maps(NeuroAdapter(), y), "is not fitted"),
        (lambda: region_maps(model, y, sets={"a": ["V1"]}), "no parcel is called 'V1'"),
        (lambda: region_maps(model, y, bins=9, **SAMPLING), "bins over fewer steps"),
        (lambda: lesions(model, y, {}), "no set of regions"),
        (lambda: lesions(model, y, {"a": ["V1"]}), "no parcel is called 'V1'"),
        (lambda: model.reconstruct(y, watch=record, folder=tmp_path), "attention is not kept in a folder"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
