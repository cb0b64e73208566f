"""The closing ridge against scikit-learn on channels that are made explicitly, one unit readout at a time."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from brainlens.models.encoding.readout import Sums, pooled_ridge, refit_readout
from brainlens.models.encoding.ridge import ALPHAS
from brainlens.models.encoding.tables import EncodingPart, EncodingTables, LayerTokens
from brainlens.models.encoding.training import predict
from brainlens.nn.encoding_baselines import ClassTokenNetwork, GNetNetwork, PatchTokenNetwork
from brainlens.nn.factortopy import FactorTopyNetwork
from brainlens.types import Features

WIDTH, VOXELS = 5, 12


def make(**options):
    rng = np.random.default_rng(0)
    tokens = {k: rng.normal(size=(70, 64, 4)).astype(np.float32) for k in "ab"}
    whole = {k: rng.normal(size=(70, 4)).astype(np.float32) for k in "ab"}
    features = Features(whole, np.array([f"i{i}" for i in range(70)]), "made-up", tokens, dict.fromkeys("ab", (8, 8)))
    y = rng.normal(size=(70, VOXELS)).astype(np.float32)
    parts = [EncodingPart(features.ids[rows], rows, y[rows], np.ones(len(rows))) for rows in np.split(np.arange(70), [40, 55])]
    nothing = np.full(VOXELS, np.nan)
    data = EncodingTables(*parts, pd.DataFrame(index=range(VOXELS)), None, {}, nothing, nothing, False)
    torch.manual_seed(0)
    model = FactorTopyNetwork(torch.rand(VOXELS, 3), {"a": 4, "b": 4}, width=WIDTH, **options)
    return model, data, LayerTokens(features, ["a", "b"], parts[0].rows)


def channels(model, part, tokens):
    """v (image, voxel, D) from predictions with one channel's weight set at a time."""
    kept = model.readout.detach().clone(), model.bias.detach().clone()
    columns = []
    with torch.no_grad():
        model.bias.zero_()
        for d in range(WIDTH):
            model.readout.zero_()
            model.readout[:, d] = WIDTH
            columns.append(predict(model, part, tokens))
        model.readout.copy_(kept[0])
        model.bias.copy_(kept[1])
    return np.stack(columns, axis=2)


def plain_gcv(v, y, alphas):
    """The ridge of least generalised cross-validation score, with the hat matrix written out: (alpha, weights, intercept)."""
    n, best = len(y), None
    centred = v - v.mean(0)
    for alpha in alphas:
        penalty = alpha * v.var(axis=0).mean()
        hat = 1 / n + centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(v.shape[1]), centred.T)
        score = n * ((y - hat @ y) ** 2).sum() / (n - np.trace(hat)) ** 2
        if best is None or score < best[0]:
            fit = Ridge(alpha=penalty).fit(v, y)
            best = score, alpha, fit
    return best[1], best[2]


@pytest.mark.parametrize("options", [{}, {"samples": 2}, {"use": ("layer", "scale")}, {"variant": {"reduce": "sum"}}], ids=str)
def test_equals_ridge_with_gcv_on_explicit_channels(options):
    model, data, tokens = make(**options)
    alphas = [1.0, 30.0, 1000.0]
    parts = [data.train, data.validation]
    scale = WIDTH if options.get("variant", {}).get("reduce") == "sum" else 1
    train, test = (np.concatenate([channels(model, p, tokens) / scale for p in some]) for some in (parts, [data.test]))
    chosen = refit_readout(model, parts, tokens, alphas=alphas, block=5, batch=16).numpy()
    after = predict(model, data.test, tokens)
    y = np.concatenate([p.y for p in parts])
    for i in range(VOXELS):
        alpha, fit = plain_gcv(train[:, i].astype(float), y[:, i].astype(float), alphas)
        assert chosen[i] == alpha
        np.testing.assert_allclose(after[:, i], fit.predict(test[:, i]), atol=1e-4)


@pytest.mark.parametrize("reader", [ClassTokenNetwork, PatchTokenNetwork, GNetNetwork])
def test_the_other_readers_are_closed_alike(reader):
    _, data, tokens = make()
    model = reader(VOXELS, {"a": 4, "b": 4}, width=WIDTH)
    if reader is GNetNetwork:
        torch.nn.init.normal_(model.field)
    parts, alphas = [data.train, data.validation], [1.0, 30.0]
    train, test = (np.concatenate([channels(model, p, tokens) for p in some]) for some in (parts, [data.test]))
    refit_readout(model, parts, tokens, alphas=alphas, block=5, batch=16)
    after, y = predict(model, data.test, tokens), np.concatenate([p.y for p in parts])
    for i in range(VOXELS):
        _, fit = plain_gcv(train[:, i].astype(float), y[:, i].astype(float), alphas)
        np.testing.assert_allclose(after[:, i], fit.predict(test[:, i]), atol=1e-4)


def test_pooled_ridge_equals_scikit_learn_and_leaves_units_without_a_layer_at_their_mean():
    _, data, tokens = make()
    rng = np.random.default_rng(1)
    layer = np.array([0, 1, -1] * 4)
    pool = rng.dirichlet(np.ones(65), VOXELS)
    parts = [data.train, data.validation]
    guess = pooled_ridge(parts, data.test, tokens, layer=layer, pool=pool, block=3)
    y = np.concatenate([p.y for p in parts])
    for i in range(VOXELS):
        if layer[i] < 0:
            np.testing.assert_allclose(guess[:, i], y[:, i].mean(), atol=1e-6)
            continue
        made = []
        for part in (*parts, data.test):
            spatial, whole = tokens.of("ab"[layer[i]], part.rows)
            made.append(np.einsum("p,npc->nc", pool[i], torch.cat([spatial, whole[:, None]], 1).double().numpy()))
        _, fit = plain_gcv(np.concatenate(made[:2]), y[:, i].astype(float), ALPHAS)
        np.testing.assert_allclose(guess[:, i], fit.predict(made[2]), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1000.0])
def test_channels_that_never_change_get_no_weight(value):
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        sums = Sums(1, 3)
        y = torch.randn(1, 20, generator=g)
        sums.add(torch.full((1, 20, 3), value), y)
        weights, bias, _ = sums.solve(ALPHAS)
        assert not weights.any()
        torch.testing.assert_close(bias, y.mean(1))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("value", [0.1, 1000.0])
def test_a_channel_that_never_changes_leaves_the_others_as_without_it(value, shared):
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        moving, y = torch.randn(1 if shared else 2, 30, 3, generator=g) + 1, torch.randn(2, 30, generator=g)
        with_it = torch.cat([moving, torch.full_like(moving[..., :1], value)], 2)
        both = []
        for v, width in ((with_it, 4), (moving, 3)):
            sums = Sums(2, width, shared=shared)
            for rows in (slice(0, 12), slice(12, 30)):
                sums.add(v[:, rows], y[:, rows])
            both.append(sums.solve([4.0 if width == 4 else 3.0]))  # the penalty is in units of the mean over all channels
        (weights, bias, _), (alone, bias_alone, _) = both
        assert not weights[:, 3].any()
        torch.testing.assert_close(weights[:, :3], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bias, bias_alone, rtol=1e-4, atol=1e-5)
