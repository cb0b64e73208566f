"""Figures of claims/GROUP.json in the pages of the guide: tables between two marks, single figures with their key behind them.

    <!-- encode: written by tools/claims.py -->            a table of TABLES, and below it when and where it was measured
    <!-- end of encode -->
    .325 (.318 to .331)<!-- encode/ridge/r2_mean -->       a score, with its interval or without, to as many places as it has
    <!-- true while encode/gnet/r2_mean > encode/ridge/r2_mean; A > B < .5 -->    what the words above hang on

The table `measured` has no figures: it says when and where the single figures of its page were measured. Comments do not show on
the page; one that begins a line ends the paragraph, so `true while` stands behind it. `make tables` writes new figures; words
that they do not bear out any more are named, for a person to change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import claims_page
from claims_page import Metrics, Table
from marks import between

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.stem not in ("claims", "benchmarks")))
NUMBER = r"-?(?:\d+\.?\d*|\.\d+)"
SHOWN = re.compile(rf"({NUMBER})( %)?( \({NUMBER} to {NUMBER}\))?<!--\s*(\S+/\S+)\s*-->")
SAID = re.compile(r"<!--\s*true while\s(.*?)-->", re.S)
KEY = re.compile(r"<!--\s*(\S+/\S+)\s*-->")
BEGIN = re.compile(r"<!-- (\w+): written by tools/claims\.py -->")
Groups = Mapping[str, Mapping[str, object]]


def chosen(rows: Sequence[tuple[str, str]], *keys: str) -> list[tuple[str, str]]:
    """Some rows of a table, in its order."""
    return [row for row in rows if row[1] in keys]


def own(rows: Sequence[tuple[str, str]], columns: Sequence[tuple[str, str]], key: str) -> Table:
    """A table that the page of the claims does not have; what it says of itself stands around its marks."""
    return Table("", "", "", rows, columns, key)


TABLES = {
    "align": own(
        claims_page.ALIGNERS, [(way, way) for way in ("brain->image", "brain->text")], "align/{row}/retrieval/{column}/top1"
    ),
    "attribute": own(
        claims_page.METHODS,
        [("mean map", "truth_auroc"), ("plain map of patches", "plain/truth_auroc")],
        "attribute/{row}/{column}",
    ),
    "pointing": claims_page.table("Which pixels and words?"),
    "encode": own(
        chosen(claims_page.ENCODERS, "oracle", "oracle_common", "shuffled", *(key for _, key in claims_page.RECIPES)),
        [
            ("R2, 1,200 images", "curve/{row}/1200/r2_mean"),
            ("R2, 9,000 images", "{row}/r2_mean"),
            ("layers (Spearman), 9,000", "{row}/truth/layer_spearman"),
            ("field error, 9,000", "{row}/truth/rf_error_median"),
        ],
        "encode/{column}",
    ),
    "eeg": claims_page.table("Which image was seen? EEG"),
    "reconstruct": claims_page.table("What did the picture look like?"),
    "reconstruct_parts": claims_page.table("What does each part of reconstruction bring?"),
    "describe": claims_page.table("What does each voxel mean?"),
    "haxby2001": own(
        [
            ("R2 of the best voxel", "encode/r2_max"),
            ("share of voxels with R2 > 0", "encode/r2_share_positive"),
            ("accuracy of 8 categories, chance .125", "decode/accuracy"),
        ],
        [("one run left out", "")],
        "haxby2001/{row}",
    ),
    "images92": own(
        [
            ("R2 over images and dimensions", "r2_weighted"),
            ("top-1 among 23 held-out images, chance .043", "retrieval/top1"),
            ("two-way identification, chance .5", "retrieval/two_way_patterns"),
            ("Spearman with single subjects' dissimilarities", "rdm/match_correlation"),
        ],
        [("MobileNetV2", "encode/{row}"), ("shuffled images", "encode/{row}.chance"), ("pixels 32 x 32", "encode_pixels/{row}")],
        "images92/{column}",
    ),
    "digits69": own(
        [
            ("pixels", "pixels/"),
            ("20 principal axes", "axes20/"),
            ("latents of a tiny autoencoder (32 x 8 x 8)", "taef2/"),
            ("latents of the miniature", "miniature/"),
            ("the best of these, by training images (`low_level_chosen`)", ""),
        ],
        [("all pictures", "two_way"), ("pictures of the same digit", "two_way_within")],
        "digits69/reconstruct/{row}{column}",
    ),
    "digits69_diffusion": claims_page.table("Digits from real fMRI: what does the diffusion path add?"),
}


def filled(text: str, groups: Groups) -> tuple[str, list[str]]:
    """A page with the figures of the groups {group: {date, device, scale, commit, metrics}}, and what a person has to change.

    That is: words that the figures do not bear out, a key that no group has, a key without a number before it, a table that is
    unknown or does not end. Their place in the text stays as it is, so that a long run never ends on a page.
    """
    metrics: dict[str, float | None] = {}
    for kept in groups.values():
        metrics |= kept["metrics"]  # type: ignore[operator]
    single = [found[4] for found in SHOWN.finditer(text)]
    said = [each for found in SAID.findall(text) for each in found.split(";")]
    named = single + [term for each in said for term in each.split()[::2] if not re.fullmatch(NUMBER, term)]
    wrong = [f"no group has {key}" for key in dict.fromkeys(named) if metrics.get(key) is None]
    wrong += [f"not true any more: {' '.join(each.split())}" for each in said if not holds(each, metrics)]
    wrong += [f"no number stands before <!-- {key} -->" for key in KEY.findall(text) if key not in single]
    text = SHOWN.sub(lambda found: renewed(found, metrics), text)
    noted: set[str] = set()  # groups whose date and machine stand on the page
    for name in BEGIN.findall(text):
        lines, used = [], single
        if name in TABLES:
            used = [key for row in claims_page.keys(TABLES[name]) for key in row]
            lines = [*claims_page.body(TABLES[name], metrics, {}), ""]
        if name not in (*TABLES, "measured") or f"<!-- end of {name} -->" not in text:
            wrong.append(f"no table {name}, or no end of it")
            continue
        where = claims_page.homes(groups, used)
        noted |= where
        text = between(text, name, "claims", "\n".join([*lines, measured(groups, where)]))
    if lost := claims_page.homes(groups, single) - noted:
        wrong.append(f"nothing says when {', '.join(sorted(lost))} was measured; put the marks of `measured` at the end")
    return text, wrong


def renewed(found: re.Match[str], metrics: Metrics) -> str:
    """A figure as the metrics have it, in the form that it was written in; as it stands where they do not."""
    shown, percent, span, key = found.groups()
    places = len(shown.partition(".")[2])
    values = [metrics.get(name) for name in ((key, f"{key}.low", f"{key}.high") if span else (key,))]
    known = [short(each, places, percent=bool(percent)) for each in values if each is not None]
    if len(known) < len(values):
        return found[0]
    inside = f" ({known[1]} to {known[2]})" if span else ""
    return f"{known[0]}{percent or ''}{inside}" + found[0][found[0].index("<!--") :]


def short(value: float, places: int, *, percent: bool = False) -> str:
    """A number to so many places, halves rounded away from 0, without the zero before its point: .325, -.02, 1.00, 12."""
    exact = Decimal(repr(value)).scaleb(2 if percent else 0)
    said = f"{exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):f}"
    return re.sub(r"^(-?)0\.", r"\1.", said if float(said) else said.lstrip("-"))


def holds(said: str, metrics: Metrics) -> bool:
    """Whether "A > B < C" is true, where each is a key or a number."""
    terms = said.split()
    values = [float(term) if re.fullmatch(NUMBER, term) else metrics.get(term) for term in terms[::2]]
    sides = zip(terms[1::2], values, values[1:], strict=False)
    return all(a is not None and b is not None and {">": a > b, "<": a < b}.get(sign, False) for sign, a, b in sides)


def measured(groups: Groups, names: set[str]) -> str:
    """When and where the groups were run, and by which command."""
    said = [f"`make claims ONLY={name}`, {claims_page.run_of(groups[name])}" for name in groups if name in names]
    return f"*Measured by {'; '.join(said)}.*"
