"""THINGS beside a recording: categories of concepts, centres from other pictures, captions from a file, by command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from brainlens import miniatures, store
from brainlens.backbones import clip
from brainlens.cli import app
from brainlens.datasets import sensors, things_eeg2
from brainlens.datasets.things_tables import concept_centres, with_categories
from brainlens.types import DataError

HEAD = "Word\tDefinition (from WordNet)\tanimal\tfood\ttool\n"


@pytest.fixture(scope="module")
def folder(made_recordings, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("things")
    made_recordings.write_eeg2(place)
    rows = [f"trainthing{i}\tx\t{'1' if i < 5 else ''}\t{'1' if 3 < i < 9 else ''}\t" for i in range(15)]
    rows += [f"testthing{i}\tx\t\t\t{'1' if i % 2 else ''}" for i in range(10)]
    (place / "Categories_final_20200131.tsv").write_text(HEAD + "\n".join(rows) + "\n")
    for i in range(10):
        (place / "things_images" / f"testthing{i}").mkdir(parents=True)
        for k in range(3):
            Image.fromarray(made_recordings.picture(500 + 10 * i + k)).save(place / f"things_images/testthing{i}/other_{k}.jpg")
        seen = place / f"things_images/testthing{i}/testthing{i}_{i:02d}b.jpg"
        Image.fromarray(made_recordings.picture(100 + i)).save(seen)
    return place


def test_the_first_category_of_the_table_counts_and_others_are_other(folder, tmp_path):
    found = things_eeg2.load(folder)
    of = dict(zip(found.stimuli.table["concept"], found.stimuli.table["category"], strict=True))
    assert [of[f"trainthing{i}"] for i in (0, 4, 5, 8, 9)] == ["animal", "animal", "food", "food", "other"]
    assert [of["testthing0"], of["testthing1"]] == ["other", "tool"]
    expected = [of[c] for c in found.responses.trials["concept"]]
    assert list(found.responses.trials["category"]) == expected
    (tmp_path / "Categories_final_x.tsv").write_text(HEAD + "zebra\tx\t1\t\t\n")
    with pytest.raises(DataError, match="names none of the concepts seen, first 'trainthing0'"):
        with_categories(found, tmp_path)


def test_the_centre_of_a_concept_is_the_mean_of_its_other_pictures(folder, tmp_path):
    stimuli = things_eeg2.load(folder).stimuli
    test = stimuli.take([name for name in stimuli.ids if name.startswith("testthing")])
    model = clip.load_clip(str(miniatures.folder("clip")))
    centres = concept_centres(folder / "things_images", test, model, cache=tmp_path)
    pictures = sensors.datasets.source.picture_folder(folder / "things_images/testthing3")
    each = np.asarray(clip.embed_images(model, pictures)["image"])
    others = [not str(name).startswith("testthing") for name in pictures.ids]
    np.testing.assert_allclose(centres[3], each[others].mean(axis=0), atol=1e-5)
    with pytest.raises(DataError, match="holds no other picture of 'trainthing0'"):
        concept_centres(folder / "things_images", stimuli, model, cache=tmp_path)


def run(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(arguments))
    return "" if found.exception is None else str(found.exception)


def test_captions_of_a_file_and_computed_centres_reach_the_run(folder, tmp_path):
    ids = [str(name) for name in things_eeg2.load(folder).stimuli.ids]
    told = tmp_path / "told.json"
    told.write_text(json.dumps({name: [f"picture of {name}", "a thing"] for name in ids}))
    base = ("align", "--dataset", "things_eeg2", "--data", str(folder), "--encoder", "ridge", "--runs", str(tmp_path / "runs"))
    assert run(*base, "--captions", str(told), "--gallery", "concept") == ""
    (place,) = (tmp_path / "runs").glob("align-*")
    result = store.load_result(place)
    assert result.config["captions"] == str(told)
    assert result.config["protocol"]["gallery"] == "concept"
    assert set(result.arrays["groups"]) == {"tool", "other"}
    gallery = result.tables["gallery"]
    assert any("picture of" in str(value) for value in gallery.to_numpy().ravel())
    table = tmp_path / "told.csv"
    table.write_text("stimulus,caption\n" + "\n".join(f"{name},seen {name}" for name in ids[1:]) + "\n")
    assert f"1 of {len(ids)} images have none, first '{ids[0]}'" in run(*base, "--captions", str(table))


def test_a_gallery_of_concepts_without_pictures_says_what_it_needs(made_recordings, tmp_path):
    made_recordings.write_eeg2(tmp_path / "a")
    base = ("align", "--dataset", "things_eeg2", "--data", str(tmp_path / "a"), "--encoder", "ridge", "--gallery", "concept")
    said = run(*base, "--runs", str(tmp_path / "runs"))
    assert "things_images (a folder a concept)" in said
