"""Fine-tuning: labels are read or refused, the folder is a network that every command reads, a stopped training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from brainlens import store
from brainlens.backbones import fine_tuning, vision
from brainlens.backbones.fine_tuning import FineTuning, fine_tune, parts_of, read_labels
from brainlens.backbones.layers import network_path
from brainlens.cli import app
from brainlens.datasets.source import picture_folder
from brainlens.types import DataError

QUIET = lambda *_: None  # noqa: E731


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Red and blue pictures, 12 of each, and their labels."""
    place = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    for i in range(24):
        picture = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        picture[..., 0 if i % 2 else 2] += 140
        Image.fromarray(picture).save(place / f"p{i:02d}.png")
        lines.append(f"p{i:02d}.png,{'red' if i % 2 else 'blue'}")
    (place / "labels.csv").write_text("\n".join(lines) + "\n")
    return place


def test_the_folder_is_a_network_with_other_weights_and_its_scores(folder: Path, tmp_path: Path) -> None:
    call = CliRunner().invoke(
        app,
        ["finetune", "miniature", "--images", str(folder), "--labels", str(folder / "labels.csv"),
         "--out", str(tmp_path / "tuned"), "--steps", "6", "--batch", "8", "--lr", "1e-4"],
    )  # fmt: skip
    assert call.exit_code == 0, call.output
    found = store.read_json(tmp_path / "tuned" / "finetuned.json")
    assert found["classes"] == ["blue", "red"]
    assert found["scores"]["accuracy/before"] == 1.0  # colour is in the miniature's embedding
    assert found["scores"]["accuracy/chance"] == 0.5
    assert found["log"][-1]["step"] == 6
    before, after = vision.load(network_path(None)), vision.load(tmp_path / "tuned")
    assert after.layers == before.layers
    stimuli = picture_folder(folder)
    one, two = (vision.extract(network, stimuli, ["image"], dtype=np.float32)["image"] for network in (before, after))
    assert 1e-4 < np.abs(one - two).max() < 10
    assert not (tmp_path / "tuned" / "unfinished" / "checkpoint-6.json").exists()


def test_a_stopped_training_ends_with_the_same_weights(folder: Path, tmp_path: Path, monkeypatch) -> None:
    stimuli = picture_folder(folder)
    labels, settings = read_labels(folder / "labels.csv", stimuli), FineTuning(steps=4, batch=6, every=2)
    fine_tune(network_path(None), stimuli, labels, tmp_path / "whole", settings=settings, tell=QUIET)
    saved = fine_tuning.save_checkpoint

    def stop(folder, state):
        saved(folder, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(network_path(None), stimuli, labels, tmp_path / "stopped", settings=settings, tell=QUIET)
    monkeypatch.setattr(fine_tuning, "save_checkpoint", saved)
    other = FineTuning(steps=4, batch=5, every=2)
    with pytest.raises(DataError, match="the checkpoint there is of another network"):
        fine_tune(network_path(None), stimuli, labels, tmp_path / "stopped", settings=other, tell=QUIET)
    fine_tune(network_path(None), stimuli, labels, tmp_path / "stopped", settings=settings, tell=QUIET)
    whole, stopped = (store.load_weights(tmp_path / name, "model") for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


def test_classes_are_held_out_each_and_cut() -> None:
    labels = np.array(["a"] * 30 + ["b"] * 10)
    train, test = parts_of(labels, FineTuning(per_class=6))
    assert not set(train) & set(test)
    assert {name: int((labels[train] == name).sum()) for name in "ab"} == {"a": 6, "b": 6}
    assert {name: int((labels[test] == name).sum()) for name in "ab"} == {"a": 6, "b": 2}
    with pytest.raises(DataError, match="class 'c' has one picture"):
        parts_of(np.array(["a", "a", "c"]), FineTuning())


def test_labels_that_do_not_fit_are_one_line(folder: Path, tmp_path: Path) -> None:
    stimuli = picture_folder(folder)
    rows = [f"p{i:02d},x" for i in range(24)]
    for text, message in (
        ("file,label\n" + "\n".join(rows), "every picture is 'x'"),
        ("file,label\n" + "\n".join(rows[1:]), "no label for 'p00' .1 pictures without a label"),
        ("file,label\n" + "\n".join([*rows, "q,y"]), "a label for 'q', which is not found"),
        ("name,kind\na,b", "it needs file and label"),
        ("file,label\n" + "\n".join([*rows[1:], "p00"]), "no label for 'p00'"),
        ("file,label\n" + "\n".join(rows).replace("p07", "p\xff7"), "labels.csv is not UTF-8 text"),
    ):
        (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=message) as caught:
            read_labels(tmp_path / "labels.csv", stimuli)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"none\.csv is missing"):
        read_labels(tmp_path / "none.csv", stimuli)
    for wrong in ({"steps": 0}, {"batch": 1}, {"held": 1.0}, {"lr": 0.0}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            FineTuning(**wrong)
    labels = np.array(["a", "b"] * 12)
    with pytest.raises(DataError, match="is the network's own folder"):
        fine_tune(network_path(None), stimuli, labels, network_path(None), tell=QUIET)
