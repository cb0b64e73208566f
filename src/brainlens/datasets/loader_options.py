"""What a loader can be asked for: its options read from its signature, and parsed from text."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from brainlens.types import DataError

YES, NO = ("true", "yes", "1"), ("false", "no", "0")
NOTHING = "none"


@dataclass(frozen=True)
class Option:
    """An option of a loader: its name, type and default."""

    name: str
    type: Any
    default: Any

    @property
    def kind(self) -> str:
        """The type in words: "whole number", "a,b,c of text", and so on, with "or none" where None is a value."""
        return _words(self.type)

    def parse(self, text: str) -> Any:
        """The value of a text. Raises ValueError."""
        return _parse(self.type, text)

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}; default {_shown(self.default)})"


def read_options(load: Callable[..., Any]) -> dict[str, Option]:
    """The options of a loader by name: all its parameters but the folder."""
    parameters = inspect.signature(load, eval_str=True).parameters.values()
    return {p.name: Option(p.name, p.annotation, p.default) for p in parameters if p.name != "folder"}


def parse_texts(what: str, known: dict[str, Option], texts: Sequence[str]) -> dict[str, Any]:
    """Values of texts such as "sessions=3". Raises DataError, which lists the options with their types."""
    listed = "; ".join(map(str, known.values())) or "none"
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise DataError(f"{what}: option {text!r} is not name=value; options are {listed}")
        if name not in known:
            raise DataError(f"{what} has no option {name!r}; options are {listed}")
        if name in found:
            raise DataError(f"{what}: option {name!r} is given twice; give it once, several values as a,b,c")
        try:
            found[name] = known[name].parse(value)
        except ValueError:
            raise DataError(f"{what}: option {name}={value!r} is not {known[name].kind}; options are {listed}") from None
    return found


def _parts(kind: Any) -> list[Any]:
    """The members of a union, or the type alone."""
    return list(get_args(kind)) if get_origin(kind) in (typing.Union, types.UnionType) else [kind]


def _items(kind: Any) -> tuple[Any, int | None] | None:
    """(type of the items, how many or None) of a tuple or sequence type; None for other types."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is tuple:
        return (inside[0], None) if inside[-1] is Ellipsis else (inside[0], len(inside))
    return (inside[0], None) if inside and isinstance(origin, type) and issubclass(origin, Sequence) else None


def _parse(kind: Any, text: str) -> Any:
    parts = _parts(kind)
    if type(None) in parts and text.lower() == NOTHING:
        return None
    one = next(part for part in parts if part is not type(None))
    items = _items(one)
    if items is not None:
        values = tuple(_parse(items[0], part.strip()) for part in text.split(",") if part.strip())
        if not values or items[1] not in (None, len(values)):
            raise ValueError(text)
        return values
    if one is bool:
        if text.lower() not in (*YES, *NO):
            raise ValueError(text)
        return text.lower() in YES
    if not text:
        raise ValueError(text)
    return one(text) if one in (int, float, Path) else text


def _words(kind: Any) -> str:
    parts = _parts(kind)
    one = next(part for part in parts if part is not type(None))
    items, end = _items(one), " or none" if type(None) in parts else ""
    if items is not None:
        form = ",".join("abcdefgh"[: items[1] or 3])
        return f"{form} of {_words(items[0])}{end}"
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(one, "text") + end


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return NOTHING if value is None else str(value).lower() if isinstance(value, bool) else str(value)
