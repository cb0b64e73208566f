"""The words of messages: what is looked for is "not found", what a layout needs is "missing", and the field's terms stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "brainlens"
FILES = sorted(SOURCE.rglob("*.py"))
HOUSEHOLD = re.compile(
    r"\b(not there|not here|does not exist|do not exist|no such|is there already|is there and|left the finite numbers"
    r"|better than it is|a gamble|ran into a corner|are round|stays open|nothing here has)\b"
)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Every string of a program that can be shown: (line, text), without docstrings; pieces of one f-string joined by {}."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | silent:
            yield node.lineno, node.value


def household(source: str) -> list[tuple[int, str]]:
    """The strings that say it in household words."""
    return [(line, text) for line, text in texts(source) if HOUSEHOLD.search(" ".join(text.split()))]


def test_messages_use_one_wording() -> None:
    every = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
    assert {name: said for name, source in every.items() if (said := household(source))} == {}
    assert sum(len(list(texts(source))) for source in every.values()) > 5_000  # the search looks at the library


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("raise DataError(f'{path} does not exist; give another')", 1),
        ("raise DataError('the run ' 'is not there')", 1),
        ("way = f'{url}: there is no such folder'", 1),
        ("raise DataError(f'{path} is not found; give another')", 0),
        ("def f():\n    '''None where it is not there.'''\n    return 'the file is missing'", 0),
    ],
)
def test_the_search_sees_messages_and_passes_docstrings(program: str, found: int) -> None:
    assert len(household(program)) == found
