"""How results, recordings and models look in a notebook, by text alone: what they are does not know who draws them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

DRAWN_BY = {
    "plot": "brainlens.report.figures:Plots",
    "result": "brainlens.report.notebook:result_html",
    "recording": "brainlens.report.notebook:recording_html",
    "model": "brainlens.report.notebook:model_html",
}


def look(name: str, thing: Any) -> Any:
    """What the function behind a name of DRAWN_BY makes of a thing; its module is imported only now."""
    module, _, function = DRAWN_BY[name].partition(":")
    return getattr(import_module(module), function)(thing)
