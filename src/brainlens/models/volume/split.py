"""The tables of an alignment as tensors: who is trained on, who is held back, who is tested, and against which targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from brainlens.subjects import check_parts, held_out
from brainlens.types import DataError, Features, Responses, as_ids, positions


@dataclass(frozen=True)
class AlignmentPart:
    """One part of the split, as tensors: trial rows x (n, V), the rows of each image, and the targets of each image.

    With several subjects an item is an image as one subject saw it: `ids` then holds an image once a subject.
    """

    ids: np.ndarray
    x: Tensor
    rows: Tensor  # (image, repeat) row numbers into x, -1 where an image has fewer repeats
    image: Tensor
    text: Tensor | None
    subject: np.ndarray | None = None  # (image,) whose brain it is; None: one brain without a name
    trials: np.ndarray | None = None  # (n,) trial numbers in the recording, to name a trial that goes wrong

    @property
    def subjects(self) -> list[str]:
        """The names of the subjects, sorted; one empty name where the recording has none."""
        return [""] if self.subject is None else np.unique(self.subject).tolist()

    def items(self, subject: str) -> np.ndarray:
        """Numbers of the items of one subject."""
        return np.arange(len(self.ids)) if self.subject is None else np.flatnonzero(self.subject == subject)

    def of(self, subject: str) -> AlignmentPart:
        """The part of one subject; the trial rows are shared, not copied."""
        if self.subjects == [subject]:
            return self
        chosen = self.items(subject)
        if not len(chosen):
            raise DataError(f"align: subject {subject!r} is not in this part of the split; it has {self.subjects}")
        at = torch.from_numpy(chosen)
        text = None if self.text is None else self.text[at]
        some = None if self.subject is None else self.subject[chosen]
        return replace(self, ids=self.ids[chosen], rows=self.rows[at], image=self.image[at], text=text, subject=some)

    def mean(self, chosen: Tensor | None = None) -> Tensor:
        """Mean over the repeats of each image, (image, V) float32."""
        rows = self.rows if chosen is None else self.rows[chosen]
        return gather_mean(self.x, rows, (rows >= 0).float())


@dataclass(frozen=True)
class Split:
    """Training and validation parts that share their units, and the tested part where there is one.

    `centre` holds the means of the targets. A fit reads training and validation alone.
    """

    train: AlignmentPart
    validation: AlignmentPart
    tested: AlignmentPart | None
    centre: dict[str, Tensor]
    counts: dict[str, int] = field(default_factory=dict)
    units: pd.DataFrame = field(default_factory=pd.DataFrame)
    space: Any = None

    @property
    def test(self) -> AlignmentPart:
        """The tested part. Raises DataError where there is none."""
        if self.tested is None:
            raise DataError("align: no trial has split 'test', so there is nothing to score on; mark some trials as 'test'")
        return self.tested


def gather_mean(x: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of chosen rows: (n, R) row numbers and weights -> (n, V) float32; a weight of 0 drops a row."""
    weights = weights / weights.sum(1, keepdim=True)
    out = torch.zeros(len(rows), x.shape[1], device=x.device)
    for r in range(rows.shape[1]):
        out += x[rows[:, r].clamp_min(0)].float() * weights[:, r : r + 1].to(x.device)
    return out


def split_tables(
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    layers: tuple[str, str] = ("image", "text"),
    validation: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
    centre: Mapping[str, np.ndarray] | None = None,
    centred: bool = True,
) -> Split:
    """The tables as tensors, split by the column `split`; without validation trials a share of training images is held back.

    Targets are centred by the training mean (or `centre`, (d,) each, that of a model which is trained further; not at all with
    centred=False, as published) and scaled to length 1. No trial has to be a test trial. Where the trials name several
    subjects, whose volumes must then be in one space, repeats are averaged within a subject, never between. Raises DataError
    for a stimulus in two parts of the split, for stimuli without features, and for a part that is empty.
    """
    responses, counts = responses.clean()
    trials = responses.trials
    if "split" not in trials.columns:
        raise DataError("align: trials have no column 'split'; add one with the values train, test and, if you like, validation")
    part = trials["split"].to_numpy(dtype=object).copy()
    check_parts(part)
    stimulus = as_ids(trials["stimulus"])
    subject = trials["subject"].astype(str).to_numpy(dtype=np.str_) if "subject" in trials.columns else None
    if not (part == "validation").any():
        names = np.unique(stimulus[part == "train"])
        held = names[held_out(len(names), validation, seed)]
        part[np.isin(stimulus, held) & (part == "train")] = "validation"
    owner = pd.DataFrame({"stimulus": stimulus, "part": part}).drop_duplicates().groupby("stimulus")["part"].nunique()
    if (owner > 1).any():
        raise DataError(f"align: stimulus {owner.index[owner > 1][0]!r} is in more than one part of the split")
    image, text = images[layers[0]], None if texts is None else texts[layers[1]]
    train_ids = np.unique(stimulus[part == "train"])
    if len(train_ids) < 4:
        raise DataError(f"align: {len(train_ids)} training images; a contrastive loss needs at least 4")
    means = {"image": image[positions(train_ids, images.ids, "image features")].mean(0)}
    if text is not None and texts is not None:
        means["text"] = text[positions(train_ids, texts.ids, "text features")].mean(0)
    if not centred:
        means = {which: np.zeros_like(value) for which, value in means.items()}
    means |= {which: np.asarray(value) for which, value in (centre or {}).items() if which in means}

    def targets(features: Features, which: str, layer: str, ids: np.ndarray) -> Tensor:
        rows = features[layer][positions(ids, features.ids, f"{which} features")].astype(np.float32) - means[which]
        return nn.functional.normalize(torch.from_numpy(rows), dim=1).to(device)

    def build(name: str) -> AlignmentPart:
        chosen = np.flatnonzero(part == name)
        if not len(chosen):
            raise DataError(f"align: no trial has split {name!r}; the values are {sorted(set(map(str, part)))}")
        ids, owners, group = _items(stimulus[chosen], None if subject is None else subject[chosen])
        data = np.ascontiguousarray(responses.data[chosen])
        x = torch.from_numpy(data if data.dtype in (np.float16, np.float32) else data.astype(np.float32)).to(device)
        text_rows = None if texts is None else targets(texts, "text", layers[1], ids)
        rows = torch.from_numpy(_repeat_rows(group))
        return AlignmentPart(ids, x, rows, targets(images, "image", layers[0], ids), text_rows, owners, chosen)

    centres = {k: torch.from_numpy(np.asarray(v, np.float32)) for k, v in means.items()}
    tested = build("test") if (part == "test").any() else None
    return Split(build("train"), build("validation"), tested, centres, counts, responses.units, responses.space)


def _items(stimulus: np.ndarray, subject: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Image and subject of each item, sorted by subject and image, and the item of each trial."""
    ids, group = np.unique(stimulus, return_inverse=True)
    if subject is None:
        return ids, None, group
    names, who = np.unique(subject, return_inverse=True)
    codes, item = np.unique(who * len(ids) + group, return_inverse=True)
    return ids[codes % len(ids)], names[codes // len(ids)], item


def _repeat_rows(group: np.ndarray) -> np.ndarray:
    """Row numbers (image, repeat) of each group number, padded with -1."""
    counts = np.bincount(group)
    rows = np.full((len(counts), counts.max()), -1, dtype=np.int64)
    order = np.argsort(group, kind="stable")
    within = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows[group[order], within] = order
    return rows
