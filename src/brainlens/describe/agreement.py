"""Do recordings, or subjects, give the same words? Unit by unit where they share units, region by region where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from brainlens import store
from brainlens.metrics.semantic_evidence import concept_maps, region_match, share_overlap, split_half, word_shares
from brainlens.metrics.statistics import pair_interval
from brainlens.subjects import NOT_REGIONS
from brainlens.types import DataError, Result, Surface, Volume
from brainlens.types.spaces import MESHES, subspace

LEAST_UNITS, LEAST_WORDS, LEAST_REGIONS = 3, 3, 2  # below which nothing is compared
LEAST_RECORDINGS = 3  # from which a mean over pairs has an interval


def label_agreement(
    results: Mapping[str, Result],
    *,
    same_units: bool | None = None,
    significant: bool = True,
    permutations: int = 10_000,
    seed: int = 0,
) -> Result:
    """How far the words of two or more results of `describe`, by name, agree.

        same_word = mean_v (a_v == b_v),     chance = sum_c share_a(c) share_b(c)                     (units they share)
        overlap_r = sum_c min(share_a(c | r), share_b(c | r)),     chance: regions of other names      (regions they share)

    and Spearman's correlation over common words: of each word's map over shared units, and of a region's profile of words (mean
    AUROC; with --words the scores). Means over pairs of results; from three on with an interval over recordings
    (`metrics.statistics.pair_interval`). Words meet by their text, so the vocabularies may differ. p: region names drawn anew
    (`metrics.semantic_evidence.region_match`). Units carry no interval, since neighbours are not independent.

    same_units: None takes units as shared where results lie on one standard mesh, or in volumes of one mask; True matches voxels
    of one grid whatever the masks, and units without a space by their number; False compares regions alone. significant: first
    words that are significant; else all.

    Tables `agreement`, one row a pair, and `agreement_regions`, one row a region; where units are shared, the array `same_word`
    (unit,), the share of pairs that give a unit the same word, NaN where no pair labels it.
    Raises DataError for fewer than two results, other results than those of `describe`, units that cannot be matched, and results
    that share neither units nor regions.
    """
    started, names = store.Start(), list(results)
    if len(names) < 2:
        raise DataError(f"agreement of labels: {len(names)} results; it needs at least 2")
    each = [_Words(name, results[name], significant) for name in names]
    if len({one.by_name for one in each}) > 1:
        raise DataError("agreement of labels: some results have labels of voxels and some words of regions; give one kind")
    common = _common(each, same_units)
    pairs = list(combinations(range(len(each)), 2))
    rows = [{"a": names[i], "b": names[j]} | _pair(each[i], each[j], common, i, j) for i, j in pairs]
    metrics: dict[str, float] = {"recordings": len(each), "common_words": float(len(_shared_words(each)))}
    regions = _regions(each, pairs, rows, metrics, permutations, seed)
    if common is None and regions.empty:
        raise DataError(
            f"agreement of labels: {', '.join(names)} share no units and fewer than {LEAST_REGIONS} regions with words; "
            f"regions are {[sorted(one.predicted)[:6] for one in each]}"
        )
    table = pd.DataFrame(rows)
    for key, name in (("same_word", "same_word_share"), ("map_r", "unit_map_correlation")):
        if key in table.columns:
            _mean_of_pairs(metrics, name, table[key].to_numpy(float), len(each), pairs)
    if "same_word" in table.columns:
        metrics["same_word_share.chance"] = float(table["chance"].mean())
        metrics["same_word_share.n"] = float(table["units"].mean())
    first = results[names[0]]
    config = {"method": "agreement", "runs": names, "significant": significant, "seed": seed}
    config |= {key: first.config[key] for key in ("dataset", "template") if key in first.config}
    prints = sorted({str(p) for result in results.values() for p in result.provenance.get("data", [])})
    tables = {"agreement": table} | ({} if regions.empty else {"agreement_regions": regions})
    provenance = store.provenance(seed, "cpu", prints, started)
    named = {f"describe/agreement/{key}": value for key, value in metrics.items()}
    whole = Result("describe", named, tables=tables, config=config, provenance=provenance)
    return whole if common is None else _mapped(whole, each, common, pairs, first)


class _Words:
    """What one result says: `first` (unit,) words as text, "" for none; profiles of regions; whether it has names alone."""

    def __init__(self, name: str, result: Result, significant: bool) -> None:
        self.name, self.result = name, result
        self.by_name = "words" in result.tables and "label" not in result.arrays
        if result.task != "describe" or not (self.by_name or {"label", "auroc"} <= set(result.arrays)):
            raise DataError(f"agreement of labels: {name} is a result of {result.task} without words; give results of describe")
        self.auroc, self.roi, self.first = np.zeros((0, 0)), np.zeros(0, str), np.zeros(0, object)
        if self.by_name:
            table = result.tables["words"]
            self.words = sorted(table["label"].astype(str).unique())
            self.regions = self.predicted = [r for r in table["roi"].astype(str).unique() if r not in NOT_REGIONS]
            return
        self.words = result.tables["nouns"]["noun"].astype(str).tolist()
        label = np.asarray(result.arrays["label"])[:, 0]
        if significant:
            label = np.where(np.asarray(result.arrays["significant"], dtype=bool), label, -1)
        self.first = np.array([*self.words, ""], dtype=object)[label]
        self.auroc = np.asarray(result.arrays["auroc"], dtype=np.float64)
        units = result.units
        has = units is not None and "roi" in units.columns
        self.roi = units["roi"].astype(str).to_numpy() if units is not None and has else np.full(len(label), "")
        self.regions = self._named(self.first != "")
        self.predicted = self._named(np.asarray(result.arrays["label"])[:, 0] >= 0)

    def _named(self, chosen: np.ndarray) -> list[str]:
        """Regions that hold at least so many of the chosen units."""
        names, counts = np.unique(self.roi[chosen], return_counts=True)
        return [str(r) for r, n in zip(names, counts, strict=True) if n >= LEAST_UNITS and r not in NOT_REGIONS]

    def numbers(self, words: Sequence[str]) -> np.ndarray:
        """First words (unit,) as numbers into a list, -1 for none."""
        number = {word: k for k, word in enumerate(words)} | {"": -1}
        return np.array([number[word] for word in self.first], dtype=np.int64)

    def profiles(self, regions: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """Ranks of words in each region (region, word): by mean AUROC over its units, or by the scores of names."""
        if self.by_name:
            table = self.result.tables["words"].assign(roi=lambda t: t["roi"].astype(str), label=lambda t: t["label"].astype(str))
            values = table.pivot(index="roi", columns="label", values="score").loc[list(regions), list(words)].to_numpy(float)
        else:
            columns = self.auroc[:, [self.words.index(word) for word in words]]
            values = np.stack([columns[self.roi == region].mean(axis=0) for region in regions])
        return rankdata(values, axis=1)


def _shared_words(each: Sequence[_Words]) -> list[str]:
    """Words that all results know, where their maps are defined."""
    found = set.intersection(*(set(one.words) for one in each))
    for one in each:
        if not one.by_name:
            fine = np.asarray(np.isfinite(one.auroc).all(axis=0))
            found -= {word for word, ok in zip(one.words, fine, strict=True) if not ok}
    return sorted(found)


def _common(each: Sequence[_Words], same_units: bool | None) -> list[np.ndarray] | None:
    """Of each result the numbers of the units that all share, in one order; None where units are not shared."""
    if same_units is False or each[0].by_name:
        return None
    keys = [_keys(one.result, numbered=bool(same_units)) for one in each]
    shared = all(key[0] == keys[0][0] and key[0] is not None for key in keys)
    if same_units is None:
        alike = all(np.array_equal(key[1], keys[0][1]) for key in keys)
        shared = shared and (alike or isinstance(each[0].result.space, Surface))
    if not shared:
        if same_units:
            spaces = ", ".join(
                f"{one.name}: {'no space' if one.result.space is None else type(one.result.space).__name__}"
                f" of {len(one.first):,} units" for one in each
            )  # fmt: skip
            raise DataError(f"agreement of labels: the units cannot be matched, they lie in different spaces ({spaces})")
        return None
    both = keys[0][1]
    for key in keys[1:]:
        both = np.intersect1d(both, key[1])
    if not len(both):
        raise DataError("agreement of labels: the results share no voxel; compare regions alone with same_units=False")
    return [_places(key[1], both) for key in keys]


def _keys(result: Result, *, numbered: bool) -> tuple[Any, np.ndarray]:
    """The grid that units lie on, None for one that nobody else has, and the place of each on it as a number.

    numbered: units without a space are told by their number.
    """
    space = result.space
    if isinstance(space, Volume):
        return (space.mask.shape, *np.round(space.affine, 3).ravel().tolist()), np.flatnonzero(space.mask)
    if isinstance(space, Surface):
        right = np.asarray(space.hemisphere == "right").astype(np.int64)
        return (space.mesh if space.mesh in MESHES else None), np.asarray(space.vertex).astype(np.int64) * 2 + right
    count = len(result.arrays["label"])
    return (count if numbered and space is None else None), np.arange(count)


def _places(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(keys)
    return order[np.searchsorted(keys, wanted, sorter=order)]


def _pair(a: _Words, b: _Words, common: list[np.ndarray] | None, i: int, j: int) -> dict[str, float]:
    """Scores of one pair over the units that are shared; empty where none are."""
    if common is None:
        return {}
    words = sorted(set(a.words) | set(b.words))
    halves = split_half(a.numbers(words)[common[i]], b.numbers(words)[common[j]])
    out = {"same_word": halves["agreement"], "chance": halves["chance"], "units": halves["n"]}
    shared = _shared_words([a, b])
    if shared:
        maps = [one.auroc[common[k]][:, [one.words.index(w) for w in shared]] for one, k in ((a, i), (b, j))]
        found = concept_maps(*(rankdata(m, axis=0).T for m in maps))
        out["map_r"] = float(np.nanmean(found)) if np.isfinite(found).any() else np.nan
    return out


def _regions(
    each: Sequence[_Words],
    pairs: list[tuple[int, int]],
    rows: list[dict[str, Any]],
    metrics: dict[str, float],
    permutations: int,
    seed: int,
) -> pd.DataFrame:
    """The table of regions that all results share; adds scores of pairs to rows and the tests to metrics."""
    table = pd.DataFrame({"roi": []}, dtype=object)
    for name, (regions, matrices, more) in (
        ("region_overlap_share", _overlaps(each, pairs)),
        ("region_correlation", _profiles(each, pairs)),
    ):
        if not matrices:
            continue
        short = name.removesuffix("_share")
        found = region_match(matrices, pairs, permutations=permutations, seed=seed)
        own = np.array([m.diagonal() for m in matrices])
        for row, values in zip(rows, own, strict=True):
            row[short] = float(values.mean())
        _mean_of_pairs(metrics, name, own.mean(axis=1), len(each), pairs)
        metrics |= {f"{name}.chance": found["chance"], f"{name}.p": found["p"], f"{name}.n": float(len(regions))}
        off = ~np.eye(len(regions), dtype=bool)
        both = np.mean([(m + m.T) / 2 for m in matrices], axis=0)
        chance = [float(both[r][off[r]].mean()) for r in range(len(regions))]
        part = pd.DataFrame({"roi": regions, **more, short: own.mean(axis=0), f"{short} chance": chance})
        table = table.merge(part, on="roi", how="outer")
    return table


Likeness = tuple[list[str], list[np.ndarray], dict[str, Any]]  # regions, of each pair (region, region), further columns


def _overlaps(each: Sequence[_Words], pairs: list[tuple[int, int]]) -> Likeness:
    """Overlaps of first words, of regions where all results have some; none for names alone."""
    regions = _shared_regions([one.regions for one in each])
    if each[0].by_name or not regions:
        return [], [], {}
    every = sorted({word for one in each for word in one.words})
    shares = [word_shares(one.numbers(every), one.roi, regions, len(every)) for one in each]
    units = [float(np.mean([((one.roi == r) & (one.first != "")).sum() for one in each])) for r in regions]
    word = [every[k] for k in np.mean(shares, axis=0).argmax(axis=1)]
    return regions, [share_overlap(shares[i], shares[j]) for i, j in pairs], {"units": units, "word": word}


def _profiles(each: Sequence[_Words], pairs: list[tuple[int, int]]) -> Likeness:
    """Correlations of profiles over common words, of regions where all results predict units (or rank names)."""
    regions, shared = _shared_regions([one.predicted for one in each]), _shared_words(each)
    if not regions or len(shared) < LEAST_WORDS:
        return [], [], {}
    profiles = [one.profiles(regions, shared) for one in each]
    if not all((np.ptp(p, axis=1) > 0).all() for p in profiles):
        return [], [], {}
    return regions, [_correlations(profiles[i], profiles[j]) for i, j in pairs], {}


def _shared_regions(each: Sequence[list[str]]) -> list[str]:
    """Names that all have; none where they are too few to be told apart."""
    found = sorted(set.intersection(*map(set, each)))
    return found if len(found) >= LEAST_REGIONS else []


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of all pairs of rows (region, word): (region, region)."""
    n = len(a)
    return np.asarray(np.corrcoef(a, b)[:n, n:])


def _mean_of_pairs(metrics: dict[str, float], name: str, values: np.ndarray, n: int, pairs: list[tuple[int, int]]) -> None:
    metrics[name] = float(values.mean())
    if n >= LEAST_RECORDINGS and np.isfinite(values).all():
        square = np.full((n, n), np.nan)
        for (i, j), value in zip(pairs, values, strict=True):
            square[i, j] = square[j, i] = value
        _, low, high = pair_interval(square)
        least = 0.0 if name.endswith("_share") else -1.0
        metrics[f"{name}.low"], metrics[f"{name}.high"] = max(low, least), min(high, 1.0)


def _mapped(
    whole: Result, each: Sequence[_Words], common: list[np.ndarray], pairs: list[tuple[int, int]], first: Result
) -> Result:
    """The result with the map of where the words agree, on the units that all share."""
    words = sorted({word for one in each for word in one.words})
    labels = np.stack([one.numbers(words)[rows] for one, rows in zip(each, common, strict=True)])
    both = np.stack([(labels[i] >= 0) & (labels[j] >= 0) for i, j in pairs])
    same = np.stack([labels[i] == labels[j] for i, j in pairs]) & both
    counted = both.sum(axis=0)
    share = np.where(counted > 0, same.sum(axis=0) / np.maximum(counted, 1), np.nan)
    order = np.sort(common[0])  # a space keeps the order of its units
    back = np.searchsorted(order, common[0])
    in_order = np.full(len(order), np.nan)
    in_order[back] = share
    units = None if first.units is None else first.units.iloc[order].reset_index(drop=True)
    return replace(whole, arrays={"same_word": in_order}, units=units, space=subspace(first.space, order))
