"""The cortex of the page: its data against plain loops, and the view in a real browser."""

from __future__ import annotations

import base64
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from brainlens import report
from brainlens.plots import mesh
from brainlens.report import cortex_view
from brainlens.types import Result, Sensors, Surface, Volume

N = mesh.N_VERTICES
CLICK = "(()=>{const b=document.getElementById('cortex-canvas').getBoundingClientRect();return [b.x+b.width/2,b.y+b.height/2]})()"
SAID = "document.getElementById('cortex-said').textContent"


def surface(name: str = "fsaverage5", vertices: int = N) -> Result:
    """Every vertex of both hemispheres; the value is the vertex number over 10,000, negative on the right."""
    vertex = np.tile(np.arange(vertices), 2)
    hemisphere = np.repeat(["left", "right"], vertices)
    sign = np.where(hemisphere == "left", 1, -1)
    units = pd.DataFrame({"roi": np.where(vertex % 2 == 0, "even <b>", "odd")})
    arrays = {"r2": sign * vertex / 10_000, "other": np.full(2 * vertices, np.nan), "count": vertex}
    return Result("encode", {"encoding/r2_mean": 0.1}, arrays, units, space=Surface(name, hemisphere, vertex))


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


@pytest.mark.parametrize("name, vertices", [("fsaverage5", N), ("fsaverage6", 40_962)])
def test_values_regions_and_numbers_are_those_of_each_vertex(name: str, vertices: int) -> None:
    data, left_out = cortex_view.view_data([("encode-1", surface(name, vertices))])
    (shown,), (run,) = data["maps"], data["runs"]
    assert (shown["title"], shown["n"], left_out) == ("Test R²", 2 * vertices, 0), (
        "a map without a value and counts are not shown"
    )
    values, unit, region = unpacked(shown["values"], "<f4"), unpacked(run["unit"], "<i4"), unpacked(run["region"], "<i2")
    assert values.shape == unit.shape == region.shape == (2 * N,)
    for at in (0, 1, 17, N - 1, N, N + 2, 2 * N - 1):
        vertex, right = at % N, at >= N
        assert values[at] == pytest.approx((-1 if right else 1) * vertex / 10_000)
        assert run["regions"][region[at]] == ("odd" if vertex % 2 else "even <b>")
        assert unit[at] == vertex + right * vertices
    triangles = unpacked(data["mesh"][1]["triangles"], "<u2").reshape(-1, 3)
    assert np.array_equal(triangles, mesh.mesh("infl", "right")[1])
    points = [unpacked(part["points"], "<i2").reshape(-1, 3) / cortex_view.PRECISION for part in data["mesh"]]
    assert points[0][:, 0].max() < 0 < points[1][:, 0].min(), "the hemispheres lie side by side"
    true = mesh.mesh("infl", "left")[0]
    assert np.abs(np.diff(points[0], axis=0) - np.diff(true, axis=0)).max() < 0.011


def test_results_off_the_cortex_have_no_view_and_no_script() -> None:
    grid = Result("encode", {}, {"r2": np.ones(8)}, space=Volume(np.ones((2, 2, 2), dtype=bool), np.eye(4)))
    flat = Result("encode", {}, {"r2": np.ones(2)}, space=Sensors(np.array(["a", "b"]), np.eye(3)[:2]))
    other = Result("encode", {}, {"r2": np.ones(2)}, space=Surface("fs_LR_32k", np.array(["left", "right"]), np.array([1, 2])))
    runs = [("a", grid), ("b", flat), ("c", other), ("d", Result("encode", {"encoding/r2_mean": 0.1}))]
    assert cortex_view.view(runs) is None
    assert "script" not in report.render(runs)


def test_maps_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    one = surface()
    monkeypatch.setattr(cortex_view, "PER_RUN", 2)
    monkeypatch.setattr(cortex_view, "MOST", 3)
    many = Result("encode", {}, dict.fromkeys(("r2", "r", "z"), one.arrays["r2"]), one.units, space=one.space)
    data, left_out = cortex_view.view_data([("a", many), ("b", many), ("c", many)])
    assert [(m["run"], m["title"]) for m in data["maps"]] == [(0, "Test R²"), (0, "Test r"), (1, "Test R²")]
    assert left_out == 6
    assert len(data["runs"]) == 2


def test_a_nilearn_without_niivue_gives_the_page_without_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cortex_view, "LIBRARY", "_assets/js/absent.js")
    assert cortex_view.view([("a", surface())]) is None


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    one = surface()
    both = Result("encode", one.metrics, {**one.arrays, "r": -one.arrays["r2"]}, one.units, space=one.space)
    patch = pytest.MonkeyPatch()
    patch.setattr("brainlens.report.page.sections", lambda *_, **__: [])  # figures have tests of their own
    path.write_text(report.render([("encode-1", both)], date="2026-01-01"), encoding="utf-8")
    patch.undo()
    return path


def test_the_cortex_is_clicked_turned_and_thresholded(written: Path, tmp_path: Path, chromium: ModuleType) -> None:
    assert written.stat().st_size < 25e6
    with chromium.Tab(written, tmp_path / "profile") as tab:
        tab.wait("document.documentElement.dataset.cortex", 120)
        assert tab.value("document.getElementById('cortex-note').hidden")
        tab.value("document.getElementById('cortex').scrollIntoView({behavior: 'instant'})")
        middle = tab.value(CLICK)
        for view, hemisphere, axis, side in (("left", "left", 0, -1), ("right", "right", 0, 1)):
            tab.value(f"[...document.querySelectorAll('#cortex-views button')].find(b => b.textContent === '{view}').click()")
            tab.mouse(tuple(middle))
            said = tab.value(SAID)
            assert said.startswith(f"{hemisphere} hemisphere, vertex "), said
            vertex = int(said.split("vertex ")[1].split(" ")[0])
            x = mesh.mesh("infl", hemisphere)[0][:, axis] * side
            assert x[vertex] > np.quantile(x, 0.7), "a vertex on the near side, not the one behind it"
            assert f"Test R²: {(1 if hemisphere == 'left' else -1) * vertex / 10_000:.4g}" in said
            assert ("region: odd" if vertex % 2 else "region: even <b>") in said
        before = said
        tab.mouse(tuple(middle), (middle[0] + 80, middle[1] + 10), (middle[0] + 150, middle[1] + 10))
        assert tab.value(SAID) == before, "a turn is not a click"
        tab.mouse((middle[0] - 330, middle[1] - 190))
        assert tab.value(SAID) == before, "beside the cortex there is no vertex"
        tab.value("(e => { e.value = '1'; e.dispatchEvent(new Event('change')); })(document.getElementById('cortex-map'))")
        assert f"Test r: {vertex / 10_000:.4g}" in tab.value(SAID)
        tab.value("(e => { e.value = '0.5'; e.dispatchEvent(new Event('input')); })(document.getElementById('cortex-least'))")
        least = float(tab.value("document.getElementById('cortex-least').value"))
        expected = 2 * int((np.float32(np.arange(N) / 10_000) >= least).sum())
        assert f"{expected:,} of {2 * N:,} measured vertices" in tab.value("document.getElementById('cortex-shown').textContent")
        assert tab.said == [], "no error, no word, no request"


def test_without_webgl_the_page_says_where_the_figures_are(written: Path, tmp_path: Path, chromium: ModuleType) -> None:
    with chromium.Tab(written, tmp_path / "profile", chromium.NO_WEBGL) as tab:
        tab.wait("document.readyState === 'complete'")
        assert tab.value("document.getElementById('cortex-view').hidden")
        assert "figures of each run" in tab.value("document.getElementById('cortex-note').innerText")


def test_another_script_is_refused(written: Path, tmp_path: Path, chromium: ModuleType) -> None:
    """One letter more in the script of the view, and the policy stops it: the check of the quiet console would notice."""
    broken = tmp_path / "broken.html"
    head, mark, tail = written.read_text(encoding="utf-8").rpartition('"use strict";')
    broken.write_text(f"{head}{mark} window.hurt = 1;{tail}", encoding="utf-8")
    with chromium.Tab(broken, tmp_path / "profile") as tab:
        tab.wait("document.readyState === 'complete'")
        assert tab.value("window.hurt") is None
        assert any("Content Security Policy" in line for line in tab.said)


def test_maps_are_called_by_what_they_are() -> None:
    assert cortex_view._title("map/contribution") == "Contribution by attention"
    assert cortex_view._title("map/value_contribution_2") == "Contribution by attention x size of values, stretch 3 of denoising"
    assert cortex_view._title("map/my_own") == "my own"
