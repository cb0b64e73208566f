"""Simulated fMRI trials of a subject whose layers, receptive fields, concepts and informative voxels are known.

    y_tv = g_v(session) [ s_v(image) + sqrt(kappa) (feature noise)_tv + sqrt(r_v) (rest)_tv ] + offset_v(session, time)

The signals s come from `readout`, the noise from `noise`. Feature noise: what is represented varies by eps_t with
covariance kappa Cov(features), jointly over all layers, tokens and channels. Every voxel reads features linearly, so its
share is w_v' eps_t, and all voxels together have covariance kappa Cov(s) over the images: it is drawn with that
covariance directly, which is the same distribution without a feature-sized draw.

This is a simulation. By default haemodynamics, motion and misaligned anatomy are absent, and voxels that read a network's
layers linearly favour decoders whose target is that network. `mismatch` brings the former, and a brain that reads another
network than the one that is decoded (`target`) the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from brainlens.phantom.anatomy import anatomy, placed
from brainlens.phantom.concepts import check_concepts, kind_table, with_kinds
from brainlens.phantom.cortex import FieldTemplate, cortex, cortex_noise
from brainlens.phantom.mismatch import (
    REACH,
    Mismatch,
    compressed,
    delays,
    displacement,
    leakage,
    moved,
    run_numbers,
    smeared,
)
from brainlens.phantom.noise import (
    KAPPA,
    SESSION_TRIALS,
    RestNoise,
    draw_ncsnr,
    rest_noise,
    rest_variance,
    session_effects,
    symmetric_root,
    trial_generator,
)
from brainlens.phantom.private import private_part
from brainlens.phantom.readout import TARGET, domain_table, readable_layers, readout_table, signals
from brainlens.types import DataError, Features, Responses, Stimuli, Surface, Volume, as_ids, positions

# q, calibrated so that ridge reaches the published 22 % top-1 of 1,000 from 9,000 images x 3; found on 2026-11-28 with
# the shipped miniature and frozen, see docs/phantom.md
PRIVATE = 0.572
BLOCK = 128  # trials computed at a time
LINEAR = Mismatch()  # the phantom as it is without mismatch


@dataclass(frozen=True)
class PhantomTruth:
    """The generative model of one simulated subject.

    ids (image,), signal (image, informative voxel) float32 with its true variance; units: the table of all voxels;
    informative (voxel,): their numbers among the units; factor (k, voxel) with factor' factor = Cov(signal);
    private (image, k): what no voxel reads, in units of standard deviation; rest: noise of parts (b) to (d).
    """

    ids: np.ndarray
    signal: np.ndarray
    units: pd.DataFrame
    space: Volume | Surface
    informative: np.ndarray
    factor: np.ndarray
    private: np.ndarray
    rest: RestNoise
    kappa: float
    subject: int
    seed: int
    mismatch: Mismatch = LINEAR

    def rest_variance(self) -> np.ndarray:
        """Variance (unit,) of noise parts (b) + (c) + (d)."""
        return rest_variance(self.units["ncsnr"].to_numpy(), self.kappa)


@dataclass(frozen=True)
class Reading:
    """What the informative voxels read before anything is private.

    ids (image,), signal (image, informative voxel) float64 of mean 0 and variance 1, target (image, d): the embedding to be
    decoded; units: the table of all voxels but for their ncsnr.
    """

    ids: np.ndarray
    signal: np.ndarray
    target: np.ndarray
    units: pd.DataFrame
    space: Volume | Surface
    subject: int
    seed: int
    mismatch: Mismatch = LINEAR


def phantom_truth(
    stimuli: Stimuli,
    features: Features,
    *,
    subject: int = 1,
    grid: str = "4mm",
    kappa: float = KAPPA,
    private: float = PRIVATE,
    seed: int = 0,
    concepts: str = "domains",
    mismatch: Mismatch = LINEAR,
    target: np.ndarray | None = None,
    template: FieldTemplate | None = None,
) -> PhantomTruth:
    """The generative model of one subject for these images and features.

    features: any network; layers with tokens feed V1 to V4, global tokens the other regions; a layer named "image" (as
    `backbones` names the embedding) is the target of decoding that no voxel reads; without one the last global layer is
    the target. private: the share q of the target's variance that no voxel carries, see `phantom.private`. The truth
    depends on the set of images given, by the means and variances over it, and is a continuous function of the features.
    concepts: what category voxels prefer, "domains" or "kinds" (columns `kind` and `kind2`, see `phantom.concepts`).
    target (image, d), in the order of the stimuli: the embedding to be decoded where it is that of another network than the
    brain's; its share q is private then. mismatch: see `phantom.mismatch`. template: the brain is then the surface of
    `phantom.cortex` with its visual field maps, and no grid.

    Raises DataError where ids do not match, features are missing or not finite, private is outside [0, 1).
    """
    read = read_network(
        stimuli, features, subject=subject, grid=grid, seed=seed, concepts=concepts, mismatch=mismatch, template=template
    )
    if target is not None:
        if len(target) != len(read.ids):
            raise DataError(f"phantom: the target has {len(target)} rows, there are {len(read.ids)} images")
        read = replace(read, target=target)
    return truth_of(read, kappa=kappa, private=private)


def read_network(
    stimuli: Stimuli,
    features: Features,
    *,
    subject: int = 1,
    grid: str = "4mm",
    seed: int = 0,
    concepts: str = "domains",
    mismatch: Mismatch = LINEAR,
    template: FieldTemplate | None = None,
) -> Reading:
    """What the voxels of one subject read, the part of `phantom_truth` that depends on neither kappa nor private."""
    if template is not None and (mismatch.warp or mismatch.motion):
        raise DataError("phantom: warp and motion move a grid of voxels, a retinotopic template is of a surface; leave them out")
    features = features if np.array_equal(features.ids, stimuli.ids) else features.take(stimuli.ids)
    features.check_finite()
    if not 0 <= seed < 2**40:
        raise DataError(f"seed {seed} is not in [0, 2**40)")
    if len(features) < 20:
        raise DataError(f"phantom: {len(features)} images are too few to scale its signals; give at least 20")
    check_concepts(concepts)
    space: Volume | Surface
    if template is not None:
        space, units = cortex(template, subject=subject, seed=seed)
    else:
        space, units = anatomy(grid, subject=subject, seed=seed)
    atlas = units
    if mismatch.warp and isinstance(space, Volume):
        units = placed(units, displacement(space.coordinates(), mismatch.warp, subject=subject, seed=seed), subject, seed)
    domains = domain_table(stimuli)
    units = readout_table(units, features, domains)
    kinds = None
    if concepts == "kinds":
        kinds, of = kind_table(stimuli)
        units = with_kinds(units, of, subject=subject, seed=seed)
    clean = compressed(signals(features, units, domains, kinds, subject=subject, seed=seed), mismatch.nonlinearity)
    if mismatch.warp:  # users see the grid and the atlas; what a voxel reads is where it truly lies
        units = units.assign(roi_true=units["roi"], **{name: atlas[name] for name in ("x", "y", "z", "roi")})
    return Reading(features.ids, clean, _target(features), units, space, subject, seed, mismatch)


def truth_of(read: Reading, *, kappa: float = KAPPA, private: float = PRIVATE) -> PhantomTruth:
    """The generative model for these readings: private components taken out, signals scaled to their true variance."""
    units = read.units.copy()
    informative = np.flatnonzero(units["informative"])
    ncsnr = np.zeros(len(units))
    ncsnr[informative] = draw_ncsnr(len(informative), kappa, np.random.default_rng([read.seed, read.subject, 23]))
    units["ncsnr"] = ncsnr
    hidden, strength = private_part(read.target, private, seed=read.seed)
    clean = read.signal - hidden @ (strength[:, None] * (hidden.T @ read.signal) / len(read.signal))
    clean /= clean.std(axis=0)
    clean *= ncsnr[informative] / np.sqrt(1 + ncsnr[informative] ** 2)
    who = {"subject": read.subject, "seed": read.seed}
    return PhantomTruth(
        ids=read.ids,
        signal=clean.astype(np.float32),
        units=units,
        space=read.space,
        informative=informative,
        factor=_factor(clean),
        private=hidden.astype(np.float32),
        rest=rest_noise(read.space, **who) if isinstance(read.space, Volume) else cortex_noise(read.space, **who),
        kappa=kappa,
        subject=read.subject,
        seed=read.seed,
        mismatch=read.mismatch,
    )


def make_trials(stimuli: Stimuli, *, subject: int = 1, repeats: int = 3, seed: int = 0) -> pd.DataFrame:
    """Trials in the order of recording: every image `repeats` times, shuffled over sessions of about 750 trials.

    Columns stimulus, subject ("1"), session, repeat (from 1) and split ("train" where the stimuli have no such column).
    """
    if repeats < 1:
        raise DataError(f"repeats {repeats}: every image is shown at least once")
    n = len(stimuli) * repeats
    image = np.random.default_rng([seed, subject, 31]).permutation(np.repeat(np.arange(len(stimuli)), repeats))
    sessions = np.array_split(np.arange(n), max(1, -(-n // SESSION_TRIALS)))
    session = np.repeat(np.arange(1, len(sessions) + 1), [len(part) for part in sessions])
    split = stimuli.table["split"].astype(str).to_numpy() if "split" in stimuli.table.columns else np.full(len(stimuli), "train")
    trials = pd.DataFrame({"stimulus": stimuli.ids[image], "subject": str(subject), "session": session})
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    trials["split"] = split[image]
    return trials


def simulate(
    truth: PhantomTruth,
    trials: pd.DataFrame,
    *,
    noise: bool = True,
    dtype: str = "float16",
    out: np.ndarray | None = None,
    block: int = BLOCK,
) -> Responses:
    """Responses to these trials; row t of the table is trial number t, whatever block it is computed in.

    noise=False gives the clean signals, without session effects, haemodynamics and motion. out: an array or memory map
    (trial, unit) to fill.
    """
    image = positions(as_ids(trials["stimulus"], "trials.stimulus"), truth.ids)
    n, units = len(trials), len(truth.units)
    if out is None:
        out = np.empty((n, units), dtype=dtype)
    if out.shape != (n, units):
        raise DataError(f"out has shape {out.shape}, {n} trials of {units} units are to be written")
    place = place_in_session(trials["session"].to_numpy()) if "session" in trials.columns else np.zeros(n)
    session = trials["session"].to_numpy(dtype=int) if "session" in trials.columns else np.ones(n, dtype=int)
    effect = session_effects(truth.seed, truth.subject, units)
    spread = np.sqrt(truth.rest_variance()).astype(np.float32)
    estimated = _estimates(truth, image, run_numbers(session, place))
    for start in range(0, n, block):
        stop = min(start + block, n)
        if not noise:
            values = np.zeros((stop - start, units), dtype=np.float32)
            values[:, truth.informative] = truth.signal[image[start:stop]]
            out[start:stop] = values
            continue
        own = [trial_generator(truth.seed, truth.subject, 0, t) for t in range(start, stop)]
        values = truth.rest.draw(own)
        values *= spread
        estimated(values, start, stop)
        for row, t in enumerate(range(start, stop)):
            gain, offset = effect(session[t], place[t])
            values[row] *= gain
            values[row] += offset
        out[start:stop] = values
    return Responses(out, trials, truth.units, space=truth.space, measure="z")


def _estimates(truth: PhantomTruth, image: np.ndarray, run: np.ndarray) -> Callable[[np.ndarray, int, int], None]:
    """A function that adds, to values (trial, unit) of the trials start to stop, the estimates of their neural responses."""
    informative, mismatch = truth.informative, truth.mismatch
    who = {"subject": truth.subject, "seed": truth.seed}
    kernel = None
    if mismatch.haemodynamics:
        xyz = truth.units[["x", "y", "z"]].to_numpy()[informative]
        kernel = leakage(delays(xyz, mismatch.haemodynamics, **who)).astype(np.float32)

    def neural(start: int, stop: int) -> np.ndarray:
        shared = [trial_generator(truth.seed, truth.subject, 1, t) for t in range(start, stop)]
        draws = np.stack([g.standard_normal(len(truth.factor), dtype=np.float32) for g in shared])
        return truth.signal[image[start:stop]] + np.float32(np.sqrt(truth.kappa)) * (draws @ truth.factor)

    def add(values: np.ndarray, start: int, stop: int) -> None:
        if kernel is None:
            found = neural(start, stop)
        else:
            first, last = max(start - REACH, 0), min(stop + REACH, len(image))
            found = smeared(neural(first, last), run[first:last], kernel)[start - first : stop - first]
        if not mismatch.motion:
            values[:, informative] += found
            return
        for number in np.unique(run[start:stop]):
            rows = run[start:stop] == number
            assert isinstance(truth.space, Volume)  # motion of a surface is refused
            values[rows] += (moved(truth.space, informative, mismatch.motion, run=int(number), **who) @ found[rows].T).T

    return add


def make_fmri(
    stimuli: Stimuli,
    features: Features,
    *,
    subject: int = 1,
    grid: str = "4mm",
    repeats: int = 3,
    kappa: float = KAPPA,
    private: float = PRIVATE,
    seed: int = 0,
) -> Responses:
    """Simulated fMRI of one subject, every image `repeats` times: `phantom_truth`, `make_trials`, `simulate` in one.

    Returns float16 responses (trial, voxel) of trial variance 1 before session effects (remove those with
    `zscore(by="session")`); units: x y z roi hemisphere ncsnr layer rf_x rf_y rf_size is_global domain informative.
    """
    truth = phantom_truth(stimuli, features, subject=subject, grid=grid, kappa=kappa, private=private, seed=seed)
    return simulate(truth, make_trials(stimuli, subject=subject, repeats=repeats, seed=seed))


def _target(features: Features) -> np.ndarray:
    """The embedding to be decoded: the layer "image", or else the last global layer."""
    if TARGET in features.data:
        return features.data[TARGET]
    _, whole = readable_layers(features)
    if whole:
        return features.data[features.layer[whole[-1]]]
    last = features.layer[-1]
    return np.asarray(features.tokens[last], dtype=np.float32).mean(axis=1)


def _factor(signal: np.ndarray) -> np.ndarray:
    """A (k, voxel) float32 with A'A = Cov(signal), k the smaller of images and voxels, continuous in the signal."""
    n, voxels = signal.shape
    if n <= voxels:
        return (signal / np.sqrt(n)).astype(np.float32)
    return symmetric_root(signal.T @ signal / n).astype(np.float32)


def place_in_session(session: np.ndarray) -> np.ndarray:
    """Position of each trial in its session (trial,), from -1 at the start to 1 at the end."""
    frame = pd.Series(session)
    count = frame.groupby(frame).cumcount().to_numpy()
    size = frame.groupby(frame).transform("size").to_numpy()
    return (2 * count - (size - 1)) / np.maximum(size - 1, 1)
