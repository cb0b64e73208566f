"""The ideal observer: the decoder that knows the phantom's generative model, the ceiling beside every decoder.

Averaged responses y to one image are Gaussian given the image j,

    y ~ N(s_j, Sigma / repeats),   log p(y | j) = -1/2 (y - s_j)' (Sigma / repeats)^-1 (y - s_j) + constant,

with Sigma = kappa Cov(s) + D^1/2 (.35 K + .15 U U' + .5 I) D^1/2: feature noise, smooth noise, global factors, independent
noise. Only differences between candidates matter, so the constant is left out.

Approximations. (1) Of the voxels outside the regions only those within `near` mm of a region enter one by one; of all the
others enter the 20 least-squares estimates of the global factors, with their exact variance and covariance. (2) Sessions:
responses are taken as they come out of `zscore(by="session")`; what is left of gain and drift is not modelled. (3) The
rounding to float16 and the feature noise's covariance over a finite set of images are taken as exact. Everything else is
exact, so on the phantom no decoder that does not see the truth does better, up to these.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.spatial import cKDTree

from brainlens.phantom.fmri import PhantomTruth
from brainlens.phantom.noise import GLOBAL, INDEPENDENT, RANK, SMOOTH
from brainlens.types import DataError, positions


def ideal_scores(
    data: np.ndarray, gallery: Iterable[str], truth: PhantomTruth, *, repeats: int | np.ndarray = 3, near: float = 8.0
) -> np.ndarray:
    """Log-likelihood (response, candidate), up to a constant a row, of averaged responses for each candidate image.

    data (response, unit): z-scored responses averaged over `repeats` (one number, or one a response), all units of the
    phantom; gallery: ids of candidate images, of those that the truth was made for; near in mm.
    Time: one Cholesky of the voxels that enter (about 4,000 at 4 mm: seconds; at 2 mm choose near=0).

    Raises DataError where shapes or ids do not match.
    """
    if truth.mismatch.in_time:
        raise DataError("ideal observer: its likelihood is that of trials without haemodynamics and motion; set both to 0")
    data = np.asarray(data)
    if data.ndim != 2 or data.shape[1] != len(truth.units):
        raise DataError(
            f"ideal observer: data {data.shape}, expected (response, {len(truth.units)}) with all units of the phantom"
        )
    times = np.broadcast_to(np.asarray(repeats, dtype=np.float64), (len(data),))
    if not (times >= 1).all():
        raise DataError(f"ideal observer: repeats must be at least 1, got {times.min()}")
    candidates = truth.signal[positions(gallery, truth.ids, "gallery")].astype(np.float64)
    close, far = _near_and_far(truth, near)
    estimator = np.linalg.pinv(truth.rest.loadings[far].astype(np.float64)) if len(far) > RANK else np.zeros((0, len(far)))
    lower = cholesky(covariance(truth, close, far, estimator), lower=True, overwrite_a=True, check_finite=False)
    observed = np.concatenate([data[:, close].astype(np.float64), data[:, far].astype(np.float64) @ estimator.T], axis=1)
    expected = np.zeros((len(candidates), observed.shape[1]))
    expected[:, np.searchsorted(close, truth.informative)] = candidates
    white = solve_triangular(lower, observed.T, lower=True, check_finite=False).T
    patterns = solve_triangular(lower, expected.T, lower=True, check_finite=False).T
    return times[:, None] * (white @ patterns.T - 0.5 * (patterns**2).sum(axis=1))


def covariance(truth: PhantomTruth, close: np.ndarray, far: np.ndarray, estimator: np.ndarray) -> np.ndarray:
    """Covariance of one trial's noise in the `close` units and in the factor estimates `estimator @ y[far]`.

    close (a,), far (b,) numbers of units; estimator (k, b); returns (a + k, a + k).
    """
    spread = np.sqrt(truth.rest_variance())
    loadings = truth.rest.loadings.astype(np.float64)
    own = SMOOTH * truth.rest.smooth_covariance(close, close) + GLOBAL * loadings[close] @ loadings[close].T
    own[np.diag_indices(len(close))] += INDEPENDENT
    own *= np.outer(spread[close], spread[close])
    place = np.searchsorted(close, truth.informative)
    factor = truth.factor.astype(np.float64)
    own[np.ix_(place, place)] += truth.kappa * factor.T @ factor
    k = len(estimator)
    if k == 0:
        return own
    weights = np.zeros((k, len(truth.units)))
    weights[:, far] = estimator * spread[far]
    spilled = truth.rest.smooth_transposed(weights)
    mixed = weights @ loadings
    flat = spilled.reshape(k, -1)
    shared = SMOOTH * flat @ flat.T + GLOBAL * mixed @ mixed.T
    shared += INDEPENDENT * weights @ weights.T
    cross = SMOOTH * truth.rest.smooth(spilled)[:, close] + GLOBAL * mixed @ loadings[close].T
    cross *= spread[close]
    return np.block([[own, cross.T], [cross, shared]])


def _near_and_far(truth: PhantomTruth, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit numbers, ascending, within `near` mm of an informative voxel, and all others."""
    xyz = truth.units[["x", "y", "z"]].to_numpy()
    distance, _ = cKDTree(xyz[truth.informative]).query(xyz)
    return np.flatnonzero(distance <= near), np.flatnonzero(distance > near)
