"""`align --encoder ubp_like` as the command runs it: blurred pictures embedded once a level, and recordings without pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlens import store
from brainlens.align.embed_sensors import embed_sensor_run
from brainlens.align.run_sensors import run_align_sensors
from brainlens.align.sensor_options import SensorOptions
from brainlens.attribute.run_sensors import run_attribute_sensors
from brainlens.datasets import phantom
from brainlens.datasets.sensors import open_sensors, with_blur
from brainlens.datasets.source import Source
from brainlens.models.sensors.stored import load_aligner
from brainlens.stimuli import blur
from brainlens.stimuli.blur import blurred_stimuli, levels
from brainlens.types import DataError, positions


def silent(text: str, share: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Source("phantom_eeg", n_train=60, n_test=24)
    options = SensorOptions(("ubp_like",), epochs=3, repeats=2)
    return run_align_sensors(source, tmp_path_factory.mktemp("runs"), options, tell=silent)[0]


def test_a_run_is_scored_against_pictures_of_medium_blur(stored: Path) -> None:
    result = store.load_result(stored)
    assert result.tables["comparison"]["encoder"].tolist() == ["ubp_like"]
    assert result.config["gallery_layer"] == "blur_medium"
    scenes = phantom.scenes(n_train=60, n_test=24)
    medium = np.asarray(phantom.features(blurred_stimuli(scenes, levels()["blur_medium"]))["image"], np.float32)
    place = {name: i for i, name in enumerate(scenes.ids)}
    expected = medium[[place[name] for name in result.arrays["ids"]]]
    assert np.allclose(result.arrays["embedding/image"], expected, atol=1e-5)
    assert load_aligner(stored).network == "ubp_like"


def test_a_second_call_blurs_nothing(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object) -> None:
        raise AssertionError("a picture was blurred again")

    monkeypatch.setattr(blur, "blurred", never)
    cache = stored.parent / "prepared"
    source = Source("phantom_eeg", n_train=60, n_test=24)
    recording = with_blur(open_sensors(source, repeats=2, cache=cache, tell=silent), source, cache=cache, tell=silent)
    result = store.load_result(stored)
    rows = positions(result.arrays["ids"], recording.images.ids, "images")
    assert np.array_equal(recording.images["blur_medium"][rows], result.arrays["embedding/image"])
    assert with_blur(recording, source, cache=cache, tell=silent) is recording


def test_its_run_is_embedded_and_attributed(stored: Path, tmp_path: Path) -> None:
    folder, _ = embed_sensor_run(stored, tmp_path, tell=silent)
    found, aligned = store.load_result(folder), store.load_result(stored)
    place = {name: i for i, name in enumerate(found.arrays["ids"])}
    own = [place[name] for name in aligned.arrays["ids"]]
    assert np.allclose(found.arrays["embedding/brain"][own], aligned.arrays["embedding/brain"], atol=1e-4)
    shown = store.load_result(run_attribute_sensors(stored, tmp_path, tell=silent)[0])
    assert np.isfinite(shown.arrays["contribution"]).all()
    assert np.abs(shown.arrays["contribution"]).max() > 0


def test_a_recording_of_embeddings_alone_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(24, 12)).astype(np.float32)
    np.save(tmp_path / "center_clip.npy", centre)
    np.save(tmp_path / "clip_feature_maps_test.npy", centre[:, None])
    source, options = Source("phantom_eeg", tmp_path, n_train=60), SensorOptions(("ubp_like",), epochs=1, repeats=2)
    with pytest.raises(DataError, match="ubp_like looks for blurred pictures, and this recording has none") as error:
        run_align_sensors(source, tmp_path / "runs", options, tell=silent)
    assert "\n" not in str(error.value)
