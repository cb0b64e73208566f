"""The examples of each layout: what is written is opened again, and an audit finds no error in it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from brainlens import datasets
from brainlens.datasets import examples
from brainlens.datasets.audit import audit
from brainlens.types import DataError


@pytest.mark.parametrize("layout", examples.LAYOUTS)
def test_an_example_opens_and_passes_its_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setattr(examples, "TRAIN", 24)
    monkeypatch.setattr(examples, "TEST", 8)
    out = tmp_path / "example"
    files = examples.write_example(layout, out)
    assert datasets.recognised(out) == layout
    found = audit(layout, out)
    assert [one for one in found if one.level == "error"] == []
    responses, stimuli = datasets.load(layout, out)
    assert len(stimuli) == 32
    assert responses.where(split="test").trials["stimulus"].nunique() == 8
    assert np.asarray(stimuli.images[0]).shape == (64, 64, 3)
    assert all(stimuli.captions)
    assert len(files) == sum(path.is_file() for path in out.rglob("*"))
    assert all(layout in command or "check" in command or "runs" in command for command in examples.next_commands(layout, out))
    (named,) = [word for command in examples.next_commands(layout, out) for word in re.findall(r"--target (\w+)", command)] or [
        ""
    ]
    assert (layout == "epochs") == bool(named)
    assert not named or responses.trials[named].value_counts().min() >= 10  # the documented command has two conditions to tell
    with pytest.raises(DataError, match="not empty"):
        examples.write_example(layout, out)


def test_an_unknown_layout_lists_the_known() -> None:
    with pytest.raises(DataError, match="layout 'xyz' is not one of folder, epochs, bids"):
        examples.write_example("xyz", "nowhere")
