"""What a real brain adds to the linear phantom: a nonlinearity, haemodynamics, another anatomy, a head that moves.

    nonlinearity  what a voxel reads, s of mean 0 and variance 1, becomes log(1 + exp(4 s))^n: rectified, then compressed
    haemodynamics a GLM with the canonical response estimates trials 4 s apart, and the voxel answers d_v seconds late:
                  beta_t = sum_j k_j(d_v) neural_(t-j), d_v of this standard deviation in seconds, smooth over 20 mm
    warp          the voxel at x belongs to the place x + u(x) of the atlas, u of this standard deviation in mm on each axis
                  and smooth over 30 mm, another in each subject; `roi` stays that of the atlas, the truth is that of the brain
    motion        in each run the head lies t away and turned by r from where it was, t of this standard deviation in mm and
                  r of as many mm at 60 mm from the middle; the signal is read off by trilinear interpolation

Noise parts (b) to (d) are left as they are: a shift of a few mm does not change their distribution. Each part is off at its
default, and the phantom is then the linear one to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial.transform import Rotation
from scipy.stats import gamma

from brainlens.phantom.noise import smooth_field
from brainlens.types import DataError, Volume

DELAY_LENGTH, WARP_LENGTH = 20.0, 30.0  # mm over which delays and displacements vary
APART, SHOWN, SCAN = 4.0, 3.0, 1.0  # seconds: from one trial to the next, a picture on the screen, from one volume to the next
REACH = 4  # trials before and after a trial whose answers reach its estimate
RUNS = 12  # runs in a session, as NSD
ARM = 60.0  # mm from the middle of the head at which a rotation moves as much as a shift
MIDDLE = (0.0, -18.0, 18.0)  # mm: the middle of the brain, about which it turns


@dataclass(frozen=True)
class Mismatch:
    """How far the simulated brain lies from the linear phantom; see the module. Raises DataError for values out of range."""

    nonlinearity: float = 1.0
    haemodynamics: float = 0.0
    warp: float = 0.0
    motion: float = 0.0

    def __post_init__(self) -> None:
        ranges = {"nonlinearity": (0.1, 1.0, "an exponent; 1 is linear"), "haemodynamics": (0.0, 3.0, "seconds of delay")}
        ranges |= {"warp": (0.0, 12.0, "mm"), "motion": (0.0, 6.0, "mm")}
        for name, (low, high, what) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise DataError(f"phantom: {name} {value} is not in [{low:g}, {high:g}] ({what})")

    @property
    def in_time(self) -> bool:
        """Whether a trial's estimate is no longer its own response alone, at its own place."""
        return self.haemodynamics > 0 or self.motion > 0


def compressed(signal: np.ndarray, exponent: float) -> np.ndarray:
    """log(1 + exp(4 s))^n of standardised signals (image, voxel), standardised again; as they are at exponent 1."""
    if exponent == 1:
        return signal
    found = np.logaddexp(0.0, 4.0 * signal) ** exponent
    found -= found.mean(axis=0)
    return found / found.std(axis=0)


def displacement(xyz: np.ndarray, warp: float, *, subject: int, seed: int) -> np.ndarray:
    """u (unit, 3) in mm at places (unit, 3) of one subject."""
    return warp * smooth_field(xyz, 3, np.random.default_rng([seed, subject, 41]), WARP_LENGTH)


def response(times: np.ndarray, onset: float) -> np.ndarray:
    """The canonical double-gamma response (time,) to a picture that is shown for three seconds from `onset` on."""
    since = times[:, None] - onset - np.arange(0.0, SHOWN, 0.1)
    return 0.1 * (gamma.pdf(since, 6) - gamma.pdf(since, 16) / 6).sum(axis=1)


@lru_cache(maxsize=1)
def _estimator() -> tuple[np.ndarray, np.ndarray, float]:
    """Of a stretch of trials: the times of volumes, rows of the pseudoinverse about the middle trial, and its onset."""
    trials = 10 * REACH + 1
    times = np.arange(0.0, trials * APART + 32.0, SCAN)
    design = np.stack([response(times, i * APART) for i in range(trials)], axis=1)
    middle = trials // 2
    return times, np.linalg.pinv(design)[middle - REACH : middle + REACH + 1], middle * APART


def leakage(delay: np.ndarray) -> np.ndarray:
    """k (lag, voxel), of delay (voxel,): how much of a trial's response the estimates of the trials from -REACH to +REACH get.

    Least squares with one regressor a trial, the canonical response at its onset, for a voxel that answers `delay` seconds
    later: without delay the middle one gets 1 and the others 0. Delays are taken to a twentieth of a second.
    """
    times, rows, onset = _estimator()
    steps, where = np.unique(np.rint(np.asarray(delay) * 20).astype(int), return_inverse=True)
    return np.stack([rows @ response(times, onset + step / 20) for step in steps], axis=1)[:, where]


def delays(xyz: np.ndarray, spread: float, *, subject: int, seed: int) -> np.ndarray:
    """d (voxel,) in seconds at these places."""
    return spread * smooth_field(xyz, 1, np.random.default_rng([seed, subject, 43]), DELAY_LENGTH)[:, 0]


def smeared(neural: np.ndarray, run: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Estimates (trial, voxel) from responses of trials that follow each other; nothing leaks from one run into another."""
    reach = len(kernel) // 2
    found = neural * kernel[reach]
    for later in range(1, reach + 1):
        same = (run[later:] == run[:-later])[:, None]
        found[later:] += np.where(same, neural[:-later] * kernel[reach + later], 0)
        found[:-later] += np.where(same, neural[later:] * kernel[reach - later], 0)
    return found


def run_numbers(session: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The run (trial,) of each trial, counted over all sessions, from its session and its place there in [-1, 1]."""
    inside = np.minimum((np.asarray(place) + 1) / 2 * RUNS, RUNS - 1).astype(int)
    return np.asarray(session, dtype=int) * RUNS + inside


def moved(space: Volume, informative: np.ndarray, motion: float, *, run: int, subject: int, seed: int) -> csr_matrix:
    """(unit, informative voxel): how much each unit sees of each voxel's signal in one run, by trilinear interpolation.

    informative (k,): numbers of units; returns (unit, k), sparse.
    """
    rng = np.random.default_rng([seed, subject, 47, run])
    shift, turn = motion * rng.standard_normal(3), motion / ARM * rng.standard_normal(3)
    xyz = space.coordinates()
    seen = Rotation.from_rotvec(turn).apply(xyz - MIDDLE) + MIDDLE + shift
    inverse = np.linalg.inv(space.affine)
    index = seen @ inverse[:3, :3].T + inverse[:3, 3]
    number = np.full(space.mask.shape, -1)
    where = np.argwhere(space.mask)[informative]
    number[tuple(where.T)] = np.arange(len(informative))
    low = np.floor(index).astype(int)
    rows, columns, values = [], [], []
    for corner in np.ndindex(2, 2, 2):
        at = low + corner
        weight = np.prod(np.where(np.array(corner) == 1, index - low, 1 - (index - low)), axis=1)
        inside = ((at >= 0) & (at < space.mask.shape)).all(axis=1) & (weight > 0)
        found = np.full(len(at), -1)
        found[inside] = number[tuple(at[inside].T)]
        kept = found >= 0
        rows.append(np.flatnonzero(kept))
        columns.append(found[kept])
        values.append(weight[kept])
    entries = (np.concatenate(values).astype(np.float32), (np.concatenate(rows), np.concatenate(columns)))
    return csr_matrix(entries, shape=(len(xyz), len(informative)))
