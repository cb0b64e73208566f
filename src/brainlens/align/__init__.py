"""`align`: from brain responses to the embedding of the image that was seen and of the sentence that describes it.

Every encoder is trained on the same split, against the same targets, and scored by the same retrieval; what a run
chooses (a penalty, a checkpoint) it chooses on validation images, never on test images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd

from brainlens import store
from brainlens.align.headline import best_last
from brainlens.align.scoring import arrays, embeddings, hits, score
from brainlens.metrics.statistics import paired_bootstrap
from brainlens.models.volume.aligners import DESIGN, ENCODERS
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.estimators import aligner
from brainlens.models.volume.fit import LINEAR, TRAINING, Progress
from brainlens.models.volume.model import Aligner
from brainlens.models.volume.presets import Preset
from brainlens.models.volume.split import Split, split_tables
from brainlens.models.volume.training import AlignmentTraining
from brainlens.nn.volume_encoder import VolumeDesign
from brainlens.types import DataError, Features, Responses, Result, check_kinds

__all__ = ["Alignment", "align", "embeddings", "one_result", "score"]


@dataclass(frozen=True)
class Alignment:
    """A finished alignment: the Result to store, the fitted encoders by name, the split they share, and the models to keep."""

    result: Result
    decoders: dict[str, Decoder]
    split: Split
    models: dict[str, Aligner] = field(default_factory=dict)


def align(
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    encoders: Iterable[str] = ("ridge", "ridge_whitened", "linear", "volume"),
    training: AlignmentTraining = TRAINING,
    linear: AlignmentTraining = LINEAR,
    design: VolumeDesign = DESIGN,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    progress: Progress | None = None,
    start_from: Aligner | None = None,
    centred: bool = True,
) -> Alignment:
    """Fits encoders on the training images and retrieves the test images and captions with each.

    responses: trials with `stimulus` and `split` (train, test, and validation if it is fixed already), already
    z-scored; images.data["image"] and texts.data["text"] (stimulus, d) are the targets. Of several encoders the best on
    validation images is the main one (`headline.best_last`): its retrieval stands under `retrieval/...`, that of each under
    `align/<encoder>/retrieval/...`, and it is the last of the decoders and models. config: `main`, `main_by`.
    The test rows are means over the repeats of an image. `folder` takes the checkpoints, and a second call with the
    same arguments goes on from them.

    Raises DataError for an unknown encoder, a stimulus in two parts of the split, stimuli without features, more than
    20 % of voxels missing, or a loss that is not finite. `linear` is the recipe of the linear encoder and the MLP, whose steps
    are cheap, `training` that of the CNN and the volume encoder. start_from: a fitted aligner; the encoder of its kind is
    trained further, and all are centred as it was. centred: whether targets lose their training mean, for all encoders alike; the
    paper does not say so.
    """
    check_kinds("align", responses=(responses, Responses), images=(images, Features))
    names = list(dict.fromkeys(encoders))
    unknown = [name for name in names if name not in ENCODERS]
    if unknown or not names:
        raise DataError(f"encoder {unknown[0] if unknown else names!r} is not one of {list(ENCODERS)}")
    started = store.Start()
    if start_from is not None and start_from.encoder() not in names:
        raise DataError(f"the model to start from is a {start_from.encoder()!r}, which is not one of the encoders {names}")
    centre = None if start_from is None else start_from.centre_
    split = split_tables(responses, images, texts, seed=seed, device=device, centre=centre, centred=centred)
    _ = split.test  # a run without anything to score ends before it trains
    chosen, models, fitted = Preset(tuple(names), training, linear, design, centred), dict[str, Aligner](), dict[str, Decoder]()
    for name in names:
        before = start_from if start_from is not None and start_from.encoder() == name else None
        if progress is not None:
            progress(name, 0, {})
        model = aligner(name, chosen, seed=seed, device=device)
        models[name] = model.fit_split(split, known=fitted, start_from=before, folder=folder, progress=progress)
        fitted[name] = model.decoder_
    fitted, scores, by = best_last(fitted, split.validation)
    main = next(reversed(fitted))
    result = one_result(fitted, split, main=main, seed=seed)
    metrics = result.metrics | {f"align/{name}/validation/mrr": value for name, value in scores.items()}
    config = {
        "encoders": list(fitted),
        "training": asdict(training),
        "linear": asdict(linear),
        "design": asdict(design),
        "centred": centred,
        "seed": seed,
        "device": device,
    }
    config |= {"main": main, "main_by": by} if by else {}
    if by and main == "volume" and training.steps == 1:
        config["linear_start"] = True  # the volume encoder as it begins, a linear map that was not trained further
    config |= {"images": images.model, "texts": None if texts is None else texts.model}
    data = [store.fingerprint(table) for table in (responses, images, texts) if table is not None]
    provenance = store.provenance(seed, device, data, started)
    models = {name: models[name] for name in fitted}
    return Alignment(replace(result, metrics=metrics, config=config, provenance=provenance), fitted, split, models)


def one_result(fitted: dict[str, Decoder], split: Split, *, main: str = "volume", seed: int = 0) -> Result:
    """The Result of fitted encoders: scores of each, arrays of the main one."""
    metrics: dict[str, float] = {}
    rows, found, logs = [], {}, []
    for name, decoder in fitted.items():
        scores = score(decoder, split.test, seed=seed)
        metrics |= {f"align/{name}/{key}": value for key, value in scores.items()}
        if name == main:
            metrics |= scores
        rows.append({"encoder": name, "parameters": decoder.parameters, "seconds": decoder.seconds, **decoder.chosen, **scores})
        found[name] = hits(decoder, split.test)
        logs += [{"encoder": name, **record} for record in decoder.log]
    for name in fitted:
        if name != main:
            difference, low, high, p = paired_bootstrap(found[main], found[name], seed=seed)
            key = f"align/{main}-{name}/retrieval/brain->image/top5"
            metrics |= {key: difference, f"{key}.low": low, f"{key}.high": high, f"{key}.p": p, f"{key}.n": len(found[main])}
    metrics |= {f"data/{key}": float(value) for key, value in split.counts.items()}
    metrics |= {f"data/{name}_images": float(len(getattr(split, name).ids)) for name in ("train", "validation", "test")}
    tables = {"comparison": pd.DataFrame(rows), "log": pd.DataFrame(logs)}
    kept = arrays(fitted[main], split.test)
    return Result("align", metrics, kept, split.units, tables, space=split.space)
