"""Tables in docs/trust.md, each between two marks that name the program that writes it."""

from __future__ import annotations

from pathlib import Path

from brainlens import store
from marks import between

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trust.md"


def write_table(program: str, text: str) -> None:
    """Puts the text between the marks of tools/PROGRAM.py; what stands around them stays."""
    store.save_text(PAGE, between(PAGE.read_text(encoding="utf-8"), program, program, text))
