"""Preferred kinds of the phantom's category voxels: the option `concepts="kinds"`, where meanings are finer than domains.

Every domain region holds a smooth random field a kind of its domain; a voxel prefers the kind whose field is highest there,

    kind_v  = argmax_k g_k(x_v),                      k the kinds of the region's domain, g_k smooth over 8 mm
    kind2_v = the kind of the nearest voxel of another domain's region within 6 mm      (borders of domains), or
              the kind with the second highest field                                    (borders of kinds)
    d_v     = standardised( z(kind_v in the picture) + z(kind2_v in the picture) )

and a third of the voxels of each region have a second kind: first those nearest to another domain, up to half of the third,
then those whose two highest fields are closest. The signal that d_v replaces, and its share of the variance, are those of
`phantom.readout`, whose domains it leaves as they are.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from brainlens.phantom.noise import smooth_field
from brainlens.types import DataError, Stimuli

CONCEPTS = ("domains", "kinds")
TWO = 1 / 3  # share of the category voxels with two kinds
BORDER = 6.0  # mm to a voxel of another domain's region
LENGTH = 8.0  # mm over which a preference varies


def check_concepts(concepts: str) -> None:
    """Raises DataError for an option that there is not."""
    if concepts not in CONCEPTS:
        raise DataError(f"phantom: concepts {concepts!r} is not one of {', '.join(CONCEPTS)}")


def kind_table(stimuli: Stimuli) -> tuple[pd.DataFrame, dict[str, str]]:
    """Which kinds each picture holds, one bool column a kind, and the domain of each kind; from the column `objects`.

    Raises DataError for stimuli whose objects have no kind.
    """
    if "objects" not in stimuli.table.columns:
        raise DataError("phantom: concepts='kinds' needs stimuli with the column 'objects', as make_scenes gives them")
    found: list[set[str]] = []
    domain: dict[str, str] = {}
    for text in stimuli.table["objects"]:
        rows = [item for item in (json.loads(text) if isinstance(text, str) else text) if "kind" in item]
        found.append({str(item["kind"]) for item in rows})
        domain |= {str(item["kind"]): str(item["domain"]) for item in rows}
    present = {name: np.array([name in have for have in found]) for name in sorted(domain)}
    kept = {name: column for name, column in present.items() if 0 < column.sum() < len(column)}
    if not kept:
        raise DataError("phantom: concepts='kinds' needs objects with a kind that some pictures hold and others do not")
    return pd.DataFrame(kept, index=range(len(stimuli))), {name: domain[name] for name in kept}


def with_kinds(units: pd.DataFrame, domain: dict[str, str], *, subject: int, seed: int) -> pd.DataFrame:
    """The units with the truth columns `kind` and `kind2` ("" where a voxel has none).

    A function of the places of the voxels, the kinds and the seed alone. Raises DataError where a region's domain has no kind.
    """
    table = units.assign(kind="", kind2="")
    chosen = np.flatnonzero((table["domain"] != "").to_numpy())
    if not len(chosen):
        return table
    xyz = table.loc[chosen, ["x", "y", "z"]].to_numpy()
    own = table["domain"].to_numpy(dtype=str)[chosen]
    first, second, gap = _preferences(xyz, own, domain, np.random.default_rng([seed, subject, 29]))
    away, neighbour = _other_domain(xyz, own)
    two = second.copy()
    for name in np.unique(table["roi"].to_numpy(dtype=str)[chosen]):
        rows = np.flatnonzero(table["roi"].to_numpy(dtype=str)[chosen] == name)
        wanted = round(TWO * len(rows))
        border = rows[np.argsort(away[rows], kind="stable")][: wanted // 2]
        border = border[away[border] <= BORDER]
        two[border] = first[neighbour[border]]
        rest = np.setdiff1d(rows, border)
        rest = rest[np.argsort(gap[rest], kind="stable")]
        rest = rest[second[rest] != ""]
        two[np.setdiff1d(rows, np.concatenate([border, rest[: max(0, wanted - len(border))]]))] = ""
    table.loc[chosen, "kind"], table.loc[chosen, "kind2"] = first, two
    return table


def preferred(units: pd.DataFrame, kinds: pd.DataFrame) -> np.ndarray:
    """How much of the preferred kinds each picture holds, (image, unit) of mean 0 and variance 1, for units with a kind."""
    values = kinds.to_numpy(dtype=float)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    number = {name: i for i, name in enumerate(kinds.columns)}
    out = values[:, [number[name] for name in units["kind"]]].copy()
    two = np.flatnonzero((units["kind2"] != "").to_numpy())
    out[:, two] += values[:, [number[name] for name in units["kind2"].to_numpy(dtype=str)[two]]]
    out -= out.mean(axis=0)
    return out / out.std(axis=0)


def _preferences(
    xyz: np.ndarray, own: np.ndarray, domain: dict[str, str], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second kind of each voxel by its domain's fields, and how far apart the two are."""
    names = np.array(sorted(domain))
    field = smooth_field(xyz, len(names), rng, LENGTH)
    allowed = np.array([domain[name] for name in names])[None, :] == own[:, None]
    if not allowed.any(axis=1).all():
        raise DataError(f"phantom: no kind of the domain {own[~allowed.any(axis=1)][0]!r} is in some pictures and not in others")
    field = np.where(allowed, field, -np.inf)
    order = np.argsort(-field, axis=1, kind="stable")
    rows = np.arange(len(xyz))
    first = names[order[:, 0]].astype(object)
    if len(names) < 2:
        return first, np.full(len(xyz), "", dtype=object), np.full(len(xyz), np.inf)
    gap = field[rows, order[:, 0]] - field[rows, order[:, 1]]
    second = np.where(np.isfinite(gap), names[order[:, 1]], "").astype(object)
    return first, second, gap


def _other_domain(xyz: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each voxel to the nearest voxel of another domain, and that voxel's number."""
    from scipy.spatial import cKDTree

    away, nearest = np.full(len(xyz), np.inf), np.zeros(len(xyz), dtype=np.int64)
    for name in np.unique(own):
        here, others = np.flatnonzero(own == name), np.flatnonzero(own != name)
        if len(others):
            distance, found = cKDTree(xyz[others]).query(xyz[here])
            away[here], nearest[here] = distance, others[found]
    return away, nearest
