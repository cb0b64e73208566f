"""The tables of an encoding model as arrays: which image is trained on, held back or tested, and what it evoked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from torch import Tensor

from brainlens.metrics.encoding import noise_ceiling, pearson
from brainlens.metrics.statistics import fdr
from brainlens.nn.factortopy import resize_tokens
from brainlens.subjects import check_parts, held_out
from brainlens.types import DataError, Features, Responses, as_ids, check_kinds, positions
from brainlens.types.arrays import varies
from brainlens.warned import warn

LEAST_PAIRS = 10  # images shown more than once, from which reliability is estimated
LEAST_CEILING = 0.01  # R2 over a smaller ceiling is noise over noise and is left undefined
RELIABLE = 0.05  # false discovery rate
HELD_BACK = 0.1  # share of the training images that validate when the recording names none (the paper splits 8:1:1)


@dataclass(frozen=True)
class EncodingPart:
    """Images of one part of the split: ids, their rows in the features, mean responses (image, unit), repeats (image,)."""

    ids: np.ndarray
    rows: np.ndarray
    y: np.ndarray
    repeats: np.ndarray


class FittingParts(Protocol):
    """What a fit reads: images to train on, and images held back to decide by."""

    @property
    def train(self) -> EncodingPart: ...

    @property
    def validation(self) -> EncodingPart: ...


@dataclass(frozen=True)
class HeldBack:
    """Two parts of the images that a model is fitted on; there is no test part."""

    train: EncodingPart
    validation: EncodingPart


@dataclass(frozen=True)
class EncodingTables:
    """Parts train, validation, test, with responses as they were given; a model standardises them itself.

    ncsnr (unit,) from all repeats and ceiling (unit,) for the test part's, NaN with ceiling_defined False when nothing was
    repeated. reliable (unit,) bool from the repeats of the images that are not tested, None without; see `reliable_units`.
    """

    train: EncodingPart
    validation: EncodingPart
    test: EncodingPart
    units: pd.DataFrame
    space: Any
    counts: dict[str, int]
    ncsnr: np.ndarray
    ceiling: np.ndarray
    ceiling_defined: bool
    reliable: np.ndarray | None = None

    def chosen(self, least: float) -> np.ndarray | None:
        """Units (unit,) bool with signal, by what is not tested; None where nothing says so.

        Signal to noise above `least` as given with the units; without it the units that are reliable over the repeats of
        images that are not tested. What repeats of the test images say of a unit decides nothing.
        """
        if "ncsnr" not in self.units.columns:
            return self.reliable
        snr = self.units["ncsnr"].to_numpy(float)
        return np.where(np.isfinite(snr), snr, -np.inf) > least if np.isfinite(snr).any() else None

    def scored(self, least: float) -> np.ndarray:
        """Units whose mean is reported: those that are `chosen`, or all where that is none."""
        chosen = self.chosen(least)
        return chosen if chosen is not None and chosen.any() else np.ones(len(self.units), bool)

    def least_ceiling(self, least: float) -> float:
        """The ceiling above which R2 is set in relation to it.

        `LEAST_CEILING` for units that were chosen. Among all units there are some of noise, whose R2 over a ceiling near 0
        would decide the mean; there it is the ceiling of a unit with a signal to noise of `least`, but not less.
        """
        chosen = self.chosen(least)
        if chosen is not None and chosen.any():
            return LEAST_CEILING
        inverse = float((1 / self.test.repeats).mean())
        return max(LEAST_CEILING, least**2 / (least**2 + inverse))

    def rule(self, least: float) -> str:
        """By what `scored` chooses units, in words."""
        chosen = self.chosen(least)
        if "ncsnr" in self.units.columns:
            if chosen is None:
                return "all, since nothing says how reliable they are"
            many = f"signal to noise above {least:g}"
            return f"{many}, given with the units" if chosen.any() else f"all, since none has {many}"
        if chosen is None:
            return "all, since too few images outside the test part were repeated to say how reliable they are"
        return "reliable over the two halves of the repeats" if chosen.any() else "all, since none is reliable"

    def in_units(self, predicted: np.ndarray) -> tuple[np.ndarray, EncodingTables]:
        """Predictions and the test part in units of the training part (mean 0, variance 1 per unit), as they are scored."""
        mean, spread = self.train.y.mean(axis=0), self.train.y.std(axis=0)
        spread = np.where(spread > 0, spread, np.float32(1))
        test = replace(self.test, y=(self.test.y - mean) / spread)
        return (predicted - mean) / spread, replace(self, test=test)

    @property
    def fitting(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows in the features, responses (image, unit) and whether an image is held back, of all images but the test's."""
        parts = (self.train, self.validation)
        held = np.repeat([False, True], [len(part.rows) for part in parts])
        return np.concatenate([part.rows for part in parts]), np.concatenate([part.y for part in parts]), held


def tables(
    responses: Responses, features: Features, *, seed: int = 0, single_trials: bool = False, verb: str = "encode"
) -> EncodingTables:
    """Responses averaged over repeats and split by the column `split`.

    single_trials: training and validation keep every trial as a row, as the paper fits; the test part is averaged either way,
    so that scores compare. verb: who asks, for its errors.
    Without validation trials a tenth of the training images is held back. The noise ceiling uses all repeats for the
    signal-to-noise ratio and the test part's repeats for the ceiling.
    Raises DataError for several subjects or time points, a missing split, an image in two parts, an empty part, images
    without features, and more than 20 % of units missing.
    """
    check_kinds(verb, responses=(responses, Responses), features=(features, Features))
    if responses.data.ndim != 2:
        raise DataError(f"{verb} takes (trial, unit), got {responses.data.shape}; pick one time point or average over time")
    trials = responses.trials
    if "subject" in trials.columns and trials["subject"].nunique() > 1:
        raise DataError(
            f"{verb} takes one subject at a time, got {trials['subject'].nunique()}; use responses.where(subject=...)"
        )
    before = _region_names(responses.units)
    responses, counts = responses.clean()
    counts["regions_left_out"] = len(before - _region_names(responses.units))
    part = _parts(trials, seed, verb)
    fixed = _never_changes(responses.data[part == "train"])
    if fixed.any():
        if fixed.all():
            raise DataError(f"{verb}: no unit changes over the training images; is the recording z-scored by session?")
        responses, counts = responses.columns(~fixed), counts | {"units_constant_in_training": int(fixed.sum())}
        said = (
            f"{int(fixed.sum())} of {len(fixed)} units never change in training and are left out: nothing can be learned of them"
        )
        warn(said)
    ceiling = noise_ceiling(responses.data, as_ids(trials["stimulus"]))
    made = {
        name: _part(responses, part == name, features, single=single_trials and name != "test")
        for name in ("train", "validation", "test")
    }
    inverse = float((1 / made["test"].repeats).mean())
    top = ceiling.ncsnr**2 / (ceiling.ncsnr**2 + inverse)
    counts |= {f"images_{name}": len(np.unique(p.ids)) for name, p in made.items()}
    reliable = reliable_units(responses.rows(part != "test"))
    counts |= {} if reliable is None else {"units_reliable": int(reliable.sum())}
    return EncodingTables(
        made["train"],
        made["validation"],
        made["test"],
        responses.units,
        responses.space,
        counts,
        ceiling.ncsnr,
        top,
        ceiling.defined,
        reliable,
    )


def _never_changes(data: np.ndarray) -> np.ndarray:
    """Units (bool) that hold one value over the rows, up to the rounding of float32."""
    return np.asarray(np.ptp(data, axis=0) <= 1e-6 * np.abs(data).max(axis=0))


def reliable_units(responses: Responses) -> np.ndarray | None:
    """Which units (unit,) bool answer alike to repeats of an image at a false discovery rate of .05; None if too few repeat.

    Of each image that was shown twice or more, the mean over its repeats 1, 3, ... and that over its repeats 2, 4, ...; their
    correlation over images, one-sided t test with n - 2 degrees of freedom, Benjamini and Hochberg over units. A threshold on
    an estimated signal to noise is not used: from few repeats units of noise pass it. It takes `LEAST_PAIRS` images.
    """
    shown = [rows for rows in responses.trials.groupby("stimulus", sort=False).indices.values() if len(rows) > 1]
    if len(shown) < LEAST_PAIRS:
        return None
    first, second = (np.stack([_mean(responses.data, rows[k::2]) for rows in shown]) for k in (0, 1))
    r = np.clip(pearson(first, second), -1 + 1e-12, 1 - 1e-12)
    p = student.sf(r * np.sqrt((len(shown) - 2) / (1 - r**2)), len(shown) - 2)
    return np.asarray(fdr(np.where(np.isfinite(p), p, 1.0)) < RELIABLE)


def _mean(data: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(data[rows].mean(axis=0, dtype=np.float64))


def _region_names(units: pd.DataFrame) -> set[str]:
    return set(units["roi"].astype(str)) if "roi" in units.columns else set()


BLOCKS = "blocks"  # in place of names: the outputs of blocks, without what enters the first one


def usable_layers(features: Features, wanted: Sequence[str] | str | None) -> list[str]:
    """Layers with spatial tokens, in network order, or those asked for. Raises DataError for names that are not found.

    BLOCKS leaves out layers whose global token is the same for every image, as the class token is that enters the first block
    of a transformer: a network of 12 blocks then has the 12 layers of the paper.
    """
    have = [name for name in features.layer if name in features.tokens]
    if wanted is None or wanted == BLOCKS:
        if not have:
            raise DataError(f"{features.model} has no layer with spatial tokens; use method='ridge' or extract tokens")
        fixed = [n for n in have if n in features.data and not varies(features.data[n])] if wanted == BLOCKS else []
        return [name for name in have if name not in fixed] or have
    unknown = [name for name in wanted if name not in have]
    if unknown or not wanted:
        raise DataError(f"{features.model} has no layer {unknown[:1] or wanted} with spatial tokens; it has {have}")
    return list(wanted)


Statistics = dict[str, tuple[Tensor, ...]]  # four a layer


class LayerTokens:
    """Tokens of some images, 8 x 8 places and a global token per layer, kept as half floats, given out standardised.

    Each channel is scaled by its mean and deviation over training images (and places), because layers differ in scale
    by orders of magnitude and one learning rate serves all bottlenecks. A layer without a global token takes the mean of
    its spatial tokens. Constant channels become 0. standardise=False gives the tokens as they are, as the paper and its code do.

    rows: the images of the features that are held (None: all); train: which of those that are held give the statistics;
    statistics: those of an earlier fit in their place, per layer mean and 1 / deviation (C,) of spatial and of global tokens.
    """

    def __init__(
        self,
        features: Features,
        layers: list[str],
        train: np.ndarray | None = None,
        device: str = "cpu",
        *,
        rows: np.ndarray | None = None,
        statistics: Statistics | None = None,
        standardise: bool = True,
    ) -> None:
        self.layers = layers
        self.spatial: dict[str, Tensor] = {}
        self.whole: dict[str, Tensor] = {}
        self.statistics: Statistics = {}
        held = np.arange(len(features)) if rows is None else np.asarray(rows)
        for layer in layers:
            spatial = _resized(features.tokens[layer], features.grid[layer], held)
            whole = (
                torch.from_numpy(np.array(features.data[layer][held], dtype=np.float32))
                if layer in features.data
                else spatial.float().mean(1)
            )
            if whole.shape[1] != spatial.shape[2]:
                raise DataError(f"layer {layer!r}: global token has {whole.shape[1]} channels, spatial tokens {spatial.shape[2]}")
            fine = torch.isfinite(spatial).flatten(1).all(1) & torch.isfinite(whole).all(1)
            if not fine.all():
                name = str(features.ids[held[int(fine.int().argmin())]])
                where = f"features of {features.model}, layer {layer!r}"
                raise DataError(f"{where}: image {name!r} holds NaN or infinity, or what float16 cannot hold; extract it again")
            if statistics is not None:
                found = statistics[layer]
            elif standardise:
                found = (*_moments(spatial[train].float().flatten(0, 1)), *_moments(whole[train]))
            else:
                found = (torch.zeros(whole.shape[1]), torch.ones(whole.shape[1])) * 2
            self.statistics[layer] = tuple(value.to(device) for value in found)
            self.spatial[layer], self.whole[layer] = spatial.to(device), whole.to(device)

    def __len__(self) -> int:
        return len(next(iter(self.whole.values())))

    @property
    def channels(self) -> dict[str, int]:
        return {layer: value.shape[2] for layer, value in self.spatial.items()}

    def at(self, rows: np.ndarray | Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Standardised (tokens, global tokens) of these rows, float32."""
        spatial, whole = {}, {}
        for layer in self.layers:
            spatial[layer], whole[layer] = self.of(layer, rows)
        return spatial, whole

    def of(self, layer: str, rows: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        """The same of one layer."""
        index = torch.as_tensor(rows).to(self.whole[layer].device)
        mean, rate, mean_whole, rate_whole = self.statistics[layer]
        return (self.spatial[layer][index].float() - mean) * rate, (self.whole[layer][index] - mean_whole) * rate_whole


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, spread = x.mean(0), x.std(0)
    fine = spread > 1e-4 * x.abs().mean(0).clamp_min(1e-12)
    return mean, torch.where(fine, 1 / spread.clamp_min(1e-30), torch.zeros_like(spread))


def _resized(tokens: np.ndarray, grid: tuple[int, int], rows: np.ndarray, block: int = 256) -> Tensor:
    parts = []
    for start in range(0, len(rows), block):
        read = torch.from_numpy(np.array(tokens[rows[start : start + block]]))
        parts.append(resize_tokens(read if read.is_floating_point() else read.float(), grid).half())
    return torch.cat(parts)


def held_back(names: np.ndarray, seed: int) -> np.ndarray:
    """Of unique names (n,), sorted, those that validate where nothing says which, (k,): a tenth, by the rule of all fits."""
    return names[held_out(len(names), HELD_BACK, seed)]


def _parts(trials: pd.DataFrame, seed: int, verb: str) -> np.ndarray:
    """The part of each trial; a tenth of the training images validates where the recording names none."""
    if "split" not in trials.columns:
        raise DataError(f"{verb}: trials have no column 'split'; add one with values train, test and, if you like, validation")
    part = np.array(trials["split"].astype(str), dtype=object)  # a copy: what is held back must not be written into the trials
    given = part.tolist()  # as the user named them, before any are held back
    check_parts(given)
    stimulus = as_ids(trials["stimulus"], "trials.stimulus")
    owner = pd.DataFrame({"stimulus": stimulus, "part": part}).drop_duplicates().groupby("stimulus")["part"].nunique()
    if (owner > 1).any():
        raise DataError(
            f"{int((owner > 1).sum())} images are in two parts of the split, first {owner.index[owner > 1][0]!r}; split by "
            "image, not by trial: all repeats of an image go to one part"
        )
    if not (part == "validation").any():
        names = np.unique(stimulus[part == "train"])
        part[np.isin(stimulus, held_back(names, seed)) & (part == "train")] = "validation"
    for name, least in (("train", 2), ("validation", 2), ("test", 2)):
        have = len(np.unique(stimulus[part == name]))
        if have < least:
            raise DataError(
                f"{verb}: the part {name!r} has {have} images, it needs at least {least}; split holds {sorted(set(given))}; "
                "give some images another part in the column `split`"
            )
    return part


def _part(responses: Responses, mask: np.ndarray, features: Features, *, single: bool = False) -> EncodingPart:
    chosen = responses.rows(mask)
    mean = chosen if single else chosen.average()
    ids = as_ids(mean.trials["stimulus"])
    rows = positions(ids, features.ids, "features of the responses' images")
    repeats = np.ones(len(ids)) if single else mean.trials["repeats"].to_numpy()
    return EncodingPart(ids, rows, np.asarray(mean.data, dtype=np.float32), repeats)
