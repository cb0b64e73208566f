"""The evidence against the density of a normal distribution, and selectors fitted to a known answer."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

from brainlens.models.encoding.start import PENALTIES, Evidence, candidates, search, start_bottlenecks, start_selectors
from brainlens.models.encoding.tables import LayerTokens, tables
from brainlens.nn.factortopy import FactorTopyNetwork
from brainlens.types import Features, Responses

N = 120


def made_up(seed=0, **options):
    rng = np.random.default_rng(seed)
    n, ids = N + 20, np.array([f"i{i:02d}" for i in range(N + 20)])
    tokens = {name: rng.normal(size=(n, 64, 3)).astype(np.float32) for name in ("a", "b")}
    whole = {name: rng.normal(size=(n, 3)).astype(np.float32) for name in ("a", "b")}
    near = tokens["a"][:, [27, 28, 35, 36]].mean(1)  # the middle of the picture
    data = np.stack([tokens["b"][:, 10] @ [1.0, 2, 3], whole["a"] @ [1.0, 2, 3], near @ [3.0, 1, 2]], axis=1)
    data = (data + rng.normal(size=data.shape) * 0.3).astype(np.float32)
    split = np.repeat(["train", "validation", "test"], [N, 10, 10])
    units = pd.DataFrame({"x": [0.0, 10, 20], "y": [0.0, 10, 0], "z": [0.0, 1, 9]})
    features = Features(whole, ids, "made-up", tokens, dict.fromkeys(tokens, (8, 8)))
    table = tables(Responses(data, pd.DataFrame({"stimulus": ids, "split": split}), units), features)
    torch.manual_seed(0)
    model = FactorTopyNetwork(torch.from_numpy(units.to_numpy(copy=True)), {"a": 3, "b": 3}, width=3, **options)
    tokens = LayerTokens(features, ["a", "b"], table.train.rows)
    start_bottlenecks(model, table, tokens)
    return model, table, tokens


def plain_evidence(x, y):
    """log N(y; 0, s^2 (I + x x' / a)) on the space of centred vectors, at the best s and a, less that without x."""
    basis = np.linalg.svd(np.eye(len(y)) - 1 / len(y))[0][:, :-1]  # orthonormal, n - 1 columns that sum to zero
    x, y = basis.T @ x, basis.T @ y

    def at(penalty):
        cov = np.eye(len(y)) + (0 if penalty is None else x @ x.T / penalty)
        variance = y @ np.linalg.solve(cov, y) / len(y)
        return multivariate_normal(np.zeros(len(y)), variance * cov).logpdf(y)

    return max(0.0, *(at(p * (len(y) + 1)) - at(None) for p in PENALTIES))


@pytest.mark.parametrize("samples", [1, 3])
def test_evidence_is_a_ratio_of_normal_densities_and_finds_the_answer(samples):
    model, data, tokens = made_up(samples=samples)
    found = search(model, data, tokens, block=2, keep=10_000)
    places = len(candidates(model).pools) + 1
    assert found.nats.shape == (3, 2 * places)
    order = found.number.argsort(1)
    nats = found.nats.gather(1, order).view(3, 2, places).numpy()
    spatial, whole = tokens.of("b", data.train.rows)
    pools = candidates(model).pools
    for place in (0, 10, places - 2):
        x = torch.einsum("p,npc->nc", pools[place], spatial).double().numpy()
        for unit in range(3):
            np.testing.assert_allclose(nats[unit, 1, place], plain_evidence(x, data.train.y[:, unit].astype(float)), atol=2e-3)
    np.testing.assert_allclose(
        nats[0, 1, -1], plain_evidence(whole.double().numpy(), data.train.y[:, 0].astype(float)), atol=2e-3
    )
    best = [divmod(int(number), places) for number in found.number[:, 0]]
    assert best[0] == (1, 10)
    assert best[1] == (0, places - 1)
    assert best[2][0] == 0  # by 8 to 22 nats over seeds 0 to 9, and by 30 to 45 where all four of its tokens are read
    if samples == 3:  # four tokens are read: several samples on a circle
        np.testing.assert_allclose(candidates(model).points[best[2][1]].mean(0), [0, 0], atol=0.2)
        assert best[2][1] >= 64


def test_places_are_read_as_the_model_reads_them():
    model, _, tokens = made_up(samples=3)
    given = candidates(model)
    spatial, whole = tokens.at(np.arange(5))
    chosen = [3, 70, 200]
    with torch.no_grad():
        omega = torch.tensor([[1.0, 0.0]]).expand(3, 2)
        model.readout.copy_(torch.eye(3))
        told = model.predict(spatial, whole, (given.points[chosen], omega, torch.zeros(3))) * 3
    plain = torch.einsum("vp,npv->nv", given.pools[chosen], spatial["a"])
    np.testing.assert_allclose(told, plain, atol=1e-5)


def test_bottlenecks_start_as_the_identity_or_as_principal_directions():
    model, data, tokens = made_up()
    assert torch.equal(model.local[0], torch.eye(3))
    small = FactorTopyNetwork(torch.rand(3, 3), {"a": 3, "b": 3}, width=2)
    start_bottlenecks(small, data, tokens)
    spatial, whole = tokens.of("a", data.train.rows)
    rows = torch.cat([spatial, whole[:, None]], 1).flatten(0, 1).numpy()
    axes = np.linalg.svd(rows, full_matrices=False)[2][:2]
    np.testing.assert_allclose(np.abs(axes @ small.local[0].detach().numpy()), np.eye(2), atol=1e-3)


def test_selectors_take_the_best_layer_place_and_scale():
    torch.manual_seed(0)
    model = FactorTopyNetwork(torch.tensor([[0.0, 0, 0], [50.0, 50, 50]]), {"a": 3, "b": 3}, width=4)
    start_selectors(model, Evidence(torch.tensor([[65 + 10, 3], [64, 3]]), torch.tensor([[90.0, 1], [90, 1]])))
    space, omega, alpha = model.select()
    assert omega.argmax(1).tolist() == [1, 0]
    assert alpha[0] < 0.2 < 0.8 < alpha[1]
    np.testing.assert_allclose(space[0, 0].detach(), [2.5 / 4 - 1, 1.5 / 4 - 1], atol=0.1)


def test_an_undecided_unit_stays_open_and_free_selectors_reach_the_maximum_in_closed_form():
    torch.manual_seed(0)
    model = FactorTopyNetwork(torch.rand(2, 3), {"a": 3, "b": 3}, width=4, topological=False)
    found = Evidence(torch.tensor([[65 + 10], [5]]), torch.tensor([[200.0], [0.0]]))
    start_selectors(model, found, steps=2000, lr=1e-2, openness=0.5)
    _, omega, alpha = model.select()
    # maximise log w + log(1 - a) + 0.5 (mean log w + mean log(a, 1 - a)): w = 1.25 / 1.5, a = 0.25 / 1.5
    np.testing.assert_allclose(omega[0, 1].detach(), 1.25 / 1.5, atol=0.02)
    np.testing.assert_allclose(alpha[0].detach(), 0.25 / 1.5, atol=0.02)
    np.testing.assert_allclose(omega[1].detach(), [0.5, 0.5], atol=0.02)
    np.testing.assert_allclose(alpha[1].detach(), 0.5, atol=0.02)


def test_a_switched_off_space_selector_has_the_mean_as_its_only_place():
    model, data, tokens = made_up(use=("layer", "scale"))
    assert candidates(model).pools.shape == (1, 64)
    found = search(model, data, tokens)
    assert found.nats.shape == (3, 4)
    start_selectors(model, found, steps=3)
