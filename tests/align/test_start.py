"""The linear start of the volume encoder, its coordinates, its cross-fit, and the variants that controls are run on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from brainlens.align import align
from brainlens.align.scoring import score
from brainlens.claims.align_study import ABLATIONS, Study
from brainlens.claims.variants import fewer, unpaired, within
from brainlens.metrics.encoding import noise_ceiling
from brainlens.models.volume.aligners import DESIGN, find_start, fit_volume
from brainlens.models.volume.fit import fit
from brainlens.models.volume.split import Split, split_tables
from brainlens.models.volume.start import CrossFitted, coordinates, cross_fitted, on_voxels, reliability
from brainlens.models.volume.training import AlignmentTraining
from brainlens.nn.volume_encoder import cubic_patches
from brainlens.types import DataError

SHAPE = replace(DESIGN, patch=3, width=32, depth=2, heads=2)
QUICK = AlignmentTraining(steps=30, batch=32, evaluate_every=10, checkpoint_every=10, lr=1e-3)


@pytest.fixture(scope="module")
def split(recording) -> Split:
    return split_tables(*recording())


def test_reliability_is_the_noise_ceiling_of_one_trial(split):
    part = split.train
    stimulus = np.empty(len(part.x), int)
    for column in part.rows.T:
        stimulus[column.numpy()] = np.arange(len(part.ids))
    share = noise_ceiling(part.x.numpy(), stimulus).ncsnr ** 2
    expected = share / (1 + share) - 2 * (2 / len(part.x)) ** 0.5
    np.testing.assert_allclose(reliability(part).numpy(), np.maximum(expected, 0), atol=2e-4)
    once = replace(part, rows=part.rows[:, :1])
    assert (reliability(once) == 1).all()


def test_coordinates_hold_the_reliable_voxels_and_weights_go_back_to_voxels(split):
    patch_of = torch.from_numpy(cubic_patches(split.space.mask, 3)[0])
    found = coordinates(split.train, patch_of, reliability(split.train), kept=0.99)
    assert len(set(found.groups)) == int(patch_of.max()) + 1
    x, weights = split.test.mean(), torch.randn(len(found.groups), 4)
    torch.testing.assert_close(found.rows(x) @ weights, (x - found.mean) @ found.on_voxels(weights), rtol=1e-3, atol=1e-3)


def test_the_encoder_on_coordinates_is_the_encoder_on_voxels(split):
    start = find_start(split, SHAPE)
    design = replace(SHAPE, embed_dim=start.linear.weights.shape[1])
    module = CrossFitted(start, design, seed=1)
    for parameter in module.parameters():  # as if it had been trained
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    encoder = module.encoder.eval()
    whole = on_voxels(encoder, start, split.space.mask, design)
    x = split.test.mean()
    torch.testing.assert_close(whole(x), encoder(start.coordinates.rows(x)), rtol=1e-4, atol=1e-4)


def test_training_sees_predictions_of_a_start_that_has_not_seen_the_image(split):
    start = find_start(split, SHAPE)
    crossed, width = cross_fitted(start, folds=3, seed=4), len(start.coordinates.groups)
    part = crossed.train
    fold = np.random.default_rng(4).permutation(len(part.ids)) % 3
    x = start.split.train.mean().numpy()
    kept = fold != 1
    scale = np.square(x[kept] - x[kept].mean(0)).sum(1).mean()
    refit = Ridge(alpha=start.ridge.alpha * scale).fit(x[kept], start.ridge.y[kept].numpy())
    expected = refit.predict(x[~kept]) @ start.readout.matrix.numpy() + start.readout.shift.numpy()
    full = start.linear(start.split.train.mean())[~kept]
    correction = part.mean()[~kept][:, width:]
    np.testing.assert_allclose((full + correction).numpy(), expected, atol=0.02 * np.abs(expected).max())  # kept in float16
    assert not crossed.validation.x[:, width:].any()
    assert crossed.tested is None
    module = CrossFitted(start, replace(SHAPE, embed_dim=start.linear.weights.shape[1])).eval()
    with torch.no_grad():
        z = module(part.mean()[~kept])
    cosine = torch.nn.functional.cosine_similarity(z, torch.from_numpy(expected).float())
    assert cosine.min() > 0.999


def test_the_start_is_kept_where_training_does_not_help(split):
    start = find_start(split, SHAPE)
    spoilt = fit_volume(split, replace(QUICK, lr=0.5, average=0.0, steps=20), design=SHAPE, start=start)
    assert spoilt.chosen["kept_start"] == 1.0
    untouched = fit_volume(split, replace(QUICK, steps=0), design=SHAPE, start=start)
    for a, b in zip(spoilt.embed(split.test.mean()), untouched.embed(split.test.mean()), strict=True):
        torch.testing.assert_close(a, b)


def test_one_modality_looks_the_other_up_in_its_own_space(split):
    found = fit("volume", split, replace(QUICK, modality="image"), design=SHAPE)
    assert found.module.design.embed_dim == 12
    metrics = score(found, split.test)
    assert metrics["retrieval/brain->text/top5"] > 3 * 5 / 30  # the made-up texts lie beside their images
    alone = fit("ridge_projected", replace(split, train=replace(split.train, text=None)), QUICK, design=SHAPE)
    assert alone.start.places["image"] == alone.start.places["text"]


def test_variants(split):
    small = fewer(split, 20, seed=1)
    assert (len(small.train.ids), len(small.validation.ids)) == (20, len(split.validation.ids))
    place = list(split.train.ids).index(small.train.ids[3])
    torch.testing.assert_close(small.train.mean()[3], split.train.mean()[place])
    torch.testing.assert_close(small.train.image[3], split.train.image[place])
    wrong = unpaired(split, seed=1)
    assert (wrong.train.image != split.train.image).any(1).float().mean() > 0.9
    torch.testing.assert_close(wrong.train.image.sum(0), split.train.image.sum(0))
    half = within(split, ["FFA"])
    assert half.train.x.shape[1] == len(half.units) == len(half.space) == (split.units["roi"] == "FFA").sum()
    with pytest.raises(DataError, match="no unit lies in"):
        within(split, ["V9"])
    with pytest.raises(DataError, match="training images are asked for"):
        fewer(split, 10**6)


def test_shuffled_pairs_are_at_chance_with_the_learned_metric(split):
    """Mean over 20 permutations of the pairs, whose standard error is about .02: five test images of 30 are found by chance."""
    found = []
    for seed in range(20):
        control = fit("volume", unpaired(split, seed=seed), QUICK, design=SHAPE)
        found.append(score(control, split.test)["retrieval/brain->image/top5"])
    assert np.mean(found) == pytest.approx(5 / 30, abs=0.075)


def test_a_study_goes_on_from_what_is_kept(split, tmp_path):
    told: list[str] = []
    quick = replace(QUICK, steps=4)
    study = Study(split, tmp_path, quick, quick, tell=lambda text, share=None: told.append(text))
    first = study.encoder("ridge") | study.encoder("volume") | study.ablation("volume/image_only")
    again = Study(split, tmp_path, quick, quick, tell=lambda text, share=None: told.append(f"again {text}"))
    assert again.encoder("ridge") | again.encoder("volume") | again.ablation("volume/image_only") == first
    assert not [text for text in told if text.startswith("again")]
    x = split.test.mean()
    torch.testing.assert_close(again.volume().embed(x)[0], study.volume().embed(x)[0])
    assert set(study.differences(("ridge",))) >= {"align/volume-ridge/retrieval/text->brain/top1.low"}
    assert "align/curve/ridge/20/retrieval/brain->image/top1" in study.curve((20,), ("ridge",))
    with pytest.raises(DataError, match=ABLATIONS[1]):
        study.ablation("volume/sound_only")


def test_every_encoder_in_the_learned_metric(recording):
    responses, images, texts = recording()
    names = ("ridge_projected", "linear_projected", "mlp_projected", "volume")
    trained = replace(QUICK, steps=400, lr=1e-2)  # seeds 0 to 9 give 1.0 for all four; 120 steps at 1e-3, .1 to .4
    found = align(responses, images, texts, encoders=names, training=QUICK, linear=trained, design=SHAPE)
    metrics = found.result
    for name in names:
        assert metrics.metrics[f"align/{name}/retrieval/brain->text/top5"] > 0.8, name
    assert found.decoders["volume"].maps["text"].matrix.shape == (12, 24)
