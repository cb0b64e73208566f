"""Results to one self-contained HTML page."""

from brainlens.report.figures import Plots, makers, save_figures
from brainlens.report.page import build, render

__all__ = ["Plots", "build", "makers", "render", "save_figures"]
