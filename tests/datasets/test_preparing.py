"""`brainlens prepare`: a recording is converted once, goes on where it was stopped, and is what it is without."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from brainlens import datasets
from brainlens.cli import app
from brainlens.datasets import nsd
from brainlens.types import DataError


@pytest.fixture(autouse=True)
def short_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsd, "TRIALS", 60)
    monkeypatch.setattr(nsd, "RUN_TRIALS", (5,) * 12)
    monkeypatch.setattr(nsd, "SESSIONS", (2,) * 8)


def prepare(*arguments: object) -> str:
    found = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    if found.exception is not None:
        raise found.exception
    return found.output


def test_a_stopped_conversion_goes_on_and_later_commands_read_it(
    made_recordings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_recordings.write_nsd(tmp_path / "data")
    given = ("--dataset", "nsd", "--data", tmp_path / "data", "--subject", "1", "--out", tmp_path / "cache")
    plain = nsd.load(tmp_path / "data").responses
    real, read = nsd._nifti, []

    def counted(path: Path, space: object) -> np.ndarray:
        read.append(path.name)
        if read == ["betas_session01.nii.gz", "betas_session02.nii.gz"]:
            raise KeyboardInterrupt
        return real(path, space)

    monkeypatch.setattr(nsd, "_nifti", counted)
    assert CliRunner().invoke(app, ["prepare", *map(str, given)]).exit_code != 0
    said = prepare(*given)
    assert read.count("betas_session01.nii.gz") <= 2  # what was written is read again only to go past it
    assert "read it by --option cache=" in said
    assert f"{len(plain.data):,}" in said
    seen = len(read)
    kept = datasets.load("nsd", tmp_path / "data", cache=str(tmp_path / "cache")).responses
    assert isinstance(kept.data, np.memmap)
    np.testing.assert_allclose(kept.data, plain.data, rtol=1e-3, atol=1e-3)
    prepare(*given)
    assert len(read) == seen  # nothing is left to do


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("--dataset", "folder", "--data", "."),
            "folder is read from its files as they are; those that are converted once are nsd",
        ),
        (("--dataset", "nsd", "--data", ".", "--option", "cache=x"), "given by --out"),
        (("--dataset", "nsd", "--data", ".", "--subject", "one"), "numbers its subjects 1, 2, 3"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [str(tmp_path) if each == "." else each for each in arguments]
    with pytest.raises(DataError, match=message):
        prepare(*given, "--out", tmp_path / "cache")
