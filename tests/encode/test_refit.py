"""The closing ridge against scikit-learn on channels that are made explicitly, one unit readout at a time."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from brainlens.encode.refit import refit_readout
from brainlens.encode.tables import LayerTokens, Part, Tables
from brainlens.encode.training import predict
from brainlens.metrics.encoding import r2
from brainlens.nn.factortopy import FactorTopy
from brainlens.types import Features

WIDTH, VOXELS = 5, 12


def make(**options):
    rng = np.random.default_rng(0)
    tokens = {k: rng.normal(size=(70, 64, 4)).astype(np.float32) for k in "ab"}
    whole = {k: rng.normal(size=(70, 4)).astype(np.float32) for k in "ab"}
    features = Features(whole, np.array([f"i{i}" for i in range(70)]), "made-up", tokens, dict.fromkeys("ab", (8, 8)))
    y = rng.normal(size=(70, VOXELS)).astype(np.float32)
    parts = [Part(features.ids[rows], rows, y[rows], np.ones(len(rows))) for rows in np.split(np.arange(70), [40, 55])]
    nothing = np.full(VOXELS, np.nan)
    data = Tables(*parts, pd.DataFrame(index=range(VOXELS)), None, {}, nothing, nothing, False)
    torch.manual_seed(0)
    model = FactorTopy(torch.rand(VOXELS, 3), {"a": 4, "b": 4}, width=WIDTH, **options)
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


@pytest.mark.parametrize("options", [{}, {"samples": 2}, {"use": ("layer", "scale")}], ids=str)
def test_equals_ridge_on_explicit_channels(options):
    model, data, tokens = make(**options)
    before = r2(predict(model, data.validation, tokens), data.validation.y)
    train, validation = (channels(model, part, tokens) for part in (data.train, data.validation))
    chosen = refit_readout(model, data, tokens, alphas=[1.0, 30.0], block=5, batch=16).numpy()
    after = predict(model, data.validation, tokens)
    for i in range(VOXELS):
        v = train[:, i]
        unit = v.var(axis=0).mean()
        guesses = {a: Ridge(alpha=a * unit).fit(v, data.train.y[:, i]).predict(validation[:, i]) for a in (1.0, 30.0)}
        scores = {a: r2(g[:, None], data.validation.y[:, i : i + 1])[0] for a, g in guesses.items()}
        best = max(scores, key=scores.get)
        if scores[best] > before[i]:
            assert chosen[i] == best
            np.testing.assert_allclose(after[:, i], guesses[best], atol=1e-4)
        else:
            assert np.isnan(chosen[i])
    assert (r2(after, data.validation.y) >= before - 1e-6).all()
