"""Attribution of brain voxels: which of them carried the match with the image or the caption that was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainlens import store
from brainlens.attribute.brain_scores import regions_of, significance_of, truth_of
from brainlens.attribute.counting import layer_name
from brainlens.attribute.own import opened
from brainlens.attribution import degradation
from brainlens.attribution.bottleneck import Bottleneck, bottleneck, statistics
from brainlens.attribution.chefer import chefer
from brainlens.attribution.gradcam import gradcam
from brainlens.attribution.integrated_gradients import input_gradient, integrated_gradients
from brainlens.attribution.rise import region_masks, rise, volume_masks
from brainlens.attribution.targets import frozen, or_nothing, scores
from brainlens.attribution.voxels import random_maps, to_voxels
from brainlens.choices import ATTRIBUTE_METHODS
from brainlens.metrics import attribution as metrics
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.models.volume.estimators import VolumeAligner
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.subjects import region_labels
from brainlens.types import DataError, Features, Responses, Result, Volume, positions

METHODS = ATTRIBUTE_METHODS
TARGETS = ("both", "image", "text")
REFINEMENTS = ("product", "weight", "signed", "none")
NORMALISATIONS = ("reference", "none")


@dataclass(frozen=True)
class Options:
    """What an attribution is computed with.

    refine: "product" multiplies a patch's value by |input x gradient| of each of its voxels, "weight" spreads it over them by
    |input x gradient|, keeping the patch's mean (both ours; the first was chosen by insertion and deletion on validation
    images, docs/attribute.md), "signed" is "product" with the sign of input x gradient, so that voxels which help and hurt
    cancel in a mean over trials, "none" gives every voxel its patch's value (the paper's).
    normalise: "reference" measures the bottleneck's noise in units of the features' own mean and variance (ours), "none" takes
    features as they are and the prior N(0, variance), as the paper and M2IB do: then the size of the features decides.
    reference: responses that these statistics come from; None: the attributed ones.
    masks, cells, keep: RISE; rise_by: it hides "cells" of a grid, or whole "regions" (the units' column roi).
    path: points of integrated gradients. area: share of voxels at which maps of different sizes are compared.
    flips: sign flips of the group map's null. draws: Grad-CAM and Chefer are averaged over this many copies of the response
    with noise of `noise` of its standard deviation (SmoothGrad, Smilkov et al. 2017), which brings them to the bottleneck's cost.
    """

    refine: str = "product"
    bottleneck: Bottleneck = field(default_factory=Bottleneck)
    normalise: str = "reference"
    reference: Responses | None = None
    masks: int = 1000
    rise_by: str = "cells"
    cells: int = 8
    keep: float = 0.5
    path: int = 32
    draws: int = 1
    noise: float = 0.2
    area: float = 0.1
    flips: int = 1000
    batch: int = 8
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.refine not in REFINEMENTS:
            raise DataError(f"attribute: refine={self.refine!r} is not one of {REFINEMENTS}")
        if self.normalise not in NORMALISATIONS:
            raise DataError(f"attribute: normalise={self.normalise!r} is not one of {NORMALISATIONS}")
        if self.rise_by not in ("cells", "regions"):
            raise DataError(f"attribute: rise_by={self.rise_by!r} is not one of ('cells', 'regions')")
        low = [name for name in ("masks", "cells", "path", "draws", "flips", "batch") if getattr(self, name) < 1]
        if low:
            raise DataError(f"attribute: {low[0]}={getattr(self, low[0])} must be at least 1")
        if not 0 < self.area <= 1:
            raise DataError(f"attribute: area={self.area} must be in (0, 1]")


def attribute(
    model: VolumeEncoder | VolumeAligner,
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    method: str = "bottleneck",
    target: str = "both",
    layer: int | str | None = None,
    options: Options | None = None,
) -> Result:
    """Voxel attribution maps (trial, unit) of cos(brain, image) + cos(brain, caption), with faithfulness scores.

    model: a fitted `VolumeAligner` with the embeddings of its own fit, or its network with embeddings in the space of its
    cosines, on the mask of `responses.space`; images, texts: by stimulus id, under "image" or "text" or their only layer.
    layer: how many blocks have run where features are read (0 .. depth; the paper's layer k is the output of block k, that is
    k + 1), or "patches", the embedded patches before the class token joins them; None takes "patches" where the class token sums
    the patches (it would carry information past any later bottleneck), else the output of the middle block, the paper's layer 6
    of 12.

    A map that is only rounding is empty: 0 everywhere, counted in `attribution/maps_empty`, named in `map/empty` (trial,) and
    in a warning, and left out of what maps are worth (undefined where all are empty).

    Arrays `map/brain` (trial, unit), `map/brain_mean`, `map/patch` (unit,) the patch of each voxel, `map/p` and `map/q`
    (unit,) (sign flips over trials of the map minus its mean, and false discovery rate). Metrics: `attribution/...` (drop and
    increase in percent, soft as in M2IB and at matched area, deletion and insertion areas, each beside random, all-ones and
    shuffled maps), and with a unit column `informative` `truth/auroc` of the mean map with its interval, in which a patch
    counts as one.

    Raises DataError for another mask or space, ids without embeddings, unknown methods, NaN.
    """
    start = store.Start()
    options = Options() if options is None else options
    model, images, texts = opened(model, images, texts)
    where = layer_of(model, layer)
    x, goals = check_inputs(model, responses, images, texts, target, options)
    aims = torch.stack(list(goals.values()), 1)
    model.to(options.device)
    with frozen(model):
        maps = brain_maps(model, x, aims, method=method, layer=where, options=options, regions=region_labels(responses.units))
        numbers, curves = _degradation(model, x, goals, maps, options)
    found = maps.cpu().numpy()
    empty = np.all(found == 0, axis=1)
    numbers["attribution/maps_empty"] = float(empty.sum())
    patch_of = model.patch_of.cpu().numpy().astype(np.int32)
    arrays = {"map/brain": found, "map/brain_mean": found.mean(0), "map/empty": empty, "map/patch": patch_of}
    arrays |= {key.replace("/map", f"/{method}"): value for key, value in curves.items()}
    arrays["degradation/shares"] = np.array(degradation.SHARES)
    numbers |= (
        cost(method, options)
        | truth_of(found, responses.units, patch_of)
        | significance_of(found, arrays, options.refine, options.flips, options.seed)
    )
    config: dict[str, Any] = {"method": method, "target": target, "layer": where, "paper_layer": layer_name(where)}
    config |= asdict(replace(options, reference=None))
    config |= warn_of_empty(empty, method) | {"degradation_score": f"cosine to {' + cosine to '.join(goals)}"}
    reference = responses if options.reference is None else options.reference
    config["reference_trials"] = len(reference) if options.normalise == "reference" else 0
    return Result(
        "attribute",
        numbers,
        arrays,
        units=responses.units,
        tables={"regions": regions_of(found, responses), "trials": responses.trials},
        config=config,
        provenance=store.provenance(options.seed, options.device, fingerprints(responses, images, texts), start),
        space=responses.space,
    )


def fingerprints(responses: Responses, images: Features, texts: Features | None) -> list[str]:
    """Of the tables that a map was made from."""
    return [store.fingerprint(thing) for thing in (responses, images, texts) if thing is not None]


def brain_maps(
    model: VolumeEncoder,
    x: Tensor,
    targets: Tensor,
    *,
    method: str,
    layer: int | str,
    options: Options,
    regions: np.ndarray | None = None,
) -> Tensor:
    """Maps (trial, voxel) of responses x (trial, voxel) for targets (trial, k, d); negative only with refine="signed".

    All 0 for a trial whose map would be rounding alone. regions (voxel,): labels, for RISE by regions.
    """
    if method not in METHODS:
        raise DataError(f"attribute: method {method!r} is not known; there are {list(METHODS)}")
    if method == "random":
        return random_maps(len(x), x.shape[1], patch_of=model.patch_of, seed=options.seed).to(x)
    if method == "integrated_gradients":
        maps = or_nothing(integrated_gradients(x, model, targets, steps=options.path))
        return maps if options.refine == "signed" else maps.abs()
    if method == "rise":
        masks = volume_masks(model.mask, options.cells, keep=options.keep)
        if options.rise_by == "regions":
            if regions is None:
                raise DataError("attribute: rise_by='regions' needs units with a column roi; use rise_by='cells'")
            masks = region_masks(regions, keep=options.keep)
        maps = rise(x, model, targets, masks=masks, count=options.masks, keep=options.keep, seed=options.seed)
        return or_nothing((maps - maps.min(1, keepdim=True).values).clamp_min(0))
    patches = or_nothing(_patch_maps(model, x, targets, method, layer, options))
    if options.refine == "none":
        return to_voxels(patches, model.patch_of)
    weight = or_nothing(input_gradient(x, model, targets))
    if options.refine == "weight":
        return to_voxels(patches, model.patch_of, weight=weight.abs())
    maps = to_voxels(patches, model.patch_of) * weight
    return maps if options.refine == "signed" else maps.abs()


def features(model: VolumeEncoder, x: Tensor, layer: int | str, *, batch: int = 32) -> Tensor:
    """Tokens at a layer: (trial, P, width) for "patches", else (trial, 1 + P, width)."""
    with torch.no_grad():
        if layer == "patches":
            return torch.cat([model.embedded(part) for part in x.split(batch)])
        return torch.cat([model.prefix(model.tokens(part), int(layer)) for part in x.split(batch)])


def tail(model: VolumeEncoder, layer: int | str) -> Callable[[Tensor], Tensor]:
    """What comes behind a layer: (B, P, width) of "patches", else tokens (B, 1 + P, width) -> embeddings (B, d)."""
    if layer == "patches":
        return lambda tokens: model.forward_from(model.assemble(tokens), 0)
    return lambda tokens: model.forward_from(tokens, int(layer))


def _patch_maps(model: VolumeEncoder, x: Tensor, targets: Tensor, method: str, layer: int | str, options: Options) -> Tensor:
    skip = 0 if layer == "patches" else 1  # the class token is no part of the brain
    if method in ("chefer", "gradcam"):
        return _smoothed(model, x, targets, method, layer, options)[:, 1 if method == "chefer" else skip :]
    tokens, rest = features(model, x, layer), tail(model, layer)
    reference = None
    if options.normalise == "reference":
        base = x if options.reference is None else _data(model, options.reference).to(x)
        reference = statistics(features(model, part, layer) for part in base.split(64))
    maps = bottleneck(tokens, rest, targets, reference=reference, settings=options.bottleneck, batch=options.batch)
    return maps[:, skip:].clamp_min(0)


def _smoothed(model: VolumeEncoder, x: Tensor, targets: Tensor, method: str, layer: int | str, options: Options) -> Tensor:
    """Grad-CAM or Chefer of the responses, or their mean over noisy copies."""

    def once(rows: Tensor) -> Tensor:
        if method == "chefer":
            whole = lambda part: model.with_attentions(model.tokens(part).requires_grad_())  # noqa: E731
            return chefer(rows, whole, targets, batch=options.batch)
        skip = 0 if layer == "patches" else 1
        return gradcam(features(model, rows, layer), tail(model, layer), targets, skip=skip)

    if options.draws == 1:
        return once(x)
    generator = torch.Generator(x.device).manual_seed(options.seed)
    spread = options.noise * x.std(1, keepdim=True)
    total = torch.zeros(())
    for _ in range(options.draws):
        total = total + once(x + spread * torch.randn(x.shape, generator=generator, device=x.device))
    return total / options.draws


def layer_of(model: VolumeEncoder, layer: int | str | None) -> int | str:
    """The layer that is read: as asked, or the method's own choice."""
    if layer is None:
        depth = model.design.depth
        return "patches" if model.design.class_token == "sum" else min(depth // 2 + 1, depth)
    if isinstance(layer, str):
        if layer != "patches":
            raise DataError(f"attribute: layer {layer!r} is not known; give 'patches' or 0 to {model.design.depth}")
        return layer
    return model.check_layer(layer)


def _data(model: VolumeEncoder, responses: Responses) -> Tensor:
    if responses.data.ndim != 2:
        raise DataError(f"attribute: responses {responses.data.shape} are not (trial, unit); volumes have no time axis here")
    space = responses.space
    if not isinstance(space, Volume) or space.mask.shape != model.mask.shape or not np.array_equal(space.mask, model.mask):
        have = f"{space.mask.shape} with {len(space)} voxels" if isinstance(space, Volume) else type(space).__name__
        raise DataError(
            f"attribute: the model was built on a mask {model.mask.shape} with {model.n_voxels} voxels, the responses are in "
            f"{have}; resample them to the model's space or align again"
        )
    data = torch.from_numpy(np.array(responses.data, dtype=np.float32))  # a copy: a memory map cannot be written
    bad = ~torch.isfinite(data).all(1)
    if bad.any():
        raise DataError(f"attribute: {int(bad.sum())} trials hold NaN or infinity; use responses.clean() before aligning")
    return data


def check_inputs(
    model: VolumeEncoder, responses: Responses, images: Features, texts: Features | None, target: str, options: Options
) -> tuple[Tensor, dict[str, Tensor]]:
    """The responses (trial, unit) and the targets (trial, d) by name, or a DataError that says what does not fit."""
    if target not in TARGETS:
        raise DataError(f"attribute: target {target!r} is not one of {TARGETS}")
    if target == "text" and texts is None:
        raise DataError("attribute: target 'text' needs the captions' embeddings; pass texts")
    if len(responses) == 0:
        raise DataError("attribute: there are no trials")
    x = _data(model, responses).to(options.device)
    goals: dict[str, Tensor] = {}
    for name, table in (("image", images), ("text", texts)):
        if table is None or target not in ("both", name):
            continue
        key = name if name in table.data else next(iter(table.data), "")
        rows = positions(responses.trials["stimulus"], table.ids, f"{name} features")
        aim = torch.from_numpy(np.asarray(table.check_finite()[key][rows], dtype=np.float32))
        if aim.shape[1] != model.design.embed_dim:
            raise DataError(
                f"attribute: {name} embeddings have {aim.shape[1]} channels, the model gives {model.design.embed_dim}"
            )
        goals[name] = aim.to(options.device)
    return x, goals


def cost(method: str, options: Options) -> dict[str, float]:
    """Passes through the encoder, or the part of it behind the layer, that one map takes: forward, and backward to features."""
    ours = options.bottleneck
    draws = max(1, options.draws)
    inner = (ours.steps - (ours.read == "before")) * ours.copies
    forward = {
        "bottleneck": inner + 1,
        "rise": options.masks,
        "integrated_gradients": options.path,
        "gradcam": draws,
        "chefer": draws,
        "random": 0,
    }[method]
    refined = method in ("bottleneck", "gradcam", "chefer") and options.refine != "none"
    backward = {"rise": 0, "random": 0, "bottleneck": inner}.get(method, forward)
    return {"attribution/forward_passes": float(forward + refined), "attribution/backward_passes": float(backward + refined)}


def warn_of_empty(empty: np.ndarray, method: str) -> dict[str, list[str]]:
    """What the config of a result says of maps (sample,) that are empty; nothing where none is."""
    if not empty.any():
        return {}
    why = {
        "chefer": "no attention carries the score to the target",
        "rise": "no mask changes the score",
        "bottleneck": "no bit is needed, or the embedding is its own target (refine='none' shows the patches' bits)",
    }.get(method, "the score has no slope, or what gradients say cancels")
    how = "another method or layer" if empty.all() else "reading the others alone"
    return {"warnings": [f"{int(empty.sum())} of {len(empty)} maps of {method} are empty, only rounding: {why}; try {how}"]}


def _degradation(
    model: VolumeEncoder, x: Tensor, goals: dict[str, Tensor], maps: Tensor, options: Options
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers, and curves (trial, point) of the map and of a random one, summed over the targets as the map explains them.

    Of the trials whose map is not empty; where all are, everything about the map is NaN and the controls are not.
    """
    there = maps.any(1)
    if not there.any():
        numbers, lines = _degradation(model, x, goals, torch.ones_like(maps), options)
        known = ("/random/", "/ones/", "/shuffled/", "/score", "/matched_area")
        numbers = {k: v if any(part in k for part in known) else float("nan") for k, v in numbers.items()}
        return numbers, {k: v for k, v in lines.items() if k.endswith("/random")}
    if not there.all():
        x, maps, goals = x[there], maps[there], {name: aim[there] for name, aim in goals.items()}
    found = maps.cpu().numpy()
    out = {"attribution/mass": float(metrics.map_mass(found).mean()), "attribution/area": float(metrics.map_area(found).mean())}
    out |= {"attribution/map_mean": float(found.mean()), "attribution/matched_area": options.area}
    baselines = {"": maps, **{f"{k}/": v for k, v in degradation.controls(maps, seed=options.seed).items()}}
    curves: dict[str, np.ndarray] = {}
    for name, aim in goals.items():
        out[f"attribution/{name}/score"] = float(scores(x, model, aim).mean())
        for who, baseline in baselines.items():
            for form, area in (("soft", None), ("matched", options.area)):
                kept = degradation.keep(x, model, aim, baseline, area=area)
                numbers = metrics.confidence(kept.full.cpu().numpy(), kept.kept.cpu().numpy())
                out |= {f"attribution/{who}{name}/{form}/{k}": v for k, v in numbers.items() if v == v}
            if who in ("", "random/"):
                for form in ("deletion", "insertion"):
                    shown = degradation.curve(x, model, aim, baseline, shares=degradation.SHARES, insert=form == "insertion")
                    line = shown.cpu().numpy()
                    key = f"attribution/{who}{name}/{form}_auc"
                    area_under = bootstrap_mean(metrics.area_under(line[:, degradation.EVEN]), seed=options.seed)
                    out |= dict(zip((key, f"{key}.low", f"{key}.high"), area_under, strict=True))
                    kept_as = f"{form}/{who.rstrip('/') or 'map'}"
                    curves[kept_as] = curves.get(kept_as, np.zeros(line.shape)) + line
    return out, curves
