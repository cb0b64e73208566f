"""How layers are counted: as in the paper, where layer k is the output of block k.

The encoder cuts its blocks at a number of blocks that have run, so that the paper's layer k stands after k + 1 of them. What
enters the first block, class token and patches, is "input"; the patches before the class token joins them are "patches".
"""

from __future__ import annotations

from brainlens.types import DataError

INPUT, PATCHES = "input", "patches"


def blocks_run(layer: str | None, depth: int) -> int | str | None:
    """The cut of a layer as a user names it: how many blocks have run, "patches", or None. Raises DataError listing them."""
    if layer is None or layer == PATCHES:
        return layer
    if layer == INPUT:
        return 0
    if not layer.isdecimal() or int(layer) >= depth:
        raise DataError(
            f"attribute: layer {layer!r} is not found: layer k is the output of block k, and this encoder has the blocks 0 to "
            f"{depth - 1}; or {INPUT!r}, what enters the first one"
        )
    return int(layer) + 1


def layer_name(cut: int | str) -> str:
    """A cut as the paper would call it."""
    return cut if isinstance(cut, str) else INPUT if cut == 0 else str(cut - 1)
