"""What fits of sensor decoders say together: means, differences, chance, and intervals over subjects and test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from brainlens.metrics.statistics import two_way_bootstrap

UNFILTERED = ("no_saliency_guidance", "no_saliency_adjustment")  # one part at a time on the unfiltered base
BASES = {"neuroalign": "eeg/difference", "no_saliency": "eeg/no_saliency/difference"}  # what the others are compared with


def summarise(fits: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over subjects and seeds, paired differences, and chance; the 95 % intervals draw subjects and test images anew.

    `eeg/difference/X` is NeuroAlign less X, `eeg/no_saliency/difference/X` that without saliency less X, over the subjects that
    both methods have. `fits`, `subjects`, `sd_subjects`: how many there are, and how far apart.
    """
    out: dict[str, float] = {}
    for kind in sorted({fit["kind"] for fit in fits}):
        there = [fit for fit in fits if fit["kind"] == kind]
        out |= {f"eeg/{kind}/chance{k}": k / len(there[0]["ranks"]) for k in (1, 5)}
        for method in dict.fromkeys(fit["method"] for fit in there):
            chosen = [fit for fit in there if fit["method"] == method]
            out |= {f"eeg/{method}/{kind}/fits": float(len(chosen))}
            out |= {f"eeg/{method}/{kind}/subjects": float(len({fit["subject"] for fit in chosen}))}
            for k in (1, 5):
                own = hits(chosen, k)
                name = f"eeg/{method}/{kind}/top{k}"
                table = np.stack(list(own.values()))
                out[name], out[f"{name}.low"], out[f"{name}.high"], _ = two_way_bootstrap(table)
                out[f"{name}.sd_subjects"] = float(table.mean(axis=1).std())
                out |= spread_of_seeds(chosen, k, name)
                for base, start in BASES.items():
                    full = hits([fit for fit in there if fit["method"] == base], k)
                    both = [subject for subject in own if subject in full]
                    if method != base and both:
                        name = f"{start}/{method}/{kind}/top{k}"
                        less = np.stack([full[subject] - own[subject] for subject in both])
                        out[name], out[f"{name}.low"], out[f"{name}.high"], out[f"{name}.p"] = two_way_bootstrap(less)
    return out


def by_base(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics with the ablations of the unfiltered base under `eeg/unfiltered/no_PART/...` too."""
    found = dict(metrics)
    for method in UNFILTERED:
        old, new = f"eeg/{method}/", f"eeg/unfiltered/no_{method.removeprefix('no_saliency_')}/"
        found |= {key.replace(old, new, 1): value for key, value in metrics.items() if key.startswith(old)}
    return found


def spread_of_seeds(fits: Sequence[dict[str, Any]], k: int, name: str) -> dict[str, float]:
    """Standard deviation over seeds of the share among the first k, root mean square over subjects that have several seeds."""
    scores: dict[int, list[float]] = {}
    for fit in fits:
        scores.setdefault(int(fit["subject"]), []).append(float((np.array(fit["ranks"]) < k).mean()))
    variances = [np.var(each, ddof=1) for each in scores.values() if len(each) > 1]
    return {f"{name}.sd_seeds": float(np.sqrt(np.mean(variances)))} if variances else {}


def hits(fits: Sequence[dict[str, Any]], k: int) -> dict[int, np.ndarray]:
    """For each subject whether each test image (image,), in the order of ids, was among the first k, as a mean over seeds."""
    found: dict[int, list[np.ndarray]] = {}
    for fit in fits:
        ranks = np.array(fit["ranks"])[np.argsort(fit["ids"])]
        found.setdefault(int(fit["subject"]), []).append((ranks < k).astype(float))
    return {subject: np.mean(each, axis=0) for subject, each in found.items()}
