"""Linear decoders of EEG against plain matrices, and what the canonical metric is for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from brainlens.align.sensors import score_sensors
from brainlens.metrics.retrieval import ranks
from brainlens.models.sensors.fit import fit_sensors
from brainlens.models.sensors.linear import cross_fitted, fit_linear, stored_decoder
from brainlens.models.sensors.moments import binned, moments
from brainlens.models.sensors.ridge import fit_ridge
from brainlens.subjects import Protocol
from brainlens.types import DataError, Features, Responses, positions

CHANNELS, SAMPLES = 6, 23  # 4 bins of 5 samples, and a rest


def recordings(n: int = 700, test: int = 100, people: int = 1, lost: float = 0.0) -> tuple[Responses, Features]:
    """Responses that carry 4 dimensions of an embedding of 16; the others vary by themselves, `lost` times as much."""
    rng = np.random.default_rng(0)
    ids = np.array([f"i{k:03d}" for k in range(n)])
    shown, other = rng.normal(size=(n, 4)), lost * rng.normal(size=(n, 12))
    images = Features({"image": np.concatenate([shown, other], 1).astype(np.float32)}, ids, "made")
    split = np.array(["train"] * (n - test) + ["test"] * test)
    data, tables = [], []
    for person in range(people):
        mixing = np.random.default_rng(7).normal(size=(4, CHANNELS, SAMPLES)) + 0.2 * rng.normal(size=(4, CHANNELS, SAMPLES))
        data.append(np.tensordot(shown, mixing, 1) + 5 * rng.normal(size=(n, CHANNELS, SAMPLES)))
        tables.append(pd.DataFrame({"stimulus": ids, "subject": str(person + 1), "split": split}))
    units = pd.DataFrame({"channel": [f"E{c}" for c in range(CHANNELS)]})
    trials = pd.concat(tables, ignore_index=True)
    return Responses(np.concatenate(data).astype(np.float32) + 3, trials, units, times=np.arange(SAMPLES) / 250), images


def rank_of(decoder: object, test: Responses, images: Features) -> np.ndarray:
    gallery = decoder.gallery(images["image"][positions(test.trials["stimulus"].to_numpy(str), images.ids, "i")])  # type: ignore[attr-defined]
    return ranks(decoder.embed(test.data), gallery)  # type: ignore[attr-defined]


def test_moments_are_those_of_the_whole_matrix() -> None:
    responses, images = recordings(2300)
    rows, target = np.arange(1, 2300, 2), images["image"][1::2]
    x = np.concatenate([part for _, part in binned(responses.data, rows, 5)]).astype(np.float64)
    plain = responses.data[rows][:, :, :20].reshape(len(rows), CHANNELS, 4, 5).mean(3).reshape(len(rows), -1)
    assert np.allclose(x, plain)
    whole, part = moments(responses.data, rows, target, 5), np.arange(300)
    own = moments(responses.data, rows[part], target[part], 5, shift=whole.shift)
    rest = whole.less(own)
    for penalty in (0.1, 2.0):
        for found, kept in ((whole, slice(None)), (rest, slice(300, None))):
            a, y = x[kept] - x[kept].mean(0), target[kept] - target[kept].mean(0)
            alpha = penalty * (a**2).sum() / a.shape[1]
            truth = Ridge(alpha=alpha, fit_intercept=False).fit(a, y).coef_.T
            assert np.abs(found.solve(penalty) - truth).max() < 1e-4 * np.abs(truth).max()
            assert np.allclose(found.mean, x[kept].mean(0), atol=1e-5)
            assert np.allclose(found.centre, target[kept].mean(0), atol=1e-5)


def test_left_out_predictions_are_those_of_a_loop() -> None:
    responses, images = recordings(400, people=2)
    rows = np.flatnonzero((responses.trials["split"] == "train").to_numpy())
    image = np.unique(responses.trials["stimulus"].to_numpy(str)[rows], return_inverse=True)[1]
    target, fold = images["image"][image], image % 3
    found = cross_fitted(responses.data, rows, target, fold, width=5, penalty=1.0)
    x = np.concatenate([part for _, part in binned(responses.data, rows, 5)]).astype(np.float64)
    for k in range(3):
        a, y = x[fold != k], target[fold != k]
        alpha = ((a - a.mean(0)) ** 2).sum() / a.shape[1]
        expected = Ridge(alpha=alpha).fit(a, y).predict(x[fold == k])
        assert np.abs(found[fold == k] - expected).max() < 1e-4


@pytest.mark.parametrize("encoder", ["ridge", "canonical"])
@pytest.mark.parametrize("protocol", [Protocol(subject="1"), Protocol("across", "1")])
def test_a_decoder_is_found_again_and_does_not_depend_on_the_batch(encoder: str, protocol: Protocol) -> None:
    responses, images = recordings(people=2)
    decoder, test = fit_linear(responses, images, encoder=encoder, protocol=protocol, validation=60)
    z = decoder.embed(test.data)
    assert np.allclose(z[:7], decoder.embed(test.data[:7]), atol=1e-5)
    assert (rank_of(decoder, test, images) < 5).mean() > 0.2  # chance 0.05
    parts = {"model": decoder.model.state_dict(), "image_head": decoder.image_head.state_dict()}
    again = stored_decoder((CHANNELS, SAMPLES), parts)
    assert np.array_equal(again.embed(test.data), z)
    assert np.array_equal(again.gallery(images["image"]), decoder.gallery(images["image"]))
    with pytest.raises(DataError, match="does not fit"):
        stored_decoder((CHANNELS + 1, SAMPLES), parts)


def test_ridge_as_a_module_is_the_ridge() -> None:
    responses, images = recordings()
    decoder, test = fit_linear(responses, images, encoder="ridge", validation=60)
    plain, _ = fit_ridge(responses, images, validation=60)
    assert np.allclose(decoder.embed(test.data), plain.embed(test.data), atol=1e-5)
    assert np.allclose(decoder.gallery(images["image"]), plain.gallery(images["image"]), atol=1e-6)


def test_what_the_recording_does_not_carry_leaves_the_canonical_metric() -> None:
    responses, images = recordings(1500, lost=2.0)
    found = {}
    for encoder in ("ridge", "canonical"):
        decoder, test = fit_linear(responses, images, encoder=encoder, validation=100)
        found[encoder] = rank_of(decoder, test, images)
    assert found["canonical"].mean() < 0.8 * found["ridge"].mean()  # ridge compares 12 dimensions of noise too


def test_shuffled_pairs_are_at_chance() -> None:
    responses, images = recordings()
    rng, trials = np.random.default_rng(3), responses.trials.copy()
    rows = np.flatnonzero(trials["split"] == "train")
    trials.loc[rows, "stimulus"] = rng.permutation(trials.loc[rows, "stimulus"].to_numpy())
    wrong = Responses(responses.data, trials, responses.units, times=responses.times)
    decoder, test = fit_linear(wrong, images, validation=60)
    assert (rank_of(decoder, test, images) < 5).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)


def test_they_are_encoders_like_others() -> None:
    responses, images = recordings()
    decoder, test = fit_sensors(responses, images, encoder="canonical")
    result = score_sensors(decoder, test, images, encoder="canonical")
    assert result.config["encoder"] == "canonical"
    assert {"penalty", "shrinkage", "variates"} <= set(result.tables["log"].columns)
    assert result.metrics["retrieval/brain->image/gallery"] == 100
    x = torch.randn(2, CHANNELS, SAMPLES)
    bins = x[:, :, :20].reshape(2, CHANNELS, 4, 5).mean(3).flatten(1)
    assert torch.allclose(decoder.model(x), decoder.model.readout(bins), atol=1e-6)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda r, i: fit_linear(r, i, encoder="lasso"), "lasso"),
        (lambda r, i: fit_linear(r, i, protocol=Protocol(subject="9")), "name one of"),
        (lambda r, i: fit_linear(r, i.take(i.ids[:50])), "images"),
        (lambda r, i: fit_linear(Responses(np.where(r.data > 20, np.nan, r.data), r.trials, r.units, times=r.times), i), "NaN"),
        (lambda r, i: fit_linear(Responses(r.data[:, :, :3], r.trials, r.units, times=r.times[:3]), i), "bins"),
    ],
)
def test_bad_input_is_one_line(change, text: str) -> None:  # type: ignore[no-untyped-def]
    responses, images = recordings()
    with pytest.raises(DataError, match=text) as error:
        change(responses, images)
    assert "\n" not in str(error.value)
