"""Draws the pictures of docs/gallery.md from the runs of a finished demo.

python tools/gallery.py demo/runs
python tools/gallery.py --filters          # the forms of the saliency filter alone, on drawn scenes
"""

from __future__ import annotations

import argparse
from pathlib import Path

from brainlens import store
from brainlens.phantom.scenes import make_scenes
from brainlens.plots import attribution, cortex, layers, retrieval, sensors
from brainlens.report.align import scores_by_encoder
from brainlens.stimuli.saliency import FilterSettings, cut_square, filtered

OUT = Path(__file__).resolve().parent.parent / "docs" / "gallery"


def filters() -> None:
    """Scenes through the filter: both signs, and with their brightness back."""
    pictures = [cut_square(image, 224) for image in make_scenes(6, seed=4, split="test").images]
    forms = {"as shown": None, "printed sign": FilterSettings(), "printed,\nbrightness back": FilterSettings(brightness=True)}
    forms |= {
        "enhancing": FilterSettings("enhancing"),
        "enhancing,\nbrightness back": FilterSettings("enhancing", brightness=True),
    }
    rows = {name: pictures if form is None else [filtered(p, form) for p in pictures] for name, form in forms.items()}
    store.save_figure(OUT / "saliency_signs.png", sensors.filters(rows), dpi=90)


def main() -> None:
    """One picture a kind of figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--filters", action="store_true")
    chosen = parser.parse_args()
    if chosen.filters or chosen.runs is None:
        filters()
        return
    results = [store.load_result(folder) for folder in sorted(chosen.runs.iterdir()) if (folder / "result.json").exists()]
    aligned = next(r for r in results if r.task == "align")
    attributed = next(r for r in results if r.task == "attribute")
    encoded = next(r for r in results if r.task == "encode" and "confidence" in r.arrays)
    figures = {
        "retrieval": retrieval.topk_bars(scores_by_encoder(aligned), k=1, result=aligned),
        "attribution": attribution.brain_beside_truth(attributed),
        "layers": cortex.layer_map(encoded),
        "regions": layers.region_profiles(encoded),
    }
    for name, figure in figures.items():
        store.save_figure(OUT / f"{name}.png", figure, dpi=90)


if __name__ == "__main__":
    main()
