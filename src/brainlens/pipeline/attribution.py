"""The claims of `attribute`: how well each method finds the voxels that truly carry information, beside a random map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from brainlens.align import Alignment, Split
from brainlens.attribute import Options, attribute
from brainlens.attribution.voxels import random_maps
from brainlens.metrics.attribution import truth_auroc
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.pipeline.runs import keep
from brainlens.pipeline.source import Recording, Source, Tell
from brainlens.types import DataError, Features, Responses

METHODS = ("bottleneck", "gradcam", "random")


def explained(responses: Responses, split: Split, *, part: str, trials: int) -> Responses:
    """The mean responses to the first images of a part of the split, as the encoder was tested on them."""
    ids = getattr(split, part).ids[:trials]
    return responses.clean()[0].rows(responses.trials["stimulus"].isin(ids).to_numpy()).average()


def centred(features: Features, split: Split, which: str, gallery: Callable[[Tensor, str], Tensor] | None = None) -> Features:
    """Embeddings as the encoder's targets were: centred, of length one, and in its space (`Decoder.gallery`)."""
    rows = torch.from_numpy(np.asarray(features[which], np.float32)) - split.centre[which]
    rows = torch.nn.functional.normalize(rows, dim=1)
    return Features({which: (rows if gallery is None else gallery(rows, which)).numpy()}, features.ids, features.model)


def attribute_claims(
    alignment: Alignment,
    recording: Recording,
    source: Source,
    runs: Path,
    *,
    methods: tuple[str, ...] = METHODS,
    trials: int = 32,
    masks: int = 500,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> dict[str, float]:
    """`attribute/<method>/truth_auroc`: the mean map of test trials against the voxels that read the network.

    The bottleneck's feature statistics come from validation responses, so that no test trial shapes them.
    """
    decoder, split = alignment.decoders["volume"], alignment.split
    model = decoder.module
    if not isinstance(model, VolumeEncoder) or recording.images is None:
        raise DataError("attribute claims need an alignment with the volume encoder, and image embeddings")
    responses = explained(recording.responses, split, part="test", trials=trials)
    reference = explained(recording.responses, split, part="validation", trials=200)
    images = centred(recording.images, split, "image", decoder.gallery)
    texts = None if recording.texts is None else centred(recording.texts, split, "text", decoder.gallery)
    results = {}
    for method in methods:
        tell(f"attribution, {method}", None)
        options = Options(reference=reference, masks=masks, seed=seed, device=device)
        results[method] = attribute(model, responses, images, texts, method=method, options=options)
    metrics: dict[str, float] = {}
    for method, result in results.items():
        for ending in ("", ".low", ".high"):
            metrics[f"attribute/{method}/truth_auroc{ending}"] = result.metrics[f"truth/auroc{ending}"]
        metrics[f"attribute/{method}/truth_auroc_trial_mean"] = result.metrics["truth/auroc_trial_mean"]
    if "random" in results:
        metrics |= random_control(model, responses, seed=seed)
    main = results[methods[0]]
    arrays = {f"map/{name}_mean": result.arrays["map/brain_mean"] for name, result in results.items() if name != methods[0]}
    arrays["truth/informative"] = responses.units["informative"].to_numpy(dtype=bool)
    keep(replace(main, metrics={**main.metrics, **metrics}), runs, source, arrays=arrays)
    return metrics


def random_control(model: VolumeEncoder, responses: Responses, *, draws: int = 400, seed: int = 0) -> dict[str, float]:
    """Mean AUROC of random maps with the patches of the encoder; one such map alone may lie .05 off, for its few patches."""
    maps = random_maps(draws, model.n_voxels, patch_of=model.patch_of, seed=seed).cpu().numpy()
    areas = truth_auroc(maps, responses.units["informative"].to_numpy(dtype=bool))
    names = ("attribute/random/truth_auroc", "attribute/random/truth_auroc.low", "attribute/random/truth_auroc.high")
    return dict(zip(names, bootstrap_mean(areas, seed=seed), strict=True))
