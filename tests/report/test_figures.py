"""Figures of a run as files and by name; what is cited; and a page of a run that misses arrays."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from brainlens import choices, report, store
from brainlens.attribution import channels
from brainlens.cli import app
from brainlens.report import cite, numbers, wording
from brainlens.types import DataError, Result, Volume

BEGINS = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}


@pytest.fixture
def similarity() -> Result:

    table = pd.DataFrame({"layer": ["a", "b"], "score": [0.1, 0.3], "low": [0.0, 0.2], "high": [0.2, 0.4]})
    return Result("rsa", {"rsa/best_layer": 0.3}, tables={"profile": table}, config={"method": "spearman"})


@pytest.mark.parametrize("kind", BEGINS)
def test_every_figure_becomes_a_file(tmp_path: Path, similarity: Result, kind: str) -> None:
    store.save_result(similarity, tmp_path / "runs" / "rsa-1")
    done = CliRunner().invoke(app, ["figures", str(tmp_path / "runs"), "--format", kind, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    file = tmp_path / "out" / "rsa-1" / f"rsa_profile.{kind}"
    assert str(file) in done.output.replace("\n", "")
    assert file.read_bytes().startswith(BEGINS[kind])


def test_a_figure_is_written_as_the_same_bytes_twice(tmp_path: Path, similarity: Result) -> None:
    store.save_result(similarity, tmp_path / "runs" / "rsa-1")
    first, _ = report.save_figures(tmp_path / "runs", tmp_path / "a", kind="svg")
    second, _ = report.save_figures(tmp_path / "runs", tmp_path / "b", kind="svg")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_bad_formats_folders_and_templates_are_one_line(tmp_path: Path, similarity: Result) -> None:
    store.save_result(similarity, tmp_path / "rsa-1")
    with pytest.raises(DataError, match="'gif' is not one of pdf, svg, png"):
        report.save_figures(tmp_path, tmp_path / "out", kind="gif")
    with pytest.raises(DataError, match="not a folder"):
        report.save_figures(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(DataError, match="'talairach' is not known; give MNI152"):
        report.build(tmp_path, tmp_path / "page.html", template="talairach")


def test_names_are_those_of_the_functions_and_each_draws(made: ModuleType) -> None:
    found = report.makers(made.align())
    assert {
        "topk_bars_top1",
        "topk_bars_top5",
        "rank_curve",
        "embedding_map",
        "similarity_matrices",
        "training",
        "gallery",
    } <= set(found)
    plots = report.Plots(made.align())
    assert isinstance(plots.rank_curve(), Figure)
    assert "rank_curve" in dir(plots)
    with pytest.raises(DataError, match=r"no figure .rank. of this result; there are gallery"):
        _ = plots.rank


def test_a_run_that_misses_an_array_still_has_a_page() -> None:
    tables = {"nouns": pd.DataFrame({"noun": ["cat"]}), "histogram": pd.DataFrame()}
    broken = Result("describe", {"describe/significant_share": 0.2}, {"label": np.zeros((4, 4), dtype=int)}, tables=tables)
    text = report.render([("describe-1", broken)])
    assert "20.0 %" in text
    assert "Not drawn: what is drawn of words needs the array &#39;significant&#39;." in text


def haxby() -> Result:
    config = {"method": "ridge_onehot", "dataset": "haxby2001", "seed": 0}
    affine = np.diag([-3.1, 3.75, 3.75, 1.0])
    return Result("encode", {"encoding/r2_mean": 0.02}, config=config, space=Volume(np.ones((4, 3, 1), dtype=bool), affine))


def test_what_is_cited_is_what_ran() -> None:
    said = " ".join(cite.citations([haxby()]))
    assert "Naselaris" in said
    assert "Haxby" in said
    for absent in ("FactorTopy", "fsaverage", "MNI152"):
        assert absent not in said
    said = " ".join(cite.citations([Result("encode", {}, config={"method": "factortopy"})]))
    assert "FactorTopy" in said
    patterns = Result("encode", {}, config={"method": "ridge_patterns"})
    listed = cite.citations([patterns, haxby()])
    assert len([line for line in listed if "Naselaris" in line]) == 1
    assert [line for line in listed if "Kriegeskorte" in line and "Naselaris" not in line]
    assert "categories" in wording.title(haxby())
    assert "network" not in wording.sentence(haxby())


def test_every_encoder_and_method_has_its_words_and_its_paper() -> None:
    """By the names that the command takes: a name that only the page knows describes nothing."""
    names = set(choices.ENCODERS) - {"sensors"}  # which is neuroalign by another name
    assert names <= set(wording.ENCODERS)
    assert set(wording.ENCODERS) - names == {"ideal"}
    plain = {*choices.VOLUME_CONTROLS, "ridge", "ridge_whitened", "linear", "mlp", "cnn", "canonical"}
    assert set(cite.METHODS["align"]) == names - plain
    assert set(choices.ENCODE_METHODS) <= set(cite.METHODS["encode"])
    assert set(choices.ATTRIBUTE_METHODS) - {"random"} <= set(cite.METHODS["attribute"])
    assert {*channels.METHODS, "deeplift"} <= set(cite.METHODS["attribute"])


def test_scores_say_whose_they_are(made: ModuleType) -> None:
    result = made.align()
    config = result.config | {"main": "linear", "main_by": "validation images"}
    text = wording.sentence(Result("align", result.metrics, config=config))
    assert "key numbers are of linear, the best on validation images: one linear map" in text
    rows = {row.key: row.label for row in numbers.rows(result.metrics, headline="linear")}
    assert rows["retrieval/brain->image/top1"].endswith("(linear)")


def test_one_number_stands_once_and_counts_name_their_units() -> None:
    scores = {"truth/auroc": 0.9, "truth/auroc.low": 0.8, "truth/auroc.high": 0.95}
    named = {f"attribute/bottleneck/truth_{k.removeprefix('truth/')}": v for k, v in scores.items()}
    kept = numbers.once([row for row in numbers.rows(scores | named) if row.main])
    assert [row.key for row in kept] == ["attribute/bottleneck/truth_auroc"]
    (row,) = [r for r in numbers.rows({"encoding/r2_mean": 0.4, "encoding/units_scored": 516.0, "encoding/units": 3666.0})
              if r.key.endswith("mean")]  # fmt: skip
    assert row.n == "516 of 3,666 units"
    assert numbers.losses({"encoding/ceiling_undefined": 1.0}) == [numbers.NO_CEILING]
    ways = {f"retrieval/{way}/top5{end}": v for way in ("brain->image", "image->brain")
            for end, v in (("", 0.5), (".low", 0.4), (".high", 0.6))}  # fmt: skip
    assert len(numbers.once(numbers.rows(ways))) == 2  # alike by chance, not one number
    found = numbers.rows({"attribution/mass": 0.05, "attribution/image/deletion_auc": 0.1})
    assert [row.key for row in numbers.first(found, 8)] == ["attribution/image/deletion_auc"]
    (row,) = numbers.rows({"encoding/r2_weighted": 0.05, "encoding/r2_weighted.chance": -0.00057})
    assert row.chance == "≈ 0"


def test_regions_of_other_names_have_no_hierarchy_and_nothing_is_listed_that_fails() -> None:
    layer = np.linspace(0, 1, 24)
    config = {"method": "ridge", "layers": ["a", "b"], "hierarchy": ["V1", "V2V3", "OPA", "EBA"]}
    for names, listed in ((["V1", "LOC"], False), (["V1", "EBA"], True), (["V1", "V2"], True)):
        units = pd.DataFrame({"roi": np.repeat(names, 12)})
        result = Result("encode", {}, {"layer": layer, "r2": layer}, units, {}, config)
        assert ("hierarchy" in list(result.plot)) == listed, names
        for name in result.plot:
            assert isinstance(getattr(result.plot, name)(), Figure)


def test_categories_of_regions_are_bars_in_their_order() -> None:
    table = pd.DataFrame(
        {"roi": "", "rank": [1, 2, 3], "label": ["house", "", "<b>"], "score": [0.5, 0.1, -0.6], "ceiling": 0.8, "voxels": 530}
    )
    result = Result("describe", {"describe/words/ceiling_mean": 0.8}, tables={"words": table}, config={"method": "words"})
    (ax,) = result.plot.category_ranking().axes
    assert [bar.get_width() for bar in ax.patches] == [-0.6, 0.1, 0.5]
    assert ax.get_title(loc="left") + ax.get_title() == "all voxels, n = 530, order repeats at 0.80"
    text = report.render([("describe-1", result)])
    assert "which categories does each region respond to?" in text
    assert "Encoding and layer maps" not in text
    assert "how well the order of categories repeats" in text


def test_what_is_deleted_is_named_and_one_step_is_no_training() -> None:
    arrays = {"deletion/rise": np.linspace(1, 0, 11), "insertion/rise": np.linspace(0, 1, 11)}
    log = pd.DataFrame({"step": [0], "loss": [np.nan], "validation_text": [0.06]})
    result = Result("attribute", {}, arrays, tables={"log": log}, config={"of": "words", "method": "rise"})
    figure = result.plot.degradation_deletion()
    assert figure.axes[0].get_xlabel() == "share of words deleted, most important first"
    assert list(result.plot) == ["degradation_deletion", "degradation_insertion"]
    text = report.render([("attribute-1", result)])
    assert "which words carried the match?" in text
    assert "Attribution on the brain" not in text
    assert "Training" not in text


def test_scores_of_pictures_say_which_pictures() -> None:
    names = ("first", "best", "retrieval", "evidence_retrieval", "low_level", "shuffled")
    found = numbers.rows({"reconstruct/two_way_clip": 0.7} | {f"reconstruct/{name}/two_way_clip": 0.6 for name in names})
    assert len({row.label for row in found}) == 7
    assert found[3].label == "nearest training picture: two-way identification"
    assert numbers.label("reconstruct/mindeye/first/two_way_alexnet2") == (
        "MindEye's protocol, first candidate: AlexNet(2), two-way"
    )
    difference = "reconstruct/difference/retrieval_baseline/two_way_clip"
    assert numbers.label(difference) == "chosen minus nearest training picture: difference of two-way identification"
    (row,) = numbers.rows({difference: 0.05, f"{difference}.low": 0.01, f"{difference}.high": 0.09, f"{difference}.p": 0.01})
    assert row.value == "+5.0 points"
    assert numbers.label("retrieval/brain->image/top1") == "brain → image: top-1"


def test_an_onset_that_there_is_not_is_none_and_not_missing_data() -> None:
    (row,) = numbers.rows({"decode/onset": float("nan")})
    assert row.value == "none"
    assert wording.warnings(Result("decode", {"decode/onset": float("nan")})) == []
    assert "1 undefined" in wording.warnings(Result("encode", {"encoding/r_mean": float("nan")}))[0]


def test_cards_of_two_runs_say_what_tells_them_apart() -> None:
    runs = [
        (f"encode-{k}", Result("encode", {"encoding/r2_mean": 0.1}, config={"method": m}))
        for k, m in enumerate(("ridge", "gnet"))
    ]
    text = report.render(runs)
    assert "encode-0 · ridge" in text
    assert "encode-1 · GNet" in text
    key = "align/a-b/retrieval/brain->image/top5"
    assert numbers.interval(key, {key: 0.1, f"{key}.low": -0.3, f"{key}.high": 0.2}) == "[−30.0, +20.0] points"


def test_counts_of_units_say_of_how_many() -> None:
    scores = {"encoding/units_significant": 4.0, "encoding/r2_max": 0.5, "encoding/units": 20.0, "encoding/units_scored": 12.0}
    counted = {row.key.rpartition("/")[2]: row.n for row in numbers.rows(scores)}
    assert counted["units_significant"] == counted["r2_max"] == "20 units"


def test_a_time_course_says_of_how_many_trials_and_subjects(made_verbs: ModuleType) -> None:
    assert made_verbs.decode().plot.over_time().get_suptitle() == "Decoding over time, n = 240 trials of 3 subjects"


def test_a_template_is_cited_only_where_a_map_is_drawn_on_it() -> None:
    mask = np.zeros((46, 55, 46), dtype=bool)
    mask[20, 20:24, 20] = True
    there = {"space": Volume(mask, np.diag([4.0, 4.0, 4.0, 1.0])), "config": {"template": "MNI152", "encoders": ["ridge"]}}
    retrieval = Result("align", {}, {"ranks/brain->image": np.arange(7)}, **there)
    assert not {cite.SURFACE, cite.TEMPLATE} & set(cite.citations([retrieval]))
    drawn = Result("encode", {}, {"r2": np.zeros(4)}, **there)
    assert {cite.SURFACE, cite.TEMPLATE} <= set(cite.citations([retrieval, drawn]))


def test_the_legend_of_a_histogram_lies_over_no_bar_and_what_is_cut_off_is_said() -> None:
    result = Result("encode", {}, {"r2": np.r_[np.random.default_rng(0).normal(0, 0.1, 500), -40.0]})
    figure = result.plot.score_histogram()
    figure.canvas.draw()
    (legend,), (ax,) = figure.legends, figure.axes
    assert not legend.get_window_extent().overlaps(ax.get_window_extent())
    assert ax.get_xlim()[0] > -1
    assert "below the 1st percentile are counted at it" in report.render([("one", result)])
