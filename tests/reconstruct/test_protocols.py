"""Published scores of a run, exchanged pictures, differences and the repeat noise ceiling, each against plain sums."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlens import miniatures, report, store
from brainlens.backbones.diffusion import load_diffusion
from brainlens.backbones.picture_features import network_features
from brainlens.datasets.source import Opened, Source, open_recording
from brainlens.metrics.picture_protocols import score_pictures
from brainlens.metrics.reconstruction import pixel_correlation, ssim, two_way
from brainlens.metrics.statistics import paired_bootstrap
from brainlens.reconstruct import protocols
from brainlens.reconstruct.asked import LATER, Asked, networks
from brainlens.reconstruct.run import reconstruct_opened, run_reconstruct
from brainlens.reconstruct.scoring import Scorer, differences, exchanges
from brainlens.types import DataError

SMALL = Source(n_train=40, n_test=6)
CLIP = str(miniatures.folder("clip"))
QUICK = {"start": "random", "steps": 3, "candidates": 2, "sampling_steps": 2, "regions": 20, "explain": 0, "chooser": "ridge",
         "changes": {"training": {"batch": 8, "draws": 8}}}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(made_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_pipeline.build_pipeline(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def recording() -> Opened:
    return open_recording(SMALL, layers=True)


def drawn(recording: Opened, asked: Asked, runs: Path) -> tuple[Path, list[str]]:
    """The folder of a run, and what it said on the way."""
    said: list[str] = []
    tell = lambda text, share=None: said.append(text)  # noqa: E731
    return reconstruct_opened(recording, SMALL, runs, asked, diffusion=load_diffusion(asked.place), tell=tell), said


@pytest.fixture(scope="module")
def plain(recording: Opened, pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without published scores."""
    asked = Asked(pipeline=str(pipeline), repeat_ceiling=True, **QUICK)
    return drawn(recording, asked, tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture(scope="module")
def scored(plain: Path, recording: Opened, pipeline: Path) -> tuple[Path, list[str]]:
    """The same with the scores of NeuroAdapter's protocol, and what was said."""
    places = networks([f"inception={CLIP}", f"swav={CLIP}"])
    asked = Asked(pipeline=str(pipeline), repeat_ceiling=True, protocol="neuroadapter", features=places, **QUICK)
    with pytest.warns(UserWarning, match="no scores by alexnet, clip, efficientnet, which are not given"):
        return drawn(recording, asked, plain.parent)


def test_pictures_that_were_drawn_before_are_scored_alone(plain: Path, scored: tuple[Path, list[str]]) -> None:
    """The run of the protocol has a name of its own, the first run's pictures, models and scores, and the table beside them."""
    folder, said = scored
    assert said == ["parcels", "pictures that were drawn before", "scores of neuroadapter"]
    assert folder != plain
    first, second = store.load_result(plain), store.load_result(folder)
    assert first.metrics.items() <= second.metrics.items()
    assert set(first.arrays) < set(second.arrays)
    np.testing.assert_array_equal(first.arrays["pictures/candidates"], second.arrays["pictures/candidates"])
    for name in ("model", "chooser"):
        assert sorted(p.name for p in (plain / name).iterdir()) == sorted(p.name for p in (folder / name).iterdir())
    assert "protocol" not in first.config
    assert second.config["features"] == {"inception": CLIP, "swav": CLIP}


def test_a_run_from_the_start_has_the_same_scores_and_the_same_name(
    scored: tuple[Path, list[str]], recording: Opened, pipeline: Path, tmp_path: Path
) -> None:
    known = store.load_result(scored[0])
    places = networks([f"swav={CLIP}", f"inception={CLIP}"])
    asked = Asked(pipeline=str(pipeline), repeat_ceiling=True, protocol="neuroadapter", features=places, **QUICK)
    with pytest.warns(UserWarning, match="no scores by"):
        folder, said = drawn(recording, asked, tmp_path)
    assert "training the adapter" in said
    assert folder.name == scored[0].name
    found = store.load_result(folder)
    assert found.metrics == pytest.approx(known.metrics, rel=1e-9)
    assert set(found.arrays) == set(known.arrays)
    asked = replace(asked, protocol="brain-diffuser", features=())  # another one takes its place
    with pytest.warns(UserWarning, match="protocol brain-diffuser: no scores by alexnet, inception, clip"):
        folder, said = drawn(recording, asked, tmp_path)
    assert "training the adapter" not in said
    other = store.load_result(folder)
    assert "reconstruct/brain_diffuser/ssim" in other.metrics
    assert not any("neuroadapter" in name for name in (*other.metrics, *other.arrays, *other.tables))


def test_every_row_is_scored_as_its_own_set_of_pictures(scored: tuple[Path, list[str]]) -> None:
    result = store.load_result(scored[0])
    seen, candidates, chosen = (np.asarray(result.arrays[k]) for k in ("pictures/seen", "pictures/candidates", "chosen"))
    embed = network_features(CLIP)
    features = {"inception": embed, "swav": embed}
    sets = {"chosen": candidates[np.arange(6), chosen], "first": candidates[:, 0], "second": candidates[:, 1]}
    sets["retrieval"] = np.asarray(result.arrays["pictures/retrieval"])
    each = {row: score_pictures(seen, one, "neuroadapter", features=features) for row, one in sets.items()}
    names = ["pixcorr", "ssim", "two_way_inception", "distance_swav"]
    assert list(each["first"].values) == names
    for name in names:
        both = np.stack([each[row].values[name] for row in ("first", "second")])
        best = both.min(axis=0) if name == "distance_swav" else both.max(axis=0)
        expected = {row: one.values[name] for row, one in each.items() if row != "second"}
        for row, values in (expected | {"mean": both.mean(axis=0), "best": best}).items():
            np.testing.assert_allclose(result.arrays[f"each/neuroadapter/{row}/{name}"], values, atol=1e-6)
            key = "reconstruct/neuroadapter" if row == "chosen" else f"reconstruct/neuroadapter/{row}"
            assert result.metrics[f"{key}/{name}"] == pytest.approx(values.mean(), abs=1e-6)
            assert result.metrics[f"{key}/{name}.low"] <= result.metrics[f"{key}/{name}"] <= result.metrics[f"{key}/{name}.high"]
        assert result.metrics[f"reconstruct/neuroadapter/{name}.chance"] == pytest.approx(each["chosen"].chance[name], abs=1e-6)


def test_the_page_holds_the_table_and_names_what_was_read(scored: tuple[Path, list[str]]) -> None:
    result = store.load_result(scored[0])
    table = result.tables["protocol neuroadapter"].set_index("pictures")
    assert {"chosen", "first", "mean", "best", "retrieval", "repeat ceiling", "chance"} <= set(table.index)
    assert table.loc["chance", "two_way_inception"] == 0.5
    assert table.loc["chosen", "n"] == 6
    read = result.tables["networks of neuroadapter"].set_index("score")["read here"].fillna("")
    assert read["two_way_inception"] == CLIP
    assert (read["pixcorr"], read["two_way_alexnet2"]) == ("pixels", "")
    text = report.render([("reconstruct-1", result)])
    assert "protocol neuroadapter" in text
    assert "Inception, two-way" in text
    assert text.count("no scores by alexnet, clip, efficientnet") == 1
    assert "chosen minus nearest training picture: difference of two-way identification" in text


def test_a_call_without_the_new_options_is_the_call_that_it_was(pipeline: Path) -> None:
    """Finished runs of users are found: what they are named by holds what it held, and no more."""
    asked = Asked(pipeline=str(pipeline), **QUICK)
    assert asked.settings() == {name: value for name, value in asdict(asked).items() if name not in LATER}
    assert set(replace(asked, protocol="mindeye").settings()) - set(asked.settings()) == {"protocol"}
    assert replace(asked, protocol="mindeye", features=networks(["clip=x"])).drawn == asked


def test_exchanged_pictures_are_scored_as_a_plain_loop_scores_them() -> None:
    rng = np.random.default_rng(0)
    seen, made = (rng.integers(0, 256, (7, 12, 12, 3), dtype=np.uint8) for _ in range(2))
    embed = lambda p: p.reshape(len(p), -1).astype(np.float64)  # noqa: E731
    orders = exchanges(7, 1)
    found = Scorer.of(seen, embed).shuffled(made, orders)
    right = np.zeros((len(orders), 7))
    for k, order in enumerate(orders):
        for i in range(7):
            y = made[order[i]].ravel()
            like = [np.corrcoef(x.ravel(), y)[0, 1] for x in seen]
            right[k, i] = np.mean([like[i] > like[j] for j in range(7) if j != i])
    np.testing.assert_allclose(found["two_way_clip"], right.mean(axis=0))
    assert right.std(axis=0).max() > 0
    np.testing.assert_allclose(found["pixcorr"], pixel_correlation(seen, made[orders[0]]), atol=1e-6)


def test_a_run_holds_the_control_and_the_paired_differences(plain: Path) -> None:
    result = store.load_result(plain)
    for name in ("two_way_clip", "pixcorr", "ssim"):
        a, b = (np.asarray(result.arrays[f"each/{row}/{name}"], np.float64) for row in ("chosen", "retrieval"))
        key = f"reconstruct/difference/retrieval_baseline/{name}"
        found = [result.metrics[key + end] for end in ("", ".low", ".high", ".p")]
        assert found == pytest.approx(paired_bootstrap(a, b), abs=1e-9)
        assert found[0] == pytest.approx((a - b).mean())
    line = result.scores().set_index("metric").loc["reconstruct/difference/retrieval_baseline/two_way_clip"]
    assert (line["chance"], line["n"], line["unit"]) == (0, 6, "difference of share")
    assert not result.tables["comparison"]["pictures"].str.contains("difference").any()
    assert result.metrics["reconstruct/shuffled/two_way_clip"] == pytest.approx(
        result.arrays["each/shuffled/two_way_clip"].mean()
    )
    same = {"score": np.array([0.1, 0.2, 0.3])}
    assert differences(same, same)["reconstruct/difference/retrieval_baseline/score.p"] == 1


def test_the_repeat_ceiling_is_of_pictures_of_single_repetitions(plain: Path, recording: Opened) -> None:
    """Pairs written out; the first repetition alone, drawn by the kept model, gives the kept pictures."""
    result = store.load_result(plain)
    pictures, rows = np.asarray(result.arrays["pictures/repeat_ceiling"]), np.asarray(result.arrays["rows/repeat_ceiling"])
    trials = recording.responses.where(split="test").trials["stimulus"].value_counts()
    assert len(pictures) == trials.min() > 1
    assert rows.tolist() == list(range(6))
    embed = network_features(CLIP)
    e = [embed(one.astype(np.float32) / 255) for one in pictures]
    pairs = range(len(pictures))
    expected = np.mean([two_way(e[a], e[b]) for a, b in permutations(pairs, 2)], axis=0)
    np.testing.assert_allclose(result.arrays["each/repeat_ceiling/two_way_clip"], expected, atol=1e-6)
    r = np.mean([pixel_correlation(pictures[a], pictures[b]) for a, b in combinations(pairs, 2)], axis=0)
    np.testing.assert_allclose(result.arrays["each/repeat_ceiling/pixcorr"], np.sqrt(r.clip(0)), atol=1e-5)
    alike = np.mean([ssim(pictures[a], pictures[b]) for a, b in combinations(pairs, 2)], axis=0)
    np.testing.assert_allclose(result.arrays["each/repeat_ceiling/ssim"], alike)
    from brainlens.models.generation.neuro_adapter import NeuroAdapter

    single = recording.responses.columns(result.arrays["columns"]).zscore().where(split="test")
    at = [np.flatnonzero(single.trials["stimulus"] == name)[1] for name in result.arrays["ids"]]
    again = NeuroAdapter.load(plain / "model").reconstruct(single.data[at], 1, guidance=4.0, steps=2, seed=1)
    np.testing.assert_array_equal(again[:, 0], pictures[1])


def test_pictures_of_one_value_are_left_out_and_counted(plain: Path) -> None:
    result = store.load_result(plain)
    candidates = np.asarray(result.arrays["pictures/candidates"]).copy()
    candidates[2, 1] = 9
    changed = replace(result, arrays={**result.arrays, "pictures/candidates": candidates})
    asked = Asked(protocol="mindeye", features=(("clip", CLIP),))
    with pytest.warns(UserWarning, match="no scores by"):
        found = protocols.with_protocol(changed, asked, tell=lambda text, share=None: None)
    assert found.metrics["reconstruct/mindeye/left_out"] == 1
    assert found.metrics["reconstruct/mindeye/n"] == found.metrics["reconstruct/mindeye/best/n"] == 5
    candidates[:5, 0] = 9
    with pytest.raises(DataError, match="1 of 6 images vary, 2 are needed"):
        protocols.with_protocol(changed, asked, tell=lambda text, share=None: None)


def test_networks_of_a_protocol_are_refused_in_one_line(tmp_path: Path, pipeline: Path) -> None:
    for texts, match in (
        (["clip"], "'clip' are not NAME=FOLDER"),
        (["vgg=x"], "'vgg' is not one of alexnet, clip"),
        (["clip=x", "clip=y"], "'clip' is given twice"),
    ):
        with pytest.raises(DataError, match=match):
            networks(texts)
    with pytest.raises(DataError, match="protocol 'mindeye2' is not one of mindeye"):
        Asked(protocol="mindeye2")
    (tmp_path / "empty").mkdir()
    asked = Asked(pipeline=str(pipeline), protocol="mindeye", features=(("swav", str(tmp_path / "empty")),))
    with pytest.raises(DataError, match=r"has no config\.json"):  # before anything is simulated
        run_reconstruct(SMALL, tmp_path, asked, tell=lambda text, share=None: None)
    with pytest.raises(DataError, match="repeats of phantom_eeg are averaged"):
        run_reconstruct(Source("phantom_eeg"), tmp_path, Asked(repeat_ceiling=True), tell=lambda text, share=None: None)


def test_a_recording_without_repeats_has_no_repeat_ceiling(recording: Opened, pipeline: Path, tmp_path: Path) -> None:
    trials = recording.responses.trials
    once = (trials["split"] == "train") | ~trials.duplicated("stimulus")
    few = replace(recording, responses=recording.responses.rows(np.flatnonzero(once)))
    with pytest.raises(DataError, match="0 of 6 test images have single trials of several repetitions"):
        drawn(few, Asked(pipeline=str(pipeline), repeat_ceiling=True, **QUICK), tmp_path)


@pytest.mark.realdata
def test_networks_of_real_photographs_stand_in(plain: Path, test_data: Path) -> None:
    places = {"clip": "dinov2_vits14_11blocks", "inception": "mobilenet_v2_1.0_224", "efficientnet": "mobilenet_v2_1.0_224"}
    asked = Asked(protocol="brain-diffuser", features=networks([f"{name}={test_data / place}" for name, place in places.items()]))
    with pytest.warns(UserWarning, match="no scores by alexnet, swav,"):
        found = protocols.with_protocol(store.load_result(plain), asked, tell=lambda text, share=None: None)
    table = found.tables["protocol brain-diffuser"]
    scores = [name for name in table.columns if name.startswith(("two_way", "distance")) and "." not in name]
    assert scores == ["two_way_inception", "two_way_clip", "distance_efficientnet"]
    assert isinstance(table, pd.DataFrame)
    assert table[scores].notna().all(axis=None)
