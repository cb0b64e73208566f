"""What the library warns of: one line each, through Python's `warnings` and the logger `brainlens`.

    warn(text)  ->  filters of `warnings`  ->  logger `brainlens`  ->  a line on standard error where logging is not configured

So `warnings.simplefilter("ignore", BrainlensWarning)`, "error" and `catch_warnings(record=True)` do what they do for every
warning, and level, filters and handlers of the logger what they do for every logger. Warnings of other libraries, and a
`warnings.showwarning` that somebody else has set, stay as they are.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

LOG = logging.getLogger("brainlens")
STANDARD = ("warnings", "_py_warnings")  # the modules of Python's own `showwarning`; the second one since Python 3.14
_said: set[tuple[str, str, int]] = set()  # (text, file, line) of what was shown


class BrainlensWarning(UserWarning):
    """What a user should know and what does not stop the work: something that was left out, drawn, or cannot be checked."""


def warn(text: str, category: type[Warning] = BrainlensWarning) -> None:
    """Warns in the name of the line outside brainlens that called into it, which filters by module see; once a text and line.

    Raises the warning where a filter makes it an error.
    """
    _route()
    frame = _caller()
    module, known = str(frame.f_globals.get("__name__", "<unknown>")), frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(
        " ".join(text.split()), category, frame.f_code.co_filename, frame.f_lineno, module=module, registry=known
    )


def pass_on(heard: warnings.WarningMessage) -> None:
    """Warns again of what `catch_warnings(record=True)` kept, as it came."""
    if issubclass(heard.category, BrainlensWarning):
        warn(str(heard.message), heard.category)
    else:
        warnings.warn_explicit(heard.message, heard.category, heard.filename, heard.lineno, source=heard.source)


@contextmanager
def anew() -> Iterator[None]:
    """A block in which what was said before is said again: a run whose log is to be whole by itself."""
    with warnings.catch_warnings():  # after which Python has forgotten, too
        _said.clear()
        yield


def _caller() -> FrameType:
    """The frame that called the outermost function of brainlens; the machinery of imports does not count."""
    frame: FrameType | None = sys._getframe(1)
    outermost = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == "brainlens":
            outermost = frame
        frame = frame.f_back
    found = outermost
    while found.f_back is not None and (found is outermost or "importlib._bootstrap" in found.f_code.co_filename):
        found = found.f_back
    return found


class _Line:
    """The file to which Python writes a warning that passed its filters: the logger, which takes the text alone, once a place."""

    def __init__(self, text: str, file: str, line: int) -> None:
        self._key = (text, file, line)

    def write(self, _: str) -> None:
        if self._key not in _said and LOG.isEnabledFor(logging.WARNING):
            _said.add(self._key)
            text, file, line = self._key
            LOG.handle(LOG.makeRecord(LOG.name, logging.WARNING, file, line, text, (), None))


def _show(
    plain: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """`warnings.showwarning`, with the logger as the file of what is ours; `plain` still keeps it where warnings are recorded."""
    if file is None and issubclass(category, BrainlensWarning):
        file = _Line(str(message), filename, lineno)
    plain(message, category, filename, lineno, file, line)


def _route() -> None:
    """Puts `_show` in the place of Python's own `showwarning`; one that somebody else has set stays."""
    if getattr(warnings.showwarning, "__module__", None) in STANDARD:
        warnings.showwarning = partial(_show, warnings.showwarning)


class LastResort(logging.Handler):
    """One line on standard error, where neither the logger nor one above it has another handler; as `logging.lastResort`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record unless somebody else takes it."""
        logger: logging.Logger | None = LOG
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return
            logger = logger.parent if logger.propagate else None
        if sys.stderr is not None:
            print(self.format(record), file=sys.stderr, flush=True)


HANDLER = LastResort(logging.WARNING)
HANDLER.setFormatter(logging.Formatter("brainlens: warning: %(message)s"))
LOG.addHandler(HANDLER)
