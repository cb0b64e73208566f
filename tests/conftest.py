"""Fixtures that every test room shares."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
# one thread: the sizes here are small, and two threads wait for each other when the machine is busy
torch.set_num_threads(int(os.environ.get("BRAINLENS_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real recordings; tests that need it are skipped where it is not set."""
    folder = os.environ.get("BRAINLENS_TEST_DATA")
    if not folder:
        pytest.skip("BRAINLENS_TEST_DATA is not set")
    return Path(folder).resolve()
