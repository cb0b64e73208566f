"""`align --dataset things_meg` from the folder of a release in small to the page of its report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from brainlens import report, store

Say = Callable[..., tuple[int, str, str]]
SEEN = {f"c{chr(97 + i)}": 2 for i in range(20)}
TEST = {"hat": 4, "anchor": 3, "bus_stop": 4, "bus": 4, "drum": 5}
WIDTH = 192  # of the embeddings of the shipped CLIP


@pytest.fixture(scope="module")
def meg(made_meg: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, 271 channels from -.1 to 1.3 s; the second lost an image of the training, and saw all in another order."""
    folder = Path(tmp_path_factory.mktemp("things_meg"))
    channels = made_meg.helmet(271)
    for subject in (1, 2):
        lost = {"ca": 1} if subject == 2 else {}
        table = made_meg.trials({**SEEN, "hat": 2, **lost}, TEST, catch=2, seed=subject)
        made_meg.write(folder, table, subject=subject, channels=channels, samples=281, seed=subject, seen=1.5)
        made_meg.write_images(folder, table)
    return folder


@pytest.fixture
def given(meg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a test may add to; the recording itself is linked, which has to be allowed."""
    monkeypatch.setenv("BRAINLENS_ALLOW_OUTSIDE", "1")
    folder = tmp_path / "things"
    folder.mkdir()
    for entry in meg.iterdir():
        (folder / entry.name).symlink_to(entry)
    return folder


def align(given: Path, say: Say, *more: str) -> tuple[int, str, str]:
    return say("align", "--dataset", "things_meg", "--data", str(given), "--runs", str(given / "runs"), *more)


def run_of(given: Path) -> Path:
    (folder,) = (given / "runs").glob("align-*")
    return folder


def test_nice_and_neuroalign_within_a_subject_end_in_a_page(given: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brainlens.report.page.DPI", (40,))
    code, out, err = align(given, say, "--encoder", "nice", "--encoder", "neuroalign", "--epochs", "2", "--subject", "P2")
    assert (code, err) == (0, "")
    assert "nice: brain->image/top1" in out
    result = store.load_result(run_of(given))
    assert result.config["protocol"] == {"kind": "within", "subject": "2", "gallery": "image"}
    assert result.config["training"]["epochs"] == 2
    assert len(result.space) == len(result.units) == 271
    assert result.arrays["times"][[0, -1]] == pytest.approx([0, 1])
    assert len(result.arrays["times"]) == 201
    assert sorted(result.arrays["ids"]) == sorted(f"{name}_13n" for name in TEST)
    assert result.metrics["data/train_images"] + result.metrics["data/validation_images"] == 39  # without the lost one, and "hat"
    assert result.metrics["data/test_repeats"] == 4
    assert result.metrics["retrieval/brain->text/chance1"] == pytest.approx(1 / 5)
    assert set(result.tables["gallery"]["caption"]) == {f"a photo of a {name.replace('_', ' ')}" for name in TEST}
    assert result.arrays["topomap/contribution_by_time"].shape == (10, 271)
    assert 0 < result.metrics["topography/posterior_share.chance"] < 0.5
    page = report.render([("run", result)])
    assert "Not drawn" not in page
    assert "simulation" not in page


def test_across_takes_images_that_a_subject_lost(given: Path, say: Say) -> None:
    code, _, err = align(
        given, say, "--encoder", "linear", "--epochs", "12", "--protocol", "across", "--subject", "P1", "--repeats", "3"
    )
    assert (code, err) == (0, "")
    result = store.load_result(run_of(given))
    assert result.config["protocol"]["subject"] == "1"
    assert result.metrics["data/test_repeats"] == 3
    assert result.tables["repeats"]["repeats"].tolist() == [1, 2, 3]
    assert (result.arrays["ranks/brain->image"] <= 2).mean() > 0.5  # both brains follow the colours by the same channels
    assert result.metrics["topography/posterior_share"] > result.metrics["topography/posterior_share.chance"]
    code, _, err = say("attribute", str(run_of(given)), "--method", "integrated_gradients", "--runs", str(given / "runs"))
    assert (code, err) == (0, "")


def test_centres_of_concepts_are_in_the_order_of_their_names(given: Path, say: Say) -> None:
    centres = np.random.default_rng(0).normal(size=(len(TEST), WIDTH)).astype(np.float32)
    np.save(given / "center_clip.npy", centres)
    code, _, err = align(given, say, "--encoder", "nice", "--epochs", "1", "--gallery", "concept")
    assert (code, err) == (0, "")
    result = store.load_result(run_of(given))
    order = ["anchor", "bus", "bus_stop", "drum", "hat"]
    shown = [order.index(str(name).removesuffix("_13n")) for name in result.arrays["ids"]]
    assert np.asarray(result.arrays["embedding/image"]) == pytest.approx(centres[shown], abs=1e-5)


@pytest.mark.parametrize(
    ("spoil", "more", "text"),
    [
        ((), ("--repeats", "4"), "4 repetitions are asked for, a test image has 3"),
        ((), ("--subject", "P7"), "subjects 1, 2"),
        ((), ("--gallery", "concept"), "center_clip.npy"),
        (("images_test_meg",), (), "the THINGS images are not in"),
        (("derivatives",), (), "preprocessed_P1-epo.fif"),
    ],
)
def test_what_is_missing_is_one_line(given: Path, say: Say, spoil: tuple[str, ...], more: tuple[str, ...], text: str) -> None:
    for name in spoil:
        (given / name).unlink()
    code, out, err = align(given, say, "--encoder", "nice", "--epochs", "1", *more)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert text in err


def test_epochs_are_drawn_in_units_of_the_baseline(given: Path, say: Say) -> None:
    code, _, err = say("epochs", "--dataset", "things_meg", "--data", str(given), "--runs", str(given / "runs"))
    assert (code, err) == (0, "")
    (folder,) = (given / "runs").glob("epochs-*")
    result = store.load_result(folder)
    assert result.config["measure"] == "z"
    assert result.metrics["epochs/test/n"] == sum(TEST.values())
    shutil.rmtree(folder)
