"""What a map depends on: the settings of the bottleneck (the paper's Table 6), and the weights of the encoder."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from brainlens import store
from brainlens.attribute.brain import Options, brain_maps, check_inputs, fingerprints, layer_of
from brainlens.attribute.counting import blocks_run, layer_name
from brainlens.attribution import degradation
from brainlens.attribution.bottleneck import Bottleneck
from brainlens.attribution.targets import frozen
from brainlens.metrics import attribution as metrics
from brainlens.metrics.statistics import auroc, auroc_interval
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.types import Features, Responses, Result


def grid(depth: int, layer: int | str) -> dict[str, tuple[float | str, ...]]:
    """The paper's Table 6 for an encoder of `depth` blocks: its layers 0, 3, 6, 9 of 12 at the same shares of the depth.

    Layers are named as the paper counts them: k is the output of block k.
    """
    layers: list[float | str] = [*dict.fromkeys(str(depth * k // 4) for k in range(4))]
    table: dict[str, tuple[float | str, ...]] = {name: tuple(values) for name, values in degradation.TABLE_6.items()}
    return table | {"layer": ("patches", *layers) if layer == "patches" else tuple(layers)}


def sensitivity_table(
    model: VolumeEncoder,
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    target: str = "both",
    layer: int | str | None = None,
    options: Options | None = None,
) -> Result:
    """The bottleneck's maps under each setting of the paper's Table 6, one parameter varied at a time around `options`.

    Table `sensitivity` (parameter, value, and for each target `<target>_drop`, `<target>_increase` in percent as in the paper,
    `<target>_matched_drop` at the area of `options.area`; `map_area`; `truth_auroc` of the mean map where the units say
    which are informative; `map`, its row in the array `sensitivity/maps`, the mean maps of Figs. 7 and 10). Without options the
    variance of the noise is .1, as in the paper's table. The drop alone rewards large maps, so the area stands beside it.
    """
    start = store.Start()
    options = Options(bottleneck=Bottleneck(variance=degradation.VARIANCE)) if options is None else options
    where = layer_of(model, layer)
    x, goals = check_inputs(model, responses, images, texts, target, options)
    aims = torch.stack(list(goals.values()), 1)
    right = responses.units["informative"].to_numpy(dtype=bool) if "informative" in responses.units.columns else None
    model.to(options.device)
    kept: dict[str, np.ndarray] = {}
    made: list[np.ndarray] = []

    def run(at: int | str, settings: Bottleneck) -> dict[str, float]:
        cut = blocks_run(str(at), model.design.depth)
        assert cut is not None
        maps = brain_maps(model, x, aims, method="bottleneck", layer=cut, options=replace(options, bottleneck=settings))
        made.append(maps.mean(0).cpu().numpy())
        if cut == where and settings == options.bottleneck:
            kept["map/brain_mean"] = made[-1]
        return {"map": float(len(made) - 1)} | _row(model, x, goals, maps, right, options)

    with frozen(model):
        chosen = grid(model.design.depth, where)
        rows = degradation.sensitivity(run, layer=layer_name(where), settings=options.bottleneck, grid=chosen)
    table = pd.DataFrame(rows).astype({"value": str, "map": int})
    kept["sensitivity/maps"] = np.stack(made)
    scored = [c for c in table.columns if c not in ("parameter", "value", "map")]
    numbers = {f"sensitivity/{c}/range": float(np.ptp(table[c])) for c in scored}
    config = {"method": "bottleneck", "target": target, "layer": where, "sensitivity": True}
    config |= asdict(replace(options, reference=None))
    provenance = store.provenance(options.seed, options.device, fingerprints(responses, images, texts), start)
    tables = {"sensitivity": table, "trials": responses.trials}
    return Result("attribute", numbers, kept, responses.units, tables, config, provenance, responses.space)


def _row(
    model: VolumeEncoder, x: Tensor, goals: dict[str, Tensor], maps: Tensor, right: np.ndarray | None, options: Options
) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, aim in goals.items():
        for form, area in (("", None), ("matched_", options.area)):
            both = degradation.keep(x, model, aim, maps, area=area)
            found = metrics.confidence(both.full.cpu().numpy(), both.kept.cpu().numpy())
            out[f"{name}_{form}drop"] = found["drop_absolute"]
            if not form:
                out[f"{name}_increase"] = found["increase"]
    out["map_area"] = float(metrics.map_area(maps.cpu().numpy()).mean())
    if right is not None:
        out["truth_auroc"] = auroc(right, maps.mean(0).cpu().numpy())
    return out


def randomisation(
    model: VolumeEncoder,
    x: Tensor,
    aims: Tensor,
    *,
    method: str,
    layer: int | str,
    options: Options,
    right: np.ndarray | None = None,
) -> pd.DataFrame:
    """Maps while the weights are permuted module by module from the last to the first (Adebayo et al. 2018).

    Rows `module` (permuted last, all behind it too; "none" first), `correlation`: Spearman of a trial's map with that of the
    whole model, over units where either is not 0, mean over trials; `truth_auroc` of the mean map with `.low`, `.high` where
    `right` (unit,) is given. A map that survives explains the input and not the model.
    """
    with frozen(model):
        whole = brain_maps(model, x, aims, method=method, layer=layer, options=options).cpu().numpy()
        patch_of = model.patch_of.cpu().numpy()
        rows = [_agreement("none", whole, whole, right, patch_of)]
        for name, changed in degradation.randomised(model, seed=options.seed):
            maps = brain_maps(changed, x, aims, method=method, layer=layer, options=options)  # type: ignore[arg-type]
            rows.append(_agreement(name, whole, maps.cpu().numpy(), right, patch_of))
    return pd.DataFrame(rows)


def _agreement(
    name: str, whole: np.ndarray, maps: np.ndarray, right: np.ndarray | None, patch_of: np.ndarray
) -> dict[str, float | str]:
    found = [r for r in map(_rank_correlation, whole, maps) if np.isfinite(r)]
    row: dict[str, float | str] = {"module": name, "correlation": float(np.mean(found)) if found else float("nan")}
    if right is not None:
        names = ("truth_auroc", "truth_auroc.low", "truth_auroc.high")
        row |= dict(zip(names, auroc_interval(right, maps.mean(0), clusters=patch_of), strict=True))
    return row


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman over units where either map is not 0: zeros that both share, of voxels that are not read, would agree alone."""
    there = (a != 0) | (b != 0)
    a, b = a[there], b[there]
    return float(spearmanr(a, b).statistic) if len(a) > 1 and np.ptp(a) and np.ptp(b) else float("nan")
