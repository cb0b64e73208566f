"""What a prediction says of an embedding: a Gaussian posterior, whose covariance comes from errors out of sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from brainlens.types import DataError


@dataclass(frozen=True)
class Evidence:
    """z ~ N(m, S) before, z | p ~ N(p, C) after a prediction p of the embedding z, with C the covariance of the errors.

    An error of ridge is far from even: some directions are known well and most hardly at all, and these are not the axes of the
    embedding. A plain cosine of p and z weighs all alike.
    mean m (d,), before S^-1 and after C^-1 (d, d).
    """

    mean: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def fit(cls, predicted: np.ndarray, target: np.ndarray, *, shrinkage: float | None = None) -> Evidence:
        """predicted (n, d), out of sample, of target (n, d); covariances are shrunk towards their mean diagonal.

        shrinkage: None for the share that the rows themselves ask for (Ledoit and Wolf 2004), so that few pictures in many
        dimensions claim no more than they know.

        Raises DataError for shapes that differ, fewer than 3 rows, NaN, targets that do not vary, a shrinkage outside (0, 1].
        """
        p, z = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
        if p.ndim != 2 or p.shape != z.shape or len(z) < 3:
            raise DataError(f"evidence: predictions {p.shape} and embeddings {z.shape} should be (n, d) twice, n >= 3")
        if not (np.isfinite(p).all() and np.isfinite(z).all()):
            raise DataError("evidence: predictions and embeddings should be finite")
        if shrinkage is not None and not 0 < shrinkage <= 1:
            raise DataError(f"evidence: shrinkage {shrinkage} is not in (0, 1]")
        if not np.ptp(z, axis=0).any():
            raise DataError("evidence: all embeddings are the same; check the network and the pictures")
        mean = z.mean(axis=0)
        return cls(mean, _precision(z - mean, shrinkage), _precision(z - p, shrinkage))

    def cosine(self, predicted: np.ndarray, embedding: np.ndarray) -> np.ndarray:
        """The cosine of predictions (n, d) and embeddings (m, d) in the metric of the errors, (n, m) in [-1, 1].

            c = a' C^-1 b / (|a|_C |b|_C),     a = p - m, b = z - m, |a|_C^2 = a' C^-1 a

        It asks for the direction alone: a prediction is shorter than what it predicts.
        """
        a, b = self._from_mean(predicted), self._from_mean(embedding)
        sizes = [np.sqrt(_squared(x, self.after)) for x in (a, b)]
        tiny = np.finfo(np.float64).tiny
        return np.asarray((a @ self.after @ b.T) / np.maximum(sizes[0], tiny)[:, None] / np.maximum(sizes[1], tiny))

    def log_ratio(self, predicted: np.ndarray, embedding: np.ndarray) -> np.ndarray:
        """log p(z | p) / p(z) of predictions (n, d) and embeddings (m, d), (n, m): what is gained over knowing nothing."""
        a, b = self._from_mean(predicted), self._from_mean(embedding)
        of_b, of_a = _squared(b, self.after - self.before), _squared(a, self.after)
        size = np.linalg.slogdet(self.after)[1] - np.linalg.slogdet(self.before)[1]
        return np.asarray(a @ self.after @ b.T - (of_a[:, None] + of_b - size) / 2)

    def near(self, predicted: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
        """The likeliest embedding (n, d) given predictions (n, d), were embeddings drawn around centres (n, d) and not around m.

            z = argmax  log p(z | p) / p(z) - (z - c)' S^-1 (z - c) / (2 width^2)
              = m + (C^-1 - S^-1 + S^-1 / width^2)^-1 (C^-1 (p - m) + S^-1 (c - m) / width^2)

        width 1 around m itself gives p, width towards 0 gives c. Raises DataError for a width outside (0, 1] and other shapes.
        """
        a, c = self._from_mean(predicted), self._from_mean(centre)
        if a.shape != c.shape:
            raise DataError(f"evidence: predictions {a.shape} and centres {c.shape} differ; give a centre for each")
        of_prediction, of_centre = self.maps(width)
        return np.asarray(self.mean + a @ of_prediction + c @ of_centre)

    def maps(self, width: float) -> tuple[np.ndarray, np.ndarray]:
        """What `near` multiplies p - m and c - m by, (d, d) each. Raises DataError for a width outside (0, 1]."""
        if not 0 < width <= 1:
            raise DataError(f"evidence: width {width} is not in (0, 1]")
        near = self.before / width**2
        of_prediction, of_centre = np.split(
            np.linalg.solve(self.after - self.before + near, np.concatenate([self.after, near], axis=1)), 2, axis=1
        )
        return of_prediction.T, of_centre.T

    def _from_mean(self, x: np.ndarray) -> np.ndarray:
        rows = np.asarray(x, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise DataError(f"evidence: rows {rows.shape} should be (n, {len(self.mean)})")
        return rows - self.mean


def _squared(x: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """x' M x of each row, (n,)."""
    return np.asarray(((x @ metric) * x).sum(axis=1))


def _precision(x: np.ndarray, shrinkage: float | None) -> np.ndarray:
    """The inverse of the shrunk second moments of rows that are centred, or errors, (n, d)."""
    covariance = x.T @ x / len(x)
    share = ledoit_wolf_shrinkage(x, assume_centered=True) if shrinkage is None else shrinkage
    size = float(np.trace(covariance)) / len(covariance)
    least = max(share, 1e-6) * max(size, 1e-12)  # where a direction does not vary at all
    return np.asarray(np.linalg.inv((1 - share) * covariance + least * np.eye(len(covariance))))
