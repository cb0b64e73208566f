"""NeuroAlign and its baselines on a small EEG phantom: above chance with the pairs, at chance without, nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from brainlens.align.sensors import align_sensors, validation_score
from brainlens.metrics import retrieval
from brainlens.models.sensors.decoder import NICE_TRAINING, SensorTraining, without
from brainlens.models.sensors.fit import fit_model, fit_sensors, limit_repeats, sensor_model
from brainlens.models.sensors.ridge import fit_ridge
from brainlens.models.sensors.split import split_subjects
from brainlens.phantom.eeg import make_eeg
from brainlens.subjects import Protocol, held_out
from brainlens.types import DataError, Features, Responses, Stimuli

QUICK = SensorTraining(epochs=4, batch=64, lr=1e-3, validation=40)
QUICK_NICE = replace(NICE_TRAINING, epochs=4, batch=64, lr=1e-3, validation=40)


def world(n: int = 360, test: int = 40) -> tuple[Stimuli, Features, Features]:
    rng = np.random.default_rng(0)
    ids = np.array([f"s{i:04d}" for i in range(n)])
    z = rng.normal(size=(n, 8))
    data = {f"layer{k}": (z @ rng.normal(size=(8, 20))).astype(np.float32) for k in range(4)}
    data["image"] = (z @ rng.normal(size=(8, 24))).astype(np.float32)
    data["saliency"] = data["image"] + 0.2 * rng.normal(size=data["image"].shape).astype(np.float32)
    data["concept"] = data["image"] + 1.0 * rng.normal(size=data["image"].shape).astype(np.float32)
    text = {"text": (data["image"] @ rng.normal(size=(24, 18))).astype(np.float32)}
    table = pd.DataFrame({"split": ["train"] * (n - test) + ["test"] * test})
    stimuli = Stimuli(ids, np.zeros((n, 2, 2, 3), np.uint8), table=table)
    return stimuli, Features(data, ids, "random"), Features(text, ids, "text")


@pytest.fixture(scope="module")
def tables() -> tuple[Responses, Features, Features]:
    stimuli, images, texts = world()
    responses = make_eeg(stimuli, images, subjects=(1, 2), rows=(1, 4), amplitude=8.0)
    few = responses.columns(np.arange(40, 63))  # the channels at the back, for speed
    return few, images, texts


ONE = Protocol(subject="1")


def top5(result: object) -> float:
    return result.metrics["retrieval/brain->image/top5"]  # type: ignore[attr-defined]


def test_neuroalign_is_above_chance_and_reports_what_it_did(tables: tuple) -> None:
    result = align_sensors(*tables, training=QUICK, protocol=ONE)
    assert top5(result) > 0.3  # chance 0.125
    assert result.metrics["retrieval/brain->image/chance5"] == pytest.approx(5 / 40)
    assert "retrieval/brain->text/top1" in result.metrics
    log = result.tables["log"]
    assert np.allclose(log[["w1", "w2", "w3"]].sum(axis=1), 1)
    curve = result.tables["repeats"]
    assert curve["repeats"].tolist() == [20, 40, 80]
    assert curve["top5"].iloc[-1] == pytest.approx(top5(result), abs=0.051)
    assert result.config["gallery_layer"] == "saliency"
    assert len(result.arrays["ids"]) == 40


def test_same_seed_same_bits_and_the_global_generator_is_left(tables: tuple) -> None:
    quick, before = replace(QUICK, epochs=1), torch.random.get_rng_state()
    a, b = (align_sensors(*tables, training=quick, protocol=ONE, seed=3) for _ in range(2))
    assert np.array_equal(a.arrays["embedding/brain"], b.arrays["embedding/brain"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_shuffled_pairs_are_at_chance(tables: tuple) -> None:
    responses, images, texts = tables
    trials = responses.trials.copy()
    rows = np.flatnonzero((trials["split"] == "train") & (trials["subject"] == "1"))
    trials.loc[rows, "stimulus"] = np.random.default_rng(0).permutation(trials.loc[rows, "stimulus"].to_numpy())
    result = align_sensors(replace(responses, trials=trials), images, texts, training=QUICK, protocol=ONE)
    assert top5(result) < 0.3
    assert result.metrics["retrieval/brain->image/top1"] < 0.15


@pytest.mark.parametrize("encoder", ["nice", "linear"])
def test_baselines_and_across_subjects(tables: tuple, encoder: str) -> None:
    assert top5(align_sensors(*tables, encoder=encoder, training=QUICK_NICE, protocol=ONE)) > 0.3
    across = align_sensors(*tables, encoder=encoder, training=QUICK_NICE, protocol=Protocol("across", "1"))
    assert top5(across) > 0.2


@pytest.mark.parametrize("part", ["saliency", "guidance", "adjustment"])
def test_ablations_train(tables: tuple, part: str) -> None:
    result = align_sensors(*tables, training=without(replace(QUICK, epochs=1), part), protocol=ONE)
    log = result.tables["log"].iloc[0]
    if part == "saliency":
        assert result.config["gallery_layer"] == "image"
    if part == "guidance":
        assert log["w3"] == 0
    if part == "adjustment":
        assert log["w1"] == log["w2"] == log["w3"] == pytest.approx(1 / 3)


def test_a_users_module_and_the_concept_gallery(tables: tuple) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(23 * 250, 24))
    result = align_sensors(*tables, encoder=module, training=QUICK_NICE, protocol=replace(ONE, gallery="concept"))
    assert result.config["encoder"] == "Sequential"
    assert result.config["gallery_layer"] == "concept"


def test_test_trials_change_nothing_that_is_learnt(tables: tuple) -> None:
    responses, images, texts = tables
    data = responses.data.copy()
    data[(responses.trials["split"] == "test").to_numpy()] *= 3
    quick = replace(QUICK, epochs=1)
    a, _ = fit_sensors(responses, images, texts, training=quick, protocol=ONE)
    b, _ = fit_sensors(replace(responses, data=data), images, texts, training=quick, protocol=ONE)
    assert all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values()))
    assert torch.equal(a.scale[1], b.scale[1])


def test_across_leaves_the_tested_subject_out_and_validation_is_by_image(tables: tuple) -> None:
    train, test = split_subjects(tables[0], Protocol("across", "2"))
    assert set(train.trials["subject"]) == {"1"}
    assert set(test.trials["subject"]) == {"2"}
    held = held_out(320, 740, 0)
    assert held.sum() == 64
    assert np.array_equal(held, held_out(320, 740, 0))


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda r, i, t: align_sensors(r, i, t), "name one of"),
        (lambda r, i, t: align_sensors(r, i, t, protocol=Protocol(subject="7")), "name one of"),
        (lambda r, i, t: align_sensors(r.where(subject="1"), i, t, protocol=Protocol("across")), "2 subjects"),
        (lambda r, i, t: align_sensors(r, i, None, protocol=ONE), "needs texts"),
        (lambda r, i, t: align_sensors(r, i, t, protocol=ONE, encoder="cnn"), "not one of"),
        (lambda r, i, t: align_sensors(r, i.take(i.ids[:50]), t, protocol=ONE), "not found"),
        (lambda r, i, t: align_sensors(r.where(split="train"), i, t, protocol=ONE), "0 test trials"),
        (lambda r, i, t: Protocol("between"), "within"),
        (lambda r, i, t: without(QUICK, "attention"), "saliency"),
    ],
)
def test_mistakes_are_one_line(tables: tuple, change: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        change(*tables)  # type: ignore[operator]


def test_another_recording_is_matched_by_channel_name(tables: tuple) -> None:
    responses, images, texts = tables
    model = sensor_model("linear", replace(QUICK_NICE, epochs=1))
    test = fit_model(model, responses, images, texts, protocol=ONE)
    turned = test.columns(np.arange(23)[::-1])
    assert np.array_equal(model.transform(turned), model.decoder_.embed(test.data))
    with pytest.raises(DataError, match="1 channels are missing"):
        model.transform(test.columns(np.arange(1, 23)))
    with pytest.raises(DataError, match="500 Hz"):
        model.transform(replace(test, times=test.times / 2))
    with pytest.raises(DataError, match="looks like volts or tesla"):
        model.transform(replace(test, data=test.data.astype(np.float32) * 1e-6))


def test_repeats_are_limited_or_missed(tables: tuple) -> None:
    test = tables[0].where(split="test", subject="1")
    assert len(limit_repeats(test, 2)) == 80
    with pytest.raises(DataError, match="9 repetitions are asked for"):
        limit_repeats(test, 9)


def test_flat_channels_and_leaks_are_errors(tables: tuple) -> None:
    responses, images, texts = tables
    flat = responses.data.copy()
    flat[:, 3] = 0
    with pytest.raises(DataError, match="flat"):
        align_sensors(replace(responses, data=flat), images, texts, training=QUICK, protocol=ONE)
    trials = responses.trials.copy()
    trials.loc[trials.index[-1], "split"] = "train"
    trials["subject"] = "1"
    with pytest.raises(DataError, match="test images are in the training set"):
        align_sensors(replace(responses, trials=trials), images, texts, training=QUICK)


def test_one_missing_sample_in_any_training_trial_is_an_error(tables: tuple) -> None:
    """In a validation trial it would make every validation loss NaN and keep the weights of no epoch."""
    responses, images, texts = tables
    train = responses.where(split="train", subject="1")
    names = train.trials["stimulus"].to_numpy(dtype=str)
    held = np.unique(names)[held_out(len(np.unique(names)), QUICK.validation, 0)][0]
    rows = (responses.trials["stimulus"] == held) & (responses.trials["subject"] == "1")
    data = responses.data.copy()
    data[np.flatnonzero(rows)[0], 2, 100] = np.nan
    for fit in (
        lambda r: fit_sensors(r, images, texts, training=QUICK, protocol=ONE),
        lambda r: fit_ridge(r, images, protocol=ONE),
    ):
        with pytest.raises(DataError, match="NaN or infinity"):
            fit(replace(responses, data=data))


@pytest.mark.realdata
def test_real_embeddings_with_phantom_eeg_give_a_200_way_run(test_data: Path) -> None:
    """Training images are mixtures of concept centres, test images the 200 real ones, the gallery both ways."""
    shown = np.load(test_data / "things" / "clip_feature_maps_test.npy").reshape(200, 768).astype(np.float32)
    centre = np.load(test_data / "things" / "center_clip.npy").reshape(200, 768).astype(np.float32)
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(3, 0.5), size=700).astype(np.float32)
    mixed = np.einsum("nk,nkd->nd", share, centre[rng.integers(200, size=(700, 3))])
    shown, mixed, centre = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (shown, mixed, centre))
    ids = np.array([f"mix{i:04d}" for i in range(700)] + [f"test{i:03d}" for i in range(200)])
    table = pd.DataFrame({"split": ["train"] * 700 + ["test"] * 200})
    stimuli = Stimuli(ids, np.zeros((900, 2, 2, 3), np.uint8), table=table)
    both = {"image": np.concatenate([mixed, shown]), "concept": np.concatenate([mixed, centre])}
    images = Features(both, ids, "CLIP ViT-L/14")
    back = np.arange(45, 63)
    responses = make_eeg(stimuli, images, amplitude=6.0).columns(back)
    training = replace(NICE_TRAINING, epochs=5, batch=64, lr=1e-3, validation=100)
    for gallery in ("image", "concept"):
        result = align_sensors(responses, images, encoder="linear", training=training, protocol=Protocol(gallery=gallery))
        assert result.metrics["retrieval/brain->image/gallery"] == 200
        assert result.metrics["retrieval/brain->image/top5.low"] > 5 / 200


def test_ridge_is_that_of_sklearn_with_the_penalty_of_the_validation_images(tables: tuple) -> None:
    from sklearn.linear_model import Ridge

    responses, images, _ = tables
    decoder, test = fit_ridge(responses, images, protocol=ONE, width=5, validation=40)
    assert decoder.penalty == max(decoder.validation, key=decoder.validation.get)
    train = responses.where(split="train", subject="1")
    names = train.trials["stimulus"].to_numpy(dtype=str)
    held = dict(zip(np.unique(names), held_out(len(np.unique(names)), 40, 0)))
    kept = np.array([not held[name] for name in names])
    x = train.data[kept].astype(np.float64).reshape(kept.sum(), 23, 50, 5).mean(axis=3).reshape(kept.sum(), -1)
    row = {name: i for i, name in enumerate(images.ids)}
    y = images["image"][[row[name] for name in names[kept]]].astype(np.float64)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    a = x - x.mean(axis=0)
    truth = Ridge(alpha=decoder.penalty * (a**2).sum() / a.shape[1], fit_intercept=False).fit(a, y - y.mean(axis=0)).coef_.T
    assert np.abs(decoder.weights - truth).max() < 1e-4 * np.abs(truth).max()
    averaged = test.average()
    ids = averaged.trials["stimulus"].to_numpy(dtype=str)
    ranks = retrieval.ranks(decoder.embed(averaged.data), decoder.gallery(images["image"][[row[name] for name in ids]]))
    assert (ranks < 5).mean() > 0.5  # chance 0.125
    with pytest.raises(DataError, match="above 0"):
        fit_ridge(responses, images, protocol=ONE, penalties=(0.0,))


def test_what_chooses_an_encoder_is_the_mean_reciprocal_rank_of_the_held_out_images(tables: tuple) -> None:
    responses, images, _ = tables
    decoder, _ = fit_sensors(responses, images, encoder="ridge", training=QUICK_NICE, protocol=ONE)
    chosen = {"encoder": "ridge", "training": QUICK_NICE, "protocol": ONE}
    found = validation_score(decoder, responses, images, **chosen)
    train = responses.where(split="train", subject="1").average()
    names = train.trials["stimulus"].to_numpy(dtype=str)
    kept = np.isin(names, np.unique(names)[held_out(len(np.unique(names)), 40, 0)])
    place = {name: i for i, name in enumerate(images.ids)}
    brain = decoder.embed(train.data[kept])
    gallery = decoder.gallery(images["image"][[place[name] for name in names[kept]]])
    cosine = (brain / np.linalg.norm(brain, axis=1)[:, None]) @ (gallery / np.linalg.norm(gallery, axis=1)[:, None]).T
    assert found == pytest.approx(np.mean(1 / (1 + (cosine > np.diag(cosine)[:, None]).sum(axis=1))))
    data = np.array(responses.data)
    data[(responses.trials["split"] == "test").to_numpy()] *= -1  # test trials have no part in it
    assert validation_score(decoder, replace(responses, data=data), images, **chosen) == found
    assert found > 2 * np.mean(1 / np.arange(1, 41))  # twice what guessing gives
