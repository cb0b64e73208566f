"""Figures in the pages: what is written is what the files hold, and words stand as long as the figures bear them out."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {
    "encode": {
        "date": "2026-11-29",
        "device": "cpu, 2 cores, 1 thread",
        "scale": "full",
        "commit": "abc",
        "metrics": {"encode/a": 0.3249, "encode/a.low": 0.318, "encode/a.high": 0.331, "encode/b": 0.965, "encode/c": -0.0004},
    }
}
NOTE = "*Measured by `make claims ONLY=encode`, 2026-11-29 (cpu, 2 cores, 1 thread, size: full, commit abc).*"
MARKS = "\n<!-- measured: written by tools/claims.py -->\n{}\n<!-- end of measured -->\n"


def tool(name: str) -> ModuleType:
    """A program of tools/ as a module."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.insert(0, str(ROOT / "tools"))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def guide() -> ModuleType:
    return tool("guide_page")


def test_the_pages_say_what_was_measured() -> None:
    """`make tables` writes new figures; words that these deny are changed by hand."""
    texts, wrong = tool("claims").pages()
    assert wrong == []
    stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make tables`"
    marked = [path.name for path, text in texts.items() if tool("guide_page").BEGIN.search(text)]
    assert {"encode.md", "align.md", "attribute.md", "reconstruct.md", "sensors.md", "describe.md"} <= set(marked)


def test_the_page_of_the_benchmarks_says_what_was_measured() -> None:
    bench, docs = tool("bench"), ROOT / "docs"
    text = bench.page(json.loads((docs / "benchmarks.json").read_text(encoding="utf-8")), bench.GOALS, bench.NAMES)
    assert (docs / "benchmarks.md").read_text(encoding="utf-8") == text, "run `make tables`"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".9<!-- encode/a -->", ".3<!-- encode/a -->"),
        ("R2 0.111 (.1 to .2)<!-- encode/a --> of", "R2 .325 (.318 to .331)<!-- encode/a --> of"),
        ("9 %<!-- encode/a -->", "32 %<!-- encode/a -->"),
        ("1.00<!-- encode/b -->", ".97<!-- encode/b -->"),  # a half is rounded up, whatever its binary form
        ("-.12<!-- encode/c -->", ".00<!-- encode/c -->"),
        ("(.1<!-- encode/a --> or .2<!-- encode/b -->)", "(.3<!-- encode/a --> or 1.0<!-- encode/b -->)"),
    ],
)
def test_a_figure_is_written_in_the_form_that_it_has(guide: ModuleType, old: str, new: str) -> None:
    assert guide.filled(old + MARKS.format("old"), GROUPS) == (new + MARKS.format(NOTE), [])


def test_a_table_has_the_rows_that_were_measured_and_says_where(guide: ModuleType) -> None:
    metrics = {"encode/ridge/r2_mean": 0.28, "encode/ridge/r2_mean.low": 0.27, "encode/ridge/r2_mean.high": 0.29}
    groups = {"encode": GROUPS["encode"] | {"metrics": metrics}}
    page = "Before\n<!-- encode: written by tools/claims.py -->\n| old |\n<!-- end of encode -->\nafter"
    text, wrong = guide.filled(page, groups)
    rows = "| | R2, 9,000 images |\n|---|---|\n| ridge, best layer of each voxel | 0.280 (0.270 to 0.290) |\n"
    assert text == page.replace("| old |\n", f"{rows}\n{NOTE}\n")
    assert wrong == []
    assert guide.filled(text, groups) == (text, [])  # again the same


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- true while encode/a > encode/b -->", ["not true any more: encode/a > encode/b"]),
        ("<!-- true while encode/c < encode/a <\n encode/b; encode/a > .3 -->", []),
        ("<!-- true while encode/b > encode/a > .33; encode/c < 0 -->", ["not true any more: encode/b > encode/a > .33"]),
        ("<!-- true while encode/a >= encode/c -->", ["not true any more: encode/a >= encode/c"]),  # no such sign
        ("<!-- true while encode/b > encode/none -->", ["no group has encode/none", "not true any more: encode/b > encode/none"]),
        (".5<!-- encode/none -->", ["no group has encode/none"]),
        ("it is high<!-- encode/a -->" + MARKS.format(""), ["no number stands before <!-- encode/a -->"]),
        (".325<!-- encode/a -->", ["nothing says when encode was measured; put the marks of `measured` at the end"]),
        ("<!-- other: written by tools/claims.py -->\n<!-- end of other -->", ["no table other, or no end of it"]),
        ("<!-- encode: written by tools/claims.py -->\nno end", ["no table encode, or no end of it"]),
    ],
)
def test_what_a_person_has_to_change_is_said(guide: ModuleType, text: str, said: list[str]) -> None:
    assert guide.filled(text, GROUPS)[1] == said


def test_a_figure_without_a_key_in_the_files_stays(guide: ModuleType) -> None:
    assert guide.filled(".5 (.4 to .6)<!-- encode/b -->", GROUPS)[0] == ".5 (.4 to .6)<!-- encode/b -->"  # it has no interval


def test_a_part_of_a_page_needs_both_of_its_marks() -> None:
    between = tool("marks").between
    assert between("a\n<!-- x: written by tools/p.py -->\nold\n<!-- end of x -->\nb", "x", "p", "new").split("\n")[2] == "new"
    for text in ("", "<!-- x: written by tools/p.py -->", "<!-- end of x -->"):
        with pytest.raises(ValueError, match="missing"):
            between(text, "x", "p", "new")


def test_no_comment_ends_a_paragraph_in_its_middle(guide: ModuleType) -> None:
    """A comment that begins a line is a block of its own on GitHub: what follows it on the next line would be a new paragraph."""
    for path in guide.PAGES:
        lines = path.read_text(encoding="utf-8").splitlines()
        begun = [i for i, line in enumerate(lines) if line.startswith("<!-- true while")]
        for i in begun:
            last = next(j for j in range(i, len(lines)) if lines[j].endswith("-->"))
            assert (lines + [""])[last + 1] == "", f"{path.name}, line {last + 2}"
