"""The search over layers and places against a plain ridge, and selectors fitted to a known answer."""

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge

from brainlens.encode.start import RIDGES, search, start_selectors
from brainlens.encode.tables import LayerTokens, tables
from brainlens.nn.factortopy import FactorTopy
from brainlens.types import Features, Responses


def made_up():
    rng = np.random.default_rng(0)
    n, ids = 60, np.array([f"i{i:02d}" for i in range(60)])
    tokens = {name: rng.normal(size=(n, 64, 3)).astype(np.float32) for name in ("a", "b")}
    whole = {name: rng.normal(size=(n, 3)).astype(np.float32) for name in ("a", "b")}
    data = np.stack([tokens["b"][:, 10] @ [1.0, 2, 3], whole["a"] @ [1.0, 2, 3]], axis=1).astype(np.float32)
    split = np.repeat(["train", "validation", "test"], 20)
    units = pd.DataFrame({"x": [0.0, 1], "y": [0.0, 1], "z": [0.0, 1]})
    features = Features(whole, ids, "made-up", tokens, dict.fromkeys(tokens, (8, 8)))
    table = tables(Responses(data, pd.DataFrame({"stimulus": ids, "split": split}), units), features)
    return table, LayerTokens(features, ["a", "b"], table.train.rows)


def test_search_equals_plain_ridge_and_finds_the_answer():
    data, tokens = made_up()
    scores = search(data, tokens)
    assert scores.shape == (2, 65, 2)
    x, z = (tokens.at(part.rows)[0]["b"][:, 10].numpy() for part in (data.train, data.validation))
    x, z = x - x.mean(0), z - x.mean(0)
    plain = []
    for ridge in RIDGES:
        fit = Ridge(alpha=ridge * len(x), fit_intercept=False).fit(x, data.train.y - data.train.y.mean(0))
        error = (data.validation.y - data.train.y.mean(0) - fit.predict(z)) ** 2
        plain.append(1 - error.mean(0) / ((data.validation.y - data.train.y.mean(0)) ** 2).mean(0))
    np.testing.assert_allclose(scores[1, 10], np.max(plain, axis=0), atol=1e-4)
    assert divmod(int(scores[..., 0].argmax()), 65) == (1, 10)
    assert divmod(int(scores[..., 1].argmax()), 65) == (0, 64)


def test_selectors_take_the_best_layer_place_and_scale():
    torch.manual_seed(0)
    model = FactorTopy(torch.tensor([[0.0, 0, 0], [50.0, 50, 50]]), {"a": 3, "b": 3}, width=4)
    scores = torch.zeros(2, 65, 2)
    scores[1, 10, 0] = scores[0, 64, 1] = 0.9
    start_selectors(model, scores)
    space, omega, alpha = model.select()
    assert omega.argmax(1).tolist() == [1, 0]
    assert alpha[0] < 0.2 < 0.8 < alpha[1]
    np.testing.assert_allclose(space[0, 0].detach(), [2.5 / 4 - 1, 1.5 / 4 - 1], atol=0.1)


def test_nothing_found_leaves_the_selectors_alone():
    torch.manual_seed(0)
    model = FactorTopy(torch.rand(3, 3), {"a": 3, "b": 3}, width=4)
    before = [value.clone() for value in model.selectors.parameters()]
    start_selectors(model, -torch.ones(2, 65, 3))
    assert all(torch.equal(a, b) for a, b in zip(before, model.selectors.parameters(), strict=True))
