"""The brains that are not linear: the phantom's options, photographs, and models of the brain, through the doors users take."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from brainlens import datasets
from brainlens.cli import app
from brainlens.datasets import insilico, phantom
from brainlens.datasets.source import Source, open_recording, open_stimuli
from brainlens.types import DataError

SMALL = {"n_train": 40, "n_test": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (20 + i % 3, 24, 3), dtype=np.uint8)).save(place / f"{i:02d}.png")
    return place


def test_another_network_of_the_brain_changes_the_brain_and_not_the_target() -> None:
    own = open_recording(Source(**SMALL))
    other = open_recording(Source(**SMALL, options={"brain_network": "untrained:3"}))
    np.testing.assert_array_equal(own.images["image"], other.images["image"])
    assert other.layers.model == own.layers.model
    first, second = (r.responses.data.astype(float) for r in (own, other))
    informative = other.responses.units["informative"].to_numpy(bool)
    apart = [abs(np.corrcoef(first[:, v], second[:, v])[0, 1]) for v in np.flatnonzero(informative)[::50]]
    assert np.median(apart) < 0.8  # the noise is the same, the signal is not
    assert set(own.responses.units.columns) == set(other.responses.units.columns)


def test_every_part_of_the_mismatch_reaches_the_responses() -> None:
    plain = open_recording(Source(**SMALL)).responses
    for option in ({"nonlinearity": 0.5}, {"haemodynamics": 1.0}, {"warp": 4.0}, {"motion": 2.0}):
        found = open_recording(Source(**SMALL, options=option))
        assert found.truth.mismatch != phantom.LINEAR
        assert not np.array_equal(found.responses.data, plain.data), option


def test_photographs_are_split_and_read(folder) -> None:
    source = Source(n_train=30, n_test=20, options={"pictures": (str(folder),), "brain_network": "untrained:2"})
    found = open_recording(source, layers=True)
    counts = found.responses.trials.groupby("split")["stimulus"].nunique().to_dict()
    assert counts == {"train": 30, "test": 20}
    assert found.texts is None
    assert list(open_stimuli(source).ids) == list(found.stimuli.ids)
    with pytest.raises(DataError, match="60 photographs leave fewer than 20"):
        open_recording(Source(n_train=10, n_test=50, options={"pictures": (str(folder),)}))
    with pytest.raises(DataError, match="is not found"):
        open_recording(Source(**SMALL, options={"pictures": (str(folder / "no"),)}))


def brain(images: list[np.ndarray]) -> np.ndarray:
    """Five units: means of quarters, and one that never changes."""
    rows = [[im[:8, :8].mean(), im[8:, :8].mean(), im[:8, 8:].mean(), im[8:, 8:].mean(), 1.0] for im in images]
    return np.array(rows)


def test_a_model_of_the_brain_is_a_recording(folder) -> None:
    found = insilico.load(folder, brain=brain, tests=10, repeats=4, ncsnr=2.0)
    assert found.responses.data.shape == (240, 5)
    assert (found.responses.trials.groupby("stimulus").size() == 4).all()
    images = [np.asarray(im) for im in found.stimuli.images]
    for v in range(4):
        assert np.corrcoef(found.truth.data[:, v], brain(images)[:, v])[0, 1] > 0.9999
    assert np.all(found.truth.data[:, 4] == 0)
    mean = found.responses.average().data
    order = [list(found.responses.average().trials["stimulus"]).index(name) for name in found.stimuli.ids]
    reached = np.corrcoef(mean[order][:, 0], found.truth.data[:, 0])[0, 1] ** 2
    assert reached == pytest.approx(4 * 4 / (1 + 4 * 4), abs=0.05)  # signal 4/5, noise of a mean of four 1/20
    assert found.responses.data[:, 0].var() == pytest.approx(1, abs=0.15)


def test_a_berg_like_package_is_a_brain(folder) -> None:
    class Package:
        def encode(self, model, images):
            assert images.dtype == np.uint8
            assert images.shape[1:] == (3, 32, 32)
            eeg = np.stack([images.mean(axis=(2, 3))] * 2, axis=1)[..., None]  # (image, repeat, channel, time)
            return (eeg, {"subject": 1}) if model == "eeg" else images.mean(axis=(2, 3))

    for model in ("fmri", "eeg"):
        found = insilico.load(folder, brain=insilico.berg(Package(), model, size=32), tests=10)
        assert found.responses.data.shape == (180, 3)


def test_models_that_do_not_fit_are_one_line(folder) -> None:
    calls = []

    def growing(images):
        calls.append(1)
        return np.ones((len(images), len(calls)))

    cases = {"the same units at every call": growing, "a row each": lambda images: np.ones(3)}
    cases |= {"NaN or infinite": lambda images: np.full((len(images), 2), np.nan), "failed on pictures 0": lambda images: 1 / 0}
    for message, model in cases.items():
        with pytest.raises(DataError, match=message) as caught:
            insilico.load(folder, brain=model, tests=5)
        assert "\n" not in str(caught.value)
    for name, message in (("nowhere", "is not package.module:function"), ("no_such_package:f", "PYTHONPATH"),
                          ("numpy:nothing", "has no function")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            insilico.load(folder, brain=name)
    with pytest.raises(DataError, match="no brain is named"):
        datasets.load("insilico", folder)


def test_the_command_line_encodes_a_model_of_the_brain(folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "tiny_brain.py").write_text(
        "import numpy as np\n\ndef respond(images):\n    return np.array([[im.mean(), im.std()] for im in images])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = CliRunner().invoke(
        app,
        ["encode", "--dataset", "insilico", "--data", str(folder), "--option", "brain=tiny_brain:respond", "--option", "tests=15",
         "--runs", str(tmp_path / "runs")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "r2_mean" in done.output
    sys.modules.pop("tiny_brain", None)


def test_flags_are_options_and_belong_to_the_phantom(tmp_path) -> None:
    call = CliRunner().invoke(
        app,
        ["align", "--encoder", "ridge", "--train", "40", "--test", "20", "--brain-network", "untrained:1",
         "--nonlinearity", "0.5", "--haemodynamics", "1", "--warp", "3", "--motion", "1", "--runs", str(tmp_path)],
    )  # fmt: skip
    assert call.exit_code == 0, call.output
    wrong = CliRunner().invoke(app, ["align", "--dataset", "haxby2001", "--data", str(tmp_path), "--warp", "3"])
    assert isinstance(wrong.exception, DataError)
    assert "--warp is of the fMRI phantom" in str(wrong.exception)
    twice = CliRunner().invoke(app, ["encode", "--option", "warp=2", "--warp", "3"])
    assert "give it once" in str(twice.exception)
    far = CliRunner().invoke(app, ["encode", "--warp", "300"])
    assert "warp 300.0 is not in [0, 12] (mm)" in str(far.exception)
