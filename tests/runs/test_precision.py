"""The precision of sensor encoders follows the processor, which is said and stored; one that is named is not asked for."""

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
    "amx, limit, chosen",
    [
        (True, None, "bfloat16"), (True, "DEFAULT", "bfloat16"), (True, "AVX512_CORE_AMX", "bfloat16"),
        (True, "AVX2", "float32"), (True, "avx512_core_bf16", "float32"), (False, None, "float32"), (False, "AVX2", "float32"),
    ],
)  # fmt: skip
def test_half_precision_is_for_matrix_units(amx: bool, limit: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    found, said = precision.quick_check("cpu")
    assert found == chosen
    assert said == f"precision {chosen}: cpu has {'no ' if chosen == 'float32' else ''}matrix units for bfloat16; " + (
        "--precision chooses another"
    )


@pytest.mark.parametrize(
    "there, supported, chosen", [(True, True, "bfloat16"), (True, False, "float32"), (False, True, "float32")]
)
def test_a_gpu_says_whether_it_has_them(there: bool, supported: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert precision.quick_check("cuda:0")[0] == chosen


def test_the_same_machine_gives_the_same_answer() -> None:
    assert len({precision.quick_check() for _ in range(20)}) == 1


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

    def check(device: str) -> tuple[str, str]:
        asked.append(device)
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
