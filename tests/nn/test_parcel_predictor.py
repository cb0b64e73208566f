"""The encoder that chooses: its network against a plain loop, what it learns, and the choice."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.base import clone

from brainlens.models.generation.parcel_predictor import ParcelPredictor
from brainlens.nn.parcel_predictor import ParcelPredictorNetwork, choice_table, choose
from brainlens.parcels import Parcels
from brainlens.types import DataError

MEMBERS = [np.array([2, 4]), np.array([0, 1, 5])]  # unit 3 is in none


def test_the_network_equals_a_plain_loop():
    network = ParcelPredictorNetwork(MEMBERS, 5, 6, width=8, depth=2, heads=2, seed=1)
    with torch.no_grad():
        network.bias.normal_()
    tokens = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(3, 6)
    with torch.no_grad():
        for row in range(3):
            read = network.embed(tokens[row])
            for p, units in enumerate(MEMBERS):
                query = network.queries[p]
                for block in network.blocks:
                    q, kv = block.to_q(block.norm_q(query)), block.to_kv(block.norm_kv(read))
                    mixed = []
                    for head in range(2):
                        part = slice(4 * head, 4 * head + 4)
                        weight = ((kv[:, :8][:, part] @ q[part]) / 2.0).softmax(0)
                        mixed.append(weight @ kv[:, 8:][:, part])
                    query = query + block.out(torch.cat(mixed))
                    query = query + block.mlp(block.norm_mlp(query))
                out = network.norm(query) @ network.weight[p] + network.bias[p]
                expected[row, units] = out[: len(units)]
        torch.testing.assert_close(network(tokens), expected, rtol=1e-4, atol=1e-5)
    network(tokens).square().sum().backward()
    assert (network.bias.grad[0, 2:] == 0).all()  # padding learns nothing


def planted(seed: int, images: int = 240) -> tuple[np.ndarray, np.ndarray, Parcels, np.ndarray, np.ndarray]:
    """Each parcel reads the content of one image corner; tokens carry content and, in their first channels, their place."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(images + 60, 4, 3))
    place = np.broadcast_to(np.eye(4), (images + 60, 4, 4))
    tokens = np.concatenate([3 * place, content], axis=2).astype(np.float32)
    readout = rng.normal(size=(2, 3, 5))
    clean = np.concatenate([content[:, 0] @ readout[0], content[:, 2] @ readout[1]], axis=1)
    y = (clean + 0.5 * rng.normal(size=clean.shape)).astype(np.float32)
    parcels = Parcels(("corner", "other"), np.repeat([0, 1], 5))
    return tokens[:images], y[:images], parcels, tokens[images:], y[images:]


@pytest.mark.parametrize("seed", [0, 1])
def test_it_predicts_new_images_and_chooses_the_true_candidate(seed):
    tokens, y, parcels, new, y_new = planted(seed)
    model = ParcelPredictor(training={"width": 32}, seed=seed).fit(tokens, y, parcels)
    r = np.mean([pearsonr(model.predict(new)[:, v], y_new[:, v])[0] for v in range(10)])
    assert r > 0.75, r  # .875 to .949 over ten seeds
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 60)
    candidates = new[rng.integers(0, 60, (60, 4))]
    candidates[np.arange(60), truth] = new
    chosen, fit = model.choose(candidates, y_new)
    assert (chosen == truth).mean() > 0.75  # .917 to .967 over ten seeds; chance .26
    assert (fit.argmax(1) == chosen).all()


def test_choosing_is_by_pearson():
    rng = np.random.default_rng(0)
    predicted, measured = rng.normal(size=(6, 4, 9)), rng.normal(size=(6, 9))
    predicted[0, 2] = 7.0  # never varies
    chosen, fit = choose(predicted * [[[2.0], [1], [5], [1]]] + 3, measured)
    for i in range(6):
        for c in range(4):
            if (i, c) != (0, 2):
                assert fit[i, c] == pytest.approx(pearsonr(predicted[i, c], measured[i])[0])
    assert fit[0, 2] == -1
    assert (chosen == fit.argmax(1)).all()


def test_the_table_has_what_choosing_brings():
    scores = np.array([[0.1, 0.5, 0.3], [0.9, 0.2, 0.4]])
    table = choice_table(scores, np.array([1, 2]))
    assert table["value"].to_dict() == pytest.approx({"chosen": 0.45, "first": 0.5, "mean": 0.4, "best": 0.7})
    assert (table["n"] == 2).all()
    assert (table["low"] <= table["value"]).all()
    assert (table["high"] >= table["value"]).all()


READ = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from brainlens.models.generation.parcel_predictor import ParcelPredictor
np.save(sys.argv[3], ParcelPredictor.load(sys.argv[1]).predict(np.load(sys.argv[2])))
"""


def test_saved_predictors_predict_the_same_in_another_process(tmp_path):
    tokens, y, parcels, new, _ = planted(3)
    model = ParcelPredictor(training={"epochs": 2}).fit(tokens, y, parcels)
    assert clone(model).get_params() == model.get_params()
    np.save(tmp_path / "new.npy", new)
    model.save(tmp_path / "model")
    paths = [str(tmp_path / name) for name in ("model", "new.npy", "out.npy")]
    subprocess.run([sys.executable, "-c", READ, *paths], check=True)
    assert np.array_equal(np.load(tmp_path / "out.npy"), model.predict(new))


def test_bad_input_is_one_clear_line():
    tokens, y, parcels, new, y_new = planted(4, images=40)
    model = ParcelPredictor(training={"epochs": 1}).fit(tokens, y, parcels)
    holed = tokens.copy()
    holed[0, 0, 0] = np.nan
    cases = [
        (lambda: ParcelPredictor().fit(tokens[:9], y, parcels), "tokens of 9 images, Y of 40"),
        (lambda: ParcelPredictor().fit(tokens, y[:, :4], parcels), "Y has 4 units, the parcels are of 10"),
        (lambda: ParcelPredictor().fit(holed, y, parcels), "NaN"),
        (lambda: ParcelPredictor().fit(tokens[:, 0], y, parcels), r"\(image, token, channel\)"),
        (lambda: ParcelPredictor(training={"width": 30}).fit(tokens, y, parcels), "width 30 over 4 heads"),
        (lambda: ParcelPredictor(training={"rate": 1}).fit(tokens, y, parcels), "no field 'rate'"),
        (lambda: ParcelPredictor().predict(new), "is not fitted"),
        (lambda: model.predict(new[:, :, :4]), "tokens have 4 channels, the model was fitted on 7"),
        (lambda: model.choose(new, y_new), r"should be \(trial, candidate, token, channel\)"),
        (lambda: choose(np.zeros((2, 3, 4)), np.zeros((2, 5))), "2 units or more"),
        (lambda: choose(np.full((2, 3, 4), np.nan), np.zeros((2, 4))), "NaN"),
        (lambda: choice_table(np.zeros((2, 3)), np.array([0, 3])), "chosen candidate 3 of 3"),
        (lambda: choice_table(np.zeros((2, 3)), np.array([0.0, 1])), "one number a trial"),
        (lambda: ParcelPredictorNetwork([], 3, 4), "parcels with units"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
