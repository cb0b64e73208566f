"""Simulated EEG with known sources: dipoles at the phantom's regions that read a network, seen through a spherical head.

    x_ct = A sum_s L_cs sum_m h_sm(t) (a_ism + sqrt(kappa) eps_sm) + noise_ct

s runs over 3 orthogonal moments at each centre of `anatomy.REGIONS` in each hemisphere, m over the two components of a
region's time course h, a_ism is a random readout of a network layer of the region's depth for image i (variance 1), L the
EEG lead field of a four-shell sphere (MNE). Early regions read early layers and peak near 100 ms, category regions read
late layers, and the domain they prefer, and peak at 170 to 300 ms.

Noise, single trial: feature noise eps with the covariance of a (what is represented varies, shared by all channels, as in
the fMRI phantom); brain noise of 150 dipoles with a 1/f spectrum plus independent sensor noise of a quarter of its power,
together of 10 uV; alpha of 8 to 12 Hz and 4 uV from occipital and parietal dipoles, random in phase. All parts are Gaussian, so
the mean of n repetitions is drawn exactly, with variance / n, and 16,540 x 4 epochs need never exist. A is the one free number.
It is a simulation: there are no artefacts, no drifts between sessions, and readouts are linear in the network's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from brainlens.phantom.anatomy import REGIONS
from brainlens.phantom.noise import KAPPA, symmetric_root, trial_generator
from brainlens.phantom.readout import CONCEPT_SHARE, DEPTH, DOMAIN, TARGET, domain_table
from brainlens.types import DataError, Features, Responses, Sensors, Stimuli
from brainlens.types.arrays import varies

_NAMES = (  # THINGS-EEG2, in the order of the NICE release
    "Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10 T7 C5 C3 C1 Cz C2 C4 C6 "
    "T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2"
)
CHANNELS = _NAMES.split()
RATE = 250.0  # Hz
# uV, root mean square over channels and the 0 to 1 s window of the signal: the one free number. Calibrated once and frozen: at
# full size (16,540 images, means of 4; test 200 images, means of 80) and its published recipe the NICE-style encoder reaches
# 17.5 and 16.0 % top-1 (41.5 and 43.0 % top-5) within subjects 9 and 10, which no claim uses; published 16.1 (43.6) %.
AMPLITUDE = 0.28
LATENCY = {  # seconds and width of the first component; the second follows, later and broader
    "V1": (0.090, 0.018),
    "V2V3": (0.105, 0.020),
    "V4": (0.130, 0.024),
    "OPA": (0.170, 0.030),
    "EBA": (0.180, 0.030),
    "FFA": (0.170, 0.026),
    "VWFA": (0.190, 0.030),
    "PPA": (0.210, 0.034),
    "FOOD": (0.230, 0.036),
    "RSC": (0.240, 0.040),
}
EARLY = ("V1", "V2V3", "V4")
SECOND = (0.06, 1.6, 0.7)  # delay in s, factor of the width, relative strength of the second component
MIDDLE = np.array([0.0, -18.0, 8.0])  # MNI mm that lies at the centre of the head sphere
BRAIN_NOISE, ALPHA_NOISE, SENSOR_SHARE = 10.0, 4.0, 0.2  # uV, uV, share of the first that is independent
COMMON = 0.8  # share of a readout's variance that all subjects have in common


@dataclass(frozen=True)
class EEGTruth:
    """What generated the recordings of one subject.

    signal (image, k) amplitudes, patterns (k, channel, time) in uV, so that the clean response is their product; sources:
    one row per k (region, x, y, z, layer, latency); spatial, temporal, alpha_*: factors of the noise covariance.
    """

    ids: np.ndarray
    signal: np.ndarray
    patterns: np.ndarray
    sources: pd.DataFrame
    units: pd.DataFrame
    space: Sensors
    times: np.ndarray
    spatial: np.ndarray
    temporal: np.ndarray
    alpha_spatial: np.ndarray
    alpha_temporal: np.ndarray
    kappa: float
    subject: int
    seed: int

    def clean(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Noise-free responses (image, channel, time) in uV."""
        chosen = self.signal if rows is None else self.signal[rows]
        return np.tensordot(chosen, self.patterns, axes=1).astype(np.float32)

    def topography(self, *, regions: Sequence[str] | None = None) -> np.ndarray:
        """Root mean square over images and time of the clean signal of some regions at each channel, (channel,) uV."""
        keep = np.ones(len(self.sources), bool) if regions is None else self.sources["region"].isin(regions).to_numpy()
        covariance = np.cov(self.signal[:, keep], rowvar=False)
        power = np.einsum("kct,kl,lct->c", self.patterns[keep], covariance, self.patterns[keep], optimize=True)
        return np.sqrt(np.maximum(power, 0) / len(self.times))

    def snr(self, repeats: int = 1) -> float:
        """Signal power over noise power, both summed over channels and time, of the mean of `repeats` repetitions."""
        covariance = np.cov(self.signal, rowvar=False)
        power = np.einsum("kct,kl,lct->", self.patterns, covariance, self.patterns, optimize=True)
        parts = ((self.spatial, self.temporal), (self.alpha_spatial, self.alpha_temporal))
        noise = sum((space**2).sum() * (time**2).sum() for space, time in parts)
        return float(power / ((noise + self.kappa * power) / repeats))


def sensors() -> Sensors:
    """The 63 channels of THINGS-EEG2 in the order of the NICE release, metres in the head frame."""
    names, positions, _ = _lead_field(())
    return Sensors(names.copy(), positions.copy())


def eeg_truth(
    stimuli: Stimuli,
    features: Features,
    *,
    subject: int = 1,
    amplitude: float = AMPLITUDE,
    kappa: float = KAPPA,
    window: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> EEGTruth:
    """Sources, readouts and noise of one simulated subject; see the module for the equation.

    features: any network with its layers in order; the layer "image" is the target of decoding and is read only when it is
    the only one. window: seconds kept, (0, 1) or (-0.2, 1).
    Raises DataError for stimuli without features, fewer than 3 images, or a subject below 1.
    """
    if subject < 1 or amplitude <= 0:
        raise DataError(f"phantom EEG: subject {subject} and amplitude {amplitude} must be 1 or more, and above 0")
    if len(stimuli) < 3:
        raise DataError(f"phantom EEG: {len(stimuli)} images are too few to scale a readout; give at least 3")
    features = features if np.array_equal(features.ids, stimuli.ids) else features.take(stimuli.ids)  # take copies all layers
    times = window[0] + np.arange(round((window[1] - window[0]) * RATE)) / RATE
    rng = np.random.default_rng([seed, subject, 41])
    sites = _sites(rng)
    names, positions, lead = _lead_field(tuple(map(tuple, sites[["x", "y", "z"]].to_numpy().round(3))))
    # weights have generators of their own, so that a wider network moves no dipole
    weights = np.random.default_rng([seed, 43]), np.random.default_rng([seed, subject, 45])
    amplitudes, layers = _amplitudes(sites, features, domain_table(stimuli), *weights)
    rows, patterns = [], []
    for number, site in enumerate(sites.itertuples()):
        turn = _turn(rng)
        for moment in range(3):
            topography = lead[:, 3 * number : 3 * number + 3] @ turn[:, moment]
            topography = topography / np.linalg.norm(topography)
            for late in (0, 1):
                latency, course = _course(str(site.region), late, times, rng)
                patterns.append(np.outer(topography, course))
                rows.append((site.region, site.x, site.y, site.z, layers[str(site.region)], latency))
    patterns_array = np.array(patterns)
    power = np.einsum("kct,kl,lct->", patterns_array, np.cov(amplitudes, rowvar=False), patterns_array, optimize=True)
    power /= len(CHANNELS) * RATE  # per channel and sample of one second, whatever window is kept
    patterns_array *= amplitude / np.sqrt(power)
    noise = _noise_factors(times)
    sources = pd.DataFrame(rows, columns=["region", "x", "y", "z", "layer", "latency"])
    units = pd.DataFrame({"channel": names, **{axis: positions[:, i] * 1e3 for i, axis in enumerate("xyz")}})
    truth = EEGTruth(
        features.ids, amplitudes.astype(np.float32), patterns_array.astype(np.float32), sources, units,
        Sensors(names.copy(), positions.copy()), times, *noise, kappa, subject, seed,
    )  # fmt: skip
    units["truth_rms"] = truth.topography()
    units["truth_early"] = truth.topography(regions=EARLY)
    units["truth_late"] = truth.topography(regions=[name for name in LATENCY if name not in EARLY])
    return truth


def simulate_eeg(
    truth: EEGTruth, trials: pd.DataFrame, *, dtype: str = "float16", out: np.ndarray | None = None, block: int = 256
) -> Responses:
    """Responses to these trials; a row is the mean of `repeats` repetitions (column; 1 where absent), drawn exactly.

    Row t has its own random numbers, whatever block it is computed in. out: an array or memory map (trial, channel, time).
    """
    row = {name: i for i, name in enumerate(truth.ids)}
    image = np.array([row[name] for name in trials["stimulus"]])
    repeats = trials["repeats"].to_numpy(float) if "repeats" in trials.columns else np.ones(len(trials))
    shape = (len(trials), len(truth.space), len(truth.times))
    data = np.empty(shape, dtype=dtype) if out is None else out
    if data.shape != shape:
        raise DataError(f"out has shape {data.shape}, {shape} is to be written")
    factor = (truth.signal - truth.signal.mean(0)) / np.sqrt(len(truth.signal))
    factor = symmetric_root(truth.kappa * factor.T @ factor).astype(np.float32)
    flat = truth.patterns.reshape(len(truth.patterns), -1)
    for start in range(0, len(trials), block):
        stop = min(start + block, len(trials))
        own = [trial_generator(truth.seed, truth.subject, 7, t) for t in range(start, stop)]
        scale = (1 / np.sqrt(repeats[start:stop])).astype(np.float32)[:, None, None]
        shown = np.stack([g.standard_normal(len(factor), dtype=np.float32) for g in own]) @ factor
        part = ((truth.signal[image[start:stop]] + scale[:, 0] * shown) @ flat).reshape(stop - start, *shape[1:])
        for left, right in ((truth.spatial, truth.temporal), (truth.alpha_spatial, truth.alpha_temporal)):
            white = np.stack([g.standard_normal((left.shape[1], right.shape[1]), dtype=np.float32) for g in own])
            part += scale * (np.matmul(left, white) @ right.T)
        data[start:stop] = part
    return Responses(data, trials, truth.units, space=truth.space, times=truth.times, measure="uV")


def eeg_trials(
    stimuli: Stimuli, *, subject: int = 1, repeats: tuple[int, int] = (4, 80), rows: tuple[int, int] = (1, 1)
) -> pd.DataFrame:
    """Trial table: each training image in rows[0] rows, each test image in rows[1], of repeats / rows repetitions each.

    rows = (4, 80) are single trials; rows = (1, 16) one mean of 4 in training and 16 means of 5 in test.
    Raises DataError where the repetitions do not divide into the rows.
    """
    if repeats[0] % rows[0] or repeats[1] % rows[1]:
        raise DataError(f"phantom EEG: {repeats} repetitions do not divide into {rows} rows; give divisors")
    table = stimuli.table
    split = table["split"].astype(str).to_numpy() if "split" in table.columns else np.full(len(stimuli), "train")
    test = split == "test"
    many = np.where(test, rows[1], rows[0])
    index = np.repeat(np.arange(len(stimuli)), many)
    each = np.where(test, repeats[1] // rows[1], repeats[0] // rows[0])
    trials = pd.DataFrame({"stimulus": stimuli.ids[index], "subject": str(subject), "session": 1})
    trials["repeat"] = trials.groupby("stimulus").cumcount() + 1
    return trials.assign(repeats=each[index], split=split[index])


def make_eeg(
    stimuli: Stimuli,
    features: Features,
    *,
    subjects: Sequence[int] = (1,),
    repeats: tuple[int, int] = (4, 80),
    rows: tuple[int, int] = (1, 1),
    amplitude: float = AMPLITUDE,
    seed: int = 0,
    dtype: str = "float16",
) -> Responses:
    """Simulated EEG of some subjects, 63 channels, 0 to 1 s at 250 Hz: `eeg_truth`, `eeg_trials`, `simulate_eeg` in one.

    The split of an image is stimuli.table["split"] ("train" without it). units: channel, x y z (mm), and the first
    subject's true topographies truth_rms, truth_early, truth_late (uV).
    """
    if not len(subjects):
        raise DataError("phantom EEG: no subject is named; give subjects=(1,)")
    tables = [eeg_trials(stimuli, subject=subject, repeats=repeats, rows=rows) for subject in subjects]
    trials = pd.concat(tables, ignore_index=True)
    data = np.empty((len(trials), len(CHANNELS), int(RATE)), dtype=dtype)
    start, known = 0, []
    for subject, table in zip(subjects, tables):
        truth = eeg_truth(stimuli, features, subject=subject, amplitude=amplitude, seed=seed)
        simulate_eeg(truth, table, out=data[start : start + len(table)])
        start = start + len(table)
        known.append(truth)
    first = known[0]
    return Responses(data, trials, first.units, space=first.space, times=first.times, measure="uV")


def _sites(rng: np.random.Generator) -> pd.DataFrame:
    """Dipole sites (region, x, y, z in MNI mm), moved by 3 mm from subject to subject."""
    found = []
    for region in LATENCY:
        centres, _, sides = REGIONS[region]
        for side in sides:
            for x, y, z in centres:
                found.append((region, *(np.array([x if side == "right" else -x, y, z]) + rng.normal(0, 3.0, 3))))
    return pd.DataFrame(found, columns=["region", "x", "y", "z"])


@lru_cache(maxsize=16)
def _lead_field(mni: tuple[tuple[float, float, float], ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Channel names, positions (channel, 3) in metres, lead field (channel, 3 sites) to the average reference."""
    import mne

    info = mne.create_info(CHANNELS, RATE, "eeg")
    try:
        montage = mne.channels.make_standard_montage("colin27_1020")
    except ValueError:  # older MNE
        montage = mne.channels.make_standard_montage("standard_1020")
    info.set_montage(montage, match_case=False, verbose=False)
    positions = np.array([channel["loc"][:3] for channel in info["chs"]])
    if not mni:
        return np.array(CHANNELS), positions, np.zeros((len(CHANNELS), 0))
    sphere = mne.make_sphere_model("auto", "auto", info, verbose=False)
    radius = sphere["layers"][0]["rad"]
    place = (np.array(mni) - MIDDLE) / 1000.0
    length = np.linalg.norm(place, axis=1, keepdims=True)
    place = sphere["r0"] + place * np.minimum(1.0, 0.95 * radius / length)
    normals = np.tile([0.0, 0.0, 1.0], (len(place), 1))
    source = mne.setup_volume_source_space(pos={"rr": place, "nn": normals}, sphere=sphere, verbose=False)
    same = mne.transforms.Transform("head", "mri", np.eye(4))
    forward = mne.make_forward_solution(info, same, source, sphere, meg=False, eeg=True, mindist=0.0, verbose=False)
    if forward["nsource"] != len(mni):
        raise DataError(f"phantom EEG: {forward['nsource']} of {len(mni)} dipoles lie inside the head sphere")
    lead = forward["sol"]["data"]
    return np.array(CHANNELS), positions, lead - lead.mean(axis=0)


def _course(region: str, late: int, times: np.ndarray, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Latency and time course of one component: a Gaussian wave with a shallow rebound, zero before the stimulus."""
    latency, width = LATENCY[region]
    delay, broader, strength = SECOND if late else (0.0, 1.0, 1.0)
    latency, width = latency + delay + rng.normal(0, 0.004), width * broader
    wave = np.exp(-0.5 * ((times - latency) / width) ** 2)
    wave -= 0.4 * np.exp(-0.5 * ((times - latency - 2.2 * width) / (1.2 * width)) ** 2)
    return latency, strength * np.where(times > 0, wave, 0.0)


def _turn(rng: np.random.Generator) -> np.ndarray:
    """A subject's three dipole directions: the axes, turned by some 20 degrees."""
    matrix, upper = np.linalg.qr(np.eye(3) + 0.25 * rng.standard_normal((3, 3)))
    return matrix * np.sign(np.diag(upper))


def _layer(features: Features, region: str, read: dict[str, np.ndarray]) -> str:
    """The layer in the middle of the region's range of depth; its values are put into `read`."""
    names = [name for name in features.layer if name != TARGET] or [TARGET]
    low, high = DEPTH[region]
    for step in (0, 1, -1, 2, -2):  # a class token at the input never varies, so its neighbour is read
        name = names[int(np.clip(round((low + high) / 2 * (len(names) - 1)) + step, 0, len(names) - 1))]
        if name not in read:
            read[name] = _readable(features, name, early=region in EARLY)
        if read[name].shape[1]:
            return name
    raise DataError(f"phantom EEG: no layer of {features.model} near {region} varies over images; it has {features.layer}")


def _readable(features: Features, name: str, *, early: bool) -> np.ndarray:
    """Centred channels (image, channel) of a layer, tokens pooled to 2 x 2 fields or the global token; none if constant."""
    if name in features.tokens and (early or name not in features.data):
        rows, columns = features.grid[name]
        array = features.tokens[name]
        grid = np.asarray(array, dtype=np.float32).reshape(len(array), rows, columns, -1)
        halves = (slice(0, (rows + 1) // 2), slice(rows // 2, rows)), (slice(0, (columns + 1) // 2), slice(columns // 2, columns))
        values = np.concatenate([grid[:, r, c].mean(axis=(1, 2)) for r in halves[0] for c in halves[1]], axis=1)
    else:
        values = np.asarray(features.data[name])
    if not varies(values):
        return np.empty((len(values), 0))
    values = values.astype(np.float64)
    return values - values.mean(axis=0)


def _amplitudes(
    sites: pd.DataFrame, features: Features, domains: pd.DataFrame, common: np.random.Generator, own: np.random.Generator
) -> tuple[np.ndarray, dict[str, str]]:
    """Readouts (image, sites x 3 moments x 2 components) of variance 1, and the layer of each region.

    Weights are random over the channels of the layer, so that a principal component counts by its variance and none needs
    to be computed: signs and order of components of the features would be those of rounding.
    """
    read: dict[str, np.ndarray] = {}
    layers = {region: _layer(features, region, read) for region in LATENCY}
    columns = []
    for site in sites.itertuples():
        region = str(site.region)
        z = read[layers[region]]
        for _ in range(6):
            shared, personal = common.standard_normal(z.shape[1]), own.standard_normal(z.shape[1])
            value = _unit_variance(z @ (np.sqrt(COMMON) * shared + np.sqrt(1 - COMMON) * personal))
            liked = DOMAIN.get(region)
            if liked in domains.columns:
                share = np.sqrt(CONCEPT_SHARE) * _unit_variance(domains[liked].to_numpy(float))
                value = _unit_variance(np.sqrt(1 - CONCEPT_SHARE) * value + share)
            columns.append(value)
    return np.stack(columns, axis=1), layers


def _unit_variance(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean()
    return centred / max(centred.std(), 1e-12)


def _noise_factors(times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Factors F of the noise covariances F F': brain and sensors over channels and over time, alpha likewise, float32."""
    rng = np.random.default_rng(47)  # the same head for everyone
    direction = rng.standard_normal((150, 3))
    place = direction / np.linalg.norm(direction, axis=1, keepdims=True) * rng.uniform(35, 68, (150, 1)) + MIDDLE
    place[:, 2] = np.maximum(place[:, 2], -30.0)
    field = _lead_field(tuple(map(tuple, place.round(3))))[2]
    mixed = np.stack([field[:, 3 * i : 3 * i + 3] @ rng.standard_normal(3) for i in range(150)], axis=1)
    spatial = mixed @ mixed.T
    spatial *= (1 - SENSOR_SHARE) * len(CHANNELS) / np.trace(spatial)
    spatial += SENSOR_SHARE * np.eye(len(CHANNELS))
    rhythm = np.array([(x, y, z) for x in (-25.0, 0.0, 25.0) for y, z in ((-85.0, 12.0), (-62.0, 38.0))])
    alpha = np.stack([_lead_field(tuple(map(tuple, rhythm)))[2][:, 3 * i + 1] for i in range(len(rhythm))], axis=1)
    alpha *= ALPHA_NOISE * np.sqrt(len(CHANNELS)) / np.linalg.norm(alpha)
    lag = times[:, None] - times[None]
    frequency = np.arange(0.5, RATE / 2, 0.5)
    pink = np.tensordot(1 / frequency, np.cos(2 * np.pi * frequency[:, None, None] * lag), axes=1) / (1 / frequency).sum()
    rhythmic = frequency[np.abs(frequency - 10.0) <= 6.0]
    band = np.exp(-0.5 * ((rhythmic - 10.0) / 1.0) ** 2)
    angle = 2 * np.pi * times[:, None] * rhythmic
    # cos(a - b) = cos a cos b + sin a sin b: a factor written down, where eigenvectors would hang on rounding
    wave = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * np.sqrt(np.tile(band / band.sum(), 2))
    found = (BRAIN_NOISE * symmetric_root(spatial), symmetric_root(pink), alpha, wave)
    return found[0].astype(np.float32), found[1].astype(np.float32), found[2].astype(np.float32), found[3].astype(np.float32)
