"""Metrics as rows of a table for the page: value, interval, chance, ceiling and n, as text (see `types.scores`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brainlens.types.scores import SHARE, SIDES, chance, digits, is_difference, is_score, join, spelled

SILENT = (  # groups that the heading names already
    *("retrieval", "encoding", "attribution", "align", "attribute", "encode", "reconstruct", "describe", "decode", "methods"),
    "truth",
)
PICTURES = {  # which pictures a score of `reconstruct` is of, where the metric names them; without a name the chosen ones
    "first": "first candidate",
    "mean": "mean over candidates",
    "best": "best candidate",
    "retrieval": "nearest training picture",
    "evidence_retrieval": "training picture by evidence",
    "low_level": "low level alone",
    "shuffled": "beside another image",
    "repeat_ceiling": "repeat noise ceiling",
    "difference": "chosen minus nearest training picture",
    "mindeye": "MindEye's protocol",
    "brain_diffuser": "Brain-Diffuser's protocol",
    "neuroadapter": "NeuroAdapter's protocol",
}
NAMES = {
    "truth/auroc": "area under the ROC curve against the truth",
    "subject_correlation": "correlation of a subject's map with the others' mean",
    "two_way": "two-way identification",
    "truth_auroc": "area under the ROC curve against the truth",
    "r2_mean": "mean R²",
    "r2_max": "largest R²",
    "r2_median": "median R²",
    "r2_share_positive": "share of units with R² > 0",
    "r2_of_ceiling": "R² / noise ceiling",
    "r2_weighted": "R² over images and dimensions",
    "r_weighted": "correlation over images and dimensions",
    "two_way_patterns": "two-way identification of held-out images",
    "chosen_share": "share of folds that chose it",
    "match_correlation": "dissimilarities, Spearman with single subjects",
    "layer_correlation": "agreement of layer maps, correlation",
    "same_layer_share": "units with the same layer",
    "units_significant": "units with R² > 0 at q < .05",
    "share_significant": "share of units with r > 0 at q < .05",
    "layer_spearman": "found against true layer, Spearman",
    "x_spearman": "found against the template's fields, left to right, Spearman",
    "y_spearman": "found against the template's fields, up and down, Spearman",
    "rf_x_spearman": "found against true fields, left to right, Spearman",
    "rf_y_spearman": "found against true fields, up and down, Spearman",
    "rf_error_median": "receptive-field centre error, median",
    "scale_auroc": "global against local units, AUROC",
    "hierarchy_slope": "hierarchy slope (share of the network's depth from V1 to EBA)",
    "mrr": "mean reciprocal rank",
    "roi": "region",
    "snr": "signal-to-noise ratio",
    "r2": "R²",
    "r2_of_ceiling_undefined": "units without a ceiling",
    "mean_rank": "mean rank (0 = best)",
    "median_rank": "median rank (0 = best)",
    "two_way_clip": "two-way identification",
    "two_way_alexnet2": "AlexNet(2), two-way",
    "two_way_alexnet5": "AlexNet(5), two-way",
    "two_way_inception": "Inception, two-way",
    "distance_efficientnet": "EffNet-B distance (less is better)",
    "distance_swav": "SwAV distance (less is better)",
    "pixcorr": "pixel correlation",
    "ssim": "SSIM",
    "change": "mean change of the picture (grey levels)",
    "significant_share": "share of voxels that are significant at q < .05",
    "r2_share_significant": "share of voxels with significant R²",
    "split_half_share": "same first word from two halves of the images",
    "same_label_share": "same first word as ours",
    "same_word_share": "same first word",
    "unit_map_correlation": "words' maps, correlation over units",
    "region_overlap_share": "overlap of a region's words",
    "region_correlation": "correlation of a region's profile of words",
    "crops": "crops beside the pictures",
    "crops_asked": "crops that voxels ask for",
    "pictures_cut": "pictures that were cut",
    "strongest_share_crops": "share of crops among the strongest pictures",
    "map_correlation": "words' predicted and measured maps, correlation over voxels",
    "ceiling_mean": "mean noise ceiling",
    "words/ceiling_mean": "how well the order of categories repeats, mean over regions",
    "words/categories": "categories that were shown",
    "words/regions": "regions",
    "two_way_max": "two-way accuracy at the best of all times (chance at one time: 50 %)",
    "truth_correlation": "contributions and true map, correlation over channels",
    "posterior_share": "share of the contributions over posterior channels",
    "nearest_share": "nearest other image is of the same category",
    "auc": "area under the ROC curve",
    "groups": "parts left out in turn",
    "auc_mean": "mean area under the ROC curve over all times",
    "peak_auc": "largest area under the ROC curve over time",
    "peak_p": "its p, corrected for all times",
    "peak_time": "time of the largest area (s)",
    "onset": "first time with p < .05, corrected (s)",
    "peak_ms": "time of the largest deflection (ms)",
    "peak": "largest deflection of a channel",
    "mass": "mean of the map, scaled to 0 to 1",
    "area": "share of units above half of the map's range",
    "drop_absolute": "loss of cosine when only the map's part stays (x 100)",
    "drop_relative": "loss of cosine when only the map's part stays (% of it)",
    "increase": "cases whose cosine rises when only the map's part stays (%)",
    "deletion_auc": "area under the deletion curve (less is better)",
    "insertion_auc": "area under the insertion curve (more is better)",
    "image_drop": "confidence drop, image",
    "image_increase": "confidence increase, image (%)",
    "image_matched_drop": "confidence drop at a matched area, image",
    "image_matched_increase": "confidence increase at a matched area, image (%)",
    "text_drop": "confidence drop, text",
    "text_increase": "confidence increase, text (%)",
    "text_matched_drop": "confidence drop at a matched area, text",
    "text_matched_increase": "confidence increase at a matched area, text (%)",
    "map_area": "area of the map",
    "baseline_ratio": "field power, peak / baseline",
}
KEY = re.compile(  # what a reader looks for first
    r"(top1|top5|accuracy|truth_auroc|auroc|r2_mean|r2_max|r2_of_ceiling|r2_share_positive|layer_spearman|[xy]_spearman|rf_error_median"
    r"|r2_weighted|units_significant|same_layer_share|nearest_share"
    r"|hierarchy_slope|pointing_game|best_layer|two_way_\w+|kind_top1|\w*_correlation|domain_top1|kind_top3|noise_significant"
    r"|map_area|peak_auc|peak_time|onset|auc|auc_mean|significant_share|split_half_share|same_word_share"
    r"|region_overlap_share)$"
)
CHANGED = re.compile(r"(matched/(drop_absolute|increase)|deletion_auc|insertion_auc)$")
LOST = re.compile(r"(masked|missing|constant|dropped|excluded|truncated|skipped|left_out|duplicate)")
COUNTED = {  # what n counts where it is not images, of scores of `describe`
    "significant_share": "voxels",
    "r2_share_significant": "voxels",
    "split_half_share": "voxels",
    "same_label_share": "voxels",
    "map_correlation": "words",
}
NO_CEILING_OF_PATTERNS = "R² has no noise ceiling: the dissimilarities of sessions do not tell how their patterns would repeat"
NO_CEILING = "no noise ceiling: no stimulus was shown twice, so scores stand without one"


@dataclass(frozen=True)
class Row:
    """One metric for the page, already as text; empty where there is nothing to say."""

    key: str
    label: str
    value: str
    interval: str
    chance: str
    ceiling: str
    n: str
    main: bool


def once(found: list[Row]) -> list[Row]:
    """The rows without those that repeat one number under another name: same value, interval and chance, and the same last word.

    Of `truth/auroc` and `attribute/bottleneck/truth_auroc` the one that names its method stays. Two directions of retrieval that
    happen to score alike both stay.
    """
    out: dict[tuple[str, ...], Row] = {}
    for row in found:
        kind = re.split(r"[/_]", row.key)[-1]
        way = next((part for part in row.key.split("/") if "->" in part), "")
        seen = (row.value, row.interval, row.chance, kind, way)
        if row.interval and seen in out:
            longer = max(out[seen], row, key=lambda one: one.key.count("/"))
            out[seen] = longer
        else:
            out[seen if row.interval else (row.key,)] = row
    return list(out.values())


def first(found: list[Row], most: int) -> list[Row]:
    """What a reader looks for first; of attribution without a known truth how scores change with the map; else the first rows."""
    changed = [row for row in found if CHANGED.search(row.key)]
    return once([row for row in found if row.main]) or changed or found[:most]


def rows(metrics: Mapping[str, float], *, ideal: Mapping[str, float] | None = None, headline: str = "") -> list[Row]:
    """One row a metric, in the order given; neighbours stand in the row of their metric. ideal: the ideal observer's metrics.

    headline: whose the scores are that name no method (`retrieval/...`).
    """
    baselines = any(key.startswith("retrieval/") for key in metrics)  # then align/<encoder>/retrieval/... has its own table
    out = []
    for key, value in metrics.items():
        group, _, name = key.rpartition("/")
        if not is_score(key):
            continue
        level = chance(key, metrics)
        n = metrics.get(f"{key}.n", metrics.get(join(group, "n")))
        row = Row(
            key=key,
            label=label(key) + (f" ({headline.replace('_', ' ')})" if headline and key.startswith("retrieval/") else ""),
            value="none" if name == "onset" and value != value else number(value, name, difference=is_difference(key)),
            interval=interval(key, metrics),
            chance="" if level is None else "0 (no difference)" if is_difference(key) else _chance(level, name),
            ceiling=_ceiling(key, metrics, ideal or {}),
            n=_counted(group, name, n, metrics),
            main=(bool(KEY.match(name)) or key == "describe/words/ceiling_mean")
            and not (baselines and re.match(r"align/[^-/]+/(subject/[^/]+/)?retrieval/", key)),
        )
        out.append(row)
    return out


def _counted(group: str, name: str, n: float | None, metrics: Mapping[str, float]) -> str:
    """The n of a score; for a mean over chosen units their number and that of all."""
    chosen, every = metrics.get(join(group, "units_scored")), metrics.get(join(group, "units"))
    if every is not None and re.match(r"(r2|r|ceiling)_(mean|median|of_ceiling)$", name):
        return f"{every:,.0f} units" if chosen is None else f"{chosen:,.0f} of {every:,.0f} units"
    if every is not None and name in ("r2_max", "r2_share_positive", "units_significant"):  # over all units, always
        return f"{every:,.0f} units"
    of = COUNTED.get(name, "") if group.startswith("describe") else ""
    return "" if n is None else f"{n:,.0f} {of}".rstrip()


def _chance(level: float, name: str) -> str:
    """A chance level as text; the mean of a permutation null near 0 is 0 with noise of its own."""
    return "≈ 0" if 0 < abs(level) < 0.01 and not SHARE.match(name) else number(level, name)


def number(value: float, name: str = "", *, difference: bool = False) -> str:
    """A number as text: shares as per cent, counts with separators, others to three digits; NaN is "undefined".

    A difference carries its sign; that of two shares is in percentage points, which are not per cent of anything.
    """
    if np.isnan(value):
        return "undefined"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    if difference:
        text = f"{100 * value:+.1f} points" if SHARE.match(name) else f"{value:+.3g}"
    elif SHARE.match(name):
        text = f"{100 * value:.1f} %"
    else:
        text = digits(value)
    return text.replace("-", "−")


def label(key: str) -> str:
    """A metric's name in words, with what stands before it."""
    parts = key.split("/")
    if is_difference(key):
        if parts[1] == "difference":
            del parts[2]
        parts[1] = parts[1].replace("-", " minus ")
        last = "difference of "
    else:
        last = ""
    name = "/".join(parts[-2:]) if "/".join(parts[-2:]) in NAMES else parts[-1]  # what stands before may change what it is
    top, ways = re.fullmatch(r"top(\d+)", name), re.fullmatch(r"nway(\d+)", name)
    if top:
        text = f"top-{top[1]}"
    elif ways:
        text = f"{ways[1]}-way"
    elif name.endswith(" undefined"):
        text = f"units without {label(name.removesuffix(' undefined'))}"
    else:
        text = NAMES.get(name, name.replace("_", " "))
    before = [PICTURES.get(p, p) if parts[0] == "reconstruct" else p for p in parts[: -1 - name.count("/")]]
    before = [
        " minus ".join(spelled(word) for word in p.replace("->", " → ").split(" minus ")) for p in before if p not in SILENT
    ]
    if "subject" in before[:-1]:  # subject/1: one thing, not two
        at = before.index("subject")
        before[at : at + 2] = [f"subject {before[at + 1]}"]
    return f"{', '.join(before)}: {last}{text}" if before else last + text


def losses(metrics: Mapping[str, float]) -> list[str]:
    """Sentences on what was dropped, masked or truncated, from the counts that are above 0."""
    out = []
    for key, value in metrics.items():
        name = key.rpartition("/")[2]
        if LOST.search(name) and value > 0 and not key.endswith(SIDES):
            share = f"{100 * value:.1f} %" if "share" in name else f"{value:,.0f}"
            out.append(f"{label(key)}: {share}")
    if any(key.endswith("ceiling_undefined") and value > 0 for key, value in metrics.items()):
        out.append(NO_CEILING_OF_PATTERNS if "encoding/r2_weighted" in metrics else NO_CEILING)
    return out


def interval(key: str, metrics: Mapping[str, float]) -> str:
    """The interval of a metric in brackets and its p, empty where neither is known."""
    name = key.rpartition("/")[2]
    low, high, p = (metrics.get(key + side) for side in (".low", ".high", ".p"))
    kind = is_difference(key)
    ends = [] if low is None or high is None else [number(low, name, difference=kind), number(high, name, difference=kind)]
    unit = " points" if ends and all(end.endswith(" points") for end in ends) else ""
    parts = [f"[{', '.join(end.removesuffix(unit) for end in ends)}]{unit}"] if ends else []
    return " ".join(parts + ([] if p is None else [f"p\u00a0=\u00a0{p:.2g}"]))


def _ceiling(key: str, metrics: Mapping[str, float], ideal: Mapping[str, float]) -> str:
    group, _, name = key.rpartition("/")
    if f"{key}.ceiling" in metrics:
        return number(metrics[f"{key}.ceiling"], name)
    short = key[key.index("retrieval/") :] if "retrieval/" in key else key
    if short in ideal and not is_difference(key) and not key.startswith("align/ideal/"):
        return f"{number(ideal[short], name)} (ideal)"
    low, high = metrics.get(join(group, "ceiling_low")), metrics.get(join(group, "ceiling_high"))
    if low is not None and high is not None:
        return f"{number(low, name)} to {number(high, name)}"
    level = metrics.get(join(group, "ceiling")) if re.match(r"r2_(?!of|share)|r$|accuracy", name) else None
    return "" if level is None else number(level, name)
