"""10,000 voxels scored against a bank of 20,000 pictures of 2,000 nouns: both rank scores, in blocks, against a loop over voxels.

The peer ranks one voxel after the other with scipy and sums by noun in Python; it does a hundredth of the voxels, its time is
divided by that share.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from floor import Work
from harness import compare

sys.modules.setdefault("bottleneck", None)  # type: ignore[arg-type]

VOXELS, NOUNS, PICTURES, FEATURES, CANDIDATES, SHARE = 10_000, 2_000, 10, 512, 15, 0.01


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Readouts (voxel, feature), bank (picture, feature), the noun of each picture, 15 candidates a voxel."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((VOXELS, FEATURES), dtype=np.float32)
    bank = rng.standard_normal((NOUNS * PICTURES, FEATURES), dtype=np.float32)
    candidates = np.zeros((VOXELS, NOUNS), dtype=bool)
    np.put_along_axis(candidates, rng.integers(0, NOUNS, (VOXELS, CANDIDATES)), True, axis=1)
    return weights, bank, np.repeat(np.arange(NOUNS), PICTURES), candidates


def ours(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    from brainlens.metrics.semantics import readout_scores

    weights, bank, noun, candidates = inputs()
    found: dict[str, np.ndarray] = {}
    some = round(VOXELS * SHARE)

    def run() -> None:
        own, whole = readout_scores(weights, bank, noun, candidates=candidates, a=5)
        found.update(own=np.where(np.isfinite(own), own, 0)[:some], whole=whole[:some])

    return run, lambda: found


def peer(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    from scipy.stats import rankdata

    weights, bank, noun, candidates = inputs()
    found: dict[str, np.ndarray] = {}
    some = round(VOXELS * SHARE)

    def run() -> None:
        own, whole = np.zeros((some, NOUNS)), np.zeros((some, NOUNS))
        responses = weights[:256] @ bank.T  # the block that ours multiplies, so that rounding swaps no ranks
        for voxel in range(some):
            g = responses[voxel]
            ranks = rankdata(g)
            mine = np.flatnonzero(candidates[voxel][noun])
            among = rankdata(-g[mine])
            for c in range(NOUNS):
                whole[voxel, c] = (ranks[noun == c].sum() - PICTURES * (PICTURES + 1) / 2) / (PICTURES * (len(g) - PICTURES))
                if candidates[voxel, c]:
                    own[voxel, c] = -np.mean(np.sort(among[noun[mine] == c])[:5] ** 2)
        found.update(own=own, whole=whole)

    return run, lambda: found


def work(device: str) -> Work:
    """Every readout times every picture; responses and ranks (float32) are written and read once, both scores written."""
    del device
    return Work(macs=VOXELS * NOUNS * PICTURES * FEATURES, bytes=VOXELS * NOUNS * (4 * 4 * PICTURES + 2 * 8))


if __name__ == "__main__":
    compare(
        "voxel_bank", ours, peer, peer_name="one voxel at a time with scipy", repeats=1, peer_share=lambda device: SHARE,
        voxels=VOXELS, bank=NOUNS * PICTURES, work=work,
    )  # fmt: skip
