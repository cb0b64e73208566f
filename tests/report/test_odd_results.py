"""Results that lack something, are tiny, or have odd names: each has a page, and a section says what it misses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from brainlens import report
from brainlens.report import page as page_module
from brainlens.types import Result, Volume

KINDS = ("align", "attribute", "encode", "eeg")
UNITS = 60
LONG, ARABIC, JAPANESE, HTML = "region " * 60, "القشرة البصرية", "視覚野 V1", "<b onclick='x()'>V1</b> & $\\alpha_1"


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "DPI", (40,))  # what is tested does not depend on the resolution


def small(result: Result) -> Result:
    """Of a result on the cortex the first units, in a grid of their own: the same figures but those of surfaces, in less time."""
    if result.units is None or not isinstance(result.space, Volume):
        return result
    n = len(result.units)
    arrays = {name: a[:UNITS] if a.shape[:1] == (n,) else a for name, a in result.arrays.items()}
    units = result.units.head(UNITS).assign(roi=np.resize(["V1", "V4", "FFA", "PPA"], UNITS))
    return replace(result, arrays=arrays, units=units, space=Volume(np.ones((4, 5, 3), dtype=bool), np.eye(4)))


def of(made: ModuleType, kind: str) -> Result:
    return small(getattr(made, kind)())


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
        words = {c: np.resize(names, len(table)) for c in ("encoder", "layer", "roi", "caption", "word", "domain") if c in table}
        tables[key] = table.assign(**words)
    config = {**result.config, "layers": [str(name) for name in np.resize(names, layers)], "hierarchy": names, "model": names[0]}
    return replace(result, units=units, tables=tables, config=config)


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
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_each_has_a_page(made: ModuleType, kind: str, change: str) -> None:
    text = page(CHANGES[change](of(made, kind)))
    assert "<script>alert" not in text
    assert "<b onclick" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_misses_any_one_array_or_table_has_a_page(made: ModuleType, kind: str) -> None:
    whole = of(made, kind)
    for name in whole.arrays:
        kept = {key: array for key, array in whole.arrays.items() if key != name}
        for plot in (result := replace(whole, arrays=kept)).plot:  # every section is made, its figures are not drawn
            assert plot
        assert page_module.sections(result, dpi=None) is not None
    for name in whole.tables:
        page(replace(whole, tables={key: table for key, table in whole.tables.items() if key != name}))


def test_one_stimulus_has_a_page(made: ModuleType) -> None:
    one = small(made.align(n=1))
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
