"""The command line as a user sees it, and a small recording in a plain folder to be spoilt."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from brainlens.cli import main

Spoil = Callable[[Path], None]


def module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parents[1] / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@dataclass
class Case:
    """What a row of the table is tried with: an own folder, a place for runs, and the command line."""

    tmp: Path
    own: Path
    patch: pytest.MonkeyPatch
    capture: Any
    bomb: Spoil

    def say(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command; warnings are said and are no errors."""
        self.patch.setattr(sys, "argv", ["brainlens", *map(str, arguments)])
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)  # and not into a list
            with pytest.raises(SystemExit) as end:
                main()
        said = self.capture.readouterr()
        return int(end.value.code or 0), said.out, said.err

    def refused(self, *arguments: object) -> str:
        """The one line of error of a command that ends with exit code 2."""
        code, out, err = self.say(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2, (code, out, err)
        assert len(lines) == 1, err
        assert "Traceback" not in err
        return lines[0]

    def encode(self, *more: object, data: Path | None = None, dataset: str = "folder") -> tuple[object, ...]:
        return ("encode", "--dataset", dataset, "--data", data or self.own, "--runs", self.tmp / "runs", *more)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "data"
    module("datasets/test_own_folder.py").write(folder)
    return folder


@pytest.fixture
def case(
    written: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    bomb: Spoil,
) -> Case:
    return Case(tmp_path, Path(shutil.copytree(written, tmp_path / "own")), monkeypatch, capfd, bomb)


@pytest.fixture(scope="session")
def bomb() -> Spoil:
    """Writes a .nii.gz whose 216 MB of zeros pack to one."""

    def write(path: Path) -> None:
        header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).header
        header.set_data_shape((600, 600, 600))
        header["vox_offset"] = 352
        with gzip.open(path, "wb", compresslevel=1) as handle:
            handle.write(header.binaryblock + b"\0" * 4)
            for _ in range(27):
                handle.write(bytes(8_000_000))

    return write


@cache
def table_of_readers() -> ModuleType:
    return module("faults/readers.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `reader` is tried with the name of each reader."""
    if "reader" in metafunc.fixturenames:
        metafunc.parametrize("reader", list(table_of_readers().TABLE))


@pytest.fixture(scope="session")
def readers() -> ModuleType:
    """The readers of the library, and writers of what they read in small."""
    return table_of_readers()


@pytest.fixture(scope="session")
def writers(readers: ModuleType) -> dict[str, ModuleType]:
    """Modules of tests that write recordings and weights of others in small."""
    return {name: readers.writer(name) for name in readers.FILES}


@pytest.fixture(scope="session")
def fuzzing() -> ModuleType:
    """Mutations of files, and what a reader made of them."""
    return module("faults/fuzzing.py")
