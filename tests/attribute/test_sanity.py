"""Groups of subjects, the sensitivity table, and maps of an encoder whose weights are permuted."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from brainlens.attribute import group
from brainlens.attribute.brain import attribute, brain_maps, cost
from brainlens.attribute.counting import blocks_run, layer_name
from brainlens.attribute.methods import all_methods
from brainlens.attribute.sanity import _rank_correlation, grid, randomisation, sensitivity_table
from brainlens.attribution import degradation
from brainlens.attribution.bottleneck import Bottleneck
from brainlens.metrics.attribution import sign_flip_p
from brainlens.plots.attribution import sensitivity_maps
from brainlens.types import DataError, Result, Volume

SPEC = importlib.util.spec_from_file_location("toy_brain", Path(__file__).parent / "test_brain.py")  # folders are no packages
assert SPEC is not None
assert SPEC.loader is not None
toy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toy)
FAST, model_and_targets = toy.FAST, toy.model_and_targets


def subject(seed, level=1.0):
    encoder, responses, images, texts = model_and_targets()
    noise = np.random.default_rng(seed).standard_normal(responses.data.shape).astype(np.float32)
    return attribute(
        encoder, replace(responses, data=level * (responses.data + noise)), images, texts, method="gradcam", options=FAST
    )


def test_a_group_map_is_the_mean_of_scaled_maps_and_finds_the_truth():
    results = [subject(k, level=1 + k) for k in range(9)]
    found = group(results, flips=2000)
    maps = np.stack([r.arrays["map/brain_mean"] / r.arrays["map/brain_mean"].mean() for r in results])
    np.testing.assert_allclose(found.arrays["map/brain_mean"], maps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.arrays["map/p"], sign_flip_p(maps - 1, flips=2000), rtol=1e-6)
    right = found.units["informative"].to_numpy(dtype=bool)
    assert found.metrics["truth/auroc"] > 0.9
    assert (found.arrays["map/q"][right] <= 0.05).mean() > (found.arrays["map/q"][~right] <= 0.05).mean()
    assert set(found.tables["regions"]["run"]) == set("012345678")
    assert "map/p" not in group(results[:3]).arrays


@pytest.mark.parametrize("what, words", [("one", "at least 2"), ("task", "without a brain map"), ("mask", "other voxels")])
def test_what_makes_no_group_is_named(what, words):
    first = subject(0)
    results = {"one": [first], "task": [first, Result("align", {})]}
    if what == "mask":
        other = first.space.mask.copy()
        other[0, 0, 0], other[5, 5, 5] = True, False
        results["mask"] = [first, replace(first, space=Volume(other, first.space.affine))]
    with pytest.raises(DataError, match=words):
        group(results[what])


def test_the_grid_stands_at_the_papers_shares_of_the_depth():
    assert grid(12, 6)["layer"] == ("0", "3", "6", "9")
    assert grid(2, "patches")["layer"] == ("patches", "0", "1")


def test_the_sensitivity_table_holds_the_map_of_its_own_settings():
    encoder, responses, images, texts = model_and_targets()
    options = replace(FAST, bottleneck=Bottleneck(steps=5, copies=2))
    result = sensitivity_table(encoder, responses, images, texts, options=options)
    rows = result.tables["sensitivity"]
    assert set(rows["parameter"]) == {"layer", "beta", "variance", "lr", "steps"}
    base = attribute(encoder, responses, images, texts, options=options)
    np.testing.assert_allclose(result.arrays["map/brain_mean"], base.arrays["map/brain_mean"], rtol=1e-5)
    own = rows[(rows["parameter"] == "beta") & (rows["value"] == "0.1")].iloc[0]
    assert own["image_drop"] == pytest.approx(base.metrics["attribution/image/soft/drop_absolute"])
    assert own["text_matched_drop"] == pytest.approx(base.metrics["attribution/text/matched/drop_absolute"])
    assert own["truth_auroc"] == pytest.approx(base.metrics["truth/auroc"])
    maps = result.arrays["sensitivity/maps"]
    np.testing.assert_allclose(maps[own["map"]], base.arrays["map/brain_mean"], rtol=1e-5)
    zero = rows[(rows["parameter"] == "layer") & (rows["value"] == "0")].iloc[0]  # the paper's layer 0: one block has run
    after = attribute(encoder, responses, images, texts, layer=1, options=options)
    np.testing.assert_allclose(maps[zero["map"]], after.arrays["map/brain_mean"], rtol=1e-5)
    assert sensitivity_maps(result).axes


def test_the_noise_of_the_table_is_the_papers(monkeypatch):
    one = {name: values[:1] for name, values in degradation.TABLE_6.items()}
    monkeypatch.setattr(degradation, "TABLE_6", one | {"steps": (5,)})
    result = sensitivity_table(*model_and_targets())
    assert result.config["bottleneck"]["variance"] == 0.1


def test_layers_are_counted_as_in_the_paper():
    assert [blocks_run(name, 12) for name in ("0", "6", "11", "input", "patches", None)] == [1, 7, 12, 0, "patches", None]
    assert [layer_name(cut) for cut in (1, 7, 12, 0, "patches")] == ["0", "6", "11", "input", "patches"]
    for wrong in ("12", "-1", "middle"):
        with pytest.raises(DataError, match="layer k is the output of block k, and this encoder has the blocks 0 to 11"):
            blocks_run(wrong, 12)


def test_all_methods_stand_in_one_table():
    encoder, responses, images, texts = model_and_targets()
    result = all_methods(encoder, responses, images, texts, methods=("bottleneck", "gradcam", "random"), options=FAST)
    table = result.tables["methods"].set_index("method")
    assert list(table.index) == ["bottleneck", "gradcam", "random", "control: random", "control: ones", "control: shuffled"]
    for name in ("bottleneck", "gradcam"):
        alone = attribute(encoder, responses, images, texts, method=name, options=FAST)
        assert table.loc[name, "image_drop"] == pytest.approx(alone.metrics["attribution/image/soft/drop_absolute"])
        assert table.loc[name, "text_matched_drop"] == pytest.approx(alone.metrics["attribution/text/matched/drop_absolute"])
        assert table.loc[name, "truth_auroc"] == pytest.approx(alone.metrics["truth/auroc"])
        np.testing.assert_allclose(result.arrays[f"map/{name}_mean"], alone.arrays["map/brain_mean"])
    assert table.loc["control: ones", "image_drop"] == pytest.approx(0, abs=1e-4)  # all is kept, which is why the area matters
    assert table["image_matched_drop"].notna().all()


def test_permuted_weights_destroy_a_map_and_are_put_back():
    encoder, responses, images, _ = model_and_targets()
    right = responses.units["informative"].to_numpy(dtype=bool)
    x, aims = torch.from_numpy(responses.data), torch.from_numpy(images["image"])[:, None]
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    rows = randomisation(encoder, x, aims, method="gradcam", layer="patches", options=FAST, right=right)
    assert rows["module"].iloc[0] == "none"
    assert rows["correlation"].iloc[0] == pytest.approx(1)
    assert rows["truth_auroc"].iloc[0] > 0.9
    assert abs(rows["truth_auroc"].iloc[-1] - 0.5) < 0.2
    assert rows["correlation"].iloc[-1] < 0.5
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_zeros_that_two_maps_share_are_no_agreement():
    rng = np.random.default_rng(0)
    a, b = np.zeros((2, 1000))
    a[:40], b[:40] = rng.permutation(40) + 1.0, rng.permutation(40) + 1.0
    assert _rank_correlation(a, a) == pytest.approx(1)
    assert abs(_rank_correlation(a, b)) < 0.5 < spearmanr(a, b).statistic
    assert np.isnan(_rank_correlation(np.zeros(5), np.zeros(5)))


@pytest.mark.parametrize("kind, method", [("sum", "gradcam"), ("learned", "gradcam"), ("learned", "chefer")])
def test_noisy_copies_change_a_map_and_copies_without_noise_do_not(kind, method):
    encoder, responses, images, _ = model_and_targets(kind)
    x, aims = torch.from_numpy(responses.data), torch.from_numpy(images["image"])[:, None]
    encoder.eval()
    many = replace(FAST, draws=6)
    one, mean = (brain_maps(encoder, x, aims, method=method, layer="patches", options=o) for o in (FAST, many))
    still = brain_maps(encoder, x, aims, method=method, layer="patches", options=replace(many, noise=0.0))
    size = float(one.max())  # 5e-5 to 3e-2 over seeds 0 to 9, and of it the noise changes 2 to 73 %, its absence 2e-7
    assert size > 1e-6
    assert float((still - one).abs().max()) < 1e-5 * size
    assert float((mean - one).abs().max()) > 5e-3 * size


def test_noisy_copies_bring_gradients_to_the_cost_of_the_bottleneck():
    settings = replace(FAST, bottleneck=Bottleneck())
    assert cost("bottleneck", settings)["attribution/forward_passes"] == 19 * 10 + 1 + 1
    assert cost("bottleneck", settings)["attribution/backward_passes"] == 19 * 10 + 1
    assert cost("gradcam", replace(settings, draws=190))["attribution/backward_passes"] == 191
    assert cost("rise", settings) == {"attribution/forward_passes": 60.0, "attribution/backward_passes": 0.0}


def test_rise_by_regions_hides_whole_regions():
    encoder, responses, images, _ = model_and_targets()
    options = replace(FAST, rise_by="regions", masks=200)
    found = attribute(encoder, responses, images, method="rise", options=options)
    roi = responses.units["roi"].to_numpy()
    for name in np.unique(roi):
        assert np.ptp(found.arrays["map/brain"][:, roi == name], axis=1).max() < 1e-5
    assert found.metrics["truth/auroc"] == 1
    with pytest.raises(DataError, match="column roi"):
        attribute(encoder, replace(responses, units=responses.units.drop(columns="roi")), images, method="rise", options=options)
