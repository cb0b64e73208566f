"""The documentation as files: every page stands in the navigation, every link leads somewhere, every example is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))
PARTS = {
    "question": r"\A# .*\?$",
    "command": r"^brainlens ",
    "snippet": r"^```python$",
    "figure": r"^!\[.+\]\(gallery/\w+\.png\)$",
    "options": r"^\| option \| what it does \|$",
    "caution": r"^\*\*Cautions\.\*\*",
    "equation": r"^\*\*The equation\.\*\*",
    "source": r"^\*\*The source\.\*\*",
}
ORDER = ("| option |", "**Cautions.**", "**The equation.**", "**The source.**")
VERBS = ("encode", "align", "sensors", "decode", "attribute", "reconstruct", "describe")


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    assert named == set(PAGES) - {"claims_notes.md"}  # which claims.md takes in


@pytest.mark.parametrize("page", [*(f"docs/{name}" for name in PAGES), "README.md", "CONTRIBUTING.md"])
def test_no_link_is_broken(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.split("#")[0]
        if path and not path.startswith("http"):
            assert ((ROOT / page).parent / path).exists(), f"{page}: {target}"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_page_begins_with_what_a_user_needs(verb: str) -> None:
    text = (DOCS / f"{verb}.md").read_text(encoding="utf-8")
    assert text.splitlines()[0].endswith("?"), "the question that it answers"
    assert "brainlens " in text.split("```")[1], "one command first"
    assert missing(text) == []
    assert [part for part in ORDER if part in text] == sorted(ORDER, key=text.index), "the same order on every page"


def missing(text: str) -> list[str]:
    """The parts of a verb's page that it does not have."""
    return [name for name, pattern in PARTS.items() if not re.search(pattern, text, re.M)]


def test_a_page_without_a_part_is_found() -> None:
    text = (DOCS / "encode.md").read_text(encoding="utf-8")
    for name, pattern in PARTS.items():
        assert missing(re.sub(pattern, "", text, flags=re.M)) == [name]


def test_the_house_shows_every_room() -> None:
    rooms = (DOCS / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    source = ROOT / "src" / "brainlens"
    listed = {path.name for path in source.iterdir() if path.is_dir() and (path / "__init__.py").exists()} | {
        "parcels",
        "subjects",
    }
    assert {name for name in listed if not re.search(rf"\b{name}\b", rooms)} == set(), "rooms that the house does not show"


def test_the_gallery_shows_every_example() -> None:
    shown = re.findall(r'--8<-- "examples/(\w+)\.py"', (DOCS / "gallery.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("picture", sorted(path.name for path in (DOCS / "gallery").glob("*")))
def test_every_picture_is_made_by_a_program_and_shown_on_a_page(picture: str) -> None:
    """One that nothing draws any more shows what the library looked like once."""
    programs = [*(ROOT / "examples").glob("*.py"), *(ROOT / "tools").glob("*.py")]
    assert [path.name for path in programs if picture in path.read_text(encoding="utf-8")]
    pages = [*(DOCS / name for name in PAGES), ROOT / "README.md"]
    assert [page.name for page in pages if f"gallery/{picture})" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", [*(f"docs/{name}" for name in PAGES), "README.md", "CONTRIBUTING.md"])
def test_listings_begin_in_a_way_that_the_site_reads(page: str) -> None:
    """A further word behind the language is no listing to mkdocs: the page shows the backticks and swallows headings."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    fences = [line for line in lines if line.startswith("```")]
    assert [line for line in fences if not re.fullmatch(r'```(\w+( title="\w+")?)?', line)] == []
    assert len(fences) % 2 == 0
