"""docs/claims.md: the targets with what was reached, and ten tables; every other figure is in claims/GROUP.json."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

REBUILT = "2026-11-28"  # of the phantom and the miniature
Metrics = Mapping[str, float | None]
FMRI = ("brain->image", "image->brain", "brain->text", "text->brain")


@dataclass(frozen=True)
class Table:
    """A table of the page: rows and columns are (head, piece of the key); `key` puts them together. group: whose facts it has."""

    title: str
    group: str
    said: str
    rows: Sequence[tuple[str, str]]
    columns: Sequence[tuple[str, str]]
    key: str = "{row}/{column}"


@dataclass(frozen=True)
class Versus:
    """A target in words, and what its score is held against.

    above, below: keys of the scores that it is to lie above and below; those that were not run are left out. at: the number, or
    the key of the number, that its interval is to hold.
    """

    said: str
    above: Sequence[str] = ()
    below: Sequence[str] = ()
    at: float | str | None = None


Targets = Mapping[str, str | Versus]


ALIGNERS = (
    ("ideal observer", "ideal"), ("`volume`, our default", "volume"), ("the paper's form, small", "volume_paper_small"),
    ("the paper's form, small, remedied", "volume_paper_small_remedied"),
    ("ridge, canonical metric (its start)", "ridge_projected"), ("MLP, canonical metric", "mlp_projected"),
    ("linear contrastive, canonical metric", "linear_projected"), ("ridge, whitened", "ridge_whitened"), ("MLP", "mlp"),
    ("linear contrastive", "linear"), ("ridge", "ridge"), ("3D CNN", "cnn"), ("`volume`, shuffled pairs", "shuffled"),
)  # fmt: skip
METHODS = (
    ("bottleneck (IB-BA), our default", "bottleneck"), ("bottleneck, the paper's form", "ib_ba_paper"), ("Grad-CAM", "gradcam"),
    ("attention relevance", "chefer"), ("integrated gradients", "integrated_gradients"), ("RISE", "rise"), ("random", "random"),
    ("bottleneck, permuted weights", "randomised"),
)  # fmt: skip
POINTING = tuple((head, "" if key == "bottleneck" else f"/{key}") for head, key in METHODS[:1] + METHODS[2:7])
ENCODERS = (
    ("true selectors (oracle)", "oracle"), ("true selectors and the common reading", "oracle_common"),
    ("FactorTopy, our default", "factortopy"), ("FactorTopy, eq. 1 alone, searched start", "factortopy_eq1"),
    ("FactorTopy, searched beside the common reading", "factortopy_beside"),
    ("FactorTopy, the paper's text", "factortopy_paper"),
    ("FactorTopy, the paper's text, closing ridge", "factortopy_paper_refit"),
    ("FactorTopy, the released code's form", "factortopy_released"),
    ("FactorTopy, the released code's form, closing ridge", "factortopy_released_refit"),
    ("ridge, best layer of each voxel", "ridge"), ("class token", "class_token"), ("GNet", "gnet"),
    ("patch token", "patch_token"), ("FactorTopy, shuffled images", "shuffled"),
)  # fmt: skip
RECIPES = tuple((head, key) for head, key in ENCODERS if key.startswith("factortopy") or key == "ridge")
SENSORS = (
    ("ridge, canonical metric", "canonical"), ("NeuroAlign without saliency", "no_saliency"), ("ridge", "ridge"),
    ("NICE-style", "nice"), ("linear", "linear"), ("NeuroAlign without adjustment", "no_adjustment"),
    ("NeuroAlign without guidance", "no_guidance"), ("NeuroAlign", "neuroalign"),
    ("NeuroAlign without saliency and adjustment", "no_saliency_adjustment"),
    ("NeuroAlign without saliency and guidance", "no_saliency_guidance"),
    ("NeuroAlign without all three", "no_saliency_guidance_adjustment"), ("NeuroAlign, shuffled pairs", "shuffled"),
)  # fmt: skip
CONTROLLED = (("NeuroAlign", "neuroalign"), ("NeuroAlign without saliency", "unfiltered"))
SIGNS = (
    ("picture as shown", "printed", "eeg/neuroalign"), ("picture as shown", "enhancing", "eeg/enhancing/neuroalign"),
    ("picture as shown", "no filter", "eeg/no_saliency"),
    ("filtered, printed sign", "printed", "eeg/control/neuroalign"),
    ("filtered, printed sign", "no filter", "eeg/control/unfiltered"),
    ("filtered, enhancing sign", "enhancing", "eeg/control/enhancing/neuroalign"),
    ("filtered, enhancing sign", "no filter", "eeg/control/enhancing/unfiltered"),
)  # fmt: skip
UNFILTERED = tuple((head, key) for head, key in SENSORS if key.startswith("no_saliency"))
DRAWN = (
    ("chosen of the candidates", ""), ("first candidate", "first/"), ("best possible choice", "best/"),
    ("nearest training picture by ridge", "retrieval_baseline/"), ("nearest training picture by evidence", "evidence_retrieval/"),
    ("shuffled brain", "shuffled/"),
)  # fmt: skip
CHANGED = (
    ("nothing", "four_candidates/"), ("25 parcels of 100", "parcels/25/"), ("50 parcels", "parcels/50/"),
    ("200 parcels", "parcels/200/"), ("400 parcels", "parcels/400/"), ("low-level start", "low_level/"),
    ("drawn at the prediction", "at_prediction/"), ("chosen by an encoding model", "ridge_chooser/"),
    ("trained on the recording", "trained/"), ("trained, drawn at the prediction", "reference/"),
    ("trained, drawn at the prediction, without token dropout", "no_dropout/"),
    ("trained, drawn at the prediction, without Min-SNR", "no_min_snr/"),
    ("trained, drawn at the prediction, without distillation", "no_distillation/"),
    ("trained from a ridge start", "start_ridge/"),
    ("a token a region", "region_tokens/"), ("the paper's form", "paper/"), ("pairs shuffled in training", "shuffled_training/"),
)  # fmt: skip
DESCRIBERS = (
    ("true noise-free voxel (ideal)", "ideal/"), ("our default", ""), ("our default, its significant voxels", "significant/"),
    ("our default, ten drawn pictures a noun", "drawn/"), ("the paper's rank score, real pictures", "paper/"),
    ("as published: crops, captioner, drawn pictures", "published/"), ("as the released code scores it", "released/"),
    ("our default, true scenes in place of drawn pictures", "drawn_rendered/"),
    ("as published, true scenes in place of drawn pictures", "published_rendered/"),
    ("pictures alone", "image_only/"),
    ("majority noun", "majority/"), ("text readout", "text_readout/"), ("BrainSCUBA", "brainscuba/"), ("CLIP-MSM", "clip_msm/"),
)  # fmt: skip
STRENGTHS = (("no noise: the low-level picture", "0"), *((f"noise {s[1:]}", s) for s in ("0.1", "0.2", "0.4", "0.6")))
FOUND = (
    ("R2", "r2_mean"), ("share of the ceiling", "r2_of_ceiling"), ("layers (Spearman)", "truth/layer_spearman"),
    ("field error", "truth/rf_error_median"), ("scale (AUROC)", "truth/scale_auroc"), ("hierarchy slope", "hierarchy_slope"),
)  # fmt: skip
TABLES = (
    Table(
        "Which image or caption was seen? fMRI",
        "align",
        "Top-1 of 1,000 test images, repeats averaged; chance .001. 9,000 training images x 3. How long the paper's form was "
        "trained: [notes on align](notes/align.md).",
        ALIGNERS,
        [(way, way) for way in FMRI],
        "align/{row}/retrieval/{column}/top1",
    ),
    Table(
        "Which voxels carried it?",
        "attribute",
        "Area under the ROC curve of the mean map for voxels that carry information; chance .5.",
        METHODS,
        [
            ("mean map", "truth_auroc"),
            ("single trials", "truth_auroc_trial_mean"),
            ("plain map", "plain/truth_auroc"),
            ("insertion (image)", "image/insertion_auc"),
            ("deletion (image)", "image/deletion_auc"),
        ],
        "attribute/{row}/{column}",
    ),
    Table(
        "Which pixels and words?",
        "pointing",
        "Pointing game: share of maps whose maximum lies on the object that drives the response.",
        POINTING,
        [
            ("pixels", "pixels{row}/pointing_game"),
            ("words", "words{row}/pointing_game"),
            ("the noun itself", "words{row}/kind_only/pointing_game"),
        ],
        "attribute/{column}",
    ),
    Table(
        "Which layer, place and scale predict each voxel?",
        "encode",
        "Mean test R2 of voxels with ncsnr > .3, and what is found of the truth.",
        ENCODERS,
        FOUND,
        "encode/{row}/{column}",
    ),
    Table(
        "FactorTopy as published, trained on 1,200 images",
        "recipes",
        "Both published forms at 20,000 steps on single trials with raw tokens, beside our start, which takes no step.",
        RECIPES,
        FOUND,
        "encode/curve/{row}/1200/{column}",
    ),
    Table(
        "Which image was seen? EEG",
        "eeg",
        "Of 200 test images, chance .005 and .025; mean over subjects, intervals over subjects and images.",
        SENSORS,
        [
            ("within, top-1", "within/top1"),
            ("within, top-5", "within/top5"),
            ("across, top-1", "across/top1"),
            ("across, top-5", "across/top5"),
        ],
        "eeg/{row}/{column}",
    ),
    Table(
        "Is it the target or the code? NeuroAlign where the sources read what it filters",
        "eeg_control",
        "Another brain than above: its sources read the filtered picture. Of 200 test images, chance .005 and .025, within "
        "subjects; intervals over subjects and images.",
        CONTROLLED,
        [("subjects", "within/subjects"), ("top-1", "within/top1"), ("top-5", "within/top5")],
        "eeg/control/{row}/{column}",
    ),
    Table(
        "Which sign of the filter? NeuroAlign by what the sources read",
        "eeg_control",
        "Eq. 1 as printed takes weight from what is bright and coloured; the other sign adds it. Rows: what the sources "
        "read, and the sign of the filter. Of 200 test images, chance .005 and .025, within subjects.",
        tuple((f"{read}: {sign}", row) for read, sign, row in SIGNS),
        [("subjects", "within/subjects"), ("top-1", "within/top1"), ("top-5", "within/top5")],
        "{row}/{column}",
    ),
    Table(
        "What do guidance and adjustment bring? NeuroAlign without saliency",
        "eeg",
        "The brain of the table of EEG retrieval, whose sources read the picture. Of 200 test images, chance .005 and .025, "
        "within subjects; the last column is NeuroAlign without saliency minus the row, on the row's subjects.",
        UNFILTERED,
        [
            ("subjects", "{row}/within/subjects"),
            ("top-1", "{row}/within/top1"),
            ("top-5", "{row}/within/top5"),
            ("lost, top-1", "no_saliency/difference/{row}/within/top1"),
        ],
        "eeg/{column}",
    ),
    Table(
        "What did the picture look like?",
        "reconstruct",
        "Two-way identification by the miniature CLIP (chance .5); kind of the main object by the "
        "detector; colour and place by the miniature CLIP.",
        DRAWN,
        [("two-way", "two_way_clip"), ("kind", "kind_detector"), ("colour", "color"), ("place", "place")],
        "reconstruct/{row}{column}",
    ),
    Table(
        "What does each part of reconstruction bring?",
        "reconstruct",
        "One thing changed at a time, four candidates, the same scenes and scores as above; those that train take 250 steps.",
        CHANGED,
        [("two-way", "two_way_clip"), ("kind", "kind_detector"), ("colour", "color"), ("place", "place")],
        "reconstruct/{row}{column}",
    ),
    Table(
        "What does the diffusion miniature draw from captions?",
        "diffusion",
        "200 test scenes; the same judges on the scenes themselves beside it.",
        [("drawn", ""), ("the scenes themselves", "real/")],
        [("caption of 50", "pick50"), ("colour", "color"), ("place", "place"), ("kind", "kind_detector")],
        "diffusion/{row}{column}",
    ),
    Table(
        "Digits from real fMRI: what does the diffusion path add?",
        "digits69",
        "Latents that ridge predicts out of fold, under a share of noise, drawn on by the miniature (empty prompt, no guidance); "
        "pixels of the mean of four draws, and of one draw. Added: two-way minus that of the undiffused picture, paired over "
        "images. True latents: the same from the seen pictures themselves, what a perfect brain would keep.",
        STRENGTHS,
        [
            ("two-way", "diffusion/{row}/two_way"),
            ("added", "diffusion/{row}/added"),
            ("within a digit", "diffusion/{row}/two_way_within"),
            ("added within", "diffusion/{row}/added_within"),
            ("one draw, added", "diffusion/{row}/single/added"),
            ("one draw, added within", "diffusion/{row}/single/added_within"),
            ("true latents, one draw, two-way within", "diffusion_of_truth/{row}/single/two_way_within"),
        ],
        "digits69/reconstruct/{column}",
    ),
    Table(
        "What does each voxel mean?",
        "describe",
        "Category voxels with a predictable response: first label in the true domain, true kind among the first "
        "three, both kinds of a two-kind voxel among the first four.",
        DESCRIBERS,
        [("domain", "domain_top1"), ("kind", "kind_top3"), ("two kinds", "two_kinds_top4")],
        "describe/{row}{column}",
    ),
)
REAL = (
    ("Haxby 2001: best voxel's R2, one run left out", "haxby2001/encode/r2_max", "haxby2001"),
    ("Haxby 2001: share of voxels with R2 > 0", "haxby2001/encode/r2_share_positive", "haxby2001"),
    ("Haxby 2001: accuracy of 8 categories", "haxby2001/decode/accuracy", "haxby2001"),
    ("92 images, human IT: best layer of MobileNetV2 (Spearman)", "images92/rsa/best_layer", "images92"),
    ("92 images, human IT: best layer of DINOv2", "images92/rsa/dinov2", "images92"),
    ("92 images, human IT: pixels", "images92/rsa/pixels", "images92"),
    ("92 images: lower bound of the noise ceiling", "images92/rsa/ceiling_low", "images92"),
    ("digits, fMRI: 95th percentile of r, DINOv2", "digits69/encode/dinov2_p95", "digits69"),
    ("digits, fMRI: 95th percentile of r, pixels", "digits69/encode/pixels_p95", "digits69"),
    ("digits, reconstructed: two-way", "digits69/reconstruct/two_way", "digits69"),
    ("digits, reconstructed: two-way within a digit", "digits69/reconstruct/two_way_within", "digits69"),
)
HEAD = """# Claims

What each method recovers of the phantom's known truth, and what it gives on real recordings. `make claims` writes this page.
A miss stays here with its value. Intervals are 95 % bootstrap intervals; *was* is the figure on the phantom and the miniature
before both were rebuilt on 2026-11-28. The phantom's voxels read a CLIP linearly, which favours linear methods: see the judges
below before you take a ranking for more than that. A target that compares two scores is met where their intervals lie apart,
which asks more than a difference on the same stimuli would. Every other figure, with its n and its chance, is in
`claims/GROUP.json`; what was tried, and the causes of misses, is in the [notes on the claims](notes/claims.md).
"""


def page(groups: Mapping[str, Mapping[str, object]], before: Metrics, targets: Targets,
         order: Callable[[Metrics], list[str]]) -> str:  # fmt: skip
    """The page of the groups that were run: {group: {date, commit, device, scale, metrics}}.

    before: figures of before the rebuild. targets: {key: target}. order: the lines of the table of judges.
    """
    metrics: dict[str, float | None] = {}
    for kept in groups.values():
        metrics |= kept["metrics"]  # type: ignore[operator]
    lines = [HEAD, "## Targets\n", *target_table(metrics, targets)]
    for each in TABLES:
        rows = homes(groups, [key for line in keys(each) for key in line]) - {each.group}
        also = "".join(f" Other rows: `{name}`, {run_of(groups[name])}." for name in groups if name in rows)
        lines += ["", f"## {each.title}\n", f"{each.said} {facts(groups, each.group)}{also}\n"]
        lines += body(each, metrics, before) if each.group in groups else []
    lines += ["", "## Which ranking survives other judges?\n", facts(groups, "judges") + "\n"]
    lines += order(groups["judges"]["metrics"]) if "judges" in groups else []  # type: ignore[arg-type]
    lines += ["", "## Real recordings\n", "| | value | 95 % interval | chance |", "|---|---|---|---|"]
    for said, key, _ in REAL:
        if metrics.get(key) is not None:
            chance = metrics.get(f"{key}.chance", metrics.get(f"{key.rpartition('/')[0]}/chance"))
            lines.append(f"| {said} | {number(metrics[key])} | {interval(metrics, key)} | {number(chance)} |")
    return "\n".join(lines) + "\n"


def where() -> str:
    """Cores and vector instructions of this machine and threads of torch: what time and last digits of a figure hang on."""
    import torch

    instructions, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"cpu, {os.cpu_count()} cores, {instructions}, {threads} thread{'' if threads == 1 else 's'}"


def homes(groups: Mapping[str, Mapping[str, object]], wanted: Sequence[str]) -> set[str]:
    """The groups that keys come from; of a key in two of them the later one."""
    home = {key: name for name, kept in groups.items() for key in kept["metrics"]}  # type: ignore[attr-defined]
    return {home[key] for key in wanted if key in home}


def run_of(kept: Mapping[str, object]) -> str:
    """When a group was run and how."""
    return f"{kept['date']} ({kept['device']}, size: {kept['scale']}, commit {kept['commit']})"


def facts(groups: Mapping[str, Mapping[str, object]], name: str) -> str:
    """When a group was run and how, or that it was not."""
    if name not in groups:
        return f"Not run yet (`make claims ONLY={name}`)."
    kept = groups[name]
    old = " Measured on the phantom and the miniature before their rebuild." if str(kept["date"]) < REBUILT else ""
    return f"Last run on {run_of(kept)}.{old}"


def table(title: str) -> Table:
    """A table of the page by its title."""
    return next(each for each in TABLES if each.title == title)


def keys(table: Table) -> list[list[str]]:
    """The key of each cell, row by row."""
    return [[table.key.format(row=row, column=piece.format(row=row)) for _, piece in table.columns] for _, row in table.rows]


def body(table: Table, metrics: Metrics, before: Metrics) -> list[str]:
    """The rows that hold a figure, under the columns that do."""
    grid = keys(table)
    filled = [any(metrics.get(line[i]) is not None for line in grid) for i in range(len(table.columns))]
    heads = [head for (head, _), there in zip(table.columns, filled, strict=True) if there]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for (said, _), line in zip(table.rows, grid, strict=True):
        if any(metrics.get(key) is not None for key in line):
            cells = [cell(metrics, before, key) for key, there in zip(line, filled, strict=True) if there]
            lines.append(f"| {said} | {' | '.join(cells)} |")
    return lines


def cell(metrics: Metrics, before: Metrics, key: str) -> str:
    """A score with its interval, and what it was before the rebuild."""
    if metrics.get(key) is None:
        return ""
    if key.endswith("/subjects"):
        return f"{metrics[key]:.0f}"
    span = interval(metrics, key)
    old = f", was {number(before[key])}" if before.get(key) is not None else ""
    return number(metrics[key]) + (f" ({span})" if span else "") + old


def interval(metrics: Metrics, key: str) -> str:
    low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def others(rows: Sequence[tuple[str, str]], key: str, *, but: Sequence[str]) -> tuple[str, ...]:
    """The scores of a table's other rows, for a target "highest". key: with {row}. but: rows that do not count."""
    return tuple(key.format(row=row) for _, row in rows if row not in but)


def target_table(metrics: Metrics, targets: Targets) -> list[str]:
    """Every target: what was reached, and whether that meets it."""
    lines = ["| claim | value | 95 % interval | target | |", "|---|---|---|---|---|"]
    for key, target in targets.items():
        value = metrics.get(key)
        said = "not run" if key not in metrics else verdict(value, target, metrics, key)
        words = target.said if isinstance(target, Versus) else target
        lines.append(f"| `{key}` | {number(value)} | {interval(metrics, key)} | {words} | {said} |")
    return lines


def verdict(value: float | None, target: str | Versus, metrics: Metrics, key: str = "") -> str:
    """ "met", "missed" or "not shown", with the cause.

    A score that should differ from a number ("> 0") does not by its value alone: its interval must not hold the number. Likewise
    one that should lie above or below another: their intervals must lie apart. A number alone (".5") must lie in the interval.
    """
    if value is None:
        return "undefined"
    if isinstance(target, Versus):
        return compared(value, target, metrics, key)
    if ", or " in target:
        said = [verdict(value, each, metrics, key) for each in target.split(", or ")]
        return "met" if "met" in said else said[0]
    if found := re.fullmatch(r">= ([\d.]+) of (\S+)", target):
        best = metrics.get(found[2])
        return _not_run(found[2]) if best is None else "met" if value >= float(found[1]) * best else "**missed**"
    if found := re.fullmatch(r"(>=|<=|>|<) ?(-?\.?\d[\d.]*)", target):
        sign, limit = found[1], float(found[2])
        good = {">=": value >= limit, "<=": value <= limit, ">": value > limit, "<": value < limit}[sign]
        low, high = bounds(metrics, key, value)
        if good and sign in "<>" and low < high and low <= limit <= high:
            return f"**not shown**: the interval holds {found[2]}"
        return "met" if good else "**missed**"
    if found := re.fullmatch(r"(\.?\d[\d.]*) \+- (\.?\d[\d.]*)", target):
        return "met" if abs(value - float(found[1])) <= float(found[2]) else "**missed**"
    if re.fullmatch(r"\.?\d[\d.]*", target):
        return compared(value, Versus(target, at=float(target)), metrics, key)
    raise ValueError(f"target {target!r} of {key} is no number and says nothing to compare with; give a Versus")


def compared(value: float, target: Versus, metrics: Metrics, key: str) -> str:
    """Whether a score lies where its neighbours want it: a wrong side is a miss, a right one without a gap is not shown."""
    low, high = bounds(metrics, key, value)
    if target.at is not None:
        at = metrics.get(target.at) if isinstance(target.at, str) else target.at
        if at is None:
            return _not_run(str(target.at))
        held = round(low, 6) <= round(at, 6) <= round(high, 6)  # a chance of 1 / 1,000 is stored with its rounding
        return "met" if held else f"**missed**: the interval does not hold {number(at)}"
    close = ""
    for side, keys in ((1, target.above), (-1, target.below)):
        there = [other for other in keys if metrics.get(other) is not None]
        if keys and not there:
            return _not_run(keys[0])
        for other in sorted(there, key=lambda name: -side * float(metrics[name] or 0)):  # the nearest first
            rival = float(metrics[other] or 0)
            if side * (value - rival) <= 0:
                word = "equal to" if value == rival else "below" if side > 0 else "above"
                return f"**missed**: {word} `{other}`, {number(rival)}"
            low_other, high_other = bounds(metrics, other, rival)
            if low <= high_other and low_other <= high:
                close = close or f"**not shown**: the intervals overlap, `{other}` {number(rival)}"
    return close or "met"


def bounds(metrics: Metrics, key: str, value: float) -> tuple[float, float]:
    """The interval of a score; of one without, its value twice."""
    low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
    return (value, value) if low is None or high is None else (low, high)


def _not_run(key: str) -> str:
    return f"no verdict: `{key}` is not run"
