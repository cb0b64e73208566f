from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens.attribute.brain import METHODS, Options, attribute, brain_maps
from brainlens.attribution.bottleneck import Bottleneck
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
    informative = (where < 3).all(1)
    units = pd.DataFrame({"roi": np.where(informative, "V1", "none"), "informative": informative})
    ids = [f"s{i}" for i in range(TRIALS)]
    trials = pd.DataFrame({"stimulus": ids, "subject": ["1", "2"] * (TRIALS // 2)})
    data = rng.standard_normal((TRIALS, len(units))).astype(np.float32)
    return Responses(data, trials, units, space)


def model_and_targets(kind="sum"):
    """An encoder that reads the informative voxels alone, and targets that are its own embeddings."""
    responses = recording()
    design = VolumeDesign(patch=3, width=16, depth=2, heads=2, embed_dim=DIM, class_token=kind, per_patch=True)
    encoder = VolumeEncoder(responses.space.mask, design, seed=1)
    right = torch.tensor(responses.units["informative"].tolist())
    with torch.no_grad():
        encoder.projection.mul_(right[encoder.order][:, None])
        if kind == "sum":
            weights = torch.randn(encoder.n_voxels, DIM, generator=torch.Generator().manual_seed(2)) * right[:, None]
            encoder.load_linear(weights, torch.zeros(DIM))
        z = encoder.eval()(torch.from_numpy(responses.data)).numpy()
    ids = responses.trials["stimulus"].to_numpy().astype(str)
    return encoder.train(), responses, Features({"image": z}, ids, "toy"), Features({"text": z[:, ::-1].copy()}, ids, "toy")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_tables(method):
    encoder, responses, images, texts = model_and_targets()
    result = attribute(encoder, responses, images, texts, method=method, options=FAST)
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
    "kind, method, layer",
    [
        ("sum", "bottleneck", None),
        ("learned", "bottleneck", 0),
        ("sum", "integrated_gradients", None),
        ("sum", "rise", None),
        ("sum", "gradcam", None),
    ],
)
def test_the_voxels_that_carry_the_match_are_found(kind, method, layer):
    encoder, responses, images, _ = model_and_targets(kind)
    options = replace(FAST, masks=1500, cells=2, bottleneck=Bottleneck(copies=4))
    result = attribute(encoder, responses, images, method=method, layer=layer, options=options)
    assert result.metrics["truth/auroc"] > 0.9
    assert result.metrics["truth/auroc.low"] <= result.metrics["truth/auroc"]
    assert result.metrics["truth/informative_share"] == pytest.approx(24 / 210, abs=0.02)


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


def test_an_unknown_refinement_lists_the_known():
    with pytest.raises(DataError, match="signed"):
        Options(refine="sharp")


def test_a_text_target_needs_texts():
    encoder, responses, images, _ = model_and_targets()
    with pytest.raises(DataError, match="pass texts"):
        attribute(encoder, responses, images, target="text", options=FAST)
