"""Several brains in one alignment, and parts of a brain: joined in one space, cut to regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from brainlens.choices import GALLERIES, PROTOCOLS
from brainlens.types import DataError, Responses, Stimuli, Volume, part_of

NOT_REGIONS = ("", "none", "nan")
NOT_VISUAL = (*NOT_REGIONS, "LANG")  # labels of voxels outside the visual regions
AFFINE_TOLERANCE = 1e-3  # mm
WHOLE = re.compile(r"(V[123])[vd]|((?:FFA|FBA|VWFA|PPA|OPA|EBA|OFA|RSC))-\d+")  # parts of a region: V1v, FFA-2
DRAWN_ON = re.compile(r"^(?:[LR]_|[lr]h\.)|_ROI$")  # what atlases put around a name: L_V1_ROI, lh.V1v


def region_of(name: str) -> str:
    """The region that a label of an atlas is a part of: V1v and V1d are V1, FFA-1 is FFA, L_V1_ROI is V1; others stay."""
    bare = DRAWN_ON.sub("", name)
    found = WHOLE.fullmatch(bare)
    return bare if found is None else found[1] or found[2]


def region_labels(units: pd.DataFrame) -> np.ndarray | None:
    """Region names of units (unit,) str, empty where one has none; None without a column `roi`."""
    return units["roi"].fillna("").astype(str).to_numpy() if "roi" in units.columns else None


def name_regions(responses: Responses) -> Responses:
    """Responses whose `roi` are whole regions, and the labels that they came with, where any is another, in `subregion`."""
    units = responses.units
    if "roi" not in units.columns or "subregion" in units.columns:
        return responses
    labels = units["roi"].fillna("").astype(str)
    whole = labels.map({name: region_of(name) for name in labels.unique()})
    if whole.equals(labels):
        return responses
    return replace(responses, units=units.assign(roi=whole.to_numpy(), subregion=labels.to_numpy()))


def join_subjects(each: Sequence[Responses]) -> Responses:
    """The trials of several subjects as one table, whose column `subject` tells them apart.

    All must be in one space with the same voxels, since one encoder reads them all. Of the tables of units the columns
    stay that all subjects agree on; `roi`, which is a subject's own, becomes the first region that any of them names.

    Raises DataError for other spaces or masks, for a subject that comes twice, and for trials without the column.
    """
    if not each:
        raise DataError("joining subjects: no responses are given")
    first = each[0]
    names = [_name(one) for one in each]
    for name, one in zip(names, each, strict=True):
        check_same_space(one, first, f"subject {name!r}", f"subject {names[0]!r}")
        if names.count(name) > 1:
            raise DataError(f"joining subjects: subject {name!r} comes {names.count(name)} times")
    data = np.concatenate([np.asarray(one.data) for one in each])
    trials = pd.concat([one.trials for one in each], ignore_index=True)
    common = [c for c in first.units.columns if all(c in one.units.columns for one in each)]
    same = [c for c in common if all(one.units[c].equals(first.units[c]) for one in each)]
    units = first.units[same].copy()
    if "roi" in common and "roi" not in same:
        units["roi"] = _any_region([one.units["roi"] for one in each])
    return Responses(data, trials, units, first.space, first.times, first.measure)


class JoinedImages(Sequence[np.ndarray]):
    """Images of several stimuli tables as one sequence, each read where it is when it is asked for."""

    def __init__(self, where: list[tuple[Any, int]]) -> None:
        self._where = where

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: Any) -> Any:
        images, row = self._where[index]
        return images[row]


def join_stimuli(each: Sequence[Stimuli]) -> Stimuli:
    """All stimuli that any subject saw, each once, in order of first appearance, with the table columns that all have."""
    first: dict[str, tuple[int, int]] = {}
    for number, one in enumerate(each):
        for row, name in enumerate(one.ids):
            first.setdefault(str(name), (number, row))
    common = [c for c in each[0].table.columns if all(c in one.table.columns for one in each)]
    tables = [one.table[common].iloc[[r for n, r in first.values() if n == number]] for number, one in enumerate(each)]
    return Stimuli(
        np.array(list(first)),
        JoinedImages([(each[n].images, r) for n, r in first.values()]),
        [each[n].captions[r] for n, r in first.values()],
        pd.concat(tables, ignore_index=True),
    )


def check_same_space(one: Responses, other: Responses, what: str, than: str) -> None:
    """Raises DataError unless both have the same voxels of the same grid: nothing is ever resampled here."""
    a, b = one.space, other.space
    if isinstance(a, Volume) and isinstance(b, Volume):
        check_same_volume(a, b, what, than)
    elif type(a) is not type(b) or one.data.shape[1] != other.data.shape[1]:
        kinds = [("no space" if s is None else type(s).__name__) for s in (a, b)]
        raise DataError(
            f"align: {what} has {one.data.shape[1]} units in {kinds[0]}, {than} {other.data.shape[1]} in {kinds[1]}; "
            "bring both to one space first, or train one model each"
        )


def check_same_volume(a: Volume, b: Volume, what: str, than: str) -> None:
    """Raises DataError unless both are the same voxels of the same grid."""
    if a.mask.shape != b.mask.shape or np.abs(a.affine - b.affine).max() > AFFINE_TOLERANCE:
        raise DataError(
            f"align: {what} is in another space than {than}: grid {a.mask.shape} and {b.mask.shape}, voxels of "
            f"{_edge(a)} and {_edge(b)} mm; bring both to one space (MNI) first, or train one model each"
        )
    off = int((a.mask != b.mask).sum())
    if off:
        raise DataError(
            f"align: {what} has another mask than {than}: {len(a)} and {len(b)} voxels, {off} in one alone; use one mask"
        )


def check_same_subjects(responses: Responses, known: Sequence[str], where: str, remedy: str) -> None:
    """Raises DataError for responses of a subject that is not among those a model was fitted on; either may be without names."""
    trained = [name for name in known if name]
    if trained and "subject" in responses.trials.columns:
        others = sorted(set(responses.trials["subject"].astype(str)) - set(trained))
        if others:
            pair = f"its model is of subject {', '.join(trained)}, the responses are of {', '.join(others)}"
            raise DataError(f"{where}: {pair}; {remedy}")


def select_subjects(responses: Responses, subjects: Sequence[str]) -> Responses:
    """The trials of these subjects. Raises DataError listing the subjects that there are."""
    if "subject" not in responses.trials.columns:
        raise DataError(f"subject {subjects[0]!r}: the trials have no column 'subject'; leave --subject out, or add the column")
    there = responses.trials["subject"].astype(str)
    unknown = [name for name in subjects if not (there == name).any()]
    if unknown:
        raise DataError(f"subject {unknown[0]!r} is not in this recording; it has {sorted(there.unique())[:20]}")
    return responses.rows(there.isin(list(subjects)).to_numpy())


def select_regions(responses: Responses, regions: Sequence[str]) -> Responses:
    """The units of these regions by the column `roi`, or of parts by `subregion`; "whole" is all units, "visual" every region
    but those of language.

    Raises DataError listing the regions that there are.
    """
    if not regions or "whole" in regions:
        return responses
    if "roi" not in responses.units.columns:
        raise DataError(f"region {regions[0]!r}: the units have no column 'roi'; take 'whole'")
    roi = responses.units["roi"].fillna("").astype(str)
    parts = responses.units["subregion"].astype(str) if "subregion" in responses.units.columns else roi
    there = sorted((set(roi) | set(parts)) - set(NOT_REGIONS))
    unknown = [name for name in regions if name not in (*there, "visual")]
    if unknown:
        raise DataError(f"region {unknown[0]!r} is not one of whole, visual, {', '.join(there)}")
    named = [name for name in regions if name != "visual"]
    chosen = roi.isin(named) | parts.isin(named)
    if "visual" in regions:
        chosen |= ~roi.isin(NOT_VISUAL)
    if not chosen.any():
        raise DataError(f"regions {list(regions)} hold no unit")
    return responses.columns(chosen.to_numpy())


def select_part(responses: Responses, part: str | None) -> Responses:
    """Part K of N of the units, "K/N": units in their order, parts of equal size to one; None is all of them.

    Raises DataError for another text and for more parts than units.
    """
    if part is None:
        return responses
    (number, parts), units = part_of(part), responses.data.shape[1]
    if parts > units:
        raise DataError(f"part {part!r} is not K/N with 1 <= K <= N <= {units}, the number of units; as 2/8")
    chosen = np.zeros(units, dtype=bool)
    chosen[units * (number - 1) // parts : units * number // parts] = True
    return responses.columns(chosen)


def _name(one: Responses) -> str:
    if "subject" not in one.trials.columns or one.trials["subject"].nunique() != 1:
        raise DataError("joining subjects: each recording has the column 'subject' with one name in it")
    return str(one.trials["subject"].iloc[0])


def _any_region(columns: Sequence[pd.Series]) -> np.ndarray:
    out = np.full(len(columns[0]), "none", dtype=object)
    for column in reversed(columns):
        names = column.fillna("").astype(str).to_numpy(dtype=object)
        named = ~np.isin(names.astype(str), NOT_REGIONS)
        out[named] = names[named]
    return out


def _edge(space: Volume) -> str:
    return f"{abs(np.linalg.det(space.affine[:3, :3])) ** (1 / 3):.3g}"


@dataclass(frozen=True)
class Protocol:
    """Who is trained on, who is tested, and what the gallery holds.

    kind: "within" (one subject's own training trials) or "across" (all other subjects' training trials); subject: who is
    tested (None: the only one). gallery: "image" (the test images themselves) or "concept" (layer "concept" of the
    features: for each image the mean of other images of its concept). Published tables mix the two, which differ in
    difficulty.
    """

    kind: str = "within"
    subject: str | None = None
    gallery: str = "image"

    def __post_init__(self) -> None:
        if self.kind not in PROTOCOLS or self.gallery not in GALLERIES:
            raise DataError(
                f"protocol {self.kind!r}, gallery {self.gallery!r}: they are 'within' or 'across', 'image' or 'concept'"
            )


WITHIN = Protocol()


FEW_SUBJECTS = 3  # from so many on an interval speaks of subjects that were not measured


def check_parts(split: Iterable[object]) -> None:
    """Raises DataError where no trial is called train: columns with other words (training, 1, A) are said by their words."""
    found = sorted({str(name) for name in split})
    if "train" not in found:
        raise DataError(f"the column 'split' holds {found[:8]}; name its parts train, test and, if you like, validation")


def held_out(n_images: int, validation: float, seed: int) -> np.ndarray:
    """Which training images are for validation, (n_images,) bool; by image, so that no subject trains on them. At most a fifth.

    validation: a share of the images below 1 (of which at least 2 are held back), else their number.
    """
    asked = max(2, round(validation * n_images)) if 0 < validation < 1 else int(validation)
    keep = min(asked, n_images // 5)
    if keep < 2:
        raise DataError(f"{n_images} training images leave no validation set; give at least 10")
    held = np.zeros(n_images, bool)
    held[np.random.default_rng([seed, 53]).permutation(n_images)[:keep]] = True
    return held
