"""Whether what explains a reconstruction is true: contributions against informative voxels, image-guided maps against receptive
fields, lesions against what their region knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainlens.claims.detector import Detector
from brainlens.metrics.reconstruction import pixel_correlation
from brainlens.metrics.statistics import auroc_interval, bootstrap_mean
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.parcels import Parcels
from brainlens.phantom.readout import RETINOTOPIC
from brainlens.reconstruct.explaining import SIDE
from brainlens.reconstruct.maps import lesions, region_maps
from brainlens.reconstruct.material import Material
from brainlens.types import Result

CONCEPTS = {"faces": ("FFA",), "places": ("PPA", "OPA", "RSC")}
EARLY = ("V1", "V2V3")
LEAST_FIELDS = 3  # retinotopic parcels that a correlation over them needs
ENDS = ("", ".low", ".high")


def contribution_claims(result: Result, parcels: Parcels, units: pd.DataFrame) -> dict[str, float]:
    """`reconstruct/contribution_auroc`: contributions rank parcels with informative voxels above those without.

    Attention times the norm of its values; `attention_auroc`, `gradient_auroc` and `shuffled_auroc` beside it. Empty where all
    kept parcels are of one kind.
    """
    right = parcels.mean(units["informative"].to_numpy(dtype=float)) > 0
    kinds = {"contribution": "value_contribution", "attention": "contribution", "gradient": "gradient",
             "shuffled_contribution": "shuffled_contribution"}  # fmt: skip
    out = {"reconstruct/parcels_informative": float(right.sum()), "reconstruct/parcels_noise": float((~right).sum())}
    if min(right.sum(), (~right).sum()) < 2:
        return out
    for name, array in kinds.items():
        mean = np.asarray(result.arrays[f"{array}/parcels"]).mean(axis=(0, 1))
        out |= {f"reconstruct/{name}_auroc{end}": v for end, v in zip(ENDS, auroc_interval(right, mean), strict=True)}
    return out


def true_fields(parcels: Parcels, units: pd.DataFrame, numbers: np.ndarray, side: int = SIDE) -> np.ndarray:
    """What the voxels of parcels look at (parcel, side, side): the mean of their Gaussian receptive fields, each of sum 1."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    out = np.zeros((len(numbers), side, side))
    for row, number in zip(out, numbers, strict=True):
        mine = units[(parcels.label == number) & units["rf_x"].notna().to_numpy()]
        for at_x, at_y, size in mine[["rf_x", "rf_y", "rf_size"]].to_numpy(dtype=float):
            field = np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * size**2))
            row += field / max(field.sum(), 1e-12) / len(mine)
    return out


def field_claims(
    model: NeuroAdapter, y: np.ndarray, parcels: Parcels, units: pd.DataFrame, *, seed: int = 0, **sampling: Any
) -> dict[str, float]:
    """`reconstruct/field_correlation`: image-guided maps of single retinotopic parcels against their true fields.

    y (trial, unit).
    Maps are averaged over trials and denoising; what all parcels have in common is taken out of maps and of fields first, since
    every region follows the picture. `field_correlation_shuffled`: each map against the field of another parcel. Intervals over
    parcels. Empty for fewer than three such parcels.
    """
    inside = units["roi"].astype(str).isin(RETINOTOPIC).to_numpy() & units["rf_x"].notna().to_numpy()
    numbers = np.flatnonzero(parcels.mean(inside.astype(float)) > 0.5)
    out = {"reconstruct/field_parcels": float(len(numbers))}
    if len(numbers) < LEAST_FIELDS:
        return out
    sets = {parcels.names[k]: [parcels.names[k]] for k in numbers}
    found = region_maps(model, y, sets=sets, side=SIDE, bins=1, seed=seed, candidates=1, **sampling)
    maps = np.stack([found.maps[name][:, 0].mean(axis=0) for name in sets])
    fields = true_fields(parcels, units, numbers)
    own = [(part - part.mean(axis=0)).reshape(len(part), -1) for part in (maps, fields)]
    r = _correlations(*own)
    other = np.array([np.delete(r[k], k).mean() for k in range(len(r))])
    out |= {f"reconstruct/field_correlation{e}": v for e, v in zip(ENDS, bootstrap_mean(np.diag(r), seed=seed), strict=True)}
    return out | {
        f"reconstruct/field_correlation_shuffled{e}": v for e, v in zip(ENDS, bootstrap_mean(other, seed=seed), strict=True)
    }


def lesion_claims(
    model: NeuroAdapter,
    given: Material,
    detector: Detector,
    *,
    refit: Callable[[Sequence[str]], NeuroAdapter] | None = None,
    scenes: int,
    seed: int = 0,
    **sampling: Any,
) -> dict[str, float]:
    """`reconstruct/lesion/faces_drop` and `places_drop`: how far the concept's probability falls at the main object's place when
    its own regions are removed, less the fall when the other concept's are; in scenes whose main object is of that domain.

    `lesion/DOMAIN/own`, `/other`: the two falls, `/whole` the probability with all regions, `/n` scenes.
    `lesion/early/pixcorr_drop`, `/kind_drop`: without V1 to V3. Regions of which no parcel was kept are left out.
    refit: gives a model that was fitted without regions; the same then stands under `reconstruct/lesion_refit/`.
    """
    head = "reconstruct/lesion" if refit is None else "reconstruct/lesion_refit"
    sampling = sampling | {"refit": refit, "seed": seed, "candidates": 1}
    sets = {name: _of_regions(given.parcels, regions) for name, regions in (*CONCEPTS.items(), ("early", EARLY))}
    sets = {name: members for name, members in sets.items() if members}
    table = given.test_stimuli.table.reset_index(drop=True)
    out: dict[str, float] = {f"{head}/{name}/parcels": float(len(members)) for name, members in sets.items()}
    both = {name: sets[name] for name in CONCEPTS if name in sets}
    for domain in both if len(both) == 2 else ():
        rows = np.flatnonzero(table["domain"].to_numpy(dtype=str) == domain)[:scenes]
        if len(rows) < 2:
            continue
        found = lesions(model, given.test.data[rows], both, **sampling)
        part = table.iloc[rows].reset_index(drop=True)
        whole = detector.domain(found.whole[:, 0], part, domain)
        falls = {name: whole - detector.domain(pictures[:, 0], part, domain) for name, pictures in found.without.items()}
        other = next(name for name in both if name != domain)
        for key, values in (("own", falls[domain]), ("other", falls[other])):
            out |= _mean(f"{head}/{domain}/{key}", values, seed)
        out |= {f"{head}/{domain}/whole": float(whole.mean()), f"{head}/{domain}/n": float(len(rows))}
        out |= _mean(f"{head}/{domain}_drop", falls[domain] - falls[other], seed)
    if "early" in sets:
        n = min(scenes, len(given.seen))
        found = lesions(model, given.test.data[:n], {"early": sets["early"]}, **sampling)
        pairs = found.whole[:, 0], found.without["early"][:, 0]
        r = [pixel_correlation(given.seen[:n], pictures) for pictures in pairs]
        kind = [detector.right(pictures, table.iloc[:n]).astype(float) for pictures in pairs]
        out |= _mean(f"{head}/early/pixcorr_drop", r[0] - r[1], seed)
        out |= _mean(f"{head}/early/kind_drop", kind[0] - kind[1], seed)
    return out


def _mean(key: str, values: np.ndarray, seed: int) -> dict[str, float]:
    return {key + end: v for end, v in zip(ENDS, bootstrap_mean(values, seed=seed), strict=True)}


def _of_regions(parcels: Parcels, regions: tuple[str, ...]) -> list[str]:
    return [name for name in parcels.names if name.split(" ")[0] in regions]


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of every row of a with every row of b; 0 where a row does not vary."""
    unit = []
    for rows in (a, b):
        centred = rows - rows.mean(axis=1, keepdims=True)
        size = np.linalg.norm(centred, axis=1, keepdims=True)
        unit.append(np.divide(centred, size, out=np.zeros_like(centred), where=size > 0))
    return unit[0] @ unit[1].T
