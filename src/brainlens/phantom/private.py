"""The private share of the phantom: components of the target embedding that no voxel carries.

With the centred embedding X (image, d), its covariance C = X'X / n of mean variance m, and a random matrix G (d, d) of the
seed alone,

    Z = X (C + r m I)^(-1/2)                        symmetric whitening with a ridge, r = 0.3
    H = Gram-Schmidt of Z G, column by column       uncorrelated components of variance 1, in a random order
    b_j = |X' h_j|^2 / (n^2 tr C)                   the share of the embedding's variance that component j holds

and components are private from the first on until their shares add up to q, the last one with the strength that is missing:
a_j = 1 for j < k, a_k = (q - b_1 - ... - b_(k-1)) / b_k. Every signal loses s <- s - H diag(a) H's / n.

All steps are continuous in the features: the whitening is a symmetric function of C (no free sign, no order of eigenvectors,
no numerical rank), G has a fixed size, and a component enters with a strength of 0. So features that differ by rounding give
signals that differ by rounding, on any processor.
"""

from __future__ import annotations

import numpy as np

from brainlens.types import DataError

# of the mean variance: principal components of less variance are hardly whitened. Features that differ by 1e-3 of their deviation
# move no voxel of the shipped miniature by more than .005 of its own with 0.3, .007 with 0.1 and .016 with 0.01
RIDGE = 0.3


def private_part(target: np.ndarray, share: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Private components (image, k) of a target embedding (image, d), uncorrelated and of variance 1, and their strength (k,).

    The strength is 1 but for the last one, see the module: over the images given no linear function of any voxel's signal is
    correlated with a component of strength 1. Between voxels without noise and the share q lies less than the last component.

    Raises DataError for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise DataError(f"private {share} is not in [0, 1): it is the share of the embedding that no voxel carries")
    centred = np.asarray(target, dtype=np.float64) - np.mean(target, axis=0, dtype=np.float64)
    if share == 0:
        return np.zeros((len(centred), 0)), np.zeros(0)
    components, held = components_in_order(centred, seed=seed)
    reached = np.cumsum(held)
    k = min(int(np.searchsorted(reached, share)) + 1, len(held))
    strength = np.ones(k)
    strength[-1] = min((share - reached[k - 1] + held[k - 1]) / held[k - 1], 1.0)
    return components[:, :k], strength


def components_in_order(centred: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """H (image, min(image, d)) of the module for a centred embedding (image, d), and the shares b that add up to 1."""
    n, size = centred.shape
    values, vectors = np.linalg.eigh(centred.T @ centred / n)
    scale = 1.0 / np.sqrt(np.maximum(values, 0.0) + RIDGE * values.mean())
    white = centred @ ((vectors * scale) @ vectors.T)
    turned = white @ np.random.default_rng([seed, 29]).standard_normal((size, size))
    found, upper = np.linalg.qr(turned)
    found *= np.where(np.diag(upper) < 0, -1.0, 1.0)  # as Gram-Schmidt gives them
    held = ((centred.T @ found) ** 2).sum(axis=0) / (centred**2).sum()
    return np.sqrt(n) * found, held
