"""EEG and MEG: where no encoder is named, the key numbers are of the one that finds validation images best."""

from __future__ import annotations

from pathlib import Path

import pytest

from brainlens import store
from brainlens.align.headline import spoken
from brainlens.align.run_sensors import run_align_sensors
from brainlens.align.sensor_options import QUICK, SensorOptions
from brainlens.datasets import examples
from brainlens.datasets.source import Source


def silent(text: str, share: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "eeg"
    examples.write_example("epochs", folder)
    return folder


def test_the_headline_of_own_eeg_is_chosen_on_validation_and_named(own: Path, tmp_path: Path) -> None:
    source = Source("epochs", own)
    folder, rows = run_align_sensors(source, tmp_path / "free", SensorOptions(), tell=silent)
    result = store.load_result(folder)
    scores = {name: result.metrics[f"align/{name}/validation/mrr"] for name in QUICK}
    main = result.config["main"]
    assert scores[main] == max(scores.values())
    assert result.config["main_by"] == "validation images"
    assert result.config["encoders"][-1] == main == result.config["encoder"]
    assert spoken(result).startswith(f"headline: {main}, the best on {result.metrics['data/validation_images']:.0f} validation")
    comparison = result.tables["comparison"].set_index("encoder")
    key = "retrieval/brain->image/top5"
    assert result.metrics[key] == comparison.loc[main, key]
    other = next(name for name in QUICK if name != main)
    assert rows[0]["metric"].startswith(f"{other}: ")
    named, _ = run_align_sensors(source, tmp_path / "named", SensorOptions((other,)), tell=silent)
    kept = store.load_result(named)
    assert "main_by" not in kept.config
    assert spoken(kept) == ""
    assert kept.metrics[key] == comparison.loc[other, key]
