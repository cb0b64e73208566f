"""Which items a training step sees: a function of (seed, step) alone, and of one subject at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from brainlens.models.volume.split import AlignmentPart
from brainlens.models.volume.steps import Drawn
from brainlens.types import DataError

REPEATS = ("mean", "subset", "single")


class Batches:
    """The batches of a run: `draw(step)` gives items without repetition, with a random subset of their repeats.

    With several subjects a batch is of one of them. A cycle shows each subject for as many steps as its items fill
    batches, in an order drawn anew for every cycle, so that a memory queue has time to fill before it is cleared.
    """

    def __init__(self, part: AlignmentPart, batch: int, repeats: str, seed: int) -> None:
        self.part, self.repeats, self.seed = part, repeats, seed
        self.names = part.subjects
        self.items = [torch.from_numpy(part.items(name)) for name in self.names]
        self.batch = batch
        self.lengths = [max(1, len(items) // batch) for items in self.items]

    def subject(self, step: int) -> int:
        """Number of the subject whose turn it is."""
        if len(self.items) == 1:
            return 0
        cycle, place = divmod(step, sum(self.lengths))
        for number in np.random.default_rng([self.seed, cycle]).permutation(len(self.items)):
            place -= self.lengths[number]
            if place < 0:
                return int(number)
        raise AssertionError("a step lies in its cycle")

    def draw(self, step: int) -> Drawn:
        """The joint batch of a step."""
        seed, subject = self.seed * 1_000_003 + step, self.subject(step)
        generator = torch.Generator().manual_seed(seed)
        items = self.items[subject]
        chosen = items[torch.randperm(len(items), generator=generator)[: min(self.batch, len(items))]]
        rows = self.part.rows[chosen]
        return Drawn(chosen, rows, repeat_weights(rows, self.repeats, generator), subject, seed, self.names[subject])


def repeat_weights(rows: Tensor, repeats: str, generator: torch.Generator) -> Tensor:
    """Weights (n, R) of the repeats in a training row: all equal ("mean"), a random non-empty subset ("subset"), or one."""
    there = rows >= 0
    if repeats == "mean":
        return there.float()
    if repeats not in REPEATS:
        raise DataError(f"repeats {repeats!r} is not one of {', '.join(REPEATS)}")
    order = torch.rand(rows.shape, generator=generator).masked_fill(~there, 2.0).argsort(1).argsort(1)
    if repeats == "single":
        return (order == 0).float() * there
    count = (torch.rand(len(rows), generator=generator) * there.sum(1)).long() + 1
    return ((order < count[:, None]) & there).float()
