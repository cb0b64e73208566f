"""The cortex to turn and to click: every map of the page's runs on fsaverage5, in one view that needs no network.

Drawing is left to niivue, which nilearn ships as one file. The page's policy allows that file and `cortex_view.js` alone, by
their hashes; maps and names enter as data, never as markup. niivue needs no `eval`, so the policy stays strict; plotly, which
nilearn ships too, does. Where the reader's browser runs no script or has no WebGL 2, the static figures show the same maps.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from markupsafe import Markup

from brainlens.plots import cortex, mesh
from brainlens.plots.standard import in_standard_space
from brainlens.report.policy import source_hash
from brainlens.subjects import region_labels
from brainlens.types import DataError, Result, Surface, Volume

LIBRARY = "_assets/js/niivue.umd.js"  # in nilearn, from 0.14 on
NOTICE = "/* NiiVue, BSD-2-Clause, https://github.com/niivue/niivue, as nilearn ships it */\n"
PER_RUN = 12  # maps of a run
MOST = 60  # maps of a page: each takes 110 kB
PRECISION = 200  # coordinates are stored in 1/200 mm
COLOURS = 256
FIRST = ("map/brain_mean", "r2", "r", "layer", "confidence", "scale", "ceiling", "truth/informative", "map/random_mean")
TITLES = {
    "map/brain_mean": "Attribution, mean",
    "map/random_mean": "Random map (control)",
    "truth/informative": "Informative units (truth)",
    "map/p": "Attribution, p",
    "map/q": "Attribution, q (false discovery rate)",
    "r2": "Test R²",
    "r": "Test r",
    "q": "q (false discovery rate)",
    "p": "p",
    "layer": "Layer that is read (0 = first)",
    "confidence": "Confidence in the layer",
    "scale": "Scale (0 = one place, 1 = whole picture)",
    "ceiling": "Noise ceiling",
    "ncsnr": "Signal to noise (ncsnr)",
    "r2_low": "Test R², lower end of 95 %",
    "r2_high": "Test R², upper end of 95 %",
    "cluster": "Cluster of channel weights",
    "scored": "Units in the mean (1 = yes)",
    "map/contribution": "Contribution by attention",
    "map/value_contribution": "Contribution by attention x size of values",
    "map/gradient": "Contribution by gradient",
}
STRETCH = "map/value_contribution_"  # followed by the number of a stretch of denoising, from 0
WHOLE = ("layer", "confidence", "scale")  # 0 is a value like any other: nothing fades


@dataclass(frozen=True)
class View:
    """What the template needs: the data, both scripts, their hashes, and how many maps did not fit."""

    data: Markup
    library: Markup
    script: Markup
    hashes: tuple[str, str]
    maps: int
    left_out: int


def view(results: Sequence[tuple[str, Result]]) -> View | None:
    """The view of named results; None where no result has a map for the cortex, or this nilearn has no niivue."""
    library = _library()
    if library is None:
        return None
    data, left_out = view_data(results)
    if not data["maps"]:
        return None
    content = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = resources.files("brainlens.report").joinpath("cortex_view.js").read_text(encoding="utf-8")
    hashes = (source_hash(library), source_hash(script))
    return View(Markup(content), Markup(library), Markup(script), hashes, len(data["maps"]), left_out)


def view_data(results: Sequence[tuple[str, Result]]) -> tuple[dict[str, Any], int]:
    """Meshes, runs and maps as numbers and base64 text, and the number of maps beyond `PER_RUN` and `MOST`.

    Values, regions and unit numbers are (20484,): the left hemisphere's vertices, then the right's; NaN or -1 where nothing was
    measured. A volume is projected as in the static figures (`mesh.on_surface`); its regions are those of the nearest voxel.
    """
    runs: list[dict[str, Any]] = []
    maps: list[dict[str, Any]] = []
    left_out = 0
    for name, result in results:
        found = list(_maps(result))
        kept = found[: min(PER_RUN, MOST - len(maps))]
        left_out += len(found) - len(kept)
        if kept:
            maps += [{"run": len(runs), **each} for each in kept]
            runs.append({"name": name, **_units(result)})
    return {"mesh": [_mesh(h) for h in mesh.HEMISPHERES] if maps else [], "runs": runs, "maps": maps}, left_out


def _maps(result: Result) -> Iterator[dict[str, Any]]:
    """The maps of a result, the best known first: title, limits, colours and values on the cortex."""
    if not isinstance(result.space, (Volume, Surface)) or not in_standard_space(result):
        return
    names = [k for k, v in result.arrays.items() if np.shape(v) == (len(result.space),) and np.asarray(v).dtype.kind in "fb"]
    for name in sorted(names, key=lambda k: (FIRST.index(k) if k in FIRST else len(FIRST), k)):
        values = np.asarray(result.arrays[name], dtype=np.float64)
        try:
            on = _joined(mesh.on_surface(values, result.space))
        except DataError:  # the static figure says why
            return
        if not np.isfinite(on).any():
            continue
        scale, colours = cortex.scale_of(values, None)
        table = np.rint(colours(np.linspace(0, 1, COLOURS))[:, :3] * 255).astype(np.uint8)
        yield {
            "title": _title(name),
            "low": float(scale.vmin or 0.0),
            "high": float(scale.vmax or 0.0),
            "fades": name not in WHOLE,
            "n": int(np.isfinite(values).sum()),
            "colours": _packed(table),
            "values": _packed(on.astype("<f4")),
        }


def _title(name: str) -> str:
    """What a map is called in the list of maps."""
    if name.startswith(STRETCH):
        return f"{TITLES['map/value_contribution']}, stretch {int(name.removeprefix(STRETCH)) + 1} of denoising"
    return TITLES.get(name, name.removeprefix("map/").replace("_", " "))


def _units(result: Result) -> dict[str, Any]:
    """Which unit lies at each vertex, its region, and what a unit is called."""
    space, units = result.space, result.units
    assert space is not None
    unit = _joined(mesh.on_surface(np.arange(len(space), dtype=np.float64), space, nearest=True))
    number = np.where(np.isfinite(unit), unit, -1).astype("<i4")
    roi = region_labels(units) if units is not None else None
    names, region = np.unique(roi, return_inverse=True) if roi is not None else (np.array([], dtype=str), np.array([], dtype=int))
    at = np.where(number >= 0, region[number], -1) if roi is not None else np.full(len(number), -1)
    return {
        "noun": "voxel" if isinstance(space, Volume) else "vertex",
        "space": "volume" if isinstance(space, Volume) else getattr(space, "mesh", ""),
        "regions": names.tolist(),
        "region": _packed(at.astype("<i2")),
        "unit": _packed(number),
    }


def _joined(sides: dict[str, np.ndarray]) -> np.ndarray:
    """Left hemisphere, then right."""
    return np.concatenate([sides[h] for h in mesh.HEMISPHERES])


def _mesh(hemisphere: str) -> dict[str, str]:
    """The inflated hemisphere beside its midline, and the grey of its anatomy."""
    points, triangles = mesh.mesh("infl", hemisphere)
    x = points[:, 0]
    shift = -x.max() - 2.0 if hemisphere == "left" else -x.min() + 2.0  # inflated hemispheres overlap where they are stored
    moved = points + [shift, 0.0, 0.0]
    tone = 0.80 - 0.22 / (1 + np.exp(-mesh.sulci(hemisphere) / 0.18))
    return {
        "points": _packed(np.rint(moved * PRECISION).astype("<i2")),
        "triangles": _packed(triangles.astype("<u2")),
        "tone": _packed(np.rint(tone * 255).astype(np.uint8)),
    }


def _library() -> str | None:
    """niivue's script with its notice, from nilearn; None where this version has none."""
    file = resources.files("nilearn").joinpath(LIBRARY)
    return NOTICE + file.read_text(encoding="utf-8") if file.is_file() else None


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
