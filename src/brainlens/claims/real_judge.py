"""The methods of the other judges on a real recording: 100 handwritten digits and the voxels of V1 to V3 that saw them.

Every method is fitted in each of ten folds on 90 digits and judged on the 10 it has not seen. The recording has neither
coordinates nor a mask: FactorTopy keeps its selectors free of the cortex, and aligners that read a volume stay out. It has one
trial a picture, so that no noise ceiling is known and voxels that see nothing count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainlens import store
from brainlens.backbones import vision
from brainlens.claims.judges import QUICK
from brainlens.claims.real_encoding import FOLDS, correlations, folds_of, percentile_of
from brainlens.datasets import digits69
from brainlens.datasets.source import Tell
from brainlens.metrics.retrieval import ranks
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.models.encoding import ClassToken, FactorTopy, GNet, PatchToken
from brainlens.models.encoding.ridge import LayerwiseRidge
from brainlens.models.encoding.training import EncodingTraining
from brainlens.models.volume.estimators import aligner
from brainlens.models.volume.presets import preset
from brainlens.types import Features

HEAD = "judges/digits69"
ALIGNERS = ("ridge", "ridge_whitened", "linear", "mlp")
ENCODERS = ("ridge", "factortopy", "class_token", "patch_token", "gnet")
SAMPLES = 3  # as in the other judges
PICTURES = {"modality": "image"}  # no captions
BASELINES = {"class_token": ClassToken, "patch_token": PatchToken, "gnet": GNet}


@dataclass(frozen=True)
class Digits:
    """The recording and its network: y (picture, voxel), the digit of each picture, features in the order of y."""

    y: np.ndarray
    digit: np.ndarray
    features: Features

    @property
    def embedding(self) -> np.ndarray:
        """(picture, channel): the global token of the last layer."""
        return np.asarray(self.features.data[list(self.features.layer)[-1]], dtype=np.float32)


def open_digits(folder: Path, network: str | Path, *, cache: str | Path | None = None) -> Digits:
    """The recording at `folder` and the layers of the network folder for its pictures."""
    recording = digits69.load(folder, standardise=False)
    features = vision.extract(vision.load(network), recording.stimuli, cache=cache)
    digit = recording.stimuli.table["category"].to_numpy(dtype=str)
    return Digits(np.asarray(recording.responses.data, dtype=np.float32), digit, features)


def encoder(name: str, training: EncodingTraining = QUICK) -> Any:
    """The encoding model of this name; training: of the baselines that are trained."""
    if name == "ridge":
        return LayerwiseRidge()
    if name == "factortopy":
        return FactorTopy(samples=SAMPLES, variant={"topological": False}, training={"steps": 0})  # its searched start, as there
    return BASELINES[name](training=asdict(training))


def encoding_scores(digits: Digits, name: str, *, training: EncodingTraining = QUICK, folds: int = FOLDS) -> dict[str, float]:
    """`judges/digits69/encode/NAME/...`: `r_p95`, the 95th percentile over voxels of the correlation, over pictures, of the
    response and its out-of-fold prediction, with interval and chance; `r_mean` over voxels; `n` pictures.
    """
    predicted = np.empty_like(digits.y)
    for fit, judge in folds_of(digits.digit, folds):
        model = encoder(name, training)
        more = {"coordinates": np.zeros((digits.y.shape[1], 3))} if name == "factortopy" else {}  # none are known: unread
        model.fit(digits.features, digits.y[fit], rows=fit, **more)
        predicted[judge] = model.predict(digits.features, rows=judge)
    head = f"{HEAD}/encode/{name}"
    found = {f"{head}/r_p95{end}": value for end, value in percentile_of(digits.y, predicted).items()}
    return found | {f"{head}/r_mean": float(correlations(digits.y, predicted).mean()), f"{head}/n": float(len(predicted))}


def alignment_scores(digits: Digits, name: str, *, folds: int = FOLDS) -> dict[str, float]:
    """`judges/digits69/align/NAME/DIRECTION/top1`: which of the pictures of its fold was seen, with interval over pictures,
    `chance1` and `n`; voxels are z-scored by the pictures of the fit.
    """
    chosen = preset("default").recipe(training=PICTURES, linear=PICTURES)
    hits = {"brain->image": np.empty(len(digits.y)), "image->brain": np.empty(len(digits.y))}
    for fit, judge in folds_of(digits.digit, folds):
        mean, spread = digits.y[fit].mean(axis=0), digits.y[fit].std(axis=0)
        x = (digits.y - mean) / np.where(spread > 0, spread, 1)
        model = aligner(name, chosen).fit(x[fit], digits.embedding[fit])
        brain, pictures = model.transform(x[judge]), model.gallery(digits.embedding[judge])
        hits["brain->image"][judge] = ranks(brain, pictures) < 1
        hits["image->brain"][judge] = ranks(pictures, brain) < 1
    metrics: dict[str, float] = {}
    for direction, hit in hits.items():
        head = f"{HEAD}/align/{name}/{direction}"
        metrics |= dict(zip((f"{head}/top1", f"{head}/top1.low", f"{head}/top1.high"), bootstrap_mean(hit), strict=True))
        metrics |= {f"{head}/chance1": folds / len(hit), f"{head}/n": float(len(hit))}  # each fold holds one hit by chance
    return metrics


def digit_judge(
    digits: Digits,
    folder: Path,
    tell: Tell,
    done: Callable[[dict[str, float]], None],
    *,
    aligners: Sequence[str] = ALIGNERS,
    encoders: Sequence[str] = ENCODERS,
) -> dict[str, float]:
    """All methods, each kept in `folder` as soon as it is finished; a second call goes on from there."""
    metrics: dict[str, float] = {}
    for verb, names, score in (("align", aligners, alignment_scores), ("encode", encoders, encoding_scores)):
        for name in names:
            file = folder / f"digits+{verb}+{name}.json"
            if not file.exists():
                tell(f"judges, digits, {verb}, {name}", None)
                store.save_json(file, {"metrics": score(digits, name)})  # type: ignore[operator]
            metrics |= store.read_json(file)["metrics"]
            done(metrics)
    return metrics
