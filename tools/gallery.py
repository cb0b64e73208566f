"""Draws the pictures of docs/gallery.md from the runs of a finished demo.

python tools/gallery.py demo/runs
"""

from __future__ import annotations

import argparse
from pathlib import Path

from brainlens import store
from brainlens.plots import attribution, cortex, layers, retrieval
from brainlens.report.align import scores_by_encoder

OUT = Path(__file__).resolve().parent.parent / "docs" / "gallery"


def main() -> None:
    """One picture a kind of figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    chosen = parser.parse_args()
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
