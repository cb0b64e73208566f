"""What an error or a warning advises can be done: its flags, commands and options of recordings are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import brainlens
from brainlens import datasets
from brainlens.cli import app

ROOT = Path(brainlens.__file__).parent
OTHERS = {
    "--nproc-per-node",
    "--nnodes",
    "--standalone",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--upgrade",
    "--nthreads",
}  # torchrun, pip, a worker of Dask
SWEEP = {"--parts"}  # of `sweep`, which reads the line of the verb itself


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string of a module, {} where an f-string has a value; docstrings too, which users read as well."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


@pytest.fixture(scope="module")
def commands() -> dict[str, set[str]]:
    """Flags of each command."""
    group = typer.main.get_command(app)
    found = {}
    for name in group.list_commands(None):  # type: ignore[arg-type,attr-defined]
        command = group.get_command(None, name)  # type: ignore[arg-type,attr-defined]
        found[name] = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts) if flag.startswith("--")}
    found[""] = {flag for p in group.params for flag in p.opts}
    return found


SOURCES = sorted(path for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_flags_and_commands_that_texts_name_are_there(path: Path, commands: dict[str, set[str]]) -> None:
    flags = set().union(*commands.values()) | OTHERS | SWEEP | {"--help"}
    wrong = []
    for line, text in texts(path):
        wrong += [f"line {line}: {flag}" for flag in re.findall(r"(?<![-\w])--[a-z][a-z-]*[a-z]\b", text) if flag not in flags]
        wrong += [f"line {line}: {said}" for said in re.findall(r"`brainlens ([a-z]+)", text) if said not in commands]
    assert not wrong, wrong


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Options of each recording."""
    return {name: set(datasets.options(name)) for name in datasets.DATASETS}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_options_of_recordings_that_texts_name_are_there(path: Path, options: dict[str, set[str]]) -> None:
    """In the module of a recording they are its own."""
    own = path.parent.name == "datasets" and path.stem in options
    known = options[path.stem] if own else set().union(*options.values())
    wrong = []
    for line, text in texts(path):
        wrong += [f"line {line}: {name}=" for name in re.findall(r"--option ([a-z_]+)=", text) if name not in known | {"name"}]
    assert not wrong, wrong
