"""`captions --with-captions`: the shipped captioner is told what is known of each picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainlens import store
from brainlens.datasets.captioning import run_captions
from brainlens.datasets.source import Source
from brainlens.types import DataError


def quiet(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for k, color in enumerate(("red", "blue")):
        Image.fromarray(np.full((32, 32, 3), 90 * k, np.uint8)).save(folder / f"{color}.png")
        rows.append({"file": f"{color}.png", "captions": [f"a {color} hammer"]})
    store.save_json(folder / "manifest.json", rows)
    return folder


def test_the_known_captions_begin_those_of_the_shipped_captioner(pictures: Path, tmp_path: Path) -> None:
    place, _ = run_captions(
        Source(), tmp_path / "out", model="miniature", images=pictures, known="own", prompt="{captions} there is", tell=quiet
    )
    assert place.name == "miniature_with_own.json"
    kept = store.read_json(place)
    assert kept["facts"]["with_captions"] == "own"
    assert kept["facts"]["prompt"] == "{captions} there is"
    for color in ("red", "blue"):
        assert kept["captions"][color][0].replace(".", "").split()[:5] == ["a", color, "hammer", "there", "is"]


@pytest.mark.parametrize(
    ("known", "prompt", "said"),
    [("own", None, "follows no instruction"), ("coco", "{captions}", "'coco' is not available; available: own")],
)
def test_what_cannot_be_told_is_one_line(pictures: Path, tmp_path: Path, known: str, prompt: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        run_captions(Source(), tmp_path / "out", model="miniature", images=pictures, known=known, prompt=prompt, tell=quiet)
