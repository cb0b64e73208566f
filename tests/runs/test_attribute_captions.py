"""`attribute --captions`: an encoder aligned with one source of captions, explained with another one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from brainlens import store
from brainlens.align.run import run_align
from brainlens.attribute.brain import Options
from brainlens.attribute.run import Ask, reopen, run_attribute
from brainlens.attribution.bottleneck import Bottleneck
from brainlens.backbones import clip as clips
from brainlens.cli import app
from brainlens.datasets.source import Source, network_folder, open_stimuli
from brainlens.models.volume.stored import volume_aligner
from brainlens.types import DataError

SOURCE = Source(n_train=60, n_test=10)
FAST = Options(masks=8, path=2, flips=50, bottleneck=Bottleneck(steps=2, copies=2))
WORDS = Ask(of="words", target="image", method="chefer", trials=2)


def quiet(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def aligned(runs: Path) -> Path:
    """A run that was aligned with captions of a file: the phantom's, with a word before each."""
    stimuli = open_stimuli(SOURCE)
    other = {str(name): [f"there {c[0]}"] for name, c in zip(stimuli.ids, stimuli.captions, strict=True)}
    store.save_json(runs / "longer.json", other)
    source = replace(SOURCE, captions=str(runs / "longer.json"))
    return run_align(source, runs, encoders=["volume"], training_steps=2, tell=quiet)[0]


def test_the_captions_of_a_map_are_those_that_were_asked_for(aligned: Path, runs: Path) -> None:
    own, _ = run_attribute(aligned, runs, ask=WORDS, options=FAST, captions="own", tell=quiet)
    default, _ = run_attribute(aligned, runs, ask=WORDS, options=FAST, tell=quiet)
    assert own != default
    found = {name: store.load_result(place) for name, place in (("own", own), ("default", default))}
    assert found["own"].config["captions"] == "own"
    assert found["default"].config["captions"] == str(runs / "longer.json")
    captions = open_stimuli(SOURCE).take(found["own"].arrays["ids"]).captions
    assert list(found["own"].tables["words"]["word"]) == " ".join(c[0] for c in captions).split()
    assert list(found["default"].tables["words"]["word"]) == " ".join(f"there {c[0]}" for c in captions).split()


def test_text_targets_are_the_other_captions_around_the_encoders_centre(aligned: Path) -> None:
    model = volume_aligner(aligned)
    again = reopen(aligned, model, captions="own", tell=quiet)
    stimuli = open_stimuli(SOURCE).take(again.split.test.ids)
    network = clips.load_clip(network_folder(SOURCE))
    raw = clips.embed_texts(network, stimuli.captions, stimuli.ids)["text"] - model.centre_["text"]
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert again.split.test.text is not None
    np.testing.assert_allclose(again.split.test.text.numpy(), expected, atol=1e-5)
    before = reopen(aligned, model, tell=quiet).split.test.text
    assert before is not None
    assert np.abs(before.numpy() - expected).max() > 0.01


def test_a_source_that_is_not_there_is_named(aligned: Path, runs: Path) -> None:
    with pytest.raises(DataError, match="'coco' is not available; available: own"):
        run_attribute(aligned, runs, ask=WORDS, options=FAST, captions="coco", tell=quiet)


def test_a_run_that_learned_no_texts_is_refused(runs: Path) -> None:
    bare, _ = run_align(replace(SOURCE, captions="none"), runs, encoders=["volume"], training_steps=2, tell=quiet)
    with pytest.raises(DataError, match=r"aligned without captions.*align with captions first"):
        run_attribute(bare, runs, ask=WORDS, options=FAST, captions="own", tell=quiet)


def test_captions_are_a_part_of_the_request_and_the_default_is_none(aligned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    command = sys.modules["brainlens.cli.attribute"]  # the package names the function of it likewise
    monkeypatch.setattr(command, "carry_out", lambda task, runs, request, *more, **options: asked.append(dict(request)))
    for more in ([], ["--captions", "own"]):
        done = CliRunner().invoke(app, ["attribute", str(aligned), "--of", "words", *more])
        assert done.exit_code == 0, done.output
    assert "captions" not in asked[0]  # finished runs of before the option are found
    assert asked[1] == asked[0] | {"captions": "own"}
