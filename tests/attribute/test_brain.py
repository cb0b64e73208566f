from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens.attribute import group
from brainlens.attribute.brain import METHODS, Options, attribute, brain_maps, features, tail
from brainlens.attribution.bottleneck import Bottleneck, bottleneck
from brainlens.metrics.attribution import truth_auroc
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.types import DataError, Features, Responses, Volume

FAST = Options(masks=60, cells=3, path=6, flips=200, bottleneck=Bottleneck(steps=8, copies=4))
SHAPE, TRIALS, DIM = (6, 6, 6), 12, 8


def recording(seed=0):
    rng = np.random.default_rng(seed)
    mask = np.ones(SHAPE, bool)
    mask[0, 0, :] = False
    space = Volume(mask, np.diag([4.0, 4, 4, 1]))
    where = np.argwhere(mask)
    informative = (where[:, :2] < 3).all(1)  # two patches: a cosine gives one that makes all of an embedding no gradient
    units = pd.DataFrame({"roi": np.where(informative, "V1", "none"), "informative": informative})
    ids = [f"s{i}" for i in range(TRIALS)]
    trials = pd.DataFrame({"stimulus": ids, "subject": ["1", "2"] * (TRIALS // 2)})
    data = rng.standard_normal((TRIALS, len(units))).astype(np.float32)
    return Responses(data, trials, units, space)


def model_and_targets(kind="sum", seed=0, noise=0.5):
    """An encoder that reads the informative voxels alone, and targets that are its embeddings with some noise.

    Without noise the cosine is at its maximum, where it has no gradient.
    """
    responses = recording(seed)
    design = VolumeDesign(patch=3, width=16, depth=2, heads=2, embed_dim=DIM, class_token=kind, per_patch=True)
    encoder = VolumeEncoder(responses.space.mask, design, seed=seed + 1)
    right = torch.tensor(responses.units["informative"].tolist())
    with torch.no_grad():
        encoder.projection.mul_(right[encoder.order][:, None])
        if kind == "sum":
            weights = torch.randn(encoder.n_voxels, DIM, generator=torch.Generator().manual_seed(seed + 2)) * right[:, None]
            encoder.load_linear(weights, torch.zeros(DIM))
        z = encoder.eval()(torch.from_numpy(responses.data)).numpy()
    size = noise * np.linalg.norm(z, axis=1, keepdims=True) / DIM**0.5
    z += (size * np.random.default_rng(seed + 3).standard_normal(z.shape)).astype(np.float32)
    ids = responses.trials["stimulus"].to_numpy().astype(str)
    return encoder.train(), responses, Features({"image": z}, ids, "toy"), Features({"text": z[:, ::-1].copy()}, ids, "toy")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_tables(method):
    encoder, responses, images, texts = model_and_targets("learned" if method == "chefer" else "sum")
    result = attribute(encoder, responses, images, texts, method=method, options=FAST)
    assert result.metrics["attribution/maps_empty"] == 0
    assert "warnings" not in result.config
    maps = result.arrays["map/brain"]
    assert maps.shape == responses.data.shape
    assert np.isfinite(maps).all()
    assert (maps >= 0).all()
    np.testing.assert_allclose(result.arrays["map/brain_mean"], maps.mean(0), rtol=1e-6)
    assert result.arrays["map/q"].shape == (maps.shape[1],)
    assert result.space is responses.space
    for key in ("image/soft/drop_absolute", "text/matched/increase", "random/image/soft/drop_absolute", "image/deletion_auc"):
        assert f"attribution/{key}" in result.metrics
    assert result.metrics["attribution/ones/image/soft/drop_absolute"] == pytest.approx(0, abs=1e-4)
    assert set(result.tables["regions"]["subject"]) == {"1", "2"}
    assert all(p.requires_grad for p in encoder.parameters())
    assert encoder.training


@pytest.mark.parametrize(
    "kind, method, layer, least",
    [  # over seeds 0 to 9 all are 1.0 but RISE, whose blurred masks give .87 to .96
        ("sum", "bottleneck", None, 0.99),
        ("learned", "bottleneck", 0, 0.99),
        ("sum", "integrated_gradients", None, 0.99),
        ("sum", "rise", None, 0.8),
        ("sum", "gradcam", None, 0.99),
        ("learned", "chefer", None, 0.99),
    ],
)
def test_the_voxels_that_carry_the_match_are_found(kind, method, layer, least):
    encoder, responses, images, _ = model_and_targets(kind)
    options = replace(FAST, masks=1500, cells=2, bottleneck=Bottleneck(copies=4))
    result = attribute(encoder, responses, images, method=method, layer=layer, options=options)
    assert result.arrays["map/brain"].max() > 1e-6  # a map, not rounding
    assert result.metrics["truth/auroc"] > least
    assert result.metrics["truth/auroc.low"] <= result.metrics["truth/auroc"]
    assert result.metrics["truth/informative_share"] == pytest.approx(48 / 210)


@pytest.mark.parametrize("method", ["bottleneck", "gradcam", "integrated_gradients", "chefer"])
@pytest.mark.parametrize("seed", range(10))
def test_a_map_that_is_only_rounding_is_empty_and_said_to_be(method, seed):
    encoder, responses, images, _ = model_and_targets("sum", seed, noise=0.0)  # embeddings that are their own targets
    options = replace(FAST, masks=4, path=2, flips=10, bottleneck=Bottleneck(steps=2, copies=2))
    result = attribute(encoder, responses, images, method=method, options=options)
    assert not result.arrays["map/brain"].any()
    assert result.arrays["map/empty"].all()
    assert result.metrics["attribution/maps_empty"] == TRIALS
    (said,) = result.config["warnings"]
    assert said.startswith(f"12 of 12 maps of {method} are empty")
    assert "\n" not in said
    for name in ("truth/auroc", "attribution/image/soft/drop_absolute", "attribution/image/deletion_auc", "attribution/mass"):
        assert np.isnan(result.metrics[name])
    assert np.isfinite(result.metrics["attribution/random/image/soft/drop_absolute"])
    assert "map/p" not in result.arrays
    with pytest.raises(DataError, match="zero everywhere"):
        group([result, result])


def test_one_patch_that_makes_all_of_the_embedding_has_no_gradcam():
    encoder, responses, images, _ = model_and_targets()
    with torch.no_grad():
        encoder.projection.mul_((encoder.patch_of[encoder.order] == 0)[:, None])
    result = attribute(encoder, responses, images, method="gradcam", options=FAST)  # the cosine does not see its length
    assert result.arrays["map/empty"].all()
    assert not attribute(encoder, responses, images, options=FAST).arrays["map/empty"].any()


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_no_unit_of_the_responses_makes_a_map_empty(size):
    encoder, responses, images, _ = model_and_targets()
    for method in ("gradcam", "integrated_gradients"):
        plain = attribute(encoder, responses, images, method=method, options=FAST)
        with torch.no_grad():  # volts in place of microvolts, and weights to match
            encoder.projection.div_(size)
        scaled = attribute(encoder, replace(responses, data=responses.data * size), images, method=method, options=FAST)
        with torch.no_grad():
            encoder.projection.mul_(size)
        assert not scaled.arrays["map/empty"].any()
        np.testing.assert_allclose(scaled.arrays["map/brain"], plain.arrays["map/brain"], rtol=1e-2, atol=1e-6)


def test_what_maps_are_worth_is_that_of_those_that_are_not_empty():
    encoder, responses, images, _ = model_and_targets()
    own = model_and_targets(noise=0.0)[2]["image"]
    mixed = Features({"image": np.concatenate([own[:4], images["image"][4:]])}, images.ids, "toy")
    result = attribute(encoder, responses, mixed, method="gradcam", options=FAST)
    assert result.arrays["map/empty"].tolist() == [True] * 4 + [False] * 8
    assert result.config["warnings"][0].startswith("4 of 12 maps")
    rest = attribute(encoder, responses.rows(np.arange(4, 12)), images, method="gradcam", options=FAST)
    for name, value in rest.metrics.items():
        if name.startswith(("attribution/image/", "truth/", "attribution/mass")):
            assert result.metrics[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("method", ["bottleneck", "integrated_gradients"])
def test_a_signed_map_has_the_size_of_the_other_and_the_sign_of_what_helps(method):
    encoder, responses, _, images = model_and_targets()  # targets that are not the encoder's own embeddings
    images = Features({"image": images["text"]}, images.ids, "toy")
    plain = attribute(encoder, responses, images, method=method, options=FAST)
    signed = attribute(encoder, responses, images, method=method, options=replace(FAST, refine="signed"))
    right = responses.units["informative"].to_numpy(dtype=bool)
    found = signed.arrays["map/brain"][:, right]
    np.testing.assert_allclose(np.abs(found), plain.arrays["map/brain"][:, right], rtol=1e-5, atol=1e-9)
    assert (found < 0).any()


def test_the_same_seed_gives_the_same_bits():
    encoder, responses, images, _ = model_and_targets()
    first, second = (attribute(encoder, responses, images, options=FAST).arrays["map/brain"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_random_map_knows_nothing():
    encoder, responses, _, _ = model_and_targets()
    right = responses.units["informative"].to_numpy(dtype=bool)
    x = torch.zeros(200, encoder.n_voxels)
    maps = brain_maps(encoder, x, x[:, None, :DIM] + 1, method="random", layer="patches", options=FAST).numpy()
    found = truth_auroc(right, maps)
    assert abs(found.mean() - 0.5) < 4 * found.std() / 200**0.5


def test_refinement_keeps_the_mean_of_every_patch():
    encoder, responses, images, _ = model_and_targets()
    plain = attribute(encoder, responses, images, options=replace(FAST, refine="none")).arrays["map/brain"]
    fine = attribute(encoder, responses, images, options=replace(FAST, refine="weight")).arrays["map/brain"]
    for patch in range(encoder.n_patches):
        inside = encoder.patch_of.numpy() == patch
        assert np.ptp(plain[:, inside], axis=1).max() == 0
        np.testing.assert_allclose(fine[:, inside].mean(1), plain[:, inside].mean(1), rtol=1e-4, atol=1e-6)


def spoiled(what):
    encoder, responses, images, texts = model_and_targets()
    if what == "mask":
        other = responses.space.mask.copy()
        other[0, 0, 0], other[5, 5, 5] = True, False
        responses = replace(responses, space=Volume(other, responses.space.affine))
    if what == "space":
        responses = replace(responses, space=None)
    if what == "nan":
        responses.data[3, 5] = np.nan
    if what == "ids":
        images = images.take(images.ids[1:])
    if what == "width":
        images = Features({"image": images["image"][:, :5]}, images.ids, "toy")
    return encoder, responses, images, texts


@pytest.mark.parametrize(
    "what, more, words",
    [
        ("mask", {}, "resample"),
        ("space", {}, "resample"),
        ("nan", {}, "1 trials"),
        ("ids", {}, "'s0'"),
        ("width", {}, "5 channels"),
        ("", {"method": "lime"}, "gradcam"),
        ("", {"target": "sound"}, "both"),
        ("", {"layer": 5}, "0 to 2"),
        ("", {"layer": "middle"}, "patches"),
    ],
)
def test_mistakes_are_named(what, more, words):
    encoder, responses, images, texts = spoiled(what)
    with pytest.raises(DataError, match=words):
        attribute(encoder, responses, images, texts, options=FAST, **more)


def test_without_normalisation_the_prior_is_the_papers():
    """normalise="none" is the bottleneck on features as they are, with noise N(0, variance)."""
    encoder, responses, images, _ = model_and_targets()
    options = replace(FAST, normalise="none", refine="none")
    result = attribute(encoder, responses, images, target="image", options=options)
    x = torch.from_numpy(responses.data)
    with torch.no_grad():
        tokens = features(encoder, x, "patches")
    aims = torch.from_numpy(images.data["image"])[:, None]
    plain = bottleneck(tokens, tail(encoder, "patches"), aims, reference=None, settings=FAST.bottleneck)
    want = [plain[:, p].clamp_min(0).numpy() for p in range(plain.shape[1])]
    got = result.arrays["map/brain"]
    assert {round(float(v), 4) for v in got[0]} <= {round(float(w[0]), 4) for w in want}
    assert result.config["reference_trials"] == 0
    scaled = attribute(encoder, responses, images, target="image", options=replace(options, normalise="reference"))
    assert np.abs(scaled.arrays["map/brain"] - got).max() > 1e-2
    with pytest.raises(DataError, match="reference"):
        Options(normalise="sideways")


def test_an_unknown_refinement_lists_the_known():
    with pytest.raises(DataError, match="signed"):
        Options(refine="sharp")


def test_a_text_target_needs_texts():
    encoder, responses, images, _ = model_and_targets()
    with pytest.raises(DataError, match="pass texts"):
        attribute(encoder, responses, images, target="text", options=FAST)
