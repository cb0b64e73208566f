"""Draws the picture of docs/notes/sensors.md: the forms of the saliency filter on drawn scenes.

python tools/gallery.py

The other pictures of docs/gallery are those of examples/ (`make gallery`) and of tools/train_diffusion.py.
"""

from __future__ import annotations

from pathlib import Path

from brainlens import store
from brainlens.phantom.scenes import make_scenes
from brainlens.plots import sensors
from brainlens.stimuli.saliency import FilterSettings, cut_square, filtered

OUT = Path(__file__).resolve().parent.parent / "docs" / "gallery"


def main() -> None:
    """Scenes through the filter: both signs, and with their brightness back."""
    pictures = [cut_square(image, 224) for image in make_scenes(6, seed=4, split="test").images]
    forms = {"as shown": None, "printed sign": FilterSettings(), "printed,\nbrightness back": FilterSettings(brightness=True)}
    forms |= {
        "enhancing": FilterSettings("enhancing"),
        "enhancing,\nbrightness back": FilterSettings("enhancing", brightness=True),
    }
    rows = {name: pictures if form is None else [filtered(p, form) for p in pictures] for name, form in forms.items()}
    store.save_figure(OUT / "saliency_signs.png", sensors.filters(rows), dpi=90)


if __name__ == "__main__":
    main()
