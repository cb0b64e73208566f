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
WORDS = re.compile(r"\bscalars?\b|\bany shape\b", re.I)
# Tuples of these are values, pairs or intervals, and no axes.
VALUES = {"0", "low", "high", "left", "right", "ids", "embeddings", "train", "prediction", "i", "j", "decode", "mat", "sorted"}
VALUES |= {"y", "yhat", "gallery", "domain", "hemisphere", "lower", "metrics", "gain", "M2IB", "mm"}


def states_shape(docstring: str | None) -> bool:
    """Whether a docstring holds a tuple of axes, as (image, unit) or (n,), or says scalar or any shape."""
    text = docstring or ""
    tuples = [match.group(1) for match in TUPLE.finditer(text) if "," in match.group(1)]
    axes = [set(re.findall(r"[\w']+", found)) for found in tuples]
    return bool(WORDS.search(text)) or any("z" in named or not named & VALUES for named in axes)


def takes_arrays(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a parameter or what is returned is annotated as an array, alone or inside a container."""
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


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_public_function_on_arrays_states_shapes(path: Path) -> None:
    found = functions(ast.parse(path.read_text(encoding="utf-8")).body)
    lacking = [name for name, stated in found.items() if not stated]
    assert not lacking, (
        f"{path.name}: the docstrings of {lacking} say no shape; write it as (image, unit), (n,), scalar or any shape"
    )


def test_the_search_looks_at_the_library() -> None:
    seen = functions(ast.parse((ROOT / "metrics" / "retrieval.py").read_text(encoding="utf-8")).body)
    assert {"ranks", "top_k", "n_way", "retrieval"} <= set(seen)


STATED = (
    "Rows (n, d).",
    "Ranks (n,) of queries.",
    "x (image, unit) -> (unit,)",
    "Tokens (B, 1 + P, width), class token first.",
    "Pictures (n, row, column[, 3]).",
    "Volumes (x, y, z).",
    "Points (x, y, z[, t]) in mm.",
    "Values (n, ...) of any kind.",
    "Rows (n, channel x time).",
    "Predictions (n, d').",
    "Returns a scalar.",
    "Arrays of any shape.",
    "Any shape, one for all.",
    "A pair over\n    the images: (image,\n    unit).",
)
UNSTATED = (
    None,
    "",
    "The mean of each row.",
    "Their correlation (Pearson's).",
    "Their cosine, cos(q, g), and C(n, k).",
    "Ranks with ties (a likelihood, say).",
    "Mean with its interval: (mean, low, high).",
    "A share in (0, 1).",
    "The score (y, yhat).",
    "Both directions (query, gallery).",
    "Rows of folds (train, test).",
    "The number (n) of rows.",
    "Raises DataError for shapes that do not match.",
)


@pytest.mark.parametrize("text", STATED)
def test_a_shape_is_seen(text: str) -> None:
    assert states_shape(text)


@pytest.mark.parametrize("text", UNSTATED)
def test_other_brackets_are_no_shape(text: str | None) -> None:
    assert not states_shape(text)


SOURCE = '''
def bare(x: np.ndarray): ...
def told(x: np.ndarray):
    """x (n, d)."""
def back() -> Tensor:
    """A tensor."""
def nested() -> int:
    def inside(x: Tensor): ...
def optional(*, x: np.ndarray | None = None, n: int): ...
def many(*parts: Sequence[torch.Tensor], **more: np.ndarray): ...
def numbers(n: int, name: str) -> float: ...
def _private(x: np.ndarray): ...
async def later(x: ArrayLike): ...
class Known:
    """Rows (n, d)."""
    def rows(self) -> np.ndarray: ...
    def _own(self) -> np.ndarray: ...
class Unknown:
    """Rows."""
    def rows(self) -> np.ndarray: ...
    def told(self) -> np.ndarray:
        """(n,)"""
    def forward(self, x: Tensor) -> Tensor: ...
class _Hidden:
    def rows(self) -> np.ndarray: ...
'''


def test_which_functions_are_asked() -> None:
    found = functions(ast.parse(SOURCE).body)
    assert {name for name, stated in found.items() if stated} == {"told", "Known.rows", "Unknown.told"}
    assert {name for name, stated in found.items() if not stated} == {"bare", "back", "optional", "many", "later", "Unknown.rows"}
