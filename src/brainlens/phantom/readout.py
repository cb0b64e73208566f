"""What each informative voxel of the phantom reads from a network: layer, receptive field, channels, preferred concept.

The clean signal of voxel v for image i, before it is scaled to its signal variance, is

    f_iv = sum_c W_vc  sum_t P_vt  z_itc        (V1, V2V3, V4: pooled tokens of one layer)
    f_iv = sum_c W_vc  z_ic                      (other regions: global token of one layer)
    s_iv = sqrt(1 - .3) f_iv + sqrt(.3) d_iv     (category regions, where the images come with domains)

z are channels in units of their standard deviation over images (and tokens), to which 1 % of the layer's usual one is
added in squares, W random functions of place that vary over 8 mm, P a Gaussian receptive field applied to the bilinear
interpolation of the token grid, d whether the preferred domain is in the picture; f, d and s have mean 0 and variance 1
over the images. Everything is a continuous function of the features, so that rounding in a network stays rounding here.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from brainlens.phantom.concepts import preferred
from brainlens.phantom.noise import smooth_field
from brainlens.types import DataError, Features, Stimuli
from brainlens.types.arrays import varies

TARGET = "image"  # a feature layer of this name is the embedding to be decoded; no voxel reads it
RETINOTOPIC = ("V1", "V2V3", "V4")
FIELD = ("rf_x", "rf_y", "rf_size")
# relative depth in the network that the region spans, from its posterior to its anterior end
DEPTH = {
    "V1": (0.0, 0.15),
    "V2V3": (0.10, 0.40),
    "V4": (0.35, 0.65),
    "OPA": (0.55, 0.85),
    "EBA": (0.60, 0.90),
    "PPA": (0.65, 1.0),
    "FOOD": (0.70, 1.0),
    "FFA": (0.70, 1.0),
    "VWFA": (0.70, 1.0),
    "RSC": (0.80, 1.0),
    "LANG": (0.95, 1.0),
}
DOMAIN = {"EBA": "bodies", "FFA": "faces", "OPA": "places", "PPA": "places", "RSC": "places", "VWFA": "words", "FOOD": "food"}
CONCEPT_SHARE = 0.30  # share of the signal variance of category voxels that is the preferred domain itself
FIELD_SIZE = {"V1": (0.06, 0.12), "V2V3": (0.10, 0.20), "V4": (0.18, 0.30)}  # sigma at the fovea, growth with eccentricity
WEIGHT_LENGTH, WEIGHT_SMOOTH = 8.0, 0.7  # mm; share of the weights' variance that neighbours have in common
FAINT = 1e-2  # channels whose standard deviation is below this share of a layer's usual one fade out
HERMITE = np.polynomial.hermite_e.hermegauss(9)


def readable_layers(features: Features) -> tuple[list[int], list[int]]:
    """Numbers, into features.layer, of the layers with spatial tokens and of those with a global token that varies.

    The class token at the input of a transformer is the same for every image, so nothing can read it.
    """
    names = [name for name in features.layer if name != TARGET]
    if not names:
        raise DataError(f"{features.model}: the only layer is {TARGET!r}, which no voxel reads; add a layer of the network")
    number = {name: i for i, name in enumerate(features.layer)}
    whole = [n for n in names if n in features.data and varies(features.data[n])]
    spatial = [n for n in names if n in features.tokens]
    if not spatial and not whole:
        raise DataError(f"{features.model}: layer {names[0]!r} never changes over the images; give more images or other layers")
    return [number[n] for n in spatial], [number[n] for n in whole]


def readout_table(units: pd.DataFrame, features: Features, domains: pd.DataFrame) -> pd.DataFrame:
    """The anatomy's units with the truth of what each reads.

    Adds `informative`, `is_global` (bool), `layer` (number into features.layer), `rf_x`, `rf_y` (centre; x to the right,
    y downwards, image = [-1, 1]), `rf_size` (sigma), `domain` (preferred domain or ""); NaN where a voxel has none. Fields that
    the units have already, as those of a template, are kept; a retinotopic unit without one reads nothing.
    """
    spatial, whole = readable_layers(features)
    table = units.copy()
    n = len(table)
    table["informative"] = (table["roi"] != "none").to_numpy()
    given = table[list(FIELD)].to_numpy() if set(FIELD) <= set(units.columns) else None
    if given is not None:
        table["informative"] &= np.isfinite(given).all(axis=1) | ~np.isin(table["roi"], RETINOTOPIC)
    table["is_global"] = np.zeros(n, dtype=bool)
    for column in ("layer", *FIELD):
        table[column] = np.full(n, np.nan)
    table["domain"] = ""
    roi, side = table["roi"].to_numpy(), table["hemisphere"].to_numpy()
    for name, (low, high) in DEPTH.items():
        local = name in RETINOTOPIC and bool(spatial)
        layers = np.array(spatial if local or not whole else whole)
        for hemisphere in ("left", "right"):
            rows = np.flatnonzero((roi == name) & (side == hemisphere) & table["informative"].to_numpy())
            if len(rows) == 0:
                continue
            xyz = table.loc[rows, ["x", "y", "z"]].to_numpy()
            depth = low + (high - low) * _percentile(xyz @ [0.0, 1.0, 0.3])
            table.loc[rows, "layer"] = layers[np.rint(depth * (len(layers) - 1)).astype(int)].astype(float)
            table.loc[rows, "is_global"] = not local
            if local:
                table.loc[rows, list(FIELD)] = _retinotopy(xyz, name) if given is None else given[rows]
            if DOMAIN.get(name) in domains.columns:
                table.loc[rows, "domain"] = DOMAIN[name]
    return table


def _percentile(values: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1): the map of a region covers its range evenly and changes steadily over the region.

    Voxels that lie equally far share a rank; without the rounding the last bit of a sum would break such ties.
    """
    return (rankdata(np.round(values, 6)) - 0.5) / len(values)


def _retinotopy(xyz: np.ndarray, name: str) -> np.ndarray:
    """Receptive fields (voxel, [x, y, sigma]) of one hemisphere of a region.

    Posterior to anterior: fovea to periphery; ventral to dorsal: upper to lower field; always in the opposite half of
    the image.
    """
    eccentricity = 0.05 + 0.90 * _percentile(xyz @ [0.0, 1.0, 0.0] + 0.2 * np.abs(xyz[:, 0]))
    angle = np.deg2rad(80.0) * (2 * _percentile(xyz[:, 2] + 0.1 * np.abs(xyz[:, 0])) - 1)
    side = -np.sign(xyz[:, 0])
    side[side == 0] = 1.0
    fovea, growth = FIELD_SIZE[name]
    return np.stack([side * eccentricity * np.cos(angle), eccentricity * np.sin(angle), fovea + growth * eccentricity], axis=1)


def pooling(fields: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Weights (voxel, rows * columns), each row summing to 1, of receptive fields (voxel, [x, y, sigma]).

    P_v(t) = E[ h_t(u) ], u ~ N(centre, sigma^2), h_t the bilinear interpolation weight of token t at u; tokens sit at
    cell centres (align_corners=False) and the border token continues outside.
    """
    nodes, mass = HERMITE[0], HERMITE[1] / HERMITE[1].sum()
    axes = []
    for centre, size in ((fields[:, 1], grid[0]), (fields[:, 0], grid[1])):
        at = ((centre[:, None] + fields[:, 2:3] * nodes) + 1) * size / 2 - 0.5
        at = np.clip(at, 0, size - 1)
        hat = np.maximum(0.0, 1.0 - np.abs(at[:, :, None] - np.arange(size)))
        axes.append(np.einsum("vqs,q->vs", hat, mass))
    return np.einsum("vr,vc->vrc", axes[0], axes[1]).reshape(len(fields), -1)


def signals(
    features: Features,
    units: pd.DataFrame,
    domains: pd.DataFrame,
    kinds: pd.DataFrame | None = None,
    *,
    subject: int,
    seed: int,
) -> np.ndarray:
    """Clean signals (image, k) of k informative voxels, float64 of mean 0 and variance 1, as in the module's equations.

    kinds: which kinds each picture holds, where voxels prefer kinds (`phantom.concepts`) and not domains.
    """
    table = units[units["informative"]].reset_index(drop=True)
    xyz = table[["x", "y", "z"]].to_numpy()
    out = np.empty((len(features), len(table)))
    for number in sorted(set(table["layer"].astype(int))):
        name = features.layer[number]
        for is_global in (False, True):
            rows = np.flatnonzero((table["layer"] == number) & (table["is_global"] == is_global))
            if len(rows):
                out[:, rows] = _read(
                    features, name, is_global, table.iloc[rows], weights(xyz[rows], features, number, subject, seed)
                )
    out = _standard(out, features)
    for name in sorted(set(table["domain"]) - {""}):
        rows = np.flatnonzero(table["domain"] == name)
        present = (
            _standard(domains[[name]].to_numpy(dtype=float), features) if kinds is None else preferred(table.iloc[rows], kinds)
        )
        out[:, rows] = _standard(np.sqrt(1 - CONCEPT_SHARE) * out[:, rows] + np.sqrt(CONCEPT_SHARE) * present, features)
    return out


def weights(xyz: np.ndarray, features: Features, number: int, subject: int, seed: int) -> np.ndarray:
    """Channel weights (voxel, channel) on standardised channels of one layer: a smooth field plus a part of its own."""
    name = features.layer[number]
    channels = (features.tokens[name] if name in features.tokens else features.data[name]).shape[-1]
    if name in features.data:
        channels = max(channels, features.data[name].shape[-1])
    smooth = smooth_field(xyz, channels, np.random.default_rng([seed, subject, 17, number]), WEIGHT_LENGTH)
    # the own part is keyed by the place, so that it is the same however the voxels are listed
    keys = np.rint(xyz + 512).astype(np.int64)
    own = np.stack([np.random.default_rng([seed, subject, 19, number, *key]).standard_normal(channels) for key in keys])
    return np.sqrt(WEIGHT_SMOOTH) * smooth + np.sqrt(1 - WEIGHT_SMOOTH) * own


def _read(features: Features, name: str, is_global: bool, table: pd.DataFrame, weight: np.ndarray) -> np.ndarray:
    """Weighted, pooled features (image, voxel) of one layer, a block of images at a time."""
    local = not is_global or name not in features.data
    array = features.tokens[name] if local else features.data[name][:, None, :]
    n, tokens, channels = array.shape
    total, square = np.zeros(channels), np.zeros(channels)
    for start in range(0, n, 1024):
        block = np.asarray(array[start : start + 1024], dtype=np.float64)
        total += block.sum(axis=(0, 1))
        square += (block**2).sum(axis=(0, 1))
    mean = total / (n * tokens)
    spread = np.sqrt(np.maximum(square / (n * tokens) - mean**2, 0.0))
    # a channel that hardly varies fades out: over its own deviation alone it would be read at full strength, rounding and all
    weight = weight[:, :channels] / np.sqrt(spread**2 + FAINT**2 * (spread**2).mean() + 1e-30)
    if is_global:
        pool = np.full((len(table), tokens), 1.0 / tokens)
    else:
        pool = pooling(table[list(FIELD)].to_numpy(), features.grid[name])
    out = np.empty((n, len(table)))
    for first in range(0, len(table), 512):
        part = slice(first, first + 512)
        reader = np.einsum("vt,vc->tcv", pool[part], weight[part]).reshape(tokens * channels, -1).astype(np.float32)
        for start in range(0, n, 1024):
            block = np.asarray(array[start : start + 1024], dtype=np.float32) - mean.astype(np.float32)
            out[start : start + 1024, part] = block.reshape(len(block), -1) @ reader
    return out


def _standard(values: np.ndarray, features: Features) -> np.ndarray:
    values = values - values.mean(axis=0)
    spread = values.std(axis=0)
    if not (np.isfinite(spread).all() and (spread > 1e-9).all()):
        raise DataError(
            f"phantom: {int((~(spread > 1e-9)).sum())} voxels read something of {features.model} that never changes over the "
            f"{len(values)} images; give more images or other layers"
        )
    return values / spread


def domain_table(stimuli: Stimuli) -> pd.DataFrame:
    """Which domains each picture holds: one bool column a domain, of those in `objects` (JSON) or else in `domain`.

    `objects` is a JSON list of {"domain": ...} an image; a picture's `domain` counts as present too. Domains that are in
    all pictures or in none say nothing and are left out. Without both columns the table is empty.
    """
    table = stimuli.table
    found: list[set[str]] = [set() for _ in range(len(stimuli))]
    if "objects" in table.columns:
        for have, text in zip(found, table["objects"]):
            try:
                objects = json.loads(text) if isinstance(text, str) else list(text)
                have.update(str(item["domain"]) for item in objects if "domain" in item)
            except (TypeError, ValueError) as error:
                raise DataError(f"stimuli.table column 'objects' is not a JSON list of objects: {str(text)[:60]!r}") from error
    if "domain" in table.columns:
        for have, name in zip(found, table["domain"]):
            have.add(str(name))
    names = sorted(set().union(*found)) if found else []
    present = {name: np.array([name in have for have in found]) for name in names}
    return pd.DataFrame({k: v for k, v in present.items() if 0 < v.sum() < len(v)}, index=range(len(stimuli)))
