"""Results that lack something, are tiny, or have odd names: each has a page, and a section says what it misses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from brainlens import report
from brainlens.report import page as page_module
from brainlens.types import Result

KINDS = ("align", "attribute", "encode", "eeg")
VERBS = ("describe", "reconstruct", "decode", "group")
SPELT = ("long names", "other scripts", "HTML", "dollars")
NAMED = ("encoder", "layer", "roi", "caption", "word", "domain", "noun", "label", "parcel", "subject", "stimulus")
LONG, ARABIC, JAPANESE, HTML = "region " * 60, "القشرة البصرية", "視覚野 V1", "<b onclick='x()'>V1</b> & $\\alpha_1"
DOLLARS = "$\\frac{V$ 1"  # which is no mathematics


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "DPI", (40,))  # what is tested does not depend on the resolution


def of(made: ModuleType, kind: str) -> Result:
    return made.small(getattr(made, kind)())


def page(result: Result) -> str:
    text = report.render([(f"{result.task}-1", result)], date="2026-01-01")
    assert "Key numbers" in text
    assert "How to cite" in text
    return text


def named(result: Result, names: list[str]) -> Result:
    """With these names for regions, layers, encoders, captions and columns of tables."""
    units = None if result.units is None else result.units.assign(roi=np.resize(names, len(result.units)))
    layers = result.arrays["layer_weights"].shape[1] if "layer_weights" in result.arrays else len(names)
    tables = {}
    for key, table in result.tables.items():
        words = {c: np.resize(names, len(table)) for c in NAMED if c in table}
        tables[key] = table.assign(**words)
    config = {**result.config, "layers": [str(name) for name in np.resize(names, layers)], "hierarchy": names, "model": names[0]}
    config |= {"categories": names, "run": names}
    arrays = dict(result.arrays)
    for kind in ("maps", "other_maps", "lesion"):  # sets of regions are named by their arrays
        for number, old in enumerate(("V1", "FFA")):
            if f"{kind}/{old}" in arrays:
                arrays[f"{kind}/{names[number]}"] = arrays.pop(f"{kind}/{old}")
    return replace(result, units=units, tables=tables, config=config, arrays=arrays)


CHANGES: dict[str, Callable[[Result], Result]] = {
    "no space": lambda r: replace(r, space=None),
    "no units": lambda r: replace(r, units=None, space=None),
    "no regions": lambda r: r if r.units is None else replace(r, units=r.units.drop(columns="roi", errors="ignore")),
    "300 regions": lambda r: (
        r if r.units is None else replace(r, units=r.units.assign(roi=[f"area {k % 300}" for k in range(len(r.units))]))
    ),
    "no arrays": lambda r: replace(r, arrays={}),
    "no tables": lambda r: replace(r, tables={}),
    "no config": lambda r: replace(r, config={}, provenance={}),
    "no metrics": lambda r: replace(r, metrics={}),
    "all NaN": lambda r: replace(
        r, arrays={k: np.full_like(a, np.nan) if a.dtype.kind == "f" else a for k, a in r.arrays.items()}
    ),
    "long names": lambda r: named(r, [LONG, LONG + "2", "a", "b"]),
    "empty names": lambda r: named(r, ["", " ", "a", "b"]),
    "other scripts": lambda r: named(r, [ARABIC, JAPANESE, "Ω≈ç√∫", "🧠"]),
    "HTML": lambda r: named(r, [HTML, "<script>alert(1)</script>", "</table>", "a"]),
    "dollars": lambda r: named(r, [DOLLARS, DOLLARS + " left", "$x_1$", "a"]),
}


@pytest.fixture(scope="module")
def plain(made: ModuleType, made_verbs: ModuleType) -> Callable[[str], tuple[Result, int]]:
    """A result of a kind as it should be, and the number of figures on its page."""

    @cache
    def found(kind: str) -> tuple[Result, int]:
        result = of(made, kind) if kind in KINDS else getattr(made_verbs, kind)()
        return result, page(result).count("<figure>")

    return found


@pytest.mark.parametrize("kind", [*KINDS, *VERBS])
@pytest.mark.parametrize("change", CHANGES)
def test_each_has_a_page(plain: Callable[[str], tuple[Result, int]], kind: str, change: str) -> None:
    result, figures = plain(kind)
    text = page(CHANGES[change](result))
    assert "<script>alert" not in text
    assert "<b onclick" not in text
    if change in SPELT:
        assert text.count("<figure>") >= figures, "a name costs no figure"  # the words that are added may bring one


@pytest.mark.parametrize("kind", [*KINDS, *VERBS])
def test_a_run_that_misses_any_one_array_or_table_has_a_page(made: ModuleType, made_verbs: ModuleType, kind: str) -> None:
    whole = of(made, kind) if kind in KINDS else getattr(made_verbs, kind)()
    for name in whole.arrays:
        kept = {key: array for key, array in whole.arrays.items() if key != name}
        for plot in (result := replace(whole, arrays=kept)).plot:  # every section is made, its figures are not drawn
            assert plot
        assert page_module.sections(result, dpi=None) is not None
    for name in whole.tables:
        page(replace(whole, tables={key: table for key, table in whole.tables.items() if key != name}))


def test_one_stimulus_has_a_page(made: ModuleType) -> None:
    one = made.small(made.align(n=1))
    assert "1 test pictures" in page(one)
    curves = {f"{kind}/bottleneck": np.linspace(1, 0, 11)[None] for kind in ("deletion", "insertion")}
    page(replace(of(made, "attribute"), arrays=curves, tables={}))
    tables = {"words": pd.DataFrame({"stimulus": ["a"], "word": ["cat"], "weight": [0.0]})}
    page(replace(of(made, "attribute"), arrays={}, tables=tables))


def test_300_regions_on_the_cortex_have_a_page(made: ModuleType) -> None:
    result = made.encode()
    units = result.units.assign(roi=[f"area {k % 300}" for k in range(len(result.units))])
    assert "area 0" in page(
        replace(result, units=units, tables={"regions": pd.DataFrame({"roi": units["roi"].unique(), "r2": 0.1})})
    )
