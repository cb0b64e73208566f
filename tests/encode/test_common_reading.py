"""The reading that all units share: its evidence against normal densities, its layer, what it brings and where it is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

from brainlens.encode.presets import detailed, preset
from brainlens.models.encoding import FactorTopy
from brainlens.models.encoding.readout import refit_readout
from brainlens.models.encoding.start import PENALTIES, ROOM, candidates, common_reading, search, start_bottlenecks
from brainlens.models.encoding.tables import LayerTokens, tables
from brainlens.models.encoding.training import predict
from brainlens.nn.factortopy import FactorTopyNetwork
from brainlens.types import DataError, Features, Responses

UNITS, TRAIN, CHANNELS = 24, 240, 4
PLACES = 65


def made_up(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Layers (image, 1 + 64, 4), responses (image, unit) of one place of layer a and of all of b's global token, coordinates."""
    rng = np.random.default_rng(seed)
    n = TRAIN + 200
    layers = {name: rng.normal(size=(n, PLACES, CHANNELS)).astype(np.float32) for name in ("a", "b", "c")}
    own = layers["a"][:, 1 + 27] @ rng.normal(size=(CHANNELS, UNITS))
    seen = layers["b"][:, 0] @ rng.normal(size=(CHANNELS, UNITS))
    y = own + seen + rng.normal(size=(n, UNITS))
    return layers, y.astype(np.float32), rng.normal(size=(UNITS, 3)) * 10


def network(seed: int = 0):
    layers, y, places = made_up(seed)
    ids = np.array([f"i{i:03d}" for i in range(len(y))])
    split = np.repeat(["train", "validation", "test"], [TRAIN - 20, 20, 200])
    features = Features(
        {k: v[:, 0] for k, v in layers.items()},
        ids,
        "made-up",
        {k: v[:, 1:] for k, v in layers.items()},
        dict.fromkeys(layers, (8, 8)),
    )
    units = pd.DataFrame(places, columns=["x", "y", "z"])
    data = tables(Responses(y, pd.DataFrame({"stimulus": ids, "split": split}), units), features)
    tokens = LayerTokens(features, list(layers), data.train.rows)
    torch.manual_seed(seed)
    model = FactorTopyNetwork(torch.from_numpy(places), dict.fromkeys(layers, CHANNELS), width=CHANNELS, common=True)
    start_bottlenecks(model, data, tokens)
    return model, data, tokens


def at_best(y: np.ndarray, cov: np.ndarray) -> float:
    """log N(y; 0, s^2 cov) on the space of centred vectors at the best s."""
    basis = np.linalg.svd(np.eye(len(y)) - 1 / len(y))[0][:, :-1]
    y, cov = basis.T @ y, basis.T @ cov @ basis
    return float(multivariate_normal(np.zeros(len(y)), y @ np.linalg.solve(cov, y) / len(y) * cov).logpdf(y))


def test_evidence_beside_the_common_reading_is_a_ratio_of_normal_densities() -> None:
    model, data, tokens = network()
    beside = common_reading(model, data, tokens)
    found = search(model, data, tokens, beside=beside, keep=10_000)
    places = len(candidates(model).pools) + 1
    nats = found.nats.gather(1, found.number.argsort(1)).view(UNITS, 3, places)
    y, n = data.train.y.astype(float), len(data.train.y)
    _, whole = tokens.of("b", data.train.rows)
    shared = whole.double().numpy() - whole.double().numpy().mean(0)

    def known(penalty: float) -> np.ndarray:
        return np.eye(n) + shared @ shared.T / (penalty * n)

    one_for_all = [
        sum(max(0.0, at_best(y[:, u], known(p)) - at_best(y[:, u], np.eye(n))) for u in range(UNITS)) for p in PENALTIES
    ]
    cov = known(ROOM * PENALTIES[int(np.argmax(one_for_all))])
    # (I - H) y is cov^-1 y: what the common reading leaves of a response
    np.testing.assert_allclose(beside.out_of(torch.from_numpy(data.train.y)), np.linalg.solve(cov, y), atol=1e-4)
    for layer, place in ((0, 27), (0, 3), (1, 64), (2, 10)):
        spatial, one = tokens.of("abc"[layer], data.train.rows)
        x = (one if place == 64 else spatial[:, place]).double().numpy()
        for unit in (0, 7):
            own = max(at_best(y[:, unit], cov + x @ x.T / (p * n)) for p in PENALTIES) - at_best(y[:, unit], cov)
            np.testing.assert_allclose(nats[unit, layer, place if place < 64 else -1], max(0.0, own), atol=5e-3)


def test_the_layer_with_the_most_evidence_over_all_units_is_read_or_the_one_that_is_named() -> None:
    model, data, tokens = network()
    common_reading(model, data, tokens)
    assert model.layers[int(model.common_layer)] == "b"
    common_reading(model, data, tokens, layer="c")
    assert model.layers[int(model.common_layer)] == "c"


def test_both_readings_are_solved_as_one_ridge() -> None:
    model, data, tokens = network()
    common_reading(model, data, tokens)
    penalty = refit_readout(model, [data.train], tokens, block=20)  # several blocks
    with torch.no_grad():
        space, omega, alpha = model.select()
        table = model.table(*tokens.at(data.train.rows))
        own = torch.stack([_plain(model, table, space[u, 0], omega[u], alpha[u]) for u in range(UNITS)])
    for unit in (0, 11, 23):
        x = np.concatenate([own[unit].numpy(), table[-1, 1].numpy()], axis=1).astype(float)
        x, y = x - x.mean(0), data.train.y[:, unit].astype(float)
        a = float(penalty[unit]) * (x**2).sum() / x.shape[1] / len(x)
        w = np.linalg.solve(x.T @ x + a * np.eye(x.shape[1]), x.T @ (y - y.mean()))
        told = np.concatenate([model.readout[unit].detach(), model.common_readout[unit].detach()]) / model.width
        np.testing.assert_allclose(told, w, atol=2e-3)
    with torch.no_grad():
        plain = torch.einsum("umc,uc->mu", own, model.readout) + table[-1, 1] @ model.common_readout.T
        np.testing.assert_allclose(predict(model, data.train, tokens), plain / model.width + model.bias, atol=1e-4)


def _plain(
    model: FactorTopyNetwork, table: torch.Tensor, at: torch.Tensor, omega: torch.Tensor, alpha: torch.Tensor
) -> torch.Tensor:
    maps = table[:64].permute(2, 3, 1, 0).flatten(1, 2).unflatten(2, (8, 8))  # (image, D x layer, 8, 8)
    grid = at.expand(len(maps), 1, 1, 2)
    local = torch.nn.functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)[..., 0, 0]
    local = local.unflatten(1, (model.width, len(model.layers)))
    return ((1 - alpha) * local + alpha * table[-1].permute(1, 2, 0)) @ omega


def test_what_all_units_read_is_predicted_and_beside_it_each_ones_own_layer_is_found() -> None:
    layers, y, places = made_up()
    train, test = ({k: v[rows] for k, v in layers.items()} for rows in (slice(TRAIN), slice(TRAIN, None)))
    forms = {"beside": ("evidence", True), "common": ("evidence", False), "alone": (None, False)}
    fitted = {
        name: FactorTopy(CHANNELS, common=common, training={"steps": 0, "search_beside": beside}).fit(train, y[:TRAIN], places)
        for name, (common, beside) in forms.items()
    }
    assert [model.common_layer_ for model in fitted.values()] == ["b", "b", None]
    # seeds 0 to 9: R2 .83 to .89, .67 to .77 and .55 to .60; layers .96 to 1 right with the search beside it, .42 to .63 without
    score = {name: model.score(test, y[TRAIN:]) for name, model in fitted.items()}
    right = {name: (model.layer_weights_.argmax(1) == 0).mean() for name, model in fitted.items()}
    assert score["beside"] > score["common"] + 0.03
    assert score["common"] > score["alone"] + 0.05
    assert right["beside"] > 0.8 > right["common"] == right["alone"]


def test_where_nothing_is_shared_validation_images_leave_it_out() -> None:
    left = 0
    for seed in (1, 2, 3):  # nine of the seeds 0 to 9 leave it out
        layers, _, places = made_up(seed)
        few = {name: values[:60] for name, values in layers.items()}
        rng = np.random.default_rng([seed, 1])
        y = few["a"][:, 28] @ rng.normal(size=(CHANNELS, UNITS)) + rng.normal(size=(60, UNITS))
        asked, alone = (
            FactorTopy(CHANNELS, common=common, training={"steps": 0}).fit(few, y, places) for common in ("evidence", None)
        )
        if asked.common_layer_ is None:
            left += 1
            assert asked.common_weights_ is None
            np.testing.assert_array_equal(asked.predict(few), alone.predict(few))
    assert left >= 2


def test_a_model_is_read_back_to_the_bit_and_one_without_a_common_reading_too(tmp_path: Path) -> None:
    layers, y, places = made_up()
    model = FactorTopy(CHANNELS, training={"steps": 0}).fit(layers, y, places)
    again = FactorTopy.load(model.save(tmp_path / "new"))
    np.testing.assert_array_equal(again.predict(layers), model.predict(layers))
    np.testing.assert_array_equal(again.common_weights_, model.common_weights_)
    assert again.common_layer_ == "b"
    old = FactorTopy(CHANNELS, common=None, training={"steps": 0}).fit(layers, y, places)
    old.common = "evidence"  # what the folder of a model says that does not name it
    read = FactorTopy.load(old.save(tmp_path / "old"))
    assert read.common is None
    np.testing.assert_array_equal(read.predict(layers), old.predict(layers))


def test_the_published_recipes_read_eq_1_alone_and_the_option_sets_it() -> None:
    assert FactorTopy().common == "evidence"
    assert FactorTopy.paper().common is FactorTopy.released().common is None
    assert FactorTopy.released(common="vision.6").common == "vision.6"
    assert preset("paper")[0].common is preset("released")[0].common is None
    for asked, found in (("none", None), ("evidence", "evidence"), ("b", "b"), (None, "evidence")):
        assert detailed(*preset("default"), common=asked)[0].common == found
    assert detailed(*preset("default"), search_beside=True)[1].search_beside
    for name, asked in (("default", "none"), ("paper", None)):
        with pytest.raises(
            DataError, match="selectors are searched beside a common reading; leave out --no-search and --common none"
        ):
            detailed(*preset(name), common=asked, search_beside=True)


def test_a_layer_that_is_not_read_is_one_line() -> None:
    layers, y, places = made_up()
    with pytest.raises(DataError, match="common layer 'd' is not one that is read, a, b, c; or 'evidence', or None"):
        FactorTopy(CHANNELS, common="d", training={"steps": 0}).fit(layers, y, places)
