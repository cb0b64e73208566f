"""Every method on the same test images, in one table (the paper's Table 2), with maps that know nothing beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from brainlens.attribute.brain import METHODS, Options, attribute
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.types import Features, Responses, Result

CONTROLS = ("random", "ones", "shuffled")
SCORES = ("drop_absolute", "increase")
ALL = "all"


def all_methods(
    model: VolumeEncoder,
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    target: str = "both",
    layer: int | str | None = None,
    options: Options | None = None,
    methods: tuple[str, ...] = METHODS,
) -> Result:
    """Table `methods`, one row a method and a control: for each target `<target>_drop` and `<target>_increase` in percent, as in
    the paper, and `<target>_matched_drop`, where every map keeps the same share of voxels; `map_area`, passes, seconds and, where
    the units say which voxels are informative, `truth_auroc` with its interval.

    The drop alone rewards large maps: a map of ones drops nothing. So read it beside the area, or at the matched one. Controls
    are those of the first method: random maps, ones, and its own values at random voxels. Arrays `map/brain_mean` of the first
    method and `map/METHOD_mean`.
    """
    options = Options() if options is None else options
    results = {
        name: attribute(model, responses, images, texts, method=name, target=target, layer=layer, options=options)
        for name in methods
    }
    first = results[methods[0]]
    rows = [row_of(name, result) for name, result in results.items()]
    rows += [row_of(f"control: {name}", first, control=f"{name}/") for name in CONTROLS]
    table = pd.DataFrame(rows)
    metrics = dict(first.metrics)
    for name, result in results.items():
        for key, value in result.metrics.items():
            if key.startswith(("truth/auroc", "attribution/")) and not any(f"/{control}/" in key for control in CONTROLS):
                metrics[f"methods/{name}/{key}"] = value
    arrays = {"map/brain_mean": first.arrays["map/brain_mean"]}
    arrays |= {f"map/{name}_mean": result.arrays["map/brain_mean"] for name, result in results.items()}
    for name, result in results.items():
        arrays |= {k: v for k, v in result.arrays.items() if k in (f"deletion/{name}", f"insertion/{name}")}
    warnings = [line for result in results.values() for line in result.config.get("warnings", [])]
    config = {**first.config, "method": ALL, "methods": list(methods)} | ({"warnings": warnings} if warnings else {})
    return replace(first, metrics=metrics, arrays=arrays, tables={**first.tables, "methods": table}, config=config)


def row_of(name: str, result: Result, *, control: str = "") -> dict[str, Any]:
    """One row of the table, of a method or of a control that stands beside it."""
    row: dict[str, Any] = {"method": name}
    targets = [t for t in ("image", "text") if f"attribution/{t}/score" in result.metrics]
    for target in targets:
        for form, head in (("soft", ""), ("matched", "matched_")):
            for score, short in zip(SCORES, ("drop", "increase"), strict=True):
                row[f"{target}_{head}{short}"] = result.metrics.get(f"attribution/{control}{target}/{form}/{score}", np.nan)
    row["map_area"] = np.nan if control else result.metrics["attribution/area"]
    for end in ("", ".low", ".high"):
        if "truth/auroc" in result.metrics:
            row[f"truth_auroc{end}"] = np.nan if control else result.metrics[f"truth/auroc{end}"]
    for key in ("forward_passes", "backward_passes"):
        row[key] = np.nan if control else result.metrics[f"attribution/{key}"]
    row["seconds"] = np.nan if control else float(result.provenance["wall_s"])
    return row
