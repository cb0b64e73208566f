"""Image embeddings in the width that a diffusion network reads, for the start of tokens and of the attention to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from brainlens.types import DataError

SAME = "prompts: all embeddings are the same; check the network and the pictures"


@dataclass(frozen=True)
class PromptAxes:
    """Embeddings in `width` channels: their first principal axes, turned at random so that no channel is empty, of mean square 1.

        m = s R V'(e - mean),     V (d, k) axes of training embeddings, R (width, k) with orthonormal columns, k = min(d, width)

    Distances of embeddings are those of prompts where width >= d, up to the factor s.
    """

    mean: np.ndarray
    turn: np.ndarray

    @classmethod
    def fit(cls, embeddings: np.ndarray, width: int, *, seed: int = 0) -> Self:
        """Of training embeddings (image, d). Raises DataError for fewer than 2 images and NaN."""
        e = _checked(embeddings)
        mean = e.mean(axis=0)
        axes = np.linalg.svd(e - mean, full_matrices=False)[2][: min(width, *e.shape)]
        random = np.linalg.qr(np.random.default_rng([seed, 61]).normal(size=(width, len(axes))))[0]
        turn = axes.T @ random.T
        size = float(np.sqrt((((e - mean) @ turn) ** 2).mean()))
        if size == 0:
            raise DataError(SAME)
        return cls(mean.astype(np.float32), (turn / size).astype(np.float32))

    @classmethod
    def whitened(cls, embeddings: np.ndarray) -> Self:
        """For a learned map to tokens: all axes at nearly one size, as what tells kinds apart varies little.

            m = V'(e - mean) / (s + s_1 / 20),     s_1 >= s_2 >= ... the standard deviations along the axes V

        Axes below 1e-4 of the first are left out. Raises DataError as `fit` does.
        """
        e = _checked(embeddings)
        mean = e.mean(axis=0)
        _, s, axes = np.linalg.svd(e - mean, full_matrices=False)
        if s[0] == 0:
            raise DataError(SAME)
        s, axes = s[s > 1e-4 * s[0]], axes[s > 1e-4 * s[0]]
        turn = axes.T / (s + s[0] / 20)
        size = float(np.sqrt((((e - mean) @ turn) ** 2).mean()))
        return cls(mean.astype(np.float32), (turn / size).astype(np.float32))

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(image, channel) float32."""
        return np.asarray((np.asarray(embeddings, dtype=np.float32) - self.mean) @ self.turn, dtype=np.float32)


def _checked(embeddings: np.ndarray) -> np.ndarray:
    e = np.asarray(embeddings, dtype=np.float64)
    if e.ndim != 2 or len(e) < 2 or not np.isfinite(e).all():
        raise DataError(f"prompts: embeddings {e.shape} should be finite (image, channel) of 2 images or more")
    return e
