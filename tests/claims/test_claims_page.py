"""The page of claims: every target with its verdict, a table a question, nothing that was not run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "tools" / "claims_page.py"
SPEC = importlib.util.spec_from_file_location("claims_page", FILE)
assert SPEC is not None
assert SPEC.loader is not None
claims_page = importlib.util.module_from_spec(SPEC)
sys.modules["claims_page"] = claims_page
SPEC.loader.exec_module(claims_page)

KEY = "align/volume/retrieval/brain->image/top1"


def group(metrics: dict[str, float], date: str = "2026-11-28") -> dict[str, object]:
    return {"date": date, "commit": "abc", "device": "cpu", "scale": "full", "metrics": metrics}


@pytest.mark.parametrize(
    "value, target, said",
    [
        (0.8, ">= .8", "met"), (0.799, ">= .8", "**missed**"), (0.15, "<= .15", "met"), (0.0, "> 0", "**missed**"),
        (0.009, "< .01", "met"), (0.66, ".642 +- .03", "met"), (0.68, ".642 +- .03", "**missed**"), (0.5, "highest", ""),
        (None, ">= .8", "undefined"),
    ],
)  # fmt: skip
def test_a_number_meets_its_target_or_misses_it(value, target, said):
    assert claims_page.verdict(value, target, {}) == said


@pytest.mark.parametrize(
    ("low", "high", "target", "said"),
    [
        (-0.1, 0.2, "> 0", "**not shown**: the interval holds 0"),
        (0.01, 0.2, "> 0", "met"),
        (-0.1, 0.2, ">= 0", "met"),
        (-0.1, 0.2, "< .15", "**not shown**: the interval holds .15"),
    ],
)
def test_a_difference_is_shown_by_its_interval(low: float, high: float, target: str, said: str) -> None:
    assert claims_page.verdict(0.1, target, {"a": 0.1, "a.low": low, "a.high": high}, "a") == said


def test_a_row_has_value_interval_and_what_it_was():
    groups = {"align": group({KEY: 0.9, f"{KEY}.low": 0.85, f"{KEY}.high": 0.95})}
    page = claims_page.page(groups, {KEY: 0.7}, {KEY: ">= .95", "encode/none": ">= .1"}, lambda _: ["JUDGES"])
    assert "| `volume`, our default | 0.900 (0.850 to 0.950), was 0.700 |" in page
    assert f"| `{KEY}` | 0.900 | 0.850 to 0.950 | >= .95 | **missed** |" in page
    assert "| `encode/none` |  |  | >= .1 | not run |" in page
    assert "image->brain" not in page  # a column without a figure is left out
    assert "Not run yet (`make claims ONLY=encode`)" in page
    assert "JUDGES" not in page
    older = claims_page.page({"align": group({KEY: 0.9}, "2026-11-26"), "judges": group({})}, {}, {}, lambda _: ["JUDGES"])
    assert "before their rebuild." in older
    assert "JUDGES" in older


def test_where_figures_were_measured_is_asked_of_the_machine():
    import torch

    before = torch.get_num_threads()
    try:
        for threads, said in ((1, "1 thread"), (2, "2 threads")):
            torch.set_num_threads(threads)
            assert claims_page.where().endswith(f", {torch.backends.cpu.get_cpu_capability()}, {said}")
    finally:
        torch.set_num_threads(before)
