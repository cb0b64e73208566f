"""IBBI: which region drives a picture while it is denoised, and where in the picture a region is looked up.

    brain-guided   B_j^(t)    = mean over layers, heads and queries of A^(l,h,t)_qj,     sum_j B_j = 1
    image-guided   I_R^(t)(u) = mean over layers of the map of queries, A averaged over heads and the tokens of R

A (heads, queries, regions) is the attention to region tokens. It is reduced as it comes: what is kept does not depend on the
number of layers, heads or queries, and maps are summed over stretches of denoising, not kept for every step. (Towards
Interpretable Visual Decoding with Attention to Brain Representations, section 3.3. Attention says what is read, not what causes
the picture: lesions do.)

Attention alone does not tell a region that matters from one that does not: a token near zero keeps an even share of the softmax.
In twenty fits to planted pictures it ranked a region without information above one of the two with it in every fit; attention
times the norm of the values did so in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens.types import DataError

LAYERS = ("alike", "queries")


class AttentionRecord:
    """Sums over the attention that passes by; give it to `NeuroAdapter.reconstruct(watch=...)`.

    trials, regions: numbers of each; sets: names of sets of region numbers, for image-guided maps (none: no maps); side: of the
    maps; bins: stretches of denoising that maps are averaged over, from noise to picture (as many as steps: every step).
    layers: "alike" gives every layer the same weight, "queries" weights it by its queries, as the paper's code does.
    value_norm: attention times the norm of the values that it fetches, in place of attention alone (a control: a token can be
    attended to and bring nothing). Candidates of a trial are averaged.
    Raises DataError for other words, sets with unknown numbers, and layers whose queries are no square.
    """

    def __init__(
        self,
        trials: int,
        regions: int,
        *,
        sets: Mapping[str, Sequence[int]] | None = None,
        side: int = 16,
        bins: int = 4,
        layers: str = "alike",
        value_norm: bool = False,
    ) -> None:
        if layers not in LAYERS:
            raise DataError(f"layers {layers!r} weighted so is not known; choose from {', '.join(LAYERS)}")
        if trials < 1 or regions < 1 or side < 1 or bins < 1:
            raise DataError(f"attention record: {trials} trials, {regions} regions, side {side}, bins {bins}; all are 1 or more")
        self.sets = tuple(sets or {})
        self._members = torch.zeros(regions, len(self.sets))  # the mean over the regions of each set, as a product
        for place, (name, given) in enumerate((sets or {}).items()):
            numbers = np.asarray(given, dtype=np.int64)
            if not len(numbers) or int(numbers.min()) < 0 or int(numbers.max()) >= regions:
                raise DataError(f"set {name!r} holds {numbers[:8].tolist()}; regions are numbered 0 to {regions - 1}")
            self._members[:, place] = torch.from_numpy(np.bincount(numbers, minlength=regions) / len(numbers))
        self.trials, self.regions, self.side, self.bins = trials, regions, side, bins
        self.layers, self.value_norm = layers, value_norm
        self._contribution: np.ndarray | None = None
        self._weight: np.ndarray | None = None
        self._maps = np.zeros((trials, len(self.sets), bins, side, side), dtype=np.float64)
        self._count = np.zeros((trials, bins), dtype=np.int64)
        self._now: tuple[int, int, np.ndarray] | None = None

    def at(self, step: int, steps: int, rows: np.ndarray) -> None:
        """What comes next belongs to this step of denoising, for these trials: rows (n,), their numbers."""
        if self._contribution is None:
            self._contribution = np.zeros((self.trials, steps, self.regions))
            self._weight = np.zeros((self.trials, steps))
        if self._contribution.shape[1] != steps or int(np.max(rows)) >= self.trials:
            raise DataError(f"this record is of {self.trials} trials and {self._contribution.shape[1]} steps; use a new one")
        self._now = (step, steps, np.asarray(rows))

    def __call__(self, layer: int, probs: Tensor, values: Tensor) -> None:
        """Attention (B, heads, queries, regions) and values (B, heads, regions, channels) of a layer; B = trials x candidates."""
        if self._now is None or self._contribution is None or self._weight is None:
            raise DataError("an attention record needs to be told the step before attention comes; call at(step, steps, rows)")
        step, steps, rows = self._now
        if probs.shape[-1] != self.regions or len(probs) % len(rows):
            raise DataError(f"attention of shape {tuple(probs.shape)} does not fit {len(rows)} trials and {self.regions} regions")
        read = probs.float() * values.float().norm(dim=-1)[:, :, None, :] if self.value_norm else probs.float()
        read = read.mean(1)  # (B, queries, regions)
        queries = read.shape[1]
        share = read.mean(1)
        share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)  # no region there: 0
        weight = queries if self.layers == "queries" else 1
        self._contribution[rows, step] += weight * _by_trial(share, len(rows))
        self._weight[rows, step] += weight
        if self.sets:
            self._add_maps(read, rows, step * self.bins // steps)

    def contributions(self) -> np.ndarray:
        """Brain-guided: the share of every region (trial, step, region), from noise to picture; sums to 1 over regions."""
        if self._contribution is None or self._weight is None or (self._weight == 0).any():
            raise DataError("the attention of some trial or step has not been seen; draw all pictures with this record first")
        return np.asarray(self._contribution / self._weight[:, :, None])

    def maps(self, name: str) -> np.ndarray:
        """Image-guided: maps (trial, bin, side, side) of a set of regions, from noise to picture; each sums to 1."""
        if name not in self.sets:
            raise DataError(f"no set of regions is called {name!r}; there are {list(self.sets)}")
        if (self._count == 0).any():
            raise DataError(f"{self.bins} bins over fewer steps, or trials not drawn; use bins up to the number of steps")
        return np.asarray(self._maps[:, self.sets.index(name)] / self._count[:, :, None, None])

    def _add_maps(self, read: Tensor, rows: np.ndarray, place: int) -> None:
        edge = round(read.shape[1] ** 0.5)
        if edge**2 != read.shape[1]:
            raise DataError(f"a layer has {read.shape[1]} queries, which are no square; maps are for square pictures")
        grids = (read @ self._members.to(read.device)).transpose(1, 2)  # (B, sets, queries)
        maps = F.interpolate(grids.unflatten(2, (edge, edge)), size=(self.side, self.side), mode="bilinear", align_corners=False)
        maps = maps / maps.sum(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        self._maps[rows, :, place] += _by_trial(maps, len(rows))
        self._count[rows, place] += 1


def shuffle_regions(contributions: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Contributions (trial, step, region) with the names of the regions shuffled, anew for every trial: what a ranking gives by
    chance. Attention does not depend on the order of tokens, so this is what drawing with shuffled tokens gives."""
    rng = np.random.default_rng(seed)
    return np.stack([trial[:, rng.permutation(trial.shape[1])] for trial in contributions])


def _by_trial(values: Tensor, trials: int) -> np.ndarray:
    """Mean over the candidates of each trial, as float64."""
    return np.asarray(values.double().unflatten(0, (trials, -1)).mean(1).cpu().numpy())
