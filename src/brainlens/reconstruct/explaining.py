"""What explains a run's pictures, as arrays of a result: contributions of parcels over denoising, maps of sets, lesions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from brainlens.datasets.source import Tell
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.reconstruct.asked import Asked
from brainlens.reconstruct.maps import lesions, region_maps
from brainlens.reconstruct.material import Material
from brainlens.reconstruct.regions import named_sets, region_sets

SIDE, BINS = 16, 4
KINDS = ("contribution", "value_contribution", "gradient", "shuffled_contribution", "other_contribution")


def explained(
    given: Material,
    model: NeuroAdapter,
    asked: Asked,
    *,
    refit: Callable[[Sequence[str]], NeuroAdapter] | None = None,
    seed: int,
    tell: Tell,
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, pd.DataFrame]]:
    """(metrics, arrays, tables) of the first `asked.explain` test images.

    Arrays `KIND/parcels` (trial, step, parcel) of every kind of contribution, `map/KIND` (unit,) their means at the units,
    `maps/SET` and `other_maps/SET` (trial, bin, side, side) of sets of parcels and of the brain of another trial; `lesion/whole`,
    `lesion/SET` (trial, h, w, 3). Table `parcels`: what each has. All empty below two images. refit: see `lesions`.
    """
    count = min(asked.explain, len(given.seen))
    if count < 2:
        return {}, {}, {}
    y = np.asarray(given.test.data[:count])
    sets = region_sets(given.parcels)
    tell("contributions of regions", None)
    found = region_maps(
        model, y, sets=sets, side=SIDE, bins=min(BINS, asked.sampling_steps), seed=seed, candidates=1, **asked.drawing
    )
    own = (found.contributions, found.value_contributions, found.gradients)
    each = dict(zip(KINDS, (*own, found.shuffled_contributions, found.other_contributions), strict=True))
    arrays = {f"{kind}/parcels": values.astype(np.float32) for kind, values in each.items()}
    for kind in KINDS[:3]:
        arrays[f"map/{kind}"] = given.whole(each[kind].mean(axis=(0, 1)))
    steps = each["value_contribution"].mean(axis=0)
    for k, part in enumerate(np.array_split(steps, min(BINS, len(steps)))):
        arrays[f"map/value_contribution_{k}"] = given.whole(part.mean(axis=0))
    arrays["maps/pictures"] = found.pictures[:, 0]
    for name in sets:
        arrays[f"maps/{name}"] = found.maps[name].astype(np.float32)
        arrays[f"other_maps/{name}"] = found.other_maps[name].astype(np.float32)
    table = pd.DataFrame(
        {"parcel": given.parcels.names, "number": np.arange(len(given.parcels)), "units": given.parcels.sizes, "snr": given.snr}
    )
    for kind in KINDS[:3]:
        table[kind] = each[kind].mean(axis=(0, 1))
    metrics: dict[str, float] = {}
    if asked.lesions:
        tell("lesions", None)
        removed = lesions(
            model, y, named_sets(given.parcels, asked.lesions), refit=refit, seed=seed, candidates=1, **asked.drawing
        )
        arrays["lesion/whole"] = removed.whole[:, 0]
        for name, pictures in removed.without.items():
            arrays[f"lesion/{name}"] = pictures[:, 0]
            metrics[f"reconstruct/lesion/{name}/change"] = float(removed.change[name].mean())
    return metrics, arrays, {"parcels": table.sort_values("value_contribution", ascending=False).reset_index(drop=True)}
