"""What is imported is declared: a wheel installed by itself brings every package that the library needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "brainlens"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMED = {"PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "umap": "umap-learn"}  # packages by import
OF_DEVELOPERS = ("test", "lint", "docs")  # extras that a user does not install


def plain(name: str) -> str:
    """A package's name as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(lines: list[str]) -> set[str]:
    return {plain(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines}


CORE = declared(PROJECT["dependencies"])
EXTRAS = set().union(*(declared(v) for k, v in PROJECT["optional-dependencies"].items() if k not in OF_DEVELOPERS))


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """(package, whether the import waits inside a function) of every import of a program that is not of Python or its own."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            waits = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            modules = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
            if isinstance(child, ast.ImportFrom) and not child.level:
                modules = [child.module or ""]
            for module in modules:
                name = module.split(".")[0]
                if name != "brainlens" and name not in sys.stdlib_module_names:
                    yield plain(NAMED.get(name, name)), waits
            yield from walk(child, waits)

    yield from walk(ast.parse(source), False)


def undeclared(files: dict[str, str], core: set[str], extras: set[str]) -> list[str]:
    """What is imported and not declared; a package of an extra must be imported inside a function, not with its file."""
    found = set()
    for name, source in files.items():
        for package, waits in imports(source):
            if package not in core and not (package in extras and waits):
                found.add(f"{name}: {package}")
    return sorted(found)


def test_every_import_is_declared() -> None:
    files = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert undeclared(files, CORE, EXTRAS) == []
    assert {package for source in files.values() for package, _ in imports(source)} >= {"numpy", "markupsafe", "huggingface-hub"}


def test_every_package_of_the_core_has_the_version_that_the_tests_ran_with() -> None:
    pinned = {
        plain(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    }
    assert CORE - pinned == set()


def test_the_search_sees_what_is_missing() -> None:
    program = "import numpy, PIL.Image\nfrom spacy import load\ndef f():\n    import umap\n    from other.part import x\n"
    found = undeclared({"a.py": program}, {"numpy", "pillow"}, {"spacy", "umap-learn"})
    assert found == ["a.py: other", "a.py: spacy"]
