"""Whole runs on a very small phantom: align, attribute, encode, report, each stored and read back."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from brainlens import report, store
from brainlens.align import Alignment
from brainlens.align import embed as align_embed
from brainlens.align import run as align_run
from brainlens.align.embed import embed_volume_run
from brainlens.align.run import run_align
from brainlens.attribute import run as attribute_run
from brainlens.attribute.brain import Options
from brainlens.attribute.run import Ask, run_attribute
from brainlens.attribution import degradation
from brainlens.attribution.bottleneck import Bottleneck
from brainlens.claims import demo, encode
from brainlens.claims.attribute import attribute_claims, paper_claims
from brainlens.claims.recipes import recipe_claims
from brainlens.datasets import runs, source
from brainlens.datasets.source import Source, open_recording
from brainlens.encode import EncodingDesign
from brainlens.encode import run as encode_run
from brainlens.encode.run import Asked, run_encode
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.split import split_tables
from brainlens.models.volume.stored import volume_aligner
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.types import DataError, Responses, Result, Volume

SMALL = Source(n_train=120, n_test=30)
ENCODERS = ["ridge", "linear", "volume"]


def quiet(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def recording() -> source.Opened:
    return open_recording(SMALL)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory, recording) -> tuple[Path, list]:
    """The folder of an align run with few steps, and the rows that it showed."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align_run, "open_recording", lambda *arguments, **options: recording)
        return run_align(SMALL, folder, encoders=ENCODERS, training_steps=10, tell=quiet)


@pytest.fixture(scope="module")
def explained(aligned, recording) -> tuple[Path, list]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_run, "open_recording", lambda *arguments, **options: recording)
        return run_attribute(aligned[0], aligned[0].parent, ask=Ask(method="gradcam", trials=4), tell=quiet)


def test_the_recording_holds_what_a_verb_needs(recording):
    assert len(recording.stimuli) == 150
    assert recording.images is not None
    assert recording.texts is not None
    assert set(recording.images.ids) == set(recording.texts.ids) == set(recording.stimuli.ids)
    assert set(recording.responses.trials["stimulus"]) <= set(recording.stimuli.ids)
    assert recording.responses.trials.groupby("split")["stimulus"].nunique().to_dict() == {"train": 120, "test": 30}
    assert recording.truth is not None
    assert isinstance(recording.responses.space, Volume)


def test_align_is_stored_with_everything_attribute_needs(aligned, recording):
    folder, rows = aligned
    result = store.load_result(folder)
    assert result.task == "align"
    assert result.config["encoders"] == ENCODERS
    assert runs.source_of(result) == SMALL
    assert result.metrics["data/test_images"] == 30
    for name in ENCODERS:
        assert 0 <= result.metrics[f"align/{name}/retrieval/brain->image/top1"] <= 1
        assert result.metrics[f"align/{name}/retrieval/brain->image/chance1"] == pytest.approx(1 / 30)
    assert set(result.arrays) >= {"ids", "embedding/brain", "embedding/image", "centre/image", "centre/text"}
    assert set(result.arrays["ids"]) == set(recording.responses.where(split="test").trials["stimulus"])
    assert volume_aligner(folder).subjects_ == ["1"]
    shown = {row["metric"]: row["value"] for row in rows}
    assert shown["align/volume/retrieval/brain->image/top1"] == result.metrics["align/volume/retrieval/brain->image/top1"]
    assert not list((folder.parent / "unfinished").iterdir())


def test_attribution_is_a_map_in_the_space_of_the_brain(explained, aligned, recording):
    folder, rows = explained
    result, space = store.load_result(folder), recording.responses.space
    assert result.task == "attribute"
    assert result.config["run"] == aligned[0].name
    assert result.arrays["map/brain"].shape[0] == 4
    image = nib.load(folder / "map.nii.gz")
    np.testing.assert_allclose(image.affine, space.affine)
    values = np.asarray(image.dataobj)
    assert values.shape == space.mask.shape
    np.testing.assert_allclose(values[result.space.mask], result.arrays["map/brain_mean"], rtol=1e-6)
    assert not values[~result.space.mask].any()
    right = np.zeros(space.mask.shape, dtype=bool)
    right[space.mask] = recording.responses.units["informative"]
    area = roc_auc_score(right[space.mask], values[space.mask])
    assert area > 0.7  # seeds 0 to 3 of the recording give .79 to .82, a map of random patches .45 to .55
    assert {row["metric"]: row["value"] for row in rows}["truth/auroc"] == pytest.approx(area, abs=1e-6)
    assert result.metrics["attribution/maps_empty"] == 0


FAST = Options(masks=8, path=2, flips=50, bottleneck=Bottleneck(steps=2, copies=2))


@pytest.mark.parametrize("of, target, method", [("pixels", "brain", "bottleneck"), ("words", "both", "chefer")])
def test_the_reverse_mapping_of_a_run(aligned, recording, tmp_path, monkeypatch, of, target, method):
    monkeypatch.setattr(attribute_run, "open_recording", lambda *arguments, **options: recording)
    folder, rows = run_attribute(
        aligned[0], tmp_path, ask=Ask(of=of, target=target, method=method, trials=3), options=FAST, tell=quiet
    )
    result = store.load_result(folder)
    assert result.config["of"] == of
    assert result.config["target"] == (["brain"] if target == "brain" else ["brain", "image"])
    stimuli = recording.stimuli.take(result.arrays["ids"])
    if of == "pixels":
        assert result.arrays["map/pixels"].shape == (3, 64, 64)
        np.testing.assert_array_equal(result.arrays["pixels/images"], np.stack(list(stimuli.images)))
        assert result.arrays["truth/masks"].shape == (3, 64, 64)
    else:
        words = result.tables["words"]
        assert list(words["word"]) == " ".join(c[0] for c in stimuli.captions).split()
        assert (words["weight"] >= 0).all()
    assert 0 < result.metrics["truth/pointing_game.chance"] < 1
    for name in result.config["target"]:
        assert f"attribution/{name}/soft/drop_absolute" in result.metrics
        assert f"attribution/random/{name}/deletion_auc.low" in result.metrics
    assert result.arrays[f"deletion/{method}"].shape == (3, 11)
    assert "truth/pointing_game" in {row["metric"] for row in rows}


def test_pixels_and_words_stand_side_by_side(aligned, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(attribute_run, "open_recording", lambda *arguments, **options: recording)
    ask = Ask(of="stimuli", target="brain", method="gradcam", trials=2)
    folder, _ = run_attribute(aligned[0], tmp_path, ask=ask, options=FAST, tell=quiet)
    result = store.load_result(folder)
    assert len(result.arrays["map/pixels"]) == result.tables["words"]["stimulus"].nunique() == 2
    assert {"truth/pixels/pointing_game", "truth/words/pointing_game"} <= set(result.metrics)
    assert {"attribution/pixels/brain/deletion_auc", "attribution/words/brain/deletion_auc"} <= set(result.metrics)
    assert "side by side" in report.build(folder, tmp_path / "report.html").read_text()


def test_the_sensitivity_of_a_run_is_one_command(aligned, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(attribute_run, "open_recording", lambda *arguments, **options: recording)
    short = {"layer": (0,), "beta": (0.1, 1.0), "variance": (1.0,), "lr": (1.0,), "steps": (2,)}
    monkeypatch.setattr(degradation, "TABLE_6", short)
    folder, _ = run_attribute(aligned[0], tmp_path, ask=Ask(trials=2, sensitivity=True), options=FAST, tell=quiet)
    found = store.load_result(folder).tables["sensitivity"]
    counts = dict(found.groupby("parameter", sort=False).size())
    assert counts == {"layer": 2, "beta": 2, "variance": 1, "lr": 1, "steps": 1}
    assert {"image_drop", "image_increase", "text_drop", "text_matched_drop", "map_area", "truth_auroc"} <= set(found.columns)


def test_two_runs_make_a_group_map(aligned, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(attribute_run, "open_recording", lambda *arguments, **options: recording)
    folder, _ = run_attribute([aligned[0], aligned[0]], tmp_path, ask=Ask(method="gradcam", trials=3), tell=quiet)
    result = store.load_result(folder)
    assert result.config["group"] is True
    assert result.arrays["map/subject"].shape == (2, len(recording.responses.units))
    assert result.metrics["attribution/subject_correlation"] == pytest.approx(1)
    assert (folder / "map.nii.gz").exists()


@pytest.mark.parametrize(
    "change, match",
    [
        ({"of": "sound"}, "pixels"),
        ({"of": "brain", "target": "brain"}, "image"),
        ({"of": "pixels", "target": "image"}, "text"),
        ({"of": "words", "target": "text"}, "brain"),
        ({"method": "lime"}, "gradcam"),
        ({"trials": 0}, "at least 1"),
        ({"layer": "middle"}, "patches"),
        ({"of": "words", "layer": "patches"}, "number of a block"),
        ({"sensitivity": True, "method": "rise"}, "--method"),
        ({"sensitivity": True, "of": "pixels"}, "--of"),
    ],
)
def test_what_cannot_be_asked_is_named(change, match):
    with pytest.raises(DataError, match=match):
        Ask(**change)


def test_a_group_is_of_the_brain_only(tmp_path):
    with pytest.raises(DataError, match="one run for pixels"):
        run_attribute([tmp_path, tmp_path], tmp_path, ask=Ask(of="pixels"), tell=quiet)


def test_the_report_shows_both_runs(aligned, explained, tmp_path):
    page = report.build(aligned[0].parent, tmp_path / "report.html", title="A small phantom").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "A small phantom" in page
    assert aligned[0].name in page
    assert explained[0].name in page
    shown = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # the policy lets the library in it load nothing
    assert "http://" not in shown.replace("http://www.w3.org", "")
    assert "default-src 'none'" in page


@pytest.fixture(scope="module")
def layered() -> source.Opened:
    return open_recording(SMALL, layers=True)


def test_an_encoding_run_has_a_score_a_voxel(layered, tmp_path, monkeypatch):
    few, full = SMALL, layered
    informative = np.flatnonzero(full.responses.units["informative"].to_numpy(bool))[:40]
    small = source.Opened(full.responses.columns(informative), full.stimuli, layers=full.layers)
    monkeypatch.setattr(encode_run, "open_recording", lambda *arguments, **options: small)
    folder, rows = run_encode(few, tmp_path, Asked("ridge"), tell=quiet)
    result = store.load_result(folder)
    assert result.arrays["r2"].shape == (40,)
    assert {row["metric"] for row in rows} >= {"encoding/r2_mean"}


def test_encoding_claims_have_intervals_controls_and_go_on_after_a_kill(layered, tmp_path):
    full = layered
    units = full.responses.units
    signal = units["informative"].to_numpy(bool)
    early = np.flatnonzero(signal & (units["layer"].to_numpy(float) == 2))[:12]
    late = np.flatnonzero(signal & units["is_global"].to_numpy(bool) & (units["layer"].to_numpy(float) == 6))[:12]
    chosen = np.sort(np.concatenate([early, late, np.flatnonzero(~signal)[:20]]))
    small = source.Opened(full.responses.columns(chosen).zscore(), full.stimuli, layers=full.layers)
    design = EncodingDesign(layers=("vision.2", "vision.6"), resamples=50, clusters=4)
    plan = encode.Plan(design=design, noise=10, methods=("factortopy", "oracle", "shuffled"))
    kept: dict[str, dict[str, float]] = {"shuffled": {"encode/shuffled/r2_mean": 9.0}}

    def done(method, metrics):
        if metrics is not None:
            kept[method] = metrics
        return kept.get(method)

    found = encode.encode_claims(small, SMALL, tmp_path, plan=plan, tell=quiet, done=done)
    assert found["encode/shuffled/r2_mean"] == 9.0  # finished before, so not run again
    assert {"factortopy", "oracle"} < set(kept)
    for key in ("r2_mean", "truth/layer_spearman", "truth/scale_auroc", "truth/rf_error_median", "noise_voxels/r2_mean"):
        assert (
            found[f"encode/factortopy/{key}.low"] <= found[f"encode/factortopy/{key}"] <= found[f"encode/factortopy/{key}.high"]
        )
    assert found["encode/oracle/r2_mean"] > found["encode/factortopy/noise_voxels/r2_mean"]
    assert len(list(tmp_path.glob("*/result.json"))) == 1  # the report must not show a control as a finding


def test_published_recipes_stand_beside_ours(layered, tmp_path):
    full = layered
    units = full.responses.units
    signal = (units["informative"] & (units["ncsnr"] > 0.3)).to_numpy(bool)
    local = np.flatnonzero(signal & ~units["is_global"].to_numpy(bool))[:8]
    whole = np.flatnonzero(signal & units["is_global"].to_numpy(bool))[:8]
    chosen = np.sort(np.concatenate([local, whole, np.flatnonzero(~signal)[:20]]))
    small = source.Opened(full.responses.columns(chosen).zscore(), full.stimuli, layers=full.layers)
    plan = encode.Plan(design=EncodingDesign(layers=("vision.2", "vision.6"), resamples=50, clusters=4), noise=10)
    found = recipe_claims(small, tmp_path, plan=plan, steps=30, recipes=("released",), size=7, tell=quiet)
    heads = {key.split("/")[2] for key in found}
    assert heads == {"ridge", *encode.OURS, "factortopy_released", "factortopy_released_refit"}
    one, other = (f"encode/curve/factortopy_released{end}/7" for end in ("", "_refit"))
    assert found[f"{one}/truth/rf_error_median"] == found[f"{other}/truth/rf_error_median"]
    assert found[f"{one}/r2_mean"] != found[f"{other}/r2_mean"]
    assert found[f"{one}/steps"] == 30
    again = recipe_claims(small, tmp_path, plan=plan, steps=30, recipes=("released",), tell=quiet)
    assert again["encode/factortopy_released/r2_mean"] == found[f"{one}/r2_mean"]


def test_mispaired_images_keep_their_part_and_none_its_own_responses():
    stimulus = np.repeat([f"i{i}" for i in range(9)], 2)
    trials = pd.DataFrame({"stimulus": stimulus, "split": np.repeat(["train", "validation", "test"], 6)})
    swapped = encode.mispaired(Responses(np.zeros((18, 1)), trials, pd.DataFrame({"x": [0.0]})), seed=0).trials
    same = (swapped["stimulus"] == trials["stimulus"]).to_numpy()
    assert (same == (trials["split"] == "test")).all()
    part = dict(zip(trials["stimulus"], trials["split"], strict=True))
    assert [part[name] for name in swapped["stimulus"]] == trials["split"].tolist()
    assert swapped["stimulus"].value_counts().eq(2).all()


# --- the model of a run


def test_a_run_embeds_recordings_with_the_model_it_kept(aligned, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(align_embed, "open_recording", lambda *arguments, **options: recording)
    folder, rows = embed_volume_run(aligned[0], tmp_path, tell=quiet)
    found, run = store.load_result(folder), store.load_result(aligned[0])
    assert found.task == "embed"
    assert found.arrays["embedding/image"].shape == (150, run.arrays["embedding/brain"].shape[1])
    place = [found.arrays["ids"].tolist().index(name) for name in run.arrays["ids"]]
    for which, brain in (("image", "brain"), ("text", "brain_for_text")):
        embedded, known = found.arrays[f"embedding/{which}"][place], run.arrays[f"embedding/{brain}"]
        np.testing.assert_allclose(embedded, known, rtol=1e-3, atol=1e-3)
    assert {row["metric"]: row["value"] for row in rows}["embed/images"] == 150


def test_a_run_trains_the_model_of_another_further(aligned, recording, tmp_path, monkeypatch):
    monkeypatch.setattr(align_run, "open_recording", lambda *arguments, **options: recording)
    folder, _ = run_align(SMALL, tmp_path, training_steps=4, start_from=aligned[0], tell=quiet)
    result = store.load_result(folder)
    assert result.config["from"] == aligned[0].name
    assert result.config["encoders"] == ["volume"]
    before, after = volume_aligner(aligned[0]), volume_aligner(folder)
    assert np.array_equal(before.gallery(recording.images["image"]), after.gallery(recording.images["image"]))
    with pytest.raises(DataError, match="is a 'volume', which is not one of the encoders"):
        run_align(SMALL, tmp_path, encoders=["linear"], start_from=aligned[0], tell=quiet)


def test_a_run_without_a_model_is_refused_before_its_recording_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(attribute_run, "open_recording", lambda *arguments, **options: pytest.fail("opened"))
    folder = runs.keep(Result("align", {"x": 1.0}, config={"encoders": ["volume"], "seed": 0}), tmp_path, SMALL)
    with pytest.raises(DataError, match="holds no model; run `brainlens align` again"):
        run_attribute(folder, tmp_path, tell=quiet)


# --- without a run


def test_attribute_refuses_a_run_of_another_kind(tmp_path):
    folder = runs.keep(Result("encode", {"encoding/r2_mean": 0.1}), tmp_path, SMALL)
    with pytest.raises(DataError, match="needs a run of `align`"):
        run_attribute(folder, tmp_path, tell=quiet)


def test_a_run_remembers_its_recording(tmp_path):
    here = Source("haxby2001", Path("somewhere"), "a/model", 5, 6, 7, 8)
    folder = runs.keep(Result("align", {"x": 1.0}, config={"seed": 3}), tmp_path, here, arrays={"a": np.arange(3)})
    stored = store.load_result(folder)
    assert runs.source_of(stored) == here
    assert stored.config["seed"] == 3
    np.testing.assert_array_equal(stored.arrays["a"], np.arange(3))
    with pytest.raises(DataError, match="source_seed"):
        runs.source_of(Result("align", {}, config={"dataset": "phantom", "n_train": 1, "n_test": 1}))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"dataset": "nope"}, "haxby2001"),
        ({"dataset": "nsd"}, "--data"),
        ({"dataset": "nsd", "folder": Path("nowhere")}, "nowhere"),
    ],
)
def test_a_source_that_is_not_there_is_named(change, match):
    with pytest.raises(DataError, match=match):
        open_recording(Source(**change))


@pytest.mark.parametrize("device", ["magic", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(DataError, match=f"device '{device}'"):
        source.check_device(device)


def test_the_table_of_the_demo_holds_what_was_measured_and_nothing_else():
    volume = "align/volume/retrieval/brain->image"
    metrics = {
        f"{volume}/top1": 0.5,
        f"{volume}/top1.low": 0.4,
        f"{volume}/top1.high": 0.6,
        f"{volume}/top5": 0.75,
        f"{volume}/chance1": 0.005,
        f"{volume}/chance5": 0.025,
        "attribute/bottleneck/truth_auroc": 0.8125,
        "attribute/bottleneck/truth_auroc.low": 0.75,
        "attribute/bottleneck/truth_auroc.high": 0.875,
        "encode/ridge/r2_mean": 0.25,
        "encode/ridge/other": 9.0,
    }
    assert demo.short_table(metrics) == [
        {"what": "brain->image, volume transformer", "value": "0.500 (0.400 to 0.600)", "top 5": "0.750"},
        {"what": "chance, 200 images", "value": "0.005", "top 5": "0.025"},
        {"what": "informative voxels found, AUROC, bottleneck", "value": "0.812 (0.750 to 0.875)", "top 5": ""},
        {"what": "encode/ridge/r2_mean", "value": "0.250", "top 5": ""},
    ]
    assert demo.short_table({}) == []


def test_claims_of_attribution_stand_beside_their_checks(recording, tmp_path):
    images = recording.images
    split = split_tables(recording.responses.zscore(), images, recording.texts)
    design = VolumeDesign(
        patch=14, width=16, depth=1, heads=2, embed_dim=images["image"].shape[1], per_patch=True, class_token="sum"
    )
    module = VolumeEncoder(split.space.mask, design).eval()
    decoder = Decoder("volume", {"both": module})
    alignment = Alignment(Result("align", {}), {"volume": decoder}, split)
    names = ("bottleneck", "gradcam", "integrated_gradients", "chefer", "random")
    found = attribute_claims(alignment, recording, SMALL, tmp_path, methods=names, trials=6, masks=4, tell=quiet)
    for key in [f"{m}/truth_auroc" for m in names] + ["gradcam/matched_cost/truth_auroc", "chefer/plain/truth_auroc"]:
        value, low, high = (found[f"attribute/{key}{end}"] for end in ("", ".low", ".high"))
        assert 0 <= low <= value <= high <= 1
    gap = found["attribute/bottleneck/truth_auroc"] - found["attribute/gradcam/truth_auroc"]
    # the mean of the maps is a sum or a product of matrices, and near ties of a rank hang on the last bit
    assert found["attribute/bottleneck-gradcam/truth_auroc"] == pytest.approx(gap, abs=1e-5)
    assert found["attribute/bottleneck-gradcam/truth_auroc.low"] <= found["attribute/bottleneck-gradcam/truth_auroc.high"]
    assert -1 <= found["attribute/randomised/map_correlation"] <= 1
    alone = paper_claims(decoder, split, recording.responses, trials=6)  # the published form by itself, as among all
    assert alone == {k: pytest.approx(v) for k, v in found.items() if "ib_ba_paper" in k}
    assert len(alone) == 3
    result = store.load_result(next(tmp_path.iterdir()))
    assert list(result.tables["cost"]["method"]) == list(names)
    assert result.tables["randomisation"]["module"].iloc[0] == "none"
    assert {"deletion/gradcam", "insertion/bottleneck", "deletion/random"} <= set(result.arrays)
