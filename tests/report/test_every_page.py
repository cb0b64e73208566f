"""Every kind of page in a real browser: it opens without a word on the console, every figure is seen, nothing is cut off."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from brainlens import report
from brainlens.report import page as page_module

KINDS = {  # what a page is of: a section that it has
    "align": "Retrieval",
    "attribute": "Attribution on the brain",
    "encode": "Encoding and layer maps",
    "eeg": "Sensors and time",
    "categories": "Encoding",
    "similarity": "Similarity to the brain, layer by layer",
    "image_patterns": "Patterns of images that were not fitted",
    "decode": "Decoding over time",
    "patterns": "Decoding of patterns",
    "reconstruct": "Which region drew what",
    "describe": "Words of voxels",
    "group": "Over subjects",
}
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
TITLES = "[...document.querySelectorAll('h2, h3')].map((e) => e.textContent)"
FIGURES = "[...document.images].map((e) => e.naturalWidth)"
WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
# elements that reach beyond the window and lie in no box that scrolls
CUT = """[...document.querySelectorAll('main *, body *')].filter((e) => {
  const b = e.getBoundingClientRect();
  if (!b.width || !b.height || b.right <= document.documentElement.clientWidth + 1) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
  return true;
}).map((e) => e.tagName + '.' + e.className)"""


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "DPI", (60,))


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_whole_and_quiet(
    kind: str, tmp_path: Path, chromium: ModuleType, made: ModuleType, made_verbs: ModuleType
) -> None:
    chromium.browser()  # without one nothing is drawn for nothing
    result = made.small(getattr(made, kind)()) if hasattr(made, kind) else getattr(made_verbs, kind)()  # no cortex to draw
    page = tmp_path / "report.html"
    page.write_text(report.render([(f"{result.task}-1", result)], date="2026-01-01"), encoding="utf-8")
    with chromium.Tab(page, tmp_path / "profile") as tab:
        tab.wait(LOADED)
        titles = tab.value(TITLES)
        assert KINDS[kind] in titles
        widths = tab.value(FIGURES)
        assert widths
        assert min(widths) > 0
        assert not tab.value(WIDER)
        assert tab.value(CUT) == []
        said = [line for line in tab.said if "GL Driver Message" not in line]
        tab.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert said == []


def test_an_element_that_is_cut_off_is_seen(tmp_path: Path, chromium: ModuleType) -> None:
    page = tmp_path / "wide.html"
    page.write_text("<!doctype html><body><div class='wide' style='width:3000px;height:9px'>x</div></body>", encoding="utf-8")
    with chromium.Tab(page, tmp_path / "profile") as tab:
        tab.wait(LOADED)
        assert tab.value(WIDER)
        assert tab.value(CUT) == ["DIV.wide"]
