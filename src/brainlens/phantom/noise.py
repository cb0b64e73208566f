"""Trial noise of the phantom: four parts whose variances add to one less the signal, and slow session effects on top.

For a voxel with signal variance s^2 and ncsnr c = s / sigma_n the trial variance is s^2 + sigma_n^2 = 1, so
s^2 = c^2 / (1 + c^2) and sigma_n^2 = 1 / (1 + c^2). Of the noise

    (a) kappa s^2 is feature noise: what the voxels represent varies from trial to trial with covariance
        kappa Cov(features), drawn once a trial and seen by every voxel that reads the feature;
    of the rest r = sigma_n^2 - kappa s^2
    (b) 35 % is smooth over the brain (Gaussian, FWHM 10 mm),
    (c) 15 % is global (20 factors seen by every voxel),
    (d) 50 % is independent.

Only (a) limits the information: (b) to (d) average out over voxels or can be learnt and removed. (a) needs
kappa s^2 < sigma_n^2, that is c < 1 / sqrt(kappa). A voxel outside the regions has s = 0 and r = 1.
The shares and kappa = 2 were fixed beforehand and are not tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from brainlens.types import DataError, Surface, Volume

KAPPA = 2.0  # feature-noise variance / signal variance
SMOOTH, GLOBAL, INDEPENDENT = 0.35, 0.15, 0.50  # shares of the rest
FWHM = 10.0  # mm, of the smoothing kernel of part (b)
RANK = 20  # factors of part (c)
NCSNR_MEDIAN, NCSNR_SIGMA = 0.42, 0.40  # lognormal; NSD: .416 in early, .407 in ventral visual cortex
NCSNR_ROOM = 0.95  # ncsnr is clipped at this share of 1 / sqrt(kappa), so that parts (b) to (d) never vanish
SESSION_TRIALS = 750  # as NSD
SESSION_MEAN, SESSION_SCALE, SESSION_DRIFT = 0.20, 0.05, 0.10  # standard deviations: offset, log gain, ramp over a session


def draw_ncsnr(n: int, kappa: float, rng: np.random.Generator) -> np.ndarray:
    """Noise-ceiling signal-to-noise ratios (n,), lognormal, clipped at 0.95 / sqrt(kappa)."""
    if not 0 <= kappa < 100:
        raise DataError(f"kappa {kappa} is not in [0, 100); 2 is the value that the documentation uses")
    ratio = NCSNR_MEDIAN * np.exp(NCSNR_SIGMA * rng.standard_normal(n))
    return np.minimum(ratio, NCSNR_ROOM / np.sqrt(kappa)) if kappa > 0 else ratio


def rest_variance(ncsnr: np.ndarray, kappa: float) -> np.ndarray:
    """Variance of parts (b) + (c) + (d), of any shape: (1 - kappa ncsnr^2) / (1 + ncsnr^2)."""
    return (1.0 - kappa * ncsnr**2) / (1.0 + ncsnr**2)


def trial_generator(seed: int, subject: int, stream: int, number: int) -> np.random.Generator:
    """The random numbers of one trial (or session): a function of its number alone, whatever block it is computed in."""
    key = np.array([np.uint64(seed) << np.uint64(20) | np.uint64(subject), np.uint64(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, number], dtype=np.uint64)))


@dataclass(frozen=True)
class RestNoise:
    """Parts (b), (c) and (d), with unit variance in every voxel, as x = sqrt(.35) M w + sqrt(.15) U g + sqrt(.5) e.

    w is white noise on the bounding box of the mask, M the separable smoother whose rows have unit norm on each axis,
    U (unit, 20) smooth loadings with rows of unit norm.
    """

    space: Volume | Surface
    loadings: np.ndarray

    @property
    def volume(self) -> Volume:
        """The grid, of which noise on a surface has none."""
        assert isinstance(self.space, Volume)
        return self.space

    @cached_property
    def box(self) -> tuple[slice, ...]:
        index = np.argwhere(self.volume.mask)
        return tuple(slice(low, high + 1) for low, high in zip(index.min(axis=0), index.max(axis=0)))

    @cached_property
    def inside(self) -> np.ndarray:
        """Flat numbers, in the box, of the units."""
        return np.flatnonzero(self.volume.mask[self.box])

    @cached_property
    def white_shape(self) -> tuple[int, ...]:
        """Of the white noise of one trial that is made smooth."""
        return tuple(part.stop - part.start for part in self.box)

    @cached_property
    def smoothers(self) -> list[np.ndarray]:
        """One (size, size) float32 matrix an axis, rows of unit norm, tails beyond 4 sigma exactly zero.

        White noise smoothed with a Gaussian of width sigma has an autocorrelation of width sqrt(2) sigma; FWHM is that
        of the kernel, as in the tools that smooth images.
        """
        found = []
        for axis in range(3):
            step = float(np.linalg.norm(self.volume.affine[:3, axis]))
            size = self.box[axis].stop - self.box[axis].start
            distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) * step
            sigma = FWHM / np.sqrt(8 * np.log(2))
            kernel = np.where(distance <= 4 * sigma, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
            found.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
        return found

    def smooth(self, white: np.ndarray) -> np.ndarray:
        """White noise (trial, box x, y, z) -> smooth noise of unit variance (trial, unit)."""
        x, y, z = self.smoothers
        n, sx, sy, sz = white.shape
        out = white.reshape(-1, sz) @ z.T
        out = np.matmul(y, out.reshape(n * sx, sy, sz))
        out = np.matmul(x, out.reshape(n, sx, sy * sz))
        return out.reshape(n, -1)[:, self.inside]

    def smooth_transposed(self, values: np.ndarray) -> np.ndarray:
        """M' v for v (k, unit): (k, box x, y, z), for exact covariances of linear functions of the smooth part."""
        x, y, z = (matrix.astype(np.float64) for matrix in self.smoothers)
        volume = np.zeros((len(values), len(x) * len(y) * len(z)))
        volume[:, self.inside] = values
        box = volume.reshape(len(values), len(x), len(y), len(z))
        return np.einsum("nabc,ai,bj,ck->nijk", box, x, y, z, optimize=True)

    def smooth_covariance(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Covariance (left, right) of the smooth part between two sets of unit numbers."""
        places = np.argwhere(self.volume.mask[self.box])
        out = np.ones((len(left), len(right)))
        for axis, matrix in enumerate(self.smoothers):
            product = matrix.astype(np.float64) @ matrix.T.astype(np.float64)
            out *= product[np.ix_(places[left, axis], places[right, axis])]
        return out

    def draw(self, generators: list[np.random.Generator], into: np.ndarray | None = None) -> np.ndarray:
        """One row of noise (trial, unit) float32 a generator."""
        white = np.stack([g.standard_normal(self.white_shape, dtype=np.float32) for g in generators])
        factors = np.stack([g.standard_normal(RANK, dtype=np.float32) for g in generators])
        out = np.stack([g.standard_normal(len(self.loadings), dtype=np.float32) for g in generators])
        out *= np.float32(np.sqrt(INDEPENDENT))
        out += np.float32(np.sqrt(GLOBAL)) * (factors @ self.loadings.T)
        out += np.float32(np.sqrt(SMOOTH)) * self.smooth(white)
        return out


def symmetric_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric F (k, k) float64 with F F = covariance; rounding below zero counts as zero.

    Of all roots this one is a continuous function of the covariance: eigenvectors have a free sign and mix where eigenvalues
    are near each other, and neither changes F = V L^1/2 V'. With a root of numerical rank the number of draws would hang on
    rounding too.
    """
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def smooth_field(xyz: np.ndarray, channels: int, rng: np.random.Generator, length: float) -> np.ndarray:
    """Random functions of place (unit, channel), about N(0, 1), correlated over `length` mm: 256 random Fourier features."""
    waves = 256
    frequency = rng.standard_normal((3, waves)) / length
    phase = rng.uniform(0, 2 * np.pi, waves)
    amplitude = rng.standard_normal((waves, channels)) * np.sqrt(2.0 / waves)
    return np.cos(xyz @ frequency + phase) @ amplitude


def rest_noise(space: Volume, *, subject: int, seed: int) -> RestNoise:
    """The noise of parts (b) to (d) of one subject; the loadings of the global factors vary over 30 mm."""
    rng = np.random.default_rng([seed, subject, 13])
    loadings = smooth_field(space.coordinates(), RANK, rng, length=30.0)
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    return RestNoise(space, loadings.astype(np.float32))


def session_effects(seed: int, subject: int, n_units: int) -> Callable[[int, float], tuple[np.ndarray, np.ndarray]]:
    """A function (session, place in the session in [-1, 1]) -> (gain, offset), each (unit,)."""
    kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def effect(session: int, place: float) -> tuple[np.ndarray, np.ndarray]:
        if session not in kept:
            rng = trial_generator(seed, subject, 2, session)
            gain = np.exp(SESSION_SCALE * rng.standard_normal(n_units, dtype=np.float32))
            mean = SESSION_MEAN * rng.standard_normal(n_units, dtype=np.float32)
            ramp = SESSION_DRIFT * rng.standard_normal(n_units, dtype=np.float32)
            kept.clear()
            kept[session] = (gain, mean, ramp)
        gain, mean, ramp = kept[session]
        return gain, mean + np.float32(place) * ramp

    return effect
