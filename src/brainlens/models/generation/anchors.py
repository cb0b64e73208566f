"""Pictures that are known as anchors of a code: what the brain says is drawn near the training pictures that it fits best.

A ridge prediction is an average of all pictures that the brain allows, and no picture has it as its embedding; attention that
was trained on embeddings of pictures draws such averages as blots. An anchor is the embedding of a real picture, which the
evidence of the brain then moves (`solvers.evidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainlens.nn.region_adapter import Pair, RegionAdapter, RegionPrompt
from brainlens.solvers.evidence import Evidence
from brainlens.solvers.ridge import RidgeFit, ridge_left_out
from brainlens.types import DataError


@dataclass(frozen=True)
class Anchors:
    """embeddings (image, d) of the training pictures; intercept (d,) of the ridge that predicts them; evidence of predictions."""

    embeddings: np.ndarray
    intercept: np.ndarray
    evidence: Evidence

    @classmethod
    def fit(cls, fit: RidgeFit, x: np.ndarray, prompts: np.ndarray, held: np.ndarray) -> Anchors:
        """Of the ridge that was fitted to the rows of x (image, unit) that are not held back; prompts (image, d). Errors are
        those of predictions that left their own picture out."""
        kept = prompts[~held]
        left_out = ridge_left_out(fit, x[~held], kept).numpy()
        return cls(kept.astype(np.float32), fit.intercept.numpy().astype(np.float32), Evidence.fit(left_out, kept))

    def predicted(self, code: np.ndarray) -> np.ndarray:
        """The prediction (n, d) of codes without intercept (n, d)."""
        return np.asarray(code + self.intercept)

    def likeliest(self, code: np.ndarray, count: int) -> np.ndarray:
        """Numbers (n, count) of the training pictures, the likeliest first, given codes (n, d), were each as likely before.

        Raises DataError for too many.
        """
        if count > len(self.embeddings):
            raise DataError(f"{count} candidates near {len(self.embeddings)} training pictures; ask for fewer, or width None")
        match = self.evidence.log_ratio(self.predicted(code), self.embeddings)
        return np.argsort(-match, axis=1, kind="stable")[:, :count]

    def match(self, code: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """How well embeddings (m, d), or a set for each code (n, m, d), fit codes (n, d): (n, m), see `Evidence.cosine`.

        Raises DataError for sets of another number.
        """
        predicted = self.predicted(code)
        if embeddings.ndim != 3:
            return self.evidence.cosine(predicted, embeddings)
        if len(embeddings) != len(predicted):
            raise DataError(f"embeddings {embeddings.shape} should be ({len(predicted)}, m, d), a set for each response")
        pairs = zip(predicted, embeddings, strict=True)
        return np.stack([self.evidence.cosine(one[None], own)[0] for one, own in pairs])

    def moved(self, rows: np.ndarray, maps: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
        """(G, s): a code near the anchors `rows` (n,) is code @ G + s, with G (d, d) and s (n, d); maps: `Evidence.maps`."""
        gain, of_centre = maps
        apart = self.intercept - self.evidence.mean
        shift = apart @ gain - apart + (self.embeddings[rows] - self.evidence.mean) @ of_centre
        return torch.from_numpy(gain.astype(np.float32)), torch.from_numpy(shift.astype(np.float32))

    def state(self) -> dict[str, np.ndarray]:
        """What is stored."""
        e = self.evidence
        own = {"embeddings": self.embeddings, "intercept": self.intercept}
        return own | {"mean": e.mean, "before": e.before, "after": e.after}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Anchors:
        """What `state` gave."""
        parts = {name: np.asarray(value) for name, value in state.items()}
        return cls(parts["embeddings"], parts["intercept"], Evidence(parts["mean"], parts["before"], parts["after"]))


def near_anchors(
    anchors: Anchors,
    adapter: RegionAdapter,
    x: Tensor,
    code: np.ndarray,
    text: list[Pair],
    *,
    width: float,
    keep: Tensor | None = None,
) -> Callable[[np.ndarray, int], RegionPrompt]:
    """The prompts of rows (n,) of x (row, unit) for their candidates, the c-th near the training picture that fits c-th best.

    code (row, d): what the regions that are there, keep (P,), wrote.
    """

    maps = anchors.evidence.maps(width)

    def prompts(rows: np.ndarray, candidates: int) -> RegionPrompt:
        each, near = np.repeat(rows, candidates), anchors.likeliest(code[rows], candidates).reshape(-1)
        turn, shift = (part.to(adapter.tokens.bias) for part in anchors.moved(near, maps))
        mask = None if keep is None else keep.expand(len(each), -1)
        return adapter.prompt(x[torch.from_numpy(each)].to(shift), text, mask, moved=(turn, shift))

    return prompts
