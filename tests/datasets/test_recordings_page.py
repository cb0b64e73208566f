"""Numbers of docs/recordings.md follow from sizes: gigabytes, seconds, steps and operations of NSD's first subject."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from brainlens.datasets import nsd
from brainlens.datasets.nsd_mni import mni_brain
from brainlens.models.volume.presets import preset

ROOT = Path(__file__).parents[2]
VOXELS, PICTURES, TRAINED = 15_724, 10_000, 9_000  # of nsdgeneral; images that the subject saw, and those for training


@pytest.fixture(scope="module")
def rows() -> dict[str, str]:
    """First cell -> line of the table of NSD's sizes and times."""
    text = (ROOT / "docs" / "recordings.md").read_text()
    part = text[text.index("NSD from download to a run") : text.index("### THINGS-fMRI, BOLD5000")]
    return {line.split("|")[1].strip(): line for line in part.splitlines() if line.startswith("| ")}


def row(rows: dict[str, str], word: str) -> str:
    (found,) = [line for name, line in rows.items() if name.startswith(word)]
    return found


def test_gigabytes_follow_from_shapes(rows: dict[str, str]) -> None:
    trials = nsd.SESSIONS[0] * nsd.TRIALS
    assert f"{trials * 81 * 104 * 83 * 2 / 1e9:.0f} GB" in row(rows, "betas")
    assert f"{73_000 * 425**2 * 3 / 1e9:.0f} GB" in row(rows, "pictures")
    kept = row(rows, "`cache`")
    assert f"{trials * VOXELS * 2 / 1e9:.1f} GB" in kept
    assert f"{trials * VOXELS * 4 / 1e9:.1f} GB" in kept
    assert f"{trials * mni_brain().sum() * 2 / 1e9:.0f} GB" in row(rows, "`align --preset paper`")
    assert f"{130 * TRAINED * 12 * 768 / 1e9:.1f} GB" in row(rows, "layers of a ViT-B")


def test_hours_follow_from_products(rows: dict[str, str]) -> None:
    rate = 93.7e9  # multiply-adds a second of two cores, docs/benchmarks.md
    blocks = 12 * (12 * 768**2 * 197 + 2 * 197**2 * 768) + 196 * 768**2
    line = row(rows, "layers of a ViT-B")
    assert f"{blocks / 1e9:.1f}e9 multiply-adds" in line
    assert f"{PICTURES * blocks / rate / 60:.0f} min on two cores" in line
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from cost import Size
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    whole, ours = (Size(n, layers=12, channels=768).work()[:3].sum() for n in (37_984, VOXELS))
    low, high = (seconds * ours / whole for seconds in (0.725, 0.96))  # a step of the larger one: measured, and predicted once
    found = re.search(r"([\d.]+) to ([\d.]+) s a step", row(rows, "FactorTopy"))
    assert found is not None
    assert [float(each) for each in found.groups()] == pytest.approx([low, high], abs=0.006)


def test_steps_and_operations_of_the_papers_form(rows: dict[str, str]) -> None:
    chosen, mask = preset("paper"), mni_brain()
    edge, width = chosen.design.patch, chosen.design.width
    padded = np.pad(mask, [(0, -n % edge) for n in mask.shape])
    a, b, c = (n // edge for n in padded.shape)
    tokens = 1 + int(padded.reshape(a, edge, b, edge, c, edge).any(axis=(1, 3, 5)).sum())
    forward = chosen.design.depth * (12 * width**2 * tokens + 2 * tokens**2 * width) + tokens * edge**3 * width
    step = 2 * 4 * forward * chosen.training.batch  # twice a multiply-add; forward, again for the backward pass, and twice back
    steps = chosen.training.on(TRAINED).steps
    line = row(rows, "`align --preset paper`")
    assert f"{round(steps, -1):,} steps of {step / 1e12:.0f}e12 operations: {steps * step / 150e12 / 3600:.1f} h" in line
