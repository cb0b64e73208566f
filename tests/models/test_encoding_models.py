"""Encoding models on arrays: fit, predict, save, load, clone, cross-validation, and one line for every mistake."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from brainlens import store
from brainlens.models.encoding import MODELS, ClassToken, FactorTopy, GNet, LayerwiseRidge, PatchToken, RidgeCV, load
from brainlens.models.encoding.layered import as_features
from brainlens.models.encoding.training import PAPER, EncodingTraining
from brainlens.nn.factortopy import FactorTopyNetwork, resize_tokens
from brainlens.types import DataError, Features

N, NEW, UNITS = 100, 30, 24
QUICK = {"steps": 40, "epoch": 20, "batch": 16, "lr": 1e-2, "decay_steps": 20, "soup": 2}


def made(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Hidden states of two layers, (image, 1 + 16, 5); 12 units read a place of layer a, 12 the class token of layer b."""
    rng = np.random.default_rng(seed)
    states = {name: rng.normal(size=(N + NEW, 17, 5)).astype(np.float32) * 4**k + k for k, name in enumerate("ab")}
    xyz = np.repeat([[0.0, 0, 0], [50, 0, 0]], 12, axis=0) + rng.normal(size=(UNITS, 3))
    signal = np.concatenate(
        [states["a"][:, 1 + 6] @ rng.normal(size=(5, 1)) @ np.ones((1, 12)), states["b"][:, 0] @ rng.normal(size=(5, 12)) / 4], 1
    )
    return states, (signal + 0.3 * rng.normal(size=signal.shape)) * 3 + 100, xyz


STATES, Y, XYZ = made()
TRAIN, TEST = {k: v[:N] for k, v in STATES.items()}, {k: v[N:] for k, v in STATES.items()}
UNFITTED = {
    "RidgeCV": RidgeCV(),
    "LayerwiseRidge": LayerwiseRidge(),
    "FactorTopy": FactorTopy(6, samples=2, training=QUICK),
    "ClassToken": ClassToken(6, training=QUICK),
    "PatchToken": PatchToken(6, training=QUICK),
    "GNet": GNet(6, training=QUICK),
}
LAYERED = [name for name in UNFITTED if name != "RidgeCV"]


def inputs(name: str, states: dict[str, np.ndarray]) -> object:
    return states["b"][:, 0] if name == "RidgeCV" else states


def fit(name: str, states: object, y: np.ndarray, **more: object) -> object:
    places = {"coordinates": XYZ} if name == "FactorTopy" else {}
    return clone(UNFITTED[name]).fit(states, y, **places, **more)


@pytest.fixture(scope="module")
def fitted() -> dict[str, object]:
    return {name: fit(name, inputs(name, TRAIN), Y[:N]) for name in UNFITTED}


READ = """
import sys, numpy as np, torch
torch.set_num_threads(int(sys.argv[3]))
from brainlens.models.encoding import load
folder, out = sys.argv[1:3]
with np.load(out + "/inputs.npz") as kept:
    states = dict(kept)
for name in sys.argv[4:]:
    np.save(f"{out}/{name}.npy", load(f"{folder}/{name}").predict(states["b"][:, 0] if name == "RidgeCV" else states))
"""


@pytest.fixture(scope="module")
def elsewhere(fitted, tmp_path_factory) -> dict[str, np.ndarray]:
    """Predictions of the stored models in another process."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in fitted.items():
        model.save(folder / name)
    np.savez(folder / "inputs.npz", **TEST)
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", READ, str(folder), str(folder), threads, *fitted], check=True)
    return {name: np.load(folder / f"{name}.npy") for name in fitted}


@pytest.mark.parametrize("name", list(UNFITTED))
def test_a_stored_model_predicts_the_same_to_the_bit_in_another_process(fitted, elsewhere, name):
    assert set(UNFITTED) == set(MODELS)
    guess = fitted[name].predict(inputs(name, TEST))
    assert guess.shape == (NEW, UNITS)
    np.testing.assert_array_equal(elsewhere[name], guess)


@pytest.mark.parametrize("name", LAYERED)
def test_fit_reads_no_other_image(fitted, name):
    spoilt = {k: np.concatenate([v[:N], np.full_like(v[N:], np.nan)]) for k, v in STATES.items()}
    there = fit(name, spoilt, Y[:N], rows=np.arange(N))
    np.testing.assert_array_equal(there.predict(TEST), fitted[name].predict(TEST))
    np.testing.assert_array_equal(fitted[name].predict(STATES, rows=np.arange(N, N + NEW)), fitted[name].predict(TEST))


@pytest.mark.parametrize("name", LAYERED)
def test_arrays_tensors_maps_and_features_are_the_same_to_a_model(fitted, name):
    model, wanted = fitted[name], fitted[name].predict(TEST)
    tensors = {k: torch.from_numpy(v) for k, v in TEST.items()}
    images = [{k: v[i] for k, v in TEST.items()} for i in range(NEW)]
    same = as_features(TEST)
    named = replace(same, ids=np.array([f"face{i}" for i in range(NEW)]), model="a ViT")
    for given in (tensors, images, named):
        np.testing.assert_array_equal(model.predict(given), wanted)
    np.testing.assert_allclose(model.predict(same.take(same.ids[:7])), wanted[:7], atol=2e-4)


@pytest.mark.parametrize("name", list(UNFITTED))
def test_a_clone_fits_the_same_again(fitted, name):
    again = fit(name, inputs(name, TRAIN), Y[:N])
    np.testing.assert_array_equal(again.predict(inputs(name, TEST)), fitted[name].predict(inputs(name, TEST)))
    assert clone(again).get_params() == UNFITTED[name].get_params()


@pytest.mark.parametrize("name", ["FactorTopy", "LayerwiseRidge"])
def test_a_shift_and_a_scale_of_the_responses_pass_through(fitted, name):
    moved = fit(name, TRAIN, Y[:N] * 50 - 3)
    np.testing.assert_allclose(moved.predict(TEST), fitted[name].predict(TEST) * 50 - 3, rtol=2e-3, atol=0.5)


def test_factortopy_finds_layers_and_predicts_new_images(fitted):
    model = fitted["FactorTopy"]
    assert model.layer_names_ == ["a", "b"]
    assert model.layer_weights_.shape == (UNITS, 2)
    assert model.space_.shape == (UNITS, 2, 2)
    assert model.scale_.shape == model.confidence_.shape == (UNITS,)
    np.testing.assert_array_equal(model.layer_weights_.argmax(1), np.repeat([0, 1], 12))
    assert model.scale_[12:].min() > 0.5 > model.scale_[:12].max()
    centre = (np.array([2, 1]) + 0.5) / 2 - 1  # token 6 of 4 x 4 stands in row 1, column 2
    assert np.abs(model.space_[:12].mean((0, 1)) - centre).max() < 0.25
    # seeds 0 to 9 of the recording give .85 to .94; the ceiling is 1 - .3^2 / (1 + .3^2) or above
    assert model.score(TEST, Y[N:]) > 0.7


def test_predictions_are_equation_1_with_what_the_model_shows(fitted):
    model = fitted["FactorTopy"]
    total = np.zeros((NEW, UNITS))
    for number, name in enumerate(model.layer_names_):
        maps = torch.from_numpy(TEST[name][:, 1:]).transpose(1, 2).unflatten(2, (4, 4))
        maps = F.interpolate(maps, size=(8, 8), mode="bilinear").half().float()
        mean, rate, mean_whole, rate_whole = model.statistics_[name]
        maps = (maps - mean[:, None, None]) * rate[:, None, None]
        whole = (torch.from_numpy(TEST[name][:, 0]) - mean_whole) * rate_whole
        grid = torch.from_numpy(model.space_)[None].expand(NEW, -1, -1, -1)
        seen = F.grid_sample(maps, grid, padding_mode="border", align_corners=False).mean(3).transpose(1, 2)  # (image, unit, C)
        alpha = torch.from_numpy(model.scale_)[:, None]
        mixed = ((1 - alpha) * seen + alpha * whole[:, None]) @ model.network_.local[number].detach()
        read = (mixed * torch.from_numpy(model.channel_weights_)).sum(2) / model.width
        total += (read * torch.from_numpy(model.layer_weights_[:, number])).numpy()
        if name == model.common_layer_:  # and what all units read beside it
            total += (whole @ model.network_.local[number].detach() @ model.common_weights_.T / model.width).numpy()
    total = (total + model.network_.bias.detach().numpy()) * model.y_scale_ + model.y_mean_
    np.testing.assert_allclose(model.predict(TEST), total, atol=2e-3)


def test_a_tenth_is_held_back_or_what_is_named(fitted):
    held = np.zeros(N, bool)
    held[::4] = True
    named = fit("ClassToken", TRAIN, Y[:N], validation=held)
    assert not np.array_equal(named.predict(TEST), fitted["ClassToken"].predict(TEST))
    np.testing.assert_allclose(named.y_mean_, Y[:N][~held].mean(0), rtol=1e-5)
    steps = [record["step"] for record in named.training_log_]
    assert steps == [20.0, 40.0]


def test_cross_validation_refits_on_each_fold():
    rows = [{k: v[i] for k, v in STATES.items()} for i in range(N)]
    guess = cross_val_predict(LayerwiseRidge(), rows, Y[:N], cv=KFold(3))
    train, test = next(KFold(3).split(Y[:N]))
    there = LayerwiseRidge().fit({k: v[train] for k, v in STATES.items()}, Y[train])
    np.testing.assert_allclose(guess[test], there.predict({k: v[test] for k, v in STATES.items()}), atol=1e-4)
    model = FactorTopy(6, training={"steps": 0})
    topy = cross_val_predict(model, rows, Y[:N], cv=KFold(2), params={"coordinates": XYZ})
    train, test = next(KFold(2).split(Y[:N]))
    there = model.fit({k: v[train] for k, v in STATES.items()}, Y[train], XYZ)
    np.testing.assert_allclose(topy[test], there.predict({k: v[test] for k, v in STATES.items()}), atol=1e-3)


def test_a_pipeline_ends_in_a_model():
    pipeline = make_pipeline(FunctionTransformer(lambda x: x[:, :, ::-1].copy()), ClassToken(6, training=QUICK))
    alone = ClassToken(6, training=QUICK).fit(TRAIN["b"][:, :, ::-1].copy(), Y[:N])
    np.testing.assert_array_equal(pipeline.fit(TRAIN["b"], Y[:N]).predict(TEST["b"]), alone.predict(TEST["b"][:, :, ::-1].copy()))


def test_the_recipe_of_the_paper_and_of_its_code():
    paper, released = FactorTopy.paper(seed=3), FactorTopy.released()
    assert EncodingTraining(**paper.training) == PAPER
    assert (paper.seed, paper.refit, paper.samples, paper.width) == (3, False, 1, 128)
    assert released.training["decay_steps"] == 2000
    quick = {**released.training, "steps": 8, "epoch": 4}
    network = released.set_params(width=6, training=quick).fit(TRAIN, Y[:N], XYZ).network_
    assert len(network.whole) == 2
    assert network.options["padding"] == "zeros"
    for recipe in (paper, released):
        assert (recipe.standardise, recipe.layers) == (False, "blocks")
    assert released.variant["readout"] == "linear"
    assert not GNet.paper(training={"steps": 1}).refit


def test_published_recipes_read_the_outputs_of_blocks_as_they_are():
    states = {"vision.0": STATES["a"].copy(), "vision.1": STATES["a"], "vision.2": STATES["b"]}
    states["vision.0"][:, 0] = 0.3  # the class token that enters the first block is the same for every image
    quick = {"steps": 4, "epoch": 2, "soup": 1}
    model = FactorTopy.released(width=6, training=quick).fit({k: v[:N] for k, v in states.items()}, Y[:N], XYZ)
    assert model.layer_names_ == ["vision.1", "vision.2"]
    given = as_features({k: v[:N] for k, v in states.items()})
    spatial, whole = model.tokens(given).at(np.arange(5))
    np.testing.assert_array_equal(whole["vision.1"], STATES["a"][:5, 0])
    halves = resize_tokens(torch.from_numpy(STATES["a"][:5, 1:]), (4, 4)).half().float()
    np.testing.assert_array_equal(spatial["vision.1"], halves)
    assert FactorTopy(6, training=quick).fit(given, Y[:N], XYZ).layer_names_ == list(states)


def test_the_released_readout_starts_as_a_linear_layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FactorTopyNetwork(torch.from_numpy(XYZ), {"a": 5}, width=64, variant={"readout": "linear"})
    peer = torch.nn.Linear(64, UNITS)
    for mine, theirs in ((network.readout, peer.weight), (network.bias, peer.bias)):
        assert mine.shape == theirs.shape
        assert mine.abs().max() <= 64**-0.5
        assert float(mine.detach().std()) == pytest.approx(64**-0.5 / 3**0.5, rel=0.35)


def test_a_class_token_is_split_off_where_the_others_make_a_square():
    x = np.random.default_rng(0).normal(size=(4, 17, 3)).astype(np.float32)
    states = as_features({"a": x, "b": x[:, 1:], "c": x[:, 1:].reshape(4, 2, 8, 3).transpose(0, 3, 1, 2), "d": x[:, 0]})
    assert states.layer == ["a", "d", "b", "c"]
    np.testing.assert_array_equal(states.data["a"], x[:, 0])
    for name, grid in (("a", (4, 4)), ("b", (4, 4)), ("c", (2, 8))):
        np.testing.assert_array_equal(states.tokens[name], x[:, 1:])
        assert states.grid[name] == grid
    several = as_features((torch.from_numpy(x), torch.from_numpy(x)))  # as `output.hidden_states` is
    assert several.layer == ["layer.0", "layer.1"]
    np.testing.assert_array_equal(several.data["layer.1"], x[:, 0])
    half = as_features({"a": torch.from_numpy(x).bfloat16()})
    np.testing.assert_allclose(half.tokens["a"], x[:, 1:], rtol=1e-2)


def spoilt(name: str) -> np.ndarray:
    y = Y[:N].copy()
    if name == "column":
        y[:, 4] = np.nan
    return y


F9 = {k: v[:, :, :4] for k, v in TEST.items()}
BAD = TRAIN | {"b": np.where(np.arange(N)[:, None, None] == 2, np.nan, TRAIN["b"])}
NO_TOKENS = {k: v[:, 0] for k, v in TRAIN.items()}
ASKED = {
    "numbers as ids": (lambda f: Features(NO_TOKENS, np.arange(N), "x"), "ids are strings, got"),
    "other images": (lambda f: fit("ClassToken", TRAIN, Y), "features hold 100 images but Y has 130 rows"),
    "and for ridge": (lambda f: fit("LayerwiseRidge", TRAIN, Y), "features hold 100 images but Y has 130 rows"),
    "a NaN column": (lambda f: fit("GNet", TRAIN, spoilt("column")), "in 1 of 24 units, first unit 4"),
    "NaN in a layer": (lambda f: fit("PatchToken", BAD, Y[:N]), "layer 'b': image '000000002' holds NaN or infinity"),
    "NaN in a layer of ridge": (
        lambda f: fit("LayerwiseRidge", BAD, Y[:N]),
        "layer 'b': image '000000002' holds NaN or infinity",
    ),
    "one unit as a vector": (lambda f: fit("ClassToken", TRAIN, Y[:N, 0]), r"use Y\[:, None\]"),
    "no coordinates": (lambda f: FactorTopy().fit(TRAIN, Y[:N]), r"needs coordinates=\(unit, 3\)"),
    "other coordinates": (lambda f: FactorTopy().fit(TRAIN, Y[:N], XYZ[:9]), r"here \(24, 3\), got \(9, 3\)"),
    "a coordinate is NaN": (lambda f: FactorTopy().fit(TRAIN, Y[:N], XYZ * np.nan), "24 of 24 voxels have NaN"),
    "no such layer": (lambda f: ClassToken(layers=("z",)).fit(TRAIN, Y[:N]), r"no layer \['z'\]"),
    "no such layer for ridge": (lambda f: LayerwiseRidge(layers=("z",)).fit(TRAIN, Y[:N]), "no layer 'z'; it has"),
    "no spatial tokens": (lambda f: fit("GNet", NO_TOKENS, Y[:N]), "no layer with spatial tokens"),
    "a setting that is not there": (lambda f: GNet(training={"step": 3}).fit(TRAIN, Y[:N]), "no setting 'step'; it has steps"),
    "an option that is not there": (lambda f: FactorTopy(variant={"colour": 1}).fit(TRAIN, Y[:N], XYZ), "colour=1 is not known"),
    "three images": (lambda f: fit("ClassToken", {k: v[:3] for k, v in TRAIN.items()}, Y[:3]), "give at least 10"),
    "a mask of other images": (lambda f: fit("ClassToken", TRAIN, Y[:N], validation=np.ones(3, bool)), "each of 100 images"),
    "rows that are not there": (lambda f: fit("ClassToken", TRAIN, Y[:2], rows=[0, 100]), "features hold 100 images"),
    "layers of other images": (lambda f: fit("GNet", TRAIN | {"b": TEST["b"]}, Y[:N]), "every layer holds the same images"),
    "layers named by numbers": (lambda f: fit("GNet", {3: TRAIN["a"]}, Y[:N]), "layer names are text"),
    "registers": (lambda f: fit("GNet", TRAIN["a"][:, :14], Y[:N]), "neither 14 nor 13 is a square"),
    "text": (lambda f: fit("GNet", {"a": np.array([["x"]])}, Y[:1]), "array of real numbers"),
    "a file name": (lambda f: fit("GNet", "features.npy", Y[:N]), "not a str"),
    "other channels": (lambda f: f["GNet"].predict(F9), "4 channels in spatial tokens, the model was fitted on 5"),
    "other channels for ridge": (lambda f: f["LayerwiseRidge"].predict(F9), "4 channels in spatial tokens"),
    "a layer is missing": (lambda f: f["FactorTopy"].predict({"a": TEST["a"]}), "no layer 'b', which the model reads"),
    "no class token": (lambda f: f["ClassToken"].predict({k: v[:, 1:] for k, v in TEST.items()}), "none in a global token"),
    "not fitted": (lambda f: FactorTopy().predict(TEST), "FactorTopy is not fitted; call fit first"),
    "not fitted ridge": (lambda f: LayerwiseRidge().predict(TEST), "LayerwiseRidge is not fitted"),
    "nothing to save": (lambda f: GNet().save("nowhere"), "not fitted"),
    "no such device": (lambda f: GNet(device="cuda:99").fit(TRAIN, Y[:N]), "device 'cuda:99' is not available"),
}


@pytest.mark.parametrize("name", list(ASKED))
def test_a_mistake_is_one_line(fitted, name):
    call, message = ASKED[name]
    with pytest.raises(DataError, match=message) as caught:
        call(fitted)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_kind_version_or_with_missing_files(fitted, tmp_path: Path):
    fitted["GNet"].save(tmp_path / "a")
    with pytest.raises(DataError, match=r"use GNet\.load"):
        FactorTopy.load(tmp_path / "a")
    (weights,) = (tmp_path / "a").glob("*.safetensors")
    weights.unlink()
    with pytest.raises(DataError, match="missing"):
        load(tmp_path / "a")
    store.save_model(tmp_path / "b", model="GNet", version=99, parameters={}, state={"y_mean_": 1})
    with pytest.raises(DataError, match="saved in version 99 of GNet"):
        load(tmp_path / "b")
    store.save_model(tmp_path / "c", model="Scaler", version=1, parameters={}, state={"a_": 1})
    with pytest.raises(DataError, match="no encoding model; there are RidgeCV"):
        load(tmp_path / "c")
