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
        (0.009, "< .01", "met"), (0.66, ".642 +- .03", "met"), (0.68, ".642 +- .03", "**missed**"), (0.5, ".5", "met"),
        (None, ">= .8", "undefined"), (0.5, ">= .6, or >= .9 of ideal", "**missed**"), (0.46, ">= .6, or >= .9 of best", "met"),
        (0.44, ">= .6, or >= .9 of best", "**missed**"), (0.7, ">= .6, or >= .9 of best", "met"),
        (0.5, ">= .9 of ideal", "no verdict: `ideal` is not run"),
    ],
)  # fmt: skip
def test_a_number_meets_its_target_or_misses_it(value, target, said):
    assert claims_page.verdict(value, target, {"best": 0.5}) == said


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


def scores(**given: tuple[float, float, float]) -> dict[str, float]:
    """{key: (value, low, high)} as metrics."""
    return {f"{key}{end}": value for key, each in given.items() for end, value in zip(("", ".low", ".high"), each, strict=True)}


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ((0.9, 0.85, 0.95), "met"),
        ((0.68, 0.61, 0.73), "**not shown**: the intervals overlap, `b` 0.600"),
        ((0.55, 0.5, 0.75), "**missed**: below `b`, 0.600"),
        ((0.3, 0.2, 0.4), "**missed**: below `b`, 0.600"),
        ((0.6, 0.5, 0.7), "**missed**: equal to `b`, 0.600"),
        ((0.995, 0.985, 1.0), "**not shown**: the intervals overlap, `top` 1.000"),
        ((1.2, 1.1, 1.3), "**missed**: above `top`, 1.000"),
    ],
)
def test_a_score_is_held_against_its_neighbours(own: tuple[float, float, float], said: str) -> None:
    metrics = scores(own=own, a=(0.3, 0.2, 0.4), b=(0.6, 0.5, 0.7), top=(1.0, 0.99, 1.0))
    target = claims_page.Versus("highest below top", above=("not/run", "a", "b"), below=("top",))
    assert claims_page.verdict(own[0], target, metrics, "own") == said
    page = claims_page.target_table(metrics, {"own": target})
    assert page[-1].endswith(f"| highest below top | {said} |")


def test_a_neighbour_that_was_not_run_gives_no_verdict() -> None:
    target = claims_page.Versus("above ridge", above=("ridge",))
    assert claims_page.verdict(0.5, target, scores(own=(0.5, 0.4, 0.6)), "own") == "no verdict: `ridge` is not run"


def test_a_score_at_chance_holds_it_in_its_interval() -> None:
    metrics = scores(near=(0.002, 0.0, 0.005), far=(0.57, 0.55, 0.58)) | {"chance": 0.001}
    assert claims_page.verdict(0.002, claims_page.Versus("at chance", at="chance"), metrics, "near") == "met"
    assert claims_page.verdict(0.57, ".5", metrics, "far") == "**missed**: the interval does not hold 0.500"
    assert claims_page.verdict(0.002, claims_page.Versus("at chance", at="none"), metrics, "near").startswith("no verdict")


def test_words_without_a_neighbour_are_no_target() -> None:
    with pytest.raises(ValueError, match="Versus"):
        claims_page.verdict(0.5, "highest", {}, "own")


def test_every_target_of_the_claims_has_a_verdict() -> None:
    """Of the figures as they are kept: a verdict, or that something was not run."""
    sys.path.insert(0, str(FILE.parent))
    claims = importlib.import_module("claims")
    metrics = claims.store.read_json(claims.CLAIMS / "result.json")["metrics"]
    for line in claims_page.target_table(metrics, claims.TARGETS)[2:]:
        said = line.rsplit("|", 2)[1].strip()
        assert said == "met" or said.startswith(("**missed**", "**not shown**", "not run", "no verdict", "undefined")), line


def test_labels_stand_on_their_own() -> None:
    """A row may be absent, so that none may mean the one above it; and no table has a label twice."""
    for table in claims_page.TABLES:
        heads = [head for head, _ in table.rows]
        assert len(set(heads)) == len(heads), table.title
        assert not [head for head in heads if head.startswith(("the same", "that ", "its ", "without "))]


def test_the_control_world_of_eeg_stands_alone() -> None:
    """Rows of the other brain have a heading and a number of subjects of their own."""
    ran = {"eeg/control/neuroalign/within/top1": 0.1, "eeg/control/neuroalign/within/subjects": 3.0}
    other = "eeg/no_saliency_guidance/within"
    more = {f"{other}/top1": 0.2, f"{other}/subjects": 5.0, "eeg/no_saliency/difference/no_saliency_guidance/within/top1": 0.05}
    page = claims_page.page({"eeg_control": group(ran), "eeg": group(more)}, {}, {}, lambda _: [])
    control, signs, parts = page.partition("## Is it the target")[2].split("\n## ")[:3]
    assert "| NeuroAlign | 3 | 0.100 |" in control
    assert "guidance" not in control
    assert "| filtered, printed sign: printed | 3 | 0.100 |" in signs
    assert "| NeuroAlign without saliency and guidance | 5 | 0.200 | 0.050 |" in parts


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
