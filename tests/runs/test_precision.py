"""The precision of sensor encoders follows a quick check, which is said and stored; one that is named is not checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from brainlens import store
from brainlens.align import run_sensors
from brainlens.align.run_sensors import run_align_sensors
from brainlens.align.sensor_options import SensorOptions
from brainlens.datasets.source import Source
from brainlens.models.sensors import precision


@pytest.mark.parametrize(
    "float32, bfloat16, chosen",
    [(1.0, 1.3, "float32"), (1.0, 1.0, "float32"), (1.0, 0.9, "float32"), (1.0, 0.5, "bfloat16"), (0.01, 0.002, "bfloat16")],
)
def test_half_precision_has_to_be_clearly_faster(float32: float, bfloat16: float, chosen: str) -> None:
    assert precision.faster({"float32": float32, "bfloat16": bfloat16}) == chosen


def test_the_check_times_both_and_leaves_the_generator() -> None:
    before = torch.random.get_rng_state()
    found = precision.step_seconds((7, 120), trials=8)
    assert set(found) == {"float32", "bfloat16"}
    assert all(0 < value < 60 for value in found.values())
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_check_reports_the_times_that_it_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "step_seconds", lambda shape, device: {"float32": 0.1, "bfloat16": 0.02})
    chosen, said = precision.quick_check((3, 60))
    assert chosen == "bfloat16"
    assert (
        said == "precision bfloat16: a step of 32 trials takes float32 100 ms, bfloat16 20 ms here; --precision chooses another"
    )


def test_the_answer_holds_for_the_next_check_of_such_recordings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times = iter([0.02, 0.2, 0.3])
    monkeypatch.setattr(precision, "step_seconds", lambda shape, device: {"float32": 0.1, "bfloat16": next(times)})
    first = precision.quick_check((3, 60), "cpu", tmp_path / "prepared")
    assert first[0] == "bfloat16"
    assert precision.quick_check((3, 60), "cpu", tmp_path / "prepared") == first  # not timed again
    assert precision.quick_check((4, 60), "cpu", tmp_path / "prepared")[0] == "float32"
    (tmp_path / "prepared" / "precision.json").write_text("{}")
    assert precision.quick_check((3, 60), "cpu", tmp_path / "prepared")[0] == "float32"


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    centre = np.random.default_rng(0).normal(size=(24, 12)).astype(np.float32)
    np.save(folder / "center_clip.npy", centre)
    np.save(folder / "clip_feature_maps_test.npy", centre[:, None])
    return folder


@pytest.mark.parametrize(
    "options, used",
    [
        (SensorOptions(("nice",), epochs=1, repeats=2), "bfloat16"),
        (SensorOptions(("nice",), epochs=1, repeats=2, precision="float32"), "float32"),
        (SensorOptions(("linear",), epochs=1, repeats=2), None),
    ],
)
def test_a_run_takes_what_the_check_says(
    options: SensorOptions, used: str | None, embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said = [], []

    def check(shape: tuple[int, int], device: str, folder: Path) -> tuple[str, str]:
        asked.append(tuple(shape))
        return "bfloat16", "what the check says"

    monkeypatch.setattr(run_sensors, "quick_check", check)
    source = Source("phantom_eeg", embeddings, n_train=60)
    folder, _ = run_align_sensors(source, tmp_path, options, tell=lambda text, share=None: said.append(text))
    result = store.load_result(folder)
    checked = options.precision is None and "nice" in options.encoders
    assert len(asked) == checked
    assert ("what the check says" in said) == checked
    assert result.provenance["precision_check"] == ("what the check says" if checked else "")
    assert result.config["options"]["precision"] == used
