"""The claims of `attribute`: how well each method finds the voxels that truly carry information, beside a random map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainlens.align import Alignment
from brainlens.attribute.brain import Options, attribute, brain_maps, check_inputs, layer_of
from brainlens.attribute.run import explained, goals
from brainlens.attribute.sanity import randomisation
from brainlens.attribution.targets import frozen
from brainlens.attribution.voxels import random_maps
from brainlens.datasets.runs import keep
from brainlens.datasets.source import Opened, Source, Tell
from brainlens.metrics.attribution import truth_auroc
from brainlens.metrics.statistics import auroc, auroc_interval, bootstrap_counts, bootstrap_mean
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.split import Split
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.types import DataError, Responses, Result

METHODS = ("bottleneck", "gradcam", "random")


def attribute_claims(
    alignment: Alignment,
    recording: Opened,
    source: Source,
    runs: Path,
    *,
    methods: tuple[str, ...] = METHODS,
    trials: int = 32,
    masks: int = 500,
    checks: bool = True,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> dict[str, float]:
    """`attribute/<method>/truth_auroc`: the mean map of test trials against the voxels that read the network.

    The bottleneck's feature statistics come from validation responses, so that no test trial shapes them. checks: also the
    methods at the bottleneck's cost, their plain maps without refinement, and maps of permuted weights.
    """
    decoder, split = alignment.decoders["volume"], alignment.split
    model = decoder.module
    if not isinstance(model, VolumeEncoder) or recording.images is None:
        raise DataError("attribute claims need an alignment with the volume encoder, and image embeddings")
    responses = explained(recording.responses, split, part="test", trials=trials)
    reference = explained(recording.responses, split, part="validation", trials=200)
    aims = goals(decoder, split, "test")
    options = Options(reference=reference, masks=masks, seed=seed, device=device)
    results = {}
    for method in methods:
        tell(f"attribution, {method}", None)
        results[method] = attribute(model, responses, aims["image"], aims.get("text"), method=method, options=options)
    metrics: dict[str, float] = {}
    right = responses.units["informative"].to_numpy(dtype=bool)
    maps = {method: result.arrays["map/brain"] for method, result in results.items()}
    for method, result in results.items():
        for ending in ("", ".low", ".high"):
            metrics[f"attribute/{method}/truth_auroc{ending}"] = result.metrics[f"truth/auroc{ending}"]
            for kind in ("deletion_auc", "insertion_auc"):
                metrics[f"attribute/{method}/image/{kind}{ending}"] = result.metrics[f"attribution/image/{kind}{ending}"]
        metrics[f"attribute/{method}/truth_auroc_trial_mean"] = result.metrics["truth/auroc_trial_mean"]
    metrics |= differences(maps, right, seed=seed)
    if "random" in results:
        metrics |= random_control(model, responses, seed=seed)
    main = results[methods[0]]
    tables = {**main.tables, "cost": costs(results)}
    if checks:
        tell("attribution, checks", None)
        x, goal_rows = check_inputs(model, responses, aims["image"], aims.get("text"), "both", options)
        found, tables["randomisation"] = checked(model, x, torch.stack(list(goal_rows.values()), 1), maps, right, options)
        metrics |= found
    arrays = {f"map/{name}_mean": result.arrays["map/brain_mean"] for name, result in results.items() if name != methods[0]}
    arrays["truth/informative"] = right
    for name, result in results.items():
        arrays |= {k: v for k, v in result.arrays.items() if k in (f"deletion/{name}", f"insertion/{name}")}
    keep(replace(main, metrics={**main.metrics, **metrics}, tables=tables), runs, source, arrays=arrays)
    return metrics


def differences(maps: dict[str, np.ndarray], right: np.ndarray, *, resamples: int = 200, seed: int = 0) -> dict[str, float]:
    """`attribute/bottleneck-<method>/truth_auroc`: difference of the mean maps' AUROC, interval by resampling the images.

    maps: method -> (image, voxel); right (voxel,) bool.
    """
    if "bottleneck" not in maps:
        return {}
    counts = np.concatenate([np.ones((1, len(maps["bottleneck"]))), bootstrap_counts(len(maps["bottleneck"]), resamples, seed)])
    areas = {name: np.array([auroc(right, c @ found) for c in counts]) for name, found in maps.items() if name != "random"}
    out: dict[str, float] = {}
    for name, values in areas.items():
        if name != "bottleneck":
            gap = areas["bottleneck"] - values
            low, high = np.quantile(gap[1:], [0.025, 0.975])
            key = f"attribute/bottleneck-{name}/truth_auroc"
            out |= {key: float(gap[0]), f"{key}.low": float(low), f"{key}.high": float(high)}
    return out


def costs(results: dict[str, Result]) -> pd.DataFrame:
    """What each method's maps took: passes a map, and seconds for all of them with their evaluation."""
    rows = [
        {
            "method": name,
            "forward passes": int(result.metrics["attribution/forward_passes"]),
            "backward passes": int(result.metrics["attribution/backward_passes"]),
            "seconds": float(result.provenance["wall_s"]),
        }
        for name, result in results.items()
    ]
    return pd.DataFrame(rows)


def checked(
    model: VolumeEncoder, x: Tensor, aims: Tensor, maps: dict[str, np.ndarray], right: np.ndarray, options: Options
) -> tuple[dict[str, float], pd.DataFrame]:
    """Baselines at the bottleneck's number of passes, plain maps of patches, and the bottleneck under permuted weights.

    x (n, voxel), aims (n, d) or (n, k, d), maps (n, voxel), right (voxel,) bool.
    Keys `attribute/ib_ba_paper/truth_auroc` (the paper's form: prior N(0, I) on features as they are, every voxel its patch's
    value), `attribute/<method>/matched_cost/truth_auroc` (Grad-CAM and Chefer averaged over as many noisy copies as the
    bottleneck has), `attribute/<method>/plain/truth_auroc` (no refinement within patches), `attribute/randomised/truth_auroc`
    and `attribute/randomised/map_correlation` (all weights permuted; the first 8 trials).
    """
    out = as_published(model, x, aims, right, options)
    where, draws = layer_of(model, None), (options.bottleneck.steps - 1) * options.bottleneck.copies

    def scored(key: str, found: Tensor) -> None:
        out.update(area_of(key, right, found, model.patch_of))

    with frozen(model):
        for method in [m for m in ("bottleneck", "gradcam", "chefer") if m in maps]:
            plain = replace(options, refine="none")
            scored(f"attribute/{method}/plain", brain_maps(model, x, aims, method=method, layer=where, options=plain))
            if method != "bottleneck":
                many = replace(options, draws=draws)
                scored(f"attribute/{method}/matched_cost", brain_maps(model, x, aims, method=method, layer=where, options=many))
    few = slice(0, 8)
    rows = randomisation(model, x[few], aims[few], method="bottleneck", layer=where, options=options, right=right)
    last = rows.iloc[-1]
    out |= {f"attribute/randomised/truth_auroc{end}": float(last[f"truth_auroc{end}"]) for end in ("", ".low", ".high")}
    out["attribute/randomised/map_correlation"] = float(last["correlation"])
    return out, rows


def as_published(model: VolumeEncoder, x: Tensor, aims: Tensor, right: np.ndarray, options: Options) -> dict[str, float]:
    """`attribute/ib_ba_paper/truth_auroc`: IB-BA as its paper has it, prior N(0, I) on features as they are, every voxel its
    patch's value. x (n, voxel), aims (n, d) or (n, k, d), right (voxel,) bool."""
    paper = replace(options, refine="none", normalise="none", bottleneck=replace(options.bottleneck, variance=1.0))
    with frozen(model):
        found = brain_maps(model, x, aims, method="bottleneck", layer=layer_of(model, None), options=paper)
    return area_of("attribute/ib_ba_paper", right, found, model.patch_of)


def area_of(key: str, right: np.ndarray, maps: Tensor, patch_of: Tensor) -> dict[str, float]:
    """`<key>/truth_auroc` with its interval: the mean of the maps (n, voxel) against right (voxel,) bool; patch_of (voxel,): the
    patches, each of which counts as one."""
    names = (f"{key}/truth_auroc", f"{key}/truth_auroc.low", f"{key}/truth_auroc.high")
    return dict(zip(names, auroc_interval(right, maps.mean(0).cpu().numpy(), clusters=patch_of.cpu().numpy()), strict=True))


def paper_claims(
    decoder: Decoder, split: Split, responses: Responses, *, trials: int = 32, seed: int = 0, device: str = "cpu"
) -> dict[str, float]:
    """`as_published` on the trials of `attribute_claims`, where its other methods have been run before."""
    if not isinstance(decoder.module, VolumeEncoder):
        raise DataError("attribute claims need an alignment with the volume encoder")
    responses = explained(responses, split, part="test", trials=trials)
    aims, options = goals(decoder, split, "test"), Options(seed=seed, device=device)
    x, rows = check_inputs(decoder.module, responses, aims["image"], aims.get("text"), "both", options)
    right = responses.units["informative"].to_numpy(dtype=bool)
    return as_published(decoder.module, x, torch.stack(list(rows.values()), 1), right, options)


def random_control(model: VolumeEncoder, responses: Responses, *, draws: int = 400, seed: int = 0) -> dict[str, float]:
    """Mean AUROC of random maps with the patches of the encoder; one such map alone may lie .05 off, for its few patches."""
    maps = random_maps(draws, model.n_voxels, patch_of=model.patch_of, seed=seed).cpu().numpy()
    areas = truth_auroc(responses.units["informative"].to_numpy(dtype=bool), maps)
    names = ("attribute/random/truth_auroc", "attribute/random/truth_auroc.low", "attribute/random/truth_auroc.high")
    return dict(zip(names, bootstrap_mean(areas, seed=seed), strict=True))
