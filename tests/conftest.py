"""Fixtures that every test room shares."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# One thread: the sizes here are small, and two threads wait for each other when the machine is busy. The environment carries the
# number to the processes that tests start: sums of another number of threads differ in the last bit.
THREADS = os.environ.get("BRAINLENS_TEST_THREADS", "1")
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = THREADS

import matplotlib  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

matplotlib.use("Agg")
settings.register_profile("any machine", deadline=None)  # how long an example takes is the machine's, not the code's
settings.load_profile("any machine")
torch.set_num_threads(int(THREADS))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real recordings; tests that need it are skipped where it is not set."""
    folder = os.environ.get("BRAINLENS_TEST_DATA")
    if not folder:
        pytest.skip("BRAINLENS_TEST_DATA is not set")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """Synthetic results for figures and pages."""
    return module("plots/made_results.py")


@pytest.fixture(scope="session")
def made_verbs() -> ModuleType:
    """Synthetic results of the verbs that draw pictures, words and time courses, and of a group."""
    return module("plots/made_verbs.py")


@pytest.fixture(scope="session")
def chromium() -> ModuleType:
    """A real browser for the pages."""
    return module("report/browser.py")


@pytest.fixture(scope="session")
def made_meg() -> ModuleType:
    """THINGS-MEG in small, in the layout of its release."""
    return module("datasets/made_meg.py")


@pytest.fixture(scope="session")
def made_recordings() -> ModuleType:
    """Named fMRI and EEG recordings in small, in the layouts of their releases."""
    return module("datasets/made_recordings.py")


@pytest.fixture(scope="session")
def made_fmri() -> ModuleType:
    """Further named fMRI recordings in small: files of bdpy, of pandas, and of GLMsingle."""
    return module("datasets/made_fmri.py")


@pytest.fixture(scope="session")
def plain_numbers() -> ModuleType:
    """What the numbers of a run should be, counted by loops."""
    return module("datasets/plain_numbers.py")


@pytest.fixture(scope="session")
def made_pipeline() -> ModuleType:
    """A diffusion folder of the size of a thumb, and responses that were planted in it."""
    return module("models/test_neuro_adapter.py")


@pytest.fixture(scope="session")
def adapting() -> ModuleType:
    """A UNet of the size of a thumb, inputs for it, and a pass through it with an adapter."""
    return module("nn/test_region_adapter.py")


def module(path: str) -> ModuleType:
    """A file of this folder as a module: test folders are no packages, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parent / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="session")
def benchmark_program() -> Iterator[Callable[[str], ModuleType]]:
    """A program of benchmarks/ as a module, by name; they import each other as scripts of one folder do."""
    place = Path(__file__).resolve().parents[1] / "benchmarks"
    before = sys.modules.get("bottleneck")
    sys.path.insert(0, str(place))

    def load(name: str) -> ModuleType:
        own = f"benchmarks_{name}" if name == "bottleneck" else name  # pandas looks for a package of that name
        if own not in sys.modules:
            spec = importlib.util.spec_from_file_location(own, place / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules[own] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[own])
        return sys.modules[own]

    yield load
    sys.path.remove(str(place))
    if before is None:
        sys.modules.pop("bottleneck", None)
