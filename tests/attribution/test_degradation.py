import numpy as np
import pytest
import torch
from torch import nn

from brainlens.attribution.bottleneck import Bottleneck
from brainlens.attribution.degradation import TABLE_6, controls, curve, keep, randomised, sensitivity, top_area, unit_range
from brainlens.attribution.targets import scores
from brainlens.types import DataError

MATRIX = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)) * (torch.arange(30) < 5)[:, None]


def model(x):
    return x @ MATRIX + 0.01


def problem():
    x = torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    return x, model(x), (torch.arange(30) < 5).float().expand(8, -1) + 0.1 * torch.rand(8, 30)


def test_keeping_equals_a_plain_product():
    x, aims, maps = problem()
    kept = keep(x, model, aims, maps)
    scaled = torch.stack([(m - m.min()) / (m.max() - m.min()) for m in maps])
    torch.testing.assert_close(kept.kept, scores(x * scaled, model, aims))
    torch.testing.assert_close(kept.mass, scaled.mean(1))
    torch.testing.assert_close(kept.full, torch.ones(8))
    assert (unit_range(torch.full((2, 3), 7.0)) == 1).all()


def test_a_matched_area_is_exact_even_with_ties():
    maps = torch.zeros(3, 30)
    maps[:, :2] = 1
    chosen = top_area(maps, 0.5)
    assert chosen.sum(1).tolist() == [15, 15, 15]
    assert (chosen[:, :2] == 1).all()


def test_the_right_map_beats_the_controls_at_the_same_area():
    x, aims, maps = problem()
    right = keep(x, model, aims, maps, area=5 / 30).kept
    torch.testing.assert_close(right, torch.ones(8), rtol=1e-4, atol=1e-4)
    for name, baseline in controls(maps).items():
        assert float(keep(x, model, aims, baseline, area=5 / 30).kept.mean()) < 0.9, name
    torch.testing.assert_close(controls(maps)["shuffled"].sort(1).values, maps.sort(1).values)
    torch.testing.assert_close(keep(x, model, aims, controls(maps)["ones"]).kept, torch.ones(8))


def test_deletion_and_insertion_follow_the_order_of_the_map():
    x, aims, maps = problem()
    gone, come = curve(x, model, aims, maps, steps=30), curve(x, model, aims, maps, steps=30, insert=True)
    torch.testing.assert_close(gone[:, 0], torch.ones(8))
    torch.testing.assert_close(come[:, -1], torch.ones(8))
    torch.testing.assert_close(come[:, 5:], torch.ones(8, 26), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gone[:, 5:], gone[:, 5:6].expand(-1, 26))
    order = maps.argsort(1, descending=True)
    for step in range(31):
        hidden = x.clone()
        for i in range(8):
            hidden[i, order[i, :step]] = 0
        torch.testing.assert_close(gone[:, step], scores(hidden, model, aims))


def test_randomisation_permutes_from_the_last_module_and_puts_back():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    seen = []
    for name, changed in randomised(net, seed=3):
        seen.append(name)
        assert not torch.equal(changed[2].weight, before["2.weight"])
        torch.testing.assert_close(changed[2].weight.flatten().sort().values, before["2.weight"].flatten().sort().values)
        assert torch.equal(changed[0].weight, before["0.weight"]) == (len(seen) == 1)
    assert seen == ["2", "0"]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for _ in randomised(net):
        break  # an early end puts them back too
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_sensitivity_is_the_papers_grid_and_runs_each_setting_once():
    calls = []

    def run(layer, settings):
        calls.append((layer, settings))
        return {"drop": float(layer) + settings.beta}

    table = sensitivity(run, layer=6)
    assert len(table) == sum(len(v) for v in TABLE_6.values()) == 20
    assert len(calls) == len(set(calls)) == 20 - 4  # the paper's base setting stands in every group
    assert table[0] == {"parameter": "layer", "value": 0, "drop": pytest.approx(0.1)}
    assert table[7] == {"parameter": "beta", "value": 1.0, "drop": pytest.approx(7.0)}
    small = sensitivity(run, layer=1, settings=Bottleneck(), grid={"steps": (5,), "layer": ("patches",)[:0]})
    assert small == [{"parameter": "steps", "value": 5, "drop": pytest.approx(1.1)}]
    assert isinstance(calls[-1][1].steps, int)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x, a, m: keep(x, model, a, m[:, :3]), "same shape"),
        (lambda x, a, m: keep(x, model, a, m * np.nan), "NaN"),
        (lambda x, a, m: keep(x, model, a, m, area=0.0), "area"),
        (lambda x, a, m: keep(x, model, a[:3], m), "8 samples"),
        (lambda x, a, m: sensitivity(lambda layer, s: {}, layer=1, grid={"width": (1,)}), "width"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(DataError, match=words):
        call(*problem())
