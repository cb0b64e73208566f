"""Parts of pages that programs write: each between two marks that name the part and the program."""

from __future__ import annotations


def between(text: str, name: str, program: str, part: str) -> str:
    """The text with a new part between the marks NAME of tools/PROGRAM.py; what stands around them stays.

    ValueError where one of the two marks is missing.
    """
    begin, end = f"<!-- {name}: written by tools/{program}.py -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the mark {end if found else begin} is missing")
    return f"{before}{begin}\n{part}\n{end}{after}"
