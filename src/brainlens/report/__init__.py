"""Results to one self-contained HTML page."""

from brainlens.report.page import build, render

__all__ = ["build", "render"]
