"""`align` and `captions` from the command line's side: subjects, regions, caption sources, processes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainlens import store
from brainlens.align import run
from brainlens.align.run import run_align, run_align_each
from brainlens.datasets import captioning
from brainlens.datasets.source import Source, open_recording, picture_folder
from brainlens.models.volume.presets import preset
from brainlens.stimuli.captions import CaptionSource, save_captions
from brainlens.types import DataError
from brainlens.warned import BrainlensWarning

SMALL = Source(n_train=60, n_test=20)
FEW = preset("default").changed(training={"steps": 6, "batch": 16}, design={"depth": 1})


def quiet(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list]:
    """One model for two simulated subjects, on the visual regions, by text alone."""
    source = replace(SMALL, subjects=("1", "2"), regions=("visual",))
    chosen = FEW.changed(training={"modality": "text", "queue": 32, "accumulate": 2}, design={"checkpointing": True})
    return run_align(source, tmp_path_factory.mktemp("two"), encoders=["volume"], configuration=chosen, tell=quiet)


def test_one_model_for_two_subjects_is_stored_with_the_scores_of_each(two):
    result = store.load_result(two[0])
    assert result.config["subjects"] == ["1", "2"]
    assert result.config["regions"] == ["visual"]
    assert result.config["training"]["modality"] == "text"
    assert result.metrics["data/subjects"] == 2
    assert set(result.units["roi"]) <= set(open_recording(SMALL).responses.units["roi"]) - {"none", "LANG"}
    for score in ("top5", "mean_rank"):
        each = [result.metrics[f"subject/{s}/retrieval/brain->text/{score}"] for s in "12"]
        assert result.metrics[f"retrieval/brain->text/{score}"] == pytest.approx(np.mean(each))
    assert result.arrays["gallery/images"].shape == (20, 96, 96, 3)
    assert result.tables["gallery"]["stimulus"].tolist() == result.arrays["ids"].tolist()
    shown = {row["metric"] for row in two[1]}
    assert {"subject/2/retrieval/brain->image/top1", "data/captions_cut", "retrieval/brain->image/gallery"} <= shown


def test_a_model_for_each_subject_ends_with_the_mean(tmp_path):
    source = replace(SMALL, subjects=("1", "3"))
    folders, rows = run_align_each(source, tmp_path, encoders=["ridge"], configuration=FEW, tell=quiet)
    one, other, mean = (store.load_result(folder) for folder in folders)
    assert (one.config["subjects"], other.config["subjects"], mean.config["subjects"]) == (["1"], ["3"], ["1", "3"])
    key = "retrieval/image->brain/top5"
    assert mean.metrics[key] == pytest.approx((one.metrics[key] + other.metrics[key]) / 2)
    assert mean.metrics[f"{key}.low"] <= mean.metrics[key] <= mean.metrics[f"{key}.high"]
    assert {row["subject"] for row in rows} == {"1", "3", "mean"}
    with pytest.raises(DataError, match="at least 2 subjects"):
        run_align_each(SMALL, tmp_path, tell=quiet)


def test_another_caption_source_is_another_target(tmp_path):
    scenes = captioning.open_stimuli(SMALL)
    said = {str(i): [f"a picture of a {row}", ""] for i, row in zip(scenes.ids, scenes.table["domain"], strict=True)}
    path = save_captions(tmp_path / "domains.json", CaptionSource("domains", said))
    own, other = open_recording(SMALL), open_recording(replace(SMALL, captions=str(path)))
    assert not np.allclose(own.texts["text"], other.texts["text"], atol=0.1)
    assert other.counts["empty"] == 80
    assert other.counts["shared"] == 80  # eight domains for eighty pictures
    with pytest.raises(DataError, match="'llava' is not available; available: own"):
        open_recording(replace(SMALL, captions="llava"))
    said.pop(str(scenes.ids[0]))
    save_captions(path, CaptionSource("domains", said))
    with pytest.raises(DataError, match="1 of 80 images have none"):
        open_recording(replace(SMALL, captions=str(path)))
    said[str(scenes.ids[0])] = ["word " * 200]
    save_captions(path, CaptionSource("domains", said))
    with pytest.warns(BrainlensWarning, match="1 of 80 captions are longer"):
        assert open_recording(replace(SMALL, captions=str(path))).counts["cut"] == 1


def test_captions_of_every_source_are_scored_against_images_and_each_other(tmp_path):
    scenes = captioning.open_stimuli(SMALL)
    domains = {str(i): [str(row)] for i, row in zip(scenes.ids, scenes.table["domain"], strict=True)}
    path = save_captions(tmp_path / "domains.json", CaptionSource("domains", domains))
    folder, rows = captioning.run_caption_scores(SMALL, tmp_path, files=[path], tell=quiet)
    result = store.load_result(folder)
    top = {key: result.metrics[f"captions/{key}/top1"] for key in ("own->image", "domains->image", "own->own, others")}
    assert top["own->image"] > 0.3 > 0.1 > top["domains->image"]  # captions that ten pictures share count against themselves
    assert result.metrics["captions/domains/shared"] == 80
    assert len(rows) == 2 * len(result.tables["caption_quality"]) == 2 * 4
    assert [set(row) for row in rows] == [{"query -> gallery", "top 1", "chance", "top 5", "n", "cut"}] * 8


def test_a_folder_of_pictures_is_a_table_of_stimuli(tmp_path):
    for name in ("b", "a"):
        Image.fromarray(np.full((8, 8, 3), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    plain = picture_folder(tmp_path)
    assert plain.ids.tolist() == ["a", "b"]
    assert plain.images[1][0, 0, 0] == ord("b")
    (tmp_path / "manifest.json").write_text(json.dumps([{"file": "b.png", "captions": ["bee"]}]))
    assert picture_folder(tmp_path).captions == [["bee"]]
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="list of objects with the entry 'file'"):
        picture_folder(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        picture_folder(tmp_path / "none")


def test_pictures_that_cannot_be_opened_make_no_gallery():
    from brainlens.datasets.pictures import NoImages
    from brainlens.types import Stimuli

    assert run.thumbnails(Stimuli(np.array(["a"]), NoImages(1, "not here"))) is None


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"subjects": ("0",)}, "subject '0': this dataset numbers its subjects"),
        ({"subjects": ("one",)}, "subject 'one'"),
        ({"regions": ("V9",)}, "region 'V9' is not one of whole, visual, EBA"),
        ({"captions": "nowhere.json"}, "nowhere.json is missing"),
    ],
)
def test_a_part_that_is_not_there_is_named(changes, words):
    with pytest.raises(DataError, match=words) as error:
        open_recording(replace(SMALL, **changes))
    assert "\n" not in str(error.value)
