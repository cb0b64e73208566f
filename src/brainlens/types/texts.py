"""Texts as people have them: files of any editor, and captions as one text or several."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from brainlens.types.ids import DataError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # first bytes


def read_text(path: str | Path) -> str:
    """The text of a file: UTF-8, or UTF-16 where its first bytes say so; a byte-order mark is no part of it.

    Raises DataError for a missing file and for another encoding, which nothing in a file tells.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is missing")
    content = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding.upper()} text (byte {content[error.start]:#04x} at {error.start}); save it as UTF-8"
        ) from None


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file without blank ones; see `read_text`."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def as_captions(value: Any, what: str) -> list[str]:
    """Captions of one image as a list: a text is one caption, None none. Raises DataError for what is not text."""
    if value is None:
        return []
    listed = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    listed = listed if isinstance(listed, list) else list(listed)
    wrong = [caption for caption in listed if not isinstance(caption, str)]
    if wrong or isinstance(value, dict):
        raise DataError(f"captions of {what}: a text or a list of texts is expected, got {(wrong or [value])[0]!r:.60}")
    return [_whole(caption, what) for caption in listed]


def part_of(text: str) -> tuple[int, int]:
    """K and N of a part "K/N", 1 <= K <= N. Raises DataError for another text."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        raise DataError(f"part {text!r} is not K/N with 1 <= K <= N, the number of parts; as 2/8")
    return number, parts


def _whole(caption: str, what: str) -> str:
    """In Unicode NFC, so that one spelling is one text. Raises DataError for half of a character, which cannot be written."""
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"captions of {what}: {caption[error.start]!a} is half a character; correct it where it comes from"
        ) from None
    return unicodedata.normalize("NFC", caption)
