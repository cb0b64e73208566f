"""The tables that travel between stages: stimuli, responses, features, a recording, a result.

Brain responses, images and captions are tables joined by a stimulus id. Each class here checks its own
columns against its own rows on creation, so that a mismatch is an error where it arises and not three
stages later. Only numpy and pandas are imported, and these when a name is first asked for: a mistake in a
command is a DataError, which waits for neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainlens.types.doors import check_expansion, check_fif, check_gifti, check_gzip, inside, read_grid, reading
    from brainlens.types.errors import DataError
    from brainlens.types.ids import as_ids, choose, image_key, positions, unique_ids
    from brainlens.types.matlab_files import check_mat
    from brainlens.types.recording import Recording
    from brainlens.types.responses import MAX_BAD_UNITS, Responses
    from brainlens.types.spaces import Sensors, Space, Surface, Volume
    from brainlens.types.tables import Features, Result, Stimuli, check_kinds, check_no_leak
    from brainlens.types.texts import as_captions, part_of, read_lines, read_text

_IN = {
    **dict.fromkeys(("check_expansion", "check_fif", "check_gifti", "check_gzip", "inside", "read_grid", "reading"), "doors"),
    "DataError": "errors",
    **dict.fromkeys(("as_ids", "choose", "image_key", "positions", "unique_ids"), "ids"),
    "check_mat": "matlab_files",
    "Recording": "recording",
    **dict.fromkeys(("MAX_BAD_UNITS", "Responses"), "responses"),
    **dict.fromkeys(("Sensors", "Space", "Surface", "Volume"), "spaces"),
    **dict.fromkeys(("Features", "Result", "Stimuli", "check_kinds", "check_no_leak"), "tables"),
    **dict.fromkeys(("as_captions", "part_of", "read_lines", "read_text"), "texts"),
}

__all__ = [
    "MAX_BAD_UNITS",
    "DataError",
    "Features",
    "Recording",
    "Responses",
    "Result",
    "Sensors",
    "Space",
    "Stimuli",
    "Surface",
    "Volume",
    "as_captions",
    "as_ids",
    "check_expansion",
    "check_fif",
    "check_gifti",
    "check_gzip",
    "check_kinds",
    "check_mat",
    "check_no_leak",
    "choose",
    "image_key",
    "inside",
    "part_of",
    "positions",
    "read_grid",
    "read_lines",
    "read_text",
    "reading",
    "unique_ids",
]


def __getattr__(name: str) -> Any:
    if name not in _IN:
        raise AttributeError(f"brainlens.types has no name {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"brainlens.types.{_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
