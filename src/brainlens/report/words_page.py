"""The page of words: every voxel in a table that is searched and sorted, and a box that shows where a word is; one file, offline.

Unlike the report, this page holds a script; its policy allows that script alone, by its hash, and no address. Text from data
enters the page as text, never as markup.
"""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape

from brainlens import store
from brainlens.plots.style import SIMULATION, is_simulation
from brainlens.report.policy import source_hash
from brainlens.types import DataError, Result

MOST = 300  # words whose maps are on the page: those of the most voxels
NAME = "words.html"


def build_words(run: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a run of describe (default: words.html in its folder); returns its path.

    Raises DataError for a run without labels of voxels.
    """
    folder = Path(run)
    result = store.load_result(folder)
    path = Path(out) if out is not None else folder / NAME
    store.save_text(path, render_words(result, title=folder.name))
    return path


def render_words(result: Result, *, title: str = "describe") -> str:
    """The page as text. Raises DataError for a result without labels of voxels."""
    if result.task != "describe" or "label" not in result.arrays:
        raise DataError(f"words page: a run of {result.task} without labels of voxels; run `brainlens describe` with pictures")
    content = json.dumps(page_data(result), ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script, style = (_text(name) for name in ("words.js", "words.css"))
    allowed = f"script-src 'sha256-{source_hash(script)}'; style-src 'sha256-{source_hash(style)}'"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'"
    mark = f" · {SIMULATION}" if is_simulation(result) else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><h1>Words of voxels{mark}</h1>"
        f'<p id="about">{escape(title)}</p>{_BODY}'
        f'<script type="application/json" id="data">{content}</script>\n<script>{script}</script></body></html>\n'
    )


_BODY = (
    "<section><h2>Where is a word?</h2><p><label>Word "
    '<input id="word" list="words" autocomplete="off" spellcheck="false"></label>'
    '<datalist id="words"></datalist> <span id="said" role="status"></span></p>'
    '<div class="maps"><canvas id="map" width="960" height="330" role="img" aria-label="Map of the word"></canvas>'
    '<div id="regions"></div></div></section>'
    '<section><h2>Voxels</h2><p><label>Find <input id="find" placeholder="word or region" autocomplete="off"></label> '
    '<label><input type="checkbox" id="proven"> significant only</label> <span id="count" role="status"></span></p>'
    '<div class="table"><div id="head" class="row head"></div>'
    '<div id="view" tabindex="0"><div id="space"></div></div></div>'
    '<p class="said">Behind a word: its weight among the candidates of the voxel, which add to 1. r: correlation of the measured '
    "response to test pictures with the first word; q: its false discovery rate over voxels. R²: of the encoding model on test "
    "pictures. Grey rows: not significant. Empty: no word, or one in too few test pictures to be tested.</p></section>"
)


def page_data(result: Result) -> dict[str, Any]:
    """What the page shows, as plain numbers and text: rows of voxels, and quantised maps (1/255) of the main words."""
    arrays, units = result.arrays, result.units
    assert units is not None
    names = result.tables["nouns"]["noun"].astype(str).tolist()
    label = np.asarray(arrays["label"]).astype(int)
    counts = np.bincount(label[label >= 0], minlength=len(names))
    auroc = np.asarray(arrays["auroc"], dtype=np.float64)
    shown = [int(k) for k in np.argsort(-counts, kind="stable")[:MOST] if np.isfinite(auroc[:, k]).all()]
    maps = {names[k]: base64.b64encode(np.rint(auroc[:, k] * 255).astype(np.uint8).tobytes()).decode() for k in shown}
    has_places = {"x", "y", "z"} <= set(units.columns)
    places = units[["x", "y", "z"]].to_numpy(float) if has_places else np.zeros((0, 3))
    roi = units["roi"].astype(str) if "roi" in units.columns else np.full(len(units), "")
    kinds, region = np.unique(np.asarray(roi, dtype=str), return_inverse=True)
    return {
        "nouns": names,
        "regions": kinds.tolist(),
        "region": region.tolist(),
        "label": label.tolist(),
        "weight": _rounded(arrays["weight"], 2),
        "r": _rounded(arrays["label_r"], 3),
        "q": _rounded(arrays["label_q"], 4),
        "r2": _rounded(arrays["r2"], 3),
        "proven": np.asarray(arrays["significant"]).astype(int).tolist(),
        "xyz": np.round(places, 1).tolist(),
        "maps": maps,
    }


def _rounded(values: np.ndarray, digits: int) -> list[Any]:
    """Rounded numbers as nested lists, None for NaN."""
    found = np.round(np.asarray(values, dtype=np.float64), digits)
    shown = found.astype(object)
    shown[~np.isfinite(found)] = None
    out: list[Any] = shown.tolist()
    return out


def _text(name: str) -> str:
    return resources.files("brainlens.report").joinpath(name).read_text(encoding="utf-8")
