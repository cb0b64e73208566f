"""A run of `encode` keeps its model, and predicts from a folder of new pictures what the verb predicts for them."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainlens import store
from brainlens.backbones.layers import extract_layers
from brainlens.datasets import runs, source
from brainlens.datasets.source import Source, open_recording
from brainlens.encode import EncodingDesign, fit_encoding
from brainlens.encode import run as encode_run
from brainlens.encode.predict import run_predict
from brainlens.encode.run import Asked, run_encode
from brainlens.metrics.encoding import r2
from brainlens.models.encoding import FactorTopy, LayerwiseRidge, load
from brainlens.models.encoding.tables import tables
from brainlens.models.encoding.training import EncodingTraining
from brainlens.types import DataError, Result

SMALL = Source("phantom", n_train=60, n_test=12)
DESIGN = EncodingDesign(layers=("vision.2", "vision.6"), width=8, resamples=20, clusters=2)
FEW = EncodingTraining(steps=4, epoch=2, batch=8, decay_steps=2)


def quiet(text: str, share: float | None = None) -> None:
    """Progress is not shown."""


@pytest.fixture(scope="module")
def recording():
    whole = open_recording(SMALL, layers=True)
    informative = np.flatnonzero(whole.responses.units["informative"].to_numpy(bool))[:30]
    return source.Opened(whole.responses.columns(informative), whole.stimuli, layers=whole.layers)


@pytest.fixture(scope="module")
def pictures(recording, tmp_path_factory) -> Path:
    """The test scenes as files, named by their ids."""
    folder = tmp_path_factory.mktemp("new") / "scenes"
    folder.mkdir()
    for name in sorted(recording.responses.where(split="test").trials["stimulus"].unique()):
        Image.fromarray(recording.stimuli.take([name]).images[0]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module", params=["ridge", "factortopy"])
def run(request, recording, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode_run, "open_recording", lambda *arguments, **options: recording)
        asked = Asked(request.param, DESIGN, FEW, seeds=2)
        return run_encode(SMALL, tmp_path_factory.mktemp("runs"), asked, tell=quiet)[0]


def test_a_run_keeps_the_model_of_its_first_seed(run):
    model, result = load(run / "model"), store.load_result(run)
    assert isinstance(model, LayerwiseRidge if result.config["method"] == "ridge" else FactorTopy)
    assert model.layer_names_ == result.config["layers"] == ["vision.2", "vision.6"]
    if isinstance(model, FactorTopy):
        np.testing.assert_array_equal(model.layer_weights_, result.arrays["layer_weights"])
        np.testing.assert_array_equal(model.channel_weights_, result.arrays["channel_weights"])
    else:
        np.testing.assert_array_equal(model.layer_, result.arrays["layer"])
    assert not list((run.parent / "unfinished").iterdir())


def test_the_kept_model_scores_what_the_run_says(run, recording):
    model, result = load(run / "model"), store.load_result(run)
    data = tables(source.standardised(recording.responses), recording.layers, seed=0)
    guess = model.predict(recording.layers.take(data.test.ids))
    np.testing.assert_allclose(r2(data.test.y, guess), result.arrays["r2"], atol=1e-5)


def test_new_pictures_are_predicted_as_their_stored_features_are(run, recording, pictures):
    file, rows = run_predict(run, pictures, tell=quiet)
    assert file == run / "predictions" / "scenes.npy"
    guess = store.open_array(file.parent, file.stem)
    said = {row["fact"]: row["value"] for row in rows}
    assert (said["images"], said["units"]) == ("12", "30")
    assert Path(said["units are"]).is_file()
    with Path(said["ids"]).open(newline="") as table:
        ids = [row["stimulus"] for row in csv.DictReader(table)]
    assert ids == sorted(path.stem for path in pictures.iterdir())
    wanted = load(run / "model").predict(recording.layers.take(ids))
    # features are float16 and come in other batches: rounding of 1e-3 in units of responses with variance 1
    np.testing.assert_allclose(guess, wanted, atol=5e-3)
    assert np.abs(guess - wanted[::-1]).max() > 0.1


def test_the_command_writes_where_it_is_told(run, pictures, tmp_path):
    out = tmp_path / "deep" / "guess.npy"
    code = "import sys; from brainlens.cli import main; sys.argv[0] = 'brainlens'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(run), "--images", str(pictures), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"predictions: {out}" in done.stdout.replace("\n", "")
    there, _ = run_predict(run, pictures, tell=quiet)
    np.testing.assert_array_equal(np.load(out), np.load(there))


def test_an_interrupted_run_without_its_model_fits_again(recording, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_run, "open_recording", lambda *arguments, **options: recording)
    monkeypatch.setattr(encode_run._Session, "done", lambda self: None)  # what a killed run leaves
    session = Asked("ridge", DESIGN)
    folder, _ = run_encode(SMALL, tmp_path, session, seed=1, tell=quiet)
    (model,) = (tmp_path / "unfinished").glob("*/model")
    for path in model.iterdir():
        path.unlink()
    model.rmdir()
    again, _ = run_encode(SMALL, tmp_path, session, seed=1, tell=quiet)
    assert again == folder
    assert load(again / "model").layer_names_ == ["vision.2", "vision.6"]


def test_the_verb_gives_its_model(recording):
    result, model = fit_encoding(recording.responses, recording.layers, method="ridge", design=DESIGN)
    np.testing.assert_array_equal(result.arrays["layer_scores"], model.layer_scores_)
    assert model.predict(extract_layers(None, recording.stimuli.take(recording.stimuli.ids[:3]))).shape == (3, 30)


def test_a_mistake_is_one_line(run, pictures, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    other = runs.keep(Result("align", {"x": 1.0}), tmp_path, SMALL)
    drawn = runs.keep(Result("reconstruct", {"x": 1.0}), tmp_path, SMALL)
    words = runs.keep(Result("describe", {"x": 1.0}), tmp_path, SMALL)
    bare = runs.keep(replace(store.load_result(run), config={"method": "ridge"}), tmp_path, SMALL)
    for call, message in (
        (lambda: run_predict(other, pictures, tell=quiet), r"\(align\)|run of align"),
        (lambda: run_predict(drawn, pictures, tell=quiet), "a run of reconstruct; predict takes a run of `brainlens encode` or"),
        (lambda: run_predict(words, pictures, tell=quiet), "a run of describe that holds no fitted model"),
        (lambda: run_predict(bare, pictures, tell=quiet), "holds no"),
        (lambda: run_predict(tmp_path / "nothing", pictures, tell=quiet), "result.json"),
        (lambda: run_predict(run, empty, tell=quiet), "holds no pictures"),
        (lambda: run_predict(run, pictures, out=tmp_path / "guess.csv", tell=quiet), r"into a \.npy file"),
        (lambda: run_predict(run, pictures, device="cuda:99", tell=quiet), "cuda:99"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
