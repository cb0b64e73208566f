"""Every public function on arrays states their shapes, so that nobody has to run it to know what it takes and gives."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import brainlens

ROOT = Path(brainlens.__file__).parent
AXIS = r"(?:\.\.\.|[\w']+(?:\s*[-+*x]\s*[\w']+)*)"  # image, 3, d', 1 + P, channel x time, ...
TUPLE = re.compile(rf"(?<![\w\])}}'])\(\s*({AXIS}\s*(?:,\s*{AXIS}\s*|\[,\s*{AXIS}\]\s*)*,?)\s*\)")  # not cos(q, g): a call
WORDS = re.compile(r"\bscalars?\b|\bany shape\b")
VALUES = {"0", "low", "high", "left", "right", "ids", "embeddings", "train", "prediction", "i", "j", "decode", "mat", "sorted"}
VALUES |= {"y", "yhat", "gallery", "domain", "hemisphere"}  # tuples of these are values, pairs or intervals and no axes


def states_shape(docstring: str | None) -> bool:
    """Whether a docstring holds a tuple of axes, as (image, unit) or (n,), or says scalar or any shape."""
    text = docstring or ""
    tuples = [match.group(1) for match in TUPLE.finditer(text) if "," in match.group(1)]
    axes = [set(re.findall(r"[\w']+", found)) for found in tuples]
    return bool(WORDS.search(text)) or any("z" in named or not named & VALUES for named in axes)


def takes_arrays(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    notes = [argument.annotation for argument in arguments if argument] + [function.returns]
    return any(note is not None and re.search(r"ndarray|Tensor|ArrayLike", ast.unparse(note)) for note in notes)


def functions(body: list[ast.stmt], owner: ast.ClassDef | None = None) -> dict[str, bool]:
    """Public functions and methods on arrays, and whether they (or the class of a method) state a shape."""
    found = {}
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found |= functions(node.body, node)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_") or node.name == "forward":
            continue
        if takes_arrays(node):
            name = f"{owner.name}.{node.name}" if owner else node.name
            of_class = owner is not None and states_shape(ast.get_docstring(owner))
            found[name] = of_class or states_shape(ast.get_docstring(node))
    return found


if __name__ == "__main__":
    import sys

    for path in sorted(ROOT.rglob("*.py")):
        here = path.relative_to(ROOT).as_posix()
        if not here.startswith(tuple(sys.argv[1:]) or ""):
            continue
        for name, stated in functions(ast.parse(path.read_text(encoding="utf-8")).body).items():
            if not stated:
                print(here, name)
