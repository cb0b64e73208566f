"""Variants of a split that controls and ablations are run on: fewer images, pairs that do not belong, some regions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from brainlens.models.volume.split import AlignmentPart, Split
from brainlens.types import DataError, Volume


def fewer(split: Split, images: int, *, seed: int = 0) -> Split:
    """The split with so many training images, drawn at random, all their repeats with them; validation and test stay.

    Raises DataError for more images than there are.
    """
    part = split.train
    if not 4 <= images <= len(part.ids):
        raise DataError(f"align: {images} training images are asked for; there are {len(part.ids)}, and at least 4 are needed")
    chosen = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(part.ids))[:images]))
    old = part.rows[chosen]
    used, new = old.unique(return_inverse=True)  # -1, where a repeat is missing, sorts first
    missing = int(used[0] == -1)
    rows, kept = new - missing, used[missing:]
    trials = None if part.trials is None else part.trials[kept.numpy()]
    text = None if part.text is None else part.text[chosen]
    subject = None if part.subject is None else part.subject[chosen.numpy()]
    return replace(
        split, train=AlignmentPart(part.ids[chosen.numpy()], part.x[kept], rows, part.image[chosen], text, subject, trials)
    )


def unpaired(split: Split, *, seed: int = 0) -> Split:
    """The control: training and validation responses keep their noise and their repeats, but get the targets of other images.

    True pairs in the validation part alone already teach: penalty, metric and step are chosen by them (top-5 of 30 test images
    .225 over 25 permutations with them, .170 +- .013 over 60 without; chance .167).
    """
    rng = np.random.default_rng(seed)
    return replace(split, train=_exchanged(split.train, rng), validation=_exchanged(split.validation, rng))


def _exchanged(part: AlignmentPart, rng: np.random.Generator) -> AlignmentPart:
    order = torch.from_numpy(rng.permutation(len(part.ids)))
    return replace(part, image=part.image[order], text=None if part.text is None else part.text[order])


def within(split: Split, regions: Sequence[str]) -> Split:
    """The split with the voxels of these regions alone, by the column `roi` of its units.

    Raises DataError where units have no such column, or no unit is left.
    """
    if "roi" not in split.units.columns:
        raise DataError("align: the units have no column 'roi', so no region can be chosen")
    inside = split.units["roi"].isin(list(regions)).to_numpy()
    if not inside.any():
        raise DataError(f"align: no unit lies in {list(regions)}; there are {sorted(split.units['roi'].astype(str).unique())}")
    space = split.space
    if isinstance(space, Volume):
        mask = space.mask.copy()
        mask[space.mask] = inside
        space = Volume(mask, space.affine)
    columns = torch.from_numpy(np.flatnonzero(inside))

    def cut(part: AlignmentPart) -> AlignmentPart:
        return replace(part, x=part.x[:, columns])

    return replace(
        split, train=cut(split.train), validation=cut(split.validation),
        tested=None if split.tested is None else cut(split.tested),
        units=split.units[inside].reset_index(drop=True), space=space,
    )  # fmt: skip
