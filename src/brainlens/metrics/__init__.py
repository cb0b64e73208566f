"""Functions from arrays to numbers. A truth stands before its prediction, as in scikit-learn: r2(y_true, y_pred).

Retrieval compares a query with a gallery, and similarity two sides that are alike; their order is their own. Names are loaded
when they are asked for, so that one of them does not cost the imports of all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainlens.metrics.attribution import pointing_game, truth_auroc
    from brainlens.metrics.encoding import bootstrap_score, distance_to_best, noise_ceiling, of_ceiling, pearson, r2
    from brainlens.metrics.picture_protocols import protocol_table, score_pictures
    from brainlens.metrics.reconstruction import correlation_distance, pixel_correlation, ssim, two_way
    from brainlens.metrics.retrieval import n_way, neighbours, ranks, top_k
    from brainlens.metrics.similarity import linear_cka, rdm, rsa
    from brainlens.metrics.statistics import (
        auroc,
        auroc_interval,
        bootstrap_mean,
        fdr,
        paired_bootstrap,
        permutation_p,
        two_way_bootstrap,
    )
    from brainlens.metrics.timecourse import mean_correlation

_PLACES = {
    "attribution": ("pointing_game", "truth_auroc"),
    "encoding": ("bootstrap_score", "distance_to_best", "noise_ceiling", "of_ceiling", "pearson", "r2"),
    "picture_protocols": ("protocol_table", "score_pictures"),
    "reconstruction": ("correlation_distance", "pixel_correlation", "ssim", "two_way"),
    "retrieval": ("n_way", "neighbours", "ranks", "top_k"),
    "similarity": ("linear_cka", "rdm", "rsa"),
    "statistics": (
        *("auroc", "auroc_interval", "bootstrap_mean", "fdr"),
        *("paired_bootstrap", "permutation_p", "two_way_bootstrap"),
    ),
    "timecourse": ("mean_correlation",),
}
__all__ = [
    "auroc",
    "auroc_interval",
    "bootstrap_mean",
    "bootstrap_score",
    "correlation_distance",
    "distance_to_best",
    "fdr",
    "linear_cka",
    "mean_correlation",
    "n_way",
    "neighbours",
    "noise_ceiling",
    "of_ceiling",
    "paired_bootstrap",
    "pearson",
    "permutation_p",
    "pixel_correlation",
    "pointing_game",
    "protocol_table",
    "r2",
    "ranks",
    "rdm",
    "rsa",
    "score_pictures",
    "ssim",
    "top_k",
    "truth_auroc",
    "two_way",
    "two_way_bootstrap",
]


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"brainlens.metrics.{module}"), name)
    raise AttributeError(f"brainlens.metrics has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
