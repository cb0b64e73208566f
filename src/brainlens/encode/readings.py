"""What is read off the channel weights of a fitted model: pictures of a region's main channels, and a table of clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from brainlens.metrics.selectors import channel_picture, layer_position
from brainlens.models.encoding import FactorTopy
from brainlens.models.encoding.tables import EncodingTables
from brainlens.nn.factortopy import GRID, FactorTopyNetwork
from brainlens.types import Features

LEAST = 10  # units of a region whose channels are shown
REGIONS = 8
PICTURES = 8


def channel_maps(
    model: FactorTopy, data: EncodingTables, features: Features, *, pictures: int = PICTURES
) -> dict[str, np.ndarray]:
    """`channels/map/<roi>` (image, row, column, 3) in [0, 1] for the largest regions, and `channels/ids` (image,).

    Test images are taken evenly over the test part and not chosen. A region's map is `metrics.selectors.channel_picture` over
    its units that count in the means; empty without regions. Paper: listing 2, appendix E.2.
    """
    if "roi" not in data.units.columns:
        return {}
    roi = data.units["roi"].astype(str).to_numpy()
    names, counts = np.unique(roi, return_counts=True)
    wanted = [str(n) for n, c in sorted(zip(names, counts, strict=True), key=lambda p: -p[1]) if c >= LEAST]
    wanted = [name for name in wanted if name.lower() not in ("", "none", "nan")][:REGIONS]
    if not wanted or model.width < 3:
        return {}
    chosen = np.unique(np.linspace(0, len(data.test.ids) - 1, pictures).round().astype(int))
    tokens, network = model.tokens(features, rows=data.test.rows[chosen]), model.network_
    assert isinstance(network, FactorTopyNetwork)
    with torch.no_grad():
        table = network.table(*tokens.at(np.arange(len(chosen))))[: GRID**2]
    seen = table.permute(2, 1, 0, 3).cpu().numpy()  # (image, layer, place, D)
    weights, readout = model.layer_weights_, model.channel_weights_
    found = {"channels/ids": data.test.ids[chosen]}
    for name in wanted:
        inside = roi == name
        maps = channel_picture(readout[inside], weights[inside], seen)
        found[f"channels/map/{name}"] = maps.reshape(len(chosen), GRID, GRID, 3).astype(np.float32)
    return found


def cluster_table(arrays: dict[str, np.ndarray], units: pd.DataFrame) -> pd.DataFrame:
    """One row a channel cluster: its units, mean R2, layer position and scale, and the region that most of it lies in.

    arrays (unit, ...) as of `selections`, and r2 (unit,).
    """
    label = arrays["cluster"].astype(int)
    place = layer_position(arrays["layer_weights"])
    roi = units["roi"].astype(str).to_numpy() if "roi" in units.columns else None
    rows = []
    for k in np.unique(label):
        inside = label == k
        fine = inside & np.isfinite(arrays["r2"])
        row: dict[str, object] = {"cluster": int(k), "units": int(inside.sum())}
        row |= {"r2": float(arrays["r2"][fine].mean()) if fine.any() else np.nan, "layer_position": float(place[inside].mean())}
        row["scale"] = float(arrays["scale"][inside].mean())
        if roi is not None:
            names, counts = np.unique(roi[inside], return_counts=True)
            row |= {"region": str(names[counts.argmax()]), "share_of_region": float(counts.max() / inside.sum())}
        rows.append(row)
    return pd.DataFrame(rows)
