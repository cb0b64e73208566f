"""The verb on small made-up recordings with known layers, places and scales; and on Haxby's real one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens import encode as verb
from brainlens.encode import EncodingDesign, encode, selector_truth
from brainlens.models.encoding.tables import LayerTokens, tables
from brainlens.models.encoding.training import EncodingTraining, _batches, _soup
from brainlens.types import DataError, Features, Responses

LAYERS = ["l0", "l1", "l2"]
QUICK = EncodingTraining(steps=120, epoch=60, batch=16, lr=1e-2, decay_steps=60, patience=20, soup=3, searched_start=True)
SMALL = EncodingDesign(width=12, resamples=100, clusters=3)


def make_features(n=130, channels=6, seed=0):
    rng = np.random.default_rng(seed)
    coarse = {name: torch.from_numpy(rng.normal(size=(n, channels, 4, 4)).astype(np.float32)) for name in LAYERS}
    smooth = {name: torch.nn.functional.interpolate(v, (8, 8), mode="bilinear") for name, v in coarse.items()}
    tokens = {name: v.flatten(2).transpose(1, 2).numpy() * 3**i for i, (name, v) in enumerate(smooth.items())}
    whole = {name: rng.normal(size=(n, channels)).astype(np.float32) * 3**i + 5 for i, name in enumerate(LAYERS)}
    ids = np.array([f"i{i:03d}" for i in range(n)])
    return Features(whole, ids, "made-up", tokens, dict.fromkeys(LAYERS, (8, 8)))


def make_responses(features, repeats=2, noise=0.3, seed=1):
    """Two patches of voxels: V1 reads layer 0 at a place, EBA layer 2 globally; and noise voxels."""
    rng = np.random.default_rng(seed)
    n, units = len(features), 60
    centre = np.array([[0, 0, 0], [60, 0, 0], [0, 60, 0]])[np.repeat([0, 1, 2], 20)]
    xyz = centre + rng.normal(size=(units, 3)) * 4
    token = 8 * 2 + 5
    signal = np.zeros((n, units))
    signal[:, :20] = features.tokens["l0"][:, token] @ rng.normal(size=(6, 1)) * rng.choice([-1, 1], 20)
    signal[:, 20:40] = (features.data["l2"] - 5) @ rng.normal(size=(6, 1)) * rng.choice([-1, 1], 20)
    signal[:, :40] /= signal[:, :40].std(axis=0)
    stimulus = np.tile(features.ids, repeats)
    data = np.tile(signal, (repeats, 1)) + noise * rng.normal(size=(repeats * n, units))
    split = np.where(np.arange(n) < 90, "train", np.where(np.arange(n) < 105, "validation", "test"))
    trials = pd.DataFrame({"stimulus": stimulus, "split": np.tile(split, repeats), "subject": "1"})
    kind = np.repeat(["V1", "EBA", "none"], 20)
    frame = pd.DataFrame({"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], "roi": kind})
    frame["layer"] = np.repeat([0.0, 2.0, np.nan], 20)
    frame["rf_x"], frame["rf_y"] = (5 + 0.5) / 4 - 1, (2 + 0.5) / 4 - 1
    frame["is_global"] = kind == "EBA"
    frame["ncsnr"] = np.repeat([1 / noise, 1 / noise, 0], 20)
    return Responses(data.astype(np.float32), trials, frame)


FEATURES = make_features()
RESPONSES = make_responses(FEATURES)


@pytest.fixture(scope="module")
def fitted():
    return encode(RESPONSES, FEATURES, design=SMALL, training=QUICK)


def test_factortopy_finds_layer_place_and_scale(fitted):
    truth = selector_truth(fitted)
    assert truth["truth/layer_spearman"] > 0.8  # two true layers, so ties keep it below .87
    assert (fitted.arrays["layer"][:40] == fitted.units["layer"][:40]).mean() > 0.9
    assert truth["truth/scale_auroc"] > 0.9
    assert truth["truth/rf_error_median"] < 0.15
    assert fitted.metrics["encoding/r2_mean"] > 0.5
    assert fitted.metrics["encoding/r2_mean.low"] < fitted.metrics["encoding/r2_mean"] < fitted.metrics["encoding/r2_mean.high"]
    assert fitted.metrics["encoding/hierarchy_slope"] > 0
    assert fitted.metrics["encoding/hierarchy_slope.p"] < 0.01
    assert np.nanmean(fitted.arrays["r2"][40:]) < 0.1
    assert 0.5 < fitted.metrics["encoding/r2_of_ceiling"] < 1.1
    regions = fitted.tables["regions"].set_index("roi")
    assert set(regions.index) == {"V1", "EBA", "none"}
    assert (regions["r2.low"] < regions["r2"]).all()
    assert (regions["r2"] < regions["r2.high"]).all()


def test_the_same_seed_gives_the_same_bits_and_a_killed_run_goes_on(fitted, tmp_path):
    short = EncodingTraining(steps=20, epoch=10, batch=16, lr=1e-2, decay_steps=100)
    whole = encode(RESPONSES, FEATURES, design=SMALL, training=short)
    again = encode(RESPONSES, FEATURES, design=SMALL, training=short)
    np.testing.assert_array_equal(whole.arrays["r2"], again.arrays["r2"])

    calls = []

    def stop_at_second(step, record):
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(RESPONSES, FEATURES, design=SMALL, training=short, folder=tmp_path, progress=stop_at_second)
    resumed = encode(RESPONSES, FEATURES, design=SMALL, training=short, folder=tmp_path)
    np.testing.assert_array_equal(resumed.arrays["r2"], whole.arrays["r2"])
    np.testing.assert_array_equal(resumed.arrays["channel_weights"], whole.arrays["channel_weights"])


def test_shuffled_images_predict_nothing():
    rng = np.random.default_rng(3)
    trials = RESPONSES.trials.copy()
    train = trials["split"] != "test"
    names = trials.loc[train, "stimulus"].unique()
    other = dict(zip(names, rng.permutation(names), strict=True))
    swapped = {name: RESPONSES.data[np.flatnonzero((trials["stimulus"] == other[name]).to_numpy())] for name in names}
    data = RESPONSES.data.copy()
    for name in names:
        data[np.flatnonzero((trials["stimulus"] == name).to_numpy())] = swapped[name]
    shuffled = Responses(data, trials, RESPONSES.units)
    result = encode(shuffled, FEATURES, method="ridge", design=SMALL)
    assert result.metrics["encoding/r2_mean"] < 0.05


@pytest.mark.parametrize("method", ["ridge", "class_token", "patch_token", "gnet"])
def test_the_other_methods_run_on_the_same_split(method):
    few = EncodingTraining(steps=150, epoch=50, batch=16, lr=1e-2, decay_steps=100, soup=2)
    result = encode(RESPONSES, FEATURES, method=method, design=SMALL, training=few)
    assert np.isfinite(result.metrics["encoding/r2_mean"])
    assert result.arrays["r2"].shape == (60,)
    if method == "ridge":
        assert (result.arrays["layer"][20:40] == 2).mean() > 0.9
        assert result.arrays["layer_scores"].shape == (60, 3)
    if method == "class_token":
        assert result.arrays["r2"][20:40].mean() > 0.5 > result.arrays["r2"][:20].mean()


def test_tables_average_standardise_and_hold_back():
    data = tables(RESPONSES, FEATURES)
    assert [len(p.ids) for p in (data.train, data.validation, data.test)] == [90, 15, 25]
    guess, scored = data.in_units(data.test.y)
    np.testing.assert_array_equal(guess, scored.test.y)
    np.testing.assert_allclose(scored.test.y * data.train.y.std(0) + data.train.y.mean(0), data.test.y, atol=1e-5)
    assert (data.test.repeats == 2).all()
    assert not set(data.train.ids) & set(data.validation.ids) & set(data.test.ids)
    two = RESPONSES.rows((RESPONSES.trials["split"] != "validation").to_numpy())
    held = tables(two, FEATURES, seed=1)
    assert set(two.trials["split"]) == {"train", "test"}  # what is held back is not written into the recording
    assert len(held.validation.ids) == 9
    assert set(held.validation.ids) < set(FEATURES.ids[:90])


def test_single_trials_are_fitted_and_means_are_tested():
    single, means = tables(RESPONSES, FEATURES, single_trials=True), tables(RESPONSES, FEATURES)
    for name in ("train", "validation"):
        one, mean = getattr(single, name), getattr(means, name)
        assert len(one.ids) == sum(mean.repeats) > len(mean.ids)
        at = np.flatnonzero(one.ids == mean.ids[3])
        np.testing.assert_allclose(one.y[at].mean(axis=0), mean.y[3], atol=1e-5)
        assert set(one.rows[at]) == {mean.rows[3]}
        assert (one.repeats == 1).all()
    np.testing.assert_array_equal(single.test.y, means.test.y)
    assert single.counts["images_train"] == means.counts["images_train"]
    few = EncodingTraining(steps=20, epoch=10, batch=16, soup=1)
    result = encode(RESPONSES, FEATURES, method="class_token", design=replace(SMALL, single_trials=True), training=few)
    assert result.metrics["encoding/images_train"] == 90


def test_layer_tokens_are_standardised_on_training_images():
    tokens = LayerTokens(FEATURES, LAYERS, np.arange(90))
    spatial, whole = tokens.at(np.arange(90))
    for layer in LAYERS:
        np.testing.assert_allclose(spatial[layer].mean((0, 1)), 0, atol=1e-2)
        np.testing.assert_allclose(whole[layer].std(0), 1, atol=1e-2)


def test_batches_use_every_image_equally_often():
    drawn = torch.cat(_batches(10, 15, 4, torch.Generator().manual_seed(0)))
    assert torch.bincount(drawn).tolist() == [6] * 10


def test_soup_takes_only_what_helps():
    model = torch.nn.Linear(1, 1, bias=False)
    states = [{"weight": torch.tensor([[w]])} for w in (1.0, 3.0, -9.0)]
    score = lambda: -abs(float(model.weight.detach()) - 2)  # noqa: E731
    _soup(model, [(-1.0, states[0]), (-1.0, states[1]), (-11.0, states[2])], score)
    assert float(model.weight.detach()) == 2.0


def test_one_repeat_leaves_the_ceiling_undefined_and_says_so():
    once = RESPONSES.rows(np.arange(len(FEATURES)))
    result = encode(once, FEATURES, method="ridge", design=SMALL)
    assert np.isnan(result.arrays["ceiling"]).all()
    assert np.isnan(result.metrics["encoding/r2_of_ceiling"])
    assert result.metrics["encoding/ceiling_undefined"] == 1


def test_models_side_by_side(fitted):
    ridge = encode(RESPONSES, FEATURES, method="ridge", design=SMALL)
    table = verb.compare({"a": fitted, "b": ridge})
    assert list(table["model"]) == ["a", "b"]
    best = np.maximum(fitted.arrays["r2"], ridge.arrays["r2"])
    assert table["distance"][1] == pytest.approx(np.sqrt(np.nanmean((best - ridge.arrays["r2"]) ** 2)))
    from brainlens.encode.compare import agreement, layer_check

    assert agreement([fitted, fitted]) == {"correlation": pytest.approx(1), "same_layer": 1.0}
    check = layer_check(fitted, ridge)
    assert list(check["layer"]) == LAYERS
    sizes = verb.scores_by_size(RESPONSES, lambda part: encode(part, FEATURES, method="ridge", design=SMALL), [20, 80])
    assert sizes["r2_mean"][1] > sizes["r2_mean"][0]


def without(column):
    return Responses(RESPONSES.data, RESPONSES.trials, RESPONSES.units.drop(columns=column))


def retrial(**columns):
    return Responses(RESPONSES.data, RESPONSES.trials.assign(**columns), RESPONSES.units)


ONE_TEST = np.flatnonzero(RESPONSES.trials["stimulus"].isin([*FEATURES.ids[:105], *FEATURES.ids[105:109]]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: encode(RESPONSES, FEATURES, method="magic"), "not one of"),
        (lambda: encode(without("z"), FEATURES, design=SMALL, training=QUICK), r"missing \['z'\]"),
        (lambda: encode(Responses(RESPONSES.data, RESPONSES.trials, RESPONSES.units.assign(x=np.nan)), FEATURES), "60 of 60"),
        (lambda: encode(RESPONSES, FEATURES, design=EncodingDesign(layers=("l9",))), "l9"),
        (lambda: encode(RESPONSES, FEATURES, method="ridge", design=EncodingDesign(layers=("l9",))), "l9"),
        (lambda: encode(RESPONSES, FEATURES.take(FEATURES.ids[:100]), method="ridge"), "ids are not found"),
        (lambda: encode(RESPONSES.rows(ONE_TEST), FEATURES, method="ridge"), "at least 8 test images"),
        (lambda: encode(retrial(split="train"), FEATURES), "part 'test' has 0 images"),
        (lambda: encode(retrial(split=np.tile(["train", "test"], 130)[: len(RESPONSES)]), FEATURES, method="ridge"), None),
        (lambda: encode(retrial(split=["train"] * 130 + ["test"] * 130), FEATURES), "in two parts"),
        (lambda: encode(retrial(subject=["1", "2"] * 130), FEATURES), "one subject"),
        (
            lambda: encode(Responses(RESPONSES.data, RESPONSES.trials[["stimulus"]], RESPONSES.units), FEATURES),
            "no column 'split'",
        ),
        (lambda: selector_truth(encode(RESPONSES, FEATURES, method="ridge", design=SMALL)), "factortopy result"),
        (lambda: verb.compare({}), "no results"),
        (lambda: verb.scores_by_size(RESPONSES, lambda r: None, [10**6]), "90 training images"),
    ],
)
def test_bad_input_is_one_line(call, message):
    if message is None:  # alternating splits over repeats in even blocks: each image keeps its own part, so this is fine
        assert call().metrics["encoding/images_train"] > 0
        return
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_presets_of_the_command_line_are_those_of_the_models():
    from brainlens.encode import model_of
    from brainlens.encode.presets import preset
    from brainlens.models.encoding import FactorTopy

    for name, model in (("default", FactorTopy()), ("paper", FactorTopy.paper()), ("released", FactorTopy.released())):
        mine = model_of("factortopy", *preset(name), seed=0, device="cpu").get_params()
        theirs = model.get_params()
        assert (mine["training"] or {}) == (theirs["training"] or {})
        assert {k: mine[k] for k in ("refit", "width", "samples", "seed")} == {
            k: theirs[k] for k in ("refit", "width", "samples", "seed")
        }
        form = {"use": ("space", "layer", "scale"), "topological": True} | (theirs["variant"] or {})
        assert mine["variant"] == form
